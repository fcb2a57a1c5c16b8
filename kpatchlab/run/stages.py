"""What a plan needs before its jobs: kernels, roots, tests of others, each made once; and what a job gets of them.

Kernels build one after the other (each takes all processors), the roots and the tests beside them.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from kpatchlab.build import BuildContext, BuildProgress, build_kernel, kernel_key, series_changes, traceable
from kpatchlab.build.built import Programs
from kpatchlab.build.checkout import checkout_of
from kpatchlab.build.context import BuildCancelled
from kpatchlab.build.foreign import build_foreign
from kpatchlab.build.origin import Source
from kpatchlab.build.patchset import DoesNotApplyError
from kpatchlab.build.roots import initrd, root_image, root_key
from kpatchlab.build.source import source_of
from kpatchlab.build.standing import standing_still
from kpatchlab.build.trim import Wanted, left_out, without
from kpatchlab.errors import LabError, UserError, told
from kpatchlab.host.host import Host
from kpatchlab.lab.load import Lab
from kpatchlab.lab.recipes import KernelRecipe
from kpatchlab.lab.scenario import library_files, scenario_files
from kpatchlab.model import BuildResult, Checkout, JobResult, Outcome, PatchFacts
from kpatchlab.plan.jobs import Group, ImageStep, JobSpec, Plan
from kpatchlab.progress import Progress, built, clock
from kpatchlab.run import payload
from kpatchlab.run.task import JobTask, KernelUnderTest


class More(Protocol):
    """Decides, by what jobs showed, which others are run."""

    def __call__(self, done: Mapping[str, JobResult], /) -> Sequence[JobSpec]:
        """Return jobs to run as well, on the plan's kernels and roots; `done`: job id -> result."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the caller decides beyond the plan.

    Attributes:
        command: the command line that started the run, for the record.
        cancel: set to end early; what is done is kept.
        reproduce: job -> the command line that runs it alone.
        verbose: takes each command line as it is started.
        guest: what a job's guest is, see `task.JobTask`.
        broken: see `task.JobTask`.
        seconds: job id -> what it is expected to take; the longest start first.
        in_order: jobs start in the plan's order instead.
        more: asked when all jobs are done, of a run that goes on before anything else; None: there is never more.
        trace: whether calls of the functions that the series change are counted; it costs time in the guests.
        built: kernels that are there already, by name; none of them is looked for or built.
        images: scenarios run on images where they can, see `plan.images`.
        pinned: all jobs of one scenario and its parameters run on one host, so that their figures can be compared.
    """

    command: str = ""
    cancel: threading.Event = field(default_factory=threading.Event)
    reproduce: Callable[[JobSpec], str] = lambda job: f"kpatchlab run --job {job.id}"
    verbose: Callable[[str], None] = lambda text: None  # noqa: ARG005
    guest: str = "fork"
    broken: bool = False
    seconds: Mapping[str, float] = field(default_factory=dict)
    in_order: bool = False
    more: More | None = None
    built: Mapping[str, BuildResult] = field(default_factory=dict)
    trace: bool = False
    images: bool = False
    pinned: bool = False


class Stages:
    """Builds and images of one plan, each made once, in the background.

    Args:
        done: takes each kernel as it ends; what it returns stands in its place.
        earlier: kernels that a run which goes on has built before, by name: it has no others of these names.

    Attributes:
        kernels: name -> future of its BuildResult.
        initrds: kernel -> future of the key of its initramfs; "" for one that does not build.
        roots: step -> future of its key.
        foreign: (kernel, name) -> future of the tests of others, built for that kernel.
        payloads: scenario and parameters -> future of the keys of its guests' files, see `read`.
        patches: name -> the patches of a kernel that is done; see `traceable.facts`.
        counted: name -> what `reach start` takes to count the functions that they change.
        checkouts: name -> what a kernel that is done was made of, with its patches, where others can name it.
    """

    def __init__(
        self,
        lab: Lab,
        plan: Plan,
        host: Host,
        settings: Settings,
        progress: Progress,
        done: Callable[[BuildResult], BuildResult] = lambda build: build,
        earlier: Mapping[str, BuildResult] | None = None,
    ) -> None:
        self._done = done
        self._earlier = dict(earlier or {})
        self._recipes: dict[str, KernelRecipe] = {}
        self._wanted: dict[str, Wanted] = {}  # of kernels that are not needed whole
        self._moved: set[str] = set()  # earlier kernels whose recipes lead to other ones by now
        self._lock = threading.Lock()
        self._all = 0
        self._cached: list[str] = []
        self._said = False  # that all was cached
        self._still: list[str] = []  # bases that have not moved, as they were told of
        self._spans: dict[str, tuple[float, float]] = {}  # what was made, from when to when
        self.patches: dict[str, tuple[PatchFacts, ...]] = {}
        self.counted: dict[str, tuple[str, ...]] = {}
        self.checkouts: dict[str, tuple[Checkout, list[bytes]]] = {}
        self._lab, self._host, self._progress, self._settings = lab, host, progress, settings
        self.payloads: dict[Group, Future[tuple[str, ...]]] = {}
        self._builders = ThreadPoolExecutor(1, thread_name_prefix="kernel")
        self._imagers = ThreadPoolExecutor(1, thread_name_prefix="root")
        self._packers = ThreadPoolExecutor(1, thread_name_prefix="initramfs")
        self._testers = ThreadPoolExecutor(1, thread_name_prefix="tests")
        self.kernels: dict[str, Future[BuildResult]] = {}
        self.initrds: dict[str, Future[str]] = {}
        self.roots: dict[ImageStep, Future[str]] = {}
        self.foreign: dict[tuple[str, str], Future[Programs]] = {}
        self.add(plan)

    def add(self, plan: Plan, wanted: Wanted | None = None) -> None:
        """Begin what a plan's jobs need and is not begun: of a run that goes on, a job that is done may be repeated.

        Args:
            wanted: what the kernels are needed for that begin now; None: for anything.
        """
        kernels = [step.name for step in plan.kernels if step.name not in self.kernels]
        self._recipes |= {step.name: step.recipe for step in plan.kernels if step.name in kernels}
        self._wanted |= dict.fromkeys(kernels, wanted) if wanted else {}
        roots = [step for step in plan.images if step not in self.roots]
        pairs = dict.fromkeys(pair for job in plan.jobs for pair in _foreign(job) if pair not in self.foreign)
        self.read(plan.jobs)
        with self._lock:
            self._all += len(kernels) + len(roots) + len(pairs)
        self.kernels |= {name: self._builders.submit(self._kernel, name) for name in kernels}
        self.initrds |= {name: self._packers.submit(self._pack, name) for name in kernels}
        self.roots |= {step: self._imagers.submit(self._root, step) for step in roots}
        self.foreign |= {pair: self._testers.submit(self._tests, *pair) for pair in pairs}

    def context(self, name: str) -> BuildContext:
        """Return what a build or an image needs to know of this lab."""

        def tell(now: BuildProgress) -> None:
            self._progress.stage(name, now.phase, now.done, now.total_estimate)

        return replace(
            BuildContext.of(self._lab, self._host.cache),
            jobs=self._host.build_jobs(self._lab.limits.build_jobs),
            progress=tell,
            cancel=self._settings.cancel,
            verbose=self._settings.verbose,
        )

    def _building(self, name: str) -> BuildContext:
        """Return the context of a kernel's build."""
        return self.context(f"kernel {name}").compiling(self._recipes[name])

    def _kernel(self, name: str) -> BuildResult:
        label = f"kernel {name}"
        if name in self._settings.built:
            self._found(label)
            return self._done(replace(self._settings.built[name], kernel=name))
        with self._telling(label):
            origin = source_of(self._recipes[name].source, self._building(name))
            self._recipes[name] = self._trimmed(name, origin)
            result = self._begun_with(name, origin) or self._built(name, origin)
        if result.cached:
            self._found(label)
        else:
            self._progress.stage_done(label, built(result))
        stays = name in self._moved
        if not stays and self._recipes[name].series and result.outcome in {Outcome.PASS, Outcome.BLOCKED}:
            self._look(name, result, origin)
        kept = self._done(result)
        self._tell_still(name)
        if stays:
            return kept
        with contextlib.suppress(LabError, OSError):  # a series that cannot be read by now: nobody else can name it
            if checkout := checkout_of(result, self._recipes[name], self._building(name), origin):
                self.checkouts[name] = checkout
        return kept

    def _trimmed(self, name: str, origin: Source[Any]) -> KernelRecipe:
        """Return a kernel's recipe without the modules that no job needs, where the whole of it is not built yet.

        A run that goes on takes that of the two with which it began.
        """
        recipe, wanted, ctx = self._recipes[name], self._wanted.get(name), self._building(name)
        if wanted is None:
            return recipe
        whole, known = kernel_key(recipe, ctx, origin), self._earlier.get(name)
        if known.key == whole if known and known.key else self._host.cache.has("kernel", whole):
            return recipe
        gone = left_out(recipe, wanted, origin, ctx)
        self._progress.note(f"kernel {name}: without {len(gone)} symbols of modules that no scenario here needs")
        return without(recipe, gone)

    def _built(self, name: str, origin: Source[Any]) -> BuildResult:
        """Return the kernel that the recipe leads to, from the cache or built now."""
        try:
            return build_kernel(self._recipes[name], name, self._building(name), origin)
        except DoesNotApplyError as error:  # the series' doing: it costs this kernel's columns, and no others
            tail = "\n".join([*error.details, f"hint: {error.hint}"])
            base = origin.tree_key
            return BuildResult(name, Outcome.BLOCKED, base_key=base, error=error.message, log_tail=tail)

    def _begun_with(self, name: str, origin: Source[Any]) -> BuildResult | None:
        """Return the kernel that the run began with, where its recipe leads to another one by now, or to none.

        Raises:
            LabError: it does, and that kernel is gone from the cache.
        """
        known = self._earlier.get(name)
        if not (known and known.key):
            return None
        gone: LabError = another(name)
        try:
            if kernel_key(self._recipes[name], self._building(name), origin) == known.key:
                return None
            why = "its recipe leads to another one by now"
        except BuildCancelled:
            raise
        except LabError as error:
            gone, why = error, error.message
        if known.outcome is Outcome.PASS and not self._host.cache.usable("kernel", known.key):
            raise gone
        self._moved.add(name)
        self._progress.note(f"kernel {name}: it stays the one that the run began with: {why}")
        return replace(known, cached=True)

    def _tell_still(self, name: str) -> None:
        """Say once of a base that it has not moved for weeks."""
        for line in standing_still([self._recipes[name]], self._building(name)):
            if line not in self._still:
                self._still.append(line)
                self._progress.note(line)

    def _look(self, name: str, result: BuildResult, origin: Source[Any]) -> None:
        """See what each patch of a kernel's series changes; a series that cannot be read costs the counts alone."""
        try:
            changes = series_changes(self._recipes[name], self._building(name), origin)
            artifact = self._host.cache.path("kernel", result.key) if result.outcome is Outcome.PASS else None
            self.patches[name], self.counted[name] = traceable.facts(name, changes, artifact)
        except LabError as error:
            self._progress.note(f"kernel {name}: what its patches change is not known: {error.message}")
            return
        for unread in (f"patch {patch.number}: {text}" for patch in changes.patches for text in patch.unread):
            self._progress.note(f"kernel {name}: {unread}: its lines and functions are not known")

    def read(self, jobs: Iterable[JobSpec]) -> None:
        """Read the files of all jobs now, so that no later edit changes a job.

        A scenario whose files cannot be read costs its own jobs alone.
        """
        library = functools.cache(lambda: payload.keep(library_files(self._lab.root), self._host.cache, "library"))

        def keep(name: str, params: Mapping[str, str]) -> tuple[str, ...]:
            files = scenario_files(self._lab.scenario(name), params)
            return payload.keep(files, self._host.cache, f"files of {name}"), library()

        with ThreadPoolExecutor(1, thread_name_prefix="files") as pool:
            different = {job.group: job for job in jobs if job.group not in self.payloads}
            for group, job in different.items():
                self.payloads[group] = pool.submit(keep, job.scenario, job.params)

    def _pack(self, name: str) -> str:
        kernel = self.kernels[name].result()
        if kernel.outcome is not Outcome.PASS:
            return ""
        context = self.context(f"initramfs {name}").compiling(self._recipes[name])
        return initrd(self._host.cache.path("kernel", kernel.key), context)

    def _root(self, step: ImageStep) -> str:
        label = f"root {step.name}"
        began = time.monotonic()
        recipe = self._lab.rootfs_recipes[step.recipe]
        with self._telling(label):
            key = root_key(recipe, self._lab.root, step.arch)
            cached = self._host.cache.has("root", key)
            self._progress.stage(label, "cached" if cached else "packages")
            root_image(recipe, replace(self.context(label), arch=step.arch))
        if cached:
            self._found(label)
        else:
            self._progress.stage_done(label, f"{label}: made in {clock(time.monotonic() - began)}")
        return key

    def _tests(self, kernel: str, name: str) -> Programs:
        label = f"{name} of {kernel}"
        began = time.monotonic()
        self._progress.stage(label, "build")
        with self._telling(label):
            # What comes from the kernel's tree, where the run began with another tree than the recipe leads to by now.
            of_tree = kernel in self._earlier and name.startswith("kselftest/")
            if of_tree and self.kernels[kernel].result() and kernel in self._moved:
                raise another(kernel)
            built = build_foreign(self._recipes[kernel], name, self.context(label))
        if built.cached:
            self._found(label)
        else:
            how = f"built in {clock(time.monotonic() - began)}"
            self._progress.stage_done(label, f"{label}: {built.reason or how}")
        return built

    @contextlib.contextmanager
    def _telling(self, label: str) -> Iterator[None]:
        """Have a step that the lab cannot carry out end with the reason."""
        began = time.monotonic()
        with self._lock:
            self._spans[label] = began, float("inf")
        try:
            yield
        except LabError as error:
            self._progress.stage_done(label, f"{label}: {error.message}")
            raise
        finally:
            with self._lock:
                self._spans[label] = began, time.monotonic()

    def beside(self, began: float, ended: float) -> tuple[str, ...]:
        """Return what was made on this host between two monotonic times: builds and images, not what was cached."""
        with self._lock:
            return tuple(name for name, (first, last) in self._spans.items() if first < ended and last > began)

    def _found(self, label: str) -> None:
        """Tell that a step was in the cache; where all of them were, one line says so."""
        with self._lock:
            self._spans.pop(label, None)
            self._cached.append(label)
            everything = len(self._cached) == self._all and not self._said
            self._said = self._said or everything
        self._progress.stage_done(label, "nothing to build: all cached" if everything else "")

    def all(self) -> list[Future[Any]]:
        """Return everything that is made, has been or will be."""
        return [*self.kernels.values(), *self.initrds.values(), *self.roots.values(), *self.foreign.values()]

    def pending(self) -> list[Future[Any]]:
        """Return what is still being made."""
        return [future for future in self.all() if not future.done()]

    def finished(self) -> tuple[dict[str, BuildResult], list[BaseException]]:
        """Return the kernels that came to an end, by name, and why kernels and roots could not even be tried."""
        results: dict[str, BuildResult] = {}
        problems: list[BaseException] = []
        for name, future in self.kernels.items():
            if future.cancelled():
                continue
            if (error := future.exception()) is None:
                results[name] = future.result()
            elif not isinstance(error, BuildCancelled):
                problems.append(error)
                results[name] = BuildResult(name, Outcome.INFRA, error=told(error))
        packed = [made for name, made in self.initrds.items() if name in results and not self.kernels[name].exception()]
        others: list[Future[Any]] = [*self.foreign.values(), *self.roots.values(), *packed]
        found = [error for made in others if not made.cancelled() and (error := made.exception())]
        problems += [error for error in found if not isinstance(error, BuildCancelled)]
        return results, problems

    def needed(self, job: JobSpec) -> list[Future[Any]]:
        """Return what must be there before a job can start."""
        needed: list[Future[Any]] = [self.roots[step] for step in job.roots]
        needed += [made[name] for name in job.builds for made in (self.kernels, self.initrds)]
        return [*needed, *(self.foreign[pair] for pair in _foreign(job))]

    def shutdown(self) -> None:
        """Let go of what has not begun, and wait for what has."""
        self._builders.shutdown(cancel_futures=True)
        self._packers.shutdown(cancel_futures=True)
        self._imagers.shutdown(cancel_futures=True)
        self._testers.shutdown(cancel_futures=True)


