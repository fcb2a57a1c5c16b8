"""What other tools wrote -> suites: JUnit XML of many writers, LTP's reports, blktests' folder; what is no pass."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kpatchlab.errors import LabError, LabWarning, UserError
from kpatchlab.evidence import blktests, junit, ltp
from kpatchlab.evidence.suite import apart, case_of, seconds
from kpatchlab.model import Outcome
from kpatchlab.store.importing import READERS, import_file
from kpatchlab.store.store import Store
from tests.labdir import write


def told(suites):
    return [(suite.name, case.name, str(case.outcome), case.message) for suite in suites for case in suite.cases]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3s", 3.0), ("3.25", 3.25), ("0.", 0.0), ("250ms", 0.25), ("1,234.5", 1234.5), ("0,5", 0.5), (" 7 sec ", 7.0),
        ("2 min", 120.0), ("1:02", 0.0), ("", 0.0), (None, 0.0), ("nan", 0.0), ("inf", 0.0), ("-1", 0.0),
        ("1e400", 0.0),
        (float("nan"), 0.0), (-2, 0.0), (2, 2.0), (True, 0.0), ([], 0.0), ("9" * 5000, 0.0),
    ],
)  # fmt: skip
def test_seconds(text, value):
    assert seconds(text) == value


@pytest.mark.parametrize(
    ("case", "outcome", "message"),
    [
        ('<testcase name="a" time="3s"/>', "pass", ""),
        ('<testcase name="a" status="run" result="completed"/>', "pass", ""),
        ('<testcase name="a" status="notrun" result="suppressed"/>', "skip", "status notrun"),
        ('<testcase name="a" status="run" result="skipped"/>', "skip", "result skipped"),
        ('<testcase name="a" status="run" result="skipped"><skipped message="no net"/></testcase>', "skip", "no net"),
        ('<testcase name="a" status="Not Run"/>', "skip", "status Not Run"),
        ('<testcase name="a" status="disabled"/>', "skip", "status disabled"),
        ('<testcase name="a" status="fail"/>', "fail", "status fail"),
        ('<testcase name="a" status="fail"><failure message="why"/></testcase>', "fail", "why"),
        ('<testcase name="a" status="notrun"><failure message="why"/></testcase>', "fail", "why"),
        ('<testcase name="a" status="blocked"/>', "skip", "status blocked"),
        ('<testcase name="a" status="PASSED"/>', "pass", ""),
        ('<testcase name="a"><skipped>no device</skipped></testcase>', "skip", "no device"),
        ('<testcase name="a"><skipped/><failure type="T">x</failure></testcase>', "fail", "T"),
        ('<testcase name="a"><rerunFailure message="x"/></testcase>', "pass", ""),
        ('<testcase name="a"><error type="lab-infra" message="x"/></testcase>', "infra", "x"),
    ],
)
def test_a_case_of_junit(case, outcome, message):
    text = f'<testsuites><testsuite name="s">{case}</testsuite></testsuites>'
    assert told(junit.read(text.encode(), "f")) == [("s", "a", outcome, message)]


def test_cases_wherever_they_stand():
    text = """<!-- by hand --><testsuites xmlns="urn:x" name="all"><testcase name="top"/>
    <testsuite><testcase classname="c" name="one"/><properties/><testsuite name="in"><testcase/></testsuite></testsuite>
    <group><testcase name="odd" classname="c"><failure/></testcase></group></testsuites>"""
    assert told(junit.read(text.encode(), "file")) == [
        ("all", "top", "pass", ""), ("all", "c.odd", "fail", ""), ("c", "c.one", "pass", ""),
        ("in", "(no name)", "pass", ""),
    ]  # fmt: skip
    (suite,) = junit.read(b'<testsuites><testcase name="top"/></testsuites>', "file")
    assert suite.name == "file"


def test_a_suite_that_counts_failures_which_it_does_not_hold_is_no_pass():
    text = b"""<testsuites failures="2"><testsuite name="s" tests="2" failures="1" errors="1" time="1h">
    <testcase name="a"/><testcase name="b"><failure/></testcase></testsuite>
    <testsuite name="t" errors="1"/></testsuites>"""
    suites = junit.read(text, "f")
    assert [(name, outcome) for _, name, outcome, _ in told(suites)] == [
        ("a", "pass"), ("b", "fail"), ("report: the suite counts 2 failures and errors, 1 are in it", "fail"),
        ("report: the suite counts 1 failures and errors, 0 are in it", "fail"),
    ]  # fmt: skip
    assert suites[0].seconds == 3600


def test_a_suite_that_failed_itself():
    text = b'<testsuite name="s" errors="1"><error message="setup"/><testcase name="a"/></testsuite>'
    assert told(junit.read(text, "f")) == [
        ("s", "report: the suite failed: setup", "fail", "the suite failed: setup"), ("s", "a", "pass", ""),
    ]  # fmt: skip


def test_deep_and_odd_xml_is_read_or_refused_in_one_line():
    deep = b"<testsuite>" * 50_000 + b'<testcase name="a"/>' + b"</testsuite>" * 50_000
    assert [name for _, name, _, _ in told(junit.read(deep, "f"))] == ["a"]
    for bad in (
        b'<?xml version="1.0" encoding="utf-7"?><testsuites/>',
        b'<?xml version="1.0" encoding="no"?><a/>',
        b"\x00",
    ):
        with pytest.raises(UserError) as refused:
            junit.read(bad, "f")
        assert "\n" not in refused.value.message


def kirk(*results):
    rows = [
        {"test_fqn": name, "status": status, "test": {"log": log, "retval": [code], "duration": took, **counts}}
        for name, status, code, log, took, counts in results
    ]
    return json.dumps({"results": rows, "stats": {}, "environment": {}}).encode()


def test_kirk():
    data = kirk(
        ("splice01", "pass", "0", "splice01.c:73: TPASS: ok", 0.5, {"passed": 1}),
        ("splice02", "fail", "1", "splice02.c:73: TPASS: a\nsplice02.c:80: TFAIL: wrong data", 0.5, {"failed": 1}),
        ("splice03", "brok", "2", "tst_test.c:9: TBROK: no memory", 0.5, {"broken": 1}),
        ("splice04", "warn", "4", "t.c:1: TPASS: x\ntst_tmpdir.c:3: TWARN: rmdir", 0.5, {"warnings": 1}),
        ("splice05", "conf", "32", "af_alg.c:2: TCONF: no af_alg", 0.5, {"skipped": 1}),
        ("splice06", "fail", "36", "", 0.5, {}),
        ("splice07", "fail", "139", "", 0.5, {}),
        ("splice08", "pass", "0", "t.c:1: TFAIL: x", 0.5, {"failed": 1}),
        ("splice09", "pass", "1", "", 0.5, {}),
        ("timed", "brok", "-1", "", 30.0, {"broken": 1}),
        ("died", "brok", "-1", "Kernel panic - not syncing", 30.0, {"broken": 1}),
        ("never", "conf", "32", "", 0.0, {"skipped": 1}),
    )
    assert [found[1:] for found in told(ltp.read(data, "ltp"))] == [
        ("splice01", "pass", ""),
        ("splice02", "fail", "fail: TFAIL: wrong data"),
        ("splice03", "fail", "brok: TBROK: no memory"),
        ("splice04", "fail", "warn: TWARN: rmdir"),
        ("splice05", "skip", "TCONF: no af_alg"),
        ("splice06", "fail", "fail: warning, not applicable: exit status 36"),
        ("splice07", "fail", "fail: exit status 139"),
        ("splice08", "fail", "pass: TFAIL: x"),
        ("splice09", "fail", "pass: fail: exit status 1"),
        ("timed", "timeout", "no exit status: the test's time was up, or its host was lost"),
        ("died", "crash", "the kernel died"),
        ("never", "infra", "not run: kirk's time for the suite was up"),
    ]


TABLE = """Test Start Time: Mon Nov 30 17:06:32 2026
-----------------------------------------
Testcase                                           Result     Exit Value
--------                                           ------     ----------
splice01                                           PASS       0
splice02                                           FAIL       1
af_alg01                                           CONF       32
af_alg02                                           FAIL       11
af_alg03                                           PASS       4

