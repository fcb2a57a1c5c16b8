"""Where a kernel tree comes from: one class a type, one row in `SOURCES`.

`docs/add-a-source-type.md` shows how to add one.
"""

from __future__ import annotations

import datetime as dt
import functools
import os
import re
import shutil
import stat
import tempfile
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from kpatchlab import proc
from kpatchlab.build import git
from kpatchlab.build.built import Unbuilt
from kpatchlab.build.context import BuildContext
from kpatchlab.cache import content_key, file_digest
from kpatchlab.errors import HostError, UserError
from kpatchlab.files import KINDS
from kpatchlab.host.debian import Apt
from kpatchlab.lab import recipes
from kpatchlab.model import Outcome
from kpatchlab.textclean import one_line
from kpatchlab.urls import authorized, shown

UNPACK_S = 1800.0
BUILT = (
    "/.config*", "/include/config/", "/include/generated/", "/arch/*/include/generated/", "/scripts/kconfig/*conf",
    "*.o", "*.ko", "*.a", "*.mod", "*.mod.c", ".*.cmd", ".*.d", "/vmlinux*", "/System.map", "/Module.symvers",
    "/modules.*", "modules.order", "/.git",
)  # fmt: skip
"""What a build in the tree leaves, for trees that come without .gitignore files."""


Key = dict[str, str]
"""What decides about a tree's content."""


@dataclass(frozen=True, slots=True)
class Stand:
    """Where something stands that moves by itself: a branch, the newest package of a suite.

    Attributes:
        what: one line for people.
        since: when it was made; None where nobody can tell.
        valid_until: when the mirror's word of it ends; None for never.
    """

    what: str
    since: dt.datetime | None
    valid_until: dt.datetime | None = None


S = TypeVar("S", bound=recipes.SourceModel)


class Source(ABC, Generic[S]):
    """What one type of source does with a recipe's `source`, `spec`.

    It stands for one tree: what decides about the content is asked once, so that a branch which moves meanwhile does
    not matter.
    """

    def __init__(self, spec: S, ctx: BuildContext) -> None:
        self.spec, self.ctx = spec, ctx

    @functools.cached_property
    def key(self) -> Key:
        """What decides about the tree's content, as it was when it was first asked for."""
        return self.ask()

    @property
    def tree_key(self) -> str:
        """Content key of the tree."""
        return content_key(self.spec.type, self.key)

    @abstractmethod
    def ask(self) -> Key:
        """Return what decides about the tree's content now: cheap, nothing is unpacked."""

    @abstractmethod
    def describe(self) -> str:
        """Return one line for people: what the tree is."""

    @abstractmethod
    def unpack(self, into: Path) -> None:
        """Write the tree, or a finished kernel's files, to `into`, an empty directory that the build owns."""

    def write_tree(self, into: Path) -> None:
        """Write the tree to `into`, and look at what came: nobody is trusted to pack files and folders alone.

        Raises:
            UserError: there is a device, a fifo or a socket in it, or the folder in which the lab builds.
        """
        self.unpack(into)
        _check(into, self.describe())

    def stand(self) -> Stand | None:
        """Return where what the recipe follows stands, as far as it is known here; None where it follows nothing.

        Nothing is fetched, and no server is asked.
        """
        return None

    def by_hand(self) -> str:
        """Return a command that brings the same, "" for none; asked of finished kernels alone."""
        return ""

    def of_its_tree(self) -> Source[Any]:
        """Return the source of the tree that the kernel was built from: another one where it comes finished.

        Raises:
            Unbuilt: there is none.
        """
        if self.spec.prebuilt:
            raise Unbuilt(Outcome.SKIP, f"no source of this kernel: a {self.spec.type} comes without its tree")
        return self


def _shown(key: Key) -> str:
    return " ".join(
        value[:12] if name in {"commit", "sha256", "digest", "dirty"} else value for name, value in key.items()
    )


def _where(spec: recipes.GitSource | recipes.TarballSource, ctx: BuildContext) -> str | Path:
    """Return the URL of a source, as people may see it, or its path on this host."""
    return shown(spec.url) if spec.url else ctx.path(spec.path)


