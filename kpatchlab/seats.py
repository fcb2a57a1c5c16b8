"""The guests of one job: which there are, how they come up, and what ends them early."""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from kpatchlab import warm
from kpatchlab.build.foreign import Built, guest_files
from kpatchlab.cache import Cache, content_key, file_digest
from kpatchlab.evidence.splats import find_splats
from kpatchlab.guest.initrd import agent_source, build_agent
from kpatchlab.guest.vm import Boot, Guest, Identity, SavedGuest, boot, link, resume
from kpatchlab.guest.vng import boot_vng
from kpatchlab.lab.scenario import GUEST_LIB, Scenario, payload
from kpatchlab.model import BuildResult, Splat
from kpatchlab.plan.jobs import JobSpec

SERVER, CLIENT, PREFIX = "10.77.0.1", "10.77.0.2", "/24"
ADDRESSES = {"server": SERVER, "client": CLIENT}
DEVICE = "eth0"
AFTER_OOPS_S = 5.0
"""How long a guest goes on after its kernel broke: enough for what follows in its log, too short for a script to
wait out its own time-outs (a CIFS client waits 180 s for a server whose thread oopsed)."""
BROKEN = frozenset({"panic", "oops", "bug", "soft-lockup", "hard-lockup", "hung-task", "rcu-stall", "workqueue"})
"""Kinds of splats after which a scenario's word is worth nothing; a warning lets it go on."""


@dataclass(frozen=True, slots=True)
class JobInputs:
    """All that a job works on.

    Attributes:
        kernels: kernel name -> its build, with the artifact's absolute path.
        boots: role -> what its guest boots.
        packages: Debian packages in the root.
        out: the run's folder; paths in the result are relative to it.
        folder: the job's own folder, below `out`.
        reproduce: command line that runs this job alone.
        cancel: set to end the job early; its result then says INFRA.
        guest: "fork" for saved guests, "vng" for virtme-ng on the host's own root.
        debug: those of the kernels that are ones with debugging.
        broken: the scenario is told to send something wrong, which it then has to see.
        foreign: (kernel, name) -> the tests of others that the job needs, built for that kernel.
        covered: those of the kernels that are built for gcov.
        patched: kernel -> functions of its series whose calls are counted, as `reach start` takes them.
    """

    spec: JobSpec
    scenario: Scenario
    kernels: Mapping[str, BuildResult]
    boots: Mapping[str, Boot]
    packages: frozenset[str]
    lab_root: Path
    cache: Cache
    out: Path
    folder: Path
    console_bytes: int = 4 << 20
    reproduce: str = ""
    cancel: threading.Event = field(default_factory=threading.Event)
    guest: str = "fork"
    broken: bool = False
    debug: frozenset[str] = frozenset()
    foreign: Mapping[tuple[str, str], Built] = field(default_factory=dict)
    covered: frozenset[str] = frozenset()
    patched: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def mode(self) -> str:
        """What figures of this job count: "" where there is nothing to boot; see `MachineShape.mode`."""
        return next((boot.machine.mode for boot in self.boots.values()), "")

    @property
    def emulated(self) -> bool:
        """Whether a guest of this job has a processor that is not the host's own."""
        return any(boot.machine.accel != "kvm" for boot in self.boots.values())

    @property
    def stretch(self) -> float:
        """See `MachineShape.stretch`."""
        return max((boot.machine.stretch for boot in self.boots.values()), default=1.0)


@dataclass(slots=True)
class Seat:
    """One role while its guest runs.

    Attributes:
        before: the console from before this job: boot and preparation.
        broken: the splat that ended the guest.
        slowness: see `debug.slowness`.
    """

    role: str
    kernel: str
    how: warm.Preparation
    saved: SavedGuest | None = None
    guest: Guest | None = None
    before: bytes = b""
    broken: Splat | None = None
    slowness: float = 1.0

    def environment(self, inputs: JobInputs, scale: float = 1.0) -> dict[str, str]:
        """Return the environment of the scenario's scripts in this role; `scale`: how much longer they may wait."""
        params = {f"LAB_{name.upper()}": value for name, value in inputs.spec.params.items()}
        own = {"LAB_SCALE": f"{scale:g}", "LAB_MODE": inputs.mode.partition(" ")[0]}
        own["LAB_EMULATED"] = "1" if inputs.emulated else ""
        return dict(self.how.env) | params | ({"LAB_BREAK": "1"} if inputs.broken else {}) | own

    def has_symbol(self, names: Sequence[str]) -> frozenset[str]:
        """Return those of `names` that the kernel image has."""
        if self.saved is not None:
            return warm.symbols_of(self.saved, names)
        if not names or self.guest is None:
            return frozenset()
        words = self.guest.run(["awk", "{print $3}", "/proc/kallsyms"], timeout_s=60, keep_bytes=64 << 20).stdout
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


