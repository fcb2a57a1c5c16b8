"""Artifacts between hosts: the controller serves what its cache has by kind and key, a worker pulls what it lacks.

    GET /<kind>/<key>      the artifact as a tar of a fixed layout, so that a Range of it is the same each time

Both sides show a certificate of the run. Only kinds that travel are served, so saved guests never are. What comes is
checked by the digest that the artifact was published with.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import re
import shutil
import ssl
import tarfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, Self, cast
from urllib.parse import urlsplit

from kpatchlab.cache import META, TRAVELS, Cache, Folder, Upstream, tree_digest
from kpatchlab.errors import HostError
from kpatchlab.files import clear
from kpatchlab.run.cluster.certificates import CONTROLLER

AT_ONCE = 2
"""Artifacts that are sent side by side: more would only share the controller's line."""
TURN_S = 20.0
"""Seconds that a request waits for its turn; then it is told to ask again."""
STALL_S = 30.0
"""A connection that gives or takes nothing for so long is given up."""
ALTERED = 3
"""So often an artifact is fetched whose bytes are not what was published."""
FAILURES = 6
"""So often in a row a transfer is gone on with that did not bring a single byte."""
PIECE = 1 << 20
_PATH = re.compile(r"/([a-z-]+)/([A-Za-z0-9][A-Za-z0-9._-]*)")
_RANGE = re.compile(r"bytes=(\d+)-")


class Unreachable(HostError):
    """The controller does not give an artifact that it may well have: the fault of this host or of the line."""


@dataclass(frozen=True, slots=True)
class Packed:
    """An artifact as one stream, laid out before any of it is read; a file's piece is its path and its size."""

    pieces: tuple[bytes | tuple[Path, int], ...]

    @classmethod
    def of(cls, root: Path) -> Self:
        """Lay out the files below a folder."""
        pieces: list[bytes | tuple[Path, int]] = []
        for path in sorted(root.rglob("*")):
            member = tarfile.TarInfo(str(path.relative_to(root)))
            stat = path.lstat()
            if path.is_symlink():
                member.type, member.linkname = tarfile.SYMTYPE, os.readlink(path)
            elif path.is_dir():
                member.type, member.mode = tarfile.DIRTYPE, 0o755
            else:
                member.size, member.mode = stat.st_size, 0o755 if stat.st_mode & 0o100 else 0o644
            pieces.append(member.tobuf(tarfile.PAX_FORMAT))
            if member.size:
                pieces += [(path, member.size), bytes(-member.size % tarfile.BLOCKSIZE)]
        return cls((*pieces, bytes(2 * tarfile.BLOCKSIZE)))

    @property
    def size(self) -> int:
        """Bytes of the whole stream."""
        return sum(len(piece) if isinstance(piece, bytes) else piece[1] for piece in self.pieces)

    def read(self, start: int) -> Iterator[bytes]:
        """Yield the stream from an offset on.

        Raises:
            OSError: a file went away or is shorter by now.
        """
        for piece in self.pieces:
            size = len(piece) if isinstance(piece, bytes) else piece[1]
            if start >= size:
                start -= size
                continue
            if isinstance(piece, bytes):
                yield piece[start:]
            else:
                yield from _file(piece[0], start, size)
            start = 0


def _file(path: Path, start: int, size: int) -> Iterator[bytes]:
    with path.open("rb") as handle:
        handle.seek(start)
        while start < size:
            data = handle.read(min(PIECE, size - start))
            if not data:
                raise OSError(f"{path} is shorter than it was")
            start += len(data)
            yield data


