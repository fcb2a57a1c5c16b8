"""A fault is told once: across parameters, placements, jobs with one report, and checks that say the same."""

import dataclasses
import json

import pytest
from sample_run import SPLAT, C, F, I, P, S, T, job

from kpatchlab.model import KernelFacts, Run
from kpatchlab.report import FORMATS
from kpatchlab.report.view import View
from kpatchlab.verdict.compare import compare
from kpatchlab.verdict.faults import faults

OTHER = dataclasses.replace(SPLAT, fingerprint="feedfacecafe", title="KASAN: something else")
PLACED = {
    "a": {"client": "a", "server": "a"},
    "b": {"client": "b", "server": "b"},
    "client=b,server=a": {"client": "b", "server": "a"},
    "client=a,server=b": {"client": "a", "server": "b"},
}


def run_of(*jobs):
    columns = tuple(name for name in PLACED if any(made.column == name for made in jobs))
    kernels = (KernelFacts("a", "base"), KernelFacts("b", "series"))
    return Run(id="r", title="t", started="", duration_s=1.0, complete=True, base="a", columns=columns,
               kernels=kernels, builds=(), jobs=jobs)  # fmt: skip


def matrix(bad, *, scenario="nfs", params=({},), cases=None):
    """Return jobs of all four placements; `cases` on those in `bad`, and the same checks passed on the others."""
    cases = cases or {"read": (F, "byte 4096: zeroes instead of data")}
    good = dict.fromkeys(cases, P)
    made = []
    for given in params:
        for column, placed in PLACED.items():
            found = job(scenario, column, cases if column in bad else good, params=given)
            because = tuple(case.id for case in found.cases if case.outcome is F)
            made.append(dataclasses.replace(found, placement=placed, because=because))
    return made


def test_one_check_is_one_fault_for_all_parameters_and_placements():
    versions = [{"vers": version} for version in ("3", "4.1", "4.2")]
    comparison = compare(run_of(*matrix({"b", "client=a,server=b"}, params=versions)))
    (fault,) = faults(comparison)
    assert len(fault.changes) == comparison.regressed == 6
    assert fault.end == "wherever the server runs b, never by the client alone"
    assert comparison.headline == "1 fault REGRESSED in 1 scenario (6 checks), 6 SAME"


@pytest.mark.parametrize(
    ("bad", "end"),
    [
        ({"b", "client=b,server=a"}, "wherever the client runs b, never by the server alone"),
        ({"b"}, "only where client and server both run b"),
        ({"b", "client=b,server=a", "client=a,server=b"}, "whichever end runs b"),
        ({"client=a,server=b"}, ""),
        ({"client=b,server=a", "client=a,server=b"}, ""),
    ],
)
def test_the_end_that_brings_it(bad, end):
    (fault,) = faults(compare(run_of(*matrix(bad))))
    assert fault.end == end


@pytest.mark.parametrize("lost", ["client=b,server=a", "client=a,server=b"])
@pytest.mark.parametrize("how", [I, S])
def test_no_end_is_named_where_a_placement_did_not_run(lost, how):
    def left_out(made):
        return dataclasses.replace(
            made, cases=tuple(dataclasses.replace(c, outcome=how) for c in made.cases), outcome=how
        )

    jobs = [left_out(made) if made.column == lost else made for made in matrix({"b", "client=b,server=a"})]
    assert [fault.end for fault in faults(compare(run_of(*jobs)))] == [""]


def test_no_end_is_named_where_one_of_two_checks_did_not_run():
    cases = {"x": (F, "is short"), "y": (F, "is short")}

    def left_out(made):
        found = (dataclasses.replace(case, outcome=S) if case.name == "y" else case for case in made.cases)
        return dataclasses.replace(made, cases=tuple(found))

    ran = matrix({"b", "client=a,server=b"}, cases=cases)
    jobs = [left_out(made) if made.column == "client=b,server=a" else made for made in ran]
    (fault,) = faults(compare(run_of(*jobs)))
    assert (len(fault.changes), fault.end) == (4, "")


def test_no_end_is_named_where_no_mixed_pair_ran():
    jobs = [made for made in matrix({"b"}) if made.column in {"a", "b"}]
    assert faults(compare(run_of(*jobs)))[0].end == ""


def test_checks_that_say_the_same_but_for_figures_are_one_fault():
    cases = {
        "read at 0": (F, "byte 4096: zeroes instead of data"),
        "read at 8192": (F, "byte 12288: zeroes instead of data"),
        "close": (F, "EPIPE instead of success"),
    }
    comparison = compare(run_of(*matrix({"b"}, cases=cases)))
    assert [(fault.title, len(fault.changes)) for fault in faults(comparison)] == [
        ("read at 0: byte 4096: zeroes instead of data", 2),
        ("close: EPIPE instead of success", 1),
    ]
    assert comparison.fault_count == 2


def test_two_groups_of_checks_that_a_third_joins_are_one_fault():
    first, second = {"vers": "3"}, {"vers": "4"}
    jobs = [
        *matrix({"b"}, params=[first], cases={"x": (F, "is short"), "y": (F, "is late")}),
        *matrix({"b"}, params=[second], cases={"x": (F, "is late")}),
    ]
    (fault,) = faults(compare(run_of(*jobs)))
    assert len(fault.changes) == 3


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("SIGPIPE comes: got 0, not 1", "SIGPIPE comes: got 2, not 1"),
        ("errno 22 instead of 0", "errno 11 instead of 0"),
        ("run.sh ended with status 1", "run.sh ended with status 127"),
    ],
)
def test_small_numbers_tell_two_faults_apart(one, two):
    comparison = compare(run_of(*matrix({"b"}, cases={"x": (F, one), "y": (F, two)})))
    assert comparison.fault_count == 2


