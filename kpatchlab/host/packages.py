"""What the lab needs of its host: which Debian packages are missing, what for, and installing them.

A need is met by programs and files, whoever brought them: on other distributions the lab runs as well, and
Debian's package names serve as a hint.
"""

from __future__ import annotations

import glob
import os
import shlex
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kpatchlab import proc
from kpatchlab.arch import ARCHES, HOST, Arch
from kpatchlab.errors import HostError, UserError

STAGES = ("fetch", "build", "image", "guest")
OPTIONAL = ("bpf", "sparse")
OTHERS = tuple(name for name in ARCHES if name != HOST)
TESTS = ("test",)
QUICK_TESTS = ("build",)
"""fetch: sources and packages, build: compile kernels, image: make roots, guest: boot. `build` is not needed where
all kernels are Debian's own images.
`OPTIONAL` are those that only some scenarios ask for, which are skipped without; bpf: compile BPF programs of the
kernel's selftests; and sparse: what `series` looks at patches with, besides.
`OTHERS` are the architectures of guests that are not the host's own: what makes programs and kernels for them.
`TESTS` are what only the lab's own tests need, `QUICK_TESTS` those stages whose packages do for the quick ones."""
INSTALL_TIMEOUT_S = 3600.0

_SBIN = ("/usr/local/sbin", "/usr/sbin", "/sbin")


@dataclass(frozen=True, slots=True)
class Need:
    """One package.

    Attributes:
        programs: all of them must be in PATH or in an sbin directory.
        files: one of these glob patterns must match.
        non_root: it is needed by others than root only.
    """

    package: str
    purpose: str
    stages: tuple[str, ...]
    programs: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    non_root: bool = False


@dataclass(frozen=True, slots=True)
class Missing:
    """A package that is not there; `for_what` has the stages that cannot run without it."""

    package: str
    purpose: str
    for_what: tuple[str, ...]


HOST_PACKAGES = (
    Need("apt", "asks Debian's mirrors", ("fetch", "image"), ("apt-get", "apt-cache", "apt-config")),
    Need("dpkg", "unpacks Debian packages", ("fetch", "image"), ("dpkg-deb",)),
    Need(
        "debian-archive-keyring",
        "Debian's keys, which packages are verified with",
        ("fetch", "image"),
        files=("/usr/share/keyrings/debian-archive-keyring.gpg", "/usr/share/keyrings/debian-archive-keyring.pgp"),
    ),
    Need(
        "ca-certificates",
        "kernel trees and mail archives over https",
        ("fetch",),
        files=("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem"),
    ),
    Need("git", "kernel trees, and applying patches", ("fetch", "build"), ("git",)),
    Need("xz-utils", "unpacks Debian's kernel sources and modules", ("fetch", "build"), ("xz",)),
    Need("gcc", "compiles kernels, and the agent that runs in guests", ("build", "guest"), ("gcc",)),
    Need(
        "libc6-dev",
        "headers and the static C library of the agent",
        ("build", "guest"),
        files=("/usr/lib/*-linux-gnu/libc.a", "/usr/lib64/libc.a", "/usr/lib/libc.a"),
    ),
    Need("make", "builds kernels", ("build",), ("make",)),
    Need("binutils", "links kernels, reads their symbols", ("build", "guest"), ("ld", "nm", "readelf", "addr2line")),
    Need("flex", "builds the kernel's configuration tool", ("build",), ("flex",)),
    Need("bison", "builds the kernel's configuration tool", ("build",), ("bison",)),
    Need("bc", "a kernel's time constants", ("build",), ("bc",)),
    Need("perl", "a kernel's build scripts", ("build",), ("perl",)),
    Need("bubblewrap", "the sandbox around whatever runs code of a series", ("build",), ("bwrap",)),
    Need("ccache", "compiles nothing twice", ("build",), ("ccache",)),
    Need(
        "libelf-dev",
        "objtool, which every x86 kernel is checked with, and BPF selftests",
        ("build", "bpf"),
        files=("/usr/include/gelf.h",),
    ),
    Need("clang", "compiles BPF programs of the kernel's selftests", ("bpf",), ("clang",)),
    Need("sparse", "static checks of a series, patch by patch", ("sparse",), ("sparse",)),
    Need("zlib1g-dev", "libbpf of the kernel's selftests", ("bpf",), files=("/usr/include/zlib.h",)),
    Need(
        "libssl-dev",
        "signatures and certificates in kernels",
        ("build",),
        files=("/usr/include/openssl/ssl.h", "/usr/include/*-linux-gnu/openssl/ssl.h"),
    ),
    Need("zstd", "compressed kernels and modules", ("build", "fetch"), ("zstd",)),
    Need("kmod", "lists which module needs which", ("build",), ("depmod",)),
    Need("erofs-utils", "packs roots and modules for guests", ("build", "image"), ("mkfs.erofs",)),
    Need("mmdebstrap", "makes roots", ("image",), ("mmdebstrap",)),
    Need("uidmap", "makes roots without being root", ("image",), ("newuidmap", "newgidmap"), non_root=True),
    Need("qemu-system-x86", "runs guests", ("guest",), ("qemu-system-x86_64",)),
    Need("openssh-server", "logs in to hosts made of namespaces, to test that", TESTS, ("sshd", "ssh-keygen")),
    Need("iproute2", "gives these hosts a network", TESTS, ("ip",)),
    Need("chromium", "opens the web page, to test it", TESTS, ("chromium",)),
)


