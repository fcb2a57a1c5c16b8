"""One tree that can be at any patch of any series; only files that differ are written.

Patches are applied in a small folder beside the tree that holds only the files they touch; the tree then gets what
came out otherwise. Files that a series does not change keep their times, so make compiles what a patch touches and
nothing else; and a walk that was killed anywhere starts from what the files were in the first place, never from what
they are.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from kpatchlab import proc
from kpatchlab.build import diffs, git
from kpatchlab.build.patchset import APPLY_S, DoesNotApplyError, Patch, apply_patch
from kpatchlab.cache import content_key
from kpatchlab.errors import UserError
from kpatchlab.files import through_link
from kpatchlab.series.values import Applied
from kpatchlab.textclean import one_line

MAX_FUZZ = 2
"""What patch(1) lets pass by default."""
KCONFIG = r"(^|/)Kconfig[^/]*$"
_OFFSET = re.compile(r"^Hunk #\d+ succeeded at \d+ \(offset ", re.MULTILINE)

State = tuple[str, bytes] | None
"""A file as far as a patch can change it: kind ("-", "x" or "link") and content; None where there is none."""


def files_of(patch: Patch) -> list[str]:
    r"""Return every path that a patch reads or writes, moved and copied ones included; sorted.

    >>> files_of(Patch("p", "", b"diff --git a/x b/y\nsimilarity index 100%\nrename from x\nrename to y\n"))
    ['x', 'y']
    """
    names = {name for part in diffs.parts(patch.data, patch.strip) for name in (part.old, part.new) if name}
    return sorted(name for name in names if not diffs.unfit(name))


def renames_of(patch: Patch) -> dict[str, str]:
    """Return new name -> old name of what a patch moves."""
    parts = [part for part in diffs.parts(patch.data, patch.strip) if part.old and part.new and not part.copied]
    return {part.new: part.old for part in parts if part.old != part.new}


class Tree:
    """A tree below `folder`/tree, with what its files were before any patch beside it.

    Args:
        patches: the series; `apply` takes them one after the other.

    Attributes:
        applied: what was applied so far, as patches that apply strictly: one that took fuzz stands here as the
            difference that it made.
    """

    def __init__(self, folder: Path, patches: Sequence[Patch]) -> None:
        self.path = folder / "tree"
        self._kept, self._missing, self._stage = folder / "before", folder / "before-missing", folder / "stage"
        self._patches = patches
        self.applied: list[Patch] = []
        self._number = 0
        self._broken = False
        shutil.rmtree(self._stage, ignore_errors=True)
        self._stage.mkdir(parents=True)
        self._files = sorted({name for patch in patches for name in files_of(patch)})
        for name in self._files:
            self._keep(name)
        for name in self._files:
            _put(self._stage, name, self._original(name))

    def _keep(self, name: str) -> None:
        """Keep a file as it is in the tree without patches, before anything is written over it."""
        kept = os.path.lexists(self._kept / name) and not through_link(self._kept, name)
        if kept or (self._missing / name).is_file():
            return
        state = _read(self.path, name)
        if state is None:
            _put(self._missing, name, ("-", b""))
        else:
            _put(self._kept, name, state)

    def _original(self, name: str) -> State:
        return _read(self._kept, name)

    def apply(self) -> Applied:
        """Apply the next patch, beside the tree; strictly if that goes, else with fuzz.

        After one that does not apply, every further one is "untried".
        """
        patch = self._patches[self._number]
        self._number += 1
        if self._broken:
            return Applied("untried")
        try:
            return self._apply(patch, 0)
        except DoesNotApplyError as strict:
            before = {name: _read(self._stage, name) for name in files_of(patch)}
            for fuzz in range(1, MAX_FUZZ + 1):
                try:
                    done = self._apply(patch, fuzz)
                except DoesNotApplyError:
                    continue
                self.applied[-1] = self._as_applied(patch, before)
                return done
            self._broken = True
            return Applied("no", error=strict.message.split(f"{patch}: ", 1)[-1], details=strict.details)

    def _apply(self, patch: Patch, fuzz: int) -> Applied:
        said = apply_patch(patch, self._stage, self._number, len(self._patches), fuzz=fuzz)
        self.applied.append(patch)
        offsets = len(_OFFSET.findall(said))
        return Applied("fuzz" if fuzz else "strict", fuzz, offsets)

    def _as_applied(self, patch: Patch, before: Mapping[str, State]) -> Patch:
        """Return what a patch has changed, with the context that is really there."""
        with tempfile.TemporaryDirectory(prefix="kpatchlab-applied-") as scratch:
            for side in ("a", "b"):
                Path(scratch, side).mkdir()
                for name, state in before.items():
                    _put(Path(scratch, side), name, state if side == "a" else _read(self._stage, name))
            words = ["git", "diff", "--no-index", "--binary", "--no-color", "--no-ext-diff", "--no-renames"]
            with (Path(scratch) / "diff").open("w+b") as handle:
                proc.run(
                    [*words, "--src-prefix=", "--dst-prefix=", "a", "b"],
                    timeout_s=APPLY_S, check=False, cwd=Path(scratch), env=git.plain_environment(), stdout_to=handle,
                )  # fmt: skip
                handle.seek(0)
                return replace(patch, data=handle.read(), strip=1)

    def settle(self) -> list[str]:
        """Write what differs to the tree, other series' leavings included; returns the files written."""
        mine = set(self._files)
        names = sorted({*mine, *_names(self._kept), *_names(self._missing)})
        wanted = {name: _read(self._stage, name) if name in mine else self._original(name) for name in names}
        written = [name for name in names if _read(self.path, name) != wanted[name]]
        # What goes comes first: a link may become a folder, and a folder a link.
        for name in sorted(written, key=lambda name: wanted[name] is not None):
            _put(self.path, name, wanted[name])
        return written

    def digest(self, pattern: str) -> str:
        """Return a content key over files as they stand in the tree: those by this name that a patch ever changes."""
        states = [(name, self.state(name)) for name in self._files if re.search(pattern, name)]
        return content_key([(name, state and (state[0], state[1].hex())) for name, state in states])

    def before(self, name: str) -> bytes | None:
        """Return what a file that the series touches is without it, None where there is none."""
        state = self._original(name)
        return state[1] if state else None

    def state(self, name: str) -> State:
        """Return a file as it is now in the tree."""
        return _read(self.path, name)


