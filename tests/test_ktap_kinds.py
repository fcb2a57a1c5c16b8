"""KTAP as kselftest, KUnit and logs have it in the wild: each kind of report with its right values, and properties."""

from __future__ import annotations

import re
import string
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kpatchlab.evidence.ktap import Parsed, parse
from kpatchlab.model import Outcome


def read(text: str | bytes, status: int | None = None) -> Parsed:
    return parse(text.encode() if isinstance(text, str) else text, exit_status=status)


def cases(parsed: Parsed) -> list[tuple[str, str]]:
    return [(case.name, str(case.outcome)) for case in parsed.cases]


@pytest.mark.parametrize(
    ("line", "name", "outcome", "message"),
    [
        ("ok 1 link # errors=0 time=3ms", "link", "pass", "errors=0 time=3ms"),
        ("ok 1 wait # timeout=300", "wait", "pass", "timeout=300"),
        ("ok 1 parses #error lines", "parses #error lines", "pass", ""),
        ("ok 1 the #timeout option", "the #timeout option", "pass", ""),
        ("ok 1 a # TIMEOUTS: 0", "a", "pass", "TIMEOUTS: 0"),
        ("ok 1 a # skipped_frames=2", "a", "pass", "skipped_frames=2"),
        ("ok 1 a # todos 3", "a", "pass", "todos 3"),
        ("ok 1 a # error-free", "a", "pass", "error-free"),
        ("ok 1 a # timeout 300", "a", "pass", "timeout 300"),
        ("ok 1 a#SKIP", "a#SKIP", "pass", ""),
        ("ok 1 the #skip and #todo words", "the #skip and #todo words", "pass", ""),
        ("not ok 1 wait # timeout=300", "wait", "fail", "timeout=300"),
        ("not ok 1 wait # TIMEOUT 45 seconds", "wait", "timeout", "TIMEOUT: 45 seconds"),
        ("ok 1 a # ERROR no memory", "a", "fail", "ERROR: no memory"),
        ("ok 1 a # SKIP: no device", "a", "skip", "no device"),
        ("ok 1 a # skipped no device", "a", "skip", "no device"),
        ("ok 1 a #SKIP no device", "a", "skip", "no device"),
        ("ok 1 parses #error lines # SKIP not here", "parses #error lines", "skip", "not here"),
        ("ok 1 a # time=1ms # SKIP no device", "a", "skip", "no device"),
        ("ok 1 a # SKIP # time=1ms", "a", "skip", "# time=1ms"),
        ("ok 1 a # XPASS", "a", "pass", "XPASS"),
        # kselftest.h puts the directive before the name
        ("ok 1 # SKIP name", "name", "skip", ""),
        ("ok 1 # XFAIL name", "name", "skip", "XFAIL"),
        ("ok 1 # XPASS name", "name", "pass", "XPASS"),
        ("not ok 1 # error name", "name", "fail", "ERROR"),
        ("ok 1 # time=3ms", "case 1", "pass", "time=3ms"),
        ("not ok 1 # TIMEOUT 45 seconds", "case 1", "timeout", "TIMEOUT: 45 seconds"),
        # a second counter
        ("ok 1 1 selftests: net: a.py", "selftests: net: a.py", "pass", ""),
        ("not ok 1 7 selftests: net: a.py # exit=1", "selftests: net: a.py", "fail", "exit=1"),
        ("ok 1 1 - a", "a", "pass", ""),
        ("ok 1 64 bytes", "64 bytes", "pass", ""),
        ("ok 1 1 byte", "1 byte", "pass", ""),
        ("ok 1 2 - 1 bytes", "2 - 1 bytes", "pass", ""),
        ("not ok 1..1 selftests: net: a.sh [FAIL]", "selftests: net: a.sh", "fail", ""),
        ("not ok 1..1 selftests: net: a.sh [SKIP]", "selftests: net: a.sh", "skip", ""),
        ("ok 1..1 selftests: net: a.sh [PASS]", "selftests: net: a.sh", "pass", ""),
        ("ok 1 [PASS]", "[PASS]", "pass", ""),
    ],
)
def test_a_result_line(line, name, outcome, message):
    parsed = read(f"TAP version 13\n1..1\n{line}\n")
    assert parsed.problems == ()
    assert [(case.name, str(case.outcome), case.message) for case in parsed.cases] == [(name, outcome, message)]


