"""The night: what is new is run, held against history, and nothing that happens to it loses data."""

import dataclasses
import http.server
import json
import os
import random
import shlex
import shutil
import sqlite3
import subprocess
import threading
import time

import pytest

from kpatchlab.errors import UserError
from kpatchlab.history.news import ALARMS, Kind
from kpatchlab.history.query import History
from kpatchlab.lab import load as lab_file
from kpatchlab.model import Metric, Outcome
from kpatchlab.nightly.lanes import lanes
from kpatchlab.nightly.night import lines
from kpatchlab.nightly.notify import notify
from tests import labdir
from tests.nights import LAB, bad_on_with, files, git, killed


def test_nothing_new_says_so_and_writes_nothing(nights):
    assert nights.night().exit_code == 0
    before = files(nights.bench.root)
    begin = time.monotonic()
    report = nights.night()
    assert time.monotonic() - begin < 2
    assert (report.state, report.exit_code) == ("nothing new", 0)
    assert list(lines(report)) == ["nothing new: every branch is where the last night left it"]
    assert files(nights.bench.root) == before
    nights.push()
    assert nights.night().state == "done"
    labdir.write(nights.bench.root / "scenarios" / "solo" / "run.sh", "#!/bin/sh\nfalse\n", 0o755)
    assert nights.night().state == "done", "a changed scenario is something new"
    assert nights.night(force=True).state == "done"


def test_a_branch_that_has_not_moved_for_weeks_is_told_each_night(nights):
    nights.night()
    assert not nights.said_of("has not moved")
    old = "2026-10-01T12:00:00Z"
    words = ["git", "-C", nights.repo, "commit", "-q", "--amend", "--allow-empty", "-m", "old", f"--date={old}"]
    who = {"GIT_COMMITTER_DATE": old, "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b"}
    subprocess.run([*words, "--author=a <a@b>"], check=True, env={**os.environ, **who})
    nights.night()
    (line,) = nights.said_of("has not moved")
    assert line.startswith(f"base git {nights.repo} main (")
    assert line.endswith(", since 2026-10-01")
    assert nights.night().state == "nothing new"
    assert len(nights.said_of("has not moved")) == 2


def test_new_failure_is_run_again_and_has_a_command(nights):
    nights.night()
    old, new = git(nights.repo, "rev-parse", "HEAD"), nights.push()
    nights.job(bad_on_with("a"))
    report = nights.night()
    assert report.exit_code == 1
    (item,) = report.news
    assert (item.kind, item.subject, item.column) == (Kind.NEW_FAILURE, "solo: a", "with")
    assert item.bisect == (
        f"kpatchlab bisect --tree {nights.repo} --good {old[:12]} --bad {new[:12]}"
        " --kernel with --scenario solo --case a"
    )
    run, _ = nights.bench.store.load(report.runs["nightly"])
    assert sorted((job.column, job.repeat) for job in run.jobs) == [
        (c, n) for c in ("with", "without") for n in (1, 2, 3, 4)
    ]
    assert report.moved == {"nightly": {"with": f"{old[:12]}..{new[:12]}"}}
    nights.push()
    report = nights.night()
    assert (report.exit_code, [i.kind for i in report.news]) == (0, [Kind.OLD_FAILURE])


def test_bisect_within_its_time(nights):
    nights.night()
    nights.push()
    nights.job(bad_on_with("a"))
    asked = []

    def bisect(search, command, left, night):
        asked.append((command, left, search.words))
        return "abc is the first bad one"

    report = nights.night(bisect=bisect)
    assert asked[0][0] == report.news[0].bisect == f"kpatchlab {shlex.join(asked[0][2])}"
    assert 7100 < asked[0][1] <= 7200
    assert any(note.endswith(": abc is the first bad one") for note in report.notes)


def test_lanes(nights):
    more = (
        "nightly:\n  branches:\n    stable: {with: v1}\n    tip: {with: main}\n"
        f"  series:\n    v2: {{with: [{{type: git, path: {nights.repo}, range: v1..main}}]}}\n  variants: [debug]\n"
    )
    labdir.write(nights.bench.root / "lab.yaml", LAB % (nights.repo, nights.repo) + more)
    labdir.write(nights.bench.root / "kernels/config/debug.config", "CONFIG_KASAN=y\n")
    nights.lab = lab_file.load(nights.bench.root / "lab.yaml")
    names = [lane.name for lane in lanes(nights.lab)]
    assert names == ["stable+v2", "stable+v2+debug", "tip+v2", "tip+v2+debug"]
    assert list(nights.night().runs) == names
    head = nights.push()
    report = nights.night()
    assert list(report.runs) == names, "the series of each has the branch's new commit"
    assert report.moved["tip+v2"]["with"].endswith(head[:12])


