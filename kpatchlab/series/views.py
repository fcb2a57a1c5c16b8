"""Views of a judged walk: terminal, JUnit, JSON; the page is in `page`. Each is Table -> bytes."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from xml.etree import ElementTree as ET

from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from kpatchlab import terminal
from kpatchlab.jsonable import to_json
from kpatchlab.progress import clock
from kpatchlab.series import page
from kpatchlab.series.judge import CheckCell, CheckState, SeriesRow, Table
from kpatchlab.series.words import conclusion
from kpatchlab.textclean import one_line, printable

WIDE = 200
"""Columns of a table that goes to a file or a pipe."""
TITLE = 60
MAX_LINES = 6
"""Lines of one cell in the terminal; the other views have them all."""
_COLOUR = {
    CheckState.OK: "green",
    CheckState.WARN: "yellow",
    CheckState.FAIL: "bold red",
    CheckState.STILL: "red",
    CheckState.SKIP: "dim",
    CheckState.UNTRIED: "dim",
}


def text(table: Table, *, width: int = WIDE, colour: bool = False) -> bytes:
    """Return the table for a terminal: every patch, then what each bad one did, then the first bad patches."""
    stream = io.StringIO()
    console = terminal.console(stream, width=width, force_terminal=colour, no_color=not colour)
    walk = table.walk
    console.print(Text(f"{walk.kernel}: {walk.series}", style="bold"))
    console.print(Text(f"on {walk.base}; {walk.compiler.split(';')[0]}"), soft_wrap=True)
    for note in walk.notes:
        console.print(Text(f"note: {note}", style="yellow"))
    if any(cell.state is not CheckState.OK for cell in table.base.cells.values()):
        console.print(Text("the tree without any patch:", style="yellow"))
        _details(console, table.base, {CheckState.FAIL, CheckState.STILL})
    console.print(_grid(table, width))
    for row in table.rows:
        if any(cell.state in {CheckState.FAIL, CheckState.WARN} for cell in row.cells.values()):
            console.print(Text(f"\n{row.facts.number}. {one_line(row.facts.title, 100)}", style="bold"))
            _details(console, row, {CheckState.FAIL, CheckState.WARN})
    console.print()
    for line in conclusion(table):
        console.print(Text(line), soft_wrap=True)
    return stream.getvalue().encode("utf-8", "replace")


def _grid(table: Table, width: int) -> Grid:
    grid = Grid(box=None, pad_edge=False, header_style="bold")
    grid.add_column("#", justify="right")
    others = sum(max([len(name), *(len(row.cells[name].text) for row in table.rows)]) + 2 for name in table.columns)
    grid.add_column("patch", no_wrap=True, overflow="ellipsis", max_width=max(16, min(TITLE, width - others - 26)))
    for name in table.columns:
        grid.add_column(name, no_wrap=True)
    grid.add_column("objects", justify="right")
    grid.add_column("time", justify="right", no_wrap=True)
    for row in table.rows:
        built = row.facts.built
        cells = [Text(cell.text, style=_COLOUR[cell.state]) for cell in (row.cells[name] for name in table.columns)]
        count = str(built.rebuilt) if built else "-"
        took = clock(row.facts.duration_s) if built else "-"
        grid.add_row(str(row.facts.number), Text(one_line(row.facts.title)), *cells, count, took)
    return grid


def _details(console: Console, row: SeriesRow, states: set[CheckState]) -> None:
    for name, cell in row.cells.items():
        if cell.state in states:
            for line in cell.lines[:MAX_LINES]:
                text = printable(line).replace("\n", "\n      ")
                console.print(Text(f"   {name}: {text}", style=_COLOUR[cell.state]), soft_wrap=True)
            if len(cell.lines) > MAX_LINES:
                console.print(Text(f"   {name}: and {len(cell.lines) - MAX_LINES} more lines"))


def junit(table: Table) -> bytes:
    """Return JUnit XML: a suite for each check, a case for each patch, named by its number and title.

    What is as bad as before a patch is not the patch's failure: it passes, and its output says since when.
    """
    root = ET.Element("testsuites", {"name": printable(f"kpatchlab series {table.walk.kernel}")})
    for name in table.columns:
        suite = ET.SubElement(root, "testsuite", {"name": name, "timestamp": table.walk.started.partition("+")[0]})
        for row in table.rows:
            _case(suite, name, row, row.cells[name])
        for word, tags in (("failures", "failure"), ("skipped", "skipped")):
            suite.set(word, str(len(suite.findall(f"testcase/{tags}"))))
        suite.set("tests", str(len(table.rows)))
        suite.set("errors", "0")
    for word in ("tests", "failures", "errors"):
        root.set(word, str(sum(int(suite.get(word, "0")) for suite in root)))
    ET.indent(root)
    return bytes(ET.tostring(root, encoding="utf-8", xml_declaration=True)) + b"\n"


def _case(suite: ET.Element, name: str, row: SeriesRow, cell: CheckCell) -> None:
    facts = row.facts
    look = facts.look(name)
    seconds = look.duration_s if look else facts.built.duration_s if facts.built and name == "build" else 0.0
    case = ET.SubElement(
        suite,
        "testcase",
        {
            "classname": name.replace(".", "_"),
            "name": printable(f"{facts.number:04d} {facts.title}"),
            "time": f"{seconds:.3f}",
        },
    )
    lines = printable("\n".join(cell.lines))
    if cell.state is CheckState.FAIL:
        message = printable(f"{cell.text}: {cell.lines[0]}" if cell.lines else cell.text)
        ET.SubElement(case, "failure", {"message": one_line(message), "type": name}).text = lines
    elif cell.state in {CheckState.SKIP, CheckState.UNTRIED}:
        ET.SubElement(case, "skipped", {"message": one_line(cell.lines[0] if cell.lines else cell.text)})
    elif cell.state is not CheckState.OK or lines:
        ET.SubElement(case, "system-out").text = f"{cell.text}\n{lines}"


def data(table: Table) -> bytes:
    """Return JSON: the walk's facts, each patch with its cells, and the failures."""
    value = {
        "walk": to_json(table.walk),
        "columns": table.columns,
        "patches": [
            {"number": row.facts.number, "title": row.facts.title, "cells": to_json(row.cells)} for row in table.rows
        ],
        "failures": to_json(table.failures),
        "objects": {"patches": table.rebuilt, "checks": table.looked, "clean_builds": table.clean},
        "exit_code": table.exit_code,
    }
    return json.dumps(value, indent=1, ensure_ascii=False).encode("utf-8", "replace") + b"\n"


VIEWS: dict[str, Callable[[Table], bytes]] = {"text": text, "html": page.render, "junit": junit, "json": data}
"""Format -> its writer."""
FILES = {"html": "index.html", "junit": "junit.xml", "json": "series.json"}
"""What a walk leaves in its folder, below results/."""
