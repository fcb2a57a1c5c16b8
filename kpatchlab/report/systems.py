"""A run system by system, in Markdown: cases on each kernel, functions reached, seconds.

Then what differs from the base, what fails there too, what was not run and why, and the slowest jobs.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from kpatchlab.model import JOB, Case, JobResult, Outcome, Run, Verdict
from kpatchlab.progress import clock
from kpatchlab.report.common import line, markdown_cell, markdown_table, on_builds, unconfined
from kpatchlab.report.digest import news, standing, uncovered, where
from kpatchlab.report.view import View
from kpatchlab.verdict.faults import faults
from kpatchlab.verdict.values import Comparison

SLOWEST = 10


def render(view: View) -> bytes:
    """Return the table as Markdown, UTF-8."""
    run = view.run
    lines = ["# System by system", "", f"Made by `kpatchlab report {run.id} --format systems`.", ""]
    lines += [f"{line(run.title)}, run {run.id}: {len(run.jobs)} jobs in {clock(run.duration_s)}.", ""]
    lines += _kernels(run)
    heads = ["system", "scenarios", "cases", *run.columns, *(f"reached on {name}" for name in _alone(run)), "seconds"]
    lines += ["", *_table(heads, [_row(run, *row) for row in _systems(run)])]
    lines += _told(run, view.comparison)
    slowest = sorted(run.jobs, key=lambda job: -job.duration_s)[:SLOWEST]
    lines += ["", f"The {len(slowest)} slowest jobs:", ""]
    lines += _table(["job", "seconds"], [[f"`{job.job}`", f"{job.duration_s:.1f}"] for job in slowest])
    if peak := run.host.get("peak_memory_mib"):
        lines += [
            "",
            f"Memory at its peak, lab and guests together: {peak} MiB. Accelerator: {run.host.get('accel', '')}",
        ]
    return ("\n".join(lines) + "\n").encode("utf-8", "replace")


def _told(run: Run, comparison: Comparison) -> Iterable[str]:
    """Yield what the table has only as numbers: a line for each thing, below a heading."""
    yield from ["", comparison.basis]
    found = [(fault.word, f"{fault.title} ({where(fault.changes)})") for fault in faults(comparison)]
    other = news(comparison, [Verdict.FIXED, Verdict.CHANGED, Verdict.FLAKY, Verdict.GONE, Verdict.NEW])
    sections = {
        "What differs from the base": [*found, *((item.word, item.text) for item in other)],
        "What fails and is no regression": [(item.word, item.text) for item in standing(comparison)],
        "What was not run": [("", words) for words in uncovered(run, comparison)],
    }
    for title, each in sections.items():
        if each:
            yield from [
                "",
                f"## {title}",
                "",
                *(f"- {f'{word} ' if word else ''}{_text(words)}" for word, words in each),
            ]


def _text(words: str) -> str:
    """Return a line that Markdown shows as it is."""
    return re.sub(r"([\\`*\[\]<>|])", r"\\\1", line(words, 600))


def _kernels(run: Run) -> list[str]:
    rows = [line(f"- `{build.kernel}`: Linux {build.release}, {build.base or 'not built'}") for build in run.builds]
    rows += [f"- `{kernel}`: {markdown_cell(words)}" for kernel, words in unconfined(run)]
    return rows + ([f"- {markdown_cell(words)}"] if (words := on_builds(run)) else [])


def _alone(run: Run) -> list[str]:
    """Return the columns that have one kernel on every role: only there does a count belong to a kernel."""
    names = {facts.name for facts in run.kernels}
    return [column for column in run.columns if column in names]


def _systems(run: Run) -> Iterable[tuple[str, Sequence[str]]]:
    """Yield (system, its scenarios), then the scenarios of this run that are of no system."""
    ran = dict.fromkeys(job.scenario for job in run.jobs)
    for system in run.systems:
        yield system.name, [name for name in system.scenarios if name in ran] or list(system.scenarios)
    known = {name for system in run.systems for name in system.scenarios}
    if rest := [name for name in ran if name not in known]:
        yield "(none)", rest


def _row(run: Run, system: str, scenarios: Sequence[str]) -> list[str]:
    jobs = [job for job in run.jobs if job.scenario in scenarios]
    columns = [_outcomes([job for job in jobs if job.column == column]) for column in run.columns]
    reached = [_reached([job for job in jobs if job.column == column]) for column in _alone(run)]
    cases = len({(job.scenario, tuple(job.params.items()), case.id) for job in jobs for case in job.cases})
    return [
        system,
        " ".join(scenarios) or "none",
        str(cases) if jobs else "not run",
        *columns,
        *reached,
        f"{sum(job.duration_s for job in jobs):.0f}" if jobs else "",
    ]


def _outcomes(jobs: Sequence[JobResult]) -> str:
    """Return "12 pass, 1 fail" over the checks of a column."""
    if not jobs:
        return "-"
    counts = Counter(case.outcome for job in jobs for case in _checks(job))
    return ", ".join(f"{counts[outcome]} {outcome}" for outcome in Outcome if counts[outcome]) or "none"


def _checks(job: JobResult) -> list[Case]:
    """Return a job's cases; how the job itself ended is one only where no check says so."""
    checks = [case for case in job.cases if case.id != JOB]
    told = not job.outcome.is_bad or any(case.outcome.is_bad for case in checks)
    return checks if checks and told else list(job.cases)


def _reached(jobs: Sequence[JobResult]) -> str:
    """Return the functions that ran, each once."""
    names = dict.fromkeys(count.function for job in jobs for count in job.reach if count.count > 0)
    return " ".join(f"`{name}`" for name in names) or "-"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return markdown_table(map(markdown_cell, heads), (map(markdown_cell, row) for row in rows))
