"""The guests of one job: which there are, how they come up, and what ends them early."""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from kpatchlab.cache import Cache, content_key, file_digest
from kpatchlab.errors import GuestLost, Loss
from kpatchlab.evidence.splats import find_splats
from kpatchlab.guest.initrd import build_agent, source_files
from kpatchlab.guest.vm import Guest, Identity, SavedGuest, boot, link, resume
from kpatchlab.guest.vng import boot_vng
from kpatchlab.lab.scenario import GUEST_LIB
from kpatchlab.model import Splat
from kpatchlab.proc import Cancel
from kpatchlab.run import saved, starved
from kpatchlab.run.inputs import JobInputs
from kpatchlab.run.taint import Reading

SERVER, CLIENT, PREFIX = "10.77.0.1", "10.77.0.2", "/24"
ADDRESSES = {"server": SERVER, "client": CLIENT}
DEVICE = "eth0"
AFTER_OOPS_S = 5.0
"""How long a guest goes on after its kernel broke: enough for what follows in its log, too short for a script to
wait out its own time-outs (a CIFS client waits 180 s for a server whose thread oopsed)."""
BROKEN = frozenset({"panic", "oops", "bug", "soft-lockup", "hard-lockup", "hung-task", "rcu-stall", "workqueue"})
"""Kinds of splats after which a scenario's word is worth nothing; a warning lets it go on."""


@dataclass(slots=True)
class JobGuest:
    """One role while its guest runs.

    Attributes:
        before: the console from before this job: boot and preparation.
        broken: the splat that ended the guest.
        readings: what the kernel said of itself when the job began and when it ended.
        slowness: see `debug.slowness`.
    """

    role: str
    kernel: str
    how: saved.Preparation
    forked_from: SavedGuest | None = None
    vm: Guest | None = None
    before: bytes = b""
    broken: Splat | None = None
    readings: tuple[Reading, Reading] = (Reading(), Reading())
    slowness: float = 1.0

    def environment(self, inputs: JobInputs, scale: float = 1.0) -> dict[str, str]:
        """Return the environment of the scenario's scripts in this role; `scale`: how much longer they may wait."""
        params = {f"LAB_{name.upper()}": value for name, value in inputs.spec.params.items()}
        own = {"LAB_SCALE": f"{scale:g}", "LAB_MODE": inputs.mode.partition(" ")[0]}
        own["LAB_EMULATED"] = "1" if inputs.emulated else ""
        return dict(self.how.env) | params | ({"LAB_BREAK": "1"} if inputs.task.broken else {}) | own

    def has_symbol(self, names: Sequence[str]) -> frozenset[str]:
        """Return those of `names` that the kernel image has; of `MODULE:SYMBOL` those that the module has or calls."""
        used = [name for name in names if ":" in name]
        plain = [name for name in names if ":" not in name]
        return self._used(used) | (
            saved.symbols_of(self.forked_from, plain) if self.forked_from is not None else self._running(plain)
        )

    def _used(self, names: Sequence[str]) -> frozenset[str]:
        if not names or self.vm is None:
            return frozenset()
        words = self.vm.run([f"{GUEST_LIB}/reach", "uses", *names], timeout_s=60).stdout
        return frozenset(names) & frozenset(words.decode("utf-8", "replace").split())

    def _running(self, names: Sequence[str]) -> frozenset[str]:
        if not names or self.vm is None:
            return frozenset()
        words = self.vm.run(["awk", "{print $3}", "/proc/kallsyms"], timeout_s=60, keep_bytes=64 << 20).stdout
        return frozenset(names) & frozenset(words.decode("utf-8", "replace").split())


def environment(role: str) -> dict[str, str]:
    """Return what is in the environment of every script of a role, in preparation and in the job itself."""
    return {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/root",
        "LANG": "C.UTF-8",
        "LAB_ROLE": role,
        "LAB_SERVER": SERVER,
        "LAB_CLIENT": CLIENT,
        "LAB_DEV": DEVICE,
        "LAB_LIB": GUEST_LIB,
        "LAB_ATTACH": "/lab/attach",
        "LAB_TMP": "/tmp/lab",  # noqa: S108 - in the guest
    }


def guests_of(inputs: JobInputs) -> list[JobGuest]:
    """Return the guests of a job, in the order of set-up, with nobody in them yet."""
    scenario, spec = inputs.scenario, inputs.spec
    library = tuple(entry for entry in inputs.files if entry[0].startswith(f"{GUEST_LIB}/"))
    guests = []
    for number, (role, wanted) in enumerate(scenario.roles.items(), 1):
        address = ADDRESSES[role] + PREFIX if len(scenario.roles) > 1 else ""
        identity = Identity(role, f"52:54:00:77:00:{number:02x}", address, f"{number:032x}", bytes(32))
        env = tuple(environment(role).items())
        how = saved.Preparation(identity, scenario.needs.modules, tuple(wanted.prepare), library, env)
        guests.append(JobGuest(role, spec.placement[role], how))
    return guests


