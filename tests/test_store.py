"""Runs on disk: read back whole, survive a kill, refuse what is newer, stay inside the results directory."""

import dataclasses
import json
import os
import shutil
import sqlite3
from pathlib import Path
from types import SimpleNamespace

import pytest
from sample_run import P, builds, job, large, sample

from kpatchlab.errors import LabError, UserError
from kpatchlab.files import safe_name, write_atomic
from kpatchlab.history.record import Origin
from kpatchlab.model import Run
from kpatchlab.plan.forecast import history, last_builds
from kpatchlab.report import FORMATS
from kpatchlab.report.view import View
from kpatchlab.store import run_dir as run_dir_module
from kpatchlab.store.run_plan import Measurement, RunKind, RunPlan, load_plan
from kpatchlab.store.store import Store
from kpatchlab.verdict.compare import compare


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "results")


def stored(store, run=None, **changes):
    run_dir = store.new_run("t", base="without", columns=("without", "with"))
    run = dataclasses.replace(run or sample(), id=run_dir.id, **changes)
    run_dir.finish(run, compare(run))
    return run


def test_read_back_whole(store):
    run = stored(store, large(40, 1000))
    read, folder = store.load(run.id)
    assert read == run
    assert folder == store.root / run.id


def test_each_file_of_a_run_is_read_once_and_its_builds_without_its_jobs(store, monkeypatch):
    run = stored(store, sample())
    read = []
    one = run_dir_module.read_input
    monkeypatch.setattr(run_dir_module, "read_input", lambda path, *words: read.append(path.name) or one(path, *words))
    whole, _ = store.load(run.id)
    assert read.count("run.json") == 1
    assert len(read) == len(set(read)) == 1 + len(whole.jobs) + len(whole.builds)
    read.clear()
    assert last_builds(SimpleNamespace(results=store.root)) == {build.kernel: build for build in reversed(whole.builds)}
    assert len(read) == 1 + len(whole.builds)


def test_what_jobs_took_is_read_without_their_cases_and_the_newest_word_counts(store, monkeypatch):
    first, last = sample(), dataclasses.replace(sample(), jobs=sample().jobs[:1])
    slow = dataclasses.replace(last.jobs[0], duration_s=777.0)
    fresh = dataclasses.replace(builds()[0], cached=False, duration_s=333.0)
    old = stored(store, first)
    new = stored(store, dataclasses.replace(last, jobs=(slow,), builds=(fresh,)))
    broken = stored(store, first)
    ids = [broken.id, new.id, old.id]  # of one second: by themselves they have no order
    part = next((store.root / broken.id / "jobs").glob("*.json"))
    monkeypatch.setattr(run_dir_module, "job_result", lambda data: pytest.fail("a job is read whole"))
    for damage in ("{", '{"job": 1}', '{"job": "a", "duration_s": "long"}', "[]"):
        part.write_text(damage)
        took = history(store, among=ids)
        assert took[slow.job] == 777.0
        assert took[f"kernel:{fresh.kernel}"] == 333.0
        assert {job.job for job in first.jobs} <= set(took), "those of the run before"
    assert history(store, 1, ids) == {}, "the last one is damaged"
    assert set(history(store)) == set(took)


def test_run_that_was_killed_is_read_as_far_as_it_got(store):
    run_dir = store.new_run("half", base="without", columns=("without", "with"), kernels=sample().kernels)
    run_dir.save_build(builds()[0], "the log")
    run_dir.save_job(sample().jobs[0])
    run_dir.close()
    run, folder = store.load("last")
    assert (run.complete, run.title, run.base, run.kernels) == (False, "half", "without", sample().kernels)
    assert run.jobs == sample().jobs[:1]
    assert run.builds == (builds()[0],)
    assert (folder / "builds/without.log").read_text() == "the log"
    (row,) = store.list()
    assert (row.complete, row.outcomes, row.exit_code) == (False, {"fail": 1}, 3)


def test_a_results_folder_that_is_named_by_way_of_another(tmp_path):
    """As `--lab ../other/lab.yaml` does."""
    (tmp_path / "here").mkdir()
    run = stored(Store(tmp_path / "here/../there/results"))
    assert Store(tmp_path / "there/results").load("last")[0] == run


def test_resume(store):
    with store.new_run("x") as run_dir:
        run_dir.save_plan(RunPlan(jobs=("a", "b")))
        run_dir.save_job(job("s", "with", {"x": P}))
    with store.open_run("last") as again:
        assert again.load_plan() == RunPlan(jobs=("a", "b"))
        assert list(again.done_jobs()) == ["s.with.0"]
        run = dataclasses.replace(again.header, complete=True, jobs=tuple(again.done_jobs().values()))
        again.finish(run, compare(run))
    assert store.load("last")[0] == run


