#!/usr/bin/python3
"""SEND, RDMA WRITE and RDMA READ over soft-iWARP; every byte is compared.

What is signalled is copied into the TCP stream.  Unsignalled work of a page or more goes there by reference,
and so does the answer to an RDMA READ.  Each check has a connection of its own.
"""

import contextlib
import math
import os
import signal
import sys
import time

from pyverbs.cmid import CMID, AddrInfo
from pyverbs.pyverbs_error import PyverbsError

sys.path.insert(0, os.environ.get("LAB_LIB", "/lab/lib"))
from verbs import LONG, READ, SEND, SIGNALLED, UNSIGNALLED, WRITE, datafile

import ktap
import verbs

ODD = 1235
# What it is called, how the work is flagged, where the data begin at this and at the other end.
KINDS = (
    ("signalled, from a page's start", SIGNALLED, 0, 0),
    ("unsignalled, from a page's start", UNSIGNALLED, 0, 0),
    ("unsignalled, odd addresses", UNSIGNALLED, ODD, 2 * ODD),
)


class Seeds:
    """A new seed for each transfer: what the one before left must not look right."""

    last = 0

    @classmethod
    def next(cls):
        cls.last += 1
        return cls.last


def ask(link, *words):
    """One line there, one line back."""
    link.await_line()
    link.send_line(*words)
    return link.line()


def is_there(link, there, size, seed):
    """Have the other end sum what it got, and compare."""
    (sum_there,) = ask(link, "sum", there, size)
    right = datafile.digest(datafile.content(size, seed))
    if sum_there != right:
        raise AssertionError(f"{size} bytes: the other end has data with sum {sum_there}, not {right}")


def send(link, size, flags, here, there):
    """SEND to the server."""
    seed = Seeds.next()
    link.fill(here, size, seed)
    ask(link, "take", there, size)
    link.await_line()
    link.post(SEND, [(here, size)], flags=flags)
    if flags == SIGNALLED:
        link.done()
    (length,) = link.line()
    if int(length) != size:
        raise AssertionError(f"the other end took {length} bytes of {size}")
    is_there(link, there, size, seed)


def take(link, size, flags, here, there):
    """SEND from the server."""
    seed = Seeds.next()
    link.await_data(here, size)
    link.send_line("give", there, size, seed, flags)
    length = link.received()
    if length != size:
        raise AssertionError(f"{length} bytes arrived of {size}")
    link.holds(here, size, seed)


def write(link, size, flags, here, there, pieces=1):
    """RDMA WRITE into the server's memory, gathered from so many pieces; seconds until the server has it."""
    seed = Seeds.next()
    link.fill(here, size, seed)
    step = size // pieces
    parts = [(here + index * step, step) for index in range(pieces - 1)]
    parts.append((here + (pieces - 1) * step, size - (pieces - 1) * step))
    began = time.monotonic()
    link.post(WRITE, parts, there, flags)
    if flags == SIGNALLED:
        link.done()
    ask(link, "sum", there, 1)  # a SEND is delivered after the writes before it
    seconds = time.monotonic() - began
    is_there(link, there, size, seed)
    return seconds


def read(link, size, here, there):
    """RDMA READ from the server's memory; seconds until all of it is here."""
    seed = Seeds.next()
    ask(link, "fill", there, size, seed)
    began = time.monotonic()
    link.post(READ, [(here, size)], there)
    link.done()
    seconds = time.monotonic() - began
    link.holds(here, size, seed)
    return seconds


