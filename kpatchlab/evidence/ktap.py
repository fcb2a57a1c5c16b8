"""What a scenario printed -> cases, metrics, and what is wrong with the report itself.

Reads KTAP 1 (Documentation/dev-tools/ktap.rst) and TAP 13/14 as kselftest, KUnit and the lab's own scenarios
print them: indented by blanks or tabs, as comments of kselftest's runner, and through printk. The output may be
forged, lost in part or garbage: whatever a complete report would not contain is a `problem`, and one problem is
enough to fail a job, so that a lost line is never a pass. Linear in the input; details, problems and the number of
cases are bounded.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from dataclasses import dataclass, field

from kpatchlab.evidence import ktap_line
from kpatchlab.evidence.ktap_line import Announced, BailOut, Directive, Item, Plan, Result, Running, Totals, Version
from kpatchlab.evidence.suite import apart
from kpatchlab.model import Case, Metric, Outcome
from kpatchlab.textclean import iter_lines, line_of, one_line

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
_COMMENT_INDENT = 2
"""How much deeper a line stands that kselftest's runner made a comment: the width of "# "."""

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
    """One report: the outermost, or a subtest's, which its parent's result line ends.

    Attributes:
        started: whether anything of the report that is being read came.
        next_title: of what comes next below it; `next_is_subtest` where that has to have results.
        skip: why a report has no results, where its plan says so.
        outcomes: of all results of the level and below it.
        own, leaves: what a `# Totals:` line may count: the results of the level, or of the lowest levels below it.
    """

    indent: int
    title: str = ""
    next_title: str = ""
    next_is_subtest: bool = False
    started: bool = False
    again: int = 1
    plan: int | None = None
    skip: str | None = None
    seen: int = 0
    next_number: int = 1
    overrun: bool = False
    bailed: bool = False
    entries: list[_Entry] = field(default_factory=list)
    notes: _Notes = field(default_factory=_Notes)
    last: _Entry | None = None  # the last result of this level itself
    running: str = ""  # the test that was announced
    outcomes: set[Outcome] = field(default_factory=set)
    own: Counter[str] = field(default_factory=Counter)
    leaves: Counter[str] = field(default_factory=Counter)

    def where(self) -> str:
        """Return a tail for messages about the report."""
        place = f" in subtest {self.title!r}" if self.title else " in a subtest" if self.indent else ""
        return f"{place} in report {self.again}" if self.again > 1 else place

    def begin_again(self) -> None:
        """Make ready for one more report at the same level; what came stays."""
        self.again += 1
        self.plan, self.skip, self.seen, self.next_number, self.overrun, self.bailed = None, None, 0, 1, False, False
        self.own, self.leaves, self.started, self.running = Counter(), Counter(), False, ""


def parse(stdout: bytes, *, exit_status: int | None) -> Parsed:
    """Read a scenario's standard output, or the log of a kernel or a test runner.

    Nested cases are named "parent / child"; a parent is a case of its own only where it has no children, or
    where it says something bad that none of them does. Diagnostics belong to the result that they precede (as KTAP
    has it), except behind a failure that came without any. TODO and XFAIL are known failures and come out as SKIP,
    which is no pass; directives stand in the message. One report after another is read as well, each with its own
    plan. The lines of the kernel's log are a stream of their own, so that KUnit may speak while another test does.

    Args:
        stdout: anything at all.
        exit_status: the script's; None where it has none (killed, out of time), which is the caller's to judge.
    """
    own, kernel = _Reader(), _Reader()
    for raw in iter_lines(stdout, LINE_BYTES):
        text = line_of(raw)
        said = ktap_line.of_kernel(text)
        if said is None:
            own.line(text)
        elif kernel.began or isinstance(ktap_line.read(said.strip() or " "), Version):
            kernel.line(said)
        else:
            own.note(text)
    readers = [reader for reader in (own, kernel) if reader.began] or [own]
    cases = apart(_case(entry) for reader in readers for entry in reader.finish())
    problems = [problem for reader in readers for problem in reader.problems]
    if exit_status and not any(case.outcome.is_bad for case in cases):
        problems.append(f"the script exited with status {exit_status}, though no case failed")
    if (more := sum(reader.problem_count for reader in readers) - MAX_PROBLEMS * len(readers)) > 0:
        problems.append(f"and {more} more problems")
    return Parsed(cases, tuple(own.metrics), tuple(problems))


