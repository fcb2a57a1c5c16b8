"""How much of the wall clock's time the host gave to a guest, by what the kernel tells of QEMU's threads.

A guest loses time while a thread of its QEMU waits for a processor (the second figure of /proc/PID/task/TID/schedstat),
while it is stopped, or while it waits for a disk. A guest that sleeps loses nothing: it got all that it wanted. So a
deadline in *got* seconds comes as soon as one by the wall clock on a quiet host, and later on a busy one.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

LOOK_MAX_S = 1.0
"""How much one look may count as got. One that comes late, as after a pause of the lab and QEMU together, finds a guest
that had no chance meanwhile."""
OPEN_S = 0.03
"""A thread that wants to run and did not for so long waits; the kernel adds a wait to its figure when it is over."""
_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
_PROC_BYTES = 4096


@dataclass(frozen=True, slots=True)
class ThreadTimes:
    """One thread so far, in seconds; `waited` is None where the kernel does not count it (CONFIG_SCHED_INFO)."""

    ran: float
    waited: float | None
    state: str


def threads(pid: int) -> dict[int, ThreadTimes]:
    """Return the threads of a process by their ids; none where it is gone."""
    found = {}
    with contextlib.suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError, ValueError):  # a thread that ends while it is looked at
                found[int(name)] = _times(f"/proc/{pid}/task/{name}")
    return found


def read_proc(path: str) -> bytes:
    """Return what a small file of /proc says; a tenth of what `open` costs, and each guest is looked at all the time.

    Raises:
        OSError: it cannot be read.
    """
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(handle, _PROC_BYTES)
    finally:
        os.close(handle)


def stat_of(folder: str) -> list[bytes]:
    """Return what `stat` of a process or a thread says behind its name: its state is the first field.

    Raises:
        OSError: it is gone.
    """
    return read_proc(f"{folder}/stat").rsplit(b")", 1)[1].split()


def _times(folder: str) -> ThreadTimes:
    fields = stat_of(folder)
    state = fields[0].decode()
    try:
        ran_ns, waited_ns, _ = map(int, read_proc(f"{folder}/schedstat").split())
    except (OSError, ValueError):
        return ThreadTimes((int(fields[11]) + int(fields[12])) / _TICKS_A_SECOND, None, state)
    return ThreadTimes(ran_ns / 1e9, waited_ns / 1e9, state)


@dataclass(slots=True)
class _Thread:
    """What is known of a thread.

    Attributes:
        since: when it was last seen to have made progress.
        stopped: seconds that it was stopped, or waited for a disk.
        lost: all that it lost, as of the last look.
    """

    seen: ThreadTimes
    since: float
    stopped: float = 0.0
    lost: float = 0.0


class Share:
    """What one process got, from `start` on; every method may be called from any thread.

    Args:
        pid: returns the process, which may become another one (a starter's child).
    """

    def __init__(self, pid: Callable[[], int]) -> None:
        self._pid = pid
        self._lock = threading.Lock()
        self._threads: dict[int, _Thread] = {}
        self._began = self._at = time.monotonic()
        self._got = 0.0
        self._marks = [(self._at, 0.0)]  # (time, withheld so far), one a second

    def got_s(self) -> float:
        """Return the seconds in which the process ran or did not want to."""
        with self._lock:
            now = time.monotonic()
            wall, self._at = now - self._at, now
            lost = max([self._look(tid, times, now, wall) for tid, times in threads(self._pid()).items()], default=0.0)
            self._got += min(max(0.0, wall - max(0.0, lost)), LOOK_MAX_S)
            if now - self._marks[-1][0] >= 1.0:
                self._marks.append((now, now - self._began - self._got))
            return self._got

    def withheld_s(self, within_s: float | None = None) -> float:
        """Return the seconds in which it did not get what it wanted: in all, or the most of any stretch so long."""
        got = self.got_s()
        with self._lock:
            marks = [*self._marks, (self._at, self._at - self._began - got)]
            if within_s is None:
                return marks[-1][1]
            most, first = 0.0, 0
            for at, withheld in marks:
                while marks[first][0] < at - within_s:
                    first += 1
                most = max(most, withheld - marks[first][1])
            return most

    def _look(self, tid: int, times: ThreadTimes, now: float, wall: float) -> float:
        """Return what a thread lost since the last look; less than 0 where it lost less than was thought."""
        thread = self._threads.get(tid)
        if thread is None:
            self._threads[tid] = _Thread(times, now, lost=times.waited or 0.0)
            return 0.0
        before, thread.seen = thread.seen, times
        if before.ran != times.ran or before.waited != times.waited:
            thread.since = now
        stands = now - thread.since
        if times.state in "TtD" and before.state in "TtD" and stands:
            thread.stopped += wall
        waits = stands if times.state == "R" and stands >= OPEN_S else 0.0
        if times.waited is None and before.state == times.state == "R":
            thread.stopped += max(0.0, wall - (times.ran - before.ran))
            waits = 0.0
        lost, thread.lost = thread.lost, (times.waited or 0.0) + thread.stopped + waits
        return thread.lost - lost
