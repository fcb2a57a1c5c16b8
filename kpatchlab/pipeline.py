"""The only place where the stages meet: build -> boot -> run -> judge -> store.

One thread decides what starts; kernels build one after the other (each takes all processors), the roots beside
them, and a job starts as soon as its kernels and its root are there and the executor has room for its guests.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from kpatchlab import __version__, facts, proc
from kpatchlab.build import BuildContext, BuildProgress, base_key, build_kernel, series_changes, traceable
from kpatchlab.build.context import BuildCancelled
from kpatchlab.build.foreign import Built, build_foreign
from kpatchlab.build.series import DoesNotApplyError
from kpatchlab.cache import Cache, prunable
from kpatchlab.errors import LabError, UserError
from kpatchlab.executor import EXECUTORS, Executor, Weight, infra, told
from kpatchlab.guest.vm import Boot, MachineShape
from kpatchlab.host import Host
from kpatchlab.image import initrd, packages_in, root_image, root_key
from kpatchlab.lab import Lab
from kpatchlab.model import BuildResult, JobResult, Outcome, PatchFacts, Run
from kpatchlab.plan import JobSpec, Plan, longest_first
from kpatchlab.progress import Progress, built, clock
from kpatchlab.report import FILES, WRITERS
from kpatchlab.seats import JobInputs
from kpatchlab.store import RunDir
from kpatchlab.systems import files_of


@dataclass(frozen=True, slots=True)
class Settings:
    """What the caller decides beyond the plan.

    Attributes:
        command: the command line that started the run, for the record.
        cancel: set to end early; what is done is kept.
        reproduce: job -> the command line that runs it alone.
        verbose: takes each command line as it is started.
        guest: what a job's guest is, see `seats.JobInputs`.
        broken: see `seats.JobInputs`.
        seconds: job id -> what it is expected to take; the longest start first.
        more: asked when all jobs are done: what they showed -> jobs to run as well, on the plan's kernels and roots.
        trace: whether calls of the functions that the series change are counted; it costs time in the guests.
        built: kernels that are there already, by name; none of them is looked for or built.
    """

    command: str = ""
    cancel: threading.Event = field(default_factory=threading.Event)
    reproduce: Callable[[JobSpec], str] = lambda job: f"kpatchlab run --job {job.id}"
    verbose: Callable[[str], None] = lambda text: None  # noqa: ARG005
    guest: str = "fork"
    broken: bool = False
    seconds: Mapping[str, float] = field(default_factory=dict)
    more: Callable[[Mapping[str, JobResult]], Sequence[JobSpec]] = lambda done: ()  # noqa: ARG005
    built: Mapping[str, BuildResult] = field(default_factory=dict)
    trace: bool = False


class Stages:
    """Builds and images of one plan, each made once, in the background.

    Args:
        done: takes each kernel as it ends; what it returns stands in its place.

    Attributes:
        kernels: name -> future of its BuildResult.
        roots: name -> future of the image's path.
        foreign: (kernel, name) -> future of the tests of others, built for that kernel.
        patches: name -> the patches of a kernel that is done; see `traceable.facts`.
        counted: name -> what `reach start` takes to count the functions that they change.
    """

    def __init__(
        self,
        lab: Lab,
        plan: Plan,
        host: Host,
        settings: Settings,
        progress: Progress,
        done: Callable[[BuildResult], BuildResult] = lambda build: build,
    ) -> None:
        self._done = done
        self._lock = threading.Lock()
        wanted = {(k, name): None for job in plan.jobs for k in job.placement.values() for name in job.foreign}
        self._all = len(plan.kernels) + len(plan.images) + len(wanted)
        self._cached: list[str] = []
        self.patches: dict[str, tuple[PatchFacts, ...]] = {}
        self.counted: dict[str, tuple[str, ...]] = {}
        self._lab, self._host, self._progress, self._settings = lab, host, progress, settings
        self._builders = ThreadPoolExecutor(1, thread_name_prefix="kernel")
        self._imagers = ThreadPoolExecutor(1, thread_name_prefix="root")
        self._testers = ThreadPoolExecutor(1, thread_name_prefix="tests")
        self.kernels = {step.name: self._builders.submit(self._kernel, step.name) for step in plan.kernels}
        self.roots = {step.name: self._imagers.submit(self._root, step.name) for step in plan.images}
        self.foreign = {pair: self._testers.submit(self._tests, *pair) for pair in wanted}

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
        if name in self._settings.built:
            self._found(label)
            return self._done(replace(self._settings.built[name], kernel=name))
        try:
            result = build_kernel(self._lab.kernels[name], name, self.context(label))
        except DoesNotApplyError as error:  # the series' doing: it costs this kernel's columns, and no others
            tail = "\n".join([*error.details, f"hint: {error.hint}"])
            base = base_key(self._lab.kernels[name], self.context(label))
            result = BuildResult(name, Outcome.BLOCKED, base_key=base, error=error.message, log_tail=tail)
        except LabError as error:
            self._progress.stage_done(label, f"{label}: {error.message}")
            raise
        if result.cached:
            self._found(label)
        else:
            self._progress.stage_done(label, built(result))
        if self._lab.kernels[name].series and result.outcome in {Outcome.PASS, Outcome.BLOCKED}:
            self._look(name, result, label)
        return self._done(result)

    def _look(self, name: str, result: BuildResult, label: str) -> None:
        """See what each patch of a kernel's series changes; a series that cannot be read costs the counts alone."""
        try:
            changes = series_changes(self._lab.kernels[name], self.context(label))
            artifact = Path(result.path) if result.outcome is Outcome.PASS else None
            self.patches[name], self.counted[name] = traceable.facts(name, changes, artifact)
        except LabError as error:
            self._progress.note(f"kernel {name}: what its patches change is not known: {error.message}")
            return
        for unread in (f"patch {patch.number}: {text}" for patch in changes.patches for text in patch.unread):
            self._progress.note(f"kernel {name}: {unread}: its lines and functions are not known")

    def _root(self, name: str) -> Path:
        label = f"root {name}"
        began = time.monotonic()
        recipe = self._lab.rootfs_recipes[name]
        try:
            cached = self._host.cache.has("root", root_key(recipe, self._lab.root))
            self._progress.stage(label, "cached" if cached else "packages")
            path = root_image(recipe, self.context(label))
        except LabError as error:
            self._progress.stage_done(label, f"{label}: {error.message}")
            raise
        if cached:
            self._found(label)
        else:
            self._progress.stage_done(label, f"{label}: made in {clock(time.monotonic() - began)}")
        return path

    def _tests(self, kernel: str, name: str) -> Built:
        label = f"{name} of {kernel}"
        began = time.monotonic()
        self._progress.stage(label, "build")
        try:
            built = build_foreign(self._lab.kernels[kernel], name, self.context(label))
        except LabError as error:
            self._progress.stage_done(label, f"{label}: {error.message}")
            raise
        if built.cached:
            self._found(label)
        else:
            how = f"built in {clock(time.monotonic() - began)}"
            self._progress.stage_done(label, f"{label}: {built.reason or how}")
        return built

    def _found(self, label: str) -> None:
        """Tell that a step was in the cache; where all of them were, one line says so."""
        with self._lock:
            self._cached.append(label)
            everything = len(self._cached) == self._all
        self._progress.stage_done(label, "nothing to build: all cached" if everything else "")

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
        every: list[Future[Any]] = [*self.kernels.values(), *self.roots.values(), *self.foreign.values()]
        return [future for future in every if not future.done()]

    def shutdown(self) -> None:
        """Let go of what has not begun, and wait for what has."""
        self._builders.shutdown(cancel_futures=True)
        self._imagers.shutdown(cancel_futures=True)
        self._testers.shutdown(cancel_futures=True)


