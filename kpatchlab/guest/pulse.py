"""Whether a guest is still alive, judged by the processor time that it got and not by the wall clock.

The agent sends the number of each processor five times a second. A guest on a busy host can be late without any
fault of its own, so silence counts only for time in which the guest could have sent: the processor time that QEMU used,
and the time in which none of QEMU's threads wanted a processor or waited for a disk. Output on the console
counts as a sign of life for a while: a long trace is printed with interrupts off.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

from kpatchlab.guest.share import stat_of, threads

SILENT_S = 6.0
"""Seconds in which a guest could have beaten and did not; twice the longest seen (2.8 s of processor time, while
`function` became the tracer of a distribution's kernel under TCG on a busy host)."""
SILENT_PRINTING_S = 20.0
"""The same for one that prints meanwhile."""
SILENT_GOT_S = 30.0
"""Seconds of silence in which the host kept nothing from QEMU, however little of a processor that used; see `share`."""
PRINTING_S = 1.0
TICK_MAX_S = 1.0
"""How much silence one look at the guest may add. A look that comes late, as after a pause of the lab and QEMU
together, finds the guest without a chance to beat meanwhile; one that really hangs is silent at the next ones too."""
_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


def used_s(pid: int) -> float:
    """Return the processor time of a process so far, in seconds; 0.0 if it is gone."""
    try:
        fields = stat_of(f"/proc/{pid}")
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS_A_SECOND


def process_ns(pid: int) -> int:
    """Return the processor time of a process so far, in nanoseconds, exactly: what it waited for is not in it.

    Raises:
        OSError: there is no such process.
    """
    # clock_getcpuclockid(3), which Python has for threads of its own alone; 2 is CPUCLOCK_SCHED.
    return time.clock_gettime_ns(~pid << 3 | 2)


def idle(pid: int) -> bool:
    """Whether no thread of a process wants a processor or waits for a disk."""
    return all(thread.state == "S" for thread in threads(pid).values())


class Pulse:
    """The heartbeat of one guest; made paused, and silent processors count from `resume` on.

    Args:
        cpus: number of the guest's processors.
        got_s: returns the seconds that the host gave the guest so far, see `share.Share`.
        stretch: see `MachineShape.stretch`: a guest whose clock runs slower beats less often.
    """

    def __init__(self, cpus: int, got_s: Callable[[], float], stretch: float = 1.0) -> None:
        self._pid = 0
        self._stretch = stretch
        self._cpus = cpus
        self._lock = threading.Lock()
        self._paused = True
        self._got_s = got_s
        self._silent: dict[int, tuple[float, float]] = {}  # processor -> fair seconds, got seconds
        self._at = self._got = 0.0
        self._used = 0.0
        self.longest_s = 0.0  # the longest silence that ended, in fair seconds: what SILENT_S must stay above

    def pause(self) -> None:
        """Stop judging: the guest is about to be stopped."""
        with self._lock:
            self._paused = True

    def resume(self, pid: int) -> None:
        """Judge from now on by the time that QEMU's process `pid` gets."""
        with self._lock:
            self._pid = pid
            self._paused = False
            self._silent = dict.fromkeys(range(min(self._cpus, 64)), (0.0, 0.0))
            self._at, self._used, self._got = time.monotonic(), used_s(self._pid), self._got_s()

    def beat(self, numbers: bytes) -> None:
        """Take heartbeats: one byte a beat, the processor's number."""
        with self._lock:
            for number in set(numbers) & self._silent.keys():
                self.longest_s = max(self.longest_s, self._silent[number][0])
                self._silent[number] = (0.0, 0.0)

    def hangs(self, now: float, printed: float) -> str:
        """Return one line on the silence if the guest is to be given up, else "".

        Args:
            now, printed: monotonic times, of this call and of the last byte on the console, in seconds.
        """
        with self._lock:
            if self._paused:
                return ""
            used, got = used_s(self._pid), self._got_s()
            wall_s = min(now - self._at, TICK_MAX_S)
            fair_s = wall_s if idle(self._pid) else min(wall_s, (used - self._used) / self._cpus)
            got_s = min(got - self._got, TICK_MAX_S)
            self._at, self._used, self._got = now, used, got
            limit_s = SILENT_PRINTING_S if now - printed < PRINTING_S else SILENT_S
            for number, (fair, got) in self._silent.items():
                fair, got = fair + fair_s, got + got_s  # noqa: PLW2901
                self._silent[number] = (fair, got)
                if fair >= limit_s * self._stretch or got >= SILENT_GOT_S * self._stretch:
                    which = f"processor {number} of " if self._cpus > 1 else ""
                    return f"{which}the guest gave no sign of life for {max(fair, got):.0f} s"
        return ""
