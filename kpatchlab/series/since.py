"""What became of an earlier version's faults: fixed, still there, new; and what a person marked as known."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from kpatchlab.errors import LabError
from kpatchlab.files import write_atomic
from kpatchlab.lab.known import Known, KnownIssue
from kpatchlab.report import digest
from kpatchlab.store.store import Store
from kpatchlab.verdict.compare import compare
from kpatchlab.verdict.values import Comparison

RECORD = "trial.json"


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
        fixed, still, new: since that version; all are new where there is none.
        known: those that known.yaml has, and why.
    """

    before: Tried | None
    fixed: tuple[str, ...]
    still: tuple[str, ...]
    new: tuple[str, ...]
    known: tuple[str, ...]

    def exit_code(self, comparison: Comparison) -> int:
        """What the process ends with: what the comparison says, and 0 where nothing regressed but what is known."""
        all_known = self.known and not self.still and not self.new
        return 0 if all_known and comparison.exit_code == 1 else comparison.exit_code

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
    faults = _faults(now)
    issues = {mark: issue for mark, fault in faults.items() if (issue := _issue(known, fault, title, version))}
    then: Mapping[str, digest.Breakage] = {}
    ran: set[str] = {group.name for group in now.groups}
    if before:
        with contextlib.suppress(LabError):  # the run was deleted: all is new again
            then = _faults(compare(store.load(before.run)[0]))
    open_ = {mark: fault for mark, fault in faults.items() if mark not in issues}
    return Since(
        before,
        fixed=_lines(fault for mark, fault in then.items() if mark not in faults and fault.first.group.name in ran),
        still=_lines(fault for mark, fault in open_.items() if mark in then),
        new=_lines(fault for mark, fault in open_.items() if mark not in then),
        known=tuple(f"{_line(faults[mark])}: {issue.reason}" for mark, issue in issues.items()),
    )


def _faults(comparison: Comparison) -> dict[str, digest.Breakage]:
    """Return mark -> fault; a kernel's report has the same mark wherever it shows."""
    return {
        fault.splat.fingerprint if fault.splat else f"{fault.first.group.name}: {fault.first.row.case}": fault
        for fault in digest.faults(comparison)
    }


def _issue(known: Known, fault: digest.Breakage, title: str, version: str) -> KnownIssue | None:
    """Return the issue that a fault falls under. One of a check takes no kernel report: that may be a new one."""
    change = fault.first
    if fault.splat:
        return known.of_splat(fault.splat.fingerprint, change.column, "*", title, version)
    subject = f"{change.group.scenario}: {change.row.case}"
    return known.of_case(subject, change.column, "*", title, version, change.cell.message)


def _line(fault: digest.Breakage) -> str:
    return f"{fault.title} ({digest.where([fault.first, *fault.others])})"


def _lines(faults: Iterable[digest.Breakage]) -> tuple[str, ...]:
    return tuple(_line(fault) for fault in faults)
