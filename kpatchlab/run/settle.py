"""A job settles before it is judged: what its scripts left running ends, and what the kernel put off for later runs.

A splat of delayed work, of a timer or of an RCU callback comes seconds after the last script has ended.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from kpatchlab.run.guests import JobGuest
from kpatchlab.run.inputs import JobInputs

QUIET_S, MAX_S = 0.15, 3.0
"""A guest that prints is done when its console was quiet for so long, or after the second at the latest. A serial
console under TCG moves some 20 to 50 KiB a second (measured), so a splat takes a while."""
TICK_S = 0.05


def end_processes(guests: Sequence[JobGuest]) -> None:
    """End every process of the scripts, and wait for a grace period of RCU.

    Raises:
        GuestLost: a guest did not survive it.
    """
    for guest in guests:
        assert guest.vm is not None
        guest.vm.settle()


def idle(inputs: JobInputs, guests: Sequence[JobGuest]) -> float:
    """Let the guests idle for the job's `settle_s`, and on while one prints; returns the seconds that it took.

    A guest that idles takes no more than its memory: the executor may start others beside it.

    Raises:
        GuestLost: a guest died meanwhile, or the job was cancelled.
    """
    began = time.monotonic()
    if inputs.task.settle_s:  # else the slot stays the job's: of figures, one is taken at a time
        inputs.here.idle()
    while time.monotonic() - began < inputs.task.settle_s:
        _check(guests)
        time.sleep(TICK_S)
    consoles = [guest.vm.console for guest in guests if guest.vm is not None]
    printing = time.monotonic()
    while any(time.monotonic() - console.last < QUIET_S for console in consoles):
        _check(guests)
        if time.monotonic() - printing > MAX_S:
            break
        time.sleep(TICK_S)
    _check(guests)
    return time.monotonic() - began


def _check(guests: Sequence[JobGuest]) -> None:
    for guest in guests:
        assert guest.vm is not None
        guest.vm.check()