def fresh_identity(how: saved.Preparation) -> Identity:
    """Return an identity that no other fork of the same saved guest has; the IP address stays the role's.

    A guest with preparation scripts keeps its MAC address, which is safe since the cable between two guests is theirs
    alone: a soft-iWARP device that the preparation made keeps the GID of the address it was made with, and with
    another one 6.1 cannot connect.
    """
    fresh = "52:54:00:" + ":".join(f"{byte:02x}" for byte in secrets.token_bytes(3))
    return Identity(
        hostname=f"{how.identity.hostname}-{secrets.token_hex(2)}",
        mac=how.identity.mac if how.scripts else fresh,
        address=how.identity.address,
        machine_id=secrets.token_hex(16),
        seed=secrets.token_bytes(64),
    )


@contextlib.contextmanager
def occupied(inputs: JobInputs, guests: Sequence[JobGuest]) -> Iterator[None]:
    """Have a job's guests up for the time of a `with`, at the point where its scenario starts.

    Raises:
        saved.PrepareFailed: one of them does not come that far.
        GuestLost: one of them died; also when the job is cancelled or a kernel broke, see `JobGuest.broken`.
    """
    try:
        with _watching(inputs.here.cancel, guests):
            _start(inputs, guests)
            yield
    finally:
        for guest in guests:
            if guest.vm is not None:
                guest.vm.close()


def _start(inputs: JobInputs, guests: Sequence[JobGuest]) -> None:
    """Bring every guest's guest to where its scenario starts, all of them at once."""
    cable: Sequence[int | None] = link() if len(guests) > 1 else (None,)
    with ThreadPoolExecutor(len(guests)) as pool:
        list(pool.map(lambda guest, fd: _occupy(inputs, guest, fd), guests, cable))


def _occupy(inputs: JobInputs, guest: JobGuest, fd: int | None) -> None:
    try:
        _bring_up(inputs, guest, fd)
    except saved.PrepareFailed as failed:
        failed.kernel, failed.role = guest.kernel, guest.role
        raise
    except GuestLost as lost:
        log = inputs.folder / console_name(guest.role)
        if guest.vm is not None or not log.exists():
            raise
        died = saved.PrepareFailed(str(lost), log.read_bytes(), lost)  # a cold boot that never came up
        died.kernel, died.role = guest.kernel, guest.role
        raise died from lost


def _bring_up(inputs: JobInputs, guest: JobGuest, fd: int | None) -> None:
    spec, log, limit = inputs.boots[guest.role], inputs.folder / console_name(guest.role), inputs.task.console_bytes
    cancel = inputs.here.cancel
    if inputs.task.guest == "vng":
        agent = _agent(inputs.cache)
        here = spec.resolve(inputs.cache)
        guest.vm = boot_vng(here, agent, console_path=log, console_limit_bytes=limit, cancel=cancel)
        saved.prepare(guest.vm, guest.how)
    elif inputs.scenario.cold:
        cold, deadline_s = spec.resolve(inputs.cache), saved.BOOT_DEADLINE_S
        guest.vm = boot(
            cold, console_path=log, link_fd=fd, console_limit_bytes=limit, deadline_s=deadline_s, cancel=cancel
        )
        saved.prepare(guest.vm, guest.how)
    else:
        debug = inputs.kernels[guest.kernel].debug
        base = saved.booted(spec, inputs.cache, guest.kernel, debug=debug, cancel=cancel)
        guest.slowness = saved.slowness_of(base)
        label = f"{guest.kernel} {guest.role} {inputs.spec.scenario}"
        guest.forked_from = saved.prepared(base, guest.how, inputs.cache, label, cancel=cancel)
        guest.before = saved.console_of(guest.forked_from)
        guest.vm = resume(guest.forked_from, console_path=log, link_fd=fd, console_limit_bytes=limit, cancel=cancel)
    guest.vm.identify(fresh_identity(guest.how))
    guest.vm.put_many([*inputs.files, *inputs.programs[guest.kernel], *saved.FOLDERS])


def console_name(role: str) -> str:
    """Return the name of a guest's console in its job's folder."""
    return f"console-{role}.log"


def _agent(cache: Cache) -> Path:
    """Return the agent as a program, for a guest that boots on a root that is not the lab's."""
    key = content_key([file_digest(path) for path in source_files()])
    return cache.get("agent", key, lambda work: build_agent(work / "agent"), label="guest agent") / "agent"


@contextlib.contextmanager
def _watching(cancel: Cancel, guests: Sequence[JobGuest]) -> Iterator[None]:
    """Close the guests when the job is cancelled or soon after a kernel broke: who waits for them gets GuestLost."""
    over = threading.Event()

    def watch() -> None:
        seen: dict[str, int] = {}
        ends_at = float("inf")
        while not over.wait(0.2):
            for guest in guests:
                if guest.vm is None or guest.broken or guest.vm.console.total == seen.get(guest.role):
                    continue
                seen[guest.role] = guest.vm.console.total
                found = find_splats(guest.vm.console.data(), whole=False)
                bad = [splat for splat in found if splat.kind in BROKEN]
                excused = starved.made_by_host(guest.vm, bad)
                guest.broken = next((splat for splat in bad if splat not in excused), None)
                if guest.broken:
                    ends_at = min(ends_at, time.monotonic() + AFTER_OOPS_S)
                elif excused:
                    guest.vm.give_up(Loss.STARVED, starved.told(guest.vm, excused))
            if cancel.is_set() or time.monotonic() > ends_at:
                for guest in guests:  # one that is still coming up is closed at a later round
                    if guest.vm is not None:
                        guest.vm.close()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
