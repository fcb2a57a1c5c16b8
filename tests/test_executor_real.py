"""Real guests in workers that share nothing with the lab but artifacts: the same outcomes as in the lab itself."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.labdir import write
from tests.test_real import Lab

pytestmark = [pytest.mark.guest, pytest.mark.mirror]

PROJECT = Path(__file__).parent.parent
LAB = "kernels: {with: debian-image-6.12}\nscenarios: [selftest-pass, selftest-pair, selftest-fail]\n"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Return what came of one plan in each executor: its run, its folder, and the workers' cache."""
    root = tmp_path_factory.mktemp("executors")
    for name in ("scenarios", "rootfs", "kernels"):
        shutil.copytree(PROJECT / name, root / name)
    cache = root / "workers"
    write(root / "lab.yaml", LAB)
    write(root / "process.yaml", f"{LAB}executor: {{type: process, cache: {cache}}}\n")
    found = {}
    for name in ("lab", "process"):
        home = Lab(root)
        ended = home.call("--lab", f"{name}.yaml", "run")
        run, folder = home.last()
        assert run.complete, ended.err
        found[name] = ({job.scenario: job for job in run.jobs}, folder)
    return found, cache


def test_results_are_the_same(runs):
    (local, _), (process, _) = runs[0].values()
    assert set(local) == {"selftest-pass", "selftest-pair", "selftest-fail"}
    for name, job in local.items():
        other = process[name]
        assert (job.outcome, job.mode) == (other.outcome, other.mode), other.message
        assert [(case.name, case.outcome) for case in job.cases] == [(case.name, case.outcome) for case in other.cases]
        assert job.attachments == other.attachments
        assert [guest.console for guest in job.guests] == [guest.console for guest in other.guests]


def test_files_came_back(runs):
    for jobs, folder in runs[0].values():
        for job in jobs.values():
            assert all((folder / guest.console).exists() for guest in job.guests)
            assert all((folder / name).stat().st_size for name in job.attachments)


def test_workers_made_their_own_guests_of_artifacts_that_travelled(runs):
    kinds = set(os.listdir(runs[1]))
    assert {"kernel", "root", "initrd", "payload", "saved"} <= kinds
