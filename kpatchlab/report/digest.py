"""What a reply to a series' author contains, in any format: each fault once, news in a line, what was not covered.

The mail and the comment on a merge request say the same; each has its own way of laying it out.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from kpatchlab.model import JOB, UNTRIED, JobResult, Outcome, Run, Splat, Verdict
from kpatchlab.progress import clock
from kpatchlab.report.common import STAMP, frames, line, on_builds, on_hosts, reasons, unconfined
from kpatchlab.report.patches import NO_FUNCTION, patch_rows
from kpatchlab.textclean import counted, printable
from kpatchlab.verdict.faults import Change, changes, faults, splats
from kpatchlab.verdict.ratios import AGAIN, Figure, MetricRow, Speed, again, metric_rows
from kpatchlab.verdict.values import Cell, Comparison, Row

FAULT_FRAMES = 24
NAMED = 6
"""So many jobs or checks are named where there are more; the rest is a number."""
_NOISE = re.compile(r"-+\[ (?:cut here|end trace)|\s*</?(?:TASK|IRQ|NMI)>|Modules linked in:|Hardware name:|Code: ")
_REGISTER = re.compile(r"(?:R[A-Z0-9]{2}|[FCDEG]S|CR\d|DR\d|PKRU|ORIG_RAX): ")
_PLACE = re.compile(r"\(((?:\./)?[\w.+/-]+/[\w.+-]+\.[chS]):\d+")


@dataclass(frozen=True, slots=True)
class NewsLine:
    """One piece of news: `word`, what it is about, and the scenarios that it comes from."""

    word: str
    text: str
    scenarios: tuple[str, ...]


def where(found: Sequence[Change], first: Change | None = None) -> str:
    """Return "cifs-tcp on with, nfs on with: reads at once and 3 more".

    Args:
        first: told already: a check is named where it is not that one's.
    """
    names: dict[str, None] = {}
    for change in found:
        other = first is not None and change.row.id != first.row.id
        names[f"{change.place}: {line(change.row.case, 100)}" if other else change.place] = None
    return some(list(names))


def some(names: Sequence[str], most: int = NAMED) -> str:
    """Return the first names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def outcomes(change: Change) -> str:
    """Return "pass on the base, crash here"."""
    here = change.cell.told
    return f"{change.base.told} on the base, {here} here" if isinstance(change.base, Cell) else here


def excerpt(splat: Splat, count: int = FAULT_FRAMES) -> list[str]:
    """Return a kernel's report as a reader of mail wants it: its head, where it stood, the call trace, decoded.

    Time stamps, registers and code bytes are left out.
    """
    text = [STAMP.sub("", raw).rstrip() for raw in printable(splat.decoded or splat.text).splitlines()]
    above = list(itertools.takewhile(lambda clean: not clean.startswith("Call Trace"), text))
    head = [t for t in above if t and not t.startswith("RIP: ") and not _NOISE.match(t) and not _REGISTER.match(t)]
    if len(above) == len(text):
        return head[:count]
    found = [where for where in frames(splat, 2 * count) if not where.startswith("? ")]
    stood = [where for where in found[:1] if where.startswith("RIP: ")]
    trace = found[len(stood) :]
    more = [" ..."] if len(trace) > count else []
    return [*head[:8], *stood, "Call Trace:", *(f" {where}" for where in trace[:count]), *more]


def news(comparison: Comparison, wanted: Iterable[Verdict]) -> list[NewsLine]:
    """Return a line for each scenario that has news of these kinds, with the number of checks."""
    alike: dict[tuple[str, str, str, str, str], list[Row]] = {}
    kinds = set(wanted)
    for change in changes(comparison):
        if change.cell.verdict in kinds and not (change.cell.verdict is Verdict.GONE and change.is_fault):
            key = (change.word, change.group.scenario, change.group.name, change.column, outcomes(change))
            alike.setdefault(key, []).append(change.row)
    return [
        NewsLine(word, f"{name} on {column}: {_checks(rows)}, {told}", (scenario,))
        for (word, scenario, name, column, told), rows in alike.items()
    ]


