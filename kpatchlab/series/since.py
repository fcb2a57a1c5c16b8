"""What became of an earlier version's faults: fixed, still there, new; and what a person marked as known."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from kpatchlab.errors import LabError
from kpatchlab.files import write_atomic
from kpatchlab.lab.known import Known, KnownIssue
from kpatchlab.model import JOB, CaseKind, Splat, Verdict
from kpatchlab.report import digest
from kpatchlab.run.guests import BROKEN
from kpatchlab.store.store import Store
from kpatchlab.textclean import one_line
from kpatchlab.verdict.compare import compare
from kpatchlab.verdict.faults import Change, Fault, faults, splats
from kpatchlab.verdict.values import Cell, Comparison, Group

RECORD = "trial.json"
_BROUGHT = frozenset({CaseKind.PREPARATION, CaseKind.TIME, CaseKind.LEFT})
"""Checks that a job without such a fault does not have."""


@dataclass(frozen=True, slots=True)
class Tried:
    """One trial as it is remembered; `title` is the series' own, without its version."""

    title: str
    version: str
    run: str


@dataclass(frozen=True, slots=True)
class Since:
    """The faults of a trial, each in one line and in one place alone.

    Attributes:
        before: the version that it is compared with, None where it is the first.
        fixed, still, new: since that version; all are new where there is none. Fixed is what passes now, new also a
            fault with one more kernel report than that version had.
        known: those that known.yaml has, and why.
        excused: scenarios in which nothing regressed but what is known.
    """

    before: Tried | None
    fixed: tuple[str, ...]
    still: tuple[str, ...]
    new: tuple[str, ...]
    known: tuple[str, ...]
    excused: frozenset[str] = frozenset()

    def exit_code(self, comparison: Comparison) -> int:
        """What the process ends with: as `Comparison.exit_code`, where what is known counts as no regression.

        A build is never known: what it regressed counts.
        """
        built = all(build.verdict is not Verdict.REGRESSED for build in comparison.builds)
        if comparison.exit_code == 1 and built and self.known and not self.still and not self.new:
            return 3 if comparison.lost or not comparison.complete else 0
        return comparison.exit_code

    def lines(self) -> list[str]:
        """Return it for people; nothing where there is nothing to say beyond the summary."""
        if not self.before and not self.known:
            return []
        groups = {"fixed": self.fixed, "still there": self.still, "new": self.new, "known": self.known}
        counts = ", ".join(f"{len(rows)} {word}" for word, rows in groups.items() if rows) or "nothing went wrong"
        since = f"since {self.before.version} (run {self.before.run}): " if self.before else ""
        shown = [f"  {word}: {row}" for word, rows in groups.items() for row in rows]
        return [f"{since}{counts}", *shown]


def remember(folder: Path, tried: Tried) -> None:
    """Keep that a series was tried, in its folder."""
    write_atomic(
        folder / RECORD, json.dumps({"title": tried.title, "version": tried.version, "run": tried.run}).encode()
    )


def earlier(tries: Path, title: str, version: str) -> Tried | None:
    """Return the last trial of another version of a series, None where there is none that can be read."""
    found = []
    for path in tries.glob(f"*/{RECORD}"):
        with contextlib.suppress(OSError, ValueError, TypeError):
            tried = Tried(**json.loads(path.read_bytes()))
            found += [tried] if tried.title == title and tried.version != version else []
    return max(found, key=lambda tried: tried.run, default=None)


def since(now: Comparison, before: Tried | None, store: Store, known: Known, title: str, version: str) -> Since:
    """Compare the faults of a trial with those of an earlier version; `version` is this trial's."""
    found = [(fault, _issue(known, fault, title, version)) for fault in faults(now)]
    then: list[Fault] = []
    if before:
        with contextlib.suppress(LabError):  # the run was deleted: all is new again
            then = faults(compare(store.load(before.run)[0]))
    open_ = [fault for fault, issue in found if not issue]
    seen, shown = _marks(then), _marks(fault for fault, _ in found)
    fresh = [(fault, _fresh(fault, seen, now.base)) for fault in open_]
    return Since(
        before,
        fixed=tuple(_line(fault) for fault in then if _marks([fault]).isdisjoint(shown) and _passes(now, fault)),
        still=tuple(_line(fault) for fault, news in fresh if not news and not _marks([fault]).isdisjoint(seen)),
        new=tuple(_line(fault, *news[:1]) for fault, news in fresh if news or _marks([fault]).isdisjoint(seen)),
        known=tuple(f"{_line(fault)}: {issue.reason}" for fault, issue in found if issue),
        excused=_scenarios(fault for fault, issue in found if issue) - _scenarios(open_),
    )


def _marks(found: Iterable[Fault]) -> set[str]:
    """Return what faults are known by in another run: the kernel's reports, wherever they show, or scenario and check.

    A report says so by its fingerprint.
    """
    marks: set[str] = set()
    for change in (change for fault in found for change in fault.changes):
        own = {splat.fingerprint for splat in change.splats}
        marks |= own or {f"{change.group.scenario}: {change.row.case}"}
    return marks


def _fresh(fault: Fault, seen: set[str], base: str) -> list[Splat]:
    """Return the kernel's reports of a fault that were not `seen`, those left out that the base column makes too."""
    return [
        splat
        for change in fault.changes
        for splat in change.splats
        if splat.fingerprint not in seen | {old.fingerprint for old in splats(change.group.jobs.get(base, ()))}
    ]


def _scenarios(faults: Iterable[Fault]) -> frozenset[str]:
    return frozenset(change.group.scenario for fault in faults for change in fault.changes)


def _issue(known: Known, fault: Fault, title: str, version: str) -> KnownIssue | None:
    """Return the first issue that a fault falls under, None unless all of it is known, wherever it shows.

    A check's issue takes no kernel report, and a report's no other one: that may be new. Nor does a report that lets
    its job go on say why checks were not reached.
    """
    found: list[KnownIssue | None] = []
    for change in fault.changes:
        if change.splats and change.not_reached and not any(s.fatal or s.kind in BROKEN for s in change.splats):
            return None
        where = (change.column, "*", title, version)
        subject = f"{change.group.scenario}: {change.row.case}"
        found += [known.of_splat(splat.fingerprint, *where) for splat in change.splats]
        found += [] if change.splats else [known.of_case(subject, *where, change.cell.message)]
    return found[0] if all(found) else None


def _passes(now: Comparison, fault: Fault) -> bool:
    """Whether all that showed a fault was tried again and passes: each check of each scenario, in its column."""
    groups = {group.name: group for group in now.groups}
    again = [_again(group, change) if (group := groups.get(change.group.name)) else None for change in fault.changes]
    return all(cell is not None and cell.fine for cell in again)


def _again(group: Group, change: Change) -> Cell | None:
    """Return what became of a check; of one that only a fault brings, what became of its job."""
    cells = {row.id: row.cells[change.column] for row in group.rows if change.column in row.cells}
    cell = cells.get(change.row.id)
    brought = change.row.id.kind in _BROUGHT and (cell is None or cell.missing)
    return cells.get(JOB) if brought else cell


def _line(fault: Fault, splat: Splat | None = None) -> str:
    """Return a fault in one line, by one of its reports where that tells the news."""
    title = one_line(splat.title, 500) if splat else fault.title
    return f"{title} ({digest.where(fault.changes)})"
