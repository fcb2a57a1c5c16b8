"""The group that all verbs hang in: options before the verb, help texts, exit status."""

from __future__ import annotations

import os
import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from kpatchlab import __version__
from kpatchlab.errors import UserError

COMPLETE_VAR = "_KPATCHLAB_COMPLETE"
"""Set by a shell's completion script, which calls the program for its proposals."""


ABORT = 128
"""Status from which on `git bisect run` gives up, where any below it would make the commit a bad one."""


EXITS = """\b
Exit status:
  0  nothing regressed
  1  regressions (or, with one kernel, failures); measure: slower
  2  usage or configuration is wrong
  3  the host or the lab itself could not do it
  130  interrupted; what was done is kept, `run --resume` goes on
"""


@dataclass(slots=True)
class Options:
    """What stands before the verb."""

    lab: Path | None
    install: bool
    debug: bool
    verbose: bool
    _stdin: bytes | None = None

    def stdin(self) -> bytes:
        """Return what is on standard input; it is read once.

        Raises:
            UserError: it is a terminal.
        """
        if self._stdin is None:
            if sys.stdin.isatty():
                raise UserError(
                    "the series is to come from standard input, and that is a terminal", hint="... < series.mbox"
                )
            self._stdin = sys.stdin.buffer.read()
        return self._stdin

    def lab_file(self) -> Path:
        """Return the lab file: --lab, or the nearest lab.yaml upwards."""
        from kpatchlab.lab.load import find_lab

        return find_lab(self.lab or Path.cwd())

    def results(self) -> Path:
        """Return the folder of the lab file's runs."""
        from kpatchlab.lab.load import results_of

        return results_of(self.lab_file())

    def again(self, words: str) -> str:
        """Return a command line that does `words` on the same lab file."""
        lab = f"--lab {shlex.quote(os.path.relpath(self.lab))} " if self.lab else ""
        return f"{program()} {lab}{words}"


def program() -> str:
    """Return how the user called this program: `./lab` from a clone, else `kpatchlab`; a word for a shell."""
    return shlex.quote(os.environ.get("KPATCHLAB_PROGRAM") or "kpatchlab")


def as_called(text: str) -> str:
    """Return text whose command lines (`kpatchlab VERB ...`) begin as the user's own did, ready to be pasted."""
    return re.sub(rf"\bkpatchlab (?=--|-v|{'|'.join(Verbs.ORDER)})", f"{program()} ", text)


class Verb(click.Command):
    """A verb whose help shows command lines as the user calls the program."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the epilog."""
        own, self.epilog = self.epilog, as_called(self.epilog or "")
        super().format_epilog(ctx, formatter)
        self.epilog = own


class Verbs(Verb, click.Group):
    """The verbs in the order of their use, each with its examples, all of them loaded lazily."""

    ORDER = (
        "run",
        "measure",
        "plan",
        "build",
        "list",
        "check",
        "report",
        "compare",
        "nightly",
        "history",
        "coverage",
        "series",
        "site",
        "serve",
        "import",
        "shell",
        "bisect",
        "bisect-step",
        "new",
        "doctor",
        "clean",
        "completion",
    )

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Return the verbs' names."""
        return list(self.ORDER)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb; a reader that has gone (`kpatchlab list | head`) is no error."""
        try:
            done = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            drop_output()
            return 0
        return done

    def make_context(self, *args: Any, **more: Any) -> click.Context:
        """Read what stands before the verb; `--help` prints here."""
        try:
            return super().make_context(*args, **more)
        except BrokenPipeError:
            drop_output()
            raise click.exceptions.Exit(0) from None


@click.group(
    cls=Verbs,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="\b\nExamples:\n"
    "  kpatchlab run                        the whole lab.yaml\n"
    "  kpatchlab run nfs-tcp 'tag:siw'      two choices of scenarios\n"
    "  kpatchlab --lab quick.yaml run       prebuilt kernels: a first result within minutes\n"
    "  kpatchlab report --format text       the last run again\n\n" + EXITS,
)
@click.version_option(__version__, prog_name="kpatchlab")
@click.option(
    "--lab", type=click.Path(path_type=Path), metavar="FILE", help="The lab file; default: the nearest lab.yaml."
)
@click.option("--no-install", is_flag=True, help="Say which Debian packages are missing, and stop.")
@click.option("-v", "--verbose", is_flag=True, help="Show commands as they can be pasted.")
@click.option("--debug", is_flag=True, help="Show a traceback with every error.")
@click.pass_context
def cli(ctx: click.Context, lab: Path | None, no_install: bool, verbose: bool, debug: bool) -> None:
    """Test a Linux kernel patch series: build with it and without, run scenarios in guests, say what changed."""
    ctx.obj = Options(lab, not no_install, debug, verbose)


def drop_output() -> None:
    """Let what is still in the buffer go nowhere, else it is tried again when the interpreter ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
