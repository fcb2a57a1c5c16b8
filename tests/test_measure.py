"""Measurements: their plan, when they go on, what they say of the host, and the table that comes out."""

from __future__ import annotations

import dataclasses
import io
import os
import shutil
from pathlib import Path

import labdir
import pytest
from build_fixtures import Bench
from rich.console import Console

from kpatchlab.build.foreign import build_foreign
from kpatchlab.errors import UserError
from kpatchlab.evidence import ktap
from kpatchlab.host.conditions import Conditions
from kpatchlab.lab import load
from kpatchlab.model import JobResult, Metric, Outcome
from kpatchlab.report.figures import show
from kpatchlab.report.view import View
from kpatchlab.run import measure
from kpatchlab.verdict.ratios import AGAIN
from tests.sample_run import sample

P = Outcome.PASS


@pytest.fixture
def whole(tmp_path):
    return load.load(labdir.make(tmp_path))


def result(job, value, outcome=P, name="speed"):
    return JobResult(
        job=job.id,
        scenario=job.scenario,
        params=dict(job.params),
        column=job.column,
        placement=dict(job.placement),
        repeat=job.repeat,
        outcome=outcome,
        metrics=(Metric(name, value, "MB/s", "higher"),),
        duration_s=2.0,
        mode="instructions",
    )


def test_what_is_measured_is_quiet(whole):
    quiet = measure.measured_lab(whole, "instructions")
    assert {(machine.accel, machine.cpus) for machine in quiet.machines.values()} == {("icount", 1)}
    assert not any(scenario.reach for scenario in quiet.scenarios.values())
    assert quiet.limits.guests == 1
    assert measure.measured_lab(whole, "time").machines == whole.machines
    slow = {name: recipe.model_copy(update={"debug": True}) for name, recipe in whole.kernels.items()}
    with pytest.raises(UserError, match="no figures are taken"):
        measure.measured_lab(dataclasses.replace(whole, kernels=slow), "time")


def test_the_base_runs_twice_and_the_columns_take_turns(whole):
    plan = measure.first_plan(measure.measured_lab(whole, "instructions"), ("solo",), None, 2)
    assert plan.columns == ("without", "with", f"without{AGAIN}")
    assert [job.id for job in plan.jobs] == [
        "solo@without#1", "solo@with#1", "solo@without.again#1",
        "solo@without.again#2", "solo@with#2", "solo@without#2",
    ]  # fmt: skip
    assert [dict(job.placement) for job in plan.jobs][2] == {"main": "without"}


def test_two_clocks_that_count_instructions_are_not_measured(whole):
    quiet = measure.measured_lab(whole, "instructions")
    plan = measure.first_plan(quiet, ("solo", "duo"), None, 1)
    assert {job.scenario for job in plan.jobs} == {"solo"}
    with pytest.raises(UserError, match="duo has two guests"):
        measure.first_plan(quiet, ("duo",), None, 1)
    timed = measure.first_plan(measure.measured_lab(whole, "time"), ("duo",), None, 1)
    assert set(timed.columns) == {"without", "with", f"without{AGAIN}"}


def rounds(whole, budget_s=1000.0):
    quiet = measure.measured_lab(whole, "instructions")
    return measure.Rounds(lambda repeat: measure.first_plan(quiet, ("solo",), None, repeat), 3, budget_s)


def finished(going, jobs, values):
    return {job.id: result(job, values[job.column][job.repeat - 1]) for job in jobs}


@pytest.mark.parametrize(
    ("here", "budget_s", "more"),
    [
        ([100, 100.1, 99.9], 1000, 0),  # SAME
        ([90, 90.1, 89.9], 1000, 0),  # SLOWER
        ([100, 101.5, 98], 1000, 9),  # no more than as many again
        ([100, 101.5, 98], 10, 0),  # no time
    ],
)
def test_what_says_nothing_yet_is_repeated_while_the_budget_lasts(whole, here, budget_s, more):
    going = rounds(whole, budget_s)
    same = [100, 100.1, 99.9]
    jobs = going.plan(3).jobs
    done = finished(going, jobs, {"without": same, f"without{AGAIN}": same, "with": here})
    found = going.more(done)
    assert len(found) == more
    assert {job.repeat for job in found} == ({4, 5, 6} if more else set())
    if found:
        done |= {job.id: result(job, 100.0) for job in found}
        assert all(job.repeat > 6 for job in going.more(done))


def test_a_benchmark_that_fails_is_not_repeated(whole):
    going = rounds(whole)
    done = {job.id: result(job, 100.0 + job.repeat, Outcome.FAIL) for job in going.plan(3).jobs}
    assert going.more(done) == []


def measured(whole, here, name="speed"):
    plan = rounds(whole).plan(3)
    jobs = [result(job, here if job.column == "with" else 100.0 + job.repeat / 100) for job in plan.jobs]
    jobs = [dataclasses.replace(j, metrics=(dataclasses.replace(j.metrics[0], name=name),)) if j.column == "with" else j
            for j in jobs]  # fmt: skip
    return dataclasses.replace(sample(), base=plan.base, columns=plan.columns, jobs=tuple(jobs), host={"load": "1 2 3"})


@pytest.mark.parametrize(("here", "code"), [(99.0, 1), (100.0, 0), (101.0, 0)])
def test_slower_is_a_failure(whole, here, code):
    assert measure.exit_code(View(measured(whole, here), Path())) == code


def test_a_measurement_without_figures_is_no_success(whole):
    run = measured(whole, 100.0)
    run = dataclasses.replace(run, jobs=tuple(dataclasses.replace(job, metrics=()) for job in run.jobs))
    assert measure.exit_code(View(run, Path())) == 1
    assert "No figures" in shown(run)


