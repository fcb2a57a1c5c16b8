"""Run a command in a user and a mount namespace of its own, in which programs of another architecture run as well.

    emulation_inside.py ENTRY -- COMMAND [WORD...]

ENTRY is a line for binfmt_misc (Documentation/admin-guide/binfmt-misc.rst of Linux). The command is root there. This is
started as a file, without the lab's packages: it forks before any thread is.
"""

import ctypes
import os
import pwd
import signal
import subprocess
import sys

CLONE_NEWNS, CLONE_NEWUSER = 0x20000, 0x10000000
PR_SET_PDEATHSIG = 1
MS_REC, MS_PRIVATE = 0x4000, 0x40000
TABLE = "/proc/sys/fs/binfmt_misc"
EVERYBODY = 4294967295
_libc = ctypes.CDLL(None, use_errno=True)


def _call(name: str, *words: object) -> None:
    if getattr(_libc, name)(*words) != 0:
        raise SystemExit(f"{name}: {os.strerror(ctypes.get_errno())}")


def _inside(entry: str, command: list[str]) -> None:
    """Register the emulator, and become the command."""
    os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    _call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL)  # a change of users forgets it
    _call("mount", None, b"/", None, MS_REC | MS_PRIVATE, None)
    _call("mount", b"binfmt_misc", TABLE.encode(), b"binfmt_misc", 0, None)
    try:
        with open(f"{TABLE}/register", "wb", buffering=0) as table:
            table.write(entry.encode("ascii"))
        os.execvp(command[0], command)  # noqa: S606 - no shell is wanted
    except OSError as error:
        raise SystemExit(f"{error.filename or command[0]}: {error.strerror}") from None


def _subordinate(name: str) -> tuple[str, str]:
    """Return (first, count) of the caller's subordinate IDs."""
    own = {str(os.getuid()), pwd.getpwuid(os.getuid()).pw_name}
    with open(f"/etc/{name}") as lines:
        for line in lines:
            user, first, count = line.strip().split(":")
            if user in own:
                return first, count
    raise SystemExit(f"/etc/{name} has no IDs for {os.getuid()}")


def _map(pid: int) -> None:
    """Say who is who in the namespace of a process: as root everybody is himself."""
    for kind, own in (("uid", os.getuid()), ("gid", os.getgid())):
        if os.getuid() == 0:
            with open(f"/proc/{pid}/{kind}_map", "w") as table:
                table.write(f"0 0 {EVERYBODY}")
        else:
            first, count = _subordinate(f"sub{kind}")
            program = f"new{kind}map"
            try:
                subprocess.run([program, str(pid), "0", str(own), "1", "1", first, count], check=True)
            except (OSError, subprocess.CalledProcessError) as error:
                raise SystemExit(f"{program}: {error}; the package uidmap has it") from None


def main(entry: str, command: list[str]) -> int:
    """Return the command's status, as a shell tells it."""
    told, tell = os.pipe()  # closed by the child once it has its namespaces
    go, wait = os.pipe()[::-1]
    if (pid := os.fork()) == 0:
        os.close(told)
        os.close(go)
        _call("unshare", CLONE_NEWUSER | CLONE_NEWNS)
        os.close(tell)
        if os.read(wait, 1):
            _inside(entry, command)
        os._exit(1)
    os.close(tell)
    os.close(wait)
    os.read(told, 1)
    try:
        _map(pid)
        os.write(go, b"x")
    finally:
        os.close(go)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[3:]))
