"""Programs of another architecture on this host, run by QEMU's user emulation: maintainer scripts while a root is made.

The kernel finds the emulator in its table binfmt_misc. Since Linux 6.7 (21ca59b365c0) each user namespace can have a
table of its own, so that nothing of the host is changed, and nothing of it is asked for but that namespace. QEMU comes
from Debian's package, unpacked in the cache.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from kpatchlab import proc
from kpatchlab.arch import Arch
from kpatchlab.cache import Cache, content_key
from kpatchlab.errors import HostError
from kpatchlab.host.debian import Apt

SUITE, PACKAGE = "trixie", "qemu-user"
"""Its programs are static, so that they run in any root."""
_TABLE = Path("/proc/sys/fs/binfmt_misc")
TRY_S = 60.0


def words(arch: Arch, cache: Cache, mirror: str = "") -> list[str]:
    """Return what stands before a command line that runs programs of `arch`: nothing, where the host does by itself.

    The command runs as root of a user and a mount namespace. Where the caller is root, all users are there; else those
    of the caller's subordinate IDs.

    Raises:
        HostError: this host can do neither, or the mirror cannot be reached.
    """
    if arch.is_host or _registered(arch):
        return []
    home = _emulator(arch, cache, mirror)
    entry = (home / "entry").read_text().format(emulator=home / "emulator")
    inside = [sys.executable, "-I", "-S", str(Path(__file__).with_name("emulation_inside.py")), entry, "--"]
    done = proc.run([*inside, "true"], timeout_s=TRY_S, check=False)
    if done.status != 0:
        said = (done.stderr.strip().splitlines() or [f"status {done.status}"])[-1]
        raise HostError(
            f"programs of {arch.name} do not run on this host: {said}",
            hint="Linux 6.7 needs nothing for it but user namespaces; before that, apt-get install qemu-user-static "
            "binfmt-support has them run everywhere on this host",
        )
    return inside


def _registered(arch: Arch) -> bool:
    """Whether the host's own table has the architecture, with an emulator that is open already (F): no root has one."""
    try:
        lines = (_TABLE / f"qemu-{arch.qemu}").read_text().splitlines()
    except OSError:
        return False
    return lines[:1] == ["enabled"] and any(line.startswith("flags:") and "F" in line for line in lines)


def _emulator(arch: Arch, cache: Cache, mirror: str) -> Path:
    """Return a folder with the emulator and `entry`, its line for the table."""
    apt = Apt(cache, SUITE, mirror)
    version = apt.candidate(PACKAGE)

    def produce(work: Path) -> None:
        with tempfile.TemporaryDirectory(dir=work.parent, prefix="qemu-user-") as folder:
            for deb in apt.fetch([PACKAGE]):
                apt.unpack(deb, Path(folder))
            own = Path(folder) / "usr"
            shutil.copy2(own / "bin" / f"qemu-{arch.qemu}", work / "emulator")
            line = (own / "share/qemu/binfmt.d" / f"qemu-{arch.qemu}.conf").read_text().strip()
        before, _, _ = line.rpartition(":/")
        (work / "entry").write_text(f"{before}:{{emulator}}:OCPF")

    key = content_key(PACKAGE, version, arch.qemu)
    return cache.get("qemu", key, produce, label=f"QEMU that runs programs of {arch.name}")
