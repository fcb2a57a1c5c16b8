"""A copy of this lab on another host: its package, the packages that it needs, and an environment for both.

The copy lies below the host's cache, in `lab/KEY`, and its key says what is in it: the same files and packages as here,
for the Python of that host. It is made once for each key, whole or not at all, and takes no index: pip comes along.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import kpatchlab
from kpatchlab.cache import Cache, content_key, tree_digest
from kpatchlab.errors import HostError
from kpatchlab.files import link_or_copy
from kpatchlab.hosts.ssh import Connection
from kpatchlab.hosts.wheels import LEAST_PYTHON, PINS, Platform, wheels
from kpatchlab.lab.hosts import HostEntry

PACKAGE = Path(kpatchlab.__file__).parent
COPY_S = 1800.0
INSTALL_S = 900.0
_NOT_THERE = 99
UNUSED_DAYS = 30
"""A copy that was not used for so long is deleted when another one is made."""

# Says what the host is, a line each; of several Pythons the one of the controller's version ($1) is best.
_PROBE = """\
printf 'home=%s\\nmachine=%s\\n' "$HOME" "$(uname -m)"
for python in "python$1" python3 python3.14 python3.13 python3.12 python3.11; do
  command -v "$python" >/dev/null 2>&1 || continue
  "$python" -I -c 'import os, platform, sys
print("newest=" + platform.python_version())
if sys.version_info < (3, 11): sys.exit(1)
print("python=" + os.path.realpath(sys.executable), "version=" + platform.python_version(), sep="\\n")
print("glibc=" + platform.libc_ver()[1])
import venv
print("venv=yes")' 2>/dev/null && break
done
exit 0
"""
# $1: the folder that was put there, $2: where it is to be, $3: its Python, $4: days. The programs that pip makes name
# the folder of their Python. A copy that another lab has put there meanwhile is as good.
_INSTALL = """\
trap 'rm -rf "$1"' EXIT
cd "$1" && "$3" -I -m venv --without-pip venv || exit 1
PYTHONPATH=boot venv/bin/python -m pip --isolated install --quiet --disable-pip-version-check \\
  --no-index --find-links wheels --no-deps --no-compile -r wheels/pins.txt || exit 1
mv kpatchlab venv/lib/python*/site-packages/ && rm -rf wheels boot || exit 1
find venv/bin -type f -exec sed -i "s|$1|$2|g" {} + || exit 1
find "$(dirname "$2")" -mindepth 1 -maxdepth 1 -mtime +"$4" -exec rm -rf {} +
mv -T "$1" "$2" 2>/dev/null || [ -e "$2" ]
"""


@dataclass(frozen=True, slots=True)
class Far:
    """What a host says of itself at the first question.

    Attributes:
        home: the user's home there.
        python: a Python that the lab runs on; "" where there is none.
        platform: what that Python is; of the newest Python where none will do.
        has_venv: whether it can make environments.
        ahead_s: seconds that its clock is ahead of this one's.
        unsure_s: by how much that may be wrong: half of what the question took.
    """

    home: str
    python: str
    platform: Platform
    has_venv: bool
    ahead_s: float
    unsure_s: float


@dataclass(frozen=True, slots=True)
class Installed:
    """A copy of this lab on a host.

    Attributes:
        python: the interpreter there that has it: `[python, "-m", "kpatchlab", ...]`.
        folder: all that there is of it.
        cache: the host's cache of artifacts, absolute.
        key: what it is a copy of: the same key, the same lab.
        copied: whether it was made by this call.
    """

    connection: Connection
    python: str
    folder: str
    cache: str
    key: str
    copied: bool

    @property
    def env(self) -> Mapping[str, str]:
        """More of the environment that the lab needs there."""
        return {"KPATCHLAB_CACHE": self.cache}

    def forget(self) -> None:
        """Delete it; what the lab has in its cache there stays.

        Raises:
            HostError: it cannot be deleted, or the connection is lost.
        """
        self.connection.run(["rm", "-rf", "--", self.folder], timeout_s=120)


def far(connection: Connection) -> Far:
    """Ask a host what it is.

    Raises:
        HostError: it does not answer.
    """
    asked, begin = time.time(), time.monotonic()
    clock = connection.run(["date", "+%s.%N"], timeout_s=30).stdout.strip()
    took = time.monotonic() - begin
    said = connection.run(["sh", "-c", _PROBE, "sh", Platform.here().minor], timeout_s=60).stdout
    found = dict(line.split("=", 1) for line in said.splitlines() if "=" in line)
    version = found.get("version") or found.get("newest", "")
    return Far(
        found.get("home", ""),
        found.get("python", ""),
        Platform(version, found.get("machine", "unknown"), found.get("glibc", "")),
        "venv" in found,
        float(clock) - (asked + took / 2) if re.fullmatch(r"\d+\.\d+", clock) else 0.0,
        took / 2,
    )


def cache_of(entry: HostEntry, home: str) -> str:
    """Return the folder of a host's cache, absolute."""
    return re.sub(r"^~(?=/)", lambda _: home, entry.cache or "~/.cache/kpatchlab")


