"""The verbs `bisect` and `bisect-step`: which commit, or which patch of a series, broke it."""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kpatchlab.cli import complete
from kpatchlab.cli.app import ABORT, Options, Verb
from kpatchlab.cli.choosing import kernels_of, variant_option
from kpatchlab.cli.common import load_lab, pass_options
from kpatchlab.cli.running import interruptible, progress_for
from kpatchlab.errors import LabError, UserError

if TYPE_CHECKING:
    from kpatchlab.bisect.commits import CommitRange
    from kpatchlab.bisect.criterion import Criterion
    from kpatchlab.bisect.state import Question, SearchState
    from kpatchlab.bisect.workspace import Workspace
    from kpatchlab.build import BuildContext
    from kpatchlab.host.host import Host
    from kpatchlab.lab.load import Lab
    from kpatchlab.lab.recipes import KernelRecipe
    from kpatchlab.progress import Progress
    from kpatchlab.run.stages import Settings

SKIPPED = 125


def criterion_options(verb: Callable[..., None]) -> Callable[..., None]:
    """Give a verb the options that say what counts as bad."""
    for option in reversed(
        (
            click.option("--scenario", "scenarios", multiple=True, metavar="CHOICE", help="Scenario that shows it."),
            click.option("--param", "params", multiple=True, metavar="NAME=VALUE", help="Only jobs with it."),
            click.option(
                "--case",
                default="",
                metavar="NAME",
                help="The case that fails; default: any. The lab's own `job` and `log: ROLE` mean any, too,"
                " where the scenario has no check of that name.",
            ),
            click.option("--splat", default="", metavar="FINGERPRINT", help="The splat that appears."),
            click.option(
                "--build", is_flag=True, help="What is sought is a build error; --module NAME: that module's."
            ),
            click.option("--module", default="", metavar="NAME", help="With --build: the module."),
            click.option("--boot", is_flag=True, help="What is sought is a kernel that does not boot."),
            click.option("--metric", default="", metavar="NAME", help="A figure that gets worse, beyond --bound."),
            click.option("--bound", type=float, default=1.1, show_default=True, help="Ratio to the good end."),
            click.option("--kernel", default="", metavar="NAME", help="Whose configuration; default: the base's."),
            click.option("--runs", type=click.IntRange(1, 100), help="Runs of the ends and of the proof; default: 3."),
        )
    ):
        verb = option(verb)
    return verb


def criterion_of(given: dict[str, Any]) -> Criterion:
    """Return the criterion that the options mean."""
    from kpatchlab.bisect.criterion import Criterion

    kinds = {"splat": given["splat"], "build": given["build"] or given["module"], "boot": given["boot"]}
    kinds |= {"metric": given["metric"], "case": given["case"]}
    chosen = [kind for kind, wanted in kinds.items() if wanted]
    if len(chosen) > 1:
        raise UserError(f"--{' and --'.join(chosen)}: one of them says what is bad")
    params = dict(word.partition("=")[::2] for word in given["params"])
    return Criterion(
        chosen[0] if chosen else "case",
        tuple(given["scenarios"]),
        params,
        given["case"],
        given["splat"],
        given["module"],
        given["metric"],
        given["bound"],
    )


@click.command(
    cls=Verb,
    epilog="\b\nExamples:\n"
    "  kpatchlab bisect last 'unix-splice: sendfile 4095'   all from a run that showed it\n"
    "  kpatchlab bisect --tree ~/linux --good v6.11 --bad master --scenario unix-splice\n"
    "  kpatchlab bisect --series my.mbox --scenario 'nfs-*' --case 'read back whole'\n"
    "  kpatchlab bisect --tree ~/linux --good v6.11 --bad HEAD --path net --build --module tls\n"
    "  kpatchlab bisect --resume last",
)
@click.argument("run", required=False, shell_complete=complete.runs)
@click.argument("case_of_run", metavar="[CASE]", required=False)
@click.option("--tree", type=click.Path(path_type=Path), help="The git repository; it is only read.")
@click.option("--series", "series_of", metavar="WHAT", help="Patches: an mbox, a folder, or a message-id.")
@click.option("--good", metavar="REV", help="In a series: the number of a patch; 0 is its base.")
@click.option("--bad", metavar="REV", help="In a series: the number of a patch; default: the last.")
@click.option("--path", "paths", multiple=True, metavar="PATH", help="Only commits that touch it.")
@criterion_options
@click.option("--confidence", type=click.FloatRange(0.5, 0.9999), default=0.95, show_default=True)
@click.option(
    "--mode",
    type=click.Choice(["instructions", "time"]),
    help="With --metric: what figures count; default: instructions, where each scenario has one guest.",
)
@click.option(
    "--candidates",
    type=click.IntRange(1, 7),
    help="Commits to run side by side; default: 3 where there is room for their guests and that is quicker.",
)
@click.option("--whole-config", is_flag=True, help="Build all modules, also those that what is sought cannot need.")
@click.option("--resume", metavar="SEARCH", help="Go on with a search: its id, or `last`.")
@click.option("--replay", type=click.Path(path_type=Path, exists=True), help="Begin with what git bisect log says.")
@click.option("--log", "log_of", metavar="SEARCH", help="Print a search as git bisect log does, and stop.")
@variant_option
@pass_options
def bisect(options: Options, /, **given: Any) -> None:
    """Find the commit, or the patch of a series, that broke it. RUN CASE: as a stored run has it."""
    from kpatchlab.bisect.state import Searches

    searches = Searches(options.results())
    if given["log_of"]:
        folder = searches.open(given["log_of"])[1]
        log = folder / "git-bisect.log"
        if not log.exists():
            raise UserError(f"search {folder.name} is not at its end", hint=f"kpatchlab bisect --resume {folder.name}")
        click.echo(log.read_text(), nl=False)
        return
    if given["resume"]:
        state, folder = searches.open(given["resume"])
        lab = load_lab(options, variant=state.question.variant or None)
        _carry_out(options, lab, state, folder, None)
        return
    lab = load_lab(options, variant=given["variant"])
    question = _question(lab, given)
    _carry_out(options, lab, None, searches.root, question, replay=given["replay"])


