"""The summary for a terminal: verdict, matrix, then every regression in full. Words first, colour second."""

from __future__ import annotations

import io
from collections.abc import Collection, Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kpatchlab import terminal
from kpatchlab.model import BuildResult, JobResult, Outcome, Run, Verdict
from kpatchlab.progress import clock
from kpatchlab.report.common import frames, line, on_builds, reasons, unconfined
from kpatchlab.report.digest import where
from kpatchlab.report.figures import verdict
from kpatchlab.report.patches import patch_rows, summary
from kpatchlab.report.view import View
from kpatchlab.textclean import printable
from kpatchlab.verdict.faults import Change, Fault, changes, faults
from kpatchlab.verdict.ratios import metric_rows
from kpatchlab.verdict.values import Cell, Comparison, Group

WIDTH = 80
MANY_GROUPS = 40
"""From here on the matrix shows only the scenarios with something to see."""
_INDENT = 15
_SHORTER = {Verdict.FIXED, Verdict.CHANGED, Verdict.FLAKY, Verdict.NEW, Verdict.UNKNOWN}
"""Verdicts that are told in a line each."""
MANY_JOBS = 10
"""From more than these on, so many of the slowest jobs are named."""
MAX_FAULTS = 20
"""How many faults are told in full; the rest is in the web page."""
STYLES = {
    "REGRESSED": "bold red", "GONE": "red", "FIXED": "bold green", "NEW": "green", "FLAKY": "yellow",
    "CHANGED": "cyan",
    "BLOCKED": "yellow", "UNKNOWN": "yellow", "SAME": "", "pass": "green", "fail": "red", "crash": "bold red",
    "timeout": "red", "blocked": "yellow", "skip": "dim", "infra": "magenta",
}  # fmt: skip


def render(view: View) -> bytes:
    """Return the summary as plain text, 80 columns, UTF-8, without colour."""
    sink = io.StringIO()
    console = terminal.console(sink, width=WIDTH, color_system=None, force_terminal=False, legacy_windows=False)
    show(view, console)
    return "".join(f"{text.rstrip()}\n" for text in sink.getvalue().splitlines()).encode("utf-8", "replace")


def show(view: View, console: Console) -> None:
    """Print the summary; the console's own width, colour and encoding hold (NO_COLOR and pipes are its matter)."""
    run, comparison = view.run, view.comparison
    page = _Page(console)
    page.say(run.title or "kpatchlab", style="bold", end=f"  run {run.id}")
    page.verdict(comparison)
    page.say(comparison.basis)
    if not run.complete:
        page.say("The run did not end: jobs are missing.", style="bold yellow")
    for lost in comparison.lost:
        page.say(f"Lost by the lab itself, not judged: {lost}", style="magenta")
    page.builds(run, comparison)
    page.matrix(comparison)
    found = changes(comparison)
    told = faults(comparison)
    for fault in told[:MAX_FAULTS]:
        page.fault(fault, view.folder)
    if len(told) > MAX_FAULTS:
        page.say(f"... and {len(told) - MAX_FAULTS} more, see index.html in {view.folder}")
    page.standing(comparison, {(change.group.name, change.column) for fault in told for change in fault.changes})
    page.shorter([c for c in found if c.cell.verdict in _SHORTER])
    page.counted(comparison)
    page.metrics(comparison)
    page.patches(run)
    page.timings(run)


