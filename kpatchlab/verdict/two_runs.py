"""Two runs as one: columns of the second compared with columns of the first, in a run that every report can show.

Pure. The run that comes out has two columns, one for each of the two, and every scenario once for each pair of
columns that are compared with each other; where that is more than one pair, the parameter `Column` tells which. So
the rules of `compare` hold as they do within one run.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kpatchlab.errors import UserError
from kpatchlab.model import JobResult, KernelFacts, Outcome, Run

COLUMN = "Column"
"""Parameter that tells the pairs of columns apart; a scenario's own have no capitals."""


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two runs.

    Attributes:
        run: the run.
        folder: the run's folder.
        column: the column to take, "" to take those that both runs have.
    """

    run: Run
    folder: Path
    column: str = ""


def columns(run: Run) -> tuple[str, ...]:
    """Return the columns that a run has jobs in, in its order."""
    ran = {job.column: None for job in run.jobs}
    return tuple(dict.fromkeys([*(name for name in run.columns if name in ran), *ran]))


def pairs(first: Side, second: Side) -> tuple[tuple[str, str], ...]:
    """Return which column of the first run is compared with which of the second.

    Those of one name are; where a run has one column only, or the user named one, it is that one.

    Raises:
        UserError: there is no such column, a run has no jobs, or no two columns go together.
    """
    for side in (first, second):
        if not columns(side.run):
            raise UserError(f"run {side.run.id} has no jobs: there is nothing to compare")
        if side.column and side.column not in columns(side.run):
            there = ", ".join(columns(side.run))
            raise UserError(f"run {side.run.id} has no column {side.column!r}", hint=f"it has {there}")
    one, two = ((side.column,) if side.column else columns(side.run) for side in (first, second))
    if first.column and second.column:
        return ((first.column, second.column),)
    if common := tuple((name, name) for name in one if name in two):
        return common
    if len(one) == len(two) == 1:
        return ((one[0], two[0]),)
    raise UserError(
        f"no column of run {second.run.id} has the name of one of run {first.run.id}",
        hint="name them, RUN:COLUMN: "
        + " and ".join(f"{side.run.id} has {', '.join(columns(side.run))}" for side in (first, second)),
    )


def versus(first: Side, second: Side) -> tuple[Run, Path]:
    """Return both runs as one, and the folder that its paths start from.

    Raises:
        UserError: as `pairs`; or a run is to be compared with itself.
    """
    held = pairs(first, second)
    if first.run.id == second.run.id and all(one == two for one, two in held):
        raise UserError(
            f"run {first.run.id} is compared against itself", hint="two of its columns can be: RUN:COLUMN RUN:COLUMN"
        )
    top = Path(os.path.commonpath([first.folder.parent, second.folder.parent]))
    one, two = (_marked(side, mark, top) for side, mark in zip((first, second), _marks(first, second), strict=True))
    names = tuple(f"{run.id}:{own}" if len(held) == 1 else run.id for run, own in zip((one, two), held[0], strict=True))
    jobs = [
        replace(job, column=name, params=job.params | ({COLUMN: _either(*pair)} if len(held) > 1 else {}))
        for number, (run, name) in enumerate(zip((one, two), names, strict=True))
        for pair in held
        for job in run.jobs
        if job.column == pair[number]
    ]
    kernels = _kernels(one, two, jobs, names)
    shown = {facts.name for facts in kernels}
    run = Run(
        id=f"{first.run.id}..{second.run.id}",
        title=_either(one.title, two.title),
        started=two.started,
        duration_s=one.duration_s + two.duration_s,
        complete=one.complete and two.complete,
        base=names[0],
        columns=names,
        kernels=kernels,
        builds=tuple({build.kernel: build for build in (*one.builds, *two.builds) if build.kernel in shown}.values()),
        jobs=(*jobs, *_absent(jobs, names)),
        host={name: _either(one.host.get(name, ""), two.host.get(name, "")) for name in one.host | two.host},
        systems=tuple({system.name: system for system in (*one.systems, *two.systems)}.values()),
        patches=tuple(dict.fromkeys(patch for patch in (*one.patches, *two.patches) if patch.kernel in shown)),
        threads=tuple(dict.fromkeys(thread for thread in (*one.threads, *two.threads) if thread.kernel in shown)),
        checkouts=tuple(
            {made.kernel: made for made in (*one.checkouts, *two.checkouts) if made.kernel in shown}.values()
        ),
        touches=one.touches | two.touches,
        command=f"kpatchlab compare {_word(first)} {_word(second)}",
        version=two.version,
    )
    return run, top


def _word(side: Side) -> str:
    return f"{side.run.id}:{side.column}" if side.column else side.run.id


def _either(one: str, two: str) -> str:
    return one if one == two else " / ".join(word for word in (one, two) if word)


def _marks(first: Side, second: Side) -> tuple[str, str]:
    """Return a short name for each run: the random end of its id, by which the store finds it too."""
    ids = (first.run.id, second.run.id)
    one, two = (name.rpartition("-")[2] or name for name in ids)
    return (one, two) if one != two or ids[0] == ids[1] else ids


def _marked(side: Side, mark: str, top: Path) -> Run:
    """Return a run with the mark as its id and before the names of its kernels and jobs; paths start at `top`."""

    def path(name: str) -> str:
        return name and os.path.relpath(side.folder / name, top)

    jobs = tuple(
        replace(
            job,
            job=f"{mark}:{job.job}",
            placement={role: f"{mark}:{kernel}" for role, kernel in job.placement.items()},
            guests=tuple(replace(g, kernel=f"{mark}:{g.kernel}", console=path(g.console)) for g in job.guests),
            attachments=tuple(map(path, job.attachments)),
        )
        for job in side.run.jobs
    )
    return replace(
        side.run,
        id=mark,
        jobs=jobs,
        kernels=tuple(replace(facts, name=f"{mark}:{facts.name}") for facts in side.run.kernels),
        builds=tuple(replace(build, kernel=f"{mark}:{build.kernel}") for build in side.run.builds),
        patches=tuple(replace(patch, kernel=f"{mark}:{patch.kernel}") for patch in side.run.patches),
        threads=tuple(replace(thread, kernel=f"{mark}:{thread.kernel}") for thread in side.run.threads),
        checkouts=tuple(
            replace(made, kernel=f"{mark}:{made.kernel}", patches=tuple(map(path, made.patches)))
            for made in side.run.checkouts
        ),
    )


def _kernels(one: Run, two: Run, jobs: Iterable[JobResult], names: Sequence[str]) -> tuple[KernelFacts, ...]:
    """Return the kernels of the columns, each of the second run's against the one that stood in its place."""
    known = {facts.name: facts for facts in (*one.kernels, *two.kernels)}
    places: dict[str, dict[tuple[str, str, str], str]] = {name: {} for name in names}
    for job in jobs:
        params = repr(sorted(job.params.items()))
        places[job.column] |= {(job.scenario, params, role): build for role, build in job.builds.items()}
    before, after = (places[name] for name in names)
    against = {kernel: kernel for kernel in before.values()}
    for place, kernel in after.items():
        if place in before and kernel not in against:
            against[kernel] = before[place]
    every = dict.fromkeys((*before.values(), *after.values()))
    found = [replace(known.get(n, KernelFacts(n, "")), role="", against=against.get(n, n)) for n in every]
    return tuple(replace(facts, role="base" if i == 0 else "") for i, facts in enumerate(found))


def _absent(jobs: Iterable[JobResult], names: Sequence[str]) -> Iterable[JobResult]:
    """Yield a skipped job for every scenario that one of the two did not run, so that each report tells of it."""
    seen: dict[tuple[str, str], dict[str, JobResult]] = {}
    for job in jobs:
        seen.setdefault((job.scenario, repr(sorted(job.params.items()))), {})[job.column] = job
    for found in seen.values():
        for missing, there in zip(names, reversed(names), strict=True):
            if missing not in found and there in found:
                made = found[there]
                yield JobResult(
                    job=f"{missing}:{made.job}",
                    scenario=made.scenario,
                    params=made.params,
                    column=missing,
                    placement={},
                    repeat=made.repeat,
                    outcome=Outcome.SKIP,
                    message=f"{missing} did not run it",
                )
