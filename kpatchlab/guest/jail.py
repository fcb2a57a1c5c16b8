"""What is around a guest's QEMU: whoever breaks out of the guest finds nothing to read there, and nothing to reach.

QEMU forbids itself by seccomp what it has no use for: other programs, other users. bubblewrap shows it the system's
programs and libraries (not even those, where QEMU is the lab's own copy), the images of its guest, and nothing else: no
home, no cache, no other guest, no process, no network, no variable. Its sockets and the cable to another guest are file
descriptors that it inherits; a saved guest's state comes the same way, by QMP.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from kpatchlab import fence, proc
from kpatchlab.guest.shapes import Boot, Held, Qemu

SECCOMP = ("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny")
"""qemu(1). No guest sees it, so a saved one resumes with it or without."""
OOM_SCORE = 500
"""Of -1000 to 1000 (proc(5)): where memory runs out, a guest goes before the lab and the user's own programs."""
STATE_BYTES = 256 << 20
"""How much a guest's state on disk may have beyond twice its memory, and so every other file that QEMU writes."""
KVM = "/dev/kvm"
TRY_S = 30.0
_NOTHING = (
    *("--unshare-all", "--die-with-parent", "--cap-drop", "ALL", "--clearenv"),
    # As process 1 of a namespace QEMU is ended by signals from outside alone, and has no process beside it.
    "--as-pid-1",
)


def words(boot: Boot, command: Sequence[str]) -> list[str]:
    """Return a guest's command line with what the host can put around it."""
    machine = boot.machine
    limit = 2 * (machine.memory_mib << 20) + STATE_BYTES
    files = [path for path in (boot.vmlinuz, boot.initrd, boot.root_image, boot.modules_image) if path]
    held = machine.qemu.held
    return [
        *_bounds(limit),
        *(bubblewrap(machine.qemu, files, kvm=machine.accel == "kvm") if held.bubblewrap else []),
        *command,
        *(SECCOMP if held.seccomp else []),
    ]


def _bounds(file_bytes: int) -> list[str]:
    """Return the words by which QEMU goes first where memory runs out, and does not fill the disk."""
    first = [choom, "-n", str(OOM_SCORE), "--"] if (choom := fence.which("choom")) else []
    bounds = [prlimit, f"--fsize={file_bytes}", "--core=0", "--"] if (prlimit := fence.which("prlimit")) else []
    return [*first, *bounds]


def bubblewrap(qemu: Qemu, files: Sequence[Path], *, kvm: bool) -> list[str]:
    """Return the words that show a QEMU its own program and some files, each at its path, read-only."""
    shown = [*_programs(qemu), *(word for path in files for word in ("--ro-bind", str(path), str(path)))]
    device = ["--dev-bind", KVM, KVM] if kvm else []
    return [fence.which("bwrap") or "bwrap", *_NOTHING, *shown, *device, "--remount-ro", "/", "--chdir", "/", "--"]


def _programs(qemu: Qemu) -> list[str]:
    if qemu.unpacked:  # with its own libraries, firmware and loader
        home = str(qemu.path.parents[2])
        return ["--ro-bind", home, home]
    found: list[str] = []
    for name in fence.SYSTEM:
        if os.path.islink(name):
            found += ["--symlink", os.readlink(name), name]
        elif os.path.exists(name):
            found += ["--ro-bind", name, name]
    if not any(qemu.path.is_relative_to(name) for name in fence.SYSTEM):
        home = str(qemu.path.parents[1])
        found += ["--ro-bind", home, home]
    return [*found, "--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache"]


def tried(qemu: Qemu) -> Held:
    """Return what a QEMU runs in on this host: it is started, without a machine, and asked to end."""
    both = Held(bubblewrap=fence.lacking() is None, seccomp=True)
    for held in (both, Held(bubblewrap=both.bubblewrap), Held(seccomp=True)):
        outer = bubblewrap(qemu, (), kvm=False) if held.bubblewrap else []
        machine = ["-machine", "none", "-nodefaults", "-display", "none", "-S", "-monitor", "stdio"]
        command = [*outer, *qemu.argv, *machine, *(SECCOMP if held.seccomp else [])]
        if proc.run(command, timeout_s=TRY_S, check=False, env=dict(qemu.env), input_bytes=b"quit\n").status == 0:
            return held
    return Held()
