"""How records are sent, step by step, as one word that the client asks for and the server does.

Steps stand behind each other with commas between. A step is a name, or a name and a number of bytes; a `+` behind it says
that more is to come (MSG_MORE, SPLICE_F_MORE):
- write:N, sendfile:N, splice:N: the next N bytes of the data, by one call;
- eof:N: sendfile that asks for more, of a file that ends after N bytes;
- pieces:K*N: K pieces of N bytes, from as many buffers of one pipe;
- kind: a record of another type; count: one that says how many bytes TCP had been given before it;
- cork, uncork: TCP_CORK; shutdown: the end of the stream; close: the same at once, and nobody waits.
"""

import os
import re
import socket
from typing import NamedTuple

import datafile
import records
import splicecalls
import tcpinfo

_STEP = re.compile(r"([a-z]+)(?::(?:(\d+)\*)?(\d+)(\+?))?")
_BEYOND = 1 << 20
_PIPE_BYTES = 1 << 20
ENDS = ("shutdown", "close")
OTHER = b"not data"
COUNTED = b"TCP has "


class Step(NamedTuple):
    """One step: `pieces` of `size` bytes each."""

    name: str
    pieces: int
    size: int
    more: bool

    @property
    def total(self):
        """How many bytes of the data it sends."""
        return self.pieces * self.size


def parse(text):
    """The steps that a word says."""
    found = []
    for part in text.split(","):
        name, pieces, size, more = _STEP.fullmatch(part).groups()
        found.append(Step(name, int(pieces or 1), int(size or 0), bool(more)))
    return found


def take(sock, path, steps):
    """Do the steps with a file's data; returns whether the other end has to say when it has all."""
    at = 0
    with open(path, "rb", buffering=0) as file:
        for step in steps:
            if step.name == "close":
                return False
            _STEPS[step.name](sock, file, at, step)
            at += step.total
    return True


def _write(sock, file, at, step):
    sock.sendall(os.pread(file.fileno(), step.size, at), socket.MSG_MORE if step.more else 0)


def _sendfile(sock, file, at, step):
    _sent(step, splicecalls.sendfile(sock.fileno(), file.fileno(), at, step.size))


def _eof(sock, file, at, step):
    part = f"{file.name}-part"
    try:
        with open(part, "w+b", buffering=0) as short:
            short.write(os.pread(file.fileno(), step.size, at))
            _sent(step, splicecalls.sendfile(sock.fileno(), short.fileno(), 0, step.size + _BEYOND))
    finally:
        os.unlink(part)


def _sent(step, done):
    if done != step.size:
        raise AssertionError(f"sendfile took {done} bytes of {step.size}")


def _pieces(sock, file, at, step):
    with splicecalls.Pipe(_PIPE_BYTES) as pipe:
        for number in range(step.pieces):
            filled, start = 0, at + number * step.size
            while filled < step.size:
                left = step.size - filled
                filled += splicecalls.splice(file.fileno(), pipe.writer, left, offset=start + filled)
        pipe.drain(sock, step.total, splicecalls.MORE if step.more else 0)


def _kind(sock, *_):
    records.send_kind(sock, OTHER, records.HANDSHAKE)


def _count(sock, *_):
    records.send_kind(sock, b"%s%d" % (COUNTED, tcpinfo.counts(sock).queued), records.HANDSHAKE)


def _cork(sock, _file, _at, step):
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, step.name == "cork")


def _shutdown(sock, *_):
    sock.shutdown(socket.SHUT_WR)


_STEPS = {
    "write": _write,
    "sendfile": _sendfile,
    "eof": _eof,
    "splice": _pieces,
    "pieces": _pieces,
    "kind": _kind,
    "count": _count,
    "cork": _cork,
    "uncork": _cork,
    "shutdown": _shutdown,
}
