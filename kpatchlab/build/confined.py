"""The fence of a build: what make and its compilers see, and which store of compiled objects they have.

Whoever wrote the code decides. A base is the user's choice and trusted: it fills the lab's own store. A series is a
stranger's: it reads what bases compiled and writes to a store of its own, so that no later kernel gets its objects.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from kpatchlab import fence, proc
from kpatchlab.build import toolchain
from kpatchlab.build.context import BuildContext
from kpatchlab.build.failures import PLACE
from kpatchlab.cache import META, disk_bytes
from kpatchlab.errors import LabError
from kpatchlab.fence import Fence, NoFence

TRUSTED = ""
"""Who wrote the code, where it is the user's choice; for a series it is the key of its patches."""
STORES = "compiled"
"""The cache's kind of stores of compiled objects, beside ccache's own of the bases."""
SHARED = "bases"
"""The store of that kind that series read. ccache cannot read another's folder, only a remote storage: with ccache
4.7.5 and 4.11.2, CCACHE_DIR of one as `remote_storage` of another hits never, and nothing says so."""
SHARED_LABEL, SERIES_LABEL = "objects of bases, for series to read", "objects of a series"
STORE_SIZE, SERIES_STORE_SIZE = "20G", "2G"
SHARED_BYTES = 10 << 30
"""What the store that series read may take; past it, a quarter goes: what was not read for the longest time."""
TRIM_S = 600.0


def build_fence(
    ctx: BuildContext, author: str, *, write: Sequence[Path], read: Sequence[Path] = (), tree: Path | None = None,
    records: Path | None = None, stats: Path | None = None,
) -> Fence:  # fmt: skip
    """Return the fence of make: nothing of the caller's that changes what is built, and always the same identity.

    LANG: ccache counts the locale in, and messages are read by their English words.

    Args:
        author: `TRUSTED`, or the key of a series.
        tree: the folder that is at `PLACE`, with what is below it.
        records: where the compiler's wrapper tells of objects that fail; made.
        stats: takes ccache's log of hits and misses; in a folder of `write`.

    Raises:
        NoFence: the code is a stranger's, this host cannot confine it, and the user did not say --trust.
    """
    check(ctx, author)
    env = {
        "KBUILD_BUILD_TIMESTAMP": "2020-01-01",
        "KBUILD_BUILD_USER": "kpatchlab",
        "KBUILD_BUILD_HOST": "kpatchlab",
        "KBUILD_BUILD_VERSION": "1",
        "KPATCHLAB_CC": ctx.program,
        "PYTHONDONTWRITEBYTECODE": "1",  # the tree's own scripts, in the user's own tree
    }
    if records:
        records.mkdir(parents=True, exist_ok=True)
        write, env["KPATCHLAB_FAILURES"] = (*write, records), str(records)
    made = Fence(
        tuple(write), tuple(read), env, unconfined=trusts(ctx, author), root=toolchain.system(ctx),
        at={tree: PLACE} if tree else {},
    )  # fmt: skip
    if not made.root and not fence.which("ccache"):
        return made
    made = _with_store(made, ctx, author)
    return made.adding({"CCACHE_STATSLOG": made.inside(stats)}) if stats else made


def trusts(ctx: BuildContext, author: str) -> bool:
    """Whether code of this author runs also where nothing confines it."""
    return author == TRUSTED or ctx.trust


def check(ctx: BuildContext, author: str) -> None:
    """Pass where code of this author can be run.

    Raises:
        NoFence: it cannot.
    """
    lack = fence.lacking()
    if lack and not trusts(ctx, author):
        hint = f"{lack.remedy}; or --trust, to build it with all that you may do yourself"
        raise NoFence(f"a series is not built outside a sandbox: {lack.reason}", hint=hint)


def unconfined() -> str:
    """Return why a build now runs without a sandbox, "" where it runs in one."""
    lack = fence.lacking()
    return lack.reason if lack else ""


def tidy(ctx: BuildContext, author: str) -> None:
    """Keep the store that series read within its size, and have `clean` know how large an author's store is now.

    ccache bounds its own store, and not what it has as a remote one.

    Args:
        author: whose build has ended.
    """
    if author != TRUSTED:  # it wrote to a store of its own alone, which ccache bounds
        folder, label = ctx.cache.path(STORES, _name(author)), SERIES_LABEL
    else:
        folder, label = ctx.cache.path(STORES, SHARED), SHARED_LABEL
    if not (folder / META).exists():  # no ccache
        return
    # A full disk, no ccache any more: what the build came to is told, not this.
    with contextlib.suppress(OSError, LabError):
        if author == TRUSTED and disk_bytes(folder) > SHARED_BYTES:
            # A figure without a suffix is one of GiB.
            words = ["--trim-dir", str(folder / "objects"), "--trim-max-size", f"{SHARED_BYTES * 3 // 4 >> 10}Ki"]
            proc.run(["ccache", *words], timeout_s=TRIM_S, check=False, nice=proc.BUILD_NICE, cancel=ctx.cancel)
    with contextlib.suppress(OSError):
        ctx.note(folder, label)


def _name(author: str) -> str:
    return author[:32]


def _with_store(made: Fence, ctx: BuildContext, author: str) -> Fence:
    shared = _store(ctx, SHARED, SHARED_LABEL)
    common = {"KPATCHLAB_CC": f"ccache {ctx.program}", "CCACHE_NOHASHDIR": "1"}  # objects are shared between trees
    if author == TRUSTED:
        own = ctx.cache.root / "ccache"
        own.mkdir(parents=True, exist_ok=True)
        # RESHARE: what it has already goes to the shared store as well, when it is used
        more = {"CCACHE_REMOTE_STORAGE": f"file:{shared}", "CCACHE_RESHARE": "1", "CCACHE_MAXSIZE": STORE_SIZE}
        return made.adding({"CCACHE_DIR": str(own), **common, **more}, stores=[own, shared])
    own = _store(ctx, _name(author), SERIES_LABEL)
    more = {"CCACHE_REMOTE_STORAGE": f"file:{shared}|read-only=true", "CCACHE_MAXSIZE": SERIES_STORE_SIZE}
    return made.adding({"CCACHE_DIR": str(own), **common, **more}, write=[own], read=[shared])


def _store(ctx: BuildContext, name: str, label: str) -> Path:
    """Return a store's folder, which `clean` knows; made where there is none."""
    folder = ctx.cache.path(STORES, name)
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / META).exists():
        ctx.note(folder, label)
    ctx.cache.touch(STORES, name)
    objects = folder / "objects"  # what is around it is not writable for a build
    objects.mkdir(exist_ok=True)
    return objects