def _untar(archive: Path, into: Path, ctx: BuildContext) -> None:
    """Unpack an archive of any compression, without its top directory, owners, set-uid bits, and git's own folders.

    Raises:
        UserError: there is a device in it, which only root could make.
    """
    words = ["tar", "--extract", "--file", str(archive), "--directory", str(into), "--strip-components=1"]
    words += ["--no-same-owner", "--no-same-permissions", "--exclude=.git"]
    done = proc.run(words, timeout_s=UNPACK_S, cancel=ctx.cancel, check=False)
    ctx.check_cancel()
    if "Cannot mknod" in done.stderr:
        raise UserError(f"{archive.name}: there is a device in it", hint="it is no kernel's source")
    if done.status != 0 or done.timed_out:
        raise proc.CommandFailed(done)


def _check(tree: Path, what: str) -> None:
    """Refuse a tree that has anything but files, folders and links, or something where the lab builds."""
    if os.path.lexists(tree / "obj"):
        raise UserError(f"{what}: it has a file or folder named obj", hint="the lab builds there; take it away")
    for folder, folders, files in os.walk(tree):
        for name in (*folders, *files):
            path = Path(folder, name)
            mode = path.lstat().st_mode
            if stat.S_ISREG(mode) and mode & (stat.S_ISUID | stat.S_ISGID):
                path.chmod(stat.S_IMODE(mode) & 0o777)
            elif (kind := KINDS.get(stat.S_IFMT(mode))) and not stat.S_ISDIR(mode):
                raise UserError(
                    f"{what}: {one_line(str(path.relative_to(tree)), 100)} is {kind}", hint="it is no kernel's source"
                )


def _copy(source: str | Path, target: str | Path) -> None:
    """Copy a file or a link.

    Raises:
        UserError: it is a device, a fifo or a socket: reading it might never end.
    """
    kind = stat.S_IFMT(os.lstat(source).st_mode)
    if kind not in {stat.S_IFREG, stat.S_IFLNK}:
        raise UserError(f"{source} is {KINDS.get(kind, 'no file')}", hint="take it out of the tree")
    shutil.copy2(source, target, follow_symlinks=False)


class Git(Source[recipes.GitSource]):
    """`{type: git, url: or path:, revision:}`: any revision of a repository, near or far."""

    def ask(self) -> Key:
        """Return the commit id."""
        repository, revision = self._repository(), self.spec.revision
        if self.spec.url:
            return {"commit": git.resolve_fetched(repository, revision, self.ctx)}
        commit = repository.commit(revision)
        if not commit:
            raise UserError(
                f"{repository.path} has no revision {revision!r}", hint="git fetch it there, then try again"
            )
        return {"commit": commit}

    def describe(self) -> str:
        """Return repository, revision and commit."""
        return f"git {_where(self.spec, self.ctx)} {self.spec.revision} ({self.key['commit'][:12]})"

    def unpack(self, into: Path) -> None:
        """Fetch that one commit where it is far, and write its files."""
        self.fetched().export(self.key["commit"], into, self.ctx)

    def stand(self) -> Stand | None:
        """Return the tip of a branch, with the date of its commit; nothing of a tag or a commit."""
        repository, revision = self._repository(), self.spec.revision
        commit = git.tip(repository, revision)
        what = f"git {_where(self.spec, self.ctx)} {revision} ({commit[:12]})"
        return Stand(what, repository.committed(commit)) if commit else None

    def fetched(self) -> git.Repository:
        """Return the repository, with that one commit in it."""
        repository = self._repository()
        if self.spec.url:
            name = re.sub(r"[~^].*", "", self.spec.revision.removeprefix("refs/heads/"))
            git.fetch(repository, self.key["commit"], name, self.ctx)
        return repository

    def _repository(self) -> git.Repository:
        if self.spec.url:
            return git.open_url(self.spec.url, self.ctx)
        return git.open_local(self.ctx.path(self.spec.path))


