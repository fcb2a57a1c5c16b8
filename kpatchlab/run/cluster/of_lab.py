"""The executor of a lab that names a cluster that stands."""

from __future__ import annotations

from pathlib import Path

import dask

from kpatchlab.errors import UserError
from kpatchlab.host.host import Host
from kpatchlab.lab.file import ClusterJobs
from kpatchlab.lab.load import Lab
from kpatchlab.run.cluster.certificates import Identity
from kpatchlab.run.cluster.executor import HostsExecutor
from kpatchlab.run.cluster.hub import Standing
from kpatchlab.run.executor import limit_of


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
