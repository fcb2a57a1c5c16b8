"""KTAP and TAP -> cases, metrics, problems."""

import random
import time

import pytest

from kpatchlab.evidence.ktap import MAX_CASES, parse
from kpatchlab.model import Metric, Outcome

OK = b"KTAP version 1\n1..2\nok 1 - open\nok 2 - read\n"


def cases(text, status=0):
    parsed = parse(text if isinstance(text, bytes) else text.encode(), exit_status=status)
    assert parsed.problems == ()
    return [(c.name, c.outcome.value) for c in parsed.cases]


def problems(text, status=0):
    return list(parse(text if isinstance(text, bytes) else text.encode(), exit_status=status).problems)


def test_plain():
    assert cases(OK) == [("open", "pass"), ("read", "pass")]
    assert cases("1..1\nnot ok 1 read\n") == [("read", "fail")]
    assert cases("TAP version 14\nok 1 - a\nok - b\nnot ok\n1..3\n") == [
        ("a", "pass"),
        ("b", "pass"),
        ("case 3", "fail"),
    ]
    assert cases(OK.replace(b"\n", b"\r\n")) == cases(OK)


def test_directives():
    text = """KTAP version 1
1..9
ok 1 - a # SKIP no device
not ok 2 b # skip
not ok 3 - c # TODO later
ok 4 - d # TODO works already
ok 5 - e # XFAIL known
not ok 6 - f # TIMEOUT 45 seconds
not ok 7 - g # ERROR no memory
ok 8 - h # time=3ms
ok 9 # SKIP nameless
"""
    parsed = parse(text.encode(), exit_status=0)
    assert parsed.problems == ()
    assert [(c.name, c.outcome.value, c.message) for c in parsed.cases] == [
        ("a", "skip", "no device"),
        ("b", "skip", ""),
        ("c", "skip", "TODO: later"),
        ("d", "pass", "TODO: works already"),
        ("e", "skip", "XFAIL: known"),
        ("f", "timeout", "TIMEOUT: 45 seconds"),
        ("g", "fail", "ERROR: no memory"),
        ("h", "pass", "time=3ms"),
        ("nameless", "skip", ""),
    ]


def test_a_hash_in_a_name_is_no_directive():
    assert cases("1..2\nok 1 - cbc(aes)#2\nok 2 - a \\# b\n") == [("cbc(aes)#2", "pass"), ("a # b", "pass")]


def test_details():
    text = b"""1..4
# opening
prose between
ok 1 - a
not ok 2 - silent
# expected 1
# got 2
ok 3 - c
# why it fails
not ok 4 - d
# Totals: pass:2 fail:2
"""
    by_name = {c.name: c.details for c in parse(text, exit_status=1).cases}
    assert by_name == {
        "a": "opening\nprose between",
        "silent": "expected 1\ngot 2",
        "c": "",
        "d": "why it fails\nTotals: pass:2 fail:2",
    }


def test_kunit():
    text = """KTAP version 1
1..2
    KTAP version 1
    # Subtest: list-kunit-test
    # module: list_test
    1..2
    ok 1 list_test_list_init
        KTAP version 1
        # Subtest: sizes
        ok 1 64 bytes
        not ok 2 128 bytes
    # sizes: pass:1 fail:1 skip:0 total:2
    not ok 2 sizes
# list-kunit-test: pass:1 fail:1 skip:0 total:2
not ok 1 list-kunit-test
    KTAP version 1
    # Subtest: example
    1..1
    ok 1 - simple # SKIP this test should be skipped
ok 2 - example
"""
    assert cases(text, 1) == [
        ("list-kunit-test / list_test_list_init", "pass"),
        ("list-kunit-test / sizes / 64 bytes", "pass"),
        ("list-kunit-test / sizes / 128 bytes", "fail"),
        ("example / simple", "skip"),
    ]


def test_two_blanks_and_the_title_at_the_parents_level():
    text = "KTAP version 1\n1..1\n# Subtest: tcp\n  KTAP version 1\n  1..2\n  ok 1 sendfile\n  ok 2 splice\nok 1 tcp\n"
    assert cases(text) == [("tcp / sendfile", "pass"), ("tcp / splice", "pass")]


