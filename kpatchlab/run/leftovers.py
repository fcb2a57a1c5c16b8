"""What a job leaves behind in a guest: memory, objects, sockets, modules' users, threads, mounts, devices, files.

Read at a job's start and when it has settled; the difference is the job's. What steady caches take is in it as well:
it is a loss only where it grows with each turn of the same work, see `verdict.witnesses`.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence

from kpatchlab.guest.vm import Guest
from kpatchlab.model import Left

FILES = (
    "/proc/meminfo",
    "/proc/zoneinfo",
    "/proc/slabinfo",
    "/proc/net/protocols",
    "/proc/modules",
    "/proc/self/mounts",
    "/proc/net/dev",
    "/proc/sys/fs/file-nr",
    "/proc/loadavg",
)
PAGE_KIB = 4
CALM_S = 1.0
"""How long guests are left before they are looked at between two turns of the same work."""
HELD = ("MemFree", "Buffers", "Cached", "SwapCached", "AnonPages", "Slab", "KernelStack", "PageTables", "SecPageTables",
        "VmallocUsed", "Percpu")  # fmt: skip
"""What of MemTotal is accounted for in /proc/meminfo; a page that only a lost reference holds is in none of these."""

_KMALLOC = re.compile(r"^kmalloc-(?:rnd-\d+-|cg-|rcl-)")
"""Caches that one kernel has several of, and another one: RANDOM_KMALLOC_CACHES (6.6 on) has 16 of each size."""

Amounts = Mapping[str, float]
"""What there is -> how much of it: pages, objects, sockets, users, threads, mounts, devices, files."""


def look(vm: Guest, *, drop_caches: bool) -> Amounts:
    """Return what there is in a guest now.

    Args:
        drop_caches: not before a job, which would have to read its programs again.

    Raises:
        GuestLost: the guest died.
        HostError: its agent cannot read it.
    """
    return amounts(vm.look(FILES, drop_caches=drop_caches))


def amounts(files: Mapping[str, str]) -> dict[str, float]:
    """Return what these files of /proc say; a file that is not there says nothing."""
    found: dict[str, float] = {}
    memory = _meminfo(files.get("/proc/meminfo", ""))
    if {"MemTotal", "MemFree"} <= memory.keys():
        free = memory["MemFree"] / PAGE_KIB + _in_cpu_lists(files.get("/proc/zoneinfo", ""))
        held = sum(memory.get(name, 0.0) for name in HELD[1:]) / PAGE_KIB
        found["pages"] = memory["MemTotal"] / PAGE_KIB - free - held
        found["vmalloc pages"] = memory.get("VmallocUsed", 0.0) / PAGE_KIB
    for words in _rows(files.get("/proc/slabinfo", "")):
        if len(words) > 2 and _is_number(words[1]):
            name = f"slab {_KMALLOC.sub('kmalloc-', words[0])}"
            found[name] = found.get(name, 0.0) + float(words[1])
    for words in _rows(files.get("/proc/net/protocols", "")):
        # protocol, size, sockets, memory (pages, -1: not accounted), ...
        if len(words) > 3 and _is_number(words[2]):
            found[f"sockets {words[0]}"] = found.get(f"sockets {words[0]}", 0.0) + float(words[2])
            if _is_number(words[3]):
                found[f"socket pages {words[0]}"] = float(words[3])
    for words in _rows(files.get("/proc/modules", "")):
        if len(words) > 2 and _is_number(words[2]):
            found[f"module {words[0]}"] = float(words[2])
    for name, path, skip in (("mounts", "/proc/self/mounts", 0), ("network devices", "/proc/net/dev", 2)):
        if path in files:
            found[name] = float(len(files[path].splitlines()) - skip)
    opened = files.get("/proc/sys/fs/file-nr", "").split()
    if opened and _is_number(opened[0]):
        found["open files"] = float(opened[0])
    if threads := re.search(r"/([0-9]{1,18}) ", files.get("/proc/loadavg", "")):
        found["threads"] = float(threads[1])
    return found


def left(role: str, looks: Sequence[Amounts]) -> tuple[Left, ...]:
    """Return what each turn left in a guest, by what was there before the first and after each; no zeroes."""
    found = []
    for what in dict.fromkeys(name for seen in looks for name in seen):
        there = [seen.get(what, 0.0) for seen in looks]
        turns = tuple(after - before for before, after in itertools.pairwise(there))
        if any(turns):
            found.append(Left(role, what, turns))
    return tuple(found)


def work(stdout: bytes) -> tuple[int, int]:
    """Return the bytes and the calls that a script says it sent, see `scenarios/lib/datafile.py`."""
    said = re.findall(rb"^# sent ([0-9]{1,18}) bytes in ([0-9]{1,18}) calls$", stdout, re.MULTILINE)
    return (int(said[-1][0]), int(said[-1][1])) if said else (0, 0)


def _is_number(text: str) -> bool:
    """Whether a guest's word is a number that there can be so much of: a file of /proc says what its kernel likes."""
    return text.isascii() and text.isdigit() and len(text) <= 18


def _rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def _meminfo(text: str) -> dict[str, float]:
    return {name: float(value) for name, value in re.findall(r"^(\w+):\s+([0-9]{1,18}) kB", text, re.MULTILINE)}


def _in_cpu_lists(text: str) -> float:
    """Return the pages that processors keep for themselves, which are free as well."""
    return float(sum(int(count) for count in re.findall(r"^\s+count:\s+([0-9]{1,18})\b", text, re.MULTILINE)))
