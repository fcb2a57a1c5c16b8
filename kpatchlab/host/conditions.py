"""The conditions under which figures are taken: pins what can be pinned, and says what cannot be controlled."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

SPARE = 2
"""Processors that are left to everything else, where a host has so many that guests can have some to themselves."""


@dataclass(slots=True)
class Conditions:
    """A host from the beginning of a measurement to its end.

    Args:
        cpus: virtual processors that run at once; each gets a processor, and QEMU and the lab one besides.
        root: stands for / in tests.
    """

    cpus: int
    root: Path = Path("/")
    pinned: str = ""
    _stat: tuple[int, int, int] = (0, 0, 0)
    _own_s: float = 0.0
    _began: float = field(default_factory=time.monotonic)

    def begin(self) -> None:
        """Pin this process and all guests that it will start, where there is room, and note the load."""
        have = sorted(os.sched_getaffinity(0))
        wanted = self.cpus + 1
        if len(have) >= wanted + SPARE:
            with contextlib.suppress(OSError):
                os.sched_setaffinity(0, have[-wanted:])
                self.pinned = f"to processors {', '.join(map(str, have[-wanted:]))}"
        if not self.pinned:
            self.pinned = f"not: {len(have)} processors, {wanted + SPARE} wanted"
        self._stat, self._own_s = self._read_stat(), _own_s()

    def facts(self) -> dict[str, str]:
        """Return what a reader of figures must know, by name; what could not be controlled is under `uncontrolled`."""
        busy, idle, stolen = (now - then for now, then in zip(self._read_stat(), self._stat, strict=True))
        own = (_own_s() - self._own_s) * os.sysconf("SC_CLK_TCK")
        whole = max(1, busy + idle + stolen)
        others = max(0.0, (busy - own) / whole)
        governor = self._word("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
        turbo = self._word("sys/devices/system/cpu/intel_pstate/no_turbo")
        facts = {
            "pinned": self.pinned,
            "governor": governor or "not told by the host",
            "load": " ".join(self._word("proc/loadavg").split()[:3]),
            "other_load": f"{100 * others:.0f} % of all processors",
            "stolen": f"{100 * stolen / whole:.1f} % by the host's own host",
        }
        lacks = [
            *(["processors not pinned"] if self.pinned.startswith("not") else []),
            *(["frequency governor unknown"] if not governor else []),
            *([f"governor {governor}, not performance"] if governor not in {"", "performance"} else []),
            *(["turbo is on"] if turbo == "0" else []),
            *(["processors share cores (SMT)"] if self._word("sys/devices/system/cpu/smt/active") == "1" else []),
            *(["the host is a guest itself"] if " hypervisor" in self._word("proc/cpuinfo") else []),
            *([f"other load took {100 * others:.0f} %"] if others > 0.05 else []),
        ]
        return facts | {"uncontrolled": "; ".join(lacks) or "nothing known"}

    def _word(self, path: str) -> str:
        with contextlib.suppress(OSError):
            return (self.root / path).read_text().strip()
        return ""

    def _read_stat(self) -> tuple[int, int, int]:
        """Return busy, idle and stolen time of all processors together, in ticks (proc(5))."""
        words = [int(word) for word in self._word("proc/stat").partition("\n")[0].split()[1:9]] or [0] * 8
        user, nice, system, idle, wait, irq, softirq, steal = words
        return user + nice + system + irq + softirq, idle + wait, steal


def _own_s() -> float:
    """Return the processor time of this process and of the guests that have ended, in seconds."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