def _question(lab: Lab, given: dict[str, Any]) -> Question:
    """Return what is asked, the revisions as the user named them."""
    from kpatchlab.bisect import criterion as criteria
    from kpatchlab.bisect import from_run
    from kpatchlab.bisect.state import Question
    from kpatchlab.store.store import Store

    kernel = kernels_of(lab, (given["kernel"] or lab.base,), given["variant"])[0]
    criterion, placement, base = criterion_of(given), {}, lab.base
    if given["run"]:
        if not given["case_of_run"]:
            raise UserError("which case of the run?", hint="kpatchlab bisect RUN CASE; report RUN shows what failed")
        stored, _ = Store(lab.results).load(given["run"])
        found = from_run.find(stored, given["case_of_run"])
        criterion, kernel, placement, base = found.criterion, found.kernel, found.placement, found.base
    if kernel not in lab.kernels:
        raise UserError(f"there is no kernel {kernel}", hint=f"there are {', '.join(lab.kernels)}")
    criteria.check(criterion, lab.scenarios)
    tree, series, good, bad = _where(lab, given, kernel, base)
    return Question(
        kernel=kernel,
        criterion=criterion,
        good_name=good,
        bad_name=bad,
        repository=str(tree) if tree else "",
        series=series,
        paths=tuple(given["paths"]),
        placement=placement,
        confidence=given["confidence"],
        runs=given["runs"] or 3,
        lab=str(lab.path),
        variant=given["variant"] or "",
        whole=given["whole_config"],
        candidates=given["candidates"] or 0,
        mode=_mode(lab, criterion, given["mode"]),
        command=shlex.join(sys.argv),
    )


def _mode(lab: Lab, criterion: Criterion, wanted: str | None) -> str:
    """Return in which mode figures are taken, "" where none are."""
    if criterion.kind != "metric":
        return ""
    alone = all(len(lab.scenarios[name].roles) == 1 for name in lab.choose(criterion.scenarios))
    if wanted == "instructions" and not alone:
        raise UserError("two guests have two clocks that count instructions", hint="--mode time measures them")
    return wanted or ("instructions" if alone else "time")


def _where(
    lab: Lab, given: dict[str, Any], kernel: str, base: str
) -> tuple[Path | None, tuple[dict[str, str], ...], str, str]:
    """Return repository and ends: from the options, a log of git's, or the kernels' own recipes."""
    from kpatchlab.bisect import gitlog
    from kpatchlab.lab.recipes import GitSource, locate

    good, bad = given["good"] or "", given["bad"] or ""
    if given["replay"]:
        replayed = gitlog.read(given["replay"].read_text(), str(given["replay"]))
        good, bad = good or replayed.good[0], bad or replayed.bad[0]
        given["paths"] = given["paths"] or replayed.paths
    if given["series_of"]:
        return None, (_series_item(given["series_of"]),), good or "0", bad
    recipe, before = lab.kernels[kernel], lab.kernels[base]
    if given["tree"]:
        if not good or not bad:
            raise UserError("--good and --bad name both ends of the range")
        return given["tree"].expanduser().absolute(), (), good, bad
    own, other = recipe.source, before.source
    if recipe.series:
        return None, (), good or "0", bad
    if isinstance(own, GitSource) and own.path:
        if isinstance(other, GitSource) and other.path == own.path:
            good = good or other.revision
        if good:
            return locate(own.path, lab.root), (), good, bad or own.revision
    raise UserError(
        f"nothing says where to search: kernel {kernel} has no series",
        hint="--tree PATH --good REV --bad REV, or --series MBOX",
    )


