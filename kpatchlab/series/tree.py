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
from kpatchlab.build import git
from kpatchlab.build.patchset import APPLY_S, DoesNotApplyError, Patch, apply_patch
from kpatchlab.cache import content_key
from kpatchlab.series.values import Applied

MAX_FUZZ = 2
"""What patch(1) lets pass by default."""
KCONFIG = r"(^|/)Kconfig[^/]*$"
_NAMES = re.compile(
    rb"^(?:diff --git (?P<old>\S+) (?P<new>\S+)|(?:---|\+\+\+) (?!/dev/null)(?P<path>[^\t\n]+)"
    rb"|(?:rename|copy) (?:from|to) (?P<moved>[^\n]+))",
    re.MULTILINE,
)
_MOVE = re.compile(r"^rename from ([^\n]+)\nrename to ([^\n]+)$", re.MULTILINE)
_OFFSET = re.compile(r"^Hunk #\d+ succeeded at \d+ \(offset ", re.MULTILINE)

State = tuple[str, bytes] | None
"""A file as far as a patch can change it: kind ("-", "x" or "link") and content; None where there is none."""


def files_of(patch: Patch) -> list[str]:
    r"""Return every path that a patch reads or writes, moved and copied ones included; sorted.

    >>> files_of(Patch("p", "", b"diff --git a/x b/y\nsimilarity index 100%\nrename from x\nrename to y\n"))
    ['x', 'y']
    """
    names: set[str] = set()
    for match in _NAMES.finditer(patch.data):
        if match["moved"]:
            names.add(os.fsdecode(match["moved"]).strip('"'))
            continue
        for path in (match["old"], match["new"], match["path"]):
            if path and b"/" in path:
                names.add(os.fsdecode(path).strip('"').split("/", patch.strip)[-1])
    return sorted(name for name in names if _harmless(name))


def renames_of(patch: Patch) -> dict[str, str]:
    """Return new name -> old name of what a patch moves."""
    return {match[2]: match[1] for match in _MOVE.finditer(patch.data.decode("utf-8", "surrogateescape"))}


def _harmless(name: str) -> bool:
    """Whether a path stays inside the tree; git refuses the others when it applies them."""
    return not name.startswith("/") and ".." not in name.split("/") and name != "dev/null"


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
            _put(self._stage / name, self._original(name))

    def _keep(self, name: str) -> None:
        """Keep a file as it is in the tree without patches, before anything is written over it."""
        if os.path.lexists(self._kept / name) or (self._missing / name).is_file():
            return
        state = _read(self.path / name)
        if state is None:
            _put(self._missing / name, ("-", b""))
        else:
            _put(self._kept / name, state)

    def _original(self, name: str) -> State:
        return _read(self._kept / name)

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
            before = {name: _read(self._stage / name) for name in files_of(patch)}
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
                    _put(Path(scratch, side, name), state if side == "a" else _read(self._stage / name))
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
        written = []
        for name in sorted({*self._files, *_names(self._kept), *_names(self._missing)}):
            wanted = _read(self._stage / name) if name in set(self._files) else self._original(name)
            if _read(self.path / name) != wanted:
                _put(self.path / name, wanted)
                written.append(name)
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
        return _read(self.path / name)


def _names(folder: Path) -> Iterable[str]:
    for place, _, files in os.walk(folder):
        for file in files:
            if file.startswith(".") and file.endswith(".new"):  # left by a kill
                continue
            yield os.path.relpath(os.path.join(place, file), folder)


def _read(path: Path) -> State:
    if path.is_symlink():
        return "link", os.readlink(os.fsencode(path))
    if not path.is_file():
        return None
    return "x" if os.access(path, os.X_OK) else "-", path.read_bytes()


def _put(path: Path, state: State) -> None:
    """Make a file what `state` says, in one step."""
    if state is None:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.new")
    beside.unlink(missing_ok=True)
    kind, data = state
    if kind == "link":
        os.symlink(os.fsdecode(data), beside)
    else:
        beside.write_bytes(data)
        beside.chmod(0o755 if kind == "x" else 0o644)
    os.replace(beside, path)


def put(path: Path, state: State) -> None:
    """Write a file of the tree for a moment; the next `settle` puts it right."""
    _put(path, state)