class Dir(Source[recipes.DirSource]):
    """`{type: dir, path:}`: the user's own tree, uncommitted changes included; nothing in it is ever written.

    It may have been configured and built where it lies.
    """

    def ask(self) -> Key:
        """Return HEAD and the digest of what differs from it; the digest of all files where git does not know it."""
        path = self.path()
        if not (path / ".git").exists():
            return {"digest": content_key([(name, self._state(path / name)) for name in self.files()])}
        repository = git.open_local(path)
        head = repository.commit("HEAD")
        names = self._changed(repository, head)
        states = [(name, self._state(path / name)) for name in names]
        return {"commit": head} | ({"dirty": content_key(states)} if states else {})

    def describe(self) -> str:
        """Return the path and, from git, where it is."""
        return f"{self.path()} ({_shown(self.key)})" + (" with uncommitted changes" if "dirty" in self.key else "")

    def unpack(self, into: Path) -> None:
        """Copy the tree, without what was built in it: for a series on top of it."""
        path = self.path()
        for name in self.files():
            if name.split("/")[0] == "obj":  # where the lab builds
                continue
            if os.path.lexists(path / name) and not ((path / name).is_dir() and not (path / name).is_symlink()):
                (into / name).parent.mkdir(parents=True, exist_ok=True)
                _copy(path / name, into / name)

    def files(self) -> list[str]:
        """Return what is of the tree, whether or not something was built in it, sorted.

        That is what git tracks, and what is new and not ignored. Where git does not know the tree, it is what the
        tree's own .gitignore files and `BUILT` leave: what `make mrproper` leaves.
        """
        path = self.path()
        words = ("ls-files", "-z", "--others", "--exclude-standard")
        if (path / ".git").exists():
            repository = git.open_local(path)
            data = repository.read(*words, "--cached", env=repository.work_tree())
        else:
            with tempfile.TemporaryDirectory(prefix="kpatchlab-dir-") as scratch:
                git.make_bare(Path(scratch))
                excluded = (f"--exclude={pattern}" for pattern in BUILT)
                env = {"GIT_DIR": scratch, "GIT_WORK_TREE": str(path)}
                data = git.Repository(path).read(*words, *excluded, env=env)
        return sorted({os.fsdecode(raw) for raw in data.split(b"\0") if raw})

    def path(self) -> Path:
        """Return the tree's absolute path.

        Raises:
            UserError: it is no kernel tree.
        """
        path = self.ctx.path(self.spec.path)
        if not (path / "Makefile").exists() or not (path / "Kconfig").exists():
            raise UserError(f"{path}: not a kernel tree", hint="source.path names the directory with the top Makefile")
        return path

    @staticmethod
    def _changed(repository: git.Repository, head: str) -> list[str]:
        """Return every path that differs from HEAD, and untracked ones; sorted."""
        found: set[str] = set()
        env = repository.work_tree()
        commands = (
            ("diff", "--no-ext-diff", "--no-renames", "--ignore-submodules", "--name-only", "-z", head, "--")
            if head
            else ("ls-files", "-z"),
            ("ls-files", "-z", "--others", "--exclude-standard"),
        )
        for words in commands:
            names = repository.read(*words, env=env).split(b"\0")
            found |= {os.fsdecode(name) for name in names if name}
        return sorted(found)

    @staticmethod
    def _state(path: Path) -> str:
        if path.is_symlink():
            return f"link {os.readlink(path)}"
        if not path.is_file():
            return "gone"
        return f"{'x' if os.access(path, os.X_OK) else '-'} {file_digest(path)}"


