"""A sparse file of more than 4 GiB, and what is sent of it: offsets and counts that 31 and 32 bits do not hold.

Each check takes two connected stream sockets.  The file has data around both borders and at its end; between them are
holes, which cost neither memory nor time and read as zeroes.
"""

import fcntl
import functools
import os
import socket
import struct
import termios
import threading
import time

import datafile
import splicecalls
from atonce import at_once

GIB = 1 << 30
BORDERS = (2 * GIB, 4 * GIB)
SIZE = 5 * GIB + 12_345
MOST = 0x7FFFF000
"""What one sendfile moves at the most (MAX_RW_COUNT of the kernel; sendfile(2))."""
_HALF, _TAIL, _SEED = 40_000, 5000, 700
_BLOCKS = {border - _HALF: 2 * _HALF for border in BORDERS} | {SIZE - _TAIL: _TAIL}
_PATH = os.path.join(os.environ.get("LAB_TMP", "/tmp"), "big")
_PIPE = 16 * datafile.PAGE
_COUNTS = (2 * GIB - 1, 2 * GIB, 2 * GIB + 5, 4 * GIB - 1, 4 * GIB, 4 * GIB + 5)
_PIECE = 1 << 20
DEADLINE_S = 20 * float(os.environ.get("LAB_SCALE", "1"))


def _open():
    """The file, open and without a name."""
    file = open(_PATH, "w+b", buffering=0)
    os.unlink(_PATH)
    file.truncate(SIZE)
    for number, (at, size) in enumerate(_BLOCKS.items()):
        os.pwrite(file.fileno(), datafile.sent(size, _SEED + number), at)
    return file


@functools.cache
def _block(size, seed):
    return bytes(datafile.content(size, seed))


def _content(offset, count):
    """What `count` bytes from `offset` on have to be."""
    data = bytearray(count)
    for number, (at, size) in enumerate(_BLOCKS.items()):
        first, last = max(at, offset), min(at + size, offset + count)
        if first < last:
            data[first - offset : last - offset] = _block(size, _SEED + number)[first - at : last - at]
    return data


def _same(got, offset, count, what):
    try:
        datafile.same(got, _content(offset, count))
    except AssertionError as error:
        raise AssertionError(f"{count} bytes from {offset} on, {what}: {error}") from None


def _sendfile_at_position(sock, file, offset, count):
    """Sendfile that takes from the file's own position, and moves it."""
    os.lseek(file, offset, os.SEEK_SET)
    while count:
        done = os.sendfile(sock, file, None, count)
        datafile.counted("sendfile", done, count)
        offset, count = offset + done, count - done
        if not done or (now := os.lseek(file, 0, os.SEEK_CUR)) != offset:
            raise AssertionError(f"sendfile took {done} bytes and leaves the file at {now}, not at {offset}")


SENDERS = {
    **{how: datafile.SENDERS[how] for how in ("sendfile", "splice")},
    "sendfile at the file's position": _sendfile_at_position,
}


def around(near, far, how):
    """Parts around each border, and the file's end, arrive as they are, and stay so in the file."""
    with _open() as file:
        parts = [(border - 50_000, 100_000) for border in BORDERS]
        parts += [(border + by, 20_000) for border in BORDERS for by in (-1, 0)]
        for offset, count in (*parts, (SIZE - 6000, 6000)):
            rest = near.fileno(), file.fileno(), offset, count
            got, _ = datafile.while_reading(far, count, "recv", lambda rest=rest: SENDERS[how](*rest))
            _same(got, offset, count, "as they arrived")
            _same(os.pread(file.fileno(), count, offset), offset, count, "in the file that was sent")


def counts(near, far):
    """One sendfile of more than 31 and 32 bits count sends what a full socket takes, and the offset stands behind it."""
    near.setblocking(False)
    offset = BORDERS[1] - 2000
    with _open() as file:
        for count in _COUNTS:
            what = f"sendfile of {count} bytes into a socket that may not block"
            done = at_once(what, splicecalls.sendfile, near.fileno(), file.fileno(), offset, count)
            if not datafile.PAGE <= done <= SIZE - offset:
                raise AssertionError(f"{what} took {done}")
            _same(datafile.receive(far, done), offset, done, what)
            _wait_until_empty(near)


