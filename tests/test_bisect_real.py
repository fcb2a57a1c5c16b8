"""A search on a real kernel in real guests: a small kernel, commits of our own, one of which corrupts AF_UNIX data."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from kpatchlab.build import BuildContext
from kpatchlab.build.source import SOURCES
from kpatchlab.cache import Cache
from kpatchlab.recipes import KernelRecipe
from tests import labdir

PROJECT = Path(__file__).parent.parent
SCENARIO = PROJECT / "tests/data/odd-reads"
FILE, RIGHT, WRONG = "net/unix/af_unix.c", "UNIXCB(skb).consumed + skip,", "(UNIXCB(skb).consumed & ~1) + skip,"


def commits(tree: Path) -> list[str]:
    """Make the tree a repository with six commits on top of it; the fourth has the fault."""
    who = ["-c", "user.name=A U Thor", "-c", "user.email=author@example.com", "-c", "gc.auto=0"]

    def git(*words: str) -> str:
        return subprocess.run(["git", *who, "-C", str(tree), *words], check=True, capture_output=True, text=True).stdout

    def edit(name: str, old: str, new: str, subject: str) -> None:
        text = (tree / name).read_text()
        assert old in text
        (tree / name).write_text(text.replace(old, new, 1))
        git("commit", "-q", "-a", "-m", subject)
        made.append(git("rev-parse", "HEAD").strip())

    git("init", "-q")
    git("add", "-A", "-f")
    git("commit", "-q", "-m", "Base")
    made = [git("rev-parse", "HEAD").strip()]
    edit("net/unix/garbage.c", "// SPDX", "/* a comment, on no line of its own */ // SPDX", "comment")
    edit("drivers/net/dummy.c", '"dummy"', '"dummy" ""', "printk")
    edit("init/version.c", "linux/init/version.c", "linux/init, version.c", "another comment")
    edit(FILE, RIGHT, WRONG, "af_unix: read from even places")
    edit("drivers/net/veth.c", '"veth"', '"ve" "th"', "spelling")
    edit("net/tls/tls_main.c", "#include <linux/module.h>", "#include <linux/module.h>\n#error no", "break a module")
    return made


@pytest.mark.build
@pytest.mark.guest
@pytest.mark.mirror
def test_the_commit_that_corrupts_data_is_named(tmp_path):
    cache = Cache()
    source = KernelRecipe.model_validate(yaml.safe_load((PROJECT / "kernels/tiny.yaml").read_text())).source
    context = BuildContext(cache, PROJECT)
    kind = SOURCES[source.type]
    tree = tmp_path / "linux"
    tree.mkdir()
    kind.unpack(source, kind.key(source, context), context, tree)
    made = commits(tree)
    lab = tmp_path / "lab"
    labdir.write(
        lab / "lab.yaml", f"kernels: {{tiny: {{source: {{type: dir, path: {tree}}}, config: [tiny.config]}}}}\n"
    )
    labdir.write(lab / "kernels/tiny.config", (PROJECT / "kernels/config/tiny.config").read_text())
    labdir.write(lab / "rootfs/base.yaml", (PROJECT / "rootfs/base.yaml").read_text())
    shutil.copytree(SCENARIO, lab / "scenarios/odd")
    (lab / "scenarios/lib").symlink_to(PROJECT / "scenarios/lib")
    words = [sys.executable, "-m", "kpatchlab", "--no-install", "--lab", str(lab / "lab.yaml"), "bisect"]
    words += ["--tree", str(tree), "--good", made[0], "--bad", made[-1], "--scenario", "odd"]
    done = subprocess.run(
        words, check=False, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(PROJECT)}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f'culprit: {made[4][:12]} ("af_unix: read from even places")' in done.stdout
    assert "bad end without it: failed in 0 of 3 runs: it is gone" in done.stdout
