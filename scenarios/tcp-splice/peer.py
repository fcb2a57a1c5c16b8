"""What both ends of the TCP scenario speak: a request of one line, then the data, then (one way) its sum.

A request is "put SIZE OFFSET SEED HOW" (the client sends, the other end receives HOW and answers with the
length and SHA-256 of what came) or "get SIZE OFFSET SEED HOW" (the other end answers "ready", then sends HOW).
"""

import errno
import os
import select
import socket
import struct
import sys
import threading
import time

sys.path.insert(0, os.environ.get("LAB_LIB", "/lab/lib"))
import datafile

PORT = 7000
DEADLINE_S = 60 * float(os.environ.get("LAB_SCALE", "1"))
_FOLDER = os.environ.get("LAB_TMP", "/tmp")


def listen():
    """A listening socket for IPv6 and IPv4, in the network namespace of the calling thread."""
    listener = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    listener.bind(("::", PORT))
    listener.listen(16)
    return listener


def serve(listener):
    """Answer requests from two threads, so that two can be under way."""
    for _ in range(2):
        threading.Thread(target=_serve, args=(listener,), daemon=True).start()


def _serve(listener):
    while True:
        sock, _ = listener.accept()
        # An error ends this connection; the client's check sees that and says so.
        with datafile.patient(sock, DEADLINE_S):
            try:
                _answer(sock)
            except (OSError, AssertionError) as error:
                os.write(2, f"request failed: {error}\n".encode())


def _answer(sock):
    verb, size, offset, seed, how = _line(sock).split(maxsplit=4)
    how = how.removesuffix("\n")
    if verb == "get":
        _send(sock, int(size), int(offset), int(seed), how, first=b"ready\n")
    else:
        got = datafile.receive(sock, int(size), how)
        sock.sendall(f"{len(got)} {datafile.digest(got)}\n".encode())


def put(address, size, offset, seed, sender, receiver):
    """Send to the other end, hold the sum that it answers with against the right one; returns seconds of sending."""
    with _connect(address) as sock:
        sock.sendall(f"put {size} {offset} {seed} {receiver}\n".encode())
        seconds = _send(sock, size, offset, seed, sender)
        length, sum_there = _line(sock).split()
    right = datafile.digest(_expected(size, offset, seed))
    if sum_there != right:
        raise AssertionError(f"{size} bytes: the other end got {length} bytes with sum {sum_there}, not {right}")
    return seconds


def get(address, size, offset, seed, sender, receiver):
    """Receive from the other end and compare; returns the seconds of receiving."""
    with _connect(address) as sock:
        sock.sendall(f"get {size} {offset} {seed} {sender}\n".encode())
        _line(sock)
        began = time.monotonic()
        got = datafile.receive(sock, size, receiver)
        seconds = time.monotonic() - began
    try:
        datafile.same(got, _expected(size, offset, seed))
    except AssertionError as error:
        raise AssertionError(f"{size} bytes: {error}") from None
    return seconds


def _connect(address):
    sock = socket.create_connection((address, PORT), DEADLINE_S)
    sock.settimeout(None)
    return datafile.patient(sock, DEADLINE_S)


def _expected(size, offset, seed):
    return memoryview(datafile.content(offset + size, seed))[offset:]


def _send(sock, size, offset, seed, how, first=b""):
    path = os.path.join(_FOLDER, f"tcp-{sock.fileno()}-{os.getpid()}")
    datafile.make(path, offset + size, seed)
    try:
        sock.sendall(first)
        began = time.monotonic()
        if how in SENDERS:
            SENDERS[how](sock, path, offset, size)
        else:
            datafile.send(sock, path, offset, size, how)
        return time.monotonic() - began
    finally:
        os.unlink(path)


def _small(sock, path, offset, count):
    """Splice 1 to 100 bytes at a time, with SPLICE_F_MORE two times out of three."""
    reader, writer = os.pipe()
    try:
        with open(path, "rb", buffering=0) as file:
            turn = 0
            while count:
                turn += 1
                size = min(count, 1 + turn * 37 % 100)
                if os.splice(file.fileno(), writer, size, offset_src=offset) != size:
                    raise AssertionError(f"a pipe does not take {size} bytes")
                offset, count = offset + size, count - size
                _drain(reader, sock, size, more=count and turn % 3)
    finally:
        os.close(reader)
        os.close(writer)


def _drain(reader, sock, size, *, more):
    while size:
        size -= os.splice(reader, sock.fileno(), size, flags=os.SPLICE_F_MORE if more else 0)


PARTS = (("zerocopy", 20000), ("splice", 9000), ("write", 5), ("sendfile", 4097), ("zerocopy", 1), ("splice", 300))


def _mixed(sock, path, offset, count):
    """MSG_ZEROCOPY, splice, sendfile and write take turns on one connection; each MSG_ZEROCOPY must be acknowledged."""
    zerocopy = _ZeroCopy(sock)
    turn = 0
    while count:
        how, size = PARTS[turn % len(PARTS)]
        size = min(size, count)
        if how == "zerocopy":
            with open(path, "rb", buffering=0) as file:
                zerocopy.send(os.pread(file.fileno(), size, offset))
        else:
            datafile.send(sock, path, offset, size, how)
        offset, count, turn = offset + size, count - size, turn + 1
    zerocopy.finish()


class _ZeroCopy:
    """Sends with MSG_ZEROCOPY, and the notes that the kernel puts into the error queue when it is done with them."""

    _SO_ZEROCOPY = 60
    _MSG_ZEROCOPY = 0x4000000
    _ORIGIN_ZEROCOPY = 5
    _NOTE = struct.Struct("=IBBBxII")  # struct sock_extended_err

    def __init__(self, sock):
        sock.setsockopt(socket.SOL_SOCKET, self._SO_ZEROCOPY, 1)
        self._sock = sock
        self._held = []  # the kernel reads these until it says that it is done
        self._next, self._open = 0, set()

    def send(self, data):
        self._held.append(data)
        view = memoryview(data)
        while view:
            try:
                done = self._sock.send(view, self._MSG_ZEROCOPY)
            except OSError as error:
                if error.errno != errno.ENOBUFS:  # too many notes are outstanding
                    raise
                self._take_notes()
            else:
                self._open.add(self._next)
                self._next += 1
                view = view[done:]

    def finish(self):
        """Wait until the kernel is done with everything, which it must say once for each send."""
        while self._open:
            self._take_notes()

    def _take_notes(self):
        poll = select.poll()
        poll.register(self._sock, 0)  # the error queue is always asked for
        if not poll.poll(1000 * DEADLINE_S):
            raise AssertionError(f"MSG_ZEROCOPY sends {sorted(self._open)[:5]}... were never acknowledged")
        _, notes, _, _ = self._sock.recvmsg(0, 512, socket.MSG_ERRQUEUE | socket.MSG_DONTWAIT)
        for _, _, note in notes:
            number, origin, _, _, first, last = self._NOTE.unpack_from(note)
            acknowledged = set(range(first, last + 1))
            if number or origin != self._ORIGIN_ZEROCOPY or not acknowledged <= self._open:
                raise AssertionError(f"a note about sends {first} to {last}, error {number}, origin {origin}")
            self._open -= acknowledged


SENDERS = {"small splices": _small, "MSG_ZEROCOPY and splice": _mixed}
"""More ways to send than `datafile.send` has."""


def _line(sock):
    """One line, read byte by byte: what follows it must stay in the socket for splice."""
    line = bytearray()
    while not line.endswith(b"\n"):
        byte = sock.recv(1)
        if not byte:
            raise AssertionError("the other end closed the connection instead of answering")
        line += byte
    return line.decode()
