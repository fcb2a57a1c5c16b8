"""The progress of a run for a person who watches: a live table on a terminal, plain lines elsewhere.

The pipeline calls the five methods of `Progress` from any thread; nothing here decides anything.
"""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, Self, TextIO

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from rich.console import Console, RenderableType

    from kpatchlab.model import BuildResult, JobResult

PLAIN_EVERY_S = 30.0
"""Seconds between two plain lines about one build that goes on."""
PLAIN_AFTER_S = 2.0
"""Seconds after which a phase is worth a plain line: what is cached passes through its phases in less."""


PRIOR_S = 60.0
"""Seconds of jobs that took just what was expected, which the first ones are weighed against."""


class Progress(Protocol):
    """What the pipeline tells; all of it may come from any thread.

    Attributes:
        total_jobs: how many jobs are to be done; 0 where there are none.
    """

    total_jobs: int

    def __enter__(self) -> Self:
        """Begin to show."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Leave the terminal as it was."""

    def begin(self, jobs: int, seconds: Mapping[str, float]) -> None:
        """A run of so many jobs begins; job -> what it is expected to take, by what earlier runs took."""

    def note(self, text: str) -> None:
        """One line that stays."""

    def stage(self, name: str, phase: str, done: int = 0, total: int = 0) -> None:
        """A build or an image went on: objects `done` of an estimated `total`, 0 where unknown."""

    def stage_done(self, name: str, text: str) -> None:
        """A build or an image ended; `text` is "" where there is nothing to say about it."""

    def job_started(self, job: str, host: str = "", load: float = 0.0) -> None:
        """A guest is being resumed for a job; where there are several hosts, on which, and its load average then."""

    def job_done(self, result: JobResult) -> None:
        """A job ended."""

    def going_on(self) -> list[str]:
        """Return what goes on now, in words; takes no lock, since a signal's handler asks."""


@dataclass(slots=True)
class _Stage:
    phase: str = ""
    done: int = 0
    total: int = 0
    began: float = field(default_factory=time.monotonic)
    said: float = 0.0

    def eta_s(self) -> float | None:
        """Seconds left at the pace so far, or None where that is a guess too early."""
        gone = time.monotonic() - self.began
        if self.done < 20 or self.total <= self.done or gone < 5:
            return None
        return gone / self.done * (self.total - self.done)


def built(result: BuildResult) -> str:
    """Return one line about a finished kernel."""
    if result.error:
        place = f"{result.error_file}:{result.error_line}: " if result.error_file else ""
        return f"kernel {result.kernel}: does not build: {place}{result.error}"
    verb = "built" if result.objects_total else "fetched"
    how = "cached" if result.cached else f"{verb} in {clock(result.duration_s)}"
    if result.objects_compiled and not result.cached:
        how += f", {result.objects_compiled} of {result.objects_total} objects compiled"
    lost = len(result.module_failures)
    modules = f", {lost} module{'s' if lost > 1 else ''} did not compile" if lost else ""
    return f"kernel {result.kernel}: {result.release} ({how}{modules})"


