#!/usr/bin/python3
"""Messages of all sizes to the server and back, streams of many messages, zero-copy, and what RDS refuses."""

import errno
import mmap
import os
import socket
import struct
import time

import messages
from messages import CHUNK, DEADLINE_S, HEADER, LARGEST, datafile

import ktap
import outcome

SOL_RDS = 276
ZCOPY_COOKIE, ZCOPY_COMPLETION = 12, 13
SO_ZEROCOPY = 60
MSG_ZEROCOPY = 0x4000000
LONG = 8 << 20
# 1 MiB is the largest message, its header counted; odd sizes that are left over fill the list.
SIZES = (*(size for size in datafile.SIZES if size < LARGEST), 300007, LARGEST - HEADER.size)
SERVER = (os.environ["LAB_SERVER"], messages.PORT)
FILE = os.path.join(os.environ.get("LAB_TMP", "/tmp"), "rds")


def endpoint(port):
    """A socket of this end; reading from it gives up after a while."""
    return datafile.patient(messages.endpoint(os.environ["LAB_CLIENT"], port), DEADLINE_S)


def receive(sock, done=None):
    """The next message; adds the cookies of zero-copy messages that are completed to the list `done`."""
    try:
        message, control, flags, where = sock.recvmsg(LARGEST, 256)
    except OSError as error:
        if error.errno in {errno.EAGAIN, errno.ETIMEDOUT}:
            raise AssertionError(f"no message came within {DEADLINE_S:g} s") from None
        raise
    if where != SERVER or flags & socket.MSG_TRUNC:
        raise AssertionError(f"a message from {where} with flags {flags:#x}")
    if done is not None:
        done += cookies(control)
    return message


def cookies(control):
    """The cookies of completed zero-copy messages in control messages."""
    found = []
    for level, kind, value in control:
        if (level, kind) == (SOL_RDS, ZCOPY_COMPLETION):
            count, *these = struct.unpack("@I8I", value)
            found += these[:count]
    return found


def summed(sock, right, done=None):
    """Take the server's length and sum, and hold them against the right data."""
    answer = receive(sock, done).decode()
    if answer != f"{len(right)} {datafile.digest(right)}":
        raise AssertionError(f"the server got data with length and sum {answer}, not {datafile.digest(right)}")


def put(sock, size, seed, data, done=None, **named):
    """Send one message with this data."""
    messages.send(sock, SERVER, [HEADER.pack(b"put ", seed, size), data], **named)
    try:
        summed(sock, datafile.content(size, seed), done)
    except AssertionError as error:
        raise AssertionError(f"{size} bytes: {error}") from None


def there(port, shift):
    """All sizes to the server, from memory that is `shift` bytes off a page's start."""
    area = mmap.mmap(-1, LARGEST + datafile.PAGE)
    with endpoint(port) as sock:
        for number, size in enumerate(SIZES):
            area[shift : shift + size] = datafile.sent(size, port + number)
            put(sock, size, port + number, memoryview(area)[shift : shift + size])


def back(port):
    """All sizes from the server."""
    with endpoint(port) as sock:
        for number, size in enumerate(SIZES):
            messages.send(sock, SERVER, [HEADER.pack(b"get ", port + number, size)])
            try:
                datafile.same(receive(sock), datafile.content(size, port + number))
            except AssertionError as error:
                raise AssertionError(f"{size} bytes: {error}") from None


def stream_there(port, size):
    """Many messages that are not answered; returns seconds."""
    view = memoryview(datafile.sent(size, port))
    with endpoint(port) as sock:
        began = time.monotonic()
        for start in range(0, size, CHUNK):
            part = view[start : start + CHUNK]
            messages.send(sock, SERVER, [HEADER.pack(b"part", port, len(part)), part])
        messages.send(sock, SERVER, [HEADER.pack(b"sums", port, size)])
        summed(sock, datafile.content(size, port))
        return time.monotonic() - began


