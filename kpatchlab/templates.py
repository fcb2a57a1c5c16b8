"""Pages made of jinja2 templates; everything foreign in them is made `printable`, and goes through autoescape."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from kpatchlab.textclean import printable


def templates(folder: Path) -> jinja2.Environment:
    """Return the templates of a folder; a name that a template uses and nobody gave is an error."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _finalize(value: Any) -> Any:
    """Clean what a template puts out, before it is escaped."""
    if isinstance(value, Markup):
        return Markup(printable(value))  # noqa: S704 - it was markup before
    return printable(value) if isinstance(value, str) else value
