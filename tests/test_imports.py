"""Results of others: what is read of them, what is refused, and that the history has them; the store's own doctor."""

import json
import shutil
import sqlite3

import pytest
from sample_run import F, P

from kpatchlab.errors import UserError
from kpatchlab.history import database
from kpatchlab.history.news import Kind
from kpatchlab.model import Outcome
from kpatchlab.report import FORMATS
from kpatchlab.report.view import View
from kpatchlab.store.check import examine
from kpatchlab.store.importing import import_file
from kpatchlab.store.store import Store
from tests.test_history import night, told

JUNIT = """<?xml version="1.0"?>
<testsuites><testsuite name="net" timestamp="2025-03-01T10:00:00" time="4.5">
<testcase classname="tls" name="send" time="1.5"/>
<testcase classname="tls" name="send"><failure message="short &lt;read&gt;">trace</failure></testcase>
<testcase name="kcm"><skipped message="no kcm"/></testcase>
<testsuite name="inner"><testcase name="deep"><error message="boom" type="x"/></testcase></testsuite>
</testsuite></testsuites>
"""


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "results")


def test_junit(store, tmp_path):
    path = tmp_path / "r.xml"
    path.write_text(JUNIT)
    run = import_file(store, "junit", path, column="v6.12", lane="peer")
    assert store.load(run.id)[0] == run
    assert run.started == "2025-03-01T10:00:00+00:00"
    assert [(j.scenario, c.name, c.outcome, c.message) for j in run.jobs for c in j.cases[1:]] == [
        ("net", "tls.send", Outcome.PASS, ""),
        ("net", "tls.send (2)", Outcome.FAIL, "short <read>"),
        ("net", "kcm", Outcome.SKIP, "no kcm"),
        ("inner", "deep", Outcome.FAIL, "boom"),
    ]
    path.write_text(JUNIT.replace('name="kcm"><skipped message="no kcm"/>', 'name="kcm"><failure message="x"/>'))
    import_file(store, "junit", path, column="v6.12", lane="peer")
    news = {(i.kind, i.subject) for i in told(store, lane="peer")}
    assert news == {
        (Kind.NEW_FAILURE, "net: kcm"), (Kind.OLD_FAILURE, "net: tls.send (2)"), (Kind.OLD_FAILURE, "inner: deep"),
    }  # fmt: skip


def test_our_own_junit_comes_back(store, tmp_path):
    one = night(store, {"a": P, "b": F})
    path = tmp_path / "own.xml"
    path.write_bytes(FORMATS["junit"].render(View(*store.load(one))))
    run = import_file(store, "junit", path, column="x", lane="old lab")
    assert {c.outcome for j in run.jobs for c in j.cases if c.name.endswith("b")} >= {Outcome.FAIL}


def test_ktap(store, tmp_path):
    path = tmp_path / "kunit.log"
    path.write_text("KTAP version 1\n1..3\nok 1 one\nnot ok 2 two\nok 3 three # SKIP no\n")
    (job,) = import_file(store, "ktap", path, column="x", lane="kunit").jobs
    assert [(c.name, str(c.outcome)) for c in job.cases[1:]] == [("one", "pass"), ("two", "fail"), ("three", "skip")]


@pytest.mark.parametrize(
    ("form", "text", "words"),
    [
        ("junit", "<a", "is no JUnit file"),
        ("junit", "<html/>", "is no JUnit file"),
        ("junit", "<testsuites/>", "has no results"),
        ("ktap", "hello\n", "has no KTAP result"),
    ],
)
def test_what_is_nothing_of_the_kind_is_refused_and_nothing_stored(store, tmp_path, form, text, words):
    path = tmp_path / "f"
    path.write_text(text)
    with pytest.raises(UserError, match=words):
        import_file(store, form, path, column="x", lane="y")
    with pytest.raises(UserError, match="cannot read"):
        import_file(store, form, tmp_path / "no", column="x", lane="y")
    assert store.ids() == []


def states(store, *, repair=True):
    return [(item.state, item.text) for item in examine(store, repair=repair)]


def test_doctor_mends_a_truncated_database_from_backup_and_folders(store):
    first = night(store, {"a": P})
    database.backup(store.root / "index.db")
    second = night(store, {"a": F})
    path = store.root / "index.db"
    path.write_bytes(path.read_bytes()[:3000])
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    ((state, text),) = states(store, repair=False)
    assert state == "bad"
    assert "index.db" in text
    found = states(store)
    assert [state for state, _ in found] == ["mended", "mended"]
    assert second in found[1][1]
    assert [item.kind for item in told(store)] == [Kind.NEW_FAILURE]
    assert [state for state, _ in states(store)] == ["ok"]
    assert first in store.ids()


def test_doctor_leaves_a_newer_and_a_locked_database_alone(store):
    night(store, {"a": P})
    path = store.root / "index.db"
    held = sqlite3.connect(path, isolation_level=None)
    held.execute("PRAGMA user_version = 99")
    ((state, text),) = states(store)
    assert (state, "has version 99" in text) == ("bad", True)
    held.execute("PRAGMA user_version = 1")
    held.execute("BEGIN EXCLUSIVE")
    ((state, text),) = states(store)
    assert (state, "locked by another" in text) == ("bad", True)
    held.execute("ROLLBACK")
    held.close()


def test_doctor_names_folders_that_are_half_deleted(store):
    one, two, three = (night(store, {"a": P}) for _ in range(3))
    shutil.rmtree(store.root / one / "jobs")
    (store.root / two / "run.json").unlink()
    (store.root / three / "run.json").write_text("{")
    texts = "\n".join(text for _, text in states(store))
    assert f"run {one}: 1 of its jobs are gone from its folder; the history has them" in texts
    assert f"{two} has jobs and no run.json" in texts
    assert three in texts


def test_doctor_tells_of_a_clock_that_jumped(store):
    one = night(store, {"a": P})
    two = night(store, {"a": P})
    for run, stamp in ((one, "2026-05-01"), (two, "2026-01-01")):
        path = store.root / run / "run.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"started": f"{stamp}T00:00:00+00:00"}))
        store.re_enter(run)
    assert any("120 days before the one that it follows" in text for _, text in states(store))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"started": "2126-01-01T00:00:00+00:00"}))
    store.re_enter(two)
    assert any("in the future" in text for _, text in states(store))
