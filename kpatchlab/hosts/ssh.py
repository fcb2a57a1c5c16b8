"""One host by SSH: log in, run, start what ends with the connection, put files there.

Nothing that is started here outlives its connection: it has a watcher on the far side, which ends it when the
controller is silent or gone, or it reads until the connection ends. There is no terminal: without one sshd leaves what
it started alone when the connection ends (OpenSSH 9.2 and 10.0).
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import os
import shlex
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol, Self

from kpatchlab.errors import HostError
from kpatchlab.hosts.login import logged_in
from kpatchlab.lab.hosts import HostEntry
from kpatchlab.proc import Kept, split_lines

if TYPE_CHECKING:
    from paramiko import Channel, SSHClient

RUNS_AT_ONCE = 5
"""Commands of `run` beside each other; sshd takes ten sessions a connection by default (MaxSessions)."""
PULSE_S = 10.0
SILENCE_S = 90
"""The controller sends a byte every PULSE_S, and is taken for gone where none is heard for SILENCE_S: more than a
minute, for which a host may be paused."""
GRACE_S = 5.0
"""Seconds between SIGTERM and SIGKILL on the far side."""
_CHUNK = 1 << 17

# $1: seconds of silence, $2: of grace in fifths, $3: how many streams there are. Standard input, which is the pulse, is
# the watcher's alone. The job is a session of its own, so that its number is that of its group; before it is that, it
# is ended alone.
_WATCHED = """\
silence=$1 grace=$2
[ "$3" -eq 2 ] || exec 2>&1
shift 3
exec 3<&0 </dev/null
setsid "$@" 3<&- & p=$!
end() { kill -s "$1" -- "-$p" || kill -s "$1" "$p"; }
{
  while [ -n "$(timeout "$silence" head -c 1 <&3)" ]; do :; done
  end TERM
  while [ "$grace" -gt 0 ] && kill -s 0 -- "-$p"; do sleep 0.2; grace=$((grace - 1)); done
  end KILL
} >/dev/null 2>&1 & w=$!
exec 3<&-
wait "$p"; status=$?
{ kill "$w"; kill -s KILL -- "-$p"; } 2>/dev/null
exit "$status"
"""
# $1: the file, $2: its size in bytes, $3: its mode. A connection that breaks looks like the end of the file.
_PUT = """\
mkdir -p "$(dirname "$1")" && t=$(mktemp "$1.XXXXXX") || exit 1
trap 'rm -f "$t"' EXIT
cat >"$t" && [ "$(wc -c <"$t")" -eq "$2" ] && chmod "$3" "$t" && mv -f "$t" "$1"
"""
# $1: the folder. tar tells of an archive without its end.
_UNPACK = """\
mkdir -p "$(dirname "$1")" && t=$(mktemp -d "$1.XXXXXX") || exit 1
trap 'rm -rf "$t"' EXIT
mkdir "$t/new" && tar -x -f - -C "$t/new" && { [ ! -e "$1" ] || mv -T "$1" "$t/old"; } && mv -T "$t/new" "$1"
"""


@dataclass(frozen=True, slots=True)
class Result:
    """What a command on another host left behind; a status of -1 is not known: a signal ended it, or the connection."""

    status: int
    stdout: str
    stderr: str


class Connection:
    """A login on a host; close it, or use it in `with`.

    Attributes:
        name: of the host, in messages.
        entry: of the host, in the lab's file.
    """

    def __init__(self, name: str, entry: HostEntry, client: SSHClient) -> None:
        self.name, self.entry = name, entry
        self._client = client
        self._free = threading.BoundedSemaphore(RUNS_AT_ONCE)

    @classmethod
    def open(cls, entry: HostEntry, name: str = "") -> Self:
        """Log in by keys alone: the entry's, the agent's, or those in ~/.ssh; nothing asks for a password.

        Args:
            name: what messages call the host; its address by default.

        Raises:
            HostError: there is no way in, or its key is not in known_hosts; the hint is the remedy.
        """
        logging.getLogger("paramiko").setLevel(logging.CRITICAL + 1)  # its threads log what is told here in one line
        name = name or entry.where.host
        return cls(name, entry, logged_in(entry, name))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Log out; what `start` started there ends."""
        self._client.close()

    @property
    def alive(self) -> bool:
        """Whether the connection stands, as far as this side knows."""
        transport = self._client.get_transport()
        return transport is not None and transport.is_active()

    @property
    def near_address(self) -> str:
        """The address of this side, as the host sees it where there is no translation in between."""
        transport = self._client.get_transport()
        assert transport
        return str(transport.sock.getsockname()[0])

    def run(
        self, words: Sequence[str], *, input_bytes: bytes = b"", timeout_s: float = 60.0, check: bool = True
    ) -> Result:
        """Run a command to its end; of either stream 4 MiB are kept. What it leaves in its process group ends with it.

        Raises:
            HostError: the connection is lost or the time is over; with `check`, the status is not 0. A host that does
                not even begin in that time loses the connection.
        """
        feed = (lambda sink: sink.write(input_bytes)) if input_bytes else None
        return self._run(words, feed, Kept(), timeout_s, check=check)

    def put(self, local: Path, remote: str, *, timeout_s: float = 600.0) -> None:
        """Put a file at an absolute path there, whole or not at all; its folder is made.

        Raises:
            HostError: it cannot be read, or did not get there.
        """
        try:
            with local.open("rb") as handle:
                stat = os.fstat(handle.fileno())
                words = _script(_PUT, remote, str(stat.st_size), f"{stat.st_mode & 0o777:o}")
                self._run(words, lambda sink: _copied(handle, sink), Kept(), timeout_s)
        except OSError as error:
            raise HostError(f"{local}: {error.strerror}") from None

    def put_tree(self, folder: Path, remote: str, *, timeout_s: float = 1800.0) -> None:
        """Put a folder at an absolute path there, whole or not at all, in the place of what was there.

        Raises:
            HostError: it cannot be read, or did not get there.
        """

        def pack(sink: _Sink) -> None:
            with tarfile.open(fileobj=sink, mode="w|", bufsize=_CHUNK, format=tarfile.PAX_FORMAT) as tar:
                tar.add(folder, arcname=".", filter=_plain)

        try:
            self._run(_script(_UNPACK, remote), pack, Kept(), timeout_s)
        except OSError as error:
            raise HostError(f"{folder}: {error.strerror}") from None

    def get(self, remote: str, local: Path, *, timeout_s: float = 600.0) -> None:
        """Fetch a file, whole or not at all.

        Raises:
            HostError: it is not there, did not get here, or cannot be written here.
        """
        try:
            local.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=local.parent, prefix=f".{local.name[:40]}.", delete=False) as beside:
                try:
                    self._run(["cat", "--", remote], None, _File(beside), timeout_s)
                    beside.flush()
                    os.fsync(beside.fileno())
                    os.replace(beside.name, local)
                except BaseException:
                    os.unlink(beside.name)
                    raise
        except OSError as error:
            raise HostError(f"{local}: {error.strerror}") from None

    def start(
        self,
        words: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        on_line: Callable[[str], None] = lambda _: None,
        grace_s: float = GRACE_S,
    ) -> Remote:
        """Start a process there that ends when it is stopped, or the connection or this process ends, however.

        All of its process group ends with it, by SIGTERM and after `grace_s` by SIGKILL; what it moves to sessions of
        its own is for it to end. The environment is no place for secrets: every user there can read command lines.

        Args:
            env: more of its environment.
            on_line: takes each line of its output, of both streams, in a thread of the process's own.

        Raises:
            HostError: the connection is lost, or the host takes no more sessions.
        """
        more = [f"{key}={value}" for key, value in (env or {}).items()]
        channel = self._session(_watched([*(["env", *more] if more else []), *words], grace_s, streams=1), SILENCE_S)
        return Remote(self, channel, on_line, grace_s)

    def _session(self, words: Sequence[str], timeout_s: float) -> Channel:
        """Begin a command; where the host does not within `timeout_s`, the connection is of no more use, and closed."""
        from paramiko import ChannelException, SSHException

        transport = self._client.get_transport()
        if transport is None or not transport.is_active():
            raise self._lost()
        closer = threading.Timer(timeout_s, transport.close)  # paramiko waits for an answer to exec for ever
        closer.start()
        try:
            channel = transport.open_session(timeout=2 * timeout_s)
            channel.exec_command(f"exec {shlex.join(words)}")
        except ChannelException:
            raise HostError(
                f"host {self.name}: its sshd takes no more sessions of this connection", hint="MaxSessions 10 there"
            ) from None
        except (SSHException, OSError, EOFError):
            raise self._lost(f"it began nothing within {timeout_s:g} s" if closer.finished.is_set() else "") from None
        finally:
            closer.cancel()
        return channel

    def _run(
        self,
        words: Sequence[str],
        feed: Callable[[_Sink], object] | None,
        out: _Taker,
        timeout_s: float,
        *,
        check: bool = True,
    ) -> Result:
        """Run a command; `feed` writes its input, and without one it is watched."""
        deadline = time.monotonic() + timeout_s
        bounded = ["timeout", "-k", "5", str(max(1, round(timeout_s + 1))), *words]
        ended = threading.Event()
        words_there = bounded if feed else _watched(bounded, GRACE_S, streams=2)
        with self._free, _closing(self._session(words_there, timeout_s)) as channel:
            err = Kept()
            sender = _Sender(channel, feed or (lambda sink: _beat(sink, ended)), deadline)
            stderr = threading.Thread(target=_drain, args=(channel, channel.recv_stderr, err, deadline), daemon=True)
            stderr.start()
            whole = _drain(channel, channel.recv, out, deadline)
            stderr.join(max(0.1, deadline - time.monotonic()))
            status = _status(channel, deadline) if whole else None
            ended.set()
        sender.join(5)
        if status is None:
            raise HostError(
                f"host {self.name}: {words[0]} did not end within {timeout_s:g} s",
                hint="is its network, disk or processor overloaded?",
            )
        if sender.error:  # what was to be sent could not be read here
            raise sender.error
        if status < 0 and not self.alive:
            raise self._lost()
        said = out.text() if isinstance(out, Kept) else ""
        result = Result(status, said, err.text())
        if check and status:
            last = (err.text().strip() or said.strip()).splitlines() or ["no word"]
            how = f"exited with {status}" if status > 0 else "ended in a way that is not known"
            raise HostError(f"host {self.name}: {_shown(words)} {how}: {last[-1][:300]}")
        return result

    def _lost(self, why: str = "") -> HostError:
        return HostError(
            f"host {self.name}: the connection is lost{f': {why}' if why else ''}", hint="is it up, and its network?"
        )


