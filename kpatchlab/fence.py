"""The one door for what runs code of a tree: bubblewrap around it, and bounds on what it takes.

A kernel's Makefile, its Kconfig files and its scripts are programs of whoever wrote the patches. Behind the fence they
find the system read-only, the folders that their step names, and nothing else: no network, no home, no environment of
the caller's. What they leave dies with them. Programs that read what was built (depmod, nm, readelf) go through the
same door: hostile ELF is no better than a hostile Makefile.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

from kpatchlab import cgroup, proc
from kpatchlab.errors import HostError, LabError
from kpatchlab.files import read_bounded
from kpatchlab.textclean import one_line

SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt", "/nix/store", "/gnu/store")
"""What is there read-only, where the host has it."""
ETC = (
    *("alternatives", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "passwd", "group", "nsswitch.conf", "localtime"),
    *("ssl/openssl.cnf", "perl", "depmod.d", "debian_version", "os-release"),
)
"""What of /etc is there: no shadow, no keys, no addresses. ccache wants passwd, Debian's compilers `alternatives`."""
ETC_OF_ROOT = ("",)
"""Of a root that the lab made: it has no secrets."""
PASSED = ("TZ",)
"""Variables of the caller's that pass, beside PATH. No token, no agent's socket, nothing that changes a build."""
PATH = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
SCRATCH_BYTES = 4 << 30
"""Size of /tmp, which is memory."""
FILE_BYTES = 16 << 30
"""A single file; a vmlinux of allyesconfig with debug information has some 10 GiB."""
PROCESSES = 4096
"""make -j128 with ccache, gcc and as has some 1,000."""
LEAST_MEMORY_BYTES = 4 << 30
LEAST_FREE_BYTES = 256 << 20
"""Below this a disk counts as full: make deletes what it could not write, so a little room is there again."""
MOST_DEEP = 64
"""How deep folders may be in one another; those of a kernel are 12. Python's own functions recurse over them."""
LEFT_BYTES = 64 << 20
"""A file that the lab reads whole: lists of a kernel's symbols have some 10 MiB."""
PROBE_S = 30.0
DELETE_S = 600.0
_USERNS = ("--unshare-user", "--disable-userns")


class NoFence(HostError):
    """This host cannot confine a command."""


class Escape(LabError):
    """A command left what must not be read from outside: a link that leads out of its folders, a device, a fifo."""


