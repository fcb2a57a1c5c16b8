"""The only place where the stages meet: build -> boot -> run -> judge -> store.

One thread decides what starts: a job does as soon as its kernels and its root are there (`stages` makes them) and
the executor has room for its guests.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from kpatchlab import __version__, proc
from kpatchlab.cache import Cache, prunable
from kpatchlab.errors import UserError
from kpatchlab.host.host import Host
from kpatchlab.lab.load import Lab
from kpatchlab.lab.systems import files_of
from kpatchlab.model import BuildResult, JobResult, Outcome, Run
from kpatchlab.plan.jobs import JobSpec, Plan, for_jobs, longest_first
from kpatchlab.progress import Progress
from kpatchlab.report import FORMATS
from kpatchlab.report.view import View
from kpatchlab.run import header
from kpatchlab.run.executor import EXECUTORS, Executor, Weight, infra
from kpatchlab.run.inputs import JobInputs
from kpatchlab.run.stages import Settings, Stages, gather
from kpatchlab.store.run_dir import RunDir

CONTENTS = "contents.json"
"""In a run's folder: scenario -> key of what its jobs were made of, see `facts.of_contents`."""

REPORTS = ("junit", "html")
"""The formats that every run has in its folder."""


def execute(lab: Lab, plan: Plan, host: Host, run_dir: RunDir, progress: Progress, settings: Settings) -> View:
    """Run a whole plan and store it, with its reports; a cancelled one is stored as incomplete.

    Raises:
        LabError: nothing could be run at all (no QEMU, no kernel's source).
    """
    return _Execution(lab, plan, host, run_dir, progress, settings).go()


