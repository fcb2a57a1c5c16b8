"""A TCP relay on loopback that harms what goes through: cuts, garbles or holds it, at an offset or when it is told."""

from __future__ import annotations

import contextlib
import socket
import threading


class Relay:
    """Passes connections on to a port; `stall` keeps them and passes nothing on any more.

    Args:
        address: of the port; this host by default.
        cut_after: a connection ends after so many bytes of the answer.
        garble_at: one byte of the answer at this offset is another one, in the first `garble` connections.
        stall_at: nothing more comes after so many bytes of the answer.

    Attributes:
        connections: how many there were.
    """

    def __init__(self, port, address="127.0.0.1", *, cut_after=0, garble_at=0, garble=0, stall_at=0):
        self._to = (address, port)
        self._cut, self._garble_at, self._garble, self._stall = cut_after, garble_at, garble, stall_at
        self._flows = threading.Event()
        self._flows.set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.connections = 0
        self._sockets, self._over = [], False
        threading.Thread(target=self._serve, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._over = True
        self._flows.set()
        self._listener.close()
        self.cut()

    def stall(self, *, on=True):
        """Stop passing on, or go on."""
        if on:
            self._flows.clear()
        else:
            self._flows.set()

    def cut(self):
        """End every connection that is open now."""
        for one in self._sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        self._sockets = []

    def _serve(self):
        with contextlib.suppress(OSError):
            while not self._over:
                near, _ = self._listener.accept()
                self.connections += 1
                try:
                    far = socket.create_connection(self._to, timeout=10)
                except OSError:
                    near.close()
                    continue
                far.settimeout(None)
                self._sockets += [near, far]
                harmed = self.connections <= self._garble
                threading.Thread(target=self._pass, args=(near, far, False, False), daemon=True).start()
                threading.Thread(target=self._pass, args=(far, near, True, harmed), daemon=True).start()

    def _pass(self, source, target, answer, garbled):
        passed = 0
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if garbled and passed <= self._garble_at < passed + len(data):
                    at = self._garble_at - passed
                    data = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
                passed += len(data)
                if answer and self._stall and passed > self._stall:
                    continue
                self._flows.wait()
                target.sendall(data)
                if answer and self._cut and passed > self._cut:
                    break
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
