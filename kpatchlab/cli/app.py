"""The group that all verbs hang in: options that every verb takes, help texts, exit status."""

from __future__ import annotations

import itertools
import os
import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import click

from kpatchlab import __version__
from kpatchlab.cli import streams
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
  3  the host or the lab itself failed
  130  interrupted; what is done is kept, `--resume` goes on
"""


@dataclass(slots=True)
class Options:
    """What every verb can be told, before it or behind it."""

    lab: Path | None = None
    hosts: Path | None = None
    no_install: bool = False
    verbose: bool = False
    debug: bool = False
    trust: bool = False
    _stdin: bytes | None = None

    def stdin(self) -> bytes:
        """Return what is on standard input; it is read once.

        Raises:
            UserError: it is a terminal, or larger than any series.
        """
        from kpatchlab.files import MAX_INPUT_BYTES

        if self._stdin is None:
            if sys.stdin.isatty():
                raise UserError(
                    "the series is to come from standard input, and that is a terminal", hint="... < series.mbox"
                )
            self._stdin = sys.stdin.buffer.read(MAX_INPUT_BYTES + 1)
            if len(self._stdin) > MAX_INPUT_BYTES:
                size = f"{MAX_INPUT_BYTES >> 20} MiB"
                raise UserError(f"standard input: larger than {size}", hint="no series is that large")
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
        hosts = f"--hosts {shlex.quote(os.path.relpath(self.hosts))} " if self.hosts else ""
        return f"{program()} {lab}{hosts}{words}"


def program() -> str:
    """Return how the user called this program: `./lab` from a clone, else `kpatchlab`; a word for a shell."""
    return shlex.quote(os.environ.get("KPATCHLAB_PROGRAM") or "kpatchlab")


def as_called(text: str) -> str:
    """Return text whose command lines (`kpatchlab VERB ...`) begin as the user's own did, ready to be pasted."""
    return re.sub(rf"\bkpatchlab (?=--|-v|{'|'.join(Verbs.ORDER)})", f"{program()} ", text)


def _keep(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    """Keep the value of an option of every verb; the last one on the command line counts."""
    options = ctx.ensure_object(Options)
    if value and param.name:
        setattr(options, param.name, value)


def _for_all(*names: str, **more: Any) -> click.Option:
    """Return an option that is read before a verb's own ones, whose own values may depend on it."""
    return click.Option(names, expose_value=False, is_eager=True, callback=_keep, **more)


FOR_ALL = (
    _for_all(
        "--lab", type=click.Path(path_type=Path), metavar="FILE", help="The lab file; default: the nearest lab.yaml."
    ),
    _for_all(
        "--hosts", type=click.Path(path_type=Path), metavar="FILE", help="Other hosts, in the place of the lab file's."
    ),
    _for_all("--no-install", is_flag=True, help="Say which Debian packages are missing, and stop."),
    _for_all("-v", "--verbose", is_flag=True, help="Show the commands that the lab starts, ready to be pasted."),
    _for_all("--trust", is_flag=True, help="Build series also where this host has no sandbox for them."),
    _for_all("--debug", is_flag=True, help="Show a traceback with every error."),
)
"""What is taken before the verb and behind it; see `Options`."""


class Verb(click.Command):
    """A verb whose help shows command lines as the user calls the program, and which takes the options of all."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.params += FOR_ALL

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the verb's own options, then those of all."""
        options = [param for param in self.get_params(ctx) if isinstance(param, click.Option)]
        own = [option for option in options if option not in FOR_ALL]
        for title, params in (("Options", own), ("Options of every verb, before it or behind it", FOR_ALL)):
            with formatter.section(title):
                formatter.write_dl([record for param in params if (record := param.get_help_record(ctx))])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the epilog."""
        own, self.epilog = self.epilog, as_called(self.epilog or "")
        super().format_epilog(ctx, formatter)
        self.epilog = own


class Verbs(Verb, click.Group):
    """The verbs in groups, each in the order of its use."""

    GROUPS: ClassVar = {
        "Run and look": ("run", "plan", "build", "list", "check", "shell", "new", "report", "compare"),
        "One series": ("try", "series", "coverage", "measure", "plants"),
        "Search": ("bisect", "bisect-step", "reproduce"),
        "Nights and history": ("nightly", "history", "site", "serve", "import"),
        "Hosts": ("doctor", "hosts", "clean", "completion"),
    }
    ORDER = tuple(itertools.chain.from_iterable(GROUPS.values()))

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Return the verbs' names."""
        return list(self.ORDER)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, then the verbs."""
        super().format_options(ctx, formatter)
        self.format_commands(ctx, formatter)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the verbs by their groups, each with what it does as one whole sentence."""
        width = max(map(len, self.ORDER))
        for title, names in self.GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([(f"{name:{width}}", _sentence(self.commands[name])) for name in names])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb; a reader that has gone (`kpatchlab list | head`) is no error."""
        try:
            done = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            streams.drop_output()
            return 0
        return done

    def make_context(self, *args: Any, **more: Any) -> click.Context:
        """Read what stands before the verb; `--help` prints here."""
        try:
            return super().make_context(*args, **more)
        except BrokenPipeError:
            streams.drop_output()
            raise click.exceptions.Exit(0) from None


@click.group(
    cls=Verbs,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="\b\nExamples:\n"
    "  kpatchlab run                        the whole lab.yaml\n"
    "  kpatchlab run nfs-tcp 'tag:siw'      two choices of scenarios\n"
    "  kpatchlab run --lab quick.yaml       prebuilt kernels alone: nothing is compiled\n"
    "  kpatchlab report --format text       the last run again\n\n" + EXITS,
)
@click.version_option(__version__, prog_name="kpatchlab")
def cli() -> None:
    """Test a Linux kernel patch series: build with it and without, run scenarios in guests, say what changed."""


def _sentence(verb: click.Command) -> str:
    """Return the first paragraph of a verb's help."""
    return " ".join((verb.help or "").split("\n\n")[0].split())
