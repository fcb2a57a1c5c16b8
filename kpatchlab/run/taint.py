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
LEVEL = "/proc/sys/kernel/printk"
STAMPS = "/sys/module/printk/parameters/time"
WARNINGS, USUAL = 5, 7
"""Levels of a console that shows warnings and what is worse, and CONSOLE_LOGLEVEL_DEFAULT (include/linux/printk.h)."""


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


@dataclass(frozen=True, slots=True)
class Reading:
    """What a guest's kernel says of itself at one time; None for what it does not say.

    Attributes:
        bits: its taint.
        level: messages below it come to the console; 7 lets all but those for debugging come.
        stamps: whether they have time stamps, by which the kernel's are told from what programs print.
    """

    bits: int | None = None
    level: int | None = None
    stamps: bool | None = None


def read(guest: Guest) -> Reading:
    """Return what a guest's kernel says of itself now.

    Raises:
        GuestLost, HostError: as in `Guest.look`.
    """
    said = guest.look([FILE, LEVEL, STAMPS], drop_caches=False)
    level = said.get(LEVEL, "").split() or [""]
    stamps = {"Y": True, "N": False}.get(said.get(STAMPS, "").strip())
    return Reading(_number(said.get(FILE, "").strip()), _number(level[0]), stamps)


def _kinds(splat: Splat) -> set[str]:
    """Return what a report is: a fault of a slab or a dentry has the WARN() in it that prints its stack.

    A WARN() may have a first line that is not known.
    """
    warned = "WARNING: " in splat.text or (splat.kind == "dump" and "[ cut here ]" in splat.text)
    return {splat.kind} | ({"warning"} if warned else set())


def _number(text: str) -> int | None:
    return int(text) if text.isdecimal() and len(text) < 20 else None


def hidden(before: Reading, after: Reading, *, stamped: bool) -> str:
    """Return why a console may lack messages of the kernel that a guest had to the end, "" where it may not.

    What was printed meanwhile is not on the console, or cannot be told from what programs print. The taint still says
    whether it was a fault.

    Args:
        stamped: the log has time stamps: what has none is then taken for a program's.
    """
    if after.stamps is False and stamped:
        return "the guest has switched off the time stamps of its kernel's log"
    if after.level is not None and after.level < max(WARNINGS, min(before.level or 0, USUAL)):
        return f"the level of the guest's console is {after.level}: what it prints is not all that its kernel says"
    return ""


def judged(role: str, begun: Reading, ended: Reading, earlier: Sequence[Splat], splats: Sequence[Splat]) -> Case | None:
    """Return the case of a guest's taint; None where it could not be read at the end.

    Args:
        begun, ended: what was read when the job began, and when it ended.
        earlier: the reports of boot and preparation: they explain no bit that was set later.
        splats: the reports of the guest's whole log.
    """
    before, after = begun.bits, ended.bits
    if after is None:
        return None
    old = {splat.text for splat in earlier}
    told = []
    for flag in FLAGS:
        was_set = before is not None and bool(before >> flag.bit & 1)
        seen = [splat for splat in splats if was_set or before is None or splat.text not in old]
        explain = {kind for splat in seen for kind in _kinds(splat)}
        if after >> flag.bit & 1 and not flag.kinds & explain:
            when = " since before the job" if was_set else ""
            told.append(f"bit {flag.bit} ({flag.letter}) is set{when}: {flag.meaning}")
    if not told:
        return taint_case(role, Outcome.PASS)
    return taint_case(role, Outcome.FAIL, "; ".join(told) + "; no report in the log explains it")
