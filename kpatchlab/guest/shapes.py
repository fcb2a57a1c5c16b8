"""The values that describe a guest, and those that it answers with."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from kpatchlab.arch import HOST
from kpatchlab.errors import HostError


@dataclass(frozen=True, slots=True)
class Held:
    """What a QEMU runs in on this host, see `jail`; its own seccomp filter, and bubblewrap."""

    bubblewrap: bool = False
    seccomp: bool = False

    def __str__(self) -> str:
        """Return it in words."""
        return " and ".join(name for name, on in (("bubblewrap", self.bubblewrap), ("seccomp", self.seccomp)) if on)


@dataclass(frozen=True, slots=True)
class Qemu:
    """One QEMU on this host.

    Attributes:
        path: the program, for people.
        version: (7, 2, 22).
        argv: how it is called: the program, with a loader before and options behind it where it is unpacked
            beside the host's own.
        env: (name, value) pairs added to its environment.
        unpacked: whether it is the lab's own copy.
        held: what it runs in; no guest sees it.
    """

    path: Path
    version: tuple[int, ...]
    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...] = ()
    unpacked: bool = False
    held: Held = Held()

    @property
    def source(self) -> str:
        """Return where it came from, for people."""
        return "Debian's, unpacked in the cache" if self.unpacked else "the host's own"


ICOUNT_STRETCH = 20.0


@dataclass(frozen=True, slots=True)
class MachineShape:
    """What a guest runs on; a saved guest resumes on the shape that it was saved on.

    Attributes:
        accel: "kvm" or "tcg"; "icount" is TCG in one thread with a clock that counts instructions.
        processor: the host's, where the guest has that (KVM); "" where QEMU emulates one.
    """

    arch: str
    accel: str
    cpus: int
    memory_mib: int
    qemu: Qemu
    processor: str = ""

    @property
    def mode(self) -> str:
        """What a guest's clock counts, as every figure taken in it says; see `model.JobResult.mode`."""
        counted = {"kvm": "time (KVM)", "tcg": "time (TCG)", "icount": "instructions"}[self.accel]
        return counted if self.arch == HOST else f"{counted} on {self.arch}"

    @property
    def stretch(self) -> float:
        """How many seconds of the wall a second in the guest may take, beyond what a busy host explains.

        Where the clock counts instructions, a nanosecond is one of them, and emulation in one thread does some 50 to
        110 million a second (QEMU 10 and 7.2): a guest that is busy lives 10 to 20 times slower than the wall.
        """
        return ICOUNT_STRETCH if self.accel == "icount" else 1.0


@dataclass(frozen=True, slots=True)
class Boot:
    """Everything a cold boot needs.

    Attributes:
        root_image: a file system image (erofs, squashfs, ext4), opened read-only.
        modules_image: the same, with lib/modules/RELEASE in it; None for a kernel without modules.
        cmdline: added to the lab's own kernel command line.
    """

    vmlinuz: Path
    initrd: Path
    root_image: Path
    modules_image: Path | None
    machine: MachineShape
    cmdline: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return this as plain JSON values."""
        shape, qemu = self.machine, self.machine.qemu
        return {
            "vmlinuz": str(self.vmlinuz),
            "initrd": str(self.initrd),
            "root_image": str(self.root_image),
            "modules_image": self.modules_image and str(self.modules_image),
            "cmdline": self.cmdline,
            "machine": [shape.arch, shape.accel, shape.cpus, shape.memory_mib, shape.processor],
            "qemu": [str(qemu.path), qemu.version, qemu.argv, qemu.env, qemu.unpacked],
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Read back what `to_json` wrote."""
        arch, accel, cpus, memory_mib, processor = data["machine"]
        path, version, argv, env, unpacked = data["qemu"]
        qemu = Qemu(Path(path), tuple(version), tuple(argv), tuple((name, value) for name, value in env), unpacked)
        return cls(
            vmlinuz=Path(data["vmlinuz"]),
            initrd=Path(data["initrd"]),
            root_image=Path(data["root_image"]),
            modules_image=Path(data["modules_image"]) if data["modules_image"] else None,
            machine=MachineShape(arch, accel, cpus, memory_mib, qemu, processor),
            cmdline=data["cmdline"],
        )


@dataclass(frozen=True, slots=True)
class SavedGuest:
    """A guest on disk: a directory with `guest.state`, QEMU's migration stream, and `guest.json`, its Boot."""

    path: Path
    boot: Boot

    STATE = "guest.state"
    FACTS = "guest.json"

    @property
    def state(self) -> Path:
        """The file with the guest's memory and devices."""
        return self.path / self.STATE

    @classmethod
    def load(cls, path: Path) -> Self:
        """Return what `Guest.save` left in a directory.

        Raises:
            HostError: there is no saved guest, or not a whole one.
        """
        try:
            facts = Boot.from_json(json.loads((path / cls.FACTS).read_text()))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise HostError(f"no saved guest in {path}: {error}", hint="kpatchlab clean, then run again") from None
        return cls(path, facts)


@dataclass(frozen=True, slots=True)
class Identity:
    """What two guests resumed from one saved guest must not share; "" leaves a part as it is.

    Attributes:
        mac: hardware address of `device`, "52:54:00:...".
        address: IPv4 with prefix length, "10.77.0.1/24"; the device is brought up with it.
        machine_id: 32 hex digits, for /etc/machine-id.
        seed: up to 64 random bytes for the kernel's generator.
    """

    hostname: str
    mac: str = ""
    address: str = ""
    machine_id: str = ""
    seed: bytes = b""
    device: str = "eth0"


@dataclass(frozen=True, slots=True)
class Exit:
    """How a command in a guest ended.

    Attributes:
        status: 0 to 255, or -1 where a signal ended it, or nothing could (see `timed_out`).
        signal: the signal's number, or 0.
        stdout: what was kept of it: all, or head and tail with a line between them.
        stdout_total: bytes that it printed.
        timed_out: its deadline came; with signal 0 it did not even end by SIGKILL.
    """

    status: int
    signal: int
    stdout: bytes
    stderr: bytes
    stdout_total: int
    stderr_total: int
    duration_s: float
    timed_out: bool = False
