"""Figures that scenarios printed, each column's as a ratio to the base column's, with a confidence interval.

Two bare numbers are never a comparison: with one repeat on a side there is a ratio and no interval, and nothing
is called better or worse. The interval is a percentile bootstrap of the ratio of means, 95 %, from a fixed seed:
the same run always reads the same.
"""

from __future__ import annotations

import enum
import random
import statistics
from collections.abc import Iterator
from dataclasses import dataclass

from kpatchlab.judgement import Comparison, Group

AGAIN = " (again)"
"""Ends the name of the column that runs the base kernel a second time: what differs there is noise."""
RESAMPLES = 1000
LEVEL = 0.95


class Speed(enum.StrEnum):
    """What a ratio with its interval says."""

    FASTER = "FASTER"
    SLOWER = "SLOWER"
    SAME = "SAME"  # the whole interval lies within the margin
    UNKNOWN = "UNKNOWN"  # too noisy, or too few values


@dataclass(frozen=True, slots=True)
class Figure:
    """One metric in one column; `ratio` is its mean over the base's mean, None in the base column or over 0.

    `low` and `high` bound the ratio; None where one of the sides has fewer than two values. `speed` is None in the
    base column; `more` is how many more values on each side an UNKNOWN would take, 0 where nothing can be said.
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
    """One metric of one scenario, by column; `unit` and `direction` are the scenario's own words.

    `mode` is what the figures count, see `JobResult.mode`.
    """

    group: Group
    name: str
    unit: str
    direction: str
    figures: dict[str, Figure]
    mode: str = ""


def metric_rows(comparison: Comparison) -> Iterator[MetricRow]:
    """Yield every metric of the run, in the run's order."""
    for group in comparison.groups:
        names: dict[tuple[str, str, str], dict[str, list[float]]] = {}
        for column, jobs in group.jobs.items():
            for metric in (metric for job in jobs for metric in job.metrics):
                key = (metric.name, metric.unit, metric.direction)
                names.setdefault(key, {}).setdefault(column, []).append(metric.value)
        for (name, unit, direction), values in names.items():
            base = values.get(comparison.base, [])
            figures = {c: _figure(v, [] if c == comparison.base else base) for c, v in values.items()}
            yield MetricRow(group, name, unit, direction, figures)


def _figure(values: list[float], base: list[float]) -> Figure:
    mean = statistics.fmean(values)
    if not base or statistics.fmean(base) == 0:
        return Figure(tuple(values), mean)
    ratio = mean / statistics.fmean(base)
    if len(values) < 2 or len(base) < 2:
        return Figure(tuple(values), mean, ratio)
    return Figure(tuple(values), mean, ratio, *bootstrap(values, base))


def bootstrap(values: list[float], base: list[float]) -> tuple[float, float]:
    """Return the bounds of the ratio of means, mean(values) / mean(base)."""
    source = random.Random(20230316)  # noqa: S311 - statistics, not secrets
    ratios = []
    for _ in range(RESAMPLES):
        below = statistics.fmean(source.choices(base, k=len(base)))
        if below:
            ratios.append(statistics.fmean(source.choices(values, k=len(values))) / below)
    ratios.sort()
    cut = int(len(ratios) * (1 - LEVEL) / 2)
    return ratios[cut], ratios[-1 - cut]
