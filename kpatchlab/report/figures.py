"""Figures as a table for a terminal: each column's ratio to the base with its interval, verdict, mode and margin."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kpatchlab.model import JobResult, Outcome
from kpatchlab.progress import clock
from kpatchlab.report.common import line
from kpatchlab.report.view import View
from kpatchlab.textclean import printable
from kpatchlab.verdict.ratios import AGAIN, Figure, MetricRow, Speed, again, margin, metric_rows, splits

STYLES = {Speed.FASTER: "green", Speed.SLOWER: "bold red", Speed.UNKNOWN: "yellow", Speed.SAME: ""}
CONDITIONS = ("pinned", "governor", "load", "other_load", "stolen", "uncontrolled")


def show(view: View, console: Console) -> None:
    """Print the figures of a run, how the base compares with itself, and under which conditions."""
    run, rows = view.run, list(metric_rows(view.comparison))
    say(console, f"{run.title}, base {run.base}  run {run.id}", "bold")
    for mode in dict.fromkeys(row.mode for row in rows):
        of_mode = [row for row in rows if row.mode == mode]
        say(console, f"\nMode: {mode or 'not known'}. SAME is within {100 * margin(mode):g} %, at the 95 % level.")
        others = [c for c in run.columns if c not in {run.base, run.base + AGAIN}]
        for name in dict.fromkeys(row.group.name for row in of_mode):
            of_name = [row for row in of_mode if row.group.name == name]
            for column in others or [run.base + AGAIN]:
                console.print(_table(f"{name}: {column}", of_name, run.base, column))
        for found in (again(of_mode), splits(of_mode, run.base)):
            if found:
                say(console, f"A/A: {found}")
        say(
            console,
            "(first: this run's second column of the base; then: with the sides of its repeats changed at random)",
        )
        for row in of_mode:
            second = row.figures.get(run.base + AGAIN)
            if second and second.speed is not Speed.SAME:
                word, style = verdict(second)
                say(console, f"A/A: {row.group.name} {row.title} {word}: {_ratio(second)}, {_bounds(second)}", style)
    if not rows:
        say(console, "No figures: no job printed a metric.", "bold red")
    for job in run.jobs:
        if job.outcome is not Outcome.PASS:
            say(console, f"{job.outcome.upper()}  {job.job}: {line(_why(job))}", "red")
    say(console, f"{len(run.jobs)} jobs in {clock(run.duration_s)}, one at a time, reach counting off.")
    told = "; ".join(f"{name.replace('_', ' ')} {run.host[name]}" for name in CONDITIONS if run.host.get(name))
    if told:
        say(console, f"Host: {told}")


def say(console: Console, text: str, style: str = "") -> None:
    """Print foreign text as it is."""
    console.print(Text(printable(text), style=style), highlight=False)


def _why(job: JobResult) -> str:
    return job.message or next((case.message for case in job.cases if case.message), "no reason given")


def _table(name: str, rows: list[MetricRow], base: str, column: str) -> Table:
    """Return one column's table against the base; it fits into 80 columns."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, header_style="bold", collapse_padding=True)
    for head in (name, base, "ratio", "95 % interval", ""):
        numbers = head in {base, "ratio", "95 % interval"}
        table.add_column(Text(printable(head)), justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        own, here = row.figures.get(base), row.figures.get(column)
        mean = f"{own.mean:.5g} {row.unit}" if own else "no value"
        cells = [row.title, mean, *((_ratio(here), _bounds(here)) if here else ("no value", ""))]
        table.add_row(*(Text(printable(cell)) for cell in cells), Text(*verdict(here)) if here else Text(""))
    return table


def _bounds(figure: Figure) -> str:
    if figure.low is None or figure.high is None:
        return ""
    # Of two noisy values Student's interval spans many powers of ten.
    wide = figure.low <= 0 or figure.high > 1000 * figure.low
    return "too wide to tell" if wide else f"{figure.low:.4f} to {figure.high:.4f}"


def _ratio(figure: Figure | None) -> str:
    return "" if figure is None or figure.ratio is None else f"{figure.ratio:.4f}"


def verdict(figure: Figure) -> tuple[str, str]:
    """Return a figure's verdict in words, and a style for it."""
    if figure.speed is None:
        return "", ""
    more = f", {figure.more} more" if figure.more else ""
    return f"{figure.speed}{more}", STYLES[figure.speed]
