"""The only place where the stages meet: build -> boot -> run -> judge -> store.

One thread submits each job as soon as its kernels and its root are there (`stages` makes them); the executor queues
it until there is room for its guests.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field, replace
from functools import partial
from queue import SimpleQueue
from typing import Any

from kpatchlab import __version__
from kpatchlab.errors import HostError, told
from kpatchlab.files import refuses
from kpatchlab.host.host import Host
from kpatchlab.host.peak import PeakMemory
from kpatchlab.lab.load import Lab
from kpatchlab.lab.systems import files_of
from kpatchlab.model import BuildResult, JobResult, Outcome, Run
from kpatchlab.plan.jobs import JobSpec, Plan, for_jobs, longest_first
from kpatchlab.progress import Progress
from kpatchlab.report import FORMATS
from kpatchlab.report.view import View
from kpatchlab.run import header, images
from kpatchlab.run.again import once_more
from kpatchlab.run.executor import Executor, Returned, Weight, infra
from kpatchlab.run.stages import Settings, Stages, another, gather
from kpatchlab.store.run_dir import RunDir

CONTENTS = "contents.json"
"""In a run's folder: scenario -> key of what its jobs were made of, see `header.of_contents`."""

REPORTS = ("junit", "html")
"""The formats that every run has in its folder."""


def execute(
    lab: Lab, plan: Plan, host: Host, run_dir: RunDir, progress: Progress, settings: Settings, executor: Executor
) -> View:
    """Run a whole plan and store it, with its reports; a cancelled one is stored as incomplete.

    Args:
        executor: runs the jobs, and others after them: it is its owner's to shut down.

    Raises:
        LabError: nothing could be run at all (no QEMU, no kernel's source).
    """
    return _Execution(lab, plan, host, run_dir, progress, settings, executor).go()


