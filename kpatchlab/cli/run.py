"""The verbs that need kernels: run, plan, build, shell."""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kpatchlab import terminal
from kpatchlab.cli import complete, streams
from kpatchlab.cli.app import Options, Verb
from kpatchlab.cli.choosing import CHOICE_HELP, choosing, kernels_of, variant_option
from kpatchlab.cli.common import as_json, dump, load_lab, pass_options, table
from kpatchlab.cli.running import (
    interruptible,
    kernel_option,
    make,
    on_option,
    placed,
    progress_for,
    session_of,
    start,
    verbose,
)
from kpatchlab.errors import HostError, UserError

if TYPE_CHECKING:
    from kpatchlab.lab.load import Lab
    from kpatchlab.model import Run
    from kpatchlab.plan.jobs import ImageStep, JobSpec, KernelStep
    from kpatchlab.report.view import View
    from kpatchlab.run.session import OpenRun, Session
    from kpatchlab.store.run_plan import RunPlan


@click.command(
    cls=Verb,
    epilog=f"{CHOICE_HELP}\n\n\b\nExamples:\n  kpatchlab run\n  kpatchlab run unix-splice --kernel with\n"
    "  kpatchlab run 'nfs-*' --repeat 3\n  kpatchlab run --touching net/unix/af_unix.c\n  kpatchlab run --resume last\n"
    "  kpatchlab run tcp-splice --variant debug\n"
    "  kpatchlab run --job 'nfs-tcp+vers=4.2@client=with,server=without#1'",
)
@choosing
@kernel_option
@variant_option
@on_option
@click.option("--repeat", type=click.IntRange(1, 1000), help="Run each job this often; default: as the lab file says.")
@click.option("--job", "jobs", multiple=True, metavar="ID", help="Only this job; `plan` and every report show the ids.")
@click.option(
    "--resume",
    metavar="RUN",
    shell_complete=complete.runs,
    help="Go on with a run that was stopped or killed: an id, or `last`.",
)
@click.option(
    "--guest",
    type=click.Choice(["fork", "vng"]),
    default="fork",
    help="fork: saved guests, resumed for each job; vng: virtme-ng guests on this host's own root.",
)
@click.option(
    "--break",
    "broken",
    is_flag=True,
    help="Make every scenario send something wrong. Every job must fail: this proves that it can.",
)
@click.option(
    "--compiled", is_flag=True, help="Run everything on compiled kernels, also what a distribution's images could run."
)
@click.option(
    "--no-trace", "untraced", is_flag=True, help="Do not count calls of the functions that the series changes."
)
@as_json
@pass_options
def run(
    options: Options,
    choice: tuple[str, ...],
    kernels: tuple[str, ...],
    variant: str | None,
    places: tuple[str, ...],
    repeat: int | None,
    jobs: tuple[str, ...],
    resume: str | None,
    guest: str,
    broken: bool,
    compiled: bool,
    untraced: bool,
    as_json: bool,
) -> None:
    """Build what is missing, run every scenario on every kernel, and say what the series changed."""
    if (jobs or resume) and (choice or kernels or repeat or (jobs and resume)):
        raise UserError(f"--{'resume' if resume else 'job'} says what is run: leave the other choices out")
    if resume:
        variant = variant or _variant_of(options, resume)
    lab = placed(load_lab(options, choice, variant), places)
    kernels = kernels_of(lab, kernels, variant)
    from kpatchlab.plan.forecast import history
    from kpatchlab.plan.jobs import estimate, plan_of_jobs
    from kpatchlab.run.stages import Settings
    from kpatchlab.store.run_plan import RunPlan

    plan = None if resume else plan_of_jobs(lab, jobs) if jobs else make(lab, choice, kernels, repeat)
    start(options, plan)
    images = bool(lab.images) and not compiled and guest == "fork"
    how = RunPlan(guest=guest, variant=variant or "", broken=broken, trace=not untraced, images=images)
    session = session_of(dataclasses.replace(lab, qemu="host") if guest == "vng" else lab)
    if plan:
        title = f"{lab.title}, broken on purpose" if broken else lab.title
        begun = session.begin(plan, how, title=title, command=shlex.join(sys.argv))
    else:
        begun = _go_on(session, resume or "", how)
    settings = Settings(
        command=shlex.join(sys.argv),
        reproduce=lambda job: options.again(f"run {_again(begun.how, lab, job)}--job {shlex.quote(job.id)}"),
        verbose=verbose(options),
        seconds=estimate(begun.plan, history(session.store, runs=2)).steps,
    )
    with progress_for(to_stderr=as_json) as progress, interruptible(settings, progress):
        view = session.carry_out(begun, settings, progress)
    show(view, as_json=as_json)
    if settings.cancel.is_set():
        click.echo(f"stopped; to go on: {options.again(f'run --resume {begun.folder.id}')}", err=True)
        sys.exit(130)
    _tell_lost(view)
    sys.exit(_proven(view.run) if begun.how.broken else view.comparison.exit_code)


