#!/usr/bin/python3
"""The in-kernel target against an initiator in user space; each setting of the digests writes its own area."""

import time

import libiscsi
from libiscsi import blockcheck

import datafile
import ktap

# Header, data; in the order of the areas.
SETTINGS = {"no digest": (False, False), "digests": (True, libiscsi.HAS_DATA_DIGEST)}


def extents(area):
    """(offset, size, seed) of all that an area holds, the long stream last."""
    return [extent for way in blockcheck.WRITERS for extent in blockcheck.extents(area, way)]


def within(digests, work, *arguments):
    """Do something in a session of its own; returns what that returns."""
    session = libiscsi.Session(*digests)
    try:
        value = work(session, *arguments)
    except BaseException:
        session.abandon()
        raise
    session.close()
    return value


def write(session, area):
    """Write an area; returns the seconds of its last extent."""
    seconds = 0.0
    for offset, size, seed in extents(area):
        data = datafile.sent(size, seed)
        began = time.monotonic()
        session.write(offset, data)
        seconds = time.monotonic() - began
    return seconds


def read(session, area):
    """Read an area and compare; returns the seconds of its last extent."""
    seconds = 0.0
    for offset, size, seed in extents(area):
        began = time.monotonic()
        got = session.read(offset, size)
        seconds = time.monotonic() - began
        try:
            datafile.same(got, datafile.content(size, seed))
        except AssertionError as error:
            raise AssertionError(f"{size} bytes at {offset}: {error}") from None
    return seconds


def main():
    ktap.plan(1 + 2 * len(SETTINGS))
    ktap.check("read the server's own data", within, SETTINGS["no digest"], read, 0)
    for area, (label, digests) in enumerate(SETTINGS.items(), 1):
        for work in (write, read):
            seconds = ktap.check(f"{label}: {work.__name__}, all sizes", within, digests, work, area)
            if seconds:
                name = f"iscsi_user_{'digests' if area > 1 else 'plain'}_{work.__name__}"
                ktap.metric(name, blockcheck.LONG / (1 << 20) / seconds, "MiB/s", "higher")


main()
