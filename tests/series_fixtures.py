"""A made series over the fake tree: each patch is an edit, and the folder of patches a lab's series."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

from build_fixtures import Bench

from kpatchlab.series import Table, Wanted, judge, walk
from kpatchlab.series.values import PatchResult


class SeriesBench(Bench):
    """The fake tree, a copy of it in which patches are made, and the folder that takes them."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.folders("drivers", "drivers/beta", "core")
        self.repository()
        self.results = root / "results"
        self.patches = root / "patches"
        self.patches.mkdir()
        self.told: list[PatchResult] = []

    def folders(self, *names: str) -> None:
        """Let folders look like kbuild's."""
        for name in names:
            self.write(f"{name}/Makefile", "")

    def patch(self, title: str, *edits: tuple[str, str, str], text: str = "Why.\n\nSigned-off-by: A <a@b.c>") -> Path:
        """Commit edits (file, old, new; old "" for a new file) and write the patch; returns its file."""
        for file, old, new in edits:
            if old:
                self.sub(file, old, new)
            else:
                self.write(file, new)
        self.git("add", "-A")
        self.git("commit", "-q", "-m", f"{title}\n\n{text}")
        number = len(list(self.patches.glob("*.patch"))) + 1
        target = self.patches / f"{number:04d}.patch"
        target.write_text(self.git("format-patch", "-1", "--stdout", "--no-signature") + "\n")
        return target

    def walk(self, *checks: str, tell: Callable[[PatchResult], None] | None = None, fresh: bool = False) -> Table:
        """Go over the patches from the first commit on."""
        first = self.git("rev-list", "--max-parents=0", "HEAD")
        source = {"type": "git", "path": str(self.tree), "revision": first}
        recipe = self.recipe(source=source, series=[{"type": "patches", "path": str(self.patches)}])
        self.told.clear()
        wanted = Wanted(checks or ("W=1", "sparse"), fresh=fresh)
        done, self.out = walk(recipe, "with", self.ctx, self.results, wanted, tell or self.told.append)
        return judge(done)

    def warm(self) -> Path:
        """Return the folder of the warm tree."""
        return next((self.root / "cache/series-tree").iterdir())


def program(folder: Path, name: str, text: str) -> None:
    """Write a shell script that stands for a program."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


def run(*words: str) -> str:
    """Run a command of the test's own."""
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def row(table: Table, number: int, column: str) -> tuple[str, str]:
    """Return state and text of a cell."""
    cell = table.rows[number - 1].cells[column]
    return str(cell.state), cell.text
