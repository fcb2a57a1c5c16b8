"""The executors that a lab can name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from kpatchlab.host.host import Host
from kpatchlab.lab.file import ProcessJobs
from kpatchlab.lab.load import Lab
from kpatchlab.run.executor import Executor, LocalExecutor
from kpatchlab.run.process import ProcessExecutor


def _guests(lab: Lab) -> int | None:
    return None if lab.limits.guests == "auto" else lab.limits.guests


def _local(lab: Lab, host: Host) -> Executor:
    return LocalExecutor(host, _guests(lab))


def _process(lab: Lab, host: Host) -> Executor:
    assert isinstance(lab.executor, ProcessJobs)
    return ProcessExecutor(host, _guests(lab), lab.root / Path(lab.executor.cache).expanduser(), lab.limits.disk_gib)


EXECUTORS: Mapping[str, Callable[[Lab, Host], Executor]] = {"local": _local, "process": _process}
"""`executor.type` of lab.yaml -> what makes it."""


def executor_of(lab: Lab, host: Host) -> Executor:
    """Return the executor that a lab names."""
    return EXECUTORS[lab.executor.type](lab, host)
