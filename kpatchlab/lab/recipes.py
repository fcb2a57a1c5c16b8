"""Recipes of kernels, root file systems and test suites: `kernels/`, `rootfs/` and `suites/`, each with NAME.yaml.

Paths in a kernel's or a suite's recipe are what `locate` makes of them: `~` is the user's home, an absolute path stays,
and any other is relative to the lab's `kernels/` or `suites/`, also where a kernel's recipe stands inline in lab.yaml.
"""

from __future__ import annotations

import os
import re
from abc import abstractmethod
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self, get_args

from pydantic import AfterValidator, Field, WithJsonSchema, model_validator

from kpatchlab.arch import HOST
from kpatchlab.files import below
from kpatchlab.lab.yamlfile import FileModel

ArchName = Literal["", "x86_64", "arm64", "riscv64", "s390x"]
"""The name of an architecture, see `arch.ARCHES`; "" where somebody else says it."""
GCC = "gcc"
"""The compiler of kernels whose recipe names none."""
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"

Text = Annotated[str, WithJsonSchema({"type": ["string", "number", "boolean"]})]
"""Text that may look like a number or a boolean: the loader leaves it alone, so need no quotes around it."""

Name = Annotated[str, Field(pattern=NAME_PATTERN, max_length=64)]
"""A name that is safe in file names and in the names of jobs and columns."""

NoOption = Annotated[str, Field(pattern=r"^([^-]|$)")]
"""Text that no program takes for an option: without a dash in front."""

Needed = Annotated[str, Field(min_length=1)]
"""Text that must not be empty."""

SeriesVersion = Annotated[Text, Field(pattern=r"^((rfc-)?[vV]?[0-9]{1,4}(\.[0-9]{1,4})?)?$")]
"""A version of a series as it was posted: 2, v2, rfc-1."""
_VERSION_HELP = "which version, as in `2`; needed where the mailbox has several"


def locate(path: str, lab_root: Path, folder: str = "kernels") -> Path:
    """Return the absolute path that a `path` or `config` entry of a recipe means; "-" is not for here.

    Args:
        folder: the recipe's, in the lab.
    """
    return Path(os.path.normpath(lab_root / folder / Path(path).expanduser()))


def check_symbol(name: str) -> str:
    """Return the name of a configuration symbol as it is.

    Raises:
        ValueError: it cannot be one.
    """
    if name.startswith("CONFIG_"):
        raise ValueError(f"'{name}': write {name.removeprefix('CONFIG_')}, without CONFIG_")
    if not re.fullmatch(r"[A-Za-z0-9_]+", name):
        raise ValueError(f"'{name}' is not the name of a configuration symbol")
    return name


def _symbol_value(value: str) -> str:
    meant = {"yes": "y", "true": "y", "on": "y", "no": "n", "false": "n", "off": "n"}.get(value.lower())
    if meant:
        raise ValueError(f"'{value}' is not a value of a configuration symbol; write {meant}")
    if not value.isprintable():
        raise ValueError(f"{value!r}: a value is one line of printable characters")
    return value


def _inside(name: str) -> str:
    if name and below(Path("rootfs"), name) is None:
        raise ValueError(f"'{name}' leads out of rootfs/")
    return name


Symbol = Annotated[str, AfterValidator(check_symbol)]
"""A kernel configuration symbol, without CONFIG_."""

SymbolValue = Annotated[str, AfterValidator(_symbol_value), WithJsonSchema({"type": ["string", "number"]})]
"""What a symbol is set to: y, m, n, a number, or text."""


class _Part(FileModel):
    """A part of a recipe that is of one of several types."""

    type: str

    @classmethod
    def kind(cls) -> str:
        """Return what `type` says for it."""
        return str(get_args(cls.model_fields["type"].annotation)[0])

    @property
    def on_host(self) -> str:
        """The path on this host that it reads, as the recipe has it; "" for none."""
        return ""


class SourceModel(_Part):
    """What a kernel recipe's `source` says, whatever its type; `prebuilt`: it is a finished kernel, and no tree."""

    prebuilt: ClassVar[bool] = False


class SeriesModel(_Part):
    """What one part of a kernel recipe's `series` says, whatever its type."""

    @property
    @abstractmethod
    def where(self) -> str:
        """Which patches, in a word: a path, a range, a message."""


class _PathOrUrl(_Part):
    """What comes either from this host or from another."""

    path: str = Field(default="", description="a path on this host; give either this or url")
    url: NoOption = Field(default="", description="a URL to fetch it from; give either this or path")

    @property
    def on_host(self) -> str:
        """The path, "" where it comes from another host."""
        return self.path

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if bool(self.path) == bool(self.url):
            raise ValueError("needs either path or url" if not self.path else "takes path or url, not both")
        return self


