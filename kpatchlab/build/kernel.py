"""One recipe to one kernel: the content key, the stages in their order, and what is kept of them."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
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
    trees,
)
from kpatchlab.build.context import BuildContext, BuildProgress
from kpatchlab.build.origin import Source
from kpatchlab.build.spec import KernelSpec, read_spec
from kpatchlab.build.trees import keep_changes, series_changes, tree_of
from kpatchlab.errors import HostError, UserError
from kpatchlab.fence import Escape, read_left
from kpatchlab.files import copied, link_or_copy, read_within, regular
from kpatchlab.jsonable import from_json
from kpatchlab.lab.recipes import GCC, KernelRecipe
from kpatchlab.maintainers import NAME as MAINTAINERS
from kpatchlab.model import BuildResult, ModuleFailure, Outcome

TAIL_LINES = 60
NOT_MADE = (FileNotFoundError, IsADirectoryError, NotADirectoryError, FileExistsError)
"""What reading a kernel's files raises where make says that it is done and has not made them."""


class Blocked(Exception):
    """The kernel is at fault; `result` says where."""

    def __init__(self, result: BuildResult) -> None:
        super().__init__(result.error)
        self.result = result


def kernel_key(recipe: KernelRecipe, ctx: BuildContext, origin: Source[Any] | None = None) -> str:
    """Return the content key (sha256, hex) of the kernel that the recipe leads to now; nothing is unpacked.

    Args:
        origin: the recipe's source where it was asked for its tree already; a server is not asked twice.

    Raises:
        UserError, HostError: as `build_kernel`.
    """
    return read_spec(recipe, ctx, origin).key


def cached_kernel(recipe: KernelRecipe, name: str, ctx: BuildContext) -> BuildResult | None:
    """Return the kernel that the recipe leads to now where it is in the cache; nothing is fetched or built.

    Raises:
        UserError, HostError: as `build_kernel`.
    """
    key = read_spec(recipe, ctx).key
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
    spec = read_spec(recipe, ctx, origin)
    if ctx.cache.usable("kernel", spec.key):
        ctx.cache.touch("kernel", spec.key)
        return _load(ctx.cache.path("kernel", spec.key), name, cached=True, duration_s=time.monotonic() - begin)

    def produce(work: Path) -> None:
        if not spec.prebuilt:
            ctx.check_space()
        result = _fetch(spec, name, work, ctx) if spec.prebuilt else _build(spec, name, work, ctx)
        done = replace(result, duration_s=round(time.monotonic() - begin, 1))
        artifact.write_records(work, done, done.module_failures)

    try:
        path = ctx.cache.get("kernel", spec.key, produce, label=spec.label, keep_partial=True)
    except Blocked as blocked:
        return replace(blocked.result, duration_s=round(time.monotonic() - begin, 1))
    ctx.progress(BuildProgress(name, "done"))
    return _load(path, name)


def _load(path: Path, name: str, **changes: object) -> BuildResult:
    result = from_json(BuildResult, json.loads((path / "build.json").read_text()))
    if not result.compiler:  # a prebuilt one that was kept before the lab read it
        changes["compiler"] = prebuilt.compiler(path / "config")
    return replace(result, kernel=name, **changes)  # type: ignore[arg-type]


def _result(spec: KernelSpec, name: str) -> BuildResult:
    return BuildResult(
        kernel=name,
        outcome=Outcome.PASS,
        key=spec.key,
        base=spec.source.describe(),
        base_key=spec.base_key,
        series=patchset.describe(spec.recipe.series, spec.patches),
        compiler=spec.compiler,
        config_misses=spec.misses,
        arch=spec.recipe.built_for,
        unconfined="" if spec.prebuilt or spec.author == confined.TRUSTED else confined.unconfined(),
    )


# ------------------------------------------------------------------------------------------- prebuilt


def _fetch(spec: KernelSpec, name: str, work: Path, ctx: BuildContext) -> BuildResult:
    """Make the artifact of a kernel that a distribution built."""
    unpacked, root = work / "unpacked", work / "root"
    for folder in (unpacked, root):
        shutil.rmtree(folder, ignore_errors=True)
    spec.source.unpack(unpacked)
    ctx.progress(BuildProgress(name, "package"))
    release = prebuilt.take(unpacked, spec.source.describe(), work, root)
    folder = artifact.finish_modules(root, release, None)
    artifact.boot_modules(folder, work / "boot-modules")
    artifact.keep_lists(folder, work)
    artifact.pack_modules(root, work / "modules.erofs", work / "config")
    for done in (unpacked, root):
        shutil.rmtree(done)
    made_by = prebuilt.compiler(work / "config")
    return replace(_result(spec, name), release=release, compiler=made_by, reproduce=spec.source.by_hand())


# --------------------------------------------------------------------------------------------- built


def _build(spec: KernelSpec, name: str, work: Path, ctx: BuildContext) -> BuildResult:
    """Make the artifact from source; `work` may hold what an earlier, killed try left."""
    confined.check(ctx, spec.author)
    try:
        with tree_of(spec, name, work, ctx) as (tree, obj):
            ctx.progress(BuildProgress(name, "config"))
            covered = _covered(spec, work, ctx)
            job = make.Job(name, tree, obj, work, ctx, spec.author, covered)
            return _confined(spec, name, job, work, ctx)
    except Escape as escaped:
        fault = failures.BuildError("", 0, f"the build tried to leave its folders: {escaped.message}")
        raise _blocked(_result(spec, name), fault, ()) from None
    finally:
        confined.tidy(ctx, spec.author)


