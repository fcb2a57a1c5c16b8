"""Scenarios on a kernel with the first patches of a series, through the ordinary pipeline: a run of its own each."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path

from kpatchlab.build import diffs
from kpatchlab.build.patchset import Patch
from kpatchlab.files import write_atomic
from kpatchlab.host.host import Host
from kpatchlab.lab.file import Matrix
from kpatchlab.lab.load import Lab
from kpatchlab.lab.recipes import QuiltSeries
from kpatchlab.model import Outcome, Run
from kpatchlab.plan.jobs import make_plan
from kpatchlab.progress import Progress
from kpatchlab.run.session import Session
from kpatchlab.run.stages import Settings
from kpatchlab.series.walk import Keeps, RunsScenarios
from kpatchlab.store.run_plan import RunKind, RunPlan
from kpatchlab.store.store import Store
from kpatchlab.verdict.values import worst


def runner(
    lab: Lab, kernel: str, choice: Sequence[str], host: Host, progress: Progress, settings: Settings
) -> RunsScenarios:
    """Return a function that runs the chosen scenarios on the first patches of `kernel`'s series.

    The kernels are those that `build` would make of the same patches, so the last one is the lab's own, by content key.
    """

    def run(title: str, patches: Sequence[Patch], keep: Keeps) -> dict[str, str]:
        folder = host.cache.root / "tmp" / f"series-{kernel}-{len(patches)}"
        shutil.rmtree(folder, ignore_errors=True)
        write_quilt(folder, patches)
        recipe = lab.kernels[kernel].model_copy(
            update={"series": (QuiltSeries(type="quilt", path=str(folder)),) if patches else ()}
        )
        name = f"patch-{len(patches)}"
        one = dataclasses.replace(
            lab, title=title, base=name, kernels={name: recipe}, matrix=Matrix(columns=("kernels",))
        )
        try:
            keep(recipe)
            plan = make_plan(one, choice=tuple(choice))
            session = Session(one, Store(lab.results), host)
            how = RunPlan(kind=RunKind.SERIES, trace=False)
            begun = session.begin(plan, how, title=title, command=settings.command)
            return outcomes(session.carry_out(begun, settings, progress).run)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    return run


def outcomes(run: Run) -> dict[str, str]:
    """Return scenario -> outcome of its worst job; {} where the run was stopped."""
    found: dict[str, list[Outcome]] = {}
    for job in run.jobs if run.complete else ():
        found.setdefault(job.scenario, []).append(job.outcome)
    return {name: str(worst(every)) for name, every in found.items()}


def write_quilt(folder: Path, patches: Sequence[Patch], *, words: bool = False) -> None:
    """Write patches as a quilt directory; what else is in it stays.

    Args:
        words: each with what its mail says before the diff, or with its title: for those who read the folder later.

    Raises:
        HostError: it cannot be written.
    """
    names = []
    for number, patch in enumerate(patches, 1):
        names.append(f"{number:04d}.patch -p{patch.strip}\n")
        write_atomic(folder / f"{number:04d}.patch", (_words(patch) if words else b"") + patch.data)
    write_atomic(folder / "series", "".join(names).encode())


def _words(patch: Patch) -> bytes:
    head, cut, _ = patch.mail.partition(b"\n---\n")
    alone = diffs.diff_of(patch.data) == patch.data
    return head + cut or (f"{patch.subject}\n\n".encode() if alone else b"")
