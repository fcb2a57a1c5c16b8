"""The one place that starts child processes.

Every child gets its own session, no standard input (unless bytes are given), and a deadline. However the lab
ends, SIGKILL included, its children end with it: each carries `KPATCHLAB_OWNER=<token>` in its environment,
which its own children inherit, and a small guard process that waits for the lab's end kills whatever still
carries the token. PR_SET_PDEATHSIG, by which bubblewrap's children end, does not reach grandchildren, and prctl(2)
ties it to the thread that forked: so one thread, which lives as long as the process, starts them all.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import selectors
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from kpatchlab.errors import HostError

OWNER = "KPATCHLAB_OWNER"
TERM_GRACE_S = 3.0
"""Seconds between SIGTERM and SIGKILL."""
BUILD_NICE = 10
"""Niceness of what compiles: a busy loop beside a build on two processors keeps 80 % of one at least (`bench/nice`)."""
KEEP_BYTES = 4 << 20
"""How much of a child's output is kept: its first and its last half of this."""

_token = f"{os.getpid()}-{secrets.token_hex(8)}"
_guard_lock = threading.Lock()
_guard: subprocess.Popen[bytes] | None = None
_starters: dict[int, ThreadPoolExecutor] = {}

# Runs with -S -E -I, imports nothing but the core: up in some 15 ms, in the background.
_GUARD_CODE = r"""
import os, signal, sys, time
for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP): signal.signal(s, signal.SIG_IGN)
mark = sys.argv[1].encode()
while os.read(0, 64): pass
def owned():
    for pid in os.listdir("/proc"):
        if pid.isdigit() and int(pid) != os.getpid():
            try:
                with open(f"/proc/{pid}/environ", "rb") as f: env = f.read()
                with open(f"/proc/{pid}/stat", "rb") as f: state = f.read().rsplit(b")", 1)[1].split()[0]
            except OSError: continue
            if mark in env.split(b"\0") and state != b"Z": yield int(pid)
for sig, wait in ((signal.SIGTERM, 1.0), (signal.SIGKILL, 0.2), (signal.SIGKILL, 0.2)):
    left = list(owned())
    for pid in left:
        try: os.kill(pid, sig)
        except OSError: pass
    end = time.monotonic() + wait
    while left and time.monotonic() < end:
        time.sleep(0.05)
        left = list(owned())
    if not left: break
"""


class Cancel(Protocol):
    """Says whether what goes on is to end early; a `threading.Event` is one."""

    def is_set(self) -> bool:
        """Whether it is."""


class CommandFailed(HostError):
    """A child ended with a status other than 0; `result` has its output."""

    def __init__(self, result: Result) -> None:
        last = result.stderr.strip().splitlines() or result.stdout.strip().splitlines() or ["no output"]
        how = "ran out of time" if result.timed_out else f"exited with {result.status}"
        super().__init__(f"{result.argv[0]} {how}: {last[-1][:300]}", hint=f"command: {shlex.join(result.argv)}")
        self.result = result


@dataclass(frozen=True, slots=True)
class Result:
    """What a child left behind; `status` is negative for a signal, as in subprocess."""

    argv: tuple[str, ...]
    status: int
    stdout: str
    stderr: str
    duration_s: float
    timed_out: bool = False


def start_guard() -> None:
    """Start the guard process, once; `spawn` does it before the first child."""
    global _guard  # noqa: PLW0603 - one guard a process
    with _guard_lock:
        if _guard is None or _guard.poll() is not None:
            _guard = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _GUARD_CODE, f"{OWNER}={_token}"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                env={"PATH": os.environ.get("PATH", "")},
            )


def spawn(
    argv: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: int | IO[Any] | None = subprocess.DEVNULL,
    stdout: int | IO[Any] | None = subprocess.DEVNULL,
    stderr: int | IO[Any] | None = subprocess.DEVNULL,
    pass_fds: Sequence[int] = (),
    nice: int = 0,
    no_groups: bool = False,
) -> subprocess.Popen[bytes]:
    """Start a long-lived child in its own session; the caller stops it with `stop`.

    Args:
        env: the whole environment of the child, without the owner's token, which is added; None: the lab's own.
        nice: added to the niceness of the child and of its autogroup, see `_nice_group`.
        no_groups: without the caller's supplementary groups, where it may drop them: root's child.

    Raises:
        HostError: the program is not there or cannot be started.
    """
    start_guard()
    words = [str(word) for word in argv]
    if nice:
        words = ["nice", "-n", str(nice), *words]
    environment = dict(os.environ if env is None else env)
    environment[OWNER] = _token

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            words,
            env=environment,
            cwd=cwd,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            pass_fds=pass_fds,
            start_new_session=True,
            extra_groups=[] if no_groups and os.geteuid() == 0 else None,
        )

    try:
        child = _starter().submit(start).result()
    except FileNotFoundError as error:
        raise HostError(f"{error.filename}: not found", hint="kpatchlab doctor names the package") from None
    except OSError as error:
        raise HostError(f"cannot start {words[0]}: {error.strerror}") from None
    _nice_group(child.pid, nice)
    return child


