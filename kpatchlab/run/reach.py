"""Proof that a function ran: counters in the guest around a scenario, and one case for each rule of the scenario."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from kpatchlab.errors import GuestRefused
from kpatchlab.evidence.splats import find_splats
from kpatchlab.guest.vm import Guest
from kpatchlab.lab.scenario import GUEST_LIB, Reach
from kpatchlab.model import Case, Outcome, ReachCount, reach_case

DEADLINE_S = 600.0
"""The same for every guest, so enough for a slow one: a kernel with debugging, a clock that counts instructions.
Nothing waits so long for a guest that hangs: its heartbeat tells."""


class Counters:
    """The counters of one guest.

    Args:
        rules: the scenario's rules for this role and these parameters.
        has_symbol: says which of some names the kernel image has.
        patched: functions that the kernel's series changes, as `reach start` takes them; no rule is about them.
    """

    def __init__(
        self,
        role: str,
        rules: Sequence[Reach],
        has_symbol: Callable[[Sequence[str]], frozenset[str]],
        patched: Sequence[str] = (),
    ) -> None:
        self._role = role
        self._rules = rules
        wanted = [name for rule in rules for name in (rule.if_symbol, rule.unless_symbol) if name]
        self._have = has_symbol(wanted)
        self._names = list(dict.fromkeys(rule.function for rule in rules if not self._condition(rule)))
        self._patched = [word.partition(":")[0] for word in patched]
        self._asked = [
            *self._names,
            *(w for w, name in zip(patched, self._patched, strict=True) if name not in self._names),
        ]

    def _condition(self, rule: Reach) -> str:
        """Return why a rule does not hold for this kernel, or "" where it does."""
        if rule.if_symbol and rule.if_symbol not in self._have:
            return f"condition: only where {_told(rule.if_symbol, 'has', 'uses')}"
        if rule.unless_symbol and rule.unless_symbol in self._have:
            return f"condition: only where {_told(rule.unless_symbol, 'lacks', 'does not use')}"
        return ""

    def start(self, guest: Guest) -> None:
        """Set the counters to nought and let them run.

        Raises:
            GuestRefused: what the rules ask for is not counted.
        """
        if not self._asked:
            return
        done = guest.run([f"{GUEST_LIB}/reach", "start", *self._asked], timeout_s=DEADLINE_S)
        # What went wrong with a splat is the kernel's fault: the job goes on, to be judged by its log.
        if self._names and (done.timed_out or done.status != 0) and not find_splats(guest.console.data()):
            said = done.stderr.decode("utf-8", "replace").strip().splitlines() or [f"status {done.status}"]
            why = f"it took longer than {DEADLINE_S:.0f} s" if done.timed_out else said[-1]
            raise GuestRefused(f"{self._role}: counting did not start: {why[:300]}")

    def read(self, guest: Guest) -> tuple[list[ReachCount], list[ReachCount], list[Case]]:
        """Return the counts for the rules, those for the series, and a case for each rule.

        A rule that does not apply to this kernel is a SKIP with its reason.
        """
        counts: dict[str, int] = {}
        if self._asked:
            done = guest.run([f"{GUEST_LIB}/reach", "read"], timeout_s=DEADLINE_S)
            for line in done.stdout.decode("utf-8", "replace").splitlines():
                name, _, number = line.rpartition(" ")
                if re.fullmatch(r"-?[0-9]{1,18}", number):
                    counts[name] = int(number)
        reached, patched = (
            [ReachCount(self._role, name, counts.get(name, -1)) for name in names]
            for names in (self._names, self._patched)
        )
        return reached, patched, [self._case(rule, counts.get(rule.function)) for rule in self._rules]

    def _case(self, rule: Reach, count: int | None) -> Case:
        reason = self._condition(rule)
        outcome, message = (Outcome.SKIP, reason) if reason else _judged(rule, count)
        return reach_case(rule.function, self._role, outcome, message, applies=not reason)


def _told(symbol: str, kernel: str, module: str) -> str:
    name, _, used = symbol.rpartition(":")
    return f"module {name} {module} {used}" if name else f"the kernel {kernel} {symbol}"


def _judged(rule: Reach, count: int | None) -> tuple[Outcome, str]:
    """Return what a count means, in a word and for people; -1: it cannot be counted, None: it was not read."""
    if count is None:
        return Outcome.FAIL, "its count could not be read"
    if count < 0:
        return Outcome.SKIP, "not traceable on this kernel"
    if rule.max is not None and count > rule.max:
        return Outcome.FAIL, f"ran {count} times, at most {rule.max} expected"
    if count < rule.min:
        return Outcome.FAIL, f"ran {count} times, at least {rule.min} expected"
    return Outcome.PASS, f"ran {count} times"
