"""Figures for the page: each column's compared with the base's, in words, numbers and plots."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from kpatchlab.report import markup
from kpatchlab.report.common import line
from kpatchlab.verdict.ratios import AGAIN, Figure, MetricRow, Speed, again, least, margin, splits
from kpatchlab.verdict.values import Comparison, Group

MAX_ROWS = 600
"""So many figures are shown in one mode, those first that say something."""
MAX_VALUES = 60
"""So many single values of a figure are told and drawn."""
NO_MODE = "mode not recorded"
_AXES = (1.01, 1.02, 1.05, 1.1, 1.2, 1.5, 2, 3, 5, 10, 100)
_RANK: dict[str, int] = {Speed.SLOWER: 0, Speed.FASTER: 1, Speed.UNKNOWN: 2, Speed.SAME: 3}


@dataclass(frozen=True, slots=True)
class SpeedRow:
    """One figure of one column against the base's.

    Attributes:
        word: FASTER, SLOWER, SAME or UNKNOWN.
        why: why it is UNKNOWN, and what would help; "" otherwise.
        change: `+86.6 %`, of the mean; "" where there is none.
        interval: `+85.2 to +87.9 %`; "" where there is none.
        better: the ratio with its bounds, turned so that above 1 is better; for the plot.
        values: (column, its values, as text), base first.
    """

    group: Group
    name: str
    unit: str
    direction: str
    column: str
    word: str
    why: str
    means: tuple[str, str]
    change: str
    interval: str
    better: tuple[float, float | None, float | None] | None
    values: tuple[tuple[str, str], ...]
    strips: Markup | None


@dataclass(frozen=True, slots=True)
class SpeedTable:
    """All figures of one mode.

    Attributes:
        rows: of other kernels, those first that say something.
        again: of the base kernel against itself.
        again_told: what came of the latter, in words; "" where there are none.
        splits_told: the same of many comparisons dealt out of the base's values; "" where they are too few.
        margin: how far from 1 is still SAME.
        reach: where the axis of the plots ends, see `markup.forest`.
    """

    mode: str
    rows: tuple[SpeedRow, ...]
    again: tuple[SpeedRow, ...]
    again_told: str
    splits_told: str
    margin: float
    reach: float

    @property
    def shown(self) -> Sequence[SpeedRow]:
        """Those with an interval, as many as the page shows."""
        return [row for row in self.rows if row.interval][:MAX_ROWS]

    @property
    def bare(self) -> Sequence[SpeedRow]:
        """Those without an interval, as many as the page shows."""
        return [row for row in self.rows if not row.interval][: MAX_ROWS // 2]

    @property
    def left_out(self) -> int:
        """How many the page does not show."""
        return len(self.rows) - len(self.shown) - len(self.bare)

    def count(self, word: str) -> int:
        """Return how many figures have this verdict, those of the base against itself left out."""
        return sum(row.word == word for row in self.rows)

    @property
    def axis(self) -> Markup:
        """The axis of the plots."""
        return markup.forest_axis(self.reach)

    @property
    def note(self) -> str:
        """What a reader must know about this mode's figures."""
        if self.mode == NO_MODE:
            return "An older kpatchlab ran this, or these are no benchmarks: what the figures count is not known."
        if self.mode.startswith("instructions"):
            return "Instructions that the guest executed, counted by QEMU: how busy the host was does not matter."
        if "TCG" in self.mode:
            return "Time on an emulated processor: an indication, not what hardware would show."
        return ""

    def plot(self, row: SpeedRow) -> Markup:
        """Return a row's line of the forest plot; empty where there is no ratio."""
        return markup.forest(*row.better, self.reach, self.margin) if row.better else Markup()


def tables(comparison: Comparison, rows: Iterable[MetricRow]) -> list[SpeedTable]:
    """Return one table for each mode, in the run's order; figures that changed come first in each."""
    modes: dict[str, list[MetricRow]] = {}
    for row in rows:
        modes.setdefault(row.mode, []).append(row)
    return [_table(comparison, mode, found) for mode, found in modes.items()]


def _table(comparison: Comparison, mode: str, rows: Sequence[MetricRow]) -> SpeedTable:
    others = [(row, column) for row in rows for column in row.group.jobs if column != comparison.base]
    alone = [(row, comparison.base) for row in rows if list(row.group.jobs) == [comparison.base]]
    made = [_row(comparison, row, column) for row, column in (*others, *alone)]
    ranked = sorted(made, key=lambda row: _RANK.get(row.word, len(_RANK)))
    return SpeedTable(
        mode=mode or NO_MODE,
        rows=tuple(row for row in ranked if not row.column.endswith(AGAIN)),
        again=tuple(row for row in ranked if row.column.endswith(AGAIN)),
        again_told=str(again(rows) or ""),
        splits_told=str(splits(rows, comparison.base) or "").partition(": ")[2] if mode else "",
        margin=margin(mode),
        reach=_reach(made, margin(mode)),
    )


