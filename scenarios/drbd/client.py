#!/usr/bin/python3
"""The primary: writes to both guests' disks, reads from the server's, and has the disks compared past DRBD."""

import mmap
import os
import sys

sys.path.insert(0, os.environ["LAB_LIB"])
import blockcheck
import filecheck
import programs
from node import DEVICE, MOUNTED, Node

import datafile
import ktap
import orders

ZERO_COPY, COPIED, DISKLESS, APART = 1, 3, 4, 5  # areas; the first has a long stream as well
PROTOCOL_C = "--protocol=C"
BOTH = "UpToDate/UpToDate"
REUSED, REUSES = 128 << 10, 16  # bytes, times
SPOILED = (ZERO_COPY * blockcheck.AREA, blockcheck.AREA)  # offset, size
REUSED_AT = APART * blockcheck.AREA + (3 << 20)  # in an area without a long stream
CONFIG = "/usr/share/xfsprogs/mkfs/lts_6.1.conf"  # what both kernels can mount


class Pair:
    """Both nodes; the client's is the primary."""

    def __init__(self):
        self.here, self.there = Node(with_data=False), orders.Remote()

    def join(self):
        """Connect for the first time: the server's disk is the right one, all of it is sent."""
        self.there.role("primary", "--force")
        self.link(PROTOCOL_C)
        self.there.role("secondary")
        self.here.role("primary")
        self.here.compare([0])

    def unlink(self):
        """End the connection, once all that was sent through it has arrived by the kernels' own counts."""
        if self.here.state()["cs"] == "Connected":
            self.arrived()
        self.here.disconnect()
        self.there.disconnect()

    def link(self, *options, there=()):
        """Connect anew, and wait until both disks are the same; returns the device."""
        self.unlink()
        self.there.connect(*(there or options))
        self.here.connect(*options)
        self.here.settle(cs="Connected", ds=BOTH)
        return DEVICE

    def arrived(self):
        """Wait until each node has received as much as the other one has sent, and has written it."""

        def equal():
            here, there = self.here.state(), self.there.state()
            found[:] = [here[name] for name in ("ns", "nr")] + [there[name] for name in ("nr", "ns")]
            return found[:2] == found[2:] and not here["lo"] and not there["lo"]

        found = []
        try:
            blockcheck.wait_for("such counts", equal)
        except AssertionError:
            raise AssertionError("{} KiB sent, {} received; the server counts {} and {}".format(*found)) from None


def compare_there(pair, area):
    """The server's disk, past DRBD."""
    os.sync()
    pair.arrived()
    pair.there.compare([area])


def write_area(area):
    """All that belongs into an area."""
    for way, write in blockcheck.WRITERS.items():
        for offset, size, seed in blockcheck.extents(area, way):
            write(DEVICE, offset, datafile.sent(size, seed))


def detached(pair):
    """Without a disk of its own, a primary writes to the server's alone."""
    pair.link(PROTOCOL_C, "--csums-alg=sha256")
    pair.here.detach()
    pair.here.settle(ds="Diskless/UpToDate", cs="Connected")
    write_area(DISKLESS)
    compare_there(pair, DISKLESS)


def attached_again(pair):
    """The client's disk gets what was written without it; of the blocks that are the same, only digests are sent."""
    pair.here.attach()
    pair.here.settle(cs="Connected", ds=BOTH)
    pair.here.compare([DISKLESS])
    pair.here.disconnect()  # attaching has set this node's counts to 0: they do not tell of this connection any more
    pair.link(PROTOCOL_C)


def written_apart(pair):
    """Written while there is no connection: the server's disk gets it afterwards."""
    pair.unlink()
    write_area(APART)
    os.sync()
    pair.link(PROTOCOL_C)
    pair.there.compare([APART])


