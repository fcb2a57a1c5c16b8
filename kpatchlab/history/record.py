"""One run into the history: the outcome of each check, its splats, its figures."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from kpatchlab.model import JOB, CaseKind, Outcome, Run
from kpatchlab.verdict.ratios import metric_rows
from kpatchlab.verdict.values import Comparison, Group

OUTCOMES = tuple(Outcome)
"""An outcome is stored as its place in here: append only."""
MANUAL = "manual"
"""Lane of what people run by hand."""
BUILD = "build"
"""Subject of the checks that are steps of a kernel's build."""
MESSAGE_CHARS = 400
SPLAT_CHARS = 16 << 10


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a run stands among the others.

    Attributes:
        lane: what is compared from night to night; `MANUAL` for a run that no night made.
        night: id of the night, "" for none.
        digest: of everything that went into it; equal for equal inputs.
        heads: kernel -> what it was made of.
    """

    lane: str = MANUAL
    night: str = ""
    digest: str = ""
    heads: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Check:
    """One check of a run in one column: `good` of `runs` repeats passed."""

    subject: str
    kind: CaseKind
    name: str
    column: str
    outcome: Outcome
    good: int
    runs: int
    message: str

    @property
    def flaky(self) -> bool:
        """Whether the repeats disagree."""
        return 0 < self.good < self.runs


def checks(comparison: Comparison) -> Iterator[Check]:
    """Yield what a run says of each check itself.

    What follows from something else is left out: a check that its job did not get to, the job's own check where
    another one says why it failed, and what the lab itself lost. No row is better than a wrong one.
    """
    for build in comparison.builds:
        if build.outcome is not Outcome.INFRA:
            good = int(build.outcome is Outcome.PASS)
            yield Check(BUILD, CaseKind.CHECK, build.step, build.kernel, build.outcome, good, 1, _short(build.message))
    for group in comparison.groups:
        yield from _checks(group)


def _checks(group: Group) -> Iterator[Check]:
    told = {
        column
        for row in group.rows
        if row.id != JOB
        for column, cell in row.cells.items()
        if (cell.outcome.is_bad or cell.flaky) and not cell.implied and not cell.missing
    }
    for row in group.rows:
        for column, cell in row.cells.items():
            if cell.missing or cell.implied or cell.outcome is Outcome.INFRA:
                continue
            if row.id == JOB and column in told and (cell.outcome.is_bad or cell.flaky):
                continue
            ran = [outcome for outcome in cell.outcomes if outcome is not Outcome.INFRA]
            message = cell.message or " or ".join(cell.answers)
            good = ran.count(Outcome.PASS)
            yield Check(group.name, row.id.kind, row.id.name, column, cell.outcome, good, len(ran), _short(message))


def _short(text: str) -> str:
    return text if len(text) <= MESSAGE_CHARS else text[: MESSAGE_CHARS - 1] + "…"


def record(connection: sqlite3.Connection, run: Run, comparison: Comparison, origin: Origin) -> int:
    """Put a run into the history; one that is there already (it went on) is replaced. The caller has a transaction.

    Returns:
        The entry's number; numbers grow in the order of first entry, whatever the clock says.
    """
    lost = sum(job.outcome is Outcome.INFRA for job in run.jobs)
    values = (
        origin.lane,
        origin.night,
        run.started,
        run.title,
        run.complete,
        comparison.exit_code,
        lost,
        origin.digest,
        json.dumps(origin.heads, sort_keys=True),
    )
    ids = _Ids(connection, origin.lane)
    known = connection.execute("SELECT id FROM entries WHERE run = ?", (run.id,)).fetchone()
    if known:
        entry = int(known[0])
        ids.forget(entry)
        connection.execute(
            "UPDATE entries SET lane = ?, night = ?, started = ?, title = ?, complete = ?, exit_code = ?, lost = ?,"
            " digest = ?, heads = ? WHERE id = ?",
            (*values, entry),
        )
    else:
        entry = _insert(
            connection,
            "INSERT INTO entries (lane, night, started, title, complete, exit_code, lost, digest, heads, run)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (*values, run.id),
        )
    rows = [
        (ids.check(c), entry, OUTCOMES.index(c.outcome), c.good, c.runs, ids.text(c.message))
        for c in checks(comparison)
    ]
    connection.executemany("INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?, ?, ?)", rows)
    _splats(connection, comparison, entry)
    figures = []
    for metric in metric_rows(comparison):
        for column, figure in metric.figures.items():
            name = (metric.group.name, metric.name, column, metric.unit, metric.direction, metric.mode)
            # Medians: of a few repeats one that stands out is no news.
            value, base = median(figure.values), metric.figures.get(comparison.base)
            held = base is not None and base is not figure and median(base.values) != 0
            ratio = value / median(base.values) if base and held else None
            figures.append((ids.metric(name), entry, value, ratio, len(figure.values)))
    connection.executemany("INSERT OR REPLACE INTO figures VALUES (?, ?, ?, ?, ?)", figures)
    return entry


def _insert(connection: sqlite3.Connection, words: str, values: tuple[Any, ...]) -> int:
    row = connection.execute(words, values).lastrowid
    assert row
    return row


def _splats(connection: sqlite3.Connection, comparison: Comparison, entry: int) -> None:
    seen: Counter[tuple[str, str, str]] = Counter()
    for group in comparison.groups:
        for column, jobs in group.jobs.items():
            for splat in (splat for job in jobs for splat in job.splats):
                text = (splat.decoded or splat.text)[:SPLAT_CHARS]
                connection.execute(
                    "INSERT OR IGNORE INTO splats (fingerprint, kind, title, text) VALUES (?, ?, ?, ?)",
                    (splat.fingerprint, splat.kind, _clean(splat.title), _clean(text)),
                )
                seen[splat.fingerprint, column, group.name] += 1
    connection.executemany(
        "INSERT OR REPLACE INTO sightings SELECT id, ?, ?, ?, ? FROM splats WHERE fingerprint = ?",
        [(entry, column, subject, count, mark) for (mark, column, subject), count in seen.items()],
    )


def _clean(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


class _Ids:
    """Numbers of the names of one lane, made where they are new."""

    def __init__(self, connection: sqlite3.Connection, lane: str) -> None:
        self._connection, self._lane = connection, lane
        found = connection.execute("SELECT subject, kind, name, column, id FROM checks WHERE lane = ?", (lane,))
        self._checks: dict[tuple[str, ...], int] = {tuple(row[:4]): row[4] for row in found}
        found = connection.execute(
            "SELECT subject, name, column, unit, direction, mode, id FROM metrics WHERE lane = ?", (lane,)
        )
        self._metrics: dict[tuple[str, ...], int] = {tuple(row[:6]): row[6] for row in found}
        self._texts: dict[str, int] = {}

    def check(self, check: Check) -> int:
        """Return the number of a check."""
        key = (_clean(check.subject), str(check.kind), _clean(check.name), check.column)
        if key not in self._checks:
            words = "INSERT INTO checks (lane, subject, kind, name, column) VALUES (?, ?, ?, ?, ?)"
            self._checks[key] = self._insert(words, (self._lane, *key))
        return self._checks[key]

    def metric(self, name: tuple[str, ...]) -> int:
        """Return the number of a metric: subject, name, column, unit, direction, mode."""
        key = tuple(map(_clean, name))
        if key not in self._metrics:
            words = (
                "INSERT INTO metrics (lane, subject, name, column, unit, direction, mode) VALUES (?, ?, ?, ?, ?, ?, ?)"
            )
            self._metrics[key] = self._insert(words, (self._lane, *key))
        return self._metrics[key]

    def text(self, text: str) -> int:
        """Return the number of a text, 0 for none."""
        if not text:
            return 0
        text = _clean(text)
        if text not in self._texts:
            found = self._connection.execute("SELECT id FROM texts WHERE text = ?", (text,)).fetchone()
            self._texts[text] = found[0] if found else self._insert("INSERT INTO texts (text) VALUES (?)", (text,))
        return self._texts[text]

    def forget(self, entry: int) -> None:
        """Take out what is stored of a run; by name, since the tables are ordered by what they are about."""
        for table, key, ids in (("results", "check_id", self._checks), ("figures", "metric", self._metrics)):
            words = f"DELETE FROM {table} WHERE {key} = ? AND entry = ?"  # noqa: S608 - our own names
            self._connection.executemany(words, [(number, entry) for number in ids.values()])
        self._connection.execute("DELETE FROM sightings WHERE entry = ?", (entry,))

    def _insert(self, words: str, values: tuple[Any, ...]) -> int:
        return _insert(self._connection, words, values)
