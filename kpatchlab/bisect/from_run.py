"""`bisect RUN CASE`: a question for a search, made from a failure of a stored run. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from kpatchlab.bisect.criterion import Criterion
from kpatchlab.errors import UserError
from kpatchlab.model import Case, CaseKind, JobResult, Outcome, Run


@dataclass(frozen=True, slots=True)
class Found:
    """A failure of a run.

    Attributes:
        kernel: the kernel that fails; base: the one that does not.
        placement: role -> kernel, for roles of a mixed pair that run neither: they stay as they were.
    """

    criterion: Criterion
    kernel: str
    base: str
    placement: dict[str, str]


def find(run: Run, wanted: str) -> Found:
    """Return the failure that `wanted` means: a case, a scenario, a job, or "SCENARIO: CASE".

    Raises:
        UserError: none or several fit, or the base fails in the same way.
    """
    fits = [(job, case) for job in run.jobs for case in _failing(job) if _means(wanted, job, case)]
    fits = [(job, case) for job, case in fits if job.column != run.base]
    if not fits:
        base = [case.name for job in run.jobs for case in _failing(job) if _means(wanted, job, case)]
        if base:
            raise UserError(f"{wanted!r} fails on the base {run.base} as well", hint="then it is not the series' doing")
        failing = dict.fromkeys(
            f"{job.scenario}: {case.name}" for job in run.jobs if job.column != run.base for case in _failing(job)
        )
        raise UserError(
            f"nothing in run {run.id} that fails is {wanted!r}",
            hint=f"what fails: {'; '.join(list(failing)[:8])}" if failing else "nothing fails in it",
        )
    kinds = {(job.scenario, tuple(sorted(job.params.items())), case.name) for job, case in fits}
    names = {case.name for _, case in fits if case.kind is not CaseKind.JOB}
    if len(kinds) > 1 and len(names) > 1 and wanted != fits[0][0].scenario:
        told = sorted({f"{scenario}: {case}" for scenario, _, case in kinds})
        raise UserError(f"{wanted!r} fits {len(kinds)} failures", hint=f"one of {'; '.join(told[:8])}")
    job, case = min(fits, key=lambda pair: _rank(wanted, *pair))
    return _question(run, job, case, whole=wanted in {job.scenario, job.job})


def _rank(wanted: str, job: JobResult, case: Case) -> tuple[int, str, bool]:
    """Order what fits: a kernel of its own in all roles says most; a scenario's own check comes before the lab's."""
    whole = wanted in {job.scenario, job.job}
    return len(set(job.placement.values())), job.job, not whole and case.kind is not CaseKind.CHECK


def _question(run: Run, job: JobResult, case: Case, *, whole: bool) -> Found:
    for other in run.jobs:
        same = other.column == run.base and (other.scenario, other.params) == (job.scenario, job.params)
        if same and any(c.id == case.id and c.outcome.is_bad for c in other.cases):
            raise UserError(
                f"{job.scenario}: {case.name} fails on the base {run.base} as well",
                hint="then it is not the series' doing: --good and --bad search another range",
            )
    kernel = next(name for name in job.placement.values() if name != run.base)
    placement = {role: name for role, name in job.placement.items() if name != kernel}
    where = Criterion("case", (job.scenario,), dict(job.params))
    if not whole and not case.kind.sums_up:
        return Found(replace(where, case=case.name, case_kind=case.kind), kernel, run.base, placement)
    fingerprint = job.splats[0].fingerprint if job.splats and job.outcome is Outcome.CRASH else ""
    return Found(replace(where, fingerprint=fingerprint), kernel, run.base, placement)


def _failing(job: JobResult) -> list[Case]:
    return [case for case in job.cases if case.outcome.is_bad]


def _means(wanted: str, job: JobResult, case: Case) -> bool:
    return wanted in {job.job, job.scenario, case.name, f"{job.scenario}: {case.name}", f"{job.job}: {case.name}"}
