"""A run from its plan to its result: makes its folder or opens it again, stores the plan there, carries it out."""

from __future__ import annotations

from dataclasses import dataclass, replace

from kpatchlab import __version__
from kpatchlab.errors import UserError
from kpatchlab.host.host import Host
from kpatchlab.lab.load import Lab
from kpatchlab.plan.jobs import Plan, plan_of_jobs
from kpatchlab.progress import Progress
from kpatchlab.report.view import View
from kpatchlab.run import header
from kpatchlab.run.executors import executor_of
from kpatchlab.run.pipeline import execute
from kpatchlab.run.stages import Settings
from kpatchlab.store.run_dir import RunDir
from kpatchlab.store.run_plan import RunPlan
from kpatchlab.store.store import Store


def resumable(store: Store, wanted: str, verb: str) -> RunPlan:
    """Return what a run was to do that `VERB --resume` is asked to go on with.

    Raises:
        UserError: there is no such run, it has no plan, or another verb goes on with it.
    """
    name, how = store.resolve(wanted), store.plan(wanted)
    if how.kind.resumed_by != verb:
        other = how.kind.resumed_by
        hint = f"kpatchlab {other} --resume {name} goes on" if other else f"kpatchlab {how.kind} starts anew"
        raise UserError(f"run {name} is one of `{how.kind}`", hint=hint)
    if not how.jobs:
        raise UserError(f"run {name} was stopped before its plan was stored", hint=f"kpatchlab {verb} starts anew")
    return how


@dataclass(frozen=True, slots=True)
class OpenRun:
    """A run that can be carried out: nobody else can open or delete it meanwhile."""

    folder: RunDir
    plan: Plan
    how: RunPlan


@dataclass(frozen=True, slots=True)
class Session:
    """Where runs are made: of which lab, stored where, on which host."""

    lab: Lab
    store: Store
    host: Host

    def begin(self, plan: Plan, how: RunPlan, *, command: str, title: str = "") -> OpenRun:
        """Make a run's folder with its plan in it; it is listed, and loadable as incomplete, from now on.

        Args:
            how: how the plan is carried out; its jobs are those of `plan`.
            command: the command line that asked for it, for the record.
            title: default: the lab's.

        Raises:
            HostError: the results directory cannot be written.
        """
        folder = self.store.new_run(
            title or self.lab.title,
            base=plan.base,
            columns=plan.columns,
            kernels=header.of_kernels(self.lab, plan),
            command=command,
            version=__version__,
        )
        how = replace(how, jobs=tuple(job.id for job in plan.jobs))
        folder.save_plan(how)
        return OpenRun(folder, plan, how)

    def go_on(self, wanted: str) -> OpenRun:
        """Open a run again that `run` goes on with; the lab is one of the run's variant.

        Raises:
            UserError: there is no such run, another lab is writing it, it has no plan, another verb goes on with it, or
                the lab has one of its jobs no longer.
        """
        how = resumable(self.store, wanted, "run")
        plan = plan_of_jobs(self.lab, how.jobs)
        folder = self.store.open_run(wanted)
        return OpenRun(folder, replace(plan, base=folder.header.base, columns=folder.header.columns), how)

    def carry_out(self, run: OpenRun, settings: Settings, progress: Progress) -> View:
        """Run what is not done yet, and store what came of it; a cancelled run is stored as incomplete.

        Raises:
            LabError: nothing could be run at all (no QEMU, no kernel's source).
        """
        how = run.how
        settings = replace(settings, guest=how.guest, broken=how.broken, trace=how.trace, images=how.images)
        with executor_of(self.lab, self.host) as executor:
            return execute(self.lab, run.plan, self.host, run.folder, progress, settings, executor)
