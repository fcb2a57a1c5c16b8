"""The verbs that show stored runs: report and compare."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kpatchlab.cli import complete
from kpatchlab.cli.main import Options, Verb
from kpatchlab.errors import HostError, UserError

if TYPE_CHECKING:
    from kpatchlab.model import Run

FORMATS = "text, html, markdown, junit, json, systems, reach"
"""The names in `report.WRITERS`, which `--help` need not import."""


def stored(options: Options, wanted: str) -> tuple[Run, Path]:
    """Return a run and its folder.

    Args:
        wanted: "last", an id or the beginning or end of one, or the path of a run's folder.

    Raises:
        UserError, LabError: as `store.Store.load`.
    """
    from kpatchlab.store import HEADER, Store

    if "/" in wanted:
        folder = Path(wanted).resolve()
        if not (folder / HEADER).exists():
            raise UserError(f"{wanted}: not a run's folder, there is no {HEADER} in it")
        return Store(folder.parent).load(folder.name)
    return Store(options.lab_file().parent / "results").load(wanted)


def format_option(default: str = "text") -> Callable[..., Any]:
    """Return the option `--format`."""
    return click.option("--format", "form", default=default, show_default=True, help=f"{FORMATS}.")


output_option = click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Write there instead of standard output."
)


def checked(form: str) -> str:
    """Return the name of a format that there is.

    Raises:
        UserError: there is none of that name; the nearest is named.
    """
    from kpatchlab.report import WRITERS
    from kpatchlab.yamlfile import suggest

    if form not in WRITERS:
        raise UserError(f"no such format: {form}{suggest(form, WRITERS)}", hint=f"there are {', '.join(WRITERS)}")
    return form


def write(path: Path, data: bytes) -> None:
    """Write a file that the user named, whole or not at all.

    Raises:
        UserError: it is a folder, or cannot be written.
    """
    from kpatchlab.store import write_atomic

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
    click.echo(f"{path}: {len(data)} bytes")


def deliver(form: str, run: Run, folder: Path, output: Path | None) -> None:
    """Write a run in a format to a file, or to standard output."""
    from kpatchlab.report import WRITERS

    data = WRITERS[form](run, folder)
    if output is None:
        sys.stdout.buffer.write(data)
        sys.stdout.flush()
    else:
        write(output, data)


@click.command(
    cls=Verb,
    epilog="\b\nExamples:\n  kpatchlab report\n  kpatchlab report --format junit -o junit.xml\n"
    "  kpatchlab report 20261122T1 --format html -o page.html",
)
@click.argument("run", default="last", shell_complete=complete.runs)
@format_option()
@output_option
@click.pass_obj
def report(options: Options, run: str, form: str, output: Path | None) -> None:
    """Render a past run again, in any format.

    RUN is an id, the beginning or the end of one, the path of a run's folder, or `last`.
    """
    checked(form)
    deliver(form, *stored(options, run), output)
