"""The program: all verbs in one group, and how an error reaches the user."""

from __future__ import annotations

import codecs
import contextlib
import sys
import traceback
import warnings
from collections.abc import Iterator
from typing import Any, TextIO

import click

from kpatchlab.cli import streams
from kpatchlab.cli.app import ABORT, COMPLETE_VAR, as_called, cli, program
from kpatchlab.cli.bisect import bisect, bisect_step
from kpatchlab.cli.check import check, new
from kpatchlab.cli.compare import compare
from kpatchlab.cli.coverage import coverage
from kpatchlab.cli.doctor import clean, completion, doctor
from kpatchlab.cli.history import history
from kpatchlab.cli.hosts import hosts
from kpatchlab.cli.importing import import_results
from kpatchlab.cli.lists import list_things
from kpatchlab.cli.measure import measure
from kpatchlab.cli.nightly import nightly
from kpatchlab.cli.plants import plants
from kpatchlab.cli.report import report
from kpatchlab.cli.reproduce import reproduce
from kpatchlab.cli.run import build, plan, run, shell
from kpatchlab.cli.series import series
from kpatchlab.cli.site import serve, site
from kpatchlab.cli.trying import try_
from kpatchlab.errors import LabError, LabWarning
from kpatchlab.textclean import CleanStream

VERBS = (
    *(run, measure, plan, build, list_things, check, report, compare, nightly, history, coverage, try_, series),
    *(plants, site, serve, import_results, shell, bisect, bisect_step, reproduce, new, doctor, hosts, clean),
    completion,
)


def show_error(error: LabError) -> None:
    """Print an error as people need it: one line, its details, one hint."""

    def one(text: str) -> str:  # what a message quotes may have lines of its own
        return " ".join(text.splitlines())

    print(f"kpatchlab: {one(as_called(error.message))}", file=sys.stderr)
    for line in error.details:
        print(f"  {one(line)}", file=sys.stderr)
    if error.hint:
        print(f"hint: {one(as_called(error.hint))}", file=sys.stderr)


def _show_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int,
    file: TextIO | None = None, line: str | None = None,
) -> None:  # fmt: skip
    """Print a warning of the lab's own as people need it, any other as Python does."""
    if issubclass(category, LabWarning):
        print(f"kpatchlab: {message}", file=sys.stderr)
    else:
        _python_shows(message, category, filename, lineno, file, line)


_python_shows = warnings.showwarning


def main(argv: list[str] | None = None) -> None:
    """Run the program and exit; see `EXITS` for the status."""
    streams.occupy()
    for verb in VERBS:
        cli.add_command(verb)
    warnings.showwarning = _show_warning
    with _clean_streams():
        status = _status(argv)
    sys.exit(status)


@contextlib.contextmanager
def _clean_streams() -> Iterator[None]:
    """Make safe whatever any verb writes to standard output and error; see `textclean`."""
    given = {name: getattr(sys, name) for name in ("stdout", "stderr")}
    for name, stream in given.items():
        if stream is not None:
            # click wraps a stream of its own around the bytes of one that it holds for misconfigured.
            with contextlib.suppress(AttributeError):
                stream.reconfigure(errors="replace", **({"encoding": "utf-8"} if _is_ascii(stream) else {}))
            setattr(sys, name, CleanStream(stream))
    try:
        yield
    finally:
        for name, stream in given.items():
            setattr(sys, name, stream)


def _is_ascii(stream: TextIO) -> bool:
    return codecs.lookup(stream.encoding or "ascii").name == "ascii"


def _status(argv: list[str] | None) -> int:
    """Run the program to the last byte of its output; returns its status."""
    words = argv or sys.argv
    debug = "--debug" in words
    step = "bisect-step" in words  # what goes wrong there, in Python as well, must not make a commit a bad one
    try:
        status = _verb(argv, debug=debug and not step)
        streams.finish()
    except click.ClickException as error:
        with contextlib.suppress(OSError):
            error.show()
        status = ABORT if step else error.exit_code
    except LabError as error:
        if debug and not step:
            raise
        with contextlib.suppress(OSError):
            show_error(error)
        status = ABORT if step else error.exit_code
    except Exception:
        if not step:
            raise
        traceback.print_exc()
        status = ABORT
    with contextlib.suppress(LabError):  # nothing is left in a buffer, where it would be tried again at the very end
        streams.finish()
    return status


def _verb(argv: list[str] | None, *, debug: bool) -> int:
    """Run a verb; returns its status.

    Raises:
        LabError: it ended by one; a disk or a stream that takes no more is one as well, unless `debug`.
    """
    try:
        status: Any = cli.main(argv, prog_name=program(), standalone_mode=False, complete_var=COMPLETE_VAR)
    except click.exceptions.Abort:
        return 130
    except SystemExit as end:
        status = end.code
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        if debug or (known := streams.as_host_error(error)) is None:
            raise
        raise known from error
    return status if isinstance(status, int) else 0
