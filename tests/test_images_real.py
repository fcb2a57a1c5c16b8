"""The default lab on Debian's images of its kernels, in real guests."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kpatchlab.model import Outcome, Verdict
from kpatchlab.store.store import Store
from kpatchlab.verdict.compare import compare

PROJECT = Path(__file__).parent.parent


@pytest.mark.guest
@pytest.mark.mirror
def test_the_default_lab_has_its_first_verdict_before_anything_is_compiled(tmp_path):
    for name in ("kernels", "rootfs", "suites", "scenarios"):
        (tmp_path / name).symlink_to(PROJECT / name)
    (tmp_path / "lab.yaml").write_text((PROJECT / "lab.yaml").read_text())
    words = [sys.executable, "-m", "kpatchlab", "run", "unix-splice"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(PROJECT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    run, _ = Store(tmp_path / "results").load("last")
    assert {(build.kernel, build.objects_total) for build in run.builds} == {("without-image", 0), ("with-image", 0)}
    assert {(job.column, job.images, job.outcome) for job in run.jobs} == {
        ("without", True, Outcome.PASS),
        ("with", True, Outcome.PASS),
    }
    assert set(compare(run).verdicts) == {Verdict.SAME}
    assert "1 of 1 scenarios ran on images" in done.stdout
