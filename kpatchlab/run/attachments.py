"""What a scenario leaves in its attachment folder, brought to this host: bounded, under names that are safe here.

A guest's tar is whatever the guest says (`guest.tar`). What is not taken is named; it is no word about the kernel.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from kpatchlab.files import safe_name
from kpatchlab.guest.tar import Malformed, members
from kpatchlab.guest.vm import Guest
from kpatchlab.textclean import one_line

BYTES = 32 << 20
"""On disk, of all files of one guest together."""
FILES = 1000
DEPTH = 8
FETCH_BYTES = 2 * BYTES
FETCH_S = 60.0
NOTES = 20
# No command but the shell's own before tar: a fork costs 10 to 20 ms in an emulated guest.
_SCRIPT = (
    'cd /lab/attach && for name in *; do [ -e "$name" ] && '
    f"exec sh -c 'tar -c --exclude=./.keep . | head -c {FETCH_BYTES}'; done; :"
)


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
        for name, data, why in members(memoryview(archive)):
            if why:
                taker.refuse(name.decode("utf-8", "replace"), why)
            else:
                taker.take(name, data)
            if len(taker.taken) >= FILES and len(taker.left_out) > NOTES:
                break
    except Malformed as error:
        taker.refuse("the rest", str(error) if whole else f"more than {FETCH_BYTES >> 20} MiB, or too slow")
    return [str(path.relative_to(folder)) for path in taker.taken], taker.left_out
