"""The verbs `bisect` and `bisect-step`: which commit, or which patch of a series, broke it."""

from __future__ import annotations

import functools
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kpatchlab.cli import complete
from kpatchlab.cli.app import ABORT, Options, Verb
from kpatchlab.cli.choosing import kernels_of, variant_option
from kpatchlab.cli.common import load_lab, pass_options
from kpatchlab.cli.running import interruptible, progress_for, session_of, verbose
from kpatchlab.errors import UserError

if TYPE_CHECKING:
    from kpatchlab.bisect.criterion import Criterion
    from kpatchlab.bisect.session import SearchSession
    from kpatchlab.bisect.state import SearchState
    from kpatchlab.lab.load import Lab

SKIPPED = 125


CRITERION = (
    click.option("--scenario", "scenarios", multiple=True, metavar="CHOICE", help="Scenario that shows the failure."),
    click.option("--param", "params", multiple=True, metavar="NAME=VALUE", help="Only jobs with this parameter."),
    click.option(
        "--case",
        default="",
        metavar="NAME",
        help="Case that fails; default: any. The lab's own `job` and `log: ROLE` mean any, too,"
        " where the scenario has no check of that name.",
    ),
    click.option(
        "--splat", default="", metavar="FINGERPRINT", help="Splat that appears; reports show its fingerprint."
    ),
    click.option(
        "--build",
        is_flag=True,
        help="A commit is bad if it does not compile; with --module NAME: if that module does not.",
    ),
    click.option("--module", default="", metavar="NAME", help="With --build: the module."),
    click.option("--boot", is_flag=True, help="A commit is bad if no guest boots."),
    click.option(
        "--metric",
        default="",
        metavar="NAME",
        help="A commit is bad if this figure is worse by more than --bound.",
    ),
    click.option(
        "--bound",
        type=float,
        default=1.1,
        show_default=True,
        help="With --metric: factor to the good end's figure.",
    ),
    click.option(
        "--kernel", default="", metavar="NAME", help="Kernel whose configuration to build; default: the base."
    ),
    click.option("--runs", type=click.IntRange(1, 100), help="How often to run each end, and the proof; default: 3."),
)
"""The options that say what counts as bad."""


def criterion_options(verb: Callable[..., None]) -> Callable[..., None]:
    """Give a verb the options that say what counts as bad, which it gets as `criterion`, and where that shows."""

    @functools.wraps(verb)
    def wrapper(
        *args: Any,
        scenarios: tuple[str, ...],
        params: tuple[str, ...],
        case: str,
        splat: str,
        build: bool,
        module: str,
        boot: bool,
        metric: str,
        bound: float,
        **named: Any,
    ) -> None:
        from kpatchlab.bisect.criterion import Criterion

        kinds = {"splat": splat, "build": build or module, "boot": boot, "metric": metric, "case": case}
        chosen = [kind for kind, wanted in kinds.items() if wanted]
        if len(chosen) > 1:
            raise UserError(f"--{' and --'.join(chosen)}: one of them says what is bad")
        named["criterion"] = Criterion(
            kind=chosen[0] if chosen else "case",
            scenarios=scenarios,
            params=dict(word.partition("=")[::2] for word in params),
            case=case,
            fingerprint=splat,
            module=module,
            metric=metric,
            bound=bound,
        )
        verb(*args, **named)

    for option in reversed(CRITERION):
        wrapper = option(wrapper)
    return wrapper


@click.command(
    cls=Verb,
    epilog="\b\nExamples:\n"
    "  kpatchlab bisect last 'unix-splice: sendfile 4095'   all from a run that showed it\n"
    "  kpatchlab bisect --tree ~/linux --good v6.11 --bad master --scenario unix-splice\n"
    "  kpatchlab bisect --series my.mbox --scenario 'nfs-*' --case 'read back whole'\n"
    "  kpatchlab bisect --tree ~/linux --good v6.11 --bad HEAD --path net --build --module tls\n"
    "  kpatchlab bisect --resume last",
)
@click.argument("run", required=False, default="", shell_complete=complete.runs)
@click.argument("case_of_run", metavar="[CASE]", required=False, default="")
@click.option("--tree", type=click.Path(path_type=Path), help="The git repository; it is only read.")
@click.option("--series", "series_of", default="", metavar="WHAT", help="Patches: an mbox, a folder, or a message-id.")
@click.option("--good", default="", metavar="REV", help="In a series: the number of a patch; 0 is its base.")
@click.option("--bad", default="", metavar="REV", help="In a series: the number of a patch; default: the last.")
@click.option("--path", "paths", multiple=True, metavar="PATH", help="Only commits that touch it.")
@criterion_options
@click.option(
    "--confidence",
    type=click.FloatRange(0.5, 0.9999),
    default=0.95,
    show_default=True,
    help="Probability from which on a commit counts as found.",
)
@click.option(
    "--mode",
    type=click.Choice(["instructions", "time"]),
    help="With --metric: how to take figures; default: instructions, if each scenario has one guest.",
)
@click.option(
    "--candidates",
    type=click.IntRange(1, 7),
    help="Commits to run side by side; default: 3, if their guests have room and it is quicker.",
)
@click.option("--whole-config", is_flag=True, help="Build all modules, also those that cannot matter for the failure.")
@click.option("--resume", metavar="SEARCH", help="Go on with a search: its id, or `last`.")
@click.option(
    "--replay",
    type=click.Path(path_type=Path, exists=True),
    help="Begin with the good and bad commits of a file from `git bisect log`.",
)
@click.option("--log", "log_of", metavar="SEARCH", help="Print a search as `git bisect log` does, and stop.")
@variant_option
@pass_options
def bisect(
    options: Options,
    run: str,
    case_of_run: str,
    tree: Path | None,
    series_of: str,
    good: str,
    bad: str,
    paths: tuple[str, ...],
    criterion: Criterion,
    kernel: str,
    runs: int | None,
    confidence: float,
    mode: str | None,
    candidates: int | None,
    whole_config: bool,
    resume: str | None,
    replay: Path | None,
    log_of: str | None,
    variant: str | None,
) -> None:
    """Find the commit, or the patch of a series, that broke it.

    RUN CASE: as a stored run has it.
    """
    from kpatchlab.bisect.request import Request

    if log_of:
        _print_log(options, log_of)
        return
    if resume:
        _resume(options, resume)
        return
    lab = load_lab(options, variant=variant)
    request = Request(
        criterion=criterion,
        run=run,
        case=case_of_run,
        kernel=kernels_of(lab, (kernel or lab.base,), variant)[0],
        tree=tree,
        series=series_of,
        good=good,
        bad=bad,
        paths=paths,
        replay=replay,
        variant=variant or "",
        runs=runs or 3,
        confidence=confidence,
        candidates=candidates or 0,
        mode=mode or "",
        whole=whole_config,
        command=shlex.join(sys.argv),
    )
    _search(options, lab, lambda session: session.begin(request))


