"""A prompt in a guest that is set up as a scenario's guest is: same kernel, root, files and environment."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from kpatchlab.errors import UserError
from kpatchlab.guest.terminal import bridge
from kpatchlab.host.host import Host
from kpatchlab.lab.load import Lab
from kpatchlab.lab.scenario import Role, Scenario
from kpatchlab.lab.yamlfile import suggest
from kpatchlab.plan.jobs import JobSpec, Plan, for_jobs, make_plan
from kpatchlab.plan.selftests import check_named
from kpatchlab.progress import Progress
from kpatchlab.run import images
from kpatchlab.run.guests import guests_of, occupied
from kpatchlab.run.inputs import Here, JobInputs, resolve
from kpatchlab.run.job import preflight, setup
from kpatchlab.run.stages import Settings, Stages, gather

BARE = "bare"
"""Name of the scenario that stands in where the user names none: a guest, and nothing in it."""


def bare(lab: Lab) -> Lab:
    """Return the lab with a scenario that does nothing, for a prompt in a guest as it boots."""
    scenario = Scenario.model_construct(
        **{key: field.get_default() for key, field in Scenario.model_fields.items() if not field.is_required()},
        description="a guest as it boots",
        roles={"guest": Role(run="none")},
        name=BARE,
        folder=lab.root / "scenarios" / "lib",
    )
    return replace(lab, scenarios={**lab.scenarios, BARE: scenario})


def choose(plan: Plan, kernel: str | None, params: Mapping[str, str]) -> JobSpec:
    """Return the first job on one kernel (the base by default) with these parameters.

    Raises:
        UserError: the plan has none.
    """
    wanted = kernel or plan.base
    for job in plan.jobs:
        if job.column == wanted and params.items() <= job.params.items():
            return job
    raise UserError(
        f"no job on kernel {wanted} with these parameters", hint="kpatchlab plan lists the jobs and their columns"
    )


def open_shell(
    lab: Lab,
    scenario: str | None,
    kernel: str | None,
    role: str | None,
    params: Sequence[str],
    host: Host,
    progress: Progress,
) -> int:
    """Bring a scenario's guests to where its `run` script would start, and open a prompt in one; returns its status.

    Raises:
        UserError: an unknown scenario, kernel, role or parameter.
    """
    lab = lab if scenario else bare(lab)
    plan = make_plan(lab, choice=(scenario or BARE,), kernels=[kernel] if kernel else None)
    check_named(lab, plan, host.cache)
    values = {}
    for word in params:
        name, equals, value = word.partition("=")
        if not equals:
            raise UserError(f"--param {word}: no value", hint="--param NAME=VALUE")
        values[name] = value
    job = choose(plan, kernel, values)
    roles = lab.scenario(job.scenario).roles
    wanted = role or next(name for name, entry in roles.items() if entry.run)
    if wanted not in roles:
        raise UserError(f"no role '{wanted}'{suggest(wanted, roles)}", hint=f"there are {', '.join(roles)}")
    settings, plan = Settings(), for_jobs(plan, [job])
    stages = Stages(lab, images.first(lab, plan), host, settings, progress)
    try:
        with tempfile.TemporaryDirectory(prefix="kpatchlab-shell-") as folder:
            with progress:
                plan, needed = images.place(lab, plan, stages, host.cache)
                job = plan.jobs[0]
                stages.add(plan, needed)
                task = gather(lab, job, stages, settings)
                inputs = resolve(task, Here(host, Path(folder), settings.cancel))
            return _prompt(inputs, wanted, bare=scenario is None)
    finally:
        stages.shutdown()


def _prompt(inputs: JobInputs, role: str, *, bare: bool) -> int:
    if reason := preflight(inputs):
        raise UserError(f"{inputs.spec.scenario} cannot run there: {reason[1]}")
    guests = guests_of(inputs)
    with occupied(inputs, guests):
        if not bare:
            setup(inputs, guests)
        guest = next(guest for guest in guests if guest.role == role)
        assert guest.vm is not None
        return bridge(guest.vm, ["/bin/bash", "-i"], env=guest.environment(inputs), cwd="/lab/scenario")