def stream_back(port, size):
    """Many messages for one request, in order; returns seconds."""
    with endpoint(port) as sock:
        began = time.monotonic()
        messages.send(sock, SERVER, [HEADER.pack(b"many", port, size)])
        got = bytearray()
        while len(got) < size:
            got += receive(sock)
        seconds = time.monotonic() - began
    datafile.same(got, datafile.content(size, port))
    return seconds


def many_ports(port):
    """Eight sockets: with several paths to the other end, each takes another."""
    socks = [endpoint(port + number) for number in range(8)]
    for turn in range(3):
        for number, sock in enumerate(socks):
            seed = 100 * number + turn
            messages.send(sock, SERVER, [HEADER.pack(b"get ", seed, 20001 + seed)])
        for number, sock in enumerate(socks):
            seed = 100 * number + turn
            datafile.same(receive(sock), datafile.content(20001 + seed, seed))
    for sock in socks:
        sock.close()


def zero_copy(port):
    """Pages of ours go to TCP as they are; they are changed once RDS says that it is done with them."""
    area = mmap.mmap(-1, LARGEST + datafile.PAGE)
    with endpoint(port) as sock:
        sock.setsockopt(socket.SOL_SOCKET, SO_ZEROCOPY, 1)
        for number, size in enumerate(SIZES):
            shift = 1235 * (number % 3)
            data = memoryview(area)[shift : shift + size]
            data[:] = datafile.sent(size, port + number)
            cookie, done = (SOL_RDS, ZCOPY_COOKIE, struct.pack("@I", number + 1)), []
            put(sock, size, port + number, data, done, control=[cookie], flags=MSG_ZEROCOPY)
            completed(sock, number + 1, done)


def completed(sock, cookie, done):
    """Wait for the notification that these pages are free, unless it came with the answer."""
    end = time.monotonic() + DEADLINE_S
    while not done:
        try:
            done += cookies(sock.recvmsg(1, 256, socket.MSG_DONTWAIT)[1])
        except BlockingIOError:
            if time.monotonic() > end:
                raise AssertionError(f"no completion within {DEADLINE_S:g} s") from None
            time.sleep(0.002)
    if done != [cookie]:
        raise AssertionError(f"completion of {done} instead of {cookie}")


def too_long(port):
    """A message of more than 1 MiB is refused; the socket goes on."""
    with endpoint(port) as sock:
        try:
            messages.send(sock, SERVER, [bytes(LARGEST + 1)])
        except OSError as error:
            if error.errno != errno.EMSGSIZE:
                raise
        else:
            raise AssertionError("a message of more than 1 MiB was sent")
        put(sock, 4097, port, datafile.sent(4097, port))


def one_page(port):
    """A page of a file, a request in itself, by sendfile: one message, where RDS takes it at all."""
    size = datafile.PAGE - HEADER.size
    with open(FILE, "wb") as file:
        file.write(HEADER.pack(b"put ", port, size) + datafile.sent(size, port))
    with endpoint(port) as sock, open(FILE, "rb") as file:
        sock.connect(SERVER)
        if os.sendfile(sock.fileno(), file.fileno(), 0, datafile.PAGE) != datafile.PAGE:
            raise AssertionError("sendfile took less than a page")
        summed(sock, datafile.content(size, port))
    return "whole"


def main():
    ktap.plan(9)
    ktap.check("messages of all sizes to the server", there, 5000, 0)
    ktap.check("messages of all sizes from odd addresses", there, 5020, 1235)
    ktap.check("messages of all sizes from the server", back, 5040)
    for name, function, port in (("to", stream_there, 5060), ("from", stream_back, 5080)):
        title = f"{LONG >> 20} MiB {name} the server in messages of {CHUNK} bytes"
        seconds = ktap.check(title, function, port, LONG)
        if seconds:
            ktap.metric(f"rds_{name}_server", LONG / (1 << 20) / seconds, "MiB/s", "higher")
    ktap.check("eight sockets", many_ports, 5100)
    ktap.check("zero-copy messages of all sizes", zero_copy, 5120)
    ktap.check("a message of more than 1 MiB is EMSGSIZE", too_long, 5140)
    # RDS refuses the flag MSG_SPLICE_PAGES as any that it does not know.
    outcome.record("a page by sendfile", one_page, 5180)


main()
