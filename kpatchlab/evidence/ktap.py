"""What a scenario printed -> cases, metrics, and what is wrong with the report itself.

Reads KTAP 1 (Documentation/dev-tools/ktap.rst) and TAP 13/14 as kselftest, KUnit and the lab's own scenarios
print them. The output may be forged, lost in part or garbage: whatever a complete report would not contain is a
`problem`, and one problem is enough to fail a job, so that a lost line is never a pass. Linear in the input;
details, problems and the number of cases are bounded.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from dataclasses import dataclass, field

from kpatchlab.model import Case, Metric, Outcome
from kpatchlab.textclean import iter_lines, one_line, printable

LINE_BYTES = 4096
NAME_LENGTH = 300
NOTE_LINES = 60
"""Lines of diagnostics kept from the head and from the tail of what belongs to one case."""
NOTE_WIDTH = 500
MAX_NOTE_CHARS = 16 << 20
"""Details of all cases together; later ones are left out."""
MAX_CASES = 20_000
MAX_METRICS = 2_000
MAX_PROBLEMS = 50
MAX_DEPTH = 8

_ODD = re.compile(rb"[^\t\x20-\x7e]")
_RESULT = re.compile(r"(not )?ok\b(?: +(\d{1,9})\b)?(?:$| *- *| +)(.*)$")
_PLAN = re.compile(r"1\.\.(\d{1,9})\s*(?:#\s*(.*))?$")
_VERSION = re.compile(r"K?TAP version \d+$")
_SUBTEST = re.compile(r"#\s*Subtest:\s*(.*)$")
_DIRECTIVE = re.compile(r"(?:^|\s)#\s*(SKIP|TODO|XFAIL|TIMEOUT|ERROR)\w*\b[:\s]*(.*)$", re.IGNORECASE)
_RUN = re.compile(r"#\s*RUN\s+(\S+) \.\.\.$")
"""What kselftest_harness prints before each test: up to 6.8, a test that is skipped has its name nowhere else."""
_COMMENT = re.compile(r"\s#\s(.*)$")
_NUMBER = re.compile(r"[-+]?\d{1,30}(?:\.\d{1,30})?(?:[eE][-+]?\d{1,2})?")
_METRIC = re.compile(rf"metric ([\w./:+-]+) ({_NUMBER.pattern}) (\S{{1,40}}) (higher|lower)$")


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a scenario's standard output says; with any `problems` the job has failed, whatever the cases say."""

    cases: tuple[Case, ...]
    metrics: tuple[Metric, ...]
    problems: tuple[str, ...]


class _Notes:
    """Diagnostics of one case: the head and the tail, in bounded memory."""

    def __init__(self) -> None:
        self._head: list[str] = []
        self._tail: deque[str] = deque(maxlen=NOTE_LINES)
        self._total = 0

    def __bool__(self) -> bool:
        return self._total > 0

    def add(self, line: str) -> None:
        self._total += 1
        (self._head if self._total <= NOTE_LINES else self._tail).append(line[:NOTE_WIDTH])

    def chars(self) -> int:
        return sum(map(len, self._head)) + sum(map(len, self._tail))

    def text(self) -> str:
        cut = self._total - len(self._head) - len(self._tail)
        return "\n".join([*self._head, *([f"[... {cut} lines cut ...]"] if cut else []), *self._tail])


@dataclass(slots=True)
class _Entry:
    """A case whose diagnostics may still come."""

    name: str
    outcome: Outcome
    message: str
    notes: _Notes
    after: _Notes  # what follows a failure that came without a word


@dataclass(slots=True)
class _Level:
    """One report: the outermost, or a subtest's, which its parent's result line ends."""

    indent: int
    title: str = ""
    next_title: str = ""
    plan: int | None = None
    seen: int = 0
    next_number: int = 1
    overrun: bool = False
    entries: list[_Entry] = field(default_factory=list)
    notes: _Notes = field(default_factory=_Notes)
    last: _Entry | None = None  # the last result of this level itself
    running: str = ""  # the test that was announced
    bad: bool = False

    def where(self) -> str:
        return f" in subtest {self.title!r}" if self.title else " in a subtest" if self.indent else ""


