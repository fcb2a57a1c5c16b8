"""A series patch by patch on a real kernel tree, and a scenario on what it has built in real guests."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

from tests import labdir
from tests.real_tree import ODD_READS, PROJECT, RealTree

ERROR = "#error no\n"


def patches(tree: RealTree) -> str:
    """Make seven commits on top of the tree; returns the commit before them."""
    base = tree.head
    tree.append("net/core/sock.c", "static const int kpatchlab_unused = 1;\n", "sock: a warning")
    tree.append("drivers/net/dummy.c", ERROR, "dummy: break")
    tree.append("net/unix/garbage.c", ERROR, "garbage: break")
    tree.edit("net/unix/garbage.c", "// SPDX", "\n\n// SPDX", "garbage: move what is broken")
    tree.edit("net/unix/garbage.c", ERROR, "", "garbage: mend")
    tree.spoil()
    tree.edit("drivers/net/dummy.c", ERROR, "", "dummy: mend")
    return base


@pytest.mark.build
@pytest.mark.guest
@pytest.mark.mirror
def test_each_failure_is_its_own_patchs(real_base, tmp_path):
    tree, lab = RealTree(real_base, tmp_path / "linux"), tmp_path / "lab"
    base = patches(tree)
    recipe = f"""\
source: {{type: git, path: {tree.path}, revision: {base}}}
series: [{{type: git, path: {tree.path}, range: {base}..main}}]
config: [tiny.config]
"""
    labdir.write(lab / "lab.yaml", "kernels: {tiny: tiny}\n")
    labdir.write(lab / "kernels/tiny.yaml", recipe)
    labdir.write(lab / "kernels/tiny.config", (PROJECT / "kernels/config/tiny.config").read_text())
    labdir.write(lab / "rootfs/base.yaml", (PROJECT / "rootfs/base.yaml").read_text())
    shutil.copytree(ODD_READS, lab / "scenarios/odd")
    shutil.copytree(PROJECT / "scenarios/lib", lab / "scenarios/lib")
    program = [sys.executable, "-m", "kpatchlab", "--no-install", "--lab", str(lab / "lab.yaml")]
    words = [*program, "series", "--run", "odd"]
    env = os.environ | {"PYTHONPATH": str(PROJECT)}
    done = subprocess.run(words, check=False, capture_output=True, text=True, env=env)
    assert done.returncode == 1, done.stdout + done.stderr
    (path,) = lab.glob("results/series/*/series.json")
    told = json.loads(path.read_text())
    said = {name: [row["cells"][name]["text"] for row in told["patches"]] for name in told["patches"][0]["cells"]}
    assert said["build"] == ["ok", "ok", "no", "since 3", "mended", "ok", "ok"], done.stdout
    assert said["modules"] == ["ok", "1 broken", *["1 since 2"] * 4, "1 mended"], done.stdout
    assert said["W=1"] == ["1 new", "skipped", "skipped", "skipped", "skipped", "ok", "skipped"], done.stdout
    passed = [text.split()[0] for text in said["scenarios"]]
    assert passed == ["1", "1", "0", "0", "1", "0", "0"], done.stdout
    found = {(one["check"], one["first"], one["mended"]) for one in told["failures"] if one["check"] != "checkpatch"}
    assert found == {("W=1", 1, 0), ("modules", 2, 7), ("build", 3, 5), ("scenarios", 6, 0)}, done.stdout
