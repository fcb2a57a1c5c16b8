"""What a scenario leaves in its attachment folder, brought to this host: bounded, under names that are safe here.

A guest's tar is whatever the guest says. It is read by hand, once and in linear time: Python's tarfile takes quadratic
time for some headers up to 3.11.9 (CVE-2024-6232), and makes a sparse file as large as it claims to be. What is not
taken is named; it is no word about the kernel.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from kpatchlab.files import safe_name
from kpatchlab.guest.vm import Guest
from kpatchlab.textclean import one_line

BYTES = 32 << 20
"""On disk, of all files of one guest together."""
FILES = 1000
DEPTH = 8
FETCH_BYTES = 2 * BYTES
FETCH_S = 60.0
NAME_BYTES = 4096
"""PATH_MAX of Linux: what is longer is no name of a guest's file."""
NOTES = 20
BLOCK = 512
# No command but the shell's own before tar: a fork costs 10 to 20 ms in an emulated guest.
_SCRIPT = (
    'cd /lab/attach && for name in *; do [ -e "$name" ] && '
    f"exec sh -c 'tar -c --exclude=./.keep . | head -c {FETCH_BYTES}'; done; :"
)


class _Malformed(Exception):
    """This is no tar, or not a whole one."""


@dataclass(slots=True)
class _Taker:
    """Writes files below a folder while there is room."""

    home: Path
    taken: list[Path] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    size: int = 0

    def refuse(self, name: str, why: str) -> None:
        """Note what is not taken, up to a number."""
        if len(self.left_out) < NOTES:
            self.left_out.append(f"{one_line(name, 200)}: {why}")
        elif len(self.left_out) == NOTES:
            self.left_out.append("and more")

    def take(self, name: bytes, data: memoryview) -> None:
        """Write one file, or note why not."""
        shown = name.decode("utf-8", "replace")
        parts = [part for part in shown.split("/") if part not in {"", "."}]
        if not parts or ".." in parts:
            self.refuse(shown, "leads out of the folder")
        elif len(parts) > DEPTH:
            self.refuse(shown, f"deeper than {DEPTH} folders")
        elif len(self.taken) >= FILES:
            self.refuse(shown, f"more than {FILES} files")
        elif self.size + len(data) > BYTES:
            self.refuse(shown, f"more than {BYTES >> 20} MiB in all")
        else:
            self._write(shown, self.home.joinpath(*map(safe_name, parts)), data)

    def _write(self, shown: str, target: Path, data: memoryview) -> None:
        # Whatever a name may be, its place is free, or its file is not taken: nothing is followed or replaced.
        above = [place for place in target.parents if place.is_relative_to(self.home)]
        if target.exists() or any(place.exists() and not place.is_dir() for place in above):
            self.refuse(shown, "its name is taken by another file")
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        self.taken.append(target)
        self.size += len(data)


def fetch(guest: Guest, folder: Path, role: str) -> tuple[list[str], list[str]]:
    """Bring a guest's attachments into a job's folder; see `unpack`.

    Raises:
        GuestLost: as in `Guest.run`.
    """
    done = guest.run(["/bin/sh", "-c", _SCRIPT], timeout_s=FETCH_S, keep_bytes=2 * FETCH_BYTES)
    if not done.stdout:
        return [], []
    return unpack(done.stdout, folder, role, whole=not done.timed_out and done.stdout_total < FETCH_BYTES)


def unpack(archive: bytes, folder: Path, role: str, *, whole: bool = True) -> tuple[list[str], list[str]]:
    """Write the files of a tar below `attach-ROLE` in a folder.

    Args:
        whole: the archive was not cut off.

    Returns:
        The names of the files, relative to the folder; and a line for each that was not taken, up to a number.
    """
    taker = _Taker(folder / f"attach-{role}")
    try:
        for name, data, why in _members(memoryview(archive)):
            if why:
                taker.refuse(name.decode("utf-8", "replace"), why)
            else:
                taker.take(name, data)
            if len(taker.taken) >= FILES and len(taker.left_out) > NOTES:
                break
    except _Malformed as error:
        taker.refuse("the rest", str(error) if whole else f"more than {FETCH_BYTES >> 20} MiB, or too slow")
    return [str(path.relative_to(folder)) for path in taker.taken], taker.left_out


def _members(archive: memoryview) -> Iterator[tuple[bytes, memoryview, str]]:
    """Yield name and bytes of each regular file of a tar (ustar, GNU, pax), and why it cannot be taken, or ""."""
    at, name, size, odd = 0, b"", -1, ""  # the last three: what a header said that is about the next one
    while at + BLOCK <= len(archive):
        header = archive[at : at + BLOCK].tobytes()
        if not any(header):
            return
        kind, length = header[156:157], _number(header[124:136])
        if _checksum(header) != _number(header[148:156]):
            raise _Malformed("not a tar")
        at += BLOCK
        if kind == b"S":  # GNU's sparse file: further headers, while the last one says so
            more, odd = header[482], "a sparse file"
            while more and at + BLOCK <= len(archive):
                more = archive[at + 504]
                at += BLOCK
        length = size if size >= 0 and kind in b"0\0007" else length
        if at + length > len(archive):
            raise _Malformed("cut off, or longer than it can be")
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
        raise _Malformed("cut off")


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
        raise _Malformed("a size that is no number")
    return int(text)


def _text(padded: bytes) -> bytes:
    return padded.partition(b"\0")[0]


def _number(text: bytes) -> int:
    """Return an octal number; GNU's tar has those of 8 GiB and more in binary, which is more than is ever taken."""
    digits = text.strip(b" \0")
    if text[0] & 0x80 or not all(48 <= digit < 56 for digit in digits):
        raise _Malformed("a size that is no number, or more than is taken")
    return int(digits or b"0", 8)


def _checksum(header: bytes) -> int:
    return sum(header[:148]) + 8 * 32 + sum(header[156:])
