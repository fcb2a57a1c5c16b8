"""Nights of a real, small kernel in real guests: first seen, nothing new, a regression with its commit, a kill -9."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests import labdir
from tests.nights import files
from tests.real_tree import ODD_READS, PROJECT, RealTree

pytestmark = [pytest.mark.guest, pytest.mark.mirror, pytest.mark.build]

LAB = """\
title: real nights
kernels: {{tiny: {{source: {{type: git, path: {tree}, revision: main}}, config: [tiny.config]}}}}
limits: {{guests: 1}}
repeat: 2
nightly: {{bisect_minutes: 20}}
"""


class RealNights:
    """A lab of one kernel from a repository of ours, and one scenario, run twice a night."""

    def __init__(self, base, root) -> None:
        self.root, self.tree = root / "lab", RealTree(base, root / "linux")
        labdir.write(self.root / "lab.yaml", LAB.format(tree=self.tree.path))
        labdir.write(self.root / "kernels/tiny.config", (PROJECT / "kernels/config/tiny.config").read_text())
        labdir.write(self.root / "rootfs/base.yaml", (PROJECT / "rootfs/base.yaml").read_text())
        shutil.copytree(ODD_READS, self.root / "scenarios/odd")
        shutil.copytree(PROJECT / "scenarios/lib", self.root / "scenarios/lib")

    def start(self, *words):
        command = [sys.executable, "-m", "kpatchlab", "--no-install", "--lab", str(self.root / "lab.yaml"), *words]
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env=os.environ | {"PYTHONPATH": str(PROJECT)},
        )  # fmt: skip

    def call(self, *words):
        """Run a verb to its end; returns (status, what it said, seconds)."""
        begin = time.monotonic()
        process = self.start(*words)
        said, _ = process.communicate()
        taken = time.monotonic() - begin
        print(f"$ {' '.join(words)}: {process.returncode}, {taken:.1f} s\n{said}")  # noqa: T201 - for `pytest -rP`
        return process.returncode, said, taken

    def killed(self):
        """Start a night and kill it with SIGKILL when the first of its two jobs is stored; returns its run."""
        known = {path.name for path in (self.root / "results").iterdir()}
        night = self.start("nightly")
        try:
            while night.poll() is None:
                done = [path for path in self.root.glob("results/2*/jobs/*.json") if path.parts[-3] not in known]
                if done:
                    night.send_signal(signal.SIGKILL)
                    return done[0].parts[-3]
                time.sleep(0.02)
            raise AssertionError(night.stdout.read())
        finally:
            night.kill()
            night.communicate()


@pytest.fixture(scope="module")
def nights(real_base, tmp_path_factory):
    return RealNights(real_base, tmp_path_factory.mktemp("nights"))


def test_nights(nights):
    """Each night is told for what it was; the third names the commit, the fifth goes on where the fourth was killed."""
    tree = nights.tree
    status, said, _ = nights.call("nightly")
    assert status == 0
    assert re.search(r"^night \S+: all as it was$", said, re.MULTILINE)
    assert said.count("PASS     odd@tiny#") == 2

    before = files(nights.root)
    status, said, seconds = nights.call("nightly")
    assert (status, said) == (0, "nothing new: every branch is where the last night left it\n")
    assert files(nights.root) == before, "nothing is written"
    print(f"a night with nothing new: {seconds:.2f} s")  # noqa: T201

    good = tree.head
    culprit = tree.spoil()
    tip = tree.edit("drivers/net/veth.c", '"veth"', '"ve" "th"', "spelling")
    status, said, _ = nights.call("nightly", "--bisect")
    assert status == 1
    assert re.search(r"^night \S+: 1 new failure$", said, re.MULTILINE)
    assert f"(tiny {good[:12]}..{tip[:12]})" in said
    assert "NEW FAILURE  odd: odd reads on nightly, tiny: fail" in said
    assert "1 bad or odd since last night, run 3 times more" in said
    more = set(re.findall(r"^\[\d/\d\] FAIL +odd@tiny#(\d)", said, re.MULTILINE)) - {"1", "2"}
    assert more >= {"3", "4", "5"}, "a busy host may have repeated some of them"
    found = f'culprit: {culprit[:12]} ("af_unix: read from even places")'
    assert f"--scenario odd --case 'odd reads': {found}" in said
    night = re.search(r"^night (\S+):", said, re.MULTILINE)[1]
    assert culprit[:12] in (nights.root / f"results/site/nights/{night}.html").read_text()

    with (nights.root / "scenarios/odd/scenario.yaml").open("a") as handle:
        handle.write("# something new, for which no kernel is built\n")
    run = nights.killed()
    status, said, _ = nights.call("nightly")
    assert status == 0, "an old failure is no news"
    assert f"nightly: going on with run {run}" in said
    assert "1 of 2 jobs are done already" in said
    assert "OLD FAILURE  odd: odd reads" in said
    status, said, _ = nights.call("doctor", "--store")
    assert (status, "nothing is wrong" in said) == (0, True), said
