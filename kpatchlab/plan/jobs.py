"""From a lab to its work: kernels, images and jobs, in order, with an estimate. Pure."""

from __future__ import annotations

import hashlib
import heapq
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from kpatchlab.arch import HOST
from kpatchlab.errors import UserError
from kpatchlab.lab import selftests
from kpatchlab.lab.file import Machine
from kpatchlab.lab.load import Lab
from kpatchlab.lab.recipes import KernelRecipe
from kpatchlab.lab.scenario import Role, Scenario, expand, foreign_tests
from kpatchlab.lab.yamlfile import suggest
from kpatchlab.model import image_of
from kpatchlab.variants import debug

BUILD_S = 1200.0
"""What a kernel's build takes where nothing better is known: a lean one on two processors."""
FETCH_S = 60.0
"""What a prebuilt kernel takes."""
IMAGE_S = 180.0
"""What a root file system takes."""
GUEST_S = 15.0
"""What each guest of a job takes, under emulation."""
CACHED_S = 0.1
"""What finding something in the cache takes."""

Group = tuple[str, tuple[tuple[str, str], ...]]
"""Jobs that are compared with one another: a scenario and its parameters, by name."""
_ID_LENGTH = 120
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")


@dataclass(frozen=True, slots=True)
class KernelStep:
    """One kernel to build or fetch; `name` is that of lab.yaml, or `image_of` it."""

    name: str
    recipe: KernelRecipe

    @property
    def id(self) -> str:
        """Key of the step in durations and in what is cached."""
        return f"kernel:{self.name}"


@dataclass(frozen=True, slots=True)
class ImageStep:
    """One root file system to make, for one architecture; `recipe` is the name of its recipe."""

    recipe: str
    arch: str = HOST

    @property
    def name(self) -> str:
        """The step's name, for people."""
        return self.recipe if self.arch == HOST else f"{self.recipe} ({self.arch})"

    @property
    def id(self) -> str:
        """Key of the step in durations and in what is cached."""
        return f"image:{self.name}"


@dataclass(frozen=True, slots=True)
class RoleSpec:
    """One guest of a job; `arch` is its kernel's."""

    name: str
    kernel: str
    memory_mib: int
    cpus: int
    arch: str = HOST