class Remote:
    """A process on the far side, see `Connection.start`."""

    def __init__(
        self, connection: Connection, channel: Channel, on_line: Callable[[str], None], grace_s: float
    ) -> None:
        self._connection, self._channel, self._on_line, self._grace_s = connection, channel, on_line, grace_s
        self._ended = threading.Event()
        self._status = -1
        for target in (self._read, self._beat):
            threading.Thread(target=target, name=f"{connection.name}-{target.__name__}", daemon=True).start()

    @property
    def running(self) -> bool:
        """Whether it runs, as far as this side knows."""
        return not self._ended.is_set()

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Return its status, -1 where that is not known; None where it runs on when the time is over."""
        return self._status if self._ended.wait(timeout_s) else None

    def stop(self) -> int:
        """End it and its process group: TERM, a while, KILL; returns its status as `wait` does."""
        with contextlib.suppress(OSError, EOFError):
            self._channel.shutdown_write()
        self._ended.wait(self._grace_s + 3)
        _close(self._channel)
        self._ended.wait(2)
        return self._status

    def _read(self) -> None:
        self._channel.settimeout(1.0)
        lines = _Lines(self._on_line)
        with contextlib.suppress(OSError, EOFError):
            _drain(self._channel, self._channel.recv, lines, math.inf)
        lines.end()
        self._status = _status(self._channel, time.monotonic() + 5) or 0 if self._connection.alive else -1
        self._ended.set()
        _close(self._channel)

    def _beat(self) -> None:
        while not self._ended.wait(PULSE_S):
            try:
                self._channel.sendall(b".")
            except TimeoutError:  # the far side is not reading now: it was paused, or its network is away
                continue
            except (OSError, EOFError):
                return


class _Sink(io.BufferedIOBase):
    """A channel's standard input as a file that is written to."""

    def __init__(self, channel: Channel, deadline: float) -> None:
        super().__init__()
        self._channel, self._deadline = channel, deadline

    def write(self, data: Any, /) -> int:
        """Send all of it.

        Raises:
            EOFError: the far side takes no more, or the time is over.
        """
        rest = memoryview(data)
        while rest:
            if time.monotonic() > self._deadline or self._channel.closed:
                raise EOFError
            try:
                rest = rest[self._channel.send(rest[:_CHUNK]) :]
            except TimeoutError:
                continue
            except OSError:
                raise EOFError from None
        return memoryview(data).nbytes


