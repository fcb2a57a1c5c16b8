"""Trees and finished kernels that come in Debian's packages."""

from __future__ import annotations

import functools
import re
import shutil
from pathlib import Path
from typing import TypeVar

from kpatchlab.arch import ARCHES, HOST
from kpatchlab.build.built import Unbuilt
from kpatchlab.build.origin import Key, Source, Stand, shown_key, untar
from kpatchlab.cache import file_digest
from kpatchlab.errors import UserError
from kpatchlab.host.debian import Apt
from kpatchlab.lab import recipes
from kpatchlab.model import Outcome

D = TypeVar("D", recipes.DebianSource, recipes.DebianImage)


class _Debian(Source[D]):
    """What comes in a package of Debian's."""

    @property
    def apt(self) -> Apt:
        ctx = self.ctx
        return Apt(ctx.cache, self.spec.suite, ctx.mirror, self._debian_arch, verbose=ctx.verbose)

    @property
    def _debian_arch(self) -> str:
        """The architecture whose package it is; sources are in those of all."""
        return ARCHES[HOST].debian

    @property
    def package(self) -> str:
        """The package's name."""
        return self.spec.package

    def ask(self) -> Key:
        """Return package and version, as the mirror has it now; a meta package's changes with what it points at."""
        return {"package": self.package, "version": self.apt.candidate(self.package)}

    def describe(self) -> str:
        """Return package, version and suite."""
        return f"Debian {shown_key(self.key)} ({self.spec.suite})"

    def stand(self) -> Stand | None:
        """Return the version that the lists have, and how old these are; None of a snapshot's."""
        apt = self.apt
        version = "" if apt.mirror.is_snapshot else apt.known(self.package)
        what = f"Debian {self.package} {version} ({self.spec.suite})"
        return Stand(what, apt.made(version), apt.valid_until()) if version else None


class DebianSource(_Debian[recipes.DebianSource]):
    """`{type: debian-source, package:, suite:}`: Debian's tree with its patches, from a linux-source package."""

    def unpack(self, into: Path) -> None:
        """Fetch the package, take the archive out of it, unpack that; `linux-source` is followed to the newest one."""
        package = self.package
        needed = [package] if re.search(r"\d$", package) else self.apt.resolve(package)
        holder = into.parent / "deb"
        shutil.rmtree(holder, ignore_errors=True)
        for deb in self.apt.fetch([name for name in needed if name == package or name.startswith("linux-source-")]):
            self.apt.unpack(deb, holder)
        archives = sorted((holder / "usr/src").glob("linux-source-*.tar.*"))
        if not archives:
            raise UserError(f"{package}: no source archive in it", hint="its name is like linux-source-6.1")
        untar(archives[0], into, self.ctx)
        shutil.rmtree(holder)


class DebianImage(_Debian[recipes.DebianImage]):
    """`{type: debian-image, package:, suite:}`: a kernel that Debian built; `unpack` gives its files, not a tree."""

    @property
    def _debian_arch(self) -> str:
        return ARCHES[self.ctx.arch].debian

    @property
    def package(self) -> str:
        """The package's name; `{arch}` in the recipe's is the kernel's architecture, as Debian calls it."""
        return self.spec.package.replace("{arch}", self._debian_arch)

    def describe(self) -> str:
        """Return package, version and suite."""
        return f"{super().describe()}, as Debian built it"

    def unpack(self, into: Path) -> None:
        """Write the files of the kernel's packages below `into`; where they lie there is `prebuilt.take`'s to find."""
        for deb in self.apt.fetch(self._packages):
            self.apt.unpack(deb, into)

    def by_hand(self) -> str:
        """Return what fetches the packages."""
        return f"apt-get download {' '.join(self._packages)}"

    @functools.cached_property
    def _packages(self) -> list[str]:
        """The packages that the kernel's files are in; linux-image-amd64 and its like are followed to the real one.

        Until 6.12 linux-image-V has them all. From forky on it is empty, and needs linux-binary-V with the image,
        linux-modules-V with the modules, and linux-base-V with the configuration and the lists of modules.
        """
        package = self.package
        names = [package, *self.apt.resolve(package)]
        real = next((name for name in names if re.match(r"linux-image-\d", name)), None)
        if real is None:
            raise UserError(f"{package}: leads to no kernel image", hint="linux-image-amd64, for instance")
        release = real.removeprefix("linux-image-")
        return sorted({name for name in names if re.fullmatch(rf"linux-[a-z-]+-{re.escape(release)}", name)})

    def of_its_tree(self) -> DebianSource:
        """Return the linux-source package of the same version.

        Raises:
            Unbuilt: the suite has another version of it, or none.
        """
        version, suite = self.key["version"], self.spec.suite
        package = "linux-source-" + ".".join(re.findall(r"\d+", version)[:2])
        try:
            there = self.apt.candidate(package)
        except UserError:
            there = ""
        if there != version:
            what = f"has {package} {there}" if there else f"has no {package}"
            raise Unbuilt(Outcome.SKIP, f"no source of this kernel: it is {version}, and Debian {suite} {what}")
        return DebianSource(recipes.DebianSource(type="debian-source", package=package, suite=suite), self.ctx)


class DebianUpstream(Source[recipes.DebianUpstream]):
    """`{type: debian-upstream, package:, suite:}`: what Debian made a package of, as its authors released it."""

    def ask(self) -> Key:
        """Return the archive's digest; it is fetched once."""
        return {"sha256": file_digest(self._archive)}

    def describe(self) -> str:
        """Return the archive's name and the suite."""
        return f"Debian's {self._archive.name} ({self.spec.suite})"

    def unpack(self, into: Path) -> None:
        """Unpack the archive."""
        untar(self._archive, into, self.ctx)

    @functools.cached_property
    def _archive(self) -> Path:
        ctx = self.ctx
        apt = Apt(ctx.cache, self.spec.suite, ctx.mirror, verbose=ctx.verbose, with_sources=True)
        return apt.fetch_upstream(self.spec.package)
