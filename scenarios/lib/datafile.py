"""Test data in which every page differs, and the ways to send it through sockets.

Content is a function of (size, seed) alone: a guest can check what the other one sent without being told
more than these two numbers.  Page N of it begins with the seed and N, so that a page which arrives in the
place of another, a stale page or a page of zeroes is named in the report and not only seen in the sum.
"""

import atexit
import errno
import fcntl
import hashlib
import mmap
import os
import socket
import struct
import termios
import threading
import time

import sources

PAGE = 4096
SIZES = (1, 4095, 4096, 4097, 65535, 65536, 65537, (1 << 20) + 13)
"""Around one page, around one pipe (16 pages), and more than a socket's buffer."""

_PERIOD = 1048573  # a prime below 1 MiB: no two pages of a file are equal, apart from their stamps as well
_STAMP = struct.Struct("<QQ")
_noise = b""
_WORK = struct.Struct("<QQ")  # bytes, calls
_work, _owner = mmap.mmap(-1, _WORK.size), os.getpid()  # children add to it as well
_SLOTS = 16  # pages of a pipe


def content(size, seed):
    """`size` bytes that belong to `seed`: noise, stamped with (seed, page number) at each page's start."""
    global _noise
    if not _noise:
        _noise = hashlib.shake_128(b"kpatchlab").digest(_PERIOD)
    turn = seed * 7919 % _PERIOD
    data = bytearray((_noise[turn:] + _noise[:turn]) * (size // _PERIOD + 1))
    del data[size:]
    for page in range(size // PAGE):
        _STAMP.pack_into(data, page * PAGE, seed, page)
    tail = size // PAGE
    stamp = _STAMP.pack(seed, tail)[: size - tail * PAGE]
    data[tail * PAGE : tail * PAGE + len(stamp)] = stamp
    return data


def digest(data):
    """SHA-256 of bytes, in hex."""
    return hashlib.sha256(data).hexdigest()


def sent(size, seed):
    """What a scenario sends: `content(size, seed)`, in which one byte is wrong where the lab asks for a break.

    `run --break` sets LAB_BREAK, to prove that a scenario sees it: hold what arrives against `content`.
    """
    data = content(size, seed)
    if size and os.environ.get("LAB_BREAK"):
        data[-1 - size // 3] ^= 1
    return data


def make(path, size, seed):
    """Write a file with `sent(size, seed)`."""
    data = sent(size, seed)
    sources.written(path)
    with open(path, "wb", buffering=0) as file:
        view = memoryview(data)
        while view:
            view = view[file.write(view) :]
        sources.file(file.fileno(), data)


def same(got, expected):
    """Compare by SHA-256.

    Raises:
        AssertionError: they differ; says where, and what stands there instead.
    """
    if digest(got) != digest(expected):
        raise AssertionError(difference(got, expected))


def difference(got, expected):
    """Where two byte strings part, in words; "" when they are equal."""
    if len(got) != len(expected):
        return f"{len(got)} bytes instead of {len(expected)}; " + _first_difference(got, expected)
    return _first_difference(got, expected)


def _first_difference(got, expected):
    first = sources.first_unequal(got, expected)
    if first == min(len(got), len(expected)):
        return "the common part is equal" if len(got) != len(expected) else ""
    start, at = first - first % PAGE, first % PAGE
    mine, right = bytes(got[start : start + PAGE]), bytes(expected[start : start + PAGE])
    text = f"first difference at byte {first} of {len(expected)}"
    if not mine.strip(b"\0"):
        return f"{text}: zeroes instead of data"
    elsewhere = bytes(expected).find(mine) if min(len(mine), len(right)) == PAGE else -1
    if elsewhere >= 0:
        return f"{text}: data that belongs to byte {elsewhere} instead"
    return f"{text}: {mine[at : at + 8].hex()} instead of {right[at : at + 8].hex()}"


def patient(sock, seconds):
    """Let reads and writes of a socket fail (EAGAIN) after `seconds`, while it stays a blocking one.

    `settimeout` would make it non-blocking, which is another way through the kernel.
    """
    value = struct.pack("@ll", int(seconds), 0)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, value)
    return sock


def send(sock, path, offset, count, how):
    """Send `count` bytes of a file from `offset` on; `how`: "sendfile", "splice" (through a pipe), "write"."""
    with open(path, "rb", buffering=0) as file:
        sources.file(file.fileno())
        SENDERS[how](sock.fileno(), file.fileno(), offset, count)


def _sendfile(sock, file, offset, count):
    while count:
        done = os.sendfile(sock, file, offset, count)
        if not done:
            raise AssertionError(f"sendfile met the end of the file, {count} bytes too early")
        counted("sendfile", done, count)
        offset, count = offset + done, count - done


def _splice(sock, file, offset, count):
    reader, writer = os.pipe()
    try:
        while count:
            filled = os.splice(file, writer, count, offset_src=offset)
            if not filled:
                raise AssertionError(f"splice met the end of the file, {count} bytes too early")
            if not 0 < filled <= count:
                raise AssertionError(f"splice of {count} bytes into a pipe says that it moved {filled}")
            watched = _watch_pipe(writer, offset, filled)
            offset, count = offset + filled, count - filled
            while filled:
                moved = os.splice(reader, sock, filled, flags=os.SPLICE_F_MORE if count else 0)
                counted("splice out of a pipe", moved, filled)
                filled -= moved
                if (left := waiting(reader)) != filled + len(watched):
                    raise AssertionError(f"splice took {moved} bytes, and {left} are left, not {filled + len(watched)}")
            if watched and (left := os.read(reader, PAGE)) != watched:
                raise AssertionError(f"the pipe's next page has changed: {difference(left, watched)}")
    finally:
        os.close(reader)
        os.close(writer)


def counted(call, done, asked):
    """Hold what a call that sends says it moved against what it was asked for, and add it to what was sent in all."""
    if not 0 <= done <= asked:
        raise AssertionError(f"{call} of {asked} bytes says that it moved {done}")
    size, calls = _WORK.unpack(_work)
    _WORK.pack_into(_work, 0, size + done, calls + 1)


def _tell_work():
    """Say how much was sent: what is lost by it is told as so much a MiB."""
    size, calls = _WORK.unpack(_work)
    if calls and os.getpid() == _owner:
        os.write(1, f"# sent {size} bytes in {calls} calls\n".encode())


if "LAB_ROLE" in os.environ:  # in a guest
    atexit.register(_tell_work)


def waiting(descriptor):
    """How many bytes wait to be read from a pipe or a stream (FIONREAD)."""
    return struct.unpack("i", fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4)))[0]


def _watch_pipe(writer, offset, filled):
    """Write a page behind those of a file that are in a pipe, where one has room; returns it, or b"".

    It must neither be sent nor changed, nor added to the file's last page.
    """
    if offset % PAGE + filled > (_SLOTS - 1) * PAGE:
        return b""
    page = _STAMP.pack(offset, filled) * (PAGE // _STAMP.size)
    os.write(writer, page)
    return page


def _write(sock, file, offset, count):
    view = memoryview(os.pread(file, count, offset))
    while view:
        done = os.write(sock, view)
        counted("write", done, len(view))
        view = view[done:]


SENDERS = {"sendfile": _sendfile, "splice": _splice, "write": _write}


def receive(sock, count, how="recv"):
    """Take `count` bytes from a socket; `how`: "recv", or "splice" (through a pipe into a file at an odd offset).

    Returns:
        The bytes; fewer where the sender closed early.
    """
    return _receive_splice(sock, count) if how == "splice" else _receive_plain(sock, count)


def _receive_plain(sock, count):
    data = bytearray(count)
    view, done = memoryview(data), 0
    while done < count:
        read = sock.recv_into(view[done:])
        if not read:
            return data[:done]
        done += read
    return data


def _receive_splice(sock, count):
    path = os.path.join(os.environ.get("LAB_TMP", "/tmp"), f"received-{threading.get_ident()}")
    start = 1235  # odd: the pages that arrive do not line up with the file's
    reader, writer = os.pipe()
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    os.unlink(path)
    try:
        done = 0
        while done < count:
            filled = os.splice(sock.fileno(), writer, count - done)
            if not filled:
                break
            while filled:
                moved = os.splice(reader, file, filled, offset_dst=start + done)
                filled, done = filled - moved, done + moved
        return read_all(file, done, start)
    finally:
        for descriptor in (reader, writer, file):
            os.close(descriptor)


def read_all(file, count, offset=0):
    """`count` bytes of an open file from `offset` on, or less at its end."""
    parts = []
    while count:
        part = os.pread(file, count, offset)
        if not part:
            break
        parts.append(part)
        offset, count = offset + len(part), count - len(part)
    return b"".join(parts)


def while_reading(sock, count, how, send_it):
    """Run `send_it()` while a second thread takes `count` bytes out of `sock`.

    Returns:
        (what the reader got, seconds that the whole took)

    Raises:
        OSError, AssertionError: whatever either of them raised, the sender's first.
    """
    got, failure = [], []

    def read():
        try:
            got.append(receive(sock, count, how))
        except (OSError, AssertionError) as error:
            failure.append(error)

    reader = threading.Thread(target=read)
    began = time.monotonic()
    reader.start()
    try:
        send_it()
    except BaseException:
        sock.shutdown(socket.SHUT_RDWR)  # or the reader waits out its deadline
        raise
    finally:
        reader.join()
    seconds = time.monotonic() - began
    if failure:
        raise explain(failure[0])
    if len(got[0]) == count and (left := waiting(sock)):
        raise AssertionError(f"{left} bytes wait behind the {count} that were sent")
    return got[0], seconds


def explain(error):
    """An error of a socket's deadline in words; any other error as it is."""
    if isinstance(error, OSError) and error.errno in {errno.EAGAIN, errno.EWOULDBLOCK}:
        return AssertionError("no data for the whole of the socket's deadline: the stream has stopped")
    return error