def _again(how: RunPlan, lab: Lab, job: JobSpec) -> str:
    """Return the options with which `run` runs a job as it ran here; a shorter run may need less of the images."""
    return how.options + ("--compiled " if lab.images and not job.images else "")


def show(view: View, *, as_json: bool) -> None:
    """Print what came of a run."""
    from kpatchlab.report import FORMATS
    from kpatchlab.report.text import show

    try:
        if as_json:
            sys.stdout.buffer.write(FORMATS["json"].render(view))
        else:
            show(view, terminal.console())
            click.echo(f"\nresults: {_near(view.folder)}/index.html, junit.xml, run.json")
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read along has gone; the run's result stands
        streams.drop_output()


def _tell_lost(view: View) -> None:
    """Say in one line what a run lacks that ends with 3 for jobs which the host has lost."""
    from kpatchlab.model import Outcome
    from kpatchlab.textclean import one_line

    lost = [job for job in view.run.jobs if job.outcome is Outcome.INFRA]
    if lost and view.comparison.exit_code == HostError.exit_code:
        count = f"{len(lost)} of {len(view.run.jobs)} jobs"
        click.echo(f"kpatchlab: {count} were lost on this host, the first: {one_line(lost[0].message, 300)}", err=True)


def _proven(result: Run) -> int:
    """Say which scenarios did not see what was wrong on purpose; the exit status."""
    from kpatchlab.model import Outcome

    tried = [job for job in result.jobs if job.outcome in {Outcome.PASS, Outcome.FAIL, Outcome.TIMEOUT, Outcome.CRASH}]
    blind = [job.job for job in tried if job.outcome is Outcome.PASS]
    click.echo(f"\nbroken on purpose: {len(tried) - len(blind)} of {len(tried)} jobs saw it")
    for name in blind:
        click.echo(f"  cannot fail: {name}")
    return 1 if blind or not tried else 0


def _variant_of(options: Options, resume: str) -> str | None:
    from kpatchlab.store.store import Store

    return Store(options.results()).plan(resume).variant or None


def _go_on(session: Session, wanted: str, how: RunPlan) -> OpenRun:
    """Open an earlier run again; what is asked for beside it (--break, --no-trace) holds for the rest of it."""
    begun = session.go_on(wanted)
    before = begun.how
    if before.guest != how.guest:
        raise UserError(f"run {begun.folder.id} has guests of another kind", hint=f"--guest {before.guest}")
    both = dataclasses.replace(before, broken=before.broken or how.broken, trace=before.trace and how.trace)
    return dataclasses.replace(begun, how=both)


def _near(path: Path) -> Path:
    with contextlib.suppress(ValueError):
        return path.relative_to(Path.cwd())
    return path


