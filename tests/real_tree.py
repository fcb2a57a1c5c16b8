"""The kernel source of the recipe `tiny` as a git repository on this host, in which a test commits what it likes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import yaml

from kpatchlab.build import BuildContext
from kpatchlab.build.source import source_of
from kpatchlab.cache import Cache
from kpatchlab.lab.recipes import KernelRecipe

PROJECT = Path(__file__).parent.parent
ODD_READS = PROJECT / "tests/data/odd-reads"
"""A scenario that sees the fault of `RealTree.spoil`."""
WHO = ("-c", "user.name=A U Thor", "-c", "user.email=author@example.com", "-c", "gc.auto=0")


UNUSED = (
    "Documentation", "drivers/gpu/drm", "drivers/infiniband", "drivers/media", "drivers/net/wireless",
    "drivers/staging", "sound", "tools/testing",
)  # fmt: skip
"""Parts, beside other architectures, that the configuration `tiny` builds nothing of: half of all files."""
KBUILD = ("Kconfig", "Makefile", "Kbuild")
"""What of them make reads all the same."""


def thin(tree: Path) -> None:
    """Delete what no build of `tiny` reads: each of a test's trees is written, hashed and exported in half the time."""
    others = (f"arch/{path.name}" for path in (tree / "arch").iterdir() if path.is_dir() and path.name != "x86")
    for part in (*UNUSED, *others):
        for folder, _, names in os.walk(tree / part):
            for name in names:
                if not name.startswith(KBUILD):
                    os.unlink(os.path.join(folder, name))


class RealTree:
    """The repository at `path`; its branch is `main`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        source = KernelRecipe.model_validate(yaml.safe_load((PROJECT / "kernels/tiny.yaml").read_text())).source
        context = BuildContext(Cache(), PROJECT)
        source_of(source, context).unpack(path)
        thin(path)
        self.git("init", "-q", "-b", "main")
        self.git("add", "-A", "-f")
        self.git("commit", "-q", "-m", "Base")

    def git(self, *words: str) -> str:
        """Run git in it; returns its output."""
        done = subprocess.run(["git", *WHO, "-C", self.path, *words], check=True, capture_output=True, text=True)
        return done.stdout.strip()

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
