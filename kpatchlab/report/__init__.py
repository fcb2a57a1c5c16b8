"""Reports: each module turns one stored run into bytes; a new format is one file and one row here."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import cast

from kpatchlab.model import Run

Writer = Callable[[Run, Path], bytes]
"""`render(run, run_dir)`: `run_dir` is where the files are that the run's relative paths name."""


def _lazy(module: str) -> Writer:
    """Return a writer that imports its module when it is first called: --help must not pay for jinja2."""

    def render(run: Run, run_dir: Path) -> bytes:
        return cast("Writer", importlib.import_module(f"kpatchlab.report.{module}").render)(run, run_dir)

    return render


WRITERS: dict[str, Writer] = {
    "junit": _lazy("junit"),
    "html": _lazy("html"),
    "text": _lazy("text"),
    "markdown": _lazy("markdown"),
    "mail": _lazy("mail"),
    "kcidb": _lazy("kcidb"),
    "json": _lazy("data"),
    "systems": _lazy("systems"),
    "reach": _lazy("patches"),
}
"""Format name -> writer."""

FILES = {
    "junit": "junit.xml",
    "html": "index.html",
    "text": "summary.txt",
    "markdown": "comment.md",
    "mail": "mail.txt",
    "kcidb": "kcidb.json",
    "json": "report.json",
    "systems": "systems.md",
    "reach": "reach.md",
}
"""Format name -> the name of its file in a run's folder."""