class Shelf:
    """The controller's side: a server of a cache's artifacts, in threads.

    Args:
        context: see `Identity.context`.
        address: where it listens.

    Attributes:
        sent_bytes: kind/key -> bytes that went out.
    """

    def __init__(self, cache: Cache, context: ssl.SSLContext, address: str) -> None:
        shelf = self
        self.cache, self.turns = cache, threading.BoundedSemaphore(AT_ONCE)
        self.sent_bytes: dict[str, int] = {}

        class Handler(_Handler):
            pass

        Handler.shelf = shelf
        self._server = _Server((address, 0), Handler)
        # The handshake is the handler's, in a thread of its own: one that stalls keeps nobody else waiting.
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, name="artifacts", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Serve nothing from now on."""
        self._server.shutdown()
        self._server.server_close()

    def packed(self, kind: str, key: str) -> Packed | None:
        """Return an artifact; None where there is none that may travel."""
        if kind not in TRAVELS or not self.cache.usable(kind, key):
            return None
        self.cache.touch(kind, key)
        return Packed.of(self.cache.path(kind, key))


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Say nothing: who asks comes again."""


class _Handler(BaseHTTPRequestHandler):
    shelf: Shelf
    timeout = STALL_S
    protocol_version = "HTTP/1.0"  # one artifact a connection

    def do_GET(self) -> None:
        """Send an artifact, or its rest."""
        found = _PATH.fullmatch(self.path)
        if found is None:
            self.send_error(404)
        elif not self.shelf.turns.acquire(timeout=TURN_S):
            self.send_error(503)
        else:
            try:
                self._send(*found.groups())
            finally:
                self.shelf.turns.release()

    def _send(self, kind: str, key: str) -> None:
        try:
            packed = self.shelf.packed(kind, key)
        except OSError:  # it is deleted meanwhile
            packed = None
        if packed is None:
            self.send_error(404)
            return
        part = _RANGE.fullmatch(self.headers.get("Range", ""))
        start, size = int(part[1]) if part else 0, packed.size
        if start > size:
            self.send_error(416)
            return
        self.send_response(206 if part else 200)
        self.send_header("Content-Length", str(size - start))
        self.send_header("Content-Range", f"bytes {start}-{max(start, size - 1)}/{size}")
        self.end_headers()
        for data in packed.read(start):
            self.wfile.write(data)
            name = f"{kind}/{key}"
            self.shelf.sent_bytes[name] = self.shelf.sent_bytes.get(name, 0) + len(data)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Https:
    """A worker's side: an upstream behind the URL of a `Shelf`.

    Args:
        url: https://ADDRESS:PORT
        context: see `Identity.context`.
    """

    def __init__(self, url: str, context: ssl.SSLContext) -> None:
        self._url, self._context = url, context

    def fetch(self, kind: str, key: str, into: Path) -> bool:
        """See `Upstream.fetch`.

        Raises:
            Unreachable: the controller did not give it, or other bytes than were published.
            OSError: it cannot be written here.
        """
        for _ in range(ALTERED):
            with contextlib.closing(_Stream(self._url, self._context, f"/{kind}/{key}")) as stream:
                if not stream.open():
                    return False
                if _unpacked(stream, into) and _as_published(into):
                    return True
            _empty(into)
        raise Unreachable(f"{kind} {key[:12]} came altered from the controller {ALTERED} times")


class Shared:
    """A worker's side where the controller's cache is mounted.

    Args:
        root: the folder in which it is.
        other: what is asked for an artifact that is not there, or not whole.
    """

    def __init__(self, root: Path, other: Upstream) -> None:
        self._folder, self._other = Folder(root), other

    def fetch(self, kind: str, key: str, into: Path) -> bool:
        """See `Upstream.fetch`; raises what `other` does."""
        with contextlib.suppress(OSError, HostError):  # a server that is away, files that nobody here may read
            if self._folder.fetch(kind, key, into) and _as_published(into):
                return True
        _empty(into)
        return self._other.fetch(kind, key, into)


class _Connection(http.client.HTTPSConnection):
    """One that is the controller's, by the name in its certificate, whatever address leads to it."""

    def __init__(self, url: str, context: ssl.SSLContext) -> None:
        place = urlsplit(url)
        super().__init__(place.hostname or "", place.port, timeout=STALL_S)
        self._tls = context

    def connect(self) -> None:
        http.client.HTTPConnection.connect(self)
        self.sock = self._tls.wrap_socket(self.sock, server_hostname=CONTROLLER)


