"""The header of a stored run: its kernels, systems, patches and mails."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from kpatchlab import maintainers
from kpatchlab.build import BuildContext
from kpatchlab.build.roots import root_key
from kpatchlab.build.thread import thread_of
from kpatchlab.cache import Cache, content_key, file_digest
from kpatchlab.lab.load import Lab
from kpatchlab.lab.scenario import own_files
from kpatchlab.model import Checkout, KernelFacts, PatchFacts, Run, SystemFacts, Thread, image_of
from kpatchlab.plan.jobs import Plan
from kpatchlab.report.digest import concerned_files
from kpatchlab.store.run_dir import RunDir


def of_kernels(lab: Lab, plan: Plan) -> tuple[KernelFacts, ...]:
    """Return what a reader of a run must know of its kernels."""
    used = {kernel for job in plan.jobs for kernel in job.placement.values()}
    found = [
        KernelFacts(name, "base" if name == plan.base else "", recipe.description)
        for name, recipe in lab.kernels.items()
        if name in used
    ]
    images = {image_of(name) for name in lab.images}
    found += [
        KernelFacts(step.name, "", step.recipe.description, against=image_of(plan.base))
        for step in plan.kernels
        if step.name in images
    ]
    return tuple(found)


def of_systems(lab: Lab) -> tuple[SystemFacts, ...]:
    """Return the lab's systems with the scenarios of each, whether this run has them or not."""
    return tuple(
        SystemFacts(name, system.title, tuple(s for s in sorted(lab.scenarios) if name in lab.scenarios[s].systems))
        for name, system in lab.systems.items()
    )


def of_patches(before: Run, now: Mapping[str, tuple[PatchFacts, ...]]) -> tuple[PatchFacts, ...]:
    """Return the patches of all kernels with a series; those of kernels that were done in an earlier part stay.

    Args:
        now: kernel -> patches, of the kernels that were looked at in this part of the run.
    """
    earlier = tuple(patch for patch in before.patches if patch.kernel not in now)
    return earlier + tuple(patch for patches in now.values() for patch in patches)


def of_threads(plan: Plan, context: Callable[[str], BuildContext]) -> tuple[Thread, ...]:
    """Return the mails that the kernels' series came by, for those that came by mail."""
    recipes = {step.name: step.recipe for step in plan.kernels}
    found = [thread_of(name, recipe.series, context(name)) for name, recipe in recipes.items() if recipe.series]
    return tuple(thread for thread in found if thread)


def of_checkouts(now: Mapping[str, tuple[Checkout, Sequence[bytes]]], run_dir: RunDir) -> tuple[Checkout, ...]:
    """Return what kernels were made of, where others can name it, and put their patches into the run's folder.

    Args:
        now: kernel -> checkout and patches, of the kernels that were looked at in this part of the run; those of the
            others stay as they were.
    """
    found = {one.kernel: one for one in run_dir.header.checkouts}
    for kernel, (one, files) in now.items():
        names = tuple(f"patches/{kernel}/{number:04d}.patch.txt" for number in range(1, len(files) + 1))
        for name, data in zip(names, files, strict=True):
            run_dir.write(name, data)
        found[kernel] = replace(one, patches=names)
    return tuple(found.values())


def keep_maintainers(run: Run, run_dir: RunDir, cache: Cache) -> None:
    """Put the parts of the tree's MAINTAINERS that the run is about into its folder: the cache is pruned, runs stay."""
    for build in reversed(run.builds):
        path = cache.path("kernel", build.key) / maintainers.NAME
        if build.key and path.exists():
            sections = maintainers.concerned(maintainers.parse(path.read_bytes()), concerned_files(run))
            run_dir.write(maintainers.NAME, maintainers.written(sections))
            return


def of_contents(lab: Lab, plan: Plan) -> dict[str, str]:
    """Return scenario -> key of what its jobs are made of beside kernels: its files, the library, root and machine."""
    library = _files(lab.root / "scenarios/lib")
    return {
        job.scenario: content_key(
            _files(lab.scenario(job.scenario).folder),
            library,
            *(root_key(lab.rootfs_recipes[root.recipe], lab.root, root.arch) for root in job.roots),
            lab.machines[job.machine].model_dump(mode="json") | {"arch": "+".join(root.arch for root in job.roots)},
        )
        for job in {job.scenario: job for job in plan.jobs}.values()
    }


def _files(folder: Path) -> list[tuple[str, str]]:
    return [(name, file_digest(path)) for name, path in own_files(folder)]
