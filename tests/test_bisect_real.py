"""A search on a real kernel in real guests: a small kernel, commits of our own, one of which corrupts AF_UNIX data."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from tests import labdir
from tests.real_tree import ODD_READS, PROJECT, RealTree


def commits(tree: RealTree) -> list[str]:
    """Make six commits on top of the tree; the fourth has the fault."""
    return [
        tree.head,
        tree.edit("net/unix/garbage.c", "// SPDX", "/* a comment, on no line of its own */ // SPDX", "comment"),
        tree.edit("drivers/net/dummy.c", '"dummy"', '"dummy" ""', "printk"),
        tree.edit("init/version.c", "linux/init/version.c", "linux/init, version.c", "another comment"),
        tree.spoil(),
        tree.edit("drivers/net/veth.c", '"veth"', '"ve" "th"', "spelling"),
        tree.edit(
            "net/tls/tls_main.c", "#include <linux/module.h>", "#include <linux/module.h>\n#error no", "break a module"
        ),
    ]


@pytest.mark.build
@pytest.mark.guest
@pytest.mark.mirror
def test_the_commit_that_corrupts_data_is_named(tmp_path):
    tree = RealTree(tmp_path / "linux")
    made = commits(tree)
    lab = tmp_path / "lab"
    labdir.write(
        lab / "lab.yaml", f"kernels: {{tiny: {{source: {{type: dir, path: {tree.path}}}, config: [tiny.config]}}}}\n"
    )
    labdir.write(lab / "kernels/tiny.config", (PROJECT / "kernels/config/tiny.config").read_text())
    labdir.write(lab / "rootfs/base.yaml", (PROJECT / "rootfs/base.yaml").read_text())
    shutil.copytree(ODD_READS, lab / "scenarios/odd")
    (lab / "scenarios/lib").symlink_to(PROJECT / "scenarios/lib")
    words = [sys.executable, "-m", "kpatchlab", "--no-install", "--lab", str(lab / "lab.yaml"), "bisect"]
    words += ["--tree", str(tree.path), "--good", made[0], "--bad", made[-1], "--scenario", "odd"]
    done = subprocess.run(
        words, check=False, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(PROJECT)}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f'culprit: {made[4][:12]} ("af_unix: read from even places")' in done.stdout
    assert "bad end without it: failed in 0 of 3 runs: it is gone" in done.stdout
