"""The history in words: one line a check, one a metric; more where only one is asked for."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from typing import Any

from kpatchlab.history.culprit import SearchCommand, by_metric, commit_range, search
from kpatchlab.history.query import CheckHistory, CheckName, Entry, History, MetricHistory, MetricName, Point
from kpatchlab.history.trends import Trend, trends
from kpatchlab.model import Outcome

STRIP = 40
LETTERS = {
    Outcome.PASS: ".", Outcome.FAIL: "F", Outcome.SKIP: "-", Outcome.CRASH: "C", Outcome.TIMEOUT: "T",
    Outcome.BLOCKED: "B", Outcome.INFRA: "?",
}  # fmt: skip
"""One letter a run; `~` is a flaky one."""
BARS = "▁▂▃▄▅▆▇█"


def letter(point: Point) -> str:
    """Return the letter of one run."""
    return "~" if point.flaky else LETTERS[point.outcome]


def check_row(history: History, check: CheckName, entries: dict[int, Entry]) -> dict[str, Any]:
    """Return what the history says of one check, as JSON."""
    found = history.check(check)
    good, since = found.last_good, found.bad_since
    points = found.points
    return {
        "lane": check.lane,
        "check": check.text,
        "kind": check.kind,
        "column": check.column,
        "now": _word(points[-1]) if points else "",
        "first_seen": entries[points[0].entry].run if points else "",
        "last_good": entries[good.entry].run if good else "",
        "bad_since": entries[since.entry].run if since else "",
        "flake_rate": round(found.flake_rate, 3),
        "runs": len(points),
        "strip": "".join(map(letter, points[-STRIP:])),
    }


def _word(point: Point) -> str:
    return f"flaky {point.good}/{point.runs}" if point.flaky else str(point.outcome)


def metric_row(history: History, metric: MetricName, entries: dict[int, Entry]) -> dict[str, Any]:
    """Return what the history says of one metric, as JSON: its last figure and its changes."""
    found = history.metric(metric)
    values = found.values
    return {
        "lane": metric.lane,
        "metric": metric.text,
        "column": metric.column,
        "unit": "times the base" if found.is_ratio else metric.unit,
        "mode": metric.mode,
        "now": values[-1] if values else None,
        "runs": len(values),
        "first_seen": entries[found.points[0][0]].run if values else "",
        "changes": [change(found, trend, entries) for trend in trends(values)],
        "strip": sparkline(values[-STRIP:]),
    }


def change(found: MetricHistory, trend: Trend, entries: dict[int, Entry]) -> dict[str, Any]:
    """Return one change of a metric, with the runs around it and the commits of their kernels."""
    after = entries[found.points[trend.at][0]]
    before = entries[found.points[trend.at - 1][0]] if trend.at else None
    metric, worse = found.metric, trend.worse(found.metric.direction)
    criterion = by_metric(metric.subject, metric.name, trend.change)
    # A drift goes on: half of it has come somewhere between its beginning and now.
    end = entries[found.points[-1][0]] if trend.kind == "drift" else after
    sought = search(before, end, metric.column, criterion) if before and worse else SearchCommand()
    return {
        "kind": trend.kind,
        "change": round(trend.change, 4),
        "worse": worse,
        "before": before.run if before else "",
        "after": after.run,
        "commits": commit_range(before, after),
        "bisect": shlex.join(sought.words),
        "unsearchable": sought.reason,
    }


def sparkline(values: Sequence[float]) -> str:
    """Return a line of bars, the least figure the lowest."""
    if not values:
        return ""
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    return "".join(BARS[min(7, int((value - low) / span * 8))] for value in values)


def check_lines(history: History, row: dict[str, Any], found: CheckHistory, entries: dict[int, Entry]) -> Iterator[str]:
    """Yield all there is about one check."""
    yield f"{row['check']} on {row['column']} ({row['lane']}): {row['now']}"
    yield f"  {row['strip']}"
    yield f"  first seen {row['first_seen']}, last good {row['last_good'] or 'never'}, {row['runs']} runs"
    if row["bad_since"]:
        yield f"  bad since {row['bad_since']}"
    yield f"  flake rate {row['flake_rate']:.0%}"
    for point in [p for p in found.points if p.bad or p.flaky][-5:]:
        yield f"  {entries[point.entry].run}: {_word(point)} {point.message}".rstrip()
    seen = [s for s in history.splats() if found.check.subject in s.subjects and found.check.column in s.columns]
    for splat in seen[:10]:
        yield f"  splat {splat.fingerprint} first seen {entries[splat.first].run}, {splat.runs} runs: {splat.title}"


def metric_lines(row: dict[str, Any]) -> Iterator[str]:
    """Yield all there is about one metric."""
    yield f"{row['metric']} on {row['column']} ({row['lane']}): {row['now']:.4g} {row['unit']}  {row['mode']}".rstrip()
    yield f"  {row['strip']}"
    yield f"  first seen {row['first_seen']}, {row['runs']} runs"
    for item in row["changes"]:
        commits = ", ".join(f"{kernel} {span}" for kernel, span in item["commits"].items())
        yield f"  {item['kind']} {item['change']:+.1%} at {item['after']}{f' ({commits})' if commits else ''}"
        if item["bisect"]:
            yield f"    kpatchlab {item['bisect']}"
        elif item["unsearchable"]:
            yield f"    no commit to look for: {item['unsearchable']}"
