"""The verb `try`: from a posted series and a tree to a verdict and a reply."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kpatchlab.cli.app import Options, Verb, program
from kpatchlab.cli.common import load_lab, pass_options, wrapped
from kpatchlab.cli.run import show
from kpatchlab.cli.running import interruptible, make, progress_for, session_of, start, verbose
from kpatchlab.cli.series import end_if_stopped, print_table, walked
from kpatchlab.errors import UserError

if TYPE_CHECKING:
    from kpatchlab.plan.jobs import ImageStep, KernelStep, Plan
    from kpatchlab.report.view import View
    from kpatchlab.series.judge import Table
    from kpatchlab.series.patchwork import PatchCheck, Poster
    from kpatchlab.series.since import Since
    from kpatchlab.series.trial import Trial
    from kpatchlab.store.store import Store

MOST_NAMED = 8
"""How many files, systems or people a line names."""


@click.command(
    "try",
    cls=Verb,
    epilog="SERIES, needed but with --for: a mailbox, a folder of patches, a quilt queue, BASE..TIP of the tree, "
    "a message-id, or - for standard input.\n\n\b\nExamples:\n  kpatchlab try series.mbox --tree ~/linux\n"
    "  kpatchlab try v6.12..my-branch --tree ~/linux --dry-run\n"
    "  b4 am -o - MESSAGE-ID | kpatchlab try - --tree ~/linux",
)
@click.argument("series", required=False)
@click.option(
    "--tree", type=click.Path(path_type=Path), help="A clone of Linux, only read; default: that of this folder."
)
@click.option(
    "--version", metavar="N", default="", help="Which version, where the mails have several; default: the newest."
)
@click.option("--base", "asked", metavar="REVISION", default="", help="The commit that the series is for.")
@click.option(
    "--config", multiple=True, metavar="FRAGMENT", help="A fragment in kernels/; default: those of the lab's base."
)
@click.option("--all", "everything", is_flag=True, help="Run the lab's other scenarios as well, after these.")
@click.option(
    "--selftests",
    type=click.IntRange(0, 100),
    metavar="N",
    default=4,  # each has builds, and up to ten minutes on either kernel
    help="Run at most N collections of the tree's own tests beyond those that the lab has scenarios of; default: 4.",
)
@click.option("--repeat", type=click.IntRange(1, 1000), help="Run each job this often.")
@click.option("--no-patches", is_flag=True, help="Do not build and check patch by patch afterwards.")
@click.option("--post", is_flag=True, help="Send the checks to the patchwork server that the lab file names.")
@click.option("--dry-run", is_flag=True, help="Say what would run, and how long it takes; build nothing.")
@click.option(
    "--for",
    "reader",
    type=click.Choice(["b4", "b4-patch"]),
    help="Be a check command of `b4 review`, of a series or of one patch: a mail on standard input, JSON out.",
)
@pass_options
def try_(
    options: Options,
    series: str | None,
    tree: Path | None,
    version: str,
    asked: str,
    config: tuple[str, ...],
    everything: bool,
    selftests: int,
    repeat: int | None,
    no_patches: bool,
    post: bool,
    dry_run: bool,
    reader: str | None,
) -> None:
    """Try a posted series: find its base, build both kernels, run what it touches, write the reply."""
    if bool(series) == bool(reader):
        raise UserError("--for takes the series from b4's tree" if reader else "which series?", hint="try --help")
    if post and reader:
        raise UserError("--post with --for: b4 shows the checks itself", hint="leave one of them out")
    wanted = _Wanted(series or "", _tree(tree), version, asked, config, everything, selftests, repeat)
    if reader:
        _answer_b4(options, wanted, of_patch=reader == "b4-patch")
        return
    found = _found(options, wanted)
    poster = _poster(found) if post else None
    plan = _plan(options, found, wanted)
    if dry_run:
        _forecast(found, plan)
        return
    view, own, told = _run(options, found, plan)
    table, folder = (None, None) if no_patches else _patches(own, found, view, told)
    status = max(told.exit_code(view.comparison), table.exit_code if table else 0)
    _tell_reviewers(found, view, told, table, folder, status, poster)
    sys.exit(status)


@dataclasses.dataclass(frozen=True, slots=True)
class _Wanted:
    """What the command line asks for."""

    series: str
    tree: Path
    version: str = ""
    asked: str = ""
    config: tuple[str, ...] = ()
    everything: bool = False
    selftests: int = 0
    repeat: int | None = None
    title: str = ""
    label: str = ""


def _found(options: Options, wanted: _Wanted) -> Trial:
    """Read the series and find its base, and say both.

    Raises:
        UserError: it does not apply to any commit of the tree.
    """
    from kpatchlab.build import BuildContext
    from kpatchlab.cache import Cache
    from kpatchlab.series import trial

    lab = load_lab(options)
    model = trial.series_model(wanted.series, wanted.tree)
    context = BuildContext.of(lab, Cache())
    found = trial.make_trial(
        lab, model, wanted.tree, context, version=wanted.version, asked=wanted.asked, config=wanted.config,
        title=wanted.title, label=wanted.label, most=wanted.selftests,
    )  # fmt: skip
    _say(found)
    if not found.base.tried.applies:
        raise UserError(
            found.base.tried.error, details=found.base.tried.details,
            hint="--base REVISION names the commit it is for; --tree another tree",
        )  # fmt: skip
    return found


def _answer_b4(options: Options, wanted: _Wanted, *, of_patch: bool) -> None:
    """Print what b4's review reads, and all else on standard error; what cannot be tested is a warning."""
    from kpatchlab.errors import LabError
    from kpatchlab.series import review, trial
    from kpatchlab.series.applied import TRACKING, applied

    notes = os.environ.get(TRACKING)
    with contextlib.redirect_stdout(sys.stderr):
        try:
            one = applied(options.stdin(), wanted.tree, Path(notes) if notes else None)
            wanted = dataclasses.replace(wanted, series=one.range, title=one.title, label=one.version)
            found = _found(options, wanted)
            if of_patch:  # of the whole series, which the calls for its other patches find stored
                start(options)
                _keep(found)
                table, folder = walked(options, found.lab, trial.WITH, "")
                checks = review.of_patch(table, one.mail, f"{folder}/index.html")
            else:
                view, own, told = _run(options, found, _plan(options, found, wanted))
                table, folder = _patches(own, found, view, told)
                checks = [review.of_scenarios(view.comparison, told, f"{view.folder}/index.html")]
                checks += review.of_patches(table, f"{folder}/index.html")
        except LabError as error:
            checks = [review.untested(error.message)]
        except SystemExit:  # b4 takes silence for a failure
            checks = [review.untested("it was stopped")]
    sys.stdout.buffer.write(review.for_b4(checks))


