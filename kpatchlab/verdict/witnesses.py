"""What no job can tell by itself: that it takes a multiple of what the base takes, or leaves more behind. Pure.

Both are doubted by one run of a job, and told by a second one: the host may have been busy, and a cache that fills is
no loss. `doubts` says what is to be run again, `cases` judges what came of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from kpatchlab.model import Case, CaseId, CaseKind, JobResult, Left, Outcome
from kpatchlab.progress import clock

TIMES, LEAST_S = 3.0, 20.0
"""A job is too slow that takes so many times as long as on the base, and so many seconds longer: what waits for a
deadline does. Under load the same job takes up to twice as long (bench/README.md)."""
TURNS = 4
"""How often a job that leaves more than on the base runs its work in one guest, to see whether that grows."""

Jobs = Mapping[str, Sequence[JobResult]]
"""Column -> its jobs of one scenario with one set of parameters."""


@dataclass(frozen=True, slots=True)
class Limit:
    """From where on a loss is one.

    Attributes:
        doubt: more than on the base, after one turn.
        each: more than on the base, in each further turn.
    """

    doubt: float
    each: float


# Two runs of tcp-splice on each of Debian's 6.1 and 6.12: pages -10 to +6, socket pages up to 243 (each processor keeps
# some for itself), 600 objects of a file system's cache.
LIMITS = {
    "pages": Limit(128, 32),
    "vmalloc pages": Limit(512, 64),
    "slab": Limit(4000, 200),
    "sockets": Limit(20, 10),
    "socket pages": Limit(1024, 64),
    "module": Limit(4, 2),
    "threads": Limit(16, 4),
    "mounts": Limit(1, 1),
    "network devices": Limit(1, 1),
    "open files": Limit(256, 16),
}


def limit_of(what: str) -> Limit:
    """Return the limit of one kind of leftover, see `model.Left`."""
    if what in LIMITS:
        return LIMITS[what]
    return LIMITS[what.rpartition(" ")[0]]


@dataclass(frozen=True, slots=True)
class Doubt:
    """Why a job is to be run again, in words, and for how many turns."""

    why: str
    turns: int = 1


def doubts(jobs: Jobs, base: str) -> dict[str, Doubt]:
    """Return the columns whose jobs are to be run again; the base then is as well."""
    found: dict[str, Doubt] = {}
    for column, held, here in _compared(jobs, base):
        if _slow(held, here) and min(len(held), len(here)) < 2:
            found[column] = Doubt(f"it takes {clock(_least_s(here))}, and {clock(_most_s(held))} on the base")
        if (more := list(_excess(held, here))) and not (_turned(held) and _turned(here)):
            named = ", ".join(f"{left.turns[0]:.0f} {left.what}" for left in more[:3])
            found[column] = Doubt(f"it leaves more than on the base: {named}", TURNS)
    return found


def cases(jobs: Jobs, base: str) -> dict[CaseId, dict[str, Case]]:
    """Return the checks that only a comparison can make, by column; those alone that a column fails."""
    found: dict[CaseId, dict[str, Case]] = {}
    for column, held, here in _compared(jobs, base):
        for case in [*_slow_case(held, here), *_left_cases(held, here)]:
            found.setdefault(case.id, {base: Case(case.name, Outcome.PASS, kind=case.kind)})[column] = case
    return found


def _ended(jobs: Iterable[JobResult]) -> list[JobResult]:
    """Return the jobs whose scripts came to their ends: only these have a time, and something left, of their own."""
    return [job for job in jobs if job.reported and job.outcome in {Outcome.PASS, Outcome.FAIL}]


def _compared(jobs: Jobs, base: str) -> Iterator[tuple[str, list[JobResult], list[JobResult]]]:
    """Yield (column, jobs of the base, the column's jobs), of those that can be held against each other.

    All of them ran on machines of one kind: others have another pace, and other pages.
    """
    of_base = _ended(jobs.get(base, ()))
    for column, made in jobs.items():
        here = _ended(made)
        modes = {job.mode for job in here}
        held = [job for job in of_base if {job.mode} == modes]
        if column != base and held:
            yield column, held, here


def _most_s(base: Sequence[JobResult]) -> float:
    return max(job.guest_s for job in base)


def _least_s(here: Sequence[JobResult]) -> float:
    """Return the least that a job takes, without what the host kept from it."""
    return min(job.guest_s - job.withheld_s for job in here)


def _slow(base: Sequence[JobResult], here: Sequence[JobResult]) -> bool:
    most, least = _most_s(base), _least_s(here)
    return least > TIMES * most and least - most > LEAST_S


def _slow_case(base: Sequence[JobResult], here: Sequence[JobResult]) -> list[Case]:
    if not _slow(base, here) or min(len(base), len(here)) < 2:
        return []
    most, least = _most_s(base), _least_s(here)
    told = f"takes {clock(least)} and more, {least / most:.1f} times the {clock(most)} that the base takes at most"
    return [Case("time", Outcome.FAIL, f"{told}, in {len(here)} runs", kind=CaseKind.TIME)]


def _excess(base: Sequence[JobResult], here: Sequence[JobResult]) -> Iterable[Left]:
    """Return what each job here leaves more of than any on the base, after its first turn."""
    before = _most_left(base, lambda left: left.turns[0])
    least: dict[tuple[str, str], list[Left]] = {}
    for job in here:
        for left in job.left:
            least.setdefault((left.role, left.what), []).append(left)
    for key, found in least.items():
        low = min(found, key=lambda left: left.turns[0])
        if len(found) == len(here) and low.turns[0] - before.get(key, 0.0) > limit_of(low.what).doubt:
            yield low


def _most_left(jobs: Iterable[JobResult], amount: Callable[[Left], float]) -> dict[tuple[str, str], float]:
    """Return (role, what) -> the most that any of the jobs left of it; nothing is less than 0."""
    most: dict[tuple[str, str], float] = {}
    for job in jobs:
        for left in job.left:
            key = left.role, left.what
            most[key] = max(most.get(key, 0.0), amount(left))
    return most


def _turned(jobs: Iterable[JobResult]) -> list[JobResult]:
    """Return the jobs that did their work several times."""
    return [job for job in jobs if job.turns > 1]


def _share(amount: float, job: JobResult) -> str:
    """Return a loss by what was sent in its turn."""
    if not job.sent_bytes or not job.sent_calls:
        return ""
    return f" ({amount / (job.sent_bytes / (1 << 20)):.1f} a MiB, {amount / job.sent_calls:.2g} a call)"


def _left_cases(base: Sequence[JobResult], here: Sequence[JobResult]) -> Iterable[Case]:
    """Return a failed check for each leftover that grew in every further turn, by more than it ever did on the base."""
    held, turned = _turned(base), _turned(here)
    if not held or not turned:
        return
    before = _most_left(held, lambda left: max(left.turns[1:], default=0.0))
    for left in turned[-1].left:
        least = min(left.turns[1:], default=0.0) - before.get((left.role, left.what), 0.0)
        if least > limit_of(left.what).each:
            grown = ", ".join(f"{amount:+.0f}" for amount in left.turns)
            name = f"left: {left.what} ({left.role})"
            told = f"each turn leaves {least:.0f} more than on the base{_share(least, turned[-1])}: {grown}"
            yield Case(name, Outcome.FAIL, told, kind=CaseKind.LEFT, role=left.role)
