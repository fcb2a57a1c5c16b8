"""Five faults planted in a real kernel, each told by another witness than the others."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from kpatchlab import proc

PROJECT = Path(__file__).parents[1]
PLANTS = {
    "nonblock-forgotten": "check",
    "reference-too-many": "left",
    "warning-later": "log",
    "unix-no-credentials": "check",
    "unix-memory-uncharged": "log",
}
MINUTES_S = 90 * 60.0
"""With the kernel itself, of some 1,700 objects, to build first."""


@pytest.mark.build
@pytest.mark.guest
@pytest.mark.mirror
@pytest.mark.long
@pytest.mark.timeout(4 * 3600)
def test_each_of_five_plants_is_found_by_what_has_to_find_it(tmp_path):
    for name in ("kernels", "rootfs", "suites", "scenarios", "plants"):
        shutil.copytree(PROJECT / name, tmp_path / name)
    shutil.copy(PROJECT / "plants.yaml", tmp_path)
    words = ["--no-install", "--lab", str(tmp_path / "plants.yaml"), "plants", "--json", *PLANTS]
    done = proc.run(
        [sys.executable, "-m", "kpatchlab", *words],
        timeout_s=MINUTES_S,
        check=False,
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
    )
    assert done.stdout, done.stderr[-4000:]
    found = {row["name"]: (row["found"], row["told"]) for row in json.loads(done.stdout)}
    assert {name: how for name, (how, _) in found.items()} == dict.fromkeys(PLANTS, "found"), (
        found,
        done.stderr[-4000:],
    )
    assert done.status == 0
