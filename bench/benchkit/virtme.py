"""virtme-ng on kernels that a user built where the sources lie."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

from kpatchlab.arch import HOST
from kpatchlab.cache import Cache
from kpatchlab.errors import HostError
from kpatchlab.host.host import Host
from kpatchlab.lab.load import Lab

VNG = Path(sys.executable).with_name("vng")
IMAGE = "arch/x86/boot/bzImage"


def environment() -> dict[str, str]:
    """Return the environment in which virtme-ng finds its own programs."""
    return {**os.environ, "PATH": f"{VNG.parent}:{os.environ.get('PATH', '')}"}


def command(lab: Lab, script: Path, folder: Path) -> list[str]:
    """Return the command that runs a test on the kernel of the current folder, on the host's root, in a lab's machine.

    virtme-ng takes one path for its QEMU: `folder` gets a script that calls the one which the lab uses.

    Raises:
        HostError: the host has no udev. A guest of virtme-ng 1.42 is served its root, finds the ports for a script's
            output by the links that udev makes, and without them loses what the script says, and its status.
    """
    if not shutil.which("udevadm", path=f"{os.environ.get('PATH', '')}:/usr/bin:/bin"):
        raise HostError("virtme-ng's guests lose what a test says where the host has no udev", "apt-get install udev")
    machine = lab.machines[lab.machine]
    shape = Host(Cache(), lab.mirror, lab.qemu).shape(HOST, machine.accel, machine.cpus, machine.memory_mib)
    qemu, test = folder / "qemu", folder / "test"
    qemu.write_text(f'#!/bin/sh\nexec {shlex.join(shape.qemu.argv)} "$@"\n')
    shutil.copy(script, test)
    for path in (qemu, test):
        path.chmod(0o755)
    tcg = [] if shape.accel == "kvm" else ["--disable-kvm"]
    size = ["--cpus", str(shape.cpus), "--memory", f"{shape.memory_mib}M"]
    return [str(VNG), "-r", IMAGE, "--qemu", str(qemu), *tcg, *size, "--force-9p", "--", str(test)]
