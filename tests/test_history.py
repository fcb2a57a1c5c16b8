"""The memory: what is stored of a run, what is news, what is known, and what happens to a database that is hurt."""

import contextlib
import dataclasses
import datetime as dt
import json
import random
import sqlite3

import pytest
from sample_run import SPLAT, C, F, P, job

from kpatchlab.errors import HostError, LabWarning, UserError
from kpatchlab.history import database
from kpatchlab.history.database import VERSION
from kpatchlab.history.news import Kind, doubtful, news
from kpatchlab.history.query import History, matching
from kpatchlab.history.record import Origin
from kpatchlab.history.trends import trends
from kpatchlab.lab.known import Known, KnownIssue, load_known
from kpatchlab.model import BuildResult, Case, CaseKind, Metric, Outcome, Run
from kpatchlab.store.run_plan import RunPlan
from kpatchlab.store.store import Store
from kpatchlab.verdict.compare import compare
from tests import labdir

I = Outcome.INFRA  # noqa: E741


def night(store, cases, *, metrics=(), splats=(), lane="main", commit="", outcome=None, repeats=(), own=()):
    """Store one run of one scenario on one kernel.

    `repeats`: cases of more repeats of the same job; `own`: more checks of the scenario's own, whatever their names.
    """
    run_dir = store.new_run("t", base="with", columns=("with",))
    heads = {"with": {"source": "/linux", "commit": commit}} if commit else {}
    run_dir.save_plan(RunPlan(origin=Origin(lane, run_dir.id, heads=heads)))
    jobs = [
        job("s", "with", {"job": P, **c}, repeat=n, roles=("client",), splats=splats, metrics=metrics, outcome=outcome)
        for n, c in enumerate((cases, *repeats))
    ]
    jobs = [dataclasses.replace(made, cases=(*made.cases, *own)) for made in jobs]
    run = Run(
        id=run_dir.id,
        title="t",
        started="2026-01-01T00:00:00+00:00",
        duration_s=1.0,
        complete=True,
        base="with",
        columns=("with",),
        kernels=(),
        builds=(BuildResult("with", P),),
        jobs=tuple(jobs),
    )
    run_dir.finish(run, compare(run))
    return run.id


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "results")


def told(store, known=None, lane="main"):
    with store.database() as connection:
        history = History(connection)
        return news(history, history.entries(lane)[-1], known or Known())


def kinds(items):
    return [(item.kind, item.subject) for item in items]


def test_new_old_fixed(store):
    good = night(store, {"a": P, "b": F})
    assert kinds(told(store)) == [(Kind.OLD_FAILURE, "s: b")], "the first run is what later ones are held against"
    bad = night(store, {"a": (F, "short read"), "b": F})
    (new, _old) = told(store)
    assert (new.kind, new.subject, new.text, new.good) == (Kind.NEW_FAILURE, "s: a", "fail: short read", good)
    night(store, {"a": F, "b": F})
    assert [(i.kind, i.subject, i.since) for i in told(store)] == [
        (Kind.OLD_FAILURE, "s: a", bad), (Kind.OLD_FAILURE, "s: b", good),
    ]  # fmt: skip
    night(store, {"a": P, "b": F})
    assert kinds(told(store)) == [(Kind.OLD_FAILURE, "s: b"), (Kind.FIXED, "s: a")]
    night(store, {"a": P, "b": F})
    assert kinds(told(store)) == [(Kind.OLD_FAILURE, "s: b")]


def test_the_jobs_own_check_is_not_told_beside_the_one_that_failed(store):
    night(store, {"a": P})
    night(store, {"job": (F, "a: x"), "a": (F, "x")})
    assert kinds(told(store)) == [(Kind.NEW_FAILURE, "s: a")]


def test_flake_by_its_repeats_and_by_its_past(store):
    night(store, {"a": P})
    night(store, {"a": F}, repeats=({"a": P}, {"a": P}))
    (item,) = told(store)
    assert item.kind is Kind.FLAKE
    assert item.text.startswith("2 of 3 passed")
    for _ in range(4):
        night(store, {"a": P})
        assert told(store) == []
    night(store, {"a": F})
    assert kinds(told(store)) == [(Kind.FLAKE, "s: a")], "it flaked before: one bad run is no news"
    with store.database() as connection:
        history = History(connection)
        (check,) = matching("s: a", history.checks())
        assert history.check(check).flake_rate == pytest.approx(1 / 7)


