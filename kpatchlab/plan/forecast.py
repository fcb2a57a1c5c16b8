"""Which parts of a plan are in the cache, and how long the rest will take, going by earlier runs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kpatchlab.build import BuildContext, cached_kernel, kernel_key
from kpatchlab.build.roots import root_key
from kpatchlab.cache import Cache
from kpatchlab.errors import LabError
from kpatchlab.lab.load import Lab
from kpatchlab.model import BuildResult, Run, image_of
from kpatchlab.plan.images import chosen, fitting, placed, with_images
from kpatchlab.plan.jobs import Estimate, Plan, estimate
from kpatchlab.store.store import Store


@dataclass(frozen=True, slots=True)
class Forecast:
    """A plan's estimate, with the ids of the steps that are cached."""

    estimate: Estimate
    cached: frozenset[str]


def last_runs(store: Store, runs: int = 5, among: Sequence[str] = ()) -> Iterator[Run]:
    """Yield the last runs of a store, the newest first; a damaged one is no reason not to plan, and is left out.

    Args:
        among: only these runs, the newest first; none: the last ones of the store.
    """
    for name in _last(store, runs, among):
        with contextlib.suppress(LabError):
            yield store.load(name)[0]


def _last(store: Store, runs: int, among: Sequence[str] = ()) -> list[str]:
    there = set(store.ids())
    return ([name for name in among if name in there] or sorted(there, reverse=True))[:runs]


def history(store: Store, runs: int = 5, among: Sequence[str] = ()) -> dict[str, float]:
    """Return the seconds that builds and jobs of the last runs took, by step and job id; the newest word counts.

    Args:
        among: as in `last_runs`.
    """
    found: dict[str, float] = {}
    for name in _last(store, runs, among):
        with contextlib.suppress(LabError):  # a damaged one, as in `last_runs`
            builds = [build for build in store.builds(name) if not build.cached and build.duration_s > 1]
            found = store.seconds(name) | {f"kernel:{build.kernel}": build.duration_s for build in builds} | found
    return found


def last_builds(lab: Lab, runs: int = 5) -> dict[str, BuildResult]:
    """Return what came of each kernel's last build in the last runs of a lab, by name."""
    store = Store(lab.results)
    found: dict[str, BuildResult] = {}
    for name in _last(store, runs):
        with contextlib.suppress(LabError):  # a damaged one, as in `last_runs`
            for build in reversed(store.builds(name)):
                found.setdefault(build.kernel, build)
    return found


def foreseen(lab: Lab, plan: Plan, cache: Cache) -> Plan:
    """Return the plan with the images that a run of it takes, as far as that is known here.

    What an image can run is read from the image: as long as one is not in the cache, all jobs stay on compiled kernels.
    """
    context = BuildContext.of(lab, cache)
    made: dict[str, BuildResult] = {}
    for name, recipe in lab.images.items():
        with contextlib.suppress(LabError):
            if found := cached_kernel(recipe, name, context):
                made[image_of(name)] = found
    whole = with_images(lab, plan)
    return placed(whole, chosen(lab, plan, fitting(lab, made, cache))) if len(made) == len(lab.images) else whole


def forecast(lab: Lab, plan: Plan, cache: Cache) -> Forecast:
    """Return what a plan takes here; a source whose key cannot be told without the network counts as not cached."""
    context = BuildContext.of(lab, cache)
    keys = {step.id: root_key(lab.rootfs_recipes[step.recipe], lab.root, step.arch) for step in plan.images}
    cached = {name for name, key in keys.items() if cache.has("root", key)}
    for kernel in plan.kernels:
        try:
            if cache.has("kernel", kernel_key(kernel.recipe, context)):
                cached.add(kernel.id)
        except LabError:
            continue
    guests = len(os.sched_getaffinity(0)) if lab.limits.guests == "auto" else lab.limits.guests
    store = Store(lab.results)
    return Forecast(estimate(plan, history(store), cached, guests=guests), frozenset(cached))
