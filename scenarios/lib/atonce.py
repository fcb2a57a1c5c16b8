"""Calls that may not wait, and what the guest's clock says of each.

A socket with a deadline answers EAGAIN when that is over: only the time tells such a call from one that heeded
O_NONBLOCK.  What counts is the time that the calling thread slept, its own work left out: a slow guest, or a busy
host, makes calls long, and does not make them sleep.
"""

import os
import time

LIMIT_S = 2 * float(os.environ.get("LAB_SCALE", "1"))
"""How long a call that may not wait may sleep: far more than it takes to get a lock or the processor back, and a
tenth of the deadlines that sockets of the scenarios have."""


def at_once(what, call, *arguments, limit_s=LIMIT_S):
    """Make a call that may not wait; returns what it returns, and raises what it raises.

    Args:
        what: the call in words.
        limit_s: more, where the answer is another guest's.

    Raises:
        AssertionError: it slept for longer, however it ended.
    """
    clock = _Asleep()
    if os.environ.get("LAB_BREAK"):
        time.sleep(1.5 * limit_s)  # the fault that `run --break` has for each of these
    try:
        return call(*arguments)
    finally:
        if (asleep := clock.read()) >= limit_s:
            raise AssertionError(f"{what} may not wait, and slept for {asleep:.1f} s")


def refused(what, call, *arguments):
    """Make a call that has to be refused with EAGAIN, at once.

    Raises:
        AssertionError: it succeeded, or slept.
    """
    try:
        done = at_once(what, call, *arguments)
    except BlockingIOError:
        return
    raise AssertionError(f"{what} has to be refused with EAGAIN, and returned {done!r}")


class _Asleep:
    """How long the calling thread slept since this was made."""

    def __init__(self):
        self._began, self._worked = time.monotonic(), time.thread_time()

    def read(self):
        return time.monotonic() - self._began - (time.thread_time() - self._worked)
