#!/usr/bin/python3
"""AF_UNIX streams: sendfile, splice into the socket and splice out of it, with a concurrent reader."""

import os
import socket
import sys

sys.path.insert(0, os.environ.get("LAB_LIB", "/lab/lib"))
import datafile
import ktap

FILE = os.path.join(os.environ.get("LAB_TMP", "/tmp"), "data")
LONG = 16 << 20
OFFSETS = (0, 1, 4093)
DEADLINE_S = 60 * float(os.environ.get("LAB_SCALE", "1"))
# how it is sent, how it is received
WAYS = (("sendfile", "recv"), ("splice", "recv"), ("write", "splice"), ("splice", "splice"))


def pair():
    """Two connected stream sockets that give up after a while instead of hanging for ever."""
    return [datafile.patient(end, DEADLINE_S) for end in socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)]


def transfer(size, offset, sender, receiver, seed):
    """Send a part of a file through a fresh pair and compare what comes out; returns the seconds it took."""
    datafile.make(FILE, offset + size, seed)
    expected = memoryview(datafile.content(offset + size, seed))[offset:]
    near, far = pair()
    with near, far:
        got, seconds = datafile.while_reading(
            far, size, receiver, lambda: datafile.send(near, FILE, offset, size, sender)
        )
    datafile.same(got, expected)
    return seconds


def sizes_at(offset, sender, receiver):
    """All sizes, each with a seed of its own."""
    for number, size in enumerate(datafile.SIZES):
        try:
            transfer(size, offset, sender, receiver, seed=1000 * offset + number + 1)
        except AssertionError as error:
            raise AssertionError(f"{size} bytes: {error}") from None


def mixed():
    """write, sendfile and splice take turns on one stream: spliced pages land in one buffer with copied bytes."""
    parts = [(13, "write"), (4097, "sendfile"), (1, "write"), (65537, "splice"), (4095, "sendfile"), (7, "sendfile")]
    total = sum(size for size, _ in parts)
    datafile.make(FILE, total, seed=77)
    near, far = pair()

    def send_all():
        offset = 0
        for size, how in parts:
            datafile.send(near, FILE, offset, size, how)
            offset += size

    with near, far:
        got, _ = datafile.while_reading(far, total, "recv", send_all)
    datafile.same(got, datafile.content(total, 77))


def not_blocking():
    """A socket that may not block takes part of a sendfile, never anything else than what it says it took."""
    size = 4 << 20
    datafile.make(FILE, size, seed=78)
    near, far = pair()
    with near, far, open(FILE, "rb", buffering=0) as file:
        near.setblocking(False)
        sent = 0
        try:
            while sent < size:
                sent += os.sendfile(near.fileno(), file.fileno(), sent, size - sent)
        except BlockingIOError:
            pass
        near.close()
        got = datafile.receive(far, size)
    if not 0 < sent <= size:
        raise AssertionError(f"sendfile took {sent} bytes of {size}")
    datafile.same(got, datafile.content(size, 78)[:sent])


def closed():
    """Writing to a stream whose other end is gone is EPIPE, for a page as for a copied byte."""
    datafile.make(FILE, 8192, seed=79)
    near, far = pair()
    with near:
        far.close()
        try:
            datafile.send(near, FILE, 0, 8192, "sendfile")
        except BrokenPipeError:
            return
    raise AssertionError("sendfile to a closed stream succeeded")


def main():
    ktap.plan(len(WAYS) * (len(OFFSETS) + 1) + 3)
    for sender, receiver in WAYS:
        for offset in OFFSETS:
            ktap.check(f"{sender} to {receiver}, all sizes, file offset {offset}", sizes_at, offset, sender, receiver)
        seconds = ktap.check(
            f"{sender} to {receiver}, stream of {LONG >> 20} MiB", transfer, LONG, 1, sender, receiver, seed=99
        )
        if seconds:
            ktap.metric(f"unix_{sender}_{receiver}", LONG / (1 << 20) / seconds, "MiB/s", "higher")
    ktap.check("write, sendfile and splice take turns", mixed)
    ktap.check("a socket that may not block", not_blocking)
    ktap.check("the other end is closed", closed)


main()
