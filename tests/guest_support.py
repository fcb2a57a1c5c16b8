"""What the guest tests share: the fake guest, and where a real one's kernel and root come from."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest

from kpatchlab import proc
from kpatchlab.cache import Cache
from kpatchlab.errors import HostError
from kpatchlab.guest.console import Console
from kpatchlab.guest.guest import Guest
from kpatchlab.guest.initrd import build_initrd
from kpatchlab.guest.vm import Boot, MachineShape, Qemu
from kpatchlab.qemu_find import find_qemu

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


def host_qemu(choice: str = "host") -> Qemu:
    try:
        return find_qemu(choice, Cache())
    except HostError as error:
        pytest.skip(str(error))


def stub_boot(folder: Path, *words: str, cpus: int = 1) -> Boot:
    qemu = Qemu(STUB, (7, 2, 0), (sys.executable, str(STUB), *words))
    nothing = folder / "nothing"
    nothing.touch()
    return Boot(nothing, nothing, nothing, None, MachineShape("x86_64", "tcg", cpus, 64, qemu))


def real_boot(folder: Path, qemu: Qemu | None = None) -> Boot:
    """Return a real guest's parts; the QEMU is KPATCHLAB_TEST_QEMU ("host" or "debian") unless given.

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
    shape = MachineShape("x86_64", "tcg", 1, 1024, qemu or host_qemu(os.environ.get("KPATCHLAB_TEST_QEMU", "host")))
    modules = kernel / "modules.erofs"
    return Boot(kernel / "vmlinuz", initrd, root, modules if modules.exists() else None, shape)


def children() -> set[int]:
    """Return this process's children, the guard of kpatchlab.proc aside."""
    found = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    guard = proc._guard.pid if proc._guard else 0
    return {int(pid) for pid in found} - {guard}
