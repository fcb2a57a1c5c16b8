"""Lanes: each branch with each series, plain and in each variant; what of them is new tonight.

A lane is pinned before anything runs: every branch becomes the commit that it names now, so that a night that is
killed goes on with the same trees, and a branch that moves meanwhile is the next night's.
"""

from __future__ import annotations

import dataclasses
import itertools
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from kpatchlab.build import BuildContext, git, kernel_key
from kpatchlab.cache import content_key, tree_digest
from kpatchlab.errors import HostError, LabError, UserError
from kpatchlab.history.culprit import Where
from kpatchlab.history.nights import LanePlan, Trouble
from kpatchlab.lab.file import FILE
from kpatchlab.lab.load import Lab
from kpatchlab.lab.recipes import GitSeries, GitSource, KernelRecipe, MessageIdSeries
from kpatchlab.urls import shown
from kpatchlab.variants import debug

DEFAULT = "nightly"
"""Name of the lane of a lab that has only one; in other files than lab.yaml, their own name."""


@dataclass(frozen=True, slots=True)
class Lane:
    """One thing that is run every night; `name` says which branch, series and variant.

    Attributes:
        home: the lab as its file has it, in the same variant: what the other verbs know.
    """

    name: str
    lab: Lab
    home: Lab
    variant: str = ""


@dataclass(frozen=True, slots=True)
class Pinned:
    """A lane with what fixes its trees, see `again`."""

    lane: Lane
    plan: LanePlan


def lanes(lab: Lab) -> Iterator[Lane]:
    """Yield the lanes of a lab; of several labs in one folder, which share their results, no two are called alike."""
    wanted = lab.nightly
    own = "" if lab.path.name == FILE else lab.path.stem
    if wanted.scenarios:
        lab = dataclasses.replace(lab, selected=lab.choose(wanted.scenarios))
    for branch, series, variant in itertools.product(
        wanted.branches or [""], wanted.series or [""], ("", *wanted.variants)
    ):
        kernels = dict(lab.kernels)
        for kernel, revision in wanted.branches.get(branch, {}).items():
            source = kernels[kernel].source.model_copy(update={"revision": revision})
            kernels[kernel] = kernels[kernel].model_copy(update={"source": source})
        for kernel, items in wanted.series.get(series, {}).items():
            kernels[kernel] = kernels[kernel].model_copy(update={"series": items})
        made = dataclasses.replace(lab, kernels=kernels)
        name = "+".join(word for word in (own, branch, series, variant) if word) or DEFAULT
        both = (made, lab) if not variant else (debug.variant(made, variant), debug.variant(lab, variant))
        yield Lane(name, *both, variant)


class Heads:
    """Where branches are, each asked for once, and a server that does not answer as well."""

    def __init__(self, context: BuildContext) -> None:
        self._context = context
        self._known: dict[tuple[str, str], str | LabError] = {}
        self._dead: dict[str, HostError] = {}

    def commit(self, place: GitSource | GitSeries, revision: str) -> str:
        """Return the commit that a revision is now.

        Raises:
            UserError: there is no such revision.
            HostError: the server cannot be reached.
        """
        key = (place.url or str(self._context.path(place.path)), revision)
        if key not in self._known:
            try:
                self._known[key] = self._dead.get(key[0]) or _commit(place, revision, self._context)
            except HostError as error:
                self._known[key] = self._dead[key[0]] = error
            except LabError as error:
                self._known[key] = error
        found = self._known[key]
        if isinstance(found, LabError):
            raise found
        return found


def pin(lane: Lane, context: BuildContext, known: Heads) -> Pinned:
    """Ask where every branch is now; nothing is written.

    Raises:
        UserError: there is no such revision.
        HostError: a server cannot be reached.
    """
    heads: dict[str, dict[str, str]] = {}
    ranges: dict[str, tuple[str, ...]] = {}
    for name, recipe in lane.lab.kernels.items():
        source = recipe.source
        head = {"source": str(source.type)}
        if isinstance(source, GitSource):
            where = shown(source.url) or str(context.path(source.path))
            head = {"source": where, "revision": source.revision, "commit": known.commit(source, source.revision)}
        heads[name] = head
        ranges[name] = tuple(
            "..".join(known.commit(item, end) for end in item.range.split("..", 1))
            if isinstance(item, GitSeries)
            else ""
            for item in recipe.series
        )
    fixed = again(lane, LanePlan(lane.name, heads, ranges))
    for name, recipe in fixed.lab.kernels.items():
        heads[name] |= {"key": kernel_key(recipe, context), "variant": lane.variant}
        if recipe.series:
            patches = _patches(lane, name, recipe, context)
            heads[name] |= (
                {"patches": shlex.join(patches.words)}
                if patches
                else {"no_patches": NO_PATCHES.format(name, lane.name)}
            )
    parts = [lane.lab.root / part for part in ("scenarios", "rootfs", "suites")]
    files = [tree_digest(part) for part in parts if part.is_dir()]
    keys = {name: head["key"] for name, head in heads.items()}
    chosen = [lane.name, lane.lab.base, lane.lab.selected, lane.lab.repeat, repr(lane.lab.matrix)]
    return Pinned(lane, LanePlan(lane.name, heads, ranges, content_key([keys, files, chosen])))


