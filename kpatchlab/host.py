"""This host, as far as the lab asks: which QEMU, whether KVM really runs a guest, room in memory and on disk."""

from __future__ import annotations

import functools
import os
import platform
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kpatchlab import packages
from kpatchlab.cache import Cache
from kpatchlab.errors import HostError
from kpatchlab.guest.accel import Accel, probe_accel
from kpatchlab.guest.vm import MachineShape, Qemu
from kpatchlab.lab.load import Machine
from kpatchlab.qemu_find import find_qemu

GIB = 1 << 30
WANTED_DISK_GIB = 20
"""Two lean kernels with their trees, objects, symbols and a root take some 12 GiB (measured on 6.1 and 6.12)."""
LEAST_DISK_MIB = 512
"""Below this nothing is begun: package lists and saved guests take hundreds of MiB, and apt's http method hangs for
minutes on a full disk."""
WANTED_MEMORY_MIB = 3072
"""A pair of guests of 1 GiB each, and a linker for vmlinux."""


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

    def qemu(self) -> Qemu:
        """Return the QEMU that guests run in."""
        if "qemu" not in self._found:
            kvm = self.accel().name == "kvm"
            self._found["qemu"] = find_qemu(
                self.qemu_choice, self.cache, self.mirror, kvm_works=kvm, note=self.notes.append
            )
        found = self._found["qemu"]
        assert isinstance(found, Qemu)
        return found

    def check_room(self) -> None:
        """Pass where the cache's disk has room for anything at all.

        Raises:
            HostError: it is full.
        """
        free = _free_bytes(self.cache)
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

    def shape(self, machine: Machine, memory_mib: int | None = None) -> MachineShape:
        """Return a machine of lab.yaml as QEMU gets it on this host."""
        accel = self.accel().name if machine.accel == "auto" else machine.accel
        return MachineShape(machine.arch, accel, machine.cpus, memory_mib or machine.memory_mib, self.qemu())

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
        if "qemu" in self._found:
            facts["qemu"] = ".".join(str(n) for n in self.qemu().version)
        if "accel" in self._found:
            facts["accel"] = self.accel().name
            facts["accel_reason"] = self.accel().reason
        return facts | self.more_facts()


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


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that `doctor` looked at; `state` is "ok", "note" (works, could be better) or "bad"."""

    name: str
    state: str
    text: str
    remedy: str = ""


def examine(host: Host, stages: Sequence[str] = packages.STAGES) -> list[Check]:
    """Look at everything that a run needs; each finding names its remedy."""
    checks: list[Callable[[], Check]] = [
        functools.partial(_packages, stages),
        functools.partial(_kvm, host),
        functools.partial(_qemu, host),
        _memory,
        functools.partial(_disk, host.cache),
        _namespaces,
        functools.partial(_mirror, host),
    ]
    found = []
    for check in checks:
        try:
            found.append(check())
        except Exception as error:  # noqa: BLE001 - the doctor tells of every part, whatever one of them does
            hint = getattr(error, "hint", "")
            found.append(Check(_name(check), "bad", str(error), hint))
    return found


def _name(check: Callable[[], Check]) -> str:
    inner = check.func if isinstance(check, functools.partial) else check
    return inner.__name__.strip("_")


def _packages(stages: Sequence[str]) -> Check:
    lacking = packages.missing(stages)
    if not lacking and (optional := packages.missing(packages.OPTIONAL)):
        names = " ".join(sorted({item.package for item in optional}))
        return Check("packages", "note", f"some scenarios are skipped without {names}", f"apt-get install {names}")
    if not lacking:
        return Check("packages", "ok", "all Debian packages that the lab uses are there")
    names = " ".join(sorted({item.package for item in lacking}))
    return Check("packages", "bad", f"missing: {names}", f"apt-get install {names}   (or: kpatchlab doctor --install)")


def _kvm(host: Host) -> Check:
    accel = host.accel()
    if accel.name == "kvm":
        return Check("kvm", "ok", accel.reason)
    return Check(
        "kvm",
        "note",
        f"guests run under TCG: {accel.reason}",
        "on a machine with working KVM guests run 5 to 10 times faster",
    )


def _qemu(host: Host) -> Check:
    qemu = host.qemu()
    version = ".".join(str(n) for n in qemu.version)
    if host.accel().name == "tcg" and qemu.version < (10,):
        return Check(
            "qemu",
            "note",
            f"QEMU {version} ({qemu.path})",
            "under TCG, QEMU 10 forks and executes programs 3 to 4 times faster; "
            "`qemu: auto` in lab.yaml unpacks one beside the host's",
        )
    return Check("qemu", "ok", f"QEMU {version}, {'unpacked beside the host' if qemu.unpacked else qemu.path}")


def _memory() -> Check:
    have = available_mib()
    if have < WANTED_MEMORY_MIB:
        return Check(
            "memory",
            "bad",
            f"{have} MiB available, {WANTED_MEMORY_MIB} wanted",
            "lower machines.*.memory_mib in lab.yaml",
        )
    return Check("memory", "ok", f"{have} MiB available")


def _free_bytes(cache: Cache) -> int:
    place: Path = cache.root
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def _disk(cache: Cache) -> Check:
    free = _free_bytes(cache) // GIB
    if free < WANTED_DISK_GIB:
        return Check(
            "disk",
            "note",
            f"{free} GiB free below {cache.root}, {WANTED_DISK_GIB} wanted for two kernels",
            "kpatchlab clean, or KPATCHLAB_CACHE",
        )
    return Check("disk", "ok", f"{free} GiB free below {cache.root}")


def _namespaces() -> Check:
    if os.geteuid() == 0:
        return Check("root images", "ok", "made as root")
    try:
        limit = int(Path("/proc/sys/user/max_user_namespaces").read_text())
    except (OSError, ValueError):
        limit = 1
    blocked = Path("/proc/sys/kernel/unprivileged_userns_clone")
    if limit == 0 or (blocked.exists() and blocked.read_text().strip() == "0"):
        return Check(
            "root images", "bad", "user namespaces are switched off", "sysctl kernel.unprivileged_userns_clone=1"
        )
    return Check("root images", "ok", "made in a user namespace")


def _mirror(host: Host) -> Check:
    from kpatchlab.debian import Apt

    version = Apt(host.cache, "bookworm", host.mirror).candidate("linux-source-6.1")
    return Check("mirror", "ok", f"Debian's mirror answers (linux-source-6.1 {version})")
