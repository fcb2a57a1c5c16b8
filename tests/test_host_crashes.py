"""What a host that kills, fills up or closes costs: no result, no traceback, no process that is left."""

import errno
import os
import random
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from kpatchlab.history import database
from kpatchlab.store import store as stores
from tests import kills

SHIM = Path(__file__).with_name("full_disk.c")
VERBS = (
    *("--help", "--version", "plan", "list runs --json", "check", "history", "report", "report --format json"),
    *("doctor", "clean", "run --json", "completion bash"),
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a pretended lab with one run in it."""
    root = tmp_path_factory.mktemp("lab") / "root"
    child = kills.start(root, "run")
    assert child.communicate(timeout=120)[1] == ""
    assert child.returncode == 0
    return root


@pytest.fixture
def lab(made, tmp_path):
    return Path(shutil.copytree(made, tmp_path / "root", symlinks=True))


@pytest.fixture(scope="module")
def full_disk(tmp_path_factory):
    path = tmp_path_factory.mktemp("shim") / "full_disk.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", path, SHIM, "-ldl"], check=True)
    return path


def shell(root, words, redirect="", **env):
    line = f'LD_PRELOAD="${{PRELOAD:-}}" exec "$0" "{kills.PRETENDED}" "{root}" {words} {redirect}'
    return subprocess.run(
        ["sh", "-c", line, sys.executable],
        env={**os.environ, **env}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def is_one_line(done):
    """Whether a command ended by the host's fault, with one line and perhaps a hint."""
    lines = [line for line in done.stderr.splitlines() if not line.startswith("hint: ")]
    return done.returncode == 3 and len(lines) == 1 and lines[0].startswith("kpatchlab: ")


def entries_of(root):
    with sqlite3.connect(root / "lab/results/index.db") as index:
        return index.execute("SELECT complete FROM entries").fetchall()


# --- standard output


@pytest.mark.parametrize("redirect", [">/dev/full", ">&-"])
def test_no_verb_prints_into_nowhere(lab, redirect):
    for verb in VERBS:
        done = shell(lab, verb, redirect)
        if verb == "run --json":  # its progress goes to standard error
            assert (done.returncode, "Traceback" in done.stderr) == (3, False)
            assert "cannot write" in done.stderr
        else:
            assert is_one_line(done), f"{verb}: {done.returncode} {done.stderr}"


def test_a_run_that_cannot_be_printed_is_stored(lab):
    shell(lab, "run", ">/dev/full")
    assert entries_of(lab) == [(1,)] * 2


def test_no_file_becomes_a_stream_that_was_closed(lab):
    """sqlite and others write where standard error is thought to be."""
    done = shell(lab, "list runs", "<&- >&- 2>&-")
    assert (done.returncode, done.stderr) == (3, "")
    assert "pretended" in shell(lab, "list runs").stdout


def test_messages_that_cannot_be_printed_keep_their_status(lab):
    assert shell(lab, "run nonsense", "2>/dev/full").returncode == 2
    assert shell(lab, "run nonsense", "2>&-").returncode == 2


# --- disks


@pytest.mark.parametrize(
    ("number", "word"),
    [(errno.ENOSPC, "No space left"), (errno.EDQUOT, "quota exceeded"), (errno.EROFS, "Read-only file system"),
     (errno.EIO, "Input/output error")],
)  # fmt: skip
def test_a_disk_that_takes_no_more_is_one_line(lab, full_disk, number, word, tmp_path):
    where = lab / "lab/results"
    env = {"PRELOAD": str(full_disk), "FULL_DISK_BELOW": str(where), "FULL_DISK_ERROR": str(number)}
    count = tmp_path / "count"
    assert shell(lab, "run", FULL_DISK_COUNT=str(count), **env).returncode == 0
    whole = int(count.read_text())
    assert whole > 50  # it saw the changes
    dice = random.Random(number)
    for after in {1, dice.randint(2, 20), dice.randint(20, whole - 20), dice.randint(whole - 20, whole - 4)}:
        done = shell(lab, "run", FULL_DISK_AFTER=str(after), **env)
        assert is_one_line(done), f"from change {after} of {whole} on: {done.returncode} {done.stderr}"
        assert word in done.stderr or "index.db" in done.stderr


@pytest.mark.parametrize("verb", ["run --resume last", "list runs", "history", "site", "report"])
def test_a_read_only_store_is_one_line(lab, full_disk, verb):
    env = {"PRELOAD": str(full_disk), "FULL_DISK_BELOW": str(lab / "lab/results")}
    done = shell(lab, verb, FULL_DISK_ERROR=str(errno.EROFS), FULL_DISK_AFTER="1", **env)
    assert is_one_line(done) or (verb == "report" and done.returncode == 0), f"{done.returncode} {done.stderr}"


@pytest.mark.parametrize("after", [1, 25])
def test_a_cache_that_takes_no_more_loses_jobs_and_says_so(lab, full_disk, after):
    env = {"PRELOAD": str(full_disk), "FULL_DISK_BELOW": str(lab / "cache")}
    done = shell(lab, "run", FULL_DISK_AFTER=str(after), **env)
    assert is_one_line(done), done.stderr
    assert "No space left" in done.stderr


# --- kills, and two at once


def test_a_killed_lab_loses_nothing_leaves_nothing_and_goes_on(lab):
    for stored in (0, 1, 3, 5):
        kill = kills.killed(lab, 60.0 if stored else 0.5, stored=stored)
        assert kill.stored >= stored, kill
        assert (kill.lost, kill.left, kill.complete) == (0, 0, True), kill


def test_runs_at_once_are_all_in_the_history(lab):
    shutil.rmtree(lab / "lab/results")
    children = [kills.start(lab, "run") for _ in range(3)]
    said = [child.communicate(timeout=240)[1] for child in children]
    assert [child.returncode for child in children] == [0, 0, 0], said
    assert entries_of(lab) == [(1,)] * 3


def test_a_run_is_entered_though_the_database_was_put_aside_meanwhile(bench, monkeypatch):
    path, real = bench.store.root / stores.INDEX, stores.record

    def record(*args):
        monkeypatch.setattr(stores, "record", real)
        database.recover(path)  # as another lab does that found it damaged
        return real(*args)

    monkeypatch.setattr(stores, "record", record)
    bench.execute()
    assert sqlite3.connect(path).execute("SELECT complete FROM entries").fetchall() == [(1,)]


def test_a_run_whose_lab_was_killed_before_it_was_entered_is_entered_by_who_looks(bench):
    run = bench.execute()
    with bench.store.database() as index:
        index.execute("DELETE FROM entries")
    assert [row.id for row in bench.store.list()] == [run.id]
    with bench.store.database() as index:
        assert index.execute("SELECT run FROM entries").fetchall() == [(run.id,)]
