"""The web page: one file, no network, works from a disk, in print and without scripts.

Everything foreign goes through jinja2's autoescape; what markup is made in Python is made in `markup`, over escaped
text. The page is bounded: consoles share a budget among the jobs that went wrong, the whole files lie beside it.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from kpatchlab import __version__
from kpatchlab.files import is_inert
from kpatchlab.model import SCHEMA_VERSION, BuildResult, GuestLog, JobResult, Outcome, Run, Splat, Verdict
from kpatchlab.progress import clock
from kpatchlab.report import markup, matrix, patches, sentence, speed
from kpatchlab.report.common import line, on_builds, reach_rows, reasons, tail
from kpatchlab.report.view import View
from kpatchlab.templates import templates
from kpatchlab.textclean import counted, printable
from kpatchlab.verdict.faults import Change, changes, faults, splats
from kpatchlab.verdict.ratios import AGAIN, metric_rows
from kpatchlab.verdict.values import HEADLINE_ORDER, Comparison, Group

TAIL_BYTES = 64 << 10
"""Upper bound for what one job shows of its consoles and output."""
LEAST_BYTES = 4 << 10
"""Less than this of a job's consoles helps nobody: then only the first jobs show theirs."""
BUDGET_BYTES = 3 << 19
"""What all jobs together may show of them; the markup adds a third."""
MAX_CHANGES = 200
MAX_MESSAGES = 1000
"""With more loud checks than this, their messages are told under Changes only."""
FIRST = 6
"""So many of what changed are named below the verdict."""
PARTS = Path(__file__).parent / "page"


