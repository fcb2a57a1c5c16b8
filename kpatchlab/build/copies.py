"""The lab's own copy of a user's tree, in which it is built: the tree itself is only read.

A copy stays from one build to the next with its objects in it. It gets what changed and nothing else, so an edit costs
what it touches. A series on that tree is built in a copy of the copy (`warm.copy`).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from kpatchlab.build.context import BuildContext
from kpatchlab.build.source import Dir
from kpatchlab.cache import content_key
from kpatchlab.files import write_atomic

COPIES = "trees"
"""The cache's kind of such copies."""

Stamp = list[int]
"""What tells that a file of the user's has not changed: size, times in ns, mode, inode."""


@contextlib.contextmanager
def copy_of(tree: Dir, ctx: BuildContext) -> Iterator[Path]:
    """Bring the copy of a tree up to date, and yield it for as long as nobody else may change it.

    Raises:
        UserError: it is no kernel tree.
    """
    path, folder = tree.path(), _folder(tree, ctx)
    with ctx.cache.lock(f"{COPIES}-{folder.name}"):
        (folder / "tree").mkdir(parents=True, exist_ok=True)
        _update(path, tree.files(), folder, ctx)
        try:
            yield folder / "tree"
        finally:
            with contextlib.suppress(OSError):  # a full disk: what has filled it is told, not this
                ctx.note(folder, f"copy of {path}, with its objects")


def is_copied(tree: Dir, ctx: BuildContext) -> bool:
    """Whether there is a copy, as up to date as it may be."""
    return _folder(tree, ctx).is_dir()


def _folder(tree: Dir, ctx: BuildContext) -> Path:
    return ctx.cache.path(COPIES, content_key(str(tree.path()))[:16])


def _update(source: Path, names: list[str], folder: Path, ctx: BuildContext) -> None:
    manifest, copy = folder / "files.json", folder / "tree"
    before: dict[str, Stamp] = {}
    with contextlib.suppress(OSError, ValueError):
        before = json.loads(manifest.read_bytes())
    if not before:  # of a copy that was killed before it was whole
        shutil.rmtree(copy)
        copy.mkdir()
    now: dict[str, Stamp] = {}
    for name in names:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # deleted, and git still has it
            found = (source / name).lstat()
            now[name] = [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_mode, found.st_ino]
    if now == before:
        return
    for name in before.keys() - now.keys():
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            (copy / name).unlink()
    changed = [name for name, stamp in now.items() if before.get(name) != stamp]
    # A kill meanwhile: what was brought is known, to be removed when it goes, and passes for current in nothing.
    write_atomic(manifest, json.dumps(before | {name: [] for name in changed}).encode())
    for name in changed:
        ctx.check_cancel()
        _bring(source / name, copy / name)
    write_atomic(manifest, json.dumps(now).encode())


def _bring(source: Path, target: Path) -> None:
    """Make `target` what `source` is; one that is already keeps its time, so that make leaves its objects alone."""
    if source.is_symlink():
        if not (target.is_symlink() and os.readlink(target) == os.readlink(source)):
            _make_way(target)
            os.symlink(os.readlink(source), target)
        return
    if not source.is_file():
        return
    mode = 0o755 if os.access(source, os.X_OK) else 0o644
    data = source.read_bytes()
    if not (target.is_file() and not target.is_symlink() and target.read_bytes() == data):
        _make_way(target)
        target.write_bytes(data)
    target.chmod(mode)


def _make_way(target: Path) -> None:
    """Remove what is at a place, and a file where a folder of it is to be."""
    for parent in reversed(target.parents):
        if parent.is_symlink() or parent.is_file():
            parent.unlink()
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_dir() and not target.is_symlink():
        shutil.rmtree(target)
    target.unlink(missing_ok=True)
