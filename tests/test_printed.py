"""What a script prints in the form of another suite: cases, and what was to run and has no result."""

from __future__ import annotations

import json

import pytest

from kpatchlab.evidence import printed
from kpatchlab.lab.scenario import Prints
from kpatchlab.model import Outcome

BLK = b"loop/001 (scan) [passed]\n    runtime  0.1s  ...  0.1s\nnvme/003 (tr=tcp) (abc) [failed]\n    out of luck\n"


def told(parsed):
    return [(case.name, str(case.outcome), case.message) for case in parsed.cases]


def kirk(**tests):
    results = [
        {"test_fqn": name, "status": "pass" if code == 0 else "fail", "test": {"retval": [str(code)], "log": "x\n"}}
        for name, code in tests.items()
    ]
    return json.dumps({"results": results}).encode()


def test_ktap_is_what_scripts_print_that_say_nothing():
    parsed = printed.read(Prints.KTAP, b"KTAP version 1\n1..1\nok 1 a\n# asked: b\n", exit_status=0)
    assert told(parsed) == [("a", "pass", "")]


def test_blktests():
    parsed = printed.read(Prints.BLKTESTS, BLK, exit_status=1)
    assert told(parsed) == [("loop/001", "pass", ""), ("nvme/003 (tr=tcp)", "fail", "out of luck")]
    assert parsed.problems == ()


def test_what_was_asked_for_and_has_no_result_fails():
    asked = b"# asked: loop/001\n# asked: nvme/003\n# asked: nvme/999\n"
    parsed = printed.read(Prints.BLKTESTS, asked + BLK, exit_status=0)
    assert told(parsed)[2:] == [("nvme/999", "fail", "it was to run, and has no result")]


def test_what_there_was_no_time_for_is_not_run():
    parsed = printed.read(
        Prints.LTP, b"# asked: a01\n# asked: b01\n" + kirk(a01=0) + b"\n# not run: time budget", exit_status=0
    )
    assert told(parsed) == [("a01", "pass", ""), ("b01", "skip", "not run: time budget")]
    parsed = printed.read(Prints.LTP, b"# asked: a01\n# not run: time budget\n", exit_status=0)
    assert (told(parsed), parsed.problems) == ([("a01", "skip", "not run: time budget")], ())


def test_of_a_suite_that_lists_all_it_has_only_what_was_asked_for_counts():
    cases = "".join(
        f"<testcase name='{name}'>{inner}</testcase>"
        for name, inner in [("a", ""), ("b", "<skipped/>"), ("c", "<skipped/>")]
    )
    text = f"# asked: a\n# asked: b\n<testsuite name='s'>{cases}</testsuite>".encode()
    assert [name for name, _, _ in told(printed.read(Prints.JUNIT, text, exit_status=0))] == ["a", "b"]


def test_cases_of_several_suites_have_their_names():
    def text(*names):
        return "".join(f"<testsuite name='{name}'><testcase name='a'/></testsuite>" for name in names)

    def names(*suites):
        parsed = printed.read(Prints.JUNIT, f"<testsuites>{text(*suites)}</testsuites>".encode(), exit_status=0)
        return [case.name for case in parsed.cases]

    assert names("s", "t") == ["s / a", "t / a"]
    assert names("s", "s") == ["a", "a (2)"]  # one report for each of a suite's tests
    assert names("s") == ["a"]


@pytest.mark.parametrize("form", [Prints.JUNIT, Prints.LTP, Prints.BLKTESTS])
@pytest.mark.parametrize("data", [b"", b"nothing\n", b"<", b"{", b"\0\xff\n", b"<testsuites/>", b'{"results": []}'])
def test_what_has_no_result_is_a_problem(form, data):
    parsed = printed.read(form, data, exit_status=0)
    assert parsed.cases == ()
    assert len(parsed.problems) == 1
    ended = printed.read(form, data, exit_status=None)  # killed, out of time: that is told already
    assert (ended.cases, ended.problems) == ((), ())


def test_a_status_without_a_failure_is_a_problem():
    parsed = printed.read(Prints.LTP, kirk(a01=0), exit_status=3)
    assert parsed.problems == ("the script exited with status 3, though no case failed",)
    assert printed.read(Prints.LTP, kirk(a01=1), exit_status=3).problems == ()


def test_of_what_was_cut_off_nothing_is_missed():
    parsed = printed.read(Prints.BLKTESTS, b"# asked: loop/001\n# asked: loop/002\n" + BLK, exit_status=None)
    assert [case.name for case in parsed.cases] == ["loop/001", "nvme/003 (tr=tcp)"]


def test_every_form_has_a_reader():
    assert {*printed.READERS, Prints.KTAP} == set(Prints)


def test_the_time_is_with_the_input():
    asked = b"".join(b"# asked: t%d\n" % number for number in range(20_000))
    parsed = printed.read(Prints.LTP, asked + kirk(**{f"t{number}": 0 for number in range(10_000)}), exit_status=0)
    assert sum(case.outcome is Outcome.FAIL for case in parsed.cases) == 10_000
