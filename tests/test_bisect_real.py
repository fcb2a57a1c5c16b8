"""A search on a real kernel in real guests: a small kernel, commits of our own, one of which corrupts AF_UNIX data."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import labdir
from tests.real_tree import ODD_READS, PROJECT, RealTree

DATA = "const int kpatchlab_{0} = {0};\n"
"""What makes a kernel another one and changes nothing that it does."""


@dataclass(frozen=True, slots=True)
class Searched:
    """A repository with eight commits, the fifth of which has the fault, and a lab over it."""

    lab: Path
    tree: RealTree
    made: list[str]

    def bisect(self, *words: str) -> str:
        """Search the whole range; returns what it says."""
        program = [sys.executable, "-m", "kpatchlab", "--no-install", "--lab", str(self.lab), "bisect"]
        where = ["--tree", str(self.tree.path), "--good", self.made[0], "--bad", self.made[-1], "--scenario", "odd"]
        env = os.environ | {"PYTHONPATH": str(PROJECT)}
        done = subprocess.run([*program, *where, *words], check=False, capture_output=True, text=True, env=env)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def runs(self) -> dict[str, list[str]]:
        """Return which commits shared a run of the search, of the last one."""
        state = json.loads(max(self.lab.parent.glob("results/bisect/*/state.json")).read_text())
        found: dict[str, list[str]] = {}
        for one in state["told"]:
            if one["phase"] == "search" and one["run"]:
                found.setdefault(one["run"], []).append(one["commit"])
        return found


def commits(tree: RealTree) -> list[str]:
    """Make eight commits on top of the tree; the fifth has the fault."""
    version, include = "linux/init/version.c", "#include <linux/module.h>"
    return [
        tree.head,
        tree.edit("net/unix/garbage.c", "// SPDX", "/* a comment, on no line of its own */ // SPDX", "comment"),
        tree.append("fs/pipe.c", DATA.format(2), "data"),
        tree.edit("init/version.c", version, "linux/init, version.c", "another comment"),
        tree.append("net/core/sock.c", DATA.format(4), "more data"),
        tree.spoil(),
        tree.append("fs/splice.c", DATA.format(6), "data again"),
        tree.append("mm/filemap.c", DATA.format(7), "data once more"),
        tree.edit("net/tls/tls_main.c", include, f"{include}\n#error no", "break a module"),
    ]


@pytest.fixture(scope="module")
def searched(real_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Searched:
    """Lay out the repository and the lab."""
    folder = tmp_path_factory.mktemp("bisect")
    tree = RealTree(real_base, folder / "linux")
    made = commits(tree)
    lab = folder / "lab"
    labdir.write(
        lab / "lab.yaml", f"kernels: {{tiny: {{source: {{type: dir, path: {tree.path}}}, config: [tiny.config]}}}}\n"
    )
    labdir.write(lab / "kernels/tiny.config", (PROJECT / "kernels/config/tiny.config").read_text())
    labdir.write(lab / "rootfs/base.yaml", (PROJECT / "rootfs/base.yaml").read_text())
    shutil.copytree(ODD_READS, lab / "scenarios/odd")
    shutil.copytree(PROJECT / "scenarios/lib", lab / "scenarios/lib")
    return Searched(lab / "lab.yaml", tree, made)


@pytest.mark.build
@pytest.mark.guest
@pytest.mark.mirror
@pytest.mark.long
@pytest.mark.timeout(4 * 3600)
def test_the_commit_that_corrupts_data_is_named(searched):
    said = searched.bisect()
    assert f'culprit: {searched.made[5][:12]} ("af_unix: read from even places")' in said
    assert "bad end without it: failed in 0 of 3 runs: it is gone" in said
    assert max(len(commits) for commits in searched.runs().values()) == 1


@pytest.mark.build
@pytest.mark.guest
@pytest.mark.mirror
@pytest.mark.long
@pytest.mark.timeout(4 * 3600)
def test_candidates_are_run_side_by_side_each_on_its_own_kernel(searched):
    said = searched.bisect("--candidates", "3")
    assert f'culprit: {searched.made[5][:12]} ("af_unix: read from even places")' in said
    together = max(searched.runs().values(), key=len)
    assert len(set(together)) == 3
    assert {searched.made.index(commit) >= 5 for commit in together} == {True, False}
