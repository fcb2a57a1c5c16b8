"""Other hosts, for tests: each a set of namespaces of its own on this machine, with its own sshd, home and cache.

    with hosts("a", "b") as made:
        made["a"].entry  # as in `hosts:` of a lab file
        made["a"].unplug()

A host has an address in 198.18.0.0/15, which is for tests of networks (RFC 2544), on a bridge that this machine is
on as well, and no way to anything else. Its processes are those of a pid namespace: all of them end with it. That takes
root; anybody else gets an sshd on 127.0.0.2, .3, ... with a home and a cache of its own, which cannot be unplugged.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import signal
import socket
import string
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin")
START_S = 20.0


@dataclass
class MadeHost:
    """A host that a test made; `entry` is its entry in `hosts:`, `home` its user's home."""

    name: str
    entry: dict[str, str | int]
    home: Path
    cache: Path
    log: Path
    sshd: subprocess.Popen[bytes]
    link: str = ""

    @property
    def address(self) -> str:
        return str(self.entry["ssh"])

    @property
    def port(self) -> int:
        return int(self.entry["port"])

    def pids(self) -> list[int]:
        """Return every process of the host."""
        assert self.link, "who is not root cannot tell a host's processes from others"
        top = {_pid_namespace(pid) for pid in _children(self.sshd.pid)}
        return [pid for pid in _all_pids() if _pid_namespace(pid) in top]

    def commands(self) -> list[str]:
        """Return the command lines of its processes, but those of sshd."""
        lines = []
        for pid in self.pids():
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                lines += [words] if words and not words.startswith(("sshd", str(SSHD))) else []
        return lines

    def signal(self, number: int) -> None:
        """Send a signal to each of its processes: SIGSTOP is a host that is paused."""
        for pid in self.pids():
            _kill(pid, number)

    def unplug(self, *, out: bool = True) -> None:
        """Pull its cable, or put it back."""
        _ip("link", "set", self.link, "down" if out else "up")

    def kill(self) -> None:
        """End the host and all that runs on it, at once."""
        _end(self.sshd)


@contextlib.contextmanager
def hosts(*names: str, cores: Mapping[str, int] | None = None) -> Iterator[dict[str, MadeHost]]:
    """Make hosts, and end them with all that runs on them; `cores`: the one processor that a host has."""
    assert SSHD, "no sshd: the package openssh-server is missing; `./lab test` installs it"
    folder = Path(tempfile.mkdtemp(prefix="kpatchlab-hosts-"))
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        key = folder / "login"
        _keygen(key)
        bridge = stack.enter_context(_bridge()) if os.geteuid() == 0 else None
        made = {}
        for number, name in enumerate(names, 2):
            words = ["taskset", "-c", str(cores[name])] if cores else []
            made[name] = _host(stack, folder / name, name, key, bridge, number, words)
        yield made


@dataclass(frozen=True)
class _Bridge:
    name: str
    network: str


@contextlib.contextmanager
def _bridge() -> Iterator[_Bridge]:
    """Make the cable's other end, with the first address of a network that nobody has."""
    _sweep()
    taken = _ip("-o", "address")
    number = random.SystemRandom().choice([n for n in range(1, 255) if f" 198.18.{n}." not in taken])
    name = next(name for letter in string.ascii_lowercase if (name := f"kpl{os.getpid()}{letter}") not in taken)
    _ip("link", "add", name, "type", "bridge")
    try:
        _ip("address", "add", f"198.18.{number}.1/24", "dev", name)
        _ip("link", "set", name, "up")
        yield _Bridge(name, f"198.18.{number}")
    finally:
        _ip("link", "delete", name)


def _sweep() -> None:
    """Delete the bridges of tests that were killed; their hosts have ended with them."""
    for name, pid in set(re.findall(r"\b(kpl(\d+)[a-z]):", _ip("-o", "link"))):
        if not Path(f"/proc/{pid}").exists():
            _ip("link", "delete", name)


