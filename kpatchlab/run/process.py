"""Jobs in processes of their own, with a cache of their own: a task goes in, artifacts by key, a result comes out."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import ClassVar, Self

import kpatchlab
from kpatchlab import proc
from kpatchlab.cache import Cache
from kpatchlab.errors import HostError
from kpatchlab.host.host import Host
from kpatchlab.lab.file import ClusterJobs, LocalJobs
from kpatchlab.lab.load import Lab
from kpatchlab.model import JobResult
from kpatchlab.run import worker
from kpatchlab.run.executor import LocalExecutor, limit_of
from kpatchlab.run.inputs import Here
from kpatchlab.run.task import JobTask

PACKAGE = Path(kpatchlab.__file__).parents[1]
"""The folder that has the workers' package kpatchlab."""
JOB_S = 7 * 86400.0
"""More than any job takes: each of its scripts has a deadline of its own."""


def environment() -> dict[str, str]:
    """Return the environment of a worker on this host: it finds this very copy of the lab."""
    paths = [str(PACKAGE), *filter(None, [os.environ.get("PYTHONPATH", "")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


class ProcessExecutor(LocalExecutor):
    """Each job in a process of its own, packed as the local ones are.

    Args:
        cache: the root of the workers' cache; what it lacks comes from the host's own, by kind and key.
        disk_gib: size that this cache is pruned to in the end; what was used meanwhile stays.

    Attributes:
        prefix: words before each worker's command line.
    """

    prefix: ClassVar[tuple[str, ...]] = ()

    def __init__(self, host: Host, guests: int | None, cache: Path, disk_gib: float) -> None:
        super().__init__(host, guests, self._work)
        self._cache, self._disk_gib = Cache(cache), disk_gib
        self._began = time.time()

    @classmethod
    def of(cls, lab: Lab, host: Host) -> Self:
        """Return the one that a lab asks for."""
        assert not isinstance(lab.executor, LocalJobs | ClusterJobs)
        cache = lab.root / Path(lab.executor.cache).expanduser()
        return cls(host, limit_of(lab), cache, lab.limits.disk_gib)

    def shutdown(self) -> None:
        """See `Executor.shutdown`."""
        super().shutdown()
        self._cache.keep_within(self._disk_gib, self._began)

    def _work(self, task: JobTask, here: Here) -> JobResult:
        """Have a worker carry out a job.

        Raises:
            HostError: it did not end by itself, or is none of this program's.
        """
        words = worker.command_line(self._cache.root, here.host)

        def told(line: str) -> None:
            if line.strip() == worker.IDLE:
                here.idle()

        with tempfile.TemporaryFile() as parcel:
            done = proc.run(
                [*self.prefix, sys.executable, *words],
                timeout_s=JOB_S, check=False, env=environment(), cwd=here.folder, input_bytes=task.to_json(),
                on_line=told, stdout_to=parcel, cancel=here.cancel,
            )  # fmt: skip
            if done.status != 0:
                said = done.stderr.strip().splitlines() or ["no word"]
                why = "was cancelled" if here.cancel.is_set() else f"ended with status {done.status}: {said[-1][:300]}"
                raise HostError(f"the job's worker {why}")
            parcel.seek(0)
            return worker.unpack(parcel, here.folder)