def _series_item(text: str) -> dict[str, str]:
    path = Path(text).expanduser().absolute()
    if path.is_dir():
        return {"type": "quilt" if (path / "series").exists() else "patches", "path": str(path)}
    if path.exists():
        return {"type": "mbox", "path": str(path)}
    if "@" in text:
        return {"type": "message-id", "id": text.strip("<>")}
    raise UserError(f"{text}: no such file or folder, and no message-id")


def _carry_out(
    options: Options,
    lab: Lab,
    state: SearchState | None,
    root: Path,
    question: Question | None,
    replay: Path | None = None,
) -> None:
    """Open the work tree, carry the search through, and print what it came to."""
    from kpatchlab.bisect import criterion as criteria
    from kpatchlab.bisect.drive import REPORT, Drive
    from kpatchlab.bisect.prober import Prober
    from kpatchlab.bisect.state import Ended, Searches
    from kpatchlab.cache import Cache
    from kpatchlab.host.host import Host
    from kpatchlab.run.stages import Settings

    asked = state.question if state else question
    assert asked
    criteria.check(asked.criterion, lab.scenarios)
    if asked.kernel not in lab.kernels:
        raise UserError(f"there is no kernel {asked.kernel} any more", hint=f"there are {', '.join(lab.kernels)}")
    if asked.mode:
        from kpatchlab.run.measure import measured_lab

        lab = measured_lab(lab, asked.mode)
    settings = Settings(command=shlex.join(sys.argv))
    if options.verbose:
        settings = dataclasses.replace(settings, verbose=lambda text: click.echo(f"+ {text}", err=True))
    host = Host(Cache(), lab.mirror, lab.qemu)
    recipe = _recipe(lab, asked)
    with (
        progress_for(to_stderr=False) as progress,
        interruptible(settings),
        _space(asked, recipe, _context(lab, host, settings)) as (space, history, asked),
    ):
        if state is None:
            state, folder = Searches(root.parent).new(asked)
            if replay:
                _replay(state, space, history, replay)
        else:
            # Read again, now that nobody else has the work tree: another lab may have gone on with it until now.
            folder, state = root, Searches(root.parent.parent).open(state.id)[0]
        _pin(state, folder, recipe, space.ctx)
        progress.note(f"search {state.id}: {asked.criterion}; {len(history.commits)} commits")
        if space.origin and space.origin.git("status", "--porcelain", "-uno", check=False).stdout.strip():
            progress.note(f"uncommitted changes in {space.origin.path} are no part of the search")
        own = _trimmed(lab, state, asked, recipe, space, folder, progress)
        prober = Prober(
            lab, host, space, own, asked.criterion, folder / "runs", progress, settings, asked.placement,
            state.kernels,
        )  # fmt: skip
        drive = Drive(state, folder, history, prober, progress, settings.cancel, recipe)
        try:
            drive.go()
        except LabError:
            if settings.cancel.is_set():
                click.echo(f"stopped; to go on: {options.again(f'bisect --resume {state.id}')}", err=True)
                sys.exit(130)
            raise
    click.echo("")
    click.echo((folder / REPORT).read_text(), nl=False)
    click.echo(f"\n{folder}: {', '.join(sorted(p.name for p in folder.iterdir() if p.is_file()))}")
    sys.exit(0 if state.ended is Ended.FOUND else 1)


def _pin(state: SearchState, folder: Path, recipe: KernelRecipe, ctx: BuildContext) -> None:
    """Keep what decides about the configuration of all steps.

    Raises:
        UserError: it is not what the search began with.
    """
    from kpatchlab.bisect.state import save
    from kpatchlab.build import config
    from kpatchlab.cache import content_key

    now = content_key(config.key(config.asked_symbols(recipe, ctx)))
    if state.config and state.config != now:
        raise UserError(
            f"the configuration of kernel {state.question.kernel} is not the one that the search began with",
            hint="undo the change of its recipe or fragments, or start a new search",
        )
    state.config = now
    save(state, folder)


def _trimmed(
    lab: Lab,
    state: SearchState,
    asked: Question,
    recipe: KernelRecipe,
    space: Workspace,
    folder: Path,
    progress: Progress,
) -> KernelRecipe:
    """Return the recipe without the modules that the search does without; what these are is decided once."""
    from kpatchlab.bisect import trim
    from kpatchlab.bisect.state import save

    if state.trimmed is None and not state.told:
        state.trimmed = () if asked.whole else trim.trimmed(lab, asked.criterion, recipe, space, asked.bad)
        save(state, folder)
    if state.trimmed:
        progress.note(f"without {len(state.trimmed)} symbols of modules that it cannot need; --whole-config keeps them")
    return trim.without(recipe, state.trimmed or ())


