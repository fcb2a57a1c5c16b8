"""The initramfs of every guest: the agent, compiled statically by a gcc of the host's, and boot modules if any."""

from __future__ import annotations

import gzip
import importlib.resources
import lzma
import tempfile
from pathlib import Path

from kpatchlab import proc
from kpatchlab.arch import ARCHES, HOST, Arch
from kpatchlab.errors import HostError
from kpatchlab.proc import CommandFailed


def source_files() -> list[Path]:
    """Return the files that the agent and the initramfs are made of: a cache's key is their digests."""
    here = Path(str(importlib.resources.files("kpatchlab.guest")))
    return sorted([*here.glob("agent*.[ch]"), here / Path(__file__).name])


def build_agent(out: Path, arch: Arch = ARCHES[HOST]) -> None:
    """Compile the agent to `out`, static.

    Raises:
        HostError: there is no gcc for the architecture, or no static C library.
    """
    compiler = f"{arch.cross}gcc"
    sources = [path for path in source_files() if path.suffix == ".c"]
    try:
        proc.run([compiler, "-std=gnu11", "-O2", "-static", "-pthread", "-s", "-o", out, *sources], timeout_s=120)
    except CommandFailed as error:
        raise HostError(
            "the agent does not compile",
            hint=f"apt-get install {' '.join(arch.cross_packages)}",
            details=(error.result.stderr[-2000:],),
        ) from error


def build_initrd(out: Path, boot_modules: Path | None, arch: Arch = ARCHES[HOST]) -> None:
    """Write the initramfs, an uncompressed cpio archive that every kernel takes.

    Args:
        boot_modules: a folder of .ko, .ko.xz or .ko.gz files with a file `order` that names them, one a line, in
            the order in which process 1 loads them; None for a kernel that has built in what it boots with.
    """
    from virtme.cpiowriter import CpioWriter

    with tempfile.TemporaryDirectory() as folder, out.open("wb") as handle:
        build_agent(Path(folder) / "init", arch)
        cpio = CpioWriter(handle)
        for folder_name in (b"dev", b"proc", b"sys"):
            cpio.mkdir(folder_name, 0o755)
        cpio.mkchardev(b"dev/console", (5, 1), 0o600)
        cpio.write_file(b"init", (Path(folder) / "init").read_bytes(), 0o755)
        if boot_modules:
            cpio.mkdir(b"boot-modules", 0o755)
            plain = []
            for name in (boot_modules / "order").read_text().split():
                data = (boot_modules / name).read_bytes()
                if name.endswith(".xz"):
                    data = lzma.decompress(data)
                elif name.endswith(".gz"):
                    data = gzip.decompress(data)
                plain.append(name.removesuffix(".xz").removesuffix(".gz"))
                cpio.write_file(f"boot-modules/{plain[-1]}".encode(), data, 0o644)
            cpio.write_file(b"boot-modules/order", "".join(f"{name}\n" for name in plain).encode(), 0o644)
        cpio.write_trailer()