class _Page:
    """A console that takes foreign text as it is: no markup, no escapes, nothing its encoding lacks."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.ascii = console.options.ascii_only

    def text(self, text: str, style: str = "") -> Text:
        text = printable(text)
        return Text(text.encode("ascii", "backslashreplace").decode() if self.ascii else text, style=style)

    def say(self, text: str = "", *, style: str = "", end: str = "", indent: int = 0, head: str = "") -> None:
        """Print wrapped text behind `head`, every line `indent` columns in."""
        whole = Text.assemble(self.text(text, style), self.text(end, "dim"))
        lead = Text(head.ljust(indent))
        for part in whole.wrap(self.console, max(20, self.console.width - indent)):
            self.console.print(lead + part, highlight=False, soft_wrap=True)
            lead = Text(" " * indent)

    def verbatim(self, text: str, *, head: str = "") -> None:
        """Print one line as it is, however long: a command or a path must survive copying."""
        self.console.print(Text(head.ljust(_INDENT)) + self.text(text), highlight=False, soft_wrap=True)

    def verdict(self, comparison: Comparison) -> None:
        words = comparison.headline.split(", ")
        parts = [self.text(word, next((STYLES[w] for w in word.split() if w in STYLES), "")) for word in words]
        self.console.print(Text(", ").join(parts), highlight=False)

    def table(self, *heads: str) -> Table:
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, header_style="bold", collapse_padding=True)
        for head in heads:
            table.add_column(self.text(head), overflow="fold")
        return table

    # --- parts

    def builds(self, run: Run, comparison: Comparison) -> None:
        if not run.builds:
            return
        table = self.table("kernel", "build", "release", "time", "compiled")
        for build in run.builds:
            word, style = _build_word(build)
            compiled = "cached" if build.cached else f"{build.objects_compiled} of {build.objects_total}"
            row = (build.kernel, build.release, clock(build.duration_s), compiled if build.objects_total else "")
            table.add_row(self.text(row[0]), self.text(word, style), *map(self.text, row[1:]))
        self.console.print(table)
        for check in comparison.builds:
            if check.outcome is not Outcome.PASS:
                word = str(check.verdict or check.outcome.upper())
                self.say(word, style=STYLES.get(word, ""), end=f"  {check.kernel}: {check.step}: {line(check.message)}")
        if words := on_builds(run):
            self.say(f"{words}.")
        for kernel, words in unconfined(run):
            self.say(f"{kernel}: {words}", style="yellow")
        for text, kernels in _config_misses(run).items():
            self.say(f"{', '.join(kernels)}: {text}")

    def matrix(self, comparison: Comparison) -> None:
        groups = comparison.groups
        if len(groups) > MANY_GROUPS:
            groups = tuple(g for g in groups if not all(row.quiet for row in g.rows))
            self.say(f"{len(comparison.groups) - len(groups)} of {len(comparison.groups)} scenarios pass everywhere.")
        others = [c for c in comparison.columns if c != comparison.base]
        for start in range(0, max(1, len(others)), 3):  # the base and three more fit 80 columns
            columns = [c for c in (comparison.base, *others[start : start + 3]) if c in comparison.columns]
            if not columns or not groups:
                continue
            table = self.table("scenario", *(c.replace(",", "\n") for c in columns))
            table.columns[0].no_wrap = True  # the other columns have spaces to fold at
            for group in groups:
                name = "\n  ".join([group.scenario, *(f"{k}={v}" for k, v in sorted(group.params.items()))])
                table.add_row(self.text(name), *(self.mark(group, column) for column in columns))
            self.console.print(table)

    def mark(self, group: Group, column: str) -> Text:
        """Return one cell of the matrix: `pass`, `fail 6/7 REGRESSED`, `-` where it did not run."""
        worst = group.outcome(column)
        if worst is None:
            return Text("-", style="dim")
        outcome, flaky = worst
        good, count = group.count(column)
        word = "flaky" if flaky and outcome is Outcome.PASS else str(outcome)
        text = self.text(word, STYLES["FLAKY" if flaky else str(outcome)])
        if outcome.is_bad and count > 1:
            text.append(f" {good}/{count}", style="dim")
        verdict = group.verdict(column)
        if verdict not in {None, Verdict.SAME} and str(verdict).lower() != word:
            text.append(f" {verdict}", style=STYLES[str(verdict)])
        return text

    def fault(self, fault: Fault, run_dir: Path) -> None:
        """Tell a fault by the change that shows it best, and where it shows as well."""
        change = fault.first
        self.console.print()
        self.say(change.word, style=STYLES.get(change.word, "bold"), end=f"  {change.group.name} on {change.column}")
        self._field("check", change.row.case)
        self._field("outcome", _outcomes(change))
        message = line(change.cell.message)
        if message and message not in {line(s.title) for s in change.splats}:
            self._field("message", message)
        if change.cell.reason:
            self._field("reason", line(change.cell.reason))
        for splat in change.splats[:3]:
            self._field("splat", line(splat.title), "bold")
            for frame in frames(splat, 8):
                self.verbatim(frame)
        for splat in [splat for splat in fault.more_splats if splat not in change.splats[:3]][:6]:
            self._field("splat as well", line(splat.title))
        if change.not_reached:
            names = ", ".join(change.not_reached[:8]) + (", ..." if len(change.not_reached) > 8 else "")
            self._field("not reached", f"{len(change.not_reached)} of {len(change.group.rows)} checks: {names}")
        if fault.others:
            self._field("also in", where(fault.others, change))
        if fault.end:
            self._field("end", fault.end)
        if change.reproduce:
            self.verbatim(change.reproduce, head="  reproduce")
        for guest in change.jobs[0].guests:
            self.verbatim(str(_near(run_dir / guest.console)), head="  console")

    def _field(self, name: str, value: str, style: str = "") -> None:
        self.say(value, style=style, indent=_INDENT, head=f"  {name}")

    def shorter(self, found: Sequence[Change]) -> None:
        if found:
            self.console.print()
        alike: dict[tuple[str, str, str, str], list[str]] = {}
        for change in found:
            key = (change.word, change.group.name, change.column, _outcomes(change))
            alike.setdefault(key, []).append(change.row.case)
        for (word, group, column, outcomes), cases in list(alike.items())[: 2 * MAX_FAULTS]:
            what = cases[0] if len(cases) == 1 else f"{len(cases)} checks"
            self.say(word, style=STYLES.get(word, ""), end=f"  {group} on {column}: {what}, {outcomes}")
        if len(alike) > 2 * MAX_FAULTS:
            self.say(f"... and {len(alike) - 2 * MAX_FAULTS} more")

    def standing(self, comparison: Comparison, told: Collection[tuple[str, str]]) -> None:
        """Tell what fails and is no regression: on the base itself, or here as there.

        Args:
            told: (group, column) of what has been told already.
        """
        alike: dict[tuple[str, str], list[tuple[str, JobResult]]] = {}
        for group in comparison.groups:
            for column, jobs in group.jobs.items():
                if (group.name, column) in told:
                    continue
                for job in jobs:
                    if job.outcome.is_bad:
                        where = f"{group.name} on {column}"
                        alike.setdefault((job.outcome.upper(), line(job.message)), []).append((where, job))
        for (word, message), found in list(alike.items())[:MAX_FAULTS]:
            self.console.print()
            self.say(word, style="red", end=f"  {message}")
            for where in dict.fromkeys(where for where, _ in found):
                self.say(where, indent=_INDENT, head="  in")
            for splat in found[0][1].splats[:1]:
                for frame in frames(splat, 6):
                    self.verbatim(frame)
            self.verbatim(found[0][1].reproduce, head="  reproduce")

    def counted(self, comparison: Comparison) -> None:
        for outcome, what in ((Outcome.BLOCKED, "blocked"), (Outcome.SKIP, "skipped"), (Outcome.INFRA, "lost")):
            found = reasons(comparison, outcome)
            if found:
                self.console.print()
                total = sum(len(jobs) for jobs in found.values())
                self.say(f"{total} job{'s' if total > 1 else ''} {what}, not tested:", style="bold")
                for reason, jobs in list(found.items())[:10]:
                    self.say(reason, indent=8, head=f"  {len(jobs):4d}")

    def metrics(self, comparison: Comparison) -> None:
        every = list(metric_rows(comparison))
        rows = [row for row in every if any(f.low is not None for f in row.figures.values())][:MANY_GROUPS]
        if every and not rows and comparison.compares:
            # One run's ratio says nothing on a shared host: it is in the page, and not put before a reader here.
            figures = f"{len(every)} figure{'s' if len(every) > 1 else ''}"
            self.say(f"{figures}, measured once each: run with --repeat 3 or more for ratios.")
        if not rows:
            return
        table = self.table("metric", "column", "mean", "of base", "95 % interval", "")
        for row in rows:
            name = f"{row.group.name}: {row.name}{f', {row.mode}' if row.mode else ''}"
            for column, figure in row.figures.items():
                ratio = "" if figure.ratio is None else f"{figure.ratio:.3f}"
                bounds = "" if figure.low is None else f"{figure.low:.3f} to {figure.high:.3f}"
                cells = (name, column, f"{figure.mean:.5g} {row.unit}", ratio, bounds)
                table.add_row(*map(self.text, cells), self.text(*verdict(figure)))
                name = ""
        self.console.print(table)

    def patches(self, run: Run) -> None:
        lines = summary(patch_rows(run))
        if lines:
            self.console.print()
            self.say("What the series changed:", style="bold")
        for text in lines[:MAX_FAULTS]:
            self.say(text.strip(), indent=2 if text.startswith(" ") else 0)
        if len(lines) > MAX_FAULTS:
            self.say(f"... and {len(lines) - MAX_FAULTS} more: report --format reach")

    def timings(self, run: Run) -> None:
        self.console.print()
        builds = clock(sum(build.duration_s for build in run.builds))
        guest = clock(sum(job.guest_s for job in run.jobs))
        overhead = clock(sum(job.overhead_s for job in run.jobs))
        self.say(
            f"{len(run.jobs)} jobs in {clock(run.duration_s)}: builds {builds}, scenarios {guest}, "
            f"the lab's own {overhead} (summed over guests)"
        )
        if len(run.jobs) > MANY_JOBS:
            slowest = sorted(run.jobs, key=lambda job: -job.duration_s)[:MANY_JOBS]
            told = "; ".join(f"{job.job} {clock(job.duration_s)}" for job in slowest)
            self.say(f"The slowest: {told}")
        if peak := run.host.get("peak_memory_mib", ""):
            self.say(f"Memory at its peak, lab and guests together: {peak} MiB")
        accel = run.host.get("accel", "")
        if accel:
            self.say(f"Accelerator: {accel}")


def _near(path: Path) -> Path:
    """Return a path from the current directory where it lies below it: shorter, and it can be pasted."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _outcomes(change: Change) -> str:
    here = change.cell.told
    return f"{change.base.told} on the base, {here} here" if isinstance(change.base, Cell) else here


def _build_word(build: BuildResult) -> tuple[str, str]:
    if build.outcome is Outcome.PASS and build.module_failures:
        return f"{len(build.module_failures)} module(s) failed", "red"
    if build.outcome is Outcome.PASS:
        return "ok", "green"
    return ("did not build", "bold red") if build.outcome is Outcome.BLOCKED else (str(build.outcome), "magenta")


def _config_misses(run: Run) -> dict[str, list[str]]:
    """Return what came out otherwise than asked -> the kernels where it did."""
    found: dict[str, list[str]] = {}
    for build in run.builds:
        for miss in build.config_misses[:10]:
            reason = " ".join(part for part in (line(miss.reason), miss.where) if part)
            text = f"CONFIG_{miss.symbol}: asked {miss.asked}, got {miss.got or 'nothing'}: {reason}"
            found.setdefault(text, []).append(build.kernel)
        if len(build.config_misses) > 10:
            found[f"{len(build.config_misses) - 10} more symbols are not as asked"] = [build.kernel]
    return found