NO_PATCHES = "the series of {} in lane {} is no kernel's of lab.yaml: a kernel that has it there can be searched"


def _patches(lane: Lane, kernel: str, fixed: KernelRecipe, context: BuildContext) -> Where | None:
    """Return where `bisect` searches the patches of a kernel's series; None where it has no words for them.

    Args:
        fixed: the kernel's recipe with its ranges pinned.
    """
    own, home = lane.lab.kernels[kernel], lane.home.kernels[kernel]
    item = fixed.series[0]
    if own.series == home.series and own.source == home.source:
        return Where(good="0")
    if len(fixed.series) > 1:
        return None
    if isinstance(item, GitSeries):
        good, bad = item.range.split("..", 1)
        return Where(tree=str(context.path(item.path)), good=good[:12], bad=bad[:12]) if item.path else None
    if own.source != home.source:
        return None
    if isinstance(item, MessageIdSeries):
        return Where(series=item.id)
    return Where(series=str(context.path(item.on_host))) if item.on_host else None


def again(lane: Lane, plan: LanePlan) -> Lane:
    """Return the lane with the trees that a plan fixed."""
    kernels = {}
    for name, recipe in lane.lab.kernels.items():
        head, ranges = plan.heads.get(name, {}), plan.ranges.get(name, ())
        source = recipe.source
        if isinstance(source, GitSource) and head.get("commit"):
            source = source.model_copy(update={"revision": head["commit"]})
        series = tuple(
            item.model_copy(update={"range": ranges[index]}) if index < len(ranges) and ranges[index] else item
            for index, item in enumerate(recipe.series)
        )
        kernels[name] = recipe.model_copy(update={"source": source, "series": series})
    return dataclasses.replace(lane, lab=dataclasses.replace(lane.lab, kernels=kernels))


def look(lab: Lab, context: BuildContext) -> tuple[list[Pinned], list[Trouble]]:
    """Pin every lane; one whose trees cannot be had is no reason not to run the others.

    Every branch is asked for once, so that it is one commit in all lanes, and a dead server is waited for once.
    """
    found, troubles = [], []
    heads = Heads(context)
    for lane in lanes(lab):
        try:
            found.append(pin(lane, context, heads))
        except LabError as error:
            troubles.append(Trouble(lane.name, error.message, error.hint, error.details))
    return found, troubles


def _commit(place: GitSource | GitSeries, revision: str, context: BuildContext) -> str:
    if place.url:
        return git.resolve_url(git.open_url(place.url, context), revision, offline=False)
    repository = git.open_local(context.path(place.path))
    commit = repository.commit(revision)
    if not commit:
        raise UserError(f"{repository.path} has no revision {revision!r}", hint="was the branch renamed?")
    return commit


def forced(old: Mapping[str, str], new: Mapping[str, str], context: BuildContext) -> bool:
    """Whether a branch was pushed over: the old head is no ancestor of the new one, as far as that is known here."""
    if (
        not old.get("commit")
        or not new.get("commit")
        or old["commit"] == new["commit"]
        or old.get("source") != new["source"]
    ):
        return False
    place = context.path(new["source"])
    if not place.is_dir():
        return False
    return not git.open_local(place).is_in(old["commit"], new["commit"])


def fork(old: Mapping[str, str], new: Mapping[str, str], context: BuildContext) -> str:
    """Return the last commit that a branch has in common with what it was before it was pushed over; "" if unknown."""
    repository = git.open_local(context.path(new["source"]))
    result = repository.git("merge-base", old["commit"], new["commit"], check=False)
    return result.stdout.strip() if result.status == 0 else ""
