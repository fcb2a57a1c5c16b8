"""Where jobs run. A job is a pure function of its task, so an executor only has to call it and bring the value back.

An executor queues by itself: who submits does not ask for room. `Queue` and `Room` are the parts of every queue: what
waits, and what one host has for it. A new executor is one class with the methods of `Executor` and one row in
`executors.EXECUTORS`.
"""

from __future__ import annotations

import heapq
import itertools
import os
import threading
import traceback
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from kpatchlab.errors import told
from kpatchlab.host.host import Host, available_mib
from kpatchlab.lab.load import Lab
from kpatchlab.model import JobResult, Outcome, job_case
from kpatchlab.plan.jobs import JobSpec
from kpatchlab.proc import Cancel
from kpatchlab.run.inputs import Here
from kpatchlab.run.job import run_job
from kpatchlab.run.task import JobTask

MEMORY_SHARE = 0.75
"""Share of the memory that is free at the start which guests may take together."""
UNLIMITED = 1 << 16

RunJob = Callable[[JobTask, Here], JobResult]
"""Carries out a job where it is called, and may raise; see `job.run_job`."""


@dataclass(frozen=True, slots=True)
class Weight:
    """What a job takes of a host while it runs."""

    guests: int
    cpus: int
    memory_mib: int

    @classmethod
    def of(cls, *jobs: JobSpec) -> Self:
        """Return what some jobs take together."""
        guests = sum(len(job.roles) for job in jobs)
        return cls(guests, sum(job.cpus for job in jobs), sum(job.memory_mib for job in jobs))

    def __add__(self, other: Weight) -> Weight:
        return Weight(self.guests + other.guests, self.cpus + other.cpus, self.memory_mib + other.memory_mib)

    def __sub__(self, other: Weight) -> Weight:
        return Weight(self.guests - other.guests, self.cpus - other.cpus, self.memory_mib - other.memory_mib)

    def times_in(self, room: Weight) -> int:
        """Return how many of this weight fit into some room at once."""
        pairs = ((room.guests, self.guests), (room.cpus, self.cpus), (room.memory_mib, self.memory_mib))
        return min((have // want for have, want in pairs if want), default=UNLIMITED)


@dataclass(frozen=True, slots=True)
class Returned:
    """What comes back of a job.

    Attributes:
        result: its paths are relative to `folder`.
        folder: the job's files, for who submitted it to move away; None where there are none.
    """

    result: JobResult
    folder: Path | None


Started = Callable[[str, float], None]
"""Takes the name of the host on which a job starts, "" where there is one alone, and its load average."""


class Executor(Protocol):
    """Takes jobs, queues them, and runs as many of them side by side as there is room for."""

    def submit(
        self, task: JobTask, weight: Weight, priority: int = 0, *, cancel: Cancel, started: Started
    ) -> Future[Returned]:
        """Queue a job; the future never raises, but one whose turn comes after `cancel` was set is cancelled.

        Args:
            priority: the highest of what fits starts first; of equals, the first submitted.
            cancel: set to end the job early; its result then says INFRA.
            started: called when the job really starts, by any thread; again where another host begins it anew.
        """

    def width(self, weight: Weight) -> int:
        """Return how many jobs of a weight run side by side where nothing else does; at least 1."""

    def shutdown(self) -> None:
        """Cancel what waits for its turn, and wait for what runs."""

    def __enter__(self) -> Self:
        """Have it for the time of a `with`."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Shut it down."""


@dataclass(order=True, slots=True)
class Queued:
    """A job that waits for its turn, or has it; the least is the first."""

    rank: tuple[int, int]
    task: JobTask = field(compare=False)
    weight: Weight = field(compare=False)  # while its guests only idle: what they still take
    cancel: Cancel = field(compare=False)
    started: Started = field(compare=False)
    future: Future[Returned] = field(compare=False, default_factory=Future)


class Queue:
    """Jobs that wait, by priority; of equals, the first that came."""

    def __init__(self) -> None:
        self._heaps: dict[Weight, list[Queued]] = {}

    def push(self, queued: Queued) -> None:
        """Let a job wait."""
        heapq.heappush(self._heaps.setdefault(queued.weight, []), queued)

    def pop(self, fits: Callable[[Weight], bool]) -> Queued | None:
        """Take out the first job whose weight fits; None where there is none."""
        heaps = [heap for weight, heap in self._heaps.items() if heap and fits(weight)]
        return heapq.heappop(min(heaps, key=lambda heap: heap[0])) if heaps else None

    def drain(self, which: Callable[[Queued], bool] = lambda _: True) -> list[Queued]:
        """Take out all jobs of a sort."""
        gone = [queued for heap in self._heaps.values() for queued in heap if which(queued)]
        if gone:
            left = [queued for heap in self._heaps.values() for queued in heap if not which(queued)]
            self._heaps.clear()
            for queued in left:
                self.push(queued)
        return gone

    def __len__(self) -> int:
        return sum(map(len, self._heaps.values()))


class Room:
    """What one host has for jobs, and what of it is free; whoever has it calls it from one thread at a time."""

    def __init__(self, total: Weight) -> None:
        self.total = self.free = total
        self.running = 0

    def fits(self, weight: Weight) -> bool:
        """Whether there is room for a job; where nothing runs there always is."""
        return not self.running or weight.times_in(self.free) > 0

    def take(self, queued: Queued) -> None:
        """Let a job have its part."""
        self.running += 1
        self.free -= queued.weight

    def idle(self, queued: Queued) -> None:
        """Let others take the processors of a job whose guests only idle; the memory stays theirs."""
        memory = Weight(0, 0, queued.weight.memory_mib)
        self.free += queued.weight - memory
        queued.weight = memory

    def leave(self, queued: Queued) -> None:
        """Take back what a job had."""
        self.running -= 1
        self.free += queued.weight


class LocalExecutor:
    """Jobs in threads of this process, guests as its children, packed by processors and memory.

    Args:
        guests: at most so many guests at once; None: as many as there are processors, and two at least, so that
            a pair always fits.
        call: carries out a job here.
    """

    def __init__(self, host: Host, guests: int | None = None, call: RunJob = run_job) -> None:
        self._host, self._call = host, call
        self._pool = ThreadPoolExecutor(64, thread_name_prefix="job")
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._queue = Queue()
        self._room = Room(room_here(guests))

    @classmethod
    def of(cls, lab: Lab, host: Host) -> Self:
        """Return the one that a lab asks for."""
        return cls(host, limit_of(lab))

    def submit(
        self, task: JobTask, weight: Weight, priority: int = 0, *, cancel: Cancel, started: Started
    ) -> Future[Returned]:
        """See `Executor.submit`."""
        queued = Queued((-priority, next(self._numbers)), task, weight, cancel, started)
        with self._lock:
            self._queue.push(queued)
        self._start()
        return queued.future

    def width(self, weight: Weight) -> int:
        """See `Executor.width`."""
        return max(1, weight.times_in(self._room.total))

    def shutdown(self) -> None:
        """See `Executor.shutdown`."""
        with self._lock:
            left = self._queue.drain()
        drop(queued.future for queued in left)
        self._pool.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()

    def _start(self) -> None:
        """Start every job that there is room for, in their order; those that are cancelled leave the queue."""
        cancelled = []
        with self._lock:
            while (queued := self._queue.pop(self._room.fits)) is not None:
                if queued.cancel.is_set():
                    cancelled.append(queued.future)
                elif queued.future.set_running_or_notify_cancel():
                    self._room.take(queued)
                    self._pool.submit(self._run, queued)
        drop(cancelled)  # not under the lock: it calls back

    def _run(self, queued: Queued) -> None:
        try:
            tell = partial(queued.future.set_result, self._result(queued))
        except BaseException as error:  # noqa: BLE001 - an interrupt is the submitter's
            tell = partial(queued.future.set_exception, error)
        with self._lock:
            self._room.leave(queued)
        self._start()
        tell()

    def _idle(self, queued: Queued) -> None:
        with self._lock:
            self._room.idle(queued)
        self._start()

    def _result(self, queued: Queued) -> Returned:
        folder = None
        try:
            folder = self._host.cache.scratch("job")
            queued.started("", 0.0)
            with self._host.cache.using(folder):
                here = Here(self._host, folder, queued.cancel, partial(self._idle, queued))
                return Returned(self._call(queued.task, here), folder)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this one job's and the lab's, not a kernel's
            return Returned(infra(queued.task.spec, error), folder)


def limit_of(lab: Lab) -> int | None:
    """Return how many guests a lab lets run at once; None: as many as there is room for."""
    return None if lab.limits.guests == "auto" else lab.limits.guests


def room_here(guests: int | None) -> Weight:
    """Return what this host has for jobs; a limit of guests stands in place of its processors."""
    cpus = UNLIMITED if guests else max(2, len(os.sched_getaffinity(0)))
    return Weight(guests or UNLIMITED, cpus, int(available_mib() * MEMORY_SHARE))


def drop(futures: Iterable[Future[Returned]]) -> None:
    """Tell who waits for these that they will not begin."""
    for future in futures:
        future.cancel()
        future.set_running_or_notify_cancel()


def infra(spec: JobSpec, error: BaseException) -> JobResult:
    """Return the result of a job that the lab itself could not run."""
    message = told(error)
    details = getattr(error, "hint", "") or "".join(traceback.format_exception(error))[-8000:]
    return JobResult(
        job=spec.id,
        scenario=spec.scenario,
        params=dict(spec.params),
        column=spec.column,
        placement=dict(spec.placement),
        repeat=spec.repeat,
        outcome=Outcome.INFRA,
        message=message,
        images=spec.images,
        cases=(job_case(Outcome.INFRA, message, details),),
    )
