"""Guests that are saved warm: booted once, prepared once, resumed for every job.

Two layers, each an artifact in the cache (kind `SAVED`): a *booted* guest, one per kernel, root and machine; and
on top of it a *prepared* one, per role, set of modules and preparation scripts. Both keep the console of what they
did, so that a splat at boot or at module load is not lost, and the names in the kernel's symbol table.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kpatchlab.cache import SAVED, Cache, content_key
from kpatchlab.errors import GuestLost, GuestRefused, Loss
from kpatchlab.evidence.splats import find_splats
from kpatchlab.guest.vm import Boot, Guest, Identity, SavedGuest, boot, resume
from kpatchlab.lab.scenario import GUEST_LIB
from kpatchlab.model import Splat
from kpatchlab.proc import Cancel
from kpatchlab.run import starved
from kpatchlab.run.boot import BootSpec
from kpatchlab.variants import debug as debugging

VERSION = 3
"""Part of every key: raise it when what a saved guest holds changes."""
BOOT_DEADLINE_S = 120.0
"""Seconds that the host gives a guest to boot to the agent; Debian's own images take 6 to 28 s under TCG."""
PREPARE_DEADLINE_S = 180.0
"""The same for loading the modules, and for each script."""
SLOWNESS = "slowness"
"""File in a saved guest, see `debug.slowness`."""
FOLDERS = (("/lab/attach/.keep", b"", 0o644), ("/tmp/lab/.keep", b"", 0o644))  # noqa: S108 - in the guest
"""Folders that every script finds."""


