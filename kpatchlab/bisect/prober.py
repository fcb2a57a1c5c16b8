"""One step of a search with real kernels and guests: check out, build in place, run, judge."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Self

from kpatchlab.bisect import objects
from kpatchlab.bisect.criterion import Criterion, Judged, judge_build, judge_jobs
from kpatchlab.bisect.loop import Mark
from kpatchlab.bisect.state import Kernel
from kpatchlab.bisect.workspace import Workspace
from kpatchlab.build import BuildContext, stored_kernel
from kpatchlab.build import build_kernel as build_kernel_
from kpatchlab.build.roots import initrd, root_image, root_key
from kpatchlab.errors import GuestLost, UserError
from kpatchlab.evidence.splats import find_splats
from kpatchlab.guest.vm import boot
from kpatchlab.host.host import Host
from kpatchlab.lab.file import Matrix
from kpatchlab.lab.load import Lab
from kpatchlab.lab.recipes import DirSource, KernelRecipe
from kpatchlab.model import BuildResult, JobResult, Outcome, Run
from kpatchlab.plan.jobs import JobSpec, Plan, for_jobs, make_plan
from kpatchlab.progress import Progress
from kpatchlab.run.boot import BootSpec
from kpatchlab.run.executor import Weight
from kpatchlab.run.executors import executor_of
from kpatchlab.run.session import Session
from kpatchlab.run.stages import Settings
from kpatchlab.store.run_plan import RunKind, RunPlan
from kpatchlab.store.store import Store

NAME, GOOD = "bisect", "good-end"
"""What the two kernels are called in a step's runs."""
BUILD_S, COMMIT_S, RUN_S = 60.0, 0.3, 30.0
"""Seconds of an incremental build, more of it for each commit in between, and of a run, until some are measured."""
COLD_S = 1200.0
MOST_WIDTH = 4
"""Runs of one commit that are worth starting side by side."""


@dataclass(frozen=True, slots=True)
class BuiltCommit:
    """A commit's kernel; `fresh`: it was built just now, in `seconds`."""

    commit: str
    result: BuildResult
    digest: str
    seconds: float
    fresh: bool


@dataclass(slots=True)
class Times:
    """What steps took so far: (commits in between, seconds) of builds, and seconds of runs."""

    builds: list[tuple[int, float]] = field(default_factory=list)
    runs: list[float] = field(default_factory=list)

    def build_s(self, distance: int) -> float:
        """Return what a build is expected to take, so many commits away from the one that lies built."""
        warm = sorted(seconds for _, seconds in self.builds)
        least = warm[0] if warm else BUILD_S
        slopes = [(seconds - least) / apart for apart, seconds in self.builds if apart]
        return min(COLD_S, least + (median(slopes) if slopes else COMMIT_S) * distance)

    def run_s(self) -> float:
        """Return what a run is expected to take."""
        return median(self.runs) if self.runs else RUN_S


class _OneLine:
    """What a step's run tells, as one stage of the search, which has its own words for what came of it."""

    total_jobs = 0

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def begin(self, jobs: int, seconds: Mapping[str, float]) -> None:
        pass

    def note(self, text: str) -> None:
        pass

    def stage(self, name: str, phase: str, done: int = 0, total: int = 0) -> None:
        self._progress.stage(name, phase, done, total)

    def stage_done(self, name: str, text: str) -> None:  # noqa: ARG002
        self._progress.stage_done(name, "")

    def job_started(self, job: str, host: str = "", load: float = 0.0) -> None:  # noqa: ARG002
        self._progress.stage(job, "guest")

    def job_done(self, result: JobResult) -> None:
        self._progress.stage_done(result.job, "")

    def going_on(self) -> list[str]:
        return self._progress.going_on()


