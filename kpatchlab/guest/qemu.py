"""The command line of a guest's QEMU.

The architecture's part comes from virtme-ng's table. The set of devices does not depend on what a guest is for,
so that a saved guest can be resumed with a cable or without.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from kpatchlab.arch import ARCHES, HOST, Arch
from kpatchlab.guest.shapes import Boot, MachineShape

NO_MAC = "52:54:00:00:00:01"
"""Until `identify` gives a guest its own; saved guests share it."""

KERNEL_WORDS = "printk.time=1 panic=-1 panic_print=0x40"
"""A panic resets, which QEMU turns into its end (-no-reboot) after the trace is out; 0x40 adds the other processors'
stacks. An architecture's own words come behind these."""

CHANNELS = ("console", "ctl", "beat", "clock", "qmp")
"""What the lab and a QEMU are connected by, in this order."""


@dataclass(frozen=True, slots=True)
class Ends:
    """File descriptors that QEMU inherits: one for each of `CHANNELS`, and of the cable if there is one."""

    channels: tuple[int, ...]
    link: int | None = None

    def all(self) -> list[int]:
        """Return those that are there."""
        return [*self.channels, *([] if self.link is None else [self.link])]


def accelerator(shape: MachineShape) -> list[str]:
    """Return the options that say how guest code runs."""
    if shape.accel == "kvm":
        return ["-accel", "kvm"]
    if shape.accel == "icount":
        return ["-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off"]
    return ["-accel", "tcg,thread=multi"]


def kernel_words(arch: Arch) -> str:
    """Return what every kernel of an architecture is told."""
    return f"{KERNEL_WORDS} {arch.kernel_words}".strip()


def machine_options(shape: MachineShape) -> list[str]:
    """Return processor, board, accelerator and memory: what the KVM probe must share with real guests.

    Where instructions are counted, the processor does not offer fast string moves: `rep movsb`, which kernels then
    copy with, counts as one instruction for every byte, eight times as many as the `rep movsq` that they use without.
    """
    from virtme import architectures

    kvm = shape.accel == "kvm"
    table = list(ARCHES[shape.arch].machine)
    table = table or architectures.get(shape.arch).qemuargs(is_native=True, use_kvm=kvm, use_gpu=False)
    if shape.accel == "icount" and shape.arch == HOST:
        table = [f"{word},-erms,-fsrm" if before == "-cpu" else word for before, word in pairwise(["", *table])]
    board = ["-machine", "q35"] if shape.arch == HOST and "-machine" not in table else []
    return [
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *table,
        *board,
        *accelerator(shape),
        *("-smp", str(shape.cpus), "-m", str(shape.memory_mib)),
    ]


def _disk(name: str, image: Path, bus: str) -> list[str]:
    node = {
        "driver": "raw",
        "node-name": name,
        "read-only": True,
        # Many guests have one image open; nobody writes to it.
        "file": {"driver": "file", "filename": str(image), "locking": "off", "read-only": True},
    }
    return ["-blockdev", json.dumps(node), "-device", f"virtio-blk-{bus},drive={name},serial={name}"]


def _cable(link: int | None) -> str:
    if link is None:
        return "hubport,id=net0,hubid=0"
    return f"stream,id=net0,server=off,addr.type=fd,addr.str={link}"


def kernel_command_line(boot: Boot) -> str:
    """Return what the kernel is told; the boot's own words come last, and win."""
    from virtme import architectures

    arch = architectures.get(boot.machine.arch)
    console = " ".join([f"console={arch.serial_console_args()[0]}", *arch.earlyconsole_args()])
    return f"{console} {kernel_words(ARCHES[boot.machine.arch])} {boot.cmdline}".strip()


def lab_devices(boot: Boot, ends: Ends) -> list[str]:
    """Return the devices by which the lab talks to a guest, sees it die, and gives it modules and a network.

    The console is the caller's to connect.
    """
    sockets, arch = zip(CHANNELS[1:], ends.channels[1:], strict=True), ARCHES[boot.machine.arch]
    # A card on PCI has a ROM to boot from, which nobody needs.
    card = f"virtio-net-{arch.bus},netdev=net0,mac={NO_MAC}" + (",romfile=" if arch.bus == "pci" else "")
    return [
        *(_disk("modules", boot.modules_image, arch.bus) if boot.modules_image else []),
        # By default QEMU is gone before a guest that panics has printed its trace.
        *("-action", "panic=none", *arch.panic_device),
        *(word for name, fd in sockets for word in ("-chardev", f"socket,id=lab-{name},fd={fd}")),
        *("-mon", "chardev=lab-qmp,mode=control"),
        *("-device", f"virtio-serial-{arch.bus}"),
        *("-device", "virtserialport,chardev=lab-ctl,name=kpatchlab.ctl"),
        *("-device", "virtserialport,chardev=lab-beat,name=kpatchlab.beat"),
        *("-device", "virtserialport,chardev=lab-clock,name=kpatchlab.clock"),
        *("-netdev", _cable(ends.link), "-device", card),
    ]


def command_line(boot: Boot, ends: Ends, *, incoming: bool) -> list[str]:
    """Return the whole argument list.

    Args:
        incoming: the guest is to be resumed: it waits for QMP's migrate-incoming.
    """
    bus = ARCHES[boot.machine.arch].bus
    return [
        *boot.machine.qemu.argv,
        *machine_options(boot.machine),
        *("-kernel", str(boot.vmlinuz), "-initrd", str(boot.initrd), "-append", kernel_command_line(boot)),
        *_disk("root", boot.root_image, bus),
        *("-object", "rng-builtin,id=rng0", "-device", f"virtio-rng-{bus},rng=rng0"),
        *("-chardev", f"socket,id=lab-console,fd={ends.channels[0]}", "-serial", "chardev:lab-console"),
        *lab_devices(boot, ends),
        *(["-incoming", "defer"] if incoming else []),
    ]
