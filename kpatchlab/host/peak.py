"""The memory that the lab and all its children hold at their most."""

from __future__ import annotations

import threading
from typing import Self

from kpatchlab import proc

EVERY_S = 0.5


class PeakMemory:
    """Looks twice a second, for the time of a `with`; `mib` is the most that was seen so far."""

    def __init__(self) -> None:
        self.mib = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            self.mib = max(self.mib, proc.resident_mib())
            if self._over.wait(EVERY_S):
                return
