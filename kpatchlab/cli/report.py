"""The verb `report`, and how any verb finds a stored run and writes it in a format."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kpatchlab.cli import complete
from kpatchlab.cli.app import Options, Verb
from kpatchlab.cli.common import write_output
from kpatchlab.errors import UserError
from kpatchlab.report import FORMATS, Format

if TYPE_CHECKING:
    from kpatchlab.model import Run
    from kpatchlab.report.view import View

FORMATS_HELP = "\b\nFormats:\n" + "\n".join(
    f"  {name:{max(map(len, FORMATS))}}  {form.says}" for name, form in FORMATS.items()
)
"""Each format with its words, for the end of a verb's help."""


def stored(options: Options, wanted: str) -> tuple[Run, Path]:
    """Return a run and its folder.

    Args:
        wanted: "last", an id or the beginning or end of one, or the path of a run's folder.

    Raises:
        UserError, LabError: as `store.Store.load`.
    """
    from kpatchlab.store.run_dir import HEADER
    from kpatchlab.store.store import Store

    if "/" in wanted:
        folder = Path(wanted).resolve()
        if not (folder / HEADER).exists():
            raise UserError(f"{wanted}: not a run's folder, there is no {HEADER} in it")
        return Store(folder.parent).load(folder.name)
    return Store(options.results()).load(wanted)


def format_option(default: str = "text") -> Callable[..., Any]:
    """Return the option `--format`."""
    return click.option(
        "--format", "form", default=default, show_default=True, metavar="NAME", help="One of those below."
    )


output_option = click.option(
    "-o", "--output", metavar="FILE", help="Write there instead of standard output; for mail also a folder: DIR/."
)


def checked(name: str) -> Format:
    """Return the format of a name.

    Raises:
        UserError: there is none; the nearest is named.
    """
    from kpatchlab.lab.yamlfile import suggest

    if name not in FORMATS:
        raise UserError(f"no such format: {name}{suggest(name, FORMATS)}", hint=f"there are {', '.join(FORMATS)}")
    return FORMATS[name]


def _tell(path: Path, data: bytes) -> None:
    write_output(path, data)
    click.echo(f"{path}: {len(data)} bytes")


def deliver(form: Format, view: View, output: str | None) -> None:
    """Write a run in a format to a file, or to standard output; letters also into a folder, a file for each."""
    if form.letters and output and (output.endswith("/") or Path(output).is_dir()):
        _into_folder(form, view, Path(output))
        return
    data = form.render(view)
    if output is None:
        sys.stdout.buffer.write(data)
        sys.stdout.flush()
    else:
        _tell(Path(output), data)


def _into_folder(form: Format, view: View, folder: Path) -> None:
    from kpatchlab.report.view import NO_MAINTAINERS

    if not view.sections:
        click.echo(
            f"the reply to the thread alone: the run's tree has no MAINTAINERS at hand; {NO_MAINTAINERS}", err=True
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make {folder}: {error.strerror}") from None
    for name, data in form.files(view).items():
        _tell(folder / name, data)


def view_of(run: Run, folder: Path) -> View:
    """Return a stored run as the reports read it."""
    from kpatchlab.cache import Cache
    from kpatchlab.report.view import View, maintainers_of

    return View(run, folder, maintainers_of(run, folder, Cache()))


def _addressed(view: View, subsystem: str, maintainers: Path | None) -> View:
    """Return the view with what the user says of letters: whom one is for, and a MAINTAINERS file of their own.

    Raises:
        UserError: the file cannot be read, or has no section.
    """
    view = replace(view, subsystem=subsystem)
    if maintainers is None:
        return view
    try:
        maintainers.open("rb").close()
    except OSError as error:
        raise UserError(f"cannot read {maintainers}: {error.strerror}") from None
    view = replace(view, maintainers=(maintainers,))
    if not view.sections:
        raise UserError(f"{maintainers}: no subsystem in it", hint="it is the kernel tree's MAINTAINERS file")
    return view


@click.command(
    cls=Verb,
    epilog=f"{FORMATS_HELP}\n\n\b\nExamples:\n  kpatchlab report\n  kpatchlab report --format junit -o junit.xml\n"
    "  kpatchlab report 20261122T1 --format html -o page.html\n  kpatchlab report --format mail -o letters/\n"
    "  kpatchlab report --format mail --for 'NETWORKING [TLS]'",
)
@click.argument("run", default="last", shell_complete=complete.runs)
@format_option()
@output_option
@click.option("--for", "subsystem", default="", metavar="SUBSYSTEM", help="For mail: to its maintainers.")
@click.option(
    "--maintainers",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="For mail: a MAINTAINERS file; default: the one of the kernels under test.",
)
@click.pass_obj
def report(options: Options, run: str, form: str, output: str | None, subsystem: str, maintainers: Path | None) -> None:
    """Render a past run again, in any format.

    RUN is an id, the beginning or the end of one, the path of a run's folder, or `last`. Mails are written, never
    sent: the reply to the series' thread, and into a folder (-o DIR/) also one for each subsystem.
    """
    wanted = checked(form)
    if not wanted.letters and (subsystem or maintainers):
        letters = " or ".join(name for name, row in FORMATS.items() if row.letters)
        raise UserError(f"{'--for' if subsystem else '--maintainers'} is for --format {letters}")
    deliver(wanted, _addressed(view_of(*stored(options, run)), subsystem, maintainers), output)
