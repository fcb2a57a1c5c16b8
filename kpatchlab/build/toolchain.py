"""What builds a kernel: this host's compiler and tools, or those of a Debian suite, in a root of their own.

A recipe's `toolchain` names the suite. What is built is then the same on every host; a compiler that the host lacks, or
one that is too new for an old tree, is no obstacle.
"""

from __future__ import annotations

import functools
import re
from dataclasses import replace
from pathlib import Path

from kpatchlab import fence, proc
from kpatchlab.arch import ARCHES, HOST
from kpatchlab.build import roots
from kpatchlab.build.context import BuildContext
from kpatchlab.cache import Cache, content_key
from kpatchlab.errors import HostError
from kpatchlab.host.debian import Apt
from kpatchlab.lab.recipes import GCC, KernelRecipe, RootRecipe

KIND = "toolchain"
VERSION = 1
"""Part of every key: raise it when the same packages are to give another root."""
PACKAGES = (
    *("gcc", "libc6-dev", "binutils", "make", "bc", "flex", "bison", "perl", "python3", "ccache", "sparse"),
    *("libelf-dev", "libssl-dev", "zlib1g-dev", "kmod", "xz-utils", "zstd", "cpio"),
)
"""What kbuild runs, beside the compiler that the recipe names: programs for the host are gcc's in any case."""
SIZE_MIB = 2048
QUICK_S = 120.0


@functools.cache
def of_host(arch: str, compiler: str = GCC) -> str:
    """Return this host's compiler and linker in one line each, joined: part of the key of what they build.

    Raises:
        HostError: there is none.
    """
    own = ARCHES[arch]
    program = own.compiler(compiler)
    if not fence.which(program):
        hint = "kpatchlab doctor names the package" if compiler == GCC else f"apt-get install {compiler}"
        hint = hint if program == compiler else f"apt-get install {' '.join(own.cross_packages)}"
        raise HostError(f"{program}: not found", hint=hint)
    found = []
    for tool in (program, f"{own.cross}ld"):
        text = proc.run([fence.which(tool) or tool, "--version"], timeout_s=QUICK_S).stdout
        found.append(text.splitlines()[0] if text else tool)
    return "; ".join(found)


def described(recipe: KernelRecipe, ctx: BuildContext) -> str:
    """Return compiler and linker in one line each, joined: they are part of a kernel's key.

    Raises:
        UserError: the suite has no such compiler.
        HostError: this host has none, or the mirror cannot be reached.
    """
    if not recipe.toolchain:
        return of_host(ctx.arch, recipe.compiler)
    versions = _versions(recipe.compiler, recipe.toolchain, ctx.cache, ctx.mirror)
    found = (f"{package} {version}" for package, version in versions.items())
    return f"{'; '.join(found)} (Debian {recipe.toolchain})"


def system(ctx: BuildContext) -> Path | None:
    """Return the top folder of the root in which a context's kernels are built; None: on the host's own system.

    Raises:
        UserError: the suite has no such compiler.
        HostError: the mirror cannot be reached, or the host cannot make roots.
    """
    if not ctx.toolchain:
        return None
    ctx = replace(ctx, arch=HOST)  # a cross compiler runs here
    recipe = RootRecipe(suite=ctx.toolchain, packages=_packages(ctx.compiler), size_hint_mib=SIZE_MIB)
    versions = _versions(ctx.compiler, ctx.toolchain, ctx.cache, ctx.mirror)  # a suite that moves has another root then
    key = content_key(VERSION, roots.root_key(recipe, ctx.lab_root), sorted(versions.items()))

    def produce(work: Path) -> None:
        private = work / "private"  # as root it has setuid programs: nobody may look in
        private.mkdir(mode=0o700)
        image = private / "image"
        image.mkdir()
        roots.fill(recipe, ctx, image)
        roots.extract(image / roots.IMAGE, private / "system", ctx)
        (image / roots.IMAGE).unlink()

    label = f"{ctx.compiler} of Debian {ctx.toolchain}, and what builds kernels with it"
    return ctx.cache.get(KIND, key, produce, label=label) / "private/system"


def _packages(compiler: str) -> tuple[str, ...]:
    return (*PACKAGES, *([compiler] if compiler != GCC else []))


@functools.cache
def _versions(compiler: str, suite: str, cache: Cache, mirror: str) -> dict[str, str]:
    """Return the versions that the suite has now of what decides about objects, by package.

    Asked once, as the host's compiler is: each fence of a build asks, and a key has to be of the root that it names.
    """
    apt = Apt(cache, suite, mirror)
    package = compiler
    if compiler in {GCC, "clang"}:  # an empty package, which depends on the one of its default version
        named = [name for name in apt.resolve(compiler) if re.fullmatch(rf"{compiler}-[0-9]+", name)]
        package = named[0] if named else compiler
    return {name: apt.candidate(name) for name in (package, "binutils")}
