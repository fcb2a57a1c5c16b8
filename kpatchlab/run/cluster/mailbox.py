"""Dask as the lab uses it: it says which hosts are there, takes a task to one of them, and brings its value back.

All methods but `close` are called in the mailbox's own thread, see `call`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

import dask
from distributed import Client, Scheduler
from distributed import Future as Promise

from kpatchlab.run.cluster import settings
from kpatchlab.run.cluster.certificates import Identity
from kpatchlab.run.cluster.members import Seat

T = TypeVar("T")
CLOSE_S = 10.0
"""Seconds that Dask gets to end; then it is left to the end of the process."""


class Silent(Scheduler):
    """A Dask scheduler without an HTTP server."""

    def start_http_server(self, *_: object, **__: object) -> None:
        """Open no port for it."""


class Mailbox:
    """A scheduler with a client, or a client of one that stands, in a thread of their own.

    Args:
        identity: what is shown to the others.
        address: where the scheduler listens; or, with `standing`, the scheduler's URL.

    Raises:
        OSError: no scheduler comes about there.
    """

    def __init__(self, identity: Identity, address: str, *, standing: bool = False) -> None:
        self._standing = standing
        self._scheduler: Scheduler | None = None
        logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what happened to hosts the executor says
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._turn, name="mailbox", daemon=True)
        self._thread.start()
        self._config = dask.config.set(settings.CONTROLLER)
        self._security = settings.security_of(identity)
        try:
            self.call(self._open(address)).result()
        except BaseException:
            self.close()
            raise

    def _turn(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def call(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Have something done in the mailbox's thread."""
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    async def _open(self, address: str) -> None:
        near = address
        if not self._standing:
            # Our own client is in this process: its words need neither TLS nor a socket.
            both: dict[str, Any] = {"host": [address, None], "port": [0, None], "protocol": ["tls", "inproc"]}
            self._scheduler = await Silent(**both, security=self._security, dashboard=False, dashboard_address=None)
            address, near = (listener.contact_address for listener in self._scheduler.listeners)
        self.port = int(address.rpartition(":")[2])
        self._client: Client = await Client(
            near, asynchronous=True, security=self._security, set_as_default=False, timeout="30s", name="kpatchlab"
        )

    def listen(self, topic: str, told: Callable[[dict[str, Any]], None]) -> None:
        """Have what workers say under a topic."""
        self._client.subscribe_topic(topic, lambda event: told(event[1]))

    async def there(self) -> list[Seat]:
        """Return the workers that are there now."""
        if self._scheduler is not None:
            return [Seat(str(ws.name), ws.address, ws.nthreads) for ws in self._scheduler.workers.values()]
        scheduler: Any = self._client.scheduler
        found = await scheduler.identity(n_workers=-1)
        return [Seat(str(ws["name"]), address, ws["nthreads"]) for address, ws in found["workers"].items()]

    def submit(self, key: str, seat: Seat, work: Callable[..., T], *words: Any) -> Promise[T]:
        """Have something done by a worker, and by no other one."""
        return self._client.submit(
            work, *words, key=key, workers=[seat.name], allow_other_workers=False, pure=False, retries=0
        )

    async def ask(self, seat: Seat, work: Callable[..., Awaitable[T]], *words: Any, within_s: float = 60.0) -> T:
        """Have a worker answer beside its jobs.

        Raises:
            TimeoutError: it does not.
            Exception: whatever it raised.
        """
        answers = await asyncio.wait_for(self._client.run(work, *words, workers=[seat.address]), within_s)
        found: T = answers[seat.address]
        return found

    async def dismiss(self, seat: Seat) -> None:
        """Have a worker of ours leave; one of a cluster that stands is let be."""
        if self._scheduler is not None:
            await self._scheduler.remove_worker(seat.address, stimulus_id="dismissed", expected=True)

    async def _closed(self) -> None:
        with contextlib.suppress(Exception):
            await self._client.close(timeout=2)
        if self._scheduler is not None:
            with contextlib.suppress(Exception):
                await self._scheduler.close()

    def close(self) -> None:
        """End it; called from any other thread."""
        with contextlib.suppress(Exception):
            self.call(self._closed()).result(CLOSE_S)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(CLOSE_S)
        self._config.__exit__(None, None, None)
