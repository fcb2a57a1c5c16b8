"""One recipe to one kernel: the content key, the stages in their order, and what is kept of them."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kpatchlab import proc
from kpatchlab.build import (
    artifact,
    changes,
    config,
    confined,
    failures,
    make,
    objects,
    patchset,
    prebuilt,
    source,
    toolchain,
)
from kpatchlab.build.context import BuildContext, BuildProgress
from kpatchlab.build.copies import copy_of
from kpatchlab.build.origin import Source
from kpatchlab.cache import content_key
from kpatchlab.errors import HostError, UserError
from kpatchlab.fence import Escape, read_left
from kpatchlab.files import copied, link_or_copy, read_within, regular
from kpatchlab.jsonable import from_json
from kpatchlab.lab.recipes import GCC, KernelRecipe
from kpatchlab.maintainers import NAME as MAINTAINERS
from kpatchlab.model import BuildResult, ConfigMiss, ModuleFailure, Outcome

VERSION = 1
"""Part of every key: raise it when the same inputs are to give another artifact."""
COVERAGE_VERSION = 1
"""The same, for kernels that are built for gcov."""
IN_PLACE_VERSION = 2
"""The same, for kernels of trees that are built from where they lie: before it their System.map was the next one's."""
TAIL_LINES = 60
WORK_TREES = "bisect"
"""The cache's kind of work trees that are the lab's own, and are built from where they lie."""
STRANGERS = "series"
"""A file beside such a tree whose commits are a series, and not those of the user's repository."""
OBJECTS = "obj-"
"""What the names of object directories in such trees begin with."""


NOT_MADE = (FileNotFoundError, IsADirectoryError, NotADirectoryError, FileExistsError)
"""What reading a kernel's files raises where make says that it is done and has not made them."""


def author_of_tree(tree: Path) -> str:
    """Return who wrote what lies in a tree, see `_KernelSpec.author`."""
    return content_key(str(tree)) if (tree.parent / STRANGERS).exists() else confined.TRUSTED


class Blocked(Exception):
    """The kernel is at fault; `result` says where."""

    def __init__(self, result: BuildResult) -> None:
        super().__init__(result.error)
        self.result = result


@dataclass(slots=True)
class _KernelSpec:
    """A recipe with all that its key needs, read once."""

    recipe: KernelRecipe
    source: Source[Any]
    patches: list[patchset.Patch]
    asked: dict[str, config.Asked]
    compiler: str
    key: str = ""
    misses: tuple[ConfigMiss, ...] = field(default=())

    @property
    def prebuilt(self) -> bool:
        return self.recipe.is_prebuilt

    @property
    def base_key(self) -> str:
        """Content key of the tree without the series."""
        return self.source.tree_key

    @property
    def author(self) -> str:
        """Who wrote the code, as `confined.build_fence` takes it: a base is trusted, a series is not."""
        if key := patchset.series_key(self.patches):
            return key
        own = self.tree_in_place()
        return author_of_tree(own) if own else confined.TRUSTED

    def tree_in_place(self) -> Path | None:
        """Return a search's work tree, where it is what is built."""
        if not isinstance(self.source, source.Dir):
            return None
        tree = self.source.path()
        return tree if tree.is_relative_to(self.source.ctx.cache.root / WORK_TREES) else None

    @property
    def in_place(self) -> bool:
        """Whether objects of earlier builds lie in the tree: a search's, or the lab's copy of the user's own."""
        return isinstance(self.source, source.Dir) and not self.patches


def _plan(recipe: KernelRecipe, ctx: BuildContext, origin: Source[Any] | None = None) -> _KernelSpec:
    ctx = ctx.compiling(recipe)
    origin, prebuilt = origin or source.source_of(recipe.source, ctx), recipe.is_prebuilt
    parts: list[object] = [VERSION, ctx.arch, origin.tree_key]
    patches = [] if prebuilt else patchset.read_series(recipe.series, ctx)
    asked = {} if prebuilt else config.asked_symbols(recipe, ctx)
    plan = _KernelSpec(recipe, origin, patches, asked, "" if prebuilt else toolchain.described(recipe, ctx))
    if not prebuilt:
        parts += [patchset.series_key(patches), config.key(asked), plan.compiler]
        parts += ["coverage", COVERAGE_VERSION] if recipe.coverage else []
        parts += ["in place", IN_PLACE_VERSION] if plan.in_place else []
    plan.key = content_key(parts)
    return plan


