"""Which files there are, and what is in them: known to both ends."""

import os
import sys

sys.path.insert(0, os.environ["LAB_LIB"])
import ceph_client
import datafile
import filecheck

LONG = 4 << 20
SERVED = [("served-small", 65537, 501), ("served-long", LONG, 502)]
"""(name, size, seed) of the files that the server makes."""


def written(mode, way):
    """(name, size, seed) of the files that the client writes in one mode of the messenger, one way."""
    number = 10 * ceph_client.MODES.index(mode) + list(filecheck.WRITERS).index(way)
    return [(f"{mode}-{number}-{size}", size, 100 * number + turn + 1) for turn, size in enumerate(datafile.SIZES)]


def stream(mode):
    """(name, size, seed) of the long file that the client writes in one mode."""
    return (f"{mode}-long", LONG, 900 + ceph_client.MODES.index(mode))


def all_written():
    """Every file that the client is to leave."""
    for mode in ceph_client.MODES:
        for way in filecheck.WRITERS:
            yield from written(mode, way)
        yield stream(mode)