def _tree(given: Path | None) -> Path:
    """Return the top of the tree that is meant.

    Raises:
        UserError: none is named, and this folder is in none.
    """
    from kpatchlab.build import git

    path = (given or Path.cwd()).expanduser().absolute()
    view = git.open_local(path).view
    top = (view.top if view else None) or path
    if given is None and not (top / "MAINTAINERS").exists():
        raise UserError("this folder is no tree of Linux", hint="--tree names a clone of it")
    return top


def _some(names: tuple[str, ...] | list[str]) -> str:
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _say(found: Trial) -> None:
    """Say what the series is, and what it stands on."""
    from kpatchlab.build.base import Fit
    from kpatchlab.textclean import one_line

    base, tried = found.base, found.base.tried
    count = len(found.patches)
    authors = list(dict.fromkeys(patch.author for patch in found.patches if patch.author))
    by = f", by {_some(authors)}" if authors else ""
    rows = {
        "series": f"{one_line(found.title)} ({found.version}): {count} patch{'' if count == 1 else 'es'}{by}",
        "changes": _some(found.files),
        "systems": _some(found.systems) or "none that the lab knows",
        "subsystems": _some([section.title for section in found.sections]) or "none in MAINTAINERS",
        "people": _some(list(dict.fromkeys(who for section in found.sections for who in section.maintainers))),
        "selftests": _some([one.name for one in found.collections]),
        "base": f"{base.name} ({tried.commit[:12]}): {base.why}{'' if base.sure else '; not sure'}",
    }
    for name, text in rows.items():
        if text:
            wrapped(text, f"{name:11}", 11)
    for line in base.looked_at:
        wrapped(f"tried: {line}", f"{'':11}", 11)
    for number, (patch, fit) in enumerate(zip(found.patches, tried.fits, strict=True), 1):
        if fit is not Fit.STRICT:
            wrapped(f"patch {number} applies {fit}: {one_line(patch.subject or patch.name)}", f"{'':11}", 11)


def _earlier(store: Store) -> tuple[dict[str, float], set[str]]:
    """Return scenario -> what its longest job took in the last runs, and the scenarios that did not pass in them."""
    from kpatchlab.model import Outcome
    from kpatchlab.plan.forecast import last_runs

    seconds: dict[str, float] = {}
    told: set[str] = set()
    for run in last_runs(store):
        for job in run.jobs:
            seconds[job.scenario] = max(seconds.get(job.scenario, 0.0), job.duration_s)
            told |= {job.scenario} if job.outcome not in {Outcome.PASS, Outcome.SKIP, Outcome.INFRA} else set()
    return seconds, told


