"""What each host can do, all looked at at once: what the doctor says there, and what lies between it and here."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from kpatchlab.cache import META, TRAVELS, Cache
from kpatchlab.errors import HostError, told
from kpatchlab.host.doctor import HostCheck
from kpatchlab.hosts.bringup import Far, bring_up, far
from kpatchlab.hosts.ssh import Connection
from kpatchlab.hosts.tell import Told, tell, understood
from kpatchlab.lab.hosts import HostEntry

AT_ONCE = 16
TELL_S = 300.0
"""A probe guest under TCG and a mirror that does not answer take a minute together."""
MACHINE = "x86_64"
"""What guests are."""
CLOCK_NOTE_S, CLOCK_BAD_S = 5.0, 3600.0
"""Clocks that differ by more make times in logs hard to compare, and certificates invalid."""


@dataclass(frozen=True, slots=True)
class HostLook:
    """What was found on one host.

    Attributes:
        where: its destination, `local` for this one.
        checks: what is well and what is not, each with its remedy.
        told: what it says of itself; None where it could not be asked.
        python: version of the Python there that the lab takes.
        key: of the copy of this lab there; "" on this host.
        ahead_s: seconds that its clock is ahead of this one's.
    """

    name: str
    where: str
    checks: tuple[HostCheck, ...] = ()
    told: Told | None = None
    machine: str = ""
    python: str = ""
    key: str = ""
    ahead_s: float = 0.0

    @property
    def state(self) -> Literal["ok", "note", "bad"]:
        """The worst of its findings."""
        states = {check.state for check in self.checks}
        return "bad" if "bad" in states else "note" if "note" in states else "ok"


def look(
    hosts: Mapping[str, HostEntry], cache: Cache, mirror: str, qemu: str, say: Callable[[str], None] = lambda _: None
) -> list[HostLook]:
    """Look at every host, each in bounded time; what is wrong with one is in its checks.

    Args:
        cache: of this host; keeps what is copied to others.
        mirror: as in lab.yaml, and so is `qemu`.
        say: takes a line when something begins that takes a while, from any thread.
    """

    def one(name: str) -> HostLook:
        entry = hosts[name]
        found = HostLook(name, entry.ssh)
        try:
            found = _local(found, mirror, qemu) if entry.is_local else _other(found, entry, cache, mirror, qemu, say)
        except Exception as error:  # noqa: BLE001 - the others are looked at, whatever one of them does
            found = _with(found, HostCheck("reachable", "bad", _own(told(error), name), getattr(error, "hint", "")))
        return _with(found, *_asked_too_much(entry, found.told)) if found.told else found

    found: dict[str, HostLook] = {}
    free = threading.BoundedSemaphore(AT_ONCE)

    def take(name: str) -> None:
        with free:
            found[name] = one(name)

    # No pool of threads: that would wait for all of them when the user wants to stop.
    threads = [threading.Thread(target=take, args=(name,), daemon=True) for name in hosts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [found[name] for name in hosts]


def _local(found: HostLook, mirror: str, qemu: str) -> HostLook:
    said = tell(mirror, qemu)
    found = replace(found, told=said, machine=os.uname().machine)
    return _with(found, _machine(found.machine), *said.checks)


def _other(
    found: HostLook, entry: HostEntry, cache: Cache, mirror: str, qemu: str, say: Callable[[str], None]
) -> HostLook:
    begin = time.monotonic()
    with Connection.open(entry, found.name) as connection:
        took = time.monotonic() - begin
        there = far(connection)
        found = replace(
            found, machine=there.platform.machine, python=there.platform.python, ahead_s=round(there.ahead_s, 1)
        )
        login = HostCheck("reachable", "ok", f"login in {took:.1f} s")
        found = _with(found, login, _machine(found.machine), _clock(there))
        try:
            copy = bring_up(connection, entry, cache, there, say)
        except HostError as error:
            return _with(found, HostCheck("lab", "bad", _own(error.message, found.name), error.hint))
        how = "copied now" if copy.copied else "as it was"
        found = replace(found, key=copy.key)
        found = _with(
            found, HostCheck("lab", "ok", f"the same as here ({copy.key[:12]}, {how}), Python {found.python}")
        )
        words = ["env", *(f"{key}={value}" for key, value in copy.env.items())]
        words += [copy.python, "-m", "kpatchlab.hosts.tell", mirror, qemu]
        try:
            said = understood(connection.run(words, timeout_s=TELL_S).stdout)
        except HostError as error:
            return _with(found, HostCheck("doctor", "bad", _own(error.message, found.name), error.hint))
        return _with(replace(found, told=said), *map(_elsewhere, said.checks), *_share(connection, entry, cache))


def _with(found: HostLook, *checks: HostCheck) -> HostLook:
    return replace(found, checks=(*found.checks, *checks))


def _own(message: str, name: str) -> str:
    """Return what is told of a host where its name stands already."""
    return message.removeprefix(f"host {name}: ")


def _machine(machine: str) -> HostCheck:
    if machine == MACHINE:
        return HostCheck("machine", "ok", machine)
    return HostCheck("machine", "bad", f"{machine}: guests are of {MACHINE} alone", "leave it out of `hosts`")


def _clock(there: Far) -> HostCheck:
    off_s = max(0.0, abs(there.ahead_s) - there.unsure_s)
    text = f"{there.ahead_s:+.1f} s from here (within {there.unsure_s:.1f} s)"
    state = "bad" if off_s > CLOCK_BAD_S else "note" if off_s > CLOCK_NOTE_S else "ok"
    return HostCheck("clock", state, text, "" if state == "ok" else "timedatectl set-ntp true, there and here")


def _elsewhere(check: HostCheck) -> HostCheck:
    """Return a finding as it counts on another host: what a mirror has comes from here as well."""
    if (check.name, check.state) == ("mirror", "bad"):
        return replace(check, state="note", remedy="none is needed where this host has one: artifacts come from here")
    return check


def _share(connection: Connection, entry: HostEntry, cache: Cache) -> list[HostCheck]:
    """Return whether the cache of this host can be read where the entry says, by an artifact of it."""
    if not entry.share:
        return []
    newest = next((known for known in reversed(cache.entries()) if known.kind in TRAVELS), None)
    if newest is None:
        return [HostCheck("share", "note", f"{entry.share}: there is no artifact here yet to look for", "run the lab")]
    name = f"{newest.kind}/{newest.key}/{META}"
    said = connection.run(["cat", f"{entry.share}/{name}"], check=False)
    if said.status == 0 and said.stdout == (cache.root / name).read_text():
        return [HostCheck("share", "ok", f"{entry.share} has this host's artifacts")]
    text = f"{entry.share} has not the artifacts of {cache.root}: they are sent"
    return [HostCheck("share", "note", text, "mount that folder there, for reading, or leave out `share`")]


def _asked_too_much(entry: HostEntry, said: Told) -> list[HostCheck]:
    """Return what an entry asks of a host that has less."""
    have_gib = int(said.facts.get("memory_mib", "0")) / 1024
    wrong = []
    if entry.cpus > said.cpus:
        wrong.append(("cpus", f"{entry.cpus} asked for, and it has {said.cpus}"))
    if entry.memory_gib > have_gib > 0:
        wrong.append(("memory_gib", f"{entry.memory_gib:g} asked for, and it has {have_gib:.1f}"))
    return [HostCheck(name, "bad", text, f"lower `{name}` of this host, or leave it out") for name, text in wrong]
