"""Figures that scenarios printed, each column's as a ratio to the base column's, with an interval and a verdict.

Two bare numbers are never a comparison: with one repeat on a side there is a ratio and no interval, and nothing
is called faster or slower. One job gives one value, since whatever slows a host down outlasts a job's rounds. The
interval is a percentile bootstrap of the ratio of means, 95 %, from a fixed seed: the same run always reads the same.
Repeats that both sides have are drawn together, since they ran in the same minutes on the same host; and the bounds
are widened for small samples, for which a plain percentile interval is too narrow (T. Hesterberg, What Teachers Should
Know About the Bootstrap, 2015, section 4.1: at five values the plain one holds the truth in 4 of 5 cases only).

However it is widened, a percentile interval ends at the most extreme repeat: where noise is far larger than the margin,
five repeats that happen to lie on one side of 1 exclude it, which they do in 1 of 16 comparisons of a kernel with
itself. So the interval is never narrower than Student's for the logarithms, which has no such end, and which large
outliers widen.
"""

from __future__ import annotations

import enum
import functools
import itertools
import math
import random
import statistics
import sys
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from kpatchlab.verdict.values import Comparison, Group

AGAIN = " (again)"
"""Ends the name of the column that runs the base kernel a second time: what differs there is noise."""
RESAMPLES = 5000
LEVEL = 0.95
INSTRUCTIONS, TIME = "instructions", "time"
"""What a mode begins with, see `JobResult.mode`."""
MOST = 1000
"""How many more values are asked for at the most: beyond that nothing useful can be said."""


class Speed(enum.StrEnum):
    """What a ratio with its interval says, against a margin within which nobody cares."""

    FASTER = "FASTER"  # the whole interval lies beyond the margin, on the better side
    SLOWER = "SLOWER"
    SAME = "SAME"  # the whole interval lies within the margin
    UNKNOWN = "UNKNOWN"  # too noisy, or too few values


def margin(mode: str) -> float:
    """Return how far from 1 a ratio may be and still be SAME.

    Instructions repeat within some 0.1 %; emulated time on a shared host hardly within 5 %.
    """
    if mode.startswith(INSTRUCTIONS):
        return 0.005
    return 0.02 if mode == f"{TIME} (KVM)" else 0.05


def least(mode: str) -> int:
    """Return how many values a verdict takes on each side.

    Of two sides of three values each that differ by noise alone, one lies wholly above the other in one case of ten;
    of five values, in one of 126.
    """
    return 3 if mode.startswith(INSTRUCTIONS) else 5


@dataclass(frozen=True, slots=True)
class Figure:
    """One metric in one column; `ratio` is its mean over the base's mean, None in the base column or over 0.

    `low` and `high` bound the ratio; None where one of the sides has fewer than two values. `speed` is None in the
    base column, UNKNOWN where the base has no value; `more` is how many more values on each side an UNKNOWN would
    take, 0 where nothing can be said.
    """

    values: tuple[float, ...]
    mean: float
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    speed: Speed | None = None
    more: int = 0

    def word(self, direction: str) -> str:
        """Return "better", "worse", "no difference seen", or "no interval"; "" in the base column."""
        if self.ratio is None:
            return ""
        if self.low is None or self.high is None:
            return "no interval"
        if self.low <= 1.0 <= self.high:
            return "no difference seen"
        return "better" if (self.low > 1.0) == (direction == "higher") else "worse"


@dataclass(frozen=True, slots=True)
class MetricRow:
    """One metric of one scenario on one host, by column; `unit` and `direction` are the scenario's own words.

    Attributes:
        figures: of the columns that have a value.
        mode: what the figures count, see `JobResult.mode`.
        lacking: columns that ran the scenario and have no value for this metric.
        host: that took the figures, see `JobResult.host`; those of two hosts are never compared.
        hosts: how many took figures of this metric.
    """

    group: Group
    name: str
    unit: str
    direction: str
    figures: dict[str, Figure]
    mode: str = ""
    lacking: tuple[str, ...] = ()
    host: str = ""
    hosts: int = 1

    @property
    def title(self) -> str:
        """The metric's name, with the host's where there are several."""
        return f"{self.name} ({self.host or 'this host'})" if self.hosts > 1 else self.name


Values = dict[int, list[float]]
"""Repeat -> what it measured; more than one value where a job printed a metric twice."""


