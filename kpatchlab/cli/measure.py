"""The verb that takes figures: measure."""

from __future__ import annotations

import functools
import shlex
import sys

import click

from kpatchlab.cli import complete
from kpatchlab.cli.app import Options, Verb
from kpatchlab.cli.common import as_json, console, load_lab, pass_options
from kpatchlab.cli.running import interruptible, kernel_option, progress_for, session_of, start


@click.command(
    cls=Verb,
    epilog="SCENARIO: names, globs, tag:NAME; default: tag:bench.\n\n\b\nExamples:\n  kpatchlab measure\n"
    "  kpatchlab measure bench-unix --repeat 5\n  kpatchlab measure bench-tcp --mode time --budget 60\n\n\b\n"
    "Exit status: 1 where a figure is SLOWER than the base's beyond the margin, a benchmark\n"
    "failed, or there are no figures; UNKNOWN is no failure.",
)
@click.argument("choice", nargs=-1, metavar="[SCENARIO]...", shell_complete=complete.scenarios)
@kernel_option
@click.option(
    "--mode",
    type=click.Choice(["instructions", "time"]),
    default="instructions",
    help="instructions: emulation counts them, exact on a busy host, one guest; time: the clock, KVM where it works.",
)
@click.option("--repeat", type=click.IntRange(2, 1000), help="Exactly so many repeats; default: as many as it takes.")
@click.option("--budget", type=click.FloatRange(0), default=30.0, metavar="MINUTES", help="Until then. Default: 30.")
@as_json
@pass_options
def measure(
    options: Options,
    choice: tuple[str, ...],
    kernels: tuple[str, ...],
    mode: str,
    repeat: int | None,
    budget: float,
    as_json: bool,
) -> None:
    """Measure every kernel against the base, side by side, and the base against itself."""
    from kpatchlab.host.conditions import Conditions
    from kpatchlab.report import FORMATS
    from kpatchlab.report.figures import show
    from kpatchlab.run import measure as measuring
    from kpatchlab.run.stages import Settings
    from kpatchlab.store.run_plan import RunKind, RunPlan

    lab = measuring.measured_lab(load_lab(options, choice), mode)
    first = repeat or measuring.repeats(mode)
    make = functools.cache(functools.partial(measuring.first_plan, lab, choice, kernels or None))
    plan = make(first)
    start(options, plan)
    rounds = measuring.Rounds(make, first, 0.0 if repeat else 60 * budget)
    command = shlex.join(sys.argv)
    conditions = Conditions(max(job.cpus for job in plan.jobs))
    session = session_of(lab, more_facts=conditions.facts)
    how = RunPlan(kind=RunKind.MEASURE, trace=False)
    begun = session.begin(plan, how, title=f"{lab.title}: figures, {mode}", command=command)
    settings = Settings(
        command=command,
        reproduce=lambda job: options.again(f"measure {shlex.quote(job.scenario)} --mode {mode} --repeat {first}"),
        more=rounds.more,
    )
    conditions.begin()
    with progress_for(to_stderr=as_json) as progress, interruptible(settings):
        view = session.carry_out(begun, settings, progress)
    if as_json:
        sys.stdout.buffer.write(FORMATS["json"].render(view))
    else:
        show(view, console())
        click.echo(f"\nresults: {begun.folder.path}/index.html, run.json")
    sys.exit(130 if settings.cancel.is_set() else measuring.exit_code(view))
