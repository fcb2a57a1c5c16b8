"""Names of files that nobody outside can choose, files that are written whole or not at all, and links to them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import tempfile
from pathlib import Path

from kpatchlab.errors import HostError

_NAME_BYTES = 100


def safe_name(text: str) -> str:
    """Return a file name for `text`: itself where it is harmless, else cleaned with a digest that keeps it unique.

    >>> safe_name("unix-splice.client=with,server=without.1")
    'unix-splice.client=with,server=without.1'
    >>> safe_name("../etc/passwd")
    'etc_passwd-2ad7a0ff'
    """
    clean = re.sub(r"[^A-Za-z0-9._=,+@-]+", "_", text).strip("._")
    if clean == text and 0 < len(text) <= _NAME_BYTES:
        return text
    return f"{clean[: _NAME_BYTES - 9]}-{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}".lstrip(
        "-"
    )


_INERT = frozenset({".txt", ".log", ".json", ".csv", ".pcap", ".pcapng", ".bin", ".dat", ".data", ".tar", ".info"})
_PACKED = frozenset({".gz", ".xz", ".zst", ".bz2"})


def is_inert(name: str) -> bool:
    """Whether no browser or web server takes a file for a page, going by its name; a packed one's inner name counts.

    >>> [is_inert(name) for name in ("run.log", "trace.pcap.gz", "x.html", "x.HTML.gz", "index", "x.svg")]
    [True, True, False, False, False, False]
    """
    path = Path(name.lower())
    return (Path(path.stem) if path.suffix in _PACKED else path).suffix in _INERT


def is_safe(text: str) -> bool:
    """Whether a text is a name of one file as it stands: no folder, nothing odd, not too long."""
    return bool(text) and safe_name(text) == text


def write_atomic(path: Path, data: bytes) -> None:
    """Write beside, fsync, rename: whoever reads sees the old file or the new one.

    Raises:
        HostError: it cannot be written (disk full, no permission).
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, beside = tempfile.mkstemp(prefix=f".{path.name[:40]}.", suffix=".new", dir=path.parent)
        try:
            with open(descriptor, "wb") as handle:
                handle.write(data)
                handle.flush()
                os.fchmod(handle.fileno(), 0o644)
                os.fsync(handle.fileno())
            os.replace(beside, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(beside)
            raise
    except OSError as error:
        raise HostError(
            f"cannot write {path}: {error.strerror}", hint="is the disk full, or the folder read-only?"
        ) from None


def link_or_copy(source: Path, target: Path) -> None:
    """Put a file at `target`, as a hard link where the file system allows it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