def metric_rows(comparison: Comparison) -> Iterator[MetricRow]:
    """Yield every metric of the run, in the run's order; values that are no numbers are left out."""
    for group in comparison.groups:
        names: dict[tuple[str, str, str, str, str], dict[str, Values]] = {}
        for column, jobs in group.jobs.items():
            for job in jobs:
                for metric in job.metrics:
                    key = (metric.name, metric.unit, metric.direction, job.mode, job.host)
                    found = names.setdefault(key, {}).setdefault(column, {})
                    if math.isfinite(metric.value):
                        found.setdefault(job.repeat, []).append(metric.value)
        hosts = Counter(key[:4] for key in names)
        for (name, unit, direction, mode, host), by_column in names.items():
            held = {column: values for column, values in by_column.items() if values}
            base = held.get(comparison.base, {})
            figures = {c: _figure(v, None if c == comparison.base else base, mode, direction) for c, v in held.items()}
            second = figures.get(comparison.base + AGAIN)
            if second is not None:
                figures = {c: f if f is second else _held_against(f, second) for c, f in figures.items()}
            lacking = tuple(c for c in group.jobs if c not in figures)
            several = hosts[name, unit, direction, mode]
            yield MetricRow(group, name, unit, direction, figures, mode, lacking, host, several)


def _held_against(figure: Figure, second: Figure) -> Figure:
    """Return a figure that is no better known than the base's own: what is within the base's own noise is UNKNOWN."""
    noise = abs(second.ratio - 1) if second.ratio is not None and second.speed is not Speed.SAME else 0.0
    if figure.speed not in {Speed.FASTER, Speed.SLOWER} or figure.low is None or figure.high is None:
        return figure
    return figure if figure.low > 1 + noise or figure.high < 1 - noise else replace(figure, speed=Speed.UNKNOWN)


def _figure(values: Values, base: Values | None, mode: str, direction: str) -> Figure:
    flat = tuple(itertools.chain.from_iterable(values[repeat] for repeat in sorted(values)))
    mean = statistics.fmean(flat)
    if base is None:
        return Figure(flat, mean)
    own, other = _paired(values, base)
    if not other or statistics.fmean(other) == 0:
        return Figure(flat, mean, speed=Speed.UNKNOWN)
    ratio = mean / statistics.fmean(other)
    few = min(len(own), len(other))
    if few < 2:
        return Figure(flat, mean, ratio, speed=Speed.UNKNOWN, more=least(mode) - few)
    low, high = interval(own, other, paired=values.keys() == base.keys() and len(own) == len(other))
    speed, more = judge(ratio, low, high, few, mode, direction)
    return Figure(flat, mean, ratio, low, high, speed, more)


def _paired(values: Values, base: Values) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return both sides' values, ordered by repeat."""
    own, other = (tuple(itertools.chain.from_iterable(v[repeat] for repeat in sorted(v))) for v in (values, base))
    return own, other


def judge(ratio: float, low: float, high: float, count: int, mode: str, direction: str) -> tuple[Speed, int]:
    """Return the verdict on a ratio, and how many more values on each side an UNKNOWN would take.

    Args:
        count: values on the side that has fewer.
        direction: "higher" or "lower": what is better.
    """
    about = margin(mode)
    if count >= least(mode):
        if low >= 1 - about and high <= 1 + about:
            return Speed.SAME, 0
        if low > 1 + about or high < 1 - about:
            return (Speed.FASTER if (low > 1) == (direction == "higher") else Speed.SLOWER), 0
    distance = abs(abs(ratio - 1) - about)
    # An interval narrows with the square root of the number of values.
    wanted = count * ((high - low) / 2 / distance) ** 2 if distance else math.inf
    if count < least(mode) or wanted > MOST:
        return Speed.UNKNOWN, max(0, least(mode) - count)
    return Speed.UNKNOWN, max(1, math.ceil(wanted) - count)


def interval(values: Sequence[float], base: Sequence[float], *, paired: bool = False) -> tuple[float, float]:
    """Return the bounds of the ratio mean(values) / mean(base), of at least two values each; see above.

    Args:
        paired: the values of one index belong together.
    """
    return _bounds(tuple(values), tuple(base), paired)


@functools.lru_cache(maxsize=4096)
def _bounds(values: tuple[float, ...], base: tuple[float, ...], paired: bool) -> tuple[float, float]:
    low, high = _bootstrap(values, base, paired)
    if min(*values, *base) <= 0:
        return low, high
    least, most = _student([math.log(value) for value in values], [math.log(value) for value in base], paired)
    return min(low, least), max(high, most)


def _student(values: Sequence[float], base: Sequence[float], paired: bool) -> tuple[float, float]:
    """Return the bounds of exp(mean(values) - mean(base)) by Student's distribution."""
    from scipy import stats

    few = min(len(values), len(base))
    if paired:
        error = statistics.stdev(own - other for own, other in zip(values, base, strict=True)) / math.sqrt(few)
    else:
        error = math.sqrt(statistics.variance(values) / len(values) + statistics.variance(base) / len(base))
    middle, width = statistics.fmean(values) - statistics.fmean(base), error * stats.t.ppf((1 + LEVEL) / 2, few - 1)
    far = math.log(sys.float_info.max)
    return math.exp(max(middle - width, -far)), math.exp(min(middle + width, far))


