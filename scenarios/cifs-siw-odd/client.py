#!/usr/bin/python3
"""Requests of 1 MiB, which is as many pages as soft-iWARP registers at once, at even and at odd addresses.

At an odd address it is one page more than a memory registration takes; the client must split it.  A request
may never end, and then cannot be killed either: it is made by a child, and the checks go on without it.
"""

import mmap
import os
import signal
import sys
import time

sys.path.insert(0, os.environ["LAB_LIB"])
import datafile
import ktap

FILE = "/mnt/share/odd"
SIZE = 1 << 20
SHIFT = 1235
DEADLINE_S = 10 * float(os.environ.get("LAB_SCALE", "1"))


def area(shift):
    """Memory of SIZE bytes that begins `shift` bytes after a page's start."""
    return memoryview(mmap.mmap(-1, SIZE + datafile.PAGE))[shift : shift + SIZE]


def write(shift):
    """Write the file with O_DIRECT from an address `shift` bytes after a page's start."""
    memory = area(shift)
    memory[:] = datafile.sent(SIZE, 1)
    return os.pwrite(os.open(FILE, os.O_WRONLY | os.O_CREAT | os.O_DIRECT, 0o644), memory, 0) == SIZE


def read(shift):
    """Read the file with O_DIRECT to an address `shift` bytes after a page's start."""
    memory = area(shift)
    done = os.preadv(os.open(FILE, os.O_RDONLY | os.O_DIRECT), [memory], 0)
    return done == SIZE and memory == datafile.content(SIZE, 1)


def in_child(request, shift):
    """Make a request in a child of ours; it is right, wrong, or over its deadline."""
    child = os.fork()
    if not child:
        for descriptor in (1, 2):  # or whoever reads these would wait for the child as well
            os.dup2(os.open("/dev/null", os.O_WRONLY), descriptor)
        os._exit(0 if request(shift) else 1)
    end = time.monotonic() + DEADLINE_S
    while time.monotonic() < end:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            if status:
                raise AssertionError("it was cut short, or other bytes came back")
            return
        time.sleep(0.1)
    os.kill(child, signal.SIGKILL)
    raise AssertionError(f"it did not end within {DEADLINE_S:g} s")


ktap.plan(4)
ktap.check("write 1 MiB from a page's start", in_child, write, 0)
ktap.check("read 1 MiB to a page's start", in_child, read, 0)
ktap.check("read 1 MiB to an odd address", in_child, read, SHIFT)
ktap.check("write 1 MiB from an odd address", in_child, write, SHIFT)
