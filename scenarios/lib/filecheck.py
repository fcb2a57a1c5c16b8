"""The checks of every network file system: what is written arrives, what is read is what the server has.

The client writes files of all sizes (through the page cache, and with O_DIRECT at odd offsets), leaves their
sums beside them as SHA256SUMS for the server's own `sha256sum -c`, mounts anew, and reads everything back
in four ways.  Files that the server made (`python3 /lab/lib/filecheck.py serve DIR`) are read as well.
"""

import os
import socket
import sys

sys.path.insert(0, os.environ.get("LAB_LIB", "/lab/lib"))
import datafile
import ktap

LONG = 8 << 20
ODD = 1235
DEADLINE_S = 60 * float(os.environ.get("LAB_SCALE", "1"))
SERVED = (("served-small", 65537), ("served-long", LONG))


def serve(folder):
    """Make the files that only the server has."""
    for number, (name, size) in enumerate(SERVED):
        datafile.make(os.path.join(folder, name), size, 500 + number)


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
    for name, size, seed in _files(way):
        WRITERS[way](os.path.join(folder, name), datafile.content(size, seed))


def _read_all(folder, files, way):
    for name, size, seed in files:
        try:
            datafile.same(READERS[way](os.path.join(folder, name), size), datafile.content(size, seed))
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from None


def _leave_sums(folder):
    """What the server's `sha256sum -c` checks at its end."""
    lines = [
        f"{datafile.digest(datafile.content(size, seed))}  {name}\n"
        for way in WRITERS
        for name, size, seed in _files(way)
    ]
    write_plain(os.path.join(folder, "SHA256SUMS"), "".join(lines).encode())


def _mount_anew(command):
    status = os.spawnvp(os.P_WAIT, command[0], command)
    if status:
        raise AssertionError(f"{' '.join(command)} ended with status {status}")


def _forget():
    with open("/proc/sys/vm/drop_caches", "w") as file:
        file.write("3")


def run(folder, remount):
    """All checks on a mounted share; `remount` is the command that mounts it anew."""
    if not os.path.ismount(folder):
        raise SystemExit(f"{folder} is not mounted: these checks would test the guest's own root")
    ktap.plan(2 + len(WRITERS) + len(READERS) * (len(WRITERS) + 1))
    for way in WRITERS:
        ktap.check(f"{way}, all sizes", _write_all, folder, way)
    ktap.check("leave the sums for the server", _leave_sums, folder)
    ktap.check("mount anew", _mount_anew, remount)
    served = [(name, size, 500 + number) for number, (name, size) in enumerate(SERVED)]
    for way in READERS:
        _forget()  # what one way left in the page cache must not serve the next
        ktap.check(f"{way} the server's own files", _read_all, folder, served, way)
        for written in WRITERS:
            ktap.check(f"{way} what was written by {written}", _read_all, folder, _files(written), way)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    else:
        run(sys.argv[2], sys.argv[3:])
