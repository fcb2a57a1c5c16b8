"""The verb that takes figures: measure."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from typing import TYPE_CHECKING

import click

from kpatchlab import terminal
from kpatchlab.cli import complete
from kpatchlab.cli.app import Options, Verb
from kpatchlab.cli.common import as_json, load_lab, pass_options
from kpatchlab.cli.running import interruptible, kernel_option, progress_for, session_of, start
from kpatchlab.errors import UserError

if TYPE_CHECKING:
    from kpatchlab.store.run_plan import Measurement

BUDGET_MIN = 30.0


@click.command(
    cls=Verb,
    epilog="SCENARIO: names, globs, tag:NAME; default: tag:bench.\n\n\b\nExamples:\n  kpatchlab measure\n"
    "  kpatchlab measure bench-unix --repeat 5\n  kpatchlab measure bench-tcp --mode time --budget 60\n"
    "  kpatchlab measure --resume last --budget 60\n\n\b\n"
    "Exit status: 1 where a figure is SLOWER than the base's beyond the margin, a benchmark\n"
    "failed, or there are no figures; UNKNOWN is no failure.",
)
@click.argument("choice", nargs=-1, metavar="[SCENARIO]...", shell_complete=complete.scenarios)
@kernel_option
@click.option(
    "--mode",
    type=click.Choice(["instructions", "time"]),
    help="instructions, the default: count executed instructions in emulation, exact on a busy host, one guest only; "
    "time: by the clock, on KVM where it works.",
)
@click.option(
    "--repeat", type=click.IntRange(2, 1000), help="Repeat exactly this often; default: until the verdicts are clear."
)
@click.option(
    "--budget",
    type=click.FloatRange(0),
    metavar="MINUTES",
    help=f"Without --repeat: stop repeating after this time. Default: {BUDGET_MIN:g}.",
)
@click.option(
    "--resume",
    metavar="RUN",
    shell_complete=complete.runs,
    help="Go on with a measurement that was stopped, or says too little: an id, or `last`.",
)
@as_json
@pass_options
def measure(
    options: Options,
    choice: tuple[str, ...],
    kernels: tuple[str, ...],
    mode: str | None,
    repeat: int | None,
    budget: float | None,
    resume: str | None,
    as_json: bool,
) -> None:
    """Measure every kernel against the base, side by side, and the base against itself."""
    from kpatchlab.host.conditions import Conditions
    from kpatchlab.report import FORMATS
    from kpatchlab.report.figures import show
    from kpatchlab.run import measure as measuring
    from kpatchlab.run.stages import Settings
    from kpatchlab.store.run_plan import RunKind, RunPlan

    if resume and (choice or kernels or mode or repeat):
        raise UserError("--resume says what is measured: leave the other choices out")
    stored = _stored(options, resume, budget) if resume else None
    mode = stored.mode if stored else mode or "instructions"
    lab = measuring.measured_lab(load_lab(options, choice), mode)
    minutes = BUDGET_MIN if budget is None else budget
    wanted = stored or measuring.asked(lab, choice, kernels, mode, repeat, 60 * minutes)
    rounds = measuring.Rounds.of(lab, wanted)
    plan = rounds.plan(wanted.first)
    start(options, plan)
    command = shlex.join(sys.argv)
    conditions = Conditions(max(job.cpus for job in plan.jobs))
    session = session_of(lab, more_facts=conditions.facts)
    if resume:
        begun = rounds.go_on(session, resume)
    else:
        how = RunPlan(kind=RunKind.MEASURE, trace=False, measurement=wanted)
        begun = session.begin(plan, how, title=f"{lab.title}: figures, {mode}", command=command)
    again = f"--mode {mode} --repeat {wanted.first}"
    settings = Settings(
        command=command,
        reproduce=lambda job: options.again(f"measure {shlex.quote(job.scenario)} {again}"),
        more=rounds.more,
        pinned=True,
    )
    conditions.begin()
    with progress_for(to_stderr=as_json) as progress, interruptible(settings, progress):
        view = session.carry_out(begun, settings, progress)
    if as_json:
        sys.stdout.buffer.write(FORMATS["json"].render(view))
    else:
        show(view, terminal.console())
        click.echo(f"\nresults: {begun.folder.path}/index.html, run.json")
    if settings.cancel.is_set():
        click.echo(f"stopped; to go on: {options.again(f'measure --resume {begun.folder.id}')}", err=True)
        sys.exit(130)
    sys.exit(measuring.exit_code(view))


def _stored(options: Options, wanted: str, budget: float | None) -> Measurement:
    """Return what an earlier measurement takes; it has its budget once more, or the one that is given now."""
    from kpatchlab.run.session import resumable
    from kpatchlab.store.store import Store

    stored = resumable(Store(options.results()), wanted, "measure").measurement
    assert stored
    return stored if budget is None else dataclasses.replace(stored, budget_s=60 * budget)
