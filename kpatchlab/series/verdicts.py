"""The verdict on a scenario as soon as it is there: while a run goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Self

from kpatchlab.model import JobResult, Run
from kpatchlab.plan.jobs import Group, JobSpec
from kpatchlab.progress import Progress
from kpatchlab.verdict.compare import compare


@dataclass(slots=True)
class Verdicts:
    """Shows what another progress shows, and a line for each scenario that ran on every kernel.

    Attributes:
        header: the run without its jobs.
        planned: all its jobs.
    """

    shows: Progress
    header: Run
    planned: Sequence[JobSpec]
    _done: dict[str, JobResult] = field(default_factory=dict)

    @property
    def total_jobs(self) -> int:
        """How many jobs are to be done."""
        return self.shows.total_jobs

    @total_jobs.setter
    def total_jobs(self, value: int) -> None:
        self.shows.total_jobs = value

    def __enter__(self) -> Self:
        self.shows.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.shows.__exit__(kind, error, tb)

    def begin(self, jobs: int, seconds: Mapping[str, float]) -> None:
        """A run begins."""
        self.shows.begin(jobs, seconds)

    def note(self, text: str) -> None:
        """Show a line."""
        self.shows.note(text)

    def stage(self, name: str, phase: str, done: int = 0, total: int = 0) -> None:
        """A build went on."""
        self.shows.stage(name, phase, done, total)

    def stage_done(self, name: str, text: str) -> None:
        """A build ended."""
        self.shows.stage_done(name, text)

    def job_started(self, job: str, host: str = "", load: float = 0.0) -> None:
        """A job began."""
        self.shows.job_started(job, host, load)

    def going_on(self) -> list[str]:
        """See `Progress.going_on`."""
        return self.shows.going_on()

    def job_done(self, result: JobResult) -> None:
        """A job ended; with the last one of its scenario and parameters comes the verdict."""
        self.shows.job_done(result)
        self._done[result.job] = result
        group: Group = (result.scenario, tuple(sorted(result.params.items())))
        ours = [job.id for job in self.planned if job.group == group]
        if len(ours) > 1 and all(name in self._done for name in ours):
            # of the whole group: with a job that was run once more
            done = tuple(job for job in self._done.values() if (job.scenario, job.params) == (group[0], result.params))
            name = " ".join([group[0], *(f"{key}={value}" for key, value in group[1])])
            self.shows.note(f"{name}: {compare(replace(self.header, jobs=done, complete=True)).headline}")