class Tarball(Source[recipes.TarballSource]):
    """`{type: tarball, path: or url:, sha256:}`: an archive with one top directory."""

    def ask(self) -> Key:
        """Return the archive's digest: the recipe's own, else the file's; an archive from a URL is fetched once."""
        return {"sha256": self.spec.sha256.lower() or file_digest(self._file())}

    def describe(self) -> str:
        """Return where it is from."""
        return f"{_where(self.spec, self.ctx)} ({_shown(self.key)})"

    def unpack(self, into: Path) -> None:
        """Check the archive's digest, then unpack it."""
        archive, wanted = self._file(), self.spec.sha256
        if wanted and file_digest(archive) != wanted.lower():
            raise UserError(f"{archive.name}: its sha256 is not {wanted}", hint="a new release? then give its digest")
        _untar(archive, into, self.ctx)

    def _file(self) -> Path:
        url = self.spec.url
        if not url:
            path = self.ctx.path(self.spec.path)
            if not path.is_file():
                raise UserError(f"{path}: no such file", hint="source.path names the archive")
            return path
        # Imported here: the HTTP client behind it costs every start of the lab 11 ms.
        import http.client
        import urllib.parse
        import urllib.request

        if urllib.parse.urlsplit(url).scheme not in {"http", "https", "file"}:
            hint = "for a file on this host use source.path"
            raise UserError(f"{shown(url)}: not an http or https address", hint=hint)
        name = Path(urllib.parse.urlsplit(url).path).name or "tree.tar"

        def download(work: Path) -> None:
            try:
                request = authorized(url)
                with urllib.request.urlopen(request, timeout=60) as answer, (work / name).open("wb") as handle:  # noqa: S310
                    shutil.copyfileobj(answer, handle)
            except (OSError, http.client.HTTPException, ValueError) as error:
                why = getattr(error, "reason", "") or type(error).__name__
                raise HostError(f"cannot fetch {shown(url)}: {why}", hint="is there a network?") from None

        return self.ctx.cache.get("tarball", content_key(url, self.spec.sha256), download, label=name) / name


D = TypeVar("D", recipes.DebianSource, recipes.DebianImage)


class _Debian(Source[D]):
    """What comes in a package of Debian's."""

    @property
    def apt(self) -> Apt:
        return Apt(self.ctx.cache, self.spec.suite, self.ctx.mirror, verbose=self.ctx.verbose)

    def ask(self) -> Key:
        """Return package and version, as the mirror has it now; a meta package's changes with what it points at."""
        return {"package": self.spec.package, "version": self.apt.candidate(self.spec.package)}

    def describe(self) -> str:
        """Return package, version and suite."""
        return f"Debian {_shown(self.key)} ({self.spec.suite})"

    def stand(self) -> Stand | None:
        """Return the version that the lists have, and how old these are; None of a snapshot's."""
        apt = self.apt
        version = "" if apt.mirror.is_snapshot else apt.known(self.spec.package)
        what = f"Debian {self.spec.package} {version} ({self.spec.suite})"
        return Stand(what, apt.made(version), apt.valid_until()) if version else None


class DebianSource(_Debian[recipes.DebianSource]):
    """`{type: debian-source, package:, suite:}`: Debian's tree with its patches, from a linux-source package."""

    def unpack(self, into: Path) -> None:
        """Fetch the package, take the archive out of it, unpack that; `linux-source` is followed to the newest one."""
        package = self.spec.package
        needed = [package] if re.search(r"\d$", package) else self.apt.resolve(package)
        holder = into.parent / "deb"
        shutil.rmtree(holder, ignore_errors=True)
        for deb in self.apt.fetch([name for name in needed if name == package or name.startswith("linux-source-")]):
            self.apt.unpack(deb, holder)
        archives = sorted((holder / "usr/src").glob("linux-source-*.tar.*"))
        if not archives:
            raise UserError(f"{package}: no source archive in it", hint="its name is like linux-source-6.1")
        _untar(archives[0], into, self.ctx)
        shutil.rmtree(holder)


class DebianImage(_Debian[recipes.DebianImage]):
    """`{type: debian-image, package:, suite:}`: a kernel that Debian built; `unpack` gives its files, not a tree."""

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
        package = self.spec.package
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


SOURCES: dict[type[recipes.SourceModel], type[Source[Any]]] = {
    recipes.DebianImage: DebianImage,
    recipes.DebianSource: DebianSource,
    recipes.DirSource: Dir,
    recipes.GitSource: Git,
    recipes.TarballSource: Tarball,
}
"""What a recipe says -> what is done with it. A new type is a class above and a row here."""


def source_of(spec: recipes.SourceModel, ctx: BuildContext) -> Source[Any]:
    """Return the source that a recipe's `source` asks for.

    Raises:
        UserError: no such type.
    """
    if type(spec) not in SOURCES:
        known = ", ".join(sorted(model.kind() for model in SOURCES))
        raise UserError(f"source type {spec.type!r} is not known", hint=f"one of {known}")
    return SOURCES[type(spec)](spec, ctx)
