"""What befalls a night from outside: locks, clocks, servers, branches, the database. Nothing is lost by it."""

import datetime as dt
import errno
import fcntl
import json
import shlex
import sqlite3
import types
from pathlib import Path

import pytest

from kpatchlab.errors import HostError, LabWarning
from kpatchlab.history.news import Kind
from kpatchlab.history.nights import LanePlan, NightPlan, NightState, Trouble, nights_of
from kpatchlab.history.query import Entry, History
from kpatchlab.lab import load as lab_file
from kpatchlab.model import Outcome
from kpatchlab.nightly import book, lanes, prune
from kpatchlab.nightly.letter import letter
from kpatchlab.nightly.lock import held
from kpatchlab.nightly.notify import notify
from tests import labdir
from tests.nights import LAB, bad_on_with, files, git, killed


def test_a_place_without_locks_is_not_taken_for_another_night(tmp_path, monkeypatch):
    """An NFS export without its lock service answers ENOLCK."""

    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(HostError, match=r"cannot lock .*: No locks available"), held(tmp_path):
        pass


def test_a_results_folder_that_cannot_be_made_is_named():
    with pytest.raises(HostError, match="cannot lock /proc/results"), held(Path("/proc/results")):
        pass


def test_labs_that_share_their_results_have_lanes_and_nights_of_their_own(nights):
    """One is killed, and a night of the other one must neither go on with it nor be compared with it."""
    nights.push()
    killed(nights, lambda spec: spec.column == "with")
    root = nights.bench.root
    first = nights.lab
    nights.lab = lab_file.load(labdir.write(root / "quick.yaml", (root / "lab.yaml").read_text()))
    report = nights.night()
    assert list(report.runs) == ["quick"]
    assert not any(line.startswith("going on with") for line in nights.said)
    assert nights.night().state == "nothing new"
    nights.lab = first
    assert list(nights.night().runs) == ["nightly"]
    assert any(line.startswith("going on with") for line in nights.said)


# --- clocks

NOW = dt.datetime(2026, 6, 1, tzinfo=dt.UTC)


def entries(*days):
    """Return runs that are stamped so many days before `NOW`, in their order."""
    stamps = [(NOW - dt.timedelta(days=day)).isoformat() for day in days]
    return [Entry(n, f"run{n}", "main", "n", stamp, "", True, 0, 0, "", {}) for n, stamp in enumerate(stamps)]


def ages(*days):
    """Return how many days each run counts as old."""
    found = prune._stamps(entries(*days), NOW)
    return [(NOW - stamp).days for stamp in found.values()]


def test_age_counts_from_the_last_jump_of_the_clock():
    assert ages(3, 2, 1) == [3, 2, 1]
    assert ages(4000, 3999, 2, 1) == [2, 2, 2, 1], "the clock was ten years slow, or the lab was off"
    assert ages(3, 2, -4000, -4001) == [0, 0, 0, 0], "it is right again since tonight: all of them begin anew"
    assert ages(3, -4000, 1) == [1, 1, 1], "it was ahead for one night"
    assert ages(4003, 4002, 4001) == [0, 0, 0], "tonight's clock is the odd one"


def test_a_clock_that_is_wrong_for_several_nights_prunes_nothing_by_age(nights, monkeypatch):
    """Two nights with one and the same wrong date agree with each other, and must not take the others for old ones."""
    for _ in range(4):
        nights.push()
        nights.night()
    kept = set(nights.bench.store.ids())

    class Wrong(dt.datetime):
        @classmethod
        def now(cls, tz=None):
            return dt.datetime.now(tz) + dt.timedelta(days=4000)

    monkeypatch.setattr("kpatchlab.store.store.datetime", Wrong)
    monkeypatch.setattr("kpatchlab.nightly.night.dt", types.SimpleNamespace(datetime=Wrong, UTC=dt.UTC))
    for _ in range(3):
        nights.push()
        report = nights.night()
        assert report.pruned == ()
    assert kept < set(nights.bench.store.ids())


# --- branches and servers


