"""The tree that a kernel is built in, its series applied, and the folder of its objects."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kpatchlab.build import changes, config, patchset, source, toolchain, warm
from kpatchlab.build.context import BuildContext, BuildProgress
from kpatchlab.build.copies import copy_of, is_copied
from kpatchlab.build.origin import Source
from kpatchlab.build.spec import KernelSpec, read_spec
from kpatchlab.cache import content_key
from kpatchlab.lab.recipes import KernelRecipe

OBJECTS = f"{warm.OBJECTS}-"
"""What the names of object directories in such trees begin with."""


@contextlib.contextmanager
def tree_of(spec: KernelSpec, name: str, work: Path, ctx: BuildContext) -> Iterator[tuple[Path, Path]]:
    """Yield the tree, series applied, and its object directory."""
    if not spec.in_place:
        yield _unpacked(spec, name, work, ctx)
    elif own := spec.tree_in_place():
        yield own, _objects_in(own, spec.asked, spec.compiler)
    else:
        assert isinstance(spec.source, source.Dir)
        with copy_of(spec.source, ctx) as tree:
            yield tree, _objects_in(tree, spec.asked, spec.compiler)


def _unpacked(spec: KernelSpec, name: str, work: Path, ctx: BuildContext) -> tuple[Path, Path]:
    tree, done = work / "tree", work / "unpacked-tree"
    if not done.exists():
        shutil.rmtree(tree, ignore_errors=True)
        (work / "configured").unlink(missing_ok=True)
        tree.mkdir(parents=True)
        objects = _lent(spec, tree, ctx)
        if not objects:
            spec.source.write_tree(tree)
        ctx.check_cancel()
        ctx.progress(BuildProgress(name, "series"))
        try:
            _apply(spec, tree, ctx)
        except BaseException:
            ctx.discard(tree)
            raise
        if objects and not any(config.decides(name, ctx.arch) for name in patchset.changed_files(spec.patches)):
            (work / "configured").touch()
        done.write_text(objects or warm.OBJECTS)
    return tree, tree / (done.read_text() or warm.OBJECTS)


def _lent(spec: KernelSpec, tree: Path, ctx: BuildContext) -> str:
    """Make `tree` a copy of the base as it was built; returns the name of the folder of its objects, "" for none."""
    if not spec.patches:
        return ""
    if not isinstance(spec.source, source.Dir):
        return warm.OBJECTS if warm.lend(spec.base_kernel, tree, ctx) else ""
    if not is_copied(spec.source, ctx):
        return ""
    with copy_of(spec.source, ctx) as base:
        objects = _objects_in(base, spec.asked, spec.compiler).name
        return objects if (base / objects / "vmlinux").exists() and warm.copy(base, objects, tree, ctx) else ""


def done_with(spec: KernelSpec, tree: Path, ctx: BuildContext) -> None:
    """Keep the tree of a kernel that is built where it is of use for others, or delete it."""
    if spec.in_place:
        return
    if spec.patches or spec.recipe.coverage:
        ctx.discard(tree)
    else:
        warm.keep(spec.key, tree, f"{spec.label}, with its objects", ctx)


def _objects_in(tree: Path, asked: dict[str, config.Asked], compiler: str) -> Path:
    # One object directory per tree and configuration, kept: an edit costs what it touches. It lies below the tree:
    # paths are relative then, and ccache has them from other trees.
    return tree / f"{OBJECTS}{content_key(str(tree), config.key(asked), compiler)[:16]}"


def lies_built(recipe: KernelRecipe, tree: Path, ctx: BuildContext) -> bool:
    """Whether a kernel of a recipe's configuration was built in a tree, from where it lies, so that its objects are."""
    obj = _objects_in(tree, config.asked_symbols(recipe, ctx), toolchain.described(recipe, ctx))
    return (obj / "vmlinux").exists()


def _apply(spec: KernelSpec, tree: Path, ctx: BuildContext) -> changes.Changes:
    """Apply the series to a plain tree, and keep what each of its patches changes."""
    replay = changes.Replay(spec.patches, changes.reader(tree))
    patchset.apply_series(spec.patches, tree, ctx)
    return keep_changes(spec, replay, tree, ctx)


def keep_changes(spec: KernelSpec, replay: changes.Replay, tree: Path, ctx: BuildContext) -> changes.Changes:
    """Keep what each patch of a series changes, now that `tree` has it."""
    if not spec.patches:
        return changes.Changes()
    key = changes.changes_key(spec.base_key, spec.patches)
    found = replay.run(changes.reader(tree))
    ctx.cache.get("changes", key, lambda work: changes.write(found, work), label=f"changes of {spec.label}")
    return found


def series_changes(recipe: KernelRecipe, ctx: BuildContext, origin: Source[Any] | None = None) -> changes.Changes:
    """Return what each patch of a recipe's series changes: from the cache, where its build left it.

    A kernel that was built before the lab kept this has its tree unpacked once more.

    Args:
        origin: as in `kernel_key`.

    Raises:
        UserError, HostError: as `build_kernel`.
    """
    spec = read_spec(recipe, ctx, origin)
    if not spec.patches:
        return changes.Changes()
    key = changes.changes_key(spec.base_key, spec.patches)
    if not ctx.cache.usable("changes", key):
        (ctx.cache.root / "tmp").mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix="changes-", dir=ctx.cache.root / "tmp"))
        try:
            tree = scratch / "tree"
            tree.mkdir()
            spec.source.write_tree(tree)
            return _apply(spec, tree, ctx)
        finally:
            ctx.discard(scratch)
    ctx.cache.touch("changes", key)
    return changes.read(ctx.cache.path("changes", key))
