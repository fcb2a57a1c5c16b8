"""A second witness beside the kernel's log: `/proc/sys/kernel/tainted`.

The kernel sets a bit when it warns, oopses, finds a bad page or hangs, whatever comes of its message: a console that
dropped it, a log level that hid it, a format that the lab does not know. A bit that no report explains is a fault that
the log does not show.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kpatchlab.guest.vm import Guest
from kpatchlab.model import Case, Outcome, Splat, taint_case

FILE = "/proc/sys/kernel/tainted"


@dataclass(frozen=True, slots=True)
class Flag:
    """One bit that a fault sets, by Documentation/admin-guide/tainted-kernels.rst.

    Attributes:
        kinds: reports that set it.
    """

    bit: int
    letter: str
    meaning: str
    kinds: frozenset[str]


FLAGS = (
    Flag(4, "M", "the processor reported a machine check", frozenset()),
    # KASAN, KFENCE, KMSAN and SLUB set this as well.
    Flag(5, "B", "a bad page, or what a sanitizer found", frozenset({"bug", "kasan"})),
    Flag(7, "D", "the kernel has died: an oops or a BUG", frozenset({"oops", "bug", "list", "panic"})),
    # So do lists and counters that are corrupt, by WARN(), a task that is scheduled while atomic, and UBSAN.
    Flag(9, "W", "the kernel issued a warning", frozenset({"warning", "refcount", "list", "lockdep", "ubsan"})),
    Flag(14, "L", "a soft lockup", frozenset({"soft-lockup"})),
)
"""The other bits say what somebody loaded or forced: a module out of the tree, without a signature, by force."""


def read(guest: Guest) -> int | None:
    """Return the bits of a guest's kernel; None where it has no such file.

    Raises:
        GuestLost, HostError: as in `Guest.look`.
    """
    text = guest.look([FILE], drop_caches=False).get(FILE, "").strip()
    return int(text) if text.isdigit() else None


def judged(
    role: str, before: int | None, after: int | None, earlier: Sequence[Splat], splats: Sequence[Splat]
) -> Case | None:
    """Return the case of a guest's taint; None where it could not be read at the end.

    Args:
        before: the bits when the job began; None where they could not be read.
        earlier: the reports of boot and preparation: they explain no bit that was set later.
        splats: the reports of the guest's whole log.
    """
    if after is None:
        return None
    old = {splat.text for splat in earlier}
    told = []
    for flag in FLAGS:
        was_set = before is not None and bool(before >> flag.bit & 1)
        explain = {splat.kind for splat in splats if was_set or before is None or splat.text not in old}
        if after >> flag.bit & 1 and not flag.kinds & explain:
            when = " since before the job" if was_set else ""
            told.append(f"bit {flag.bit} ({flag.letter}) is set{when}: {flag.meaning}")
    if not told:
        return taint_case(role, Outcome.PASS)
    return taint_case(role, Outcome.FAIL, "; ".join(told) + "; no report in the log explains it")
