"""How often a kernel is called different from itself, by figures as a busy host gave them; and whether it sees much.

tests/data/again/bench-unix.json: figure -> forty repeats of (base, the base again), of `measure bench-unix --mode time
--kernel without --repeat 40` on an emulated processor, on a host of two processors with a load of 4 to 13.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import pytest

from kpatchlab.verdict.ratios import Speed, interval, judge

TIME = "time (TCG)"
RECORDED: dict[str, list[tuple[float, float]]] = json.loads(
    (Path(__file__).parent / "data/again/bench-unix.json").read_text()
)
CPU = {name: pairs for name, pairs in RECORDED.items() if name.startswith("cpu:")}
ALARMS = {Speed.FASTER, Speed.SLOWER}


def verdict(pairs, factor=1.0):
    """Return the verdict on the second side of pairs, made `factor` times as large; less is better."""
    base, again = zip(*pairs, strict=True)
    here = [factor * value for value in again]
    low, high = interval(here, base, paired=True)
    return judge(sum(here) / sum(base), low, high, len(pairs), TIME, "lower")[0]


@pytest.mark.parametrize("size", [5, 8, 10, 20])
def test_the_recorded_base_is_seldom_called_different_from_itself(size):
    """Of runs of so many repeats each, one after the other as they were taken, 5 % at the most."""
    found = [verdict(pairs[i : i + size]) for pairs in RECORDED.values() for i in range(0, 41 - size, size)]
    assert len(found) == len(RECORDED) * (40 // size)
    assert sum(speed in ALARMS for speed in found) <= 0.05 * len(found)


@pytest.mark.parametrize("seed", range(5))
def test_of_a_hundred_comparisons_five_are_false_alarms_at_the_most(seed):
    """Drawn anew out of what was recorded: any five repeats of any figure, with the sides of each at random."""
    draw, names, alarms = random.Random(seed), list(RECORDED), 0
    for _ in range(100):
        pairs = draw.sample(RECORDED[draw.choice(names)], 5)
        alarms += verdict([pair if draw.random() < 0.5 else pair[::-1] for pair in pairs]) in ALARMS
    assert alarms <= 5


@pytest.mark.parametrize(("factor", "speed", "least"), [(1.1, Speed.SLOWER, 90), (0.9, Speed.FASTER, 90)])
def test_ten_percent_are_found_on_a_quieter_host(factor, speed, least):
    """The same noise, a fifth as strong, some 3 % from job to job, in eight repeats; what is not found is UNKNOWN."""
    draw, names, found = random.Random(1), list(CPU), Counter()
    for _ in range(100):
        pairs = draw.sample(CPU[draw.choice(names)], 8)
        found[verdict([(base**0.2, again**0.2) for base, again in pairs], factor)] += 1
    assert found[speed] >= least, found
    assert not (ALARMS - {speed}) & found.keys(), found


def test_a_large_difference_is_found_on_the_busy_host_itself():
    """Thirty percent more processor time, in twenty repeats: in most figures, and never the other way round."""
    found = Counter(verdict(pairs[i : i + 20], 1.3) for pairs in CPU.values() for i in (0, 20))
    assert found[Speed.SLOWER] >= 0.9 * sum(found.values())
    assert Speed.FASTER not in found


def test_noise_is_unknown_and_not_same():
    """By the clock of that host nothing can be said of 10 %: UNKNOWN, with how many more repeats it would take."""
    found = Counter(
        verdict(pairs[i : i + 5]) for name, pairs in RECORDED.items() if name not in CPU for i in range(0, 40, 5)
    )
    assert found[Speed.UNKNOWN] >= 0.9 * sum(found.values())
