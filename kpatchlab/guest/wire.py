"""The frames between the lab and its agent (agent.c), without any input or output.

A frame: magic 0xA5, type (one letter), two zero bytes, id and length of the payload (32 bits each), payload; all
little endian. The id is the command's; many run at once.

    lab -> agent    X  start a command: `exec_payload`
                    I  next piece of its standard input; empty: its end
                    K  signal number: to it, its session and all that descends from it
                    W  rows, columns of its terminal
                    P  asks for a sign of life
    agent -> lab    H  protocol version and kernel release, once, when the agent is up
                    O, E  a piece of standard output, standard error
                    D  it ended: 0 and its status, or 1 and the signal's number
                    P  the same, in answer to P
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence

MAGIC = 0xA5
PROTOCOL_VERSION = 1
FRAME_MAX = 1 << 20
"""What the agent takes in one frame."""
PIECE = 1 << 16
"""Standard input goes in pieces of this."""
EXEC_TTY = 1
EXEC_BUILTIN = 2

_HEADER = struct.Struct("<BcHII")


class ProtocolError(Exception):
    """The other side does not speak this protocol."""


def frame(kind: bytes, ident: int, payload: bytes = b"") -> bytes:
    """Return one frame."""
    if len(payload) > FRAME_MAX:
        raise ValueError(f"a frame of {len(payload)} bytes: the arguments and variables of a command are too long")
    return _HEADER.pack(MAGIC, kind, 0, ident, len(payload)) + payload


def exec_payload(
    argv: Sequence[str], env: Mapping[str, str], cwd: str, flags: int = 0, window: tuple[int, int] = (24, 80)
) -> bytes:
    """Return the payload of X; `window` is (rows, columns) for a terminal.

    Raises:
        ValueError: a string holds a NUL, or there is no argument.
    """
    if not argv:
        raise ValueError("a command without arguments")
    strings = [cwd, *argv, *(f"{name}={value}" for name, value in env.items())]
    if any("\0" in text for text in strings):
        raise ValueError("a NUL in an argument, a variable or the folder of a command")
    head = struct.pack("<IHHII", flags, *window, len(argv), len(env))
    return head + b"".join(text.encode("utf-8", "surrogateescape") + b"\0" for text in strings)


def put_payload(files: Sequence[tuple[str, bytes, int]]) -> Iterator[bytes]:
    """Yield the standard input of the builtin `put` for (path, bytes, mode) each, in pieces."""
    for path, data, mode in files:
        if "\0" in path or not path.startswith("/"):
            raise ValueError(f"not an absolute path: {path!r}")
        yield b"%o %d %s\0" % (mode, len(data), path.encode("utf-8", "surrogateescape"))
        yield data


def window_payload(rows: int, columns: int) -> bytes:
    """Return the payload of W."""
    return struct.pack("<HH", rows, columns)


def signal_payload(number: int) -> bytes:
    """Return the payload of K."""
    return struct.pack("<I", number)


def read_done(payload: bytes) -> tuple[int, int]:
    """Return (status, signal) of a D: status is -1 where a signal ended the command."""
    if len(payload) != 5 or payload[0] > 1:
        raise ProtocolError("malformed end of a command")
    number: int = struct.unpack("<I", payload[1:])[0]
    return (-1, number) if payload[0] else (number, 0)


class Reader:
    """Cuts a stream of bytes into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[bytes, int, bytes]]:
        """Take the next bytes; yield (type, id, payload) of each frame that is whole.

        Raises:
            ProtocolError: this is not a frame, or one longer than any that the agent sends.
        """
        self._buffer += data
        at = 0
        try:
            while len(self._buffer) - at >= _HEADER.size:
                magic, kind, zero, ident, size = _HEADER.unpack_from(self._buffer, at)
                if magic != MAGIC or zero or size > FRAME_MAX:
                    raise ProtocolError(f"not a frame: {bytes(self._buffer[at : at + 16]).hex()}")
                if len(self._buffer) - at < _HEADER.size + size:
                    break
                yield kind, ident, bytes(self._buffer[at + _HEADER.size : at + _HEADER.size + size])
                at += _HEADER.size + size
        finally:
            del self._buffer[:at]