def execute(lab: Lab, plan: Plan, host: Host, run_dir: RunDir, progress: Progress, settings: Settings) -> Run:
    """Run a whole plan and store it; a cancelled one is stored as incomplete.

    Raises:
        LabError: nothing could be run at all (no QEMU, no kernel's source).
    """
    began, before = time.monotonic(), run_dir.header
    earlier = run_dir.done_builds()
    done = {name: result for name, result in run_dir.done_jobs().items() if result.outcome is not Outcome.INFRA}
    todo = longest_first([job for job in plan.jobs if job.id not in done], settings.seconds)
    save = partial(_save_build, run_dir, earlier)
    began_with = len(todo)
    if todo:
        host.check_room()
    stages = Stages(lab, for_jobs(plan, todo), host, settings, progress, save)
    peak = _Peak()
    executor: Executor = EXECUTORS["local"](None if lab.limits.guests == "auto" else int(lab.limits.guests))
    progress.begin(len(todo), {job.id: settings.seconds[job.id] for job in todo if job.id in settings.seconds})
    try:
        if done:
            progress.note(f"{len(done)} of {len(plan.jobs)} jobs are done already")
        for line in host.news() if todo else ():
            progress.note(line)
        planned = list(plan.jobs)
        while todo:
            done |= _run_jobs(lab, todo, host, stages, executor, run_dir, progress, settings, peak)
            todo = [] if settings.cancel.is_set() else list(settings.more(done))
            planned += todo
            progress.total_jobs += len(todo)
    except BaseException:
        settings.cancel.set()  # a build that goes on would be waited for
        raise
    finally:
        cancelled = settings.cancel.is_set()
        executor.shutdown()
        stages.shutdown()
    builds, problems = _finished(stages)
    builds = {
        name: build
        for name, build in (earlier | builds).items()
        if build.outcome is not Outcome.INFRA or (name in builds and not cancelled)
    }
    run = Run(
        id=run_dir.id,
        title=before.title,
        started=before.started,
        duration_s=before.duration_s + time.monotonic() - began,
        complete=not cancelled and len(done) == len(planned),
        base=plan.base,
        columns=plan.columns,
        kernels=facts.of_kernels(lab, plan),
        builds=tuple(replace(builds[step.name], path="") for step in plan.kernels if step.name in builds),
        jobs=tuple(done[job.id] for job in planned if job.id in done),
        host=host.facts() | {"peak_memory_mib": str(peak.mib)} if began_with else before.host,
        systems=facts.of_systems(lab),
        patches=facts.of_patches(before, stages.patches),
        threads=facts.of_threads(lab, plan, stages.context),
        touches={
            name: tuple(files_of(lab.scenarios[name], lab.systems))
            for name in sorted({job.scenario for job in plan.jobs})
        },
        command=before.command or settings.command,
        version=__version__,
    )
    run_dir.finish(run)
    facts.keep_maintainers(run, run_dir, builds.values())
    _keep_within(host.cache, lab.limits.disk_gib, time.time() - (time.monotonic() - began))
    for name in ("junit", "html"):
        run_dir.write(FILES[name], WRITERS[name](run, run_dir.path))
    if problems and not cancelled and all(result.outcome is Outcome.INFRA for result in run.jobs):
        raise problems[0]
    return run