class _Reader:
    """Reads one stream of lines.

    Attributes:
        began: whether anything of a report came.
    """

    def __init__(self) -> None:
        self._levels = [_Level(0)]
        self.metrics: list[Metric] = []
        self.problems: list[str] = []
        self.problem_count = 0
        self._case_count = 0
        self._note_chars = 0
        self._base = 0
        self._empty = 0  # the first report that plans no result, and does not say why
        self.began = False

    def _problem(self, text: str) -> None:
        """Note what is wrong, up to a number of times."""
        self.problem_count += 1
        if self.problem_count <= MAX_PROBLEMS:
            self.problems.append(one_line(text, 400))

    def line(self, text: str) -> None:
        """Take one line, cleaned."""
        indent, body = ktap_line.split_indent(text)
        if not body:
            return
        if body[:7] in {"metric", "metric "}:
            self._metric(body)
            return
        item = ktap_line.read(body)
        if isinstance(item, Plan | Version) or (isinstance(item, Result) and item.sure):
            self._set_base(indent, item)
        indent = max(indent - self._base, 0)
        indent, body, item = self._inner(indent, body, MAX_DEPTH) or (indent, body, item)
        if isinstance(item, Result) and not self._is_result(item, indent):
            item = None
        self._take(indent, item, body)

    def _set_base(self, indent: int, item: Item) -> None:
        """Let a report begin as far in as its first version line, until a line further out shows what is around it."""
        if not self.began and isinstance(item, Version):
            self._base = indent
        elif indent < self._base:
            for level in self._levels:
                level.indent += self._base
            self._levels.insert(0, _Level(0))
            self._base = 0

    def _inner(self, indent: int, body: str, depth: int) -> tuple[int, str, Item | None] | None:
        """Return what a comment holds if it is a line of a program below: a result, a plan, or what belongs to such."""
        wrapped = ktap_line.commented(body)
        if not wrapped or not depth:
            return None
        extra, inner = ktap_line.split_indent(wrapped)
        indent += _COMMENT_INDENT + extra
        if deeper := self._inner(indent, inner, depth - 1):
            return deeper
        item = ktap_line.read(inner) if inner else None
        fits = isinstance(item, Plan | Version | BailOut) or (
            isinstance(item, Result) and self._is_result(item, indent)
        )
        if not fits and self._is_open(indent):
            fits = item is not None or inner[:1] == "#"
        return (indent, inner, item) if fits else None

    def _is_open(self, indent: int) -> bool:
        return any(level.indent == indent for level in self._levels)

    def _is_result(self, item: Result, indent: int) -> bool:
        """Tell a result from prose that begins with "ok": without a number, only `ok - name`, or `ok` in a report."""
        return item.number is not None or (item.sure and (bool(item.name) or self._is_open(indent)))

    def _take(self, indent: int, item: Item | None, body: str) -> None:
        self.began |= isinstance(item, Result | Plan | Version | BailOut)
        match item:
            case Result():
                self._result(indent, item)
            case Plan():
                self._plan(indent, item, body)
            case Version():
                level = self._level(indent)
                if level.started:
                    self._end_report(level)
                level.started = True
            case BailOut():
                level = self._level(indent)
                level.bailed = level.started = True
                self._problem(f"the scenario bailed out: {item.reason}" if not indent else _bailed(level, item.reason))
                self.note(body)
            case Announced():
                self._announce(indent, item)
            case _:
                if isinstance(item, Totals):
                    self._totals(indent, item)
                self._note(indent, body, item)

    def _level(self, indent: int) -> _Level:
        """Return the level at `indent`; deeper ones that no result line of their parent has ended stay pending."""
        while len(self._levels) > 1 and self._levels[-1].indent > indent:
            self._fold("", None)
        if self._levels[-1].indent < indent and len(self._levels) < MAX_DEPTH:
            self._levels.append(_Level(indent, title=self._levels[-1].next_title))
            self._levels[-2].next_title = ""
        return self._levels[-1]

    def _announce(self, indent: int, item: Announced) -> None:
        """Take a title, which KUnit prints indented as its cases are, and TAP 14 as its parent is."""
        while not item.is_subtest and len(self._levels) > 1 and self._levels[-1].indent > indent:
            self._fold("", None)  # the next program begins, and the one before has no result line
        level = self._levels[-1]
        if item.is_subtest and indent > level.indent:
            level = self._level(indent)
        begins = item.is_subtest and indent and level.indent == indent and not level.seen and level.plan is None
        if begins and level.outcomes:
            self._fold("", None)  # what came before at this level was of a suite that broke off
            level = self._level(indent)
        if begins and level.title in {"", item.title}:
            level.title = item.title
        else:
            level.next_title, level.next_is_subtest = item.title, item.is_subtest

    def _fold(self, parent: str, outcome: Outcome | None) -> _Level:
        """End the innermost level and hand its cases up as `parent / case`; `outcome`: the parent's, if it has one."""
        level = self._levels.pop()
        self._check_plan(level)
        above = self._levels[-1]
        title = parent or level.title
        if outcome is None:
            self._problem(f"subtest {title!r} has no result line" if title else "a subtest has no result line")
        for entry in level.entries:
            entry.name = f"{title} / {entry.name}" if title else entry.name
        above.entries += level.entries
        above.outcomes |= level.outcomes
        return level

    def _check_plan(self, level: _Level) -> None:
        if level.bailed:
            return
        if level.plan is None:
            if level.indent == 0:  # KUnit's parameterised subtests have none
                self._problem(f"no plan (1..N){level.where()}")
        elif level.plan != level.seen and not level.overrun:
            self._problem(f"the plan says {level.plan} results, {level.seen} came{level.where()}")

    def _end_report(self, level: _Level) -> None:
        """End a report behind which another one may begin at the same level."""
        if level.indent == 0:
            if level.last and level.notes:  # nothing follows: it belongs to what came before
                level.last.after.add(level.notes.text())
                level.notes = _Notes()
            if level.skip is not None and not level.seen:
                level.entries.append(
                    _Entry("all cases", Outcome.SKIP, one_line(level.skip, 1000), level.notes, _Notes())
                )
                level.notes = _Notes()
                level.begin_again()
                return
            if level.plan == 0 and not level.seen:
                self._empty = self._empty or level.again
        self._check_plan(level)
        level.begin_again()

    def _plan(self, indent: int, plan: Plan, body: str) -> None:
        level = self._level(indent)
        if level.next_title and level.next_is_subtest and indent and level.started:
            self._broke_off(level)  # the plan of a suite that was announced as deep as the one before
            level = self._levels[-1]
        elif indent and level.plan is not None and level.plan == level.seen and level.seen:
            self._end_report(level)  # a program of kselftest may print no version line
        if level.plan is not None:
            self._problem(f"a second plan{level.where()}: {body}")
            return
        level.started, level.plan = True, plan.count
        if plan.count == 0:
            level.skip = plan.skip

    def _broke_off(self, level: _Level) -> None:
        """End a suite that has no result line, and begin the next at the same level."""
        title, indent = level.next_title, level.indent
        self._fold("", None)
        self._level(indent).title = title

    def _result(self, indent: int, item: Result) -> None:
        while len(self._levels) > 2 and self._levels[-2].indent > indent:
            self._fold("", None)
        nested = self._levels[-1].indent > indent
        if not nested:
            level = self._level(indent)
            if level.next_title and level.next_is_subtest and indent and item.number == 1 and level.next_number > 1:
                self._broke_off(level)
        elif self._levels[-2].indent < indent:  # a level that announced itself by neither plan nor title
            self._levels.insert(-1, _Level(indent, started=True))
        level = self._levels[-2 if nested else -1]
        level.started = True
        self._count(level, item)
        name, outcome, message = self._read(item, level)
        below = self._fold(name, outcome) if nested else _Level(indent)
        if outcome is Outcome.PASS and not below.outcomes:
            outcome, message = self._unless_empty(level, below if nested else None, name, message)
        self._add(level, _Entry(name, outcome, message, self._afford(level.notes), _Notes()), below.outcomes)
        level.next_title, level.next_is_subtest = "", False
        level.own[item.counter] += 1
        level.leaves += below.leaves or Counter([item.counter])

    def _unless_empty(self, level: _Level, below: _Level | None, name: str, message: str) -> tuple[Outcome, str]:
        """Return a pass and its message, or a skip: a subtest that was announced and has no results is no pass."""
        if below is None and not (level.next_is_subtest and level.next_title == name):
            return Outcome.PASS, message
        if below and below.skip:
            return Outcome.SKIP, one_line(below.skip, 1000)
        if not (below and (below.bailed or below.plan == 0)):
            self._problem(f"subtest {name!r} has no results")
        return Outcome.SKIP, "its subtest has no results"

    def _add(self, level: _Level, entry: _Entry, below: set[Outcome]) -> None:
        """Keep a result: as a case, if it has none below it or says something that none of them does."""
        if level.last:
            level.last.after = self._afford(level.last.after)
        level.last, level.notes = entry, _Notes()
        level.outcomes.add(entry.outcome)
        told = entry.outcome in below or (entry.outcome is Outcome.FAIL and any(outcome.is_bad for outcome in below))
        if below and (told or entry.outcome is Outcome.PASS):
            return
        self._case_count += 1
        if self._case_count <= MAX_CASES:
            level.entries.append(entry)
        elif self._case_count == MAX_CASES + 1:
            self._problem(f"more than {MAX_CASES} results: the others are not kept")

    def _afford(self, notes: _Notes) -> _Notes:
        """Return `notes`, or empty ones where all details together have grown too large."""
        self._note_chars += notes.chars()
        return notes if self._note_chars <= MAX_NOTE_CHARS else _Notes()

    def _count(self, level: _Level, item: Result) -> None:
        number = level.next_number if item.number is None else item.number
        if number < level.next_number:
            self._problem(f"result {number} comes twice or out of order{level.where()}")
        elif number > level.next_number:
            self._problem(f"results {level.next_number} to {number - 1} are missing before {number}{level.where()}")
        level.next_number = max(level.next_number, number + 1)
        level.seen += 1
        if level.plan is not None and level.seen > level.plan:
            level.overrun = True
            self._problem(f"result {number} comes after the plan of {level.plan} was complete{level.where()}")

    def _read(self, item: Result, level: _Level) -> tuple[str, Outcome, str]:
        """Return name, outcome and message of a result line."""
        name, message = item.name or level.running, item.message
        if not name and message and item.directive not in {None, Directive.TIMEOUT}:
            name, message = message, ""  # kselftest.h prints `ok 2 # SKIP name`
        name = one_line(name, 2 * NAME_LENGTH) or f"case {level.seen}"
        level.running = ""
        if not item.clean:
            self._problem(f"the name of {name!r} is not UTF-8")
        if len(name) > NAME_LENGTH:
            name = name[: NAME_LENGTH - 1] + "…"
            self._problem(f"a name is longer than {NAME_LENGTH} characters: {name[:60]}…")
        if item.directive and item.directive is not Directive.SKIP:
            message = f"{item.directive}: {message}" if message else str(item.directive)
        return name, item.outcome, one_line(message, 1000)

    def _totals(self, indent: int, totals: Totals) -> None:
        """Hold a line of totals against the results: of a level, or (as KUnit prints it) of what ends below it."""
        level = self._levels[-1]
        if level.indent >= indent and not any(totals.fit(seen) for seen in (level.own, level.leaves)):
            came = " ".join(f"{key}:{count}" for key, count in sorted(level.own.items())) or "no results"
            self._problem(f"the totals say {totals.text}, but there came {came}{level.where()}")

    def _metric(self, body: str) -> None:
        match = _METRIC.match(body)
        if not match:
            self._problem(f"malformed metric line, {_fault(body)}: {body}")
        elif len(self.metrics) < MAX_METRICS:
            self.metrics.append(Metric(match[1], float(match[2]), match[3], match[4]))
            if len(self.metrics) == MAX_METRICS:
                self._problem(f"{MAX_METRICS} metrics or more: the others are not kept")

    def note(self, body: str) -> None:
        """Take a line that is no part of a report."""
        self._note(self._levels[-1].indent, body, None)

    def _note(self, indent: int, body: str, item: Item | None) -> None:
        level = self._levels[-1]
        if body[0] == "#":
            level = next(lev for lev in reversed(self._levels) if lev.indent <= indent)
            if isinstance(item, Running):
                level.running = one_line(item.name, NAME_LENGTH)
        note = body[1:].removeprefix(" ") if body[0] == "#" else body
        last = level.last
        if last and last.outcome.is_bad and not last.notes:
            last.after.add(note)
        else:
            level.notes.add(note)

    def finish(self) -> list[_Entry]:
        """End all levels, judge the whole, and return the cases; names may be there twice."""
        while len(self._levels) > 1:
            self._fold("", None)
        (top,) = self._levels
        self._end_report(top)
        if not top.entries:
            self._problem("no result at all")
        elif self._empty:  # a kernel whose suites are all in modules begins with one: no pass, and no failure
            message = f"report {self._empty} has no results"
            top.entries.append(_Entry("all cases", Outcome.SKIP, message, _Notes(), _Notes()))
        return top.entries


def _bailed(level: _Level, reason: str) -> str:
    return f"subtest {level.title!r} bailed out: {reason}" if level.title else f"a subtest bailed out: {reason}"


def _fault(line: str) -> str:
    """Say what is wrong with a metric line."""
    words = line.split()[1:]
    if len(words) > 1 and not _NUMBER.fullmatch(words[1]):
        return f"{words[1][:40]!r} is not a number"
    if len(words) == 2 or (len(words) == 3 and words[2] in {"higher", "lower"}):
        return "without a unit"
    return "not `metric NAME VALUE UNIT higher|lower`"


def _case(entry: _Entry) -> Case:
    name, answer = _answered(entry.name)
    details = "\n".join(part for part in (entry.notes.text(), entry.after.text()) if part)
    return Case(name[:NAME_LENGTH], entry.outcome, entry.message, details, answer=answer)


def _answered(name: str) -> tuple[str, str]:
    """Split "a question: answer=what was seen": what is recorded, and compared without being right or wrong."""
    question, mark, answer = name.rpartition(": answer=")
    return (question, answer) if mark and question and answer else (name, "")
