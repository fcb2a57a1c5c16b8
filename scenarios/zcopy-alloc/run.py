#!/usr/bin/python3
"""Many small replies of an NFS server; the staging allocator holds the head of each until TCP has let go of it."""

import os
import sys
import time

sys.path.insert(0, os.environ["LAB_LIB"])
import datafile
import filecheck
import ktap

ROUNDS = 8
READS = 256  # a round's; each is one reply
LOST_KIB = 512  # a quarter of a KiB a reply; what a guest has free varies by less than a fifth of that
NAME, SIZE, SEED = filecheck.SERVED[-2]


def a_round():
    """Read a file in pieces of a page, past every cache, and compare."""
    file = os.open(os.path.join("/mnt/share", NAME), os.O_RDONLY | os.O_DIRECT)
    try:
        got = b"".join(os.pread(file, datafile.PAGE, page * datafile.PAGE) for page in range(READS))
    finally:
        os.close(file)
    datafile.same(got, datafile.content(SIZE, SEED)[: READS * datafile.PAGE])


def rounds(count):
    """So many rounds, in a child, whose memory does not count."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            for _ in range(count):
                a_round()
        except (AssertionError, OSError) as error:
            os.write(writer, str(error).encode())
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    if said := os.read(reader, 1 << 16).decode():
        raise AssertionError(said)


def free_kib():
    """Memory that nothing uses, when all that can be let go is gone."""
    time.sleep(0.5)  # TCP still holds what the other end has not acknowledged
    with open("/proc/sys/vm/drop_caches", "w") as file:
        file.write("3")
    with open("/proc/vmstat") as table:
        pages = next(int(line.split()[1]) for line in table if line.startswith("nr_free_pages "))
    return pages * datafile.PAGE // 1024


def nothing_lost():
    """Free memory after as many replies again is what it was before."""
    before = free_kib()
    rounds(ROUNDS)
    lost = before - free_kib()
    print(f"# {lost} KiB less free memory after {ROUNDS * READS} replies", flush=True)
    if lost > LOST_KIB:
        raise AssertionError(f"{lost} KiB less free memory after {ROUNDS * READS} replies")


def has_allocator():
    """The kernel has the allocator: that it ran is what the lab counts."""
    with open("/proc/kallsyms") as table:
        if not any(line.split()[2] == "zcopy_alloc" for line in table):
            raise ktap.Skip("this kernel has no zcopy_alloc")


ktap.plan(3)
ktap.check(f"{READS} replies of a page each", rounds, 1)
ktap.check("no pages are lost", nothing_lost)
ktap.check("zcopy_alloc is there", has_allocator)