def _checks(rows: Sequence[Row]) -> str:
    if len(rows) > 1:
        return f"{len(rows)} checks"
    return "the whole job" if rows[0].id == JOB else line(rows[0].case, 160)


def standing(comparison: Comparison) -> list[NewsLine]:
    """Return what fails and is no regression: the base fails there too, in whatever way, or it alone does."""
    told = {(f.first.group.name, f.first.column) for f in faults(comparison)}
    told |= {(change.group.name, change.column) for f in faults(comparison) for change in f.others}
    alike: dict[tuple[str, str], dict[str, str]] = {}
    for group in comparison.groups:
        for column, jobs in group.jobs.items():
            bad = next((job for job in jobs if job.outcome.is_bad), None)
            outcome, _ = group.outcome(column) or (Outcome.PASS, False)  # what is only flaky is told as that
            if bad and outcome.is_bad and (group.name, column) not in told:
                found = splats(jobs)
                text = line(found[0].title if found else bad.message or _first_bad(bad), 200)
                alike.setdefault((str(bad.outcome), text), {})[f"{group.name} on {column}"] = group.scenario
    return [
        NewsLine(word.upper(), f"{text} ({some(list(names))})", tuple(dict.fromkeys(names.values())))
        for (word, text), names in alike.items()
    ]


def _first_bad(job: JobResult) -> str:
    bad = next((case for case in job.cases if case.outcome.is_bad), None)
    return "no message" if bad is None else bad.message if bad.id == JOB else f"{bad.name}: {bad.message}"


# --- figures ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FigureLine:
    """One figure in words: what was measured, on which column, the ratio with its interval, the verdict."""

    row: MetricRow
    column: str
    figure: Figure

    @property
    def speed(self) -> str:
        """FASTER, SLOWER, SAME or UNKNOWN."""
        return str(self.figure.speed)

    @property
    def name(self) -> str:
        """Scenario, metric and column."""
        return f"{self.row.group.name}: {self.row.title} on {self.column}"

    @property
    def ratio(self) -> str:
        """`1.871 of the base (1.853 to 1.890)`, or why there is none."""
        figure = self.figure
        if figure.ratio is None:
            return "no figure on the base" if not self._base_ran else "the base's mean is 0"
        if figure.low is None or figure.high is None:
            return f"{figure.ratio:.3f} of the base, no interval"
        return f"{figure.ratio:.4g} of the base ({figure.low:.4g} to {figure.high:.4g})"

    @property
    def _base_ran(self) -> bool:
        return any(figure.speed is None for figure in self.row.figures.values())

    @property
    def more(self) -> str:
        """How many more repeats an UNKNOWN takes, "" where nothing can be said."""
        count = self.figure.more
        return f"{count} more repeat{'s' if count > 1 else ''} of each may tell" if count else ""


def unit(row: MetricRow) -> str:
    """Return the unit as it is shown; a metric that has none says so."""
    return line(row.unit, 40) or "no unit"


@dataclass(frozen=True, slots=True)
class Figures:
    """All figures of a run that are compared with the base.

    Attributes:
        told: each of them, FASTER and SLOWER first.
        lacking: scenario and a line, for each metric that one side lacks.
        against_itself: how the base compares with itself, "" where it ran once.
    """

    told: tuple[FigureLine, ...]
    lacking: tuple[tuple[str, str], ...]
    against_itself: str

    @property
    def once(self) -> int:
        """How many were measured too seldom for an interval."""
        return sum(told.figure.low is None for told in self.told)

    def of(self, *speeds: Speed) -> list[FigureLine]:
        """Return those with one of these verdicts."""
        return [told for told in self.told if told.figure.speed in speeds]

    @property
    def counts(self) -> str:
        """`2 FASTER, 1 SLOWER, 12 SAME, 3 UNKNOWN`."""
        found = [(speed, len(self.of(speed))) for speed in Speed]
        return ", ".join(f"{count} {speed}" for speed, count in found if count)

    @property
    def modes(self) -> str:
        """What the figures count: "time (TCG)"."""
        return " and ".join(dict.fromkeys(told.row.mode or "time (mode not stored)" for told in self.told))


