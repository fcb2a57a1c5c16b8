"""What this host can do, each finding with its remedy."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kpatchlab import fence
from kpatchlab.arch import ARCHES, Arch
from kpatchlab.cache import Cache
from kpatchlab.host import emulation, packages
from kpatchlab.host.host import Host, available_mib, free_bytes

GIB = 1 << 30
WANTED_DISK_GIB = 20
"""Two lean kernels with their trees, objects, symbols and a root take some 12 GiB (measured on 6.1 and 6.12)."""
WANTED_MEMORY_MIB = 3072
"""A pair of guests of 1 GiB each, and a linker for vmlinux."""


@dataclass(frozen=True, slots=True)
class HostCheck:
    """One thing that `doctor` looked at; `state` is "ok", "note" (works, could be better) or "bad"."""

    name: str
    state: str
    text: str
    remedy: str = ""


def examine(host: Host, stages: Sequence[str] = packages.STAGES, others: Sequence[str] = ()) -> list[HostCheck]:
    """Look at everything that a run needs; each finding names its remedy.

    Args:
        others: architectures of guests, beside the host's own.
    """
    checks: list[Callable[[], HostCheck]] = [
        functools.partial(_packages, (*stages, *others)),
        functools.partial(_kvm, host),
        functools.partial(_qemu, host),
        _memory,
        functools.partial(_disk, host.cache),
        _sandbox,
        functools.partial(_guests, host),
        _namespaces,
        functools.partial(_mirror, host),
        *(functools.partial(_emulated, host, ARCHES[name]) for name in others),
    ]
    found = []
    for check in checks:
        try:
            found.append(check())
        except Exception as error:  # noqa: BLE001 - the doctor tells of every part, whatever one of them does
            hint = getattr(error, "hint", "")
            found.append(HostCheck(_name(check), "bad", str(error), hint))
    return found


def _name(check: Callable[[], HostCheck]) -> str:
    inner = check.func if isinstance(check, functools.partial) else check
    return inner.__name__.strip("_")


def _packages(stages: Sequence[str]) -> HostCheck:
    lacking = packages.missing(stages)
    if not lacking and (optional := packages.missing(packages.OPTIONAL)):
        names = " ".join(sorted({item.package for item in optional}))
        return HostCheck("packages", "note", f"some scenarios are skipped without {names}", f"apt-get install {names}")
    if not lacking:
        return HostCheck("packages", "ok", "all Debian packages that the lab uses are there")
    names = " ".join(sorted({item.package for item in lacking}))
    return HostCheck(
        "packages", "bad", f"missing: {names}", f"apt-get install {names}   (or: kpatchlab doctor --install)"
    )


def _kvm(host: Host) -> HostCheck:
    accel = host.accel()
    if accel.name == "kvm":
        return HostCheck("kvm", "ok", accel.reason)
    return HostCheck(
        "kvm",
        "note",
        f"guests run under TCG: {accel.reason}",
        "on a machine with working KVM guests run 5 to 10 times faster",
    )


def _qemu(host: Host) -> HostCheck:
    qemu = host.qemu()
    version = ".".join(str(n) for n in qemu.version)
    if host.accel().name == "tcg" and qemu.version < (10,):
        return HostCheck(
            "qemu",
            "note",
            f"QEMU {version} ({qemu.path})",
            "under TCG, QEMU 10 forks and executes programs 3 to 4 times faster; "
            "`qemu: auto` in lab.yaml unpacks one beside the host's",
        )
    return HostCheck("qemu", "ok", f"QEMU {version}, {'unpacked beside the host' if qemu.unpacked else qemu.path}")


def _memory() -> HostCheck:
    have = available_mib()
    if have < WANTED_MEMORY_MIB:
        return HostCheck(
            "memory",
            "bad",
            f"{have} MiB available, {WANTED_MEMORY_MIB} wanted",
            "lower machines.*.memory_mib in lab.yaml",
        )
    return HostCheck("memory", "ok", f"{have} MiB available")


def _disk(cache: Cache) -> HostCheck:
    free = free_bytes(cache) // GIB
    if free < WANTED_DISK_GIB:
        return HostCheck(
            "disk",
            "note",
            f"{free} GiB free below {cache.root}, {WANTED_DISK_GIB} wanted for two kernels",
            "kpatchlab clean, or KPATCHLAB_CACHE",
        )
    return HostCheck("disk", "ok", f"{free} GiB free below {cache.root}")


def _sandbox() -> HostCheck:
    if lack := fence.lacking():
        return HostCheck("sandbox", "bad", f"series are built only with --trust: {lack.reason}", lack.remedy)
    return HostCheck("sandbox", "ok", f"bubblewrap around code of series, bounded by {fence.bounded_by()}")


def _guests(host: Host) -> HostCheck:
    held = host.qemu().held
    if held.bubblewrap and held.seccomp:
        return HostCheck("guests", "ok", "bubblewrap and a seccomp filter around every QEMU")
    remedy = lack.remedy if (lack := fence.lacking()) else "`qemu: debian` in lab.yaml has a QEMU with seccomp"
    around = f"only {held}" if str(held) else "nothing"
    return HostCheck("guests", "note", f"{around} confines a guest that breaks out of QEMU", remedy)


def _emulated(host: Host, arch: Arch) -> HostCheck:
    version = ".".join(str(number) for number in host.qemu(arch.name).version)
    around = emulation.words(arch, host.cache, host.mirror)
    how = "in a namespace of their own" if around else "by the host's table of formats"
    return HostCheck(arch.name, "ok", f"guests run in QEMU {version}; its programs run {how}, to make roots")


def _namespaces() -> HostCheck:
    if os.geteuid() == 0:
        return HostCheck("root images", "ok", "made as root")
    try:
        limit = int(Path("/proc/sys/user/max_user_namespaces").read_text())
    except (OSError, ValueError):
        limit = 1
    blocked = Path("/proc/sys/kernel/unprivileged_userns_clone")
    if limit == 0 or (blocked.exists() and blocked.read_text().strip() == "0"):
        return HostCheck(
            "root images", "bad", "user namespaces are switched off", "sysctl kernel.unprivileged_userns_clone=1"
        )
    return HostCheck("root images", "ok", "made in a user namespace")


def _mirror(host: Host) -> HostCheck:
    from kpatchlab.host.debian import Apt

    version = Apt(host.cache, "bookworm", host.mirror).candidate("linux-source-6.1")
    return HostCheck("mirror", "ok", f"Debian's mirror answers (linux-source-6.1 {version})")
