"""The options that choose scenarios, for every verb that takes a choice of them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import click

from kpatchlab.cli import complete
from kpatchlab.errors import UserError

if TYPE_CHECKING:
    from kpatchlab.lab.load import Lab
    from kpatchlab.variants.coverage import Coverage

CHOICE_HELP = (
    "CHOICE: scenario names, globs, tag:NAME, system:NAME, touching:FILE, kselftest:NAME for the tree's own tests; "
    "!WORD leaves scenarios out. Default: what the lab file selects. The options choose as the words do; every "
    "scenario that any of them names is taken."
)


variant_option = click.option(
    "--variant",
    metavar="NAME",
    help="Take this variant of each kernel, from `variants` in lab.yaml; debug: KASAN, lockdep, kmemleak and more.",
)


def kernels_of(lab: Lab, kernels: tuple[str, ...], variant: str | None) -> tuple[str, ...]:
    """Return the names that a user's `--kernel` words mean in a variant: the plain kernel's name will do."""
    own = {name: f"{name}-{variant}" for name in kernels if variant}
    return tuple(own[name] if own.get(name) in lab.kernels else name for name in kernels)


def choosing(verb: Callable[..., None]) -> Callable[..., None]:
    """Give a verb the argument CHOICE and the options that add words to it; it gets them all as `choice`."""

    @click.argument("choice", nargs=-1, shell_complete=complete.scenarios)
    @click.option("--tag", "tags", multiple=True, metavar="NAME", help="Scenarios with this tag; may be repeated.")
    @click.option(
        "--system", "systems", multiple=True, metavar="NAME", help="Scenarios of this system, see `list systems`."
    )
    @click.option(
        "--touching",
        "files",
        multiple=True,
        metavar="FILE",
        help="Scenarios about this file or folder of the kernel, as in net/unix/af_unix.c.",
    )
    @click.option(
        "--changed",
        is_flag=True,
        help="Scenarios that ran a line which the series changes, in the last coverage run; without one, scenarios "
        "about the changed files.",
    )
    @functools.wraps(verb)
    def wrapper(
        *args: Any, tags: Iterable[str], systems: Iterable[str], files: Iterable[str], changed: bool, **named: Any
    ) -> None:
        words = [f"tag:{tag}" for tag in tags] + [f"system:{name}" for name in systems]
        words += [f"touching:{file.removeprefix('./')}" for file in files]
        if changed:
            from kpatchlab.cli.app import Options
            from kpatchlab.cli.common import load_lab

            options = click.get_current_context().find_object(Options)
            assert options
            words += _changed(load_lab(options))
        named["choice"] = (*named["choice"], *words)
        verb(*args, **named)

    return wrapper


def _changed(lab: Lab) -> list[str]:
    """Return the words for what the series of a lab's kernels change, and say what they rest on.

    Raises:
        UserError: no kernel has a series, or no scenario is about any of its files.
    """
    from kpatchlab.build import BuildContext
    from kpatchlab.build.patchset import changed_files, read_series, series_key
    from kpatchlab.cache import Cache
    from kpatchlab.lab.systems import touches
    from kpatchlab.store.store import Store
    from kpatchlab.variants import coverage

    context = BuildContext.of(lab, Cache())
    series = [read_series(recipe.series, context) for recipe in lab.kernels.values() if recipe.series]
    if not series:
        raise UserError(
            "--changed: no kernel of this lab has a series", hint="--touching FILE names what changed by hand"
        )
    files = changed_files([patch for patches in series for patch in patches])
    about = {file: {s.name for s in lab.scenarios.values() if touches(s, lab.systems, file)} for file in files}
    if unknown := [file for file, names in about.items() if not names]:
        click.echo(f"changed, and no scenario is about it: {', '.join(unknown)}", err=True)
    if last := coverage.last(Store(lab.results), {series_key(patches) for patches in series}):
        return _by_coverage(lab, *last, set().union(*about.values()))
    if not any(about.values()):
        raise UserError("--changed: no scenario is about a file that the series change")
    return [f"touching:{file}" for file, names in about.items() if names]


def _by_coverage(lab: Lab, run: str, found: list[Coverage], about: set[str]) -> list[str]:
    """Return the scenarios that ran changed lines; where the coverage did not run one, what it is about decides."""
    from kpatchlab.variants.coverage import runners

    tried = {name for item in found for name in item.scenarios}
    ran = runners(found) & set(lab.scenarios)
    others = about - tried
    click.echo(
        f"--changed: {len(ran)} scenarios that ran changed lines, of {len(tried)} in the coverage of run {run}"
        + (f"; {len(others)} by the files that they are about, not in that coverage" if others else ""),
        err=True,
    )
    if not ran | others:
        raise UserError(
            f"--changed: by the coverage of run {run} no scenario runs a changed line",
            hint="kpatchlab coverage --of last lists the lines; --touching FILE chooses by file",
        )
    return sorted(ran | others)