def figures(comparison: Comparison) -> Figures:
    """Return every figure that has one of the base to compare it with, and what is lacking."""
    rows = list(metric_rows(comparison))
    found = [
        FigureLine(row, column, figure)
        for row in rows
        for column, figure in row.figures.items()
        if figure.speed is not None and not column.endswith(AGAIN)
    ]
    rank = {speed: number for number, speed in enumerate((Speed.SLOWER, Speed.FASTER, Speed.SAME, Speed.UNKNOWN))}
    found.sort(key=lambda told: rank[told.figure.speed or Speed.UNKNOWN])
    lacking = [
        (row.group.scenario, f"{row.group.name}: {row.title}: no figure on {some(list(row.lacking))}")
        for row in rows
        if row.lacking
    ]
    itself = again(rows)
    return Figures(tuple(found), tuple(lacking), str(itself) if itself else "")


# --- what was not covered -----------------------------------------------------------------------------------------


def uncovered(run: Run, comparison: Comparison) -> list[str]:
    """Return a line for each thing that a reader could take for tested and that was not."""
    found = [] if run.complete else ["The run did not end: jobs are missing."]
    kinds = ((Outcome.BLOCKED, "blocked"), (Outcome.SKIP, "skipped"), (Outcome.INFRA, "lost by the lab itself"))
    for outcome, word in kinds:
        for reason, jobs in reasons(comparison, outcome).items():
            found.append(f"{counted(len(jobs), 'job')} {word}: {reason} ({some(jobs, 4)})")
    found += [*not_built(run), *_skipped_here(comparison), *_systems(run, comparison)]
    return found + [words for _, words in patches_left(run)]


def not_built(run: Run) -> list[str]:
    """Return a line for each kernel whose series changes code that its configuration does not compile."""
    return [
        f"not built here: {some(build.unbuilt, 8)} (the configuration of {build.kernel} leaves it out)"
        for build in run.builds
        if build.unbuilt
    ]


def _skipped_here(comparison: Comparison) -> Iterator[str]:
    """Yield the checks that ran on the base, and are skipped on another column: by their reasons."""
    why: dict[str, list[str]] = {}
    for group in comparison.groups:
        for row in group.rows:
            base = row.cells.get(comparison.base)
            for column, cell in row.cells.items():
                here = cell.outcome is Outcome.SKIP and cell.applies and not cell.missing and not cell.implied
                ran = base and base.outcome not in UNTRIED and not base.missing and not base.implied
                if here and row.id != JOB and ran:
                    why.setdefault(line(cell.message), []).append(f"{group.name} on {column}")
    for reason, places in why.items():
        named = some(list(dict.fromkeys(places)), 4)
        yield f"{counted(len(places), 'check')} skipped that the base has: {reason} ({named})"


def _systems(run: Run, comparison: Comparison) -> Iterator[str]:
    """Yield the systems of the series that no job of a kernel with it gave a result for."""
    ran: dict[str, set[Outcome]] = {}
    for job in run.jobs:
        if job.column != comparison.base or len(comparison.columns) == 1:
            ran.setdefault(job.scenario, set()).add(job.outcome)
    why: dict[str, list[str]] = {}
    for system in run.systems:
        outcomes = set().union(*(ran.get(name, set()) for name in system.scenarios))
        if not system.scenarios:
            why.setdefault("no scenario tests them", []).append(system.title)
        elif not outcomes:
            why.setdefault("their scenarios were not run", []).append(system.title)
        elif outcomes <= UNTRIED:
            word = "/".join(sorted(map(str, outcomes)))
            why.setdefault(f"every job of theirs: {word}", []).append(system.title)
    for reason, titles in why.items():
        yield f"{counted(len(titles), 'system')} without a result, {reason}: {some(titles, 40)}"