def kernel_key(recipe: KernelRecipe, ctx: BuildContext, origin: Source[Any] | None = None) -> str:
    """Return the content key (sha256, hex) of the kernel that the recipe leads to now; nothing is unpacked.

    Args:
        origin: the recipe's source where it was asked for its tree already; a server is not asked twice.

    Raises:
        UserError, HostError: as `build_kernel`.
    """
    return _plan(recipe, ctx, origin).key


def cached_kernel(recipe: KernelRecipe, name: str, ctx: BuildContext) -> BuildResult | None:
    """Return the kernel that the recipe leads to now where it is in the cache; nothing is fetched or built.

    Raises:
        UserError, HostError: as `build_kernel`.
    """
    key = _plan(recipe, ctx).key
    return _load(ctx.cache.path("kernel", key), name, cached=True) if ctx.cache.has("kernel", key) else None


def stored_kernel(key: str, name: str, ctx: BuildContext) -> BuildResult | None:
    """Return the kernel of a content key where it is in the cache."""
    return _load(ctx.cache.path("kernel", key), name, cached=True) if ctx.cache.has("kernel", key) else None


def build_kernel(recipe: KernelRecipe, name: str, ctx: BuildContext, origin: Source[Any] | None = None) -> BuildResult:
    """Return the kernel of a recipe: from the cache, or built (or fetched) now.

    A kernel that does not build is a BuildResult with outcome BLOCKED; a module that does not is left out and
    listed in `module_failures`. A build that was killed goes on where it was.

    Args:
        origin: as in `kernel_key`.

    Raises:
        UserError: the recipe is wrong: no such revision, a patch that does not apply, a tree that cannot be configured.
        HostError: the host cannot: no compiler, no mirror, no room.
        BuildCancelled: `ctx.cancel` was set.
    """
    begin, ctx = time.monotonic(), ctx.compiling(recipe)
    ctx.progress(BuildProgress(name, "source"))
    plan = _plan(recipe, ctx, origin)
    if ctx.cache.usable("kernel", plan.key):
        ctx.cache.touch("kernel", plan.key)
        return _load(ctx.cache.path("kernel", plan.key), name, cached=True, duration_s=time.monotonic() - begin)

    def produce(work: Path) -> None:
        if not plan.prebuilt:
            ctx.check_space()
        result = _fetch(plan, name, work, ctx) if plan.prebuilt else _build(plan, name, work, ctx)
        done = replace(result, duration_s=round(time.monotonic() - begin, 1))
        artifact.write_records(work, done, done.module_failures)

    try:
        path = ctx.cache.get("kernel", plan.key, produce, label=_label(plan), keep_partial=True)
    except Blocked as blocked:
        return replace(blocked.result, duration_s=round(time.monotonic() - begin, 1))
    ctx.progress(BuildProgress(name, "done"))
    return _load(path, name)


def _label(plan: _KernelSpec) -> str:
    words = plan.source.describe()
    return words + (f" + {len(plan.patches)} patches" if plan.patches else "")


def _load(path: Path, name: str, **changes: object) -> BuildResult:
    result = from_json(BuildResult, json.loads((path / "build.json").read_text()))
    if not result.compiler:  # a prebuilt one that was kept before the lab read it
        changes["compiler"] = prebuilt.compiler(path / "config")
    return replace(result, kernel=name, **changes)  # type: ignore[arg-type]


def _result(plan: _KernelSpec, name: str) -> BuildResult:
    return BuildResult(
        kernel=name,
        outcome=Outcome.PASS,
        key=plan.key,
        base=plan.source.describe(),
        base_key=plan.base_key,
        series=patchset.describe(plan.recipe.series, plan.patches),
        compiler=plan.compiler,
        config_misses=plan.misses,
        arch=plan.recipe.built_for,
        unconfined="" if plan.prebuilt or plan.author == confined.TRUSTED else confined.unconfined(),
    )


# ------------------------------------------------------------------------------------------- prebuilt