class _Stream(io.RawIOBase):
    """The bytes of one answer; where the line breaks they go on from the offset that was reached."""

    def __init__(self, url: str, context: ssl.SSLContext, path: str) -> None:
        self._url, self._context, self._path = url, context, path
        self._connection: _Connection | None = None
        self._answer: http.client.HTTPResponse | None = None
        self._at, self._size, self._failures = 0, -1, 0

    def open(self) -> bool:
        """Begin; False where there is no such artifact.

        Raises:
            Unreachable: no connection comes about.
        """
        while True:
            try:
                return self._ask()
            except (OSError, http.client.HTTPException) as error:
                self._failed(error)

    def readable(self) -> bool:
        """Whether it can be read."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Return up to so many bytes, b"" at the end.

        Raises:
            Unreachable: the rest does not come.
        """
        while self._at < self._size:
            try:
                if self._answer is None and not self._ask():
                    raise Unreachable(f"{self._path} is gone from the controller")
                assert self._answer is not None
                data = self._answer.read(min(size if size >= 0 else PIECE, PIECE))
                if not data:
                    raise ConnectionError("the connection ended early")
            except (OSError, http.client.HTTPException) as error:
                self._failed(error)
                continue
            self._at += len(data)
            self._failures = 0
            return data
        return b""

    def close(self) -> None:
        """Let go of the connection."""
        self._hang_up()
        super().close()

    def _ask(self) -> bool:
        """Ask for the bytes from here on; False for a 404.

        Raises:
            OSError, http.client.HTTPException: no connection, or no answer that can be used.
        """
        self._hang_up()
        while True:
            self._connection = _Connection(self._url, self._context)
            self._connection.request("GET", self._path, headers={"Range": f"bytes={self._at}-"})
            answer = self._connection.getresponse()
            if answer.status != http.client.SERVICE_UNAVAILABLE:
                break
            self._hang_up()  # others have their turn
        if answer.status == http.client.NOT_FOUND:
            return False
        if answer.status != http.client.PARTIAL_CONTENT or answer.length is None:
            raise http.client.HTTPException(f"status {answer.status}")
        if self._size not in {-1, self._at + answer.length}:
            raise Unreachable(f"{self._path} became another one at the controller")
        self._answer, self._size = answer, self._at + answer.length
        return True

    def _failed(self, error: Exception) -> None:
        if isinstance(error, HostError):
            raise error
        self._hang_up()
        self._failures += 1
        if self._failures >= FAILURES:
            raise Unreachable(f"the controller does not give {self._path}: {error}") from None
        time.sleep(min(0.2 * 2**self._failures, 5.0))

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = self._answer = None


def _unpacked(stream: io.RawIOBase, into: Path) -> bool:
    """Write the files of a tar into an empty folder, and nowhere else; False where it is no tar of an artifact's.

    Raises:
        OSError: they cannot be written.
    """
    try:
        with tarfile.open(fileobj=cast("IO[bytes]", stream), mode="r|") as archive:
            return all(_put(archive, member, into) for member in archive)
    except (tarfile.TarError, ValueError, EOFError):
        return False


def _put(archive: tarfile.TarFile, member: tarfile.TarInfo, into: Path) -> bool:
    """Write one file; False where it would lie elsewhere, or is none that an artifact has."""
    parts = Path(member.name).parts
    if not parts or Path(member.name).is_absolute() or ".." in parts:
        return False
    target = into.joinpath(*parts)
    if target.is_symlink() or os.path.realpath(target.parent) != os.path.join(os.path.realpath(into), *parts[:-1]):
        return False  # through a link that came before
    if member.isdir():
        target.mkdir(parents=True, exist_ok=True)
    elif member.issym():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(member.linkname)
    elif member.isfile() and (content := archive.extractfile(member)) is not None:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as handle:
            shutil.copyfileobj(content, handle, PIECE)
        target.chmod(member.mode & 0o755)
    else:
        return False
    return True


def _as_published(folder: Path) -> bool:
    try:
        wanted = json.loads((folder / META).read_bytes()).get("digest", "")
    except (OSError, ValueError, AttributeError):
        return False
    return not wanted or tree_digest(folder, META) == wanted


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        clear(path)