def _plan(options: Options, found: Trial, wanted: _Wanted) -> Plan:
    """Return the plan, in the order in which it is worth running, and say what is in it."""
    from kpatchlab.lab.selftests import RUNNER
    from kpatchlab.series.trial import choose
    from kpatchlab.store.store import Store

    chosen = choose(found, *_earlier(Store(options.results())), everything=wanted.everything)
    plan = make(found.lab, chosen.names, (), wanted.repeat)
    many = f"{len(chosen.names)} scenario{'' if len(chosen.names) == 1 else 's'}"
    wrapped(f"{len(plan.jobs)} jobs of {many}, {chosen.why}: {_some(chosen.names)}", f"{'runs':11}", 11)
    if found.left_out:
        runner = (found.lab.root / RUNNER).is_file()
        why = f"at most {wanted.selftests}, see --selftests" if runner else f"the lab has no {RUNNER}"
        wrapped(f"not run: selftests {', '.join(found.left_out)}: {why}", f"{'':11}", 11)
    return dataclasses.replace(plan, jobs=tuple(sorted(plan.jobs, key=lambda job: chosen.names.index(job.scenario))))


def _forecast(found: Trial, plan: Plan) -> None:
    from kpatchlab.cache import Cache
    from kpatchlab.plan.forecast import forecast
    from kpatchlab.progress import clock

    seen = forecast(found.lab, plan, Cache())
    steps: list[KernelStep | ImageStep] = [*plan.kernels, *plan.images]
    for step in steps:
        state = "cached" if step.id in seen.cached else f"to make, about {clock(seen.estimate.steps[step.id])}"
        click.echo(f"{'':11}{step.id}: {state}")
    click.echo(f"{'takes':11}about {clock(seen.estimate.wall_s)}")


def _keep(found: Trial) -> None:
    """Store what the lab's recipes read."""
    from kpatchlab.build import BuildContext
    from kpatchlab.cache import Cache
    from kpatchlab.series.trial import posted, write

    write(found, posted(found.model, BuildContext.of(found.lab, Cache())))


def _run(options: Options, found: Trial, plan: Plan) -> tuple[View, Options, Since]:
    """Run the plan; returns what came of it, the options of its own lab file, and what is new since the version before.

    Ends the program where it was stopped.
    """
    from kpatchlab.files import write_atomic
    from kpatchlab.plan.forecast import history
    from kpatchlab.plan.jobs import estimate
    from kpatchlab.report import FORMATS, digest, markdown
    from kpatchlab.run.stages import Settings
    from kpatchlab.series import selftests
    from kpatchlab.series.trial import lab_file
    from kpatchlab.series.verdicts import Verdicts
    from kpatchlab.store.run_plan import RunPlan

    start(options, plan)
    _keep(found)
    session = session_of(found.lab)
    begun = session.begin(plan, RunPlan(), title=found.title, command=shlex.join(sys.argv))
    names = tuple(dict.fromkeys(job.scenario for job in plan.jobs))
    selftests.write((found.lab.scenarios[name] for name in names), begun.folder.path)
    own = dataclasses.replace(options, lab=begun.folder.write("lab.yaml", lab_file(found, names, begun.folder.path)))
    settings = Settings(
        command=shlex.join(sys.argv),
        reproduce=lambda job: own.again(f"run --job {shlex.quote(job.id)}"),
        verbose=verbose(options),
        seconds=estimate(plan, history(session.store, runs=2)).steps,
        in_order=True,
    )
    with progress_for(to_stderr=False) as progress, interruptible(settings, progress):
        view = session.carry_out(begun, settings, Verdicts(progress, begun.folder.header, plan.jobs))
    show(view, as_json=False)
    for line in digest.not_built(view.run):
        wrapped(line, "", 0)
    if settings.cancel.is_set():
        click.echo(f"stopped; to go on: {own.again(f'run --resume {begun.folder.id}')}", err=True)
        sys.exit(130)
    _offer(found, view)
    told = _since(found, view, session.store)
    more = "".join(f"{line}\n" for line in ["", *told.lines()]) if told.lines() else ""
    mail = FORMATS["mail"].render(view) + more.encode("utf-8", "replace")
    write_atomic(view.folder / FORMATS["mail"].file, mail)
    write_atomic(view.folder / FORMATS["markdown"].file, markdown.render(view, told.lines()))
    click.echo(more, nl=False)
    click.echo(f"the reply: {view.folder}/{FORMATS['mail'].file}; to run it again: {own.again('run')}")
    return view, own, told


