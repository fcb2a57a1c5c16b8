"""Bases that are followed and do not move: a branch that nobody pushes to, a suite without news, a stale mirror."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Iterable

from kpatchlab.build.context import BuildContext
from kpatchlab.build.source import source_of
from kpatchlab.errors import LabError
from kpatchlab.lab.recipes import KernelRecipe

STILL = dt.timedelta(days=28)
"""Debian's kernels and the branches of linux.git move every week or two."""


def standing_still(recipes: Iterable[KernelRecipe], ctx: BuildContext, now: dt.datetime | None = None) -> list[str]:
    """Return a line for each base that follows something which has not moved for weeks; nothing is fetched."""
    now = now or dt.datetime.now(dt.UTC)
    return list(dict.fromkeys(line for recipe in recipes if (line := _still(recipe, ctx, now))))


def _still(recipe: KernelRecipe, ctx: BuildContext, now: dt.datetime) -> str:
    stand = None
    # What cannot be had is told where it is wanted; a committer's clock may show any number, which is no date.
    with contextlib.suppress(LabError, OSError, ValueError, OverflowError):
        stand = source_of(recipe.source, ctx.compiling(recipe)).stand()
    if stand is None:
        return ""
    said = []
    if stand.since and now - stand.since >= STILL:
        said.append(f"nothing newer for {(now - stand.since).days} days, since {stand.since:%Y-%m-%d}")
    if stand.valid_until and stand.valid_until < now:
        said.append(f"the mirror's lists were valid until {stand.valid_until:%Y-%m-%d}")
    return f"base {stand.what} has not moved: {'; '.join(said)}" if said else ""
