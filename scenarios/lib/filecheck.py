"""The checks of every network file system: what is written arrives, what is read is what the server has.

The client writes files of all sizes (through the page cache, and with O_DIRECT at odd offsets), leaves their
sums beside them as SHA256SUMS for the server's own `sha256sum -c`, mounts anew, and reads them back.  The files
that the server made (`python3 /lab/lib/filecheck.py serve DIR`) are read in every way.
"""

import functools
import os
import socket
import sys
import time

sys.path.insert(0, os.environ.get("LAB_LIB", "/lab/lib"))
import datafile
import ktap

LONG = 8 << 20
ODD = 1235
DEADLINE_S = 60 * float(os.environ.get("LAB_SCALE", "1"))
# (name, size, seed) of the files that only the server has
SERVED = (*((f"served-{size}", size, 500 + size) for size in datafile.SIZES), ("served-long", LONG, 500))


def serve(folder):
    """Make the files that only the server has."""
    for name, size, seed in SERVED:
        datafile.make(os.path.join(folder, name), size, seed)


def write_plain(path, data):
    """Through the page cache, in two parts that meet inside a page, flushed to the server."""
    half = len(data) // 2
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        _pwrite(file, data[:half], 0)
        _pwrite(file, data[half:], half)
        os.fsync(file)
    finally:
        os.close(file)


def write_direct(path, data):
    """With O_DIRECT: an odd offset in the middle first, then what comes before it."""
    odd = min(ODD, len(data))
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_DIRECT, 0o644)
    try:
        _pwrite(file, data[odd:], odd)
        _pwrite(file, data[:odd], 0)
    finally:
        os.close(file)


def _pwrite(file, data, offset):
    view = memoryview(data)
    while view:
        done = os.pwrite(file, view, offset)
        view, offset = view[done:], offset + done


def read_plain(path, size):
    """From the page cache's start to its end, and one byte further."""
    file = os.open(path, os.O_RDONLY)
    try:
        return datafile.read_all(file, size + 1)
    finally:
        os.close(file)


def read_direct(path, size):
    """With O_DIRECT, at an odd offset first; the parts put together."""
    odd = min(ODD, size)
    file = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        tail = datafile.read_all(file, size - odd, odd)
        return datafile.read_all(file, odd, 0) + tail
    finally:
        os.close(file)


def read_sendfile(path, size):
    """Spliced out of the file into a socket."""
    near, far = (datafile.patient(end, DEADLINE_S) for end in socket.socketpair())
    with near, far:
        return datafile.while_reading(far, size, "recv", lambda: datafile.send(near, path, 0, size, "sendfile"))[0]


READERS = {"read": read_plain, "read with O_DIRECT": read_direct, "sendfile": read_sendfile}
WRITERS = {"write": write_plain, "write with O_DIRECT": write_direct}


def _files(way):
    """(name, size, seed) of every file that is written one way."""
    number = list(WRITERS).index(way)
    sizes = (*datafile.SIZES, LONG)
    return [(f"file-{number}-{size}", size, 100 * number + index + 1) for index, size in enumerate(sizes)]


def _write_all(folder, way):
    """Write every file; the seconds that the long one, the last, took."""
    seconds = 0
    for name, size, seed in _files(way):
        data = datafile.sent(size, seed)
        began = time.monotonic()
        WRITERS[way](os.path.join(folder, name), data)
        seconds = time.monotonic() - began
    return seconds


def _read_all(folder, files, way):
    """Read and compare files; the seconds that the last one took."""
    seconds = 0
    for name, size, seed in files:
        began = time.monotonic()
        got = READERS[way](os.path.join(folder, name), size)
        seconds = time.monotonic() - began
        if datafile.digest(got) != _right_digest(size, seed):
            raise AssertionError(f"{name}: {datafile.difference(got, datafile.content(size, seed))}")
    return seconds


@functools.cache
def _right_digest(size, seed):
    return datafile.digest(datafile.content(size, seed))


def _leave_sums(folder):
    """What the server's `sha256sum -c` checks at its end."""
    lines = [f"{_right_digest(size, seed)}  {name}\n" for way in WRITERS for name, size, seed in _files(way)]
    write_plain(os.path.join(folder, "SHA256SUMS"), "".join(lines).encode())


def _mount_anew(command):
    status = os.spawnvp(os.P_WAIT, command[0], command)
    if status:
        raise AssertionError(f"{' '.join(command)} ended with status {status}")


def _forget():
    with open("/proc/sys/vm/drop_caches", "w") as file:
        file.write("3")


def run(folder, remount, extra=()):
    """All checks on a mounted share.

    Args:
        folder: where it is mounted.
        remount: the command that mounts it anew.
        extra: more checks to make after these, (title, function) each.
    """
    if not os.path.ismount(folder):
        raise SystemExit(f"{folder} is not mounted: these checks would test the guest's own root")
    ktap.plan(2 * len(WRITERS) + 2 + len(READERS) + len(extra))
    for way in WRITERS:
        seconds = ktap.check(f"{way}, all sizes", _write_all, folder, way)
        if way == "write":
            _rate("file_write", seconds)
    ktap.check("leave the sums for the server", _leave_sums, folder)
    ktap.check("mount anew", _mount_anew, remount)
    for way in WRITERS:
        # The long ones are for the server's own sums: reading them is as reading what it made.
        ktap.check(f"read what was written by {way}", _read_all, folder, _files(way)[:-1], "read")
    for way in READERS:
        _forget()  # what one way left in the page cache must not serve the next
        seconds = ktap.check(f"{way} the server's own files, all sizes", _read_all, folder, SERVED, way)
        if way == "read with O_DIRECT":
            _rate("file_read", seconds)
    for title, function in extra:
        ktap.check(title, function)


def _rate(name, seconds):
    if seconds:
        ktap.metric(name, LONG / (1 << 20) / seconds, "MiB/s", "higher")


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    else:
        run(sys.argv[2], sys.argv[3:])
