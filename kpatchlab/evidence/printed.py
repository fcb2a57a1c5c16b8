"""What a scenario's script prints -> cases, whatever form it prints them in.

Forms of other people's suites are read as a file of theirs is. Their exit statuses say nothing: most are 0 with
failures, or for a test that there is none of. So what was asked for is held against what has a result, by two lines of
the script's own, anywhere in its output:

    # asked: NAME         this test is to run
    # not run: REASON     what was asked for and has no result was left out on purpose: there is no time for it
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace

from kpatchlab.errors import UserError
from kpatchlab.evidence import blktests, junit, ktap, ltp
from kpatchlab.evidence.ktap import Parsed
from kpatchlab.evidence.suite import Suite, apart, case_of
from kpatchlab.lab.scenario import Prints
from kpatchlab.model import Case, Outcome
from kpatchlab.textclean import one_line

READERS: dict[Prints, Callable[[bytes, str], list[Suite]]] = {
    Prints.JUNIT: junit.read,
    Prints.LTP: ltp.read,
    Prints.BLKTESTS: blktests.read_text,
}
"""Form -> (bytes, name of what has no name) -> suites."""
NAME_CHARS = 300
MOST_ASKED = 20_000
_OWN = re.compile(rb"^# (asked|not run): *(\S[^\n]*)\n?", re.MULTILINE)


def read(form: Prints, stdout: bytes, *, exit_status: int | None) -> Parsed:
    """Read a script's standard output.

    Args:
        stdout: anything at all.
        exit_status: the script's; None where it has none (killed, out of time): then nothing is missed.
    """
    if form is Prints.KTAP:
        return ktap.parse(stdout, exit_status=exit_status)
    asked, reason, rest = _own_lines(stdout)
    problems: list[str] = []
    try:
        found, why = _cases(READERS[form](rest, "results")), f"there is no result of {form} in what was printed"
    except UserError as error:
        found, why = [], error.message
    if not found and not reason:
        problems.append(why)
    if asked:  # suites that list all that they have call the others skipped
        wanted = set(asked)
        found = [case for case in found if case.outcome is not Outcome.SKIP or _names(case) & wanted]
    if exit_status is not None:
        found += _missing(asked, found, reason)
        if exit_status and not any(case.outcome.is_bad for case in found):
            problems.append(f"the script exited with status {exit_status}, though no case failed")
    return Parsed(apart(found), (), tuple(problems) if exit_status is not None else ())


def _own_lines(stdout: bytes) -> tuple[list[str], str, bytes]:
    """Return what was asked for, why some of it did not run, and the output without the lines that say so."""
    asked: dict[str, None] = {}
    reason = ""
    for match in _OWN.finditer(stdout):
        text = one_line(match[2].decode("utf-8", "replace"), NAME_CHARS).strip()
        if match[1] == b"not run":
            reason = text
        elif len(asked) < MOST_ASKED:
            asked[text] = None
    return list(asked), reason, _OWN.sub(b"", stdout)


def _cases(suites: list[Suite]) -> list[Case]:
    """Return the cases of all suites, under the names of these where there are different ones."""
    suites = [suite for suite in suites if suite.cases]
    if len({suite.name for suite in suites}) == 1:
        return [case for suite in suites for case in suite.cases]
    return [replace(case, name=f"{suite.name} / {case.name}") for suite in suites for case in suite.cases]


def _names(case: Case) -> set[str]:
    """Return what a test may be asked for by: behind its name there may be the device, or a condition."""
    return {case.name, case.name.partition(" ")[0]}


def _missing(asked: list[str], found: list[Case], reason: str) -> Iterator[Case]:
    """Yield a case for each test that was asked for and has no result."""
    answered = {name for case in found for name in _names(case)}
    for name in asked:
        if name not in answered and reason:
            yield case_of(name, Outcome.SKIP, f"not run: {reason}")
        elif name not in answered:
            yield case_of(name, Outcome.FAIL, "it was to run, and has no result")
