"""The architectures that guests can have: what everybody calls them, and what their machines have.

The host is x86-64; guests of the others are emulated.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

HOST = "x86_64"
"""The host's own: guests of the others are emulated."""


@dataclass(frozen=True, slots=True)
class Arch:
    """One architecture.

    Attributes:
        name: the lab's, and virtme-ng's.
        debian: Debian's.
        gnu: GNU's triplet, which names its cross compilers.
        qemu: what QEMU calls it.
        elf: what the heads of its object files say, `e_machine` of elf(5).
        qemu_packages: the packages of Debian trixie that emulate it.
        firmware: glob patterns of files of these packages that a machine reads.
        machine: QEMU's words for board and processor under emulation; empty: virtme-ng's.
        bus: what virtio devices are on, as the ends of QEMU's names have it.
        panic_device: words for a device by which a kernel that panics tells QEMU; s390x tells it without one.
        kernel_words: what its kernels are told, beside what all are.
    """

    name: str
    debian: str
    gnu: str
    qemu: str
    elf: int
    qemu_packages: tuple[str, ...]
    firmware: tuple[str, ...] = ()
    machine: tuple[str, ...] = ()
    bus: str = "pci"
    panic_device: tuple[str, ...] = ("-device", "pvpanic-pci")
    kernel_words: str = ""

    @property
    def is_host(self) -> bool:
        """Whether the host's own compiler and programs are for it."""
        return self.name == HOST

    @property
    def cross(self) -> str:
        """The prefix of the tools that make programs for it: "" for the host's own, else "s390x-linux-gnu-"."""
        return "" if self.is_host else f"{self.gnu}-"

    def compiler(self, name: str) -> str:
        """Return the program of a compiler, as "gcc-12": clang compiles for all architectures, gcc for one."""
        return name if name.startswith("clang") else f"{self.cross}{name}"

    @property
    def cross_packages(self) -> tuple[str, ...]:
        """The packages of the compiler and the C library that make programs for it on the host."""
        if self.is_host:
            return "gcc", "libc6-dev"
        return f"gcc-{self.gnu.replace('_', '-')}", f"libc6-dev-{self.debian}-cross"

    @property
    def qemu_program(self) -> str:
        """The program that emulates a machine of it."""
        return f"qemu-system-{self.qemu}"


_ALL = (
    Arch(
        HOST, "amd64", "x86_64-linux-gnu", "x86_64", 62, ("qemu-system-x86",),
        firmware=(
            "usr/share/seabios/*.bin", "usr/share/qemu/kvmvapic.bin", "usr/share/qemu/linuxboot*.bin",
            "usr/share/qemu/multiboot*.bin", "usr/share/qemu/pvh.bin", "usr/share/qemu/qboot.rom",
            "usr/share/qemu/efi-virtio.rom",
        ),
        # An NMI makes a guest that hangs say where. On a busy host an emulated timer misses the ten jiffies in which
        # x86 looks for its interrupts, and the kernel panics ("IO-APIC + timer doesn't work!"); a guest of KVM leaves
        # that check out by itself (arch/x86/kernel/kvm.c, paravirt_ops_setup).
        kernel_words="unknown_nmi_panic=1 no_timer_check",
    ),
    # QEMU 10.0 boots it in less processor time as cortex-a76 than as `max`, whose pointer authentication costs.
    Arch(
        "arm64", "arm64", "aarch64-linux-gnu", "aarch64", 183, ("qemu-system-arm",),
        machine=("-M", "virt", "-cpu", "cortex-a76"),
    ),
    Arch(
        "riscv64", "riscv64", "riscv64-linux-gnu", "riscv64", 243, ("qemu-system-riscv", "opensbi"),
        firmware=("usr/share/qemu/opensbi-riscv64-generic-fw_dynamic.bin",),
        machine=("-M", "virt", "-bios", "default"),
    ),
    Arch(
        "s390x", "s390x", "s390x-linux-gnu", "s390x", 22, ("qemu-system-s390x",),
        firmware=("usr/share/qemu/s390-ccw.img",),
        machine=("-M", "s390-ccw-virtio", "-cpu", "max"), bus="ccw", panic_device=(),
    ),
)  # fmt: skip
ARCHES = {arch.name: arch for arch in _ALL}
"""Name -> architecture."""


def reads(program: str, file: Path) -> str:
    """Return the program of binutils, as "nm", that reads an object file: Debian's own know one architecture each."""
    try:
        with file.open("rb") as handle:
            head = handle.read(20)
    except OSError:  # it is the program's to say so
        return program
    machine = int.from_bytes(head[18:20], "big" if head[5:6] == b"\2" else "little")
    return next((arch.cross for arch in _ALL if arch.elf == machine), "") + program