@dataclass(frozen=True, slots=True)
class JobSpec:
    """One scenario, with one set of parameters, on one placement of kernels, once.

    Attributes:
        id: unique in the plan, the same in every plan of the same lab, safe as the name of a file:
            "nfs-tcp+vers=4.2@client=with,server=without#1".
        placement: role -> kernel, in the order of set-up.
        column: a kernel's name where it is on every role, else "client=with,server=without" (sorted by role).
        repeat: counts from 1.
        machine: name of the machine in lab.yaml.
        timeout_s: seconds for each script, under emulation.
        foreign: tests of others that its guests get, by their folders below /lab.
        turns: how often it does its work in one guest, to see whether what it leaves behind grows.
        images: it runs on its kernels' images, see `images`.
    """

    id: str
    scenario: str
    params: Mapping[str, str]
    placement: Mapping[str, str]
    column: str
    repeat: int
    roles: tuple[RoleSpec, ...]
    rootfs: str
    machine: str
    timeout_s: float
    foreign: tuple[str, ...] = ()
    turns: int = 1
    images: bool = False

    def build_of(self, kernel: str) -> str:
        """Return the name of the build that a guest of this kernel runs."""
        return image_of(kernel) if self.images else kernel

    @property
    def builds(self) -> list[str]:
        """The names of the builds that its guests run."""
        return [self.build_of(kernel) for kernel in dict.fromkeys(self.placement.values())]

    @property
    def roots(self) -> list[ImageStep]:
        """What its guests' roots are made by."""
        return [ImageStep(self.rootfs, arch) for arch in dict.fromkeys(role.arch for role in self.roles)]

    @property
    def memory_mib(self) -> int:
        """Memory of all its guests."""
        return sum(role.memory_mib for role in self.roles)

    @property
    def cpus(self) -> int:
        """Virtual processors of all its guests."""
        return sum(role.cpus for role in self.roles)

    @property
    def group(self) -> Group:
        """What is compared with one another: the scenario and its parameters."""
        return self.scenario, tuple(sorted(self.params.items()))


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run does.

    Attributes:
        base: the column that the others are compared with.
        columns: base first, then as the lab's matrix has them.
        kernels: only those that some job needs; images likewise.
        jobs: those to be compared stand together, so that they run in the same minutes.
    """

    base: str
    columns: tuple[str, ...]
    kernels: tuple[KernelStep, ...]
    images: tuple[ImageStep, ...]
    jobs: tuple[JobSpec, ...]


@dataclass(frozen=True, slots=True)
class Estimate:
    """How long a plan takes: seconds by step and job id, and of the clock on the wall, all in all."""

    steps: Mapping[str, float]
    wall_s: float


def column_name(placement: Mapping[str, str]) -> str:
    """Return the name of the column for role -> kernel."""
    kernels = set(placement.values())
    if len(kernels) == 1:
        return kernels.pop()
    return ",".join(f"{role}={kernel}" for role, kernel in sorted(placement.items()))


MAX_JOBS = 100_000
"""Of one plan: of some seconds each, a host has them for days."""


def make_plan(
    lab: Lab, *, choice: Sequence[str] = (), kernels: Sequence[str] | None = None, repeat: int | None = None
) -> Plan:
    """Return the plan of a lab.

    Args:
        choice: scenarios, as on the command line; empty: the lab's own selection.
        kernels: the lab's kernels to leave it at; None: all. Without the base among them the first one is it.
        repeat: how often each job is run; None: as the lab says.

    Raises:
        UserError: a name is unknown, or nothing is left to run.
    """
    names = kernel_names(lab, kernels)
    scenarios = [lab.scenario(name) for name in lab.choose(choice)]
    if not scenarios:
        raise UserError("no scenario is chosen", hint="the verb `new` makes one, the verb `list` shows what there is")
    base = lab.base if lab.base in names else names[0]
    jobs: list[JobSpec] = []
    taken: dict[str, JobSpec] = {}
    for scenario in scenarios:
        placements = _placements(lab, scenario, names, base)
        every = expand(scenario)
        often = lab.repeat if repeat is None else repeat
        if len(jobs) + len(every) * len(placements) * often > MAX_JOBS:
            raise UserError(f"more than {MAX_JOBS:,} jobs", hint="fewer parameters, columns or repeats")
        for params in every:
            for count in range(1, often + 1):
                jobs += (_job(lab, scenario, params, placement, repeat=count, taken=taken) for placement in placements)
    if not jobs:
        raise UserError("the matrix leaves nothing to run", hint="matrix.columns says which placements are run")
    used = {kernel for job in jobs for kernel in job.placement.values()}
    present = {job.column: None for job in jobs}
    order = [*names, *sorted(set(present) - set(names), key=list(present).index)]
    columns = [base, *(name for name in order if name != base)]
    return Plan(
        base=base,
        columns=tuple(column for column in columns if column in present),
        kernels=tuple(KernelStep(name, lab.kernels[name]) for name in names if name in used),
        images=tuple(sorted({step for job in jobs for step in job.roots}, key=lambda step: step.name)),
        jobs=tuple(jobs),
    )


def kernel_names(lab: Lab, kernels: Sequence[str] | None) -> list[str]:
    """Return these of the lab's kernels in the lab's order; none named: all.

    Raises:
        UserError: there is no kernel of a name.
    """
    for name in kernels or ():
        if name not in lab.kernels:
            more = suggest(name, lab.kernels) or f"; there are {', '.join(lab.kernels)}"
            raise UserError(f"there is no kernel '{name}'{more}")
    return [name for name in lab.kernels if not kernels or name in kernels]


def _placements(lab: Lab, scenario: Scenario, kernels: Sequence[str], base: str) -> list[dict[str, str]]:
    """Return every placement that the matrix means for a scenario, each once."""
    found: dict[str, dict[str, str]] = {}
    for column in lab.matrix.columns:
        for placement in _column(column, tuple(scenario.roles), kernels, base):
            if set(placement.values()) <= set(kernels) and all(_runs_on(lab, scenario, k) for k in placement.values()):
                found.setdefault(column_name(placement), placement)
    return list(found.values())


def _runs_on(lab: Lab, scenario: Scenario, kernel: str) -> bool:
    """Whether the scenario's machine takes the kernel."""
    return lab.machines[scenario.machine or lab.machine].arch in {"", lab.kernels[kernel].built_for}


def _column(
    column: str | Mapping[str, str], roles: Sequence[str], kernels: Sequence[str], base: str
) -> Iterator[dict[str, str]]:
    if isinstance(column, Mapping):
        if set(column) == set(roles):
            yield {role: column[role] for role in roles}
    elif column == "pairs":
        if len(roles) == 2:
            for other in kernels:
                if other != base:
                    yield dict(zip(roles, (base, other), strict=True))
                    yield dict(zip(roles, (other, base), strict=True))
    else:
        for kernel in kernels if column == "kernels" else (column,):
            yield dict.fromkeys(roles, kernel)


def _job(
    lab: Lab,
    scenario: Scenario,
    params: Mapping[str, str],
    placement: Mapping[str, str],
    *,
    repeat: int,
    taken: dict[str, JobSpec],
) -> JobSpec:
    machine = lab.machines[scenario.machine or lab.machine]
    column = column_name(placement)
    job = JobSpec(
        id=_job_id(scenario.name, params, column, repeat, taken),
        scenario=scenario.name,
        params=params,
        placement=placement,
        column=column,
        repeat=repeat,
        roles=tuple(_role(lab, machine, name, role, placement[name]) for name, role in scenario.roles.items()),
        rootfs=scenario.rootfs or lab.rootfs,
        machine=scenario.machine or lab.machine,
        timeout_s=scenario.timeout_s,
        foreign=foreign_tests(scenario, params),
    )
    taken[job.id] = job
    return job