def test_a_branch_is_asked_for_once_and_a_dead_server_too(nights, monkeypatch):
    asked = []

    def commit(place, revision, context):
        asked.append((place.url or place.path, revision))
        if place.url:
            raise HostError("no answer in 60 s")
        return "a" * 40

    monkeypatch.setattr(lanes, "_commit", commit)
    monkeypatch.setattr(lanes, "kernel_key", lambda recipe, _: "key")
    far = LAB.replace("type: git, path: %s, revision: main", "type: git, url: 'https://x/y', revision: main")
    nights.says(
        "nightly: {branches: {a: {with: one}, b: {with: two}, c: {without: v1}}}\n",
        far % nights.repo,
    )
    found, troubles = lanes.look(nights.lab, nights.context)
    assert found == []
    assert [(t.lane, t.message) for t in troubles] == [(n, "no answer in 60 s") for n in "abc"]
    assert asked == [(str(nights.repo), "v1"), ("https://x/y", "one")]


def test_a_branch_that_was_pushed_over_is_searched_from_where_it_parted(nights):
    nights.push("common")
    common = git(nights.repo, "rev-parse", "HEAD")
    nights.push("old")
    nights.night()
    git(nights.repo, "reset", "-q", "--hard", common)
    new = nights.push("new")
    nights.job(bad_on_with("a"))
    report = nights.night()
    (item,) = report.news
    words = shlex.split(item.bisect)
    assert words[words.index("--good") + 1] == common[:12]
    assert words[words.index("--bad") + 1] == new[:12]
    assert any("was pushed over" in note for note in report.notes)


def test_a_branch_whose_old_commits_are_gone_has_the_reason(nights):
    nights.push("old")
    nights.night()
    git(nights.repo, "checkout", "-q", "--orphan", "other")
    git(nights.repo, "commit", "-q", "--allow-empty", "-m", "unrelated")
    git(nights.repo, "branch", "-f", "main", "other")
    git(nights.repo, "checkout", "-q", "main")
    nights.job(bad_on_with("a"))
    (item,) = nights.night().news
    assert (item.bisect, item.unsearchable) == ("", "with's branch was pushed over, and its old commits are gone")


# --- the database


def test_a_database_that_is_damaged_while_a_night_runs(nights):
    """The backup that takes its place knows nothing of this night; its run and its report are there in the end."""
    nights.night()
    nights.push()
    path = nights.bench.store.root / "index.db"

    def spoil(spec):
        if spec.column == "with" and not spoilt:
            spoilt.append(spec)
            for suffix in ("-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
            path.write_bytes(b"no database" * 1000)
        return {"a": Outcome.PASS}

    spoilt = []
    nights.job(spoil)
    with pytest.warns(LabWarning, match="was damaged"):
        report = nights.night()
    assert (report.state, report.exit_code) == ("done", 0)
    with nights.bench.store.database() as connection:
        found = History(connection)
        assert [night.state for night in nights_of(connection)] == [NightState.DONE, NightState.DONE]
        assert nights_of(connection)[-1].id == report.night
        assert len(found.entries("nightly")) == 2
    assert nights.night().state == "nothing new"


def test_a_full_database_is_told_and_the_next_night_goes_on(nights, monkeypatch):
    nights.night()
    nights.push()
    connect = sqlite3.connect

    def full(*words, **more):
        connection = connect(*words, **more)
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages}")
        return connection

    nights.job(lambda spec: {f"{n:04} {'x' * 400}": Outcome.PASS for n in range(400)})
    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", full)
        report = nights.night()
    assert (report.state, report.exit_code) == ("lost", 3)
    assert report.troubles[0].message.endswith("index.db: database or disk is full")
    report = nights.night()
    assert (report.state, report.exit_code) == ("done", 0)


def test_a_backup_that_does_not_fit_hides_nothing_of_the_night(nights, monkeypatch):
    """The night is stored by then, so it would be told never again."""
    nights.night()
    nights.push()
    nights.job(bad_on_with("a"))

    def backup(path):
        raise HostError(f"cannot write {path.with_name('index.backup.db')}: database or disk is full")

    monkeypatch.setattr("kpatchlab.history.database.backup", backup)
    report = nights.night()
    assert [item.subject for item in report.news] == ["solo: a"]
    assert report.exit_code == 1
    nights.push()
    report = nights.night()
    assert report.exit_code == 3
    assert any(note.startswith("no backup: cannot write ") for note in report.notes)
    assert any(note.startswith("site: ") for note in report.notes)