def _host(
    stack: contextlib.ExitStack,
    folder: Path,
    name: str,
    key: Path,
    bridge: _Bridge | None,
    number: int,
    words: list[str],
) -> MadeHost:
    home = folder / "home"
    (home / ".ssh").mkdir(parents=True)
    _keygen(folder / "host_key")
    address, port = (f"{bridge.network}.{number}", 22) if bridge else (f"127.0.0.{number}", _free_port())
    shutil.copy(f"{key}.pub", folder / "authorized_keys")
    public = (folder / "host_key.pub").read_text().split()
    shown = address if port == 22 else f"[{address}]:{port}"
    (folder / "known_hosts").write_text(f"{shown} {public[0]} {public[1]}\n")
    python = os.path.dirname(os.path.realpath(sys.executable))  # without what the tests' own environment has
    config = folder / "sshd_config"
    config.write_text(
        f"Port {port}\nListenAddress {address}\nHostKey {folder}/host_key\n"
        f"AuthorizedKeysFile {folder}/authorized_keys\n"
        "PidFile none\nUsePAM no\nStrictModes no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
        f"SetEnv HOME={home} PATH={python}:{os.environ['PATH']}\n"
    )
    log = folder / "sshd.log"
    with log.open("wb") as out:
        argv = [*words, *_apart(bool(bridge)), str(SSHD), "-D", "-e", "-f", str(config)]
        sshd = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)
    stack.callback(_end, sshd)
    link = _plug(sshd, bridge, number) if bridge else ""
    entry: dict[str, str | int] = {
        "ssh": address, "port": port, "user": _user(), "key": str(key), "known_hosts": str(folder / "known_hosts"),
        "cache": str(folder / "cache"),
    }  # fmt: skip
    made = MadeHost(name, entry, home, folder / "cache", log, sshd, link)
    _wait_for(made)
    return made


def _apart(namespaces: bool) -> list[str]:
    """Return what gives a host namespaces of its own; it waits there until it has its cable."""
    if not namespaces:
        return []
    Path("/run/sshd").mkdir(exist_ok=True)
    wait = 'while ! ip address show dev eth0 2>/dev/null | grep -q inet; do sleep 0.05; done; exec "$@"'
    apart = [
        "setpriv",
        "--pdeathsig",
        "KILL",
        "unshare",
        "--net",
        "--mount",
        "--uts",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
    ]
    return [*apart, "sh", "-c", wait, "sh"]


def _plug(sshd: subprocess.Popen[bytes], bridge: _Bridge, number: int) -> str:
    link = f"{bridge.name}.{number}"
    deadline = time.monotonic() + START_S
    while not (inside := _children(sshd.pid)) and time.monotonic() < deadline:
        time.sleep(0.02)
    _ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", str(inside[0]))
    _ip("link", "set", link, "master", bridge.name, "up")
    enter = ["nsenter", f"--net=/proc/{inside[0]}/ns/net"]
    for words in (
        ("link", "set", "lo", "up"),
        ("link", "set", "eth0", "up"),
        ("address", "add", f"{bridge.network}.{number}/24", "dev", "eth0"),
    ):
        subprocess.run([*enter, "ip", *words], check=True)
    return link


def _wait_for(host: MadeHost) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and host.sshd.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection((host.address, host.port), timeout=1) as tried:
            if tried.recv(4) == b"SSH-":
                return
        time.sleep(0.05)
    pytest.fail(f"sshd of host {host.name} does not answer: {host.log.read_text()[-2000:]}")


def _end(sshd: subprocess.Popen[bytes]) -> None:
    for pid in _children(sshd.pid):  # pid 1 of a namespace takes all others with it
        _kill(pid, signal.SIGKILL)
    sshd.kill()
    sshd.wait(10)


def _kill(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"
    return done.stdout


def _keygen(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", path], check=True)


def _user() -> str:
    import pwd

    return pwd.getpwuid(os.geteuid()).pw_name


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _all_pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def _pid_namespace(pid: int | str) -> str:
    with contextlib.suppress(OSError):
        return os.readlink(f"/proc/{pid}/ns/pid")
    return ""
