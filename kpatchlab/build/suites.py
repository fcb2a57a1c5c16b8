"""Test suites that Debian has as source packages: the upstream archive -> programs, by content key.

Only the archive as its authors released it is used, without Debian's packaging, and few of its files: a suite's own
build system asks for more than its tests need.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kpatchlab import proc
from kpatchlab.build import confined, failures, make
from kpatchlab.build.built import Programs, Unbuilt
from kpatchlab.build.context import BuildContext
from kpatchlab.cache import content_key, file_digest
from kpatchlab.errors import UserError
from kpatchlab.host.debian import Apt
from kpatchlab.model import Outcome

VERSION = 1
"""Part of every key: raise it when the same inputs are to give other programs."""
BUILD_S = 900.0


@dataclass(frozen=True, slots=True)
class _Suite:
    """One suite: a source package, the Debian suite that it comes from, and what makes programs of its tree."""

    package: str
    suite: str
    make: Callable[[Path, Path, BuildContext], None]


def build(name: str, ctx: BuildContext) -> Programs:
    """Return a suite's programs; see `foreign.build_foreign`.

    Raises:
        Unbuilt: there is no such suite, or it does not build.
    """
    if name not in SUITES:
        raise Unbuilt(Outcome.SKIP, f"there is no suite {name}; there are {', '.join(SUITES)}")
    suite = SUITES[name]
    apt = Apt(ctx.cache, suite.suite, ctx.mirror, verbose=ctx.verbose, with_sources=True)
    try:
        archive = apt.fetch_upstream(suite.package)
    except UserError as error:
        raise Unbuilt(Outcome.SKIP, error.message) from None
    key = content_key(VERSION, name, file_digest(archive), make.toolchain(ctx.arch))
    cached = ctx.cache.has("suite", key)

    def produce(work: Path) -> None:
        tree, programs = work / "tree", work / "programs"
        tree.mkdir()
        programs.mkdir()
        words = ["tar", "-xf", str(archive), "-C", str(tree), "--strip-components=1", "--no-same-owner"]
        proc.run(words, timeout_s=BUILD_S)
        suite.make(tree, programs, ctx)
        shutil.rmtree(tree)

    ctx.cache.get("suite", key, produce, label=f"test suite {name} of {archive.name}")
    return Programs(Outcome.PASS, "suite", key, cached=cached)


def _libkcapi(tree: Path, programs: Path, ctx: BuildContext) -> None:
    """Build the program `kcapi`, statically, and take the scripts that drive it."""
    defines = [f"-DKCAPI_{part}=0" for part in ("MAJVERSION", "MINVERSION", "PATCHLEVEL")]
    defines += ["-DWITH_LIB_ASYM=1", "-DWITH_LIB_KPP=1", "-DHAVE_GETRANDOM=1", f"-I{tree / 'lib'}"]
    sources = [str(path) for path in (*sorted((tree / "lib").glob("*.c")), tree / "test/kcapi-main.c")]
    words = ["gcc", "-O2", "-w", "-static", "-s", *defines, *sources, "-lpthread", "-o", str(programs / "kcapi")]
    fence = confined.build_fence(ctx, confined.TRUSTED, write=[programs], read=[tree])
    done = fence.run(words, timeout_s=BUILD_S, check=False, nice=proc.BUILD_NICE, cancel=ctx.cancel)
    ctx.check_cancel()
    if done.status != 0:
        fault = failures.first_fault(done.stderr, tree, make=True)
        raise Unbuilt(Outcome.BLOCKED, f"libkcapi does not build: {fault.file}:{fault.line}: {fault.text}")
    for name in ("test.sh", "libtest.sh"):
        shutil.copy2(tree / "test" / name, programs / name)


SUITES: dict[str, _Suite] = {
    "libkcapi": _Suite("libkcapi", "trixie", _libkcapi),
}
"""Name -> how to get it. A new suite is a function above and a row here."""
