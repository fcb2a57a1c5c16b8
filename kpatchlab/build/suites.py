"""Test suites of others: suites/NAME.yaml -> the folder /lab/suites/NAME of a guest, by content key.

A suite is built in a root of its own, with compiler and libraries of the Debian suite that its guests run, so that what
it links with is there. Nothing of the host's is in it: the same recipe gives the same programs everywhere.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from kpatchlab import proc
from kpatchlab.build import failures
from kpatchlab.build.built import Programs, Unbuilt
from kpatchlab.build.context import BuildContext
from kpatchlab.build.roots import extract, root_image, root_key
from kpatchlab.build.source import source_of
from kpatchlab.cache import content_key
from kpatchlab.errors import UserError
from kpatchlab.fence import Escape, Fence, NoFence
from kpatchlab.lab.recipes import RootRecipe, SuiteRecipe, SuiteSource, locate
from kpatchlab.lab.suites import FOLDER, load_suite
from kpatchlab.model import Outcome

VERSION = 2
"""Part of every key: raise it when the same recipe is to give other programs."""
BUILD_S = 3600.0
NEEDS_BYTES = 2 << 30
"""Its root, which is unpacked for the time of the build, the tree, and what comes out."""
MOST_BYTES = 256 << 20
"""What a guest gets of a suite goes through its memory. What suites/ltp.yaml takes of LTP, stripped, has 24 MiB."""
SHELL = ("bash", "-eu", "-c")


def build(name: str, ctx: BuildContext) -> Programs:
    """Return a suite's programs; see `foreign.build_foreign`.

    Raises:
        Unbuilt: there is no such suite, this host cannot build it, or it does not build.
        HostError: its source or Debian's packages cannot be had now.
    """
    try:
        recipe = load_suite(name, ctx.lab_root)
        source = source_of(_located(recipe.source, ctx), ctx)
        root = RootRecipe(suite=recipe.suite, packages=recipe.packages)
        key = content_key(VERSION, name, source.tree_key, root_key(root, ctx.lab_root), recipe.build)
        cached = ctx.cache.has("suite", key)

        def produce(work: Path) -> None:
            ctx.check_space(f"test suite {name}", NEEDS_BYTES)
            private = work / "private"  # as root the build's root has setuid programs: nobody may look in
            private.mkdir(mode=0o700)
            tree = private / "tree"
            tree.mkdir()
            source.unpack(tree)
            _make(name, recipe, _unpacked(root, private / "system", ctx), tree, work / "programs", ctx)
            shutil.rmtree(private, ignore_errors=True)

        ctx.cache.get("suite", key, produce, label=f"test suite {name}: {source.describe()}")
    except (UserError, NoFence) as error:
        raise Unbuilt(Outcome.SKIP, error.message) from None
    return Programs(Outcome.PASS, "suite", key, cached=cached)


def _located(source: SuiteSource, ctx: BuildContext) -> SuiteSource:
    """Return a source whose path, where it has one, is absolute."""
    return (
        source.model_copy(update={"path": str(locate(source.on_host, ctx.lab_root, FOLDER))})
        if source.on_host
        else source
    )


def _unpacked(root: RootRecipe, into: Path, ctx: BuildContext) -> Path:
    """Return the files of a root, in a folder that is made."""
    extract(root_image(root, ctx), into, ctx)
    return into


def _make(name: str, recipe: SuiteRecipe, system: Path, tree: Path, programs: Path, ctx: BuildContext) -> None:
    """Run a recipe's lines in its root; what they leave in `programs` is the suite.

    Raises:
        Unbuilt: they fail, leave nothing, or leave what is for no guest.
    """
    programs.mkdir()
    place = f"/lab/suites/{name}"
    env = {"OUT": place, "JOBS": str(ctx.jobs or os.cpu_count() or 1), "SOURCE_DATE_EPOCH": "1577836800"}
    # Nobody reads the tree from outside: it is not swept, and tools may leave links into their root there.
    fence = Fence((programs,), (), env, stores=(tree,), root=system, at={programs: place, tree: "/tree"})
    try:
        done = fence.run(
            [*SHELL, recipe.build], timeout_s=BUILD_S, cwd=tree, check=False, nice=proc.BUILD_NICE,
            on_line=ctx.verbose, cancel=ctx.cancel,
        )  # fmt: skip
    except Escape as error:
        raise Unbuilt(Outcome.BLOCKED, f"{name} does not build: {error.message}") from None
    ctx.check_cancel()
    if done.timed_out:
        raise Unbuilt(Outcome.BLOCKED, f"{name} does not build: no end within {BUILD_S:.0f} s")
    if done.status != 0:
        fault = failures.first_fault(done.stderr, Path("/tree"), make=True)
        where = f"{fault.file}:{fault.line}: " if fault.file else ""
        raise Unbuilt(Outcome.BLOCKED, f"{name} does not build: {where}{fault.text}")
    if wrong := _unfit(programs):
        raise Unbuilt(Outcome.BLOCKED, f"{name} does not build: {wrong}")


def _unfit(programs: Path) -> str:
    """Return why what a build left is for no guest, "" where it is for one."""
    paths = sorted(programs.rglob("*"))
    if linked := next((path for path in paths if path.is_symlink() and path.is_dir()), None):
        return f"{linked.relative_to(programs)} in $OUT is a link to a folder, and a guest gets files: cp -rL"
    files = [path for path in paths if path.is_file()]
    if not files:
        return "its recipe left nothing in $OUT"
    if (size := sum(path.stat().st_size for path in files)) > MOST_BYTES:
        most = MOST_BYTES >> 20
        return f"{size >> 20} MiB in $OUT, and a guest takes {most}: strip programs, leave sources out"
    return ""