def render(view: View) -> bytes:
    """Return the page, UTF-8; its links are relative to the run's folder."""
    script = (PARTS / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    # Only this script runs: what a guest printed could not, were it ever taken for one.
    page = _templates().get_template("page.html.j2")
    text = page.render(script=script, script_hash=f"sha256-{digest}", **_context(view))
    return text.encode("utf-8", "replace")


@functools.cache
def _templates() -> jinja2.Environment:
    """Return the page's templates; compiling them takes longer than filling them in, so that is done once."""
    env = templates(PARTS)
    env.filters |= {
        "printable": printable,
        "line": line,
        "duration": clock,
        "highlight": markup.highlight,
        "console": markup.console,
        "href": markup.href,
        "inert": is_inert,
        "counted": counted,
        "listed": sentence.listed,
    }
    return env


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


@dataclass(frozen=True, slots=True)
class Cluster:
    """What is told as one: a fault wherever it shows, or what else changed alike in one scenario on one column."""

    changes: tuple[Change, ...]
    end: str = ""

    @property
    def first(self) -> Change:
        """The change that stands for all where they do not differ."""
        return self.changes[0]

    @property
    def more(self) -> list[str]:
        """Where it shows as well: scenario and column, without those of the first."""
        return list(dict.fromkeys(change.place for change in self.changes))[1:]

    @property
    def splats(self) -> tuple[Splat, ...]:
        """Their splats, one of each fingerprint."""
        return tuple(splats(self.changes))


def _clusters(comparison: Comparison) -> list[Cluster]:
    """Return the faults, and then what else changed: what is of one word, scenario and column together."""
    told = faults(comparison)
    seen = {(id(change.group), change.row.id, change.column) for fault in told for change in fault.changes}
    by_place: dict[tuple[str, int, str], list[Change]] = {}
    for change in changes(comparison):
        if change.cell.verdict is Verdict.BLOCKED or (id(change.group), change.row.id, change.column) in seen:
            continue
        by_place.setdefault((change.word, id(change.group), change.column), []).append(change)
    return [Cluster(fault.changes, fault.end) for fault in told] + [Cluster(tuple(c)) for c in by_place.values()]


def _context(view: View) -> dict[str, Any]:
    run, comparison = view.run, view.comparison
    clusters = _clusters(comparison)
    bad = [job for job in run.jobs if job.outcome.is_bad or job.outcome is Outcome.INFRA or job.splats]
    share = min(TAIL_BYTES, max(LEAST_BYTES, BUDGET_BYTES // max(1, len(bad))))
    messages = sum(not row.quiet for group in comparison.groups for row in group.rows)
    measured = sentence.measured(comparison)
    systems, missing_systems = matrix.systems(run, comparison)
    return {
        "run": run,
        "comparison": comparison,
        "columns": matrix.shown_columns(comparison, AGAIN),
        "word": sentence.word(comparison),
        "sentence": sentence.sentence(comparison),
        "counts": _counts(comparison),
        "remarks": _remarks(run),
        "systems": systems,
        "missing_systems": [] if measured else missing_systems,
        "measured": measured,
        "number": {id(group): number for number, group in enumerate(comparison.groups)},
        "id": id,
        "clusters": clusters[:MAX_CHANGES],
        "first": FIRST,
        "more_changes": len(clusters) - MAX_CHANGES,
        "splats": _seen_splats(comparison),
        "first_splat": _first_splats(clusters[:MAX_CHANGES]),
        "tails": {job.job: _tails(job, share) for job in bad[: BUDGET_BYTES // share]},
        "message_limit": 240 if messages <= MAX_MESSAGES else 0,
        "splat_limit": 24 << 10,
        "log_limit": 32 << 10,
        "reach": {id(group): list(reach_rows(group)) for group in comparison.groups},
        "patches": _patches(run),
        "patch_words": patches.WORDS,
        "function_word": patches.function_word,
        "speed": speed.tables(comparison, metric_rows(comparison)),
        "skipped": reasons(comparison, Outcome.SKIP),
        "blocked": reasons(comparison, Outcome.BLOCKED),
        "lost": reasons(comparison, Outcome.INFRA),
        "checks": {(check.kernel, check.step): check for check in comparison.builds},
        "kernels": {kernel.name: kernel for kernel in run.kernels},
        "on_builds": on_builds(run),
        "broken": [build for build in run.builds if _broken(build)],
        "timings": _timings(run),
    }


def _remarks(run: Run) -> list[str]:
    """Return what is odd about how the run is stored, in words."""
    found = []
    if run.schema < SCHEMA_VERSION:
        found.append(f"An older kpatchlab stored this run (format {run.schema}; {SCHEMA_VERSION} is today's).")
    if run.version and run.version != __version__:
        found.append(f"kpatchlab {line(run.version, 40)} ran it, kpatchlab {__version__} made this page.")
    return found


@dataclass(frozen=True, slots=True)
class SeenSplat:
    """A splat with the jobs that showed it."""

    splat: Splat
    on_base: bool
    where: tuple[str, ...]


def _seen_splats(comparison: Comparison) -> list[SeenSplat]:
    """Return the run's splats, one of each fingerprint, those that the base never showed first."""
    seen: dict[str, tuple[Splat, list[tuple[Group, str]]]] = {}
    for group in comparison.groups:
        for column, jobs in group.jobs.items():
            for splat in splats(jobs):
                seen.setdefault(splat.fingerprint, (splat, []))[1].append((group, column))
    made = [
        SeenSplat(
            splat,
            any(column == comparison.base for _, column in places),
            tuple(f"{group.name} on {column}" for group, column in places),
        )
        for splat, places in seen.values()
    ]
    return sorted(made, key=lambda item: item.on_base)


def _first_splats(clusters: Iterable[Cluster]) -> dict[str, int]:
    """Return fingerprint -> number of the cluster that shows it whole; the others link there."""
    first: dict[str, int] = {}
    for number, cluster in enumerate(clusters):
        for splat in cluster.splats:
            first.setdefault(splat.fingerprint, number)
    return first


def _patches(run: Run) -> dict[str, tuple[list[str], list[patches.PatchRow]]]:
    """Return kernel -> (scenarios that counted something, its patches)."""
    rows = list(patches.patch_rows(run))
    found = {}
    for kernel in dict.fromkeys(row.patch.kernel for row in rows):
        mine = [row for row in rows if row.patch.kernel == kernel]
        every = list(mine[0].cells)
        found[kernel] = ([name for name in every if any(row.cells[name].counts for row in mine)], mine)
    return found


def _broken(build: BuildResult) -> bool:
    return build.outcome is not Outcome.PASS or bool(build.module_failures)


def _counts(comparison: Comparison) -> list[tuple[str, int]]:
    if comparison.compares:
        return [(str(v), comparison.verdicts[v]) for v in HEADLINE_ORDER if comparison.verdicts.get(v)]
    return [(str(o), comparison.outcomes[o]) for o in Outcome if comparison.outcomes.get(o)]


def _timings(run: Run) -> list[tuple[str, str]]:
    return [
        ("whole run", clock(run.duration_s)),
        ("builds", clock(sum(build.duration_s for build in run.builds))),
        ("scenarios' own commands, summed", clock(sum(job.guest_s for job in run.jobs))),
        ("the lab's own time, summed", clock(sum(job.overhead_s for job in run.jobs))),
        ("jobs", str(len(run.jobs))),
    ]
