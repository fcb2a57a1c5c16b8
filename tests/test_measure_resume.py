"""A measurement that was stopped, or that says too little, goes on where it was."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter

import pytest

from kpatchlab.host import host, packages
from kpatchlab.model import Metric, Outcome
from kpatchlab.run import measure
from kpatchlab.verdict.ratios import AGAIN
from tests import labdir

COLUMNS = ("without", "with", f"without{AGAIN}")


class Measured:
    """`measure` in a lab of fakes: `value(column, repeat)` is the figure, `ran` what was run, in its order."""

    def __init__(self, bench, call):
        self.bench, self._call, self.ran = bench, call, []
        self.value = lambda column, repeat: 100.0 + repeat / 100
        self.stop_after = 0
        bench.metrics = self._metrics
        bench.job = self._job

    def _metrics(self, inputs):
        return [Metric("speed", self.value(inputs.spec.column, inputs.spec.repeat), "MB/s", "higher")]

    def _job(self, inputs):
        self.ran.append((inputs.spec.column, inputs.spec.repeat))
        if len(self.ran) == self.stop_after:
            os.kill(os.getpid(), signal.SIGINT)
            inputs.here.cancel.wait(20)
            return RuntimeError("the guest was closed")
        return Outcome.PASS

    def __call__(self, *words):
        self.ran.clear()
        status, out, err = self._call("measure", *words)
        self.stop_after = 0
        return status, out, err

    @property
    def stored(self):
        """The last run, and how often each column has a result."""
        run, _ = self.bench.store.load("last")
        return run, Counter(job.column for job in run.jobs)


@pytest.fixture
def measured(bench, call, monkeypatch):
    monkeypatch.chdir(bench.root)
    monkeypatch.setenv("KPATCHLAB_CACHE", str(bench.root / "cache"))
    monkeypatch.setattr(host, "Host", lambda *_, **__: bench.host)
    monkeypatch.setattr(packages, "missing", lambda stages: [])
    monkeypatch.setattr(os, "sched_setaffinity", lambda *_: None)
    return Measured(bench, call)


def unsteady(column, repeat):
    """Three repeats of the kernel under test say nothing; from then on it is as fast as the base."""
    return (90.0, 110.0, 100.0)[repeat - 1] if column == "with" and repeat <= 3 else 100.0 + repeat / 1000


@pytest.mark.parametrize("stop_after", [1, 5, 9])
def test_one_that_was_stopped_goes_on_with_what_is_missing(measured, stop_after):
    measured.stop_after = stop_after
    status, _, err = measured("solo", "--repeat", "3")
    assert status == 130
    run, _ = measured.stored
    assert not run.complete
    assert f"stopped; to go on: kpatchlab measure --resume {run.id}" in err
    done = set(measured.ran[: stop_after - 1])
    status, out, err = measured("--resume", "last")
    assert (status, "Traceback" in err) == (0, False), out + err
    assert set(measured.ran) == {(column, n) for column in COLUMNS for n in (1, 2, 3)} - done
    run, count = measured.stored
    assert (run.complete, run.columns, count) == (True, COLUMNS, dict.fromkeys(COLUMNS, 3))
    assert run.title == "small: figures, instructions"
    assert measured.bench.store.ids() == [run.id]


def test_one_that_was_killed_goes_on_too(measured):
    child = os.fork()
    if not child:
        job = measured.bench.job

        def killed(inputs):
            if len(measured.ran) == 4:
                while len(list(measured.bench.root.glob("results/2*/jobs/*.json"))) < 4:
                    time.sleep(0.01)
                os.kill(os.getpid(), signal.SIGKILL)
            return job(inputs)

        measured.bench.job = killed
        try:
            measured("solo", "--repeat", "3")
        finally:
            os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    run, count = measured.stored
    assert (run.complete, sum(count.values())) == (False, 4)
    done = {(job.column, job.repeat) for job in run.jobs}
    status, out, err = measured("--resume", "last")
    assert status == 0, out + err
    assert set(measured.ran) == {(column, n) for column in COLUMNS for n in (1, 2, 3)} - done
    run, count = measured.stored
    assert (run.complete, count) == (True, dict.fromkeys(COLUMNS, 3))


def test_one_that_says_nothing_yet_is_repeated_further(measured):
    measured.value = unsteady
    assert measured("solo", "--budget", "0")[0] == 0
    assert {repeat for _, repeat in measured.ran} == {1, 2, 3}
    status, out, err = measured("--resume", "last", "--budget", "30")
    assert status == 0, out + err
    assert {repeat for _, repeat in measured.ran} >= {4, 5, 6}
    assert not {repeat for _, repeat in measured.ran} & {1, 2, 3}
    run, count = measured.stored
    assert run.complete
    assert set(count.values()) == {max(repeat for _, repeat in measured.ran)}
    measured.value = lambda column, repeat: 100.0
    assert measured("--resume", "last", "--budget", "0")[0] == 0
    assert measured.ran == [], "without time nothing is repeated"


def test_one_that_was_stopped_in_a_later_round_finishes_that_round_first(measured):
    measured.value = unsteady
    measured.stop_after = 14
    assert measured("solo")[0] == 130
    later = [job for job in measured.ran if job[1] > 3]
    assert len(later) == 5
    status, out, err = measured("--resume", "last", "--budget", "0")
    assert status == 0, out + err
    run, count = measured.stored
    reached = max(repeat for _, repeat in later)
    assert (run.complete, count) == (True, dict.fromkeys(COLUMNS, reached))
    assert not set(later[:-1]) & set(measured.ran), "nothing is run twice"


def test_it_is_the_measurement_that_was_asked_for_whatever_lab_yaml_selects_now(measured):
    measured.stop_after = 2
    assert measured("solo", "--repeat", "2", "--kernel", "with")[0] == 130
    (measured.bench.root / "lab.yaml").write_text(labdir.LAB.replace('["*"]', "[duo]"))
    status, out, err = measured("--resume", "last")
    assert status == 0, out + err
    run, count = measured.stored
    assert (run.base, count) == ("with", {"with": 2, f"with{AGAIN}": 2})


def test_a_scenario_that_was_edited_is_measured_anew(measured):
    measured.stop_after = 6
    measured("solo", "--repeat", "2")
    labdir.write(measured.bench.root / "scenarios/solo/run.sh", "#!/bin/sh\nfalse\n", 0o755)
    assert measured("--resume", "last")[0] == 0
    assert Counter(measured.ran) == {(column, n): 1 for column in COLUMNS for n in (1, 2)}


def test_the_verbs_name_each_other(measured, call):
    assert measured("solo", "--repeat", "2")[0] == 0
    name = measured.bench.store.ids()[0]
    status, _, err = call("run", "--resume", "last")
    assert status == 2
    assert err == f"kpatchlab: run {name} is one of `measure`\nhint: kpatchlab measure --resume {name} goes on\n"
    assert call("run", "solo")[0] == 0
    name = measured.bench.store.load("last")[0].id
    status, _, err = measured("--resume", "last")
    assert (status, f"hint: kpatchlab run --resume {name} goes on" in err) == (2, True)


@pytest.mark.parametrize("words", [["solo"], ["--kernel", "with"], ["--mode", "time"], ["--repeat", "3"]])
def test_what_is_measured_is_said_once(measured, words):
    status, _, err = measured("--resume", "last", *words)
    assert (status, "--resume says what is measured: leave the other choices out" in err) == (2, True)


def test_the_budget_begins_anew(measured, monkeypatch):
    """As in a new measurement: the first one's was spent, and what says nothing yet shall say something."""
    seen = []
    real = measure.Rounds.of

    def of(lab, wanted):
        seen.append(wanted.budget_s)
        return real(lab, wanted)

    monkeypatch.setattr(measure.Rounds, "of", of)
    measured("solo", "--budget", "7")
    measured("--resume", "last")
    measured("--resume", "last", "--budget", "2")
    measured("--resume", "last")
    assert seen == [420.0, 420.0, 120.0, 420.0]