def _wait_until_empty(sock):
    """Until all that was sent is the other end's (TIOCOUTQ)."""
    give_up = time.monotonic() + DEADLINE_S
    while left := struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)))[0]:
        if time.monotonic() > give_up:
            raise AssertionError(f"{left} bytes are still in the socket that the other end has read")
        time.sleep(0.01)


def pipe_counts(near, far):
    """splice and tee of more than a pipe holds, by counts beyond 31 and 32 bits, move all that it holds."""
    offset = BORDERS[0] - 2 * datafile.PAGE
    with _open() as file, splicecalls.Pipe() as first, splicecalls.Pipe() as second:
        for count in _COUNTS:
            _all("splice into a pipe", splicecalls.splice, file.fileno(), first.writer, count, 0, offset)
            _all("tee", splicecalls.tee, first.reader, second.writer, count)
            for pipe in first, second:
                moved = []

                def send(pipe=pipe, count=count, moved=moved):
                    while sum(moved) < _PIPE:
                        moved.append(splicecalls.splice(pipe.reader, near.fileno(), count))

                got, _ = datafile.while_reading(far, _PIPE, "recv", send)
                _same(got, offset, _PIPE, f"by splice of {count} into the socket")


def _all(what, call, source, target, count, *rest):
    if (done := call(source, target, count, *rest)) != _PIPE:
        raise AssertionError(f"{what} of {count} bytes moved {done}, and the pipe holds {_PIPE}")


def beyond_end(near, far):
    """Calls of more than the file has left send what it has; one behind its end sends nothing."""
    with _open() as file:
        for count in _COUNTS:
            offset = SIZE - _TAIL
            rest = near.fileno(), file.fileno(), offset, count
            if (done := splicecalls.sendfile(*rest)) != _TAIL:
                raise AssertionError(f"sendfile of {count} bytes took {done} of the file's last {_TAIL}")
            _same(datafile.receive(far, done), offset, done, f"by sendfile of {count}")
            if done := splicecalls.sendfile(near.fileno(), file.fileno(), SIZE + 4 * GIB, count):
                raise AssertionError(f"sendfile behind the file's end took {done} bytes")


def given_up(near, far):
    """A sendfile of 3 GiB whose reader goes away returns what it moved until then, all of it from the right place."""
    offset, taken = BORDERS[0] - 2 * _PIECE - 1, []

    def read():
        taken.append(datafile.receive(far, 2 * _PIECE + 20_000))
        far.shutdown(socket.SHUT_RDWR)
        far.close()

    reader = threading.Thread(target=read)
    reader.start()
    with _open() as file:
        done = splicecalls.sendfile(near.fileno(), file.fileno(), offset, 3 * GIB)
        reader.join()
    if not len(taken[0]) <= done < MOST:
        raise AssertionError(f"sendfile took {done} bytes, and {len(taken[0])} were read before the reader went away")
    _same(taken[0], offset, 2 * _PIECE + 20_000, "before the reader went away")


def of_kind(kind, check, *arguments):
    """Call a check with two sockets of `splicecalls.pair`."""
    near, far = splicecalls.pair(kind, DEADLINE_S)
    with near, far:
        check(near, far, *arguments)


_ON_SOCKETS = (
    *((f"around 2 and 4 GiB, {how}", around, how) for how in SENDERS),
    ("counts beyond 2 and 4 GiB, sendfile", counts),
    ("counts beyond 2 and 4 GiB, splice and tee", pipe_counts),
    ("more than is left of it", beyond_end),
    ("a sendfile of 3 GiB whose reader goes away", given_up),
)
CHECKS = [(f"a file of 5 GiB: {name}", of_kind, rest) for name, *rest in _ON_SOCKETS]
"""Name, function and arguments behind the kind of socket."""