OLD_PLANS = {
    '{"jobs": ["a"]}': RunPlan(jobs=("a",)),
    '{"jobs": ["a"], "guest": "vng", "variant": null, "broken": true}': RunPlan(jobs=("a",), guest="vng", broken=True),
    '{"jobs": ["a"], "guest": "fork", "variant": "debug", "broken": false, "origin": {"lane": "x", "night": "n",'
    ' "digest": "d", "heads": {"with": {"commit": "c"}}}}': RunPlan(
        jobs=("a",), variant="debug", origin=Origin("x", "n", "d", {"with": {"commit": "c"}})
    ),
    '{"jobs": [], "origin": {"lane": "peer"}}': RunPlan(origin=Origin("peer")),
    '{"jobs": ["a"], "of a newer version": 1}': RunPlan(jobs=("a",)),
}


@pytest.mark.parametrize(("text", "plan"), OLD_PLANS.items())
def test_plans_of_every_earlier_shape_are_read(tmp_path, text, plan):
    (tmp_path / "plan.json").write_text(text)
    assert load_plan(tmp_path) == plan


def test_a_plan_is_read_back_whole_and_one_that_is_not_there_has_no_jobs(store):
    plan = RunPlan(
        jobs=("a", "b"), kind=RunKind.NIGHT, guest="vng", variant="debug", trace=False,
        origin=Origin("main", "night", "digest", {"with": {"commit": "c"}}),
    )  # fmt: skip
    with store.new_run("x") as run_dir:
        run_dir.save_plan(plan)
    assert store.plan("last") == plan
    assert store.plan("last").place == plan.origin
    assert dataclasses.replace(plan, broken=True).place is None
    assert load_plan(Path(__file__).parent / "data/runs/20230317-120411-a3f2") == RunPlan()
    for text in ("{", "[]", '{"jobs": 1}', '{"kind": "unheard of"}'):
        (run_dir.path / "plan.json").write_text(text)
        with pytest.raises(LabError, match=r"cannot read .*plan\.json"):
            store.plan("last")


def test_what_a_measurement_takes_is_part_of_its_plan(store):
    measured = Measurement(
        mode="time", base="old", kernels=("old", "new"), scenarios=("bench-unix",), first=5, budget_s=1800.0
    )
    plan = RunPlan(jobs=("a",), kind=RunKind.MEASURE, trace=False, measurement=measured)
    with store.new_run("x") as run_dir:
        run_dir.save_plan(plan)
    assert store.plan("last") == plan
    (run_dir.path / "plan.json").write_text('{"kind": "measure"}')
    with pytest.raises(LabError, match="a run of `measure` lacks a measurement"):
        store.plan("last")


def test_run_in_use_cannot_be_opened_or_deleted(store):
    run_dir = store.new_run("x")
    for act in (store.open_run, store.delete):
        with pytest.raises(UserError, match="in use by another"):
            act(run_dir.id)
    run_dir.close()
    store.delete(run_dir.id)
    assert store.ids() == []


def test_resolve(store):
    ids = sorted(stored(store).id for _ in range(3))
    assert store.resolve("last") == os.readlink(store.root / "last")
    assert store.resolve(ids[1]) == ids[1]
    assert store.resolve(ids[1][-4:]) == ids[1]
    with pytest.raises(UserError, match="fits 3 runs"):
        store.resolve(ids[0][:8])
    with pytest.raises(UserError) as caught:
        store.load(ids[0][:-4] + "zzzz")
    assert ids[0] in caught.value.hint
    (store.root / "last").unlink()
    assert store.resolve("last") == ids[-1]
    for outside in ("..", "../etc", "/", ""):
        with pytest.raises(UserError):
            store.resolve(outside)


def test_no_runs(store):
    assert store.list() == []
    with pytest.raises(UserError, match="no runs"):
        store.load("last")


@pytest.mark.parametrize("harm", ["missing", "garbage", "emptied"])
def test_index_is_made_anew(store, harm):
    first, second = stored(store), stored(store)
    path = store.root / "index.db"
    if harm == "emptied":
        with sqlite3.connect(path) as index:
            index.execute("DELETE FROM runs")
    else:
        for left in store.root.glob("index.db*"):
            left.unlink()
        if harm == "garbage":
            path.write_bytes(b"not a database, but long enough to be read as one" * 100)
    rows = store.list()
    assert {row.id for row in rows} == {first.id, second.id}
    assert rows[0].verdicts["REGRESSED"] == 5
    assert rows[0].kernels == ("without", "with")
    assert sqlite3.connect(path).execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_newer_database_is_refused_and_kept(store):
    stored(store)
    path = store.root / "index.db"
    with sqlite3.connect(path) as index:
        index.execute("PRAGMA user_version = 99")
    with pytest.raises(UserError, match="has version 99"):
        store.list()
    assert sqlite3.connect(path).execute("PRAGMA user_version").fetchone() == (99,)


