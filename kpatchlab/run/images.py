"""A run's images: they come first, and what they have decides which scenarios run on them, see `plan.images`."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import replace

from kpatchlab.build.trim import Wanted
from kpatchlab.cache import Cache
from kpatchlab.errors import LabError, told
from kpatchlab.lab.load import Lab
from kpatchlab.model import BuildResult, Outcome
from kpatchlab.plan.images import chosen, fitting, placed, with_images
from kpatchlab.plan.jobs import Plan, make_plan
from kpatchlab.run.stages import Stages


def first(lab: Lab, plan: Plan) -> Plan:
    """Return a plan's images and roots alone, which begin before it is known what runs on images."""
    images = tuple(step for step in with_images(lab, plan).kernels if step not in plan.kernels)
    return replace(plan, kernels=images, jobs=())


def place(
    lab: Lab, plan: Plan, stages: Stages, cache: Cache, before: Mapping[str, bool] | None = None
) -> tuple[Plan, Wanted | None]:
    """Wait for the images that `stages` has, and return the plan with the builds on which its jobs run.

    Args:
        before: scenario -> whether jobs of it that are done ran on images: the others do as they did.

    Returns:
        Also what the kernels have to have that are compiled beside images; None: all of it.
    """
    fits = fitting(lab, {name: _came(future) for name, future in stages.kernels.items()}, cache)
    found = placed(with_images(lab, plan), chosen(lab, plan, fits, before))
    # One kernel for all that this lab's images cannot run, whichever of it is run now: the next run finds it built.
    kernels = {kernel for job in plan.jobs for kernel in job.placement.values()}
    whole = make_plan(lab, choice=("*",), kernels=tuple(kernels), repeat=1)
    served = chosen(lab, whole, fits)
    lacking = {job.scenario for job in whole.jobs} - served
    enough = served and {job.scenario for job in found.jobs if not job.images} <= lacking
    return found, Wanted.by(lab, lacking) if enough else None


def _came(image: Future[BuildResult]) -> BuildResult:
    """Return an image; one that could not be had serves no scenario, and these are compiled for."""
    try:
        return image.result()
    except LabError as error:
        return BuildResult("", Outcome.INFRA, error=told(error))
