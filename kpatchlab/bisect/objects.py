"""Whether two kernels are the same to a guest: their code and data, without debug information and build ids."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

from kpatchlab.arch import reads
from kpatchlab.fence import tool

COPY_S = 300.0
NOT_CODE = (".note.gnu.build-id", ".notes", ".note.Linux", ".comment")
"""Sections that differ between equal kernels: a build id is a hash that debug information goes into."""


def digest(artifact: Path) -> str:
    """Return the sha256 (hex) over vmlinux and every module of a kernel's artifact, "" where they cannot be compared.

    A comment shifts line numbers, and these stand in debug information, which is left out, but also in the tables of
    WARN and BUG, which a guest can show: such kernels count as different.
    """
    vmlinux = artifact / "vmlinux"
    if not vmlinux.exists():
        return ""
    modules = artifact / "modules-debug"
    whole = hashlib.sha256()
    for path in [vmlinux, *sorted(modules.rglob("*.ko"))]:
        name = path.relative_to(artifact)
        whole.update(f"{name}\0{_content(path)}\n".encode())
    whole.update((artifact / "config").read_bytes() if (artifact / "config").exists() else b"")
    return whole.hexdigest()


def _content(path: Path) -> str:
    with tempfile.TemporaryDirectory(prefix="kpatchlab-objects-") as scratch:
        plain = Path(scratch) / "plain"
        words = [reads("objcopy", path), "--strip-debug", *(f"--remove-section={name}" for name in NOT_CODE)]
        tool(path, write=[Path(scratch)]).run([*words, str(path), str(plain)], timeout_s=COPY_S)
        with plain.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
