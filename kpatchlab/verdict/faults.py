"""What went wrong, each thing once: of the checks that show a fault the best one tells it. Pure.

Two checks show one fault where the kernel made the same report for both, where they are one check of a scenario with
other parameters or on another placement, or where two checks of a scenario say the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from kpatchlab.model import JOB, CaseKind, JobResult, Outcome, Splat, Verdict
from kpatchlab.textclean import one_line
from kpatchlab.verdict.values import VERDICT_ORDER, Cell, Comparison, Group, Row

_TOLD = frozenset({None, Verdict.REGRESSED, Verdict.GONE})
_NUMBER = re.compile(r"\b(?:0x)?[0-9a-f]*\d[0-9a-f]*\b")
"""What differs from one case to the next in a message: counts, offsets, bytes in hex."""


def splats(jobs: Iterable[JobResult]) -> list[Splat]:
    """Return the jobs' splats, one of each fingerprint."""
    return list({splat.fingerprint: splat for job in jobs for splat in job.splats}.values())


@dataclass(frozen=True, slots=True)
class Change:
    """One check whose verdict is not SAME, or one that is bad where there is nothing to compare.

    Attributes:
        base: the base column's cell, None where it has none.
        not_reached: the other checks that this event kept from running.
        splats: new or not, those of this column's jobs; only on the rows that carry them.
    """

    group: Group
    column: str
    row: Row
    cell: Cell
    base: Cell | None
    not_reached: tuple[str, ...]
    splats: tuple[Splat, ...]

    @property
    def jobs(self) -> tuple[JobResult, ...]:
        """The column's jobs, the bad ones first."""
        return tuple(sorted(self.group.jobs[self.column], key=lambda job: not job.outcome.is_bad))

    @property
    def word(self) -> str:
        """The verdict, or the outcome where there is nothing to compare."""
        return str(self.cell.verdict) if self.cell.verdict else self.cell.word.upper()

    @property
    def reproduce(self) -> str:
        """The command that runs it again, "" where the job names none."""
        return next((job.reproduce for job in self.jobs if job.reproduce), "")


def changes(comparison: Comparison) -> list[Change]:
    """Return every counted check that is not SAME, the worst verdicts first, in the run's order otherwise."""
    found = [
        _change(comparison, group, column, row)
        for group in comparison.groups
        for row in group.rows
        for column, cell in row.cells.items()
        if not cell.follows
        and (cell.verdict not in {None, Verdict.SAME} if comparison.compares else _noisy(group, row, column))
    ]
    rank = {verdict: i for i, verdict in enumerate(VERDICT_ORDER)}
    return sorted(found, key=lambda change: rank[change.cell.verdict] if change.cell.verdict else -1)


def _noisy(group: Group, row: Row, column: str) -> bool:
    cell = row.cells[column]
    if cell.implied or cell.missing or not (cell.flaky or cell.outcome not in {Outcome.PASS, Outcome.SKIP}):
        return False
    if row.id != JOB:
        return True
    # A check that fails makes its job fail: once is enough.
    bad = {r.id for r in group.rows if not r.id.kind.is_log and column in r.cells and r.cells[column].outcome.is_bad}
    return bad.isdisjoint(cell.because)


def _change(comparison: Comparison, group: Group, column: str, row: Row) -> Change:
    cell = row.cells[column]
    late: tuple[str, ...] = ()
    if row.id == JOB:
        late = tuple(r.case for r in group.rows if column in r.cells and r.cells[column].implied)
    shown = tuple(splats(group.jobs[column])) if row.id.kind.sums_up and (cell.outcome.is_bad or cell.flaky) else ()
    base = row.cells.get(comparison.base) if column != comparison.base else None
    return Change(group, column, row, cell, base, late, shown)


