"""A run as it is begun, and gone on with by the verb that made it."""

import dataclasses

import pytest

from kpatchlab.errors import UserError
from kpatchlab.model import Outcome
from kpatchlab.progress import PlainProgress
from kpatchlab.run.session import Session
from kpatchlab.store.run_plan import Measurement, RunKind, RunPlan


@pytest.fixture
def session(bench):
    return Session(bench.lab, bench.store, bench.host)


def begin(session, bench, **how):
    begun = session.begin(bench.plan(), RunPlan(**how), command="kpatchlab run solo")
    begun.folder.close()
    return begun


def test_a_run_is_carried_out_as_its_plan_says_and_goes_on_as_such(session, bench):
    how = {"guest": "vng", "broken": True, "trace": False}
    seen = []

    def job(inputs):
        seen.append((inputs.task.guest, inputs.task.broken))
        return RuntimeError("lost") if len(seen) == 1 else Outcome.PASS

    bench.job = job
    begun = session.begin(bench.plan(), RunPlan(**how), command="kpatchlab run solo")
    assert (begun.folder.header.title, begun.folder.header.command) == ("small", "kpatchlab run solo")
    session.carry_out(begun, bench.settings, PlainProgress(bench.out))
    again = session.go_on("last")
    assert again.how == RunPlan(jobs=("solo@without#1", "solo@with#1"), **how) == begun.how
    assert (again.plan.base, again.plan.columns) == (begun.plan.base, begun.plan.columns)
    session.carry_out(again, bench.settings, PlainProgress(bench.out))
    assert seen == [("vng", True)] * 3, "the job that was lost is run again, and no other"


@pytest.mark.parametrize(
    ("kind", "hint"),
    [
        (RunKind.MEASURE, "kpatchlab measure --resume {} goes on"),
        (RunKind.COVERAGE, "kpatchlab coverage starts anew"),
        (RunKind.SERIES, "kpatchlab series starts anew"),
    ],
)
def test_a_run_that_another_verb_goes_on_with_names_it(session, bench, kind, hint):
    measured = Measurement(mode="time", base="without", kernels=(), scenarios=(), first=3, budget_s=0.0)
    how = {"measurement": measured} if kind is RunKind.MEASURE else {}
    name = begin(session, bench, kind=kind, **how).folder.id
    with pytest.raises(UserError, match=f"run {name} is one of `{kind}`") as caught:
        session.go_on(name)
    assert caught.value.hint == hint.format(name)
    session.store.open_run(name).close()


def test_a_run_of_a_night_goes_on_and_one_without_jobs_does_not(session, bench):
    begin(session, bench, kind=RunKind.NIGHT)
    session.go_on("last").folder.close()
    begun = begin(session, bench)
    begun.folder.save_plan(dataclasses.replace(begun.how, jobs=()))
    with pytest.raises(UserError, match="was stopped before its plan was stored"):
        session.go_on("last")
