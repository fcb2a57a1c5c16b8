"""A scenario's own check is never taken for one of the lab's, whatever its script prints."""

from __future__ import annotations

import dataclasses
import json
from xml.etree import ElementTree as ET

import pytest
from sample_run import SPLAT, C, F, P, job

from kpatchlab.evidence import ktap
from kpatchlab.model import JOB, CaseKind, KernelFacts, Outcome, Run
from kpatchlab.report import FORMATS
from kpatchlab.report.view import View
from kpatchlab.verdict.compare import compare

NAMES = (
    "job", "log: client", "log: preparation of with", "reach: tcp_sendmsg (client)", "leaks: client",
    "job: client", "jobs are queued", "log:", "reach: f # SKIP condition: none",
)  # fmt: skip
OWN = {"job": P, "log: client": P, "reach: tcp_sendmsg (client)": P}


def printed(*results):
    """Return the cases of a script that prints these result lines, without numbers."""
    text = f"KTAP version 1\n1..{len(results)}\n" + "\n".join(results) + "\n"
    return ktap.parse(text.encode(), exit_status=0).cases


def run_of(*jobs):
    kernels = (KernelFacts("a", "base"), KernelFacts("b", "series"))
    return Run(
        id="r",
        title="t",
        started="",
        duration_s=1.0,
        complete=True,
        base="a",
        columns=("a", "b"),
        kernels=kernels,
        builds=(),
        jobs=jobs,
    )


def pair(base, here, own=None, **more):
    """Return a run of two columns whose script prints these lines; `own`: the lab's own cases in the second."""
    made = [job("s", "a", OWN, roles=("client",)), job("s", "b", own or OWN, roles=("client",), **more)]
    lines = (base, here)
    return run_of(*(dataclasses.replace(m, cases=(*m.cases, *printed(*p))) for m, p in zip(made, lines, strict=True)))


def rows(run):
    return {row.id: row for row in compare(run).groups[0].rows}


def of(kind, name, run, column="b"):
    return next(row for id_, row in rows(run).items() if (id_.kind, id_.name) == (kind, name)).cells[column]


@pytest.mark.parametrize("name", NAMES)
def test_what_a_script_prints_is_a_check(name):
    assert [case.kind for case in printed(f"ok - {name}", f"not ok - {name}")] == [CaseKind.CHECK] * 2


def test_a_check_called_like_one_of_the_labs_is_a_row_of_its_own():
    run = pair(["ok - job", "ok - log: client"], ["not ok - job", "ok - log: client"])
    assert of(CaseKind.CHECK, "job", run).verdict == "REGRESSED"
    assert of(CaseKind.JOB, "job", run).outcome is Outcome.PASS
    assert [row.case for row in rows(run).values()] == [
        "job", "log: client", "reach: tcp_sendmsg (client)", "job (the scenario's own)",
        "log: client (the scenario's own)",
    ]  # fmt: skip


def test_a_good_check_does_not_hide_a_crash_of_the_same_name():
    run = pair(
        ["ok - log: client"], ["ok - log: client"], OWN | {"log: client": (C, SPLAT.title), "job": (C, SPLAT.title)},
        splats=(SPLAT,),
    )  # fmt: skip
    assert of(CaseKind.LOG, "log: client", run).verdict == "REGRESSED"
    assert of(CaseKind.CHECK, "log: client", run).verdict == "SAME"


def test_a_bad_check_is_no_splat_and_follows_nothing():
    run = pair(["ok - log: client"], ["not ok - log: client"])
    cell = of(CaseKind.CHECK, "log: client", run)
    assert (cell.verdict, cell.follows) == ("REGRESSED", False)
    assert of(CaseKind.LOG, "log: client", run).outcome is Outcome.PASS


def test_a_check_that_is_skipped_is_no_rule_that_does_not_apply():
    skipped = "ok - reach: f (client) # SKIP condition: none"
    assert of(CaseKind.CHECK, "reach: f (client)", pair([skipped], ["ok - reach: f (client)"])).verdict == "UNKNOWN"
    assert of(CaseKind.CHECK, "reach: f (client)", pair([skipped], ["not ok - reach: f (client)"])).verdict == "UNKNOWN"


def test_a_check_called_like_one_of_the_labs_can_be_gone_or_new():
    run = pair(["ok - log: other"], ["ok - log: third"])
    assert of(CaseKind.CHECK, "log: other", run).verdict != "SAME"
    whole = run_of(*(dataclasses.replace(made, reported=True) for made in run.jobs))
    assert of(CaseKind.CHECK, "log: other", whole).verdict == "GONE"
    assert of(CaseKind.CHECK, "log: third", whole).verdict == "NEW"


def test_formats_for_other_programs_keep_them_apart(tmp_path):
    run = pair(["ok - job", "not ok - log: client"], ["not ok - job", "ok - log: client"])
    view = View(run, tmp_path)
    written = {name: format_.render(view) for name, format_ in FORMATS.items() if name in {"junit", "kcidb", "json"}}
    cases = [(case.get("classname"), case.get("name")) for case in ET.fromstring(written["junit"]).iter("testcase")]
    assert len(cases) == len(set(cases)) == 10
    tests = [(test["build_id"], test["path"]) for test in json.loads(written["kcidb"])["tests"]]
    assert len(tests) == len(set(tests)) == 10
    told = [(row["kind"], row["case"]) for row in json.loads(written["json"])["comparison"]["rows"]]
    assert len(told) == len(set(told)) == 5


def test_a_script_that_prints_job_fails_its_job_as_any_check_does():
    parsed = printed("not ok - job # EINVAL")
    assert [(case.name, case.outcome, case.message) for case in parsed] == [("job", F, "EINVAL")]
    assert parsed[0].id != JOB
