"""What a controller opens towards its hosts: certificates, a server of artifacts, a mailbox, and a keeper for each."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from kpatchlab.cache import Cache
from kpatchlab.errors import HostError, LabError, told
from kpatchlab.run.cluster.artifacts import Shelf
from kpatchlab.run.cluster.certificates import CONTROLLER, Authority, Identity
from kpatchlab.run.cluster.launch import Keeper, Launcher
from kpatchlab.run.cluster.mailbox import Mailbox
from kpatchlab.run.cluster.place import Ask

ANY = "0.0.0.0"  # noqa: S104 - hosts on several networks; nothing is told or taken without a certificate of the run
GONE_S = 45.0
"""Seconds without a sign of life until the workers of a cluster that stands end their jobs."""


@dataclass(frozen=True, slots=True)
class Standing:
    """A Dask cluster that stands: its scheduler's URL, and what the lab shows there."""

    url: str
    identity: Identity

    def face(self) -> str:
        """Return the address of this host that the cluster reaches.

        Raises:
            HostError: nothing listens there.
        """
        place = urlsplit(self.url)
        try:
            with socket.create_connection((place.hostname or "", place.port or 0), timeout=20) as tried:
                return str(tried.getsockname()[0])
        except OSError as error:
            raise HostError(f"no scheduler answers at {self.url}: {error.strerror or error}") from None


class Hub:
    """All of it, open until `close`.

    Args:
        cache: the lab's own, which the hosts fetch from.
        common: what is wanted of every host.
        tell: takes a line for people.
        standing: a cluster that stands, in the place of a scheduler of our own.

    Attributes:
        keepers: of each host that is started from here, by name.

    Raises:
        HostError: no host can be reached.
    """

    def __init__(
        self,
        cache: Cache,
        launchers: Sequence[Launcher],
        common: Ask,
        tell: Callable[[str], None],
        standing: Standing | None = None,
    ) -> None:
        authority, faces = Authority(), {"": standing.face()} if standing else faces_of(launchers, tell)
        first = next(iter(faces.values()))
        address = first if len(set(faces.values())) == 1 else ANY
        own = authority.issue(CONTROLLER)
        self.shelf = Shelf(cache, own.context(server=True), address)
        try:
            shown, where = (standing.identity, standing.url) if standing else (own, address)
            self.mail = Mailbox(shown, where, standing=standing is not None)
        except BaseException:
            self.shelf.close()
            raise
        self._asks: dict[str, Ask] = {}
        self.keepers: dict[str, Keeper] = {}
        for number, launcher in enumerate(launchers):
            face, identity = faces.get(launcher.name, first), authority.issue(f"worker-{number}.kpatchlab")
            ask = replace(common, cpus=launcher.cpus, memory_mib=launcher.memory_mib)
            if launcher.shares:
                ask = replace(ask, cache=str(cache.root))
            else:
                url = f"https://{face}:{self.shelf.port}"
                ask = replace(ask, cache=launcher.cache, share=launcher.share, url=url, identity=identity)
            self._asks[launcher.name] = ask
            self.keepers[launcher.name] = Keeper(launcher, f"tls://{face}:{self.mail.port}", identity, tell)
        other, url = authority.issue("worker.kpatchlab"), f"https://{first}:{self.shelf.port}"
        self._other = replace(common, url=url, identity=other, gone_s=GONE_S if standing else 0.0)

    def ask_of(self, name: str) -> Ask:
        """Return what is wanted of a host, also of one that others started."""
        return self._asks.get(name, self._other)

    def close(self) -> None:
        """End the workers that were started from here, and what is open."""
        for keeper in self.keepers.values():
            keeper.stop()
        for keeper in self.keepers.values():
            keeper.join()
        self.mail.close()
        self.shelf.close()


def faces_of(launchers: Sequence[Launcher], tell: Callable[[str], None]) -> dict[str, str]:
    """Return the address of this host that each other one reaches, of those that answer; all are asked at once.

    Raises:
        HostError: none answers.
    """
    faces, problems = dict[str, str](), list[LabError]()

    def look(launcher: Launcher) -> None:
        try:
            faces[launcher.name] = launcher.face()
        except LabError as error:
            problems.append(error)
            tell(f"host {launcher.name}: {told(error)}")

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(look, launchers))
    if not faces:
        raise HostError("no host can be reached", problems[0].hint if problems else "", tuple(map(told, problems)))
    return faces
