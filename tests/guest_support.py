"""What the guest tests share: the fake guest, and where a real one's kernel and root come from."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from kpatchlab import proc
from kpatchlab.cache import Cache
from kpatchlab.guest.console import Console
from kpatchlab.guest.guest import Guest
from kpatchlab.guest.initrd import build_initrd
from kpatchlab.guest.vm import Boot, MachineShape, Qemu

STUB = Path(__file__).with_name("stub_qemu.py")


class FakeGuest(Guest):
    """The agent as an ordinary process of this host: everything but the machine."""

    def __init__(self, agent: Path, console_path: Path) -> None:
        ctl, its_ctl = socket.socketpair()
        self._beat, its_beat = socket.socketpair()
        super().__init__(ctl, Console(console_path))
        fds = [its_ctl.fileno(), its_beat.fileno()]
        self.process = proc.spawn([agent, "--fd", *map(str, fds)], pass_fds=fds)
        its_ctl.close()
        its_beat.close()
        self._thread.start()
        assert self._up.wait(10)

    def _stop(self) -> None:
        proc.stop(self.process)
        self._beat.close()
        super()._stop()


def host_qemu() -> Qemu:
    path = shutil.which("qemu-system-x86_64")
    if not path:
        pytest.skip("no qemu-system-x86_64 on this host")
    said = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout
    version = tuple(int(part) for part in said.split()[3].split("."))
    return Qemu(Path(path), version, (path,))


def stub_boot(folder: Path, *words: str, cpus: int = 1) -> Boot:
    qemu = Qemu(STUB, (7, 2, 0), (sys.executable, str(STUB), *words))
    nothing = folder / "nothing"
    nothing.touch()
    return Boot(nothing, nothing, nothing, None, MachineShape("x86_64", "tcg", cpus, 64, qemu))


def real_boot(folder: Path) -> Boot:
    """Return a real guest's parts.

    They come from KPATCHLAB_TEST_KERNEL (a folder with vmlinuz, modules.erofs and perhaps boot-modules) and
    KPATCHLAB_TEST_ROOT (an image), else from what the cache holds; there is a reason in the skip if it holds none.
    """
    cache = Cache()
    entries = cache.entries()
    kernels = [os.environ.get("KPATCHLAB_TEST_KERNEL"), *(e.path for e in entries if e.kind == "kernel")]
    roots = [os.environ.get("KPATCHLAB_TEST_ROOT"), *(e.path / "root.erofs" for e in entries if e.kind == "root")]
    kernel = next((Path(k) for k in kernels if k and (Path(k) / "vmlinuz").exists()), None)
    root = next((Path(r) for r in roots if r and Path(r).exists()), None)
    if not kernel or not root:
        pytest.skip(f"no {'root' if kernel else 'kernel'} in the cache: run the lab once, or set KPATCHLAB_TEST_*")
    initrd = folder / "initrd"
    boot_modules = kernel / "boot-modules"
    build_initrd(initrd, boot_modules if boot_modules.is_dir() else None)
    shape = MachineShape("x86_64", "tcg", 1, 1024, host_qemu())
    modules = kernel / "modules.erofs"
    return Boot(kernel / "vmlinuz", initrd, root, modules if modules.exists() else None, shape)


def children() -> set[int]:
    """Return this process's children, the guard of kpatchlab.proc aside."""
    found = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    guard = proc._guard.pid if proc._guard else 0
    return {int(pid) for pid in found} - {guard}
