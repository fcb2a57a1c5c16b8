"""Builds, images and jobs as they meet, with fakes in place of kernels, roots and guests."""

import dataclasses
import io
import os
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from kpatchlab.build.built import Programs
from kpatchlab.build.changes import Changes
from kpatchlab.build.context import BuildCancelled
from kpatchlab.build.patchset import DoesNotApplyError
from kpatchlab.cache import META
from kpatchlab.errors import HostError, LabError, UserError
from kpatchlab.files import is_inert
from kpatchlab.lab import load
from kpatchlab.lab.recipes import PatchesSeries
from kpatchlab.model import ChangedFunction, Checkout, JobResult, Outcome, PatchFacts, Verdict
from kpatchlab.plan.jobs import make_plan
from kpatchlab.progress import PlainProgress
from kpatchlab.run import pipeline, stages
from kpatchlab.run.stages import Settings
from kpatchlab.store.run_dir import RunDir
from kpatchlab.verdict.compare import compare
from tests import labdir


def one_guest(bench):
    """Let one job run after the other."""
    bench.lab = dataclasses.replace(bench.lab, limits=bench.lab.limits.model_copy(update={"guests": 1}))


def outcomes(run):
    return {job.job: str(job.outcome) for job in run.jobs}


# --- bases


def test_a_base_that_has_not_moved_is_told_once_though_two_kernels_have_it(bench, monkeypatch):
    monkeypatch.setattr(stages, "standing_still", lambda recipes, ctx: ["base x has not moved"] * len(recipes))
    bench.execute()
    assert bench.lines.count("base x has not moved") == 1


def test_a_base_is_told_of_when_its_kernel_is_kept(bench, monkeypatch):
    kept = []
    monkeypatch.setattr(stages, "standing_still", lambda recipes, ctx: [f"{len(kept)} kept"])
    save = RunDir.save_build
    monkeypatch.setattr(RunDir, "save_build", lambda self, build, log="": kept.append(build) or save(self, build, log))
    bench.execute()
    assert [line for line in bench.lines if line.endswith(" kept")] == ["1 kept", "2 kept"]


# --- order


def test_a_series_that_does_not_apply_costs_its_own_column(bench, monkeypatch):
    def kernel(name, ctx):
        if name == "with":
            raise DoesNotApplyError("patch 3 of 28 does not apply: net/tls/tls_sw.c:7: hunk 1 of 2", details=("@@ -7",))
        return dataclasses.replace(bench.artifact(name), base_key="tree")

    bench.kernel = kernel
    monkeypatch.setattr(stages, "source_of", lambda *_: SimpleNamespace(tree_key="tree"))
    run = bench.execute()
    assert run.builds[1].outcome is Outcome.BLOCKED
    assert "hunk 1 of 2" in run.builds[1].error
    assert "@@ -7" in run.builds[1].log_tail
    assert run.same_base


def test_all_is_well(bench):
    run = bench.execute()
    assert outcomes(run) == {"solo@without#1": "pass", "solo@with#1": "pass"}
    assert run.complete
    assert run.columns == ("without", "with")
    assert [build.kernel for build in run.builds] == ["without", "with"]
    assert bench.lines.count("guests run in a fake") == 1
    stored, folder = bench.store.load("last")
    assert stored == run
    assert (folder / "junit.xml").read_bytes().startswith(b"<?xml")
    assert b"<html" in (folder / "index.html").read_bytes()


def test_a_run_is_compared_once(bench, monkeypatch):
    compared = []

    def counting(run):
        compared.append(len(run.jobs))
        return compare(run)

    for module in [module for name, module in sys.modules.items() if name.startswith("kpatchlab.")]:
        if getattr(module, "compare", None) is compare:
            monkeypatch.setattr(module, "compare", counting)
    bench.execute()
    assert compared == [0, 2]  # the new run's row in the index, and then index, history, page and JUnit together


def test_a_job_starts_while_the_other_kernel_still_builds(bench):
    ended = threading.Event()

    def kernel(name, ctx):
        if name == "with":
            assert ended.wait(20)  # only the first kernel's job can set it
        return bench.artifact(name)

    def job(inputs):
        if inputs.spec.column == "without":
            ended.set()
        return Outcome.PASS

    bench.kernel, bench.job = kernel, job
    bench.execute()
    assert bench.log.index("end solo@without#1") < bench.log.index("built with")


