"""The options that choose scenarios, for every verb that takes a choice of them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import click

from kpatchlab.cli import complete
from kpatchlab.errors import UserError

if TYPE_CHECKING:
    from kpatchlab.lab import Lab

CHOICE_HELP = (
    "CHOICE: scenario names, globs, tag:NAME, system:NAME, touching:FILE, !WORD to leave out; default: what the lab "
    "file selects. The options are the same in other words; all that any of them takes in is chosen."
)


variant_option = click.option(
    "--variant",
    metavar="NAME",
    help="On this variant of each kernel, as lab.yaml has them; debug: KASAN, lockdep, kmemleak and more.",
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
    @click.option("--changed", is_flag=True, help="Scenarios about the files that the lab's series change.")
    @functools.wraps(verb)
    def wrapper(
        *args: Any, tags: Iterable[str], systems: Iterable[str], files: Iterable[str], changed: bool, **named: Any
    ) -> None:
        words = [f"tag:{tag}" for tag in tags] + [f"system:{name}" for name in systems]
        words += [f"touching:{file.removeprefix('./')}" for file in files]
        if changed:
            from kpatchlab.cli.main import Options
            from kpatchlab.cli.verbs import load_lab

            options = click.get_current_context().find_object(Options)
            assert options
            words += _changed(load_lab(options))
        named["choice"] = (*named["choice"], *words)
        verb(*args, **named)

    return wrapper


def _changed(lab: Lab) -> list[str]:
    """Return the words for the files that the series of a lab's kernels change, and name those that nothing tests.

    Raises:
        UserError: no kernel has a series, or no scenario is about any of its files.
    """
    from kpatchlab.build import BuildContext
    from kpatchlab.build.series import changed_files, read_series
    from kpatchlab.cache import Cache
    from kpatchlab.systems import touches

    context = BuildContext(Cache(), lab.root, lab.mirror)
    items = [item for recipe in lab.kernels.values() for item in recipe.series]
    if not items:
        raise UserError(
            "--changed: no kernel of this lab has a series", hint="--touching FILE names what changed by hand"
        )
    files = changed_files(read_series(list(dict.fromkeys(items)), context))
    known = [f for f in files if any(touches(scenario, lab.systems, f) for scenario in lab.scenarios.values())]
    if unknown := [file for file in files if file not in known]:
        click.echo(f"changed, and no scenario is about it: {', '.join(unknown)}", err=True)
    if not known:
        raise UserError("--changed: no scenario is about a file that the series change")
    return [f"touching:{file}" for file in known]
