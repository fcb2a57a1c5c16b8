"""What each patch of a series changes: hunks with those of their lines that the whole series leaves, and functions.

The series is replayed in memory on the files that it touches. Every line that a patch adds carries that patch's mark,
so that the marks say, after the last patch, which lines of the final tree are whose, wherever later patches moved them.
At the end the replayed files are compared with those that `git apply` made.
"""

from __future__ import annotations

import bisect
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kpatchlab.build import diffs, patchset
from kpatchlab.build.functions import SUFFIXES, Function, functions_in
from kpatchlab.cache import content_key
from kpatchlab.files import read_within, through_link
from kpatchlab.jsonable import from_json, to_json

VERSION = 1
"""Part of every key: raise it when the same series is to give other facts."""
FILE = "changes.json"


@dataclass(frozen=True, slots=True)
class AddedLine:
    """One line that a patch adds, `number` being where it is in the final tree."""

    number: int
    text: str


@dataclass(frozen=True, slots=True)
class Hunk:
    """One hunk of a patch.

    Attributes:
        file: its path in the final tree; the patch's own where a later patch removes it.
        number: counts from 1 within the file's part of the patch.
        lines: what it adds and no later patch takes out again.
        added: how many lines it adds; what is not in `lines` was superseded.
    """

    file: str
    number: int
    lines: tuple[AddedLine, ...] = ()
    added: int = 0


@dataclass(frozen=True, slots=True)
class Named:
    """A function by name and file; `gone`: the final tree does not have it."""

    name: str
    file: str
    gone: bool = False


@dataclass(frozen=True, slots=True)
class PatchChanges:
    """One patch; `number` counts from 1. `unread`: files of it that could not be followed, each with the reason."""

    number: int
    title: str
    files: tuple[str, ...] = ()
    hunks: tuple[Hunk, ...] = ()
    functions: tuple[Named, ...] = ()
    unread: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Changes:
    """A whole series."""

    patches: tuple[PatchChanges, ...] = ()

    @property
    def sources(self) -> list[str]:
        """The C files of the final tree that the series changes or makes, sorted."""
        return sorted({h.file for patch in self.patches for h in patch.hunks if h.file.endswith(".c") and h.lines})


def changes_key(base_key: str, patches: Sequence[patchset.Patch]) -> str:
    """Return the content key of what a series changes on a base: its configuration has no part in it."""
    return content_key("changes", VERSION, base_key, patchset.series_key(patches), [str(patch) for patch in patches])


def write(changes: Changes, folder: Path) -> None:
    """Write what `read` reads into a folder."""
    (folder / FILE).write_text(json.dumps(to_json(changes), indent=1) + "\n")


def read(folder: Path) -> Changes:
    """Return what is in an artifact's folder."""
    return from_json(Changes, json.loads((folder / FILE).read_text()))


def reader(tree: Path) -> Callable[[str], bytes | None]:
    """Return what gives a tree's files by name, None for one that it does not have.

    A link's content is where it points to, as git has it; nothing outside of the tree is read, whatever a patch names.
    """

    def content(name: str) -> bytes | None:
        if diffs.unfit(name) or through_link(tree, name):
            return None
        path = tree / name
        return os.fsencode(os.readlink(path)) if path.is_symlink() else read_within(tree, name)

    return content


@dataclass(slots=True)
class _Text:
    """A file while the series is replayed.

    Attributes:
        lines: each with its line end, decoded so that every byte survives.
        marks: whose each line is: (patch, hunk) by index, None for the base's own.
    """

    lines: list[str]
    marks: list[tuple[int, int] | None]
    problem: str = ""
    parsed: list[Function] | None = field(default=None)

    def functions(self) -> list[Function]:
        if self.parsed is None:
            self.parsed = functions_in("".join(self.lines).encode("utf-8", "surrogateescape"))
        return self.parsed