def test_delete_moves_last(store):
    first, second = sorted((stored(store), stored(store)), key=lambda run: run.id)
    store.delete(second.id)
    assert [row.id for row in store.list()] == [first.id]
    assert store.load("last")[0].id == first.id
    store.delete("last")
    assert not (store.root / "last").is_symlink()


def test_newer_format_is_refused(store):
    run = stored(store)
    path = store.root / run.id / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": 99}))
    with pytest.raises(UserError, match="has format 99"):
        store.load(run.id)
    (store.root / "index.db").unlink()
    assert "has format 99" in store.list()[0].problem


def test_unknown_keys_are_ignored(store):
    run = stored(store)
    path = store.root / run.id / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"later": 1}))
    assert store.load(run.id)[0] == run


@pytest.mark.parametrize("text", ["{", "[]", '{"job": 1}', '{"outcome": "odd"}'])
def test_damaged_file_is_named(store, text):
    run = stored(store)
    path = next((store.root / run.id / "jobs").glob("*.json"))
    path.write_text(text)
    with pytest.raises(LabError, match=path.name[:10]):
        store.load(run.id)
    assert store.list()[0].id == run.id  # the index still has it


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "."])
def test_nothing_is_written_outside(store, name):
    with store.new_run("x") as run_dir, pytest.raises(ValueError, match="not inside"):
        run_dir.write(name, b"")


def test_link_that_leads_out_is_not_followed(store, tmp_path):
    with store.new_run("x") as run_dir:
        (run_dir.path / "jobs").symlink_to(tmp_path)
        with pytest.raises(ValueError, match="not inside"):
            run_dir.write("jobs/x", b"")


def test_hostile_job_name(store):
    with store.new_run("x") as run_dir:
        made = dataclasses.replace(job("s", "with", {"x": P}), job="../../a/b\x00\ud800", stdout_tail="\ud800")
        run_dir.save_job(made)
        folder = run_dir.job_dir(made.job)
        assert folder.parent == run_dir.path / "jobs"
        assert run_dir.relative(folder / "console").startswith("jobs/")
        assert len(run_dir.done_jobs()) == 1


def test_safe_name():
    names = ["a", "a/b", "a_b", "..", "", ".a", "é", "x" * 300, "x" * 301, "CON", "-rf"]
    safe = [safe_name(name) for name in names]
    assert len(set(safe)) == len(names)
    for name in safe:
        assert 0 < len(name) <= 100
        assert "/" not in name
        assert name[0] != "."


def test_atomic_write_leaves_nothing_beside(tmp_path, monkeypatch):
    write_atomic(tmp_path / "f", b"old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(LabError, match="No space left"):
        write_atomic(tmp_path / "f", b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["f"]
    assert (tmp_path / "f").read_bytes() == b"old"


def test_finish_wants_its_own_run(store):
    with store.new_run("x") as run_dir, pytest.raises(ValueError, match="does not belong"):
        run_dir.finish(sample(), compare(sample()))


def test_results_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "results").write_text("")
    with pytest.raises(LabError, match="cannot write"):
        Store(tmp_path / "results").new_run("x")


def test_empty_run(store):
    run_dir = store.new_run("x")
    run = dataclasses.replace(run_dir.header, complete=True)
    run_dir.finish(run, compare(run))
    assert isinstance(store.load("last")[0], Run)


# --- runs of earlier versions

EARLIER = Path(__file__).parent / "data" / "runs"
"""A run as the first version stored it: without answers, modes, systems, patches, threads."""


@pytest.fixture
def earlier(tmp_path):
    shutil.copytree(EARLIER, tmp_path / "results")
    return Store(tmp_path / "results")


@pytest.mark.parametrize("form", FORMATS)
def test_a_run_of_an_earlier_version_is_shown_in_every_format(earlier, form):
    run, folder = earlier.load("last")
    assert not {"mode", "patched", "reported"} & json.loads((folder / "jobs/0.json").read_bytes()).keys()
    assert (len(run.jobs), len(run.builds)) == (8, 2)
    assert FORMATS[form].render(View(run, folder))


def test_a_run_of_an_earlier_version_is_judged_as_it_was(earlier):
    assert compare(earlier.load("last")[0]).headline.startswith(
        "1 fault REGRESSED in 1 scenario (2 checks), 1 build REGRESSED, 1 FIXED"
    )
    assert earlier.list()[0].problem == ""


def test_a_half_deleted_run_is_told_in_one_line(earlier):
    run, folder = earlier.load("last")
    (folder / "jobs/3.json").write_text("")
    with pytest.raises(LabError, match=r"cannot read .*jobs/3\.json") as caught:
        earlier.load(run.id)
    assert "\n" not in caught.value.message
    (folder / "run.json").unlink()
    with pytest.raises(UserError, match="no runs in"):
        earlier.load("last")