def parse(stdout: bytes, *, exit_status: int | None) -> Parsed:
    """Read a scenario's standard output.

    Nested cases are named "parent / child"; a parent is a case of its own only where it has no children, or
    where it failed and none of them did. Diagnostics belong to the result that they precede (as KTAP has it),
    except behind a failure that came without any. TODO and XFAIL are known failures and come out as SKIP, which
    is no pass; directives stand in the message.

    Args:
        stdout: anything at all.
        exit_status: the script's; None where it has none (killed, out of time), which is the caller's to judge.
    """
    reader = _Reader()
    for raw in iter_lines(stdout, LINE_BYTES):
        reader.line(raw)
        if reader.bailed:
            break
    return reader.finish(exit_status)


class _Reader:
    def __init__(self) -> None:
        self._levels = [_Level(0)]
        self._metrics: list[Metric] = []
        self._problems: list[str] = []
        self._problem_count = 0
        self._case_count = 0
        self._skip_all: str | None = None
        self._versions = 0
        self._note_chars = 0
        self.bailed = False

    def problem(self, text: str) -> None:
        """Note what is wrong, up to a number of times."""
        self._problem_count += 1
        if self._problem_count <= MAX_PROBLEMS:
            self._problems.append(one_line(text, 400))

    def line(self, raw: bytes) -> None:
        """Take one line, without its end."""
        text = printable(raw).replace("\n", " ") if _ODD.search(raw) else raw.decode("ascii")
        text = text.rstrip()
        body = text.lstrip(" ")
        if not body:
            return
        indent = len(text) - len(body)
        if body.startswith(("ok", "not ok")) and (match := _RESULT.match(body)) and self._is_result(match, indent):
            self._result(indent, match, clean="\ufffd" not in body)
        elif body[0] == "1" and (match := _PLAN.match(body)):
            self._plan(indent, match)
        elif body.startswith("Bail out!"):
            self.bailed = True
            self.problem(f"the scenario bailed out: {body[9:].strip() or 'no reason given'}")
        elif body[:7] in {"metric", "metric "}:
            self._metric(body)
        elif _VERSION.match(body):
            self._versions += indent == 0
            if indent == 0 and self._versions == 2:
                self.problem("a second report begins: more than one version line")
        elif match := _SUBTEST.match(body):
            self._subtest(indent, one_line(match[1]))
        else:
            self._note(indent, body)

    def _is_result(self, match: re.Match[str], indent: int) -> bool:
        """Tell a result from prose that begins with "ok": without a number, only `ok` alone or `ok - name`."""
        if match[2]:
            return True
        return indent == 0 and (not match[3] or match[0][: match.start(3)].rstrip().endswith("-"))

    def _level(self, indent: int) -> _Level:
        """Return the level at `indent`; deeper ones that no result line of their parent has ended stay pending."""
        while len(self._levels) > 1 and self._levels[-1].indent > indent:
            self._fold("")
        if self._levels[-1].indent < indent and len(self._levels) < MAX_DEPTH:
            self._levels.append(_Level(indent, title=self._levels[-1].next_title))
            self._levels[-2].next_title = ""
        return self._levels[-1]

    def _subtest(self, indent: int, title: str) -> None:
        """Take a subtest's title, which KUnit prints indented as its cases are and TAP 14 as its parent is."""
        if indent > self._levels[-1].indent:
            self._level(indent).title = title
        else:
            self._level(indent).next_title = title

    def _fold(self, parent: str) -> tuple[bool, bool]:
        """End the innermost level and hand its cases up as `parent / case`; (it had cases, one was bad)."""
        level = self._levels.pop()
        self._check_plan(level)
        above = self._levels[-1]
        title = parent or level.title
        if not parent:
            self.problem(f"subtest {title!r} has no result line" if title else "a subtest has no result line")
        for entry in level.entries:
            entry.name = f"{title} / {entry.name}" if title else entry.name
        above.entries += level.entries
        return bool(level.entries), level.bad

    def _check_plan(self, level: _Level) -> None:
        if level.plan is None:
            if level.indent == 0 and not self.bailed:  # KUnit's parameterised subtests have none
                self.problem("no plan (1..N)")
        elif level.plan != level.seen and not level.overrun:
            self.problem(f"the plan says {level.plan} results, {level.seen} came{level.where()}")

    def _plan(self, indent: int, match: re.Match[str]) -> None:
        level = self._level(indent)
        if level.plan is not None:
            self.problem(f"a second plan{level.where()}: {match[0]}")
            return
        level.plan = int(match[1])
        if level.plan == 0 and match[2] and match[2].upper().startswith("SKIP") and indent == 0:
            self._skip_all = re.sub(r"^\w+[:\s]*", "", match[2])

    def _result(self, indent: int, match: re.Match[str], *, clean: bool) -> None:
        while len(self._levels) > 2 and self._levels[-2].indent > indent:
            self._fold("")
        nested = self._levels[-1].indent > indent
        if not nested:
            self._level(indent)
        elif self._levels[-2].indent < indent:  # a level that announced itself by neither plan nor title
            self._levels.insert(-1, _Level(indent))
        level = self._levels[-2 if nested else -1]
        self._count(level, match)
        name, outcome, message = self._read(match, level, clean=clean)
        had_children, child_bad = self._fold(name) if nested else (False, False)
        level.bad |= outcome.is_bad or child_bad
        if level.last:
            level.last.after = self._afford(level.last.after)
        entry = level.last = _Entry(name, outcome, message, self._afford(level.notes), _Notes())
        level.notes = _Notes()
        if not had_children or (outcome.is_bad and not child_bad):
            self._case_count += 1
            if self._case_count <= MAX_CASES:
                level.entries.append(entry)
            elif self._case_count == MAX_CASES + 1:
                self.problem(f"more than {MAX_CASES} results: the others are not kept")

    def _afford(self, notes: _Notes) -> _Notes:
        """Return `notes`, or empty ones where all details together have grown too large."""
        self._note_chars += notes.chars()
        return notes if self._note_chars <= MAX_NOTE_CHARS else _Notes()

    def _count(self, level: _Level, match: re.Match[str]) -> None:
        number = int(match[2]) if match[2] else level.next_number
        if number < level.next_number:
            self.problem(f"result {number} comes twice or out of order{level.where()}")
        elif number > level.next_number:
            self.problem(f"results {level.next_number} to {number - 1} are missing before {number}{level.where()}")
        level.next_number = max(level.next_number, number + 1)
        level.seen += 1
        if level.plan is not None and level.seen > level.plan:
            level.overrun = True
            self.problem(f"result {number} comes after the plan of {level.plan} was complete{level.where()}")

    def _read(self, match: re.Match[str], level: _Level, *, clean: bool) -> tuple[str, Outcome, str]:
        """Return name, outcome and message of a result line."""
        name, message, directive = match[3], "", ""
        if found := _DIRECTIVE.search(name):
            directive, message, name = found[1].upper(), found[2].strip(), name[: found.start()]
        elif found := _COMMENT.search(name):  # figures such as `# time=3ms`: not part of the name
            message, name = found[1].strip(), name[: found.start()]
        name = one_line(name.replace("\\#", "#"), 2 * NAME_LENGTH) or level.running or f"case {level.seen}"
        level.running = ""
        if not clean:
            self.problem(f"the name of {name!r} is not UTF-8")
        if len(name) > NAME_LENGTH:
            name = name[: NAME_LENGTH - 1] + "…"
            self.problem(f"a name is longer than {NAME_LENGTH} characters: {name[:60]}…")
        outcome = Outcome.FAIL if match[1] else Outcome.PASS
        if directive == "SKIP" or directive == "XFAIL" or (directive == "TODO" and match[1]):  # noqa: PLR1714
            outcome = Outcome.SKIP
        elif directive == "TIMEOUT":
            outcome = Outcome.TIMEOUT
        elif directive == "ERROR":
            outcome = Outcome.FAIL
        if directive and directive != "SKIP":
            message = f"{directive}: {message}" if message else directive
        return name, outcome, one_line(message, 1000)

    def _metric(self, body: str) -> None:
        match = _METRIC.match(body)
        if not match:
            self.problem(f"malformed metric line, {_fault(body)}: {body}")
        elif len(self._metrics) < MAX_METRICS:
            self._metrics.append(Metric(match[1], float(match[2]), match[3], match[4]))
            if len(self._metrics) == MAX_METRICS:
                self.problem(f"{MAX_METRICS} metrics or more: the others are not kept")

    def _note(self, indent: int, body: str) -> None:
        level = self._levels[-1]
        if body[0] == "#":
            level = next(lev for lev in reversed(self._levels) if lev.indent <= indent)
            if running := _RUN.match(body):
                level.running = one_line(running[1], NAME_LENGTH)
        note = body[1:].removeprefix(" ") if body[0] == "#" else body
        last = level.last
        if last and last.outcome.is_bad and not last.notes:
            last.after.add(note)
        else:
            level.notes.add(note)

    def finish(self, exit_status: int | None) -> Parsed:
        """End all levels and judge the whole."""
        while len(self._levels) > 1:
            self._fold("")
        top = self._levels[0]
        if top.last and top.notes:  # nothing follows: it belongs to what came before
            top.last.after.add(top.notes.text())
        if self._skip_all is not None and not top.seen:
            entry = _Entry("all cases", Outcome.SKIP, one_line(self._skip_all, 1000), top.notes, _Notes())
            top.entries.append(entry)
        else:
            self._check_plan(top)
            if not top.entries:
                self.problem("no result at all")
        cases = _named_apart(top.entries)
        if exit_status and not any(case.outcome.is_bad for case in cases):
            self.problem(f"the script exited with status {exit_status}, though no case failed")
        if (more := self._problem_count - MAX_PROBLEMS) > 0:
            self._problems.append(f"and {more} more problems")
        return Parsed(cases, tuple(self._metrics), tuple(self._problems))


