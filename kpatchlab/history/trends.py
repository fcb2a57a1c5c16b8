"""Where a metric changed from night to night: steps and drifts, each with the night where it begins.

The change points are those of ruptures' KernelCPD (linear kernel: shifts of the mean), on figures in units of their
own noise; docs/nightly.md says how it was chosen. A single figure that stands out between two that do not is an
outlier and no change. A slow drift is not a row of steps: where a straight line over the last nights explains them
better than levels do, it is told as one drift.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from numpy.typing import NDArray

MIN_CHANGE = 0.03
"""Less than this, relative, is told to nobody."""
MIN_POINTS = 8
"""With fewer runs nothing is said: their noise is not known."""
PENALTY = 4.0
"""Of a change point, times log n: of 2, 3, 4 and 6 the one that misses no 5 % step and finds none in noise of 1 %."""
SIGMAS = 5.0
"""How far, in units of the noise, the last figure must be off to be a step by itself."""
RAMP = 40
"""Runs that a drift is looked for in."""
LEAST_RAMP = 4
"""Runs after its beginning that a drift takes to be one."""
LEAST_NOISE = 0.002
"""Noise, relative, that is assumed at least: figures of an emulator can repeat to the digit."""

Kind = Literal["step", "drift"]


@dataclass(frozen=True, slots=True)
class Trend:
    """One change of a metric.

    Attributes:
        kind: "step", or "drift" for a change that goes on from run to run.
        at: index of the first point after the change, of the drift's first point.
        before / after: the level on either side; of a drift, where it began and where it is now.
    """

    kind: Kind
    at: int
    before: float
    after: float

    @property
    def change(self) -> float:
        """Relative change: 0.05 is 5 % more."""
        return self.after / self.before - 1 if self.before else 0.0

    def worse(self, direction: str) -> bool:
        """Whether the metric got worse; `direction` is what is better."""
        return (self.change < 0) == (direction == "higher")


def noise(values: Sequence[float]) -> float:
    """Return the noise of single figures: from differences of neighbours, which steps and drifts hardly touch."""
    import numpy as np

    array = np.asarray(values, float)
    steps = np.diff(array)
    spread = 1.4826 * float(np.median(np.abs(steps - np.median(steps)))) / math.sqrt(2) if len(steps) else 0.0
    return max(spread, LEAST_NOISE * abs(float(np.median(array))), 1e-12)


def without_outliers(values: Sequence[float], sigma: float) -> NDArray[Any]:
    """Return the figures with those that stand out alone between their neighbours taken to the neighbours' median."""
    import numpy as np

    array = np.asarray(values, float).copy()
    for i in range(1, len(array) - 1):
        near = np.concatenate([array[max(0, i - 2) : i], np.asarray(values[i + 1 : i + 3], float)])
        if np.all(np.abs(near - array[i]) > 4 * sigma) and np.ptp(near) < np.abs(near - array[i]).min():
            array[i] = np.median(near)
    return array


def trends(values: Sequence[float]) -> list[Trend]:
    """Return every change of a metric, oldest first; nothing for fewer than `MIN_POINTS` figures."""
    if len(values) < MIN_POINTS:
        return []
    import numpy as np
    import ruptures

    sigma = noise(values)
    clean = without_outliers(values, sigma)
    drift = _drift(clean, sigma)
    level = clean[: drift.at] if drift else clean
    found: list[Trend] = []
    if len(level) >= MIN_POINTS:
        scaled = (level / sigma).reshape(-1, 1)
        search = ruptures.KernelCPD(kernel="linear", min_size=2, jump=1).fit(scaled)
        ends = [0, *search.predict(pen=PENALTY * math.log(len(level)))]
        means = [float(np.mean(level[a:b])) for a, b in itertools.pairwise(ends)]
        for at, before, after in zip(ends[1:], means, means[1:], strict=False):
            while at < len(level) - 1 and abs(level[at] - before) < abs(level[at] - after):
                at += 1  # noqa: PLW2901 - the search takes two points at least, the first may belong to before
            found.append(Trend("step", int(at), before, after if at < len(level) - 1 else float(level[-1])))
        last = level[ends[-2] : -1]
        if not drift and len(last) >= 4 and abs(level[-1] - np.median(last)) > SIGMAS * sigma:
            found.append(Trend("step", len(level) - 1, float(np.median(last)), float(level[-1])))
    return [trend for trend in [*found, *([drift] if drift else [])] if abs(trend.change) >= MIN_CHANGE]


def _drift(values: NDArray[Any], sigma: float) -> Trend | None:
    """Return the drift that lasts until now: flat first, then a straight line; None where levels do as well."""
    import numpy as np

    offset = max(0, len(values) - RAMP)
    window = values[offset:] / sigma
    size = len(window)
    if size < MIN_POINTS:
        return None
    window = window - window.mean()
    flat = float(window @ window)
    places = np.arange(1, size)
    sums = np.cumsum(window)[:-1]
    best_step = flat - float(np.max(sums**2 * (1 / places + 1 / (size - places))))
    # One row for each beginning: 0 until there, then 1, 2, 3 ...; the line that fits best has a closed form.
    ramps = np.clip(np.arange(size) - np.arange(size - LEAST_RAMP)[:, None], 0, None).astype(float)
    middle = ramps.mean(axis=1, keepdims=True)
    weight = ((ramps - middle) ** 2).sum(axis=1)
    slopes = (ramps - middle) @ window / weight
    costs = flat - slopes**2 * weight
    begin = int(np.argmin(costs))
    start, total = -slopes[begin] * middle[begin, 0], slopes[begin] * (size - 1 - begin)
    # As many parameters as a step has (level, place, size): whichever leaves less is the better word for it.
    if flat - costs[begin] < SIGMAS**2 or best_step <= costs[begin] or abs(total) < SIGMAS:
        return None
    start += float(values[offset:].mean()) / sigma
    return Trend("drift", offset + begin, float(start * sigma), float((start + total) * sigma))