class Replay:
    """A series on the files that it touches.

    Args:
        base: file of the tree without the series -> its bytes; None where there is no such file.
    """

    def __init__(self, patches: Sequence[patchset.Patch], base: Callable[[str], bytes | None]) -> None:
        self._patches = [_Patch(number, patch) for number, patch in enumerate(patches, 1)]
        self._texts: dict[str, _Text] = {}
        for name in dict.fromkeys(name for patch in self._patches for name in patch.names()):
            data = base(name)
            if data is not None:
                lines = _split(data)
                self._texts[name] = _Text(lines, [None] * len(lines))

    def texts(self) -> dict[str, str]:
        """Return the files that the patches leave, as they leave them; without those of which that is not known."""
        for patch in self._patches:
            patch.replay(self._texts)
        return {name: "".join(text.lines) for name, text in self._texts.items() if not text.problem}

    def run(self, final: Callable[[str], bytes | None]) -> Changes:
        """Return what the patches change; `final` is as `base`, for the tree with the series."""
        for patch in self._patches:
            patch.replay(self._texts)
        for name, text in self._texts.items():
            if not text.problem and (data := final(name)) is not None and _split(data) != text.lines:
                text.problem = "the tree's file is another one than the patches make of it"
        names = _renamed(self._patches)
        where = self._lines()
        known = _Known()
        for name, text in self._texts.items():
            if name.endswith(SUFFIXES) and not text.problem:
                known.add(name, {function.name for function in text.functions()})
        return Changes(tuple(patch.changes(names, where, known, self._texts) for patch in self._patches))

    def _lines(self) -> dict[tuple[int, int], list[AddedLine]]:
        """Return the lines that each hunk has in the final tree."""
        found: dict[tuple[int, int], list[AddedLine]] = {}
        for text in self._texts.values():
            for number, (words, mark) in enumerate(zip(text.lines, text.marks, strict=True), 1):
                if mark and not text.problem:
                    found.setdefault(mark, []).append(AddedLine(number, words.rstrip("\r\n")))
        return found


def _split(data: bytes) -> list[str]:
    # Not splitlines(): form feeds and the like end no line of C.
    parts = data.decode("utf-8", "surrogateescape").split("\n")
    return [f"{part}\n" for part in parts[:-1]] + ([parts[-1]] if parts[-1] else [])


class _Known:
    """The functions that the final tree has, by file, and by name in the first file that has it."""

    def __init__(self) -> None:
        self._by_file: dict[str, set[str]] = {}
        self._first: dict[str, str] = {}

    def add(self, file: str, names: set[str]) -> None:
        """Take a file's functions."""
        self._by_file[file] = names
        for name in names:
            self._first.setdefault(name, file)

    def named(self, name: str, file: str) -> Named:
        """Return a function by the file that has it in the end; a later patch may have moved it to another one."""
        if name in self._by_file.get(file, ()):
            return Named(name, file)
        moved = self._first.get(name, "")
        return Named(name, moved or file, gone=not moved)


@dataclass(slots=True)
class _Found:
    """A hunk as its patch left it, by the names that files had then."""

    file: str
    number: int
    added: int


class _Patch:
    """One patch while it is replayed."""

    def __init__(self, number: int, patch: patchset.Patch) -> None:
        self.number, self.patch = number, patch
        self._parts = list(diffs.parts(patch.data, patch.strip))
        self.hunks: list[_Found] = []
        self.functions: dict[tuple[str, str], None] = {}
        self.files: dict[str, None] = {}
        self.renames: dict[str, str] = {}

    def names(self) -> Iterator[str]:
        """Yield the files that the patch names, by their names before and after it."""
        for part in self._parts:
            yield from filter(None, (part.old, part.new))

    def replay(self, texts: dict[str, _Text]) -> None:
        """Apply the patch to `texts`, in place."""
        for part in self._parts:
            old, new = part.old, part.new
            self.files[part.name] = None
            if old and new and old != new and old in texts:
                if part.copied:
                    texts[new] = _Text(list(texts[old].lines), list(texts[old].marks), texts[old].problem)
                else:
                    self.renames[old] = new
                    texts[new] = texts.pop(old)
            if part.name not in texts:
                texts[part.name] = _Text([], [], "the tree has no such file" if old and part.hunks else "")
            self._file(part, part.name, texts[part.name])
            if not new:
                texts.pop(part.name)

    def _file(self, part: diffs.FilePart, name: str, text: _Text) -> None:
        """Apply one file's part, and note the functions that it changes: by the old lines and by the new ones."""
        before = _Text(list(text.lines), [], "", text.parsed)
        removed: list[int] = []
        added: list[int] = []
        shift = 0
        if part.binary:
            text.problem = text.problem or f"patch {self.number} is binary there"
        for number, hunk in enumerate(part.hunks, 1):
            mark = (self.number - 1, len(self.hunks))
            self.hunks.append(_Found(name, number, hunk.added))
            place = None if text.problem else _find(text.lines, hunk)
            if place is None:
                text.problem = text.problem or f"hunk {number} of patch {self.number} is not where it says"
                return
            _apply(hunk.rows, text, place, mark)
            removed += _numbers(hunk.rows, "-", place - shift)
            added += _numbers(hunk.rows, "+", place)
            shift += hunk.added - hunk.removed
        text.parsed = None
        for lines, state in ((removed, before), (added, text)) if name.endswith(SUFFIXES) else ():
            lines.sort()
            for function in state.functions() if lines else ():
                at = bisect.bisect_left(lines, function.first)
                if at < len(lines) and lines[at] <= function.last:
                    self.functions[function.name, name] = None

    def changes(
        self,
        names: Sequence[Mapping[str, str]],
        where: Mapping[tuple[int, int], list[AddedLine]],
        known: _Known,
        texts: Mapping[str, _Text],
    ) -> PatchChanges:
        """Return the patch in the final tree's terms; `names`: for each patch, a file's name then -> its last one."""

        def final(name: str) -> str:
            return names[self.number - 1].get(name, name)

        hunks = tuple(
            Hunk(final(found.file), found.number, tuple(where.get((self.number - 1, index), ())), found.added)
            for index, found in enumerate(self.hunks)
        )
        problems = {name: texts[final(name)].problem for name in self.files if final(name) in texts}
        return PatchChanges(
            self.number,
            self.patch.subject or self.patch.name,
            tuple(map(final, self.files)),
            hunks,
            tuple(known.named(name, final(file)) for name, file in self.functions),
            tuple(f"{name}: {problem}" for name, problem in problems.items() if problem),
        )


