"""Tests from outside the lab, built on this host for a guest: the kernel's selftests, and suites that Debian packages.

A name is a folder below /lab in the guest: `kselftest/COLLECTION`, `suites/NAME` or `programs/NAME`. A result that is
not there is a value: it costs the jobs that need it, and no others.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from kpatchlab.arch import ARCHES
from kpatchlab.build import kselftest, programs, suites
from kpatchlab.build.built import Programs, Unbuilt
from kpatchlab.build.context import BuildContext
from kpatchlab.lab.recipes import KernelRecipe
from kpatchlab.model import Outcome


def build_foreign(recipe: KernelRecipe, name: str, ctx: BuildContext) -> Programs:
    """Return the tests of a name for a kernel; from the cache where they are there.

    Raises:
        UserError, HostError: the source cannot be had, as for the kernel itself.
        BuildCancelled: `ctx.cancel` was set.
    """
    kind, _, rest = name.partition("/")
    ctx = replace(ctx, arch=recipe.built_for)
    if kind != "programs" and not ARCHES[ctx.arch].is_host:
        return Programs(Outcome.SKIP, reason=f"tests of others are not built for {ctx.arch}")
    try:
        if kind == "kselftest":
            return kselftest.build(recipe, rest, ctx)
        return suites.build(rest, ctx) if kind == "suites" else programs.build(rest, ctx)
    except Unbuilt as unbuilt:
        return Programs(unbuilt.outcome, reason=unbuilt.reason)


def host_stages(names: Iterable[str]) -> list[str]:
    """Return the optional stages of `packages` that these names need of the host."""
    return sorted({stage for name in names if (stage := kselftest.host_stage(name.removeprefix("kselftest/")))})