@pytest.mark.parametrize(
    ("again", "verdict", "exit_code"),
    [("pass", Verdict.FLAKY, 0), ("fail", Verdict.REGRESSED, 1), ("crash", Verdict.REGRESSED, 1)],
)
def test_a_job_that_is_bad_beside_a_build_is_run_once_more(bench, again, verdict, exit_code):
    ended = threading.Event()

    def kernel(name, ctx):
        if name == "without":
            assert ended.wait(20)
        return bench.artifact(name)

    def job(inputs):
        if inputs.spec.id == "solo@with#1":  # runs beside the base's build
            ended.set()
            return Outcome.FAIL
        return Outcome(again) if inputs.spec.column == "with" else Outcome.PASS

    bench.kernel, bench.job = kernel, job
    plan = bench.plan()
    plan = dataclasses.replace(plan, kernels=plan.kernels[::-1])
    run = bench.execute(plan=plan)
    assert outcomes(run) == {"solo@without#1": "pass", "solo@with#1": "fail", "solo@with#2": again}
    first = next(job for job in run.jobs if job.job == "solo@with#1")
    assert first.beside == ("kernel without",)
    assert bench.log.index("built without") < bench.log.index("start solo@with#2")
    assert any(line.startswith("once more: solo@with#2: it ran beside kernel without") for line in bench.lines)
    comparison = compare(run)
    assert comparison.groups[0].verdict("with") is verdict
    assert comparison.exit_code == exit_code
    again_log = list(bench.log)
    assert bench.execute(plan=plan, run_dir=bench.store.open_run("last")).jobs == run.jobs
    assert bench.log == again_log, "a run that is whole has nothing to repeat"


def test_a_job_that_is_bad_while_nothing_is_built_is_not_run_again(bench):
    bench.job = lambda inputs: Outcome.FAIL if inputs.spec.column == "with" else Outcome.PASS
    bench.host.cache.path("kernel", "x").mkdir(parents=True)
    bench.kernel = lambda name, ctx: bench.artifact(name, cached=True)
    bench.execute()  # makes the root
    bench.log = []
    assert set(outcomes(bench.execute())) == {"solo@without#1", "solo@with#1"}


def test_a_scenario_that_is_to_fail_is_not_run_again(bench):
    bench.settings = dataclasses.replace(bench.settings, broken=True)
    bench.job = lambda inputs: Outcome.FAIL
    assert len(outcomes(bench.execute())) == 2


def test_pairs_wait_for_both_kernels(bench):
    bench.execute("duo")
    start = {line: number for number, line in enumerate(bench.log)}
    mixed = [number for line, number in start.items() if line.startswith("start") and "client=" in line]
    assert len(mixed) == 6
    assert min(mixed) > start["built with"]


def test_a_build_is_saved_as_it_ends(bench):
    seen = []

    def kernel(name, ctx):
        seen.append(sorted(path.stem for path in bench.store.root.glob("2*/builds/*.json")))
        return bench.artifact(name)

    bench.kernel = kernel
    bench.execute()
    assert seen == [[], ["without"]]


def test_a_job_is_saved_as_it_ends(bench):
    seen = []

    def stored():
        return len(list(bench.store.root.glob("2*/jobs/*.json")))

    def job(inputs):
        end = time.monotonic() + 20
        while stored() < len(seen) and time.monotonic() < end:  # the next one may begin before
            time.sleep(0.01)
        seen.append(stored())
        return Outcome.PASS

    bench.job = job
    one_guest(bench)
    bench.execute()
    assert seen == [0, 1]


# --- what was cached


def test_cached_kernels_and_roots_are_one_line(bench, monkeypatch):
    bench.kernel = lambda name, ctx: bench.artifact(name, cached=True)
    monkeypatch.setattr(bench.host.cache, "has", lambda kind, key: True)
    bench.execute()
    told = [line for line in bench.lines if "solo" not in line]
    assert sorted(told) == ["guests run in a fake", "nothing to build: all cached"]


def test_what_was_made_is_told(bench):
    bench.execute()
    assert "kernel with: 6.1-with (fetched in 0.0 s)" in bench.lines
    assert any(line.startswith("root base: made in") for line in bench.lines)
    assert "nothing to build: all cached" not in bench.lines


# --- what fails


