"""The values that flow through the lab: frozen, JSON-able, importing nothing of ours.

Every class here can be stored, see `jsonable`.
Units are part of names (`_s` seconds, `_mib`, `_bytes`); stamps are aware UTC in ISO 8601.
"""

from __future__ import annotations

import enum
from dataclasses import KW_ONLY, dataclass, field

SCHEMA_VERSION = 2
"""Version of a stored run; a reader refuses what is newer than itself."""


class Outcome(enum.StrEnum):
    """How one case or job ended."""

    PASS = "pass"  # noqa: S105
    FAIL = "fail"
    SKIP = "skip"  # the kernel or the root lacks what the scenario needs: not tested, and not a pass
    CRASH = "crash"  # the kernel oopsed, warned, panicked, hung or died
    TIMEOUT = "timeout"  # the guest lives, the script did not end in time
    BLOCKED = "blocked"  # its kernel or a module that it needs did not build
    INFRA = "infra"  # the lab's own fault; never counted against a kernel

    @property
    def is_bad(self) -> bool:
        """Whether a kernel is to blame for it."""
        return self in {Outcome.FAIL, Outcome.CRASH, Outcome.TIMEOUT}


UNTRIED = frozenset({Outcome.SKIP, Outcome.BLOCKED, Outcome.INFRA})
"""Outcomes that say nothing of a kernel: what was to be tried was not."""


class Verdict(enum.StrEnum):
    """What the series did to one case: one column compared with the base column."""

    FIXED = "FIXED"
    REGRESSED = "REGRESSED"
    SAME = "SAME"
    FLAKY = "FLAKY"
    BLOCKED = "BLOCKED"
    NEW = "NEW"
    GONE = "GONE"
    CHANGED = "CHANGED"  # a recorded behaviour that is neither right nor wrong is another one
    UNKNOWN = "UNKNOWN"  # one side was skipped or lost to the lab's own fault


@dataclass(frozen=True, slots=True)
class Splat:
    """One report of the kernel in its log.

    Attributes:
        kind: "panic", "oops", "bug", "warning", "kasan", "ubsan", "kcsan", "kmemleak", "lockdep",
            "hung-task", "rcu-stall", "soft-lockup", "hard-lockup", "workqueue", "oom", "refcount", "list";
            "dump": the dump of a stack below any other line.
        title: one line, without addresses, PIDs, CPUs and time stamps: equal for equal faults.
        fingerprint: 12 hex digits over kind and the top frames' function names.
        text: the raw lines, cut out of the log.
        decoded: `text` with file:line for each frame where symbols were at hand, else "".
        fatal: whether the kernel stopped there.
    """

    kind: str
    title: str
    fingerprint: str
    text: str
    decoded: str = ""
    fatal: bool = False


BY_CLOCK = frozenset({"hard-lockup", "soft-lockup", "rcu-stall", "workqueue", "hung-task"})
"""Kinds of splats that a kernel makes when nothing came within a time by its own clock: a busy host can make them."""


def image_of(kernel: str) -> str:
    """Return the name of a kernel's image: its source as a distribution built it, beside the one that is compiled."""
    return f"{kernel}-image"


class CaseKind(enum.StrEnum):
    """What a case is about. A scenario's script makes CHECK, however it names it; the lab itself makes the others."""

    CHECK = "check"
    JOB = "job"  # the job ran to its end, without a crash, in time
    LOG = "log"  # the log of a guest has no splat
    PREPARATION = "preparation"  # nor has that of a guest that did not come to where its scenario starts
    REACH = "reach"  # a function ran as often as a rule of the scenario says
    LEAKS = "leaks"  # a kernel with debugging lost no memory
    TAINT = "taint"  # the kernel's log explains every fault that its taint tells of
    TIME = "time"  # a job takes no multiple of what it takes on the base; known to a comparison alone, as the next one
    LEFT = "left"  # what a job leaves behind does not grow with its work

    @property
    def is_log(self) -> bool:
        """Whether it is about the kernel's log."""
        return self in {CaseKind.LOG, CaseKind.PREPARATION}

    @property
    def sums_up(self) -> bool:
        """Whether it tells what others have told: how the job ended, or that there are splats."""
        return self is CaseKind.JOB or self.is_log


