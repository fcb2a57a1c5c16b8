"""One line of KTAP or TAP: what it is, and what a result says. Knows nothing of the lines around it."""

from __future__ import annotations

import enum
import re
from collections import Counter
from dataclasses import dataclass

from kpatchlab.evidence import logged
from kpatchlab.model import Outcome
from kpatchlab.textclean import one_line

_TAB = 8
_PRINTK = re.compile(
    rf"(?=\S){logged.HOST}{logged.ISO}{logged.LEVEL}"
    rf"(?:\[(?: *\d+\.\d{{6}}|{logged.CLOCK})\](?: ?\[ *[TC]\d+\])? ?)?"  # time, caller
)
_RESULT = re.compile(r"(not )?ok\b(?: +(?:1\.\.)?(\d{1,9})\b)?(?:$| *- *| +)(.*)$")  # `1..N`: kselftest up to 5.1
_PLAN = re.compile(r"1\.\.(\d{1,9})\s*(?:#\s*(.*))?$")
_VERSION = re.compile(r"K?TAP version \d+$")
_SUBTEST = re.compile(r"#\s*Subtest:\s*(.*)$")
_COUNTER = re.compile(r"(\d{1,9}) (?=selftests: )|(\d{1,9}) - ")
_PROGRAM = re.compile(r"# (?:\d{1,9} )?(selftests: \S+: \S.*)$")
_PARAMETER = re.compile(r"# [\w.-]+: (?=(?:not )?ok \d{1,9} - )")
_TOTALS = re.compile(r"#\s*(?:Totals|(?P<name>[\w.-]+)):((?:\s+(?:pass|fail|xfail|xpass|skip|error|total):\d{1,9})+)$")
_RUN = re.compile(r"#\s*RUN\s+(\S+) \.\.\.$")
"""What kselftest_harness prints before each test: up to 6.8, a test that is skipped has its name nowhere else."""
_DIRECTIVE = re.compile(
    r"(?:^|\s)#(\s*)(SKIP(?:PED)?|TODO|XFAIL|XPASS|TIMEOUT|ERROR)(?=$|[\s:,;(])[\s:]*", re.IGNORECASE
)
_BRACKET = re.compile(r"(selftests: .*) \[(?:PASS|FAIL|(SKIP|TIMEOUT))\]$")
"""kselftest up to 5.1 said so behind the name."""
_COMMENT = re.compile(r"(?:^|\s)#\s(.*)$")


class Directive(enum.StrEnum):
    """What a result says beyond `ok` and `not ok`."""

    SKIP = "SKIP"
    TODO = "TODO"
    XFAIL = "XFAIL"
    XPASS = "XPASS"
    TIMEOUT = "TIMEOUT"
    ERROR = "ERROR"


@dataclass(frozen=True, slots=True)
class Result:
    """A result line; name and message are one line each and of any length.

    Attributes:
        number: None where it has none.
        sure: False where it may be prose that begins with "ok".
        clean: whether all of it is UTF-8.
    """

    ok: bool
    number: int | None
    name: str
    directive: Directive | None
    message: str
    sure: bool
    clean: bool

    @property
    def outcome(self) -> Outcome:
        """Return what it means: a failure that was expected, or is work to do, is a skip, which is no pass."""
        match self.directive:
            case Directive.SKIP | Directive.XFAIL:
                return Outcome.SKIP
            case Directive.TODO if not self.ok:
                return Outcome.SKIP
            case Directive.TIMEOUT:
                return Outcome.TIMEOUT
            case Directive.ERROR:
                return Outcome.FAIL
            case _:
                return Outcome.PASS if self.ok else Outcome.FAIL

    @property
    def counter(self) -> str:
        """Return where a `# Totals:` line counts it."""
        if self.directive in {Directive.SKIP, Directive.XFAIL, Directive.XPASS, Directive.ERROR}:
            return str(self.directive).lower()
        if self.directive is Directive.TODO and not self.ok:
            return "xfail"
        return "pass" if self.ok and self.directive is not Directive.TIMEOUT else "fail"


@dataclass(frozen=True, slots=True)
class Plan:
    """A plan: how many results, and why they are none ("" without a word, None where it does not say SKIP)."""

    count: int
    skip: str | None


@dataclass(frozen=True, slots=True)
class Version:
    """The line that begins a report."""


@dataclass(frozen=True, slots=True)
class BailOut:
    """The program gave up."""

    reason: str


@dataclass(frozen=True, slots=True)
class Announced:
    """What comes next: a subtest with results of its own, or a program of kselftest, which may have some."""

    title: str
    is_subtest: bool