-----------------------------------------------
Total Tests: 5
Total Skipped Tests: 1
Total Failures: 3
Kernel Version: 6.12.0
Machine Architecture: x86_64
"""


def test_the_table_of_runltp():
    expected = [
        ("splice01", "pass", ""),
        ("splice02", "fail", "fail: exit status 1"),
        ("af_alg01", "skip", "not applicable"),
        ("af_alg02", "fail", "fail, broken: exit status 11"),
        ("af_alg03", "fail", "PASS, warning: exit status 4"),
    ]
    assert [found[1:] for found in told(ltp.read(TABLE.encode(), "t"))] == expected
    assert [found[1] for found in told(ltp.read(TABLE.replace("Tests: 5", "Tests: 9").encode(), "t"))][5:] == [
        "report: the totals say 9 tests, 5 have a result"
    ]
    cut = TABLE[: TABLE.index("\n----------------------------------------------")]
    assert [found[1] for found in told(ltp.read(cut.encode(), "t"))][5:] == [
        "report: the log has no totals: the run did not end"
    ]
    more = TABLE.replace("Failures: 3", "Failures: 4").encode()
    assert "report: the totals say 4 failures, there are 3" in [found[1] for found in told(ltp.read(more, "t"))]


def test_the_table_for_programs():
    text = b"""startup='Mon Nov 30 17:06:32 2026'