def _renamed(every: Sequence[_Patch]) -> list[dict[str, str]]:
    """Return, for each patch, what its files are called after the last one: only those that are renamed later."""
    found: list[dict[str, str]] = []
    later: dict[str, str] = {}
    for patch in reversed(every):
        found.append(dict(later))
        for old, new in patch.renames.items():
            later[old] = later.get(new, new)
    return found[::-1]


def _apply(rows: Sequence[diffs.Row], text: _Text, place: int, mark: tuple[int, int]) -> None:
    """Put a hunk into a text at a line's index; what it adds bears its mark, what it keeps the mark that it had."""
    kept = iter([m for (sign, _), m in zip(_old(rows), text.marks[place:], strict=False) if sign == " "])
    marks = [mark if sign == "+" else next(kept) for sign, _ in rows if sign != "-"]
    stop = place + len(_old(rows))
    text.lines[place:stop] = [words for sign, words in rows if sign != "-"]
    text.marks[place:stop] = marks


def _old(rows: Sequence[diffs.Row]) -> list[diffs.Row]:
    return [row for row in rows if row[0] != "+"]


def _numbers(rows: Sequence[diffs.Row], mine: str, place: int) -> list[int]:
    """Return the numbers of the lines that only one side has, blank ones left out; `mine`: that side's sign."""
    side = [row for row in rows if row[0] in {mine, " "}]
    return [place + i for i, (sign, words) in enumerate(side, 1) if sign == mine and words.strip()]


def _find(lines: Sequence[str], hunk: diffs.Hunk) -> int | None:
    """Return the index at which a hunk's old lines stand, nearest to where it says, as `git apply` looks for it.

    A hunk of a file's first line stands at its start, one without context behind it at its end (apply.c, find_pos).
    None: nowhere.
    """
    wanted = [words for _, words in _old(hunk.rows)]
    last = len(lines) - len(wanted)
    first = 0 if hunk.old_start <= 1 else None
    end = last if not hunk.rows or hunk.rows[-1][0] != " " else None
    expected = max(0, hunk.new_start - 1) if first is None and end is None else first if first is not None else end
    assert expected is not None
    if 0 <= expected <= last and lines[expected : expected + len(wanted)] == wanted:
        return expected if end in {None, expected} else None
    if first is not None or end is not None:
        return None
    return min(_places(lines, wanted), key=lambda place: (abs(place - expected), place < expected), default=None)


def _places(lines: Sequence[str], wanted: Sequence[str]) -> Iterator[int]:
    """Yield every index at which `wanted` stands in `lines`, in time that grows with both (Knuth, Morris, Pratt)."""
    back = [0] * len(wanted)
    length = 0
    for at in range(1, len(wanted)):
        while length and wanted[at] != wanted[length]:
            length = back[length - 1]
        length += wanted[at] == wanted[length]
        back[at] = length
    length = 0
    for at, line in enumerate(lines):
        while length and line != wanted[length]:
            length = back[length - 1]
        length += line == wanted[length]
        if length == len(wanted):
            yield at + 1 - length
            length = back[length - 1]
