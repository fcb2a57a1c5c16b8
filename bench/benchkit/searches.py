"""A history of commits on the tree of kernels/tiny.yaml, and `lab bisect` on it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchkit import labs
from kpatchlab import proc
from kpatchlab.build import BuildContext
from kpatchlab.build.source import source_of
from kpatchlab.lab.recipes import KernelRecipe

HOURS_S = 4 * 3600.0
FILES = ("net/unix/garbage.c", "fs/pipe.c", "drivers/net/dummy.c", "fs/splice.c", "net/core/sock.c", "mm/filemap.c")
"""What harmless commits touch: built-in code, and a module."""
KCONFIG = "lib/Kconfig.debug"
PRINTS = """\
void kpatchlab_{0}(void);
void kpatchlab_{0}(void)
{{
	pr_info("commit {0}\\n");
}}
"""


def git(tree: Path, *words: str) -> str:
    """Run git in a tree; returns what it prints."""
    who = ["-c", "user.name=A U Thor", "-c", "user.email=author@example.com", "-c", "gc.auto=0"]
    done = proc.run(["git", *who, "-C", str(tree), *words], timeout_s=HOURS_S)
    return done.stdout.strip()


def base(tree: Path, context: BuildContext) -> str:
    """Make a repository of the tree of kernels/tiny.yaml; returns its commit."""
    recipe = KernelRecipe.model_validate(labs.recipe_text(labs.CLONE / "lab.yaml", "tiny"))
    tree.mkdir()
    source_of(recipe.source, context).unpack(tree)
    git(tree, "init", "-q")
    git(tree, "add", "-A", "-f")
    git(tree, "commit", "-q", "-m", "Base")
    return git(tree, "rev-parse", "HEAD")


def commit(tree: Path, subject: str) -> str:
    """Commit what was changed; returns the commit."""
    git(tree, "commit", "-q", "-a", "-m", subject)
    return git(tree, "rev-parse", "HEAD")


def harmless(tree: Path, number: int) -> str:
    """Make a commit as most are: data, a comment, code that prints, or a symbol for Kconfig; returns it."""
    kinds = (
        (FILES[number % len(FILES)], f"const int kpatchlab_{number} = {number};\n"),
        (FILES[number % len(FILES)], f"/* commit {number} */\n"),
        (FILES[number % len(FILES)], PRINTS.format(number)),
        (KCONFIG, f'\nconfig KPATCHLAB_{number}\n\tbool "commit {number}"\n'),
    )
    name, text = kinds[number % len(kinds)]
    with (tree / name).open("a") as handle:
        handle.write(text)
    return commit(tree, f"commit {number}")


def write_lab(root: Path, tree: Path, scenarios: Mapping[str, labs.Files], symbols: Mapping[str, str]) -> Path:
    """Lay out a lab whose one kernel is configured as kernels/tiny.yaml, with these symbols on top; its lab file."""
    root.mkdir()
    recipe: dict[str, Any] = {"source": {"type": "dir", "path": str(tree)}, "config": ["config/tiny.config"]}
    recipe |= {"config_set": dict(symbols)} if symbols else {}
    return labs.write_lab(root, labs.CLONE / "lab.yaml", scenarios, kernels={"tiny": recipe}, base="tiny")


def scenario(folder: Path) -> dict[str, str]:
    """Return the files of a scenario."""
    return {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}


@dataclass(frozen=True, slots=True)
class Lab:
    """`lab bisect` between two commits of a repository."""

    path: Path
    tree: Path
    good: str
    bad: str

    def bisect(self, *words: str) -> proc.Result:
        """Search, with these options; whatever comes of it."""
        program = [sys.executable, "-m", "kpatchlab", "--no-install", "--lab", str(self.path), "bisect"]
        where = ["--tree", str(self.tree), "--good", self.good, "--bad", self.bad]
        env = {**os.environ, "PYTHONPATH": str(labs.CLONE)}
        return proc.run([*program, *where, *words], timeout_s=HOURS_S, check=False, env=env)

    def state(self) -> dict[str, Any]:
        """Return what the last search stored."""
        found: dict[str, Any] = json.loads(max(self.path.parent.glob("results/bisect/*/state.json")).read_text())
        return found

    def steps(self, state: Mapping[str, Any]) -> int:
        """Return how many commits between the ends a search tested."""
        return len({one["commit"] for one in state["told"] if one["phase"] == "search"} - {self.good, self.bad})
