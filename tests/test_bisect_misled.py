"""What could mislead a search: a stop in its middle, a culprit elsewhere, a tree that Kconfig refuses."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from kpatchlab.bisect import drive, step
from kpatchlab.bisect.commits import make
from kpatchlab.bisect.loop import Loop, Mark, ProbeResult
from kpatchlab.build.built import Programs
from kpatchlab.model import Outcome
from kpatchlab.run import stages
from kpatchlab.run.executor import infra
from tests.bisect_support import concluded, search, states
from tests.fake_stages import local

pytestmark = pytest.mark.toy


def call_jobs(monkeypatch, run):
    local(monkeypatch, run)


@pytest.mark.parametrize("number", [1, 7])
def test_what_ctrl_c_cuts_off_tells_nothing(lab, monkeypatch, number):
    lab.grow("printk", "printk", "fault", "printk")
    run, count = lab.run_job, []

    def stopped(inputs):
        count.append(1)
        if len(count) < number:
            return run(inputs)
        if len(count) == number:
            os.kill(os.getpid(), signal.SIGINT)
        inputs.here.cancel.wait(20)
        return infra(inputs.spec, RuntimeError("the guest was closed"))

    call_jobs(monkeypatch, stopped)
    status, _, err = search(lab)
    assert status == 130
    assert "stopped; to go on: " in err
    assert "skip" not in {one["verdict"] for one in states(lab)[0]["told"]}
    call_jobs(monkeypatch, run)
    status, out, err = lab.call("bisect", "--resume", "last")
    assert status == 0, out + err
    assert f"culprit: {lab.commits[3][:12]}" in out


@pytest.mark.parametrize("rate", [1.0, 0.5])
def test_a_culprit_that_touches_none_of_the_paths_is_not_laid_on_one_that_does(lab, rate):
    lab.grow("printk", "printk", "comment", "fault", "comment", "printk", "printk")
    lab.flaky(rate)
    status, out, err = search(lab, "--path", "core/main.c")
    assert status == 1, out + err
    assert not list(lab.root.glob("results/bisect/*/mail.txt"))
    before, parent = lab.commits[2][:12], lab.commits[5][:12]
    assert f"the culprit touches none of core/main.c: it is {parent} or lies between {before} and it" in out
    state, words = concluded(lab)
    assert (state.culprit, state.suspects) == (None, ())
    assert words == f"the culprit touches none of core/main.c: it is {parent} or lies between {before} and it"
    assert f"to find it: --good {before} --bad {parent}, without --path" in out
    status, out, err = search(lab, "--path", "core/net.c")
    assert status == 0, out + err
    assert f"culprit: {lab.commits[4][:12]}" in out, out + err


def test_a_parent_that_cannot_be_tested_proves_nothing():
    history = make("g", "c3", [("c1", ("g",)), ("c2", ("c1",)), ("c3", ("c2",))])
    for figures in (Mark.BAD, Mark.SKIP, Mark.INFRA):
        loop = Loop(history, parents=lambda c: (f"p-{c}",))
        while (ask := loop.ask()) is not None:
            verdict = Mark.BAD if ask.commit in {"c2", "c3"} else Mark.GOOD
            if ask.commit == "p-c2":
                verdict = figures
            loop.tell(ProbeResult(ask.commit, verdict, ask.phase))
            loop.search.remaining_s(lambda _: 1.0)
            loop.search.choose(lambda _: 1.0)
        assert not loop.proven
    # A false alarm is no proof that the parent fails.
    loop, alarms = Loop(history, parents=lambda c: (f"p-{c}",)), iter([Mark.BAD])
    while (ask := loop.ask()) is not None:
        verdict = Mark.BAD if ask.commit in {"c2", "c3"} else Mark.GOOD
        loop.tell(ProbeResult(ask.commit, next(alarms, verdict) if ask.commit == "p-c2" else verdict, ask.phase))
    assert loop.elsewhere == ("", "")
    assert loop.search.suspects()[0] == ["c2"]


def test_a_tree_that_cannot_be_configured_is_skipped_and_found(lab):
    lab.grow("printk", "printk")
    kconfig, odd = lab.tree.tree / "Kconfig", lab.tree.tree / "fail"
    text = kconfig.read_text()
    odd.write_text("config\n")
    broken = lab.commit("kconfig", "# odd\n", "Kconfig")
    odd.unlink()
    kconfig.write_text(text)
    lab.grow("printk", "fault", "printk")
    status, out, err = search(lab)
    assert status == 0, out + err
    assert f"culprit: {lab.commits[5][:12]}" in out
    where = ["--tree", str(lab.tree.tree), "--good", "good", "--bad", broken]
    status, out, err = lab.call("bisect", *where, "--build")
    assert status == 0, out + err
    assert f"culprit: {broken[:12]}" in out
    assert "does not build: Kconfig:3: the tree cannot be configured: syntax error" in out
    lab.tree.git("checkout", "-q", broken)
    assert lab.call("bisect-step", "--tree", str(lab.tree.tree), "--scenario", "solo")[0] == 125


def test_a_build_is_proven_by_builds_that_are_made_again(lab):
    lab.grow("printk")
    broken = lab.commit("module", "#error no\n", "drivers/delta.c")
    lab.grow("printk")
    where = ["--tree", str(lab.tree.tree), "--good", "good", "--bad", "main", "--build", "--module", "delta"]
    status, out, err = lab.call("bisect", *where)
    assert status == 0, out + err
    assert f"culprit: {broken[:12]}" in out
    proof = [one for one in states(lab)[0]["told"] if one["phase"] == "proof"]
    assert {one["commit"] for one in proof} == {broken, lab.commits[1]}
    assert all(one["build_s"] for one in proof)


@pytest.mark.parametrize("error", [PermissionError("odd file"), ValueError("cut off")])
def test_no_mistake_of_the_labs_own_makes_a_commit_a_bad_one(lab, monkeypatch, error):
    def raises(*_):
        raise error

    monkeypatch.setattr(step, "judge_tree", raises)
    tree = ["--tree", str(lab.tree.tree)]
    assert lab.call("bisect-step", *tree, "--scenario", "solo")[0] == 128
    assert lab.call("--nonsense", "bisect-step", *tree, "--scenario", "solo")[0] == 128


def test_a_search_goes_on_with_the_configuration_that_it_began_with(lab, monkeypatch):
    lab.grow("printk", "fault", "printk")
    log = lab.root / "log"
    log.write_text(f"git bisect start 'main' 'good'\ngit bisect good {lab.commits[1]}\n")

    def killed(self):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(drive.Drive, "go", killed)
        search(lab, "--replay", str(log))
    assert [one["commit"] for one in states(lab)[0]["told"]] == [lab.commits[1]]  # what git was told is kept at once
    fragment = lab.root / "kernels/config/all.config"
    text = fragment.read_text()
    fragment.write_text(text + "# CONFIG_DELTA is not set\n")
    status, _, err = lab.call("bisect", "--resume", "last")
    assert (status, "is not the one that the search began with" in err) == (2, True)
    fragment.write_text(text)
    status, out, err = lab.call("bisect", "--resume", "last")
    assert status == 0, out + err


def test_tests_of_the_tree_are_those_of_the_commit_that_is_run(lab, monkeypatch):
    lab.grow("printk", "printk", "fault", "comment", "printk")
    scenario = lab.root / "scenarios/solo/scenario.yaml"
    scenario.write_text(scenario.read_text() + "needs: {kselftest: [net]}\n")
    notes = {}
    ran = []

    def tests(recipe, name, ctx):
        time.sleep(0.1)
        notes[name] = (Path(recipe.source.path) / "core/main.c").read_text().count("const char note")
        return Programs(Outcome.PASS, "kselftest", name)

    def run(inputs):
        kernel = inputs.artifact("bisect")
        ran.append(((kernel / "vmlinux").read_bytes().count(b"note "), *notes.values()))
        return lab.run_job(inputs)

    monkeypatch.setattr(stages, "build_foreign", tests)
    call_jobs(monkeypatch, run)
    status, out, err = search(lab, "--candidates", "3", "--whole-config")
    assert status == 0, out + err
    assert f"culprit: {lab.commits[3][:12]}" in out
    assert len(ran) > 9
    assert all(kernel == tree for kernel, tree in ran)
    assert not any(one["same_as"] for one in states(lab)[0]["told"])


def test_the_wrapper_of_a_clone_stops_git_where_it_cannot_set_up():
    program = Path(__file__).parents[1] / "lab"
    env = os.environ | {"KPATCHLAB_VENV": "/proc/nowhere"}
    said = [
        subprocess.run([program, verb], check=False, capture_output=True, env=env) for verb in ("list", "bisect-step")
    ]
    assert [done.returncode for done in said] == [3, 128]


def test_a_clock_that_was_set_back_leaves_no_objects_of_another_commit(lab):
    lab.grow("printk", "comment", "fault", "comment", "printk")
    seen = lab.job

    def in_the_future(text):
        found = list(lab.host.cache.root.glob("bisect/*/tree/obj-*"))
        assert found
        for objects in found:
            for path in [objects, *objects.rglob("*")]:
                ahead = time.time() + 3600
                os.utime(path, (ahead, ahead), follow_symlinks=False)
        return seen(text)

    lab.job = in_the_future
    status, out, err = search(lab)
    assert status == 0, out + err
    assert f"culprit: {lab.commits[3][:12]}" in out
