"""Several candidates at once: the half and both quarters beside it, in rounds that tell two bits."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time

import pytest

from kpatchlab.bisect import commits, drive, gitlog, prober
from kpatchlab.bisect.loop import Ask, Loop, Mark, Phase, ProbeResult
from tests.bisect_support import search, states

pytestmark = pytest.mark.toy

KINDS = ["printk", "comment", "module", "printk", "printk", "fault", "printk", "printk", "printk", "comment"]
CULPRIT = 1 + KINDS.index("fault")


def verdict(commit, culprit):
    return Mark.BAD if int(commit[1:]) >= culprit else Mark.GOOD


def begun(count, culprit):
    loop = Loop(commits.line(count))
    while (ask := loop.ask()) and ask.phase is Phase.ENDS:
        loop.tell(ProbeResult(ask.commit, verdict(ask.commit, culprit), ask.phase))
    return loop


@pytest.mark.parametrize("culprit", [1, 2, 17, 32, 33, 63, 64])
def test_a_deterministic_fault_takes_half_of_the_rounds(culprit):
    loop, rounds, runs = begun(64, culprit), 0, 0
    while (ask := loop.ask()) and ask.phase is Phase.SEARCH:
        more = loop.beside(ask, 3, lambda _: 1.0, 100.0)
        rounds, runs = rounds + 1, runs + 1 + len(more)
        for one in (ask, *more):
            loop.tell(ProbeResult(one.commit, verdict(one.commit, culprit), one.phase))
    assert loop.search.suspects()[0] == [f"c{culprit}"]
    assert (rounds, runs) == (3, 9)


def test_the_quarters_are_run_beside_the_half_where_their_builds_take_less_than_a_run():
    loop = begun(64, 20)
    ask = loop.ask()
    assert ask == Ask("c32", 1, Phase.SEARCH)
    assert [one.commit for one in loop.beside(ask, 3, lambda _: 10.0, 30.0)] == ["c16", "c48"]
    assert loop.beside(ask, 3, lambda _: 30.0, 10.0) == []
    assert len(loop.beside(ask, 3, lambda _: 30.0, 10.0, always=True)) == 2
    assert loop.beside(ask, 1, lambda _: 10.0, 30.0) == []
    assert len(loop.beside(Ask("c32", 1, Phase.PROOF), 3, lambda _: 1.0, 30.0)) == 0


def test_nothing_is_run_beside_once_runs_contradict_each_other():
    loop = begun(64, 20)
    for wrong in ("c10", "c30"):
        loop.tell(ProbeResult(wrong, Mark.BAD if wrong == "c10" else Mark.GOOD, Phase.SEARCH))
    assert loop.beside(loop.ask(), 3, lambda _: 1.0, 30.0, always=True) == []


def test_what_a_round_tells_too_much_does_not_widen_git_s_search():
    loop = begun(64, 5)
    for commit in ("c16", "c32", "c48"):
        loop.tell(ProbeResult(commit, verdict(commit, 5), Phase.SEARCH))
    lines = gitlog.write(loop).splitlines()
    assert [line for line in lines if not line.startswith("#")] == [
        "git bisect start", "git bisect bad c64", "git bisect good c0", "git bisect bad c16",
    ]  # fmt: skip
    assert "# bad: [c48]" in lines


@pytest.fixture
def made(lab):
    return lab.grow(*KINDS)


def rounds(state):
    """Run folder -> the commits that were searched in it."""
    found = {}
    for one in state["told"]:
        if one["phase"] == "search" and one["run"]:
            found.setdefault(one["run"], []).append(one["commit"])
    return list(found.values())


def test_candidates_share_a_run_and_the_log_is_one_that_git_takes(made):
    before = made.untouched()
    status, out, err = search(made, "--candidates", "3")
    assert status == 0, out + err
    assert f"culprit: {made.commits[CULPRIT][:12]}" in out
    assert max(len(commits) for commits in rounds(states(made)[0])) >= 2
    assert made.untouched() == before
    log = made.root / "log"
    log.write_text(made.call("bisect", "--log", "last")[1])
    clone = made.root / "clone"
    made.tree.git("clone", "-q", str(made.tree.tree), str(clone))
    made.tree.git("-C", str(clone), "bisect", "replay", str(log))
    assert made.tree.git("-C", str(clone), "rev-parse", "refs/bisect/bad") == made.commits[CULPRIT]


@pytest.mark.parametrize(("room", "together"), [(2, False), (4, True)])
def test_by_default_only_where_the_machine_has_room(made, monkeypatch, room, together):
    monkeypatch.setattr(prober.Prober, "width", lambda _: room)
    monkeypatch.setattr(prober.Times, "build_s", lambda *_: 0.001)  # fakes run in no time at all
    monkeypatch.setattr(prober.Times, "run_s", lambda *_: 10.0)
    status, out, err = search(made)
    assert status == 0, out + err
    assert (max(len(commits) for commits in rounds(states(made)[0])) > 1) is together
    assert drive.CANDIDATES == 3


def test_a_round_that_is_killed_is_done_again(made, monkeypatch):
    """kill -9 while three guests run: what was told before is kept, and the kernels are not built again."""
    child = os.fork()
    if not child:
        real, job, count = prober.Prober.run_beside, made.job, itertools.count(1)

        def killed(self, several):
            if next(count) == 2:
                threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGKILL)).start()
                made.job = lambda text: time.sleep(5) or job(text)
            return real(self, several)

        monkeypatch.setattr(prober.Prober, "run_beside", killed)
        try:
            search(made, "--candidates", "2")
        finally:
            os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    kept = states(made)[0]
    assert len(rounds(kept)) == 1
    assert not kept["ended"]
    status, out, err = made.call("bisect", "--resume", "last")
    assert status == 0, out + err
    assert f"culprit: {made.commits[CULPRIT][:12]}" in out
    done = states(made)[0]
    assert done["told"][: len(kept["told"])] == kept["told"]
    assert max(len(commits) for commits in rounds(done)) == 2
