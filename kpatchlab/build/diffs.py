"""A patch as `git apply` takes it apart: the files that it changes, and their hunks.

The rules are those of git's apply.c. A hunk ends where the counts of its `@@` line say, so that a removed line which
begins with `--` is no header, and a mail program's signature is no line. Text between files is skipped. What is
corrupt is left out here: `git apply` refuses it, with its own words.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

_HUNK = re.compile(r"@@ -(\d{1,9})(?:,(\d{1,9}))? \+(\d{1,9})(?:,(\d{1,9}))? @@")
_START = re.compile(rb"^(?:diff --git [^\n]|--- [^\n]+\n\+\+\+ [^\n]+\n@@ -)", re.MULTILINE)
_CRLF = re.compile(rb"^(?:diff --git [^\n]*|--- [^\n]*\r\n\+\+\+ [^\n]*\r\n@@ -[^\n]*)\r\n", re.MULTILINE)
_EXTENDED = re.compile(
    r"(old mode|new mode|deleted file mode|new file mode|copy from|copy to|rename from|rename to|rename old|rename new|"
    r"similarity index|dissimilarity index|index|---|\+\+\+) (.*)"
)
_ESCAPED = re.compile(rb'\\([0-7]{3}|[abfnrtv"\\])')
_ESCAPES = dict(zip(b"abfnrtv", b"\a\b\f\n\r\t\v", strict=True))
_STAMP = re.compile(r"[ \t]+\d{2,4}-\d\d?-\d\d? .*$|[ \t]+\w{3} \w{3} +\d.*$")
_MAX_NAME = 4096
_MAX_BLANKS = 50
_MAX_PATH = 3800
"""Bytes; Linux takes 4095, and the tree is in a folder of its own."""
_MAX_PART = 255

Row = tuple[str, str]
"""A hunk's line: " ", "+" or "-", and its text with its end, where it has one."""


@dataclass(frozen=True, slots=True)
class Hunk:
    """One hunk; `old_start` and `new_start` count lines from 1, and are 0 for a side that is empty.

    `head` is its `@@` line.
    """

    old_start: int
    new_start: int
    rows: tuple[Row, ...]
    head: str = field(default="", compare=False)

    @property
    def added(self) -> int:
        """How many lines it adds."""
        return sum(sign == "+" for sign, _ in self.rows)

    @property
    def removed(self) -> int:
        """How many lines it removes."""
        return sum(sign == "-" for sign, _ in self.rows)


@dataclass(frozen=True, slots=True)
class FilePart:
    """What a patch does to one file.

    Attributes:
        old, new: the file's name before and after, as the tree has it; "" where there is none.
        mode: the file's new mode, "" where the patch does not say it.
        copied: `new` is a copy, and `old` stays.
        binary: the lines of a binary patch; the hunks are none then.
        blob: the id of the blob that it was made of, abbreviated as it may be; "" where the patch does not say it.
    """

    old: str
    new: str
    mode: str = ""
    copied: bool = False
    hunks: tuple[Hunk, ...] = ()
    binary: tuple[str, ...] = ()
    blob: str = ""

    @property
    def name(self) -> str:
        """Its name after the patch; the former one where the patch removes it."""
        return self.new or self.old


def has_diff(data: bytes) -> bool:
    """Whether there is a patch in it."""
    return bool(_START.search(data.replace(b"\r\n", b"\n") if b"\r\n" in data else data))


def diff_of(data: bytes) -> bytes:
    """Return a patch without the text before its first file."""
    match = _START.search(data)
    return data[match.start() :] if match else data


def with_line_feeds(data: bytes) -> bytes:
    """Return a patch with line feeds where its headers end with CRLF: something on its way made them so.

    A patch to a file whose lines end with CRLF has line feeds in its headers, and stays as it is.
    """
    return data.replace(b"\r\n", b"\n") if _CRLF.search(data) else data


def files_of(data: bytes, strip: int = 1) -> list[str]:
    """Return the files that a patch changes, makes, renames or removes, each once, in its order."""
    names = [name for part in parts(data, strip) for name in ("" if part.copied else part.old, part.new) if name]
    return list(dict.fromkeys(names))