def test_a_kernel_that_does_not_build_blocks_its_column_alone(bench):
    bench.kernel = lambda name, ctx: (
        bench.artifact(name, outcome=Outcome.BLOCKED, error="no ';'") if name == "with" else bench.artifact(name)
    )
    bench.job = lambda inputs: (
        Outcome.BLOCKED if any(k.build.outcome is Outcome.BLOCKED for k in inputs.kernels.values()) else Outcome.PASS
    )
    run = bench.execute()
    assert [build.outcome for build in run.builds] == [Outcome.PASS, Outcome.BLOCKED]
    assert run.complete


@pytest.mark.parametrize(
    "error", [HostError("the mirror is away", hint="wait"), OSError(28, "No space left on device")]
)
def test_a_stage_that_fails_costs_its_jobs_alone(bench, error):
    bench.kernel = lambda name, ctx: error if name == "with" else bench.artifact(name)
    run = bench.execute("solo", "duo")
    found = {job.job: job for job in run.jobs}
    assert {job.column for job in run.jobs if job.outcome is Outcome.PASS} == {"without"}
    lost = found["solo@with#1"]
    assert lost.outcome is Outcome.INFRA
    assert error.args[-1] in lost.message
    assert len(lost.cases) == 1
    assert [str(build.outcome) for build in run.builds] == ["pass", "infra"]
    assert len(bench.store.load("last")[0].jobs) == len(run.jobs)


def test_a_root_that_cannot_be_made_is_raised(bench):
    bench.image = lambda name: HostError("the mirror is away", hint="wait")
    with pytest.raises(HostError, match="the mirror is away"):
        bench.execute()
    stored, _ = bench.store.load("last")
    assert outcomes(stored) == {"solo@without#1": "infra", "solo@with#1": "infra"}


def test_all_infra_is_the_errors_own_exit_status(bench):
    bench.kernel = lambda name, ctx: UserError("no such revision: v9")
    with pytest.raises(LabError) as caught:
        bench.execute()
    assert (caught.value.exit_code, caught.value.message) == (2, "no such revision: v9")
    assert outcomes(bench.store.load("last")[0]) == {"solo@without#1": "infra", "solo@with#1": "infra"}


def test_no_qemu_is_known_before_anything_is_built(bench):
    bench.host.problem = HostError("no QEMU", hint="install it")
    bench.kernel = lambda name, ctx: ctx.cancel.wait(20) and BuildCancelled("build cancelled")
    begin = time.monotonic()
    with pytest.raises(HostError, match="no QEMU"):
        bench.execute()
    assert time.monotonic() - begin < 5
    assert not [line for line in bench.log if line.startswith("start")]


def test_a_job_that_raises_is_infra_and_others_go_on(bench):
    bench.job = lambda inputs: ValueError("odd") if inputs.spec.column == "with" else Outcome.PASS
    run = bench.execute()
    assert outcomes(run) == {"solo@without#1": "pass", "solo@with#1": "infra"}
    assert "INFRA    solo@with#1  0.0 s  ValueError: odd" in bench.out.getvalue()
    assert {job.job: job.reproduce for job in run.jobs} == {
        name: f"kpatchlab run --job {name}" for name in ("solo@without#1", "solo@with#1")
    }


def test_inputs_that_cannot_be_gathered_cost_one_job(bench, monkeypatch):
    def shape(*_):
        raise HostError("QEMU has gone")

    monkeypatch.setattr(bench.host, "shape", shape)
    run = bench.execute()
    assert {job.message for job in run.jobs} == {"QEMU has gone"}


# --- stopped and gone on with


def cancel_at(bench, number):
    """Make the job of this number the one during which the user presses Ctrl-C."""
    count = []

    def job(inputs):
        count.append(inputs.spec.id)
        if len(count) == number:
            bench.settings.cancel.set()
            time.sleep(0.1)
            return RuntimeError("guest lost")  # what a cancelled job comes back as
        return Outcome.PASS

    bench.job = job
    one_guest(bench)