tag=a stime=1 dur=3 exit=exited stat=0 core=no cu=0 cs=0
tag=b stime=1 dur=0 exit=exited stat=33 core=no cu=0 cs=0
tag=c stime=1 dur=0 exit=signaled stat=11 core=no cu=0 cs=0
"""
    (suite,) = ltp.read(text, "t")
    assert [found[1:] for found in told([suite])] == [
        ("a", "pass", ""),
        ("b", "fail", "fail, not applicable: exit status 33"),
        ("c", "fail", "signaled, 11"),
    ]
    assert suite.seconds == 3


def marked(tag, output, end):
    return (
        f'<<<test_start>>>\ntag={tag} stime=1\ncmdline="{tag}"\ncontacts=""\nanalysis=exit\n<<<test_output>>>\n{output}'
        f'incrementing stop\n<<<execution_status>>>\ninitiation_status="ok"\n{end}\ncutime=0 cstime=1\n<<<test_end>>>\n'
    )


def test_the_output_of_runltp():
    text = "".join((
        marked("a", "a.c:1: TPASS: fine\n", "duration=2 termination_type=exited termination_id=0 corefile=no"),
        # The old library's lines, with a tag and a number.
        marked("b", "b 1  TFAIL  :  b.c:9: bad\n", "duration=0 termination_type=exited termination_id=1 corefile=no"),
        marked("c", "c.c:1: TCONF: no\n", "duration=0 termination_type=exited termination_id=32 corefile=no"),
        marked("d", "d.c:1: TFAIL: lost\n", "duration=0 termination_type=exited termination_id=0 corefile=no"),
        marked("e", "", "duration=0 termination_type=signaled termination_id=11 corefile=no"),
        "<<<test_start>>>\ntag=f stime=1\n<<<test_output>>>\nf.c:1: TPASS: one\n",
    ))  # fmt: skip
    expected = [
        ("a", "pass", ""),
        ("b", "fail", "TFAIL: b.c:9: bad"),
        ("c", "skip", "TCONF: no"),
        ("d", "fail", "exit status 0, but TFAIL: lost"),
        ("e", "fail", "signaled, 11"),
        ("f", "fail", "it did not end: the log breaks off"),
    ]
    assert [found[1:] for found in told(ltp.read(text.encode(), "t"))] == expected
    again = text + marked("g", "", "duration=0 termination_type=exited termination_id=0 corefile=no")
    assert [found[1:] for found in told(ltp.read(again.encode(), "t"))][5:] == [expected[5], ("g", "pass", "")]


def test_what_tests_of_ltp_print_by_themselves():
    text = """tst_test.c:1560: TINFO: Timeout per run is 0h 00m 30s