def clock(seconds: float) -> str:
    """Return a duration as people read it: `4.2 s`, `3 min 20 s`, `1 h 02 min`."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def job_line(result: JobResult) -> str:
    """Return one line about a finished job."""
    text = f"{result.outcome.value.upper():8} {result.job}  {clock(result.duration_s)}"
    text += f" on {result.host}" if result.host else ""
    return f"{text}  {result.message}" if result.message else text


@dataclass(frozen=True, slots=True)
class _Running:
    began: float
    host: str


@dataclass(slots=True)
class _Host:
    """One of several: how many jobs ended there, and its load when the last one began."""

    done: int = 0
    load: float = 0.0


class _Counted:
    """How many jobs are done, and how long the rest takes, at the pace so far of what was expected."""

    def __init__(self) -> None:
        self._stages: dict[str, _Stage] = {}
        self._jobs: dict[str, _Running] = {}
        self._hosts: dict[str, _Host] = {}
        self.total_jobs = 0
        self.seconds: Mapping[str, float] = {}
        self._done: dict[str, float] = {}  # job -> seconds that it took
        self._began = 0.0

    def begin(self, jobs: int, seconds: Mapping[str, float]) -> None:
        """Count from the beginning: a series has a run for each patch."""
        self.total_jobs, self.seconds = jobs, seconds
        self._done, self._began = {}, 0.0

    def _start(self, job: str, host: str, load: float) -> None:
        now = time.monotonic()
        self._began = self._began or now
        self._jobs[job] = _Running(now, host)
        if host:
            self._hosts.setdefault(host, _Host()).load = load

    def _end(self, result: JobResult) -> None:
        self._jobs.pop(result.job, None)
        self._done[result.job] = result.duration_s
        if result.host:
            self._hosts.setdefault(result.host, _Host()).done += 1

    def _by_host(self) -> list[tuple[str, str]]:
        """Return each host with `2 run, 5 done, load 1.8`; nothing where there is one alone."""
        busy = [running.host for running in self._jobs.values()]
        return [
            (name, f"{busy.count(name)} run, {host.done} done, load {host.load:.1f}")
            for name, host in sorted(self._hosts.items())
        ]

    def going_on(self) -> list[str]:
        """See `Progress.going_on`."""
        # copies: another thread changes them meanwhile
        stages = [f"{name} ({stage.phase})" for name, stage in dict(self._stages).items()]
        return stages + [f"job {name}" for name in dict(self._jobs)]

    def _left(self) -> str:
        """Return `3 of 80 jobs, about 4 min 20 s left`; without the time where nothing is known of some of them."""
        text = f"{len(self._done)} of {self.total_jobs} jobs"
        rest = {job: value for job, value in self.seconds.items() if job not in self._done}
        if not rest or not self._done or len(self._done) + len(rest) < self.total_jobs:
            return text
        now = time.monotonic()
        running = {job: now - running.began for job, running in self._jobs.items() if job in rest}
        left_s = time_left(
            expected=sum(self.seconds.get(job, took) for job, took in self._done.items()),
            took=sum(self._done.values()),
            running=[(rest[job], so_far) for job, so_far in running.items()],
            waiting=[value for job, value in rest.items() if job not in running],
            wall=now - self._began,
        )
        return f"{text}, about {clock(left_s)} left{' behind what is built' if self._stages else ''}"


def time_left(
    *, expected: float, took: float, running: Sequence[tuple[float, float]], waiting: Sequence[float], wall: float
) -> float:
    """Return the seconds that the rest of some jobs takes.

    What jobs really took tells how fast this host is today: the more of them are done, the more it counts. How many
    run at once is told by their seconds and the wall's.

    Args:
        expected, took: of the jobs that are done, in seconds, all together.
        running: (expected, so far) of each job that runs; one that is late has a quarter of its time before it.
        waiting: what each of the others is expected to take.
        wall: since the first one began.
    """
    pace = (took + PRIOR_S) / (expected + PRIOR_S)
    left = [max(want * pace - so_far, so_far / 4, 1.0) for want, so_far in running]
    at_once = max(1.0, (took + sum(so_far for _, so_far in running)) / max(wall, 1.0))
    return max(max(left, default=0.0), (sum(left) + pace * sum(waiting)) / at_once)


class PlainProgress(_Counted):
    """One line an event, for logs and pipes."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._lock = threading.Lock()
        self._said = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        with self._lock:  # what ended without its last word is not said to go on
            self._stages.clear()

    def _print(self, text: str) -> None:
        with contextlib.suppress(OSError):  # who reads along may go; what is done goes on
            self._stream.write(text + "\n")
            self._stream.flush()

    def note(self, text: str) -> None:
        """Print it."""
        with self._lock:
            self._print(text)

    def stage(self, name: str, phase: str, done: int = 0, total: int = 0) -> None:
        """Print a phase that lasts, and every half minute how far it is."""
        with self._lock:
            stage = self._stages.setdefault(name, _Stage())
            now = time.monotonic()
            if phase != stage.phase:
                stage.began = stage.said = now
                later = threading.Timer(PLAIN_AFTER_S, self._say_if_still, (name, phase))
                later.daemon = True
                later.start()
            stage.phase, stage.done, stage.total = phase, done, total
            if now - stage.said > PLAIN_EVERY_S:
                stage.said = now
                self._print(f"{name}: {_stage_text(stage)}")

    def _say_if_still(self, name: str, phase: str) -> None:
        with self._lock:
            stage = self._stages.get(name)
            if stage and stage.phase == phase:
                self._print(f"{name}: {_stage_text(stage)}")

    def stage_done(self, name: str, text: str) -> None:
        """Print the result."""
        with self._lock:
            self._stages.pop(name, None)
            if text:
                self._print(text)

    def job_started(self, job: str, host: str = "", load: float = 0.0) -> None:
        """Say nothing: the line comes when the job is done."""
        with self._lock:
            self._start(job, host, load)

    def job_done(self, result: JobResult) -> None:
        """Print the result, and every half minute how long the rest takes, and what each host does."""
        with self._lock:
            self._end(result)
            count = f"{len(self._done)}".rjust(len(f"{self.total_jobs}"))
            self._print(f"[{count}/{self.total_jobs}] {job_line(result)}")
            now, text = time.monotonic(), self._left()
            if now - max(self._said, self._began) > PLAIN_EVERY_S and "left" in text:
                self._said = now
                self._print("; ".join([text, *(f"{name}: {words}" for name, words in self._by_host())]))