def _fetch(plan: _KernelSpec, name: str, work: Path, ctx: BuildContext) -> BuildResult:
    """Make the artifact of a kernel that a distribution built."""
    unpacked, root = work / "unpacked", work / "root"
    for folder in (unpacked, root):
        shutil.rmtree(folder, ignore_errors=True)
    plan.source.unpack(unpacked)
    ctx.progress(BuildProgress(name, "package"))
    release = prebuilt.take(unpacked, plan.source.describe(), work, root)
    folder = artifact.finish_modules(root, release, None)
    artifact.boot_modules(folder, work / "boot-modules")
    artifact.keep_lists(folder, work)
    artifact.pack_modules(root, work / "modules.erofs", work / "config")
    for done in (unpacked, root):
        shutil.rmtree(done)
    made_by = prebuilt.compiler(work / "config")
    return replace(_result(plan, name), release=release, compiler=made_by, reproduce=plan.source.by_hand())


# --------------------------------------------------------------------------------------------- built


def _build(plan: _KernelSpec, name: str, work: Path, ctx: BuildContext) -> BuildResult:
    """Make the artifact from source; `work` may hold what an earlier, killed try left."""
    confined.check(ctx, plan.author)
    try:
        with _tree(plan, name, work, ctx) as (tree, obj):
            ctx.progress(BuildProgress(name, "config"))
            covered = _covered(plan, work, ctx)
            job = make.Job(name, tree, obj, work, ctx, plan.author, covered)
            return _confined(plan, name, job, work, ctx)
    except Escape as escaped:
        fault = failures.BuildError("", 0, f"the build tried to leave its folders: {escaped.message}")
        raise _blocked(_result(plan, name), fault, ()) from None
    finally:
        confined.tidy(ctx, plan.author)


def _confined(plan: _KernelSpec, name: str, job: make.Job, work: Path, ctx: BuildContext) -> BuildResult:
    """Configure, make and install what lies in the job's tree."""
    tree, obj = job.tree, job.obj
    try:
        _configure(plan, job)
    except config.CannotConfigure as refused:
        raise _blocked(_result(plan, name), refused.fault, refused.details) from None
    for line in config.describe(plan.misses):
        ctx.verbose(f"configuration: {line}")
    outcome = job.run()
    if not (plan.in_place or (work / "unpacked-tree").exists()):
        raise HostError(f"{work} was deleted while {name} was built in it", hint="run it again")
    result = _made(plan, name, job, outcome, work)
    if outcome.fault:
        result = replace(result, module_failures=tuple(failures.module_failures(outcome.records, tree)))
        raise _blocked(result, outcome.fault, outcome.log.splitlines())
    if not result.release:
        raise _blocked(result, failures.BuildError("", 0, "make wrote no release that is a name"), ())
    if plan.in_place and plan.source.ask() != plan.source.key:
        raise UserError(
            f"{plan.source.describe()} changed while it was being built",
            hint="run it again: only what changed is compiled",
        )
    ctx.progress(BuildProgress(name, "package", outcome.total, outcome.total))
    try:
        missing = _install(job, outcome.records, result.release, work, ctx)
    except artifact.DependencyCycle as cycle:
        raise _blocked(result, failures.BuildError("", 0, cycle.message), cycle.details) from None
    except (proc.CommandFailed, *NOT_MADE) as failed:
        raise _blocked(result, failures.BuildError("", 0, str(failed)), outcome.log.splitlines()) from None
    if plan.recipe.coverage:
        artifact.keep_notes(obj, work)
    failures.forget(outcome.records, obj)
    if not plan.in_place:
        ctx.discard(tree)
    for leftover in ("configured", "unpacked-tree", "failures", "root"):
        path = work / leftover
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    return replace(result, module_failures=tuple(missing))


def _configure(plan: _KernelSpec, job: make.Job) -> None:
    """Have the configuration written where it is not, and keep what came out otherwise than asked."""
    tree, obj, ctx, done = job.tree, job.obj, job.ctx, job.work / "configured"
    if plan.in_place:
        plan.misses = config.configure_anew(tree, obj, plan.asked, ctx, job.fence, plan.compiler)
    elif not done.exists():
        plan.misses = config.configure(tree, obj, plan.asked, ctx, job.fence)
        done.touch()
    else:
        plan.misses = config.verify(plan.asked, config.read_config(obj / ".config"), tree, ctx)