def read_many(link):
    """As many reads under way as the queue takes, each of another length."""
    reads = verbs.DEPTH // 2
    seed, step = Seeds.next(), LONG // reads
    sizes = [step // 2 + 4099 * index for index in range(reads)]
    ask(link, "fill", 0, LONG, seed)
    link.area.write(bytes(LONG), LONG)
    for index, size in enumerate(sizes):
        link.post(READ, [(index * step, size)], index * step)
    link.done(reads)
    right = memoryview(datafile.content(LONG, seed))
    for index, size in enumerate(sizes):
        datafile.same(link.area.read(size, index * step), right[index * step : index * step + size])


def both_ways(link):
    """The server writes here while this end reads from it."""
    size = LONG // 4
    to_read, written = Seeds.next(), Seeds.next()
    ask(link, "fill", 0, size, to_read)
    link.await_line()
    link.send_line("write", size, size, written, 2 * size + ODD)
    link.post(READ, [(0, size)], 0)
    link.done()
    link.line()
    link.holds(0, size, to_read)
    link.holds(2 * size + ODD, size, written)


def sizes(link, these, function, *arguments):
    """One transfer of each size."""
    for size in these:
        function(link, size, *arguments)


def all_sizes(link, function, *arguments):
    """One transfer of each size, those around pages and pipes."""
    sizes(link, datafile.SIZES, function, *arguments)


def check(title, function, *arguments):
    """One check on a connection of its own, so that what goes wrong in it stays there."""

    def connected():
        address = AddrInfo(dst=os.environ["LAB_SERVER"], dst_service=verbs.PORT, port_space=verbs.TCP)
        connection = CMID(creator=address)
        link = verbs.Link(connection.context, connection.pd)
        try:
            with deadline("to connect"):
                connection.connect(link.parameters())
            link.far(*first_answer(link))
            return function(link, *arguments)
        except PyverbsError as error:
            raise AssertionError(str(error)) from error
        finally:
            with deadline("to disconnect"):
                connection.disconnect()
            link.close()
            connection.close()

    return ktap.check(title, connected)


def first_answer(link):
    """The answer to the first line of a connection.

    Soft-iWARP overlooks what arrives while it still sends its own answer to the request for a connection, until
    more arrives: it is given more, an empty write, and that is said and is no failure.
    """
    link.await_line()
    link.send_line("area", link.area.buf, link.area.rkey)
    try:
        return link.line(verbs.DEADLINE_S / 8)
    except verbs.Late:
        link.post(WRITE, [(0, 0)])
        link.done()
        answer = link.line()
        print("# the server overlooked the first request of this connection until more came", flush=True)
        return answer


@contextlib.contextmanager
def deadline(what):
    """Interrupt what the connection manager waits for."""

    def over(*_):
        raise AssertionError(f"{verbs.DEADLINE_S:g} s were not enough {what}")

    signal.signal(signal.SIGALRM, over)
    signal.alarm(math.ceil(verbs.DEADLINE_S))
    try:
        yield
    finally:
        signal.alarm(0)


def main():
    ktap.plan(3 * len(KINDS) + 10)
    verbs.use_mtu(verbs.LARGE_MTU)
    for title, flags, here, there in KINDS:
        check(f"send to the server, {title}, all sizes", all_sizes, send, flags, here, there)
        check(f"send from the server, {title}, all sizes", all_sizes, take, flags, here, there)
        check(f"write, {title}, all sizes", all_sizes, write, flags, here, there)
    for title, flags in (("signalled", SIGNALLED), ("unsignalled", UNSIGNALLED)):
        title = f"write, {title}, gathered from {verbs.PIECES} pieces, all sizes from 4095 on"
        check(title, sizes, datafile.SIZES[1:], write, flags, ODD, 7, verbs.PIECES)
    check("read, from a page's start, all sizes", all_sizes, read, 0, 0)
    check("read, odd addresses, all sizes", all_sizes, read, ODD, 2 * ODD)
    for name, function, *arguments in (("write", write, UNSIGNALLED), ("read", read)):
        title = f"{name}, {LONG >> 20} MiB at odd addresses"
        seconds = check(title, function, LONG, *arguments, ODD, 2 * ODD)
        if seconds:
            ktap.metric(f"siw_rdma_{name}", LONG / (1 << 20) / seconds, "MiB/s", "higher")
    check("many reads under way", read_many)
    check("read while the server writes here", both_ways)
    verbs.use_mtu(verbs.SMALL_MTU)
    small = [size for size in datafile.SIZES if size < LONG // 16]
    check("write, unsignalled, odd addresses, small packets", sizes, small, write, UNSIGNALLED, ODD, 2 * ODD)
    check("read, odd addresses, small packets", sizes, small, read, ODD, 2 * ODD)


main()
