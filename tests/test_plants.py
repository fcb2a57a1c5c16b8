"""Planted faults: what their files say, which jobs they make, and what counts as found."""

import dataclasses
from pathlib import Path

import pytest
from test_compare import run_of
from test_witnesses import job, pages

from kpatchlab.errors import UserError
from kpatchlab.lab import load
from kpatchlab.model import Case, CaseKind, Outcome, log_case, taint_case
from kpatchlab.plan import plants

PROJECT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def lab():
    return load.load(PROJECT / "plants.yaml", ("*",))


def test_every_plant_says_what_it_is(lab):
    found = plants.read(lab)
    assert found
    for plant in found:
        assert plant.title != plant.name
        assert plant.system in lab.systems
    one = next(plant for plant in found if plant.name == "nonblock-forgotten")
    assert (one.kind, one.seen_by, one.scenarios) == ("blocking", "check", ("unix-splice", "splice-core"))


def test_every_system_that_can_run_has_a_plant(lab):
    card, of_an_rfc, not_judged = "chelsio-tls", "zcopy-alloc", "open-questions"
    planted = {plant.system for plant in plants.read(lab)}
    assert set(lab.systems) - planted == {card, of_an_rfc, not_judged}


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("Kind: blocking\n", "", "no line 'Kind:'"),
        ("unix-splice splice-core", "unix-splise", "no scenario 'unix-splise'"),
        ("Seen-by: check", "Seen-by: eye", "Seen-by: eye"),
        ("System: splice-core", "System: splice-cor", "no system 'splice-cor'; did you mean"),
    ],
)
def test_a_plant_that_says_too_little_is_refused(lab, tmp_path, old, new, words):
    text = (PROJECT / "plants/nonblock-forgotten.patch").read_text()
    assert old in text
    (tmp_path / "plants").mkdir()
    (tmp_path / "plants/one.patch").write_text(text.replace(old, new))
    with pytest.raises(UserError, match=words):
        plants.read(dataclasses.replace(lab, root=tmp_path))


def test_names_choose_among_them(lab):
    assert [plant.name for plant in plants.read(lab, ["warning-later"])] == ["warning-later"]
    with pytest.raises(UserError, match="no plant 'warning-latter'; did you mean"):
        plants.read(lab, ["warning-latter"])


def test_each_plant_runs_its_own_scenarios_and_the_base_all(lab):
    chosen = plants.read(lab, ["nonblock-forgotten", "hash-changes-source"])
    planted = plants.variant(lab, chosen)
    assert list(planted.kernels) == ["unplanted", "hash-changes-source", "nonblock-forgotten"]
    assert planted.kernels["unplanted"].series == ()
    jobs = {(j.column, j.scenario) for j in plants.plan_of(planted, chosen).jobs}
    assert jobs == {
        *(("unplanted", name) for name in ("af-alg", "splice-core", "unix-splice")),
        ("hash-changes-source", "af-alg"),
        *(("nonblock-forgotten", name) for name in ("splice-core", "unix-splice")),
    }


def plant(seen_by):
    return plants.Plant("b", Path("b.patch"), "title", "kind", "system", ("s",), seen_by)


def check(outcome):
    return (Case("data", outcome, "wrong" if outcome is Outcome.FAIL else "", kind=CaseKind.CHECK),)


def score(seen_by, *jobs):
    (found,) = plants.score([plant(seen_by)], run_of(*jobs))
    return found.found, found.told


def test_what_counts_as_found():
    good, bad = job("a", cases=check(Outcome.PASS)), job("b", cases=check(Outcome.FAIL), outcome=Outcome.FAIL)
    assert score("check", good, bad) == (plants.Found.FOUND, "s: data: wrong")
    assert score("log", good, bad)[0] == plants.Found.OTHERWISE
    same = job("b", cases=check(Outcome.PASS))
    assert score("check", good, same) == (plants.Found.MISSED, "")
    (ended,) = plants.score([plant("left")], dataclasses.replace(run_of(good, same), complete=False))
    assert (ended.found, ended.told) == (plants.Found.NOT_TRIED, "the run was ended early")
    lost = dataclasses.replace(same, outcome=Outcome.BLOCKED, message="does not build")
    assert score("check", good, lost) == (plants.Found.NOT_TRIED, "does not build")
    splat = log_case("main", Outcome.CRASH, "WARNING: late")
    crash = job("b", cases=(*check(Outcome.PASS), splat), outcome=Outcome.CRASH)
    clean = job("a", cases=(*check(Outcome.PASS), log_case("main", Outcome.PASS)))
    assert score("log", clean, crash)[0] == plants.Found.FOUND
    tainted = job("b", cases=(*check(Outcome.PASS), taint_case("main", Outcome.FAIL, "bit 9")), outcome=Outcome.FAIL)
    quiet = job("a", cases=(*check(Outcome.PASS), taint_case("main", Outcome.PASS, "")))
    assert score("taint", quiet, tainted)[0] == plants.Found.FOUND
    leaky = [job("a", turns=4), job("b", left=pages(900, 900, 900, 900), turns=4)]
    assert score("left", *leaky)[0] == plants.Found.FOUND
    late = dataclasses.replace(same, outcome=Outcome.TIMEOUT, message="run.sh ran longer than 60 s")
    assert score("time", good, late)[0] == plants.Found.FOUND
    assert score("check", good, late)[0] == plants.Found.OTHERWISE
    gone = dataclasses.replace(same, cases=(), outcome=Outcome.CRASH, message="no heartbeat for 30 s")
    assert score("log", good, gone) == (plants.Found.FOUND, "s: job: no heartbeat for 30 s")