def _offer(found: Trial, view: View) -> None:
    """Where nothing can be tested on the base, say so, and which commit is the next one to try it on."""
    from kpatchlab.series.trial import BASE, clear, fault_of_base, is_ground, next_base
    from kpatchlab.textclean import one_line

    if not (why := fault_of_base(view.run)):
        if is_ground(view.run):
            clear(found)
        return
    base, source = found.base, found.lab.kernels[BASE].source
    click.echo(f"\nthe base {base.name} ({base.commit[:12]}) {one_line(why, 300)}")
    other = next_base(found, Path(source.on_host))
    if other is None:
        click.echo("the tree has no other commit that the series applies to")
        return
    words = shlex.join([program(), *sys.argv[1:], "--base", other.commit[:12]])
    click.echo(f"the next candidate is {other.name} ({other.why}): {words}")


def _since(found: Trial, view: View, store: Store) -> Since:
    """Say what became of the version before, and remember this one."""
    import datetime as dt

    from kpatchlab.lab.known import load_known
    from kpatchlab.series import since
    from kpatchlab.series.trial import FOLDER

    known = load_known(found.lab.root, dt.datetime.now(dt.UTC).date())
    before = since.earlier(found.lab.results / FOLDER, found.title, found.version)
    since.remember(found.folder, since.Tried(found.title, found.version, view.run.id))
    return since.since(view.comparison, before, store, known, found.title, found.version)


def _patches(own: Options, found: Trial, view: View, told: Since) -> tuple[Table, Path]:
    """Walk over the series; where scenarios regressed, run these with each patch: which one brought it.

    Not where all that regressed is known.
    """
    from kpatchlab.model import Verdict
    from kpatchlab.series.trial import WITH
    from kpatchlab.verdict.faults import changes

    regressed = (change for change in changes(view.comparison) if change.cell.verdict is Verdict.REGRESSED)
    choice = tuple(sorted({change.group.scenario for change in regressed} - told.excused))
    again = own.again(shlex.join(["series", WITH, *(f"--run={name}" for name in choice)]))
    table, folder = walked(own, found.lab, WITH, again, choice=choice)
    print_table(table, "text", None)
    click.echo(f"\npatch by patch: {folder}/index.html")
    end_if_stopped(table, again)
    return table, folder


def _poster(found: Trial) -> Poster:
    """Return what `--post` sends with, before anything is built; raises a UserError where it cannot send."""
    from kpatchlab.series.patchwork import Poster

    return Poster.of(found.lab, found.patches)


def _tell_reviewers(
    found: Trial, view: View, told: Since, table: Table | None, walk: Path | None, status: int, poster: Poster | None
) -> None:
    """Leave the checks as patchwork and GitHub take them in the run's folder, where it is known to what; send or print.

    Args:
        table, walk: what the walk over the patches said, and its folder; None where there was none.
        status: what the process ends with.
    """
    from kpatchlab.files import write_atomic
    from kpatchlab.report import FORMATS
    from kpatchlab.series import patchwork, review, trial

    page, *more = [_page(found, folder) for folder in (view.folder, walk) if folder]
    if commit := trial.head(found):
        comment = (view.folder / FORMATS["markdown"].file).read_bytes()
        checks = review.of_patches(table) if table else []
        data = review.for_github(commit, status, view.comparison.headline, comment, checks, page)
        write_atomic(view.folder / review.GITHUB_FILE, data)
    if server := found.lab.patchwork:
        whole = review.of_scenarios(view.comparison, told)
        rows = patchwork.checks_of(found.patches, whole, table, (page, *more))
        write_atomic(view.folder / patchwork.FILE, patchwork.document(server, rows))
        if poster:
            for line in poster.post(rows):
                click.echo(line, err=True)
        else:
            _show(rows, f"{view.folder}/{patchwork.FILE}")


def _show(rows: list[PatchCheck], file: str) -> None:
    """Print requests that were not sent."""
    import json

    click.echo("\nfor patchwork, not sent without --post:")
    for row in rows[:MOST_NAMED]:
        click.echo(f"  patch {row.number}: POST {json.dumps(row.body)}")
    more = len(rows) - MOST_NAMED
    click.echo(f"  {f'and {more} more: ' if more > 0 else ''}{file}")


def _page(found: Trial, folder: Path) -> str:
    """Return the URL of a folder's page, "" where the lab file names none."""
    from urllib.parse import quote

    base = found.lab.results_url
    return f"{base}/{quote(str(folder.relative_to(found.lab.results)))}/index.html" if base else ""
