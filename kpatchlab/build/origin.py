"""What every source of a tree is, whatever its type: a key that decides about its content, and the tree itself."""

from __future__ import annotations

import datetime as dt
import functools
import os
import stat
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from kpatchlab import proc
from kpatchlab.build.built import Unbuilt
from kpatchlab.build.context import BuildContext
from kpatchlab.cache import content_key
from kpatchlab.errors import UserError
from kpatchlab.files import KINDS
from kpatchlab.lab import recipes
from kpatchlab.model import Outcome
from kpatchlab.textclean import one_line

UNPACK_S = 1800.0

Key = dict[str, str]
"""What decides about a tree's content."""


@dataclass(frozen=True, slots=True)
class Stand:
    """Where something stands that moves by itself: a branch, the newest package of a suite.

    Attributes:
        what: one line for people.
        since: when it was made; None where nobody can tell.
        valid_until: when the mirror's word of it ends; None for never.
    """

    what: str
    since: dt.datetime | None
    valid_until: dt.datetime | None = None


S = TypeVar("S", bound=recipes.SourceModel)


class Source(ABC, Generic[S]):
    """What one type of source does with a recipe's `source`, `spec`.

    It stands for one tree: what decides about the content is asked once, so that a branch which moves meanwhile does
    not matter.
    """

    def __init__(self, spec: S, ctx: BuildContext) -> None:
        self.spec, self.ctx = spec, ctx

    @functools.cached_property
    def key(self) -> Key:
        """What decides about the tree's content, as it was when it was first asked for."""
        return self.ask()

    @property
    def tree_key(self) -> str:
        """Content key of the tree."""
        return content_key(self.spec.type, self.key)

    @abstractmethod
    def ask(self) -> Key:
        """Return what decides about the tree's content now: cheap, nothing is unpacked."""

    @abstractmethod
    def describe(self) -> str:
        """Return one line for people: what the tree is."""

    @abstractmethod
    def unpack(self, into: Path) -> None:
        """Write the tree, or a finished kernel's files, to `into`, an empty directory that the build owns."""

    def write_tree(self, into: Path) -> None:
        """Write the tree to `into`, and look at what came: nobody is trusted to pack files and folders alone.

        Raises:
            UserError: there is a device, a fifo or a socket in it, or the folder in which the lab builds.
        """
        self.unpack(into)
        _check(into, self.describe())

    def stand(self) -> Stand | None:
        """Return where what the recipe follows stands, as far as it is known here; None where it follows nothing.

        Nothing is fetched, and no server is asked.
        """
        return None

    def by_hand(self) -> str:
        """Return a command that brings the same, "" for none; asked of finished kernels alone."""
        return ""

    def of_its_tree(self) -> Source[Any]:
        """Return the source of the tree that the kernel was built from: another one where it comes finished.

        Raises:
            Unbuilt: there is none.
        """
        if self.spec.prebuilt:
            raise Unbuilt(Outcome.SKIP, f"no source of this kernel: a {self.spec.type} comes without its tree")
        return self


def shown_key(key: Key) -> str:
    """Return a key for people: digests cut short."""
    return " ".join(
        value[:12] if name in {"commit", "sha256", "digest", "dirty"} else value for name, value in key.items()
    )


def untar(archive: Path, into: Path, ctx: BuildContext) -> None:
    """Unpack an archive of any compression, without its top directory, owners, set-uid bits, and git's own folders.

    Raises:
        UserError: there is a device in it, which only root could make.
    """
    words = ["tar", "--extract", "--file", str(archive), "--directory", str(into), "--strip-components=1"]
    words += ["--no-same-owner", "--no-same-permissions", "--exclude=.git"]
    done = proc.run(words, timeout_s=UNPACK_S, cancel=ctx.cancel, check=False)
    ctx.check_cancel()
    if "Cannot mknod" in done.stderr:
        raise UserError(f"{archive.name}: there is a device in it", hint="it is no kernel's source")
    if done.status != 0 or done.timed_out:
        raise proc.CommandFailed(done)


def _check(tree: Path, what: str) -> None:
    """Refuse a tree that has anything but files, folders and links, or something where the lab builds."""
    if os.path.lexists(tree / "obj"):
        raise UserError(f"{what}: it has a file or folder named obj", hint="the lab builds there; take it away")
    for folder, folders, files in os.walk(tree):
        for name in (*folders, *files):
            path = Path(folder, name)
            mode = path.lstat().st_mode
            if stat.S_ISREG(mode) and mode & (stat.S_ISUID | stat.S_ISGID):
                path.chmod(stat.S_IMODE(mode) & 0o777)
            elif (kind := KINDS.get(stat.S_IFMT(mode))) and not stat.S_ISDIR(mode):
                raise UserError(
                    f"{what}: {one_line(str(path.relative_to(tree)), 100)} is {kind}", hint="it is no kernel's source"
                )
