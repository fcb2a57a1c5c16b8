#!/usr/bin/python3
"""Both nodes write and lock in turns; what one wrote is compared at the other."""

import os
import sys
import time

sys.path.insert(0, os.environ["LAB_LIB"])
import blockcheck
import node
import nvme_host

import datafile
import ktap
import orders
from atonce import LIMIT_S, at_once

CLIENTS, SERVERS = 1000, 2000  # seeds of their files
TURNS = 6
NAMES = 40
LOCKS = 40
LONG = 2 << 20
QUIET_S = 30 * node.KEEPALIVE_S * float(os.environ.get("LAB_SCALE", "1"))


def joined(here, there):
    """Both nodes mount the file system; the kernels connect."""
    here.device = nvme_host.connect("")
    there.mount()
    here.mount()


def same(reader, name, size, seed):
    """Hold a file, as a node finds it, against what was to be written."""
    right = [size, datafile.digest(datafile.content(size, seed))]
    if (got := reader.found(name)) != right:
        raise AssertionError(f"{name}: {got[0]} bytes with sum {got[1][:16]}, not {right[0]} with {right[1][:16]}")


def written(first):
    """(name, size, seed, way) of the files that one node writes."""
    return [
        (f"{first}-{number}-{size}", size, first + 100 * number + index, way)
        for number, way in enumerate(node.WRITERS)
        for index, size in enumerate((*datafile.SIZES, LONG))
    ]


def files(writer, reader, first):
    """Files of all sizes, written at one end and read at the other."""
    for file in written(first):
        writer.write(*file)
    for name, size, seed, _ in written(first):
        same(reader, name, size, seed)


def in_turns(here, there):
    """One file, written anew by each node in turns; both hold it in their page caches."""
    for turn in range(TURNS):
        writer, reader = ((here, there), (there, here))[turn % 2]
        size, seed = 65537 - 5000 * turn, 3000 + turn
        writer.write("in-turns", size, seed, "write")
        same(reader, "in-turns", size, seed)
        same(writer, "in-turns", size, seed)


def appended(here, there):
    """One file that both append to in turns: each has to know the size that the other one left."""
    right = bytearray()
    for turn in range(2 * TURNS):
        size, seed = 1 + 1235 * turn, 3100 + turn
        (here, there)[turn % 2].append("appended", size, seed)
        right += datafile.content(size, seed)
    for end in (here, there):
        size, digest = end.found("appended")
        if (size, digest) != (len(right), datafile.digest(right)):
            raise AssertionError(f"{size} bytes with another sum, or not {len(right)}")


def named(here, there):
    """Both nodes make, rename and delete names in one folder; both see the same."""
    here.make_names("folder", (0, NAMES))
    there.make_names("folder", (NAMES, 2 * NAMES))
    right = sorted(
        f"{number}-renamed" if number % 3 == 0 else str(number)
        for number in range(2 * NAMES)
        if number % 3 == 0 or number % 5
    )
    for end, whose in ((here, "client"), (there, "server")):
        if (got := end.names("folder")) != right:
            raise AssertionError(f"the {whose} sees {sorted(set(got) ^ set(right))} otherwise")


def locked(here, there):
    """A file that one node has locked is refused to the other at once, and granted when it is free."""
    for holder, other in ((here, there), (there, here)):
        holder.lock("locked")
        if at_once("LOCK_NB", other.lock, "locked", False, limit_s=3 * LIMIT_S):
            raise AssertionError("both nodes have the lock")
        holder.unlock("locked")
        if not other.lock("locked", True):
            raise AssertionError("the lock is not free")
        other.unlock("locked")


def values(writer, reader, first):
    """Locks that change hands, with 64 bytes in each: they travel in the messages themselves."""
    for turn in range(2):
        for end, other in ((writer, reader), (reader, writer)):
            for number in range(LOCKS // 4 if turn else LOCKS):
                seed = first + 1000 * turn + number + (500 if end is reader else 0)
                name = f"{first}-{number:0{1 + number % 25}}"  # of at most 31 characters
                end.put(name, bytes(datafile.sent(node.VALUE_BYTES, seed)).hex())
                got = other.get(name)
                try:
                    datafile.same(bytes.fromhex(got), datafile.content(node.VALUE_BYTES, seed))
                except AssertionError as error:
                    raise AssertionError(f"lock {number}: {error}") from None


def kept(here, there):
    """While there is nothing to say, each node still hears from the other, on the same connection."""
    ends = {"client": here, "server": there}
    last = {whose: end.connection() for whose, end in ends.items()}
    for _ in range(3):
        for whose, end in ends.items():
            before = last[whose]
            last[whose] = blockcheck.wait_for(
                f"message that keeps the {whose}'s connection",
                lambda end=end, before=before: (now := end.connection())[1] > before[1] and now,
                QUIET_S,
            )
            if last[whose][0] != before[0]:
                raise AssertionError(f"the {whose} had the connection {before[0]}, and has {last[whose][0]} now")
        time.sleep(node.KEEPALIVE_S)


def counted(here, there):
    """Each kernel has received as many messages as the other one says that it sent."""

    def equal():
        found[:] = here.counts() + there.counts()
        return found[0] == found[3] and found[1] == found[2] and all(found)

    found = []
    try:
        blockcheck.wait_for("such counts", equal)
    except AssertionError:
        raise AssertionError("{} sent, {} received; the server counts {} and {}".format(*found)) from None


def left_and_back(here, there):
    """A node leaves, the other one goes on alone, and the first finds what was written when it is back."""
    here.unmount()
    there.write("alone", LONG, 3900, "write")
    here.mount()
    same(here, "alone", LONG, 3900)
    here.write("alone", 65537, 3901, "write")
    same(there, "alone", 65537, 3901)


def on_disk(here, there):
    """What both wrote is what a program finds on the disk that nobody has mounted, and the file system is whole."""
    here.unmount()
    there.unmount()
    there.checked()
    right = {
        name: datafile.digest(datafile.content(size, seed))
        for name, size, seed, _ in written(CLIENTS) + written(SERVERS)
    }
    got = there.on_disk(list(right))
    if wrong := sorted(name for name in right if got[name] != right[name]):
        raise AssertionError(f"files that are otherwise on the disk: {' '.join(wrong)}")


def main():
    ktap.plan(14)
    here, there = node.Node(node.CLIENT), orders.Remote()
    ktap.check("both nodes mount", joined, here, there)
    for whose, writer, reader, first in (("client", here, there, CLIENTS), ("server", there, here, SERVERS)):
        ktap.check(f"files of all sizes, the {whose} writes", files, writer, reader, first)
    ktap.check("a file written by both in turns", in_turns, here, there)
    ktap.check("a file that both append to", appended, here, there)
    ktap.check("names made, changed and deleted by both", named, here, there)
    ktap.check("a lock of the one is refused to the other", locked, here, there)
    for whose, writer, reader, first in (("client", here, there, 10000), ("server", there, here, 20000)):
        ktap.check(f"{LOCKS} locks with values, the {whose} writes first", values, writer, reader, first)
    ktap.check("a connection with nothing to say is kept", kept, here, there)
    ktap.check("both kernels count the same messages", counted, here, there)
    ktap.check("a node leaves and comes back", left_and_back, here, there)
    ktap.check("what is on the disk", on_disk, here, there)
    ktap.check("disconnect", nvme_host.disconnect)


main()
