"""What both ends of the TCP scenarios speak (`exchange`), and more ways to send than one call."""

import errno
import os
import select
import socket
import struct

import datafile
import exchange
from atonce import at_once

PORT = 7000
DEADLINE_S = 60 * float(os.environ.get("LAB_SCALE", "1"))


def listen():
    """A listening socket for IPv6 and IPv4, in the network namespace of the calling thread."""
    listener = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    return exchange.listen("::", PORT, listener)


def serve(listener, others=None):
    """Answer requests from two threads, so that two can be under way; `others`: more verbs, name -> f(sock, request)."""

    def answer(sock):
        request = exchange.line(sock)
        if other := (others or {}).get(request.split()[0]):
            other(sock, request)
        else:
            exchange.answer(sock, request, SENDERS)

    exchange.serve(listener, answer, DEADLINE_S, threads=2)


def put(address, size, offset, seed, sender, receiver):
    """Send to the other end, which must get what is right; returns seconds of sending."""
    with connect(address) as sock:
        return exchange.put(sock, size, offset, seed, sender, receiver, SENDERS)[0]


def get(address, size, offset, seed, sender, receiver):
    """Receive from the other end and compare; returns the seconds of receiving."""
    with connect(address) as sock:
        return exchange.get(sock, size, offset, seed, sender, receiver)


def connect(address):
    """A connection to the other end, for one request."""
    sock = socket.create_connection((address, PORT), DEADLINE_S)
    sock.settimeout(None)
    return datafile.patient(sock, DEADLINE_S)


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
        how = 0, 512, socket.MSG_ERRQUEUE | socket.MSG_DONTWAIT
        _, notes, _, _ = at_once("recvmsg with MSG_DONTWAIT", self._sock.recvmsg, *how)
        for _, _, note in notes:
            number, origin, _, _, first, last = self._NOTE.unpack_from(note)
            acknowledged = set(range(first, last + 1))
            if number or origin != self._ORIGIN_ZEROCOPY or not acknowledged <= self._open:
                raise AssertionError(f"a note about sends {first} to {last}, error {number}, origin {origin}")
            self._open -= acknowledged


SENDERS = {"small splices": _small, "MSG_ZEROCOPY and splice": _mixed}
"""More ways to send than `datafile.send` has."""
