"""The executor of several hosts: one queue, a room for each host, and Dask to carry what starts at once."""

from __future__ import annotations

import asyncio
import contextlib
import io
import itertools
import json
import secrets
import threading
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from kpatchlab.cache import META
from kpatchlab.errors import HostError, LabWarning, told
from kpatchlab.host.host import Host
from kpatchlab.jsonable import from_json, to_json
from kpatchlab.proc import Cancel
from kpatchlab.run import process, worker
from kpatchlab.run.cluster import place
from kpatchlab.run.cluster.hub import Hub, Standing
from kpatchlab.run.cluster.launch import Launcher
from kpatchlab.run.cluster.members import Member, Members, Name, Seat, artifacts_of
from kpatchlab.run.cluster.place import Ask, Facts, Unfit
from kpatchlab.run.executor import Queue, Queued, Returned, Room, Started, Weight, drop, infra
from kpatchlab.run.task import JobTask

ELSEWHERE = 2
"""So often a job runs again that a host has lost."""
TICK_S = 0.2
MEET_S = 120.0
"""Seconds that a host has to answer when it comes; one that starts guests at load 100 takes its time."""
CANCEL_S = 8.0
"""Seconds that a host has to end a job; then nobody waits for it."""
UNFIT_S = 30.0
"""Seconds that a host gets no job which could not run one."""
NOBODY_S = 120.0
"""Seconds without any host until the jobs that wait are given up."""
PULSE_S = 15.0
"""Seconds between signs of life to the workers of a cluster that stands, see `hub.GONE_S`."""
LOOK_S = 2.0
"""Seconds between two questions to a scheduler that stands, who is there."""
FIRST_S = 600.0
"""Seconds that `width` waits for a first host: it may have to be brought up."""


@dataclass(eq=False, slots=True)
class Attempt:
    """A job on a host.

    Attributes:
        weight: what it took when it began.
        over: it was given up, and what comes of it counts no more.
        told: monotonic time at which its host was told to end it; 0.0: not yet.
    """

    key: str
    queued: Queued
    member: Member
    weight: Weight
    artifacts: frozenset[Name]
    task: asyncio.Task[None] | None = None
    over: bool = False
    told: float = 0.0
    started: bool = False


