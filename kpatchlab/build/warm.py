"""Bases with their objects, kept for the series that come on top of them: make compiles what a series changes.

A series gets a copy of its own, so no other kernel ever sees what a stranger's Makefile did. Sources are shared by hard
links: behind the fence they are read-only, and git writes a patched file anew. Objects are copied, since compilers and
kbuild write to them where they lie. Where nothing confines a build, nothing is lent.

It is make's own promise that this gives what a clean build does. What its dependencies do not know is not seen: a
generated header whose rule a series takes away is there still.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from kpatchlab import proc
from kpatchlab.build.context import BuildContext
from kpatchlab.fence import lacking

WARM = "warm"
"""The cache's kind of such trees."""
OBJECTS = "obj"
"""The folder of their objects."""
MOST = 2
"""Trees that are kept: with its objects one takes 1.8 GiB (6.1, 1,387 objects) or 2.2 (6.12, 2,040)."""
COPY_S = 1800.0


def keep(key: str, tree: Path, label: str, ctx: BuildContext) -> None:
    """Take a base's tree, built, out of where it lies; of all those kept, the least recently used go.

    Args:
        key: of the base's kernel.
    """
    if lacking() or shutil.disk_usage(tree).free < ctx.min_free_bytes:
        ctx.discard(tree)
        return
    with ctx.cache.lock(f"{WARM}-{key}"):
        if (kept := ctx.cache.path(WARM, key)).exists():
            ctx.discard(kept)
        folder = ctx.cache.scratch(WARM)
        with ctx.cache.using(folder):
            tree.rename(folder / "tree")
            ctx.note(folder, label)
            kept.parent.mkdir(parents=True, exist_ok=True)
            folder.rename(kept)
    others = [entry for entry in ctx.cache.entries() if entry.kind == WARM and entry.key != key]
    for entry in others[: max(0, len(others) - MOST + 1)]:
        with ctx.cache.lock(f"{WARM}-{entry.key}"), contextlib.suppress(FileNotFoundError):
            ctx.discard(entry.path)


def lend(key: str, tree: Path, ctx: BuildContext) -> bool:
    """Make `tree`, an empty folder, a copy of what is kept of a base; False, and it is empty still, where it is not.

    Args:
        key: as in `keep`.
    """
    kept = ctx.cache.path(WARM, key) / "tree"
    with ctx.cache.lock(f"{WARM}-{key}"):
        ctx.cache.touch(WARM, key)
        return copy(kept, OBJECTS, tree, ctx)


def copy(built: Path, objects: str, tree: Path, ctx: BuildContext) -> bool:
    """Make `tree`, an empty folder, a copy of one that is built; False, and it is empty still, where that cannot be.

    Args:
        objects: name of the folder of its objects that comes along; no other one does.
    """
    if lacking() or not (built / objects).is_dir():
        return False
    copied = _copy(built, objects, tree, ctx)
    ctx.check_cancel()
    if not copied:  # a full disk, a file system without links
        ctx.discard(tree)
        tree.mkdir()
    return copied


def _copy(built: Path, objects: str, tree: Path, ctx: BuildContext) -> bool:
    def ran(*words: str) -> bool:
        return proc.run(words, timeout_s=COPY_S, check=False, nice=proc.BUILD_NICE, cancel=ctx.cancel).status == 0

    sources = [
        entry.path for entry in os.scandir(built) if entry.name != objects and not entry.name.startswith(f"{OBJECTS}-")
    ]
    return (
        ran("cp", "-a", "--link", "--", *sources, str(tree))
        and ran("cp", "-a", "--reflink=auto", "--", str(built / objects), str(tree))
        # What of it is the kernel's artifact as well has been made read-only there.
        and ran("chmod", "-R", "u+w", "--", str(tree / objects))
    )
