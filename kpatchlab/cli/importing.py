"""The verb `import`: results of other tools into the store."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from kpatchlab.cli.app import Options, Verb
from kpatchlab.cli.common import pass_options


@click.command(
    "import",
    cls=Verb,
    epilog="\b\nExamples:\n  kpatchlab import junit report.xml --lane peer --column v6.12\n"
    "  kpatchlab import ktap kselftest.log\n  kpatchlab import blktests blktests/results\n"
    "  kpatchlab report last && kpatchlab history --lane peer",
)
@click.argument("form", metavar="junit|ktap|ltp|blktests", type=click.Choice(["junit", "ktap", "ltp", "blktests"]))
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--column", default="imported", show_default=True, metavar="NAME", help="The kernel that the results are about."
)
@click.option(
    "--lane",
    default="imported",
    show_default=True,
    metavar="NAME",
    help="The lane that they belong to; history compares the runs of one lane.",
)
@pass_options
def import_results(options: Options, form: str, files: tuple[Path, ...], column: str, lane: str) -> None:
    """Store results of other tools, in the order of the files, for reports and history.

    junit is any JUnit XML; ktap what kselftest and KUnit print, or a log that has it; ltp kirk's JSON report, or what
    runltp or a test wrote; blktests its folder `results`, or what `./check` printed.
    """
    from kpatchlab.errors import LabError
    from kpatchlab.store.importing import import_file
    from kpatchlab.store.store import Store
    from kpatchlab.verdict.compare import compare

    store = Store(options.results())
    status = 0
    for path in files:
        try:
            run = import_file(store, form, path, column=column, lane=lane)
        except LabError as error:
            click.echo(f"kpatchlab: {error.message}", err=True)
            status = error.exit_code
            continue
        cases = sum(len(job.cases) - 1 for job in run.jobs)
        click.echo(f"{path}: run {run.id}, {cases} cases in {len(run.jobs)} suites: {compare(run).headline}")
    sys.exit(status)
