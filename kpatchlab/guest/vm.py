"""Guests in the lab's own QEMU: boot, save, resume, and know within seconds why one is lost."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from kpatchlab import proc
from kpatchlab.errors import GuestLost, HostError, Loss
from kpatchlab.guest import jail, qemu
from kpatchlab.guest.console import LIMIT_BYTES, Console
from kpatchlab.guest.guest import End, Guest
from kpatchlab.guest.pulse import Pulse, process_ns
from kpatchlab.guest.qmp import Qmp
from kpatchlab.guest.shapes import Boot, Exit, Identity, MachineShape, Qemu, SavedGuest
from kpatchlab.guest.share import Share, read_proc

__all__ = ["Boot", "Exit", "Guest", "Identity", "MachineShape", "Qemu", "QemuGuest", "SavedGuest"]
__all__ += ["boot", "link", "resume"]

BOOT_DEADLINE_S = 120.0
RESUME_DEADLINE_S = 30.0
TRACE_QUIET_S = 1.0
"""A panic's trace is over when the console was quiet for so long: a busy host lets an emulated guest wait as well."""
TRACE_MAX_S = 10.0
NMI_WAIT_S = 2.0
"""How long a guest that hangs has to print where, after an NMI."""
_FATAL = re.compile(rb"kpatchlab agent: fatal: [^\r\n]*")
_PANIC = re.compile(rb"Kernel panic - not syncing: ([^\r\n]*)")


def link() -> tuple[int, int]:
    """Return a virtual cable: two file descriptors, one for each guest, which `boot` and `resume` take over."""
    one, other = socket.socketpair()
    return one.detach(), other.detach()


def _from_outside(status: int) -> bool:
    """Whether a child's end is one that only somebody else on this host brings about: a signal, told as a shell does.

    QEMU takes the others that people send (INT, TERM, HUP) and says so, see `SHUTDOWN` of its QMP.
    """
    return (-status if status < 0 else status - 128) in {signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP}


def _pipe() -> tuple[io.FileIO, io.FileIO]:
    read, write = os.pipe()
    return io.FileIO(read, "r"), io.FileIO(write, "w")