@dataclass(frozen=True, slots=True)
class CaseId:
    """What tells a case from all others of its job; names of different kinds can be the same."""

    kind: CaseKind
    name: str


@dataclass(frozen=True, slots=True)
class Case:
    """One check of a scenario or of the lab itself.

    Attributes:
        name: for people; the lab's own are made of kind, role and function.
        answer: what was recorded, in a check of a behaviour that is compared and not judged; "" in all others.
        role: of the guest that one of the lab's own is about, "" for the whole job.
        function: that a REACH is about.
        applies: False for a rule that does not hold for this kernel.
    """

    name: str
    outcome: Outcome
    message: str = ""
    details: str = ""
    duration_s: float = 0.0
    answer: str = ""
    kind: CaseKind = CaseKind.CHECK
    role: str = ""
    function: str = ""
    applies: bool = True

    @property
    def id(self) -> CaseId:
        """What tells it from all others of its job."""
        return CaseId(self.kind, self.name)


JOB = CaseId(CaseKind.JOB, "job")
"""The case that every job has."""


def job_case(outcome: Outcome, message: str = "", details: str = "", duration_s: float = 0.0) -> Case:
    """Return the case of a job itself."""
    return Case(JOB.name, outcome, message, details, duration_s, kind=JOB.kind)


def log_case(role: str, outcome: Outcome, message: str = "", details: str = "", *, preparing: str = "") -> Case:
    """Return the case of a guest's log; `preparing`: the kernel of a guest that did not come to its scenario."""
    if preparing:
        name, kind = f"log: preparation of {preparing}", CaseKind.PREPARATION
    else:
        name, kind = f"log: {role}", CaseKind.LOG
    return Case(name, outcome, message, details, kind=kind, role=role)


def reach_case(function: str, role: str, outcome: Outcome, message: str, *, applies: bool = True) -> Case:
    """Return the case of a rule about how often a function runs."""
    name, kind = f"reach: {function} ({role})", CaseKind.REACH
    return Case(name, outcome, message, kind=kind, role=role, function=function, applies=applies)


def leaks_case(role: str, outcome: Outcome, message: str = "", details: str = "") -> Case:
    """Return the case of the memory that a guest's kernel lost."""
    return Case(f"leaks: {role}", outcome, message, details, kind=CaseKind.LEAKS, role=role)


def taint_case(role: str, outcome: Outcome, message: str = "") -> Case:
    """Return the case of the faults that a guest's kernel keeps as taint."""
    return Case(f"taint: {role}", outcome, message, kind=CaseKind.TAINT, role=role)


@dataclass(frozen=True, slots=True)
class Metric:
    """One figure that a scenario printed; `direction` is "higher" or "lower": what is better."""

    name: str
    value: float
    unit: str
    direction: str


@dataclass(frozen=True, slots=True)
class ModuleFailure:
    """One object that did not compile, and the modules that are missing for it.

    Attributes:
        module: the module's name ("siw"), as `modprobe` takes it.
        source: path inside the tree of the file that the compiler blames.
        line: line in `source`, 0 where the compiler names none.
        error: the compiler's first error, one line.
        log: the compiler's whole output for that object.
        dependents: modules that need `module`, in whole or through others.
    """

    module: str
    source: str
    line: int
    error: str
    log: str = ""
    dependents: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ConfigMiss:
    """A symbol that was asked for and came out otherwise."""

    symbol: str
    asked: str
    got: str
    where: str = ""  # fragment:line
    reason: str = ""  # the dependency that is not met, or "no such symbol in this tree"


