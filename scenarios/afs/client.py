#!/usr/bin/python3
"""Mounts the AFS volume, writes in every way, mounts anew, reads in every way; tells the server what to look for."""

import errno
import functools
import os
import subprocess
import time

import files
from files import datafile

import filecheck  # isort: skip
import ktap  # isort: skip

CELL, VOLUME, SHARE = "lab.test", "data", "/mnt/afs"
DEADLINE_S = 60 * float(os.environ.get("LAB_SCALE", "1"))
content = functools.lru_cache(maxsize=64)(datafile.content)  # some files are read three times


def run(*command):
    """Run a command that has to end well, and in time."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=DEADLINE_S)
    except subprocess.TimeoutExpired:
        raise AssertionError(f"{command[0]} did not end within {DEADLINE_S:g} s") from None
    if done.returncode:
        raise AssertionError(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()}")


def set_cell():
    """Make the server's cell the one that is meant where none is named.

    A mount that names it would be refused by newer kernels, which then ask the DNS for it in any case.
    """
    with open("/proc/fs/afs/rootcell", "w") as cell:
        cell.write(f"{CELL}:{os.environ['LAB_SERVER']}\n")


def unmount():
    """Take the file system away, and with it all that the client had cached."""
    if os.path.ismount(SHARE):
        run("umount", SHARE)


def mount():
    """Mount anew; "%" is the volume that can be written, and not a copy of it."""
    os.makedirs(SHARE, exist_ok=True)
    unmount()
    # -i: without a helper program. The full stop: the volume's name has no suffix.
    run("mount", "-i", "-t", "afs", f"%{VOLUME}.", SHARE)


def write_sendfile(path, data):
    """Spliced out of a file in memory."""
    source = os.path.join(os.environ["LAB_TMP"], "source")
    with open(source, "wb") as file:
        file.write(data)
    with open(source, "rb") as near, open(path, "wb", buffering=0) as far:
        done = 0
        while done < len(data):
            done += os.sendfile(far.fileno(), near.fileno(), done, len(data) - done)
        os.fsync(far.fileno())


def write_mmap(path, data):
    """Stored into a shared mapping."""
    import mmap

    with open(path, "w+b", buffering=0) as file:
        file.truncate(len(data))
        with mmap.mmap(file.fileno(), len(data)) as memory:
            memory[:] = bytes(data)
            memory.flush()


WRITERS = {**filecheck.WRITERS, "sendfile": write_sendfile, "mmap": write_mmap}


def able(way):
    """Skip what this kernel's AFS does not offer."""
    if "O_DIRECT" in way:
        try:
            os.close(os.open(os.path.join(SHARE, "direct"), os.O_WRONLY | os.O_CREAT | os.O_DIRECT))
        except OSError as error:
            if error.errno == errno.EINVAL:
                raise ktap.Skip("this kernel's AFS has no O_DIRECT") from None
            raise


def write(way):
    """Write the files of all sizes."""
    able(way)
    number = list(WRITERS).index(way)
    for name, size, seed in files.written(number):
        WRITERS[way](os.path.join(SHARE, name), datafile.sent(size, seed))
    done.extend(files.written(number))


def write_stream():
    """Write the long file; returns the seconds that it took to reach the server."""
    name, size, seed = files.STREAM
    data = datafile.sent(size, seed)
    began = time.monotonic()
    filecheck.write_plain(os.path.join(SHARE, name), data)
    done.append(files.STREAM)
    return time.monotonic() - began


def patch():
    """Write from an odd offset on, in a file of which nothing is cached; the rest is to stay."""
    name, size, seed = files.PATCHED
    path = os.path.join(SHARE, name)
    filecheck.write_plain(path, datafile.sent(size, seed))
    mount()
    with open(path, "r+b", buffering=0) as file:
        os.pwrite(file.fileno(), datafile.sent(files.PATCH_SIZE, files.PATCH_SEED), files.PATCH_AT)
        os.fsync(file.fileno())
    mount()
    datafile.same(filecheck.read_plain(path, size), files.patched())


def read(way):
    """Read and compare; returns the seconds that the last file took, which is the long one.

    Everything is read in the first way. The others take the files that were written in the first way alone: to
    read the rest once more would be most of the run.
    """
    able(way)
    first = way == next(iter(filecheck.READERS))
    with open("/proc/sys/vm/drop_caches", "w") as file:
        file.write("3")
    seconds = 0
    for name, size, seed in done if first else files.written(0):
        began = time.monotonic()
        got = filecheck.READERS[way](os.path.join(SHARE, name), size)
        seconds = time.monotonic() - began
        if got != content(size, seed):  # byte for byte, which is cheaper in an emulated guest than two sums
            raise AssertionError(f"{name}: {datafile.difference(got, content(size, seed))}")
    return seconds


def rate(name, seconds):
    """The speed of the long file, where there is one."""
    if seconds:
        ktap.metric(name, files.LONG / (1 << 20) / seconds, "MiB/s", "higher")


done = []
ktap.plan(len(WRITERS) + len(filecheck.READERS) + 5)
set_cell()
ktap.check("mount", mount)
if not os.path.ismount(SHARE):
    raise SystemExit(f"{SHARE} is not mounted: these checks would test the guest's own root")
for way in WRITERS:
    ktap.check(f"{way}, all sizes", write, way)
rate("afs_write", ktap.check("write a long stream", write_stream))
ktap.check("mount anew", mount)
for way in filecheck.READERS:
    seconds = ktap.check(f"{way}, all sizes", read, way)
    if way == "read":
        rate("afs_read", seconds)
ktap.check("write in the middle of a file that is not cached", patch)
ktap.check("unmount", unmount)
