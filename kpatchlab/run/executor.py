"""Where jobs run. A job is a pure function of its inputs, so an executor only has to call it and bring the value back.

A new executor (other hosts over SSH, a cluster) is one class with these three methods and one row in `EXECUTORS`.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from kpatchlab.errors import told
from kpatchlab.host.host import available_mib
from kpatchlab.model import JobResult, Outcome, job_case
from kpatchlab.plan.jobs import JobSpec
from kpatchlab.run.inputs import JobInputs
from kpatchlab.run.job import run_job

MEMORY_SHARE = 0.75
"""Share of the memory that is free at the start which guests may take together."""


@dataclass(frozen=True, slots=True)
class Weight:
    """What a job takes of a host while it runs."""

    guests: int
    cpus: int
    memory_mib: int


class Executor(Protocol):
    """Takes jobs while it has room for them; all its methods are called from one thread."""

    def has_room(self, weight: Weight) -> bool:
        """Whether a job of this weight can start now; always true when nothing runs."""

    def submit(self, inputs: JobInputs, weight: Weight) -> Future[JobResult]:
        """Start a job; the future never raises."""

    def release(self, weight: Weight) -> None:
        """Give a finished job's room back; called by the thread that submits."""

    def shutdown(self) -> None:
        """Wait for what runs, and let everything go."""


class LocalExecutor:
    """Jobs in threads of this process, guests as its children, packed by processors and memory.

    Args:
        guests: at most so many guests at once; None: as many as there are processors, and two at least, so that
            a pair always fits.
    """

    def __init__(self, guests: int | None = None, call: Callable[[JobInputs], JobResult] = run_job) -> None:
        self._room = Weight(
            guests or 1 << 16,
            1 << 16 if guests else max(2, len(os.sched_getaffinity(0))),
            int(available_mib() * MEMORY_SHARE),
        )
        self._used = Weight(0, 0, 0)
        self._running = 0
        self._pool = ThreadPoolExecutor(64, thread_name_prefix="job")
        self._call = call

    def has_room(self, weight: Weight) -> bool:
        """Whether a job of this weight can start now; always true when nothing runs."""
        if not self._running:
            return True
        return (
            self._used.guests + weight.guests <= self._room.guests
            and self._used.cpus + weight.cpus <= self._room.cpus
            and self._used.memory_mib + weight.memory_mib <= self._room.memory_mib
        )

    def submit(self, inputs: JobInputs, weight: Weight) -> Future[JobResult]:
        """Start a job; the future never raises."""
        self._take(weight, 1)
        return self._pool.submit(self._safely, inputs)

    def release(self, weight: Weight) -> None:
        """Give a finished job's room back; called by the thread that submits."""
        self._take(weight, -1)

    def _take(self, weight: Weight, sign: int) -> None:
        self._running += sign
        self._used = Weight(
            self._used.guests + sign * weight.guests,
            self._used.cpus + sign * weight.cpus,
            self._used.memory_mib + sign * weight.memory_mib,
        )

    def _safely(self, inputs: JobInputs) -> JobResult:
        try:
            return self._call(inputs)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this one job's and the lab's, not a kernel's
            return infra(inputs.spec, error, inputs.reproduce)

    def shutdown(self) -> None:
        """Wait for what runs, and let everything go."""
        self._pool.shutdown(wait=True, cancel_futures=True)


def infra(spec: JobSpec, error: BaseException, reproduce: str = "") -> JobResult:
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
        cases=(job_case(Outcome.INFRA, message, details),),
        reproduce=reproduce,
    )


EXECUTORS: dict[str, type[LocalExecutor]] = {"local": LocalExecutor}
"""Name -> executor; `lab.yaml` will name one as soon as there is a second."""
