"""Which systems of a series the lab's kernels can run: systems x kernels, from what is built. Runs nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kpatchlab.build import BuildContext, cached_kernel
from kpatchlab.build.config import asked_symbols
from kpatchlab.cache import Cache
from kpatchlab.errors import LabError
from kpatchlab.lab.load import Lab
from kpatchlab.lab.recipes import KernelRecipe
from kpatchlab.lab.scenario import Scenario
from kpatchlab.model import BuildResult
from kpatchlab.plan.needs import lacking_config, refusal

Facts = BuildResult | frozenset[str]
"""A kernel that is there, or the symbols that the recipe of another one switches off."""


@dataclass(frozen=True, slots=True)
class Able:
    """Whether one kernel can run a system's scenarios.

    Attributes:
        reason: why not; "" where all can run, and why some cannot where only some can.
        built: whether the kernel is there to be looked at; otherwise its recipe was.
        known: whether that is so for sure: the kernel, or an image of it that can run all, is there.
    """

    kernel: str
    runnable: bool
    reason: str
    built: bool
    known: bool


@dataclass(frozen=True, slots=True)
class SystemRow:
    """One system with its scenarios and what the kernels make of them, in the lab's order."""

    system: str
    title: str
    scenarios: tuple[str, ...]
    kernels: tuple[Able, ...]

    @property
    def runnable(self) -> bool:
        """Whether every kernel can run at least one of its scenarios."""
        return bool(self.scenarios) and all(able.runnable for able in self.kernels)

    @property
    def known(self) -> bool:
        """Whether `runnable` is so for sure; where it says no, it is."""
        return not self.runnable or all(able.known for able in self.kernels)

    @property
    def reason(self) -> str:
        """Why not, or why not all of it; or why that is not known."""
        if not self.scenarios:
            return "no scenario tests it"
        found: dict[str, list[str]] = {}
        for able in self.kernels:
            if reason := able.reason or ("" if able.known else "is not built yet"):
                found.setdefault(reason, []).append(able.kernel)
        return "; ".join(f"{', '.join(kernels)}: {reason}" for reason, kernels in found.items())


def survey(lab: Lab, cache: Cache, kernels: Iterable[str]) -> list[SystemRow]:
    """Return every system of a lab, with what these of its kernels can run of it; nothing is built or booted."""
    context = BuildContext.of(lab, cache)
    seen = {name: _facts(lab.kernels[name], name, context) for name in kernels}
    images = {name: _facts(lab.images[name], name, context) for name in seen if name in lab.images}
    rows = []
    for name, system in lab.systems.items():
        scenarios = [scenario for _, scenario in sorted(lab.scenarios.items()) if name in scenario.systems]
        able = tuple(_able(kernel, facts, images.get(kernel), scenarios, cache) for kernel, facts in seen.items())
        rows.append(SystemRow(name, system.title, tuple(scenario.name for scenario in scenarios), able))
    return rows


def _facts(recipe: KernelRecipe, name: str, context: BuildContext) -> Facts:
    """Return the kernel where it is built, and else the symbols that its recipe switches off."""
    try:
        if built := cached_kernel(recipe, name, context):
            return built
        asked = {} if recipe.is_prebuilt else asked_symbols(recipe, context)
    except LabError:  # a source that needs the network to be told, a fragment that is not there
        return frozenset()
    return frozenset(symbol for symbol, want in asked.items() if want.value == "n")


def _able(kernel: str, facts: Facts, image: Facts | None, scenarios: Sequence[Scenario], cache: Cache) -> Able:
    built = isinstance(facts, BuildResult)
    rest = [one for one in scenarios if not (isinstance(image, BuildResult) and not _reason(image, one, cache))]
    refused = {one.name: reason for one in rest if (reason := _reason(facts, one, cache))}
    reason = "; ".join(why if len(scenarios) == 1 else f"{name} {why}" for name, why in refused.items())
    return Able(kernel, len(refused) < len(scenarios), reason, built, built or len(refused) == len(rest))


def _reason(facts: Facts, scenario: Scenario, cache: Cache) -> str:
    if isinstance(facts, BuildResult):
        found = refusal(scenario.needs, facts, cache.path("kernel", facts.key))
        return found[1] if found else ""
    off = lacking_config(scenario.needs, lambda symbol: symbol not in facts)
    return f"is asked for without {', '.join(off)}" if off else ""
