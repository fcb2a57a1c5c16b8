"""A job as it travels: whole through JSON and pickle, without a path, and with the files that were there at first."""

import dataclasses
import pickle
import shutil
from pathlib import Path

import pytest

from kpatchlab.cache import Cache
from kpatchlab.errors import HostError
from kpatchlab.lab.load import load
from kpatchlab.model import BuildResult, GuestLog, ModuleFailure, Outcome
from kpatchlab.plan.jobs import make_plan
from kpatchlab.progress import PlainProgress
from kpatchlab.run import payload
from kpatchlab.run.executor import LocalExecutor, infra
from kpatchlab.run.pipeline import execute
from kpatchlab.run.task import JobTask, KernelUnderTest
from tests import labdir

PROJECT = Path(__file__).parent.parent


def test_every_job_of_the_lab_goes_through_json_and_pickle():
    lab = load(PROJECT / "lab.yaml")
    failure = ModuleFailure("siw", "drivers/siw.c", 7, "error: no", dependents=("rpcrdma",))
    build = BuildResult("with", Outcome.PASS, key="key", module_failures=(failure,))
    for job in make_plan(lab, choice=("*",), repeat=1).jobs:
        task = JobTask(
            spec=job,
            scenario=lab.scenarios[job.scenario].file(),
            kernels={name: KernelUnderTest(build=build, patched=("f",)) for name in job.placement.values()},
            roots={"x86_64": "key"},
            payload=("own", "library"),
            accel="icount",  # no machine of lab.yaml can say it, and `measure` does
        )
        assert JobTask.from_json(task.to_json()) == task
        assert pickle.loads(pickle.dumps(task)) == task


def test_what_is_no_task_is_refused():
    with pytest.raises(ValueError, match="Invalid JSON"):
        JobTask.from_json(b"no JSON")


def tasks(bench, *choice):
    seen = []
    bench.job = lambda inputs: seen.append(inputs.task) or Outcome.PASS
    assert bench.execute(*choice).complete
    return seen


def test_a_task_names_no_place_of_the_host_that_made_it(bench):
    place = str(bench.root)
    failure = ModuleFailure("siw", "drivers/siw.c", 7, "error: no", log=f"{place}/siw.c:7")
    told = {"reproduce": f"make -C {place}", "log_tail": place, "module_failures": (failure,)}
    bench.kernel = lambda name, ctx: bench.artifact(name, **told)
    for task in tasks(bench, "solo", "duo"):
        assert place.encode() not in task.to_json()
        assert place.encode() not in pickle.dumps(task)


def test_an_edit_after_the_run_began_changes_no_job(bench):
    script = bench.root / "scenarios/solo/run.sh"
    library = bench.root / "scenarios/lib/ktap.sh"

    def kernel(name, ctx):
        for path in (script, library):
            path.write_text("edited\n")
        return bench.artifact(name)

    wanted = {f"/lab/scenario/{script.name}": script.read_bytes(), f"/lab/lib/{library.name}": library.read_bytes()}
    bench.kernel = kernel
    for task in tasks(bench):
        folders = [bench.host.cache.need(payload.KIND, key) / payload.FILES for key in task.payload]
        found = {path: data for folder in folders for path, data, _ in payload.read(folder)}
        assert wanted.items() <= found.items()


def test_files_that_cannot_be_read_cost_their_own_scenarios_jobs(bench):
    labdir.write(bench.root / "scenarios/solo/wrong.j2", "{{ nothing }}\n")
    run = bench.execute("solo", "duo")
    found = {(job.scenario, job.outcome) for job in run.jobs}
    assert found == {("solo", Outcome.INFRA), ("duo", Outcome.PASS)}
    assert all("'nothing' is undefined" in job.message for job in run.jobs if job.scenario == "solo")


def test_files_have_the_key_of_what_they_are(tmp_path):
    files = [("/lab/lib/a b", b"x", 0o644), ("/lab/scenario/run.sh", b"#!/bin/sh\n", 0o755)]
    here, there = Cache(tmp_path / "here"), Cache(tmp_path / "there")
    key = payload.keep(files, here, "probe")
    assert payload.keep(reversed(files), there, "the same, from elsewhere") == key
    assert payload.read(there.need(payload.KIND, key) / payload.FILES) == files
    others = [files[:1], [(files[0][0], b"y", 0o644), files[1]], [files[0], (*files[1][:2], 0o644)]]
    assert len({key, *(payload.keep(other, here, "") for other in others)}) == 4


def test_an_artifact_that_is_not_there_is_the_labs_fault(tmp_path):
    with pytest.raises(HostError, match="no kernel 0123456789ab in the cache"):
        Cache(tmp_path).need("kernel", "0123456789abcdef")


def test_a_run_takes_a_jobs_files_in(bench):
    def run_job(task, here):
        labdir.write(here.folder / "attach-main/x", task.spec.id)
        labdir.write(here.folder / "console-main.log", "booted")
        result = infra(task.spec, RuntimeError("odd"))
        log = GuestLog("main", task.spec.column, "console-main.log")
        return dataclasses.replace(result, outcome=Outcome.PASS, guests=(log,), attachments=("attach-main/x",))

    plan = bench.plan()
    run_dir = bench.begin(plan)
    stale = labdir.write(run_dir.job_dir(plan.jobs[0].id) / "stale", "of a try that was killed")
    with LocalExecutor(bench.host, 1, run_job) as executor:
        run = execute(bench.lab, plan, bench.host, run_dir, PlainProgress(bench.out), bench.settings, executor).run
    for job in run.jobs:
        folder = run_dir.job_dir(job.job).relative_to(run_dir.path)
        assert (job.guests[0].console, job.attachments) == (
            f"{folder}/console-main.log",
            (f"{folder}/attach-main/x.txt",),
        )
        assert (run_dir.path / job.attachments[0]).read_text() == job.job
    assert not stale.exists()
    assert not list((bench.host.cache.root / "tmp").glob("job-*"))


def test_files_that_somebody_deleted_cost_their_own_job(bench):
    def run_job(task, here):
        if task.spec.column == "with":
            shutil.rmtree(here.folder)
        return dataclasses.replace(infra(task.spec, RuntimeError("odd")), outcome=Outcome.PASS)

    plan = bench.plan()
    with LocalExecutor(bench.host, 1, run_job) as executor:
        view = execute(
            bench.lab, plan, bench.host, bench.begin(plan), PlainProgress(bench.out), bench.settings, executor
        )
    assert [job.outcome for job in view.run.jobs] == [Outcome.PASS, Outcome.INFRA]
    assert view.run.jobs[1].message == "its files are gone"
