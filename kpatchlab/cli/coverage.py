"""The verb `coverage`: run scenarios on kernels that are built for gcov, and say which changed lines ran."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kpatchlab.cli import complete
from kpatchlab.cli.app import Options, Verb
from kpatchlab.cli.choosing import CHOICE_HELP, choosing
from kpatchlab.cli.common import as_json, dump, load_lab, pass_options, write_output
from kpatchlab.cli.running import interruptible, kernel_option, make, progress_for, session_of, start, verbose
from kpatchlab.errors import UserError

if TYPE_CHECKING:
    from kpatchlab.build.changes import Changes
    from kpatchlab.host.host import Host
    from kpatchlab.lab.load import Lab
    from kpatchlab.model import Run
    from kpatchlab.variants.coverage import Coverage


@click.command(
    cls=Verb,
    epilog=f"{CHOICE_HELP}\n\n\b\nExamples:\n  kpatchlab coverage\n  kpatchlab coverage 'unix-*' --lcov series.info\n"
    "  kpatchlab coverage --of last --cobertura coverage.xml",
)
@choosing
@kernel_option
@click.option(
    "--of",
    "stored",
    metavar="RUN",
    shell_complete=complete.runs,
    help="Show the coverage of this stored run; run nothing.",
)
@click.option("--lcov", type=click.Path(path_type=Path, dir_okay=False), help="Also write an LCOV tracefile.")
@click.option("--cobertura", type=click.Path(path_type=Path, dir_okay=False), help="Also write Cobertura XML.")
@as_json
@pass_options
def coverage(
    options: Options,
    choice: tuple[str, ...],
    kernels: tuple[str, ...],
    stored: str | None,
    lcov: Path | None,
    cobertura: Path | None,
    as_json: bool,
) -> None:
    """Say which of the lines that a series changes ran, in which scenario, and which never did."""
    from kpatchlab.jsonable import to_json
    from kpatchlab.report import coverage as report
    from kpatchlab.store.store import Store
    from kpatchlab.variants import coverage as measured

    if stored and (choice or kernels):
        raise UserError("--of shows a stored run: leave the other choices out")
    status = 0
    if stored:
        store = Store(options.results())
        found = measured.load(store.root / store.resolve(stored))
    else:
        lab = measured.variant(load_lab(options, choice), kernels)
        found, status = _run(options, lab, choice, quiet=as_json)
    for path, data in ((lcov, report.lcov(found)), (cobertura, report.cobertura(found, int(time.time())))):
        if path:
            write_output(path, data)
            click.echo(f"{path}: {len(data)} bytes", err=True)
    if as_json:
        dump(to_json(tuple(found)))
    else:
        click.echo("\n\n".join("\n".join(report.lines(item)) for item in found))
    sys.exit(status)


def _run(options: Options, lab: Lab, choice: tuple[str, ...], *, quiet: bool) -> tuple[list[Coverage], int]:
    """Run the scenarios, and store what ran with the run; returns that, and the exit status."""
    from kpatchlab.run.stages import Settings
    from kpatchlab.store.run_plan import RunKind, RunPlan
    from kpatchlab.variants import coverage as measured

    plan = make(lab, choice, (), 1)
    start(options, plan)
    settings = Settings(
        command=shlex.join(sys.argv),
        reproduce=lambda job: options.again(f"coverage {shlex.quote(job.scenario)}"),
        verbose=verbose(options),
    )
    session = session_of(lab)
    how = RunPlan(kind=RunKind.COVERAGE, trace=False)  # the compiler's counters say more, and cost less
    begun = session.begin(plan, how, command=settings.command)
    folder = begun.folder.path
    with progress_for(to_stderr=quiet) as progress, interruptible(settings, progress):
        result = session.carry_out(begun, settings, progress).run
        found = measured.collect(result, folder, _artifacts(lab, result, session.host))
    measured.save(found, folder)
    for build in result.builds:
        if build.unconfined:
            click.echo(f"{build.kernel}: built without a sandbox (--trust): {build.unconfined}", err=True)
        if build.error:
            click.echo(f"{build.kernel}: {build.error_file}:{build.error_line}: {build.error}", err=True)
    return found, 130 if settings.cancel.is_set() else _status(found, begun.folder.id)


def _artifacts(lab: Lab, result: Run, host: Host) -> dict[str, tuple[Path, str, Changes]]:
    """Return what is needed to read the counters of each kernel that was built."""
    from kpatchlab.build import BuildContext, cached_kernel, series_changes
    from kpatchlab.build.patchset import read_series, series_key

    context = BuildContext.of(lab, host.cache)
    found = {}
    for build in result.builds:
        recipe = lab.kernels[build.kernel]
        if (kernel := cached_kernel(recipe, build.kernel, context)) is not None:
            key = series_key(read_series(recipe.series, context))
            found[build.kernel] = (host.cache.path("kernel", kernel.key), key, series_changes(recipe, context))
    return found


def _status(found: list[Coverage], run: str) -> int:
    """Return 1, and say why, where there is nothing to show: no kernel, or no job that left counters."""
    if any(item.scenarios for item in found):
        return 0
    click.echo(f"no job left counters; the run says why: kpatchlab report {run}", err=True)
    return 1