class _Taker(Protocol):
    """Takes a stream; a `Kept` is one."""

    def add(self, data: bytes) -> None:
        """Take the next piece."""


class _File:
    """Takes a stream whole, into a file."""

    def __init__(self, handle: IO[bytes]) -> None:
        self._handle = handle

    def add(self, data: bytes) -> None:
        """Take the next piece."""
        self._handle.write(data)


class _Lines:
    """Takes a stream by its lines; what their listener raises does not stop it."""

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self._on_line, self._buffer = on_line, bytearray()

    def add(self, data: bytes) -> None:
        """Take the next piece."""
        for line in split_lines(self._buffer, data):
            with contextlib.suppress(Exception):
                self._on_line(line)

    def end(self) -> None:
        """Take what stands behind the last newline for a line."""
        self.add(b"")


class _Sender(threading.Thread):
    """Sends a command's input while its output is read; `error` is what went wrong on this side."""

    def __init__(self, channel: Channel, feed: Callable[[_Sink], object], deadline: float) -> None:
        super().__init__(daemon=True)
        self._channel, self._feed, self._deadline = channel, feed, deadline
        self.error: OSError | None = None
        channel.settimeout(0.5)
        self.start()

    def run(self) -> None:
        """Send all, then the end."""
        try:
            self._feed(_Sink(self._channel, self._deadline))
        except EOFError:  # it ended, and its status says why
            return
        except OSError as error:
            self.error = error
            _close(self._channel)  # before the end of what is sent: the far side must not take it for whole
            return
        with contextlib.suppress(OSError, EOFError):
            self._channel.shutdown_write()


