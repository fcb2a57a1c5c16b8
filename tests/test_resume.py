"""`run --resume` on kernels that are really built, of the fake tree, while the branch that they come from moves."""

from __future__ import annotations

import shutil

import pytest

from kpatchlab.build import git
from kpatchlab.files import safe_name
from kpatchlab.model import Outcome
from kpatchlab.store.run_dir import load_run


@pytest.fixture
def begun(lab, monkeypatch):
    """Return a lab with a run that lacks a job of a kernel whose branch has moved since, and what servers are asked."""
    recipe = f"source: {{type: git, url: {lab.tree.tree.as_uri()}, revision: main}}\nconfig: [config/all.config]\n"
    (lab.root / "kernels/new.yaml").write_text(recipe)
    lab.grow("printk")
    lab.asked = []
    resolve = git.resolve_fetched
    monkeypatch.setattr(git, "resolve_fetched", lambda *words: lab.asked.append(len(lab.jobs)) or resolve(*words))
    status, out, err = lab.call("run", "solo")
    assert status == 0, out + err
    (lab.run,) = (path.parent for path in lab.root.glob("results/2*/run.json"))
    lab.was = load_run(lab.run)
    lab.run.joinpath("jobs", safe_name("solo@with#1") + ".json").unlink()
    lab.grow("fault")
    return lab


def test_a_run_is_completed_with_the_kernel_of_the_branch_as_it_was(begun):
    status, out, err = begun.call("run", "--resume", "last")
    assert status == 0, out + err
    run = load_run(begun.run)
    assert (run.builds, run.checkouts) == (begun.was.builds, begun.was.checkouts)
    assert {made.kernel: made.commit for made in run.checkouts}["with"] == begun.commits[1]
    assert [job.outcome for job in run.jobs] == [Outcome.PASS] * 2, "the fault came later"
    assert "kernel with: it stays the one that the run began with" in out + err
    assert max(begun.asked) < len(begun.jobs), "no server is asked when the jobs are done"


def test_a_kernel_that_is_gone_is_not_built_anew_for_another_branch(begun):
    key = next(build.key for build in begun.was.builds if build.kernel == "with")
    shutil.rmtree(begun.host.cache.path("kernel", key))
    status, out, err = begun.call("run", "--resume", "last")
    assert status == 3, out + err
    assert "kernel with is not the one that the run began with" in out + err
    assert load_run(begun.run).builds == begun.was.builds
    assert not begun.host.cache.path("kernel", key).exists()
    assert len(list((begun.host.cache.root / "kernel").iterdir())) == 1, "the base's"
