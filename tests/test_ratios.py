"""Ratios with intervals: verdicts, margins, what one side lacks, and how often the same is called different."""

from __future__ import annotations

import dataclasses
import random
import subprocess
import sys

import pytest

from kpatchlab.model import Metric, Outcome
from kpatchlab.verdict.compare import compare
from kpatchlab.verdict.ratios import AGAIN, Speed, again, interval, judge, margin, metric_rows, splits
from tests.sample_run import job, sample

P = Outcome.PASS
INSTRUCTIONS, TIME = "instructions", "time (TCG)"


def rows_of(columns, mode=INSTRUCTIONS, direction="higher", unit="MB/s"):
    """Return the metric rows of a run: column -> values, one a repeat."""
    jobs = [
        dataclasses.replace(
            job("s", column, {"x": P}, repeat=i, metrics=(Metric("m", value, unit, direction),)), mode=mode
        )
        for column, values in columns.items()
        for i, value in enumerate(values, 1)
    ]
    run = dataclasses.replace(sample(), base="a", columns=tuple(columns), jobs=tuple(jobs))
    return list(metric_rows(compare(run)))


@pytest.mark.parametrize(
    ("base", "here", "mode", "direction", "speed"),
    [
        ([100, 100.1, 99.9], [99, 99.1, 98.9], INSTRUCTIONS, "higher", Speed.SLOWER),
        ([100, 100.1, 99.9], [99, 99.1, 98.9], INSTRUCTIONS, "lower", Speed.FASTER),
        ([100, 100.1, 99.9], [101, 101.1, 100.9], INSTRUCTIONS, "higher", Speed.FASTER),
        ([100, 100.1, 99.9], [100.1, 100.2, 100.0], INSTRUCTIONS, "higher", Speed.SAME),
        ([100, 100.1], [50, 50.1], INSTRUCTIONS, "higher", Speed.UNKNOWN),  # too few
        ([100, 101, 99], [50, 51, 50], TIME, "higher", Speed.UNKNOWN),  # too few for time
        ([100, 101, 99, 100, 102], [50, 51, 50, 49, 52], TIME, "higher", Speed.SLOWER),
        ([100, 101, 99, 100, 102], [99, 101, 100, 100, 102], TIME, "higher", Speed.SAME),
        ([100, 300, 80, 250, 120], [90, 310, 120, 200, 100], TIME, "higher", Speed.UNKNOWN),
        ([5, 5, 5], [5, 5, 5], INSTRUCTIONS, "higher", Speed.SAME),
    ],
)
def test_speed(base, here, mode, direction, speed):
    (row,) = rows_of({"a": base, "b": here}, mode, direction)
    assert row.figures["b"].speed is speed
    assert (row.mode, row.figures["a"].speed) == (mode, None)


def test_unknown_says_how_many_more_values_it_takes():
    (row,) = rows_of({"a": [100, 101], "b": [100, 102]})
    assert row.figures["b"].more >= 1
    base, here = [96.0, 104.0], [101.5, 93.5]
    (row,) = rows_of({"a": base * 5, "b": here * 5})
    figure = row.figures["b"]
    assert figure.speed is Speed.UNKNOWN
    assert 10 < figure.more < 200
    (row,) = rows_of({"a": base * (10 + figure.more), "b": here * (10 + figure.more)})
    assert (row.figures["b"].speed, row.figures["b"].more) == (Speed.SLOWER, 0)


def test_nothing_is_promised_on_the_margin_itself():
    assert judge(1.005, 0.9, 1.1, 10, INSTRUCTIONS, "higher") == (Speed.UNKNOWN, 0)


def test_a_column_without_the_metric_is_named_and_breaks_nothing():
    (row,) = rows_of({"a": [1, 1, 1], "b": [float("nan")] * 3, "c": [2, 2, 2]})
    assert row.lacking == ("b",)
    assert row.figures["c"].speed is Speed.FASTER
    (row,) = rows_of({"a": [float("inf")], "c": [2, 2, 2]})
    assert row.lacking == ("a",)
    assert (row.figures["c"].speed, row.figures["c"].ratio) == (Speed.UNKNOWN, None)


