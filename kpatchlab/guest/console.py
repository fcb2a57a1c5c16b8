"""A guest's console, raw from its first byte, in bounded memory and on disk."""

from __future__ import annotations

import threading
import time
import warnings
from pathlib import Path

from kpatchlab.errors import LabWarning
from kpatchlab.proc import Kept

LIMIT_BYTES = 4 << 20


class Console:
    """What a guest printed: head and tail of `limit_bytes` together, however much it is.

    The head goes to the file as it comes; where there is more, `flush` adds the tail. A file that cannot be written
    is left to `flush`, which warns where it cannot either: the disk must not cost the guest its reader.

    Attributes:
        total: bytes printed so far.
        last: monotonic time of the last byte, in seconds.
        unwritten: why the file is not whole, or "".
    """

    def __init__(self, path: Path, limit_bytes: int = LIMIT_BYTES) -> None:
        self.path = path
        self.total = 0
        self.last = time.monotonic()
        self._kept = Kept(limit_bytes)
        self._lock = threading.Lock()
        self._on_disk = 0
        self._half = limit_bytes // 2
        self._late = False  # the file is left to `flush`
        self.unwritten = ""
        path.write_bytes(b"")

    def add(self, data: bytes) -> None:
        """Take the next bytes."""
        with self._lock:
            self._kept.add(data)
            self.total += len(data)
            self.last = time.monotonic()
            if self._on_disk < self._half and not self._late:
                data = data[: self._half - self._on_disk]
                try:
                    with self.path.open("ab") as handle:
                        handle.write(data)
                    self._on_disk += len(data)
                except OSError:
                    self._late = True

    def data(self) -> bytes:
        """Return what is kept; a line in the middle says how much is not."""
        with self._lock:
            return self._kept.data()

    def text(self) -> str:
        """Return `data` as text; what is not UTF-8 becomes U+FFFD."""
        return self.data().decode("utf-8", "replace")

    def flush(self) -> None:
        """Bring the file up to what is kept."""
        with self._lock:
            if self._on_disk < self.total:
                try:
                    self.path.write_bytes(self._kept.data())
                except OSError as error:
                    if not self.unwritten:
                        warnings.warn(f"{self.path} is not whole: {error.strerror}", LabWarning, stacklevel=2)
                    self.unwritten = str(error.strerror)
