"""A cgroup of its own for a command of root's, where no systemd makes one: RLIMIT_NPROC does not hold for root.

Both hierarchies are known: a controller's own folder (v1), or one for all (v2) whose top hands out `pids` and `memory`.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
EMPTY_S = 2.0
"""How long the kernel is given to take the last processes out of a cgroup."""
_ENTER = (
    'n=$1; shift; while [ "$n" -gt 0 ]; do echo $$ >"$1/cgroup.procs" || exit 125; shift; n=$((n-1)); done; exec "$@"'
)
_numbers = itertools.count()


@contextlib.contextmanager
def bounded(memory_bytes: int, processes: int, root: Path = ROOT) -> Iterator[list[str]]:
    """Yield the words that put a command into a cgroup with these bounds; [] where none can be made."""
    name = f"kpatchlab-{os.getpid()}-{next(_numbers)}"
    made: list[Path] = []
    try:
        if _has_both(root):
            _make(root / name, {"pids.max": processes, "memory.max": memory_bytes}, made)
        else:
            _make(root / "pids" / name, {"pids.max": processes}, made)
            _make(root / "memory" / name, {"memory.limit_in_bytes": memory_bytes}, made)
        yield ["sh", "-c", _ENTER, "sh", str(len(made)), *map(str, made)] if made else []
    finally:
        for folder in made:
            _remove(folder)


def bounds(root: Path = ROOT) -> bool:
    """Whether a cgroup can be made that bounds processes."""
    with bounded(1 << 40, 1 << 20, root) as words:
        return any("/pids/" in word or _has_both(root) for word in words)


def _has_both(root: Path) -> bool:
    try:
        return {"pids", "memory"} <= set((root / "cgroup.subtree_control").read_text().split())
    except OSError:
        return False


def _make(folder: Path, limits: dict[str, int], made: list[Path]) -> None:
    """Make one and set its limits; one that cannot be made is left out."""
    try:
        folder.mkdir()
    except OSError:
        return
    try:
        for name, limit in limits.items():
            (folder / name).write_text(str(limit))
    except OSError:
        _remove(folder)
    else:
        made.append(folder)


def _remove(folder: Path) -> None:
    end = time.monotonic() + EMPTY_S
    while time.monotonic() < end:
        try:
            folder.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(0.02)
        else:
            return