def test_a_base_of_zero_has_no_ratio():
    (row,) = rows_of({"a": [0, 0, 0], "b": [1, 2, 3]})
    assert (row.figures["b"].ratio, row.figures["b"].speed) == (None, Speed.UNKNOWN)
    (row,) = rows_of({"a": [-1, 0, 1.5], "b": [1, 2, 3]})
    assert row.figures["b"].speed is Speed.UNKNOWN


def test_figures_of_two_modes_are_never_one_row():
    fast = dataclasses.replace(job("s", "a", {"x": P}, metrics=(Metric("m", 1, "u", "higher"),)), mode=TIME)
    other = dataclasses.replace(job("s", "b", {"x": P}, metrics=(Metric("m", 9, "u", "higher"),)), mode=INSTRUCTIONS)
    run = dataclasses.replace(sample(), base="a", columns=("a", "b"), jobs=(fast, other))
    assert [(row.mode, row.lacking) for row in metric_rows(compare(run))] == [(TIME, ("b",)), (INSTRUCTIONS, ("a",))]


def test_the_base_against_itself():
    rows = rows_of({"a": [100, 100.1, 99.9], f"a{AGAIN}": [100, 100.2, 99.9], "b": [90, 90, 90]})
    found = again(rows)
    assert (found.comparisons, found.same, found.alarms) == (1, 1, 0)
    assert "1 comparisons, 1 SAME within 0.5 %, 0 false alarms" in str(found)
    dealt = splits(rows, "a")
    assert (dealt.comparisons, dealt.same, dealt.alarms) == (100, 100, 0)
    rows = rows_of({"a": [100, 100.1, 99.9], f"a{AGAIN}": [102, 102.2, 101.9]})
    assert again(rows).alarms == 1
    assert again(rows_of({"a": [1, 1, 1], "b": [1, 1, 1]})) is None
    assert splits(rows_of({"a": [1, 1], f"a{AGAIN}": [1, 1]}), "a") is None


@pytest.mark.parametrize(("values", "spread"), [(5, 0.05), (5, 0.3), (8, 0.15)])
def test_noise_alone_is_seldom_called_a_difference(values, spread):
    """A hundred pairs of columns that differ by noise alone; some of it is shared by what ran side by side.

    At the 95 % level 5 alarms are expected at the most, and up to 9 are no surprise (binomial, 95 %).
    """
    noise, alarms = random.Random(values), 0
    for _ in range(100):
        shared = [noise.gauss(0, spread) for _ in range(values)]
        one, other = ([100 * (1 + s + noise.gauss(0, spread)) for s in shared] for _ in range(2))
        (row,) = rows_of({"a": one, "b": other}, TIME)
        alarms += row.figures["b"].speed in {Speed.FASTER, Speed.SLOWER}
    assert alarms <= 9


def test_pairs_take_out_what_both_sides_share():
    load = [1.0, 3.0, 1.5, 2.5, 2.0]
    low, high = interval([load_ * 110 for load_ in load], [load_ * 100 for load_ in load], paired=True)
    assert low == pytest.approx(1.1)
    assert high == pytest.approx(1.1)
    low, high = interval([load_ * 110 for load_ in load], [load_ * 100 for load_ in load])
    assert low < 1 < high


def test_what_is_within_the_bases_own_noise_is_not_known():
    base = [100, 101, 99, 100, 100]
    noisy = {"a": base, "b": [80, 81, 79, 80, 80], f"a{AGAIN}": [78, 79, 77, 78, 78]}
    (row,) = rows_of(noisy, TIME)
    assert (row.figures["b"].speed, row.figures[f"a{AGAIN}"].speed) == (Speed.UNKNOWN, Speed.SLOWER)
    (row,) = rows_of({**noisy, "b": [50, 51, 49, 50, 50]}, TIME)
    assert row.figures["b"].speed is Speed.SLOWER
    (row,) = rows_of({**noisy, f"a{AGAIN}": base}, TIME)
    assert row.figures["b"].speed is Speed.SLOWER


def test_margins_are_stated_for_each_mode():
    assert margin("instructions") < margin("time (KVM)") < margin("time (TCG)")


def test_help_does_not_wait_for_scipy():
    modules = "kpatchlab.cli.main, kpatchlab.verdict.ratios, kpatchlab.report"
    code = f"import sys, {modules}; sys.exit('scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
