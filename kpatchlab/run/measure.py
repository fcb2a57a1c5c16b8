"""Figures of kernels compared with each other: benchmarks side by side, repeated until their ratios have a verdict.

A measurement is a run like any other, of a lab and a plan that are changed for it: one job at a time on forks of the
same saved guests, nothing traced or counted, the base kernel a second time as a column of its own, and the columns in
turn, forwards and backwards, so that a host that grows slower favours none.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

from kpatchlab.errors import UserError
from kpatchlab.lab.load import Lab
from kpatchlab.model import JobResult, Outcome, Run
from kpatchlab.plan.jobs import JobSpec, Plan, for_jobs, make_plan
from kpatchlab.report.view import View
from kpatchlab.run.session import OpenRun, Session, resumable
from kpatchlab.store.run_plan import Measurement
from kpatchlab.verdict.compare import compare
from kpatchlab.verdict.ratios import AGAIN, INSTRUCTIONS, MetricRow, Speed, least, metric_rows

DEFAULT_CHOICE = ("tag:bench",)
ICOUNT = "icount"
"""What stands for the accelerator where instructions are counted, see `guest.shapes.MachineShape`."""
MOST_REPEATS = 1000


def measured_lab(lab: Lab, mode: str) -> Lab:
    """Return the lab as it is measured.

    Raises:
        UserError: a kernel has debugging switched on: its figures say nothing.
    """
    if slow := [name for name, recipe in lab.kernels.items() if recipe.debug]:
        raise UserError(f"kernel {slow[0]} is one with debugging: no figures are taken on it")
    machines = lab.machines
    if mode == INSTRUCTIONS:
        machines = {n: m.model_copy(update={"accel": ICOUNT, "cpus": 1}) for n, m in lab.machines.items()}
    return replace(
        lab,
        machines=machines,
        scenarios={name: scenario.model_copy(update={"reach": ()}) for name, scenario in lab.scenarios.items()},
        matrix=lab.matrix.model_copy(update={"columns": ("kernels",)}),
        limits=lab.limits.model_copy(update={"guests": 1}),
        settle_s=0.0,
    )


def first_plan(lab: Lab, choice: Sequence[str], kernels: Sequence[str] | None, repeat: int) -> Plan:
    """Return the plan of the first `repeat` repeats, with the base kernel's second column.

    Where instructions are counted, scenarios of two guests are left out: each guest has a clock of its own, which
    jumps to the next timer whenever the guest waits for the other.

    Raises:
        UserError: a name is unknown, or nothing is left to run.
    """
    plan = make_plan(lab, choice=choice or DEFAULT_CHOICE, kernels=kernels, repeat=repeat)
    alone = [job for job in plan.jobs if len(job.roles) == 1 or str(lab.machines[job.machine].accel) != ICOUNT]
    if not alone:
        raise UserError(
            f"{plan.jobs[0].scenario} has two guests, and two clocks that count instructions differ",
            hint="--mode time measures it",
        )
    if len(alone) < len(plan.jobs):
        plan = for_jobs(plan, alone)
    groups: dict[object, list[JobSpec]] = {}
    for job in plan.jobs:
        groups.setdefault((job.group, job.repeat), []).append(job)
    again = plan.base + AGAIN
    rest = tuple(column for column in plan.columns if column != plan.base)
    jobs = chain.from_iterable(_in_turn(group, plan.base) for group in groups.values())
    return replace(plan, columns=(plan.base, *rest, again), jobs=tuple(jobs))


def asked(
    lab: Lab, choice: Sequence[str], kernels: Sequence[str], mode: str, repeat: int | None, budget_s: float
) -> Measurement:
    """Return what a measurement of a lab (see `measured_lab`) takes, every name in it resolved.

    Args:
        choice: scenarios, as on the command line; none: the benchmarks.
        repeat: exactly so many repeats; None: as many as it takes, within `budget_s`.

    Raises:
        UserError: as `first_plan`.
    """
    first = repeat or repeats(mode)
    plan = first_plan(lab, choice, kernels or None, first)
    return Measurement(
        mode=mode,
        base=plan.base,
        kernels=tuple(step.name for step in plan.kernels),
        scenarios=tuple(dict.fromkeys(job.scenario for job in plan.jobs)),
        first=first,
        budget_s=0.0 if repeat else budget_s,
    )


def _in_turn(jobs: Sequence[JobSpec], base: str) -> list[JobSpec]:
    """Return a group's jobs of one repeat with the base's second one, every other time from behind."""
    second = [
        replace(job, id=f"{job.id.rpartition('@')[0]}@{base}.again#{job.repeat}", column=base + AGAIN)
        for job in jobs
        if job.column == base
    ]
    whole = [*jobs, *second]
    return whole if jobs[0].repeat % 2 else whole[::-1]


@dataclass(slots=True)
class Rounds:
    """Decides what is repeated: the groups whose figures say nothing yet, while the budget lasts.

    Args:
        plan: repeats -> the plan with so many; what it begins with has `repeat` of them.
        budget_s: seconds from the first question on; 0: nothing is repeated.
    """

    plan: Callable[[int], Plan]
    repeat: int
    budget_s: float
    _began: float = field(default_factory=time.monotonic)
    _reached: dict[object, int] = field(default_factory=dict)

    @classmethod
    def of(cls, lab: Lab, wanted: Measurement) -> Rounds:
        """Return the rounds of a measurement; the lab is one of `measured_lab`."""
        lab = replace(lab, base=wanted.base)
        plan = functools.cache(functools.partial(first_plan, lab, wanted.scenarios, wanted.kernels))
        return cls(plan, wanted.first, wanted.budget_s)

    def go_on(self, session: Session, wanted: str) -> OpenRun:
        """Open a measurement again, with all the repeats that it had come to; more of them as in a new one.

        Raises:
            UserError: there is no such run, another lab is writing it, or it is no measurement.
        """
        how = resumable(session.store, wanted, "measure")
        folder = session.store.open_run(wanted)
        for job in folder.done_jobs().values():
            self._reached[_key(job)] = max(self._reached.get(_key(job), self.repeat), job.repeat)
        whole = self.plan(max(self._reached.values(), default=self.repeat))
        jobs = (job for job in whole.jobs if job.repeat <= self._reached.get(job.group, self.repeat))
        return OpenRun(folder, replace(whole, jobs=tuple(jobs)), how)

    def more(self, done: Mapping[str, JobResult]) -> list[JobSpec]:
        """Return the jobs to run next, none when all is said or the budget is spent."""
        spent = time.monotonic() - self._began
        if spent >= self.budget_s:
            return []
        wanted: dict[object, int] = {}
        cost_s = 0.0
        for key, rows in by_group(_run(self.plan(1), done)).items():
            have = self._reached.get(key, self.repeat)
            if missing := min(max(lacking(row) for row in rows), have):  # at most as many again
                each = [job.duration_s for job in done.values() if _key(job) == key]
                cost_s += missing * sum(each) / have
                if spent + cost_s > self.budget_s:
                    break
                wanted[key] = have + missing
        most = max(wanted.values(), default=0)
        before = dict(self._reached)
        self._reached |= wanted
        return [
            job
            for job in (self.plan(min(most, MOST_REPEATS)).jobs if most else ())
            if before.get(job.group, self.repeat) < job.repeat <= wanted.get(job.group, 0)
        ]


def _key(job: JobResult) -> object:
    return job.scenario, tuple(sorted(job.params.items()))


def _run(plan: Plan, done: Mapping[str, JobResult]) -> Run:
    return Run(
        id="",
        title="",
        started="",
        duration_s=0.0,
        complete=True,
        base=plan.base,
        columns=plan.columns,
        kernels=(),
        builds=(),
        jobs=tuple(done.values()),
    )


def by_group(run: Run) -> dict[object, list[MetricRow]]:
    """Return the figures of each scenario with its parameters; one with a bad job has none that count."""
    found: dict[object, list[MetricRow]] = {}
    for row in metric_rows(compare(run)):
        if all(job.outcome is Outcome.PASS for jobs in row.group.jobs.values() for job in jobs):
            found.setdefault((row.group.scenario, tuple(sorted(row.group.params.items()))), []).append(row)
    return found


def lacking(row: MetricRow) -> int:
    """Return how many more values a row would take; 0 where all is said, or nothing ever will be."""
    return max((figure.more for figure in row.figures.values() if figure.speed is Speed.UNKNOWN), default=0)


def exit_code(view: View) -> int:
    """Return 1 where a figure is SLOWER than the base's, a job failed, or there is no figure at all; else 0."""
    rows = list(metric_rows(view.comparison))
    slower = any(
        figure.speed is Speed.SLOWER and not column.endswith(AGAIN)
        for row in rows
        for column, figure in row.figures.items()
    )
    return 1 if slower or not rows or any(job.outcome.is_bad for job in view.run.jobs) else 0


def repeats(mode: str) -> int:
    """Return how many repeats are run before anything is asked: as many as a verdict takes."""
    return least(INSTRUCTIONS if mode == INSTRUCTIONS else "time")
