"""Bytes from a guest, made safe to show: in terminals, HTML, JSON and XML 1.0.

Whatever a guest prints is hostile until shown otherwise: escape sequences, control characters, half an UTF-8
sequence, directional overrides that make a line read backwards.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_ANSI = re.compile(
    "\x1b(?:"
    r"\[[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor
    "|\\][^\x07\x1b\n]*(?:\x07|\x1b\\\\)?"  # OSC: window title, links
    r"|[@-Z\\^_a-z]|[ -/]+[0-~])"  # two characters, or a choice of character set
)
_BREAK = re.compile(r"\r*\n|\r+")
# C0 but tab and line feed, DEL, C1, bidirectional controls, and what XML 1.0 does not allow (surrogates, U+FFFE/F).
_UNFIT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")
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
    if "\x1b" in text:
        text = _ANSI.sub("", text)
    return _UNFIT.sub("", text)


def one_line(data: bytes | str, limit: int = 300) -> str:
    """Return `printable` text on one line: runs of white space are one blank, over `limit` characters are cut."""
    text = " ".join(printable(data).split())
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


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