KUNIT = """KTAP version 1
1..2
    KTAP version 1
    # Subtest: list
    # module: list_test
    1..2
    ok 1 init
        KTAP version 1
        # Subtest: sizes
        ok 1 64 bytes
        not ok 2 128 bytes
    # sizes: pass:1 fail:1 skip:0 total:2
    not ok 2 sizes
# list: pass:1 fail:1 skip:0 total:2
# Totals: pass:2 fail:1 skip:0 total:3
not ok 1 list
    KTAP version 1
    # Subtest: example
    1..1
    ok 1 - simple # SKIP this test should be skipped
ok 2 - example
"""
KUNIT_CASES = [
    ("list / init", "pass"), ("list / sizes / 64 bytes", "pass"), ("list / sizes / 128 bytes", "fail"),
    ("example / simple", "skip"),
]  # fmt: skip


def prefixed(prefix: str, text: str = KUNIT) -> str:
    return "".join(f"{prefix}{line}\n" for line in text.splitlines())


@pytest.mark.parametrize(
    "text",
    [
        KUNIT,
        KUNIT.replace("    ", "\t"),
        re.sub(r"(?m)^ +KTAP version 1\n", "", KUNIT).replace("KTAP", "TAP", 1),
        prefixed("[    0.060000] "),
        prefixed("<6>[    0.060000] "),
        prefixed("[   10.060000][    T1] "),
        prefixed("[  110.060000][ C12] "),
        prefixed("<6>"),
        prefixed("kern  :info  : [    0.060000] "),
        prefixed("[Mon Nov 30 17:06:32 2026] "),
        prefixed("Nov 30 17:06:32 vm kernel: [    0.060000] "),
        prefixed("Nov 30 17:06:32.123456 vm kernel: "),
        prefixed("2026-11-30T17:06:32,060000+00:00 "),
        prefixed("2026-11-30T17:06:32.060000Z <6>[    0.060000] "),
        "[    0.000000] Linux version 6.12\n" + prefixed("[    0.060000] ") + "[    9.000000] ok, done\n",
        KUNIT.replace("\n", "\r\n"),
    ],
)  # fmt: skip
def test_kunit_by_every_way_that_it_comes(text):
    parsed = read(text)
    assert (cases(parsed), parsed.problems) == (KUNIT_CASES, ())


def test_kunit_in_the_log_while_a_program_reports():
    own = "TAP version 13\n1..1\n# loads it\nok 1 modprobe\n".splitlines(keepends=True)
    kernel = prefixed("[    5.000000] ", "KTAP version 1\n1..1\n# note\nok 1 suite\n").splitlines(keepends=True)
    mixed = "".join(line for pair in zip(own, kernel, strict=True) for line in pair)
    parsed = read(mixed)
    assert (cases(parsed), parsed.problems) == ([("modprobe", "pass"), ("suite", "pass")], ())


def test_what_the_kernel_logs_beside_a_report_is_diagnostics():
    parsed = read("1..1\n[    1.000000] ok 1 is what a driver logs\nok 1 - a\n")
    assert (cases(parsed), parsed.problems) == ([("a", "pass")], ())
    assert "a driver logs" in parsed.cases[0].details


def blocks() -> list[tuple[str, str, str]]:
    text = (Path(__file__).parent / "data/ktap_reports.txt").read_text()
    every = [block.partition("\n") for block in re.split(r"(?m)^=== ", text)[1:]]
    return [(title, *rest.split("---\n")) for title, _, rest in every]


@pytest.mark.parametrize(("text", "said"), [pytest.param(text, said, id=title) for title, text, said in blocks()])
def test_a_report_has_exactly_these_cases_and_problems(text, said):
    parsed = read(text)
    lines = [f"{outcome} {name}" for name, outcome in cases(parsed)] + [f"! {text}" for text in parsed.problems]
    assert lines == said.splitlines()


SUITE = st.recursive(st.sampled_from(["ok", "not ok", "skip"]), lambda below: st.lists(below, min_size=1, max_size=4))
NAMES = st.text(string.ascii_letters + string.digits + "_.:=/#", min_size=1, max_size=8).filter(
    lambda n: n[0].isalpha()
)


def leaves(tree, name: str = "", number: int = 1) -> list[tuple[str, str]]:
    here = f"{name} / t{number}" if name else f"t{number}"
    if isinstance(tree, str):
        return [(here, {"ok": "pass", "not ok": "fail", "skip": "skip"}[tree])]
    return [leaf for n, below in enumerate(tree, 1) for leaf in leaves(below, here, n)]


def result(tree, number: int) -> str:
    if tree == "skip":
        return f"ok {number} t{number} # SKIP not here"
    bad = not isinstance(tree, str) and any(outcome == "fail" for _, outcome in leaves(tree))
    return f"{'not ok' if bad or tree == 'not ok' else 'ok'} {number} t{number}"


