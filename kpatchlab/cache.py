"""Artifacts by content key under the user's cache directory: made once, published whole, pruned by age and size.

Layout: `ROOT/<kind>/<key>/` with a `.meta.json` beside the artifact's own files. A half-made artifact lives
under `ROOT/tmp/` and is renamed into place when it is complete, so that a killed lab leaves nothing half
written. One lock file per key keeps two labs from making the same thing twice.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from kpatchlab.errors import HostError, LabWarning
from kpatchlab.files import link_or_copy, write_atomic

META = ".meta.json"
SAVED = "saved"
"""Kind of the guests that are kept as they were after their set-up, see `run.saved`."""
TRAVELS = frozenset(
    {"kernel", "root", "initrd", "agent", "payload", "kselftest", "suite", "program"}
    | {"changes", "series", "tarball", "qemu"}
)
"""Kinds that are the same wherever they were made. Not among them: saved guests, which belong to one host's processor
and are made in seconds, objects, work trees, package lists."""


def content_key(*parts: Any) -> str:
    """Return the sha256 (hex) over JSON of `parts`: equal parts, equal key; dicts are ordered by key."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest(path: Path) -> str:
    """Return the sha256 (hex) of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def tree_digest(root: Path, leave: str = "") -> str:
    """Return the sha256 over every file below `root`: relative path, executable bit, link target, bytes.

    Args:
        leave: the name of a file at the top that does not count.
    """
    whole = hashlib.sha256()
    for path in sorted(p for p in root.rglob("*") if p.is_symlink() or p.is_file()):
        if leave and path == root / leave:
            continue
        mode = "l" if path.is_symlink() else "x" if os.access(path, os.X_OK) else "-"
        data = os.readlink(path) if path.is_symlink() else file_digest(path)
        whole.update(f"{path.relative_to(root)}\0{mode}\0{data}\n".encode())
    return whole.hexdigest()


def default_root() -> Path:
    """Return the cache directory: $KPATCHLAB_CACHE, else $XDG_CACHE_HOME/kpatchlab, else ~/.cache/kpatchlab."""
    if own := os.environ.get("KPATCHLAB_CACHE"):
        return Path(own).absolute()
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base).absolute() / "kpatchlab"


@dataclass(frozen=True, slots=True)
class Artifact:
    """One artifact in the cache; `used` is a Unix time in seconds."""

    kind: str
    key: str
    path: Path
    size_bytes: int
    used: float
    label: str


class Upstream(Protocol):
    """Where a cache gets artifacts that somebody else made."""

    def fetch(self, kind: str, key: str, into: Path) -> bool:
        """Fill an empty directory with an artifact, its `.meta.json` included; False where it is not to be had."""


SEEN = "seen"
"""Folder in the cache: of each artifact, what `_intact` has of it."""
SETTLED_NS = 2_000_000_000
"""Whose last change is younger may change once more without another time: file systems count in steps, FAT in 2 s."""

_intact: dict[Path, str] = {}
"""What this process has read whole and found right: an artifact's folder -> the key of its digest and files' stamps."""


def _stamps(root: Path) -> Iterator[tuple[str, int, int, int, int]]:
    meta = str(root / META)
    for folder, folders, names in os.walk(root):
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]  # to folders
        for name in sorted(names + links):
            path = os.path.join(folder, name)
            if path != meta:
                stat = os.lstat(path)
                yield path, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _seal(root: Path) -> None:
    """Make the files of a finished artifact read-only; that it was used is noted in META."""
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            if not path.is_symlink() and path != root / META:
                path.chmod(path.stat().st_mode & 0o555)


class Cache:
    """The artifacts below one root directory.

    Args:
        upstream: has artifacts of the kinds that travel (`TRAVELS`): what is not here is taken from there.
    """

    def __init__(self, root: Path | None = None, upstream: Upstream | None = None) -> None:
        self.root = root or default_root()
        self.upstream = upstream

    def path(self, kind: str, key: str) -> Path:
        """Return where an artifact is, or would be."""
        return self.root / kind / key

    def has(self, kind: str, key: str) -> bool:
        """Whether the artifact is there, whole."""
        return (self.path(kind, key) / META).exists()

    def get(
        self, kind: str, key: str, make: Callable[[Path], None], *, label: str = "", keep_partial: bool = False
    ) -> Path:
        """Return the artifact's directory; made by `make(empty_dir)` if it is not there, nor to be had from upstream.

        Args:
            label: what people call it; shown by `clean`.
            keep_partial: leave the working directory where `make` fails or is killed, for the next try to go on
                with (a kernel's objects); it is then at a fixed path, `ROOT/tmp/<kind>-<key>`.

        Raises:
            whatever `make` raises; the half-made directory is then gone, unless `keep_partial`.
        """
        final = self.path(kind, key)
        if self.usable(kind, key):
            self.touch(kind, key)
            return final
        with self.lock(f"{kind}-{key}"):
            if self.usable(kind, key):
                return final
            if self.has(kind, key):
                text = f"{kind} {key[:12]} in the cache is not what was made: somebody wrote to it; it is made anew"
                warnings.warn(text, LabWarning, stacklevel=2)
            if self._fetched(kind, key):
                return final
            with self._workdir(kind, key, keep_partial) as work:
                make(work)
                meta = {"label": label, "created": time.time(), "size_bytes": disk_bytes(work)}
                if kind in TRAVELS:
                    meta["digest"] = tree_digest(work, META)
                (work / META).write_text(json.dumps(meta))
                self._publish(work, final)
        return final

    def usable(self, kind: str, key: str) -> bool:
        """Whether the artifact is there with the bytes that were published.

        They are read once; later questions look at sizes, times and inodes alone. Nobody who writes to a file can set
        the time of its change (ctime) back, but by the clock of the host; who can do that can write another digest.
        """
        final = self.path(kind, key)
        try:
            wanted = json.loads((final / META).read_bytes()).get("digest", "")
        except (OSError, ValueError):
            return False
        if kind not in TRAVELS or not wanted:  # not sealed, or made by a version that did not
            return True
        now, stamps = time.time_ns(), list(_stamps(final))
        seen = content_key(wanted, stamps)
        if seen == _intact.get(final) or seen == self._seen(kind, key):
            return True
        if tree_digest(final, META) != wanted:
            return False
        _intact[final] = seen
        if all(changed < now - SETTLED_NS for *_, changed in stamps):
            with contextlib.suppress(HostError):  # a cache that is read only: it is read once more next time
                write_atomic(self.root / SEEN / f"{kind}-{key}", seen.encode())
        return True

    def _seen(self, kind: str, key: str) -> str:
        """Return the key of what any process has read whole and found right."""
        try:
            return (self.root / SEEN / f"{kind}-{key}").read_text()
        except (OSError, ValueError):
            return ""

    def need(self, kind: str, key: str) -> Path:
        """Return the directory of an artifact that somebody made, here or upstream.

        Raises:
            HostError: nobody has it.
        """

        def refuse(_: Path) -> None:
            raise HostError(f"no {kind} {key[:12]} in the cache {self.root}", hint="run it again: it is made anew")

        return self.get(kind, key, refuse)

    def _fetched(self, kind: str, key: str) -> bool:
        if self.upstream is None or kind not in TRAVELS:
            return False
        with self._workdir(kind, key, keep=False) as work:
            if not self.upstream.fetch(kind, key, work):
                return False
            wanted = json.loads((work / META).read_text()).get("digest", "")
            if wanted and tree_digest(work, META) != wanted:
                warnings.warn(f"{kind} {key[:12]} came altered; it is made here", LabWarning, stacklevel=3)
                return False
            self._publish(work, self.path(kind, key))
        return True

    @staticmethod
    def _publish(work: Path, final: Path) -> None:
        final.parent.mkdir(parents=True, exist_ok=True)
        if final.exists():
            shutil.rmtree(final)
        if final.parent.name in TRAVELS:
            _seal(work)
        work.rename(final)

    def scratch(self, name: str) -> Path:
        """Return a new directory for its caller to move away or to delete; `clean` takes what a killed lab left."""
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=_made(self.root / "tmp")))

    @staticmethod
    @contextlib.contextmanager
    def using(folder: Path) -> Iterator[None]:
        """Keep a directory below `tmp` from being taken for one that a killed lab left, for the time of a `with`."""
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(handle, fcntl.LOCK_SH)
            yield
        finally:
            os.close(handle)

    @contextlib.contextmanager
    def _workdir(self, kind: str, key: str, keep: bool) -> Iterator[Path]:
        tmp = self.root / "tmp"
        try:
            tmp.mkdir(parents=True, exist_ok=True)
            if keep:
                work = tmp / f"{kind}-{key}"
                work.mkdir(exist_ok=True)
            else:
                work = Path(tempfile.mkdtemp(prefix=f"{kind}-{key[:12]}-", dir=tmp))
                work.chmod(0o755)
        except OSError as error:
            raise HostError(
                f"cannot write to the cache {self.root}: {error.strerror}", hint="set KPATCHLAB_CACHE to another place"
            ) from None
        try:
            with self.using(work):
                yield work
        except OSError as error:
            if error.errno in {28, 122}:  # ENOSPC, EDQUOT
                raise HostError(
                    f"no space left for {kind} below {self.root}", hint="kpatchlab clean frees cached artifacts"
                ) from error
            raise
        finally:
            if work.exists() and not keep:
                shutil.rmtree(work, ignore_errors=True)

    @contextlib.contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Lock `name`, so that no other lab on this cache works on it; waits while another one does."""
        folder = self.root / "locks"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            handle = (folder / name).open("w")
        except OSError as error:
            raise HostError(
                f"cannot write to the cache {self.root}: {error.strerror}", hint="set KPATCHLAB_CACHE to another place"
            ) from None
        with handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    def touch(self, kind: str, key: str) -> None:
        """Mark an artifact as used now, so that pruning by age leaves it."""
        with contextlib.suppress(OSError):
            os.utime(self.path(kind, key) / META)

    def entries(self, *, leftovers: bool = False) -> list[Artifact]:
        """Return every whole artifact, least recently used first.

        Args:
            leftovers: what killed labs left as well, as kind "tmp"; sizing a kernel's tree takes seconds.
        """
        found = []
        for path in (self.root / "tmp").glob("*") if leftovers else ():
            with contextlib.suppress(OSError):
                size, used = disk_bytes(path), path.stat().st_mtime
                found.append(Artifact("tmp", path.name, path, size, used, "left by a killed lab"))
        for meta in self.root.glob(f"*/*/{META}"):
            with contextlib.suppress(OSError, ValueError):
                data = json.loads(meta.read_text())
                kind, key = meta.parent.parent.name, meta.parent.name
                size, label = int(data.get("size_bytes", 0)), str(data.get("label", ""))
                found.append(Artifact(kind, key, meta.parent, size, meta.stat().st_mtime, label))
        return sorted(found, key=lambda entry: entry.used)

    def keep_within(self, limit_gib: float, since: float) -> None:
        """Prune to a size, least recently used first; what was used since a Unix time stays, however large it is."""
        for entry in prunable(self.entries(), None, limit_gib, now=time.time()):
            if entry.used < since:
                self.remove(entry)

    def drop(self, kind: str, key: str) -> None:
        """Delete the artifact of a key, as `remove` does, for it to be made once more."""
        self.remove(Artifact(kind, key, self.path(kind, key), 0, 0.0, ""))

    def remove(self, entry: Artifact) -> None:
        """Delete one artifact, unless a lab is making it or going on with it right now.

        It is moved away first, so that a half-deleted one does not count as there.
        """
        name = entry.key if entry.kind == "tmp" else f"{entry.kind}-{entry.key}"
        folder = self.root / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / name).open("w") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            if entry.kind == "tmp" and _in_use(entry.path):
                return
            gone = Path(tempfile.mkdtemp(prefix="gone-", dir=_made(self.root / "tmp")))
            with contextlib.suppress(OSError):
                entry.path.rename(gone / "artifact")
            shutil.rmtree(gone, ignore_errors=True)
            (self.root / SEEN / name).unlink(missing_ok=True)


