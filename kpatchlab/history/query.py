"""What the history knows: of a check, a splat or a metric; every question is a few reads of an index."""

from __future__ import annotations

import fnmatch
import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kpatchlab.errors import UserError
from kpatchlab.history.record import OUTCOMES
from kpatchlab.lab.yamlfile import suggest
from kpatchlab.model import CaseKind, Outcome

WINDOW = 30
"""Runs that a flake rate is about."""


_ENTRY = (
    "id", "run", "lane", "night", "started", "title", "complete", "exit_code", "lost", "digest", "heads",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Entry:
    """One run of a lane; `id` grows with time."""

    id: int
    run: str
    lane: str
    night: str
    started: str
    title: str
    complete: bool
    exit_code: int
    lost: int
    digest: str
    heads: Mapping[str, Mapping[str, str]]

    @property
    def usable(self) -> bool:
        """Whether it is whole: nothing stopped it and the lab lost none of its jobs."""
        return self.complete and self.lost == 0


@dataclass(frozen=True, slots=True)
class CheckName:
    """One check of one lane in one column."""

    id: int
    lane: str
    subject: str
    kind: CaseKind
    name: str
    column: str

    @property
    def text(self) -> str:
        """`SUBJECT: NAME`, as people write it."""
        return f"{self.subject}: {self.name}"


@dataclass(frozen=True, slots=True)
class Point:
    """What a check was in one run."""

    entry: int
    outcome: Outcome
    good: int
    runs: int
    message: str = ""

    @property
    def flaky(self) -> bool:
        """Whether its repeats disagreed."""
        return 0 < self.good < self.runs

    @property
    def bad(self) -> bool:
        """Whether it is to be looked at: bad, and not only sometimes."""
        return (self.outcome.is_bad or self.outcome is Outcome.BLOCKED) and not self.flaky

    @property
    def good_at_all(self) -> bool:
        """Whether it passed in every repeat."""
        return self.outcome is Outcome.PASS and not self.flaky


@dataclass(frozen=True, slots=True)
class CheckHistory:
    """A check over its runs, oldest first."""

    check: CheckName
    points: tuple[Point, ...]

    @property
    def flake_rate(self) -> float:
        """Share of the last `WINDOW` runs in which it failed and yet was not broken.

        That is a run whose repeats disagree, and a single bad run between two good ones.
        """
        points = [p for p in self.points if p.outcome is not Outcome.SKIP][-WINDOW:]
        if not points:
            return 0.0
        lone = sum(
            p.bad and before.good_at_all and after.good_at_all
            for before, p, after in zip(points, points[1:], points[2:], strict=False)
        )
        return (sum(p.flaky for p in points) + lone) / len(points)

    @property
    def last_good(self) -> Point | None:
        """The last run in which it passed."""
        return next((p for p in reversed(self.points) if p.good_at_all), None)

    @property
    def bad_since(self) -> Point | None:
        """The first of the bad runs that last until now, skips left out; None where it is not bad now."""
        found = None
        for point in reversed([p for p in self.points if p.outcome is not Outcome.SKIP]):
            if not point.bad:
                break
            found = point
        return found


@dataclass(frozen=True, slots=True)
class MetricName:
    """One figure of one lane in one column."""

    id: int
    lane: str
    subject: str
    name: str
    column: str
    unit: str
    direction: str
    mode: str

    @property
    def text(self) -> str:
        """`SUBJECT: NAME`, as people write it."""
        return f"{self.subject}: {self.name}"


@dataclass(frozen=True, slots=True)
class MetricHistory:
    """A metric over its runs, oldest first: (entry, median, ratio to the same run's base column or None, repeats)."""

    metric: MetricName
    points: tuple[tuple[int, float, float | None, int], ...]

    @property
    def is_ratio(self) -> bool:
        """Whether `values` are ratios: what was taken side by side on one host says more than bare figures."""
        return bool(self.points) and all(ratio is not None for _, _, ratio, _ in self.points)

    @property
    def values(self) -> list[float]:
        """What is compared from night to night."""
        return (
            [float(ratio) for _, _, ratio, _ in self.points if ratio is not None]
            if self.is_ratio
            else [value for _, value, _, _ in self.points]
        )


@dataclass(frozen=True, slots=True)
class SplatHistory:
    """A splat by its fingerprint: where it was seen first and last, and in how many runs."""

    fingerprint: str
    kind: str
    title: str
    first: int
    last: int
    runs: int
    columns: tuple[str, ...]
    subjects: tuple[str, ...]


class History:
    """Questions to an open database."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection

    def entries(self, lane: str | None = None) -> list[Entry]:
        """Return the runs of a lane, or of all, oldest first."""
        rows = self.connection.execute(
            "SELECT id, run, lane, night, started, title, complete, exit_code, lost, digest, heads FROM entries"
            " WHERE lane = coalesce(?, lane) ORDER BY id",
            (lane,),
        )
        return [_entry(row) for row in rows]

    def lanes(self) -> list[str]:
        """Return the lanes, in the order of their first run."""
        return [row[0] for row in self.connection.execute("SELECT lane FROM entries GROUP BY lane ORDER BY min(id)")]

    def checks(self, lane: str | None = None) -> list[CheckName]:
        """Return every check of a lane, or of all."""
        words = "SELECT id, lane, subject, kind, name, column FROM checks WHERE lane = coalesce(?, lane) ORDER BY id"
        rows = self.connection.execute(words, (lane,))
        return [CheckName(number, of, about, CaseKind(kind), *names) for number, of, about, kind, *names in rows]

    def metrics(self, lane: str | None = None) -> list[MetricName]:
        """Return every metric of a lane, or of all."""
        words = "SELECT id, lane, subject, name, column, unit, direction, mode FROM metrics"
        where = " WHERE lane = coalesce(?, lane) ORDER BY id"
        return [MetricName(*row) for row in self.connection.execute(words + where, (lane,))]

    def check(self, check: CheckName, until: int | None = None, *, since: int = 0) -> CheckHistory:
        """Return what a check was in every run; `until`, `since`: up to and from this entry."""
        rows = self.connection.execute(
            "SELECT entry, outcome, good, runs, coalesce(text, '') FROM results LEFT JOIN texts ON texts.id = message"
            " WHERE check_id = ? AND entry BETWEEN ? AND ? ORDER BY entry",
            (check.id, since, until if until is not None else 1 << 62),
        )
        return CheckHistory(check, tuple(Point(row[0], OUTCOMES[row[1]], *row[2:]) for row in rows))

    def metric(self, metric: MetricName, until: int | None = None) -> MetricHistory:
        """Return a metric's figures in every run."""
        rows = self.connection.execute(
            "SELECT entry, value, ratio, repeats FROM figures WHERE metric = ? AND entry <= ? ORDER BY entry",
            (metric.id, until if until is not None else 1 << 62),
        )
        return MetricHistory(metric, tuple(rows))

    def of_entry(self, entry: Entry) -> dict[int, Point]:
        """Return what one run says, by number of the check."""
        rows = self.connection.execute(
            "SELECT checks.id, entry, outcome, good, runs, coalesce(text, '') FROM checks CROSS JOIN results"
            " ON check_id = checks.id AND entry = ? LEFT JOIN texts ON texts.id = message WHERE lane = ?",
            (entry.id, entry.lane),
        )
        return {row[0]: Point(row[1], OUTCOMES[row[2]], *row[3:]) for row in rows}

    def splats(self, pattern: str = "*") -> list[SplatHistory]:
        """Return the splats whose fingerprint or title a glob matches, the newest first."""
        rows = self.connection.execute(
            "SELECT fingerprint, kind, title, min(entry), max(entry), count(DISTINCT entry),"
            " json_group_array(DISTINCT column), json_group_array(DISTINCT subject)"
            " FROM splats JOIN sightings ON splat = splats.id GROUP BY splats.id ORDER BY min(entry) DESC"
        )
        return [
            _splat(row) for row in rows if fnmatch.fnmatchcase(row[0], pattern) or fnmatch.fnmatchcase(row[2], pattern)
        ]

    def splat_text(self, fingerprint: str) -> str:
        """Return the first report of a splat that was seen, "" for one that was not."""
        found = self.connection.execute("SELECT text FROM splats WHERE fingerprint = ?", (fingerprint,)).fetchone()
        return str(found[0]) if found else ""

    def sightings(self, entry: Entry) -> list[tuple[str, str, str, str, str, int]]:
        """Return the splats of one run: (fingerprint, kind, title, column, subject, first entry in this lane)."""
        rows = self.connection.execute(
            "SELECT fingerprint, kind, title, s.column, s.subject, (SELECT min(o.entry) FROM sightings o JOIN entries e"
            " ON e.id = o.entry WHERE o.splat = s.splat AND o.column = s.column AND e.lane = ?)"
            " FROM sightings s JOIN splats ON splats.id = s.splat WHERE s.entry = ?",
            (entry.lane, entry.id),
        )
        return [tuple(row) for row in rows]


def _entry(row: Sequence[Any]) -> Entry:
    return Entry(**dict(zip(_ENTRY, row, strict=True)) | {"complete": bool(row[6]), "heads": json.loads(row[10])})


def _splat(row: Sequence[Any]) -> SplatHistory:
    columns, subjects = (tuple(json.loads(text)) for text in row[6:])
    return SplatHistory(row[0], row[1], row[2], row[3], row[4], row[5], columns, subjects)


def matching(word: str, names: Iterable[Any]) -> list[Any]:
    """Return the checks or metrics that a user's word means: `SUBJECT: NAME`, either of both, or a glob.

    Raises:
        UserError: nothing has such a name; with the nearest one.
    """
    every = list(names)
    found = [n for n in every if word in {n.text, n.subject, n.name, n.subject.partition("[")[0]}]
    found = found or [n for n in every if _glob(word, n.text) or _glob(word, n.name)]
    if not found:
        known = {text for n in every for text in (n.text, n.name, n.subject)}
        raise UserError(
            f"the history has no check and no metric '{word}'{suggest(word, known)}",
            hint="kpatchlab history lists what there is",
        )
    return found


def _glob(pattern: str, text: str) -> bool:
    # In a name, [ begins its parameters; a glob's sets are not missed by anybody.
    return fnmatch.fnmatchcase(text, pattern.replace("[", "[[]"))
