"""Real guests in workers that share nothing with the lab but artifacts: the same outcomes as in the lab itself.

They are processes on this host, and two hosts by SSH, which get a copy of the lab first.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import yaml

from tests.labdir import write
from tests.ssh_hosts import hosts
from tests.test_real import Lab

pytestmark = [pytest.mark.guest, pytest.mark.mirror, pytest.mark.hosts]

PROJECT = Path(__file__).parent.parent
LAB = "kernels: {with: debian-image-6.12}\nscenarios: [selftest-pass, selftest-pair, selftest-fail]\n"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Return what came of one plan in each executor, its run and its folder; and the folders of the workers' caches."""
    root = tmp_path_factory.mktemp("executors")
    for name in ("scenarios", "rootfs", "suites", "kernels"):
        shutil.copytree(PROJECT / name, root / name)
    cache = root / "workers"
    write(root / "lab.yaml", LAB)
    write(root / "process.yaml", f"{LAB}executor: {{type: process, cache: {cache}}}\n")
    found = {}
    with hosts("a", "b") as made:
        entries = {name: host.entry for name, host in made.items()}
        write(root / "hosts.yaml", LAB + yaml.safe_dump({"hosts": entries}))
        for name in ("lab", "process", "hosts"):
            home = Lab(root)
            ended = home.call("--lab", f"{name}.yaml", "run")
            run, folder = home.last()
            assert run.complete, ended.err
            # A busy host has a job that fails run again.
            found[name] = ({job.scenario: job for job in run.jobs if job.repeat == 1}, folder)
        kinds = [set(os.listdir(folder)) for folder in (cache, *(host.cache for host in made.values()))]
    return found, kinds


@pytest.mark.parametrize("executor", ["process", "hosts"])
def test_results_are_the_same(runs, executor):
    (local, _), (others, _) = runs[0]["lab"], runs[0][executor]
    assert set(local) == {"selftest-pass", "selftest-pair", "selftest-fail"}
    for name, job in local.items():
        other = others[name]
        assert (job.outcome, job.mode) == (other.outcome, other.mode), other.message
        assert [(case.name, case.outcome) for case in job.cases] == [(case.name, case.outcome) for case in other.cases]
        assert job.attachments == other.attachments
        assert [guest.console for guest in job.guests] == [guest.console for guest in other.guests]


def test_a_result_names_the_host_that_it_is_of(runs):
    told = {name: {job.host for job in jobs.values()} for name, (jobs, _) in runs[0].items()}
    assert told["lab"] == told["process"] == {""}
    assert told["hosts"] <= {"a", "b"}
    assert told["hosts"]


def test_files_came_back(runs):
    for jobs, folder in runs[0].values():
        for job in jobs.values():
            assert all((folder / guest.console).exists() for guest in job.guests)
            assert all((folder / name).stat().st_size for name in job.attachments)


def test_workers_made_their_own_guests_of_artifacts_that_travelled(runs):
    process, *far = runs[1]
    assert {"kernel", "root", "initrd", "payload", "saved"} <= process
    assert any({"kernel", "root", "initrd", "payload", "saved"} <= kinds for kinds in far)
