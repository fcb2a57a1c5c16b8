"""Figures as a table for a terminal: each column's ratio to the base with its interval, verdict, mode and margin."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kpatchlab.compare import compare
from kpatchlab.model import JobResult, Outcome, Run
from kpatchlab.ratios import AGAIN, Figure, MetricRow, Speed, again, margin, metric_rows, splits
from kpatchlab.report.common import duration, line
from kpatchlab.textclean import printable

STYLES = {Speed.FASTER: "green", Speed.SLOWER: "bold red", Speed.UNKNOWN: "yellow", Speed.SAME: ""}
CONDITIONS = ("pinned", "governor", "load", "other_load", "stolen", "uncontrolled")


def show(run: Run, console: Console) -> None:
    """Print the figures of a run, how the base compares with itself, and under which conditions."""
    rows = list(metric_rows(compare(run)))
    say(console, f"{run.title}, base {run.base}  run {run.id}", "bold")
    for mode in dict.fromkeys(row.mode for row in rows):
        of_mode = [row for row in rows if row.mode == mode]
        say(console, f"\nMode: {mode or 'not known'}. SAME is within {100 * margin(mode):g} %, at the 95 % level.")
        for name in dict.fromkeys(row.group.name for row in of_mode):
            console.print(_table(name, [row for row in of_mode if row.group.name == name], run.base))
        for found in (again(of_mode), splits(of_mode, run.base)):
            if found:
                say(console, f"A/A: {found}")
        say(
            console,
            "The first line is of this run's second column of the base, the second of its values dealt out anew.",
        )
    if not rows:
        say(console, "No figures: no job printed a metric.", "bold red")
    for job in run.jobs:
        if job.outcome is not Outcome.PASS:
            say(console, f"{job.outcome.upper()}  {job.job}: {line(_why(job))}", "red")
    say(console, f"{len(run.jobs)} jobs in {duration(run.duration_s)}, one at a time, reach counting off.")
    told = "; ".join(f"{name.replace('_', ' ')} {run.host[name]}" for name in CONDITIONS if run.host.get(name))
    if told:
        say(console, f"Host: {told}")


def say(console: Console, text: str, style: str = "") -> None:
    """Print foreign text as it is."""
    console.print(Text(printable(text), style=style), highlight=False)


def _why(job: JobResult) -> str:
    return job.message or next((case.message for case in job.cases if case.message), "no reason given")


def _table(name: str, rows: list[MetricRow], base: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, header_style="bold", title_justify="left")
    for head in (name, "unit", base, "column", "mean", "ratio", "95 % interval", "verdict", "A/A"):
        table.add_column(Text(printable(head)), justify="left" if head in {name, "unit", "verdict"} else "right")
    for row in rows:
        own = row.figures.get(base)
        second = row.figures.get(base + AGAIN)
        first = [row.name, row.unit, f"{own.mean:.5g}" if own else "no value"]
        columns = [column for column in (*row.figures, *row.lacking) if column not in {base, base + AGAIN}]
        for column in columns or [""]:
            figure = row.figures.get(column)
            cells = [*first, column, *(_cells(figure) if figure else ["no value" if column else "", "", ""])]
            word = Text(*verdict(figure)) if figure else Text("")
            table.add_row(*(Text(printable(cell)) for cell in cells), word, Text(_ratio(second)))
            first = ["", "", ""]
    return table


def _cells(figure: Figure) -> list[str]:
    bounds = "" if figure.low is None or figure.high is None else f"{figure.low:.4f} to {figure.high:.4f}"
    return [f"{figure.mean:.5g}", _ratio(figure), bounds]


def _ratio(figure: Figure | None) -> str:
    return "" if figure is None or figure.ratio is None else f"{figure.ratio:.4f}"


def verdict(figure: Figure) -> tuple[str, str]:
    """Return a figure's verdict in words, and a style for it."""
    if figure.speed is None:
        return "", ""
    more = f", {figure.more} more" if figure.more else ""
    return f"{figure.speed}{more}", STYLES[figure.speed]
