"""The history in words: one line a check, one a metric; more where only one is asked for."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from kpatchlab.history.culprit import SearchCommand, by_metric, commit_range, search
from kpatchlab.history.query import CheckHistory, CheckName, Entry, History, MetricHistory, MetricName, Point
from kpatchlab.history.trends import Trend, trends
from kpatchlab.model import CaseKind, Outcome

STRIP = 40
LETTERS = {
    Outcome.PASS: ".", Outcome.FAIL: "F", Outcome.SKIP: "-", Outcome.CRASH: "C", Outcome.TIMEOUT: "T",
    Outcome.BLOCKED: "B", Outcome.INFRA: "?",
}  # fmt: skip
"""One letter a run; `~` is a flaky one."""
BARS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True, slots=True)
class CheckSummary:
    """What the history says of one check; runs by their ids, "" for none.

    Attributes:
        now: its outcome in the last run, or `flaky GOOD/RUNS`.
        flake_rate: see `CheckHistory.flake_rate`.
        strip: a letter for each of the last runs.
    """

    lane: str
    check: str
    kind: CaseKind
    column: str
    now: str
    first_seen: str
    last_good: str
    bad_since: str
    flake_rate: float
    runs: int
    strip: str


@dataclass(frozen=True, slots=True)
class MetricChange:
    """One change of a metric: the runs around it, and kernel -> `OLD..NEW`.

    Attributes:
        change: 0.05 being 5 % more.
        bisect: the words of a command line that looks for the commit, "" where there is none; then `unsearchable` says
            why.
    """

    kind: str
    change: float
    worse: bool
    before: str
    after: str
    commits: Mapping[str, str]
    bisect: str
    unsearchable: str


@dataclass(frozen=True, slots=True)
class MetricSummary:
    """What the history says of one metric: its last figure, None where it has none, and its changes."""

    lane: str
    metric: str
    column: str
    unit: str
    mode: str
    now: float | None
    runs: int
    first_seen: str
    changes: tuple[MetricChange, ...]
    strip: str

    @property
    def last(self) -> str:
        """The last figure with its unit, "" where there is none."""
        return "" if self.now is None else f"{self.now:.4g} {self.unit}"


def letter(point: Point) -> str:
    """Return the letter of one run."""
    return "~" if point.flaky else LETTERS[point.outcome]


def check_row(history: History, check: CheckName, entries: dict[int, Entry]) -> CheckSummary:
    """Return what the history says of one check."""
    found = history.check(check)
    good, since = found.last_good, found.bad_since
    points = found.points
    return CheckSummary(
        lane=check.lane,
        check=check.text,
        kind=check.kind,
        column=check.column,
        now=_word(points[-1]) if points else "",
        first_seen=entries[points[0].entry].run if points else "",
        last_good=entries[good.entry].run if good else "",
        bad_since=entries[since.entry].run if since else "",
        flake_rate=round(found.flake_rate, 3),
        runs=len(points),
        strip="".join(map(letter, points[-STRIP:])),
    )


def _word(point: Point) -> str:
    return f"flaky {point.good}/{point.runs}" if point.flaky else str(point.outcome)


def metric_row(history: History, metric: MetricName, entries: dict[int, Entry]) -> MetricSummary:
    """Return what the history says of one metric."""
    found = history.metric(metric)
    values = found.values
    return MetricSummary(
        lane=metric.lane,
        metric=metric.text,
        column=metric.column,
        unit="times the base" if found.is_ratio else metric.unit,
        mode=metric.mode,
        now=values[-1] if values else None,
        runs=len(values),
        first_seen=entries[found.points[0][0]].run if values else "",
        changes=tuple(change(found, trend, entries) for trend in trends(values)),
        strip=sparkline(values[-STRIP:]),
    )


def change(found: MetricHistory, trend: Trend, entries: dict[int, Entry]) -> MetricChange:
    """Return one change of a metric, with the runs around it and the commits of their kernels."""
    after = entries[found.points[trend.at][0]]
    before = entries[found.points[trend.at - 1][0]] if trend.at else None
    metric, worse = found.metric, trend.worse(found.metric.direction)
    criterion = by_metric(metric.subject, metric.name, trend.change)
    # A drift goes on: half of it has come somewhere between its beginning and now.
    end = entries[found.points[-1][0]] if trend.kind == "drift" else after
    sought = search(before, end, metric.column, criterion) if before and worse else SearchCommand()
    return MetricChange(
        kind=trend.kind,
        change=round(trend.change, 4),
        worse=worse,
        before=before.run if before else "",
        after=after.run,
        commits=commit_range(before, after),
        bisect=shlex.join(sought.words),
        unsearchable=sought.reason,
    )


def sparkline(values: Sequence[float]) -> str:
    """Return a line of bars, the least figure the lowest."""
    if not values:
        return ""
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    return "".join(BARS[min(7, int((value - low) / span * 8))] for value in values)


def check_lines(history: History, row: CheckSummary, found: CheckHistory, entries: dict[int, Entry]) -> Iterator[str]:
    """Yield all there is about one check."""
    yield f"{row.check} on {row.column} ({row.lane}): {row.now}"
    yield f"  {row.strip}"
    yield f"  first seen {row.first_seen}, last good {row.last_good or 'never'}, {row.runs} runs"
    if row.bad_since:
        yield f"  bad since {row.bad_since}"
    yield f"  flake rate {row.flake_rate:.0%}"
    for point in [p for p in found.points if p.bad or p.flaky][-5:]:
        yield f"  {entries[point.entry].run}: {_word(point)} {point.message}".rstrip()
    seen = [s for s in history.splats() if found.check.subject in s.subjects and found.check.column in s.columns]
    for splat in seen[:10]:
        yield f"  splat {splat.fingerprint} first seen {entries[splat.first].run}, {splat.runs} runs: {splat.title}"


def metric_lines(row: MetricSummary) -> Iterator[str]:
    """Yield all there is about one metric."""
    yield f"{row.metric} on {row.column} ({row.lane}): {row.last}  {row.mode}".rstrip()
    yield f"  {row.strip}"
    yield f"  first seen {row.first_seen}, {row.runs} runs"
    for item in row.changes:
        commits = ", ".join(f"{kernel} {span}" for kernel, span in item.commits.items())
        yield f"  {item.kind} {item.change:+.1%} at {item.after}{f' ({commits})' if commits else ''}"
        if item.bisect:
            yield f"    kpatchlab {item.bisect}"
        elif item.unsearchable:
            yield f"    no commit to look for: {item.unsearchable}"