class QemuGuest(Guest):
    """A guest in a QEMU of its own, started by `boot` or `resume`.

    Args:
        command_line: returns the argument list, given QEMU's ends of the channels.
        console_pipe: the console comes through a pipe, which QEMU can open by its path, and not a socket.
    """

    def __init__(
        self,
        spec: Boot,
        console: Console,
        link_fd: int | None,
        command_line: Callable[[qemu.Ends], list[str]],
        *,
        console_pipe: bool = False,
    ) -> None:
        pairs = {name: socket.socketpair() for name in qemu.CHANNELS[1:]}
        console_pair = _pipe() if console_pipe else socket.socketpair()
        ours: list[End] = [console_pair[0], *(pair[0] for pair in pairs.values())]
        theirs: list[End] = [console_pair[1], *(pair[1] for pair in pairs.values())]
        super().__init__(pairs["ctl"][0], console)
        self.boot = spec
        self._ends = ours
        self._qmp_socket = pairs["qmp"][0]
        self._pending: tuple[Loss, str] | None = None  # why it will be lost, once its trace is on record
        self._pending_since = 0.0
        self._asked_nmi = False
        self._reset = ""
        self._errors = console.path.with_name(console.path.name + ".qemu")
        try:
            self._process = self._spawn(command_line, [end.fileno() for end in theirs], link_fd)
        except BaseException:
            for end in ours:
                end.close()
            raise
        finally:
            for end in theirs:
                end.close()
            if link_fd is not None:
                os.close(link_fd)
        self._qmp = Qmp(self._qmp_socket)
        self._share = Share(self._pid)
        self._pulse = Pulse(spec.machine.cpus, self.got_s, spec.machine.stretch)
        self._watch(self._ends[0], console.add)
        self._watch(pairs["beat"][0], self._pulse.beat)
        self._watch(pairs["clock"][0], partial(self._tell_time, pairs["clock"][0]))
        self._watch(self._qmp_socket, self._on_qmp)
        self._thread.start()

    def _spawn(
        self, command_line: Callable[[qemu.Ends], list[str]], ends: list[int], link_fd: int | None
    ) -> subprocess.Popen[bytes]:
        whole = qemu.Ends(tuple(ends), link_fd)
        words = self._jailed(command_line(whole))
        with self._errors.open("wb") as handle:
            return proc.spawn(words, env=self._environment(), stderr=handle, pass_fds=whole.all(), no_groups=True)

    def _jailed(self, command: list[str]) -> list[str]:
        """Return QEMU's command line with what confines it on this host."""
        return jail.words(self.boot, command)

    def _environment(self) -> dict[str, str]:
        """Return all variables that QEMU gets."""
        return dict(self.boot.machine.qemu.env)

    # --- saving

    def save(self, directory: os.PathLike[str]) -> SavedGuest:
        """Write the guest to `directory`; it goes on running. No command may run in it meanwhile.

        Raises:
            GuestLost: it was lost before or meanwhile.
            HostError: QEMU or the disk refuses.
        """
        saved = SavedGuest(Path(directory), self.boot)
        state = saved.path / (SavedGuest.STATE + ".part")
        self.check()
        self._pulse.pause()
        try:
            self._ask("stop")
            with state.open("wb") as handle:
                self._ask("getfd", fd=handle.fileno(), fdname="state")
                self._migrate("migrate", uri="fd:state")
                os.fsync(handle.fileno())
            state.rename(saved.state)
            facts = saved.path / (SavedGuest.FACTS + ".part")
            facts.write_text(json.dumps(self.boot.to_json(), indent=1))
            facts.rename(saved.path / SavedGuest.FACTS)
        except OSError as error:
            raise HostError(f"cannot save a guest to {directory}: {error.strerror}") from error
        finally:
            state.unlink(missing_ok=True)
            self._qmp.send("cont")
            self.watch_pulse()
        return saved

    def _ask(self, command: str, fd: int | None = None, timeout_s: float = 30.0, **arguments: Any) -> Any:
        try:
            return self._qmp.send(command, fd, **arguments).result(timeout_s)
        except TimeoutError:
            raise HostError(f"QEMU does not answer {command}") from None
        except HostError:
            self.check()
            raise

    def _migrate(self, command: str, **arguments: Any) -> None:
        """Move the guest's state out of or into QEMU, and wait until it is through."""
        # Unlimited: the default of 128 MiB/s is meant for networks.
        if command == "migrate":
            self._ask("migrate-set-parameters", max_bandwidth=1 << 40)
        self._ask(command, **arguments)
        end = time.monotonic() + 120.0
        while (state := self._ask("query-migrate").get("status")) != "completed":
            self.check()
            if state in {"failed", "cancelled"} or time.monotonic() > end:
                raise HostError(f"{command}: the guest's state did not go through ({state})")
            time.sleep(0.005)

    def take_in(self, saved: SavedGuest) -> None:
        """Fill a QEMU that waits (`incoming`) with a saved guest, and let it run."""
        with saved.state.open("rb") as handle:
            self._ask("getfd", fd=handle.fileno(), fdname="state")
            self._migrate("migrate-incoming", uri="fd:state")
        self._ask("cont")
        self.watch_pulse()

    def watch_pulse(self) -> None:
        """Take silence for a hang from now on."""
        self._pulse.resume(self._pid())

    def got_s(self) -> float:
        """See `Guest.got_s`."""
        return self._share.got_s()

    def withheld_s(self, within_s: float | None = None) -> float:
        """See `Guest.withheld_s`."""
        return self._share.withheld_s(within_s)

    def _pid(self) -> int:
        """Return QEMU's process: what we started, or that one's only child."""
        pid = self._process.pid
        with contextlib.suppress(OSError, ValueError):
            pid = int(read_proc(f"/proc/{pid}/task/{pid}/children"))
        return pid

    # --- ending

    def _stop(self) -> None:
        proc.stop(self._process, grace_s=0.0)
        super()._stop()

    def close(self) -> None:
        """End the guest, at once; may be called by several threads, but not from `on_output`."""
        super().close()
        for end in self._ends:
            end.close()
        if not self._complaints():
            self._errors.unlink(missing_ok=True)

    def _complaints(self) -> list[str]:
        """Return what QEMU said, without its warnings: one is that a guest without a cable has none."""
        with contextlib.suppress(OSError):
            lines = self._errors.read_text(errors="replace").splitlines()
            return [line.strip() for line in lines if line.strip() and "warning:" not in line]
        return []

    # --- the reader's thread

    def _tell_time(self, end: socket.socket, asked: bytes) -> None:
        """Answer each byte with the processor time that QEMU has used, in ns, as eight bytes."""
        with contextlib.suppress(OSError):  # it is ending, or the guest asks and does not listen
            now = struct.pack("<Q", process_ns(self._pid()))
            end.send(now * min(len(asked), 64), socket.MSG_DONTWAIT)

    def _on_qmp(self, data: bytes) -> None:
        for event in self._qmp.feed(data):
            name, reason = event["event"], event.get("data", {}).get("reason", "")
            if name == "GUEST_PANICKED":
                self._expect_loss(Loss.PANIC, "the kernel panicked")
            elif name == "WATCHDOG":
                self._expect_loss(Loss.HANG, "the watchdog fired")
            elif name == "SHUTDOWN":
                self._reset = str(reason)

    def _expect_loss(self, reason: Loss, detail: str) -> None:
        if not self._pending:
            self._pending = (reason, detail)
            self._pending_since = time.monotonic()

    def _tick(self) -> None:
        if self.lost:
            return
        now = time.monotonic()
        if self._pending:
            quiet = now - max(self.console.last, self._pending_since)
            waited = now - self._pending_since
            wanted = NMI_WAIT_S if self._asked_nmi and not _PANIC.search(self.console.data()) else TRACE_QUIET_S
            if quiet >= wanted or waited >= TRACE_MAX_S:
                self._lose(*self._pending)
            return
        silence = self._pulse.hangs(now, self.console.last)
        if silence:
            self._asked_nmi = True
            self._qmp.send("inject-nmi")
            self._expect_loss(Loss.HANG, silence)

    def _on_closed(self, source: End) -> None:
        """QEMU is ending: wait until the console is read to its end as well, then say why."""
        if source is not self._ends[0]:
            return
        try:
            status = self._process.wait(5.0)
        except subprocess.TimeoutExpired:
            status = 0
        with contextlib.suppress(OSError):
            while data := self._qmp_socket.recv(1 << 16, socket.MSG_DONTWAIT):
                self._on_qmp(data)
        self._lose(*(self._pending or self._why_ended(status)))

    def _why_ended(self, status: int) -> tuple[Loss, str]:
        if panic := _PANIC.search(self.console.data()):
            return Loss.PANIC, panic[1].decode("utf-8", "replace")
        if self._reset == "guest-reset":
            return Loss.PANIC, "the guest was reset with no panic on record: a triple fault, or a reboot"
        if self._reset == "guest-shutdown":
            fatal = _FATAL.search(self.console.data())
            return Loss.OFF, fatal[0].decode("utf-8", "replace") if fatal else "the guest switched itself off"
        said = self._complaints()
        detail = f"QEMU ended with status {status}" + (f": {said[-1][:300]}" if said else "")
        return (Loss.EXIT if self._reset.startswith("host-") or _from_outside(status) else Loss.CRASH), detail

    def _lose(self, reason: Loss, detail: str) -> None:
        panic = _PANIC.search(self.console.data())
        if reason is Loss.PANIC and panic:
            detail = panic[1].decode("utf-8", "replace")
        super()._lose(reason, detail)
        self._qmp.close(GuestLost(reason, detail))

    def wait_up(self, deadline_s: float) -> None:
        """Wait for the agent's first word, until the host gave the guest `deadline_s` seconds.

        Raises:
            GuestLost: the guest was lost before; with reason SILENCE when the deadline came.
            HostError: QEMU ended before the guest printed anything.
        """
        up = self.wait_for(self._up, deadline_s)
        if self.lost and self.lost.reason in {Loss.EXIT, Loss.CRASH} and not self.console.total:
            raise HostError(self.lost.detail, hint="kpatchlab doctor looks at QEMU")
        self.check()
        if not up:
            last = self.console.text().strip().splitlines() or ["nothing was printed"]
            raise GuestLost(Loss.SILENCE, f"no agent within {deadline_s:.0f} s; last on the console: {last[-1][:200]}")