def seats_of(inputs: JobInputs) -> list[Seat]:
    """Return the seats of a job, in the order of set-up, with nobody in them yet."""
    scenario, spec = inputs.scenario, inputs.spec
    files = payload(scenario, spec.params, inputs.lab_root)
    library = tuple(entry for entry in files if entry[0].startswith(f"{GUEST_LIB}/"))
    seats = []
    for number, (role, wanted) in enumerate(scenario.roles.items(), 1):
        address = ADDRESSES[role] + PREFIX if len(scenario.roles) > 1 else ""
        identity = Identity(role, f"52:54:00:77:00:{number:02x}", address, f"{number:032x}", bytes(32))
        env = tuple(environment(role).items())
        how = warm.Preparation(identity, scenario.needs.modules, tuple(wanted.prepare), library, env)
        seats.append(Seat(role, spec.placement[role], how))
    return seats


def fresh_identity(how: warm.Preparation) -> Identity:
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
def occupied(inputs: JobInputs, seats: Sequence[Seat]) -> Iterator[None]:
    """Have a job's guests up for the time of a `with`, at the point where its scenario starts.

    Raises:
        warm.PrepareFailed: one of them does not come that far.
        GuestLost: one of them died; also when the job is cancelled or a kernel broke, see `Seat.broken`.
    """
    try:
        with _watching(inputs.cancel, seats):
            _start(inputs, seats)
            yield
    finally:
        for seat in seats:
            if seat.guest is not None:
                seat.guest.close()


def _start(inputs: JobInputs, seats: Sequence[Seat]) -> None:
    """Bring every seat's guest to where its scenario starts, all of them at once."""
    cable: Sequence[int | None] = link() if len(seats) > 1 else (None,)
    files = payload(inputs.scenario, inputs.spec.params, inputs.lab_root)
    with ThreadPoolExecutor(len(seats)) as pool:
        list(pool.map(lambda seat, fd: _occupy(inputs, seat, fd, files), seats, cable))


def _occupy(inputs: JobInputs, seat: Seat, fd: int | None, files: list[tuple[str, bytes, int]]) -> None:
    try:
        _bring_up(inputs, seat, fd, files)
    except warm.PrepareFailed as failed:
        failed.kernel = seat.kernel
        raise


def _bring_up(inputs: JobInputs, seat: Seat, fd: int | None, files: list[tuple[str, bytes, int]]) -> None:
    spec, log, limit = inputs.boots[seat.role], inputs.folder / f"console-{seat.role}.log", inputs.console_bytes
    if inputs.guest == "vng":
        agent = _agent(inputs.cache)
        seat.guest = boot_vng(spec, agent, console_path=log, console_limit_bytes=limit)
        warm.prepare(seat.guest, seat.how)
    elif inputs.scenario.cold:
        deadline_s = warm.BOOT_DEADLINE_S
        seat.guest = boot(spec, console_path=log, link_fd=fd, console_limit_bytes=limit, deadline_s=deadline_s)
        warm.prepare(seat.guest, seat.how)
    else:
        base = warm.booted(spec, inputs.cache, seat.kernel, debug=seat.kernel in inputs.debug)
        seat.slowness = warm.slowness_of(base)
        seat.saved = warm.prepared(base, seat.how, inputs.cache, f"{seat.kernel} {seat.role} {inputs.scenario.name}")
        seat.before = warm.console_of(seat.saved)
        seat.guest = resume(seat.saved, console_path=log, link_fd=fd, console_limit_bytes=limit)
    seat.guest.identify(fresh_identity(seat.how))
    own = {name: built for (kernel, name), built in inputs.foreign.items() if kernel == seat.kernel}
    seat.guest.put_many([*files, *guest_files(own), *warm.FOLDERS])


def _agent(cache: Cache) -> Path:
    """Return the agent as a program, for a guest that boots on a root that is not the lab's."""
    key = content_key([file_digest(path) for path in sorted(agent_source().parent.glob("agent*"))])
    return cache.get("agent", key, lambda work: build_agent(work / "agent"), label="guest agent") / "agent"


@contextlib.contextmanager
def _watching(cancel: threading.Event, seats: Sequence[Seat]) -> Iterator[None]:
    """Close the guests when the job is cancelled or soon after a kernel broke: who waits for them gets GuestLost."""
    over = threading.Event()

    def watch() -> None:
        seen: dict[str, int] = {}
        ends_at = float("inf")
        while not over.wait(0.2):
            for seat in seats:
                if seat.guest is None or seat.broken or seat.guest.console.total == seen.get(seat.role):
                    continue
                seen[seat.role] = seat.guest.console.total
                seat.broken = next((s for s in find_splats(seat.guest.console.data()) if s.kind in BROKEN), None)
                if seat.broken:
                    ends_at = min(ends_at, time.monotonic() + AFTER_OOPS_S)
            if cancel.is_set() or time.monotonic() > ends_at:
                for seat in seats:  # one that is still coming up is closed at a later round
                    if seat.guest is not None:
                        seat.guest.close()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
