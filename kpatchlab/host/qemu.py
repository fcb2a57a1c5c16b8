"""Which QEMU guests run in: the host's, or Debian's unpacked in the cache beside it.

Under TCG, QEMU 10 forks and executes programs some three times faster than the 7.2 of Debian 12. Debian's
packages of it run on any host: unpacked with all the libraries that they need, the C library and its loader
included, and started through that loader.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from kpatchlab import fence, proc
from kpatchlab.arch import ARCHES, HOST, Arch
from kpatchlab.cache import Cache, content_key
from kpatchlab.errors import HostError, LabError, UserError
from kpatchlab.files import write_atomic
from kpatchlab.guest import jail
from kpatchlab.guest.shapes import Held, Qemu
from kpatchlab.host.debian import Apt

SUITE = "trixie"
FAST_VERSION = (10,)
"""From this version on the host's own is good enough without KVM."""
CHECK_TIMEOUT_S = 60.0

_LIBRARIES = "usr/lib/x86_64-linux-gnu"
_LOADER = "usr/lib64/ld-linux-x86-64.so.2"


def find_qemu(
    choice: str,
    cache: Cache,
    mirror: str = "",
    *,
    arch: str = HOST,
    kvm_works: bool | None = None,
    note: Callable[[str], None] | None = None,
) -> Qemu:
    """Return the QEMU to use.

    Args:
        choice: "host", "debian", or "auto": the host's where it is new or KVM works, else Debian's.
        mirror: Debian mirror as in lab.yaml.
        arch: what it is to emulate.
        kvm_works: None where nobody has tried; taken for False.
        note: takes a line where "auto" had to make do with the host's.

    Raises:
        UserError: `choice` is none of these.
        HostError: there is no such QEMU, or it does not run.
    """
    if choice not in {"auto", "host", "debian"}:
        raise UserError(f"qemu: {choice!r} is not known", hint="one of auto, host, debian")
    if choice == "debian":
        return debian_qemu(cache, mirror, arch)
    if choice == "host":
        return host_qemu(arch)
    if not shutil.which(ARCHES[arch].qemu_program):
        return debian_qemu(cache, mirror, arch)
    host = host_qemu(arch)
    if kvm_works or host.version >= FAST_VERSION:
        return host
    try:
        return debian_qemu(cache, mirror, arch)
    except LabError as error:
        if note:
            note(f"guests run in the host's QEMU {host.version[0]}.{host.version[1]}: {error.message}")
        return host


def held(qemu: Qemu, cache: Cache) -> Held:
    """Return what a QEMU runs in on this host; what was found out is kept until the host boots again.

    It is asked anew where the host's sandbox has come or gone, and where that works and QEMU did not start in it: that
    may have been a host that was busy.
    """
    lack = fence.lacking()
    key = content_key(_boot_id(), lack.reason if lack else "", qemu.argv, qemu.version)
    kept = cache.root / f"held-{'cache' if qemu.unpacked else 'host'}-{qemu.path.name}.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        data = json.loads(kept.read_text())
        if data["key"] == key:
            return Held(bubblewrap=data["bubblewrap"] is True, seccomp=data["seccomp"] is True)
    found = jail.tried(qemu)
    if not (found.bubblewrap or lack):
        return found
    with contextlib.suppress(LabError):
        write_atomic(kept, json.dumps({"key": key, "bubblewrap": found.bubblewrap, "seccomp": found.seccomp}).encode())
    return found


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text()
    except OSError:
        return ""


def host_qemu(arch: str = HOST) -> Qemu:
    """Return the QEMU in PATH.

    Raises:
        HostError: there is none.
    """
    program, packages = ARCHES[arch].qemu_program, ARCHES[arch].qemu_packages
    found = shutil.which(program)
    if not found:
        raise HostError(f"{program} is not on this host", hint=f"apt-get install {' '.join(packages)}")
    return Qemu(Path(found), _version([found]), (found,))


def debian_qemu(cache: Cache, mirror: str = "", arch: str = HOST) -> Qemu:
    """Return Debian's QEMU from the cache, fetched and unpacked if it is not there.

    Raises:
        HostError: the mirror cannot be reached, or it does not run here.
    """
    one = ARCHES[arch]
    key = content_key("qemu", SUITE, *one.qemu_packages, one.firmware)
    label = f"QEMU of Debian {SUITE} for {arch}"
    root = cache.get("qemu", key, lambda out: _unpack(one, cache, mirror, out), label=label)
    argv = _argv(one, root)
    return Qemu(root / "usr/bin" / one.qemu_program, _version(argv), argv, unpacked=True)


def _unpack(arch: Arch, cache: Cache, mirror: str, out: Path) -> None:
    """Fill `out` with the program, its libraries and its firmware, and see that it starts a machine."""
    apt = Apt(cache, SUITE, mirror)
    debs = apt.fetch(apt.resolve(*arch.qemu_packages))
    with tempfile.TemporaryDirectory(dir=out.parent, prefix="qemu-") as folder:
        whole = Path(folder)
        for deb in debs:
            apt.unpack(deb, whole)
        for path in _needed(arch, whole):
            target = out / path.relative_to(whole)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target)  # a link becomes the file that it names
    board = arch.machine or ("-machine", "q35")
    machine = [*board, "-accel", "tcg", "-nodefaults", "-display", "none", "-S", "-monitor", "stdio"]
    proc.run([*_argv(arch, out), *machine], timeout_s=CHECK_TIMEOUT_S, input_bytes=b"quit\n")


def _needed(arch: Arch, root: Path) -> list[Path]:
    """Return the files below `root` that guests need: the loader knows the libraries."""
    program = root / "usr/bin" / arch.qemu_program
    listed = proc.run([*_loader(root), "--list", program], timeout_s=CHECK_TIMEOUT_S).stdout
    libraries = [root / _LIBRARIES / name for name in re.findall(rf"{_LIBRARIES}/(\S+)", listed)]
    firmware = [path for pattern in arch.firmware for path in root.glob(pattern)]
    return [root / _LOADER, program, *libraries, *firmware]


def _loader(root: Path) -> tuple[str, ...]:
    return (str(root / _LOADER), "--library-path", str(root / _LIBRARIES))


def _argv(arch: Arch, root: Path) -> tuple[str, ...]:
    folders = (word for name in ("qemu", "seabios") for word in ("-L", str(root / "usr/share" / name)))
    return (*_loader(root), str(root / "usr/bin" / arch.qemu_program), *folders)


def _version(argv: Sequence[str]) -> tuple[int, ...]:
    said = proc.run([*argv, "--version"], timeout_s=CHECK_TIMEOUT_S).stdout
    match = re.search(r"version (\d+(?:\.\d+)+)", said)
    if not match:
        raise HostError(f"{argv[0]} --version says {said.strip()[:80]!r}")
    return tuple(int(number) for number in match[1].split("."))
