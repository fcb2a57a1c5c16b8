"""The verbs that show stored runs: report and compare."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kpatchlab.cli import complete
from kpatchlab.cli.app import Options, Verb
from kpatchlab.cli.common import write_output
from kpatchlab.errors import UserError

if TYPE_CHECKING:
    from kpatchlab.maintainers import Section
    from kpatchlab.model import Run
    from kpatchlab.report.mail import Letter

FORMATS = "text, html, markdown, mail, junit, kcidb, json, systems, reach"
"""The names in `report.WRITERS`, which `--help` need not import."""


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
    return Store(options.lab_file().parent / "results").load(wanted)


def format_option(default: str = "text") -> Callable[..., Any]:
    """Return the option `--format`."""
    return click.option("--format", "form", default=default, show_default=True, help=f"{FORMATS}.")


output_option = click.option(
    "-o", "--output", metavar="FILE", help="Write there instead of standard output; for mail also a folder: DIR/."
)


def checked(form: str) -> str:
    """Return the name of a format that there is.

    Raises:
        UserError: there is none of that name; the nearest is named.
    """
    from kpatchlab.lab.yamlfile import suggest
    from kpatchlab.report import WRITERS

    if form not in WRITERS:
        raise UserError(f"no such format: {form}{suggest(form, WRITERS)}", hint=f"there are {', '.join(WRITERS)}")
    return form


def _tell(path: Path, data: bytes) -> None:
    write_output(path, data)
    click.echo(f"{path}: {len(data)} bytes")


def deliver(form: str, run: Run, folder: Path, output: str | None, mail: MailOptions | None = None) -> None:
    """Write a run in a format to a file, or to standard output; mail into a folder is a file for each letter."""
    from kpatchlab.report import WRITERS

    mail = mail or MailOptions()
    if form == "mail" and output and (output.endswith("/") or Path(output).is_dir()):
        _letters(run, mail.sections(run, folder), Path(output))
        return
    data = bytes(mail.letter(run, folder)) if form == "mail" and mail.subsystem else WRITERS[form](run, folder)
    if output is None:
        sys.stdout.buffer.write(data)
        sys.stdout.flush()
    else:
        _tell(Path(output), data)


@dataclass(frozen=True, slots=True)
class MailOptions:
    """What the user says of mails: the subsystem that one is for, and a MAINTAINERS file in place of the run's own."""

    subsystem: str = ""
    maintainers: Path | None = None

    def sections(self, run: Run, folder: Path) -> tuple[Section, ...]:
        """Return the sections of MAINTAINERS, () where none are known.

        Raises:
            UserError: the file that the user named cannot be read, or has no section.
        """
        from kpatchlab.maintainers import parse
        from kpatchlab.report.mail import sections_of

        if self.maintainers is None:
            return sections_of(run, folder)
        try:
            found = parse(self.maintainers.read_bytes())
        except OSError as error:
            raise UserError(f"cannot read {self.maintainers}: {error.strerror}") from None
        if not found:
            raise UserError(f"{self.maintainers}: no subsystem in it", hint="it is the kernel tree's MAINTAINERS file")
        return found

    def letter(self, run: Run, folder: Path) -> Letter:
        """Return the letter to the maintainers of `subsystem`.

        Raises:
            UserError: there is no such subsystem; the nearest are named.
        """
        from kpatchlab.lab.yamlfile import suggest
        from kpatchlab.report.mail import subsystems, to_subsystem

        known = {section.title: section for section in self.sections(run, folder)}
        if not known:
            raise UserError("no MAINTAINERS of the tree is at hand", hint=_NO_MAINTAINERS)
        wanted = {title.lower(): title for title in known}.get(self.subsystem.lower())
        if wanted is None:
            about = [section.title for section in subsystems(run, tuple(known.values()))] or list(known)
            raise UserError(
                f"no subsystem {self.subsystem!r} in MAINTAINERS{suggest(self.subsystem, known)}",
                hint=f"this run is about {'; '.join(about[:10])}",
            )
        return to_subsystem(run, known[wanted])


_NO_MAINTAINERS = "--maintainers FILE names that of a kernel tree"


def _letters(run: Run, sections: tuple[Section, ...], folder: Path) -> None:
    from kpatchlab.report.mail import letters

    if not sections:
        click.echo(
            f"the reply to the thread alone: the run's tree has no MAINTAINERS at hand; {_NO_MAINTAINERS}", err=True
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make {folder}: {error.strerror}") from None
    for name, data in letters(run, sections).items():
        _tell(folder / name, data)


@click.command(
    cls=Verb,
    epilog="\b\nExamples:\n  kpatchlab report\n  kpatchlab report --format junit -o junit.xml\n"
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
    if checked(form) != "mail" and (subsystem or maintainers):
        raise UserError(f"{'--for' if subsystem else '--maintainers'} is for --format mail")
    deliver(form, *stored(options, run), output, MailOptions(subsystem, maintainers))