def test_a_stopped_run_is_stored_and_gone_on_with(bench):
    plan = bench.plan("solo", "duo")
    cancel_at(bench, 4)
    first = bench.execute(plan=plan)
    assert not first.complete
    assert len(first.jobs) == 3
    assert {job.outcome for job in first.jobs} == {Outcome.PASS}  # none of them INFRA
    stored, _ = bench.store.load("last")
    assert (stored.complete, len(stored.jobs)) == (False, 3)

    done = {job.job for job in first.jobs}
    bench.settings, bench.log, bench.out = Settings(command="kpatchlab run --resume last"), [], io.StringIO()
    bench.job = lambda inputs: Outcome.PASS
    run = bench.execute(plan=plan, run_dir=bench.store.open_run("last"))
    assert run.complete
    assert [job.job for job in run.jobs] == [job.id for job in plan.jobs]
    again = {line.removeprefix("start ") for line in bench.log if line.startswith("start ")}
    assert again == {job.id for job in plan.jobs} - done
    assert f"3 of {len(plan.jobs)} jobs are done already" in bench.lines
    assert f"[ 1/{len(plan.jobs) - 3}]" in bench.out.getvalue()
    assert (run.id, run.started, run.command) == (first.id, first.started, "kpatchlab run")
    assert run.duration_s > first.duration_s
    assert len(bench.store.ids()) == 1
    assert bench.store.load("last")[0] == run


def test_a_stop_while_kernels_build_is_no_failure_of_theirs(bench):
    def kernel(name, ctx):
        bench.settings.cancel.set()
        assert ctx.cancel.wait(10)
        return BuildCancelled("build cancelled")

    bench.kernel = kernel
    run = bench.execute()
    assert (run.complete, run.jobs, run.builds) == (False, (), ())
    assert not list(bench.store.root.glob("2*/builds/*"))


def test_a_killed_run_is_gone_on_with(bench):
    plan = bench.plan("solo", "duo")
    run_dir = bench.begin(plan)
    spec = plan.jobs[0]
    run_dir.save_build(bench.artifact("without", duration_s=1000, objects_compiled=3))
    run_dir.save_job(
        JobResult(
            job=spec.id,
            scenario=spec.scenario,
            params={},
            column=spec.column,
            placement=dict(spec.placement),
            repeat=1,
            outcome=Outcome.FAIL,
            message="as it was",
        )
    )
    run_dir.close()  # what a kill does to its lock
    (run_dir.path / "jobs" / ".half.json.x.new").write_text("{")
    run = bench.execute(plan=plan, run_dir=bench.store.open_run("last"))
    assert run.complete
    assert run.jobs[0].message == "as it was"
    assert f"start {spec.id}" not in bench.log
    assert run.builds[0].objects_compiled == 3  # what the first start found out is kept


def test_a_job_that_is_lost_to_a_full_disk_ends_the_run(bench, monkeypatch):
    """Other repeats of it would be judged, and the run be called whole."""
    plan = make_plan(bench.lab, choice=("solo",), repeat=3)
    lost = iter([False, False, True, False, False, False])
    bench.job = lambda inputs: OSError(28, "No space left on device") if next(lost) else Outcome.PASS
    monkeypatch.setattr(pipeline, "refuses", lambda folder: "No space left on device")
    run_dir = bench.begin(plan)
    with pytest.raises(HostError, match=r"^cannot write to .*: No space left on device$"):
        bench.execute(plan=plan, run_dir=run_dir)
    run_dir.close()
    bench.settings = Settings()  # of another process
    monkeypatch.setattr(pipeline, "refuses", lambda folder: "")
    bench.job = lambda inputs: Outcome.PASS
    run = bench.execute(plan=plan, run_dir=bench.store.open_run("last"))
    assert run.complete
    assert [job.outcome for job in run.jobs] == [Outcome.PASS] * 6


def test_what_the_lab_lost_is_done_again(bench):
    bench.job = lambda inputs: ValueError("odd") if inputs.spec.column == "with" else Outcome.PASS
    bench.execute()
    bench.job = lambda inputs: Outcome.PASS
    run = bench.execute(run_dir=bench.store.open_run("last"))
    assert outcomes(run) == {"solo@without#1": "pass", "solo@with#1": "pass"}
    assert bench.log.count("start solo@without#1") == 1


def test_a_job_that_an_earlier_process_ran_is_repeated_with_all_that_it_needs(bench):
    plan = bench.plan("solo", "duo")
    bench.execute(plan=plan)
    run_dir = bench.store.open_run("last")
    for name, result in run_dir.done_jobs().items():  # as a kill leaves it
        if result.scenario == "duo":
            run_dir.drop_job(name)
        elif result.column == "with":
            withheld = dataclasses.replace(result, outcome=Outcome.FAIL, duration_s=10.0, withheld_s=8.0)
            run_dir.save_job(withheld)
    run = bench.execute(plan=plan, run_dir=run_dir)
    told = outcomes(run)
    assert (told["solo@with#1"], told["solo@with#2"]) == ("fail", "pass")
    assert "infra" not in told.values()


