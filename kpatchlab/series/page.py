"""The page of a walk: one file, no network, no scripts; everything foreign goes through autoescape."""

from __future__ import annotations

from pathlib import Path

from kpatchlab.progress import clock
from kpatchlab.series.judge import CheckState, Table
from kpatchlab.series.words import conclusion
from kpatchlab.templates import templates
from kpatchlab.textclean import one_line, printable

MAX_LINES = 200
"""Lines of one cell; a page of 200 patches stays below a few MiB."""


def render(table: Table) -> bytes:
    """Return the page, UTF-8."""
    env = templates(Path(__file__).parent)
    env.filters |= {"printable": printable, "line": one_line, "clock": clock}
    bad = sum(row.bad for row in table.rows)
    counts = {
        state: sum(cell.state is state for row in table.rows for cell in row.cells.values()) for state in CheckState
    }
    words = conclusion(table)
    first = next((i for i, word in enumerate(words) if not word.startswith((" ", "first", "no patch"))), len(words))
    return (
        env.get_template("page.html.j2")
        .render(table=table, walk=table.walk, bad=bad, counts=counts, facts=words[first:], max_lines=MAX_LINES)
        .encode("utf-8", "replace")
    )
