"""Tests that others wrote, built on this host for a guest: the kernel's selftests, and suites that Debian packages.

A name is a folder below /lab in the guest: `kselftest/COLLECTION`, `suites/NAME` or `programs/NAME`. A result that is
not there is a value: it costs the jobs that need it, and no others.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from kpatchlab import proc
from kpatchlab.build.context import BuildContext, Recipe
from kpatchlab.host import packages
from kpatchlab.model import Outcome


@dataclass(frozen=True, slots=True)
class Built:
    """What one name led to: `path` with the folder `programs` where the outcome is PASS, else why there is none.

    The outcome is SKIP for what host or source lack, BLOCKED for what does not compile.
    """

    outcome: Outcome
    path: Path = Path()
    reason: str = ""
    cached: bool = False


class Unbuilt(Exception):
    """There are no such programs; becomes a `Built`."""

    def __init__(self, outcome: Outcome, reason: str) -> None:
        super().__init__(reason)
        self.outcome, self.reason = outcome, reason


def build_foreign(recipe: Recipe, name: str, ctx: BuildContext) -> Built:
    """Return the tests of a name for a kernel; from the cache where they are there.

    Raises:
        UserError, HostError: the source cannot be had, as for the kernel itself.
        BuildCancelled: `ctx.cancel` was set.
    """
    from kpatchlab.build import kselftest, programs, suites

    kind, _, rest = name.partition("/")
    try:
        if kind == "kselftest":
            return kselftest.build(recipe, rest, ctx)
        return suites.build(rest, ctx) if kind == "suites" else programs.build(rest, ctx)
    except Unbuilt as unbuilt:
        return Built(unbuilt.outcome, reason=unbuilt.reason)


def host_stages(names: Iterable[str]) -> list[str]:
    """Return the optional stages of `packages` that these names need of the host."""
    from kpatchlab.build import kselftest

    return sorted({stage for name in names if (stage := kselftest.host_stage(name.removeprefix("kselftest/")))})


def guest_files(built: Mapping[str, Built]) -> list[tuple[str, bytes, int]]:
    """Return what is put into a guest, as `scenario.payload` does: name -> its programs."""
    files = []
    for name, result in sorted(built.items()):
        for path in sorted((result.path / "programs").rglob("*")):
            if path.is_file():
                mode = 0o755 if os.access(path, os.X_OK) else 0o644
                files.append((f"/lab/{name}/{path.relative_to(result.path / 'programs')}", path.read_bytes(), mode))
    return files


def check_host(stage: str) -> None:
    """Raise Unbuilt where the host lacks packages of an optional stage."""
    if lacking := packages.missing((stage,)):
        names = " ".join(item.package for item in lacking)
        raise Unbuilt(Outcome.SKIP, f"this host lacks what it is built with (apt-get install {names})")


def version_of(tool: str) -> str:
    """Return the first line of `TOOL --version`."""
    return (proc.run([tool, "--version"], timeout_s=60).stdout.splitlines() or [tool])[0]
