"""Whether the collections of selftests that a plan's jobs are named after are in any kernel's tree."""

from __future__ import annotations

import functools

from kpatchlab.build import BuildContext, kselftest
from kpatchlab.cache import Cache
from kpatchlab.errors import UserError
from kpatchlab.lab.load import Lab
from kpatchlab.lab.selftests import PREFIX
from kpatchlab.lab.yamlfile import suggest
from kpatchlab.plan.jobs import Plan


def check_named(lab: Lab, plan: Plan, cache: Cache) -> None:
    """Pass where each collection that was chosen by its name can be in the tree of one of its jobs' kernels.

    What a tree has is known of the user's own trees, and of those that are in the cache. With a tree that is not there
    yet a job of it is SKIP, should it lack the collection.

    Raises:
        UserError: none of them has it.
    """
    ctx = BuildContext.of(lab, cache)
    folders = functools.cache(lambda kernel: kselftest.folders(lab.kernels[kernel], ctx))
    kernels: dict[str, set[str]] = {}
    for job in plan.jobs:
        if job.scenario.startswith(PREFIX):
            kernels.setdefault(job.scenario.removeprefix(PREFIX), set()).update(job.placement.values())
    for name, where in kernels.items():
        there: set[str] = set()
        for kernel in sorted(where):
            known = folders(kernel)
            if known is None or {name, name.rpartition("/")[0]} & known:
                break
            there |= known
        else:
            raise UserError(
                f"no kernel's tree has the selftests '{name}'{suggest(name, sorted(there))}",
                hint="a folder below tools/testing/selftests with a Makefile is meant, or FOLDER/PROGRAM",
            )
