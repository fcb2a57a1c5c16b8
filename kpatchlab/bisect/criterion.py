"""What counts as bad: from a build and the results of jobs to GOOD, BAD or SKIP. Pure.

Whatever fails has signatures: a case, a splat's fingerprint, the file that does not compile. A commit is BAD only where
it fails with one that is sought; one that fails otherwise cannot be told, and is SKIP.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median

from kpatchlab.bisect.loop import Mark
from kpatchlab.errors import UserError
from kpatchlab.model import BuildResult, Case, CaseKind, JobResult, Outcome


@dataclass(frozen=True, slots=True)
class Criterion:
    """What is searched for.

    Attributes:
        kind: "case" (of a scenario; any that fails, if none is named), "splat", "build", "boot" or "metric".
        scenarios: words that choose them.
        params: parameters that a job must have to be looked at.
        case: the case's name; the lab's own that sum up others (a job, a log) stand for whatever fails in the job.
        case_kind: its kind; None: as a person names it, a scenario's own check before one of the lab's.
        fingerprint: of the splat that is sought; with kind "case", what a crash must show to be the one.
        module: for "build": the module that does not compile; "": the kernel itself, or any module.
        metric: for "metric": its name; `bound`: ratio to the good end from which on it is worse.
        sought: signatures that the bad end showed, where nothing narrower was asked for.
    """

    kind: str
    scenarios: tuple[str, ...] = ()
    params: dict[str, str] = field(default_factory=dict)
    case: str = ""
    fingerprint: str = ""
    module: str = ""
    metric: str = ""
    bound: float = 0.0
    sought: tuple[str, ...] = ()
    case_kind: CaseKind | None = None

    @property
    def runs_guests(self) -> bool:
        """Whether a verdict needs more than a build."""
        return self.kind != "build"

    def __str__(self) -> str:
        """Return it in words."""
        where = " ".join([*self.scenarios, *(f"{k}={v}" for k, v in self.params.items())])
        return {
            "case": f"{where}: {self.case or 'any case'} fails",
            "splat": f"{where}: splat {self.fingerprint}",
            "build": f"{self.module or 'the kernel or a module'} does not compile",
            "boot": "the kernel does not boot",
            "metric": f"{where}: {self.metric} is worse by more than a factor of {self.bound:g}",
        }[self.kind] + (f" [{', '.join(self.sought)}]" if self.sought else "")


@dataclass(frozen=True, slots=True)
class Judged:
    """A verdict and what it rests on; `signatures` are those that the run failed with."""

    verdict: Mark
    reason: str = ""
    details: str = ""
    signatures: tuple[str, ...] = ()


def narrowed(criterion: Criterion, shown: Sequence[Sequence[str]]) -> Criterion:
    """Return the criterion with what the bad end's failing runs have shown as what is sought.

    A fingerprint that was asked for stays the only one; of a case it is then known which jobs showed it.
    """
    if criterion.fingerprint or criterion.module or criterion.kind in {"boot", "metric"}:
        return criterion
    sought = dict.fromkeys(s for signatures in shown for s in signatures)
    if criterion.case:
        # Where none has the name, it is that of one of the lab's own, which has no signature.
        sought = {name: None for name in sought if name.endswith(f": {criterion.case}")} or sought
    return replace(criterion, sought=tuple(sought))


def judge_build(criterion: Criterion, build: BuildResult) -> Judged | None:
    """Judge a build; None where the verdict takes guests."""
    wrong = _build_signatures(build)
    if criterion.kind != "build":
        if build.outcome is Outcome.PASS:
            return None
        kind = Mark.INFRA if build.outcome is Outcome.INFRA else Mark.SKIP
        return Judged(kind, f"does not build: {_place(build)}", build.log_tail)
    if build.outcome is Outcome.INFRA:
        return Judged(Mark.INFRA, build.error)
    first = next(iter(build.module_failures), None)
    details = first.log if first else build.log_tail
    if criterion.module:
        lost = {name for failure in build.module_failures for name in (failure.module, *failure.dependents)}
        if criterion.module in lost:
            return Judged(Mark.BAD, f"module {criterion.module} does not compile", details, tuple(wrong))
        if build.outcome is not Outcome.PASS:
            return Judged(Mark.SKIP, f"does not build: {_place(build)}", build.log_tail)
        return Judged(Mark.GOOD, "builds")
    if not wrong:
        return Judged(Mark.GOOD, "builds")
    hit = [words for name, words in wrong.items() if not criterion.sought or name in criterion.sought]
    if hit:
        return Judged(Mark.BAD, hit[0], details, tuple(wrong))
    return Judged(Mark.SKIP, f"does not build, but otherwise: {next(iter(wrong.values()))}", details)


def _place(build: BuildResult) -> str:
    return (f"{build.error_file}:{build.error_line}: " if build.error_file else "") + build.error


def _build_signatures(build: BuildResult) -> dict[str, str]:
    if build.outcome is Outcome.BLOCKED:
        return {f"build {build.error_file or build.error}": f"does not build: {_place(build)}"}
    return {
        f"build {failure.module}: {failure.source}": f"{failure.source}:{failure.line}: {failure.error}"
        for failure in build.module_failures
    }


def judge_jobs(criterion: Criterion, jobs: Sequence[JobResult], base: Sequence[JobResult] = ()) -> Judged:
    """Judge the jobs of one run on a commit's kernel; `base`: those of the good end beside them, for figures."""
    if not jobs:
        return Judged(Mark.INFRA, "no job came to an end")
    if lost := next((job for job in (*jobs, *base) if job.outcome is Outcome.INFRA), None):
        return Judged(Mark.INFRA, lost.message)
    if criterion.kind == "metric":
        return _judge_metric(criterion, jobs, base)
    judged = [_judge_job(criterion, job) for job in jobs]
    if bad := [one for one in judged if one.verdict is Mark.BAD]:
        return replace(bad[0], signatures=tuple(dict.fromkeys(s for one in bad for s in one.signatures)))
    owners = _asked(criterion, jobs)
    asked = [one for job, one in zip(jobs, judged, strict=True) if job in owners]
    for verdict in (Mark.INFRA, Mark.SKIP):
        if found := next((one for one in asked if one.verdict is verdict), None):
            return found
    return asked[0]