def another(kernel: str) -> UserError:
    """Return the error of a run that goes on, for a kernel that is no longer to be had as the run began with it."""
    return UserError(
        f"kernel {kernel} is not the one that the run began with",
        hint="its source, series or configuration has changed since: start a new run",
    )


def _foreign(job: JobSpec) -> list[tuple[str, str]]:
    """Return (build, name) of all tests of others that a job's guests get."""
    return [(build, name) for build in job.builds for name in job.foreign]


def gather(lab: Lab, job: JobSpec, stages: Stages, settings: Settings) -> JobTask:
    """Gather all that a job is, waiting for the stages that it needs.

    Raises:
        LabError: a stage of the lab itself failed; a kernel that does not build is no such case.
    """
    machine = lab.machines[job.machine]
    return JobTask(
        spec=job,
        scenario=lab.scenario(job.scenario).file(),
        kernels={name: _under_test(lab, job, name, stages, settings) for name in dict.fromkeys(job.placement.values())},
        roots={step.arch: stages.roots[step].result() for step in job.roots},
        payload=stages.payloads[job.group].result(),
        accel=machine.accel,
        console_bytes=int(lab.limits.console_mib * (1 << 20)),
        guest=settings.guest,
        broken=settings.broken,
        settle_s=lab.settle_s,
        pinned=settings.pinned,
    )


def _under_test(lab: Lab, job: JobSpec, kernel: str, stages: Stages, settings: Settings) -> KernelUnderTest:
    name = job.build_of(kernel)
    build = stages.kernels[name].result()
    failures = tuple(replace(failure, log="") for failure in build.module_failures)
    return KernelUnderTest(
        build=replace(build, log_tail="", reproduce="", module_failures=failures),
        initrd=stages.initrds[name].result(),
        debug=lab.kernels[kernel].debug,
        covered=lab.kernels[kernel].coverage,
        patched=stages.counted.get(name, ()) if settings.trace else (),
        tests={tests: stages.foreign[name, tests].result() for tests in job.foreign},
    )