def _starter() -> ThreadPoolExecutor:
    """Return the one thread in which this process starts its children.

    A second one would end once nobody holds it, and what it has started with it.
    """
    with _guard_lock:
        if os.getpid() not in _starters:  # a forked process has none of its parent's threads
            _starters[os.getpid()] = ThreadPoolExecutor(1, thread_name_prefix="start")
        return _starters[os.getpid()]


def autogroup_nice() -> int | None:
    """Return the niceness of this process's autogroup; None where it is in none.

    The file is empty for a process in a cpu cgroup other than the root (kernel/sched/autogroup.c), as in containers.
    """
    try:
        words = Path("/proc/self/autogroup").read_text().split()
    except OSError:
        return None
    return int(words[-1]) if words else None


def _nice_group(pid: int, nice: int) -> None:
    """Give a child's autogroup the niceness of the lab's own, and `nice` more.

    A session is an autogroup of its own where the kernel has them (sched(7); Debian's has), and processes are weighed
    against those of another group by the groups' niceness alone: that of nice(1) counts inside of a group.
    """
    own = autogroup_nice()
    wanted = min(19, (own or 0) + nice)
    with contextlib.suppress(OSError):
        for _ in range(20 if own is not None and wanted else 0):
            try:
                Path(f"/proc/{pid}/autogroup").write_text(f"{wanted}\n")
            except BlockingIOError:  # kernel/sched/autogroup.c takes ten a second from all users but root
                time.sleep(0.05)
            else:
                break


def resident_mib() -> int:
    """Return the memory in MiB that this process and all its descendants hold, pages they share counted each time."""
    total, seen = 0, [os.getpid()]
    for pid in seen:  # grows as it goes
        with contextlib.suppress(OSError, ValueError):  # one that ends while it is looked at
            total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            for task in Path(f"/proc/{pid}/task").iterdir():
                seen += map(int, (task / "children").read_text().split())
    return total >> 20


def stop(child: subprocess.Popen[bytes], grace_s: float = TERM_GRACE_S) -> int:
    """End a child and its whole session: TERM, `grace_s`, KILL; returns its status."""
    for sig, wait_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 10.0)):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, sig)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(wait_s)
            break
    with contextlib.suppress(ProcessLookupError, PermissionError):  # what the child left in its group
        os.killpg(child.pid, signal.SIGKILL)
    return child.returncode if child.returncode is not None else -signal.SIGKILL


class Kept:
    r"""The head and the tail of a stream, in bounded memory, whatever its length.

    >>> k = Kept(8); k.add(b"abcdefghijkl"); k.text()
    'abcd\n[... 4 bytes cut ...]\nijkl'
    """

    def __init__(self, limit_bytes: int = KEEP_BYTES) -> None:
        self._half = limit_bytes // 2
        self._head = bytearray()
        self._tail = bytearray()
        self.total_bytes = 0

    def add(self, data: bytes) -> None:
        """Take the next piece of the stream."""
        self.total_bytes += len(data)
        room = self._half - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        self._tail += data
        if len(self._tail) > 2 * self._half:
            del self._tail[: -self._half]

    @property
    def cut_bytes(self) -> int:
        """How many bytes are not kept."""
        return max(0, self.total_bytes - len(self._head) - min(len(self._tail), self._half))

    def data(self) -> bytes:
        """Return what is kept, with a line in the middle that says how much is not."""
        tail = bytes(self._tail[-self._half :]) if self._tail else b""
        if not self.cut_bytes:
            return bytes(self._head) + tail
        return bytes(self._head) + b"\n[... %d bytes cut ...]\n" % self.cut_bytes + tail

    def text(self) -> str:
        """Return `data` as text; what is not UTF-8 becomes U+FFFD."""
        return self.data().decode("utf-8", "replace")


