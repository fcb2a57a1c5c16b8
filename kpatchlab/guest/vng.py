"""A guest on the developer's own root, started by virtme-ng: the lab builds no root and saves nothing.

The host's root is mounted read-only, over 9p; the agent puts a tmpfs over it. Everything else is as in the lab's
own guests. virtme-run is called by its argument list (`vng` pastes options into a shell string), and has no
deadline of its own. The agent travels as a file: what is to run goes on the kernel's command line, which is short.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

from kpatchlab.arch import ARCHES
from kpatchlab.errors import HostError
from kpatchlab.guest import jail, qemu
from kpatchlab.guest.console import LIMIT_BYTES, Console
from kpatchlab.guest.guest import Guest
from kpatchlab.guest.shapes import Boot
from kpatchlab.guest.vm import BOOT_DEADLINE_S, QemuGuest, await_agent
from kpatchlab.proc import Cancel


def command_line(spec: Boot, agent: Path, ends: qemu.Ends) -> list[str]:
    """Return virtme-run's argument list.

    Raises:
        HostError: virtme-ng is not there, or QEMU is called in a way that it cannot.
    """
    beside = str(Path(sys.executable).parent)
    program = shutil.which("virtme-run", path=beside) or shutil.which("virtme-run")
    if not program:
        raise HostError("virtme-run: not found", hint="pip install virtme-ng")
    shape = spec.machine
    if not ARCHES[shape.arch].is_host:
        raise HostError(f"a guest on this host's root is not {shape.arch}", hint="leave out --guest vng")
    if len(shape.qemu.argv) != 1:
        raise HostError("virtme-run cannot call a QEMU that is unpacked beside the host's", hint="qemu: host")
    words = ["loglevel=7", *qemu.kernel_words(ARCHES[shape.arch]).split(), *spec.cmdline.split()]
    return [
        program,
        *("--kimg", str(spec.vmlinuz), "--mods", "none", "--root", "/", "--force-9p", "--disable-microvm"),
        *("--qemu-bin", shape.qemu.argv[0], "--cpus", str(shape.cpus), "--memory", f"{shape.memory_mib}M"),
        *([] if shape.accel == "kvm" else ["--disable-kvm"]),
        *(word for kernel_word in words for word in ("--kopt", kernel_word)),
        *("--script-sh", f"{shlex.quote(str(agent))} --attach"),
        # virtme's script mode sends the console to standard error; there is one serial console in a kernel.
        *("--show-boot-console", "--qemu-opts", "-set", f"chardev.console.path=/proc/self/fd/{ends.channels[0]}"),
        *qemu.lab_devices(spec, ends),
    ]


PASSED = ("PATH", "HOME", "LANG", "TMPDIR")
"""Variables of the caller's that virtme-run gets: it writes below its home, and looks for programs."""


class VngGuest(QemuGuest):
    """A guest whose QEMU serves it this host's files: nothing but QEMU's own seccomp filter is around it."""

    def _jailed(self, command: list[str]) -> list[str]:
        held = replace(self.boot.machine.qemu.held, bubblewrap=False)
        machine = replace(self.boot.machine, qemu=replace(self.boot.machine.qemu, held=held))
        return jail.words(replace(self.boot, machine=machine), command)  # its last words are QEMU's own

    def _environment(self) -> dict[str, str]:
        return {name: os.environ[name] for name in PASSED if name in os.environ} | super()._environment()


def boot_vng(
    spec: Boot,
    agent: Path,
    *,
    console_path: Path,
    console_limit_bytes: int = LIMIT_BYTES,
    deadline_s: float = BOOT_DEADLINE_S,
    cancel: Cancel | None = None,
) -> Guest:
    """Boot `spec` on the host's root to its agent; `initrd` and `root_image` are not used.

    Args:
        agent: the agent as `initrd.build_agent` makes it, outside /run and /tmp, where virtme-ng mounts its own.
        cancel: as in `vm.boot`.

    Raises:
        GuestLost, HostError: as `vm.boot`.
    """
    console = Console(console_path, console_limit_bytes)
    argv = partial(command_line, spec, agent)
    guest = VngGuest(spec, console, None, argv, console_pipe=True)
    guest.cancel = cancel
    return await_agent(guest, deadline_s)
