"""What went wrong, each thing once: of the checks that show a fault the first one tells it. Pure.

Two checks show one fault where the kernel made the same report for both, where they are one check of a scenario with
other parameters or on another placement, or where two checks of a scenario say the same but for places and sizes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from kpatchlab.model import JOB, CaseKind, JobResult, Outcome, Splat, Verdict
from kpatchlab.textclean import one_line
from kpatchlab.verdict.values import VERDICT_ORDER, Cell, Comparison, Group, Row

_PLACE = re.compile(r"\b(byte|bytes|offset|at|of|block|sector|page|pages|size) \d+\b")
_LARGE = re.compile(r"\b(?:0x[0-9a-f]+|[0-9a-f]{8,}|\d{4,})\b")
"""What differs from one case to the next in a message: places, sizes, bytes in hex; an errno or a status stays."""


def splats(found: Iterable[JobResult | Change]) -> list[Splat]:
    """Return the splats of jobs or changes, one of each fingerprint."""
    return list({splat.fingerprint: splat for each in found for splat in each.splats}.values())


@dataclass(frozen=True, slots=True)
class Change:
    """One check whose verdict is not SAME, or one that is bad where there is nothing to compare.

    Attributes:
        base: the base column's cell, None where it has none.
        not_reached: the other checks that this event kept from running.
        splats: those of this column's jobs that the base's have not, or all where they have no other; only on the rows
            that carry them.
        fresh: whether these are new.
    """

    group: Group
    column: str
    row: Row
    cell: Cell
    base: Cell | None
    not_reached: tuple[str, ...]
    splats: tuple[Splat, ...]
    fresh: bool = False

    @property
    def jobs(self) -> tuple[JobResult, ...]:
        """The column's jobs, the bad ones first."""
        return tuple(sorted(self.group.jobs[self.column], key=lambda job: not job.outcome.is_bad))

    @property
    def word(self) -> str:
        """The verdict, or the outcome where there is nothing to compare."""
        return str(self.cell.verdict) if self.cell.verdict else self.cell.word.upper()

    @property
    def place(self) -> str:
        """The scenario, and the column: "cifs-tcp on with"."""
        return f"{self.group.name} on {self.column}"

    @property
    def is_fault(self) -> bool:
        """Whether something went wrong: it regressed, is gone, or is bad with nothing to compare; not what was lost."""
        lost = self.cell.outcome in {Outcome.BLOCKED, Outcome.INFRA}
        return self.cell.verdict in {None, Verdict.REGRESSED, Verdict.GONE} and not lost

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
    base = row.cells.get(comparison.base) if column != comparison.base else None
    if not row.id.kind.sums_up or not (cell.outcome.is_bad or cell.flaky):
        return Change(group, column, row, cell, base, late, ())
    there = {splat.fingerprint for splat in splats(group.jobs.get(comparison.base, ()))} if base else set()
    shown = splats(group.jobs[column])
    new = [splat for splat in shown if splat.fingerprint not in there]
    return Change(group, column, row, cell, base, late, tuple(new or shown), bool(new))


# --- faults -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that went wrong, and everywhere where it did; `first` is the first of the worst in the run's order.

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
    def more_splats(self) -> tuple[Splat, ...]:
        """The kernel's other reports, wherever it shows, one of each fingerprint."""
        return tuple(splat for splat in splats(self.changes) if splat is not self.splat)

    @property
    def title(self) -> str:
        """One line: the kernel's words, or the check and its message."""
        if self.splat:
            return one_line(self.splat.title, 500)
        message = one_line(self.first.cell.message, 500)
        return f"{one_line(self.first.row.case)}: {message}" if message else one_line(self.first.row.case, 500)


def faults(comparison: Comparison) -> list[Fault]:
    """Return what regressed, or, with nothing to compare, what is bad; the worst first."""
    told = [change for change in changes(comparison) if change.is_fault]
    above: dict[_Mark, _Mark] = {}
    for change in told:
        first, *more = _marks(change)
        for mark in more:
            above[_top(above, mark)] = _top(above, first)
    alike: dict[_Mark, list[Change]] = {}
    for change in told:
        alike.setdefault(_top(above, next(_marks(change))), []).append(change)
    ends = _Ends(comparison)
    return [Fault(every[0].word, every[0], tuple(every[1:]), ends.of(every)) for every in alike.values()]


