"""Jobs that are run once more: bad beside a build, or on a host that kept the processor, is no verdict yet.

The second run is a repeat of the job: bad twice is bad, bad and then good is flaky, and both consoles are kept. Nor is
it one that a job takes a multiple of what it takes on the base, or leaves more behind: then the base's job is repeated
beside it, see `verdict.witnesses`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from kpatchlab.model import JobResult, Outcome
from kpatchlab.plan.jobs import Group, JobSpec
from kpatchlab.run.starved import HALF
from kpatchlab.verdict import witnesses

LEAST_S = 5.0
"""Scripts that take less are not measured by their own time: half of nothing is soon lost."""
_BAD = frozenset({Outcome.FAIL, Outcome.CRASH, Outcome.TIMEOUT, Outcome.INFRA})


def disturbed(result: JobResult) -> str:
    """Return what the host did while a bad job ran, in words; "" where it left it alone, or the job is not bad."""
    if result.outcome not in _BAD:
        return ""
    if result.beside:
        return f"it ran beside {' and '.join(result.beside)}"
    # The first job of a preparation boots and prepares its guest as well, which loses nothing of its own time.
    took = min(max(result.guest_s, LEAST_S), result.duration_s) if result.guest_s else result.duration_s
    if result.withheld_s and result.withheld_s >= HALF * took:
        return f"the host kept the processor from it for {result.withheld_s:.0f} of {took:.0f} s"
    return ""


def once_more(planned: Sequence[JobSpec], done: Mapping[str, JobResult], base: str) -> list[tuple[JobSpec, str]]:
    """Return the jobs to repeat, with the reason: for each such job a repeat of a number of its own.

    Args:
        planned: the jobs of the plan, without such repeats.
        done: job id -> result.
        base: the column that the others are compared with.
    """
    last: dict[tuple[object, str], int] = {}
    for job in planned:
        last[job.group, job.column] = max(job.repeat, last.get((job.group, job.column), 0))
    found = [(job, why, 1) for job in planned if (result := done.get(job.id)) and (why := disturbed(result))]
    repeats = []
    for job, why, turns in [*found, *_doubtful(planned, done, base)]:
        last[job.group, job.column] += 1
        number = last[job.group, job.column]
        name = f"{job.id.rpartition('#')[0]}#{number}"
        repeats.append((replace(job, id=name, repeat=number, turns=turns), why))
    return repeats


def _doubtful(
    planned: Sequence[JobSpec], done: Mapping[str, JobResult], base: str
) -> Iterator[tuple[JobSpec, str, int]]:
    """Yield a job of each column that only a second run can tell from the base, and of the base; why, and turns."""
    specs = {(job.group, job.column): job for job in planned}
    results: dict[Group, dict[str, list[JobResult]]] = {}
    for job in planned:
        if job.id in done:
            results.setdefault(job.group, {}).setdefault(job.column, []).append(done[job.id])
    for group, jobs in results.items():
        doubts = witnesses.doubts(jobs, base)
        for column, doubt in doubts.items():
            yield specs[group, column], doubt.why, doubt.turns
        if doubts:
            yield specs[group, base], "to compare with it", max(doubt.turns for doubt in doubts.values())
