"""The verb `reproduce`: does a claim hold on these kernels."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kpatchlab.cli.app import Options, Verb
from kpatchlab.cli.common import load_lab, pass_options
from kpatchlab.cli.running import interruptible, kernel_option, make, progress_for, session_of, start, verbose

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kpatchlab.lab.load import Lab
    from kpatchlab.model import Splat
    from kpatchlab.report.view import View
    from kpatchlab.variants.reproducer import Reproduced


@click.command(
    cls=Verb,
    epilog="FILE: a program in C (a syzkaller reproducer, too), a script with a #! line, or a log with a splat.\n\n"
    "\b\nExamples:\n  kpatchlab reproduce repro.c --kernel with\n  kpatchlab reproduce repro.c --log console.txt\n"
    "  kpatchlab reproduce hang.sh --runs 10 --seconds 20\n\n"
    "Exit status: 1 where a kernel shows it, 0 where none does, 3 where it cannot be tested here.",
)
@click.argument("file", type=click.Path(path_type=Path))
@kernel_option
@click.option("--log", type=click.Path(path_type=Path), help="The splat that has to show is the one in this log.")
@click.option("--runs", type=click.IntRange(1, 1000), default=3, help="Run it this often on each kernel; default: 3.")
@click.option("--seconds", type=click.IntRange(1, 3600), default=60, help="How long it may run; default: 60.")
@pass_options
def reproduce(
    options: Options, file: Path, kernels: tuple[str, ...], log: Path | None, runs: int, seconds: int
) -> None:
    """Say whether a reproducer, or the splat of a log, shows on the lab's kernels, and in how many runs."""
    from kpatchlab.plan.jobs import kernel_names
    from kpatchlab.variants import reproducer

    lab = load_lab(options)
    names = kernel_names(lab, kernels)
    kind, data = reproducer.kind_of(file)
    splats: Sequence[Splat] = reproducer.splats_of(log) if log else []
    if kind is reproducer.Kind.LOG:
        splats = reproducer.splats_of(file)
        own, choice = options, reproducer.about(lab, splats)
        if not choice:
            click.echo(f"{splats[0].title}: not testable here: no scenario says that it runs a function of its trace")
            click.echo("a reproducer beside it tells more: reproduce REPRODUCER --log LOG")
            sys.exit(3)
    else:
        own = dataclasses.replace(options, lab=reproducer.make_lab(lab, kind, data, names, seconds))
        lab, choice = load_lab(own), (reproducer.NAME,)
    view = _run(own, lab, choice, tuple(names), runs, str(file))
    found = [reproducer.answer_of(view.run, name, splats) for name in names]
    for one in found:
        _tell(own, view, one)
    answers = {one.answer for one in found}
    sys.exit(1 if reproducer.Answer.YES in answers else 0 if reproducer.Answer.NO in answers else 3)


def _run(own: Options, lab: Lab, choice: tuple[str, ...], kernels: tuple[str, ...], runs: int, title: str) -> View:
    """Run it so often on each kernel alone; ends the program where it was stopped."""
    from kpatchlab.lab.file import Matrix
    from kpatchlab.run.stages import Settings
    from kpatchlab.store.run_plan import RunPlan

    lab = dataclasses.replace(lab, matrix=Matrix(columns=("kernels",)))
    plan = make(lab, choice, kernels, runs)
    start(own, plan)
    session = session_of(lab)
    begun = session.begin(plan, RunPlan(trace=False), title=f"reproduce {title}", command=shlex.join(sys.argv))
    settings = Settings(
        command=shlex.join(sys.argv),
        reproduce=lambda job: own.again(f"run --job {shlex.quote(job.id)}"),
        verbose=verbose(own),
    )
    with progress_for(to_stderr=False) as progress, interruptible(settings, progress):
        view = session.carry_out(begun, settings, progress)
    if settings.cancel.is_set():
        sys.exit(130)
    return view


def _tell(own: Options, view: View, one: Reproduced) -> None:
    counts = f" ({one.shown} of {one.runs} runs)" if one.runs else ""
    click.echo(f"{one.kernel}: {one.answer}{counts}" + (f": {one.what}" if one.what else ""))
    if one.job is None:
        return
    for guest in one.job.guests:
        click.echo(f"  console: {view.folder / guest.console}")
    if one.case:
        click.echo(f"  to search: {own.again(f'bisect {view.run.id} {shlex.quote(one.case)}')}")