class Prober:
    """Carries out the runs of one search.

    Args:
        recipe: the kernel's recipe; its configuration is used, its source and series are not.
        placement: role -> kernel of the lab, for roles that do not run what is searched.
        runs_root: where the runs of the steps are stored.
        kernels: commit -> what was built of it before; grows.
    """

    def __init__(
        self,
        lab: Lab,
        host: Host,
        space: Workspace,
        recipe: KernelRecipe,
        criterion: Criterion,
        runs_root: Path,
        progress: Progress,
        settings: Settings,
        placement: dict[str, str] | None = None,
        kernels: dict[str, Kernel] | None = None,
    ) -> None:
        self.lab, self.host, self.space, self.criterion = lab, host, space, criterion
        self.use(recipe)
        self.kernels = kernels if kernels is not None else {}
        self.times = Times()
        self.at = ""  # the commit that lies built in the object directory
        self._placement = placement or {}
        self._store = Store(runs_root)
        self._progress, self._settings = progress, settings

    def use(self, recipe: KernelRecipe) -> None:
        """Build with another configuration from now on."""
        here = DirSource(type="dir", path=str(self.space.path))
        self.recipe = recipe.model_copy(update={"source": here, "series": ()})

    # --- builds

    def built(self, commit: str, distance: int = 0, *, again: bool = False) -> BuiltCommit:
        """Return a commit's kernel, from the cache or built in place now.

        Args:
            again: have make look at it once more, where the build itself is what is to be proven.

        Raises:
            LabError: the lab or the host cannot build at all.
        """
        began = time.monotonic()
        known = self.kernels.get(commit)
        if known and again:
            self.host.cache.drop("kernel", known.key)
        if known and (result := stored_kernel(known.key, NAME, self._context())):
            return BuiltCommit(commit, result, known.digest, 0.0, fresh=False)
        self.space.checkout(commit)
        result = build_kernel_(self.recipe, NAME, self._context())
        self.at = commit
        self._progress.stage_done(NAME, "")
        found = objects.digest(self.host.cache.path("kernel", result.key)) if result.outcome is Outcome.PASS else ""
        seconds = time.monotonic() - began
        if result.outcome is Outcome.PASS:
            self.kernels[commit] = Kernel(result.key, found)
            if not result.cached:
                self.times.builds.append((distance, seconds))
        return BuiltCommit(commit, result, found, seconds, fresh=not result.cached)

    def judge_build(self, built: BuiltCommit) -> Judged | None:
        """Judge a kernel as built; None where guests must tell."""
        return judge_build(self.criterion, built.result)

    def same_objects(self, built: BuiltCommit, tested: Sequence[str]) -> str:
        """Return a tested commit whose kernel is the same to a guest, "" where there is none.

        The digest has neither the code that unpacks and starts a kernel nor the tests in its tree.
        """
        if not built.digest or self.criterion.kind in {"build", "boot"} or self.tests_of_tree:
            return ""
        return next((c for c in tested if c in self.kernels and self.kernels[c].digest == built.digest), "")

    def _context(self) -> BuildContext:
        return dataclasses.replace(
            BuildContext.of(self.lab, self.host.cache),
            jobs=self.host.build_jobs(self.lab.limits.build_jobs),
            progress=lambda now: self._progress.stage(NAME, now.phase, now.done, now.total_estimate),
            cancel=self._settings.cancel,
            verbose=self._settings.verbose,
        )

    # --- runs

    @functools.cached_property
    def tests_of_tree(self) -> bool:
        """Whether guests get tests that are built from the commit's own tree (kselftest)."""
        if self.criterion.kind in {"build", "boot"}:
            return False
        return any(name.startswith("kselftest/") for job in self._jobs(1, (NAME,)).jobs for name in job.foreign)

    def width(self) -> int:
        """Return how many runs of one commit are worth starting side by side."""
        kernels = (NAME, GOOD) if self.criterion.kind == "metric" else (NAME,)
        jobs = self._jobs(1, kernels).jobs if self.criterion.kind != "boot" else ()
        with executor_of(self.lab, self.host) as executor:
            return min(executor.width(Weight.of(*jobs) if jobs else Weight(1, 1, 1024)), MOST_WIDTH)

    def run(self, built: BuiltCommit, good: BuiltCommit | None, count: int) -> tuple[list[Judged], str, float]:
        """Run the criterion on a kernel so many times; returns the verdicts, the run's folder and seconds of a run.

        Args:
            good: the good end's kernel, for figures, which are taken side by side.
        """
        began = time.monotonic()
        if self.tests_of_tree:
            self.space.checkout(built.commit)
        if self.criterion.kind == "boot":
            judged, folder = [self._boot(built) for _ in range(count)], ""
        else:
            judged, folder = self._scenario(built, good, count)
        seconds = (time.monotonic() - began) / count
        self.times.runs.append(seconds)
        return judged, folder, seconds

    def run_beside(self, several: Sequence[BuiltCommit]) -> tuple[list[Judged], str, float]:
        """Run the criterion once on each of several kernels, side by side; returns what `run` does, a verdict each."""
        began = time.monotonic()
        kernels = {NAME if n == 1 else f"{NAME}-{n}": built.result for n, built in enumerate(several, 1)}
        run = self._execute(self._jobs(1, tuple(kernels)), kernels)
        judged = [
            judge_jobs(self.criterion, [job for job in run.jobs if name in job.placement.values()]) for name in kernels
        ]
        seconds = time.monotonic() - began
        self.times.runs.append(seconds)
        return judged, run.id, seconds

    def _execute(self, plan: Plan, kernels: dict[str, BuildResult]) -> Run:
        settings = dataclasses.replace(self._settings, built=kernels)
        title = ", ".join(f"{result.release} {result.key[:12]}" for result in kernels.values())
        session = Session(self._with(tuple(kernels)), self._store, self.host)
        how = RunPlan(kind=RunKind.BISECT, trace=False)
        begun = session.begin(plan, how, title=title, command=settings.command)
        return session.carry_out(begun, settings, _OneLine(self._progress)).run

    def _with(self, kernels: Sequence[str]) -> Lab:
        """Return the lab with kernels of these names, all of them by the search's own recipe."""
        return dataclasses.replace(self.lab, kernels={**self.lab.kernels, **dict.fromkeys(kernels, self.recipe)})

    def _scenario(self, built: BuiltCommit, good: BuiltCommit | None, count: int) -> tuple[list[Judged], str]:
        kernels = {NAME: built.result} | ({GOOD: good.result} if good else {})
        run = self._execute(self._jobs(count, tuple(kernels)), kernels)
        judged = []
        for repeat in range(1, count + 1):
            ours = [job for job in run.jobs if job.repeat == repeat and NAME in job.placement.values()]
            base = [job for job in run.jobs if job.repeat == repeat and NAME not in job.placement.values()]
            judged.append(judge_jobs(self.criterion, ours, base))
        return judged, run.id

    def _jobs(self, count: int, kernels: Sequence[str]) -> Plan:
        columns: list[str | dict[str, str]] = []
        for name in self.lab.choose(self.criterion.scenarios):
            for kernel in kernels:
                roles = self.lab.scenario(name).roles
                columns.append({role: self._placement.get(role, kernel) for role in roles})
        unique = [column for n, column in enumerate(columns) if column not in columns[:n]]
        lab = dataclasses.replace(self._with(kernels), matrix=Matrix(columns=tuple(unique)), base=NAME)
        plan = make_plan(lab, choice=self.criterion.scenarios, repeat=count)
        jobs = [job for job in plan.jobs if self._wanted(job)]
        if not jobs:
            raise UserError(
                f"no job of {' '.join(self.criterion.scenarios)} has the parameters {self.criterion.params}",
                hint="kpatchlab plan lists jobs and their parameters",
            )
        return for_jobs(plan, jobs)

    def _wanted(self, job: JobSpec) -> bool:
        return all(job.params.get(name) == value for name, value in self.criterion.params.items())

    def _boot(self, built: BuiltCommit) -> Judged:
        """Boot the kernel to its agent, never from a saved guest."""
        lab, cache, arch = self.lab, self.host.cache, self.recipe.built_for
        context = self._context().compiling(self.recipe)
        root = lab.rootfs_recipes[lab.rootfs]
        root_image(root, context)
        packed = initrd(cache.path("kernel", built.result.key), context)
        machine = lab.machines[lab.machine]
        shape = self.host.shape(arch, machine.accel, machine.cpus, machine.memory_mib)
        spec = BootSpec(built.result.key, root_key(root, lab.root, arch), packed, shape)
        console = self._store.root / f"boot-{built.result.key[:12]}.log"
        console.parent.mkdir(parents=True, exist_ok=True)
        try:
            guest = boot(spec.resolve(cache), console_path=console)
        except GuestLost as lost:
            if self._settings.cancel.is_set() or not lost.reason.is_kernels:
                return Judged(Mark.INFRA, str(lost))
            splats = find_splats(console.read_bytes() if console.exists() else b"", died=True)
            return Judged(Mark.BAD, f"does not boot: {lost}", "\n".join(s.text for s in splats), ("boot",))
        guest.close()
        return Judged(Mark.GOOD, "boots")
