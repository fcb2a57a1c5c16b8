"""LTP's results -> suites: kirk's JSON, what ltp-pan logs (runltp -l, -o), and what its tests print by themselves.

kirk 4.2 and runltp end with status 0 whatever failed, so only the results themselves count. A test's exit status is
a set of bits (include/tst_res_flags.h): 1 TFAIL, 2 TBROK, 4 TWARN, 32 TCONF. A test that is broken or warns did not
pass; one that is only not applicable is a skip.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from kpatchlab.errors import UserError
from kpatchlab.evidence.suite import Suite, apart, case_of, problem, seconds
from kpatchlab.model import Case, Outcome
from kpatchlab.textclean import one_line, printable

_BITS = {1: "fail", 2: "broken", 4: "warning", 32: "not applicable"}
_CONF = 32
_BAD_FLAGS = ("TFAIL", "TBROK", "TWARN")
_FLAG = re.compile(
    r"(?:(?:\S*/)?([\w.-]+)\.[ch]:\d+: |([\w.-]+)\s+\d+\s+)(TPASS|TFAIL|TBROK|TCONF|TWARN|TINFO)\b[:\s]*(.*)"
)
_SUMMARY = re.compile(r"(passed|failed|broken|skipped|warnings)\s+(\d{1,9})$")
_LIBRARY = re.compile(r"(?:tst|ltp|safe)_")
_ROW = re.compile(r"(\S+)\s+([A-Z]{4,8})\s+(-?\d{1,9})$")
_TOTAL = re.compile(r"Total (Tests|Skipped Tests|Failures):\s*(\d{1,9})$")
_TAG = re.compile(r"tag=(\S+) stime=\d+ dur=(\d+) exit=(\S+) stat=(-?\d{1,9})\b")
_START = re.compile(r"tag=(\S+) stime=")
_ENDED = re.compile(r"duration=(\d+) termination_type=(\S+) termination_id=(-?\d{1,9})\b")


def read(data: bytes, name: str) -> list[Suite]:
    """Return a file's results as one suite.

    Raises:
        UserError: it is none of LTP's formats.
    """
    if data.lstrip()[:1] == b"{":
        cases = list(_kirk(data, name))
    else:
        lines = [line.rstrip() for line in printable(data).split("\n")]
        cases = list(_output(lines) if "<<<test_start>>>" in lines else _table(lines) or _bare(lines, name))
    if not cases:
        raise UserError(f"{name} has no LTP result", hint="kirk's JSON report, or what runltp or a test of LTP wrote")
    return [Suite(one_line(name), apart(cases), "", sum(case.duration_s for case in cases))]


def _of_status(status: int, how: str = "exited") -> tuple[Outcome, str]:
    """Return what an exit status says, or a signal where `how` is not "exited"."""
    if how != "exited":
        return Outcome.FAIL, f"{how}, {status}"
    if status == 0:
        return Outcome.PASS, ""
    if status == _CONF:
        return Outcome.SKIP, _BITS[_CONF]
    bits = [word for bit, word in _BITS.items() if status & bit] if 0 < status < 64 else []
    return Outcome.FAIL, f"{', '.join(bits)}: exit status {status}" if bits else f"exit status {status}"


def _kirk(data: bytes, name: str) -> Iterator[Case]:
    try:
        report = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{name} is no JSON: {one_line(str(error))}") from None
    results = report.get("results") if isinstance(report, dict) else None
    if not isinstance(results, list):
        raise UserError(f"{name} is no report of kirk: it has no list `results`")
    for number, result in enumerate(results, 1):
        if not isinstance(result, dict) or not isinstance(result.get("test"), dict):
            raise UserError(f"{name} is no report of kirk: result {number} has no `test`")
        yield _kirk_case(result, result["test"])


def _kirk_case(result: dict[str, Any], test: dict[str, Any]) -> Case:
    """Read one test; the status word, the exit status and the counts have to agree for a pass."""
    word, log = str(result.get("status") or test.get("result")), test["log"] if isinstance(test.get("log"), str) else ""
    statuses = test.get("retval")
    codes = (
        [int(str(code)) for code in statuses if re.fullmatch(r"-?\d{1,9}", str(code))]
        if isinstance(statuses, list)
        else []
    )
    took = seconds(test.get("duration"))
    bad = [key for key in ("failed", "broken", "warnings") if test.get(key)]
    found = [_of_status(code) for code in codes if code]
    reason = _reason(log.split("\n"))
    if word == "conf" and not log.strip() and not took:
        # Out of time for the suite: kirk calls what it cut off, and what never started, not applicable.
        outcome, message = Outcome.INFRA, "not run: kirk's time for the suite was up"
    elif -1 in codes:
        died = "Kernel panic" in log
        outcome = Outcome.CRASH if died else Outcome.TIMEOUT
        message = "the kernel died" if died else "no exit status: the test's time was up, or its host was lost"
    elif word == "conf" and all(outcome is Outcome.SKIP for outcome, _ in found):
        outcome, message = Outcome.SKIP, reason or _BITS[_CONF]
    elif word == "pass" and not found and not bad:
        outcome, message = Outcome.PASS, ""
    else:
        said = next((text for outcome, text in found if outcome.is_bad), "") or ", ".join(bad)
        outcome, message = Outcome.FAIL, f"{word}: {reason or said}"
    return case_of(
        str(result.get("test_fqn") or ""), outcome, message, log if outcome is not Outcome.PASS else "", took
    )


def _table(lines: Sequence[str]) -> list[Case]:
    """Read what `runltp -l` wrote: a line a test, for people or for programs, and totals behind them."""
    cases, totals, table = [], {}, False
    for line in lines:
        if re.fullmatch(r"Testcase\s+Result\s+Exit Value", line):
            table = True
        elif tag := _TAG.match(line):
            outcome, message = _of_status(int(tag[4]), tag[3])
            cases.append(case_of(tag[1], outcome, message, duration_s=seconds(tag[2])))
        elif table and (row := _ROW.fullmatch(line)):
            outcome, message = _of_status(int(row[3]))
            if {"PASS": Outcome.PASS, "CONF": Outcome.SKIP}.get(row[2], Outcome.FAIL) is not outcome:
                outcome, message = Outcome.FAIL, f"{row[2]}, {message or 'exit status 0'}"
            cases.append(case_of(row[1], outcome, message))
        elif total := _TOTAL.fullmatch(line):
            totals[total[1]] = int(total[2])
    if table:
        cases += [problem(text) for text in _misfits(cases, totals)]
    return cases


def _misfits(cases: Sequence[Case], totals: dict[str, int]) -> Iterator[str]:
    """Yield how a table differs from its totals, which ltp-pan writes when it ends: it counts what it was to run."""
    bad = sum(case.outcome.is_bad for case in cases)
    skipped = sum(case.outcome is Outcome.SKIP for case in cases)
    if "Tests" not in totals:
        yield "the log has no totals: the run did not end"
    if (planned := totals.get("Tests", 0)) > len(cases):
        yield f"the totals say {planned} tests, {len(cases)} have a result"
    for key, count in (("Failures", bad), ("Skipped Tests", skipped)):
        if (told := totals.get(key, count)) != count:
            yield f"the totals say {told} {key.lower()}, there are {count}"


def _output(lines: Sequence[str]) -> Iterator[Case]:
    """Read what `runltp -o` or its terminal has: each test's output between marks, and how it ended."""
    test: list[str] | None = None
    for line in lines:
        if line == "<<<test_start>>>":
            if test is not None:
                yield _output_case(test)
            test = []
        elif test is not None and line == "<<<test_end>>>":
            yield _output_case(test)
            test = None
        elif test is not None:
            test.append(line)
    if test is not None:
        yield _output_case(test)


