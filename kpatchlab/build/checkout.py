"""What a kernel was made of, as KCIDB names it: a commit, and the hash of a set of patches.

The patches are files of the lab's own (`Patch.mail`, `Patch.data`): a mail is decoded and written anew. So the hash
tells the series of this lab's runs apart, and is not that of the mails as they were posted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from kpatchlab.build import patchset
from kpatchlab.build.context import BuildContext
from kpatchlab.build.kernel import kernel_key
from kpatchlab.build.origin import Source
from kpatchlab.lab import recipes
from kpatchlab.model import BuildResult, Checkout
from kpatchlab.urls import shown

HTTPS = "https://"


def checkout_of(
    build: BuildResult, recipe: recipes.KernelRecipe, ctx: BuildContext, origin: Source[Any]
) -> tuple[Checkout, list[bytes]] | None:
    """Return what a kernel was made of, without the names of its patches, and these as files for `git apply`.

    None where nobody else can name it: it is of no commit, its recipe leads to another kernel by now, or its patches
    are not ones for `patch -p1`.

    Args:
        origin: the source that it was built from; no server is asked where its branch is by now.

    Raises:
        UserError, HostError: its series cannot be read any more.
    """
    if not isinstance(recipe.source, recipes.GitSource) or not build.key:
        return None
    if kernel_key(recipe, ctx, origin) != build.key:
        return None
    patches = patchset.read_series(recipe.series, ctx)
    if any(patch.strip != 1 for patch in patches):
        return None
    url = recipe.source.url if recipe.source.url.startswith(HTTPS) else ""
    files = [patch.mail or patch.data for patch in patches]
    return Checkout(build.kernel, origin.key["commit"], shown(url), (), hash_of(files)), files


def hash_of(files: Sequence[bytes]) -> str:
    """Return KCIDB's hash of a set of patches, `sha256sum *.patch | cut -c-64 | sha256sum | cut -c-64`; "" for none."""
    sums = "".join(f"{hashlib.sha256(file).hexdigest()}\n" for file in files)
    return hashlib.sha256(sums.encode()).hexdigest() if files else ""