def test_jobs_that_end_otherwise_are_two_faults():
    jobs = [
        *matrix({"b"}, params=[{"p": "1"}], cases={"job": (T, "no end in 60 s")}),
        *matrix({"b"}, params=[{"p": "2"}], cases={"job": (F, "exit status 3")}),
        *matrix({"b"}, params=[{"p": "3"}], cases={"job": (C, "the guest died")}),
        *matrix({"b"}, params=[{"p": "4"}], cases={"job": (C, "the guest died")}),
    ]
    found = faults(compare(run_of(*jobs)))
    assert sorted(len(fault.changes) for fault in found) == [1, 1, 2]


def test_messages_of_two_scenarios_are_two_faults():
    comparison = compare(run_of(*matrix({"b"}), *matrix({"b"}, scenario="cifs")))
    assert (comparison.fault_count, comparison.faulty_scenarios) == (2, 2)


def test_one_report_of_the_kernel_is_one_fault_in_any_scenario():
    crash = {"job": (C, SPLAT.title), "log: client": C}
    jobs = []
    for scenario in ("nfs", "cifs"):
        for made in matrix({"b"}, scenario=scenario, cases=crash):
            shown = (SPLAT,) if made.column == "b" else ()
            jobs.append(dataclasses.replace(made, splats=shown))
    jobs += [
        dataclasses.replace(made, splats=(OTHER,) if made.column == "b" else ())
        for made in matrix({"b"}, scenario="rds", cases=crash)
    ]
    comparison = compare(run_of(*jobs))
    assert [fault.splat.title for fault in faults(comparison)] == [SPLAT.title, OTHER.title]
    assert (comparison.fault_count, comparison.faulty_scenarios) == (2, 3)


def test_a_report_that_the_base_makes_too_joins_no_faults():
    crash = {"job": (C, SPLAT.title), "log: client": C}
    third = dataclasses.replace(SPLAT, fingerprint="123412341234", title="KASAN: a third")
    jobs = [
        dataclasses.replace(made, splats=(SPLAT, own) if made.column == "b" else (SPLAT,))
        for scenario, own in (("nfs", OTHER), ("cifs", third))
        for made in matrix({"a", "b"}, scenario=scenario, cases=crash)
    ]
    found = faults(compare(run_of(*[made for made in jobs if made.column in {"a", "b"}])))
    assert [fault.title for fault in found] == [OTHER.title, third.title]


@pytest.mark.parametrize("form", ["text", "mail", "markdown"])
def test_every_report_of_a_fault_is_named(form, tmp_path):
    crash = {"job": (C, SPLAT.title), "log: client": C}
    jobs = [
        dataclasses.replace(made, splats=shown if made.column == "b" else ())
        for scenario, shown in (("nfs", (SPLAT,)), ("cifs", (SPLAT, OTHER)))
        for made in matrix({"b"}, scenario=scenario, cases=crash)
    ]
    run = run_of(*jobs)
    assert compare(run).fault_count == 1
    told = " ".join(FORMATS[form].render(View(run, tmp_path)).decode().split())
    assert OTHER.title in told.replace("\\", "")


def test_checks_that_say_the_same_are_named_in_one_place(tmp_path):
    cases = {"one": (F, "byte 4096: zeroes"), "two": (F, "byte 8192: zeroes")}
    told = FORMATS["text"].render(View(run_of(*matrix({"b"}, cases=cases)), tmp_path)).decode()
    assert "also in      nfs on b: two" in told


@pytest.mark.parametrize("form", ["text", "mail", "markdown", "html"])
def test_reports_tell_a_fault_once_and_where_it_shows(form, tmp_path):
    versions = [{"vers": version} for version in ("3", "4.1", "4.2")]
    run = run_of(*matrix({"b", "client=a,server=b"}, params=versions))
    told = FORMATS[form].render(View(run, tmp_path)).decode()
    assert told.count("wherever the server runs b") == 1
    assert "1 fault" in told
    assert "nfs[vers=4.2] on client=a,server=b" in " ".join(told.replace("\\", "").split())


@pytest.mark.parametrize("form", ["junit", "json"])
def test_data_for_machines_keeps_every_case(form, tmp_path):
    versions = [{"vers": version} for version in ("3", "4.1", "4.2")]
    run = run_of(*matrix({"b", "client=a,server=b"}, params=versions))
    assert FORMATS[form].render(View(run, tmp_path)).decode().count("zeroes instead of data") >= 6


def test_json_has_the_faults_beside_the_cases(tmp_path):
    run = run_of(*matrix({"b", "client=a,server=b"}))
    told = json.loads(FORMATS["json"].render(View(run, tmp_path)))["comparison"]["faults"]
    assert [(fault["verdict"], fault["end"], [check["column"] for check in fault["checks"]]) for fault in told] == [
        ("REGRESSED", "wherever the server runs b, never by the client alone", ["b", "client=a,server=b"])
    ]


def test_text_names_no_more_than_twenty_faults(tmp_path):
    cases = {f"check {chr(97 + n)}": (F, f"is no {chr(97 + n)}") for n in range(23)}
    told = FORMATS["text"].render(View(run_of(*matrix({"b"}, cases=cases)), tmp_path)).decode()
    assert "and 3 more, see index.html" in told
