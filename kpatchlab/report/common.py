"""What several reports need: text made harmless, frames of a splat, the list of changes, reach counts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from kpatchlab.model import JOB, JobResult, Outcome, Run, Splat, Verdict
from kpatchlab.textclean import printable
from kpatchlab.verdict.values import VERDICT_ORDER, Cell, Comparison, Group, Row

STAMP = re.compile(r"^(?:<\d+>)?\[\s*\d+\.\d+\](?:\[[^\]]*\])?\s?", re.MULTILINE)
"""What the kernel's log has before each line: level, time, and the task or processor."""
_FRAME = re.compile(r"^\s*(\? )?[A-Za-z_][\w.]*(\+0x[0-9a-f]+/0x[0-9a-f]+| \()")
# Frames that report the fault rather than make it (lib/dump_stack.c, mm/kasan/report.c, kernel/panic.c).
_REPORTERS = re.compile(
    r"^\s*(dump_stack(_lvl)?|show_stack|print_report|print_address_description|kasan_\w+|__kasan_\w+|__asan_\w+"
    r"|__warn|report_bug|handle_bug|exc_\w+|asm_exc_\w+|panic|__die|die|oops_\w+|page_fault_oops)\b"
)


def line(text: str, limit: int = 500) -> str:
    """Return `text` as one clean line of at most `limit` characters."""
    flat = " ".join(printable(text).split())
    return flat if len(flat) <= limit else flat[: limit - 3] + "..."


def unconfined(run: Run) -> list[tuple[str, str]]:
    """Return (kernel, words) of each kernel whose series was built without a sandbox."""
    return [
        (build.kernel, line(f"built WITHOUT A SANDBOX (--trust): {build.unconfined}"))
        for build in run.builds
        if build.unconfined
    ]


def tail(text: str, limit: int) -> str:
    """Return the last whole lines of `text`, clean, at most `limit` characters."""
    text = printable(text)
    if len(text) <= limit:
        return text
    return text[-limit:].partition("\n")[2] if limit > 0 else ""


def frames(splat: Splat, count: int) -> list[str]:
    """Return where the kernel stood (RIP), then the call trace without the reporting itself; decoded where it can be.

    Args:
        count: at most so many lines.
    """
    lines = STAMP.sub("", printable(splat.decoded or splat.text)).splitlines()
    start = next((i + 1 for i, text in enumerate(lines) if text.startswith("Call Trace")), 0)
    stood = [text for text in lines[:start] if text.startswith("RIP: 0010:")][:1]
    found = [text.strip() for text in lines[start:] if _FRAME.match(text) and not _REPORTERS.match(text)]
    return [*stood, *found][:count]


def splats(jobs: Iterable[JobResult]) -> list[Splat]:
    """Return the jobs' splats, one of each fingerprint."""
    return list({splat.fingerprint: splat for job in jobs for splat in job.splats}.values())


@dataclass(frozen=True, slots=True)
class Change:
    """One check whose verdict is not SAME, or one that is bad where there is nothing to compare.

    Attributes:
        base: the base column's cell, None where it has none.
        not_reached: the other checks that this event kept from running.
        splats: new or not, those of this column's jobs; only on the rows that carry them.
    """

    group: Group
    column: str
    row: Row
    cell: Cell
    base: Cell | None
    not_reached: tuple[str, ...]
    splats: tuple[Splat, ...]

    @property
    def jobs(self) -> tuple[JobResult, ...]:
        """The column's jobs, the bad ones first."""
        return tuple(sorted(self.group.jobs[self.column], key=lambda job: not job.outcome.is_bad))

    @property
    def word(self) -> str:
        """The verdict, or the outcome where there is nothing to compare."""
        return str(self.cell.verdict) if self.cell.verdict else self.cell.word.upper()

    @property
    def reproduce(self) -> str:
        """The command that runs it again, "" where the job names none."""
        return next((job.reproduce for job in self.jobs if job.reproduce), "")


def changes(comparison: Comparison) -> list[Change]:
    """Return every counted check that is not SAME, the worst verdicts first, in the run's order otherwise."""
    found = [
        _change(comparison, group, column, row)
        for group in comparison.groups
        for row in group.rows
        for column, cell in row.cells.items()
        if not cell.follows
        and (cell.verdict not in {None, Verdict.SAME} if comparison.compares else _noisy(group, row, column))
    ]
    rank = {verdict: i for i, verdict in enumerate(VERDICT_ORDER)}
    return sorted(found, key=lambda change: rank[change.cell.verdict] if change.cell.verdict else -1)


def _noisy(group: Group, row: Row, column: str) -> bool:
    cell = row.cells[column]
    if cell.implied or cell.missing or not (cell.flaky or cell.outcome not in {Outcome.PASS, Outcome.SKIP}):
        return False
    if row.id != JOB:
        return True
    # A check that fails makes its job fail: once is enough.
    bad = {r.id for r in group.rows if not r.id.kind.is_log and column in r.cells and r.cells[column].outcome.is_bad}
    return bad.isdisjoint(cell.because)


def _change(comparison: Comparison, group: Group, column: str, row: Row) -> Change:
    cell = row.cells[column]
    late: tuple[str, ...] = ()
    if row.id == JOB:
        late = tuple(r.case for r in group.rows if column in r.cells and r.cells[column].implied)
    shown = tuple(splats(group.jobs[column])) if row.id.kind.sums_up and (cell.outcome.is_bad or cell.flaky) else ()
    base = row.cells.get(comparison.base) if column != comparison.base else None
    return Change(group, column, row, cell, base, late, shown)


def reasons(comparison: Comparison, outcome: Outcome) -> dict[str, list[str]]:
    """Return why jobs ended with `outcome`: reason -> the jobs ("scenario on column"), the most frequent first."""
    found: dict[str, list[str]] = {}
    for group in comparison.groups:
        for column, jobs in group.jobs.items():
            for job in jobs:
                if job.outcome is outcome:
                    found.setdefault(line(_why(job), 200), []).append(f"{group.name} on {column}")
    return dict(sorted(found.items(), key=lambda item: -len(item[1])))


def _why(job: JobResult) -> str:
    own = next((case.message for case in job.cases if case.id == JOB and case.message), "")
    return job.message or own or "no reason given"


def reach_rows(group: Group) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Yield (role, function, column -> count as text) of one scenario; "not traceable" is not 0.

    "not counted" is a column whose kernel the rule does not hold for.
    """
    names = dict.fromkeys((r.role, r.function) for jobs in group.jobs.values() for job in jobs for r in job.reach)
    for role, function in names:
        yield role, function, {column: _counts(jobs, role, function) for column, jobs in group.jobs.items()}


def _counts(jobs: Iterable[JobResult], role: str, function: str) -> str:
    seen = [r.count for job in jobs for r in job.reach if (r.role, r.function) == (role, function)]
    traced = [count for count in seen if count >= 0]
    if not traced:
        return "not traceable" if seen else "not counted"
    low, high = min(traced), max(traced)
    return str(low) if low == high else f"{low} to {high}"


def markdown_table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """Return the lines of a table in Markdown; heads and cells are Markdown already, without bare `|`."""
    top = list(heads)
    return [f"| {' | '.join(cells)} |" for cells in (top, ["---"] * len(top), *rows)]
