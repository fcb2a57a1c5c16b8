"""The checks of every network block device: what is written arrives, what is read is what the server has.

The device is cut into areas.  Area 0 is made by the server (`python3 /lab/lib/blockcheck.py serve FILE`); each
other area is written by the client once, in one configuration of the transport, through the page cache at odd
offsets and with O_DIRECT at odd sectors.  What belongs where follows from the area's number alone, so the server
can hold its backing file against it at the end (`blockcheck.py verify FILE AREA...`), gaps included: a write that
went astray shows there as well.
"""

import fcntl
import functools
import glob
import mmap
import os
import socket
import sys
import time

sys.path.insert(0, os.environ.get("LAB_LIB", "/lab/lib"))
import datafile
import ktap

SECTOR = 512
AREA = 8 << 20
AREAS = 6
SIZE = AREA * AREAS
"""Bytes that a device must have."""
LONG = 4 << 20
SHORT = 3  # areas from this one on have no long stream
REQUEST = 1 << 20  # bytes of one system call of the long stream
ODD = 1235  # how far into its slot a buffered write begins
ODD_SECTORS = 3 * SECTOR  # the same for O_DIRECT: not a page's start
DIRECT_SIZES = (512, 3584, 4096, 4608, 65024, 65536, 66048, (1 << 20) + 512)
DEADLINE_S = 60 * float(os.environ.get("LAB_SCALE", "1"))
_BLKFLSBUF = 0x1261
_BLKGETSIZE64 = 0x80081272


