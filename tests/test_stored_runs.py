"""Runs as earlier versions stored them, and as this one does: read, and judged as they were.

`data/stored/N` is the results folder of a run in format N, made by that version of jobs whose guests only answer: one
of everything that a job can come to. `N.json` is what its own `compare` said. `first.json` is the same for `data/runs`.
"""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from kpatchlab.earlier import with_kinds
from kpatchlab.jsonable import to_json
from kpatchlab.model import SCHEMA_VERSION, CaseKind
from kpatchlab.store.store import Store
from kpatchlab.verdict.compare import compare
from kpatchlab.verdict.values import HEADLINE_ORDER

DATA = Path(__file__).parent / "data"
STORED = DATA / "stored"
FOLDERS = {"first": DATA / "runs"} | {path.name: path for path in STORED.iterdir() if path.is_dir()}


@pytest.fixture
def load(tmp_path):
    def read(name):
        shutil.copytree(FOLDERS[name], tmp_path / "results")
        return Store(tmp_path / "results").load("last")[0]

    return read


def table(comparison):
    """Return what `compare` says: scenario, check, column, outcome, verdict, reason and marks of each cell."""
    rows = []
    for group in comparison.groups:
        for row in group.rows:
            for column, cell in row.cells.items():
                marks = [name for name in ("flaky", "implied", "follows", "missing") if getattr(cell, name)]
                said = [str(cell.outcome), str(cell.verdict or ""), cell.reason, " ".join(marks)]
                rows.append([group.name, row.case, column, *said])
    counts = ", ".join(f"{comparison.verdicts[v]} {v}" for v in HEADLINE_ORDER if comparison.verdicts.get(v))
    return {"headline": counts, "exit_code": comparison.exit_code, "rows": rows}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_stored_run_is_judged_as_its_own_version_did(load, name):
    assert table(compare(load(name))) == json.loads((STORED / f"{name}.json").read_bytes())


def job(run, scenario, column="with"):
    return next(job for job in run.jobs if (job.scenario, job.column) == (scenario, column))


def kinds(made):
    return {case.name: (case.kind, case.role, case.function) for case in made.cases if case.kind is not CaseKind.CHECK}


def test_the_kinds_of_format_1_follow_from_the_names(load):
    run = load("1")
    assert run.schema < SCHEMA_VERSION
    assert kinds(job(run, "reach")) == {
        "job": (CaseKind.JOB, "", ""),
        "reach: tcp_sendmsg (guest)": (CaseKind.REACH, "guest", "tcp_sendmsg"),
        "reach: tcp_sendpage (guest)": (CaseKind.REACH, "guest", "tcp_sendpage"),
        "reach: splice_to_socket (guest)": (CaseKind.REACH, "guest", "splice_to_socket"),
        "reach: kernel_sendpage (guest)": (CaseKind.REACH, "guest", "kernel_sendpage"),
        "reach: siw_0copy_tx (guest)": (CaseKind.REACH, "guest", "siw_0copy_tx"),
        "log: guest": (CaseKind.LOG, "guest", ""),
    }
    assert kinds(job(run, "leak"))["leaks: guest"] == (CaseKind.LEAKS, "guest", "")
    assert kinds(job(run, "preparation"))["log: preparation of with"] == (CaseKind.PREPARATION, "", "")
    assert set(kinds(job(run, "queue"))) == {"job", "log: guest"}  # not "jobs are queued"


def test_a_rule_that_does_not_apply_is_told_from_one_that_cannot_be_counted(load):
    run = load("1")
    assert [case.name for made in run.jobs for case in made.cases if not case.applies] == [
        "reach: splice_to_socket (guest)", "reach: tcp_sendpage (guest)", "reach: tcp_sendpage (guest)",
        "reach: nothing (guest)",  # printed by a script: format 1 could not tell
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("scenario", "names"),
    [
        ("clean", []), ("broken", ["b"]), ("reach", ["reach: splice_to_socket (guest)"]), ("leak", ["leaks: guest"]),
        ("crash", ["log: guest"]), ("preparation", ["log: preparation of with"]), ("preparation-fails", []),
        ("slow", []), ("lost", []), ("ends-badly", []), ("queue", ["work is queued"]), ("second-fails", ["a"]),
    ],
)  # fmt: skip
def test_what_made_a_job_of_format_1_fail_follows_from_its_message(load, scenario, names):
    assert [case.name for case in job(load("1"), scenario).because] == names


def test_a_job_that_is_stored_again_says_all_of_itself(load, tmp_path):
    made = job(load("1"), "broken")
    with Store(tmp_path / "again").new_run("again") as run_dir:
        run_dir.save_job(made)
        stored = json.loads(next(run_dir.path.glob("jobs/*.json")).read_bytes())
        assert run_dir.done_jobs() == {made.job: made}
    assert [case["kind"] for case in stored["cases"]] == ["job", "check", "check", "log"]
    assert stored["because"] == [{"kind": "check", "name": "b"}]


def test_what_this_format_has_is_read_whole(load):
    """Every field that is stored comes back, and the lab's own checks are what the names of format 1 say."""
    run = load(str(SCHEMA_VERSION))
    folder = next(FOLDERS[str(SCHEMA_VERSION)].iterdir())
    assert run.schema == SCHEMA_VERSION
    for path in folder.glob("jobs/*.json"):
        stored = json.loads(path.read_bytes())
        made = json.loads(json.dumps(to_json(next(job for job in run.jobs if job.job == stored["job"]))))
        assert {name: made[name] for name in stored} == stored
    for made in (made for made in run.jobs if made.scenario != "forger"):
        again = with_kinds(made)
        assert [(case.id, case.function, case.applies) for case in made.cases] == [
            (case.id, case.function, case.applies) for case in again.cases
        ]
        assert set(again.because) <= set(made.because)


def test_what_a_script_printed_in_the_labs_words_is_its_own_in_this_format(load):
    names = {case.name for case in job(load(str(SCHEMA_VERSION)), "forger").cases if case.kind is CaseKind.CHECK}
    assert names == {"job", "log: guest", "reach: nothing (guest)"}


def test_a_run_of_format_1_that_goes_on_has_this_format(load, tmp_path):
    run = load("1")
    with Store(tmp_path / "results").open_run(run.id) as run_dir:
        run_dir.save_header(run)
        run_dir.save_job(made := job(run, "broken"))
    assert Store(tmp_path / "results").load(run.id)[0] == dataclasses.replace(run, schema=SCHEMA_VERSION)
    assert made in run.jobs