@dataclass(slots=True)
class _Execution:
    """One run of a plan.

    Attributes:
        done: job id -> result, those of a run that goes on first; INFRA ones are run again.
        planned: all jobs, those that `Settings.more` asks for included.
        earlier: kernels that a run that goes on has built before.
        peak_mib: the most memory that the lab and its guests held at a time, as far as it was looked at.
    """

    lab: Lab
    plan: Plan
    host: Host
    run_dir: RunDir
    progress: Progress
    settings: Settings
    began: float = field(default_factory=time.monotonic)
    done: dict[str, JobResult] = field(init=False)
    planned: list[JobSpec] = field(init=False)
    earlier: dict[str, BuildResult] = field(init=False)
    peak_mib: int = 0

    def __post_init__(self) -> None:
        self.planned, self.earlier = list(self.plan.jobs), self.run_dir.done_builds()
        self._forget_others()
        results = self.run_dir.done_jobs()
        self.done = {name: result for name, result in results.items() if result.outcome is not Outcome.INFRA}

    def _forget_others(self) -> None:
        """Forget what a run that goes on has of scenarios which are other ones now: no column may have half of it."""
        now, kept = header.of_contents(self.lab, self.plan), self.run_dir.path / CONTENTS
        before = json.loads(kept.read_bytes()) if kept.exists() else {}
        if changed := {name for name in now if before.get(name, now[name]) != now[name]}:
            for name, result in self.run_dir.done_jobs().items():
                if result.scenario in changed:
                    self.run_dir.drop_job(name)
            words = ", ".join(sorted(changed))
            self.progress.note(f"run again, since they changed after the run had begun: {words}")
        self.run_dir.write(CONTENTS, json.dumps(now, indent=1).encode())

    def go(self) -> View:
        """Run what is not done yet, and store the run."""
        settings = self.settings
        todo = longest_first([job for job in self.planned if job.id not in self.done], settings.seconds)
        todo = todo or self._more()
        if todo:
            self.host.check_room()
        needed = self.plan if todo and settings.more else for_jobs(self.plan, todo)
        save = partial(_save_build, self.run_dir, self.earlier)
        stages = Stages(self.lab, needed, self.host, settings, self.progress, save)
        try:
            self._run(todo, stages)
        finally:
            cancelled = settings.cancel.is_set()
            stages.shutdown()
        built, problems = stages.finished()
        builds = {
            name: build
            for name, build in (self.earlier | built).items()
            if build.outcome is not Outcome.INFRA or (name in built and not cancelled)
        }
        host = self.host.facts() | {"peak_memory_mib": str(self.peak_mib)} if todo else self.run_dir.header.host
        view = self._store(stages, builds, host, cancelled=cancelled)
        if problems and not cancelled and all(result.outcome is Outcome.INFRA for result in view.run.jobs):
            raise problems[0]
        return view

    # --- jobs

    def _run(self, todo: Sequence[JobSpec], stages: Stages) -> None:
        """Run jobs, and then what these show to be needed, until there is no more."""
        limit, seconds = self.lab.limits.guests, self.settings.seconds
        executor: Executor = EXECUTORS["local"](None if limit == "auto" else int(limit))
        self.progress.begin(len(todo), {job.id: seconds[job.id] for job in todo if job.id in seconds})
        try:
            if self.done:
                self.progress.note(f"{len(self.done)} of {len(self.plan.jobs)} jobs are done already")
            for line in self.host.news() if todo else ():
                self.progress.note(line)
            while todo:
                self._run_jobs(todo, stages, executor)
                todo = self._more()
                self.progress.total_jobs += len(todo)
        except BaseException:
            self.settings.cancel.set()  # a build or a job that goes on would be waited for
            raise
        finally:
            executor.shutdown()

    def _more(self) -> list[JobSpec]:
        """Return the jobs that what is done shows to be needed, which are planned from now on."""
        found = list(self.settings.more(self.done)) if self.settings.more and not self.settings.cancel.is_set() else []
        self.planned += found
        return found

    def _run_jobs(self, todo: Iterable[JobSpec], stages: Stages, executor: Executor) -> None:
        """Start every job as its kernels and its root come in and room is free; longest first, as the plan has them."""
        waiting, cancel = list(todo), self.settings.cancel
        running: dict[Future[JobResult], tuple[JobSpec, Weight]] = {}
        while (waiting or running) and not (cancel.is_set() and not running):
            for job in list(waiting):
                weight = Weight(len(job.roles), job.cpus, job.memory_mib)
                there = all(future.done() for future in stages.needed(job))
                if cancel.is_set() or not there or not executor.has_room(weight):
                    continue
                waiting.remove(job)
                inputs = self._gather(job, stages)
                if isinstance(inputs, JobResult):
                    self._ended(inputs)
                    continue
                self.progress.job_started(job.id)
                running[executor.submit(inputs, weight)] = (job, weight)
            self.peak_mib = max(self.peak_mib, proc.resident_mib())
            busy: list[Future[Any]] = [*running, *stages.pending()]
            ended, _ = wait(busy, timeout=0.5, return_when=FIRST_COMPLETED)
            for future in ended & running.keys():
                _, weight = running.pop(future)
                executor.release(weight)
                self._ended(future.result())

    def _gather(self, job: JobSpec, stages: Stages) -> JobInputs | JobResult:
        """Gather a job's inputs, or return its INFRA result where the lab itself failed it."""
        settings, reproduce = self.settings, self.settings.reproduce(job)
        try:
            inputs = gather(self.lab, job, self.host, stages, self.run_dir.path, self.run_dir.job_dir(job.id))
        except Exception as error:  # noqa: BLE001 - whatever it is, it costs this job alone, and no kernel is to blame
            return infra(job, error, reproduce)
        return replace(
            inputs,
            reproduce=reproduce,
            cancel=settings.cancel,
            guest=settings.guest,
            broken=settings.broken,
            patched=stages.counted if settings.trace else {},
        )

    def _ended(self, result: JobResult) -> None:
        if self.settings.cancel.is_set() and result.outcome is Outcome.INFRA:
            return  # the user ended it; `run --resume` does it again
        self.done[result.job] = result
        self.run_dir.save_job(result)
        self.progress.job_done(result)

    # --- the run

    def _store(
        self, stages: Stages, builds: Mapping[str, BuildResult], host: dict[str, str], *, cancelled: bool
    ) -> View:
        """Store what came of it all, and keep the cache within its limit."""
        before, lab, plan = self.run_dir.header, self.lab, self.plan
        run = Run(
            id=self.run_dir.id,
            title=before.title,
            started=before.started,
            duration_s=before.duration_s + time.monotonic() - self.began,
            complete=not cancelled and len(self.done) == len(self.planned),
            base=plan.base,
            columns=plan.columns,
            kernels=header.of_kernels(lab, plan),
            builds=tuple(builds[step.name] for step in plan.kernels if step.name in builds),
            jobs=tuple(self.done[job.id] for job in self.planned if job.id in self.done),
            host=host,
            systems=header.of_systems(lab),
            patches=header.of_patches(before, stages.patches),
            threads=header.of_threads(lab, plan, stages.context),
            touches={
                name: tuple(files_of(lab.scenarios[name], lab.systems))
                for name in sorted({job.scenario for job in plan.jobs})
            },
            command=before.command or self.settings.command,
            version=__version__,
        )
        view = View(run, self.run_dir.path)
        self.run_dir.finish(run, view.comparison)
        header.keep_maintainers(run, self.run_dir, self.host.cache)
        _keep_within(self.host.cache, lab.limits.disk_gib, time.time() - (time.monotonic() - self.began))
        for form in (FORMATS[name] for name in REPORTS):
            self.run_dir.write(form.file, form.render(view))
        return view


def _save_build(run_dir: RunDir, earlier: Mapping[str, BuildResult], build: BuildResult) -> BuildResult:
    """Store a kernel as it ends; a run that goes on keeps what is known of the same kernel from before.

    Raises:
        UserError: the run's other jobs ran on another kernel of this name.
    """
    if (known := earlier.get(build.kernel)) and known.key and build.key:
        if known.key != build.key:
            raise UserError(
                f"kernel {build.kernel} is not the one that the run began with",
                hint="its source, series or configuration has changed since: start a new run",
            )
        return known
    run_dir.save_build(build)
    return build


def _keep_within(cache: Cache, limit_gib: float, since: float) -> None:
    """Prune the cache to its limit, least recently used first; what this run used stays, however large it is."""
    for entry in prunable(cache.entries(), None, limit_gib, now=time.time()):
        if entry.used < since:
            cache.remove(entry)


def build_only(lab: Lab, plan: Plan, host: Host, progress: Progress, settings: Settings) -> list[BuildResult]:
    """Make the kernels and roots of a plan, and return the kernels.

    Raises:
        LabError: a source or a mirror could not be had.
    """
    host.check_room()
    stages = Stages(lab, plan, host, settings, progress)
    try:
        while (pending := stages.pending()) and not settings.cancel.is_set():
            wait(pending, timeout=0.5)
    finally:
        stages.shutdown()
    builds, problems = stages.finished()
    if problems:
        raise problems[0]
    return list(builds.values())
