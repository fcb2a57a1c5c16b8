"""What runs on a host of the cluster: a Dask worker's plugin with the host's own cache, and the jobs that it plays.

The controller introduces itself to each worker that it sees (`introduce`), and gets to know the host; from then on it
submits `play`. What it needs beyond a worker of Dask's is here, so that a cluster that stands can be used as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import io
import json
import os
import platform
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path

from distributed import Worker, WorkerPlugin, get_worker

import kpatchlab
from kpatchlab.cache import TRAVELS, Cache, Upstream
from kpatchlab.errors import HostError
from kpatchlab.files import refuses
from kpatchlab.host.host import Host
from kpatchlab.jsonable import from_json, to_json
from kpatchlab.model import JobResult, Outcome
from kpatchlab.run import worker
from kpatchlab.run.cluster.artifacts import Https, Shared, Unreachable
from kpatchlab.run.cluster.certificates import Identity
from kpatchlab.run.executor import Weight, infra, room_here
from kpatchlab.run.inputs import Here
from kpatchlab.run.job import run_job
from kpatchlab.run.task import JobTask

SPENT = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ENOMEM, errno.EMFILE, errno.ENFILE})
"""What a host says that is full, out of memory or broken."""
IDLE, STARTED = "idle", "started"


class Unfit(Exception):
    """This host cannot run a job that another one can: no space left, or no artifacts to be had."""


@dataclass(frozen=True, slots=True)
class Ask:
    """What the controller says of itself, and wants of a host.

    Attributes:
        topic: under which a worker says that a job started or idles.
        url, identity: where artifacts come from, and what is shown there; "" and None: `cache` has all.
        cache: the host's own; "": the default one.
        share: the folder there in which the controller's cache is mounted for reading; "": in none.
        guests: at most so many at once; None: as there is room for.
        cpus, memory_mib: at most so much is taken; 0: as there is.
        qemu, mirror: as in lab.yaml.
        gone_s: jobs end where the controller says nothing for so many seconds; 0: the worker ends with it anyway.
        disk_gib: size that the cache is kept within.
    """

    topic: str
    url: str = ""
    identity: Identity | None = None
    cache: str = ""
    share: str = ""
    guests: int | None = None
    cpus: int = 0
    memory_mib: int = 0
    qemu: str = "auto"
    mirror: str = ""
    gone_s: float = 0.0
    disk_gib: float = 20.0


@dataclass(frozen=True, slots=True)
class Facts:
    """What a host says of itself.

    Attributes:
        version: of the lab there, see `version_of`.
        dask: version of Dask's part.
        room: what it has for jobs.
        artifacts: kind -> keys that it has.
        refuses: why nothing can be written there; "" where it can.
        notes: what its user should know, a line each.
        clock: Unix time in seconds.
    """

    version: str
    dask: str
    python: str
    arch: str
    room: Weight
    artifacts: dict[str, tuple[str, ...]] = field(default_factory=dict)
    refuses: str = ""
    notes: tuple[str, ...] = ()
    clock: float = 0.0


def version_of(package: Path) -> str:
    """Return what tells one version of the lab's code from another: a hash of its modules."""
    whole = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        whole.update(f"{path.relative_to(package)}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return whole.hexdigest()


class Place(WorkerPlugin):
    """A host's own cache, and its jobs as they run."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        root = Path(ask.cache).expanduser() if ask.cache else None
        upstream: Upstream | None = Https(ask.url, ask.identity.context(server=False)) if ask.identity else None
        if upstream and ask.share:
            upstream = Shared(Path(ask.share), upstream)
        self._cache = Cache(root, upstream)
        self._host = Host(self._cache, ask.mirror, ask.qemu)
        self._began = time.time()
        self._heard = time.monotonic()
        self._over = threading.Event()
        self.jobs: dict[str, threading.Event] = {}

    def setup(self, worker: Worker) -> None:
        """Belong to a worker."""
        self._worker = worker
        if self._ask.gone_s:
            threading.Thread(target=self._mind, name="controller", daemon=True).start()

    def teardown(self, worker: Worker) -> None:  # noqa: ARG002
        """End all jobs: the controller is gone, or has given this host up."""
        self._over.set()
        self.stop(list(self.jobs))

    def _mind(self) -> None:
        """End all jobs where the controller is gone and the worker is not."""
        while not self._over.wait(1.0):
            if time.monotonic() - self._heard > self._ask.gone_s:
                self.stop(list(self.jobs))

    def stop(self, keys: Sequence[str]) -> None:
        """End some jobs early."""
        if not keys:
            self._heard = time.monotonic()
        for key in keys:
            self.jobs.setdefault(key, threading.Event()).set()  # one that is only about to begin included

    def facts(self) -> Facts:
        """Look at the host."""
        here, ask = room_here(self._ask.guests), self._ask
        cpus, memory_mib = ask.cpus or here.cpus, ask.memory_mib or here.memory_mib
        room = Weight(here.guests, min(here.cpus, cpus), min(here.memory_mib, memory_mib))
        self._cache.root.mkdir(parents=True, exist_ok=True)
        artifacts: dict[str, list[str]] = {}
        for entry in self._cache.entries():
            if entry.kind in TRAVELS:
                artifacts.setdefault(entry.kind, []).append(entry.key)
        return Facts(
            version=version_of(Path(kpatchlab.__file__).parent),
            dask=version("distributed"),
            python=platform.python_version(),
            arch=platform.machine(),
            room=room,
            artifacts={kind: tuple(keys) for kind, keys in artifacts.items()},
            refuses=refuses(self._cache.root),
            notes=tuple(self._notes()),
            clock=time.time(),
        )

    def _notes(self) -> Iterator[str]:
        share = self._ask.share
        if share and not any(os.path.isdir(os.path.join(share, kind)) for kind in TRAVELS):
            yield f"no artifact of this lab is in {share}, its `share`: artifacts are sent to it"

    def play(self, key: str, data: bytes) -> bytes:
        """Run a job, and return its result and its files, packed.

        Raises:
            Unfit: it is this host that cannot.
        """
        cancel = self.jobs.setdefault(key, threading.Event())
        try:
            return self._played(key, JobTask.from_json(data), cancel)
        finally:
            self.jobs.pop(key, None)

    def _played(self, key: str, task: JobTask, cancel: threading.Event) -> bytes:
        folder = None
        try:
            folder = self._cache.scratch("job")
            with self._cache.using(folder):
                self._tell(STARTED, key, load=os.getloadavg()[0])
                result = self._result(task, Here(self._host, folder, cancel, partial(self._tell, IDLE, key)))
                stream = io.BytesIO()
                worker.pack(result, folder, stream)
                return stream.getvalue()
        except OSError as error:
            raise Unfit(f"{self._cache.root}: {error.strerror or error}") from None
        finally:
            if folder:
                shutil.rmtree(folder, ignore_errors=True)

    def _result(self, task: JobTask, here: Here) -> JobResult:
        try:
            result = run_job(task, here)
        except Unreachable as error:
            raise Unfit(str(error)) from None
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this one job's and the lab's, not a kernel's
            if isinstance(error, OSError) and error.errno in SPENT:
                raise Unfit(f"{self._cache.root}: {error.strerror}") from None
            result = infra(task.spec, error)
        if result.outcome is Outcome.INFRA and (why := refuses(self._cache.root)):
            raise Unfit(f"cannot write to {self._cache.root}: {why}")
        return result

    def _tell(self, what: str, key: str, **more: float) -> None:
        self._worker.log_event(self._ask.topic, {"is": what, "key": key, **more})

    def prune(self) -> None:
        """Keep the cache within its size; what this run used stays."""
        with contextlib.suppress(HostError, OSError):
            self._cache.keep_within(self._ask.disk_gib, self._began)


async def introduce(asked: bytes, dask_worker: Worker) -> bytes:
    """Make a Dask worker a place for jobs, once for each controller's topic; returns its `Facts` as JSON."""
    ask = from_json(Ask, json.loads(asked))
    place = _place(dask_worker, ask.topic)
    if place is None:
        place = await asyncio.to_thread(Place, ask)
        await dask_worker.plugin_add(place, name=ask.topic)
    facts = await asyncio.to_thread(place.facts)
    return json.dumps(to_json(facts)).encode()


async def stop(topic: str, keys: Sequence[str], dask_worker: Worker) -> None:
    """End some jobs of a worker early; none: only say that the controller is there."""
    if place := _place(dask_worker, topic):
        place.stop(keys)


async def leave(topic: str, dask_worker: Worker) -> None:
    """Take leave of a worker that may go on for others."""
    if place := _place(dask_worker, topic):
        await asyncio.to_thread(place.prune)
        await dask_worker.plugin_remove(topic)


def play(topic: str, key: str, data: bytes) -> bytes:
    """See `Place.play`: the task of Dask's that is a job.

    Raises:
        Unfit: this worker does not know the controller: it is another one than was introduced.
    """
    place = _place(get_worker(), topic)
    if place is None:
        raise Unfit("its worker was started anew")
    return place.play(key, data)


def _place(dask_worker: Worker, topic: str) -> Place | None:
    found = dask_worker.plugins.get(topic)
    return found if isinstance(found, Place) else None