def shown(run):
    sink = io.StringIO()
    show(View(run, Path()), Console(file=sink, width=80, color_system=None))
    return sink.getvalue()


def test_the_table_names_mode_base_margin_interval_and_verdict(whole):
    text = shown(measured(whole, 99.0))
    flat = " ".join(text.split())
    assert "Mode: instructions. SAME is within 0.5 %, at the 95 % level." in text
    assert "base without" in text
    row = next(line for line in text.splitlines() if "SLOWER" in line)
    assert row.split()[:4] == ["speed", "100.02", "MB/s", "0.9898"]
    assert max(map(len, text.splitlines())) <= 80
    assert "A/A: the base against itself: 1 comparisons, 1 SAME within 0.5 %, 0 false alarms (0.0 %)" in flat
    assert "100 comparisons, 100 SAME" in flat
    assert "load 1 2 3" in text


def test_bounds_that_span_powers_of_ten_are_no_numbers(whole):
    run = measured(whole, 100.0)
    jobs = [
        dataclasses.replace(j, metrics=(dataclasses.replace(j.metrics[0], value=100.0 * 50**j.repeat),))
        if j.column == "with"
        else j
        for j in run.jobs
    ]
    lines = shown(dataclasses.replace(run, jobs=tuple(jobs))).splitlines()
    assert any("speed" in line and "too wide to tell" in line for line in lines)


def test_a_figure_that_one_side_lacks_is_said(whole):
    lines = shown(measured(whole, 99.0, name="other")).splitlines()
    assert any("speed" in line and "no value" in line for line in lines)
    assert any("other" in line and "no value" in line and "UNKNOWN" in line for line in lines)


def host(tmp_path, **files):
    for name, text in {"proc/stat": "cpu  100 0 0 900 0 0 0 0 0 0\n", "proc/loadavg": "9 8 7 1/2 3\n"}.items():
        labdir.write(tmp_path / name, text)
    for name, text in files.items():
        labdir.write(tmp_path / name.replace("__", "/"), text)
    return Conditions(1, tmp_path)


def test_what_a_host_does_not_let_control_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    quiet = host(tmp_path, proc__cpuinfo="flags : fpu hypervisor\n")
    quiet.begin()
    labdir.write(tmp_path / "proc/stat", "cpu  90100 0 0 910 0 0 0 100 0 0\n")
    facts = quiet.facts()
    assert facts["pinned"].startswith("not: 2 processors, 4 wanted")
    assert facts["load"] == "9 8 7"
    for part in ("not pinned", "governor unknown", "a guest itself", "other load took 100 %"):
        assert part in facts["uncontrolled"]


def test_a_large_quiet_host_pins(tmp_path, monkeypatch):
    pinned = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, cpus: pinned.append(list(cpus)))
    quiet = host(tmp_path, **{"sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "performance\n"})
    quiet.begin()
    assert pinned == [[6, 7]]
    assert quiet.facts()["uncontrolled"] == "nothing known"


# --- programs in C


def test_a_program_is_compiled_once_for_all_kernels(tmp_path):
    bench = Bench(tmp_path)
    source = labdir.write(bench.ctx.lab_root / "scenarios/lib/hello.c", "int main(void)\n{\n\treturn 3;\n}\n")
    built = build_foreign(bench.recipe(), "programs/hello", bench.ctx)
    assert (built.outcome, built.cached) == (P, False)
    assert os.access(bench.ctx.cache.path(built.kind, built.key) / "programs" / "hello", os.X_OK)
    assert build_foreign(bench.recipe(), "programs/hello", bench.ctx).cached
    source.write_text("int main(void)\n{\n\tnonsense;\n}\n")
    found = build_foreign(bench.recipe(), "programs/hello", bench.ctx)
    assert found.outcome is Outcome.BLOCKED
    assert "hello.c:3" in found.reason
    assert build_foreign(bench.recipe(), "programs/none", bench.ctx).reason == (
        "there is no program scenarios/lib/none.c"
    )


@pytest.mark.parametrize("family", ["unix", "tcp", "udp"])
def test_the_benchmark_counts_its_bytes(tmp_path, monkeypatch, family):
    """The program itself, on this host: whole when nothing is wrong, and it sees bytes that are missing."""
    from kpatchlab import proc

    source = Path(__file__).parent.parent / "scenarios" / "lib" / "bench.c"
    bench = Bench(tmp_path)
    labdir.write(bench.ctx.lab_root / "scenarios/lib/bench.c", "")
    for name in ("bench.c", "hostclock.h"):
        shutil.copy(source.parent / name, bench.ctx.lab_root / "scenarios/lib")
    built = build_foreign(bench.recipe(), "programs/bench", bench.ctx)
    program = bench.ctx.cache.path(built.kind, built.key) / "programs" / "bench"
    done = proc.run([program, family, "1"], timeout_s=60, check=False)
    assert done.status == 0, done.stdout
    parsed = ktap.parse(done.stdout.encode(), exit_status=0)
    assert (parsed.problems, {case.outcome for case in parsed.cases}) == ((), {P})
    ways = {tuple(metric.name.split(":")[:2]) for metric in parsed.metrics}
    assert ways == {(what, way) for what in ("throughput", "cpu") for way in ("sendfile", "splice", "write")} | {
        ("latency", "64B"),
        ("cpu", "latency"),
    }
    assert all(metric.value > 0 for metric in parsed.metrics)
    monkeypatch.setenv("LAB_BREAK", "1")
    done = proc.run([program, family, "1"], timeout_s=60, check=False)
    assert done.status == 1
    assert "not ok 1 sendfile in calls of 4 KiB: bytes are missing" in done.stdout