def test_what_is_lost_says_nothing_about_kernels(store):
    night(store, {"a": P})
    run = night(store, {"a": I, "job": I}, outcome=I)
    assert kinds(told(store)) == [(Kind.LOST, run)]
    night(store, {"a": P})
    assert told(store) == []
    night(store, {"a": I, "job": I}, outcome=I)
    night(store, {"a": F})
    assert kinds(told(store)) == [(Kind.NEW_FAILURE, "s: a")], "held against the last run that was whole"


def test_known_issues_never_hide_a_new_splat(store):
    night(store, {"a": P})
    night(store, {"a": C}, splats=(SPLAT,))
    wide = Known((KnownIssue(case="*", reason="old"), KnownIssue(splat="*", reason="all of them")))
    first = told(store, wide)
    assert [item.kind for item in first] == [Kind.NEW_SPLAT, Kind.KNOWN]
    assert SPLAT.fingerprint in first[0].text
    assert [item.fingerprint for item in first] == [SPLAT.fingerprint, ""]
    night(store, {"a": C}, splats=(SPLAT,))
    assert {item.kind for item in told(store, wide)} == {Kind.KNOWN}
    assert {item.fingerprint for item in told(store, wide)} == {SPLAT.fingerprint, ""}
    with store.database() as connection:
        (splat,) = History(connection).splats(SPLAT.fingerprint)
    assert splat.runs == 2


def test_known_file_all_errors_at_once_and_expiry(tmp_path):
    path = tmp_path / "known.yaml"
    path.write_text(
        "known:\n  - {case: a, splat: b, reason: x}\n  - {case: a}\n  - {case: a, reason: x, expires: soon}\n"
        "  - {reason: x, lnk: y}\n"
    )
    with pytest.raises(UserError) as caught:
        load_known(tmp_path, dt.date(2026, 1, 1))
    text = "\n".join(caught.value.details)
    assert [n for n in (2, 3, 4, 5) if f"known.yaml:{n}:" in text] == [2, 3, 4, 5]
    assert "did you mean 'link'" in text
    path.write_text("known:\n  - {case: 'nfs[vers=3]: *', reason: x, expires: 2026-01-31}\n")
    known = load_known(tmp_path, dt.date(2026, 1, 31))
    assert known.of_case("nfs[vers=3]: read", "with", "main")
    assert not known.of_case("nfs3: read", "with", "main")
    later = load_known(tmp_path, dt.date(2026, 2, 1))
    assert not later.issues
    assert len(later.expired) == 1


def test_doubtful_is_what_was_good_and_a_figure_that_is_off(store):
    source = random.Random(7)
    for _ in range(12):
        night(store, {"a": P, "b": F}, metrics=(Metric("speed", source.gauss(100, 0.5), "MB/s", "higher"),))
    night(store, {"a": F, "b": F}, metrics=(Metric("speed", 80.0, "MB/s", "higher"),))
    with store.database() as connection:
        history = History(connection)
        entry = history.entries("main")[-1]
        assert doubtful(history, entry) == {("s", "with")}
        connection.execute("DELETE FROM results WHERE entry = ? AND outcome = 1", (entry.id,))
        assert doubtful(history, entry) == {("s", "with")}, "for the figure alone"
    assert Kind.SLOWER not in [item.kind for item in told(store)], "one figure is not enough"
    night(store, {"a": F, "b": F}, metrics=(Metric("speed", 80.0, "MB/s", "higher"),))
    (slower,) = [item for item in told(store) if item.kind is Kind.SLOWER]
    assert "-20" in slower.text
    night(store, {"a": F, "b": F}, metrics=(Metric("speed", 80.5, "MB/s", "higher"),))
    assert Kind.SLOWER not in [item.kind for item in told(store)], "told once"


def series(kind, seed, noise=0.01):
    source = random.Random(seed)
    level = {
        "quiet": lambda i: 100, "step": lambda i: 100 if i < 30 else 105,
        "back": lambda i: 105 if 20 <= i < 40 else 100,
        "drift": lambda i: 100 * 1.01 ** max(0, i - 30), "outlier": lambda i: 130 if i == 25 else 100,
    }[kind]  # fmt: skip
    return [source.gauss(level(i), level(i) * noise) for i in range(60)]


