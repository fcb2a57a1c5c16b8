"""What is new in a night: each thing once, under the name that history gives it.

A check that is bad is told apart by what it was before, in the last run of its lane that was whole:

    new failure   good then, bad in every repeat now
    flake         its repeats disagree now; or bad once in a while before
    old failure   bad then as well; since when is told
    fixed         bad then, good now
    new splat     a kernel report that this lane and column never showed; a known issue does not hide it
    slower, faster, drift   a change point of a metric at this run, see `trends`
    lost          the lab itself could not do it: nothing is said about kernels
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass, replace

from kpatchlab.history.query import CheckHistory, CheckName, Entry, History, MetricHistory, Point
from kpatchlab.history.trends import Trend, trends
from kpatchlab.lab.known import Known, KnownIssue
from kpatchlab.model import CaseKind

FLAKY_BEFORE = 0.05
"""From this flake rate on, one more bad run is one more flake."""
SETTLE = 3
"""A change of a metric is still news so many runs after it began: it takes some to be sure."""

RECALL = 12
"""How many runs back are asked whether they told of a change already."""
SURE = 3
"""With so many repeats in one run, their median is believed; a figure alone waits for the next run."""


class Kind(enum.StrEnum):
    """What happened."""

    NEW_SPLAT = "new splat"
    NEW_FAILURE = "new failure"
    SLOWER = "slower"
    DRIFT = "drift"
    LOST = "lost"
    FLAKE = "flake"
    OLD_FAILURE = "old failure"
    FIXED = "fixed"
    FASTER = "faster"
    KNOWN = "known"


ALARMS = frozenset({Kind.NEW_SPLAT, Kind.NEW_FAILURE, Kind.SLOWER, Kind.DRIFT})
"""What ends a night with status 1."""


@dataclass(frozen=True, slots=True)
class News:
    """One thing that happened.

    Attributes:
        subject: `SCENARIO: CASE`, `SCENARIO: METRIC`, or what was lost.
        text: one line, what it is.
        since: run in which it began; "" for this one.
        good: the last run in which it was still good, "" for none.
        change: of a metric, 0.05 being 5 % more.
        bisect: the command that looks for the commit or the patch, "" where there is none.
        unsearchable: why there is none, "" where that is plain.
        fingerprint: of the kernel report that it is about, "" for none.
        case_kind: of the check that it is about.
    """

    kind: Kind
    lane: str
    column: str
    subject: str
    text: str
    since: str = ""
    good: str = ""
    bisect: str = ""
    reason: str = ""
    link: str = ""
    change: float = 0.0
    unsearchable: str = ""
    fingerprint: str = ""
    case_kind: CaseKind = CaseKind.CHECK


def news(history: History, entry: Entry, known: Known) -> list[News]:
    """Return what one run brought, what must be seen first before the rest."""
    entries = history.entries(entry.lane)
    before = [e for e in entries if e.id < entry.id and e.usable]
    found = [] if entry.lost == 0 else [_lost(entry)]
    if entry.complete:
        found += _splats(history, entry, before, known)
        found += _checks(history, entry, before, known)
        if entry.usable:
            found += _metrics(history, entry, entries)
    order = list(Kind)
    return sorted(found, key=lambda n: (order.index(n.kind), n.subject, n.column))


def _lost(entry: Entry) -> News:
    jobs = "1 job" if entry.lost == 1 else f"{entry.lost} jobs"
    return News(Kind.LOST, entry.lane, "", entry.run, f"the lab lost {jobs}: nothing is said about their checks")


def _splats(history: History, entry: Entry, before: list[Entry], known: Known) -> Iterator[News]:
    for fingerprint, kind, title, column, subject, first in history.sightings(entry):
        issue = known.of_splat(fingerprint, column, entry.lane)
        text = f"{kind} {fingerprint}: {title}"
        item = News(Kind.NEW_SPLAT, entry.lane, column, subject, text, fingerprint=fingerprint)
        if first == entry.id and before:
            reason = f"though {issue.reason} is known" if issue else ""
            yield replace(item, good=before[-1].run, reason=reason)
        elif issue:
            yield replace(item, kind=Kind.KNOWN, reason=issue.reason, link=issue.link)


def _checks(history: History, entry: Entry, before: list[Entry], known: Known) -> Iterator[News]:
    runs = {e.id: e.run for e in [*before, entry]}
    names = {check.id: check for check in history.checks(entry.lane)}
    last = history.of_entry(before[-1]) if before else {}
    for number, now in history.of_entry(entry).items():
        was = last.get(number)
        if not (now.bad or now.flaky or (was and (was.bad or was.flaky))):
            continue
        item = _check(history, names[number], entry, now, runs)
        if item is None:
            continue
        issue = known.of_case(item.subject, item.column, entry.lane) if item.kind is not Kind.FIXED else None
        yield _as_known(item, issue) if issue else item


def _check(history: History, check: CheckName, entry: Entry, now: Point, runs: dict[int, str]) -> News | None:
    whole = history.check(check, entry.id)
    earlier = [p for p in whole.points if p.entry < entry.id and p.entry in runs]
    past = CheckHistory(check, tuple(earlier))
    was = earlier[-1] if earlier else None
    good = past.last_good
    good_run = runs.get(good.entry, "") if good else ""

    def item(kind: Kind, text: str, since: str = "") -> News:
        return News(kind, entry.lane, check.column, check.text, text, since, good_run, case_kind=check.kind)

    words = f"{now.outcome}: {now.message}" if now.message else str(now.outcome)
    if now.flaky:
        return item(
            Kind.FLAKE, f"{now.good} of {now.runs} passed; {_rate(whole.flake_rate)}: {now.message}".rstrip(": ")
        )
    if now.bad:
        if was is not None and was.bad and (since := past.bad_since):
            return item(Kind.OLD_FAILURE, words, runs.get(since.entry, ""))
        if was is None and not good:
            return item(Kind.NEW_FAILURE if len(runs) > 1 else Kind.OLD_FAILURE, f"{words} (never seen before)")
        if past.flake_rate >= FLAKY_BEFORE and now.runs == 1:
            return item(Kind.FLAKE, f"{words}; {_rate(past.flake_rate)}")
        return item(Kind.NEW_FAILURE, words)
    if now.good_at_all and was is not None and was.bad and (since := past.bad_since):
        return item(Kind.FIXED, f"passes again, was {was.outcome}", runs.get(since.entry, ""))
    return None


def _rate(rate: float) -> str:
    return f"flaky in {rate:.0%} of the last runs"


def _as_known(item: News, issue: KnownIssue) -> News:
    return replace(item, kind=Kind.KNOWN, text=f"{item.kind}: {item.text}", reason=issue.reason, link=issue.link)


def _metrics(history: History, entry: Entry, entries: list[Entry]) -> Iterator[News]:
    """Yield the changes that this run is the first to show, and no earlier run has shown already."""
    runs = {e.id: e.run for e in entries}
    for whole, trend in _changes(history, entry, entries):
        metric = whole.metric
        worse = trend.worse(metric.direction)
        kind = Kind.DRIFT if trend.kind == "drift" and worse else Kind.SLOWER if worse else Kind.FASTER
        since = runs[whole.points[trend.at][0]]
        good = runs[whole.points[trend.at - 1][0]] if trend.at else ""
        unit = "times the base" if whole.is_ratio else metric.unit
        text = f"{trend.change:+.1%} ({trend.before:.4g} -> {trend.after:.4g} {unit})"
        if trend.kind == "drift":
            text += f", {trend.change / max(1, len(whole.points) - 1 - trend.at):+.1%} a run"
        yield News(kind, entry.lane, metric.column, metric.text, text, since, good, change=trend.change)


def doubtful(history: History, entry: Entry) -> set[tuple[str, str]]:
    """Return (subject, column) of what should be run again, so that a first bad result is told from a flake.

    These are the checks that were good in the last whole run of the lane and are bad now, and the figures that are
    far off in this run alone, where there were too few repeats to be sure.
    """
    entries = history.entries(entry.lane)
    before = [e for e in entries if e.id < entry.id and e.usable]
    if not before:
        return set()
    names = {check.id: check for check in history.checks(entry.lane)}
    last = history.of_entry(before[-1])
    now = history.of_entry(entry)
    found = {
        (names[number].subject, names[number].column)
        for number, point in now.items()
        if point.bad and (number not in last or last[number].good_at_all)
    }
    for whole, _ in _changes(history, entry, entries, lone=True):
        found.add((whole.metric.subject, whole.metric.column))
    return found


def _changes(
    history: History, entry: Entry, entries: list[Entry], *, lone: bool = False
) -> Iterator[tuple[MetricHistory, Trend]]:
    """Yield what the figures of this run bring to light; `lone`: only what rests on this run's figure alone."""
    usable = {e.id for e in entries if e.usable}
    for metric in history.metrics(entry.lane):
        points = tuple(p for p in history.metric(metric, entry.id).points if p[0] in usable)
        whole = MetricHistory(metric, points)
        if points and points[-1][0] == entry.id and (trend := _news_of(whole, lone=lone)):
            yield whole, trend


def _news_of(whole: MetricHistory, *, lone: bool) -> Trend | None:
    """Return the change that the last figure brings to light: it is not told already by the figures before it."""
    size = len(whole.points)
    found = trends(whole.values)
    alone = bool(found) and _alone(found[-1], whole, size)
    if not found or alone != lone:
        return None
    last = found[-1]
    if last.kind == "step" and size - 1 - last.at > SETTLE:
        return None
    for back in range(1, min(RECALL, size - 1) + 1):
        earlier = trends(whole.values[:-back])
        if any(_same(last, trend) and not _alone(trend, whole, size - back) for trend in earlier):
            return None
    return last


def _alone(trend: Trend, whole: MetricHistory, size: int) -> bool:
    """Whether a change rests on one figure that was taken too seldom, the last of the first `size`."""
    return trend.at == size - 1 and whole.points[size - 1][3] < SURE


def _same(one: Trend, other: Trend) -> bool:
    """Whether two runs' words are about one change: the same direction, and begun at about the same run."""
    near = 2 if one.kind == other.kind == "step" else RECALL
    return abs(one.at - other.at) <= near and (one.change < 0) == (other.change < 0)