def _blocked(result: BuildResult, fault: failures.BuildError, log: Sequence[str]) -> Blocked:
    """Return what tells that a kernel does not build, through no fault of the lab's."""
    tail = "\n".join(log[-TAIL_LINES:])
    what = replace(result, error=fault.text, error_file=fault.file, error_line=fault.line, log_tail=tail)
    return Blocked(replace(what, outcome=Outcome.BLOCKED))


def _made(plan: _KernelSpec, name: str, job: make.Job, outcome: make.Compiled, work: Path) -> BuildResult:
    """Keep make's log in `work`, and return what make came to, before anything is installed."""
    (work / "build.log").write_text(outcome.log)
    return replace(
        _result(plan, name), reproduce=job.by_hand(plan.recipe), release=job.release(),
        objects_compiled=outcome.compiled, objects_total=outcome.total,
        unbuilt=() if outcome.fault else objects.unbuilt(patchset.changed_files(plan.patches), job.tree, job.obj),
    )  # fmt: skip


def keep_kernel(
    recipe: KernelRecipe, name: str, job: make.Job, outcome: make.Compiled, before: Callable[[str], bytes | None],
    ctx: BuildContext,
) -> None:  # fmt: skip
    """Keep what a job made in a warm tree, where the recipe's series stands, so that `build_kernel` finds it.

    What is built where it lies, or for gcov, is left to `build_kernel`: its objects are other ones. So is a base in the
    objects of a series.

    Args:
        job: of the recipe's configuration, with all modules.
        before: as `changes.Replay` has it, for the tree without the series.
    """
    plan = _plan(recipe, ctx)
    if plan.prebuilt or plan.in_place or recipe.coverage:
        return
    if plan.author == confined.TRUSTED != job.author:
        return

    def produce(work: Path) -> None:
        plan.misses = config.verify(plan.asked, config.read_config(job.obj / ".config"), job.tree, ctx)
        result = _made(plan, name, job, outcome, work)
        missing = _install(job, outcome.records, result.release, work, ctx)
        shutil.rmtree(work / "root", ignore_errors=True)
        artifact.write_records(work, replace(result, module_failures=tuple(missing)), missing)

    _keep_changes(plan, changes.Replay(plan.patches, before), job.tree, ctx)
    with contextlib.suppress(artifact.DependencyCycle, Escape, *NOT_MADE):  # `build_kernel` tells of it
        ctx.cache.get("kernel", plan.key, produce, label=_label(plan))


@contextlib.contextmanager
def _tree(plan: _KernelSpec, name: str, work: Path, ctx: BuildContext) -> Iterator[tuple[Path, Path]]:
    """Yield the tree, series applied, and its object directory."""
    if not plan.in_place:
        yield _unpacked(plan, name, work, ctx)
    elif own := plan.tree_in_place():
        yield own, _objects_in(own, plan.asked, plan.compiler)
    else:
        assert isinstance(plan.source, source.Dir)
        with copy_of(plan.source, ctx) as tree:
            yield tree, _objects_in(tree, plan.asked, plan.compiler)


def _unpacked(plan: _KernelSpec, name: str, work: Path, ctx: BuildContext) -> tuple[Path, Path]:
    tree = work / "tree"
    if not (work / "unpacked-tree").exists():
        shutil.rmtree(tree, ignore_errors=True)
        (work / "configured").unlink(missing_ok=True)
        tree.mkdir(parents=True)
        plan.source.write_tree(tree)
        ctx.check_cancel()
        ctx.progress(BuildProgress(name, "series"))
        try:
            _apply(plan, tree, ctx)
        except BaseException:
            ctx.discard(tree)
            raise
        (work / "unpacked-tree").touch()
    return tree, tree / "obj"


def _objects_in(tree: Path, asked: dict[str, config.Asked], compiler: str) -> Path:
    # One object directory per tree and configuration, kept: an edit costs what it touches. It lies below the tree:
    # paths are relative then, and ccache has them from other trees.
    return tree / f"{OBJECTS}{content_key(str(tree), config.key(asked), compiler)[:16]}"


def lies_built(recipe: KernelRecipe, tree: Path, ctx: BuildContext) -> bool:
    """Whether a kernel of a recipe's configuration was built in a tree, from where it lies, so that its objects are."""
    obj = _objects_in(tree, config.asked_symbols(recipe, ctx), toolchain.described(recipe, ctx))
    return (obj / "vmlinux").exists()