def _close(channel: Channel) -> None:
    with contextlib.suppress(OSError, EOFError):  # the connection may be gone
        channel.close()


@contextlib.contextmanager
def _closing(channel: Channel) -> Iterator[Channel]:
    try:
        yield channel
    finally:
        _close(channel)


def _drain(channel: Channel, receive: Callable[[int], bytes], out: _Taker, deadline: float) -> bool:
    """Take a stream to its end; False where the deadline comes first.

    What a command left behind can hold the stream open: after its end that is waited for a second long.
    """
    quiet = 0
    while time.monotonic() < deadline:
        try:
            data = receive(_CHUNK)
        except TimeoutError:
            quiet += channel.exit_status_ready()
            if quiet > 2:
                return True
            continue
        if not data:
            return True
        out.add(data)
    return False


def _status(channel: Channel, deadline: float) -> int | None:
    """Return a command's status, -1 where its channel ends without; None where the deadline comes first."""
    while not channel.exit_status_ready() and not channel.closed:
        if time.monotonic() > deadline:
            return None
        time.sleep(0.01)
    return channel.recv_exit_status() if channel.exit_status_ready() else -1


def _beat(sink: _Sink, ended: threading.Event) -> None:
    """Let the far side know that this side lives, until `ended`."""
    while not ended.wait(PULSE_S):
        sink.write(b".")


def _watched(words: Sequence[str], grace_s: float, *, streams: int) -> list[str]:
    """Return what runs a command with its watcher; of one stream standard error goes to standard output."""
    return _script(_WATCHED, str(SILENCE_S), str(round(grace_s * 5)), str(streams), *words)


def _script(text: str, *words: str) -> list[str]:
    return ["sh", "-c", text, "sh", *words]


def _shown(words: Sequence[str]) -> str:
    """Return a command as messages have it: scripts are long."""
    return " ".join("..." if "\n" in word else shlex.quote(word) for word in words)[:200]


def _copied(source: IO[bytes], sink: _Sink) -> None:
    while data := source.read(_CHUNK):
        sink.write(data)


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member