class PrepareFailed(Exception):
    """A guest could not be brought to where a scenario starts; `console` is what it printed so far."""

    kernel = role = ""  # set by whoever knows whose guest it was
    withheld_s = 0.0  # see `model.JobResult`; set by whoever has the guest, as the next one
    excused: Sequence[Splat] = ()  # watchdogs' splats that the host set off, see `starved`

    def __init__(self, message: str, console: bytes, lost: GuestLost | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.console = console
        self.lost = lost

    @property
    def starved(self) -> bool:
        """Whether it was the host that kept the processor from the guest."""
        return self.lost is not None and self.lost.reason is Loss.STARVED

    def made_by_host(self, splats: Sequence[Splat]) -> list[Splat]:
        """Return those of some splats of the console that say nothing of the kernel."""
        return starved.watchdogs(splats) if self.starved else [splat for splat in splats if splat in self.excused]


@dataclass(frozen=True, slots=True)
class Preparation:
    """What a role needs before its job starts: all of it goes into the saved guest."""

    identity: Identity
    modules: tuple[str, ...]
    scripts: tuple[str, ...]  # names below lib/prepare, without .sh
    files: tuple[tuple[str, bytes, int], ...]  # what stands below /lab/lib
    env: tuple[tuple[str, str], ...]

    def key(self) -> str:
        """Return the content key of this preparation."""
        wanted = {f"{GUEST_LIB}/prepare/{name}.sh" for name in self.scripts}
        code = [(path, data.hex()) for path, data, _ in self.files if path in wanted]
        identity = (self.identity.address, self.identity.mac)
        return content_key(VERSION, identity, sorted(self.modules), self.scripts, code, self.env)

    @property
    def empty(self) -> bool:
        """Whether the booted guest serves as it is."""
        return not self.modules and not self.scripts


def booted(
    spec: BootSpec, cache: Cache, label: str, *, debug: bool = False, cancel: Cancel | None = None
) -> SavedGuest:
    """Return the guest as it is right after boot, saved; boots it where it is not in the cache.

    Args:
        debug: the kernel is one with debugging: slow, so its slowness is measured and kept.
        cancel: set to give it up.

    Raises:
        PrepareFailed: the kernel does not come up to the agent.
    """
    here = spec.resolve(cache)

    def make(work: Path) -> None:
        deadline_s = BOOT_DEADLINE_S * (debugging.BOOT if debug else 1) * spec.machine.stretch
        log = work / "console.log"
        with _started(lambda: boot(here, console_path=log, deadline_s=deadline_s, cancel=cancel), work) as guest:
            # Warm the page cache with what every scenario starts: costs once, and saves it in each fork.
            guest.run(["/bin/sh", "-c", "python3 -c 'import hashlib, os, socket'; mount; ls /; id"], timeout_s=60)
            symbols = guest.run(["awk", "{print $3}", "/proc/kallsyms"], timeout_s=60, keep_bytes=64 << 20).stdout
            (work / "symbols").write_bytes(symbols)
            if debug:
                (work / SLOWNESS).write_text(f"{debugging.slowness(guest):.2f}\n")
            _save(guest, work)

    return _load(cache.get(SAVED, content_key(VERSION, spec.key()), make, label=f"booted {label}"), here)


def prepared(
    base: SavedGuest, how: Preparation, cache: Cache, label: str, *, cancel: Cancel | None = None
) -> SavedGuest:
    """Return a guest that has its modules loaded and its preparation scripts run, saved.

    Raises:
        PrepareFailed: a module does not load, a script fails, or the guest is lost on the way.
    """
    if how.empty:
        return base

    def make(work: Path) -> None:
        with _started(lambda: resume(base, console_path=work / "own-console.log", cancel=cancel), work) as guest:
            prepare(guest, how, PREPARE_DEADLINE_S * slowness_of(base) * base.boot.machine.stretch)
            (work / "console.log").write_bytes(console_of(base) + guest.console.data())
            for name in ("symbols", SLOWNESS):
                if (base.path / name).exists():
                    shutil.copy(base.path / name, work)
            _save(guest, work)

    key = content_key(base.path.name, how.key())  # a saved guest's folder has its key for a name
    return _load(cache.get(SAVED, key, make, label=f"prepared {label}"), base.boot)


def _save(guest: Guest, work: Path) -> None:
    """Save a guest; not one whose log has a watchdog's splat of the host's making, which all its forks would have.

    Raises:
        GuestLost: it has one.
    """
    if made := starved.made_by_host(guest, find_splats(guest.console.data())):
        raise GuestLost(Loss.STARVED, starved.told(guest, made))
    guest.save(work)


def _load(path: Path, boot: Boot) -> SavedGuest:
    """Return a saved guest that resumes with what lies in this cache, wherever that was when it was saved."""
    return replace(SavedGuest.load(path), boot=boot)


def prepare(guest: Guest, how: Preparation, deadline_s: float = PREPARE_DEADLINE_S) -> None:
    """Identify a guest, load the modules and run the preparation scripts in it, each within `deadline_s` seconds.

    Raises:
        PrepareFailed: one of them fails.
        GuestLost: the guest died of it.
    """
    try:
        guest.identify(how.identity)
        guest.put_many([*how.files, *FOLDERS])
    except GuestRefused as refused:
        raise PrepareFailed(refused.message, guest.console.data()) from refused
    if how.modules:
        _step(guest, "modprobe", ["modprobe", "-a", *how.modules], how, deadline_s)
    for name in how.scripts:
        _step(guest, f"prepare/{name}.sh", [f"{GUEST_LIB}/prepare/{name}.sh"], how, deadline_s)


def _step(guest: Guest, what: str, argv: Sequence[str], how: Preparation, deadline_s: float) -> None:
    done = guest.run(argv, env=dict(how.env), cwd=GUEST_LIB, timeout_s=deadline_s)
    if done.status != 0:
        said = (done.stderr or done.stdout).decode("utf-8", "replace").strip().splitlines() or ["no output"]
        why = "ran out of time" if done.timed_out else f"status {done.status}"
        raise PrepareFailed(f"{what} failed ({why}): {said[-1][:300]}", guest.console.data())


class _started:  # noqa: N801 - used as a function
    """A guest for the time of a `with`; what loses it becomes PrepareFailed with the console so far."""

    def __init__(self, start: Callable[[], Guest], work: Path) -> None:
        self._start = start
        self._work = work
        self._guest: Guest | None = None

    def __enter__(self) -> Guest:
        try:
            self._guest = self._start()
        except GuestLost as lost:
            raise PrepareFailed(str(lost), self._console(), lost) from lost
        return self._guest

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: object) -> None:
        assert self._guest is not None
        failed = PrepareFailed(str(error), self._console(), error) if isinstance(error, GuestLost) else error
        if isinstance(failed, PrepareFailed):
            failed.withheld_s = self._guest.withheld_s()
            failed.excused = starved.made_by_host(self._guest, find_splats(failed.console))
        self._guest.close()
        if failed is not error and failed is not None:
            raise failed from error

    def _console(self) -> bytes:
        if self._guest is not None:
            return self._guest.console.data()
        logs = sorted(self._work.glob("*console.log"))
        return logs[-1].read_bytes() if logs else b""


def console_of(saved: SavedGuest) -> bytes:
    """Return what the guest had printed when it was saved, from power-on."""
    path = saved.path / "console.log"
    return path.read_bytes() if path.exists() else b""


def slowness_of(saved: SavedGuest) -> float:
    """Return how many times slower than a plain kernel the guest's was measured to be; 1 for a plain one."""
    path = saved.path / SLOWNESS
    return float(path.read_text()) if path.exists() else 1.0


def symbols_of(saved: SavedGuest, wanted: Sequence[str]) -> frozenset[str]:
    """Return those of `wanted` that the kernel image's symbol table has (modules' symbols are not in it)."""
    have = set((saved.path / "symbols").read_bytes().split()) if wanted else set()
    return frozenset(name for name in wanted if name.encode() in have)
