"""Which files there are, and what is in them: known to both ends."""

import os
import sys

sys.path.insert(0, os.environ["LAB_LIB"])
import datafile

LONG = 4 << 20
STREAM = ("long", LONG, 900)
PATCHED = ("patched", (1 << 18) + 13, 800)
"""A file that is written whole, and then in its middle from another mount."""
PATCH_AT, PATCH_SIZE, PATCH_SEED = 4096 * 3 + 1235, 70001, 801


def written(number):
    """(name, size, seed) of the files that the client writes the numbered way."""
    return [(f"file-{number}-{size}", size, 100 * number + turn + 1) for turn, size in enumerate(datafile.SIZES)]


def patched():
    """What must be in the patched file at the end."""
    data = datafile.content(*PATCHED[1:])
    data[PATCH_AT : PATCH_AT + PATCH_SIZE] = datafile.content(PATCH_SIZE, PATCH_SEED)
    return data