def test_nights_of_earlier_versions_are_read(nights):
    """As they wrote them: whole plans and reports, and the empty ones of a night whose row was lost."""
    head = {"source": "/linux", "commit": "c" * 40, "revision": "main", "key": "k"}
    lane = {"lane": "nightly", "heads": {"with": head}, "ranges": {"with": ["", "a..b"]}, "digest": "d", "run": "r1"}
    trouble = {"lane": "gone", "message": "no answer", "hint": "", "details": ["a", "b"]}
    plan = {"lab": "lab.yaml", "lanes": [lane], "troubles": [trouble]}
    item = {
        "kind": "new splat", "lane": "nightly", "column": "with", "subject": "s", "text": "oops abc: BUG", "since": "",
        "good": "r0", "bisect": "kpatchlab bisect", "reason": "", "link": "", "change": 0.0, "unsearchable": "",
    }  # fmt: skip
    report = {
        "night": "1", "state": "done", "exit_code": 1, "news": [item], "runs": {"nightly": "r1"},
        "moved": {"nightly": {"with": "a..b"}}, "troubles": [trouble], "notes": ["n"], "pruned": ["r"],
        "title": "t", "version": "0.1.0", "headline": "1 new splat",
    }  # fmt: skip
    rows = [("1", "untold", plan, report), ("2", "running", plan, {}), ("3", "running", {}, {})]
    with nights.bench.store.database() as connection:
        for name, state, *texts in rows:
            values = (name, "2026-01-01", "", state, 1, *map(json.dumps, texts))
            connection.execute("INSERT INTO nights VALUES (?, ?, ?, ?, ?, ?, ?)", values)
        first, second, third = nights_of(connection)
    assert first.plan == second.plan
    assert first.plan.lanes == (LanePlan("nightly", {"with": head}, {"with": ("", "a..b")}, "d", "r1"),)
    assert first.plan.troubles == (Trouble("gone", "no answer", "", ("a", "b")),)
    assert first.report.headline == "1 new splat"
    assert (first.report.news[0].kind, first.report.news[0].fingerprint) == (Kind.NEW_SPLAT, "")
    assert (first.report.pruned, first.report.version) == (("r",), "0.1.0")
    assert (second.report, third.plan) == (None, NightPlan())
    assert [report.night for report in book.untold(nights.bench.store)] == ["1"]
    assert book.open_night(nights.bench.store, "lab.yaml").id == "3"
    assert book.open_night(nights.bench.store, "other.yaml").id == "3"


# --- those who are told


def test_a_night_that_is_killed_before_it_is_told_is_told_by_the_next(nights):
    nights.night()
    nights.push()
    nights.job(bad_on_with("a"))

    class KilledError(BaseException):
        pass

    def killed(report):
        raise KilledError

    with pytest.raises(KilledError):
        nights.night(tell=killed)
    told = []

    def tell(report):
        told.append(report)
        yield "mail: sent"

    assert nights.night(tell=tell).state == "nothing new"
    (report,) = told
    assert [(item.kind, item.subject) for item in report.news] == [(Kind.NEW_FAILURE, "solo: a")]
    assert "NEW FAILURE: solo: a on nightly, with" in " ".join(letter(report, nights.bench.store).split())
    assert nights.said[-2:] == [f"night {report.night} was stopped before anybody was told of it", "mail: sent"]
    before = files(nights.bench.root)
    assert nights.night(tell=tell).state == "nothing new"
    assert (len(told), files(nights.bench.root)) == (1, before)


def test_a_night_that_cannot_be_for_a_dead_server_is_told(nights):
    far = LAB.replace("type: git, path: %s, revision: main", "type: git, url: 'https://127.0.0.1:1/y', revision: main")
    nights.says("", far % nights.repo)
    told = []
    report = nights.night(tell=lambda report: told.append(report) or ["mail: sent"])
    assert (report.state, report.exit_code, report.notes) == ("lost", 3, ("mail: sent",))
    assert "nights, no night: lost." in letter(told[0], nights.bench.store)
    assert "cannot fetch from https://127.0.0.1:1/y" in " ".join(letter(told[0], nights.bench.store).split())


def test_what_hinders_a_mail_is_told(nights, monkeypatch):
    nights.says("nightly: {notify: {mail: {to: [x@y]}, always: true}}\n")
    report = nights.night()
    monkeypatch.setenv("PATH", str(nights.bench.root))
    (said,) = notify(nights.lab, report, nights.bench.store)
    assert said.startswith("mail: not sent: ")
    assert "sendmail" in said
