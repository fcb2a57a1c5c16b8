"""The verb `list`: one function for each kind of thing, from the lab to rows; short for people, whole for scripts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from kpatchlab.cli import complete
from kpatchlab.cli.app import Options, Verb
from kpatchlab.cli.common import as_json, dump, load_lab, pass_options, table

if TYPE_CHECKING:
    from kpatchlab.history.index import RunRow
    from kpatchlab.lab.load import Lab

Rows = Callable[["Lab", Sequence[str], bool], list[Any]]


def _kernels(lab: Lab, kernels: Sequence[str], whole: bool) -> list[Any]:  # noqa: ARG001
    return [
        {"name": name, "base": name == lab.base, "source": recipe.source.type, "description": recipe.description}
        for name, recipe in lab.kernels.items()
    ]


def _rootfs(lab: Lab, kernels: Sequence[str], whole: bool) -> list[Any]:  # noqa: ARG001
    return [
        {"name": name, "suite": root.suite, "packages": len(root.packages), "description": root.description}
        for name, root in lab.rootfs_recipes.items()
    ]


def _suites(lab: Lab, kernels: Sequence[str], whole: bool) -> list[Any]:  # noqa: ARG001
    users = {
        name: [one for one, scenario in lab.scenarios.items() if name in scenario.needs.suites] for name in lab.suites
    }
    return [
        {
            "name": name,
            "source": recipe.source.type,
            "scenarios": sorted(users[name]) if whole else " ".join(sorted(users[name])) or "-",
            "description": recipe.description,
        }
        for name, recipe in sorted(lab.suites.items())
    ]


def _machines(lab: Lab, kernels: Sequence[str], whole: bool) -> list[Any]:  # noqa: ARG001
    return [{"name": name, **machine.model_dump()} for name, machine in lab.machines.items()]


def _scenarios(lab: Lab, kernels: Sequence[str], whole: bool) -> list[Any]:  # noqa: ARG001
    return [
        {
            "name": name,
            "selected": name in lab.selected,
            "roles": " ".join(scenario.roles),
            "systems": " ".join(scenario.systems),
            "tags": " ".join(scenario.tags),
            "description": scenario.description,
        }
        for name, scenario in sorted(lab.scenarios.items())
    ]


def _systems(lab: Lab, kernels: Sequence[str], whole: bool) -> list[Any]:
    from kpatchlab.cache import Cache
    from kpatchlab.plan.jobs import kernel_names
    from kpatchlab.plan.runnable import survey

    rows = survey(lab, Cache(), kernel_names(lab, kernels))
    if not whole:
        return [
            {
                "system": row.system,
                "title": row.title,
                "scenarios": " ".join(row.scenarios) or "-",
                "runnable": ("yes" if row.runnable else "no") if row.known else "not known",
                "reason": row.reason,
            }
            for row in rows
        ]
    return [
        {
            "system": row.system,
            "title": row.title,
            "scenarios": row.scenarios,
            "runnable": row.runnable if row.known else None,
            "reason": row.reason,
            "without": lab.systems[row.system].without,
            "with": lab.systems[row.system].with_,
            "files": lab.systems[row.system].files,
            "kernels": {
                able.kernel: {"runnable": able.runnable, "reason": able.reason, "built": able.built}
                for able in row.kernels
            },
        }
        for row in rows
    ]


def _runs(lab: Lab, kernels: Sequence[str], whole: bool) -> list[Any]:  # noqa: ARG001
    from kpatchlab.store.store import Store

    found = Store(lab.results).list()
    return list(found) if whole else [_run(row) for row in found]


def _run(row: RunRow) -> dict[str, Any]:
    """Return what people want to know of a past run."""
    from kpatchlab.progress import clock

    def counts(found: dict[str, int]) -> str:
        return ", ".join(f"{number} {word}" for word, number in found.items())

    return {
        "run": row.id,
        "took": clock(row.duration_s) if row.duration_s else "",
        "state": "unreadable" if row.problem else "done" if row.complete else "stopped",
        "outcomes": counts(row.outcomes),
        "verdicts": counts(row.verdicts),
        "title": row.problem or row.title,
    }


LISTS: dict[str, Rows] = {
    "kernels": _kernels,
    "rootfs": _rootfs,
    "suites": _suites,
    "scenarios": _scenarios,
    "systems": _systems,
    "machines": _machines,
    "runs": _runs,
}
"""What can be listed -> its rows: (lab, kernels chosen, whether for scripts) -> rows."""


@click.command(
    "list",
    cls=Verb,
    epilog="\b\nExamples:\n  kpatchlab list scenarios\n  kpatchlab list systems --kernel with\n"
    "  kpatchlab list runs --json",
)
@click.argument("what", type=click.Choice(list(LISTS)), default="scenarios")
@click.option(
    "--kernel",
    "kernels",
    multiple=True,
    metavar="NAME",
    shell_complete=complete.kernels,
    help="For systems: only this kernel.",
)
@as_json
@pass_options
def list_things(options: Options, what: str, kernels: tuple[str, ...], as_json: bool) -> None:
    """List what the lab has: kernels, rootfs, scenarios, systems, machines or past runs."""
    rows = LISTS[what](load_lab(options), kernels, as_json)
    if as_json:
        dump(rows)
    else:
        table(rows)