def patches_left(run: Run) -> list[tuple[int, str]]:
    """Return (number, words) of each patch whose functions no scenario reached, or whose calls are not known."""
    rows = [(row.patch, row.whole) for row in patch_rows(run)]
    if rows and not any(job.patched for job in run.jobs):
        return [(rows[0][0].number, "Calls of the functions that the patches change were not counted in this run.")]
    return [
        (patch.number, f"patch {patch.number} ({line(patch.title, 100)}): its functions: {whole.word}")
        for patch, whole in rows
        if not whole.ran and whole.word != NO_FUNCTION
    ]


# --- what was tested ----------------------------------------------------------------------------------------------


def tested(run: Run, comparison: Comparison) -> list[tuple[str, str]]:
    """Return (name, words): base, kernels with their series, configuration, host, size."""
    scenarios = {job.scenario for job in run.jobs}
    facts = []
    for build in run.builds:
        words = [f"Linux {build.release}" if build.release else "did not build", build.base or "base not stored"]
        words += [build.series] if build.series else []
        facts.append((build.kernel, line(", ".join(words))))
        facts += [(f"{kernel}, sandbox", words) for kernel, words in unconfined(run) if kernel == build.kernel]
        if build.config_misses:
            misses = [f"CONFIG_{m.symbol}={m.asked} came out as {m.got or 'not set'}" for m in build.config_misses]
            facts.append((f"{build.kernel}, configuration", some(misses)))
    if builds := on_builds(run):
        facts.append(("builds", builds))
    if hosts := on_hosts(run):
        facts.append(("hosts", hosts))
    if compilers := dict.fromkeys(build.compiler for build in run.builds if build.compiler):
        facts.append(("compiler", line("; ".join(compilers))))
    repeats = max((len(jobs) for group in comparison.groups for jobs in group.jobs.values()), default=0)
    size = f"{counted(len(scenarios), 'scenario')}, {counted(len(run.jobs), 'job')}, {counted(repeats, 'repeat')} each"
    facts.append(("run", f"{size}, {clock(run.duration_s)}, id {line(run.id)}, kpatchlab {line(run.version)}"))
    host = [f"{run.host[name]} {word}" for name, word in (("cpu", ""), ("cpus", "processors")) if run.host.get(name)]
    accel = f"accelerator {run.host['accel']}" if run.host.get("accel") else ""
    qemu = f"QEMU {run.host['qemu']}" if run.host.get("qemu") else ""
    if told := ", ".join(word.strip() for word in (qemu, accel, *host) if word):
        facts.append(("guests", line(told)))
    return facts


# --- whom it concerns ---------------------------------------------------------------------------------------------


def files(jobs: Iterable[JobResult]) -> list[str]:
    """Return the source files of the kernel that the jobs' splats blame: where it stood, and the next three frames."""
    found: dict[str, None] = {}
    for splat in splats(jobs):
        trace = [where for where in frames(splat, 12) if not where.startswith("? ")]
        for place in trace[:4]:
            found |= {match.removeprefix("./"): None for match in _PLACE.findall(place)}
    return list(found)


def concerned_files(run: Run) -> list[str]:
    """Return every file and folder of the kernel that the run says something about."""
    found = [file for patch in run.patches for file in patch.files]
    found += [file for name in {job.scenario for job in run.jobs} for file in run.touches.get(name, ())]
    found += files(run.jobs)
    for build in run.builds:
        found += [failure.source for failure in build.module_failures] + [build.error_file]
    return sorted({file for file in found if file})