def _confined(spec: KernelSpec, name: str, job: make.Job, work: Path, ctx: BuildContext) -> BuildResult:
    """Configure, make and install what lies in the job's tree."""
    tree, obj = job.tree, job.obj
    try:
        _configure(spec, job)
    except config.CannotConfigure as refused:
        raise _blocked(_result(spec, name), refused.fault, refused.details) from None
    for line in config.describe(spec.misses):
        ctx.verbose(f"configuration: {line}")
    outcome = job.run()
    if not (spec.in_place or (work / "unpacked-tree").exists()):
        raise HostError(f"{work} was deleted while {name} was built in it", hint="run it again")
    result = _made(spec, name, job, outcome, work)
    if outcome.fault:
        result = replace(result, module_failures=tuple(failures.module_failures(outcome.records, tree)))
        raise _blocked(result, outcome.fault, outcome.log.splitlines())
    if not result.release:
        raise _blocked(result, failures.BuildError("", 0, "make wrote no release that is a name"), ())
    if spec.in_place and spec.source.ask() != spec.source.key:
        raise UserError(
            f"{spec.source.describe()} changed while it was being built",
            hint="run it again: only what changed is compiled",
        )
    ctx.progress(BuildProgress(name, "package", outcome.total, outcome.total))
    try:
        missing = _install(job, outcome.records, result.release, work, ctx)
    except artifact.DependencyCycle as cycle:
        raise _blocked(result, failures.BuildError("", 0, cycle.message), cycle.details) from None
    except (proc.CommandFailed, *NOT_MADE) as failed:
        raise _blocked(result, failures.BuildError("", 0, str(failed)), outcome.log.splitlines()) from None
    if spec.recipe.coverage:
        artifact.keep_notes(obj, job.fence.inside(obj), work)
    failures.forget(outcome.records, obj)
    for leftover in ("configured", "unpacked-tree", "failures", "root"):
        path = work / leftover
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    trees.done_with(spec, tree, ctx)
    return replace(result, module_failures=tuple(missing))


def _configure(spec: KernelSpec, job: make.Job) -> None:
    """Have the configuration written where it is not, and keep what came out otherwise than asked."""
    tree, obj, ctx, done = job.tree, job.obj, job.ctx, job.work / "configured"
    if spec.in_place:
        spec.misses = config.configure_anew(tree, obj, spec.asked, ctx, job.fence, spec.compiler)
    elif not done.exists():
        spec.misses = config.configure(tree, obj, spec.asked, ctx, job.fence)
        done.touch()
    else:
        spec.misses = config.verify(spec.asked, config.read_config(obj / ".config"), tree, ctx)


def _blocked(result: BuildResult, fault: failures.BuildError, log: Sequence[str]) -> Blocked:
    """Return what tells that a kernel does not build, through no fault of the lab's."""
    tail = "\n".join(log[-TAIL_LINES:])
    what = replace(result, error=fault.text, error_file=fault.file, error_line=fault.line, log_tail=tail)
    return Blocked(replace(what, outcome=Outcome.BLOCKED))


def _made(spec: KernelSpec, name: str, job: make.Job, outcome: make.Compiled, work: Path) -> BuildResult:
    """Keep make's log in `work`, and return what make came to, before anything is installed."""
    (work / "build.log").write_text(outcome.log)
    return replace(
        _result(spec, name), reproduce=job.by_hand(spec.recipe), release=job.release(),
        objects_compiled=outcome.compiled, objects_total=outcome.total,
        unbuilt=() if outcome.fault else objects.unbuilt(patchset.changed_files(spec.patches), job.tree, job.obj),
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
    spec = read_spec(recipe, ctx)
    if spec.prebuilt or spec.in_place or recipe.coverage:
        return
    if spec.author == confined.TRUSTED != job.author:
        return

    def produce(work: Path) -> None:
        spec.misses = config.verify(spec.asked, config.read_config(job.obj / ".config"), job.tree, ctx)
        result = _made(spec, name, job, outcome, work)
        missing = _install(job, outcome.records, result.release, work, ctx)
        shutil.rmtree(work / "root", ignore_errors=True)
        artifact.write_records(work, replace(result, module_failures=tuple(missing)), missing)

    keep_changes(spec, changes.Replay(spec.patches, before), job.tree, ctx)
    with contextlib.suppress(artifact.DependencyCycle, Escape, *NOT_MADE):  # `build_kernel` tells of it
        ctx.cache.get("kernel", spec.key, produce, label=spec.label)


def _covered(spec: KernelSpec, work: Path, ctx: BuildContext) -> Path | None:
    """Write and return the list of sources that are compiled for gcov: those that the series changes."""
    if not spec.recipe.coverage:
        return None
    if not spec.recipe.compiler.startswith(GCC):
        raise UserError(f"coverage is read from what gcc notes, and the recipe says {spec.recipe.compiler}")
    sources = series_changes(spec.recipe, ctx).sources
    if not sources:
        raise UserError(
            f"coverage of {spec.recipe.description or 'this kernel'}: its series leaves no C file with a changed line",
            hint="`coverage` is about the lines that a series changes: is there a series?",
        )
    path = work / "covered"
    path.write_text("".join(f"{name}\n" for name in sources))
    return path


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