@dataclass(frozen=True, slots=True)
class Lack:
    """Why there is no fence on this host, and what helps."""

    reason: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Fence:
    """What commands see, and where they may write.

    Attributes:
        write: folders that are writable, at their own paths. They are swept after each command, see `Escape`.
        read: files and folders that are there read-only, at their own paths.
        env: variables beside those that always are there.
        stores: folders that are writable as well, and that nobody reads from outside: they are not swept.
        unconfined: run all the same where the host has no sandbox: what runs is trusted, or the user said so.
        root: the top folder of a root file system that is there, read-only, in place of the host's system.
        at: where a folder of `write`, `read` or `stores` is with all below it, if not at its own path; without a
            sandbox every folder is.
    """

    write: tuple[Path, ...] = ()
    read: tuple[Path, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    stores: tuple[Path, ...] = ()
    unconfined: bool = False
    root: Path | None = None
    at: Mapping[Path, str] = field(default_factory=dict)

    def adding(
        self, env: Mapping[str, str] | None = None, *, write: Sequence[Path] = (), read: Sequence[Path] = (),
        stores: Sequence[Path] = (),
    ) -> Fence:  # fmt: skip
        """Return one that shows more."""
        return replace(
            self, write=(*self.write, *write), read=(*self.read, *read), env={**self.env, **(env or {})},
            stores=(*self.stores, *stores),
        )  # fmt: skip

    def run(
        self,
        argv: Sequence[str | Path],
        *,
        timeout_s: float,
        cwd: Path | None = None,
        check: bool = True,
        input_bytes: bytes | None = None,
        on_line: Callable[[str], None] | None = None,
        stdout_to: IO[bytes] | None = None,
        nice: int = 0,
        cancel: proc.Cancel | None = None,
    ) -> proc.Result:
        """Run a command to its end, as `proc.run` does, with its daemons; `cwd` must be visible to it.

        Raises:
            NoFence: the host cannot confine it, and `unconfined` is not set or there is a `root`.
            Escape: it left a link out of its folders, or what is no file; that is deleted.
            HostError: the disk is full, memory ran out: by what the host shows, never by what the command says.
            CommandFailed: as in `proc.run`.
        """
        program = str(argv[0])
        if "/" not in program and not self.root and not which(program):
            raise HostError(f"{program}: not found", hint="kpatchlab doctor names the package")
        lack = lacking()
        if lack and (self.root or not self.unconfined):
            what = "run anything in a root of its own" if self.root else "confine what runs code of a series"
            raise NoFence(f"this host cannot {what}: {lack.reason}", hint=lack.remedy)
        self.sweep()
        killed = oom_kills()
        with tempfile.TemporaryFile() as status, _cgroup() as enter:
            inner = [*_bounds(confined=not lack), "--", *map(str, argv)]
            words = [*enter, *inner] if lack else [*enter, *_scope(), *self._bwrap(cwd, status.fileno()), "--", *inner]
            result = proc.run(
                words, timeout_s=timeout_s, check=False, env=self.environment() if lack else _outer(), cwd=cwd,
                input_bytes=input_bytes, on_line=on_line, stdout_to=stdout_to, nice=nice, cancel=cancel,
                pass_fds=() if lack else (status.fileno(),),
            )  # fmt: skip
            status.seek(0)
            if not lack and result.status == 1 and not _started(status.read()):
                raise NoFence(f"bubblewrap: {_last(result.stderr)}", hint="kpatchlab doctor looks at the sandbox")
        cancelled = cancel is not None and cancel.is_set()
        if result.status != 0 and not result.timed_out and not cancelled:
            self._check_host(program, killed)
        if left := self.sweep():
            raise Escape(left)
        result = replace(result, argv=tuple(map(str, argv)))
        if check and (result.status != 0 or result.timed_out):
            raise proc.CommandFailed(result)
        return result

    def inside(self, path: Path) -> str:
        """Return where a path is for the commands."""
        moved = next((home for home in (path, *path.parents) if home in self.at), None)
        if moved is None or lacking():
            return str(path)
        return os.path.normpath(os.path.join(self.at[moved], path.relative_to(moved)))

    def sweep(self) -> str:
        """Delete what must not be read from outside; returns what it was, in a line, "" for nothing."""
        found = ""
        for root in self.write:
            if root.is_symlink():
                raise Escape(f"{root} is a link: it is to be a folder of the lab's own")
            for path, what in _strays(root, (*self.write, *self.read)):
                if self._is_own(path):  # good inside alone: modules_install leaves two
                    path.unlink()
                    continue
                found = found or f"{what} was left: {one_line(str(path.relative_to(root)), 200)}"
                if path.is_dir() and not path.is_symlink():
                    proc.run(["rm", "-rf", "--", path], timeout_s=DELETE_S, check=False)  # Python recurses
                else:
                    path.unlink(missing_ok=True)
        return found

    def _is_own(self, path: Path) -> bool:
        """Whether a stray is a link into a folder that commands read at another path."""
        target = Path(os.path.normpath(os.readlink(path))) if path.is_symlink() else Path()
        return any(target.is_relative_to(place) for home, place in self.at.items() if home in self.read)

    def _check_host(self, name: str, killed: int) -> None:
        """Raise HostError where the host shows that it, and not the command, was at fault."""
        if oom_kills() > killed:
            raise HostError(
                f"the kernel killed a process for lack of memory while {Path(name).name} ran",
                hint="fewer jobs: limits.build_jobs",
            )
        for folder in self.write:
            if is_full(folder):
                raise HostError(f"no space left below {folder}", hint="kpatchlab clean frees cached artifacts")

    def environment(self) -> dict[str, str]:
        """Return the whole environment of a command."""
        passed = {name: os.environ[name] for name in PASSED if name in os.environ}
        path = os.pathsep.join(PATH) if self.root else search_path()
        return {"PATH": path, "HOME": "/tmp", "LANG": "C.UTF-8", **passed, **self.env}  # noqa: S108

    def _bwrap(self, cwd: Path | None, status: int) -> list[str]:
        words = ["bwrap", *_isolation()[0], "--json-status-fd", str(status)]
        words += _system() if self.root is None else _system(self.root, ETC_OF_ROOT)
        binds = {**dict.fromkeys(self.read, "--ro-bind"), **dict.fromkeys((*self.write, *self.stores), "--bind")}
        for path in sorted(binds, key=lambda path: len(path.parts)):  # what is below another comes after it
            words += [binds[path], str(path), self.inside(path)]
        for name, value in self.environment().items():
            words += ["--setenv", name, value]
        return [*words, "--chdir", self.inside(cwd) if cwd else "/"]


def read_left(path: Path) -> str:
    """Return the text of a file that a command left; what is no UTF-8 in it is U+FFFD.

    Raises:
        FileNotFoundError: there is none.
        Escape: it is none to be read: a folder, a link to itself, or of any size.
    """
    try:
        return read_bounded(path, LEFT_BYTES).decode("utf-8", "replace")
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Escape(f"{error.strerror}: {path.name}") from None


def tool(*read: Path, write: Sequence[Path] = ()) -> Fence:
    """Return the fence for a program of the host's that reads what a stranger made.

    Where the host has no sandbox it runs without: the user has then had the stranger's code built all the same.
    """
    return Fence(tuple(write), read, unconfined=True)


def search_path() -> str:
    """Return PATH behind the fence: of the caller's only what is part of the system, then Debian's."""
    return _search_path(os.environ.get("PATH", ""))


@functools.cache
def _search_path(path: str) -> str:
    given = path.split(os.pathsep)
    own = [name for name in given if any(Path(name).is_relative_to(home) for home in SYSTEM)]
    return os.pathsep.join(dict.fromkeys([*own, *PATH]))


def which(program: str) -> str | None:
    """Return where a program is behind the fence."""
    return shutil.which(program, path=search_path())


def is_full(folder: Path) -> bool:
    """Whether a disk has no room, by its own figures or because a file of 1 MiB cannot be written (a quota)."""
    try:
        room = os.statvfs(folder)
        if room.f_bavail * room.f_frsize < LEAST_FREE_BYTES or (room.f_files and not room.f_favail):
            return True
        with tempfile.TemporaryFile(dir=folder) as handle:
            handle.write(bytes(1 << 20))
            handle.flush()
    except OSError as error:
        return error.errno in {28, 122}  # ENOSPC, EDQUOT
    return False


def oom_kills() -> int:
    """Return how many processes the kernel has killed for lack of memory since it runs (/proc/vmstat, Linux 4.13)."""
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


# ----------------------------------------------------------------------------------- what the host can do


def lacking() -> Lack | None:
    """Return why this host cannot confine a command, None where it can: a command was really run, once."""
    if not shutil.which("bwrap"):
        return Lack("bubblewrap is not installed", "apt-get install bubblewrap")
    words, said = _isolation()
    return None if words else _explained(said)


def bounded_by() -> str:
    """Return what bounds memory and processes behind the fence, for people."""
    if _scope():
        return "a systemd scope"
    if os.geteuid():
        return "rlimits"
    return "a cgroup" if cgroup.bounds() else "rlimits, which do not bound how many processes root has"


_ALWAYS = ("--unshare-all", "--die-with-parent", "--cap-drop", "ALL", "--clearenv")
"""No --new-session: `proc` has made a session without a terminal, whose autogroup has the niceness of the build."""


@functools.cache
def _isolation() -> tuple[tuple[str, ...], str]:
    """Return how a command is cut off, and why it cannot be where there is nothing.

    In a user namespace in which there are no others, where that is to be had.
    """
    said = ""
    for userns in (_USERNS, ()):
        words = (*userns, *_ALWAYS)
        done = _try(["bwrap", *words, *_system(), "--", "true"])
        if done.status == 0:
            return words, ""
        said = said or _last(done.stderr)
    return (), said


def _try(words: Sequence[str]) -> proc.Result:
    return proc.run(words, timeout_s=PROBE_S, check=False, env=_outer())


def _outer() -> dict[str, str]:
    """Return the environment of bubblewrap itself: what it confines can read that in /proc/1/environ."""
    kept = ("PATH", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS")  # systemd-run finds its manager by them
    return {name: os.environ[name] for name in kept if name in os.environ}


def _explained(said: str, root: Path = Path("/")) -> Lack:
    """Return why bubblewrap does not run, by what is known to keep it from that."""

    def reads(name: str) -> str:
        try:
            return (root / name).read_text().strip()
        except OSError:
            return ""

    if reads("proc/sys/kernel/unprivileged_userns_clone") == "0":
        return Lack("user namespaces are switched off", "sysctl -w kernel.unprivileged_userns_clone=1")
    if reads("proc/sys/user/max_user_namespaces") == "0":
        return Lack("user namespaces are switched off", "sysctl -w user.max_user_namespaces=10000")
    if (root / ".dockerenv").exists() or (root / "run/.containerenv").exists():
        options = "--security-opt seccomp=unconfined --security-opt systempaths=unconfined"
        return Lack(
            f"the container forbids namespaces or a /proc of one's own ({said})",
            f"start the container with {options} (and --cap-add SYS_ADMIN where it runs as root)",
        )
    if reads("proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1":
        profile = "/usr/share/apparmor/extra-profiles/bwrap-userns-restrict"
        return Lack(
            "AppArmor forbids user namespaces to programs without a profile, as Ubuntu has it",
            f"apt-get install apparmor-profiles && cp {profile} /etc/apparmor.d/ && systemctl reload apparmor",
        )
    return Lack(f"bubblewrap does not run: {said}", "bwrap --ro-bind / / true shows it")


def _system(root: Path = Path("/"), etc: Sequence[str] = ETC) -> list[str]:
    words = ["--proc", "/proc", "--dev", "/dev", "--size", str(SCRATCH_BYTES), "--tmpfs", "/tmp"]  # noqa: S108
    for name in SYSTEM:
        path = root / name[1:]
        if path.is_symlink():
            words += ["--symlink", os.readlink(path), name]
        elif path.exists():
            words += ["--ro-bind", str(path), name]
    for name in etc:
        words += ["--ro-bind-try", str(root / "etc" / name), f"/etc/{name}"]
    return words


def memory_bytes() -> int:
    """Return how much memory what runs behind the fence may have: seven eighths of the host's."""
    return max(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 7 // 8, LEAST_MEMORY_BYTES)


def _bounds(*, confined: bool) -> list[str]:
    """Return the words that bound each process; what runs out of memory goes before anything of the user's does."""
    # In a user namespace only its own processes count; outside, all that the user has.
    processes = [f"--nproc={PROCESSES}"] if confined else []
    limits = [f"--as={memory_bytes()}", f"--fsize={FILE_BYTES}", "--core=0"]
    first = ["choom", "-n", "500", "--"] if which("choom") else []
    return [*first, "prlimit", *processes, *limits]


@functools.cache
def _scope() -> tuple[str, ...]:
    """Return the words that put a command into a scope of systemd's, () where no manager takes it."""
    words = scope_words(os.geteuid(), Path("/run"))
    if not words or not shutil.which("systemd-run"):
        return ()
    done = _try([*words, "true"])
    return words if done.status == 0 else ()


def scope_words(uid: int, run: Path) -> tuple[str, ...]:
    """Return systemd-run's command line for a scope with bounds; () where nobody listens: see `_scope`.

    Args:
        run: /run; the user's own manager listens below it, and the system's, which is root's.
    """
    there = run / "systemd/private" if uid == 0 else run / f"user/{uid}/systemd/private"
    if not there.exists():
        return ()
    manager = [] if uid == 0 else ["--user"]
    bounds = [f"MemoryMax={memory_bytes()}", "MemorySwapMax=0", f"TasksMax={PROCESSES}"]
    properties = [word for bound in bounds for word in ("-p", bound)]
    return ("systemd-run", *manager, "--scope", "--quiet", "--collect", *properties, "--")


def _cgroup() -> contextlib.AbstractContextManager[list[str]]:
    """Return the words that put a command of root's into a cgroup where systemd makes none; a user's has rlimits."""
    if os.geteuid() or _scope():
        return contextlib.nullcontext([])
    return cgroup.bounded(memory_bytes(), PROCESSES)


def _started(status: bytes) -> bool:
    """Whether bubblewrap came as far as the command: its own failures exit with 1, as a command's can."""
    for line in status.splitlines():
        try:
            if "exit-code" in json.loads(line):
                return True
        except ValueError:
            continue
    return False


def _last(text: str) -> str:
    return (text.strip().splitlines() or ["no reason given"])[-1].removeprefix("bwrap: ")[:300]


def _strays(root: Path, visible: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """Yield what below a folder leads out of what a command could see, or is no file, and what it is."""
    homes = list(map(os.path.realpath, visible))
    todo = [(str(root), 0)]
    while todo:
        folder, depth = todo.pop()
        try:
            if depth and not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
                os.chmod(folder, stat.S_IRWXU)  # else it can neither be looked at nor deleted
            entries = list(os.scandir(folder))
        except NotADirectoryError:  # a single file is shown
            continue
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                continue
            entries, depth = [], MOST_DEEP + 1
        if depth > MOST_DEEP:
            top = os.path.relpath(folder, root).partition(os.sep)[0]  # what is deeper can have no name
            yield root / top, f"more than {MOST_DEEP} folders in one another"
            continue
        for entry in entries:
            if entry.is_symlink():
                target = os.path.realpath(entry.path)
                if os.path.islink(target) or not any(target == home or target.startswith(f"{home}/") for home in homes):
                    yield Path(entry.path), f"a link to {one_line(os.readlink(entry.path), 200)}"
            elif entry.is_dir():
                todo.append((entry.path, depth + 1))
            else:
                mode = entry.stat(follow_symlinks=False).st_mode
                if not stat.S_ISREG(mode):
                    yield Path(entry.path), "a device, fifo or socket"
                elif mode & (stat.S_ISUID | stat.S_ISGID):
                    yield Path(entry.path), "a setuid program"