def _output_case(lines: Sequence[str]) -> Case:
    tag = next((match[1] for line in lines if (match := _START.match(line))), "")
    said = lines[lines.index("<<<test_output>>>") + 1 :] if "<<<test_output>>>" in lines else []
    stop = len(said) - 1 - said[::-1].index("<<<execution_status>>>") if "<<<execution_status>>>" in said else len(said)
    said, ended = said[:stop], next((match for line in said[stop:] if (match := _ENDED.match(line))), None)
    if not ended:
        return case_of(tag, Outcome.FAIL, "it did not end: the log breaks off", "\n".join(said))
    outcome, message = _of_status(int(ended[3]), ended[2])
    if outcome is Outcome.PASS and (flag := next((f for f in _flags(said) if f[1] in _BAD_FLAGS), None)):
        outcome, message = Outcome.FAIL, f"exit status 0, but {flag[1]}: {flag[2]}"
    elif outcome is not Outcome.PASS:
        message = _reason(said) or message
    return case_of(tag, outcome, message, "\n".join(said) if outcome is not Outcome.PASS else "", seconds(ended[1]))


def _flags(lines: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """Yield (program, or "" where a file of the library speaks; flag; text) of the lines that LTP's library prints."""
    for line in lines:
        if match := _FLAG.match(line):
            source = "" if match[1] and _LIBRARY.match(match[1]) else match[1]
            yield source or match[2] or "", match[3], match[4]


def _reason(lines: Sequence[str]) -> str:
    """Return the first line that says why a test did not pass, the worst flag first."""
    flags = list(_flags(lines))
    return next((f"{flag[1]}: {flag[2]}" for kind in (*_BAD_FLAGS, "TCONF") for flag in flags if flag[1] == kind), "")


def _bare(lines: Sequence[str], name: str) -> Iterator[Case]:
    """Read what tests print by themselves: one behind the other, each with its summary, or with its tag."""
    test: list[str] = []
    tag, summed = "", False
    for line in lines:
        program = next((flag[0] for flag in _flags([line])), "")
        summary = bool(_SUMMARY.fullmatch(line))
        if test and (
            (summed and not summary and line) or (program and tag and program != tag and not _is_source(line))
        ):
            yield from _bare_case(test, tag or name)
            test, tag, summed = [], "", False
        tag, summed = tag or program, summed or summary
        test.append(line)
    yield from _bare_case(test, tag or name)


def _is_source(line: str) -> bool:
    match = _FLAG.match(line)
    return bool(match and match[1])


def _bare_case(lines: Sequence[str], name: str) -> Iterator[Case]:
    flags = [flag for _, flag, _ in _flags(lines)]
    counts = {match[1]: int(match[2]) for line in lines if (match := _SUMMARY.fullmatch(line))}
    if not flags and not counts:
        return
    bad = [key for key in ("failed", "broken", "warnings") if counts.get(key)]
    if bad or any(flag in _BAD_FLAGS for flag in flags):
        outcome, message = Outcome.FAIL, _reason(lines) or ", ".join(bad)
    elif counts.get("passed") or ("TPASS" in flags and (counts or not any(map(_is_source, lines)))):
        outcome, message = Outcome.PASS, ""
    elif "TCONF" in flags or counts.get("skipped"):
        outcome, message = Outcome.SKIP, _reason(lines)
    else:
        result = "no summary" if "TPASS" in flags else "no result and no summary"
        outcome, message = Outcome.FAIL, f"it did not end: {result}"
    yield case_of(name, outcome, message, "\n".join(lines) if outcome is not Outcome.PASS else "")