def reused(pair):
    """With protocol A a write is over once it is sent, long before it arrives: its memory is the writer's again.

    The server takes little at once, the client's socket holds much: what is sent waits there.
    """
    pair.link("--protocol=A", "--sndbuf-size=4194304", there=("--protocol=A", "--rcvbuf-size=16384"))
    memory = mmap.mmap(-1, REUSED)
    file = os.open(DEVICE, os.O_RDWR | os.O_DIRECT)
    for number in range(REUSES):
        memory[:] = datafile.sent(REUSED, 9000 + number)
        if (done := os.pwrite(file, memory, REUSED_AT + number * REUSED)) != REUSED:
            raise AssertionError(f"a write of {REUSED} bytes says {done}")
        memory[:] = b"\xee" * REUSED
    os.close(file)
    pair.arrived()
    for number in range(REUSES):
        right = datafile.digest(datafile.content(REUSED, 9000 + number))
        if pair.there.digest(REUSED_AT + number * REUSED, REUSED) != right:
            raise AssertionError(f"write {number} of {REUSED} bytes: the server has other data")


def verified(pair, out_of_sync):
    """Online verification, by digests between the kernels; `out_of_sync`: KiB that have to differ."""
    pair.here.verify()
    pair.here.settle(cs="Connected", ds=BOTH, oos=out_of_sync)


def verified_all(pair):
    """Nothing differs; a byte that is changed on the server's disk makes one block differ, and is sent anew."""
    pair.link(PROTOCOL_C)
    verified(pair, 0)
    right = pair.there.digest(*SPOILED)
    pair.there.spoil(SPOILED[0] + 12345)
    verified(pair, 4)
    pair.link(PROTOCOL_C)
    pair.here.settle(oos=0)
    if pair.there.digest(*SPOILED) != right:
        raise AssertionError("the block that differed was not sent anew")


def file_system(pair):
    """XFS has its own data in slab pages, which cannot be spliced; the other node mounts what arrived."""
    programs.run("mkfs.xfs", "-q", "-f", "-K", "--unsupported", "-c", f"options={CONFIG}", DEVICE)
    pair.here.mount()
    right = {}
    for number, size in enumerate(datafile.SIZES):
        for way, write in enumerate((filecheck.write_plain, blockcheck.write_sectors)):
            name, seed = f"{way}-{size}", 7000 + 2 * number + way
            write(os.path.join(MOUNTED, name), datafile.sent(size, seed))
            right[name] = datafile.digest(datafile.content(size, seed))
    pair.here.unmount()
    pair.here.role("secondary")
    pair.there.role("primary")
    pair.there.mount()
    got = pair.there.sums()
    pair.there.unmount()
    pair.there.role("secondary")
    if wrong := sorted(name for name in right if got.get(name) != right[name]):
        raise AssertionError(f"files that the server reads otherwise: {' '.join(wrong)}")


def both_up_to_date(pair):
    """What drbdsetup says at both ends, and the whole disks."""
    said = [end.status() for end in (pair.here, pair.there)]
    if said != ["UpToDate UpToDate"] * 2:
        raise AssertionError(f"the client says {said[0]}, the server says {said[1]}")
    if pair.here.digest() != pair.there.digest():
        raise AssertionError("the disks differ")


def main():
    ktap.plan(1 + sum(blockcheck.checks(area) for area in (0, ZERO_COPY, COPIED)) + 9)
    pair = Pair()
    ktap.check("the first resynchronisation, of all that the server has", pair.join)
    blockcheck.run("the server's own data", 0, lambda: pair.link(PROTOCOL_C))
    # Pages are sent as they are; with data-integrity-alg those that are written are copied.
    blockcheck.run("protocol C", ZERO_COPY, lambda: pair.link(PROTOCOL_C), "drbd")
    ktap.check("protocol C: the server's disk", compare_there, pair, ZERO_COPY)
    blockcheck.run("data-integrity-alg", COPIED, lambda: pair.link(PROTOCOL_C, "--data-integrity-alg=crc32c"))
    ktap.check("data-integrity-alg: the server's disk", compare_there, pair, COPIED)
    ktap.check("write without a disk of its own", detached, pair)
    ktap.check("resynchronise the client's disk", attached_again, pair)
    ktap.check("resynchronise the server's disk", written_apart, pair)
    ktap.check("memory that is used again once a write is over", reused, pair)
    ktap.check("online verification finds what differs", verified_all, pair)
    ktap.check("XFS is the same from the other node", file_system, pair)
    ktap.check("both disks are up to date and the same", both_up_to_date, pair)


main()