def _bootstrap(values: tuple[float, ...], base: tuple[float, ...], paired: bool) -> tuple[float, float]:
    import numpy as np  # the help texts of the command line need none of this
    from scipy import stats

    def ratio(own: np.ndarray, other: np.ndarray, axis: int = -1) -> Any:
        below = other.mean(axis=axis)
        return own.mean(axis=axis) / np.where(below == 0, np.nan, below)

    count = min(len(values), len(base))
    wide = math.sqrt(count / (count - 1)) * float(stats.t.ppf((1 + LEVEL) / 2, count - 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of values that are all equal: their interval is a point
        found = stats.bootstrap(
            (np.asarray(values, float), np.asarray(base, float)),
            ratio,
            n_resamples=RESAMPLES,
            paired=paired,
            vectorized=True,
            confidence_level=1 - 2 * float(stats.norm.sf(wide)),
            method="percentile",
            random_state=np.random.default_rng(20230316),
        ).confidence_interval
    if not (math.isfinite(found.low) and math.isfinite(found.high)):
        return -math.inf, math.inf
    return float(found.low), float(found.high)


@dataclass(frozen=True, slots=True)
class Again:
    """How comparisons of the base kernel with itself came out.

    Attributes:
        comparisons: how many there are; `same` of them SAME.
        alarms: FASTER or SLOWER, which is wrong; what is left is UNKNOWN.
        worst: the ratio that is furthest from 1.
        margin: what SAME means, the largest one where modes are mixed.
    """

    comparisons: int
    same: int
    alarms: int
    worst: float
    margin: float

    def __str__(self) -> str:
        """Return one line for people."""
        rest = self.comparisons - self.same - self.alarms
        parts = [f"{self.same} SAME within {100 * self.margin:g} %"]
        parts += [f"{self.alarms} false alarms ({100 * self.alarms / self.comparisons:.1f} %)"]
        parts += [f"{rest} UNKNOWN"] if rest else []
        parts += [f"furthest off {self.worst:.4f}"]
        return f"the base against itself: {self.comparisons} comparisons, {', '.join(parts)}"


def again(rows: Iterable[MetricRow]) -> Again | None:
    """Return how the base's own second column compares; None where the run has none."""
    rows = list(rows)
    found = [f for row in rows for c, f in row.figures.items() if c.endswith(AGAIN) and f.speed is not None]
    if not found:
        return None
    speeds = [figure.speed for figure in found]
    return Again(
        comparisons=len(found),
        same=speeds.count(Speed.SAME),
        alarms=speeds.count(Speed.FASTER) + speeds.count(Speed.SLOWER),
        worst=max((f.ratio for f in found if f.ratio is not None), key=lambda r: abs(r - 1), default=1.0),
        margin=max(margin(row.mode) for row in rows),
    )


def splits(rows: Iterable[MetricRow], base: str, wanted: int = 100) -> Again | None:
    """Return what `wanted` comparisons of the base with itself give.

    A run has few comparisons of the base with itself, one a metric; but the two values of a repeat, of the base and of
    its second column, can change sides, which gives many more. Every one is judged as any comparison is. None where
    there are too few repeats.
    """
    pools = [(row, pairs) for row in rows if len(pairs := _own_pairs(row, base)) >= least(row.mode)]
    if not pools:
        return None
    deal = random.Random(20230316)  # noqa: S311 - statistics, not secrets
    found: list[tuple[Speed, float]] = []
    for number in range(wanted):
        row, pairs = pools[number % len(pools)]
        mixed = [pair if deal.random() < 0.5 else pair[::-1] for pair in pairs]
        one, other = (tuple(side) for side in zip(*mixed, strict=True))
        if statistics.fmean(other) == 0:
            continue
        ratio = statistics.fmean(one) / statistics.fmean(other)
        low, high = interval(one, other, paired=True)
        found.append((judge(ratio, low, high, len(one), row.mode, row.direction)[0], ratio))
    return Again(
        comparisons=len(found),
        same=sum(speed is Speed.SAME for speed, _ in found),
        alarms=sum(speed in {Speed.FASTER, Speed.SLOWER} for speed, _ in found),
        worst=max((ratio for _, ratio in found), key=lambda r: abs(r - 1), default=1.0),
        margin=max(margin(row.mode) for row, _ in pools),
    )


def _own_pairs(row: MetricRow, base: str) -> list[tuple[float, float]]:
    """Return the base's values beside those of its second column, repeat by repeat; none where one side has more."""
    sides = [row.figures[column].values if column in row.figures else () for column in (base, base + AGAIN)]
    return list(zip(*sides, strict=True)) if len(sides[0]) == len(sides[1]) else []
