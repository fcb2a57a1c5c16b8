"""A search from its request to its result: opens the work tree, stores the state, carries the search out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from kpatchlab.bisect import trim, workspace
from kpatchlab.bisect.commits import CommitRange
from kpatchlab.bisect.criterion import check
from kpatchlab.bisect.drive import Drive
from kpatchlab.bisect.loop import Mark, Phase, ProbeResult
from kpatchlab.bisect.prober import Prober
from kpatchlab.bisect.request import Request, question, replayed
from kpatchlab.bisect.state import Question, Searches, SearchState, save
from kpatchlab.bisect.workspace import Workspace
from kpatchlab.build import BuildContext, config
from kpatchlab.build.trim import without
from kpatchlab.cache import content_key
from kpatchlab.errors import LabError, UserError
from kpatchlab.host.host import Host
from kpatchlab.lab.load import Lab
from kpatchlab.lab.recipes import KernelRecipe
from kpatchlab.progress import Progress
from kpatchlab.run.measure import measured_lab
from kpatchlab.run.stages import Settings


class SearchStopped(LabError):
    """A search was asked to end before it was at its end; all that it had run is kept.

    Attributes:
        search: its id, with which it can go on.
    """

    def __init__(self, search: str) -> None:
        super().__init__(f"search {search} stopped", hint=f"kpatchlab bisect --resume {search} goes on")
        self.search = search


@dataclass(frozen=True, slots=True)
class SearchSession:
    """Where searches are made.

    Attributes:
        lab: in the variant that is searched.
        settings: `cancel` ends a search early.
    """

    lab: Lab
    host: Host
    progress: Progress
    settings: Settings

    def begin(self, request: Request) -> SearchState:
        """Search for what is asked.

        Raises:
            UserError: it cannot be asked so, or the ends do not differ, which the search's state has as well.
            SearchStopped: `settings.cancel` was set meanwhile.
            LabError: the lab or the host failed; the search can go on.
        """
        asked = question(self.lab, request)
        with self._open(asked) as tree:
            state, folder = Searches(self.lab.results).new(tree.asked)
            if request.replay:
                state.told = tree.told_by(request.replay)
            return self._carry_out(state, folder, tree)

    def go_on(self, wanted: str) -> SearchState:
        """Go on with a search; one that is at its end is returned as it is.

        Raises:
            UserError: there is no such search, or what it rests on is not what it began with; else as `begin`.
        """
        searches = Searches(self.lab.results)
        state, folder = searches.open(wanted)
        with self._open(state.question) as tree:
            # Read again, now that nobody else has the work tree: another lab may have gone on with it until now.
            state, _ = searches.open(state.id)
            return self._carry_out(state, folder, tree)

    @contextlib.contextmanager
    def _open(self, asked: Question) -> Iterator[_Tree]:
        """Open the work tree that a question is about, in the lab as the question needs it."""
        lab = measured_lab(self.lab, asked.mode) if asked.mode else self.lab
        check(asked.criterion, lab.scenarios)
        if asked.kernel not in lab.kernels:
            raise UserError(f"there is no kernel {asked.kernel} any more", hint=f"there are {', '.join(lab.kernels)}")
        recipe = _recipe(lab, asked)
        jobs = self.host.build_jobs(lab.limits.build_jobs)
        context = BuildContext.of(lab, self.host.cache)
        context = replace(context, jobs=jobs, cancel=self.settings.cancel, verbose=self.settings.verbose)
        with _space(asked, recipe, context) as (space, history, named):
            yield _Tree(lab, recipe, space, history, named)

    def _carry_out(self, state: SearchState, folder: Path, tree: _Tree) -> SearchState:
        _pin(state, folder, tree)
        lab, space, asked, progress = tree.lab, tree.space, tree.asked, self.progress
        progress.note(f"search {state.id}: {asked.criterion}; {len(tree.history.commits)} commits")
        if space.origin and space.origin.git("status", "--porcelain", "-uno", check=False).stdout.strip():
            progress.note(f"uncommitted changes in {space.origin.path} are no part of the search")
        prober = Prober(
            lab=lab,
            host=self.host,
            space=space,
            recipe=self._trimmed(state, folder, tree),
            criterion=asked.criterion,
            runs_root=folder / "runs",
            progress=progress,
            settings=self.settings,
            placement=asked.placement,
            kernels=state.kernels,
        )
        drive = Drive(state, folder, tree.history, prober, progress, self.settings.cancel, tree.recipe)
        try:
            return drive.go()
        except LabError as error:
            if self.settings.cancel.is_set():
                raise SearchStopped(state.id) from error
            raise

    def _trimmed(self, state: SearchState, folder: Path, tree: _Tree) -> KernelRecipe:
        """Return the recipe without the modules that the search does without; what these are is decided once."""
        asked = tree.asked
        if state.trimmed is None and not state.told:
            found = () if asked.whole else trim.trimmed(tree.lab, asked.criterion, tree.recipe, tree.space, asked.bad)
            state.trimmed = found
            save(state, folder)
        if state.trimmed:
            count = len(state.trimmed)
            self.progress.note(f"without {count} symbols of modules that it cannot need; --whole-config keeps them")
        return without(tree.recipe, state.trimmed or ())


@dataclass(frozen=True, slots=True)
class _Tree:
    """An open work tree with what is searched in it; `asked` has commit ids as its ends."""

    lab: Lab
    recipe: KernelRecipe
    space: Workspace
    history: CommitRange
    asked: Question

    def told_by(self, path: Path) -> tuple[ProbeResult, ...]:
        """Return what a log of git's says of commits inside the range."""
        log, history = replayed(path), self.history
        said = ((Mark.GOOD, log.good), (Mark.BAD, log.bad), (Mark.SKIP, log.skip))
        commits = ((verdict, self.space.commit(name)) for verdict, names in said for name in names)
        return tuple(
            ProbeResult(commit, verdict, Phase.SEARCH, f"from {path.name}")
            for verdict, commit in commits
            if commit in history.contains and commit not in {history.good, history.bad}
        )


def _pin(state: SearchState, folder: Path, tree: _Tree) -> None:
    """Keep what decides about the configuration of all steps.

    Raises:
        UserError: it is not what the search began with.
    """
    now = content_key(config.key(config.asked_symbols(tree.recipe, tree.space.ctx)))
    if state.config and state.config != now:
        raise UserError(
            f"the configuration of kernel {state.question.kernel} is not the one that the search began with",
            hint="undo the change of its recipe or fragments, or start a new search",
        )
    state.config = now
    save(state, folder)


def _recipe(lab: Lab, asked: Question) -> KernelRecipe:
    """Return the kernel's recipe with the series that is searched in the place of its own, if there is one."""
    recipe = lab.kernels[asked.kernel]
    if recipe.is_prebuilt:
        raise UserError(
            f"kernel {asked.kernel} is built already: it has no configuration to build others with",
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
    if asked.repository:
        with workspace.of_repository(Path(asked.repository), ctx) as space:
            good, bad = asked.good or space.commit(asked.good_name), asked.bad or space.commit(asked.bad_name)
            yield space, space.range(good, bad, asked.paths), replace(asked, good=good, bad=bad)
        return
    last = _number(asked.bad_name) if asked.bad_name else None
    with workspace.of_series(recipe, ctx, last) as (space, commits):
        first = _number(asked.good_name)
        if (last is not None and last >= len(commits)) or first >= len(commits):
            raise UserError(f"the series has {len(commits) - 1} patches", hint="--good and --bad are numbers of them")
        good, bad = commits[first], commits[-1 if last is None else last]
        named = replace(
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