def unfit(name: str) -> str:
    """Return why a patch may not have a file of this name, "" for one that it may.

    What git refuses (read-cache.c, verify_path), what no file system takes, and the folder in which the lab builds.
    """
    folders = name.split("/")
    if name.startswith("/") or ".." in folders or "." in folders or "" in folders:
        return "it leaves the tree"
    if any(re.fullmatch(r"(\.git|git~1)[ .]*(:.*)?", _ignored(part), re.IGNORECASE) for part in folders):
        return "it is git's own"
    if len(os.fsencode(name)) > _MAX_PATH or any(len(os.fsencode(part)) > _MAX_PART for part in folders):
        return "it is too long"
    if folders[0] == "obj":
        return "the lab builds there"
    return ""


def _ignored(part: str) -> str:
    """Return a file's name without what HFS+ does not see in it (utf8.c, is_hfs_dot_generic)."""
    return re.sub("[\u200c-\u200f\u202a-\u202e\u206a-\u206f\ufeff]", "", part)


def essence(data: bytes) -> bytes:
    """Return what a patch changes, to compare two by: no text, no blobs' ids, nothing behind the last hunk."""
    found = [
        (p.old, p.new, p.mode, p.copied, p.binary, [(h.old_start, h.new_start, h.rows) for h in p.hunks])
        for p in parts(data)
    ]
    return repr(found).encode("utf-8", "backslashreplace")


def parts(data: bytes, strip: int = 1) -> Iterator[FilePart]:
    """Yield what a patch does to each file; `strip` is the N of `patch -pN`."""
    lines = data.decode("utf-8", "surrogateescape").split("\n")
    at = 0
    while at < len(lines):
        line = lines[at]
        if line.startswith("diff --git "):
            head = _GitHeader(line, strip)
            at = head.read(lines, at + 1)
            hunks, at = _hunks(lines, at)
            binary, at = _binary(lines, at) if not hunks else ((), at)
            if head.old or head.new:
                yield FilePart(head.old, head.new, head.mode, head.copied, hunks, binary, head.blob)
        elif (
            line.startswith("--- ")
            and at + 2 < len(lines)
            and lines[at + 1].startswith("+++ ")
            and _HUNK.match(lines[at + 2])
        ):
            old, new = _traditional(line[4:], lines[at + 1][4:], strip)
            hunks, at = _hunks(lines, at + 2)
            yield FilePart(old, new, hunks=hunks)
        else:
            at += 1


@dataclass(slots=True)
class _GitHeader:
    """The lines from `diff --git` on."""

    line: str
    strip: int
    old: str = ""
    new: str = ""
    mode: str = ""
    copied: bool = False
    blob: str = ""
    _seen: dict[str, str] = field(default_factory=dict)

    def read(self, lines: list[str], at: int) -> int:
        """Take the header's lines from `at` on; returns where they end."""
        while at < len(lines) and (match := _EXTENDED.match(lines[at])):
            self._seen.setdefault(match[1], match[2])
            at += 1
        both = _both(self.line.removeprefix("diff --git "), self.strip)
        self.old = self._name("---", "rename from", "rename old", "copy from", other=both)
        self.new = self._name("+++", "rename to", "rename new", "copy to", other=both)
        self.copied = "copy from" in self._seen
        blob = self._seen.get("index", "").split("..")[0]
        self.blob = blob if blob.strip("0") else ""
        if "new file mode" in self._seen:
            self.old, self.mode = "", self._seen["new file mode"].strip()
        elif "deleted file mode" in self._seen:
            self.new = ""
        else:
            self.mode = self._seen.get("new mode", "").strip() or _mode_of(self._seen.get("index", ""))
        return at

    def _name(self, header: str, *moved: str, other: str) -> str:
        for word in moved:  # these have no a/ or b/ in front
            if word in self._seen:
                return _stripped(_unquoted(self._seen[word])[0], self.strip - 1)
        if header in self._seen:
            found = _unquoted(self._seen[header].split("\t", 1)[0])[0]
            return "" if found == "/dev/null" else _stripped(found, self.strip)
        return other


def _mode_of(index: str) -> str:
    """Return the mode behind the blobs of an `index` line: it has one where it stays as it is."""
    words = index.split()
    return words[1] if len(words) > 1 else ""


