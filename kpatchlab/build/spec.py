"""A recipe with all that decides about its kernel, read once: source, series, configuration, compiler, content key."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kpatchlab.build import config, confined, patchset, source, toolchain
from kpatchlab.build.context import BuildContext
from kpatchlab.build.origin import Source
from kpatchlab.cache import content_key
from kpatchlab.lab.recipes import KernelRecipe
from kpatchlab.model import ConfigMiss

VERSION = 1
"""Part of every key: raise it when the same inputs are to give another artifact."""
COVERAGE_VERSION = 1
"""The same, for kernels that are built for gcov."""
IN_PLACE_VERSION = 2
"""The same, for kernels of trees that are built from where they lie: before it their System.map was the next one's."""
WORK_TREES = "bisect"
"""The cache's kind of work trees that are the lab's own, and are built from where they lie."""
STRANGERS = "series"
"""A file beside such a tree whose commits are a series, and not those of the user's repository."""


def author_of_tree(tree: Path) -> str:
    """Return who wrote what lies in a tree, see `KernelSpec.author`."""
    return content_key(str(tree)) if (tree.parent / STRANGERS).exists() else confined.TRUSTED


@dataclass(slots=True)
class KernelSpec:
    """A recipe with all that its key needs, read once.

    Attributes:
        key: of the kernel.
        base_kernel: of the kernel without the series; the same where there is none.
    """

    recipe: KernelRecipe
    source: Source[Any]
    patches: list[patchset.Patch]
    asked: dict[str, config.Asked]
    compiler: str
    key: str = ""
    base_kernel: str = ""
    misses: tuple[ConfigMiss, ...] = field(default=())

    @property
    def prebuilt(self) -> bool:
        """Whether a distribution built it."""
        return self.recipe.is_prebuilt

    @property
    def base_key(self) -> str:
        """Content key of the tree without the series."""
        return self.source.tree_key

    @property
    def author(self) -> str:
        """Who wrote the code, as `confined.build_fence` takes it: a base is trusted, a series is not."""
        if key := patchset.series_key(self.patches):
            return key
        own = self.tree_in_place()
        return author_of_tree(own) if own else confined.TRUSTED

    def tree_in_place(self) -> Path | None:
        """Return a search's work tree, where it is what is built."""
        if not isinstance(self.source, source.Dir):
            return None
        tree = self.source.path()
        return tree if tree.is_relative_to(self.source.ctx.cache.root / WORK_TREES) else None

    @property
    def label(self) -> str:
        """What the kernel is made of, for people."""
        words = self.source.describe()
        return words + (f" + {len(self.patches)} patches" if self.patches else "")

    @property
    def in_place(self) -> bool:
        """Whether objects of earlier builds lie in the tree: a search's, or the lab's copy of the user's own."""
        return isinstance(self.source, source.Dir) and not self.patches


def read_spec(recipe: KernelRecipe, ctx: BuildContext, origin: Source[Any] | None = None) -> KernelSpec:
    """Read a recipe's series and configuration, and ask its source and its compiler; nothing is unpacked.

    Args:
        origin: the recipe's source where it was asked for its tree already; a server is not asked twice.

    Raises:
        UserError, HostError: as `build_kernel`.
    """
    ctx = ctx.compiling(recipe)
    origin, prebuilt = origin or source.source_of(recipe.source, ctx), recipe.is_prebuilt
    parts: list[object] = [VERSION, ctx.arch, origin.tree_key]
    if prebuilt:
        key = content_key(parts)
        return KernelSpec(recipe, origin, [], {}, "", key, key)
    spec = KernelSpec(
        recipe, origin, patchset.read_series(recipe.series, ctx), config.asked_symbols(recipe, ctx),
        toolchain.described(recipe, ctx),
    )  # fmt: skip
    more: list[object] = [config.key(spec.asked), spec.compiler]
    more += ["coverage", COVERAGE_VERSION] if recipe.coverage else []
    more += ["in place", IN_PLACE_VERSION] if spec.in_place else []
    spec.key = content_key([*parts, patchset.series_key(spec.patches), *more])
    spec.base_kernel = content_key([*parts, patchset.series_key([]), *more])
    return spec