@click.command(cls=Verb, epilog=f"{CHOICE_HELP}\n\n\b\nExample:\n  kpatchlab plan --json | jq '.jobs[].id'")
@choosing
@kernel_option
@variant_option
@click.option("--repeat", type=click.IntRange(1, 1000), help="As in run.")
@click.option("--compiled", is_flag=True, help="As in run.")
@as_json
@pass_options
def plan(
    options: Options,
    choice: tuple[str, ...],
    kernels: tuple[str, ...],
    variant: str | None,
    repeat: int | None,
    compiled: bool,
    as_json: bool,
) -> None:
    """Show what would run, what is cached, and how long it takes."""
    from kpatchlab.cache import Cache
    from kpatchlab.plan.forecast import forecast, foreseen
    from kpatchlab.progress import clock

    lab = load_lab(options, choice, variant)
    made, cache = make(lab, choice, kernels_of(lab, kernels, variant), repeat), Cache()
    made = made if compiled else foreseen(lab, made, cache)
    seen = forecast(lab, made, cache)
    seconds = seen.estimate.steps
    steps: list[KernelStep | ImageStep] = [*made.kernels, *made.images]
    if as_json:
        rows = [{"id": step.id, "cached": step.id in seen.cached, "seconds": seconds[step.id]} for step in steps]
        jobs = [{"id": job.id, "column": job.column, "seconds": seconds[job.id]} for job in made.jobs]
        dump({"steps": rows, "jobs": jobs, "wall_s": seen.estimate.wall_s})
        return
    state = {True: "cached", False: "to make"}
    table(
        [{"step": s.id, "state": state[s.id in seen.cached], "estimate": clock(seconds[s.id])} for s in steps]
        + [{"step": job.id, "state": "job", "estimate": clock(seconds[job.id])} for job in made.jobs]
    )
    wall = clock(seen.estimate.wall_s)
    click.echo(f"\n{len(made.jobs)} jobs in {len(made.columns)} columns, {len(made.kernels)} kernels: about {wall}")


@click.command(cls=Verb, epilog="\b\nExample:\n  kpatchlab build with")
@click.argument("kernels", nargs=-1, metavar="[KERNEL]...", shell_complete=complete.kernels)
@variant_option
@as_json
@pass_options
def build(options: Options, kernels: tuple[str, ...], variant: str | None, as_json: bool) -> None:
    """Build kernels and roots, and run nothing."""
    from kpatchlab.cache import Cache
    from kpatchlab.host.host import Host
    from kpatchlab.jsonable import to_json
    from kpatchlab.model import Outcome
    from kpatchlab.run.pipeline import build_only
    from kpatchlab.run.stages import Settings

    lab = load_lab(options, variant=variant)
    made = make(lab, (), kernels_of(lab, kernels, variant), None)
    start(options, made)
    settings, cache = Settings(verbose=verbose(options)), Cache()
    with progress_for(to_stderr=as_json) as progress, interruptible(settings, progress):
        results = build_only(lab, made, Host(cache, lab.mirror, lab.qemu), progress, settings)
    places = [str(cache.path("kernel", build.key)) if build.outcome is Outcome.PASS else "" for build in results]
    if as_json:
        dump([{**to_json(result), "path": path} for result, path in zip(results, places, strict=True)])
    else:
        for result, path in zip(results, places, strict=True):
            click.echo(f"{result.kernel}: {path or result.error}")
            if result.log_tail:
                click.echo(result.log_tail, err=True)
            for failure in result.module_failures:
                click.echo(f"  module {failure.module}: {failure.source}:{failure.line}: {failure.error}")
            for miss in result.config_misses:
                click.echo(f"  {miss.where}: CONFIG_{miss.symbol}: asked {miss.asked}, got {miss.got}: {miss.reason}")
    if settings.cancel.is_set():
        sys.exit(130)
    sys.exit(1 if any(result.outcome is not Outcome.PASS for result in results) else 0)


@click.command(
    cls=Verb,
    epilog="\b\nExamples:\n  kpatchlab shell --kernel with\n  kpatchlab shell nfs-tcp --role server\n"
    "In the guest, the scenario is in /lab/scenario and its environment is set; exit ends the guest.",
)
@click.argument("scenario", required=False, shell_complete=complete.scenarios)
@click.option("--kernel", metavar="NAME", shell_complete=complete.kernels, help="Default: the base.")
@click.option("--role", metavar="ROLE", help="Whose guest to open; default: that of the role with `run`.")
@click.option("--param", "params", multiple=True, metavar="NAME=VALUE", help="A parameter of the scenario.")
@variant_option
@pass_options
def shell(
    options: Options,
    scenario: str | None,
    kernel: str | None,
    role: str | None,
    params: tuple[str, ...],
    variant: str | None,
) -> None:
    """Open a prompt in a guest: the same kernel, root and environment that a job has."""
    from kpatchlab.cache import Cache
    from kpatchlab.host.host import Host
    from kpatchlab.run.shell import open_shell

    lab = load_lab(options, variant=variant)
    kernel = kernels_of(lab, (kernel,), variant)[0] if kernel else None
    start(options)
    host = Host(Cache(), lab.mirror, lab.qemu)
    sys.exit(open_shell(lab, scenario, kernel, role, params, host, progress_for(to_stderr=True)))
