"""A running guest as the rest of the lab sees it: the agent's client, the console, and whether it is lost.

One thread a guest reads all that comes out of it. Commands are run by whoever calls, several at once; a guest
that is lost wakes all of them up with GuestLost.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Self

from kpatchlab.errors import GuestLost, GuestRefused, HostError, Loss
from kpatchlab.guest import wire
from kpatchlab.guest.console import Console
from kpatchlab.guest.shapes import Exit, Identity, SavedGuest
from kpatchlab.proc import KEEP_BYTES, Cancel, Kept

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ENVIRONMENT = {"PATH": PATH, "HOME": "/root", "LANG": "C.UTF-8", "TERM": "dumb"}
TERM_GRACE_S = 2.0
"""Seconds of a command between SIGTERM and SIGKILL when its deadline has come."""
KILL_GRACE_S = 5.0
"""Seconds until a command that got SIGKILL counts as stuck in the kernel."""
TICK_S = 0.1
REASON_S = 6.0
"""How long the reader has to say why a guest is gone; it waits 5 s itself for QEMU to end."""
FILES_TIMEOUT_S = 120.0
FAR = 10.0
"""Deadlines count the seconds that the host gave the guest. After so many times as many by the wall clock, and after
FAR_LEAST_S at the least, a guest is given up as one that the host starves: nothing is known of its kernel then."""
FAR_LEAST_S = 300.0
SIGTERM, SIGKILL = 15, 9

End = socket.socket | io.FileIO
"""The lab's end of a channel to a guest: a socket, or a pipe that is read."""

OnOutput = Callable[[str, bytes], None]


class Command:
    """A command while it runs; its output is added by the reader's thread."""

    def __init__(self, keep_bytes: int, on_output: OnOutput | None) -> None:
        self.out = {"stdout": Kept(keep_bytes), "stderr": Kept(keep_bytes)}
        self.on_output = on_output
        self.listener_error: Exception | None = None
        self.ended = threading.Event()  # also set when the guest is lost
        self.how: tuple[int, int] | None = None  # status, signal
        self.begin = time.monotonic()

    def output(self, stream: str, data: bytes) -> None:
        """Take a piece of "stdout" or "stderr"."""
        self.out[stream].add(data)
        if self.on_output:
            try:
                self.on_output(stream, data)
            except Exception as error:  # noqa: BLE001 - whatever a listener does, the guest is read on
                self.on_output = None
                self.listener_error = error

    def result(self, *, timed_out: bool) -> Exit:
        """Return how it ended, as far as it did."""
        status, signal = self.how or (-1, 0)
        out, err = self.out["stdout"], self.out["stderr"]
        took = time.monotonic() - self.begin
        return Exit(status, signal, out.data(), err.data(), out.total_bytes, err.total_bytes, took, timed_out)