def _apply(plan: _KernelSpec, tree: Path, ctx: BuildContext) -> changes.Changes:
    """Apply the series to a plain tree, and keep what each of its patches changes."""
    replay = changes.Replay(plan.patches, changes.reader(tree))
    patchset.apply_series(plan.patches, tree, ctx)
    return _keep_changes(plan, replay, tree, ctx)


def _keep_changes(plan: _KernelSpec, replay: changes.Replay, tree: Path, ctx: BuildContext) -> changes.Changes:
    """Keep what each patch of a series changes, now that `tree` has it."""
    if not plan.patches:
        return changes.Changes()
    key = changes.changes_key(plan.base_key, plan.patches)
    found = replay.run(changes.reader(tree))
    ctx.cache.get("changes", key, lambda work: changes.write(found, work), label=f"changes of {_label(plan)}")
    return found


def _covered(plan: _KernelSpec, work: Path, ctx: BuildContext) -> Path | None:
    """Write and return the list of sources that are compiled for gcov: those that the series changes."""
    if not plan.recipe.coverage:
        return None
    if not plan.recipe.compiler.startswith(GCC):
        raise UserError(f"coverage is read from what gcc notes, and the recipe says {plan.recipe.compiler}")
    sources = series_changes(plan.recipe, ctx).sources
    if not sources:
        raise UserError(
            f"coverage of {plan.recipe.description or 'this kernel'}: its series leaves no C file with a changed line",
            hint="`coverage` is about the lines that a series changes: is there a series?",
        )
    path = work / "covered"
    path.write_text("".join(f"{name}\n" for name in sources))
    return path


def series_changes(recipe: KernelRecipe, ctx: BuildContext, origin: Source[Any] | None = None) -> changes.Changes:
    """Return what each patch of a recipe's series changes: from the cache, where its build left it.

    A kernel that was built before the lab kept this has its tree unpacked once more.

    Args:
        origin: as in `kernel_key`.

    Raises:
        UserError, HostError: as `build_kernel`.
    """
    plan = _plan(recipe, ctx, origin)
    if not plan.patches:
        return changes.Changes()
    key = changes.changes_key(plan.base_key, plan.patches)
    if not ctx.cache.usable("changes", key):
        (ctx.cache.root / "tmp").mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix="changes-", dir=ctx.cache.root / "tmp"))
        try:
            tree = scratch / "tree"
            tree.mkdir()
            plan.source.write_tree(tree)
            return _apply(plan, tree, ctx)
        finally:
            ctx.discard(scratch)
    ctx.cache.touch("changes", key)
    return changes.read(ctx.cache.path("changes", key))


def _install(
    job: make.Job, records: Sequence[failures.Record], release: str, work: Path, ctx: BuildContext
) -> list[ModuleFailure]:
    """Write the artifact's files to `work`; returns the failures, with the modules that are missing for them."""
    root = work / "root"
    shutil.rmtree(root, ignore_errors=True)
    built = job.built_modules()
    job.install_modules(root)
    missing = job.missing_modules(records, built)
    gone = {module for failure in missing for module in (failure.module, *failure.dependents)}
    for module in artifact.drop_modules(root, gone):
        ctx.verbose(f"module {module} left out")
    # Objects that stay are written to by the next build, and what is kept is made read-only: no links between them.
    keep = link_or_copy if job.obj.is_relative_to(work) else copied
    for module, path in built.items():
        if module not in gone:
            keep(regular(path), work / "modules-debug" / path.relative_to(job.obj))
    folder = artifact.finish_modules(root, release, regular(job.obj / "System.map"))
    shutil.copyfile(regular(job.image()), work / "vmlinuz")
    keep(regular(job.obj / "vmlinux"), work / "vmlinux")
    # The next build in these objects makes a new vmlinux and new modules, but may write these two where they are.
    for kept, target in (("System.map", "System.map"), (".config", "config")):
        (work / target).write_text(read_left(job.obj / kept))
    artifact.keep_lists(folder, work)
    artifact.pack_modules(root, work / "modules.erofs", work / "config")
    if (sections := read_within(job.tree, MAINTAINERS)) is not None:  # the tree itself is not kept
        (work / MAINTAINERS).write_bytes(sections)
    return missing
