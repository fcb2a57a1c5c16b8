"""The lab's own names, for a shell's completion; none if the lab cannot be read."""

from __future__ import annotations

from pathlib import Path

import click

from kpatchlab.cli.app import Options
from kpatchlab.errors import LabError


def _lab_file(ctx: click.Context) -> Path:
    return ctx.ensure_object(Options).lab_file()


def _fitting(names: list[str], beginning: str) -> list[str]:
    return [name for name in names if name.startswith(beginning)]


def scenarios(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:  # noqa: ARG001
    """Propose scenarios: folders that have a scenario.yaml; behind `kselftest:` what trees in the cache have."""
    from kpatchlab.lab.selftests import PREFIX

    if incomplete.startswith(PREFIX):
        from kpatchlab.build.kselftest import folders_cached
        from kpatchlab.cache import Cache

        return _fitting(sorted(PREFIX + name for name in folders_cached(Cache())), incomplete)
    try:
        found = sorted(path.parent.name for path in (_lab_file(ctx).parent / "scenarios").glob("*/scenario.yaml"))
    except LabError:
        return []
    return _fitting(found, incomplete)


def kernels(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:  # noqa: ARG001
    """Propose the lab file's kernels."""
    from kpatchlab.lab import load

    try:
        return _fitting(list(load.load(_lab_file(ctx)).kernels), incomplete)
    except LabError:
        return []


def runs(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:  # noqa: ARG001
    """Propose past runs, the newest first."""
    from kpatchlab.lab.load import results_of
    from kpatchlab.store.store import Store

    try:
        return _fitting(["last", *reversed(Store(results_of(_lab_file(ctx))).ids())], incomplete)
    except LabError:
        return []


def hosts(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:  # noqa: ARG001
    """Propose the hosts that the lab file, or --hosts, names."""
    from kpatchlab.cli.common import load_lab

    try:
        return _fitting(list(load_lab(ctx.ensure_object(Options)).hosts), incomplete)
    except LabError:
        return []
