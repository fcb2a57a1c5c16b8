"""The worker of a host: one Dask worker over TLS that ends with its controller.

    python -m kpatchlab.run.cluster.worker --scheduler tls://HOST:PORT --name NAME --tls DIR

DIR has ca.pem, cert.pem and key.pem, and nobody else may read it. Where the controller is gone the worker ends its jobs
at once, and itself within a minute; where the controller only gave it up (it was silent for too long) it comes back.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import dask
from distributed import Worker

from kpatchlab import proc
from kpatchlab.run.cluster import settings
from kpatchlab.run.cluster.certificates import Identity

MODULE = "kpatchlab.run.cluster.worker"
GONE_S = 40.0
"""Seconds without the controller until a worker ends."""
PAUSE_S = 1.0
"""Seconds before it connects again; twice as long each time after a connection of less than SHORT_S."""
SHORT_S = 20.0
SLOTS = 64
"""Threads for jobs; how many run is the controller's to say."""


class Quiet(Worker):
    """A Dask worker without an HTTP server."""

    def start_http_server(self, *_: object, **__: object) -> None:
        """Open no port for it."""


class Served:
    """Workers of one name, one after the other, for as long as there is a controller."""

    def __init__(self, scheduler: str, name: str, identity: Identity, slots: int = SLOTS) -> None:
        self._scheduler, self._name, self._slots = scheduler, name, slots
        self._security = settings.security_of(identity)
        self._worker: Worker | None = None
        self._over = asyncio.Event()

    async def serve(self) -> str:
        """Work until the controller is gone or `stop` is called; returns why it ends, in words."""
        seen, pause_s = time.monotonic(), PAUSE_S
        while not self._over.is_set() and time.monotonic() - seen < GONE_S:
            with tempfile.TemporaryDirectory(prefix="kpatchlab-worker-") as scratch:
                try:
                    self._worker = await self._connected(scratch, GONE_S - (time.monotonic() - seen))
                except ValueError as error:  # it answers: another one has the name, until it is given up
                    seen = time.monotonic()
                    _say(f"not taken: {error}")
                except (OSError, TimeoutError, RuntimeError) as error:
                    _say(f"no connection to {self._scheduler}: {error}")
                else:
                    _say(f"connected to {self._scheduler}")
                    began = time.monotonic()
                    await self._worker.finished()
                    seen = time.monotonic()
                    pause_s = PAUSE_S if seen - began > SHORT_S else min(2 * pause_s, GONE_S / 2)  # it is not wanted
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._over.wait(), pause_s)
        return "stopped" if self._over.is_set() else f"the controller is gone: {self._scheduler}"

    async def _connected(self, scratch: str, within_s: float) -> Worker:
        # The guard's work is no child's: Dask must start no process of its own (no nanny).
        worker: Worker = await Quiet(
            self._scheduler, name=self._name, nthreads=self._slots, memory_limit=0, security=self._security,
            local_directory=scratch, death_timeout=max(1.0, within_s), dashboard=False, protocol="tls",
        )  # fmt: skip
        return worker

    def stop(self) -> None:
        """End it; what runs is ended."""
        self._over.set()
        if self._worker is not None:
            self._closing = asyncio.ensure_future(self._worker.close(timeout=8, reason="stopped"))


def _say(text: str) -> None:
    sys.stderr.write(f"kpatchlab worker: {text}\n")
    sys.stderr.flush()


async def _main(options: argparse.Namespace) -> None:
    identity = Identity.read(options.tls)
    if options.once:
        shutil.rmtree(options.tls)
    served = Served(options.scheduler, options.name, identity, options.slots)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, served.stop)
    _say(await served.serve())


def main() -> None:
    """Work."""
    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}", description=__doc__.partition("\n")[0])
    parser.add_argument("--scheduler", required=True, metavar="tls://HOST:PORT", help="the controller's scheduler")
    parser.add_argument("--name", required=True, help="the host's name")
    parser.add_argument("--tls", type=Path, required=True, help="folder with ca.pem, cert.pem and key.pem")
    parser.add_argument("--once", action="store_true", help="delete that folder once it is read")
    parser.add_argument("--slots", type=int, default=SLOTS, help="jobs that can run side by side")
    options = parser.parse_args()
    logging.getLogger("distributed").setLevel(logging.ERROR)
    with dask.config.set(settings.WORKER):
        proc.start_guard()
        asyncio.run(_main(options))
    os._exit(0)  # a job that does not end is not waited for: the guard ends its guests


if __name__ == "__main__":
    main()