def _print_log(options: Options, wanted: str) -> None:
    from kpatchlab.bisect.drive import GIT_LOG
    from kpatchlab.bisect.state import Searches

    _, folder = Searches(options.results()).open(wanted)
    log = folder / GIT_LOG
    if not log.exists():
        raise UserError(f"search {folder.name} is not at its end", hint=f"kpatchlab bisect --resume {folder.name}")
    click.echo(log.read_text(), nl=False)


def _resume(options: Options, wanted: str) -> None:
    from kpatchlab.bisect.state import Searches

    state, _ = Searches(options.results()).open(wanted)
    lab = load_lab(options, variant=state.question.variant or None)
    _search(options, lab, lambda session: session.go_on(state.id))


def _search(options: Options, lab: Lab, search: Callable[[SearchSession], SearchState]) -> None:
    """Carry a search through, and print what it came to."""
    from kpatchlab.bisect.drive import REPORT
    from kpatchlab.bisect.session import SearchSession, SearchStopped
    from kpatchlab.bisect.state import Ended, Searches
    from kpatchlab.run.stages import Settings

    settings = Settings(command=shlex.join(sys.argv), verbose=verbose(options))
    with progress_for(to_stderr=False) as progress, interruptible(settings, progress):
        try:
            state = search(SearchSession(lab, session_of(lab).host, progress, settings))
        except SearchStopped as stopped:
            click.echo(f"stopped; to go on: {options.again(f'bisect --resume {stopped.search}')}", err=True)
            sys.exit(130)
    folder = Searches(lab.results).root / state.id
    click.echo("")
    click.echo((folder / REPORT).read_text(), nl=False)
    click.echo(f"\n{folder}: {', '.join(sorted(p.name for p in folder.iterdir() if p.is_file()))}")
    sys.exit(0 if state.ended is Ended.FOUND else 1)


@click.command(
    "bisect-step",
    cls=Verb,
    epilog="\b\nExample, in a kernel tree:\n"
    "  git bisect start master v6.11\n"
    "  git bisect run kpatchlab --lab ~/lab/lab.yaml bisect-step --scenario unix-splice\n"
    "  kpatchlab bisect-step --build --module tls    once, by hand\n\n"
    "Exit status: 0 good, 1 bad, 125 skip; 128 and above stop git bisect run.",
)
@click.option("--tree", type=click.Path(path_type=Path), default=Path(), help="Default: the current directory.")
@criterion_options
@variant_option
@pass_options
def bisect_step(
    options: Options, tree: Path, criterion: Criterion, kernel: str, runs: int | None, variant: str | None
) -> None:
    """Judge the tree as it is checked out now, for `git bisect run`: exit 0 good, 1 bad, 125 skip."""
    from kpatchlab.bisect import criterion as criteria
    from kpatchlab.bisect.step import judge_tree
    from kpatchlab.run.stages import Settings

    lab = load_lab(options, variant=variant)
    criteria.check(criterion, lab.scenarios)
    if criterion.kind == "metric":
        raise UserError("a figure needs the good end beside it", hint="kpatchlab bisect --metric does that")
    kernel = kernels_of(lab, (kernel or lab.base,), variant)[0]
    if kernel not in lab.kernels:
        raise UserError(f"there is no kernel {kernel}", hint=f"there are {', '.join(lab.kernels)}")
    settings = Settings(command=shlex.join(sys.argv))
    host = session_of(lab).host
    with progress_for(to_stderr=True) as progress, interruptible(settings, progress):
        judged = judge_tree(lab, host, tree.absolute(), lab.kernels[kernel], criterion, runs or 1, progress, settings)
    click.echo(f"{judged.verdict.value}: {judged.reason}")
    sys.exit(ABORT + 2 if settings.cancel.is_set() else {"good": 0, "bad": 1}.get(judged.verdict.value, SKIPPED))