def _asked(criterion: Criterion, jobs: Sequence[JobResult]) -> Sequence[JobResult]:
    """Return the jobs without which nothing can be told: those that own what is sought, or have the case at all."""
    own = [job for job in jobs if _owned(criterion.sought, job)]
    if own or not criterion.case:
        return own or jobs
    has = [job for job in jobs if _named(criterion, job)]
    # One that broke off may not have come to the case.
    return [job for job in jobs if job in has or job.outcome in LOST - {Outcome.FAIL}] if has else jobs


def _owned(sought: Sequence[str], job: JobResult) -> list[str]:
    """Return the signatures that only this job can have."""
    return [name for name in sought if name.startswith(f"{_label(job)}: ")]


def _named(criterion: Criterion, job: JobResult) -> Case | None:
    """Return the case that a criterion names, a scenario's own check before one of the lab's."""
    found = [c for c in job.cases if c.name == criterion.case and criterion.case_kind in {None, c.kind}]
    if f"{_label(job)}: {criterion.case}" in criterion.sought:  # it is known not to be one that sums up
        found = [c for c in found if not c.kind.sums_up]
    return min(found, key=lambda case: case.kind is not CaseKind.CHECK, default=None)


def _label(job: JobResult) -> str:
    """Return what tells a run's jobs apart."""
    return " ".join([job.scenario, *(f"{name}={value}" for name, value in job.params.items())])


LOST = {Outcome.CRASH, Outcome.FAIL, Outcome.TIMEOUT}
"""How a job ends whose guest does not come as far as the scenario."""


def _judge_job(criterion: Criterion, job: JobResult) -> Judged:
    judged = _told_by(criterion, job)
    if judged.verdict is Mark.SKIP and job.outcome in LOST and not job.guests:
        # Under emulation on a busy host a kernel can panic while it boots, whatever commit it is of: as what may be the
        # host's fault it is tried again, and skipped if it stays so.
        return replace(judged, verdict=Mark.INFRA)
    return judged


