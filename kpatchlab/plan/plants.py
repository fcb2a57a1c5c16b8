"""Faults that are planted in a kernel to see which scenario finds them: what mutation testing is for a program.

A plant is one patch, `plants/NAME.patch`, on the tree of the lab's base kernel. Its text says, a line each, what kind
of fault it is (`Kind`), in which system (`System`), which scenarios have to see it (`Scenarios`), and by what
(`Seen-by`: check, log, left, time, leaks or reach).
"""

from __future__ import annotations

import dataclasses
import email.parser
import enum
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kpatchlab.errors import UserError
from kpatchlab.lab.load import Lab
from kpatchlab.lab.recipes import MboxSeries
from kpatchlab.lab.yamlfile import suggest
from kpatchlab.model import UNTRIED, CaseKind, JobResult, Outcome, Run, Verdict
from kpatchlab.plan.jobs import Plan, for_jobs, make_plan
from kpatchlab.verdict.compare import compare

FOLDER = "plants"
HEADS = ("Kind", "System", "Scenarios", "Seen-by")
WITNESSES = {
    CaseKind.CHECK: "check",
    CaseKind.LOG: "log",
    CaseKind.PREPARATION: "log",
    CaseKind.LEFT: "left",
    CaseKind.TIME: "time",
    CaseKind.LEAKS: "leaks",
    CaseKind.TAINT: "taint",
    CaseKind.REACH: "reach",
}


@dataclass(frozen=True, slots=True)
class Plant:
    """One fault to plant; `seen_by` is one of the values of `WITNESSES`."""

    name: str
    path: Path
    title: str
    kind: str
    system: str
    scenarios: tuple[str, ...]
    seen_by: str


class Found(enum.StrEnum):
    """What came of a plant."""

    FOUND = "found"
    OTHERWISE = "found by another"  # by another witness than the one that has to
    MISSED = "not found"
    NOT_TRIED = "not tried"  # it did not build, or no job of it ran to its end


@dataclass(frozen=True, slots=True)
class Score:
    """What came of one plant; `told` is the first thing that told it, with its scenario, or why it was not tried."""

    plant: Plant
    found: Found
    told: str = ""


def read(lab: Lab, names: Sequence[str] = ()) -> list[Plant]:
    """Return the lab's plants, or those of these names.

    Raises:
        UserError: there is no plant of a name, or one lacks a line or names a scenario or system that there is not.
    """
    there = {path.stem: path for path in sorted((lab.root / FOLDER).glob("*.patch"))}
    for name in names:
        if name not in there:
            raise UserError(f"there is no plant '{name}'{suggest(name, there)}", hint=f"{FOLDER}/ has them")
    if not there:
        raise UserError(f"there are no plants in {lab.root / FOLDER}")
    return [_plant(path, lab) for name, path in there.items() if not names or name in names]


def _plant(path: Path, lab: Lab) -> Plant:
    mail = email.parser.Parser().parsestr(path.read_text())
    text = str(mail.get_payload()).partition("\n---\n")[0]
    lines = dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)
    if lacking := [head for head in HEADS if head not in lines]:
        raise UserError(f"{path}: no line '{lacking[0]}:' above its diff", hint=f"each plant has {', '.join(HEADS)}")
    scenarios = tuple(lines["Scenarios"].split())
    for name in scenarios:
        if name not in lab.scenarios:
            raise UserError(f"{path}: there is no scenario '{name}'{suggest(name, lab.scenarios)}")
    if lab.systems and lines["System"] not in lab.systems:
        near = suggest(lines["System"], lab.systems)
        raise UserError(f"{path}: there is no system '{lines['System']}'{near}", hint="scenarios/systems.yaml has them")
    if lines["Seen-by"] not in WITNESSES.values():
        raise UserError(
            f"{path}: Seen-by: {lines['Seen-by']}", hint=f"one of {', '.join(sorted(set(WITNESSES.values())))}"
        )
    title = str(mail.get("Subject", path.stem)).removeprefix("[PATCH] ")
    return Plant(path.stem, path, title, lines["Kind"], lines["System"], scenarios, lines["Seen-by"])


def variant(lab: Lab, plants: Iterable[Plant]) -> Lab:
    """Return the lab with its base kernel, and one kernel more for each plant."""
    recipe = lab.kernels[lab.base]
    kernels = {lab.base: recipe}
    for plant in plants:
        series = (*recipe.series, MboxSeries(type="mbox", path=str(plant.path)))
        kernels[plant.name] = recipe.model_copy(update={"series": series})
    matrix = lab.matrix.model_copy(update={"columns": ("kernels",)})
    return dataclasses.replace(lab, kernels=kernels, matrix=matrix)


def plan_of(lab: Lab, plants: Sequence[Plant]) -> Plan:
    """Return the plan of a lab of `variant`: each plant with the scenarios that have to see it, the base with all."""
    wanted = {plant.name: set(plant.scenarios) for plant in plants}
    plan = make_plan(lab, choice=sorted(set().union(*wanted.values())), repeat=1)
    jobs = [job for job in plan.jobs if job.column == plan.base or job.scenario in wanted.get(job.column, ())]
    return for_jobs(plan, jobs)


def score(plants: Iterable[Plant], run: Run) -> list[Score]:
    """Say of each plant whether it was found, by what the run's comparison calls worse than on the base."""
    groups = compare(run).groups
    builds = {build.kernel: build for build in run.builds}
    scores = []
    for plant in plants:
        worse = [
            (witness, group.name, row.case, cell.message)
            for group in groups
            for row in group.rows
            if (cell := row.cells.get(plant.name))
            and cell.verdict is Verdict.REGRESSED
            and not cell.implied
            and (witness := _witness(row.id.kind, cell.outcome))
        ]
        jobs = [job for job in run.jobs if job.column == plant.name]
        right = [entry for entry in worse if entry[0] == plant.seen_by]
        if worse:
            _, where, case, message = (right or worse)[0]
            told = f"{where}: {case}" + (f": {message}" if message else "")
            scores.append(Score(plant, Found.FOUND if right else Found.OTHERWISE, told))
        elif not _ran(jobs):
            build = builds.get(plant.name)
            why = build.error if build and build.error else next((job.message for job in jobs), "no job of it ran")
            scores.append(Score(plant, Found.NOT_TRIED, why))
        elif not run.complete:  # a loss shows in repeats alone, and they come last
            scores.append(Score(plant, Found.NOT_TRIED, "the run was ended early"))
        else:
            scores.append(Score(plant, Found.MISSED))
    return scores


def _witness(kind: CaseKind, outcome: Outcome) -> str:
    """Return what a check is the witness of; "" for a job's own, which says what others say, but for how it ended."""
    if kind is CaseKind.JOB:
        return {Outcome.TIMEOUT: "time", Outcome.CRASH: "log"}.get(outcome, "")
    return WITNESSES.get(kind, "")


def _ran(jobs: Iterable[JobResult]) -> bool:
    return any(job.outcome not in UNTRIED for job in jobs)


def command(names: Sequence[str]) -> str:
    """Return the words of the verb that tries plants again."""
    return f"plants {shlex.join(names)}"
