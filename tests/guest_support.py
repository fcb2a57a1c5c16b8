"""What the guest tests share: the fake guest, and where a real one's kernel and root come from."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Any

import yaml

from kpatchlab import proc
from kpatchlab.build import BuildContext, build_kernel
from kpatchlab.build.roots import root_image
from kpatchlab.cache import Cache
from kpatchlab.guest.console import Console
from kpatchlab.guest.guest import Guest
from kpatchlab.guest.initrd import build_initrd
from kpatchlab.guest.vm import Boot, MachineShape, Qemu
from kpatchlab.host.qemu import find_qemu
from kpatchlab.lab.recipes import KernelRecipe, RootRecipe
from kpatchlab.model import Outcome

LAB = Path(__file__).parent.parent
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
    return find_qemu(choice, Cache())


def stub_boot(folder: Path, *words: str, cpus: int = 1) -> Boot:
    qemu = Qemu(STUB, (7, 2, 0), (sys.executable, str(STUB), *words))
    nothing = folder / "nothing"
    nothing.touch()
    return Boot(nothing, nothing, nothing, None, MachineShape("x86_64", "tcg", cpus, 64, qemu))


def real_boot(folder: Path, qemu: Qemu | None = None) -> Boot:
    """Return a real guest's parts; what is not in the cache is made: a boot that cannot run is a failure, not a skip.

    The kernel is KPATCHLAB_TEST_KERNEL (a folder with vmlinuz, modules.erofs and perhaps boot-modules) or the recipe
    `tiny`, the root KPATCHLAB_TEST_ROOT (an image) or the recipe `minimal`, the QEMU KPATCHLAB_TEST_QEMU ("host" or
    "debian") unless given.
    """
    ctx = BuildContext(Cache(), LAB)
    if chosen := os.environ.get("KPATCHLAB_TEST_KERNEL"):
        kernel = Path(chosen)
    else:
        result = build_kernel(recipe("kernels/tiny.yaml", KernelRecipe), "tiny", ctx)
        assert result.outcome is Outcome.PASS, result.log_tail
        kernel = ctx.cache.path("kernel", result.key)
    chosen = os.environ.get("KPATCHLAB_TEST_ROOT")
    root = Path(chosen) if chosen else root_image(recipe("rootfs/minimal.yaml", RootRecipe), ctx)
    initrd = folder / "initrd"
    boot_modules = kernel / "boot-modules"
    build_initrd(initrd, boot_modules if boot_modules.is_dir() else None)
    shape = MachineShape("x86_64", "tcg", 1, 1024, qemu or host_qemu(os.environ.get("KPATCHLAB_TEST_QEMU", "host")))
    modules = kernel / "modules.erofs"
    return Boot(kernel / "vmlinuz", initrd, root, modules if modules.exists() else None, shape)


def recipe(name: str, model: type[Any]) -> Any:
    """Return one of the project's own recipes."""
    return model.model_validate(yaml.safe_load((LAB / name).read_text()))


def children() -> set[int]:
    """Return this process's children, the guard of kpatchlab.proc aside."""
    found = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    guard = proc._guard.pid if proc._guard else 0
    return {int(pid) for pid in found} - {guard}