def _told_by(criterion: Criterion, job: JobResult) -> Judged:
    wrong = signatures(job)
    details = "\n".join(splat.decoded or splat.text for splat in job.splats)
    if criterion.kind == "splat":
        if any(splat.fingerprint == criterion.fingerprint for splat in job.splats):
            return Judged(Mark.BAD, wrong[f"splat {criterion.fingerprint}"], details, tuple(wrong))
        # A scenario can fail for other reasons beside; only one that broke before it got there tells nothing.
        if job.outcome in {Outcome.PASS, Outcome.FAIL} and not job.splats:
            return Judged(Mark.GOOD, "no such splat")
        return Judged(Mark.SKIP, _otherwise(job), details)
    case = _named(criterion, job)
    if criterion.case and not (case and case.kind.sums_up):
        if case is not None and case.outcome is Outcome.PASS:
            return Judged(Mark.GOOD, f"{case.name} passes")
        if case is not None and case.outcome.is_bad:
            return Judged(Mark.BAD, f"{case.name}: {case.message or 'fails'}", details or case.details, tuple(wrong))
        return Judged(Mark.SKIP, f"{criterion.case} did not run: {job.message or job.outcome.value}", details)
    if job.outcome is Outcome.PASS:
        return Judged(Mark.GOOD, "passes")
    sought = [f"splat {criterion.fingerprint}"] if criterion.fingerprint else criterion.sought
    splats = {name for name in sought if name.startswith("splat ")}
    if job.splats and splats and not wrong.keys() & splats:
        return Judged(Mark.SKIP, _otherwise(job), details)
    hit = [words for name, words in wrong.items() if not sought or name in sought]
    if hit and (job.guests or sought):
        return Judged(Mark.BAD, hit[0], details, tuple(wrong))
    cases = {f"{_label(job)}: {case.name}": case.outcome for case in job.cases if not case.kind.sums_up}
    own = _owned(sought, job) or sought
    if sought and not job.splats and all(cases.get(name) is Outcome.PASS for name in own):
        return Judged(Mark.GOOD, f"passes what is sought; fails otherwise: {job.message}")
    return Judged(Mark.SKIP, _otherwise(job), details)


def _otherwise(job: JobResult) -> str:
    words = {
        Outcome.SKIP: "cannot run",
        Outcome.BLOCKED: "cannot run",
        Outcome.PASS: "another splat",
    }.get(job.outcome, "fails, but otherwise" if job.guests else "does not get so far")
    return f"{words}: {job.message or next((s.title for s in job.splats), job.outcome.value)}"


def signatures(job: JobResult) -> dict[str, str]:
    """Return what a job failed with: signature -> one line of words."""
    found = {f"splat {splat.fingerprint}": splat.title for splat in job.splats}
    for case in job.cases:
        if case.outcome.is_bad and not case.kind.sums_up:
            found[f"{_label(job)}: {case.name}"] = f"{case.name}: {case.message or 'fails'}"
    if not found and job.outcome.is_bad:
        found[f"{_label(job)}: {job.outcome.value}"] = job.message or job.outcome.value
    return found


def _judge_metric(criterion: Criterion, jobs: Sequence[JobResult], base: Sequence[JobResult]) -> Judged:
    """Judge by the jobs whose figure got worse most; each is compared with the good end's with the same parameters."""
    found = []
    for label in dict.fromkeys(_label(job) for job in jobs):
        ours, theirs = ([one for one in some if _label(one) == label] for some in (jobs, base))
        value, other = _figure(criterion.metric, ours), _figure(criterion.metric, theirs)
        if value is None or other is None:
            continue
        if min(value, other) <= 0:
            return Judged(Mark.SKIP, f"{criterion.metric} is {value:g} and {other:g}: no ratio")
        direction = next(m.direction for job in ours for m in job.metrics if m.name == criterion.metric)
        ratio = value / other if direction == "lower" else other / value
        found.append((ratio, f"{criterion.metric} {value:g}, good end {other:g}: worse by a factor of {ratio:.3f}"))
    if not found:
        job = next((job for job in jobs if job.outcome is not Outcome.PASS), jobs[0])
        return Judged(Mark.SKIP, f"no figure {criterion.metric}: {job.message or job.outcome.value}")
    worst, words = max(found)
    return Judged(Mark.BAD if worst > criterion.bound else Mark.GOOD, words)


def _figure(name: str, jobs: Sequence[JobResult]) -> float | None:
    values = [metric.value for job in jobs for metric in job.metrics if metric.name == name]
    return median(values) if values else None


def check(criterion: Criterion, known: Mapping[str, object]) -> None:
    """Raise UserError where a criterion says too little, or names a scenario that is not there (any more)."""
    if criterion.kind in {"case", "splat", "metric"} and not criterion.scenarios:
        raise UserError("which scenario shows it?", hint="--scenario NAME; or RUN CASE for what a run has shown")
    for name in criterion.scenarios:
        if not any(c in name for c in "*?[:!") and name not in known:
            raise UserError(f"there is no scenario {name}", hint="was it renamed? --scenario gives its name of today")
    if criterion.kind == "metric" and criterion.bound <= 1.0:
        raise UserError(f"--bound {criterion.bound:g}: a factor above 1 is meant", hint="1.05 is five percent worse")
