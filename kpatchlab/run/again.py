"""Jobs that are run once more: bad beside a build, or on a host that kept the processor, is no verdict yet.

The second run is a repeat of the job: bad twice is bad, bad and then good is flaky, and both consoles are kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from kpatchlab.model import JobResult, Outcome
from kpatchlab.plan.jobs import JobSpec
from kpatchlab.run.starved import HALF

_BAD = frozenset({Outcome.FAIL, Outcome.CRASH, Outcome.TIMEOUT, Outcome.INFRA})


def disturbed(result: JobResult) -> str:
    """Return what the host did while a bad job ran, in words; "" where it left it alone, or the job is not bad."""
    if result.outcome not in _BAD:
        return ""
    if result.beside:
        return f"it ran beside {' and '.join(result.beside)}"
    if result.withheld_s and result.withheld_s >= HALF * result.duration_s:
        return f"the host kept the processor from it for {result.withheld_s:.0f} of {result.duration_s:.0f} s"
    return ""


def once_more(planned: Sequence[JobSpec], done: Mapping[str, JobResult]) -> list[tuple[JobSpec, str]]:
    """Return the jobs to repeat, with the reason: for each that was disturbed a repeat of a number of its own.

    Args:
        planned: the jobs of the plan, without such repeats.
        done: job id -> result.
    """
    last: dict[tuple[object, str], int] = {}
    for job in planned:
        last[job.group, job.column] = max(job.repeat, last.get((job.group, job.column), 0))
    found = []
    for job in planned:
        if (result := done.get(job.id)) and (why := disturbed(result)):
            last[job.group, job.column] += 1
            number = last[job.group, job.column]
            found.append((replace(job, id=f"{job.id.rpartition('#')[0]}#{number}", repeat=number), why))
    return found