class Guest:
    """A guest whose agent answers on a socket; the base of every kind of guest.

    Args:
        ctl: the lab's end of the agent's channel.
        console: takes what the guest prints.

    Attributes:
        lost: why the guest does not answer any more, or None.
        release: the kernel's release, once the agent has said it.
        cancel: set to lose the guest while somebody waits for it; None: nobody will.
    """

    def __init__(self, ctl: socket.socket, console: Console) -> None:
        self.console = console
        self.lost: GuestLost | None = None
        self.release = ""
        self.cancel: Cancel | None = None
        self._ctl = ctl
        self._frames = wire.Reader()
        self._numbers = itertools.count(1)
        self._commands: dict[int, Command] = {}
        self._pings: dict[int, threading.Event] = {}
        self._lock = threading.Lock()
        self._send_lock = threading.Lock()
        self._up = threading.Event()
        self._gone = threading.Event()
        self._close_lock = threading.Lock()
        self._closing = False
        self._selector = selectors.DefaultSelector()
        self._watch(ctl, self._on_ctl)
        self._thread = threading.Thread(target=self._read, name="guest", daemon=True)

    # --- what callers use

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float,
        env: Mapping[str, str] | None = None,
        cwd: str = "/",
        stdin: bytes = b"",
        on_output: OnOutput | None = None,
        on_late: Callable[[], None] | None = None,
        keep_bytes: int = KEEP_BYTES,
    ) -> Exit:
        """Run a command in the guest to its end.

        A program that is not there gives status 127, one that cannot be executed 126, as with a shell; standard
        error then says so.

        Args:
            timeout_s: when the host gave the guest so many seconds, the command and all that descends from it get
                SIGTERM, then SIGKILL.
            env: added to `ENVIRONMENT`.
            on_output: called with ("stdout" or "stderr", bytes) as it comes, from the guest's own thread.
            on_late: called when `timeout_s` is over, before the command is ended; may run others in this guest.
            keep_bytes: of each stream, head and tail.

        Raises:
            whatever `on_output` raises, once the command has ended.
            GuestLost: the guest panicked, hung or ended before the command did; STARVED where the host kept the
                processor from it, see `FAR`.
        """
        return self._run(
            argv,
            timeout_s,
            env=env,
            cwd=cwd,
            stdin=[stdin],
            on_output=on_output,
            on_late=on_late,
            keep_bytes=keep_bytes,
        )

    def put(self, path: str, data: bytes, mode: int = 0o755) -> None:
        """Write a file in the guest; folders above it are made.

        Raises:
            GuestLost: as in `run`.
            GuestRefused: the guest cannot write it.
        """
        self.put_many([(path, data, mode)])

    def put_many(self, files: Sequence[tuple[str, bytes, int]]) -> None:
        """Write (path, bytes, mode) each, in one go; see `put`."""
        self._builtin(["put"], stdin=list(wire.put_payload(files)))

    def get(self, path: str, limit_bytes: int = 64 << 20) -> bytes:
        """Return a file's first `limit_bytes` bytes.

        Raises:
            GuestLost: as in `run`.
            GuestRefused: the guest cannot read it.
        """
        return self._builtin(["get", path, str(limit_bytes)], keep_bytes=2 * limit_bytes + 2).stdout

    def identify(self, identity: Identity) -> None:
        """Give the guest a name, an address and random numbers of its own, and the right time.

        Raises:
            GuestLost: as in `run`.
            GuestRefused: the guest refuses a part of it.
        """
        who = identity
        words = [who.device, who.hostname, who.mac, who.address, who.machine_id, who.seed.hex(), str(time.time_ns())]
        self._builtin(["identify", *words])

    def settle(self) -> None:
        """End all processes but the agent, and wait for a grace period of RCU; one that cannot be ended is left.

        Raises:
            GuestLost: as in `run`.
            HostError: the guest's agent is not what it was.
        """
        self._builtin(["settle"])

    def look(self, paths: Sequence[str], *, drop_caches: bool) -> dict[str, str]:
        """Return the text of these files of a guest, of those that there are.

        Raises:
            GuestLost: as in `run`.
            GuestRefused: the guest cannot read them.
        """
        words = (
            self._builtin(["look", "drop" if drop_caches else "keep", *paths])
            .stdout.decode("utf-8", "replace")
            .split("\0")
        )
        return dict(zip(words[1::2], words[2::2], strict=False))  # what a guest says may break off

    def ping(self, timeout_s: float) -> None:
        """Wait for an answer of the agent.

        Raises:
            GuestLost: as in `run`; with reason SILENCE when no answer came in time.
        """
        ident, answered = next(self._numbers), threading.Event()
        with self._lock:
            self._pings[ident] = answered
        self.send(b"P", ident)
        in_time = self.wait_for(answered, timeout_s)
        self.check()
        if not in_time:
            raise GuestLost(Loss.SILENCE, f"the agent did not answer within {timeout_s:.0f} s")

    def save(self, directory: os.PathLike[str]) -> SavedGuest:
        """Write the guest to `directory`; only a guest of the lab's own QEMU can."""
        raise HostError(f"a guest of this kind cannot be saved to {os.fspath(directory)}")

    def close(self) -> None:
        """End the guest, at once; may be called by several threads, but not from `on_output`."""
        with self._close_lock:
            if self._closing:
                return
            self._closing = True
            self._lose(Loss.EXIT, "the lab closed the guest")
            self._stop()
            if self._thread.ident:
                self._thread.join()
            self._ctl.close()
            self.console.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def give_up(self, reason: Loss, detail: str) -> None:
        """Lose the guest for a reason that the lab found outside of it; who waits for it gets GuestLost."""
        self._lose(reason, detail)

    def wait_for(self, event: threading.Event, limit_s: float) -> bool:
        """Wait for an event until the host gave the guest so many seconds; False where it did not come by then.

        Raises:
            GuestLost: STARVED, where that took too long by the wall clock, see `FAR`.
        """
        began, before = time.monotonic(), self.got_s()
        far_s = max(FAR * limit_s, FAR_LEAST_S)
        left = limit_s
        while not event.is_set() and left > 0:
            if self.cancel and self.cancel.is_set():
                self._lose(Loss.EXIT, "the job was cancelled")
                self.check()
            if (wall := time.monotonic() - began) > far_s:
                why = f"the host gave the guest {limit_s - left:.0f} s of {wall:.0f} s"
                self._lose(Loss.STARVED, f"{why}, and it needed more")
                self.check()
            if not event.wait(min(max(left, 0.01), 0.5)):
                left = limit_s - (self.got_s() - before)
        return event.is_set()

    # --- what the kinds of guests fill in

    def got_s(self) -> float:
        """Return the seconds that the host gave the guest so far; a guest that sleeps gets all that it wants."""
        return time.monotonic()

    def withheld_s(self, within_s: float | None = None) -> float:  # noqa: ARG002
        """Return the seconds that the host kept from the guest: in all, or the most of any stretch so long."""
        return 0.0

    def _stop(self) -> None:
        """End what runs the guest."""
        with contextlib.suppress(OSError):
            self._ctl.shutdown(socket.SHUT_RDWR)

    def _tick(self) -> None:
        """Look after the guest; called ten times a second from the reader's thread."""

    def _on_closed(self, source: End) -> None:
        """React to an end of file on one of what `_watch` was given."""
        if source is self._ctl:
            self._lose(Loss.EXIT, "the agent has gone")

    # --- commands

    def _builtin(self, words: Sequence[str], *, stdin: Sequence[bytes] = (), keep_bytes: int = KEEP_BYTES) -> Exit:
        done = self._run(words, FILES_TIMEOUT_S, stdin=stdin, keep_bytes=keep_bytes, flags=wire.EXEC_BUILTIN)
        if done.status != 0:
            why = "it took too long" if done.timed_out else done.stderr.decode("utf-8", "replace").strip()
            raise GuestRefused(f"guest: {words[0]}: {why}")
        return done

    def _run(
        self,
        argv: Sequence[str],
        timeout_s: float,
        *,
        env: Mapping[str, str] | None = None,
        cwd: str = "/",
        stdin: Sequence[bytes] = (),
        on_output: OnOutput | None = None,
        on_late: Callable[[], None] | None = None,
        keep_bytes: int = KEEP_BYTES,
        flags: int = 0,
    ) -> Exit:
        payload = wire.exec_payload(argv, {**ENVIRONMENT, **(env or {})}, cwd, flags)
        command = Command(keep_bytes, on_output)
        with self.started(payload, command) as ident:
            for piece in stdin:
                for at in range(0, len(piece), wire.PIECE):
                    self.send(b"I", ident, piece[at : at + wire.PIECE])
            self.send(b"I", ident)
            timed_out = not self.wait_for(command.ended, timeout_s)
            if timed_out:
                if on_late:
                    on_late()
                self._end(ident, command)
            self.check(command)
            return command.result(timed_out=timed_out)

    @contextlib.contextmanager
    def started(self, payload: bytes, command: Command) -> Iterator[int]:
        """Start a command and yield its number; what it prints after the `with` is dropped."""
        ident = next(self._numbers)
        with self._lock:
            self._commands[ident] = command
        try:
            self.check()
            self.send(b"X", ident, payload)
            yield ident
        finally:
            with self._lock:
                self._commands.pop(ident, None)

    def _end(self, ident: int, command: Command) -> None:
        """End a command whose deadline has come."""
        for signal, grace_s in ((SIGTERM, TERM_GRACE_S), (SIGKILL, KILL_GRACE_S)):
            self.send(b"K", ident, wire.signal_payload(signal))
            if self.wait_for(command.ended, grace_s):
                return
        # It is stuck in the kernel: have the stacks of all tasks in uninterruptible sleep on the console.
        blocked = Command(0, None)
        with self.started(wire.exec_payload(["sysrq", "w"], {}, "/", wire.EXEC_BUILTIN), blocked):
            self.wait_for(blocked.ended, TERM_GRACE_S)

    def send(self, kind: bytes, ident: int, payload: bytes = b"") -> None:
        """Send one frame (see `wire`), in one piece whoever else sends.

        Raises:
            GuestLost: nobody takes it any more.
        """
        data = wire.frame(kind, ident, payload)
        try:
            with self._send_lock:
                self._ctl.sendall(data)
        except OSError:
            self._gone.wait(REASON_S)  # the reader sees the same end of file, and knows why
            if not self.lost:
                self._lose(Loss.EXIT, "the agent's channel is closed")
        self.check()

    def check(self, command: Command | None = None) -> None:
        """Raise what `command`'s listener raised, or GuestLost if the guest was lost before `command` ended."""
        if command and command.listener_error:
            raise command.listener_error
        if self.lost and not (command and command.how):
            raise GuestLost(self.lost.reason, self.lost.detail)

    def _lose(self, reason: Loss, detail: str) -> None:
        """Mark the guest as lost, once, and wake up all who wait for it."""
        with self._lock:
            if self.lost is None:
                self.lost = GuestLost(reason, detail)
            waiting = [
                *(command.ended for command in self._commands.values()),
                *self._pings.values(),
                self._up,
                self._gone,
            ]
        with contextlib.suppress(OSError):
            self._ctl.shutdown(socket.SHUT_RDWR)
        for event in waiting:
            event.set()
        self.console.flush()

    # --- the reader's thread

    def _watch(self, source: End, handler: Callable[[bytes], None]) -> None:
        self._selector.register(source, selectors.EVENT_READ, handler)

    def _read(self) -> None:
        try:
            self._read_all()
        except Exception as error:  # noqa: BLE001 - nobody may wait for a thread that is no more
            # What a guest can do wrong is told apart before: this is the lab's own fault, and not the kernel's silence.
            self._lose(Loss.EXIT, f"the lab cannot read the guest: {error!r}")

    def _read_all(self) -> None:
        with self._selector:
            ticked = time.monotonic()
            while not self._closing and self._selector.get_map():
                for key, _ in self._selector.select(TICK_S):
                    source = key.fileobj
                    assert isinstance(source, End)
                    try:
                        data = os.read(key.fd, 1 << 18)
                    except OSError:
                        data = b""
                    if data:
                        key.data(data)
                    else:
                        self._selector.unregister(source)
                        self._on_closed(source)
                if time.monotonic() - ticked >= TICK_S:
                    self._tick()
                    ticked = time.monotonic()

    def _on_ctl(self, data: bytes) -> None:
        try:
            for kind, ident, payload in self._frames.feed(data):
                self._on_frame(kind, ident, payload)
        except wire.ProtocolError as error:
            self._lose(Loss.SILENCE, f"the agent's channel is garbled: {error}")

    def _on_hello(self, payload: bytes) -> None:
        version, _, self.release = payload.decode("utf-8", "replace").partition(" ")
        if version != str(wire.PROTOCOL_VERSION):
            raise wire.ProtocolError(f"the agent speaks version {version[:20]!r}, the lab {wire.PROTOCOL_VERSION}")

    def _on_frame(self, kind: bytes, ident: int, payload: bytes) -> None:
        if kind == b"H":
            self._on_hello(payload)
            self._up.set()
            return
        if kind == b"P":
            self._on_hello(payload)
            with self._lock:
                pinged = self._pings.pop(ident, None)
            if pinged:
                pinged.set()
            return
        with self._lock:
            command = self._commands.get(ident)
        if command is None:
            return  # given up at its deadline
        if kind in (b"O", b"E"):
            command.output("stdout" if kind == b"O" else "stderr", payload)
        elif kind == b"D":
            command.how = wire.read_done(payload)
            command.ended.set()
        else:
            raise wire.ProtocolError(f"unknown frame {kind!r}")