@dataclass(frozen=True, slots=True)
class BuildResult:
    """One kernel, built or fetched, or the reason why not.

    Attributes:
        kernel: its name in lab.yaml; `image_of` that name for its image.
        key: sha256 content key of the artifact of kind "kernel" (vmlinuz, vmlinux, config, modules.erofs ...).
        release: `uname -r`.
        base: what the tree came from, in words; two kernels of one `base_key` differ by their series alone.
        objects_compiled / objects_total: what the compiler really did in this build, and what is in it.
        unconfined: why code of a series was run without a sandbox, where it was.
        unbuilt: source files that its series changes and that its configuration does not compile.
        arch: its architecture, see `arch.ARCHES`; "" of runs that were stored before there were several.
    """

    kernel: str
    outcome: Outcome
    _: KW_ONLY
    key: str = ""
    release: str = ""
    base: str = ""
    base_key: str = ""
    series: str = ""
    cached: bool = False
    duration_s: float = 0.0
    objects_compiled: int = 0
    objects_total: int = 0
    error: str = ""
    error_file: str = ""
    error_line: int = 0
    log_tail: str = ""
    module_failures: tuple[ModuleFailure, ...] = ()
    config_misses: tuple[ConfigMiss, ...] = ()
    compiler: str = ""
    reproduce: str = ""
    unconfined: str = ""
    unbuilt: tuple[str, ...] = ()
    arch: str = ""


@dataclass(frozen=True, slots=True)
class ReachCount:
    """How often one kernel function ran while a scenario did.

    `count` is -1 where the function cannot be traced on that kernel: that is not the same as 0.
    """

    role: str
    function: str
    count: int


@dataclass(frozen=True, slots=True)
class Left:
    """What a job left behind in one guest.

    Attributes:
        what: "pages" (that nothing accounts for), "vmalloc pages", "slab NAME" (objects), "sockets PROTOCOL",
            "socket pages PROTOCOL", "module NAME" (references), "threads", "mounts", "network devices", "open files".
        turns: how much more of it there was after each turn of the scenario's run, which most jobs have one of.
    """

    role: str
    what: str
    turns: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class ChangedFunction:
    """A function that a patch changes, `file` being its path in the tree with the whole series applied.

    Attributes:
        trace: "" where its calls can be counted by its name, else why not ("inlined", "gone", "static data" ...).
    """

    name: str
    file: str
    trace: str = ""


@dataclass(frozen=True, slots=True)
class PatchFacts:
    """One patch of a kernel's series, as a reader of the run needs it; `number` counts from 1."""

    kernel: str
    number: int
    title: str
    files: tuple[str, ...] = ()
    functions: tuple[ChangedFunction, ...] = ()


@dataclass(frozen=True, slots=True)
class GuestLog:
    """What one guest of a job left behind; `console` is a path inside the run's folder."""

    role: str
    kernel: str
    console: str
    console_tail: str = ""
    console_bytes: int = 0
    console_cut: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class JobResult:
    """One scenario, with one set of parameters, on one placement of kernels, once.

    Attributes:
        column: name of the matrix column: a kernel ("with"), or "client=with,server=without" for a mixed pair.
        placement: role -> kernel name; cases: every check, the lab's own included.
        guest_s: time the scenario's own commands took; overhead_s: all the rest of the job.
        reported: its script ended and reported every check that it announced, whatever became of them.
        mode: what its figures count: "time (KVM)", "time (TCG)" or "instructions", and "on arm64" where that is not the
            host's own architecture.
        patched: calls of the functions that the series changes; left: what it left behind.
        because: the cases that made `outcome` what it is; none where a script did not end or the lab lost the job.
        beside: builds that the lab did on this host meanwhile, by name.
        withheld_s: seconds in which the host kept the processor from its guests; the most that one of them lost.
        turns: how often it did its work in one guest; its cases and figures are the first one's.
        sent_bytes, sent_calls: what its script says of its work, in one turn; 0: nothing.
        images: it ran on its kernels' images, and not on compiled ones, see `image_of`.
        host: name of the host that ran it; "": the one that ran the lab.
    """

    job: str
    scenario: str
    params: dict[str, str]
    column: str
    placement: dict[str, str]
    repeat: int
    outcome: Outcome
    message: str = ""
    cases: tuple[Case, ...] = ()
    metrics: tuple[Metric, ...] = ()
    splats: tuple[Splat, ...] = ()
    reach: tuple[ReachCount, ...] = ()
    guests: tuple[GuestLog, ...] = ()
    attachments: tuple[str, ...] = ()
    started: str = ""
    duration_s: float = 0.0
    guest_s: float = 0.0
    overhead_s: float = 0.0
    stdout_tail: str = ""
    stderr_tail: str = ""
    reproduce: str = ""
    reported: bool = False
    mode: str = ""
    patched: tuple[ReachCount, ...] = ()
    because: tuple[CaseId, ...] = ()
    beside: tuple[str, ...] = ()
    withheld_s: float = 0.0
    turns: int = 1
    left: tuple[Left, ...] = ()
    sent_bytes: int = 0
    sent_calls: int = 0
    images: bool = False
    host: str = ""

    @property
    def builds(self) -> dict[str, str]:
        """Role -> name of the build that its guest ran."""
        return {role: image_of(name) if self.images else name for role, name in self.placement.items()}