def _fault(line: str) -> str:
    """Say what is wrong with a metric line."""
    words = line.split()[1:]
    if len(words) > 1 and not _NUMBER.fullmatch(words[1]):
        return f"{words[1][:40]!r} is not a number"
    if len(words) == 2 or (len(words) == 3 and words[2] in {"higher", "lower"}):
        return "without a unit"
    return "not `metric NAME VALUE UNIT higher|lower`"


def _named_apart(entries: list[_Entry]) -> tuple[Case, ...]:
    """Return cases, the second of one name with " (2)" behind it, so that names are keys."""
    split = [_answered(entry.name) for entry in entries]
    taken = {name for name, _ in split}
    count: Counter[str] = Counter()
    cases = []
    for entry, (own, answer) in zip(entries, split, strict=True):
        count[own] += 1
        name = own[:NAME_LENGTH]
        while count[own] > 1 and (name := f"{own[:NAME_LENGTH]} ({count[own]})") in taken:
            count[own] += 1
        taken.add(name)
        details = "\n".join(part for part in (entry.notes.text(), entry.after.text()) if part)
        cases.append(Case(name, entry.outcome, entry.message, details, answer=answer))
    return tuple(cases)


def _answered(name: str) -> tuple[str, str]:
    """Split "a question: answer=what was seen": what is recorded, and compared without being right or wrong."""
    question, mark, answer = name.rpartition(": answer=")
    return (question, answer) if mark and question and answer else (name, "")