def _context(lab: Lab, host: Host, settings: Settings) -> BuildContext:
    from kpatchlab.build import BuildContext

    jobs = host.build_jobs(lab.limits.build_jobs)
    return BuildContext(host.cache, lab.root, lab.mirror, jobs, cancel=settings.cancel, verbose=settings.verbose)


def _recipe(lab: Lab, asked: Question) -> KernelRecipe:
    """Return the kernel's recipe with the series that is searched in the place of its own, if there is one."""
    from kpatchlab.lab.recipes import DebianImage, KernelRecipe

    recipe = lab.kernels[asked.kernel]
    if isinstance(recipe.source, DebianImage):
        raise UserError(
            f"kernel {asked.kernel} is one that Debian built: it has no configuration to build others with",
            hint="--kernel NAME names one that is built here",
        )
    if not asked.series:
        return recipe
    return KernelRecipe.model_validate(recipe.model_dump() | {"series": list(asked.series)})


@contextlib.contextmanager
def _space(
    asked: Question, recipe: KernelRecipe, ctx: BuildContext
) -> Iterator[tuple[Workspace, CommitRange, Question]]:
    """Open the work tree; yields it with the range and the question, its ends now commit ids."""
    from kpatchlab.bisect import workspace

    if asked.repository:
        with workspace.of_repository(Path(asked.repository), ctx) as space:
            good, bad = asked.good or space.commit(asked.good_name), asked.bad or space.commit(asked.bad_name)
            yield space, space.range(good, bad, asked.paths), dataclasses.replace(asked, good=good, bad=bad)
        return
    last = _number(asked.bad_name) if asked.bad_name else None
    with workspace.of_series(recipe, ctx, last) as (space, commits):
        first = _number(asked.good_name)
        if (last is not None and last >= len(commits)) or first >= len(commits):
            raise UserError(f"the series has {len(commits) - 1} patches", hint="--good and --bad are numbers of them")
        good, bad = commits[first], commits[-1 if last is None else last]
        named = dataclasses.replace(
            asked, good=asked.good or good, bad=asked.bad or bad, good_name=f"patch {first}",
            bad_name=f"patch {len(commits) - 1 if last is None else last}",
        )  # fmt: skip
        if (named.good, named.bad) != (good, bad):
            raise UserError("the series is not the one that the search began with", hint="start a new search")
        yield space, space.range(good, bad, asked.paths), named


def _number(text: str) -> int:
    word = text.removeprefix("patch ")
    if not word.isdecimal():
        raise UserError(f"{text!r} is not the number of a patch", hint="0 is the base, 1 the first patch")
    return int(word)


def _replay(state: SearchState, space: Workspace, history: CommitRange, path: Path) -> None:
    """Take what a log of git's says of commits inside the range as told."""
    from kpatchlab.bisect import gitlog
    from kpatchlab.bisect.loop import Mark, Phase, ProbeResult

    replayed = gitlog.read(path.read_text(), str(path))
    told = []
    for verdict in (Mark.GOOD, Mark.BAD, Mark.SKIP):
        for name in getattr(replayed, verdict.value):
            commit = space.commit(name)
            if commit in history.contains and commit not in {history.good, history.bad}:
                told.append(ProbeResult(commit, verdict, Phase.SEARCH, f"from {path.name}"))
    state.told = tuple(told)


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
def bisect_step(options: Options, /, tree: Path, variant: str | None, **given: Any) -> None:
    """Judge the tree as it is checked out now, for `git bisect run`: exit 0 good, 1 bad, 125 skip."""
    from kpatchlab.bisect import criterion as criteria
    from kpatchlab.bisect.step import judge_tree
    from kpatchlab.cache import Cache
    from kpatchlab.host.host import Host
    from kpatchlab.run.stages import Settings

    lab = load_lab(options, variant=variant)
    criterion = criterion_of(given)
    criteria.check(criterion, lab.scenarios)
    if criterion.kind == "metric":
        raise UserError("a figure needs the good end beside it", hint="kpatchlab bisect --metric does that")
    kernel = kernels_of(lab, (given["kernel"] or lab.base,), variant)[0]
    if kernel not in lab.kernels:
        raise UserError(f"there is no kernel {kernel}", hint=f"there are {', '.join(lab.kernels)}")
    settings = Settings(command=shlex.join(sys.argv))
    host = Host(Cache(), lab.mirror, lab.qemu)
    with progress_for(to_stderr=True) as progress, interruptible(settings):
        judged = judge_tree(
            lab, host, tree.absolute(), lab.kernels[kernel], criterion, given["runs"] or 1, progress, settings
        )
    click.echo(f"{judged.verdict.value}: {judged.reason}")
    sys.exit(ABORT + 2 if settings.cancel.is_set() else {"good": 0, "bad": 1}.get(judged.verdict.value, SKIPPED))