@dataclass(frozen=True, slots=True)
class KernelFacts:
    """A kernel as a reader of the run needs it: `role` is "base" for the column others are compared with.

    `against` names the kernel whose build its own is compared with: "" the base kernel's, its own name: none.
    """

    name: str
    role: str
    description: str = ""
    against: str = ""


@dataclass(frozen=True, slots=True)
class SystemFacts:
    """A system of the series with the scenarios that test it."""

    name: str
    title: str
    scenarios: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Thread:
    """The mails that a kernel's series came by, as far as a reply needs them; `sender` wrote it.

    Attributes:
        message_id: of the cover letter, else of the first patch, without angle brackets.
        sender, to, cc: addresses, "Name <address>".
    """

    kernel: str
    subject: str
    message_id: str
    sender: str = ""
    to: tuple[str, ...] = ()
    cc: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Checkout:
    """What a kernel was made of, as KCIDB names it.

    Attributes:
        commit: full id of the commit below its series.
        url: of that commit's repository, "" where it is one of this host.
        patches: a file of the run's folder for each patch, in their order; none without a series.
        patchset: the hash of these files, made as KCIDB's `patchset_hash` is, "" without a series. The lab wrote
            them, so that only its own runs have the same.
    """

    kernel: str
    commit: str
    url: str = ""
    patches: tuple[str, ...] = ()
    patchset: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One finished (or interrupted) run, whole: every report is a view of it.

    Attributes:
        touches: scenario -> source files and folders of the kernel that it is about.
    """

    id: str
    title: str
    started: str
    duration_s: float
    complete: bool
    base: str  # the base column's name
    columns: tuple[str, ...]
    kernels: tuple[KernelFacts, ...]
    builds: tuple[BuildResult, ...]
    jobs: tuple[JobResult, ...]
    host: dict[str, str] = field(default_factory=dict)
    systems: tuple[SystemFacts, ...] = ()
    patches: tuple[PatchFacts, ...] = ()
    threads: tuple[Thread, ...] = ()
    checkouts: tuple[Checkout, ...] = ()
    touches: dict[str, tuple[str, ...]] = field(default_factory=dict)
    command: str = ""
    version: str = ""
    schema: int = SCHEMA_VERSION

    @property
    def difference(self) -> str:
        """What the kernels differ by from those that they are compared with, the most that any of them does.

        "" nothing, "configuration" (or compiler, where one is not known), "series", "tools": compilers, "base":
        different trees, or not known, or "base and tools".
        """
        builds = {build.kernel: build for build in self.builds}
        base = next((k.name for k in self.kernels if k.role == "base"), next(iter(builds), ""))
        against = {k.name: k.against for k in self.kernels if k.against}
        found = [_difference(build, builds.get(against.get(name, base))) for name, build in builds.items()]
        return max(found, key=_DIFFERENCES.index, default="base")

    @property
    def same_base(self) -> bool:
        """Whether each kernel comes from one base tree, by the same tools, with what it is compared with."""
        return self.difference in _DIFFERENCES[:3]


_DIFFERENCES = ("", "configuration", "series", "tools", "base", "base and tools")
"""What kernels can differ by: the more of it there is, the less the series can be made answerable for."""


def _difference(build: BuildResult, held: BuildResult | None) -> str:
    if held is None:
        return "base"
    if build.key and build.key == held.key:
        return ""
    tools = bool(build.compiler and held.compiler and build.compiler != held.compiler)
    if not build.base_key or build.base_key != held.base_key:
        return "base and tools" if tools else "base"
    if tools:
        return "tools"
    return "series" if build.series != held.series or not build.key else "configuration"