@dataclass(frozen=True, slots=True)
class Running:
    """The test of kselftest_harness that begins."""

    name: str


@dataclass(frozen=True, slots=True)
class Totals:
    """How many results of each kind there were, as the program counts: pass, fail, xfail, xpass, skip, error, total."""

    counts: dict[str, int]
    text: str

    def fit(self, seen: Counter[str]) -> bool:
        """Tell whether they are those of results, by `Result.counter`."""
        claimed = {key: count for key, count in self.counts.items() if key != "total"}
        whole = self.counts.get("total", sum(claimed.values()))
        return whole == seen.total() and all(seen[key] == count for key, count in claimed.items())


Item = Result | Plan | Version | BailOut | Announced | Running | Totals


def of_kernel(text: str) -> str | None:
    """Return a line of the kernel's log without what printk, dmesg or syslog put before it; None: it is none."""
    match = _PRINTK.match(text)
    return text[match.end() :] if match and match.end() else None


def split_indent(text: str) -> tuple[int, str]:
    """Return how far a line is indented (a tab counts as eight blanks), and the rest."""
    body = text.lstrip(" \t")
    return len(text[: len(text) - len(body)].expandtabs(_TAB)), body


def commented(body: str) -> str | None:
    """Return the line that kselftest's runner put "# " before, or somebody "#" alone; None: it is no such line.

    KUnit from 5.11 to 5.15 told so of a case's parameters, with the case's name before them.
    """
    if match := _PARAMETER.match(body):
        return body[match.end() :]
    if body[:2] in {"# ", "#\t"} and len(body) > 2:
        return body[2:]
    return body[1:] if body.startswith(("#ok ", "#not ok ")) else None


def read(body: str) -> Item | None:
    """Return what a line without its indent says, None for diagnostics and prose. Linear in its length."""
    if body[0] == "#":
        return _read_comment(body)
    if body.startswith(("ok", "not ok")) and (match := _RESULT.match(body)):
        return _read_result(match, body)
    if body[0] == "1" and (match := _PLAN.match(body)):
        skip = (match[2] or "").upper().startswith("SKIP")
        return Plan(int(match[1]), re.sub(r"^\w+[:\s]*", "", match[2]) if skip else None)
    if body.startswith("Bail out!"):
        return BailOut(body[9:].strip() or "no reason given")
    return Version() if _VERSION.match(body) else None


def _read_comment(body: str) -> Item | None:
    if match := _SUBTEST.match(body):
        return Announced(one_line(match[1]), is_subtest=True)
    if match := _PROGRAM.match(body):
        return Announced(one_line(match[1]), is_subtest=False)
    if match := _RUN.match(body):
        return Running(match[1])
    if match := _TOTALS.match(body):
        counts = {key: int(value) for key, value in (word.split(":") for word in match[2].split())}
        if not match["name"] or {"pass", "fail", "skip", "total"} <= counts.keys():  # else prose of a program
            return Totals(counts, match[2].strip())
    return None


def _read_result(match: re.Match[str], body: str) -> Result:
    ok, number, name = not match[1], int(match[2]) if match[2] else None, match[3]
    dash = match[0][: match.start(3)].rstrip().endswith("-")
    # A second counter, as the runner of the network developers' tests prints. Numbers without a mark are names.
    if (again := _COUNTER.match(name)) and (again[1] or int(again[2]) == number):
        name = name[again.end() :]
    directive, message = None, ""
    if found := next((found for found in _DIRECTIVE.finditer(name) if _is_directive(found, ok=ok)), None):
        directive, message = Directive(found[2].upper().removesuffix("PED")), name[found.end() :].strip()
        name = name[: found.start()]
    elif old := _BRACKET.match(name):
        directive, name = Directive(old[2]) if old[2] else None, old[1]
    if comment := _COMMENT.search(name):  # figures such as `# time=3ms`: not part of the name
        message, name = message or comment[1].strip(), name[: comment.start()]
    name = " ".join(name.replace("\\#", "#").split())
    return Result(
        ok, number, name, directive, message, number is not None or not match[3] or dash, "\ufffd" not in body
    )


def _is_directive(found: re.Match[str], *, ok: bool) -> bool:
    """Tell a directive from a name with such a word in it.

    `# word` is one. `#word` is one where nothing stands before it, or in capitals: TAP allows it, but names have
    `#error` and `#timeout`. Those that make a failure of an `ok` have to be in capitals, as the kernel prints them.
    """
    apart, capitals = bool(found[1]) or not found.start(), found[2].isupper()
    if found[2].upper() in {Directive.TIMEOUT, Directive.ERROR}:
        return apart and (capitals or not ok)
    return apart or capitals