def _names(folder: Path) -> Iterable[str]:
    for place, folders, files in os.walk(folder):
        for file in [*files, *(name for name in folders if os.path.islink(os.path.join(place, name)))]:
            if file.startswith(".") and file.endswith(".new"):  # left by a kill
                continue
            yield os.path.relpath(os.path.join(place, file), folder)


def _read(top: Path, name: str) -> State:
    """Return a file below `top`; one behind a symbolic link is not there, as for `git apply`."""
    path = top / name
    if through_link(top, name):
        return None
    if path.is_symlink():
        return "link", os.readlink(os.fsencode(path))
    if not path.is_file():
        return None
    return "x" if os.access(path, os.X_OK) else "-", path.read_bytes()


def _put(top: Path, name: str, state: State) -> None:
    """Make a file below `top` what `state` says, in one step.

    Raises:
        UserError: it would be behind a symbolic link, or where a folder with other files is.
    """
    path = top / name
    if state is None:
        if not through_link(top, name):
            path.unlink(missing_ok=True)
        return
    if through_link(top, name):
        raise UserError(f"{one_line(name)}: a folder on its way is a symbolic link", hint="git refuses it as well")
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(".kpatchlab.new")
    beside.unlink(missing_ok=True)
    kind, data = state
    if kind == "link":
        os.symlink(os.fsdecode(data), beside)
    else:
        beside.write_bytes(data)
        beside.chmod(0o755 if kind == "x" else 0o644)
    if path.is_dir() and not path.is_symlink():
        try:
            path.rmdir()
        except OSError:
            beside.unlink()
            raise UserError(f"{one_line(name)}: a folder with other files is there") from None
    os.replace(beside, path)


def put(top: Path, name: str, state: State) -> None:
    """Write a file of the tree for a moment; the next `settle` puts it right."""
    _put(top, name, state)