@dataclass(slots=True)
class _Execution:
    """One run of a plan.

    Attributes:
        done: job id -> result, those of a run that goes on first; INFRA ones are run again.
        planned: all jobs, those that `Settings.more` asks for, and those that are run once more, included.
        repeated: the latter, see `again`.
        started: job id -> monotonic time.
        earlier: kernels that a run that goes on has built before.
    """

    lab: Lab
    plan: Plan
    host: Host
    run_dir: RunDir
    progress: Progress
    settings: Settings
    executor: Executor
    peak: PeakMemory = field(default_factory=PeakMemory)
    began: float = field(default_factory=time.monotonic)
    done: dict[str, JobResult] = field(init=False)
    planned: list[JobSpec] = field(init=False)
    earlier: dict[str, BuildResult] = field(init=False)
    repeated: dict[str, JobSpec] = field(default_factory=dict)
    started: dict[str, float] = field(default_factory=dict)

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
        todo = [job for job in self.planned if job.id not in self.done]
        todo = todo if settings.in_order else longest_first(todo, settings.seconds)
        todo = todo or self._more()
        if todo:
            self.host.check_room()
        save = partial(_save_build, self.run_dir, self.earlier)
        first = self.plan if todo and settings.more else for_jobs(self.plan, todo)
        if settings.images and todo:  # all images decide, also those that no job is left for: as when the run began
            first = replace(images.first(self.lab, self.plan), images=first.images)
        stages = Stages(self.lab, first, self.host, settings, self.progress, save, self.earlier)
        try:
            with self.peak:
                if settings.images:
                    todo = self._place(todo, stages)
                self._run(todo, stages)
        finally:
            cancelled = settings.cancel.is_set()
            stages.shutdown()
        built, problems = stages.finished()
        known = {name: build for name, build in self.earlier.items() if build.outcome is not Outcome.INFRA}
        lost = {name: build for name, build in built.items() if build.outcome is Outcome.INFRA}
        builds = (
            ({} if cancelled else lost) | known | {name: build for name, build in built.items() if name not in lost}
        )
        host = self.host.facts() | {"peak_memory_mib": str(self.peak.mib)} if todo else self.run_dir.header.host
        view = self._store(stages, builds, host, cancelled=cancelled)
        if problems and not cancelled and all(result.outcome is Outcome.INFRA for result in view.run.jobs):
            raise problems[0]
        return view

    # --- jobs

    def _place(self, todo: Sequence[JobSpec], stages: Stages) -> list[JobSpec]:
        """Return the jobs with the builds that they run on, once the images are there; those begin to be made."""
        stages.read(todo)
        before = {result.scenario: result.images for result in self.done.values()}
        self.plan, wanted = images.place(self.lab, self.plan, stages, self.host.cache, before)
        on_images = {job.scenario for job in self.plan.jobs if job.images}

        def there(job: JobSpec) -> JobSpec:
            return replace(job, images=job.scenario in on_images)

        self.planned, todo = list(map(there, self.planned)), list(map(there, todo))  # repeats are in no plan
        self.repeated = {name: there(job) for name, job in self.repeated.items()}
        stages.add(for_jobs(self.plan, todo), wanted)
        return todo

    def _run(self, todo: Sequence[JobSpec], stages: Stages) -> None:
        """Run jobs, and then what these show to be needed, until there is no more."""
        seconds = self.settings.seconds
        self.progress.begin(len(todo), {job.id: seconds[job.id] for job in todo if job.id in seconds})
        try:
            if self.done:
                self.progress.note(f"{len(self.done)} of {len(self.plan.jobs)} jobs are done already")
            for line in self.host.news() if todo else ():
                self.progress.note(line)
            while todo:
                self._run_jobs(todo, stages)
                todo = self._more()
                stages.add(for_jobs(self.plan, todo))
                self.progress.total_jobs += len(todo)
        except BaseException:
            self.settings.cancel.set()  # a build that goes on would be waited for
            raise

    def _run_jobs(self, todo: Iterable[JobSpec], stages: Stages) -> None:
        """Submit every job as its kernels and its root come in; those that are first in `todo` go first."""
        waiting, cancel = dict(enumerate(todo)), self.settings.cancel
        running: dict[Future[Returned], JobSpec] = {}
        ended = _ends(stages.all())
        try:
            while (waiting or running) and not (cancel.is_set() and not running):
                future = ended.get()
                if (ran := running.pop(future, None)) is not None:
                    if not future.cancelled():
                        self._ended(future.result(), ran, stages)
                    continue
                for number, job in list(waiting.items()):
                    if all(made.done() for made in stages.needed(job)) and not cancel.is_set():
                        del waiting[number]
                        if (submitted := self._submit(job, -number, stages)) is not None:
                            running[submitted] = job
                            submitted.add_done_callback(ended.put)
        except BaseException:
            cancel.set()  # a job that goes on would be waited for
            raise
        finally:
            wait(running)

    def _more(self) -> list[JobSpec]:
        """Return the jobs that what is done shows to be needed, which are planned from now on."""
        if self.settings.cancel.is_set():
            return []
        if self.settings.more:
            found = list(self.settings.more(self.done))
            self.planned += found
            return found
        return self._once_more()

    def _once_more(self) -> list[JobSpec]:
        """Return the jobs that are repeated since once does not tell, see `again`; none that shall fail."""
        first = [job for job in self.planned if job.id not in self.repeated]
        found = [] if self.settings.broken else once_more(first, self.done, self.plan.base)
        fresh = [(job, why) for job, why in found if job.id not in self.repeated]
        self.repeated |= {job.id: job for job, _ in fresh}
        self.planned += [job for job, _ in fresh]
        todo = [(job, why) for job, why in fresh if job.id not in self.done]
        for job, why in todo:
            self.progress.note(f"once more: {job.id}: {why}")
        return [job for job, _ in todo]

    def _submit(self, job: JobSpec, priority: int, stages: Stages) -> Future[Returned] | None:
        """Hand a job to the executor; None where the lab itself failed it before."""
        try:
            task = gather(self.lab, job, stages, self.settings)
        except Exception as error:  # noqa: BLE001 - whatever it is, it costs this job alone, and no kernel is to blame
            if job.id in self.repeated and any(made.exception() for made in stages.needed(job)):
                self.planned.remove(job)  # the first word stands
                self.progress.total_jobs -= 1
                self.progress.note(f"{job.id} is not run: {told(error)}")
                return None
            self._ended(Returned(infra(job, error), None), job, stages)
            return None

        def started(host: str, load: float) -> None:
            self.started[job.id] = time.monotonic()
            self.progress.job_started(job.id, host, load)

        return self.executor.submit(task, Weight.of(job), priority, cancel=self.settings.cancel, started=started)

    def _ended(self, returned: Returned, job: JobSpec, stages: Stages) -> None:
        """Keep what came of a job, and its files."""
        result = returned.result
        if self.settings.cancel.is_set() and result.outcome is Outcome.INFRA:  # `run --resume` does it again
            if returned.folder:
                shutil.rmtree(returned.folder, ignore_errors=True)
            return
        if returned.folder and not returned.folder.exists():
            result = infra(job, HostError("its files are gone", hint="was the cache cleaned while it ran?"))
        elif returned.folder:
            result = self.run_dir.take_in(result, returned.folder)
        if result.outcome is Outcome.INFRA:
            self._check_disks()
        here = job.id in self.started and not result.host
        beside = stages.beside(self.started[job.id], time.monotonic()) if here else ()
        result = replace(result, reproduce=self.settings.reproduce(job), beside=beside)
        self.done[result.job] = result
        self.run_dir.save_job(result)
        self.progress.job_done(result)

    def _check_disks(self) -> None:
        """Pass where the disks take what jobs leave; whatever a job was lost for, its result says nothing of that.

        Raises:
            HostError: one does not; `run --resume` goes on when it does again.
        """
        for folder in (self.run_dir.path, self.host.cache.root):
            if why := refuses(folder):
                raise HostError(f"cannot write to {folder}: {why}", hint="make room, then run --resume last")

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
            threads=header.of_threads(plan, stages.context),
            checkouts=header.of_checkouts(stages.checkouts, self.run_dir),
            touches={
                name: tuple(files_of(lab.scenario(name), lab.systems))
                for name in sorted({job.scenario for job in plan.jobs})
            },
            command=before.command or self.settings.command,
            version=__version__,
        )
        view = View(run, self.run_dir.path)
        self.run_dir.finish(run, view.comparison)
        header.keep_maintainers(run, self.run_dir, self.host.cache)
        self.host.cache.keep_within(lab.limits.disk_gib, time.time() - (time.monotonic() - self.began))
        for form in (FORMATS[name] for name in REPORTS):
            self.run_dir.write(form.file, form.render(view))
        return view