# --- faults -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that went wrong, and everywhere where it did; `first` is the change that shows it best.

    Attributes:
        end: which end of several brings it, in words; "" where the run cannot tell.
    """

    word: str
    first: Change
    others: tuple[Change, ...] = ()
    end: str = ""

    @property
    def changes(self) -> tuple[Change, ...]:
        """All checks that show it."""
        return (self.first, *self.others)

    @property
    def splat(self) -> Splat | None:
        """The kernel's report, None where it made none."""
        return self.first.splats[0] if self.first.splats else None

    @property
    def title(self) -> str:
        """One line: the kernel's words, or the check and its message."""
        if self.splat:
            return one_line(self.splat.title, 500)
        message = one_line(self.first.cell.message, 500)
        return f"{one_line(self.first.row.case)}: {message}" if message else one_line(self.first.row.case, 500)


def faults(comparison: Comparison) -> list[Fault]:
    """Return what regressed, or, with nothing to compare, what is bad; the worst first."""
    found: list[list[Change]] = []
    held: dict[tuple[object, ...], list[Change]] = {}
    for change in changes(comparison):
        if change.cell.verdict not in _TOLD or change.cell.outcome in {Outcome.BLOCKED, Outcome.INFRA}:
            continue
        marks = list(_marks(change))
        alike = list({id(held[mark]): held[mark] for mark in marks if mark in held}.values())
        whole = alike[0] if alike else []
        for other in alike[1:]:
            whole += other
            found = [every for every in found if every is not other]
            held |= {mark: whole for mark, every in held.items() if every is other}
        if not alike:
            found.append(whole)
        whole.append(change)
        held |= dict.fromkeys(marks, whole)
    told = [Fault(every[0].word, every[0], tuple(every[1:])) for every in found]
    return [replace(fault, end=_end(fault, comparison)) for fault in told]


def _marks(change: Change) -> Iterator[tuple[object, ...]]:
    """Yield what two changes of one fault share."""
    if change.splats:
        yield change.word, change.splats[0].fingerprint
        return
    scenario = change.group.scenario
    yield change.word, scenario, change.row.id
    message = _NUMBER.sub("N", one_line(change.cell.message, 500))
    if message and change.row.id.kind is CaseKind.CHECK:
        yield change.word, scenario, message


def _end(fault: Fault, comparison: Comparison) -> str:
    """Say which end brings a fault, by the placements that show it and those that do not."""
    ids = {change.row.id for change in fault.changes}
    here = {(id(change.group), change.column) for change in fault.changes}
    with_it: set[frozenset[str]] = set()
    without: set[frozenset[str]] = set()
    kernels: set[str] = set()
    for group in {id(change.group): change.group for change in fault.changes}.values():
        own = _placement(group, comparison.base)
        if own is None:
            return ""
        for column in group.jobs:
            placed = _placement(group, column) or {}
            changed = frozenset(role for role, kernel in placed.items() if kernel != own.get(role))
            kernels |= {placed[role] for role in changed}
            if (id(group), column) in here:
                with_it.add(changed)
            elif any(row.id in ids and column in row.cells and _fine(row.cells[column]) for row in group.rows):
                without.add(changed)
    roles = frozenset(role for changed in with_it | without for role in changed)
    if len(kernels) != 1 or len(roles) < 2 or not any(changed < roles for changed in with_it | without if changed):
        return ""
    return _ends_in_words(with_it, without - {frozenset()}, sorted(roles), kernels.pop())


def _ends_in_words(with_it: set[frozenset[str]], without: set[frozenset[str]], roles: list[str], kernel: str) -> str:
    """Return it in words; the sets are of roles that run the other kernel, each the roles of one placement."""
    for role in roles:
        others = [other for other in roles if other != role]
        if without and all(role in changed for changed in with_it) and not any(role in changed for changed in without):
            return f"wherever the {role} runs {kernel}, never by the {' or the '.join(others)} alone"
    if with_it == {frozenset(roles)} and without:
        return f"only where {' and '.join(roles)} both run {kernel}" if len(roles) == 2 else ""
    if not without:
        return f"whichever end runs {kernel}"
    return ""


def _placement(group: Group, column: str) -> dict[str, str] | None:
    return next((job.placement for job in group.jobs.get(column, ())), None)


def _fine(cell: Cell) -> bool:
    return not cell.missing and not cell.implied and cell.outcome is Outcome.PASS and not cell.flaky
