"""A search's configuration: the modules that its criterion can need, and no others.

It is made once, from the bad end, and kept for all steps, so that these differ by their commits alone.
"""

from __future__ import annotations

from kpatchlab.bisect.criterion import Criterion
from kpatchlab.bisect.workspace import Workspace
from kpatchlab.build import lies_built
from kpatchlab.build.spec import author_of_tree
from kpatchlab.build.trim import Wanted, unneeded
from kpatchlab.lab.load import Lab
from kpatchlab.lab.recipes import KernelRecipe


def trimmed(lab: Lab, criterion: Criterion, recipe: KernelRecipe, space: Workspace, bad: str) -> tuple[str, ...]:
    """Return the symbols, modules all of them, that a search does without; () where nothing is to be left out.

    That is so where any module can be what is sought; where the whole configuration lies built already, so that its
    objects cost less than a first build of fewer; and where `build.trim.unneeded` says so.
    """
    wanted = wanted_modules(lab, criterion)
    if wanted is None or lies_built(recipe, space.path, space.ctx):
        return ()
    space.checkout(bad)
    return unneeded(recipe, wanted, space.path, author_of_tree(space.path), space.ctx)


def wanted_modules(lab: Lab, criterion: Criterion) -> Wanted | None:
    """Return what a criterion needs; None: it can need any module."""
    if criterion.kind == "build" and not criterion.module:
        return None
    names = lab.choose(criterion.scenarios) if criterion.scenarios else ()
    return Wanted.by(lab, names, [criterion.module])
