"""The verbs about the files of a lab: check and new."""

from __future__ import annotations

import sys

import click

from kpatchlab.cli.app import Options, Verb
from kpatchlab.cli.common import as_json, dump, pass_options
from kpatchlab.errors import UserError


@click.command(cls=Verb, epilog="\b\nExample:\n  kpatchlab check && kpatchlab run")
@as_json
@pass_options
def check(options: Options, as_json: bool) -> None:
    """Check every file of the lab: all errors at once, with file and line.

    What is no error and yet worth a look is a note on standard error.
    """
    from kpatchlab.build.context import BuildContext
    from kpatchlab.build.standing import standing_still
    from kpatchlab.build.unknown import unknown_symbols
    from kpatchlab.cache import Cache
    from kpatchlab.lab import load
    from kpatchlab.plan.forecast import last_builds

    try:
        lab = load.check(options.lab_file())
    except UserError as error:
        if not as_json:
            raise
        dump({"errors": error.details or [error.message]})
        sys.exit(2)
    if as_json:
        dump({"errors": []})
    else:
        click.echo("no errors")
    ctx = BuildContext.of(lab, Cache())
    unknown = unknown_symbols(lab.kernels, last_builds(lab), ctx)
    for note in [*load.notes(lab), *unknown, *standing_still(lab.kernels.values(), ctx)]:
        click.echo(f"note: {note}", err=True)


@click.command(cls=Verb, epilog="\b\nExample:\n  kpatchlab new scenario my-socket-test")
@click.argument("kind", type=click.Choice(["scenario"]))
@click.argument("name")
@pass_options
def new(options: Options, kind: str, name: str) -> None:  # noqa: ARG001 - one kind so far
    """Make a new scenario, which runs at once."""
    from kpatchlab.lab import scenario
    from kpatchlab.lab.load import root_of

    folder = scenario.new(root_of(options.lab_file()), name)
    click.echo(f"{folder}: edit scenario.yaml and run.sh, then: {options.again(f'run {name}')}")
    click.echo(f"and prove that it can fail: {options.again(f'run --break {name}')}")