def test_a_whole_run_is_not_done_again(bench):
    first = bench.execute()
    bench.log = []
    run = bench.execute(run_dir=bench.store.open_run("last"))
    assert bench.log == []
    assert (run.jobs, run.builds, run.host) == (first.jobs, first.builds, first.host)


@pytest.mark.parametrize("what", ["scenarios/solo/run.sh", "scenarios/lib/more.py", "rootfs/base.yaml", ""])
def test_a_scenario_that_changed_meanwhile_is_run_whole_again(bench, what):
    plan = bench.plan()
    cancel_at(bench, 2)
    assert not bench.execute(plan=plan).complete
    path = bench.root / what
    if what:
        path.parent.mkdir(exist_ok=True)
        added = "packages: [python3, nfs-common]\n" if path.suffix == ".yaml" else "# another\n"
        path.write_text(added if path.suffix == ".yaml" else (path.read_text() if path.exists() else "") + added)
    bench.lab = load.load(bench.lab.path)
    bench.settings, bench.job, bench.log[:] = Settings(), lambda inputs: Outcome.PASS, []
    run = bench.execute(plan=plan, run_dir=bench.store.open_run("last"))
    assert run.complete
    assert sum(line.startswith("start ") for line in bench.log) == (len(plan.jobs) if what else len(plan.jobs) - 1)
    said = "run again, since they changed after the run had begun: solo"
    assert (said in bench.lines) is bool(what)


def test_going_on_with_another_kernel_is_refused(bench):
    plan = bench.plan()
    cancel_at(bench, 2)
    bench.execute(plan=plan)
    bench.settings, bench.job = Settings(), lambda inputs: Outcome.PASS
    bench.keys = {"without": "another", "with": "another"}
    bench.log = []
    run = bench.execute(plan=plan, run_dir=bench.store.open_run("last"))
    lost = [job for job in run.jobs if job.outcome is Outcome.INFRA]
    assert [job.message for job in lost] == ["kernel with is not the one that the run began with"]
    assert "build with" not in bench.log, "what cannot be used is not built"
    assert [build.outcome for build in run.builds] == [Outcome.PASS, Outcome.PASS], "both were built before"


def repeat_wanted(bench, plan):
    """Run a plan, and leave what a killed run that wants one more repeat of a job of `with` does."""
    bench.execute(plan=plan)
    run_dir = bench.store.open_run("last")
    result = run_dir.done_jobs()["solo@with#1"]
    run_dir.save_job(dataclasses.replace(result, outcome=Outcome.FAIL, duration_s=10.0, withheld_s=8.0))
    bench.log, bench.out = [], io.StringIO()
    return run_dir


@pytest.mark.parametrize("lost", [UserError("no branch main"), None], ids=["its branch is gone", "its branch moved"])
def test_a_repeat_is_of_the_kernel_that_the_run_began_with(bench, monkeypatch, lost):
    """The recipe leads elsewhere by now; the first artifact is in the cache."""
    plan = bench.plan()
    run_dir = repeat_wanted(bench, plan)
    (bench.host.cache.path("kernel", "key-with") / META).write_text("{}")
    bench.keys = {"with": "another"}
    if lost:
        monkeypatch.setattr(stages, "kernel_key", lambda *_: (_ for _ in ()).throw(lost))
    seen = []
    bench.job = lambda inputs: seen.extend(k.build.key for k in inputs.kernels.values()) or Outcome.PASS
    run = bench.execute(plan=plan, run_dir=run_dir)
    assert outcomes(run)["solo@with#2"] == "pass"
    assert seen == ["key-with"]
    assert "build with" not in bench.log
    assert [(build.outcome, build.key) for build in run.builds][1] == (Outcome.PASS, "key-with")
    why = "no branch main" if lost else "its recipe leads to another one by now"
    assert f"kernel with: it stays the one that the run began with: {why}" in bench.lines


def test_a_repeat_whose_kernel_is_gone_is_not_run_and_the_run_stands(bench):
    plan = bench.plan()
    run_dir = repeat_wanted(bench, plan)
    bench.keys = {"with": "another"}
    run = bench.execute(plan=plan, run_dir=run_dir)
    assert outcomes(run) == {"solo@without#1": "pass", "solo@with#1": "fail"}
    assert run.complete
    assert bench.log == [], "nothing is built, and nothing is run"
    assert [(build.outcome, build.key) for build in run.builds][1] == (Outcome.PASS, "key-with")
    assert bench.lines.count("solo@with#2 is not run: kernel with is not the one that the run began with") == 1