def boot(
    spec: Boot,
    *,
    console_path: Path,
    link_fd: int | None = None,
    console_limit_bytes: int = LIMIT_BYTES,
    deadline_s: float = BOOT_DEADLINE_S,
    cancel: proc.Cancel | None = None,
) -> Guest:
    """Boot a guest to its agent.

    Args:
        link_fd: one end of a `link`; it is this guest's from here on, also where this fails.
        deadline_s: seconds that the host gives the guest until the agent must have answered.
        cancel: set to lose the guest early, now or later.

    Raises:
        GuestLost: it did not come up.
        HostError: QEMU cannot be started.
    """
    console = Console(console_path, console_limit_bytes)
    guest = QemuGuest(spec, console, link_fd, partial(qemu.command_line, spec, incoming=False))
    guest.cancel = cancel
    return await_agent(guest, deadline_s)


def await_agent(guest: QemuGuest, deadline_s: float) -> QemuGuest:
    """Return a guest once its agent has answered; close it where it does not. See `boot`."""
    try:
        guest.wait_up(deadline_s)
    except BaseException:
        guest.close()
        raise
    guest.watch_pulse()
    return guest


def resume(
    saved: SavedGuest,
    *,
    console_path: Path,
    link_fd: int | None = None,
    console_limit_bytes: int = LIMIT_BYTES,
    deadline_s: float = RESUME_DEADLINE_S,
    cancel: proc.Cancel | None = None,
) -> Guest:
    """Resume a copy of a saved guest, which stays as it is; `identify` is the caller's next step.

    Args:
        link_fd: as in `boot`; a saved guest can be resumed with a cable or without.
        cancel: as in `boot`.

    Raises:
        GuestLost: it did not answer.
        HostError: QEMU cannot be started or refuses the state.
    """
    spec, console = saved.boot, Console(console_path, console_limit_bytes)
    guest = QemuGuest(spec, console, link_fd, partial(qemu.command_line, spec, incoming=True))
    guest.cancel = cancel
    try:
        try:
            guest.take_in(saved)
        except GuestLost as lost:
            if lost.reason.is_kernels or lost.reason is Loss.OFF:
                raise
            raise HostError(f"a saved guest does not resume: {lost.detail}", hint="kpatchlab clean") from lost
        guest.ping(deadline_s)
    except BaseException:
        guest.close()
        raise
    return guest