def _cross(arch: Arch) -> Iterator[Need]:
    """Yield what makes programs and kernels of another architecture here."""
    compiler, library = arch.cross_packages
    programs = tuple(f"{arch.cross}{name}" for name in ("gcc", "ld", "nm", "addr2line"))
    yield Need(compiler, f"compiles for {arch.name}", (arch.name,), programs)
    what = f"headers and the static C library of the agent on {arch.name}"
    yield Need(library, what, (arch.name,), files=(f"/usr/{arch.gnu}/lib/libc.a",))


def missing(stages: Sequence[str] = STAGES) -> list[Missing]:
    """Return what is not on this host, in the order of the table; takes milliseconds, starts nothing.

    Raises:
        UserError: a stage is not known.
    """
    every = (*STAGES, *OPTIONAL, *OTHERS, *TESTS)
    if unknown := sorted(set(stages) - set(every)):
        raise UserError(f"no such stage: {', '.join(unknown)}", hint=f"one of {', '.join(every)}")
    return [
        Missing(need.package, need.purpose, touched)
        for need in (*HOST_PACKAGES, *(need for name in OTHERS for need in _cross(ARCHES[name])))
        if (touched := tuple(stage for stage in need.stages if stage in stages)) and not _is_met(need)
    ]


def require(stages: Sequence[str] = STAGES) -> None:
    """Pass where all is there.

    Raises:
        HostError: something is missing; `details` has a line for each package, the hint the command.
    """
    if lacking := missing(stages):
        names = _names(lacking)
        raise HostError(
            f"{len(names)} package{'s' if len(names) > 1 else ''} missing on this host: {' '.join(names)}",
            hint=f"{shlex.join(_command(names))}, or let `kpatchlab doctor --install` do it",
            details=tuple(f"{item.package}: {item.purpose}" for item in lacking),
        )


def install(lacking: Sequence[Missing], echo: Callable[[str], None]) -> None:
    """Install packages with the host's apt, as root or through sudo; `echo` is told which before anything is done.

    Raises:
        HostError: the host has no apt, the user may not, or apt failed; the hint is the command to give.
    """
    if not lacking:
        return
    names = _names(lacking)
    command = _command(names)
    by_hand = f"as root: {shlex.join(command)}"
    if not shutil.which("apt-get"):
        raise HostError(
            f"cannot install {' '.join(names)}: this is not a Debian system",
            hint="install what has those programs with your distribution's tools; names above are Debian's",
            details=tuple(f"{item.package}: {item.purpose}" for item in lacking),
        )
    prefix = _as_root(names, by_hand)
    for item in lacking:
        echo(f"installing {item.package}: {item.purpose}")
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    update = proc.run([*prefix, "apt-get", "-q", "update"], timeout_s=INSTALL_TIMEOUT_S, check=False, env=env)
    result = proc.run([*prefix, *command], timeout_s=INSTALL_TIMEOUT_S, check=False, env=env)
    if result.status:
        said = [*update.stderr.splitlines(), *result.stderr.splitlines()]
        raise HostError(
            f"apt-get could not install {' '.join(names)}",
            hint=by_hand,
            details=tuple(line for line in said if line.startswith(("E:", "W:")))[-10:],
        )


def _is_met(need: Need) -> bool:
    if need.non_root and os.geteuid() == 0:
        return True
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), *_SBIN])
    if not all(shutil.which(program, path=path) for program in need.programs):
        return False
    return not need.files or any(Path(name).exists() if "*" not in name else glob.glob(name) for name in need.files)


def _names(lacking: Sequence[Missing]) -> list[str]:
    return sorted({item.package for item in lacking})


def _command(names: Sequence[str]) -> list[str]:
    return ["apt-get", "install", "--yes", "--no-install-recommends", *names]


def _as_root(names: Sequence[str], by_hand: str) -> list[str]:
    """Return the words that make a command root's: none, or sudo's where it asks for no password.

    Raises:
        HostError: there is no way that needs no password.
    """
    if os.geteuid() == 0:
        return []
    # A password cannot be asked for: children have no terminal.
    if shutil.which("sudo") and proc.run(["sudo", "-n", "true"], timeout_s=30, check=False).status == 0:
        return ["sudo", "-n", "--preserve-env=DEBIAN_FRONTEND"]
    raise HostError(f"installing {' '.join(names)} needs root's rights", hint=by_hand)