def test_tests_of_another_tree_are_no_tests_of_the_kernel_that_the_run_began_with(bench, monkeypatch):
    asked = []
    with_selftests(bench, monkeypatch, lambda name: asked.append(name) or Programs(Outcome.PASS, "kselftest", name))
    plan = bench.plan()
    bench.execute(plan=plan)
    run_dir = bench.store.open_run("last")
    run_dir.drop_job(next(name for name, result in run_dir.done_jobs().items() if result.column == "with"))
    (bench.host.cache.path("kernel", "key-with") / META).write_text("{}")
    bench.keys, asked[:] = {"with": "another"}, []
    run = bench.execute(plan=plan, run_dir=run_dir)
    lost = [job.message for job in run.jobs if job.outcome is Outcome.INFRA]
    assert lost == ["kernel with is not the one that the run began with"]
    assert asked == []


def test_all_cached_is_said_once_though_repeats_need_more_that_is(bench, monkeypatch):
    bench.kernel = lambda name, ctx: bench.artifact(name, cached=True)
    monkeypatch.setattr(bench.host.cache, "has", lambda kind, key: True)
    plan = bench.plan()
    run_dir = repeat_wanted(bench, plan)
    run_dir.drop_job("solo@without#1")
    run = bench.execute(plan=plan, run_dir=run_dir)
    assert "solo@with#2" in outcomes(run)
    assert bench.lines.count("nothing to build: all cached") == 1


def test_what_a_kernel_was_made_of_is_asked_once_and_while_it_is_built(bench, monkeypatch):
    """Where a branch stands by the end of the run does not matter, and no server is asked then."""
    origins, ended = [], []

    def source_of(spec, ctx):
        assert not ended, "a source is asked for when all jobs are done"
        origins.append(SimpleNamespace(tree_key="tree"))
        return origins[-1]

    def checkout_of(build, recipe, ctx, origin):
        assert origin in origins
        return (Checkout(build.kernel, "c" * 40, patchset="d" * 64), [b"a diff"]) if build.kernel == "with" else None

    monkeypatch.setattr(stages, "source_of", source_of)
    monkeypatch.setattr(stages, "checkout_of", checkout_of)
    one_guest(bench)
    bench.job = lambda inputs: ended.append(1) or Outcome.PASS
    run = bench.execute()
    assert len(origins) == len(run.builds) == 2
    name = "patches/with/0001.patch.txt"
    assert run.checkouts == (Checkout("with", "c" * 40, "", (name,), "d" * 64),)
    assert (bench.root / "results" / run.id / name).read_bytes() == b"a diff"
    assert is_inert(name), "a stranger's text is no page"
    again = bench.execute(run_dir=bench.store.open_run(run.id))
    assert again.checkouts == run.checkouts


def test_reproduce_lines_reach_the_result(bench):
    bench.settings = Settings(reproduce=lambda job: f"./lab run --job '{job.id}'")
    run = bench.execute()
    assert run.jobs[0].reproduce == "./lab run --job 'solo@without#1'"
    assert bench.store.load("last")[0].jobs[0].reproduce == run.jobs[0].reproduce


def test_what_a_run_used_at_its_beginning_is_not_pruned_at_its_end(bench, monkeypatch):
    limits = bench.lab.limits.model_copy(update={"disk_gib": 1e-9})
    bench.lab = dataclasses.replace(bench.lab, limits=limits)
    cache = bench.host.cache
    for key in ("used", "idle"):
        cache.get("kernel", key, lambda work: (work / "vmlinux").write_text("x" * 9999))
    idle = cache.path("kernel", "idle") / META
    os.utime(idle, (time.time() - 60,) * 2)
    # What a run writes at its end takes its time, and is no part of what it used.
    monkeypatch.setattr(pipeline.header, "keep_maintainers", lambda *_: time.sleep(0.5))
    bench.image = lambda _: cache.touch("kernel", "used")
    bench.execute()
    assert [entry.key for entry in cache.entries() if entry.kind == "kernel"] == ["used"]


# --- build


def build_only(bench):
    return pipeline.build_only(bench.lab, bench.plan(), bench.host, PlainProgress(bench.out), bench.settings)


