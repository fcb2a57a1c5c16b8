"""What a guest boots, named by content keys: equal in every cache, and on every host with such a machine."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from kpatchlab.build.roots import IMAGE, INITRD
from kpatchlab.cache import Cache, content_key
from kpatchlab.guest.qemu import CHANNELS, Ends, command_line
from kpatchlab.guest.vm import Boot, MachineShape


@dataclass(frozen=True, slots=True)
class BootSpec:
    """A guest before its first instruction.

    Attributes:
        kernel, root, initrd: keys of artifacts of these kinds.
        cmdline: added to the lab's own kernel command line.
    """

    kernel: str
    root: str
    initrd: str
    machine: MachineShape
    cmdline: str = ""

    def resolve(self, cache: Cache) -> Boot:
        """Return it with the artifacts' paths in a cache."""
        kernel = cache.path("kernel", self.kernel)
        return Boot(
            vmlinuz=kernel / "vmlinuz",
            initrd=cache.path("initrd", self.initrd) / INITRD,
            root_image=cache.path("root", self.root) / IMAGE,
            modules_image=kernel / "modules.erofs",
            machine=self.machine,
            cmdline=self.cmdline,
        )

    def need(self, cache: Cache) -> None:
        """Pass where a cache has the artifacts, or can get them.

        Raises:
            HostError: it has not, and cannot.
        """
        for kind, key in (("kernel", self.kernel), ("initrd", self.initrd), ("root", self.root)):
            cache.need(kind, key)

    def key(self) -> str:
        """Return the content key of what it becomes: QEMU's version and command line, with keys in place of paths.

        The command line has the board, the processor, the accelerator, the memory and every device.
        """
        qemu = replace(self.machine.qemu, path=Path("qemu"), argv=("qemu",), env=())
        somewhere = replace(self, machine=replace(self.machine, qemu=qemu)).resolve(Cache(Path("cache")))
        words = command_line(somewhere, Ends(tuple(range(len(CHANNELS)))), incoming=False)
        return content_key(qemu.version, self.machine.processor, words)
