"""Bytes from a guest, made safe to show: in terminals, HTML, JSON and XML 1.0.

Whatever a guest prints is hostile until shown otherwise: escape sequences, control characters, half an UTF-8
sequence, directional overrides that make a line read backwards.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import re
from collections.abc import Iterator
from typing import Any, TextIO, TypeVar, cast

T = TypeVar("T")

_ANSI = re.compile(
    "(?:\x1b\\[|\x9b)[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor
    "|(?:\x1b\\]|\x9d)[^\x07\x1b\x9c\n]*(?:\x07|\x1b\\\\|\x9c)?"  # OSC: window title, links
    r"|\x1b(?:[@-Z\\^_a-z]|[ -/]+[0-~])"  # two characters, or a choice of character set
)
_BREAK = re.compile(r"\r*\n|\r+")
# C0 but tab and line feed, DEL, C1, what sets or marks the direction of text (Unicode's Bidi_Control, and the old
# U+206A-F), line and paragraph separators, tags (text that no font shows), and what XML 1.0 does not allow.
_UNFIT = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ud800-\udfff\ufffe\uffff\U000e0000-\U000e007f]"
)
_ODD = re.compile(rb"[^\t\x20-\x7e]")
_BINARY_SHARE = 0.1


def printable(data: bytes | str) -> str:
    r"""Return text that every report can hold: no escape sequences or control characters, `\n` between lines.

    What is not UTF-8 becomes U+FFFD; control characters and NULs are left out.

    >>> printable(b"\x1b[31mred\x1b[0m\r\nnull \x00 bell \x07 \xff")
    'red\nnull  bell  \ufffd'
    """
    text = data.decode("utf-8", "replace") if isinstance(data, bytes) else data
    if "\r" in text:
        text = _BREAK.sub("\n", text)
    if "\x1b" in text or "\x9b" in text or "\x9d" in text:
        text = _ANSI.sub("", text)
    return _UNFIT.sub("", text)


def line_of(raw: bytes) -> str:
    """Return one line as text that every report can hold, without blanks behind it."""
    text = printable(raw).replace("\n", " ") if _ODD.search(raw) else raw.decode("ascii")
    return text.rstrip()


def clean(value: T) -> T:
    """Return a value with each text in it `printable`: in lists, dicts (keys as well) and dataclasses, however deep.

    What has nothing to clean comes back as it is, not as a copy.
    """
    return cast("T", _cleaned(value))


def _cleaned(value: Any) -> Any:
    if isinstance(value, str):
        return value if isinstance(value, enum.Enum) or (text := printable(value)) == value else text
    if isinstance(value, (tuple, list)):
        items = [_cleaned(item) for item in value]
        same = all(new is old for new, old in zip(items, value, strict=True))
        return value if same else items if isinstance(value, list) else tuple(items)
    if isinstance(value, dict):
        pairs = {_cleaned(key): _cleaned(item) for key, item in value.items()}
        same = pairs.keys() == value.keys() and all(pairs[key] is item for key, item in value.items())
        return value if same else pairs
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        new = {
            name: part for name in _fields(type(value)) if (part := _cleaned(old := getattr(value, name))) is not old
        }
        return dataclasses.replace(value, **new) if new else value
    return value


@functools.cache
def _fields(cls: Any) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(cls) if field.init)


class CleanStream:
    """A stream for text that makes `printable` whatever is written to it; `raw` is the stream behind it.

    `raw` is for who colours its own words, and has cleaned all others (`terminal.console`); `buffer` for bytes of which
    that is true.
    """

    def __init__(self, raw: TextIO) -> None:
        self.raw = raw

    def write(self, text: str) -> int:
        """Write text; as any text stream it takes no bytes."""
        if not isinstance(text, str):
            raise TypeError(f"write() takes text, not {type(text).__name__}")
        self.raw.write(printable(text))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write several texts."""
        for text in lines:
            self.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.raw, name)


def one_line(data: bytes | str, limit: int = 300) -> str:
    """Return `printable` text on one line: runs of white space are one blank, over `limit` characters are cut."""
    text = " ".join(printable(data).split())
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def counted(number: int, noun: str) -> str:
    """Return `1 check`, `2 checks`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def shown(data: bytes, limit_bytes: int = 1 << 20) -> str:
    """Return a file's bytes as text for a reader: the head and tail of long text, a word about what is binary."""
    sample = data[:4096]
    odd = sum(byte < 9 or 13 < byte < 27 for byte in sample)
    if sample and odd > _BINARY_SHARE * len(sample):
        return f"[{len(data)} bytes, binary]"
    if len(data) <= limit_bytes:
        return printable(data)
    half = limit_bytes // 2
    return f"{printable(data[:half])}\n[... {len(data) - 2 * half} bytes cut ...]\n{printable(data[-half:])}"


def iter_lines(data: bytes, limit_bytes: int) -> Iterator[bytes]:
    """Yield the lines without their line feed, each cut to `limit_bytes`: linear, and never two copies of `data`."""
    start, total = 0, len(data)
    while start < total:
        end = data.find(b"\n", start)
        if end < 0:
            end = total
        yield data[start : min(end, start + limit_bytes)]
        start = end + 1
