"""The lab's Python packages as wheels, for the Python of another host: collected here, once, so that it needs no index.

Where the lock is there (in a clone), it says which releases, and pip checks their hashes; else they are those that are
installed here. What has no wheel is built here, and does elsewhere as well where it is Python alone.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

import kpatchlab
from kpatchlab import proc
from kpatchlab.cache import Cache, content_key
from kpatchlab.errors import HostError
from kpatchlab.files import link_or_copy

KIND = "wheels"
PINS = "pins.txt"
"""In a folder of wheels: what to install of them."""
LOCK = Path(kpatchlab.__file__).parents[1] / "lock"
LEAST_PYTHON = (3, 11)
_OLDEST_GLIBC = 17
"""The minor version of glibc that manylinux2014 stands for (PEP 599)."""
_COLLECT_S = 1800.0


@dataclass(frozen=True, slots=True)
class Platform:
    """What decides which wheels a Python takes: its version ("3.11.7"), the machine, and glibc's version ("2.36")."""

    python: str
    machine: str
    glibc: str

    @classmethod
    def here(cls) -> Platform:
        """Return this one."""
        return cls(platform.python_version(), platform.machine(), platform.libc_ver()[1])

    @property
    def minor(self) -> str:
        """The version of Python that wheels are made for."""
        return ".".join(self.python.split(".")[:2])

    @property
    def glibc_minor(self) -> int:
        """The second number of glibc's version; 0 where there is no glibc."""
        return int(self.glibc.split(".")[1]) if re.fullmatch(r"2\.\d+.*", self.glibc) else 0

    def takes_those_of(self, other: Platform) -> bool:
        """Whether every wheel for another platform does for this one."""
        same = (self.minor, self.machine) == (other.minor, other.machine)
        return same and self.glibc_minor >= other.glibc_minor

    def environment(self) -> dict[str, str]:
        """Return what markers of requirements ask for."""
        return {
            "python_version": self.minor, "python_full_version": self.python, "platform_machine": self.machine,
            "implementation_name": "cpython", "platform_python_implementation": "CPython", "extra": "",
        }  # fmt: skip

    def __str__(self) -> str:
        return f"Python {self.minor} on {self.machine} with glibc {self.glibc or 'unknown'}"


@dataclass(frozen=True, slots=True)
class _Pin:
    """A release that is wanted: `name==version`, and its lines in a file of requirements."""

    name: str
    version: str
    lines: str


def wheels(wanted: Platform, cache: Cache) -> Path:
    """Return a folder with every wheel for a platform, and with `PINS`; collected where the cache has none.

    Raises:
        HostError: a package has no wheel for it, or no index can be reached.
    """
    here = Platform.here()
    if wanted.takes_those_of(here):
        wanted = here
    whole = _pins(wanted)
    key = content_key(KIND, [pin.lines for pin in whole], wanted.minor, wanted.machine, wanted.glibc)

    def collect(folder: Path) -> None:
        pip = _Pip(folder, hashed=LOCK.is_dir())
        if wanted == here:
            pip.build(whole)
        else:
            _collect_for(wanted, whole, pip, wheels(here, cache))
        (folder / PINS).write_text("".join(f"{pin.name}=={pin.version}\n" for pin in whole))

    return cache.get(KIND, key, collect, label=f"wheels for {wanted}")


def _collect_for(wanted: Platform, whole: Sequence[_Pin], pip: _Pip, near: Path) -> None:
    """Collect for another platform: of the wheels of this one those that are Python alone, the rest from the index."""
    plain = {}
    for path in near.glob("*-none-any.whl"):
        name, version, _, _ = parse_wheel_filename(path.name)
        plain[name, str(version)] = path
    rest = []
    for pin in whole:
        if found := plain.get((canonicalize_name(pin.name), pin.version)):
            link_or_copy(found, pip.folder / found.name)
        else:
            rest.append(pin)
    pip.download(rest, wanted)