@pytest.mark.parametrize("seed", range(10))
def test_change_points_of_series_with_known_steps(seed):
    assert trends(series("quiet", seed)) == []
    assert trends(series("outlier", seed)) == []
    (step,) = trends(series("step", seed))
    assert step.kind == "step"
    assert abs(step.at - 30) <= 2
    assert step.change == pytest.approx(0.05, abs=0.012)
    assert [abs(t.at - at) <= 2 for t, at in zip(trends(series("back", seed)), (20, 40), strict=True)] == [True, True]
    (drift,) = trends(series("drift", seed))
    assert drift.kind == "drift"
    assert abs(drift.at - 30) <= 4


def test_going_on_replaces_and_entering_twice_changes_nothing(store):
    run = night(store, {"a": P}, metrics=(Metric("speed", 100.0, "MB/s", "higher"),), splats=(SPLAT,))

    def content():
        with store.database() as connection:
            names = ("results", "figures", "sightings", "checks", "metrics", "entries")
            return {name: connection.execute(f"SELECT * FROM {name} ORDER BY 1, 2").fetchall() for name in names}

    before = content()
    store.re_enter(run)
    assert content() == before
    read, _ = store.load(run)
    path = store.root / run
    store.delete(run)
    assert not path.exists()
    assert content() == before, "what a run was is kept when it is pruned"
    assert read.id == run