class DebianSource(SourceModel):
    """The kernel source that Debian packages, from the lab's own apt."""

    type: Literal["debian-source"] = Field(description="the source tree of a linux-source package")
    package: Needed = Field(description="name of the package, as in `linux-source-6.12`")
    suite: Needed = Field(description="Debian suite that has it, as in `trixie`")


class DebianImage(SourceModel):
    """A kernel that Debian built: nothing is compiled, its configuration is Debian's."""

    prebuilt: ClassVar[bool] = True

    type: Literal["debian-image"] = Field(description="a kernel that Debian built")
    package: Needed = Field(
        description="name of the package, as in `linux-image-{arch}`; `{arch}` is the kernel's architecture, as Debian"
        " calls it"
    )
    suite: Needed = Field(description="Debian suite that has it, as in `trixie`")


class DebianUpstream(SourceModel):
    """The archive that a source package of Debian's was made of, as its authors released it."""

    type: Literal["debian-upstream"] = Field(description="the upstream archive of a Debian source package")
    package: Needed = Field(description="name of the source package, as in `libkcapi`")
    suite: Needed = Field(description="Debian suite that has it, as in `trixie`")


class GitSource(_PathOrUrl, SourceModel):
    """One revision of a git repository."""

    type: Literal["git"] = Field(description="one revision of a git repository")
    revision: Needed = Field(
        pattern=r"^[^-]", description="tag, branch or commit; with a url, `ID^` and `ID~N` of a full commit id as well"
    )


class DirSource(SourceModel):
    """A tree as it lies on this host, changes that are not committed included; built out of it, never written to."""

    type: Literal["dir"] = Field(description="a source tree on this host")
    path: Needed = Field(description="the tree's top directory")

    @property
    def on_host(self) -> str:
        """The tree."""
        return self.path


class SuiteDir(DirSource):
    """A suite as it lies on this host, changes that are not committed included; copied, never written to."""

    path: Needed = Field(description="the suite's top folder")


class TarballSource(_PathOrUrl, SourceModel):
    """A packed tree, `linux-6.12.tar.xz` or the like."""

    type: Literal["tarball"] = Field(description="a packed source tree")
    sha256: str = Field(
        default="", pattern=r"^([0-9a-f]{64})?$", description="the SHA-256 that the file must have, in hex"
    )


class _PathSeries(SeriesModel):
    """Patches that are on this host."""

    path: Needed

    @property
    def on_host(self) -> str:
        """The file or directory, "" for standard input."""
        return self.path if self.path != "-" else ""

    @property
    def where(self) -> str:
        """The file or directory."""
        return self.path


class MboxSeries(_PathSeries):
    """Patches in one mailbox file, as mail programs and `b4 am` write it."""

    type: Literal["mbox"] = Field(description="patches in one mailbox file")
    path: Needed = Field(description="the file, or - for standard input")
    version: SeriesVersion = Field(default="", description=_VERSION_HELP)


class PatchesSeries(_PathSeries):
    """Every `*.patch` of a directory, sorted by name, as `git format-patch` writes them."""

    type: Literal["patches"] = Field(description="every *.patch of a directory, sorted by name")
    path: Needed = Field(description="the directory")
    version: SeriesVersion = Field(default="", description=_VERSION_HELP.replace("mailbox", "directory"))


class QuiltSeries(_PathSeries):
    """A quilt directory: the patches that its file `series` names, in that order."""

    type: Literal["quilt"] = Field(description="the patches that a quilt directory's `series` file names")
    path: Needed = Field(description="the directory")


class GitSeries(_PathOrUrl, SeriesModel):
    """The commits of a range in a git repository, as patches."""

    type: Literal["git"] = Field(description="the commits of a range in a git repository")
    range: Needed = Field(pattern=r"^[^ -][^ ]*\.\.[^ .-][^ ]*$", description="base..tip, as in `v6.3-rc2..my-branch`")

    @property
    def where(self) -> str:
        """The range."""
        return self.range


class MessageIdSeries(SeriesModel):
    """A series on a public mailing list, fetched whole by b4 from any message of its thread."""

    type: Literal["message-id"] = Field(description="a series on a mailing list, fetched by b4")
    id: Needed = Field(
        pattern=r"^[^-]", description="message id of the cover letter or of a patch, without angle brackets"
    )
    version: SeriesVersion = Field(default="", description="which version of the series, as in `2`; the newest without")

    @property
    def where(self) -> str:
        """The message."""
        return self.id


