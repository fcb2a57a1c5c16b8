"""What a host that keeps the processor from a guest makes of it, and what is therefore no word about its kernel."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from kpatchlab.model import BY_CLOCK, Splat

WATCHDOGS = {"hard-lockup": 10.0, "soft-lockup": 20.0, "rcu-stall": 21.0, "workqueue": 30.0, "hung-task": 120.0}
"""Seconds of each kind of `BY_CLOCK`, by a guest's own clock, which goes on while its processor stands still:
kernel/watchdog.c (10 s and twice that), RCU_CPU_STALL_TIMEOUT (21), WQ_WATCHDOG (30),
DEFAULT_HUNG_TASK_TIMEOUT (120)."""
NOTICED, MOST = 1.2, 10.0
"""Slowdowns below the first are left alone, those above the second are the job's own deadline's affair."""
HALF = 0.5
"""The share of a watchdog's time, or of a job's, from which on the host may have made what came."""


class Starvable(Protocol):
    """What is asked of a guest."""

    def got_s(self) -> float:
        """See `Guest.got_s`."""

    def withheld_s(self, within_s: float | None = None) -> float:
        """See `Guest.withheld_s`."""


def slowdown(guests: Iterable[Starvable]) -> float:
    """Return how many times longer the slowest of some guests takes by its own clock than by what the host gave it.

    Scripts have deadlines by that clock, which LAB_SCALE stretches.
    """
    taken = [1.0 + guest.withheld_s() / max(guest.got_s(), 0.5) for guest in guests]
    slowest = max(taken, default=1.0)
    return round(min(slowest, MOST), 1) if slowest >= NOTICED else 1.0


def watchdogs(splats: Iterable[Splat]) -> list[Splat]:
    """Return the splats that a kernel makes by its clock alone; one that ended the kernel is none of them."""
    return [splat for splat in splats if splat.kind in BY_CLOCK and not splat.fatal]


def made_by_host(guest: Starvable, splats: Iterable[Splat]) -> list[Splat]:
    """Return those that the host may have set off: it kept the processor from the guest for half of their time."""
    found = watchdogs(splats)
    return [splat for splat in found if guest.withheld_s(limit := WATCHDOGS[splat.kind]) >= HALF * limit]


def told(guest: Starvable, splats: Sequence[Splat]) -> str:
    """Return one line on such splats."""
    limit = WATCHDOGS[splats[0].kind]
    kept = guest.withheld_s(limit)
    return f"the host kept the processor from the guest for {kept:.0f} of {limit:.0f} s: {splats[0].title}"
