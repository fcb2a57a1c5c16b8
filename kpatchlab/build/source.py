"""Where the tree of a kernel or a test suite comes from: one class a type, one row in `SOURCES`.

`docs/add-a-source-type.md` shows how to add one.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import tempfile
from pathlib import Path
from typing import Any

from kpatchlab.build import git
from kpatchlab.build.context import BuildContext
from kpatchlab.build.debian_sources import DebianImage, DebianSource, DebianUpstream
from kpatchlab.build.origin import Key, Source, Stand, shown_key, untar
from kpatchlab.cache import content_key, file_digest
from kpatchlab.errors import HostError, UserError
from kpatchlab.files import KINDS
from kpatchlab.lab import recipes
from kpatchlab.urls import authorized, shown

BUILT = (
    "/.config*", "/include/config/", "/include/generated/", "/arch/*/include/generated/", "/scripts/kconfig/*conf",
    "*.o", "*.ko", "*.a", "*.mod", "*.mod.c", ".*.cmd", ".*.d", "/vmlinux*", "/System.map", "/Module.symvers",
    "/modules.*", "modules.order", "/.git",
)  # fmt: skip
"""What a build in the tree leaves, for trees that come without .gitignore files."""


def _where(spec: recipes.GitSource | recipes.TarballSource, ctx: BuildContext) -> str | Path:
    """Return the URL of a source, as people may see it, or its path on this host."""
    return shown(spec.url) if spec.url else ctx.path(spec.path)


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

    built = "obj"
    """The folder in which the lab builds: none of the tree's."""

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
        return f"{self.path()} ({shown_key(self.key)})" + (" with uncommitted changes" if "dirty" in self.key else "")

    def unpack(self, into: Path) -> None:
        """Copy the tree, without what was built in it: for a series on top of it."""
        path = self.path()
        for name in self.files():
            if self.built and name.split("/")[0] == self.built:
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


class SuiteDir(Dir):
    """`{type: dir, path:}` of a test suite: any folder."""

    built = ""

    def path(self) -> Path:
        """Return its absolute path.

        Raises:
            UserError: it is no folder.
        """
        path = self.ctx.path(self.spec.path)
        if not path.is_dir():
            raise UserError(f"{path}: no such folder", hint="source.path names the suite's top folder")
        return path


class Tarball(Source[recipes.TarballSource]):
    """`{type: tarball, path: or url:, sha256:}`: an archive with one top directory."""

    def ask(self) -> Key:
        """Return the archive's digest: the recipe's own, else the file's; an archive from a URL is fetched once."""
        return {"sha256": self.spec.sha256.lower() or file_digest(self._file())}

    def describe(self) -> str:
        """Return where it is from."""
        return f"{_where(self.spec, self.ctx)} ({shown_key(self.key)})"

    def unpack(self, into: Path) -> None:
        """Check the archive's digest, then unpack it."""
        archive, wanted = self._file(), self.spec.sha256
        if wanted and file_digest(archive) != wanted.lower():
            raise UserError(f"{archive.name}: its sha256 is not {wanted}", hint="a new release? then give its digest")
        untar(archive, into, self.ctx)

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


SOURCES: dict[type[recipes.SourceModel], type[Source[Any]]] = {
    recipes.DebianImage: DebianImage,
    recipes.DebianSource: DebianSource,
    recipes.DebianUpstream: DebianUpstream,
    recipes.DirSource: Dir,
    recipes.SuiteDir: SuiteDir,
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
