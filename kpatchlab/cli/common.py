"""What several verbs share: the lab that is meant, and how things are printed."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kpatchlab import terminal
from kpatchlab.cli.app import Options
from kpatchlab.errors import HostError, UserError
from kpatchlab.textclean import clean, one_line

if TYPE_CHECKING:
    from kpatchlab.lab.load import Lab


pass_options = click.make_pass_decorator(Options)


as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")


def load_lab(options: Options, choice: tuple[str, ...] = (), variant: str | None = None) -> Lab:
    """Read the lab file and everything that it names; `variant`: of its kernels, see `variants.debug`."""
    from kpatchlab.lab import load
    from kpatchlab.lab.hosts import load_hosts
    from kpatchlab.variants import debug

    loaded = dataclasses.replace(load.load(options.lab_file(), choice), stdin=options.stdin, trust=options.trust)
    if options.hosts:
        loaded = dataclasses.replace(loaded, hosts=load_hosts(options.hosts))
    return debug.variant(loaded, variant) if variant else loaded


def dump(value: Any) -> None:
    """Print JSON."""
    from kpatchlab.jsonable import to_json

    click.echo(json.dumps(clean(to_json(value)), indent=2, default=str))


def write_output(path: Path, data: bytes) -> None:
    """Write a file that the user named, whole or not at all.

    Raises:
        UserError: it is a folder, or cannot be written.
    """
    from kpatchlab.files import write_atomic

    if path.is_dir():
        raise UserError(f"{path} is a folder", hint=f"a file in it: -o {path}/NAME")
    if not path.parent.is_dir():
        raise UserError(f"cannot write {path}: there is no folder {path.parent}")
    try:
        if path.exists() and not path.is_file():  # a pipe or a device is written to, not replaced
            path.write_bytes(data)
        else:
            write_atomic(path, data)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None
    except HostError as error:
        raise UserError(error.message) from None


def wrapped(text: str, head: str, indent: int, colour: str = "") -> None:
    """Print text behind `head`, which takes `indent` columns; on a terminal in a colour, and the text wrapped."""
    import shutil
    import textwrap

    from rich.text import Text

    width = max(40, shutil.get_terminal_size().columns - indent) if sys.stdout.isatty() else 1 << 16
    lines = textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) or [""]
    body = f"\n{'':{indent}}".join(lines)
    terminal.console().print(Text(head, style=colour).append(body, "default"), soft_wrap=True)


def table(rows: list[dict[str, Any]]) -> None:
    """Print rows of equal keys: a line each, on a terminal folded so that they fit."""
    if not rows:
        click.echo("none")
        return
    words = [
        ["yes" if v is True else "" if v is False else one_line(str(v), 1 << 16) for v in row.values()] for row in rows
    ]
    if not sys.stdout.isatty():
        lines = [list(rows[0]), *words]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        for line in lines:
            click.echo("  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip())
        return
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, pad_edge=False, header_style="bold")
    for number, name in enumerate(rows[0]):
        grid.add_column(name, no_wrap=number == 0, overflow="fold")
    for line in words:
        grid.add_row(*map(Text, line))
    terminal.console().print(grid)
