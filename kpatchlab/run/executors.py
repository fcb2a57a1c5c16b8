"""The executors that a lab can name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from kpatchlab.host.host import Host
from kpatchlab.lab.load import Lab
from kpatchlab.run.executor import Executor, LocalExecutor
from kpatchlab.run.process import ProcessExecutor


def _on_cluster(lab: Lab, host: Host) -> Executor:
    from kpatchlab.run.cluster.of_lab import on_cluster

    return on_cluster(lab, host)


EXECUTORS: Mapping[str, Callable[[Lab, Host], Executor]] = {
    "local": LocalExecutor.of,
    "process": ProcessExecutor.of,
    "cluster": _on_cluster,
}
"""`executor.type` of lab.yaml -> what makes it."""


def executor_of(lab: Lab, host: Host) -> Executor:
    """Return the executor that a lab names."""
    return EXECUTORS[lab.executor.type](lab, host)