def _pins(wanted: Platform) -> list[_Pin]:
    """Return each release that the lab needs on a platform."""
    path = LOCK / "lab.txt"
    if not path.is_file():
        return _installed(wanted)
    found = []
    for block in re.split(r"\n(?=\S)", path.read_text()):
        if not block.startswith("#"):
            asked = Requirement(block.split(" \\\n")[0])
            if not asked.marker or asked.marker.evaluate(wanted.environment()):
                version = next(iter(asked.specifier)).version
                lines = re.sub(r" ;[^\\]*(?= \\)", "", block, count=1)  # pip asks for the marker by its own Python
                found.append(_Pin(asked.name, version, lines.strip() + "\n"))
    return found


def _installed(wanted: Platform) -> list[_Pin]:
    """Return the releases of what the lab needs as they are installed here."""
    found: dict[str, _Pin] = {}
    left = ["kpatchlab"]
    while left:
        for text in importlib.metadata.requires(left.pop()) or ():
            asked = Requirement(text)
            name = canonicalize_name(asked.name)
            if name in found or (asked.marker and not asked.marker.evaluate(wanted.environment())):
                continue
            try:
                version = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                raise HostError(
                    f"{name}, which the lab needs with Python {wanted.minor}, is not installed here",
                    hint=f"a host with Python {Platform.here().minor} needs nothing more than this one",
                ) from None
            found[name] = _Pin(name, version, f"{name}=={version}\n")
            left.append(name)
    return list(found.values())


@dataclass(frozen=True, slots=True)
class _Pip:
    """This environment's pip, which puts wheels into a folder; `hashed`: pins have hashes."""

    folder: Path
    hashed: bool

    def build(self, pins: Sequence[_Pin]) -> None:
        """Get a wheel of each, and make it of its source where there is none."""
        self._run("wheel", pins, ["--wheel-dir", str(self.folder)])

    def download(self, pins: Sequence[_Pin], wanted: Platform) -> None:
        """Get a wheel of each for another platform."""
        tags = [f"manylinux_2_{minor}_{wanted.machine}" for minor in range(wanted.glibc_minor, _OLDEST_GLIBC - 1, -1)]
        tags.append(f"manylinux2014_{wanted.machine}")
        plain = wanted.minor.replace(".", "")
        words = ["--dest", str(self.folder), "--only-binary=:all:", "--implementation=cp", f"--python-version={plain}"]
        words += [f"--abi={abi}" for abi in (f"cp{plain}", "abi3", "none")]
        try:
            self._run("download", pins, [*words, *(f"--platform={tag}" for tag in tags)])
        except HostError as error:
            missing = re.search(r"No matching distribution found for (\S+)", "\n".join(error.details))
            if not missing:
                raise
            here = Platform.here()
            same = f"install Python {here.minor} there: this host has all wheels for that"
            raise HostError(
                f"there is no wheel of {missing[1]} for {wanted}",
                hint=same if wanted.machine == here.machine else f"hosts of {here.machine} have all",
            ) from None

    def _run(self, verb: str, pins: Sequence[_Pin], words: Sequence[str]) -> None:
        if not pins:
            return
        with tempfile.TemporaryDirectory() as beside:
            asked = Path(beside, "asked.txt")
            asked.write_text("".join(pin.lines for pin in pins))
            hashes = ["--require-hashes"] if self.hashed else []
            argv = [sys.executable, "-m", "pip", verb, "--no-deps", *hashes, "--disable-pip-version-check", *words]
            done = proc.run([*argv, "-r", asked], timeout_s=_COLLECT_S, check=False, env=_environment())
        if done.status:
            said = [line for line in done.stderr.splitlines() if line.startswith("ERROR") or "No module named" in line]
            raise HostError(
                f"pip could not collect the lab's packages: {(said or ['no word'])[-1][:300]}",
                hint="it takes an index, once: on this host, not on the others",
                details=tuple(said[-5:]),
            )


def _environment() -> Mapping[str, str]:
    """Return pip's environment: what it builds wheels with is of the lock as well."""
    build = LOCK / "build.txt"
    more = {"PIP_CONSTRAINT": str(build), "PIP_BUILD_CONSTRAINT": str(build)} if build.is_file() else {}
    return {**os.environ, **more}