def number(value: float) -> str:
    """Return a figure with five digits at least; "not a number" and "infinite" for what has none."""
    if math.isnan(value):
        return "not a number"
    if 1e5 <= abs(value) < 1e12:
        return f"{value:,.0f}"
    return f"{value:.5g}" if math.isfinite(value) else "infinite"


def percent(ratio: float) -> str:
    """Return a ratio as the difference from 1: `+0.53 %`, `-12.4 %`; a factor from 3 on, `x 5.20`."""
    if ratio >= 3:
        return f"x {ratio:.3g}"
    off = (ratio - 1) * 100
    return f"{off:+.2f} %" if abs(off) < 10 else f"{off:+.1f} %"


def _row(comparison: Comparison, row: MetricRow, column: str) -> SpeedRow:
    base, here = row.figures.get(comparison.base), row.figures.get(column)
    word, why = _word(row, column, comparison.base)
    ratio = here.ratio if here and here.ratio is not None and here.ratio > 0 else None
    low, high = (here.low, here.high) if here and ratio else (None, None)
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        low = high = None
    sides = [(comparison.base, base)] if column == comparison.base else [(comparison.base, base), (column, here)]
    drawn = [f.values[:MAX_VALUES] if f else () for _, f in sides]
    return SpeedRow(
        group=row.group,
        name=row.title,
        unit=line(row.unit, 40) or "no unit",
        direction=f"{row.direction} is better" if row.direction in {"higher", "lower"} else "no better side named",
        column=column,
        word=word,
        why=why,
        means=(number(base.mean) if base else "none", number(here.mean) if here else "none"),
        change=percent(ratio) if ratio else "",
        interval=f"{percent(low)} to {percent(high)}" if low is not None and high is not None else "",
        better=_better(ratio, low, high, row.direction) if ratio else None,
        values=tuple((name, _values(figure)) for name, figure in sides),
        strips=markup.strips(drawn) if all(drawn) and any(len(values) > 1 for values in drawn) else None,
    )


def _better(
    ratio: float, low: float | None, high: float | None, direction: str
) -> tuple[float, float | None, float | None]:
    if direction != "lower":
        return ratio, low, high
    return 1 / ratio, _turned(high), _turned(low)


def _turned(bound: float | None) -> float | None:
    return bound if bound is None else 1 / bound if bound > 0 else math.inf


def _word(row: MetricRow, column: str, base: str) -> tuple[str, str]:
    """Return the verdict, and in words what is odd about it: why it is UNKNOWN, values that are no numbers."""
    sides = dict.fromkeys((base, column))
    counts = [(name, count) for name in sides if (count := _odd(row, name))]
    found = [f"{count} {'is' if count == 1 else 'are'} no number on {line(name, 60)}" for name, count in counts]
    odd = [f"of the values {', '.join(found)}"] if found else []
    if lacking := [line(name, 60) for name in sides if name not in row.figures]:
        return str(Speed.UNKNOWN), "; ".join([f"no figure on {' and '.join(lacking)}", *odd])
    here = row.figures[column]
    if column == base:
        return "", "".join(odd)
    why = []
    if here.ratio is None:
        why = ["the base's figure is 0: there is no ratio"]
    elif here.speed is Speed.UNKNOWN:
        few = min(len(here.values), len(row.figures[base].values))
        why = ["too few values" if few < least(row.mode) else "the interval crosses the margin"]
        why += [f"{here.more} more on each side would tell"] if here.more else []
    return str(here.speed or Speed.UNKNOWN), "; ".join([*why, *odd])


def _odd(row: MetricRow, column: str) -> int:
    """Return how many of a column's values are NaN or infinite; `metric_rows` leaves them out."""
    wanted = (row.name, row.unit, row.direction)
    metrics = (m for job in row.group.jobs.get(column, ()) if job.mode == row.mode for m in job.metrics)
    return sum(not math.isfinite(m.value) for m in metrics if (m.name, m.unit, m.direction) == wanted)


def _values(figure: Figure | None) -> str:
    if figure is None:
        return "none"
    told = " ".join(number(value) for value in figure.values[:MAX_VALUES])
    rest = len(figure.values) - MAX_VALUES
    return f"{told} and {rest} more" if rest > 0 else told


def _reach(rows: Sequence[SpeedRow], least: float) -> float:
    """Return where the axis ends: nine of ten bounds lie on it, the rest are arrows; beyond `least` anyhow."""
    bounds = [abs(math.log(bound)) for row in rows for bound in row.better or () if bound and 0 < bound < math.inf]
    bounds.sort()
    wanted = math.exp(bounds[int(0.9 * (len(bounds) - 1))]) if bounds else 1
    return next((axis for axis in _AXES if axis >= wanted and axis > 1 + least), _AXES[-1])
