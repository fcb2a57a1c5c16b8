"""Whether KVM really runs guests on this host: found out by running one, not by looking at /dev/kvm.

Seen on a host that is itself a guest: /dev/kvm opens, its API version is 12, a machine can be created; QEMU with
`-cpu host` then ends with "failed to set MSR 0x10a", and with a plainer processor the firmware takes five seconds
and the first guest that turns on paging spins for ever. The probe's guest (accel_probe.S) does what shows both: it
runs on the processor and board of the lab's guests, enters 64-bit mode and waits for interrupts of its timers. It
takes 0.5 s under TCG and needs no kernel.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from kpatchlab import proc
from kpatchlab.cache import Cache, content_key, file_digest
from kpatchlab.errors import HostError
from kpatchlab.guest.qemu import machine_options
from kpatchlab.guest.shapes import MachineShape, Qemu

KVM = Path("/dev/kvm")
PROBE_TIMEOUT_S = 5.0
SOURCE = Path(__file__).with_name("accel_probe.S")
DISK_BYTES = 1 << 20
"""The firmware does not read a disk much smaller than this."""
SUCCESS = 33
"""What isa-debug-exit makes of the 16 that the probe's guest writes."""


@dataclass(frozen=True, slots=True)
class Accel:
    """What guests run on, "kvm" or "tcg", and why, in one line for people."""

    name: str
    reason: str


def probe_accel(cache: Cache, qemu: Qemu) -> Accel:
    """Return "kvm" if a probe guest ran on it, else "tcg"; the answer is kept until the host boots again."""
    try:
        os.close(os.open(KVM, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        hint = "; add the user to the group kvm" if isinstance(error, PermissionError) else ""
        return Accel("tcg", f"{KVM}: {error.strerror}{hint}")
    kept = cache.root / "accel.json"
    key = _host_key(qemu)
    with contextlib.suppress(OSError, ValueError, KeyError):
        data = json.loads(kept.read_text())
        if data["key"] == key:
            return Accel(data["name"], data["reason"])
    found = run_probe(MachineShape("x86_64", "kvm", 2, 64, qemu))
    with contextlib.suppress(OSError):
        cache.root.mkdir(parents=True, exist_ok=True)
        partial = kept.with_name(f"{kept.name}.{os.getpid()}")
        partial.write_text(json.dumps({"key": key, "name": found.name, "reason": found.reason}))
        partial.replace(kept)
    return found


def _host_key(qemu: Qemu) -> str:
    device = KVM.stat()
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text()
    return content_key(
        boot_id, device.st_ino, device.st_rdev, device.st_mode, qemu.argv, qemu.version, file_digest(SOURCE)
    )


def run_probe(shape: MachineShape, timeout_s: float = PROBE_TIMEOUT_S) -> Accel:
    """Run the probe's guest on `shape`; the answer is `shape.accel` if it ran to its end, else "tcg"."""
    with tempfile.TemporaryDirectory() as folder:
        disk = Path(folder) / "probe"
        link = "-Wl,--build-id=none,-Ttext=0x7c00,--oformat=binary,-e,_start"
        try:
            proc.run(["gcc", "-nostdlib", "-static", "-no-pie", link, "-o", disk, SOURCE], timeout_s=60)
            os.truncate(disk, DISK_BYTES)
            argv = [
                *shape.qemu.argv,
                *machine_options(shape),
                *("-device", "isa-debug-exit,iobase=0xf4,iosize=1"),
                *("-drive", f"if=none,id=disk,format=raw,readonly=on,file={disk}"),
                *("-device", "virtio-blk-pci,drive=disk"),
            ]
            done = proc.run(argv, timeout_s=timeout_s, check=False, env=dict(shape.qemu.env))
        except HostError as error:
            return Accel("tcg", f"KVM could not be tried: {error.message}")
    if done.status == SUCCESS:
        return Accel(shape.accel, f"a probe guest ran under {shape.accel.upper()} in {done.duration_s:.1f} s")
    if done.timed_out:
        return Accel("tcg", f"{KVM} opens, but a probe guest did not get through within {timeout_s:.0f} s")
    said = done.stderr.strip().splitlines() or [f"status {done.status}"]
    return Accel("tcg", f"{KVM} opens, but a probe guest does not run: {said[0][:200]}")
