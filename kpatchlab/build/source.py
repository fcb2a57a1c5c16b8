"""Where a kernel tree comes from: one class a type, one row in `SOURCES`.

`docs/add-a-source-type.md` shows how to add one.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any, Protocol

from kpatchlab import proc
from kpatchlab.build import git
from kpatchlab.build.context import BuildContext
from kpatchlab.cache import content_key, file_digest, tree_digest
from kpatchlab.errors import HostError, UserError
from kpatchlab.host.debian import Apt

UNPACK_S = 1800.0


Key = dict[str, str]
"""What decides about a tree's content."""


class Source(Protocol):
    """One type of source; `spec` is the recipe's `source` mapping, with the YAML file's key names.

    `key` is asked once in a build and handed to the other two, so that a branch which moves meanwhile does not matter.
    """

    def key(self, spec: Any, ctx: BuildContext, /) -> Key:
        """Return what decides about the tree's content: cheap, nothing is unpacked."""

    def describe(self, spec: Any, key: Key, ctx: BuildContext, /) -> str:
        """Return one line for people: what the tree is."""

    def unpack(self, spec: Any, key: Key, ctx: BuildContext, into: Path, /) -> None:
        """Write the tree to `into`, an empty directory that the build owns."""


def _shown(key: Key) -> str:
    return " ".join(
        value[:12] if name in {"commit", "sha256", "digest", "dirty"} else value for name, value in key.items()
    )


def _where(spec: Any, ctx: BuildContext) -> str | Path:
    """Return the URL of a source, as people may see it, or its path on this host."""
    url = getattr(spec, "url", None)
    return git.shown(url) if url else ctx.path(spec.path)


def _untar(archive: Path, into: Path, ctx: BuildContext) -> None:
    """Unpack an archive of any compression, without its top directory."""
    words = ("tar", "--extract", "--file", archive, "--directory", into, "--strip-components=1", "--no-same-owner")
    proc.run([str(word) for word in words], timeout_s=UNPACK_S, cancel=ctx.cancel, check=not ctx.cancel.is_set())
    ctx.check_cancel()


class Git:
    """`{type: git, url: or path:, revision:}`: any revision of a repository, near or far."""

    def _commit(self, spec: Any, ctx: BuildContext) -> tuple[git.Repository, str]:
        url, revision = getattr(spec, "url", None), spec.revision or "HEAD"
        if url:
            repository = git.open_url(url, ctx)
            return repository, git.resolve_url(repository, revision)
        repository = git.open_local(ctx.path(spec.path))
        commit = repository.commit(revision)
        if not commit:
            raise UserError(
                f"{repository.path} has no revision {revision!r}", hint="git fetch it there, then try again"
            )
        return repository, commit

    def key(self, spec: Any, ctx: BuildContext) -> Key:
        """Return the commit id."""
        return {"commit": self._commit(spec, ctx)[1]}

    def describe(self, spec: Any, key: Key, ctx: BuildContext) -> str:
        """Return repository, revision and commit."""
        return f"git {_where(spec, ctx)} {spec.revision or 'HEAD'} ({key['commit'][:12]})"

    def unpack(self, spec: Any, key: Key, ctx: BuildContext, into: Path) -> None:
        """Fetch that one commit where it is far, and write its files."""
        url = getattr(spec, "url", None)
        repository = git.open_url(url, ctx) if url else git.open_local(ctx.path(spec.path))
        if url:
            git.fetch(repository, key["commit"], (spec.revision or "HEAD").removeprefix("refs/heads/"), ctx)
        repository.export(key["commit"], into, ctx)