splice01.c:73: \x1b[32mTPASS: \x1b[0mWritten data has been read back

Summary:
passed   1
failed   0
broken   0
skipped  0
warnings 0
tst_test.c:1560: TINFO: Timeout
tst_kconfig.c:2: TCONF: no CRYPTO_USER
af_alg01.c:2: TCONF: no af_alg

Summary:
passed   0
failed   0
broken   0
skipped  2
warnings 0
fork01    1  TPASS  :  fine
fork01    2  TFAIL  :  fork01.c:7: wrong pid
sendfile02 1 TINFO: starts
"""
    assert [found[1:] for found in told(ltp.read(text.encode(), "t"))] == [
        ("splice01", "pass", ""),
        ("af_alg01", "skip", "TCONF: no CRYPTO_USER"),
        ("fork01", "fail", "TFAIL: fork01.c:7: wrong pid"),
        ("sendfile02", "fail", "it did not end: no result and no summary"),
    ]
    (cut,) = told(ltp.read(b"splice01.c:80: TPASS: data is whole\n", "splice01"))
    assert cut[1:] == ("splice01", "fail", "it did not end: no summary")


def results(tmp_path, **tests):
    for name, keys in tests.items():
        text = "".join(f"{key}\t{value}\n" for key, value in keys.items())
        write(tmp_path / "results" / name.replace("__", "/"), text)
    return tmp_path / "results"


def test_the_folder_of_blktests(tmp_path):
    when = {"date": "2026-11-30 17:29:37", "runtime": "1.500s", "exit_status": "0"}
    folder = results(
        tmp_path,
        nodev_tr_tcp__nvme__003={**when, "status": "pass"},
        nodev_tr_tcp__nvme__004={**when, "status": "fail", "reason": "output"},
        nodev_tr_tcp__nvme__005={**when, "status": "fail", "reason": "dmesg"},
        nodev_tr_tcp__nvme__006={**when, "status": "fail", "reason": "exit", "exit_status": "3"},
        nodev_tr_tcp__nvme__007={**when, "status": "not run", "reason": "no nvme"},
        nodev_tr_tcp__nvme__008={**when, "status": "pass", "exit_status": "1"},
        nodev_tr_tcp__nvme__009=when,
        nvme0n1__block__001={**when, "status": "pass"},
    )
    write(folder / "nodev_tr_tcp/nvme/004.out.bad", "wrong\n")
    write(folder / "nodev_tr_tcp/nvme/005.dmesg", "kernel BUG\n")
    write(folder / "nodev_tr_tcp/nvme/010.full", "began\n")
    write(folder / "tmpdir.nvme.003.abc/x/001", "status\tpass\n")
    suites = blktests.read_folder(tmp_path)
    assert told(suites) == [
        ("nodev_tr_tcp", "nvme/003", "pass", ""),
        ("nodev_tr_tcp", "nvme/004", "fail", "other output than expected"),
        ("nodev_tr_tcp", "nvme/005", "fail", "something in dmesg"),
        ("nodev_tr_tcp", "nvme/006", "fail", "exited with status 3"),
        ("nodev_tr_tcp", "nvme/007", "skip", "no nvme"),
        ("nodev_tr_tcp", "nvme/008", "fail", "passed, but exited with status 1"),
        ("nodev_tr_tcp", "nvme/009", "fail", "its result has no status"),
        ("nodev_tr_tcp", "nvme/010", "fail", "it left no result: it exited, was killed, or the guest died"),
        ("nvme0n1", "block/001", "pass", ""),
    ]
    assert "wrong" in suites[0].cases[1].details
    assert (suites[0].began, suites[1].seconds) == ("2026-11-30 17:29:37", 1.5)
    assert [found[1] for found in told(blktests.read_folder(folder / "nvme0n1"))] == ["block/001"]
    run = import_file(Store(tmp_path / "store"), "blktests", folder, column="x", lane="y")
    assert [job.scenario for job in run.jobs] == ["nodev_tr_tcp", "nvme0n1"]


def test_old_results_of_blktests_are_told(tmp_path):
    folder = results(
        tmp_path,
        nodev__nvme__003={"date": "2026-11-30 17:29:37", "status": "pass"},
        nodev__nvme__004={"date": "2026-11-27 17:29:37", "status": "pass"},
    )
    with pytest.warns(LabWarning, match="results of 2026-11-27 and of 2026-11-30"):
        blktests.read_folder(folder)


def test_what_blktests_printed():
    text = b"""nvme/003 (tr=tcp) (keep alive (twice))
    runtime  10.2s  ...
nvme/003 (tr=tcp) (keep alive (twice))                       [passed]
    runtime  10.2s  ...  10.343s
nvme/004 (tr=tcp) (other)                                    [failed]
    runtime    ...  0.500s
    --- tests/nvme/004.out\t2025-05-15
    +++ results/nodev_tr_tcp/nvme/004.out.bad\t2026
block/001 => nullb0 (stress)                                 [not run]
    nullb0 is a zoned block device
nvme/*** (tr=tcp)                                            [not run]
    Module nvme_tcp is not found
nvme/003 (tr=tcp) (keep alive (twice))
"""
    assert [found[1:] for found in told(blktests.read_text(text, "t"))] == [
        ("nvme/003 (tr=tcp)", "pass", ""),
        ("nvme/004 (tr=tcp)", "fail", "other output than expected"),
        ("block/001 => nullb0", "skip", "nullb0 is a zoned block device"),
        ("nvme/*** (tr=tcp)", "skip", "Module nvme_tcp is not found"),
        ("nvme/003 (tr=tcp) (2)", "fail", "it left no result: it exited, was killed, or the guest died"),
    ]


@pytest.mark.parametrize(
    ("outcomes", "whole"),
    [("pass skip", "pass"), ("skip skip", "skip"), ("pass fail skip", "fail"), ("pass infra", "infra")],
)
def test_a_suite_of_which_nothing_ran_is_no_pass(tmp_path, outcomes, whole):
    inner = {"pass": "", "skip": "<skipped/>", "fail": "<failure/>", "infra": '<error type="infra"/>'}
    cases = "".join(f'<testcase name="{n}">{inner[word]}</testcase>' for n, word in enumerate(outcomes.split()))
    path = write(tmp_path / "r.xml", f"<testsuites>{cases}</testsuites>")
    (job,) = import_file(Store(tmp_path / "store"), "junit", path, column="x", lane="y").jobs
    assert (str(job.outcome), str(job.cases[0].outcome)) == (whole, whole)


def test_a_folder_is_refused_where_a_file_is_meant(tmp_path):
    with pytest.raises(UserError, match="is a folder"):
        import_file(Store(tmp_path / "store"), "ltp", tmp_path, column="x", lane="y")
    with pytest.raises(UserError, match="has no results"):
        import_file(Store(tmp_path / "store"), "blktests", tmp_path, column="x", lane="y")


@given(st.lists(st.sampled_from(["a", "a (2)", "a (2) (2)", "b"]), max_size=12))
def test_no_case_is_lost_to_its_name(names):
    found = apart(case_of(name, Outcome.PASS) for name in names)
    assert len({case.name for case in found}) == len(names)


KEYS = ["results", "test", "test_fqn", "status", "log", "retval", "duration", "failed", "passed"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.sampled_from(KEYS), below, max_size=5),
    max_leaves=20,
)
XML = st.lists(
    st.sampled_from([
        "<testsuites>", "</testsuites>", '<testsuite name="s" time="x" failures="3">', "</testsuite>", "&#0;", "\x1b",
        '<testcase name="a" time="1e999" status="?">', "</testcase>", "<testcase/>", "<failure>x</failure>", "<a:b/>",
    ]),
    max_size=12,
).map("".join)  # fmt: skip
LINES = st.lists(
    st.sampled_from(
        [*TABLE.splitlines(), *marked("a", "a.c:1: TPASS: x\n", "duration=1").splitlines(), "nvme/003 [passed]"]
    )
    | st.text(max_size=20),
    max_size=20,
).map("\n".join)


def read_or_refusal(form, data):
    try:
        return READERS[form](data, "name")
    except LabError as error:
        return error


@settings(deadline=None, max_examples=200)
@given(
    st.sampled_from(sorted(READERS)),
    st.one_of(
        st.binary(max_size=200),
        JSON.map(json.dumps).map(str.encode),
        JSON.map(lambda value: json.dumps({"results": [value, {"test": value}]}).encode()),
        XML.map(lambda text: f"<testsuites>{text}</testsuites>".encode()),
        LINES.map(lambda text: text.encode("utf-8", "replace")),
    ),
)
def test_a_reader_gives_cases_or_one_line(form, data):
    suites = read_or_refusal(form, data)
    if isinstance(suites, LabError):
        assert "\n" not in suites.message
        return
    for suite in suites:
        assert len({case.name for case in suite.cases}) == len(suite.cases)
        assert all("\n" not in case.name + case.message for case in suite.cases)
        json.dumps([case.details for case in suite.cases]).encode()
        assert 0 <= suite.seconds < float("inf")


@settings(deadline=None, max_examples=25)
@given(st.dictionaries(st.sampled_from(["003", "003.full", "004.out.bad", "abc", "005"]), st.binary(max_size=60)))
def test_any_folder_gives_cases_or_none(tmp_path_factory, files):
    folder = tmp_path_factory.mktemp("blk")
    (folder / "nodev/nvme").mkdir(parents=True)
    for name, data in files.items():
        Path(folder / "nodev/nvme" / name).write_bytes(data)
    with warnings.catch_warnings(action="ignore"):
        blktests.read_folder(folder)
