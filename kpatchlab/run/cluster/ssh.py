"""A worker on a host that is reached by SSH; it ends with its connection, and leaves nothing but its cache."""

from __future__ import annotations

import collections
import secrets
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from kpatchlab.cache import Cache
from kpatchlab.hosts.bringup import bring_up
from kpatchlab.hosts.ssh import Connection, Remote
from kpatchlab.lab.hosts import HostEntry
from kpatchlab.run.cluster.certificates import Identity
from kpatchlab.run.cluster.launch import Launched
from kpatchlab.run.cluster.worker import MODULE

GRACE_S = 12.0
"""Seconds that a worker gets to end its guests."""
WORDS = 5
"""Lines of a worker's that are kept for when it ends."""


@dataclass(slots=True)
class Ssh:
    """A host by SSH.

    Args:
        lab_cache: keeps what every host gets.
    """

    name: str
    entry: HostEntry
    lab_cache: Cache
    cache: str = ""
    cpus: int = 0
    memory_mib: int = 0
    share: str = ""
    shares: bool = field(default=False, init=False)
    _open: Connection | None = field(default=None, init=False)

    def face(self) -> str:
        """See `Launcher.face`."""
        return self._connection().near_address

    def _connection(self) -> Connection:
        if self._open is None or not self._open.alive:
            self._open = Connection.open(self.entry, self.name)
        return self._open

    def start(self, scheduler: str, identity: Identity) -> Launched:
        """See `Launcher.start`; the lab is copied there where it is not there yet."""
        connection = self._connection()
        there = bring_up(connection, self.entry, self.lab_cache)
        secret = f"{there.cache}/tls/{secrets.token_hex(8)}"
        with tempfile.TemporaryDirectory(prefix="kpatchlab-tls-") as folder:
            identity.write(Path(folder))
            connection.put_tree(Path(folder), secret)
        words = [there.python, "-m", MODULE, "--scheduler", scheduler, "--name", self.name, "--tls", secret, "--once"]
        said: collections.deque[str] = collections.deque(maxlen=WORDS)
        remote = connection.start(words, env=there.env, on_line=said.append, grace_s=GRACE_S)
        return _Far(connection, remote, said)


class _Far:
    """A worker on another host."""

    def __init__(self, connection: Connection, remote: Remote, said: collections.deque[str]) -> None:
        self._connection, self._remote, self._said = connection, remote, said

    def ended(self) -> str | None:
        """See `Launched.ended`."""
        if self._remote.running:
            return None
        if not self._connection.alive:
            return "the connection to it is lost"
        last = self._said[-1] if self._said else "no word"
        return f"its worker ended with status {self._remote.wait(0)}: {last[:300]}"

    def stop(self) -> None:
        """See `Launched.stop`."""
        self._remote.stop()
        self._connection.close()
