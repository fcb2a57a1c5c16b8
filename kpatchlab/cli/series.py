"""The verb `series`: a series patch by patch."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kpatchlab.cli import complete, streams
from kpatchlab.cli.app import Options, Verb
from kpatchlab.cli.common import load_lab, pass_options, write_output
from kpatchlab.cli.running import interruptible, make, progress_for, start, verbose
from kpatchlab.errors import UserError

if TYPE_CHECKING:
    from kpatchlab.lab.load import Lab
    from kpatchlab.series.judge import Table
    from kpatchlab.series.values import PatchResult

FORMATS = ("text", "html", "junit", "json")


@click.command(
    cls=Verb,
    epilog="\b\nExamples:\n  kpatchlab series\n  kpatchlab series with --allmodconfig --coccicheck\n"
    "  kpatchlab series with --run unix-splice --run 'tag:tcp'\n"
    "  kpatchlab series with --format junit -o junit.xml\n\n"
    "A walk that was stopped or killed goes on where it was. It does not check a patch again if nothing below it "
    "changed; --fresh checks all.",
)
@click.argument("kernel", required=False, shell_complete=complete.kernels)
@click.option("--allmodconfig", is_flag=True, help="Also compile the folders that each patch touches, all as modules.")
@click.option("--coccicheck", is_flag=True, help="Also run the tree's semantic patches on the files touched: slow.")
@click.option(
    "--run",
    "choice",
    multiple=True,
    metavar="SCENARIO",
    shell_complete=complete.scenarios,
    help="Also run this scenario (or tag:NAME, ...) on the kernel with each patch; may be repeated.",
)
@click.option("--fresh", is_flag=True, help="Check every patch again.")
@click.option("--format", "form", type=click.Choice(FORMATS), default="text", help="What to print; default: text.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write there instead of standard output.")
@pass_options
def series(
    options: Options,
    kernel: str | None,
    allmodconfig: bool,
    coccicheck: bool,
    choice: tuple[str, ...],
    fresh: bool,
    form: str,
    output: Path | None,
) -> None:
    """Check a kernel's series patch by patch: applies, builds, new warnings, sparse, checkpatch, modules."""
    lab = load_lab(options)
    name = _chosen(lab, kernel)
    start(options)
    more = [word for word, on in (("allmodconfig", allmodconfig), ("coccicheck", coccicheck)) if on]
    given = [*(f"--{word}" for word in more), *(f"--run={word}" for word in choice)]
    again = options.again(shlex.join(["series", name, *given]))
    table, folder = walked(options, lab, name, again, more=more, choice=choice, fresh=fresh)
    print_table(table, form, output)
    click.echo(f"\nresults: {folder}/index.html, junit.xml, series.json", err=form != "text" or output is not None)
    end_if_stopped(table, again)
    sys.exit(table.exit_code)


def end_if_stopped(table: Table, again: str) -> None:
    """End the program where a walk was stopped before its last patch; `again` goes on with it."""
    if not table.walk.complete:
        click.echo(f"stopped; to go on: {again}", err=True)
        sys.exit(130)


def walked(
    options: Options,
    lab: Lab,
    name: str,
    again: str,
    *,
    more: Sequence[str] = (),
    choice: tuple[str, ...] = (),
    fresh: bool = False,
) -> tuple[Table, Path]:
    """Walk over the series of the lab's kernel `name` and store what is found; returns it, and its folder.

    Ends the program where it was stopped before the first patch.

    Args:
        again: the command line that goes on with it.
        more: checks beyond those of every walk.
        choice: scenarios to run with each patch.
    """
    from kpatchlab.build import BuildContext, BuildProgress
    from kpatchlab.cache import Cache
    from kpatchlab.files import write_atomic
    from kpatchlab.host.host import Host
    from kpatchlab.run.stages import Settings
    from kpatchlab.series import Wanted, judge, walk
    from kpatchlab.series.scenarios import runner
    from kpatchlab.series.views import FILES, VIEWS
    from kpatchlab.series.walk import ALWAYS

    _get_sparse(options)
    settings = Settings(command=shlex.join(sys.argv), reproduce=lambda _: again)
    cache = Cache()
    host = Host(cache, lab.mirror, lab.qemu)
    with progress_for(to_stderr=True) as progress, interruptible(settings, progress):

        def stage(now: BuildProgress) -> None:
            progress.stage(f"series {name}", now.phase, now.done, now.total_estimate)

        def tell(facts: PatchResult) -> None:
            progress.note(_line(facts))

        context = dataclasses.replace(
            BuildContext.of(lab, cache), jobs=host.build_jobs(lab.limits.build_jobs), progress=stage,
            cancel=settings.cancel, verbose=verbose(options),
        )  # fmt: skip
        run = runner(lab, name, choice, host, progress, settings) if choice else None
        names = tuple({job.scenario: None for job in make(lab, choice, (name,), None).jobs}) if choice else ()
        wanted = Wanted((*ALWAYS, *more), fresh, names, run)
        done, folder = walk(lab.kernels[name], name, context, lab.results, wanted, tell)
        progress.stage_done(f"series {name}", "")
    if not done.patches:
        sys.exit(130)
    table = judge(dataclasses.replace(done, command=shlex.join(sys.argv)))
    for view, file in FILES.items():
        write_atomic(folder / file, VIEWS[view](table))
    return table, folder


def _chosen(lab: Lab, name: str | None) -> str:
    """Return the kernel of this name; without one, that which has a series.

    Raises:
        UserError: there is no such kernel; none has a series, or several have.
    """
    if name and name in lab.kernels:
        return name
    if name:
        from kpatchlab.lab.yamlfile import suggest

        raise UserError(
            f"no such kernel: {name}{suggest(name, lab.kernels)}", hint=f"there are {', '.join(lab.kernels)}"
        )
    names = [name for name, recipe in lab.kernels.items() if recipe.series]
    if len(names) != 1:
        found = (
            f"{len(names)} kernels have a series: {', '.join(names)}" if names else "no kernel of this lab has a series"
        )
        raise UserError(
            found, hint="kpatchlab series KERNEL" if names else "`series` in a kernel's recipe names the patches"
        )
    return names[0]


def _get_sparse(options: Options) -> None:
    """Have sparse where it may be installed; without it that check is skipped, with the reason."""
    from kpatchlab.errors import HostError
    from kpatchlab.host import packages

    if not options.no_install and (lacking := packages.missing(["sparse"])):
        try:
            packages.install(lacking, lambda text: click.echo(text, err=True))
        except HostError as error:
            click.echo(f"{error.message}: sparse is skipped", err=True)


def _line(facts: PatchResult) -> str:
    if not facts.number:
        return f"without patches: {facts.built.error or 'builds' if facts.built else ''}"
    words = [facts.applied.how if facts.applied.how != "strict" else ""]
    if facts.built and not facts.stored:
        words.append(f"{facts.built.rebuilt} objects")
    words += [facts.built.error] if facts.built and facts.built.error else []
    words += ["known"] if facts.stored else []
    return f"patch {facts.number}: {facts.title}: " + ", ".join(word for word in words if word)


def print_table(table: Table, form: str, output: Path | None) -> None:
    """Print a walk, or write it to a file."""
    import shutil

    from kpatchlab.series.views import VIEWS, text

    terminal = sys.stdout.isatty() and output is None
    if form == "text" and terminal:
        data = text(table, width=shutil.get_terminal_size().columns, colour=True)
    else:
        data = VIEWS[form](table)
    if output:
        write_output(output, data)
        return
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.flush()
    except BrokenPipeError:
        streams.drop_output()