def _ends(futures: Iterable[Future[Any]]) -> SimpleQueue[Future[Any]]:
    """Return a queue that gets each of these as it ends."""
    ended: SimpleQueue[Future[Any]] = SimpleQueue()
    for future in futures:
        future.add_done_callback(ended.put)
    return ended


def _save_build(run_dir: RunDir, earlier: Mapping[str, BuildResult], build: BuildResult) -> BuildResult:
    """Store a kernel as it ends; a run that goes on keeps what is known of the same kernel from before.

    Raises:
        UserError: the run's other jobs ran on another kernel of this name; its files changed since it was asked for.
    """
    if (known := earlier.get(build.kernel)) and known.key and build.key:
        if known.key != build.key:
            raise another(build.kernel)
        return known
    run_dir.save_build(build)
    return build


def build_only(lab: Lab, plan: Plan, host: Host, progress: Progress, settings: Settings) -> list[BuildResult]:
    """Make the kernels and roots of a plan, and return the kernels.

    Raises:
        LabError: a source or a mirror could not be had.
    """
    host.check_room()
    stages = Stages(lab, plan, host, settings, progress)
    try:
        ended = _ends(stages.all())
        while stages.pending() and not settings.cancel.is_set():
            ended.get()
    finally:
        stages.shutdown()
    builds, problems = stages.finished()
    if problems:
        raise problems[0]
    return list(builds.values())