class Dir:
    """`{type: dir, path:}`: the user's own tree, uncommitted changes included; nothing in it is ever written."""

    def key(self, spec: Any, ctx: BuildContext) -> Key:
        """Return HEAD and the digest of what differs from it; the digest of all files where git does not know it."""
        path = self.path(spec, ctx)
        if not (path / ".git").exists():
            return {"digest": tree_digest(path)}
        repository = git.open_local(path)
        head = repository.commit("HEAD")
        names = self._changed(repository, head)
        states = [(name, self._state(path / name)) for name in names]
        return {"commit": head} | ({"dirty": content_key(states)} if states else {})

    def describe(self, spec: Any, key: Key, ctx: BuildContext) -> str:
        """Return the path and, from git, where it is."""
        return f"{self.path(spec, ctx)} ({_shown(key)})" + (" with uncommitted changes" if "dirty" in key else "")

    def unpack(self, spec: Any, _key: Key, ctx: BuildContext, into: Path) -> None:
        """Copy the tree, without what git ignores: for a series on top of it."""
        path = self.path(spec, ctx)
        if not (path / ".git").exists():
            shutil.copytree(path, into, symlinks=True, dirs_exist_ok=True)
            return
        repository = git.open_local(path)
        words = ("ls-files", "-z", "--cached", "--others", "--exclude-standard")
        listing = into.parent / "files.list"
        with listing.open("wb") as handle:  # in a file: 90,000 names are more than proc keeps
            command = ["git", "-C", str(repository.path), *words]
            proc.run(command, timeout_s=git.QUICK_S, stdout_to=handle, env=git.environment())
        for raw in listing.read_bytes().split(b"\0"):
            name = os.fsdecode(raw)
            if name and os.path.lexists(path / name) and not (path / name).is_dir():
                (into / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path / name, into / name, follow_symlinks=False)
        listing.unlink()

    def path(self, spec: Any, ctx: BuildContext) -> Path:
        """Return the tree's absolute path.

        Raises:
            UserError: it is no kernel tree.
        """
        path = ctx.path(spec.path)
        if not (path / "Makefile").exists() or not (path / "Kconfig").exists():
            raise UserError(f"{path}: not a kernel tree", hint="source.path names the directory with the top Makefile")
        return path

    def check_clean(self, path: Path) -> None:
        """Refuse a tree that was configured in place: kbuild cannot build it with its objects elsewhere.

        Raises:
            UserError: names what is in the way (the Makefile's own test, `outputmakefile`).
        """
        for name in (".config", "include/config", "include/generated"):
            if (path / name).exists():
                raise UserError(
                    f"{path} was configured in place ({name} is there); the lab builds beside it and cannot",
                    hint=f"make -C {path} mrproper (keep .config elsewhere first), or name a revision: type: git",
                )

    @staticmethod
    def _changed(repository: git.Repository, head: str) -> list[str]:
        """Return every path that differs from HEAD, and untracked ones; sorted."""
        found: set[str] = set()
        commands = (
            ("diff", "--no-ext-diff", "--name-only", "-z", head, "--") if head else ("ls-files", "-z"),
            ("ls-files", "-z", "--others", "--exclude-standard"),
        )
        for words in commands:
            found |= {name for name in repository.git(*words).stdout.split("\0") if name}
        return sorted(found)

    @staticmethod
    def _state(path: Path) -> str:
        if path.is_symlink():
            return f"link {os.readlink(path)}"
        if not path.is_file():
            return "gone"
        return f"{'x' if os.access(path, os.X_OK) else '-'} {file_digest(path)}"


class Tarball:
    """`{type: tarball, path: or url:, sha256:}`: an archive with one top directory."""

    def key(self, spec: Any, ctx: BuildContext) -> Key:
        """Return the archive's digest: the recipe's own, else the file's; an archive from a URL is fetched once."""
        return {"sha256": spec.sha256.lower() if getattr(spec, "sha256", None) else file_digest(self._file(spec, ctx))}

    def describe(self, spec: Any, key: Key, ctx: BuildContext) -> str:
        """Return where it is from."""
        return f"{_where(spec, ctx)} ({_shown(key)})"

    def unpack(self, spec: Any, _key: Key, ctx: BuildContext, into: Path) -> None:
        """Check the archive's digest, then unpack it."""
        archive, wanted = self._file(spec, ctx), getattr(spec, "sha256", None)
        if wanted and file_digest(archive) != wanted.lower():
            raise UserError(f"{archive.name}: its sha256 is not {wanted}", hint="a new release? then give its digest")
        _untar(archive, into, ctx)

    @staticmethod
    def _file(spec: Any, ctx: BuildContext) -> Path:
        url = getattr(spec, "url", None)
        if not url:
            path = ctx.path(spec.path)
            if not path.is_file():
                raise UserError(f"{path}: no such file", hint="source.path names the archive")
            return path
        # Imported here: the HTTP client behind it costs every start of the lab 11 ms.
        import urllib.error
        import urllib.parse
        import urllib.request

        if urllib.parse.urlsplit(url).scheme not in {"http", "https", "file"}:
            hint = "for a file on this host use source.path"
            raise UserError(f"{git.shown(url)}: not an http or https address", hint=hint)
        name = Path(urllib.parse.urlsplit(url).path).name or "tree.tar"

        def download(work: Path) -> None:
            try:
                with urllib.request.urlopen(url, timeout=60) as answer, (work / name).open("wb") as handle:  # noqa: S310
                    shutil.copyfileobj(answer, handle)
            except urllib.error.URLError as error:
                raise HostError(f"cannot fetch {git.shown(url)}: {error.reason}", hint="is there a network?") from None

        return ctx.cache.get("tarball", content_key(url, getattr(spec, "sha256", None)), download, label=name) / name


