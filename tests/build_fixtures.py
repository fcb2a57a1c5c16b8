"""What the build's tests share: the fake tree, a lab around it, and recipes."""

from __future__ import annotations

import shutil
import subprocess
import threading
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from kpatchlab.build import BuildContext
from kpatchlab.cache import Cache
from kpatchlab.lab.recipes import KernelRecipe

FAKE = Path(__file__).with_name("fake_linux")
CONFIG = "CONFIG_NET=y\nCONFIG_ALPHA=m\nCONFIG_BETA=m\nCONFIG_GAMMA=m\nCONFIG_DELTA=m\n"


class Bench:
    """A lab of its own below a temporary directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.tree = root / "linux"
        shutil.copytree(FAKE, self.tree)
        self.lab = root / "lab"
        (self.lab / "kernels/config").mkdir(parents=True)
        (self.lab / "kernels/config/all.config").write_text(CONFIG)
        self.lines: list[str] = []
        self.progress: list[Any] = []
        self.ctx = self.context()

    def context(self, **changes: Any) -> BuildContext:
        given: dict[str, Any] = {
            "jobs": 2, "progress": self.progress.append, "verbose": self.lines.append, "min_free_bytes": 0,
            "cancel": threading.Event(),
        }  # fmt: skip
        return BuildContext(Cache(self.root / "cache"), self.lab, **(given | changes))

    def recipe(self, **changes: Any) -> Any:
        given = {"source": {"type": "dir", "path": str(self.tree)}, "config": ["config/all.config"]}
        return TypeAdapter(KernelRecipe).validate_python(given | changes)

    def write(self, name: str, text: str) -> None:
        path = self.tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def sub(self, name: str, old: str, new: str) -> None:
        text = (self.tree / name).read_text()
        assert old in text
        self.write(name, text.replace(old, new))

    def git(self, *words: str) -> str:
        who = ["-c", "user.name=A U Thor", "-c", "user.email=author@example.com", "-c", "init.defaultBranch=main"]
        return subprocess.run(
            ["git", *who, "-C", str(self.tree), *words], check=True, capture_output=True, text=True
        ).stdout.strip()

    def repository(self) -> str:
        """Make the tree a git repository of one commit; returns its id."""
        self.git("init", "-q")
        self.git("add", "-A")
        self.git("commit", "-q", "-m", "Base")
        return self.git("rev-parse", "HEAD")

    def commit(self, name: str, old: str, new: str, subject: str) -> None:
        """Change a text in a file of the repository, as a commit."""
        self.sub(name, old, new)
        self.git("commit", "-qam", subject)

    def snapshot(self) -> dict[str, tuple[bytes, float]]:
        files = (path for path in self.tree.rglob("*") if path.is_file())
        return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}
