"""The verb `compare`: one stored run compared with another."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from kpatchlab.cli import complete
from kpatchlab.cli.app import Options, Verb
from kpatchlab.cli.report import FORMATS_HELP, checked, deliver, format_option, output_option, stored, view_of

if TYPE_CHECKING:
    from kpatchlab.verdict.two_runs import Side


def _side(options: Options, word: str) -> Side:
    """Return the run, and the column if there is one, of the user's word RUN or RUN:COLUMN."""
    from kpatchlab.verdict.two_runs import Side

    name, _, column = word.partition(":")
    return Side(*stored(options, name), column)


@click.command(
    cls=Verb,
    epilog=f"{FORMATS_HELP}\n\n\b\nExamples:\n  kpatchlab compare 20261122-140946 last\n"
    "  kpatchlab compare 99a9:with 07cb:with\n  kpatchlab compare 99a9 last --format html -o page.html\n\n"
    "Exit status: as of run; 1 where something regressed from the first to the second.",
)
@click.argument("first", metavar="RUN[:COLUMN]", shell_complete=complete.runs)
@click.argument("second", metavar="RUN[:COLUMN]", shell_complete=complete.runs)
@format_option()
@output_option
@click.pass_obj
def compare(options: Options, first: str, second: str, form: str, output: str | None) -> None:
    """Compare a past run with an earlier one: the same verdicts, for any two runs of any kernels.

    A column of the second run is compared with the first run's column of that name; RUN:COLUMN names one. RUN is what
    `report` takes.
    """
    from kpatchlab.verdict.two_runs import columns, pairs, versus

    wanted = checked(form)
    one, two = _side(options, first), _side(options, second)
    view = view_of(*versus(one, two))
    held = pairs(one, two)
    for number, side in enumerate((one, two)):
        left = [name for name in columns(side.run) if name not in {pair[number] for pair in held}]
        if left and not side.column:
            click.echo(f"not compared: {', '.join(left)} of run {side.run.id}", err=True)
    deliver(wanted, view, output)
    sys.exit(view.comparison.exit_code)