def report(trees, style: str, title: str = "", depth: int = 0) -> list[str]:
    """Print trees as KUnit does (a title within), as TAP 14 does (before it), or as kselftest's runner (comments)."""
    lines = ["KTAP version 1"] if not depth or style == "kunit" else []
    lines += [f"# Subtest: {title}"] if title and style == "kunit" else []
    lines.append(f"1..{len(trees)}")
    for number, tree in enumerate(trees, 1):
        if not isinstance(tree, str):
            lines += [f"# Subtest: t{number}"] if style == "tap14" else []
            lines += [
                {"comment": "# "}.get(style, "    ") + line for line in report(tree, style, f"t{number}", depth + 1)
            ]
        lines.append(result(tree, number))
    return lines


TREES = st.lists(SUITE, min_size=1, max_size=4)
STYLES = st.sampled_from(["kunit", "tap14", "comment"])
PREFIXES = st.sampled_from(["", "[    1.000000] ", "<6>[    1.000000][    T1] "])


def whole(trees) -> list[tuple[str, str]]:
    return [leaf for number, tree in enumerate(trees, 1) for leaf in leaves(tree, "", number)]


@settings(deadline=None, max_examples=150)
@given(TREES, STYLES, PREFIXES, st.booleans())
def test_no_case_is_lost_however_it_is_nested_and_printed(trees, style, prefix, tabs):
    lines = report(trees, style)
    if tabs:
        lines = [line.replace("    ", "\t") for line in lines]
    parsed = read("".join(f"{prefix}{line}\n" for line in lines))
    assert (cases(parsed), parsed.problems) == (whole(trees), ())


@settings(deadline=None, max_examples=150)
@given(TREES, STYLES, st.data())
def test_a_report_that_breaks_off_keeps_its_cases_and_is_no_pass(trees, style, data):
    lines = report(trees, style)
    stop = data.draw(st.integers(1, len(lines) - 1))
    parsed = read("\n".join(lines[:stop]))
    assert parsed.problems
    printed = [line.strip("# ") for line in lines[:stop] if line.lstrip("# ").startswith(("ok", "not ok"))]
    assert bool(parsed.cases) == bool(printed)
    if style != "comment":  # which has no titles
        assert {case.name for case in parsed.cases} <= {name for name, _ in whole(trees)}


@settings(deadline=None, max_examples=100)
@given(TREES, TREES, STYLES)
def test_two_reports_are_the_cases_of_both(first, second, style):
    parsed = read("\n".join(report(first, style) + report(second, style)))
    assert parsed.problems == ()
    assert len(parsed.cases) == len(whole(first)) + len(whole(second))
    assert cases(parsed)[: len(whole(first))] == whole(first)


@settings(deadline=None, max_examples=100)
@given(TREES, STYLES, st.data())
def test_a_result_line_that_is_lost_is_never_a_pass(trees, style, data):
    lines = report(trees, style)
    results = [n for n, line in enumerate(lines) if line.lstrip("# ").startswith(("ok", "not ok"))]
    gone = data.draw(st.sampled_from(results))
    assert read("\n".join(lines[:gone] + lines[gone + 1 :])).problems


WORDS = [
    b"ok 1 a", b"not ok 2 b", b"ok", b"ok - c", b"1..2", b"1..0 # SKIP x", b"KTAP version 1", b"TAP version 13",
    b"# Subtest: s", b"# Totals: pass:1 fail:0", b"# x: pass:1 fail:0 skip:0 total:1", b"Bail out! x",
    b"metric a 1 s lower", b"# selftests: net: a", b"#  RUN           a.b ...", b"# ", b"    ", b"\t",
    b"[    1.000000] ", b"<6>", b"\xff\x00\x1b[31m", b" # SKIP", b" # TIMEOUT", b"\r", b"\n",
]  # fmt: skip


@settings(deadline=None, max_examples=300)
@given(st.lists(st.sampled_from(WORDS) | st.just(b"\n") | st.binary(max_size=8), max_size=60).map(b"".join))
def test_nothing_makes_the_reader_raise(data):
    parsed = parse(data, exit_status=None)
    names = [case.name for case in parsed.cases]
    assert len(names) == len(set(names))
    assert parsed.cases or parsed.problems


@given(NAMES)
def test_a_name_without_a_directive_comes_out_as_it_is(name):
    parsed = read(f"1..1\nok 1 - {name}\n")
    assert cases(parsed) == [(name, str(Outcome.PASS))]
