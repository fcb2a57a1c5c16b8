"""Which scenarios run on the images of their kernels, so that they need not wait for a compiler.

Pure, but for reading the images.

An image is what a distribution built of the source that a kernel is compiled from, with another configuration. So an
image is never compared with a compiled kernel: a scenario runs on images where every kernel of all its columns has one
on which it can run, and else on compiled kernels alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

from kpatchlab.cache import Cache
from kpatchlab.lab.load import Lab
from kpatchlab.model import BuildResult, Outcome, image_of
from kpatchlab.plan.jobs import KernelStep, Plan
from kpatchlab.plan.needs import refusal


def with_images(lab: Lab, plan: Plan) -> Plan:
    """Return the plan with the images on which its scenarios may run among its kernels, first; no job is changed."""
    kernels = set().union(*(_kernels(plan)[name] for name in candidates(lab, plan)))
    found = [KernelStep(image_of(step.name), lab.images[step.name]) for step in plan.kernels if step.name in kernels]
    return replace(plan, kernels=(*found, *plan.kernels))


def candidates(lab: Lab, plan: Plan) -> list[str]:
    """Return the scenarios all of whose kernels have an image."""
    return [name for name, kernels in _kernels(plan).items() if kernels <= set(lab.images)]


def placed(plan: Plan, on_images: Collection[str]) -> Plan:
    """Return a plan `with_images` in which these scenarios run on images; kernels that no job runs are left out."""
    jobs = tuple(replace(job, images=job.scenario in on_images) for job in plan.jobs)
    used = {build for job in jobs for build in job.builds}
    return replace(plan, jobs=jobs, kernels=tuple(step for step in plan.kernels if step.name in used))


def chosen(
    lab: Lab, plan: Plan, fits: Callable[[str, str], bool], before: Mapping[str, bool] | None = None
) -> frozenset[str]:
    """Return the scenarios that run on images.

    Args:
        fits: (scenario, kernel) -> whether the scenario can run on this kernel's image.
        before: scenario -> whether jobs of it that are done ran on images: the others do as they did.
    """
    kernels, decided = _kernels(plan), before or {}
    return frozenset(
        name
        for name in candidates(lab, plan)
        if (decided[name] if name in decided else all(fits(name, kernel) for kernel in kernels[name]))
    )


def fitting(lab: Lab, made: Mapping[str, BuildResult], cache: Cache) -> Callable[[str, str], bool]:
    """Return what tells `chosen` whether a scenario can run on a kernel's image; on one that is not there none can.

    Args:
        made: name of an image -> what came of it.
    """

    def fits(scenario: str, kernel: str) -> bool:
        build = made.get(image_of(kernel))
        if build is None or build.outcome is not Outcome.PASS:
            return False
        return not refusal(lab.scenario(scenario).needs, build, cache.path("kernel", build.key))

    return fits


def _kernels(plan: Plan) -> dict[str, set[str]]:
    """Return scenario -> its kernels over all columns."""
    found: dict[str, set[str]] = {}
    for job in plan.jobs:
        found.setdefault(job.scenario, set()).update(job.placement.values())
    return found