def _role(lab: Lab, machine: Machine, name: str, role: Role, kernel: str) -> RoleSpec:
    recipe = lab.kernels[kernel]
    memory_mib = round((role.memory_mib or machine.memory_mib) * (debug.MEMORY if recipe.debug else 1))
    return RoleSpec(name, kernel, memory_mib, machine.cpus, recipe.built_for)


def _job_id(scenario: str, params: Mapping[str, str], column: str, repeat: int, taken: Collection[str]) -> str:
    """Return the id; where cutting or cleaning up would make two jobs one, a digest of the whole tells them apart."""
    words = [f"+{name}={_UNSAFE.sub('_', value)}" for name, value in params.items()]
    start, end = "".join([scenario, *words]), f"@{column}#{repeat}"
    if len(start) <= _ID_LENGTH and start + end not in taken:
        return start + end
    digest = hashlib.sha256(repr([scenario, *params.items()]).encode()).hexdigest()[:8]
    return f"{start[:_ID_LENGTH]}~{digest}{end}"


def longest_first(jobs: Sequence[JobSpec], seconds: Mapping[str, float]) -> list[JobSpec]:
    """Return the jobs with the longest first, those to be compared still side by side: less waiting at the end."""
    groups: dict[object, list[JobSpec]] = {}
    for job in jobs:
        groups.setdefault((job.group, job.repeat), []).append(job)
    ordered = sorted(groups.values(), key=lambda group: -max(seconds.get(job.id, 0.0) for job in group))
    return [job for group in ordered for job in group]


def estimate(plan: Plan, durations: Mapping[str, float], cached: Collection[str] = (), *, guests: int = 1) -> Estimate:
    """Return how long a plan will take.

    Args:
        durations: seconds that steps and jobs of earlier runs took, by id. A job that is not among them is taken
            to last as long as the same scenario did elsewhere; a step, its default.
        cached: ids of the steps that are in the cache.
        guests: how many run at once.
    """
    known: dict[str, list[float]] = {}
    for key, value in durations.items():
        known.setdefault(re.split(r"[+@]", key)[0], []).append(value)
    steps: dict[str, float] = {}
    for kernel in plan.kernels:
        default = FETCH_S if kernel.recipe.is_prebuilt else BUILD_S
        steps[kernel.id] = CACHED_S if kernel.id in cached else durations.get(kernel.id, default)
    for image in plan.images:
        steps[image.id] = CACHED_S if image.id in cached else durations.get(image.id, IMAGE_S)
    for job in plan.jobs:
        like = known.get(job.scenario)
        steps[job.id] = durations.get(job.id, fmean(like) if like else GUEST_S * len(job.roles))
    return Estimate(steps, _wall(plan, steps, max(1, guests)))


def _wall(plan: Plan, steps: Mapping[str, float], guests: int) -> float:
    """Return when the last job ends: kernels one after another, images beside them, a job when its own are ready."""
    ready: dict[str, float] = {}
    for chain in (plan.kernels, plan.images):
        now = 0.0
        for step in chain:
            now += steps[step.id]
            ready[step.id] = now
    free = [0.0] * guests  # when each place for a guest is free again
    end = max(ready.values(), default=0.0)
    starts = {
        job.id: max(*(ready[root.id] for root in job.roots), *(ready[f"kernel:{name}"] for name in job.builds))
        for job in plan.jobs
    }
    for job in sorted(longest_first(plan.jobs, steps), key=lambda job: starts[job.id]):
        places = [heapq.heappop(free) for _ in range(min(len(job.roles), guests))]
        done = max(starts[job.id], *places) + steps[job.id]
        for _ in places:
            heapq.heappush(free, done)
        end = max(end, done)
    return end


def plan_of_jobs(lab: Lab, names: Collection[str]) -> Plan:
    """Return the plan of the named jobs alone, whatever scenarios the lab file selects.

    Raises:
        UserError: the lab has no such job.
    """
    repeats = [int(number) for name in names if (number := name.rpartition("#")[2]).isdecimal()]
    named = [name.partition("@")[0] for name in names if name.startswith(selftests.PREFIX)]
    plan = make_plan(lab, choice=("*", *named), repeat=min(1000, max([1, *repeats])))
    known = {job.id: job for job in plan.jobs}
    for name in names:
        if name not in known:
            raise UserError(f"no such job: {name}{suggest(name, known)}", hint="kpatchlab plan lists them")
    return for_jobs(plan, [known[name] for name in names])


def for_jobs(plan: Plan, jobs: Collection[JobSpec]) -> Plan:
    """Return a plan with these jobs alone, and the kernels, roots and columns that they need."""
    used = {build for job in jobs for build in job.builds}
    return replace(
        plan,
        jobs=tuple(jobs),
        kernels=tuple(step for step in plan.kernels if step.name in used),
        images=tuple(step for step in plan.images if step in {root for job in jobs for root in job.roots}),
        columns=tuple(column for column in plan.columns if column in {job.column for job in jobs}),
    )
