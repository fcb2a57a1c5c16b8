#!/usr/bin/python3
"""Writes of 1 MiB, which is as many pages as soft-iWARP registers at once, from an even and from an odd address.

From an odd address it is one page more than a memory registration takes; the client must split it.  A write
may never end, and then cannot be killed either: it is made by a child, and the checks go on without it.
"""

import ctypes
import mmap
import os
import signal
import sys
import time

sys.path.insert(0, os.environ["LAB_LIB"])
import datafile
import ktap

SIZE = 1 << 20
DEADLINE_S = 20 * float(os.environ.get("LAB_SCALE", "1"))


def write_from(shift):
    """Write 1 MiB with O_DIRECT from an address `shift` bytes after a page's start, and read it back."""
    child = os.fork()
    if not child:
        for descriptor in (1, 2):  # or whoever reads these would wait for the child as well
            os.dup2(os.open("/dev/null", os.O_WRONLY), descriptor)
        area = mmap.mmap(-1, SIZE + datafile.PAGE)
        area[shift : shift + SIZE] = bytes(datafile.content(SIZE, shift + 1))
        address = ctypes.addressof(ctypes.c_char.from_buffer(area)) + shift
        file = os.open(f"/mnt/share/odd-{shift}", os.O_RDWR | os.O_CREAT | os.O_DIRECT, 0o644)
        done = ctypes.CDLL(None).pwrite(file, ctypes.c_void_p(address), ctypes.c_size_t(SIZE), ctypes.c_long(0))
        os._exit(0 if done == SIZE and datafile.read_all(file, SIZE) == bytes(datafile.content(SIZE, shift + 1)) else 1)
    end = time.monotonic() + DEADLINE_S
    while time.monotonic() < end:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            if status:
                raise AssertionError("the write was cut short, or other bytes came back")
            return
        time.sleep(0.1)
    os.kill(child, signal.SIGKILL)
    raise AssertionError(f"the write did not end within {DEADLINE_S:g} s")


ktap.plan(2)
ktap.check("1 MiB from a page's start", write_from, 0)
ktap.check("1 MiB from an odd address", write_from, 1235)