def _apt(spec: Any, ctx: BuildContext) -> Apt:
    return Apt(ctx.cache, spec.suite, ctx.mirror, verbose=ctx.verbose)


class DebianSource:
    """`{type: debian-source, package:, suite:}`: Debian's tree with its patches, from a linux-source package."""

    def key(self, spec: Any, ctx: BuildContext) -> Key:
        """Return package and version, as the mirror has it now."""
        return {"package": spec.package, "version": _apt(spec, ctx).candidate(spec.package)}

    def describe(self, spec: Any, key: Key, _ctx: BuildContext) -> str:
        """Return package, version and suite."""
        return f"Debian {_shown(key)} ({spec.suite})"

    def unpack(self, spec: Any, _key: Key, ctx: BuildContext, into: Path) -> None:
        """Fetch the package, take the archive out of it, unpack that."""
        debs = _apt(spec, ctx).fetch([spec.package])
        deb = next((path for path in debs if path.name.startswith(f"{spec.package}_")), debs[0])
        holder = into.parent / "deb"
        shutil.rmtree(holder, ignore_errors=True)
        _apt(spec, ctx).unpack(deb, holder)
        archives = sorted((holder / "usr/src").glob("linux-source-*.tar.*"))
        if not archives:
            raise UserError(f"{spec.package}: no source archive in it", hint="its name is like linux-source-6.1")
        _untar(archives[0], into, ctx)
        shutil.rmtree(holder)


class DebianImage:
    """`{type: debian-image, package:, suite:}`: a kernel that Debian built; `unpack` gives its files, not a tree."""

    prebuilt = True

    def key(self, spec: Any, ctx: BuildContext) -> Key:
        """Return package and version; a meta package's version changes with what it points at."""
        return {"package": spec.package, "version": _apt(spec, ctx).candidate(spec.package)}

    def describe(self, spec: Any, key: Key, _ctx: BuildContext) -> str:
        """Return package, version and suite."""
        return f"Debian {_shown(key)} ({spec.suite}), as Debian built it"

    def unpack(self, spec: Any, _key: Key, ctx: BuildContext, into: Path) -> None:
        """Write the package's files below `into`; linux-image-amd64 and its like are followed to the real one."""
        apt = _apt(spec, ctx)
        names = [spec.package, *apt.resolve(spec.package)]
        real = next((name for name in names if re.match(r"linux-image-\d", name)), None)
        if real is None:
            raise UserError(f"{spec.package}: leads to no kernel image", hint="linux-image-amd64, for instance")
        deb = next(path for path in apt.fetch([real]) if path.name.startswith(f"{real}_"))
        apt.unpack(deb, into)


SOURCES: dict[str, Source] = {
    "debian-image": DebianImage(),
    "debian-source": DebianSource(),
    "dir": Dir(),
    "git": Git(),
    "tarball": Tarball(),
}
"""Type -> how to get it. A new type is a class above and a row here."""


def source_of(spec: Any) -> Source:
    """Return the row of `SOURCES` for a recipe's `source`.

    Raises:
        UserError: no such type.
    """
    if spec.type not in SOURCES:
        raise UserError(f"source type {spec.type!r} is not known", hint=f"one of {', '.join(sorted(SOURCES))}")
    return SOURCES[spec.type]
