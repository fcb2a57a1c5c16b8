"""How Dask is set up here: a mailbox and a pulse, without what else it does."""

from __future__ import annotations

from typing import Any

from distributed.security import Security

from kpatchlab.run.cluster.certificates import Identity

SILENT_S = 45
"""Seconds without a sign of life after which a host is given up; a host that starts guests may answer late."""

_BOTH: dict[str, Any] = {
    "distributed.comm.require-encryption": True,
    "distributed.comm.timeouts.connect": "30s",
    "distributed.comm.timeouts.tcp": "30s",
    "distributed.diagnostics.nvml": False,
    "distributed.admin.system-monitor.gil.enabled": False,
    "distributed.admin.system-monitor.disk": False,
    "distributed.admin.system-monitor.host-cpu": False,
}

CONTROLLER: dict[str, Any] = _BOTH | {
    "distributed.scheduler.allowed-failures": 1_000_000,  # a host that dies blames all its jobs; the lab counts itself
    "distributed.scheduler.worker-ttl": f"{SILENT_S}s",
    "distributed.scheduler.work-stealing": False,
    "distributed.scheduler.active-memory-manager.start": False,
    "distributed.scheduler.http.routes": [],
    "distributed.client.scheduler-info-interval": "1h",
    "distributed.admin.large-graph-warning-threshold": "1GiB",
}

WORKER: dict[str, Any] = _BOTH | {
    "distributed.worker.http.routes": [],
    "distributed.worker.profile.enabled": False,
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": False,
    "distributed.worker.use-file-locking": False,
}


def security_of(identity: Identity) -> Security:
    """Return what Dask needs to show a certificate, and to take no connection without one."""
    ca, cert, key = identity.authority, identity.certificate, identity.key
    return Security(
        require_encryption=True, tls_ca_file=ca,
        tls_scheduler_cert=cert, tls_scheduler_key=key, tls_worker_cert=cert, tls_worker_key=key,
        tls_client_cert=cert, tls_client_key=key,
    )  # fmt: skip
