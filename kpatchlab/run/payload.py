"""The files that guests get, as artifacts by content: a job uses the files as they were when its run began."""

from __future__ import annotations

import os
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

from kpatchlab.cache import Cache, content_key
from kpatchlab.lab.scenario import GuestFile

KIND = "payload"
VERSION = 1
"""Part of every key: raise it when an artifact of the same files is laid out otherwise."""
FILES = "files"


def keep(files: Iterable[GuestFile], cache: Cache, label: str) -> str:
    """Make an artifact of some files where it is not in the cache; returns its key."""
    files = sorted(files)
    key = content_key(VERSION, [(path, sha256(data).hexdigest(), mode) for path, data, mode in files])

    def make(work: Path) -> None:
        (work / FILES).mkdir()
        for path, data, mode in files:
            target = work / FILES / path.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
            target.chmod(mode)

    cache.get(KIND, key, make, label=label)
    return key


def read(folder: Path, place: str = "") -> list[GuestFile]:
    """Return every file below a folder, by name, as one that belongs below `place` in a guest."""
    return [
        (f"{place}/{path.relative_to(folder)}", path.read_bytes(), 0o755 if os.access(path, os.X_OK) else 0o644)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]
