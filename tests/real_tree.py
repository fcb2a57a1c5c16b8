"""The kernel source of the recipe `tiny` as a git repository on this host, in which a test commits what it likes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import yaml

from kpatchlab.build import BuildContext, build_kernel
from kpatchlab.build.source import source_of
from kpatchlab.cache import Cache
from kpatchlab.lab.recipes import KernelRecipe
from kpatchlab.model import Outcome

PROJECT = Path(__file__).parent.parent
ODD_READS = PROJECT / "tests/data/odd-reads"
"""A scenario that sees the fault of `RealTree.spoil`."""
WHO = ("-c", "user.name=A U Thor", "-c", "user.email=author@example.com", "-c", "gc.auto=0")


UNUSED = (
    "Documentation", "drivers/ata", "drivers/clk", "drivers/comedi", "drivers/dma", "drivers/gpu/drm", "drivers/hid",
    "drivers/hwmon", "drivers/i2c", "drivers/iio", "drivers/infiniband", "drivers/md", "drivers/media", "drivers/mfd",
    "drivers/misc/habanalabs", "drivers/mmc", "drivers/mtd", "drivers/net/ethernet", "drivers/net/wireless",
    "drivers/nvme", "drivers/phy", "drivers/pinctrl", "drivers/platform", "drivers/regulator", "drivers/s390",
    "drivers/spi", "drivers/staging", "drivers/usb", "drivers/video/fbdev", "fs/btrfs", "fs/cifs", "fs/ext4", "fs/f2fs",
    "fs/nfs", "fs/ocfs2", "fs/xfs", "net/bluetooth", "net/mac80211", "net/wireless", "sound", "tools/perf",
    "tools/testing",
)  # fmt: skip
"""Parts, beside other architectures, that the configuration `tiny` builds nothing of: three quarters of all files."""
KBUILD = ("Kconfig", "Makefile", "Kbuild")
"""What of them make reads all the same."""


def thin(tree: Path) -> None:
    """Delete what no build of `tiny` reads: each of a test's trees is written, hashed and exported the sooner."""
    others = (f"arch/{path.name}" for path in (tree / "arch").iterdir() if path.is_dir() and path.name != "x86")
    for part in (*UNUSED, *others):
        for folder, _, names in os.walk(tree / part):
            for name in names:
                if not name.startswith(KBUILD):
                    os.unlink(os.path.join(folder, name))


def git(tree: Path, *words: str) -> str:
    """Run git in a tree; returns its output."""
    done = subprocess.run(["git", *WHO, "-C", tree, *words], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture(scope="session")
def tiny_base() -> KernelRecipe:
    """Return the recipe `tiny`, built: a series reads what its base compiled, and nothing that another series did."""
    recipe = KernelRecipe.model_validate(yaml.safe_load((PROJECT / "kernels/tiny.yaml").read_text()))
    result = build_kernel(recipe, "tiny", BuildContext(Cache(), PROJECT))
    assert result.outcome is Outcome.PASS, result.log_tail
    return recipe


@pytest.fixture(scope="session")
def real_base(tmp_path_factory: pytest.TempPathFactory, tiny_base: KernelRecipe) -> Path:
    """Return the repository that each test's tree is a clone of: to unpack the source and add it takes a minute."""
    path = tmp_path_factory.mktemp("base") / "linux"
    path.mkdir()
    source_of(tiny_base.source, BuildContext(Cache(), PROJECT)).unpack(path)
    thin(path)
    git(path, "init", "-q", "-b", "main")
    git(path, "add", "-A", "-f")
    git(path, "commit", "-q", "-m", "Base")
    return path


class RealTree:
    """The repository at `path`, a clone of `base`; its branch is `main`."""

    def __init__(self, base: Path, path: Path) -> None:
        self.path = path
        git(base, "clone", "-q", "-o", "base", ".", str(path))

    def git(self, *words: str) -> str:
        """Run git in it; returns its output."""
        return git(self.path, *words)

    @property
    def head(self) -> str:
        """The newest commit."""
        return self.git("rev-parse", "HEAD")

    def edit(self, name: str, old: str, new: str, subject: str) -> str:
        """Replace text in a file and commit it; returns the commit."""
        text = (self.path / name).read_text()
        assert old in text
        (self.path / name).write_text(text.replace(old, new, 1))
        self.git("commit", "-q", "-a", "-m", subject)
        return self.head

    def append(self, name: str, text: str, subject: str) -> str:
        """Append text to a file and commit it; returns the commit."""
        with (self.path / name).open("a") as handle:
            handle.write(text)
        self.git("commit", "-q", "-a", "-m", subject)
        return self.head

    def spoil(self) -> str:
        """Have AF_UNIX streams read from even places only, which corrupts data; returns the commit."""
        right, wrong = "UNIXCB(skb).consumed + skip,", "(UNIXCB(skb).consumed & ~1) + skip,"
        return self.edit("net/unix/af_unix.c", right, wrong, "af_unix: read from even places")