Source = Annotated[DebianSource | DebianImage | GitSource | DirSource | TarballSource, Field(discriminator="type")]
Series = Annotated[MboxSeries | PatchesSeries | QuiltSeries | GitSeries | MessageIdSeries, Field(discriminator="type")]

SuiteSource = Annotated[DebianUpstream | GitSource | SuiteDir | TarballSource, Field(discriminator="type")]


_OF_A_BUILD = ("series", "config", "config_set", "prebuilt", "compiler", "toolchain")
"""Keys that say how a tree is built."""


class KernelRecipe(FileModel):
    """How to come by one kernel: a source, a series of patches on top of it, a configuration."""

    description: str = Field(default="", description="one line for people; reports show it")
    source: Source = Field(description="where the tree, or the finished kernel, comes from")
    series: tuple[Series, ...] = Field(default=(), description="patch series, applied to the tree in this order")
    config: tuple[Needed, ...] = Field(
        default=(), description="configuration fragments in `kernels/`, merged in this order on top of virtme-ng's own"
    )
    config_set: dict[Symbol, SymbolValue] = Field(
        default={}, description="single configuration symbols without CONFIG_, merged last: y, m, n, a number or text"
    )
    compiler: str = Field(
        default=GCC, pattern=r"^(gcc|clang)(-[0-9]{1,2})?$", description="what compiles it, as in `gcc-12` or `clang`"
    )
    toolchain: Annotated[str, Field(pattern=rf"{NAME_PATTERN}|^$")] = Field(
        default="",
        description="Debian suite that compiler and tools come from, as in `sid`: it is built in a root of these, the"
        " same on every host; empty: this host's",
    )
    arch: ArchName = Field(
        default="", description="architecture; empty: that of the lab's machine, the host's where that names none"
    )
    debug: bool = Field(
        default=False,
        description="true for a kernel with sanitizers or other slow checks: the lab takes no figures on it",
    )
    prebuilt: Annotated[str, Field(pattern=rf"{NAME_PATTERN}|^$")] = Field(
        default="",
        description="recipe of the same source as a distribution built it: `run` takes it where it can run a scenario",
    )
    coverage: bool = Field(
        default=False,
        description="true: compile the C files that the series changes for gcov; the verb `coverage` sets it by itself",
    )

    @property
    def is_prebuilt(self) -> bool:
        """Whether its source brings a finished kernel: nothing is compiled, and nothing can be added to it."""
        return self.source.prebuilt

    @property
    def built_for(self) -> str:
        """The architecture, the host's own where nobody has named one; see `arch.ARCHES`."""
        return self.arch or HOST

    @model_validator(mode="after")
    def _nothing_to_build(self) -> Self:
        own = [name for name in _OF_A_BUILD if getattr(self, name) != type(self).model_fields[name].default]
        if self.is_prebuilt and own:
            raise ValueError(f"a {self.source.type} is not built here: it takes no {', '.join(own)}")
        if self.toolchain and self.built_for != HOST:
            raise ValueError(f"toolchain: a suite's compilers are for {HOST}: leave it out")
        if self.prebuilt and self.series:
            raise ValueError("prebuilt: nobody has built a kernel with a series: leave it out")
        return self


class RootRecipe(FileModel):
    """A guest's root file system: Debian packages and files of the lab's own."""

    description: str = Field(default="", description="one line for people")
    suite: Needed = Field(default="trixie", description="Debian suite that the packages come from")
    packages: tuple[Needed, ...] = Field(default=(), description="packages to install, with all that they depend on")
    files: Annotated[str, AfterValidator(_inside)] = Field(
        default="", description="directory in `rootfs/` that is copied over the root; empty: none"
    )
    size_hint_mib: int = Field(
        default=512, ge=1, description="disk space that the lab needs to make it, in MiB; checked before"
    )


class SuiteRecipe(FileModel):
    """How to come by a test suite of others: a source, and what makes programs for guests of it."""

    description: str = Field(default="", description="one line for people")
    source: SuiteSource = Field(description="where the suite comes from")
    suite: Needed = Field(default="trixie", description="Debian suite of the root in which it is built")
    packages: tuple[Needed, ...] = Field(
        default=(), description="Debian packages that building it needs; they do not come into a guest"
    )
    build: Needed = Field(
        description="lines for bash that build it, in the tree's top folder. `$OUT`, which is /lab/suites/NAME as in"
        " the guest, takes what guests get; `$JOBS` is what make's -j takes. The first line that fails ends it, and"
        " there is no network"
    )
