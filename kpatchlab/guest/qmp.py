"""QEMU's machine protocol (QMP) on a socket: commands out, answers and events in."""

from __future__ import annotations

import itertools
import json
import socket
import threading
from concurrent.futures import Future
from typing import Any

from kpatchlab.errors import HostError
from kpatchlab.textclean import one_line

LINE_MAX = 1 << 20


class Qmp:
    """One connection. `feed` is called by whoever reads the socket; `send` by anybody.

    Commands are sent without waiting for the greeting: QEMU takes them in order, qmp_capabilities first.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._buffer = bytearray()
        self._numbers = itertools.count(1)
        self._waiting: dict[int, Future[Any]] = {}
        self._lock = threading.Lock()
        self.send("qmp_capabilities")

    def send(self, command: str, fd: int | None = None, **arguments: Any) -> Future[Any]:
        """Send a command, with a file descriptor beside it if given; the future takes what it returns.

        The future raises HostError where QEMU refuses the command or has gone.
        """
        future: Future[Any] = Future()
        with self._lock:
            ident = next(self._numbers)
            self._waiting[ident] = future
            named = {name.replace("_", "-"): value for name, value in arguments.items()}
            line = json.dumps({"execute": command, "arguments": named, "id": ident}).encode() + b"\n"
            try:
                if fd is None:
                    self._socket.sendall(line)
                else:
                    socket.send_fds(self._socket, [line], [fd])
            except OSError as error:
                del self._waiting[ident]
                future.set_exception(HostError(f"QEMU does not take {command}: {error.strerror}"))
        return future

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """Take bytes from the socket; return the events in them. What is not JSON is passed over."""
        *lines, rest = data.split(b"\n")
        if lines:
            lines[0] = bytes(self._buffer) + lines[0]
            self._buffer.clear()
        self._buffer += rest
        del self._buffer[:-LINE_MAX]
        events = []
        for line in lines:
            try:
                message = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(message, dict) and "event" in message:
                events.append(message)
            elif isinstance(message, dict) and isinstance(message.get("id"), int):
                self._settle(message)
        return events

    def _settle(self, message: dict[str, Any]) -> None:
        with self._lock:
            future = self._waiting.pop(message["id"], None)
        if future is None:
            return  # an answer to nothing that was asked
        if "error" in message:
            error = message["error"]
            what = one_line(str(error.get("desc", "no reason given") if isinstance(error, dict) else error))
            future.set_exception(HostError(f"QEMU refuses: {what}"))
        else:
            future.set_result(message.get("return"))

    def close(self, error: BaseException) -> None:
        """Fail everything that still waits for an answer."""
        with self._lock:
            waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            future.set_exception(error)
