"""What several reports need: text made harmless, frames of a splat, reach counts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator

from kpatchlab.model import JOB, JobResult, Outcome, Run, Splat
from kpatchlab.textclean import printable
from kpatchlab.verdict.values import Comparison, Group

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


def on_builds(run: Run) -> str:
    """Return which scenarios ran on which kind of build, in words; "" where none ran on images."""
    kinds: dict[bool, set[str]] = {True: set(), False: set()}
    for job in run.jobs:
        kinds[job.images].add(job.scenario)
    images, compiled = (sorted(kinds[kind]) for kind in (True, False))
    if not images:
        return ""
    words = f"{len(images)} of {len(images) + len(compiled)} scenarios ran on images as the distribution built them"
    return line(f"{words}; on compiled kernels: {', '.join(compiled)}" if compiled else words, 4000)


def on_hosts(run: Run) -> str:
    """Return how many jobs ran on which host, in words; "" where all ran on the lab's own."""
    jobs = Counter(job.host for job in run.jobs)
    if not any(jobs):
        return ""
    return line(", ".join(f"{name or 'this host'}: {count} jobs" for name, count in sorted(jobs.items())), 4000)


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


def markdown_cell(text: str) -> str:
    """Return text as one clean line that ends no cell of a Markdown table."""
    return line(text, 2000).replace("|", "\\|")


def markdown_table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """Return the lines of a table in Markdown; heads and cells are Markdown already, without bare `|`."""
    top = list(heads)
    return [f"| {' | '.join(cells)} |" for cells in (top, ["---"] * len(top), *rows)]
