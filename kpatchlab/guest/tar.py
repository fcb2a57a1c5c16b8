"""A tar that a guest made: whatever the guest says, so it is read by hand, once and in linear time.

Python's tarfile takes quadratic time for some headers up to 3.11.9 (CVE-2024-6232), and makes a sparse file as large as
it claims to be.
"""

from __future__ import annotations

from collections.abc import Iterator

NAME_BYTES = 4096
"""PATH_MAX of Linux: what is longer is no name of a guest's file."""
BLOCK = 512


class Malformed(Exception):
    """This is no tar, or not a whole one."""


def members(archive: memoryview) -> Iterator[tuple[bytes, memoryview, str]]:
    """Yield name and bytes of each regular file of a tar (ustar, GNU, pax), and why it cannot be taken, or "".

    Raises:
        Malformed: the archive is none, or ends here.
    """
    at, name, size, odd = 0, b"", -1, ""  # the last three: what a header said that is about the next one
    while at + BLOCK <= len(archive):
        header = archive[at : at + BLOCK].tobytes()
        if not any(header):
            return
        kind, length = header[156:157], _number(header[124:136])
        if _checksum(header) != _number(header[148:156]):
            raise Malformed("not a tar")
        at += BLOCK
        if kind == b"S":  # GNU's sparse file: further headers, while the last one says so
            more, odd = header[482], "a sparse file"
            while more and at + BLOCK <= len(archive):
                more = archive[at + 504]
                at += BLOCK
        length = size if size >= 0 and kind in b"0\0007" else length
        if at + length > len(archive):
            raise Malformed("cut off, or longer than it can be")
        data = archive[at : at + length]
        at += -(-length // BLOCK) * BLOCK
        if kind == b"L":
            name = data[:NAME_BYTES].tobytes().partition(b"\0")[0]
        elif kind == b"x":
            name, size, odd = _pax(data[: 16 * NAME_BYTES].tobytes(), name)
        elif kind not in b"Kg":
            own = _text(header[:100])
            prefix = _text(header[345:500]) if header[257:263] == b"ustar\0" else b""
            whole = name or (prefix + b"/" + own if prefix else own)
            if kind in b"0\0007S":
                yield whole, data, odd
            elif kind != b"5":
                yield whole, data, "no regular file"
            name, size, odd = b"", -1, ""
    if at < len(archive):
        raise Malformed("cut off")


def _pax(data: bytes, name: bytes) -> tuple[bytes, int, str]:
    """Return name, size and what is odd, as records `LENGTH KEY=VALUE` of a pax header say of the next file."""
    at, size, odd = 0, -1, ""
    while at < len(data):
        digits, blank, _ = data[at : at + 12].partition(b" ")
        if not blank or not digits.isdigit() or int(digits) <= len(digits) + 2:
            break
        key, _, value = data[at + len(digits) + 1 : at + int(digits) - 1].partition(b"=")
        at += int(digits)
        if key == b"path":
            name = value[:NAME_BYTES]
        elif key == b"size":
            size = _decimal(value)
        elif key.startswith(b"GNU.sparse."):
            odd = "a sparse file"
    return name, size, odd or ("a NUL in its name" if b"\0" in name else "")


def _decimal(text: bytes) -> int:
    if not text.isdigit() or len(text) > 20:
        raise Malformed("a size that is no number")
    return int(text)


def _text(padded: bytes) -> bytes:
    return padded.partition(b"\0")[0]


def _number(text: bytes) -> int:
    """Return an octal number; GNU's tar has those of 8 GiB and more in binary, which is more than is ever taken."""
    digits = text.strip(b" \0")
    if text[0] & 0x80 or not all(48 <= digit < 56 for digit in digits):
        raise Malformed("a size that is no number, or more than is taken")
    return int(digits or b"0", 8)


def _checksum(header: bytes) -> int:
    return sum(header[:148]) + 8 * 32 + sum(header[156:])