def test_a_level_without_plan_or_title_of_its_own():
    text = "1..1\n    1..1\n    ok 1 - deep\n  ok 1 - mid\nok 1 - top\n"
    assert cases(text) == [("top / mid / deep", "pass")]


def test_a_parent_that_fails_without_a_failing_child_is_a_case():
    text = "1..1\n  1..1\n  ok 1 - child\nnot ok 1 - parent\n"
    assert cases(text) == [("parent / child", "pass"), ("parent", "fail")]


def test_skip_all():
    (case,) = parse(b"TAP version 13\n1..0 # SKIP pipes unsupported\n", exit_status=0).cases
    assert (case.outcome, case.message) == (Outcome.SKIP, "pipes unsupported")


def test_metrics():
    parsed = parse(
        OK + b"metric splice.rate 548.25 MB/s higher\nmetric lat -1.5e-3 s lower\n# metric x\n", exit_status=0
    )
    assert parsed.metrics == (
        Metric("splice.rate", 548.25, "MB/s", "higher"),
        Metric("lat", -0.0015, "s", "lower"),
    )
    assert parsed.problems == ()


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("metric", "not `metric NAME VALUE UNIT higher|lower`"),
        ("metric a", "not `metric NAME VALUE UNIT higher|lower`"),
        ("metric a 1 s faster", "not `metric NAME VALUE UNIT higher|lower`"),
        ("metric a nan s lower", "'nan' is not a number"),
        ("metric a inf", "'inf' is not a number"),
        ("metric a 1e999 s lower", "'1e999' is not a number"),
        ("metric a 1 lower", "without a unit"),
        ("metric a 1", "without a unit"),
    ],
)
def test_malformed_metrics(line, fault):
    assert problems(OK + line.encode() + b" \n") == [f"malformed metric line, {fault}: {line}"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ok 1 - a\n", "no plan"),
        ("1..3\nok 1 - a\nok 2 - b\n", "plan says 3 results, 2 came"),
        ("ok 1 - a\nok 2 - b\n1..1\n", "plan says 1 results, 2 came"),
        ("1..2\nok 1 - a\nok 1 - b\n", "result 1 comes twice"),
        ("1..2\nok 2 - a\nok 1 - b\n", "results 1 to 1 are missing"),
        ("1..1\nok 1 - a\nok 2 - forged\n", "after the plan of 1 was complete"),
        ("1..1\n1..2\nok 1 - a\n", "a second plan"),
        ("KTAP version 1\n1..1\nok 1 - a\nKTAP version 1\n", "no plan (1..N) in report 2"),
        ("", "no result at all"),
        ("1..0\n", "no result at all"),
        ("Segmentation fault\n", "no plan"),
        ("1..2\nok 1 - a\nBail out! no server\n", "bailed out: no server"),
        ("1..1\nok 1 - " + "x" * 301 + "\n", "longer than 300"),
        ("1..1\n    1..2\n    ok 1 - child\nok 1 - parent\n", "plan says 2 results, 1 came"),
        ("1..1\n    # Subtest: lost\n    1..2\n    ok 1 - child\n", "subtest 'lost' has no result line"),
        ("1..1\n  ok 3 - forged\nok 1 - a\n", "results 1 to 2 are missing"),
    ],
)
def test_problems(text, words):
    assert any(words in problem for problem in problems(text)), problems(text)


def test_exit_status():
    assert problems(OK, 3) == ["the script exited with status 3, though no case failed"]
    assert problems(OK, None) == []
    assert problems("1..1\nnot ok 1 - a\n", 1) == []


def test_names_are_cleaned_and_apart():
    parsed = parse(b"1..1\nok 1 - caf\xe9 \x1b[31mred\x1b[0m\x07\n", exit_status=0)
    assert parsed.cases[0].name == "caf\ufffd red"
    assert "not UTF-8" in parsed.problems[0]
    assert [n for n, _ in cases("1..4\nok 1 - a\nok 2 - a\nok 3 - a (2)\nok 4 - a\n")] == [
        "a",
        "a (3)",
        "a (2)",
        "a (4)",
    ]