def version_1(path):
    """The database as 0.1.0 made it: an index of runs alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with sqlite3.connect(path) as old:
        old.execute("PRAGMA journal_mode = WAL")
        old.execute(
            "CREATE TABLE IF NOT EXISTS runs (id TEXT PRIMARY KEY, title TEXT, started TEXT, duration_s REAL,"
            " complete INTEGER, outcomes TEXT, verdicts TEXT, kernels TEXT, exit_code INTEGER, problem TEXT)"
        )
        old.execute("INSERT INTO runs VALUES ('20250101-000000-aaaa', 't', '', 1, 1, '{}', '{}', '[]', 0, '')")
        old.execute("PRAGMA user_version = 1")
    old.close()


def test_migration_from_every_released_version(store):
    version_1(store.root / "index.db")
    with store.database() as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (VERSION,)
        assert connection.execute("SELECT title FROM runs").fetchone() == ("t",)
        assert History(connection).entries() == []
    night(store, {"a": P})
    assert len(store.list()) == 1


def test_kinds_of_checks_follow_from_the_names_that_an_earlier_version_stored(store, monkeypatch):
    path = store.root / "index.db"
    kinds = {
        "job": "job", "jobs are queued": "check", "log: main": "log", "log: preparation of with": "preparation",
        "reach: f (main)": "reach", "leaks: main": "leaks", "Log: x": "check", "kernel": "check",
    }  # fmt: skip
    with monkeypatch.context() as earlier:
        earlier.setattr(database, "MIGRATIONS", database.MIGRATIONS[:2])
        earlier.setattr(database, "VERSION", 2)
        with contextlib.closing(database.connect(path)) as old, database.transaction(old):
            rows = [(number, "main", "s", name, "with") for number, name in enumerate(kinds, 7)]
            old.executemany("INSERT INTO checks VALUES (?, ?, ?, ?, ?)", rows)
            old.execute("INSERT INTO results VALUES (8, 1, 0, 1, 1, 0)")
    with store.database() as connection:
        history = History(connection)
        found = history.checks()
        assert [(check.id, check.name, str(check.kind)) for check in found] == [
            (number, *pair) for number, pair in enumerate(kinds.items(), 7)
        ]
        assert [len(history.check(check).points) for check in found[:3]] == [0, 1, 0]


def test_a_check_called_like_one_of_the_labs_has_a_history_of_its_own(store):
    night(store, {"a": P}, own=(Case("job", P), Case("log: client", P)))
    night(store, {"a": P}, own=(Case("job", F, "none queued"), Case("log: client", P)))
    with store.database() as connection:
        history = History(connection)
        found = {(c.name, str(c.kind)): history.check(c).points[-1].outcome for c in history.checks()}
    assert found == {
        ("kernel", "check"): P, ("job", "job"): P, ("a", "check"): P, ("job", "check"): F, ("log: client", "check"): P,
    }  # fmt: skip
    assert [(item.kind, item.subject, item.case_kind) for item in told(store)] == [
        (Kind.NEW_FAILURE, "s: job", CaseKind.CHECK)
    ]


def test_a_migration_that_is_cut_off_is_not_there(store, monkeypatch):
    version_1(store.root / "index.db")
    monkeypatch.setattr(database, "MIGRATIONS", (database.MIGRATIONS[0], "CREATE TABLE x (a); CREATE TABLE y (b); no"))
    with pytest.raises(HostError):
        database.connect(store.root / "index.db")
    with sqlite3.connect(store.root / "index.db") as old:
        assert old.execute("PRAGMA user_version").fetchone() == (1,)
        assert [row[0] for row in old.execute("SELECT name FROM sqlite_master WHERE type = 'table'")] == ["runs"]


def test_damage_is_put_aside_and_the_backup_takes_its_place(store):
    night(store, {"a": P})
    path = store.root / "index.db"
    database.backup(path)
    night(store, {"a": F})
    with store.database() as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    data = path.read_bytes()
    path.write_bytes(data[:1000])
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    with (
        pytest.warns(LabWarning, match="the last backup takes its place, 1 of its runs entered"),
        store.database() as one,
    ):
        assert len(History(one).entries()) == 2, "what the backup lacks comes from its folder"
    (aside,) = store.root.glob("index.damaged-*.db")
    assert aside.read_bytes() == data[:1000]


@pytest.mark.parametrize("harm", ["emptied", "gone"])
def test_a_database_of_which_nothing_is_left_is_not_taken_for_a_new_one(store, harm):
    """Its backup has what no folder has: the history of runs that were pruned."""
    pruned = night(store, {"a": P})
    database.backup(store.root / "index.db")
    store.delete(pruned)
    for path in store.root.glob("index.db*"):
        path.unlink()
    if harm == "emptied":
        (store.root / "index.db").touch()
    with pytest.warns(LabWarning, match="is (empty|gone)"), store.database() as connection:
        assert [entry.run for entry in History(connection).entries()] == [pruned]


def test_locked_database_is_told(store, monkeypatch):
    night(store, {"a": P})
    monkeypatch.setattr(database, "BUSY_S", 0.1)
    monkeypatch.setattr(database.connect, "__kwdefaults__", {"busy_s": 0.1})
    held = sqlite3.connect(store.root / "index.db", isolation_level=None)
    held.execute("BEGIN IMMEDIATE")
    with pytest.raises(HostError, match="locked by another"):
        night(store, {"a": P})
    held.execute("ROLLBACK")
    held.close()
    assert dataclasses.is_dataclass(store.list()[0])


def test_the_verb_tells_of_a_check_and_of_a_metric_for_people_and_for_scripts(tmp_path, call, monkeypatch):
    labdir.make(tmp_path)
    monkeypatch.chdir(tmp_path)
    store = Store(tmp_path / "results")
    runs = [
        night(
            store, {"a": F if n == 9 else P}, metrics=(Metric("speed", 100.0 - 10 * (n > 6), "MB/s", "higher"),),
            commit=f"{n:x}" * 40,
        )
        for n in range(10)
    ]  # fmt: skip
    status, out, _ = call("history", "s")
    assert status == 0
    assert f"main  s: a    with    fail  {runs[9]}  {runs[8]}         .........F" in out
    assert "main  s: speed  with    90 MB/s  step -10.0%  ███████▁▁▁" in out
    found = json.loads(call("history", "s", "--json")[1])
    check = next(row for row in found["checks"] if row["check"] == "s: a")
    assert (check["last_good"], check["bad_since"], check["strip"]) == (runs[8], runs[9], ".........F")
    (change,) = found["metrics"][0]["changes"]
    assert (change["after"], change["worse"], change["commits"]) == (
        runs[7], True, {"with": "666666666666..777777777777"}
    )  # fmt: skip
    out = call("history", "speed")[1]
    assert f"kpatchlab {change['bisect']}" in out
    assert out.startswith("s: speed on with (main): 90 MB/s\n")
