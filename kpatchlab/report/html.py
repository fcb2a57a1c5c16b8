"""The web page: one file, no network, works from a disk, in print and without scripts.

Everything foreign goes through jinja2's autoescape; the only markup made here is `highlight`, over escaped text.
The page is bounded: consoles share a budget among the jobs that went wrong, and the whole files lie beside it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
from markupsafe import Markup, escape

from kpatchlab.compare import compare
from kpatchlab.judgement import HEADLINE_ORDER, Comparison, Group
from kpatchlab.model import BuildResult, GuestLog, JobResult, Outcome, Run, Verdict
from kpatchlab.ratios import metric_rows
from kpatchlab.report.common import Change, changes, duration, line, reach_rows, reasons, tail
from kpatchlab.textclean import printable

TAIL_BYTES = 64 << 10
"""Upper bound for what one job shows of its consoles and output."""
LEAST_BYTES = 4 << 10
"""Less than this of a job's consoles helps nobody: then only the first jobs show theirs."""
BUDGET_BYTES = 3 << 19
"""What all jobs together may show of them; the markup adds a third."""
MAX_CHANGES = 200
MAX_MESSAGES = 1000
"""With more loud checks than this, their messages are told under Changes only."""

_FRAME = re.compile(r"^(\s*(?:\? )?)([A-Za-z_][\w.]*)(\+0x[0-9a-f]+/0x[0-9a-f]+)?( \([^)]*:\d+[^)]*\))?(.*)$")
_STAMP = re.compile(r"^((?:&lt;\d+&gt;)?\[\s*\d+\.\d+\](?:\[[^\]]*\])?\s?)?(.*)$")
_LOUD = re.compile(
    r"\b(BUG|WARNING|KASAN|UBSAN|KCSAN|Oops|Kernel panic|general protection fault|INFO: task|rcu: INFO)\b"
)


def render(run: Run, run_dir: Path) -> bytes:  # noqa: ARG001 - every writer has the same two arguments
    """Return the page, UTF-8; its links are relative to the run's folder."""
    comparison = compare(run)
    env = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters |= {"printable": printable, "line": line, "duration": duration, "highlight": highlight, "href": href}
    page = env.get_template("page.html.j2").render(**_context(run, comparison))
    return page.encode("utf-8", "replace")


def href(path: str) -> str:
    """Return a link to a file of the run's folder; whatever the path says, it stays a relative one."""
    parts = [part for part in path.split("/") if part not in {"", ".", ".."}]
    return "./" + quote("/".join(parts), safe="/=,+@", errors="replace")


def highlight(text: str) -> Markup:
    """Return a splat or a console as markup: what alarms, functions, file:line; all of it escaped first."""
    return Markup("\n").join(_highlight(text) for text in printable(text).rstrip("\n").split("\n"))


def _highlight(text: str) -> Markup:
    found = _STAMP.match(str(escape(text)))
    assert found  # both parts may be empty
    stamp, rest = found[1] or "", found[2]
    if _LOUD.search(rest):
        rest = f"<b class=loud>{rest}</b>"
    elif (frame := _FRAME.match(rest)) and (frame[3] or frame[4]):
        lead, name, offset, where, tail = (part or "" for part in frame.groups())
        rest = f"{lead}<b>{name}</b>{offset}{f'<i>{where}</i>' if where else ''}{tail}"
        if "? " in lead:
            rest = f"<s>{rest}</s>"
    return Markup(f"<u>{stamp}</u>{rest}" if stamp else rest)  # noqa: S704 - made of escaped text above


@dataclass(frozen=True, slots=True)
class Tails:
    """What one job shows of its guests and of its script; cut to the job's share of the budget."""

    guests: tuple[tuple[GuestLog, str], ...]
    stdout: str
    stderr: str


def _tails(job: JobResult, share: int) -> Tails:
    # Output is short where it matters; the consoles take the rest, in equal parts.
    stdout, stderr = (tail(text, share // 8) for text in (job.stdout_tail, job.stderr_tail))
    each = (share - len(stdout) - len(stderr)) // max(1, len(job.guests))
    return Tails(tuple((guest, tail(guest.console_tail, each)) for guest in job.guests), stdout, stderr)


def _context(run: Run, comparison: Comparison) -> dict[str, Any]:
    found = [change for change in changes(comparison) if change.cell.verdict is not Verdict.BLOCKED]
    bad = [job for job in run.jobs if job.outcome.is_bad or job.outcome is Outcome.INFRA]
    share = min(TAIL_BYTES, max(LEAST_BYTES, BUDGET_BYTES // max(1, len(bad))))
    messages = sum(not row.quiet for group in comparison.groups for row in group.rows)
    return {
        "run": run,
        "comparison": comparison,
        "columns": comparison.columns,
        "changes": found[:MAX_CHANGES],
        "more_changes": len(found) - MAX_CHANGES,
        "first_splat": _first_splats(found[:MAX_CHANGES]),
        "tails": {job.job: _tails(job, share) for job in bad[: BUDGET_BYTES // share]},
        "message_limit": 240 if messages <= MAX_MESSAGES else 0,
        "splat_limit": 24 << 10,
        "log_limit": 32 << 10,
        "reach": [(group, list(reach_rows(group))) for group in comparison.groups if _has_reach(group)],
        "metrics": list(metric_rows(comparison)),
        "skipped": reasons(comparison, Outcome.SKIP),
        "blocked": reasons(comparison, Outcome.BLOCKED),
        "lost": reasons(comparison, Outcome.INFRA),
        "checks": {(check.kernel, check.step): check for check in comparison.builds},
        "kernels": {kernel.name: kernel for kernel in run.kernels},
        "counts": _counts(comparison),
        "broken": [build for build in run.builds if _broken(build)],
        "timings": _timings(run),
    }


def _first_splats(found: Iterable[Change]) -> dict[str, int]:
    """Return fingerprint -> number of the change that shows it whole; the others link there."""
    first: dict[str, int] = {}
    for number, change in enumerate(found):
        for splat in change.splats:
            first.setdefault(splat.fingerprint, number)
    return first


def _has_reach(group: Group) -> bool:
    return any(job.reach for jobs in group.jobs.values() for job in jobs)


def _broken(build: BuildResult) -> bool:
    return build.outcome is not Outcome.PASS or bool(build.module_failures)


def _counts(comparison: Comparison) -> list[tuple[str, int]]:
    if comparison.compares:
        return [(str(v), comparison.verdicts[v]) for v in HEADLINE_ORDER if comparison.verdicts.get(v)]
    return [(str(o), comparison.outcomes[o]) for o in Outcome if comparison.outcomes.get(o)]


def _timings(run: Run) -> list[tuple[str, str]]:
    return [
        ("whole run", duration(run.duration_s)),
        ("builds", duration(sum(build.duration_s for build in run.builds))),
        ("scenarios' own commands, summed", duration(sum(job.guest_s for job in run.jobs))),
        ("the lab's own time, summed", duration(sum(job.overhead_s for job in run.jobs))),
        ("jobs", str(len(run.jobs))),
    ]
