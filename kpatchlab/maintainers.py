"""The kernel's MAINTAINERS file: which subsystem a source file belongs to, and who looks after it. Pure.

A section's patterns mean what the file's own head says, which is what scripts/get_maintainer.pl does: `F: dir/` is all
that is in and below a folder, `F: dir/*` all in it and nothing below, `*` stands for any letters; X: leaves out; N: is
a regular expression. K: (words in a patch's content) is not looked at, and sections that take every file (THE REST) are
nobody's in particular.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass

from kpatchlab.textclean import printable

NAME = "MAINTAINERS"
_FIELD = re.compile(r"([A-Z]):\s*(.*)$")
_EVERYTHING = {"*", "*/"}


@dataclass(frozen=True, slots=True)
class Section:
    """One subsystem.

    Attributes:
        maintainers: M:, without remarks ("Name <address>").
        reviewers: R:.
        lists: L:, addresses alone.
        files, excluded, names: F:, X: and N: patterns.
        text: the section as it stands in the file.
    """

    title: str
    maintainers: tuple[str, ...]
    reviewers: tuple[str, ...]
    lists: tuple[str, ...]
    files: tuple[str, ...]
    excluded: tuple[str, ...]
    names: tuple[str, ...]
    text: str

    def has(self, path: str) -> bool:
        """Whether a file, or a folder (which stands for what is below it), belongs to the subsystem."""
        if _EVERYTHING & set(self.files) or any(fits(pattern, path) for pattern in self.excluded):
            return False
        if any(fits(pattern, path) or _below(pattern, path) for pattern in self.files):
            return True
        return any(found.search(path) for name in self.names if (found := _regex(name)))

    def closeness(self, path: str) -> int:
        """Return how closely its F: lines name a file: the length of the longest that does, 0 where none does."""
        if not self.has(path):
            return 0
        return max((len(pattern) for pattern in self.files if fits(pattern, path)), default=0)

    def below(self, folder: str) -> tuple[str, ...]:
        """Return its F: patterns that name something below a folder, which ends with a slash."""
        return tuple(pattern for pattern in self.files if pattern.startswith(folder) and pattern != folder)


def parse(data: bytes) -> tuple[Section, ...]:
    """Return the sections of a MAINTAINERS file in their order; what is no section is left out."""
    sections = []
    for block in re.split(r"\n\s*\n", printable(data)):
        lines = [line for line in block.splitlines() if line.strip()]
        # The title stands right before the first field; text before it belongs to the file's head.
        start = next((i for i, line in enumerate(lines) if _FIELD.match(line)), 0)
        if start == 0:
            continue
        fields: dict[str, list[str]] = {}
        for line in lines[start:]:
            if match := _FIELD.match(line):
                fields.setdefault(match[1], []).append(match[2].strip())
        if not {"F", "N"} & fields.keys():
            continue
        sections.append(
            Section(
                title=lines[start - 1].strip(),
                maintainers=tuple(map(_address, fields.get("M", ()))),
                reviewers=tuple(map(_address, fields.get("R", ()))),
                lists=tuple(words[0] for value in fields.get("L", ()) if (words := value.split())),
                files=tuple(fields.get("F", ())),
                excluded=tuple(fields.get("X", ())),
                names=tuple(fields.get("N", ())),
                text="\n".join(lines[start - 1 :]),
            )
        )
    return tuple(sections)


def _address(value: str) -> str:
    """Return the address without the remark that may stand behind it."""
    return value[: value.index(">") + 1] if ">" in value else value


def concerned(sections: Iterable[Section], paths: Iterable[str]) -> tuple[Section, ...]:
    """Return the sections that any of the files or folders belongs to, in the file's order."""
    wanted = list(dict.fromkeys(paths))
    return tuple(section for section in sections if any(section.has(path) for path in wanted))


def written(sections: Iterable[Section]) -> bytes:
    """Return sections as `parse` reads them."""
    return "".join(f"{section.text}\n\n" for section in sections).encode("utf-8", "replace")


@functools.cache
def _pattern(pattern: str) -> re.Pattern[str]:
    parts = [{"**": ".*", "*": "[^/]*", "?": "[^/]"}.get(part, re.escape(part)) for part in _split(pattern)]
    # A folder may stand without its slash; a wildcard at the end stays within its folder.
    end = ".*" if pattern.endswith("/") else "" if pattern.endswith("*") else "(?:/.*)?"
    return re.compile("".join(parts) + end + r"\Z")


def _split(pattern: str) -> list[str]:
    return re.findall(r"\*\*|\*|\?|[^*?]+", pattern)


def fits(pattern: str, path: str) -> bool:
    """Whether an F: pattern names a file, or all of a folder."""
    wanted = _pattern(pattern)
    return wanted.match(path) is not None or (_is_folder(path) and wanted.match(path.rstrip("/") + "/") is not None)


def _below(pattern: str, path: str) -> bool:
    return _is_folder(path) and pattern.startswith(path.rstrip("/") + "/")


def _is_folder(path: str) -> bool:
    last = path.rpartition("/")[2]
    return "." not in last and last not in {"Makefile", "Kconfig", "Kbuild"}


@functools.cache
def _regex(name: str) -> re.Pattern[str] | None:
    try:
        return re.compile(name)
    except re.error:  # Perl's, and not Python's
        return None