def test_prose_is_no_result():
    assert cases("1..1\nok, let us begin\nokay\nnot okay\nok: fine\n  ok then\nok 1 - a\n") == [("a", "pass")]


def test_large_and_hostile_input_is_linear_and_bounded():
    rng = random.Random(2)
    many = b"1..20001\n" + b"".join(b"ok %d - same\n" % n for n in range(1, 20_002))
    chatter = b"1..1\n" + b"# the same diagnostic line again and again\n" * 100_000 + b"ok 1 - a\n"
    rows = [b"ok 1" + b" # " * 9000, b" " * 100_000, b"ok 1 " + b"-" * 100_000, rng.randbytes(1 << 19)]
    begin = time.process_time()
    parsed = parse(many, exit_status=0)
    assert len(parsed.cases) == MAX_CASES
    assert len({case.name for case in parsed.cases}) == MAX_CASES
    (case,) = parse(chatter, exit_status=0).cases
    assert "lines cut" in case.details
    assert len(case.details) < 10_000
    assert parse(b"\n".join(rows), exit_status=0).problems
    assert time.process_time() - begin < 10


def test_losing_any_one_line_is_never_a_pass():
    """Of a report where everything passed, any line that is lost or doubled leaves a problem, or was idle."""
    text = b"KTAP version 1\n1..2\n    1..2\n    ok 1 - a\n    ok 2 - b\nok 1 - x\n# note\nok 2 - y\n"
    lines = text.splitlines(keepends=True)
    idle = {0, 6}
    for n in set(range(len(lines))) - idle:
        parsed = parse(b"".join(lines[:n] + lines[n + 1 :]), exit_status=0)
        assert parsed.problems or n == 2, lines[n]  # KUnit's subtests may come without a plan
        assert parse(b"".join([*lines[: n + 1], *lines[n:]]), exit_status=0).problems, lines[n]


def test_recorded_answer_is_taken_off_the_name():
    text = b"KTAP version 1\n1..3\nok 1 - Q: a page, pwrite: answer=old\nok 2 - q: answer=\nok 3 - answer=5\n"
    parsed = parse(text, exit_status=0)
    assert [(case.name, case.answer) for case in parsed.cases] == [
        ("Q: a page, pwrite", "old"), ("q: answer=", ""), ("answer=5", ""),
    ]  # fmt: skip


HARNESS = """KTAP version 1
1..2
  TAP version 13
  1..3
  # Starting 3 tests from 2 test cases.
  #  RUN           tls.12_aes_gcm.sendfile ...
  #            OK  tls.12_aes_gcm.sendfile
  ok 1 tls.12_aes_gcm.sendfile
  #  RUN           tls.13_sm4_gcm.sendfile ...
  #      SKIP      no SM4
  #            OK  tls.13_sm4_gcm.sendfile
  ok 2 # SKIP no SM4
  #  RUN           tls.13_sm4_gcm.recv_max ...
  # tls.c:400:recv_max:Expected -1 (-1) != ret (3)
  #          FAIL  tls.13_sm4_gcm.recv_max
  not ok 3 tls.13_sm4_gcm.recv_max
  # FAILED: 2 / 3 tests passed.
  # Totals: pass:1 fail:1 xfail:0 xpass:0 skip:1 error:0
not ok 1 - tls # status 1
ok 2 - unix_connect # SKIP by itself
"""


def test_kselftest_harness_below_a_program():
    assert cases(HARNESS) == [
        ("tls / tls.12_aes_gcm.sendfile", "pass"),
        ("tls / tls.13_sm4_gcm.sendfile", "skip"),
        ("tls / tls.13_sm4_gcm.recv_max", "fail"),
        ("unix_connect", "skip"),
    ]
    failed = parse(HARNESS.encode(), exit_status=0).cases[2]
    assert "recv_max:Expected" in failed.details


def test_a_name_that_was_announced_is_used_once():
    text = "1..2\n#  RUN           a.b ...\nok 1 # SKIP x\nok 2 # SKIP y\n"
    assert [name for name, _ in cases(text)] == ["a.b", "y"]