def test_build_returns_the_kernels(bench):
    assert [build.kernel for build in build_only(bench)] == ["without", "with"]


def test_build_raises_what_a_root_failed_by(bench):
    bench.image = lambda name: HostError("the mirror is away")
    with pytest.raises(HostError, match="the mirror is away"):
        build_only(bench)


def test_a_stopped_build_returns_what_is_there(bench):
    def kernel(name, ctx):
        if name == "without":
            return bench.artifact(name)
        bench.settings.cancel.set()
        return BuildCancelled("build cancelled")

    bench.kernel = kernel
    assert [build.kernel for build in build_only(bench)] == ["without"]


SELFTESTS = labdir.SOLO + "parameters: {collection: [splice, net/tls]}\nneeds: {kselftest: [$collection]}\n"


def with_selftests(bench, monkeypatch, build):
    labdir.write(bench.root / "scenarios" / "solo" / "scenario.yaml", SELFTESTS)
    bench.lab = load.load(bench.root / "lab.yaml")
    monkeypatch.setattr(stages, "build_foreign", lambda recipe, name, ctx: build(name))


def test_selftests_are_built_for_each_kernel_and_given_to_its_jobs(bench, monkeypatch):
    seen = []
    with_selftests(bench, monkeypatch, lambda name: Programs(Outcome.PASS, "kselftest", f"key of {name}"))
    bench.job = lambda inputs: seen.append(inputs.kernels) or Outcome.PASS
    run = bench.execute("solo")
    assert run.complete
    given = [(kernel, found.tests) for kernels in seen for kernel, found in kernels.items()]
    pairs = [((kernel, name), built.key) for kernel, tests in given for name, built in tests.items()]
    assert sorted(pairs) == [
        ((kernel, f"kselftest/{name}"), f"key of kselftest/{name}")
        for kernel in ("with", "without")
        for name in ("net/tls", "splice")
    ]
    assert any(line.startswith("kselftest/net/tls of with: built in ") for line in bench.lines)


def test_selftests_that_cannot_be_had_cost_their_own_jobs(bench, monkeypatch):
    def build(name):
        if name == "kselftest/splice":
            raise HostError("the mirror cannot be reached")
        return Programs(Outcome.PASS, "kselftest", name, cached=True)

    with_selftests(bench, monkeypatch, build)
    run = bench.execute("solo")
    found = {(job.params["collection"], job.outcome) for job in run.jobs}
    assert found == {("splice", Outcome.INFRA), ("net/tls", Outcome.PASS)}


def with_a_series(bench, monkeypatch, found):
    """Let the kernel `with` have a series, of which is known what `found` returns."""
    recipe = bench.lab.kernels["with"].model_copy(update={"series": (PatchesSeries(type="patches", path="p"),)})
    bench.lab = dataclasses.replace(bench.lab, kernels={**bench.lab.kernels, "with": recipe})
    monkeypatch.setattr(stages, "series_changes", lambda *_: found())
    told = (PatchFacts("with", 1, "first", ("a.c",), (ChangedFunction("f", "a.c"),)),)
    monkeypatch.setattr(stages.traceable, "facts", lambda *_: (told, ("f",)))
    return told


@pytest.mark.parametrize("trace", [True, False])
def test_jobs_count_what_the_series_changes_unless_told_not_to(bench, monkeypatch, trace):
    """The patches are in the run either way; a resumed run that builds nothing keeps them."""
    told = with_a_series(bench, monkeypatch, Changes)
    one_guest(bench)
    seen = []
    bench.job = lambda inputs: seen.append({n: k.patched for n, k in inputs.kernels.items()}) or Outcome.PASS
    bench.settings = dataclasses.replace(bench.settings, trace=trace)
    run = bench.execute()
    assert run.patches == told
    assert seen[-1] == {"with": ("f",) if trace else ()}
    assert bench.store.load(run.id)[0].patches == told
    again = bench.execute(run_dir=bench.store.open_run(run.id))
    assert again.patches == told


def test_a_series_that_cannot_be_read_costs_the_counts_alone(bench, monkeypatch):
    def unknown():
        raise HostError("the mirror does not answer")

    with_a_series(bench, monkeypatch, unknown)
    run = bench.execute()
    assert run.complete
    assert run.patches == ()
    assert any("what its patches change is not known: the mirror does not answer" in line for line in bench.lines)
