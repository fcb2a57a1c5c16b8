"""A night that looks for the commit itself: real git, real (small) builds of commits, guests that are fakes."""

from __future__ import annotations

import itertools
import os
import signal
import threading

import pytest

from kpatchlab.bisect import prober
from kpatchlab.bisect.session import SearchSession
from kpatchlab.bisect.state import Searches
from kpatchlab.host import packages
from kpatchlab.run import pipeline
from tests import labdir
from tests.bisect_support import KERNEL, lab, states
from tests.fake_stages import local

pytestmark = pytest.mark.toy

__all__ = ["lab"]  # a fixture
NIGHTLY = labdir.LAB.replace('["*"]', "[solo]") + "nightly: {again: 0, bisect_minutes: %s}\n"


@pytest.fixture
def broken(lab, monkeypatch):
    """A lab whose first night was good, and whose branch has the fault now."""
    monkeypatch.setattr(packages, "missing", lambda stages: [])
    monkeypatch.setattr(pipeline, "REPORTS", ("junit",))
    (lab.root / "lab.yaml").write_text(NIGHTLY % 60)
    (lab.root / "kernels/new.yaml").write_text(KERNEL.format(tree=lab.tree.tree).replace("good}", "main}"))
    status, out, err = lab.call("nightly")
    assert status == 0, out + err
    return lab.grow("printk", "printk", "fault", "printk")


def found(lab):
    return f"--scenario solo --case 'data intact': culprit: {lab.commits[3][:12]} (\"fault 3\")"


def test_the_commit_is_found_and_the_search_is_in_the_nights_log(broken):
    before = broken.untouched()
    status, out, err = broken.call("nightly", "--bisect")
    assert status == 1, out + err
    assert found(broken) in out
    (state,) = states(broken)
    assert state["culprit"] == {"commit": broken.commits[3], "subject": "fault 3"}
    assert f"search {state['id']}: solo: data intact fails" in out
    assert "BAD   " in out
    assert broken.untouched() == before
    status, out, _ = broken.call("nightly", "--bisect")
    assert (status, "nothing new" in out, len(states(broken))) == (0, True, 1)


def test_the_night_survives_whatever_befalls_a_search(broken, monkeypatch):
    def breaks(*_):
        raise ValueError("odd")

    monkeypatch.setattr(SearchSession, "begin", breaks)
    status, out, err = broken.call("nightly", "--bisect")
    assert status == 1, out + err
    assert "--case 'data intact': ValueError: odd" in out
    assert "in breaks" in out, "the traceback is in the log"
    assert "NEW FAILURE  solo: data intact" in out
    assert broken.call("nightly")[:2] == (0, "nothing new: every branch is where the last night left it\n")


def test_a_search_has_the_nights_time_and_no_more(broken):
    (broken.root / "lab.yaml").write_text(NIGHTLY % 0.001)
    status, out, err = broken.call("nightly", "--bisect", "--force")
    assert status == 1, out + err
    assert "--case 'data intact': not found within 0.1 s" in out
    assert "NEW FAILURE  solo: data intact" in out


def test_ctrl_c_in_a_search_leaves_the_night_to_the_next_one(broken, monkeypatch):
    run, count = broken.run_job, itertools.count(1)

    def stopped(inputs):
        if next(count) == 5:
            os.kill(os.getpid(), signal.SIGINT)
            inputs.cancel.wait(20)
        return run(inputs)

    with monkeypatch.context() as patch:
        local(patch, stopped)
        status, out, err = broken.call("nightly", "--bisect")
    assert (status, "night " in out) == (130, True), out + err
    (state,) = states(broken)
    assert not state["ended"]
    goes_on(broken, state)


def test_a_kill_in_a_search_leaves_the_night_to_the_next_one(broken, monkeypatch):
    child = os.fork()
    if not child:
        real, count = prober.Prober.run, itertools.count(1)

        def killed(*words):
            if next(count) == 3:
                threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGKILL)).start()
            return real(*words)

        monkeypatch.setattr(prober.Prober, "run", killed)
        try:
            broken.call("nightly", "--bisect")
        finally:
            os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    (state,) = states(broken)
    assert not state["ended"]
    goes_on(broken, state)


def goes_on(lab, state):
    """Check that the next night is the one that was stopped, and its search too."""
    status, out, err = lab.call("nightly", "--bisect")
    assert status == 1, out + err
    assert "going on with night " in out
    assert found(lab) in out
    (done,) = states(lab)
    assert done["told"][: len(state["told"])] == state["told"]
    assert Searches(lab.root / "results").ids() == [state["id"]]
