"""Plain text for mails: prose at 72 columns; commands and logs are not wrapped, and indented by four blanks."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

from kpatchlab.report.common import line
from kpatchlab.textclean import printable

WIDTH = 72
"""Columns, as Documentation/process/email-clients.rst and the netiquette of the lists have it."""
MAX_LINES = 30
"""So many items of a list are told; of the others, their number."""


def part(title: str, body: Iterable[str]) -> list[str]:
    """Return a titled part, or nothing where its body is empty."""
    lines = list(body)
    return ["", title, "-" * len(title), *lines] if lines else []


def prose(words: str, lead: str = "", rest: str = "") -> list[str]:
    """Return text as lines of at most `WIDTH`; `lead` begins the first, `rest` the others."""
    return textwrap.wrap(
        line(words, 2000), WIDTH, initial_indent=lead, subsequent_indent=rest, break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip


def item(words: str) -> list[str]:
    """Return one item of a list."""
    return prose(words, "* ", "  ")


def items(found: Sequence[str]) -> list[str]:
    """Return a list of at most `MAX_LINES` items."""
    more = [f"* and {len(found) - MAX_LINES} more"] if len(found) > MAX_LINES else []
    return [row for words in found[:MAX_LINES] for row in item(words)] + more


def verbatim(lines: Iterable[str]) -> list[str]:
    """Return lines as they are, behind four blanks."""
    return [f"    {words}".rstrip() for words in printable("\n".join(lines)).splitlines()]
