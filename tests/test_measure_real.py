"""A slowdown of 1 % that a patch puts into one path of a real kernel is found there, and nowhere else."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from kpatchlab import proc
from kpatchlab.jsonable import from_json
from kpatchlab.model import Run
from kpatchlab.verdict.compare import compare
from kpatchlab.verdict.ratios import AGAIN, Speed, metric_rows

LAB = Path(__file__).parent.parent
LAB_FILE = """\
title: one path is slower
base: plain
kernels:
  plain: tiny
  slower:
    source: {type: debian-source, package: linux-source-6.1, suite: bookworm}
    config: [config/tiny.config]
    series: [{type: patches, path: slower}]
rootfs: minimal
scenarios: [bench-unix, bench-udp]
"""


@pytest.mark.build
@pytest.mark.guest
@pytest.mark.mirror
def test_one_percent_in_one_path_is_found_there_and_nowhere_else(tmp_path):
    for part in ("kernels", "rootfs"):
        shutil.copytree(LAB / part, tmp_path / part)
    shutil.copytree(LAB / "tests/data/slower", tmp_path / "kernels/slower")
    for name in ("bench-unix", "bench-udp", "lib"):
        shutil.copytree(LAB / "scenarios" / name, tmp_path / "scenarios" / name)
    (tmp_path / "lab.yaml").write_text(LAB_FILE)
    argv = [
        sys.executable,
        "-m",
        "kpatchlab",
        "--no-install",
        "--lab",
        tmp_path / "lab.yaml",
        "measure",
        "--repeat",
        "3",
    ]
    done = proc.run([*argv, "bench-unix", "bench-udp", "--json"], timeout_s=3600, check=False, cwd=LAB)
    assert done.status == 1, done.stderr
    rows = list(metric_rows(compare(from_json(Run, json.loads(done.stdout)["run"]))))
    assert {row.mode for row in rows} == {"instructions"}
    slower = {(r.group.scenario, r.name) for r in rows if r.figures["slower"].speed is Speed.SLOWER}
    writes = [f"throughput:write:{size}" for size in ("64KiB", "256KiB", "1MiB")]
    assert {("bench-unix", name) for name in writes} <= slower
    written = {name for name in slower if ":write:" in name[1] or name[1] == "latency:64B"}
    assert {name for name, _ in slower} == {"bench-unix"}
    assert written == slower
    for row in rows:
        figure = row.figures["slower"]
        assert figure.ratio == pytest.approx(1, abs=0.03)
        if ":write:" not in row.name and row.name != "latency:64B":
            assert figure.speed is Speed.SAME, (row.group.scenario, row.name, figure)
        assert row.figures[f"plain{AGAIN}"].speed is Speed.SAME, (row.group.scenario, row.name)