def run(
    argv: Sequence[str | Path],
    *,
    timeout_s: float,
    check: bool = True,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    input_bytes: bytes | None = None,
    on_line: Callable[[str], None] | None = None,
    stdout_to: IO[bytes] | None = None,
    nice: int = 0,
    cancel: Cancel | None = None,
    pass_fds: Sequence[int] = (),
) -> Result:
    """Run a child to its end.

    Args:
        argv: the command, never a shell string.
        timeout_s: seconds until the whole session is ended; `timed_out` is then set.
        check: raise CommandFailed unless the status is 0.
        input_bytes: its standard input; else /dev/null.
        on_line: called with each line of either stream as it comes, from this thread.
        stdout_to: a file that takes standard output whole; `Result.stdout` is then "".
        cancel: ends the child early when it is set; the status is then a signal's.

    Raises:
        CommandFailed: it failed or ran out of time, and `check` is set.
        HostError: it could not be started.
    """
    begin = time.monotonic()
    child = spawn(
        argv,
        env=env,
        cwd=cwd,
        stdin=subprocess.DEVNULL if input_bytes is None else subprocess.PIPE,
        stdout=subprocess.PIPE if stdout_to is None else stdout_to,
        stderr=subprocess.PIPE,
        nice=nice,
        pass_fds=pass_fds,
    )
    kept = {"stdout": Kept(), "stderr": Kept()}
    feeder = _feed(child, input_bytes)
    try:
        timed_out = not _ended(child, kept, on_line, begin + timeout_s, cancel)
    finally:
        if child.poll() is None:
            stop(child)
        for stream in (child.stdout, child.stderr):
            if stream:
                stream.close()
        if feeder:
            feeder.join(1.0)
    result = Result(
        tuple(str(word) for word in argv),
        child.returncode if child.returncode is not None else -signal.SIGKILL,
        kept["stdout"].text(),
        kept["stderr"].text(),
        time.monotonic() - begin,
        timed_out,
    )
    if check and (result.status != 0 or timed_out):
        raise CommandFailed(result)
    return result


def _ended(
    child: subprocess.Popen[bytes],
    kept: dict[str, Kept],
    on_line: Callable[[str], None] | None,
    deadline: float,
    cancel: Cancel | None,
) -> bool:
    """Take what a child says until it ends or is cancelled; False where that lasts beyond the deadline."""
    if not _pump(child, kept, on_line, deadline, cancel):
        return False
    if cancel and cancel.is_set():
        return True
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(max(0.1, deadline - time.monotonic()))
    return child.returncode is not None


def _feed(child: subprocess.Popen[bytes], data: bytes | None) -> threading.Thread | None:
    if data is None:
        return None

    def write() -> None:
        assert child.stdin
        with contextlib.suppress(OSError):
            child.stdin.write(data)
        with contextlib.suppress(OSError):
            child.stdin.close()

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    return thread


def _pump(
    child: subprocess.Popen[bytes],
    kept: dict[str, Kept],
    on_line: Callable[[str], None] | None,
    deadline: float,
    cancel: Cancel | None,
) -> bool:
    """Read both streams until they end; False where the deadline came first.

    A child that ended while a daemon of its own holds the pipe open is not waited for.
    """
    with selectors.DefaultSelector() as selector:
        for name, stream in (("stdout", child.stdout), ("stderr", child.stderr)):
            if stream:
                selector.register(stream, selectors.EVENT_READ, name)
        lines = {"stdout": bytearray(), "stderr": bytearray()}
        quiet_after_end = 0
        while selector.get_map():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            if cancel and cancel.is_set():
                return True
            events = selector.select(min(left, 0.2))
            if not events and child.poll() is not None:
                quiet_after_end += 1
                if quiet_after_end > 2:
                    break
            for key, _ in events:
                data = os.read(key.fd, 1 << 16)
                if not data:
                    selector.unregister(key.fileobj)
                kept[key.data].add(data)
                if on_line:
                    for line in split_lines(lines[key.data], data):
                        on_line(line)
    return True


def split_lines(buffer: bytearray, data: bytes) -> Iterator[str]:
    """Yield the whole lines of a stream of which `data` is the next piece; b"" is its end. `buffer` keeps the rest."""
    buffer += data
    while (end := buffer.find(b"\n")) >= 0 or (not data and buffer) or len(buffer) > 1 << 16:
        end = end if end >= 0 else len(buffer) - 1
        yield bytes(buffer[: end + 1]).decode("utf-8", "replace").rstrip("\n")
        del buffer[: end + 1]
