"""The executors that a lab can name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from kpatchlab.host.host import Host
from kpatchlab.lab.load import Lab
from kpatchlab.run.executor import Executor, LocalExecutor
from kpatchlab.run.process import ProcessExecutor


def _on_hosts(lab: Lab, host: Host) -> Executor:
    from kpatchlab.run.cluster.of_lab import on_hosts  # Dask is there for who has other hosts

    return on_hosts(lab, host)


def _on_cluster(lab: Lab, host: Host) -> Executor:
    from kpatchlab.run.cluster.of_lab import on_cluster

    return on_cluster(lab, host)


EXECUTORS: Mapping[str, Callable[[Lab, Host], Executor]] = {
    "local": LocalExecutor.of,
    "process": ProcessExecutor.of,
    "hosts": _on_hosts,
    "cluster": _on_cluster,
}
"""`executor.type` of lab.yaml -> what makes it; `hosts` is that of a lab with other hosts."""


def executor_of(lab: Lab, host: Host) -> Executor:
    """Return the executor that a lab names."""
    others = any(not entry.is_local for entry in lab.hosts.values())
    return EXECUTORS["hosts" if others else lab.executor.type](lab, host)
