"""How the workers of hosts are started, and started again where they end before the run does."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from kpatchlab import proc
from kpatchlab.errors import LabError, told
from kpatchlab.run import process
from kpatchlab.run.cluster.certificates import Identity
from kpatchlab.run.cluster.worker import MODULE

LOOK_S = 0.5
AGAIN_S, AGAIN_MOST_S = 5.0, 60.0
"""Seconds before a worker that ended is started again: at first, and at most, twice as long each time."""


class Launched(Protocol):
    """A worker that was started."""

    def ended(self) -> str | None:
        """Return None while it runs, then its last words."""

    def stop(self) -> None:
        """End it, and what it started; nothing is left behind."""


class Launcher(Protocol):
    """What starts the worker of one host.

    Attributes:
        name: the host's.
        cache: the folder for artifacts there; "": the default one.
        shares: the host has the lab's own cache, and fetches nothing.
        share: the folder there in which the lab's cache is mounted for reading; "": in none.
        cpus, memory_mib: at most so much is taken there; 0: as there is.
    """

    name: str
    cache: str
    shares: bool
    share: str
    cpus: int
    memory_mib: int

    def face(self) -> str:
        """Return the address of this host that the other one reaches.

        Raises:
            HostError: there is no way to it.
        """

    def start(self, scheduler: str, identity: Identity) -> Launched:
        """Start its worker.

        Raises:
            LabError: it cannot be had.
        """


@dataclass(slots=True)
class Here:
    """A worker on this host, as a process of its own.

    Args:
        cache: a folder of its own for artifacts; "": the lab's own cache, and nothing is fetched.
    """

    name: str = "local"
    cache: str = ""
    cpus: int = 0
    memory_mib: int = 0
    shares: bool = field(init=False)
    share: str = field(default="", init=False)

    def __post_init__(self) -> None:
        self.shares = not self.cache

    def face(self) -> str:
        """See `Launcher.face`."""
        return "127.0.0.1"

    def start(self, scheduler: str, identity: Identity) -> Launched:
        """See `Launcher.start`."""
        return _Child(self.name, scheduler, identity)


class _Child:
    """A worker that is a child of this process."""

    def __init__(self, name: str, scheduler: str, identity: Identity) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="kpatchlab-host-")
        home = Path(self._folder.name)
        identity.write(home)
        self._log = home / "log"
        words = [sys.executable, "-m", MODULE, "--scheduler", scheduler, "--name", name, "--tls", str(home)]
        with self._log.open("wb") as log:
            self._child: subprocess.Popen[bytes] = proc.spawn(words, env=process.environment(), cwd=home, stderr=log)

    def ended(self) -> str | None:
        """See `Launched.ended`."""
        if self._child.poll() is None:
            return None
        said = self._log.read_text(errors="replace").strip().splitlines() or ["no word"]
        return f"it ended with status {self._child.returncode}: {said[-1][:300]}"

    def stop(self) -> None:
        """See `Launched.stop`."""
        proc.stop(self._child, grace_s=12.0)
        self._folder.cleanup()


class Keeper:
    """Has a host's worker run until the run ends, in a thread.

    Args:
        tell: takes a line for people, each once.

    Attributes:
        coming: it is being started for the first time.
        refused: why it is not to be started again; "" while it is.
    """

    def __init__(self, launcher: Launcher, scheduler: str, identity: Identity, tell: Callable[[str], None]) -> None:
        self.launcher, self._scheduler, self._identity, self._tell = launcher, scheduler, identity, tell
        self.coming, self.refused = True, ""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep, name=f"host {launcher.name}", daemon=True)
        self._thread.start()

    def refuse(self, why: str) -> None:
        """Start it no more."""
        self.refused = why
        self._over.set()

    def stop(self) -> None:
        """Begin to end it."""
        self._over.set()

    def join(self) -> None:
        """Wait until it has ended."""
        self._thread.join()

    def _keep(self) -> None:
        again_s = AGAIN_S
        while not self._over.is_set():
            try:
                launched = self.launcher.start(self._scheduler, self._identity)
            except (LabError, OSError) as error:
                why = told(error)
            else:
                self.coming = False
                try:
                    while (ended := launched.ended()) is None and not self._over.wait(LOOK_S):
                        pass
                finally:
                    launched.stop()
                if ended is None:
                    return
                why = ended
            self.coming = False
            if not self._over.is_set():
                self._tell(f"host {self.launcher.name}: {why}; it is started again")
            self._over.wait(again_s)
            again_s = min(again_s * 2, AGAIN_MOST_S)
