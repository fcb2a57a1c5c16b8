"""What the lab asks of this host: which QEMU, whether KVM really runs a guest, room in memory and on disk."""

from __future__ import annotations

import functools
import os
import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from kpatchlab.arch import HOST
from kpatchlab.cache import Cache
from kpatchlab.errors import HostError
from kpatchlab.guest.vm import MachineShape, Qemu
from kpatchlab.host.accel import Accel, probe_accel
from kpatchlab.host.qemu import find_qemu, held

LEAST_DISK_MIB = 512
"""Below this nothing is begun: package lists and saved guests take hundreds of MiB, and apt's http method hangs for
minutes on a full disk."""


@dataclass(slots=True)
class Host:
    """What guests run on; the QEMU and the accelerator are found out at the first question, once.

    Args:
        qemu_choice: "auto", "host" or "debian", as in lab.yaml.
        notes: what people should know of these choices.
        more_facts: returns more of what a reader of the run must know, by name.
    """

    cache: Cache
    mirror: str = ""
    qemu_choice: str = "auto"
    notes: list[str] = field(default_factory=list)
    more_facts: Callable[[], dict[str, str]] = dict
    _found: dict[str, object] = field(default_factory=dict)

    def accel(self) -> Accel:
        """Return KVM where a probe guest really ran on it, else TCG, with the reason."""
        if "accel" not in self._found:
            # The probe's QEMU is the one that guests get if KVM works.
            probe = find_qemu("host" if self.qemu_choice == "auto" else self.qemu_choice, self.cache, self.mirror)
            self._found["accel"] = probe_accel(self.cache, probe)
        found = self._found["accel"]
        assert isinstance(found, Accel)
        return found

    def qemu(self, arch: str = HOST) -> Qemu:
        """Return the QEMU that guests of an architecture run in."""
        name = _qemu_of(arch)
        if name not in self._found:
            kvm = arch == HOST and self.accel().name == "kvm"
            chosen = find_qemu(
                self.qemu_choice, self.cache, self.mirror, arch=arch, kvm_works=kvm, note=self.notes.append
            )
            self._found[name] = replace(chosen, held=held(chosen, self.cache))
        found = self._found[name]
        assert isinstance(found, Qemu)
        return found

    def check_room(self) -> None:
        """Pass where the cache's disk has room for anything at all.

        Raises:
            HostError: it is full.
        """
        free = free_bytes(self.cache)
        if free < LEAST_DISK_MIB << 20:
            raise HostError(
                f"no space left for the cache {self.cache.root}: {free >> 20} MiB free, {LEAST_DISK_MIB} needed",
                hint="kpatchlab clean frees cached artifacts; KPATCHLAB_CACHE names another place",
            )

    def news(self) -> list[str]:
        """Find out what guests run on; returns a line about it, and one for what could be better.

        That is at the first question: the runs of one command share their host, and tell of it once.

        Raises:
            HostError: there is no QEMU that runs.
        """
        qemu, accel = self.qemu(), self.accel()
        if "told" in self._found:
            return []
        self._found["told"] = True
        version = ".".join(str(number) for number in qemu.version)
        where = " (unpacked beside the host's)" if qemu.unpacked else ""
        return [f"guests run in QEMU {version}{where}, {accel.name.upper()}: {accel.reason}", *self.notes]

    def shape(self, arch: str, accel: str, cpus: int, memory_mib: int) -> MachineShape:
        """Return a machine as QEMU gets it on this host; `accel` may be "auto", which is TCG of other architectures.

        Raises:
            HostError: there is no such QEMU, or KVM is asked of another architecture than the host's.
        """
        if arch != HOST and accel == "kvm":
            raise HostError(f"KVM runs no {arch} here", hint="`accel: auto` emulates it")
        if accel == "auto":
            accel = self.accel().name if arch == HOST else "tcg"
        return MachineShape(arch, accel, cpus, memory_mib, self.qemu(arch), _cpu() if accel == "kvm" else "")

    @staticmethod
    def build_jobs(limit: int | str) -> int:
        """Return make's -j: as limited, else one more than there are processors: compilers wait for disks too."""
        return int(limit) if limit != "auto" else len(os.sched_getaffinity(0)) + 1

    def facts(self) -> dict[str, str]:
        """Return what a reader of a run must know of its host; only what has been found out already."""
        facts = {
            "system": _system(),
            "kernel": platform.release(),
            "cpu": _cpu(),
            "cpus": str(len(os.sched_getaffinity(0))),
            "memory_mib": str(_memory_mib()),
        }
        if _qemu_of(HOST) in self._found:
            facts["qemu"] = ".".join(str(n) for n in self.qemu().version)
            facts["qemu_confined_by"] = str(self.qemu().held) or "nothing"
        if "accel" in self._found:
            facts["accel"] = self.accel().name
            facts["accel_reason"] = self.accel().reason
        return facts | self.more_facts()


def _qemu_of(arch: str) -> str:
    return f"qemu {arch}"


def _system() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    except OSError:
        return "Linux"


def available_mib() -> int:
    """Return the memory in MiB that can be had without swapping (MemAvailable, proc(5))."""
    with open("/proc/meminfo") as handle:
        for line in handle:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) // 1024
    return 0


@functools.cache
def _cpu() -> str:
    with open("/proc/cpuinfo") as handle:
        return next((line.split(":", 1)[1].strip() for line in handle if line.startswith("model name")), "unknown")


def _memory_mib() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20


def free_bytes(cache: Cache) -> int:
    """Return how much room there is on the disk that the cache is on, or will be on, in bytes."""
    place: Path = cache.root
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free
