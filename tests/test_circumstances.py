"""What goes wrong around a scenario, in real guests: the true reason within its deadline, and the others go on."""

from __future__ import annotations

import shutil

import pytest

from tests.labdir import write
from tests.test_real import PROJECT, Lab

pytestmark = [pytest.mark.guest, pytest.mark.mirror]

ONE = "description: one guest\ntimeout_s: {timeout_s}\nroles: {{main: {{run: run.sh}}}}\n{more}"
TWO = "description: two guests\ntimeout_s: 30\nroles: {server: {setup: setup.sh}, client: {run: run.sh}}\n"
PASSES = 'echo "1..1"; echo "ok 1 - went on"\n'
UNANSWERED = """\
modprobe nfs
ip link set lo up
echo 1..1
mount -t nfs -o vers=4.2,proto=tcp,nolock,soft,timeo=600,retrans=20 127.0.0.9:/ /mnt
echo "ok 1 - mounted"
"""
SILENT = """\
python3 -c '
import socket, time
silent = socket.create_server(("127.0.0.9", 2049))
time.sleep(1000)' >/dev/null 2>&1 &
"""


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    """Run them all at once; returns the job of each scenario."""
    root = tmp_path_factory.mktemp("circumstances")
    for name in ("rootfs", "suites", "kernels"):
        shutil.copytree(PROJECT / name, root / name)
    shutil.copytree(PROJECT / "scenarios/lib", root / "scenarios/lib")
    write(root / "lab.yaml", "kernels: {with: debian-image-6.12}\nscenarios: ['*']\n")
    scenarios = {
        "no-server": (TWO, {"setup.sh": "echo the daemon refuses its configuration >&2; exit 1\n", "run.sh": PASSES}),
        "no-module": (ONE.format(timeout_s=30, more="needs: {modules: [no_such_module]}\n"), {"run.sh": PASSES}),
        "no-package": (ONE.format(timeout_s=30, more="needs: {packages: [no-such-package]}\n"), {"run.sh": PASSES}),
        "no-answer": (ONE.format(timeout_s=20, more=""), {"run.sh": SILENT + UNANSWERED}),
        "no-trouble": (ONE.format(timeout_s=30, more=""), {"run.sh": PASSES}),
    }
    for name, (text, scripts) in scenarios.items():
        write(root / "scenarios" / name / "scenario.yaml", text)
        for script, body in scripts.items():
            write(root / "scenarios" / name / script, "#!/bin/sh\n" + body, 0o755)
    here = Lab(root)
    ended = here.call("run")
    run, _ = here.last()
    assert run.complete, ended.err
    assert ended.status == 1, "two of them fail"
    return {job.scenario: job for job in run.jobs}


@pytest.mark.parametrize(
    ("scenario", "outcome", "words"),
    [
        ("no-server", "fail", ["server", "setup.sh", "exited with 1", "the daemon refuses its configuration"]),
        ("no-module", "skip", ["lacks module no_such_module"]),
        ("no-package", "skip", ["no-such-package"]),
        ("no-answer", "timeout", ["20 s", "mount.nfs waits in "]),
        ("no-trouble", "pass", []),
    ],
)
def test_reason_is_told_and_the_others_go_on(jobs, scenario, outcome, words):
    job = jobs[scenario]
    told = f"{job.message} {' '.join(case.message for case in job.cases)}"
    assert job.outcome == outcome, told
    assert not [word for word in words if word not in told], told


def test_a_mount_that_hangs_costs_its_deadline_and_no_more(jobs):
    assert jobs["no-answer"].duration_s < 20 * 2 + 30


def test_stack_of_what_hangs_is_kept(jobs):
    (details,) = [case.details for case in jobs["no-answer"].cases if case.name == "job"]
    assert "mount.nfs (process" in details
    assert "rpc_" in details, "the mount waits for an answer of the server"