def bring_up(
    connection: Connection,
    entry: HostEntry,
    cache: Cache,
    there: Far | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Installed:
    """Return a copy of this lab on a host, made where there is none.

    Args:
        cache: of this host; keeps the wheels.
        there: what `far` returned, where it was asked already.
        say: takes a line when a copy is made, which takes a while.

    Raises:
        HostError: the host lacks what it takes, or a package has no wheel for its Python; the hint is the remedy.
    """
    there = there or far(connection)
    _check(connection.name, there)
    folder_of_wheels = wheels(there.platform, cache)
    with tempfile.TemporaryDirectory(prefix="kpatchlab-") as beside:
        staged = Path(beside, "lab")
        _copy_package(PACKAGE, staged / "kpatchlab")
        digest = tree_digest(staged / "kpatchlab")
        key = content_key(digest, folder_of_wheels.name, there.python, there.platform.python)[:24]
        root = cache_of(entry, there.home)
        folder = f"{root}/lab/{key}"
        done = Installed(connection, f"{folder}/venv/bin/python", folder, root, key, copied=False)
        if _is_whole(done, digest):
            return done
        for path in folder_of_wheels.iterdir():
            if path.suffix == ".whl" or path.name == PINS:
                link_or_copy(path, staged / "wheels" / path.name)
        _copy_package(_pip(), staged / "boot/pip")
        size = sum(path.stat().st_size for path in staged.rglob("*") if path.is_file())
        say(f"host {connection.name}: copying the lab there, {size >> 20} MiB")
        _install(connection, staged, folder, there.python)
    return Installed(connection, done.python, folder, root, key, copied=True)


def forget(connection: Connection, entry: HostEntry) -> None:
    """Delete every copy of a lab on a host, those of other labs included; its artifacts stay.

    Raises:
        HostError: they cannot be deleted, or the host does not answer.
    """
    home = far(connection).home
    connection.run(["rm", "-rf", "--", f"{cache_of(entry, home)}/lab"], timeout_s=300)


def own_digest() -> str:
    """Return the digest of the lab's own package, wherever it runs."""
    with tempfile.TemporaryDirectory(prefix="kpatchlab-") as beside:
        _copy_package(PACKAGE, Path(beside, "kpatchlab"))
        return tree_digest(Path(beside, "kpatchlab"))


def _is_whole(done: Installed, digest: str) -> bool:
    """Whether a copy is there, can be run, and has the bytes of this lab; one that is not is deleted.

    That it is used is noted by its time.
    """
    code = "import kpatchlab.hosts.bringup as up; print(up.own_digest())"
    script = f'[ -d "$1" ] || exit {_NOT_THERE}; touch "$1"; exec "$2" -c "$3"'
    words = ["sh", "-c", script, "sh", done.folder, done.python, code]
    said = done.connection.run(words, timeout_s=120, check=False)
    if said.status == 0 and said.stdout.strip() == digest:
        return True
    if said.status != _NOT_THERE:
        done.forget()
    return False


def _check(host: str, there: Far) -> None:
    least = ".".join(map(str, LEAST_PYTHON))
    if not there.python:
        have = f" ({there.platform.python} is the newest)" if there.platform.python else ""
        raise HostError(
            f"host {host}: there is no Python {least} or later{have}",
            hint="apt-get install python3 python3-venv there; Debian 12 and later have it",
        )
    if not there.has_venv:
        raise HostError(f"host {host}: {there.python} has no module venv", hint="apt-get install python3-venv there")


def _install(connection: Connection, staged: Path, folder: str, python: str) -> None:
    part = f"{folder}.{os.getpid()}.{time.monotonic_ns()}"
    connection.put_tree(staged, part, timeout_s=COPY_S)
    words = ["sh", "-c", _INSTALL, "sh", part, folder, python, str(UNUSED_DAYS)]
    done = connection.run(words, timeout_s=INSTALL_S, check=False)
    if done.status:
        said = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()] or ["no word"]
        raise HostError(
            f"host {connection.name}: the lab could not be set up there: {said[-1][:300]}",
            hint="is there room on its disk, and does its Python work?",
            details=tuple(said[-5:-1]),
        )


def _pip() -> Path:
    """Return where this environment's pip is."""
    spec = importlib.util.find_spec("pip")
    if spec is None or not spec.origin:
        raise HostError(f"{sys.executable} has no pip, which sets up other hosts", hint="python3 -m ensurepip")
    return Path(spec.origin).parent


def _copy_package(package: Path, target: Path) -> None:
    """Copy a package without what its Python compiled."""
    shutil.copytree(package, target, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
