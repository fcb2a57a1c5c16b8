"""The code blocks of a page in docs/, for tests that run what a page says."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
_BLOCK = re.compile(r"^( *)```(\w+)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One code block.

    Attributes:
        place: the first line's comment, "" where the first line is none: a file's name, or where the lines go.
        text: the lines below that comment.
    """

    language: str
    place: str
    text: str


def blocks(page, language):
    """Return the blocks of a language in docs/PAGE, in their order."""
    found = []
    for indent, name, raw in _BLOCK.findall((ROOT / "docs" / page).read_text()):
        lines = [line.removeprefix(indent) for line in raw.splitlines(keepends=True)]
        mark = "// " if name == "c" else "# "
        place = lines[0].removeprefix(mark).strip() if lines[0].startswith(mark) else ""
        found.append(Block(name, place, "".join(lines[1:] if place else lines)))
    return [block for block in found if block.language == language]
