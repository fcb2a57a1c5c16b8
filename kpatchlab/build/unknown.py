"""Symbols that fragments ask for and no kernel has: symbols come and go, and a build goes on without."""

from __future__ import annotations

from collections.abc import Mapping

from kpatchlab.build import config
from kpatchlab.build.context import BuildContext
from kpatchlab.build.kconfig import NO_SUCH, Kconfig
from kpatchlab.errors import LabError
from kpatchlab.lab.recipes import DirSource, KernelRecipe
from kpatchlab.model import BuildResult


def unknown_symbols(
    kernels: Mapping[str, KernelRecipe], built: Mapping[str, BuildResult], ctx: BuildContext
) -> list[str]:
    """Return a line for each symbol that a fragment sets and no kernel of the lab that takes the fragment has.

    Nothing is fetched or built: of a kernel that is no folder here, and was not built before, nobody can tell, and then
    nothing is said of what it asks for.

    Args:
        kernels: name -> recipe.
        built: name -> what came of its last build.
    """
    lacked: dict[tuple[str, str], list[bool]] = {}  # (place, symbol), an entry for each kernel
    for name, recipe in kernels.items():
        try:
            asked = {} if recipe.is_prebuilt else config.asked_symbols(recipe, ctx)
        except LabError:  # a fragment that is not there has been told of
            continue
        lacking = _lacking(recipe, asked, built.get(name), ctx) if asked else frozenset()
        for symbol, want in asked.items():
            if want.value != "n":
                where = want.where if ":" in want.where else f"{name}.yaml: {want.where}"
                lacked.setdefault((where, symbol), []).append(symbol in lacking)
    told = (place for place, each in lacked.items() if all(each))
    return [f"kernels/{where}: no kernel of this lab has CONFIG_{symbol}" for where, symbol in told]


def _lacking(
    recipe: KernelRecipe, asked: Mapping[str, config.Asked], built: BuildResult | None, ctx: BuildContext
) -> frozenset[str]:
    """Return what of the asked a kernel's tree is known not to have."""
    if isinstance(recipe.source, DirSource):
        there = Kconfig(ctx.path(recipe.source.path), config.source_arch(recipe.built_for)).symbols
        return frozenset(asked) - there.keys() if there else frozenset()
    misses = built.config_misses if built else ()
    return frozenset(miss.symbol for miss in misses if miss.reason == NO_SUCH)
