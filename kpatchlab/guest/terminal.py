"""The user's terminal, bridged to a command on a terminal in a guest."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import tty
from collections.abc import Iterator, Mapping, Sequence

from kpatchlab.guest import wire
from kpatchlab.guest.guest import ENVIRONMENT, Command, Guest

END_OF_INPUT = b"\4"
"""What a terminal takes for the end of its input (Ctrl-D)."""


def bridge(guest: Guest, argv: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: str = "/") -> int:
    """Give the user's terminal (this process's standard streams) to a command in the guest until it ends.

    Returns:
        Its status, or 128 and the number of the signal that ended it.

    Raises:
        GuestLost: as in `Guest.run`; the terminal is as it was before.
    """
    variables = {**ENVIRONMENT, "TERM": os.environ.get("TERM", "dumb"), **(env or {})}
    payload = wire.exec_payload(argv, variables, cwd, wire.EXEC_TTY, _window())
    sys.stdout.flush()
    command = Command(0, lambda _, data: _write_all(1, data))
    with _raw(0), guest.started(payload, command) as ident, _window_changes() as changed:
        reads = [0, changed]
        while not command.ended.is_set() and not command.listener_error:
            ready, _, _ = select.select(reads, [], [], 0.1)
            if changed in ready:
                os.read(changed, 4096)
                guest.send(b"W", ident, wire.window_payload(*_window()))
            if 0 in ready:
                data = os.read(0, 4096)
                if not data:
                    reads.remove(0)
                guest.send(b"I", ident, data or END_OF_INPUT)
        guest.check(command)
    status, number = command.how or (255, 0)
    return 128 + number if number else status


def _window() -> tuple[int, int]:
    """Return (rows, columns) of the user's terminal."""
    with contextlib.suppress(OSError):
        columns, rows = os.get_terminal_size(0)
        return rows, columns
    return 24, 80


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


@contextlib.contextmanager
def _raw(fd: int) -> Iterator[None]:
    """Hand each key on as it is; not where standard input is a pipe or a file."""
    if not os.isatty(fd):
        yield
        return
    before = termios.tcgetattr(fd)
    tty.setraw(fd)
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


@contextlib.contextmanager
def _window_changes() -> Iterator[int]:
    """Yield a file descriptor that becomes readable when the terminal's size changes."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    old = signal.signal(signal.SIGWINCH, lambda *_: os.write(write, b"x"))
    try:
        yield read
    finally:
        signal.signal(signal.SIGWINCH, old)
        os.close(read)
        os.close(write)
