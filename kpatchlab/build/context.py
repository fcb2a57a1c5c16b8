"""What a build gets: cache, folders, a way to report progress, and a way to be stopped."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from kpatchlab import proc
from kpatchlab.arch import ARCHES, HOST
from kpatchlab.cache import META, Cache, disk_bytes
from kpatchlab.errors import HostError, LabError
from kpatchlab.lab.load import Lab, nothing_to_read
from kpatchlab.lab.recipes import GCC, KernelRecipe

GIB = 1 << 30
DISCARD_S = 3600.0


class BuildCancelled(LabError):
    """The build was ended by its `cancel` event; what is compiled is kept for the next try."""


@dataclass(frozen=True, slots=True)
class BuildProgress:
    """How far one kernel is.

    Attributes:
        phase: "source", "series", "config", "compile", "link", "package", "done".
        done: objects compiled so far; 0 outside "compile".
        total_estimate: objects that the whole kernel has, from an earlier build or from its configuration; 0: unknown.
    """

    kernel: str
    phase: str
    done: int = 0
    total_estimate: int = 0


@dataclass(frozen=True, slots=True)
class BuildContext:
    """What a build needs besides its recipe.

    Attributes:
        mirror: Debian mirror, "" for what the host's own apt uses.
        stdin: what a series reads whose path is "-"; each time the same.
        jobs: make's -j; 0: one per processor.
        verbose: takes each line that make and its helpers print.
        arch: what is built for, see `arch.ARCHES`; the recipe's.
        min_free_bytes: a build refuses to start with less room than this below the cache.
        trust: build what strangers wrote also where this host cannot confine it.
        compiler: the recipe's, see `compiling`.
        toolchain: Debian suite that compiler and tools come from, the recipe's; "" for this host.
    """

    cache: Cache
    lab_root: Path
    mirror: str = ""
    jobs: int = 0
    progress: Callable[[BuildProgress], None] = lambda _: None
    cancel: proc.Cancel = field(default_factory=threading.Event)
    verbose: Callable[[str], None] = lambda _: None
    arch: str = HOST
    min_free_bytes: int = 4 * GIB
    stdin: Callable[[], bytes] = nothing_to_read
    trust: bool = False
    compiler: str = GCC
    toolchain: str = ""

    @classmethod
    def of(cls, lab: Lab, cache: Cache) -> Self:
        """Return what a build in this lab needs; nobody is told how far it is."""
        return cls(cache, lab.root, lab.mirror, stdin=lab.stdin, trust=lab.trust)

    def compiling(self, recipe: KernelRecipe) -> Self:
        """Return the same for a build of a recipe, with its compiler and for its architecture."""
        arch = recipe.built_for
        return replace(self, compiler=recipe.compiler, toolchain=recipe.toolchain, arch=arch)

    @property
    def cross(self) -> str:
        """The prefix of the compiler's and the linker's programs, see `Arch.cross`."""
        return ARCHES[self.arch].cross

    @property
    def program(self) -> str:
        """The compiler's program."""
        return ARCHES[self.arch].compiler(self.compiler)

    @property
    def kernels_dir(self) -> Path:
        """Where recipes are, and what their relative paths start from."""
        return self.lab_root / "kernels"

    def path(self, text: str | os.PathLike[str]) -> Path:
        """Return a recipe's path as an absolute one: `~` is the user's home, relative starts at `kernels_dir`."""
        return Path(os.path.normpath(self.kernels_dir / Path(text).expanduser()))

    def note(self, folder: Path, label: str) -> None:
        """Make `folder`, two levels below the cache's root, an entry that `clean` lists and prunes."""
        meta = {"label": label, "created": time.time(), "size_bytes": disk_bytes(folder)}
        (folder / META).write_text(json.dumps(meta))

    def discard(self, folder: Path) -> None:
        """Delete a tree without keeping anybody waiting: 90,000 files take minutes on a disk that discards blocks.

        What the lab's end leaves of it goes with the next one.
        """
        trash = self.cache.root / "tmp"
        trash.mkdir(parents=True, exist_ok=True)
        folder.rename(Path(tempfile.mkdtemp(prefix="trash-", dir=trash)) / folder.name)
        words = ["rm", "-rf", "--", *map(str, trash.glob("trash-*"))]

        def remove() -> None:
            with contextlib.suppress(Exception):  # at the program's end its modules go away beneath it
                proc.run(words, timeout_s=DISCARD_S, check=False, nice=19)

        threading.Thread(target=remove, daemon=True, name="discard").start()

    def check_cancel(self) -> None:
        """Raise BuildCancelled where the user has cancelled."""
        if self.cancel.is_set():
            raise BuildCancelled("build cancelled", hint="run it again: it goes on where it was")

    def check_space(self, what: str = "a kernel build", needed_bytes: int | None = None) -> None:
        """Refuse to make something for which the cache's file system has no room; None: as a kernel's objects take.

        Raises:
            HostError: it has not.
        """
        needed = self.min_free_bytes if needed_bytes is None else needed_bytes
        place = self.cache.root
        while not place.exists():
            place = place.parent
        stat = os.statvfs(place)
        free = stat.f_bavail * stat.f_frsize
        if free < needed:
            raise HostError(
                f"{free / GIB:.1f} GiB free below {place}, {what} needs {needed / GIB:.1f}",
                hint="kpatchlab clean frees cached artifacts; KPATCHLAB_CACHE names another place",
            )