def test_errors_in_the_section_all_at_once(nights):
    more = "nightly:\n  branches: {x: {wth: main}}\n  variants: [debgu]\n  keep: {dys: 3}\n"
    labdir.write(nights.bench.root / "bad.yaml", LAB % (nights.repo, nights.repo) + more)
    with pytest.raises(UserError) as caught:
        lab_file.load(nights.bench.root / "bad.yaml")
    assert "bad.yaml:9: nightly.keep.dys" in "\n".join(caught.value.details)
    labdir.write(
        nights.bench.root / "bad.yaml", (LAB % (nights.repo, nights.repo) + more).replace("  keep: {dys: 3}\n", "")
    )
    with pytest.raises(UserError) as caught:
        lab_file.load(nights.bench.root / "bad.yaml")
    text = "\n".join(caught.value.details)
    assert "did you mean 'with'" in text
    assert "did you mean 'debug'" in text


def test_second_night_is_told_who_holds_the_lock(nights):
    nights.bench.store.root.mkdir(exist_ok=True)
    script = (
        "import sys, time; from pathlib import Path; from kpatchlab.nightly.lock import held\n"
        "with held(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen([os.sys.executable, "-c", script, nights.bench.store.root], stdout=subprocess.PIPE)
    try:
        other.stdout.readline()
        with pytest.raises(UserError, match=f"process {other.pid} of user {os.getuid()}, since 20") as caught:
            nights.night()
        assert "another night is running" in caught.value.message
    finally:
        other.kill()
        other.wait()
    assert nights.night().state == "done", "a killed night holds nothing"


def test_killed_night_goes_on_with_the_same_trees(nights):
    nights.night()
    head = nights.push()
    killed(nights, lambda spec: spec.column == "with")
    nights.push("later")
    ran = []
    nights.job(lambda spec: ran.append(spec.column) or {"a": Outcome.PASS})
    report = nights.night()
    assert report.state == "done"
    assert report.moved["nightly"]["with"].endswith(head[:12])
    assert any(line.startswith("going on with night") for line in nights.said)
    assert ran in (["with"], ["without", "with"], ["with", "without"])
    assert nights.night().moved["nightly"]["with"].startswith(head[:12]), "the branch that moved is the next night's"


@pytest.mark.parametrize("harm", ["folder", "half", "header"])
def test_killed_night_whose_folder_is_hurt(nights, harm):
    nights.night()
    nights.push()
    killed(nights, lambda spec: spec.column == "with")
    run = max(nights.bench.store.ids())
    folder = nights.bench.store.root / run
    if harm == "folder":
        shutil.rmtree(folder)
    elif harm == "half":
        shutil.rmtree(folder / "jobs", ignore_errors=True)
    else:
        (folder / "run.json").write_bytes(b"{")
    nights.job(lambda spec: {"a": Outcome.PASS})
    report = nights.night()
    assert (report.state, report.exit_code) == ("done", 0)


def test_unreachable_remote_costs_its_lane_alone(nights):
    more = "nightly:\n  branches:\n    gone: {with: nosuch}\n    main: {with: main}\n"
    labdir.write(nights.bench.root / "lab.yaml", LAB % (nights.repo, nights.repo) + more)
    nights.lab = lab_file.load(nights.bench.root / "lab.yaml")
    report = nights.night()
    assert (list(report.runs), report.exit_code) == (["main"], 3)
    assert "NOT RUN  gone: " in "\n".join(lines(report))
    assert nights.night().exit_code == 3, "nothing new elsewhere, and still not well"


def test_unreachable_url_is_told(nights):
    url = f"file://{nights.bench.root}/nowhere"
    text = LAB.replace("type: git, path: %s, revision: main", f"type: git, url: '{url}', revision: main")
    labdir.write(nights.bench.root / "lab.yaml", text % nights.repo)
    nights.lab = lab_file.load(nights.bench.root / "lab.yaml")
    report = nights.night()
    assert (report.state, report.exit_code) == ("lost", 3)
    assert "cannot fetch from" in report.troubles[0].message


def test_pushed_over_branch_is_told(nights):
    nights.push()
    nights.night()
    git(nights.repo, "reset", "-q", "--hard", "v1")
    nights.push("another")
    report = nights.night()
    assert any("was pushed over" in note for note in report.notes)


def test_prune_keeps_pinned_runs_and_the_last(nights):
    runs = []
    for _ in range(5):
        nights.push()
        runs.append(nights.night().runs["nightly"])
    store = nights.bench.store
    first, second, *_ = runs  # their names tell no order: nights without guests share a second
    store.pin(first)
    nights.lab = dataclasses.replace(
        nights.lab,
        nightly=nights.lab.nightly.model_copy(
            update={"keep": nights.lab.nightly.keep.model_copy(update={"gib": 1e-9})}
        ),
    )
    nights.push()
    report = nights.night()
    assert second in report.pruned
    assert first in store.ids()
    assert report.runs["nightly"] in store.ids()
    assert len(store.ids()) == 3
    with store.database() as connection:
        assert len(History(connection).entries()) == 6, "the history keeps what they were"


def test_webhook_gets_the_documented_body_and_no_secret_is_told(nights, monkeypatch):
    got = []

    class Server(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200 if len(got) == 1 else 500)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("KPATCHLAB_WEBHOOK_URL", f"http://127.0.0.1:{server.server_port}/secret-token")
    nights.night()
    nights.push()
    nights.job(bad_on_with("a"))
    report = nights.night()
    assert list(notify(nights.lab, report, nights.bench.store)) == [], "off by default"
    more = "nightly: {notify: {webhook: {}, mail: {to: [x@y], smtp: 'localhost:1'}}}\n"
    labdir.write(nights.bench.root / "lab.yaml", LAB % (nights.repo, nights.repo) + more)
    lab = lab_file.load(nights.bench.root / "lab.yaml")
    said = list(notify(lab, report, nights.bench.store))
    assert said == ["mail: not sent: ConnectionRefusedError", "webhook: sent"]
    assert got[0]["schema"] == 1
    assert got[0]["news"][0]["subject"] == "solo: a"
    assert {"night", "state", "exit_code", "headline", "text", "runs", "moved", "troubles"} <= set(got[0])
    said = "\n".join(notify(lab, report, nights.bench.store))
    assert "not sent: HTTPError 500" in said
    assert "secret-token" not in said
    server.shutdown()


# --- thirty nights --------------------------------------------------------------------------------------------

REGRESSION, MENDED, STEP, DRIFT, LOST, FULL, KILLED = 5, 9, 20, 11, 14, 17, 24


class Story:
    """What the kernel under test does each night; the same in every run, whichever of two jobs comes first."""

    def __init__(self):
        self.now = 0

    def source(self, spec, what):
        return random.Random(f"24 {self.now} {spec.id} {what}")

    def cases(self, spec):
        new = spec.column == "with"
        return {
            "steady": Outcome.PASS,
            "broken": Outcome.FAIL if new and REGRESSION <= self.now < MENDED else Outcome.PASS,
            "flaky": Outcome.FAIL if new and self.source(spec, "cases").random() < 0.2 else Outcome.PASS,
        }

    def metrics(self, spec):
        new = spec.column == "with"
        step = 0.95 if new and self.now >= STEP else 1.0
        drift = 0.99 ** max(0, self.now - DRIFT + 1) if new else 1.0
        source = self.source(spec, "metrics")
        for name, factor in (("calm", 1.0), ("stepping", step), ("drifting", drift)):
            yield Metric(name, 1000 * factor * source.gauss(1, 0.004), "MB/s", "higher")


def test_thirty_nights_each_event_on_its_night_under_its_name(nights, monkeypatch):
    story = Story()
    alarms, flakes, quiet = {}, {}, []
    for story.now in range(1, 31):
        nights.push(f"night {story.now}")
        nights.job(story.cases, story.metrics, Outcome.INFRA if story.now == LOST else Outcome.PASS)
        if story.now == KILLED:
            killed(nights, lambda spec: spec.column == "with")
            continue
        if story.now == FULL:
            with monkeypatch.context() as full:
                full.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
                report = nights.night()
            assert (report.state, report.exit_code, report.news) == ("lost", 3, ())
            assert "No space left" in report.troubles[0].message
            continue
        report = nights.night()
        found = [(item.kind, item.subject) for item in report.news if item.kind in ALARMS]
        alarms |= {story.now: found} if found else {}
        flakes |= {story.now: [i.subject for i in report.news if i.kind is Kind.FLAKE]}
        if story.now == LOST:
            assert [item.kind for item in report.news] == [Kind.LOST]
            assert report.exit_code == 3
        else:
            assert report.exit_code == (1 if found else 0), (story.now, list(lines(report)))
        if story.now == MENDED:
            assert (Kind.FIXED, "solo: broken") in [(i.kind, i.subject) for i in report.news]
        if not found:
            quiet.append(story.now)
    drift = [night for night, found in alarms.items() if found == [(Kind.DRIFT, "solo: drifting")]]
    assert alarms[REGRESSION] == [(Kind.NEW_FAILURE, "solo: broken")]
    assert alarms[STEP] == [(Kind.SLOWER, "solo: stepping")]
    assert len(drift) == 1
    assert DRIFT + 3 <= drift[0] <= DRIFT + 7, alarms
    assert set(alarms) == {REGRESSION, STEP, drift[0]}, "no false alarm"
    assert {name for found in flakes.values() for name in found} == {"solo: flaky"}
    assert len(quiet) == 30 - 3 - 2


def test_night_on_a_full_disk_is_no_less_when_there_is_room(nights, monkeypatch):
    nights.night()
    nights.push()
    with monkeypatch.context() as full:
        full.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        report = nights.night()
    assert (report.state, report.exit_code) == ("lost", 3)
    assert "No space left" in report.troubles[0].message
    assert any(note.startswith(("no backup: ", "no site: ")) for note in report.notes)
    with sqlite3.connect(nights.bench.store.root / "index.db") as index:
        assert index.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert nights.night().state == "done"