_Mark = tuple[object, ...]
"""What two changes of one fault share."""


def _top(above: dict[_Mark, _Mark], mark: _Mark) -> _Mark:
    """Return the mark that stands for all that are the same fault as this one, and shorten the way to it."""
    top = mark
    while (higher := above.get(top, top)) != top:
        top = higher
    while mark != top:
        above[mark], mark = top, above[mark]
    return top


def _marks(change: Change) -> Iterator[_Mark]:
    if change.splats and (change.fresh or change.cell.verdict is None):
        yield change.word, change.splats[0].fingerprint
        return
    scenario, kind = change.group.scenario, change.row.id.kind
    message = _LARGE.sub("N", _PLACE.sub(r"\1 N", one_line(change.cell.message, 500)))
    if kind.sums_up:  # a job may fail for any reason
        yield change.word, scenario, change.row.id, change.cell.outcome, message
        return
    yield change.word, scenario, change.row.id
    if message and kind is CaseKind.CHECK:
        yield change.word, scenario, message


class _Ends:
    """Which end of several brings a fault, by the placements that show it and those that do not."""

    def __init__(self, comparison: Comparison) -> None:
        self.base = comparison.base
        self.rows: dict[int, Mapping[object, Row]] = {}

    def of(self, found: list[Change]) -> str:
        """Return it in words, "" where the run cannot tell: each end has to have run the other kernel alone."""
        groups = {id(change.group): change.group for change in found}
        changed = {key: self._changed(group) for key, group in groups.items()}
        kernels = {kernel for columns in changed.values() for _, kernel in columns.values() if kernel}
        sets = {roles for columns in changed.values() for roles, _ in columns.values()}
        roles = sorted(frozenset().union(*sets))
        if len(kernels) != 1 or len(roles) < 2 or not all(frozenset({role}) in sets for role in roles):
            return ""
        ids = {change.row.id for change in found}
        here = {(id(change.group), change.column) for change in found}
        with_it, without = set(), set()
        for key, columns in changed.items():
            for column, (placed, _) in columns.items():
                if (key, column) in here:
                    with_it.add(placed)
                elif self._fine(groups[key], column, ids):
                    without.add(placed)
        return "" if with_it & without else _in_words(with_it, without, roles, next(iter(kernels)))

    def _changed(self, group: Group) -> dict[str, tuple[frozenset[str], str]]:
        """Return column -> the roles that run another kernel than on the base, and that kernel."""
        own = _placement(group, self.base)
        found = {}
        for column in group.jobs if own else ():
            placed = {role: kernel for role, kernel in _placement(group, column).items() if kernel != own.get(role)}
            kernel = next(iter(placed.values()), "")
            if all(other == kernel for other in placed.values()):
                found[column] = (frozenset(placed), kernel)
        return found

    def _fine(self, group: Group, column: str, ids: Iterable[object]) -> bool:
        if id(group) not in self.rows:
            self.rows[id(group)] = {row.id: row for row in group.rows}
        rows = [row for id_ in ids if (row := self.rows[id(group)].get(id_))]
        return bool(rows) and all(column in row.cells and row.cells[column].fine for row in rows)


def _in_words(with_it: set[frozenset[str]], without: set[frozenset[str]], roles: list[str], kernel: str) -> str:
    """Return which of the roles bring it; the sets are the roles that run the other kernel, of one placement each."""
    alone = [role for role in roles if frozenset({role}) in with_it]
    rest = [role for role in roles if role not in alone]
    every = frozenset(roles)
    if every in without or any(frozenset({role}) not in without for role in rest):
        return ""
    if not rest:
        return f"whichever end runs {kernel}"
    if len(alone) == 1:
        return f"wherever the {alone[0]} runs {kernel}, never by the {' or the '.join(rest)} alone"
    if not alone and every in with_it and len(roles) == 2:
        return f"only where {' and '.join(roles)} both run {kernel}"
    return ""


def _placement(group: Group, column: str) -> dict[str, str]:
    return next((job.placement for job in group.jobs.get(column, ())), {})