class _Peak:
    """The most memory that the lab and its guests held at a time, as far as it was looked at."""

    def __init__(self) -> None:
        self.mib = 0

    def look(self) -> None:
        """Look now."""
        self.mib = max(self.mib, proc.resident_mib())


def for_jobs(plan: Plan, jobs: Collection[JobSpec]) -> Plan:
    """Return a plan with these jobs alone, and the kernels, roots and columns that they need."""
    used = {kernel for job in jobs for kernel in job.placement.values()}
    return replace(
        plan,
        jobs=tuple(jobs),
        kernels=tuple(step for step in plan.kernels if step.name in used),
        images=tuple(step for step in plan.images if step.name in {job.rootfs for job in jobs}),
        columns=tuple(column for column in plan.columns if column in {job.column for job in jobs}),
    )


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
        return replace(known, path=build.path)
    run_dir.save_build(build)
    return build


def _keep_within(cache: Cache, limit_gib: float, since: float) -> None:
    """Prune the cache to its limit, least recently used first; what this run used stays, however large it is."""
    for entry in prunable(cache.entries(), None, limit_gib, now=time.time()):
        if entry.used < since:
            cache.remove(entry)


def _finished(stages: Stages) -> tuple[dict[str, BuildResult], list[BaseException]]:
    """Return the kernels that came to an end, by name, and why kernels and roots could not even be tried."""
    results: dict[str, BuildResult] = {}
    problems: list[BaseException] = []
    for name, future in stages.kernels.items():
        if future.cancelled():
            continue
        if (error := future.exception()) is None:
            results[name] = future.result()
        elif not isinstance(error, BuildCancelled):
            problems.append(error)
            results[name] = BuildResult(name, Outcome.INFRA, error=told(error))
    others: list[Future[Any]] = [*stages.foreign.values(), *stages.roots.values()]
    found = [error for made in others if not made.cancelled() and (error := made.exception())]
    problems += [error for error in found if not isinstance(error, BuildCancelled)]
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
    peak: _Peak,
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
            needed += [stages.foreign[pair] for pair in _foreign(job)]
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
        peak.look()
        busy: list[Future[Any]] = [*running, *stages.pending()]
        ended, _ = wait(busy, timeout=0.5, return_when=FIRST_COMPLETED)
        for future in ended & running.keys():
            _, weight = running.pop(future)
            executor.release(weight)
            record(future.result())
    return done


def _foreign(job: JobSpec) -> list[tuple[str, str]]:
    """Return (kernel, name) of all tests of others that a job's guests get."""
    return [(kernel, name) for kernel in dict.fromkeys(job.placement.values()) for name in job.foreign]


def gather(lab: Lab, job: JobSpec, host: Host, stages: Stages, out: Path, folder: Path) -> JobInputs:
    """Gather a job's inputs, waiting for the stages that it needs.

    Raises:
        LabError: a stage of the lab itself failed; a kernel that does not build is no such case.
    """
    scenario = lab.scenarios[job.scenario]
    kernels = {name: stages.kernels[name].result() for name in set(job.placement.values())}
    root = stages.roots[job.rootfs].result()
    boots = {}
    for role in job.roles:
        if kernels[role.kernel].outcome is Outcome.PASS:
            shape = host.shape(lab.machines[job.machine], role.memory_mib)
            boots[role.name] = stages.boot_spec(kernels[role.kernel], root, shape, scenario.cmdline)
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
        debug=frozenset(name for name in kernels if lab.kernels[name].debug),
        covered=frozenset(name for name in kernels if lab.kernels[name].coverage),
        foreign={pair: stages.foreign[pair].result() for pair in _foreign(job)},
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
    return replace(
        inputs,
        reproduce=reproduce,
        cancel=settings.cancel,
        guest=settings.guest,
        broken=settings.broken,
        patched=stages.counted if settings.trace else {},
    )


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
    builds, problems = _finished(stages)
    if problems:
        raise problems[0]
    return list(builds.values())
