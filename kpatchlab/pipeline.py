"""The only place where the stages meet: build -> boot -> run -> judge -> store.

One thread decides what starts; kernels build one after the other (each takes all processors), the roots beside
them, and a job starts as soon as its kernels and its root are there and the executor has room for its guests.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kpatchlab import __version__
from kpatchlab.build import BuildContext, BuildProgress, build_kernel
from kpatchlab.errors import LabError
from kpatchlab.executor import EXECUTORS, Executor, Weight, infra
from kpatchlab.guest.vm import Boot, MachineShape
from kpatchlab.host import Host
from kpatchlab.image import initrd, packages_in, root_image
from kpatchlab.lab import Lab
from kpatchlab.model import BuildResult, JobResult, KernelFacts, Outcome, Run
from kpatchlab.plan import JobSpec, Plan
from kpatchlab.progress import Progress, built, clock
from kpatchlab.report import WRITERS
from kpatchlab.seats import JobInputs
from kpatchlab.store import RunDir


@dataclass(frozen=True, slots=True)
class Settings:
    """What the caller decides beyond the plan.

    Attributes:
        command: the command line that started the run, for the record.
        cancel: set to end early; what is done is kept.
        reproduce: job -> the command line that runs it alone.
        verbose: takes each command line as it is started.
        guest: what a job's guest is, see `job.JobInputs`.
    """

    command: str = ""
    cancel: threading.Event = field(default_factory=threading.Event)
    reproduce: Callable[[JobSpec], str] = lambda job: f"kpatchlab run --job {job.id}"
    verbose: Callable[[str], None] = lambda text: None  # noqa: ARG005
    guest: str = "fork"


class Stages:
    """Builds and images of one plan, each made once, in the background.

    Attributes:
        kernels: name -> future of its BuildResult.
        roots: name -> future of the image's path.
    """

    def __init__(
        self,
        lab: Lab,
        plan: Plan,
        host: Host,
        settings: Settings,
        progress: Progress,
        done: Callable[[BuildResult], None] = lambda build: None,  # noqa: ARG005
    ) -> None:
        self._done = done
        self._lab, self._host, self._progress, self._settings = lab, host, progress, settings
        self._builders = ThreadPoolExecutor(1, thread_name_prefix="kernel")
        self._imagers = ThreadPoolExecutor(1, thread_name_prefix="root")
        self.kernels = {step.name: self._builders.submit(self._kernel, step.name) for step in plan.kernels}
        self.roots = {step.name: self._imagers.submit(self._root, step.name) for step in plan.images}

    def context(self, name: str) -> BuildContext:
        """Return what a build or an image needs to know of this lab."""

        def tell(now: BuildProgress) -> None:
            self._progress.stage(name, now.phase, now.done, now.total_estimate)

        return BuildContext(
            cache=self._host.cache,
            lab_root=self._lab.root,
            mirror=self._lab.mirror,
            jobs=self._host.build_jobs(self._lab.limits.build_jobs),
            progress=tell,
            cancel=self._settings.cancel,
            verbose=self._settings.verbose,
        )

    def _kernel(self, name: str) -> BuildResult:
        label = f"kernel {name}"
        try:
            result = build_kernel(self._lab.kernels[name], name, self.context(label))
        except LabError as error:
            self._progress.stage_done(label, f"{label}: {error.message}")
            raise
        self._done(result)
        self._progress.stage_done(label, built(result))
        return result

    def _root(self, name: str) -> Path:
        label = f"root {name}"
        began = time.monotonic()
        try:
            path = root_image(self._lab.rootfs_recipes[name], self.context(label))
        except LabError as error:
            self._progress.stage_done(label, f"{label}: {error.message}")
            raise
        took = time.monotonic() - began
        self._progress.stage_done(label, f"{label}: {'cached' if took < 1 else f'made in {clock(took)}'}")
        return path

    def boot_spec(self, kernel: BuildResult, root: Path, shape: MachineShape, cmdline: str) -> Boot:
        """Return what to boot for a kernel on a root; packs the initramfs where that is not in the cache."""
        artifact = Path(kernel.path)
        return Boot(
            vmlinuz=artifact / "vmlinuz",
            initrd=initrd(artifact, self.context(f"initramfs {kernel.kernel}")),
            root_image=root,
            modules_image=artifact / "modules.erofs",
            machine=shape,
            cmdline=cmdline,
        )

    def pending(self) -> list[Future[Any]]:
        """Return what is still being made."""
        every: list[Future[Any]] = [*self.kernels.values(), *self.roots.values()]
        return [future for future in every if not future.done()]

    def shutdown(self) -> None:
        """Let go of what has not begun, and wait for what has."""
        self._builders.shutdown(cancel_futures=True)
        self._imagers.shutdown(cancel_futures=True)


def execute(lab: Lab, plan: Plan, host: Host, run_dir: RunDir, progress: Progress, settings: Settings) -> Run:
    """Run a whole plan and store it; a cancelled one is stored as incomplete.

    Raises:
        LabError: nothing could be run at all (no QEMU, no kernel's source).
    """
    began, started = time.monotonic(), datetime.now(UTC).isoformat(timespec="seconds")
    stages = Stages(lab, plan, host, settings, progress, run_dir.save_build)
    done = {name: result for name, result in run_dir.done_jobs().items() if result.outcome is not Outcome.INFRA}
    executor: Executor = EXECUTORS["local"](None if lab.limits.guests == "auto" else int(lab.limits.guests))
    try:
        todo = [job for job in plan.jobs if job.id not in done]
        done |= _run_jobs(lab, todo, host, stages, executor, run_dir, progress, settings)
    finally:
        settings_cancelled = settings.cancel.is_set()
        executor.shutdown()
        stages.shutdown()
    builds, problems = _finished(stages.kernels)
    order = {job.id: number for number, job in enumerate(plan.jobs)}
    run = Run(
        id=run_dir.id,
        title=lab.title,
        started=started,
        duration_s=time.monotonic() - began,
        complete=not settings_cancelled and len(done) == len(plan.jobs),
        base=plan.base,
        columns=plan.columns,
        kernels=kernel_facts(lab, plan),
        builds=tuple(replace(build, path="") for build in builds),
        jobs=tuple(sorted(done.values(), key=lambda result: order.get(result.job, 0))),
        host=host.facts(),
        command=settings.command,
        version=__version__,
    )
    run_dir.finish(run)
    for name, target in (("junit", "junit.xml"), ("html", "index.html")):
        run_dir.write(target, WRITERS[name](run, run_dir.path))
    if problems and not any(result.outcome is not Outcome.INFRA for result in run.jobs) and not settings_cancelled:
        raise problems[0]
    return run


def kernel_facts(lab: Lab, plan: Plan) -> tuple[KernelFacts, ...]:
    """Return what a reader of a run must know of its kernels."""
    return tuple(
        KernelFacts(step.name, "base" if step.name == plan.base else "", lab.kernels[step.name].description)
        for step in plan.kernels
    )


def _finished(futures: Mapping[str, Future[BuildResult]]) -> tuple[list[BuildResult], list[LabError]]:
    """Return the kernels that came to an end, and the errors of those that could not even be tried."""
    results, problems = [], []
    for name, future in futures.items():
        if future.cancelled() or not future.done():
            continue
        error = future.exception()
        if error is None:
            results.append(future.result())
        elif isinstance(error, LabError):
            problems.append(error)
            results.append(BuildResult(name, Outcome.INFRA, error=error.message))
        else:
            raise error
    return results, problems


def _run_jobs(
    lab: Lab,
    todo: Iterable[JobSpec],
    host: Host,
    stages: Stages,
    executor: Executor,
    run_dir: RunDir,
    progress: Progress,
    settings: Settings,
) -> dict[str, JobResult]:
    """Start every job as its kernels and its root come in and room is free; longest first, as the plan has them."""
    waiting = list(todo)
    running: dict[Future[JobResult], tuple[JobSpec, Weight]] = {}
    done: dict[str, JobResult] = {}

    def record(result: JobResult) -> None:
        if settings.cancel.is_set() and result.outcome is Outcome.INFRA:
            return  # the user ended it; `run --resume` does it again
        done[result.job] = result
        run_dir.save_job(result)
        progress.job_done(result)

    while (waiting or running) and not (settings.cancel.is_set() and not running):
        for job in list(waiting):
            needed: list[Future[Any]] = [stages.roots[job.rootfs]]
            needed += [stages.kernels[name] for name in set(job.placement.values())]
            weight = Weight(len(job.roles), job.cpus, job.memory_mib)
            if settings.cancel.is_set() or not all(f.done() for f in needed) or not executor.has_room(weight):
                continue
            waiting.remove(job)
            inputs = _try_gather(lab, job, host, stages, run_dir, settings)
            if isinstance(inputs, JobResult):
                record(inputs)
                continue
            progress.job_started(job.id)
            running[executor.submit(inputs, weight)] = (job, weight)
        busy: list[Future[Any]] = [*running, *stages.pending()]
        ended, _ = wait(busy, timeout=0.5, return_when=FIRST_COMPLETED)
        for future in ended & running.keys():
            _, weight = running.pop(future)
            executor.release(weight)
            record(future.result())
    return done


def gather(lab: Lab, job: JobSpec, host: Host, stages: Stages, out: Path, folder: Path) -> JobInputs:
    """Gather a job's inputs, waiting for the stages that it needs.

    Raises:
        LabError: a stage of the lab itself failed; a kernel that does not build is no such case.
    """
    scenario = lab.scenarios[job.scenario]
    kernels = {name: stages.kernels[name].result() for name in set(job.placement.values())}
    root = stages.roots[job.rootfs].result()
    boots = {}
    for role, name in job.placement.items():
        if kernels[name].outcome is Outcome.PASS:
            shape = host.shape(lab.machines[job.machine], scenario.roles[role].memory_mib)
            boots[role] = stages.boot_spec(kernels[name], root, shape, scenario.cmdline)
    return JobInputs(
        spec=job,
        scenario=scenario,
        kernels=kernels,
        boots=boots,
        packages=frozenset(packages_in(root)),
        lab_root=lab.root,
        cache=host.cache,
        out=out,
        folder=folder,
        console_bytes=int(lab.limits.console_mib * (1 << 20)),
    )


def _try_gather(
    lab: Lab, job: JobSpec, host: Host, stages: Stages, run_dir: RunDir, settings: Settings
) -> JobInputs | JobResult:
    """Gather a job's inputs, or return its INFRA result where the lab itself failed it."""
    reproduce = settings.reproduce(job)
    try:
        inputs = gather(lab, job, host, stages, run_dir.path, run_dir.job_dir(job.id))
    except Exception as error:  # noqa: BLE001 - whatever it is, it costs this job alone, and no kernel is to blame
        return infra(job, error, reproduce)
    return replace(inputs, reproduce=reproduce, cancel=settings.cancel, guest=settings.guest)


def build_only(lab: Lab, plan: Plan, host: Host, progress: Progress, settings: Settings) -> list[BuildResult]:
    """Make the kernels and roots of a plan, and return the kernels.

    Raises:
        LabError: a source or a mirror could not be had.
    """
    stages = Stages(lab, plan, host, settings, progress)
    try:
        while (pending := stages.pending()) and not settings.cancel.is_set():
            wait(pending, timeout=0.5)
    finally:
        stages.shutdown()
    builds, problems = _finished(stages.kernels)
    roots = [f.exception() for f in stages.roots.values() if f.done() and not f.cancelled()]
    problems += [error for error in roots if isinstance(error, LabError)]
    if problems:
        raise problems[0]
    return builds