class HostsExecutor:
    """Jobs on several hosts; all but what `Executor` has happens in the mailbox's thread.

    Args:
        guests: at most so many guests at once on each host; None: as there is room for.
        disk_gib: size that each host's cache is kept within.
        standing: a cluster that stands, whose workers are used as well.

    Raises:
        HostError: no host can be reached.
    """

    def __init__(
        self,
        host: Host,
        launchers: Sequence[Launcher],
        *,
        guests: int | None = None,
        disk_gib: float = 20.0,
        standing: Standing | None = None,
    ) -> None:
        self._host = host
        self._numbers = itertools.count()
        self._token = secrets.token_hex(4)
        self._queue, self._members = Queue(), Members(self._size_of)
        self._sizes: dict[Name, int] = {}
        self._attempts: dict[str, Attempt] = {}
        self._lost: dict[tuple[int, int], list[tuple[str, str]]] = {}  # of a job, by its rank: host, and why
        self._cancels: dict[int, Cancel] = {}
        self._greeted: set[str] = set()  # addresses of workers that are known, whatever came of them
        self._tasks: set[asyncio.Task[Any]] = set()
        self._said: set[str] = set()
        self._somebody = threading.Event()
        self._due = self._closing = False
        self._nobody_since = time.monotonic()
        self._standing, self._pulse, self._looked = standing, 0.0, 0.0
        self._topic = f"kpatchlab-{self._token}"
        self._version = place.version_of(process.PACKAGE / "kpatchlab")
        common = Ask(self._topic, guests=guests, qemu=host.qemu_choice, mirror=host.mirror, disk_gib=disk_gib)
        self._hub = Hub(host.cache, launchers, common, self._tell, standing)
        self._mail = self._hub.mail
        self._mail.call(self._begin()).result()

    # --- what every executor has

    def submit(
        self, task: JobTask, weight: Weight, priority: int = 0, *, cancel: Cancel, started: Started
    ) -> Future[Returned]:
        """See `Executor.submit`."""
        queued = Queued((-priority, next(self._numbers)), task, weight, cancel, started)
        self._mail.loop.call_soon_threadsafe(self._enqueue, queued)
        return queued.future

    def width(self, weight: Weight) -> int:
        """See `Executor.width`; waits for the first host."""
        self._somebody.wait(FIRST_S)

        async def ask() -> int:
            return self._members.width(weight)

        return self._mail.call(ask()).result()

    def shutdown(self) -> None:
        """See `Executor.shutdown`; the workers end."""

        async def empty() -> list[Future[Returned]]:
            self._closing = True
            drop(queued.future for queued in self._queue.drain())
            return [attempt.queued.future for attempt in self._attempts.values()]

        wait(self._mail.call(empty()).result())
        with contextlib.suppress(Exception):
            self._mail.call(self._end()).result(MEET_S)
        self._hub.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()

    # --- the queue

    def _enqueue(self, queued: Queued) -> None:
        if self._closing:
            drop([queued.future])
            return
        self._cancels[id(queued.cancel)] = queued.cancel
        self._queue.push(queued)
        self._start_soon()

    def _start_soon(self) -> None:
        """Start what there is room for, once for all that happens now."""
        if not self._due:
            self._due = True
            self._mail.loop.call_soon(self._start)

    def _start(self) -> None:
        self._due = False
        while (found := self._members.next(self._queue, self._lost_on)) is not None:
            queued, member = found
            if queued.cancel.is_set():
                drop([queued.future])
            elif queued.rank in self._lost or queued.future.set_running_or_notify_cancel():
                self._play_on(queued, member)

    def _lost_on(self, queued: Queued) -> list[str]:
        return [name for name, _ in self._lost.get(queued.rank, ())]

    def _play_on(self, queued: Queued, member: Member) -> None:
        number = len(self._lost.get(queued.rank, ()))
        key = f"{self._token}-{queued.rank[1]}-{queued.task.spec.id}-try{number + 1}"
        attempt = Attempt(key, queued, member, queued.weight, artifacts_of(queued.task))
        self._attempts[key] = attempt
        member.room.take(queued)
        attempt.task = self._later(self._play(attempt))

    async def _play(self, attempt: Attempt) -> None:
        """Have a host run a job, and bring home what comes of it."""
        member, queued = attempt.member, attempt.queued
        words = (self._topic, attempt.key, queued.task.to_json())
        promise = self._mail.submit(attempt.key, member.seat, place.play, *words)
        try:
            parcel = await promise
        except asyncio.CancelledError:
            if not attempt.over:  # Dask's own word for a task that is lost
                self._retry(attempt, "its worker lost the job")
            return
        except Unfit as error:
            self._rest(member, str(error))
            self._retry(attempt, str(error))
            return
        except Exception as error:  # noqa: BLE001 - whatever the way there and back raises is the host's, not the job's
            self._retry(attempt, told(error))
            return
        finally:
            promise.release()
        if attempt.over:
            return
        self._leave(attempt)
        member.has |= attempt.artifacts
        self._begun(attempt)
        queued.future.set_result(await asyncio.to_thread(self._returned, attempt, parcel))

    def _returned(self, attempt: Attempt, parcel: bytes) -> Returned:
        folder, spec = None, attempt.queued.task.spec
        try:
            folder = self._host.cache.scratch("job")
            result = worker.unpack(io.BytesIO(parcel), folder)
        except Exception as error:  # noqa: BLE001 - it is this one job's
            result = infra(spec, error)
        return Returned(replace(result, host=attempt.member.name), folder)

    def _leave(self, attempt: Attempt) -> None:
        """Take back what a job had of its host."""
        attempt.over = True
        if self._attempts.pop(attempt.key, None) is not None:
            attempt.member.room.leave(attempt.queued)
            self._start_soon()

    def _retry(self, attempt: Attempt, why: str) -> None:
        """Have another host run a job that one has lost; not for ever."""
        queued, name = attempt.queued, attempt.member.name
        self._leave(attempt)
        queued.weight = attempt.weight
        lost = self._lost.setdefault(queued.rank, [])
        lost.append((name, why))
        if queued.cancel.is_set():
            self._give_up(queued, HostError(f"host {name}: {why}"))
        elif len(lost) > ELSEWHERE:
            names = ", ".join(dict.fromkeys(name for name, _ in lost))
            self._give_up(queued, HostError(f"lost {len(lost)} times, on {names}; at last: {why}"))
        else:
            self._queue.push(queued)
            self._start_soon()

    def _give_up(self, queued: Queued, error: HostError) -> None:
        name = self._lost[queued.rank][-1][0] if queued.rank in self._lost else ""
        if queued.rank in self._lost or queued.future.set_running_or_notify_cancel():
            queued.future.set_result(Returned(replace(infra(queued.task.spec, error), host=name), None))

    # --- the hosts

    async def _begin(self) -> None:
        self._mail.listen(self._topic, self._told)
        self._later(self._watch())

    async def _watch(self) -> None:
        """See which hosts are there, and what was cancelled."""
        while True:
            with contextlib.suppress(OSError, TimeoutError):
                await self._look()
            self._stop_cancelled()
            self._mind_nobody()
            if self._standing and time.monotonic() - self._pulse > PULSE_S:
                self._pulse = time.monotonic()
                for member in self._members:
                    self._later(self._stop(member, ()))
            await asyncio.sleep(TICK_S)

    async def _look(self) -> None:
        if self._standing and time.monotonic() - self._looked < LOOK_S:
            return
        self._looked = time.monotonic()
        seats = {seat.address: seat for seat in await self._mail.there()}
        for member in self._members:
            if member.seat.address not in seats:
                self._lose(member)
        self._greeted &= seats.keys()
        for address, seat in seats.items():
            if address not in self._greeted and not self._closing:
                self._greeted.add(address)
                self._later(self._meet(seat))

    async def _meet(self, seat: Seat) -> None:
        """Get to know a worker that came; from then on its host takes jobs."""
        try:
            facts = await self._facts(seat)
        except Exception as error:  # noqa: BLE001 - a worker of any version may say anything
            await self._refuse(seat, f"its worker does not answer as it should: {told(error)}")
            return
        if facts.version != self._version:
            ours, theirs = self._version[:12], facts.version[:12]
            await self._refuse(seat, f"its worker has version {theirs} of the lab, and this is {ours}", for_good=True)
            return
        has = {(kind, key) for kind, keys in facts.artifacts.items() for key in keys}
        member = Member(seat, Room(facts.room), has)
        self._members.add(member)
        self._somebody.set()
        for note in facts.notes:
            self._tell(f"host {seat.name}: {note}")
        if facts.refuses:
            self._rest(member, f"nothing can be written there: {facts.refuses}")
        self._start_soon()

    async def _facts(self, seat: Seat) -> Facts:
        ask = self._hub.ask_of(seat.name)
        asked = json.dumps(to_json(ask)).encode()
        return from_json(Facts, json.loads(await self._mail.ask(seat, place.introduce, asked, within_s=MEET_S)))

    async def _refuse(self, seat: Seat, why: str, *, for_good: bool = False) -> None:
        self._tell(f"host {seat.name} is not used: {why}")
        if for_good and (keeper := self._hub.keepers.get(seat.name)):
            keeper.refuse(why)
        with contextlib.suppress(Exception):
            await self._mail.dismiss(seat)

    def _lose(self, member: Member) -> None:
        """Give a host up whose worker is gone; its jobs run elsewhere, and nobody else's are touched."""
        self._members.remove(member)
        mine = [attempt for attempt in self._attempts.values() if attempt.member is member]
        if not self._closing:
            self._tell(f"host {member.name} is gone; it had {len(mine)} jobs, which run again")
        for attempt in mine:
            attempt.over = True
            if attempt.task is not None:
                attempt.task.cancel()
            self._retry(attempt, "its worker was lost")

    def _rest(self, member: Member, why: str) -> None:
        """Give a host no more jobs for a while."""
        if not member.unfit:
            member.unfit = why
            self._tell(f"host {member.name} gets no jobs for now: {why}")
            self._later(self._recover(member))

    async def _recover(self, member: Member) -> None:
        while self._members.get(member.name) is member and member.unfit:
            await asyncio.sleep(UNFIT_S)
            with contextlib.suppress(Exception):  # it is asked again, or gone
                facts = await self._facts(member.seat)
                member.unfit = facts.refuses
                self._start_soon()

    def _told(self, message: dict[str, Any]) -> None:
        """Take what a worker says of a job."""
        attempt = self._attempts.get(str(message.get("key")))
        if attempt is None:
            return
        if message.get("is") == place.STARTED:
            attempt.member.load = float(message.get("load", 0.0))
            self._begun(attempt)
        elif message.get("is") == place.IDLE and attempt.queued.weight == attempt.weight:
            attempt.member.room.idle(attempt.queued)
            self._start_soon()

    @staticmethod
    def _begun(attempt: Attempt) -> None:
        if not attempt.started:
            attempt.started = True
            attempt.queued.started(attempt.member.name, attempt.member.load)

    # --- ends

    def _stop_cancelled(self) -> None:
        """Have the hosts end what was cancelled; what waits leaves the queue."""
        if not any(cancel.is_set() for cancel in self._cancels.values()):
            return
        drop(queued.future for queued in self._queue.drain(lambda queued: queued.cancel.is_set()))
        now, keys = time.monotonic(), dict[Member, list[str]]()
        for attempt in [attempt for attempt in self._attempts.values() if attempt.queued.cancel.is_set()]:
            if not attempt.told:
                attempt.told = now
                keys.setdefault(attempt.member, []).append(attempt.key)
            elif now - attempt.told > CANCEL_S:
                attempt.over = True
                if attempt.task is not None:
                    attempt.task.cancel()
                self._retry(attempt, "it does not end the job")
        for member, mine in keys.items():
            self._later(self._stop(member, mine))

    async def _stop(self, member: Member, keys: Sequence[str]) -> None:
        with contextlib.suppress(Exception):  # a host that does not hear is given up
            await self._mail.ask(member.seat, place.stop, self._topic, keys, within_s=CANCEL_S)

    def _mind_nobody(self) -> None:
        """Give up what waits where no host has been there for long, and none is on its way."""
        keepers = list(self._hub.keepers.values())
        if any(not member.unfit for member in self._members) or any(keeper.coming for keeper in keepers):
            self._nobody_since = time.monotonic()
        hopeless = bool(keepers) and all(keeper.refused for keeper in keepers) and not self._members
        if len(self._queue) and (hopeless or time.monotonic() - self._nobody_since > NOBODY_S):
            why = "; ".join(sorted(self._said)[-4:]) or "none came"
            for queued in self._queue.drain():
                self._give_up(queued, HostError(f"no host is left to run it: {why}"))

    async def _end(self) -> None:
        asked = [
            self._mail.ask(member.seat, place.leave, self._topic)
            for member in self._members
            if self._hub.ask_of(member.name).identity is not None
        ]
        await asyncio.gather(*asked, return_exceptions=True)
        for task in self._tasks:
            task.cancel()

    # --- small things

    def _later(self, work: Any) -> asyncio.Task[Any]:
        task = self._mail.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _tell(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            warnings.warn(text, LabWarning, stacklevel=2)

    def _size_of(self, name: Name) -> int:
        if name not in self._sizes:
            path: Path = self._host.cache.path(*name) / META
            try:
                self._sizes[name] = int(json.loads(path.read_bytes()).get("size_bytes", 0))
            except (OSError, ValueError):
                self._sizes[name] = 0
        return self._sizes[name]