def _in_use(folder: Path) -> bool:
    """Whether a process has a directory in `Cache.using`."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


@dataclass(frozen=True, slots=True)
class Folder:
    """An upstream that this host can read: another cache's root directory."""

    root: Path

    def fetch(self, kind: str, key: str, into: Path) -> bool:
        """See `Upstream.fetch`; files are linked where that is possible, since no artifact ever changes.

        Raises:
            HostError: it cannot be written, or not be read.
        """
        source = self.root / kind / key
        try:
            meta = (source / META).read_bytes()
            with contextlib.suppress(OSError):  # it can be mounted for reading alone
                os.utime(source / META)  # so that pruning leaves it
            leave = shutil.ignore_patterns(META)
            shutil.copytree(source, into, symlinks=True, ignore=leave, copy_function=_link, dirs_exist_ok=True)
        except FileNotFoundError:
            return False
        except shutil.Error as error:
            if not (source / META).exists():  # it was deleted meanwhile
                return False
            raise HostError(f"cannot copy {kind} {key[:12]} from {self.root}: {error.args[0][0][2]}") from None
        (into / META).write_bytes(meta)
        return True


def _link(source: str, target: str) -> None:
    link_or_copy(Path(source), Path(target))


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def disk_bytes(root: Path) -> int:
    """Return the bytes that the files below `root` take on disk."""
    total = 0
    for folder, _, names in os.walk(root):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(folder, name)).st_blocks * 512
    return total


def prunable(
    entries: list[Artifact], older_than_days: float | None, max_gib: float | None, *, now: float
) -> list[Artifact]:
    """Return the artifacts that go: all past an age, then until a total size is kept.

    For the size saved guests go first, then everything else, each least recently used first: the guests of one large
    matrix take more room than all kernels, and seconds to make again, where a kernel takes its whole build.

    Args:
        entries: least recently used first, as `Cache.entries` gives them.
        now: Unix time in seconds.
    """
    gone = [e for e in entries if older_than_days is not None and now - e.used > older_than_days * 86400]
    if max_gib is not None:
        left = [e for e in entries if e not in gone]
        total = sum(e.size_bytes for e in left)
        for entry in sorted(left, key=lambda entry: entry.kind != SAVED):
            if total <= max_gib * (1 << 30):
                break
            gone.append(entry)
            total -= entry.size_bytes
    return gone