def _stage_text(stage: _Stage) -> str:
    text = stage.phase
    if stage.done:
        text += f" {stage.done}" + (f" of about {stage.total}" if stage.total > stage.done else "") + " objects"
        if eta := stage.eta_s():
            text += f", {clock(eta)} left"
    return text


class LiveProgress(_Counted):
    """Finished things scroll by; what goes on now stands below them and is redrawn."""

    def __init__(self, console: Console) -> None:
        from rich.live import Live

        super().__init__()
        self._console = console
        self._lock = threading.Lock()
        self._live = Live(get_renderable=self._render, console=console, refresh_per_second=4, transient=True)

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._live.__exit__(kind, error, tb)

    def note(self, text: str) -> None:
        """Print it above the live part."""
        self._console.print(text, markup=False, highlight=False)

    def stage(self, name: str, phase: str, done: int = 0, total: int = 0) -> None:
        """Redraw."""
        with self._lock:
            stage = self._stages.setdefault(name, _Stage())
            if stage.phase != phase:
                stage.began = time.monotonic()
            stage.phase, stage.done, stage.total = phase, done, total

    def stage_done(self, name: str, text: str) -> None:
        """Print the result above the live part."""
        with self._lock:
            self._stages.pop(name, None)
        if text:
            self.note(text)

    def job_started(self, job: str, host: str = "", load: float = 0.0) -> None:
        """Show it as running."""
        with self._lock:
            self._start(job, host, load)

    def job_done(self, result: JobResult) -> None:
        """Print the result above the live part."""
        with self._lock:
            self._end(result)
        style = {"pass": "green", "skip": "dim", "blocked": "yellow", "infra": "magenta"}.get(result.outcome, "red")
        from rich.text import Text

        self._console.print(Text(job_line(result), style=style, no_wrap=True, overflow="ellipsis"))

    def _render(self) -> RenderableType:
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        table = Table.grid(padding=(0, 2), expand=False)
        with self._lock:
            for name, stage in self._stages.items():
                bar = ProgressBar(total=stage.total or None, completed=stage.done, width=24, pulse=not stage.total)
                table.add_row(name, bar, _stage_text(stage))
            now = time.monotonic()
            for host, words in [("", ""), *self._by_host()]:
                if host:
                    table.add_row("host", host, words)
                for job, running in self._jobs.items():
                    if running.host == host:
                        table.add_row("job", f"{now - running.began:5.0f} s", job)
            if self.total_jobs and (self._jobs or self._done):
                bar = ProgressBar(total=self.total_jobs, completed=len(self._done), width=24)
                table.add_row("jobs", bar, self._left())
        return table