def _unquoted(text: str) -> tuple[str, str]:
    """Return a name and what is behind it; git quotes one with control characters, quotes or bytes above 127."""
    if not text.startswith('"'):
        return text, ""
    match = re.match(r'"((?:[^"\\]|\\.)*)"', text)
    if not match:
        return text, ""
    raw = match[1].encode("utf-8", "surrogateescape")

    def byte(found: re.Match[bytes]) -> bytes:
        code = found[1]
        return bytes([int(code, 8) & 255]) if len(code) > 1 else bytes([_ESCAPES.get(code[0], code[0])])

    return _ESCAPED.sub(byte, raw).decode("utf-8", "surrogateescape"), text[match.end() :]


def _both(text: str, strip: int) -> str:
    """Return the name in `a/NAME b/NAME`, "" where the two differ: then other lines of the header have them."""
    if len(text) > 2 * _MAX_NAME:
        return ""
    if text.startswith('"'):
        first, rest = _unquoted(text)
        second = _unquoted(rest.strip())[0]
        return _stripped(first, strip) if _stripped(first, strip) == _stripped(second, strip) else ""
    if text.endswith('"') and ' "' in text:
        first, _, rest = text.partition(' "')
        second = _unquoted(f'"{rest}')[0]
        return _stripped(first, strip) if _stripped(first, strip) == _stripped(second, strip) else ""
    # Prefixes are of one length as a rule, so the blank between the two names is in the middle.
    blanks = [match.start() for match in itertools.islice(re.finditer(" ", text), _MAX_BLANKS)]
    for place in [len(text) // 2, *blanks]:
        name = _stripped(text[:place], strip)
        if text[place : place + 1] == " " and name and name == _stripped(text[place + 1 :], strip):
            return name
    return ""


def _stripped(name: str, strip: int) -> str:
    """Return a name without its first `strip` folders; double slashes count as one."""
    name = re.sub("/{2,}", "/", name)
    for _ in range(max(0, strip)):
        head, slash, rest = name.partition("/")
        if not slash:
            return head if strip == 0 else name
        name = rest
    return name


def _traditional(old: str, new: str, strip: int) -> tuple[str, str]:
    """Return the names of a diff without git's own header, each side's stamp left out."""
    first, second = (_stripped_stamp(text) for text in (old, new))
    made = first == "/dev/null"
    gone = second == "/dev/null"
    first, second = _stripped(first, strip), _stripped(second, strip)
    if made or gone:
        return ("" if made else first), ("" if gone else second)
    name = first if second.startswith(first) else second  # not FILE.orig
    return name, name


def _stripped_stamp(text: str) -> str:
    if text.startswith('"'):
        return _unquoted(text)[0]
    return _STAMP.sub("", text.split("\t", 1)[0]).rstrip()


def _hunks(lines: list[str], at: int) -> tuple[tuple[Hunk, ...], int]:
    """Return the hunks that begin at a line, and where they end."""
    found: list[Hunk] = []
    while at < len(lines) and (match := _HUNK.match(lines[at])):
        old, new = (int(match[i]) if match[i] is not None else 1 for i in (2, 4))
        rows: list[Row] = []
        head = lines[at]
        at += 1
        while at < len(lines) and (old > 0 or new > 0):
            sign, text = lines[at][:1] or " ", lines[at][1:]
            if sign not in {" ", "+", "-", "\\"} or (at == len(lines) - 1 and not lines[at]):
                return tuple(found), at  # corrupt
            if sign == "\\":
                _without_end(rows)
            else:
                old -= sign in {" ", "-"}
                new -= sign in {" ", "+"}
                rows.append((sign, f"{text}\n"))
            at += 1
        if at < len(lines) and lines[at].startswith("\\"):
            _without_end(rows)
            at += 1
        found.append(Hunk(int(match[1]), int(match[3]), tuple(rows), head))
    return tuple(found), at


def _without_end(rows: list[Row]) -> None:
    """Take the line feed from the last line: "No newline at end of file" is about it."""
    if rows:
        rows[-1] = (rows[-1][0], rows[-1][1].removesuffix("\n"))


def _binary(lines: list[str], at: int) -> tuple[tuple[str, ...], int]:
    """Return the lines of a binary patch that begins at a line, and where it ends."""
    if at < len(lines) and re.match(r"(Binary files|Files) .* differ$", lines[at]):
        return (lines[at],), at + 1
    if at >= len(lines) or lines[at] != "GIT binary patch":
        return (), at
    begin = at
    at += 1
    while at < len(lines) and re.match(r"(literal|delta) \d+$", lines[at]):
        while at < len(lines) and lines[at]:
            at += 1
        at += 1
    return tuple(lines[begin:at]), at
