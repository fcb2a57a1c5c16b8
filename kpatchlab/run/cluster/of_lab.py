"""The executors of a lab that names hosts, or a cluster that stands."""

from __future__ import annotations

from pathlib import Path

import dask

from kpatchlab.errors import UserError
from kpatchlab.host.host import Host
from kpatchlab.lab.file import ClusterJobs
from kpatchlab.lab.hosts import HostEntry
from kpatchlab.lab.load import Lab
from kpatchlab.run.cluster.certificates import Identity
from kpatchlab.run.cluster.executor import HostsExecutor
from kpatchlab.run.cluster.hub import Standing
from kpatchlab.run.cluster.launch import Here, Launcher
from kpatchlab.run.cluster.ssh import Ssh
from kpatchlab.run.executor import limit_of


def on_hosts(lab: Lab, host: Host) -> HostsExecutor:
    """Return the executor of the hosts that a lab names.

    Raises:
        HostError: none of them can be reached.
    """
    launchers = [launcher(name, entry, host) for name, entry in lab.hosts.items()]
    return HostsExecutor(host, launchers, guests=limit_of(lab), disk_gib=lab.limits.disk_gib)


def launcher(name: str, entry: HostEntry, host: Host) -> Launcher:
    """Return what starts the worker of a host."""
    memory_mib = int(entry.memory_gib * 1024)
    if entry.is_local:
        return Here(name, entry.cache, entry.cpus, memory_mib)
    return Ssh(name, entry, host.cache, entry.cache, entry.cpus, memory_mib, entry.share)


def on_cluster(lab: Lab, host: Host) -> HostsExecutor:
    """Return the executor of a cluster that stands.

    Raises:
        UserError: a file of its TLS is not named, or cannot be read.
        HostError: it does not answer.
    """
    asked = lab.executor
    assert isinstance(asked, ClusterJobs)
    texts = []
    for word, last in (("ca", "ca-file"), ("certificate", "client.cert"), ("key", "client.key")):
        setting = f"distributed.comm.tls.{last}"
        name = getattr(asked, word) or dask.config.get(setting, None)
        if not name:
            hint = f"`{word}` of `executor`, or Dask's setting {setting}"
            raise UserError(f"no file with the {word} for {asked.scheduler}", hint=hint)
        try:
            texts.append((lab.root / Path(name).expanduser()).read_text())
        except OSError as error:
            raise UserError(f"cannot read {name}: {error.strerror}") from None
    standing = Standing(asked.scheduler, Identity(*texts))
    return HostsExecutor(host, (), guests=limit_of(lab), disk_gib=lab.limits.disk_gib, standing=standing)
