"""`bisect RUN CASE`: what a stored run says about a failure, made into a question. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from kpatchlab.bisect.criterion import Criterion
from kpatchlab.errors import UserError
from kpatchlab.model import Case, JobResult, Outcome, Run


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
    if len(kinds) > 1 and len({case.name for _, case in fits} - {"job"}) > 1 and wanted != fits[0][0].scenario:
        names = sorted({f"{scenario}: {case}" for scenario, _, case in kinds})
        raise UserError(f"{wanted!r} fits {len(kinds)} failures", hint=f"one of {'; '.join(names[:8])}")
    # A kernel of its own in all roles before a mixed pair: it says most.
    job, case = min(fits, key=lambda pair: (len(set(pair[0].placement.values())), pair[0].job))
    return _question(run, job, case, wanted)


def _question(run: Run, job: JobResult, case: Case, wanted: str) -> Found:
    for other in run.jobs:
        same = other.column == run.base and (other.scenario, other.params) == (job.scenario, job.params)
        if same and any(c.name == case.name and c.outcome.is_bad for c in other.cases):
            raise UserError(
                f"{job.scenario}: {case.name} fails on the base {run.base} as well",
                hint="then it is not the series' doing: --good and --bad search another range",
            )
    kernel = next(name for name in job.placement.values() if name != run.base)
    placement = {role: name for role, name in job.placement.items() if name != kernel}
    named = "" if case.name.startswith(("job", "log: ")) or wanted in {job.scenario, job.job} else case.name
    fingerprint = job.splats[0].fingerprint if job.splats and job.outcome is Outcome.CRASH else ""
    criterion = Criterion("case", (job.scenario,), dict(job.params), named, "" if named else fingerprint)
    return Found(criterion, kernel, run.base, placement)


def _failing(job: JobResult) -> list[Case]:
    return [case for case in job.cases if case.outcome.is_bad]


def _means(wanted: str, job: JobResult, case: Case) -> bool:
    return wanted in {job.job, job.scenario, case.name, f"{job.scenario}: {case.name}", f"{job.job}: {case.name}"}