def extents(area, way):
    """(offset on the device, size, seed) of all that one way of writing leaves in an area."""
    sizes, odd = {
        "write": (datafile.SIZES, ODD),
        "write with O_DIRECT": (DIRECT_SIZES, ODD_SECTORS),
        "long stream": ((LONG,) if area < SHORT else (), ODD_SECTORS),
    }[way]
    # Each way has its own part of the area: 0 to 1.5 MiB, to 3 MiB, to 8 MiB.
    place = area * AREA + (0, 3 << 19, 3 << 20)[list(WRITERS).index(way)]
    found = []
    for number, size in enumerate(sizes):
        found.append((place + odd, size, 1000 * area + 100 * list(WRITERS).index(way) + number + 1))
        place += (-(-(odd + size) // datafile.PAGE) + 1) * datafile.PAGE
    return found


def image(area):
    """What an area holds when everything has been written to it."""
    data = bytearray(AREA)
    for way in WRITERS:
        for offset, size, seed in extents(area, way):
            start = offset - area * AREA
            data[start : start + size] = datafile.content(size, seed)
    return data


_content = functools.lru_cache(maxsize=32)(datafile.content)  # an area is read three times


def _same(got, right):
    """Compare byte for byte, which is cheaper in an emulated guest than two sums."""
    if got != right:
        raise AssertionError(datafile.difference(got, right))


def serve(path):
    """Make a backing file (sparse) with the area that only the server has."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    os.truncate(file, SIZE)
    for way in WRITERS:
        for offset, size, seed in extents(0, way):
            _pwrite(file, datafile.sent(size, seed), offset)
    os.close(file)


def verify(path, areas):
    """Hold a backing file against what the client was to write.

    Raises:
        AssertionError: an area differs; says where.
    """
    file = os.open(path, os.O_RDONLY)
    for area in areas:
        try:
            _same(datafile.read_all(file, AREA, area * AREA), image(area))
        except AssertionError as error:
            raise AssertionError(f"area {area} of the backing file: {error}") from None
    os.close(file)


def _pwrite(file, data, offset):
    view = memoryview(data)
    while view:
        done = os.pwrite(file, view, offset)
        view, offset = view[done:], offset + done


def _buffer(size):
    """Memory for O_DIRECT that begins one sector after a page's start."""
    return memoryview(mmap.mmap(-1, size + 2 * datafile.PAGE))[SECTOR : SECTOR + size]


def write_plain(device, offset, data):
    """Through the page cache, in two parts that meet inside a page, flushed to the server."""
    file = os.open(device, os.O_RDWR)
    try:
        half = len(data) // 2
        _pwrite(file, data[half:], offset + half)
        _pwrite(file, data[:half], offset)
        os.fsync(file)
    finally:
        os.close(file)


def write_direct(device, offset, data):
    """With O_DIRECT, one request of the whole."""
    file = os.open(device, os.O_RDWR | os.O_DIRECT)
    try:
        memory = _buffer(len(data))
        memory[:] = data
        _pwrite(file, memory, offset)
        os.fsync(file)
    finally:
        os.close(file)


def write_long(device, offset, data):
    """With O_DIRECT, in requests of 1 MiB."""
    file = os.open(device, os.O_RDWR | os.O_DIRECT)
    try:
        memory = _buffer(REQUEST)
        for start in range(0, len(data), REQUEST):
            part = memory[: len(data[start : start + REQUEST])]
            part[:] = data[start : start + REQUEST]
            _pwrite(file, part, offset + start)
        os.fsync(file)
    finally:
        os.close(file)


def write_sectors(path, data):
    """Make a file of a disk's file system: with O_DIRECT what fills sectors, the rest through the page cache."""
    whole = len(data) // SECTOR * SECTOR
    with open(path, "wb"):
        pass
    if whole:
        write_direct(path, 0, data[:whole])
    with open(path, "r+b") as file:
        file.seek(whole)
        file.write(data[whole:])


WRITERS = {"write": write_plain, "write with O_DIRECT": write_direct, "long stream": write_long}


def read_plain(device, offset, size):
    """Through the page cache."""
    file = os.open(device, os.O_RDONLY)
    try:
        return datafile.read_all(file, size, offset)
    finally:
        os.close(file)


def read_direct(device, offset, size):
    """With O_DIRECT: the sectors that hold the extent, in requests of at most 1 MiB, cut to it."""
    first = offset // SECTOR * SECTOR
    count = -(-(offset + size) // SECTOR) * SECTOR - first
    memory = _buffer(count)
    file = os.open(device, os.O_RDONLY | os.O_DIRECT)
    try:
        done = 0
        while done < count:
            part = os.preadv(file, [memory[done : min(done + REQUEST, count)]], first + done)
            if not part:
                raise AssertionError(f"read with O_DIRECT met the device's end, {count - done} bytes too early")
            done += part
    finally:
        os.close(file)
    return memory[offset - first : offset - first + size]


def read_sendfile(device, offset, size):
    """Spliced out of the device's page cache into a socket."""
    near, far = (datafile.patient(end, DEADLINE_S) for end in socket.socketpair())
    with near, far:
        got, _ = datafile.while_reading(
            far, size, "recv", lambda: datafile.send(near, device, offset, size, "sendfile")
        )
    return got


READERS = {"read": read_plain, "read with O_DIRECT": read_direct, "sendfile": read_sendfile}


def wait_for(what, found, seconds=DEADLINE_S):
    """Call `found()` until it returns something true, and return that.

    Raises:
        AssertionError: nothing within the deadline.
    """
    end = time.monotonic() + seconds
    while not (value := found()):
        if time.monotonic() > end:
            raise AssertionError(f"no {what} within {seconds:g} s")
        time.sleep(0.05)
    return value


def device_of(pattern):
    """Return the device of the first match in sysfs whose node is usable; None where there is none yet."""
    devices = (f"/dev/{os.path.basename(path)}" for path in glob.glob(pattern))
    return next(filter(_usable, devices), None)


def _usable(device):
    """Whether a device's node is there and has its size: both come some time after the connection."""
    try:
        file = os.open(device, os.O_RDONLY)
    except OSError:
        return False
    try:
        return int.from_bytes(fcntl.ioctl(file, _BLKGETSIZE64, bytes(8)), sys.byteorder) >= SIZE
    finally:
        os.close(file)


def forget(device):
    """Drop what the page cache holds of a device."""
    file = os.open(device, os.O_RDONLY)
    try:
        fcntl.ioctl(file, _BLKFLSBUF, 0)
    finally:
        os.close(file)


def _write_area(device, area, ways):
    for way in ways:
        for offset, size, seed in extents(area, way):
            WRITERS[way](device, offset, datafile.sent(size, seed))


def _timed_stream(device, area):
    ((offset, size, seed),) = extents(area, "long stream")
    data = datafile.sent(size, seed)
    began = time.monotonic()
    write_long(device, offset, data)
    return time.monotonic() - began


def _read_area(device, area, way):
    forget(device)
    seconds = 0.0
    for written in WRITERS:
        for offset, size, seed in extents(area, written):
            began = time.monotonic()
            got = READERS[way](device, offset, size)
            seconds = time.monotonic() - began
            try:
                _same(got, _content(size, seed))
            except AssertionError as error:
                raise AssertionError(f"{size} bytes at {offset}, from {written}: {error}") from None
    return seconds  # of the last, which is the long stream


def checks(area):
    """How many checks `run` makes of an area."""
    return 1 + len(READERS) + (0 if not area else 3 if area < SHORT else 2)


def run(label, area, connect, metric=""):
    """Write an area, connect anew, read it back in all ways.

    Args:
        label: what begins every check's name.
        area: its number; the server's own files are read where it is 0, and nothing is written.
        connect: called for a fresh connection; returns the device's path.
        metric: what begins the names of the figures; empty: none are given.
    """
    device = ktap.check(f"{label}: connect", connect)
    if not device:
        for number in range(2, checks(area) + 1):
            ktap.not_ok(f"{label}: check {number}", "there is no device")
        return
    if area:
        ktap.check(f"{label}: write, all sizes", _write_area, device, area, list(WRITERS)[:2])
        title = f"{label}: write {LONG >> 20} MiB with O_DIRECT"
        seconds = ktap.check(title, _timed_stream, device, area) if area < SHORT else 0
        if metric and seconds:
            ktap.metric(f"{metric}_write", LONG / (1 << 20) / seconds, "MiB/s", "higher")
        device = ktap.check(f"{label}: connect anew", connect) or device
    for way in READERS:
        seconds = ktap.check(f"{label}: {way}, all sizes", _read_area, device, area, way)
        if metric and seconds and area < SHORT and way == "read with O_DIRECT":
            ktap.metric(f"{metric}_read", LONG / (1 << 20) / seconds, "MiB/s", "higher")


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    else:
        try:
            verify(sys.argv[2], [int(word) for word in sys.argv[3:]])
        except AssertionError as difference:
            raise SystemExit(str(difference)) from None
