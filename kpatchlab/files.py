"""Names of files that nobody outside can choose, files that are written whole or not at all, and links to them."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import stat
import tempfile
from pathlib import Path

from kpatchlab.errors import HostError, UserError

MAX_INPUT_BYTES = 128 << 20
"""More than this is no series, and no file of a lab: the patch from one release of Linux to the next has 60 MiB."""
KINDS = {
    stat.S_IFDIR: "a directory", stat.S_IFIFO: "a fifo", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}  # fmt: skip
"""What a file is that is no regular one, by `stat.S_IFMT` of its mode."""
_NAME_BYTES = 100


def safe_name(text: str) -> str:
    """Return a file name for `text`: itself where it is harmless, else cleaned with a digest that keeps it unique.

    >>> safe_name("unix-splice.client=with,server=without.1")
    'unix-splice.client=with,server=without.1'
    >>> safe_name("../etc/passwd")
    'etc_passwd-2ad7a0ff'
    """
    clean = re.sub(r"[^A-Za-z0-9._=,+@-]+", "_", text).strip("._")
    if clean == text and 0 < len(text) <= _NAME_BYTES:
        return text
    return f"{clean[: _NAME_BYTES - 9]}-{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}".lstrip(
        "-"
    )


_INERT = frozenset({".txt", ".log", ".json", ".csv", ".pcap", ".pcapng", ".bin", ".dat", ".data", ".tar", ".info"})
_PACKED = frozenset({".gz", ".xz", ".zst", ".bz2"})


def is_inert(name: str) -> bool:
    """Whether no browser or web server takes a file for a page, going by its name; a packed one's inner name counts.

    >>> [is_inert(name) for name in ("run.log", "trace.pcap.gz", "x.html", "x.HTML.gz", "index", "x.svg")]
    [True, True, False, False, False, False]
    """
    path = Path(name.lower())
    return (Path(path.stem) if path.suffix in _PACKED else path).suffix in _INERT


def is_safe(text: str) -> bool:
    """Whether a text is a name of one file as it stands: no folder, nothing odd, not too long."""
    return bool(text) and safe_name(text) == text


def write_atomic(path: Path, data: bytes) -> None:
    """Write beside, fsync, rename: whoever reads sees the old file or the new one.

    Raises:
        HostError: it cannot be written (disk full, no permission).
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, beside = tempfile.mkstemp(prefix=f".{path.name[:40]}.", suffix=".new", dir=path.parent)
        try:
            with open(descriptor, "wb") as handle:
                handle.write(data)
                handle.flush()
                os.fchmod(handle.fileno(), 0o644)
                os.fsync(handle.fileno())
            os.replace(beside, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(beside)
            raise
    except OSError as error:
        raise HostError(
            f"cannot write {path}: {error.strerror}", hint="is the disk full, or the folder read-only?"
        ) from None


def copied(source: Path, target: Path) -> None:
    """Put a copy of a file at `target`."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, target)


def refuses(folder: Path) -> str:
    """Return why nothing can be written to a folder now, in words of the system's; "" where it can."""
    try:
        with tempfile.TemporaryFile(dir=folder) as handle:
            handle.write(bytes(1 << 16))
            handle.flush()
            os.fsync(handle.fileno())
    except OSError as error:
        return error.strerror or str(error)
    return ""


def regular(path: Path) -> Path:
    """Return where a file really lies that somebody else was to make: a link to it would lead elsewhere from elsewhere.

    Raises:
        FileNotFoundError: there is none, or it is no regular file.
    """
    real = Path(os.path.realpath(path))
    if not real.is_file():
        raise FileNotFoundError(errno.ENOENT, "there is no such file", str(path))
    return real


def link_or_copy(source: Path, target: Path) -> None:
    """Put a file at `target`, as a hard link where the file system allows it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def read_input(path: Path, limit_bytes: int = MAX_INPUT_BYTES, hint: str = "") -> bytes:
    """Return what is in a file that somebody else wrote or named: a regular file of a bounded size.

    A fifo would keep the lab waiting, and a device may have no end.

    Raises:
        UserError: it cannot be read, is no regular file, or is larger than `limit_bytes`.
    """
    try:
        kind = stat.S_IFMT(os.stat(path).st_mode)
        if kind != stat.S_IFREG:
            raise UserError(f"{path}: {KINDS.get(kind, 'no file')}, not a regular file", hint=hint)
        return read_bounded(path, limit_bytes)
    except OSError as error:
        more = "is it the right file?" if error.errno == errno.EFBIG else ""
        raise UserError(f"{path}: {error.strerror}", hint=hint or more) from None
    except ValueError:  # a NUL in its name
        raise UserError(f"{str(path)!r}: no file can have this name", hint=hint) from None


def read_bounded(path: Path, limit_bytes: int) -> bytes:
    """Return what is in a file; nobody is kept waiting by what was put in its place.

    Raises:
        OSError: it cannot be read; EFBIG where it is larger than `limit_bytes`.
    """
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as handle:
        data: bytes = handle.read(limit_bytes + 1)
    if len(data) > limit_bytes:
        size = f"{limit_bytes >> 20} MiB" if limit_bytes >= 1 << 20 else f"{limit_bytes} bytes"
        raise OSError(errno.EFBIG, f"larger than {size}", str(path))
    return data


def below(root: Path, name: str) -> Path | None:
    """Return `root`/`name` where it lies below `root` by its words; None for what climbs out, or is absolute.

    >>> below(Path("/t"), "a/../b"), below(Path("/t"), "../b"), below(Path("/t"), "/b")
    (PosixPath('/t/b'), None, None)
    """
    inside = os.path.normpath(name)
    return None if os.path.isabs(inside) or inside.split(os.sep)[0] == ".." or "\0" in name else root / inside


def clear(path: Path) -> None:
    """Delete what there is at a path, if anything: a file, a link, a folder with all that is in it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def put_plain(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write a file in a folder that others write to as well: never through a link that they have put there."""
    clear(path)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode), "wb") as handle:
        handle.write(data)
    path.chmod(mode)


def through_link(top: Path, name: str) -> bool:
    """Whether a folder in which the file `name` would be below `top` is a symbolic link."""
    folders = Path(name).parts[:-1]
    return any((top / Path(*folders[: depth + 1])).is_symlink() for depth in range(len(folders)))


def read_within(top: Path, name: str, limit_bytes: int = MAX_INPUT_BYTES) -> bytes | None:
    """Return what is in a file of a tree that others wrote; None where it has no such regular file of its own.

    A link counts as what it leads to inside of the tree; what leads out of it, devices and fifos are none.
    """
    try:
        real = os.path.realpath(top / name)
        if not real.startswith(f"{os.path.realpath(top)}/"):
            return None
        return read_input(Path(real), limit_bytes)
    except (OSError, ValueError, UserError):
        return None
