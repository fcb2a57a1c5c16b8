"""`bisect` as a user has it: real git, real (small) builds of commits of our own making, guests that are fakes."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import threading
import time

import pytest

from kpatchlab.bisect import prober, summary, workspace
from kpatchlab.bisect.commits import NamedCommit
from kpatchlab.model import Outcome, Splat
from tests.bisect_support import concluded, search, states
from tests.fake_stages import local

pytestmark = pytest.mark.toy

KINDS = ["printk", "comment", "module", "printk", "fault", "comment", "printk", "module"]


@pytest.fixture
def history(lab):
    return lab.grow(*KINDS)


def test_the_commit_is_found_and_the_user_s_repository_is_as_it_was(history):
    before = history.untouched()
    status, out, err = search(history)
    assert status == 0, out + err
    culprit = history.commits[1 + KINDS.index("fault")]
    assert f'culprit: {culprit[:12]} ("fault 5")' in out
    assert "bad end without it: failed in 0 of 3 runs: it is gone" in out
    assert '+const char fault[] = "LAB_FAULT";' in out
    assert history.untouched() == before
    (state,) = states(history)
    assert state["ended"] == "found"
    kept, words = concluded(history)
    assert (kept.culprit, kept.suspects) == (NamedCommit(culprit, "fault 5"), (NamedCommit(culprit, "fault 5"),))
    assert words == f'culprit: {culprit[:12]} ("fault 5")'
    folder = history.root / "results/bisect" / state["id"]
    mail = (folder / "mail.txt").read_text()
    assert mail.startswith("Subject: [REGRESSION] fault 5: data intact: byte 4096 differs\n")
    assert f"#regzbot introduced: {culprit}" in mail
    steps = {one["commit"] for one in state["told"] if one["phase"] == "search"}
    assert len(steps) <= 3  # of eight commits


def test_swapped_ends_and_unknown_revisions_are_refused(history):
    where = ["bisect", "--tree", str(history.tree.tree), "--scenario", "solo"]
    status, _, err = history.call(*where, "--good", "main", "--bad", "good")
    assert status == 2
    assert "good and bad are swapped" in err
    status, _, err = history.call(*where, "--good", "good", "--bad", "nowhere")
    assert status == 2
    assert "has no revision 'nowhere'" in err
    history.tree.git("checkout", "-q", "-b", "side", "good")
    side = history.commit("printk")
    status, _, err = history.call(*where, "--good", side, "--bad", "main")
    assert status == 2
    assert f"they part at {history.commits[0][:12]}" in err
    status, _, err = history.call("bisect", "--tree", str(history.root), "--good", "a", "--bad", "b", "--build")
    assert (status, "not a git repository" in err) == (2, True)
    assert not states(history)


def test_a_shallow_clone_is_told_as_the_reason(history, tmp_path):
    history.tree.git("clone", "-q", "--depth", "2", f"file://{history.tree.tree}", str(tmp_path / "clone"))
    where = ["--tree", str(tmp_path / "clone"), "--scenario", "solo", "--bad", "HEAD"]
    status, _, err = history.call("bisect", *where, "--good", history.commits[0])
    assert status == 2
    assert "fetch --unshallow" in err


def test_ends_that_do_not_differ_are_refused_with_the_evidence(lab):
    lab.commit("printk")
    status, _, err = search(lab)
    assert status == 2
    assert "the bad end does not fail: bad end failed in 0 of 12 runs" in err
    assert err.count("GOOD") >= 12 + 3  # the runs of both ends
    assert states(lab)[0]["ended"] == "refused"
    state, words = concluded(lab)
    assert (state.culprit, state.suspects) == (None, ())
    assert words == f"refused: {state.reason}"
    assert words.startswith("refused: the bad end does not fail: bad end failed in 0 of 12 runs")


def test_a_build_error_is_skipped_where_it_is_not_sought_and_found_where_it_is(lab):
    lab.grow("printk", "fault", "printk")
    broken = lab.commit("break", "this is no C\n", "core/main.c")
    lab.commit("comment")
    lab.tree.git("revert", "--no-edit", broken)
    lab.commits.append(lab.tree.git("rev-parse", "HEAD"))
    status, out, err = search(lab)
    assert status == 0, out + err
    assert f"culprit: {lab.commits[2][:12]}" in out
    assert "SKIP" not in out or "does not build: core/main.c" in out
    lab.jobs.clear()
    where = ["--tree", str(lab.tree.tree), "--good", "good", "--bad", "HEAD~1", "--build"]
    status, out, err = lab.call("bisect", *where)
    assert status == 0, out + err
    assert f"culprit: {broken[:12]}" in out
    assert not lab.jobs  # no guest is needed to see that


def test_a_flaky_fault_is_found_and_a_killed_search_goes_on(history, monkeypatch):
    history.flaky(0.5)
    run, count = history.run_job, []

    def killed(inputs):
        count.append(1)
        if len(count) == 9:
            raise KeyboardInterrupt  # in a job's thread: the search ends where it is
        return run(inputs)

    local(monkeypatch, killed)
    history.call("bisect", "--tree", str(history.tree.tree), "--good", "good", "--bad", "main", "--scenario", "solo")
    (state,) = states(history)
    assert not state["ended"]
    assert concluded(history)[1] == ""
    before = len(state["told"])
    assert before > 0
    status, out, err = history.call("bisect", "--resume", "last")
    assert status == 0, out + err
    assert f"culprit: {history.commits[1 + KINDS.index('fault')][:12]}" in out
    (state,) = states(history)
    assert len(state["told"]) > before


def test_another_tree_s_first_build_is_served_by_ccache(history):
    """Of the same history another clone is searched, for which nothing lies built and no kernel is kept."""
    assert search(history)[0] == 0
    shutil.rmtree(history.root / "cache/kernel")
    history.tree.git("clone", "-q", str(history.tree.tree), str(history.root / "clone"))
    where = ["--tree", str(history.root / "clone"), "--good", history.commits[0], "--bad", history.commits[-1]]
    status, out, err = history.call("bisect", *where, "--scenario", "solo")
    assert status == 0, out + err
    first, second = states(history)
    assert sum(one["objects"] for one in first["told"]) > 0
    assert [one["commit"] for one in second["told"]] == [one["commit"] for one in first["told"]]
    assert sum(one["objects"] for one in second["told"]) == 0


@pytest.mark.parametrize("moment", ["run", "build", "checkout", "save"])
def test_a_search_goes_on_after_kill_9_at_any_moment(history, monkeypatch, moment):
    """A process of its own is killed in the fourth call of what it does; all that it had been told is kept."""
    before = history.untouched()
    child = os.fork()
    if not child:
        where, name = {
            "run": (prober.Prober, "run"),
            "build": (prober, "build_kernel_"),
            "checkout": (workspace.Workspace, "checkout"),
            "save": (os, "replace"),
        }[moment]
        real, count = getattr(where, name), itertools.count(1)
        fourth = 4 if moment != "save" else 12  # kernels and runs are stored this way as well

        def killed(*words, **more):
            if next(count) == fourth:
                if moment == "checkout":
                    (words[0].path / ".git/index.lock").touch()  # as git leaves it
                threading.Timer(
                    0.2 if moment in {"run", "build"} else 0, os.kill, (os.getpid(), signal.SIGKILL)
                ).start()
                if moment in {"checkout", "save"}:
                    time.sleep(600)
            return real(*words, **more)

        monkeypatch.setattr(where, name, killed)
        if moment == "run":
            history.job = lambda t, job=history.job: time.sleep(0.3 * (next(count) > 4)) or job(t)
        try:
            search(history)
        finally:
            os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    (state,) = states(history)
    assert not state["ended"]
    status, out, err = history.call("bisect", "--resume", "last")
    assert status == 0, out + err
    assert f"culprit: {history.commits[1 + KINDS.index('fault')][:12]}" in out
    (done,) = states(history)
    assert done["told"][: len(state["told"])] == state["told"]
    assert len(done["told"]) > len(state["told"])
    assert history.untouched() == before


def test_a_full_disk_costs_no_more_than_the_run_that_could_not_be_stored(history, monkeypatch):
    real, count = os.replace, itertools.count(1)

    def full(*words):
        if str(words[1]).endswith("state.json") and next(count) > 4:
            raise OSError(28, "No space left on device")
        real(*words)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", full)
        status, out, err = search(history)
    assert (status, "state.json: No space left on device" in err) == (3, True), out + err
    (state,) = states(history)
    assert state["told"]
    assert not state["ended"]
    assert not list((history.root / "results/bisect" / state["id"]).glob(".*.new"))
    status, out, err = history.call("bisect", "--resume", "last")
    assert status == 0, out + err
    assert '("fault 5")' in out


def test_the_patches_of_a_series_are_searched(history):
    (history.root / "mine.mbox").write_text(history.tree.git("format-patch", "--stdout", "good..main") + "\n")
    status, out, err = history.call("bisect", "--series", "mine.mbox", "--scenario", "solo")
    assert status == 0, out + err
    assert '("fault 5")' in out
    assert "good  patch 0" in out
    assert "bad   patch 8" in out
    (objects,) = history.root.glob("cache/bisect/*/tree/obj-*")
    first = objects.stat().st_ino
    status, _, err = history.call("bisect", "--series", "mine.mbox", "--scenario", "solo", "--bad", "9")
    assert (status, "the series has 8 patches" in err) == (2, True)
    assert objects.stat().st_ino == first  # what lies built outlives a series that is applied once more
    assert not history.tree.git("-C", str(objects.parent), "log", "--all", "--oneline", "--", objects.name)


def test_only_of_a_series_it_is_told_that_there_was_no_sandbox(history, monkeypatch):
    monkeypatch.setattr(summary, "unconfined", lambda: "bubblewrap is not installed")
    status, out, err = search(history)
    assert status == 0, out + err
    assert "SANDBOX" not in out
    (history.root / "mine.mbox").write_text(history.tree.git("format-patch", "--stdout", "good..main") + "\n")
    status, out, err = history.call("bisect", "--series", "mine.mbox", "--scenario", "solo")
    assert status == 0, out + err
    assert "commits were built WITHOUT A SANDBOX (--trust): bubblewrap is not installed" in out


def test_a_patch_that_does_not_apply_is_named_with_what_can_be_searched(history):
    text = history.tree.git("format-patch", "--stdout", "good..main").replace("\n int core_send", "\n int core_sent")
    (history.root / "mine.mbox").write_text(text + "\n")
    status, _, err = history.call("bisect", "--series", "mine.mbox", "--scenario", "solo")
    assert status == 2
    assert "does not apply" in err
    assert "--bad 4" in err


def test_gits_log_is_written_and_read(history):
    status, out, err = search(history)
    assert status == 0, out + err
    status, log, _ = history.call("bisect", "--log", "last")
    assert status == 0
    lines = log.splitlines()
    assert lines[0] == "git bisect start"
    assert lines[-1] == f"# first bad commit: [{history.commits[5]}] fault 5"
    (history.root / "log").write_text(log)
    clone = history.root / "clone"
    history.tree.git("clone", "-q", str(history.tree.tree), str(clone))
    history.tree.git("-C", str(clone), "bisect", "replay", str(history.root / "log"))
    assert history.tree.git("-C", str(clone), "rev-parse", "refs/bisect/bad") == history.commits[5]
    jobs = len(history.jobs)
    status, out, err = history.call(
        "bisect", "--tree", str(history.tree.tree), "--replay", str(history.root / "log"), "--scenario", "solo"
    )
    assert status == 0, out + err
    assert f"culprit: {history.commits[5][:12]}" in out
    assert len(history.jobs) - jobs <= 15  # the ends, the proof and the revert: nothing was searched again


def test_a_step_for_git_bisect_run(history):
    tree = ["--tree", str(history.tree.tree)]
    assert history.call("bisect-step", *tree, "--scenario", "solo")[0] == 1
    history.tree.git("checkout", "-q", "good")
    assert history.call("bisect-step", *tree, "--scenario", "solo")[0] == 0
    history.job = lambda _: Outcome.INFRA
    assert history.call("bisect-step", *tree, "--scenario", "solo")[0] == 125
    assert history.call("bisect-step", *tree, "--scenario", "sole")[0] == 128
    assert history.call("bisect-step", *tree, "--nonsense")[0] == 128
    history.tree.sub("core/main.c", "return 42;", "return 42")
    assert history.call("bisect-step", *tree, "--scenario", "solo")[0] == 125
    assert history.call("bisect-step", *tree, "--build")[0] == 1


def test_another_splat_is_not_the_one_that_is_sought(history):
    one, other = Splat("oops", "BUG: one", "a" * 12, "one"), Splat("oops", "BUG: other", "b" * 12, "other")
    history.job = lambda t: one if b"LAB_FAULT" in t else other if b"note1" in t else Outcome.PASS
    status, out, err = search(history, "--splat", "a" * 12)
    assert status == 1, err  # note 1 is in the commits 1 to 4 as well: none of them can be tested
    assert "one of 5 commits, no one of which can be told from the others (skipped)" in out
    assert '("fault 5")' in out
    state, words = concluded(history)
    assert (state.culprit, len(state.suspects)) == (None, 5)
    assert words.startswith("one of 5 commits, no one of which can be told from the others: ")
    assert f'{history.commits[5][:12]} ("fault 5")' in words
    assert "fails, but otherwise" in out
    assert not [line for line in out.splitlines() if line.startswith("BAD") and "BUG: other" in line]


def test_a_figure_beyond_a_bound(history):
    history.job = lambda t: 100.0 if b"LAB_FAULT" not in t else 80.0
    status, out, err = search(history, "--metric", "copied", "--bound", "1.1")
    assert status == 0, out + err
    assert '("fault 5")' in out
    assert "worse by a factor of 1.250" in out
