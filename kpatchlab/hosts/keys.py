"""Which keys a host may show: known_hosts as OpenSSH writes it, read a line at a time.

paramiko (5.1) gives up a whole file at a line that begins with `@cert-authority` or `@revoked`, takes patterns for
names, and looks at one key of each type alone. Here a line that cannot be read costs that line, and is named where it
may have been the one that was wanted; a revoked key is refused.
"""

from __future__ import annotations

import base64
import fnmatch
import hashlib
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kpatchlab.errors import HostError

if TYPE_CHECKING:
    from paramiko import PKey

SYSTEM = Path("/etc/ssh/ssh_known_hosts")
_SHA2 = {"ssh-rsa": ("rsa-sha2-512", "rsa-sha2-256")}
"""Kind of a key -> how it signs, where that is not named as the kind is (RFC 8332)."""


@dataclass(frozen=True, slots=True)
class _Line:
    """A line of a file; `key` is None where paramiko cannot read it, `revoked` whether it forbids its key."""

    path: Path
    number: int
    names: tuple[str, ...]
    key: PKey | None
    marker: str = ""

    def __str__(self) -> str:
        return f"{self.path}:{self.number}"

    def is_of(self, name: str) -> bool:
        """Whether the line has the host's name as it is, or hashed."""
        from paramiko import HostKeys

        def same(said: str) -> bool:
            return said == name or (said.startswith("|1|") and HostKeys.hash_host(name, said) == said)

        return any(map(same, self.names))

    def may_be_of(self, name: str) -> bool:
        """Whether ssh might take the line for the host's: by a pattern too."""
        return any(fnmatch.fnmatchcase(name, said) for said in self.names if not said.startswith(("!", "|")))


class KnownHosts:
    """The keys that hosts are known by.

    Args:
        own: a file beside the user's and the system's; new keys go there.
    """

    def __init__(self, own: str = "") -> None:
        users = Path("~/.ssh/known_hosts").expanduser()
        self.home = Path(own) if own else users
        self._lines = [line for path in dict.fromkeys((self.home, users, SYSTEM)) for line in _read(path)]

    def algorithms(self, name: str, offered: Sequence[str]) -> list[str]:
        """Return how a host may prove its key, those first that it is known by; see `Transport` of paramiko."""
        kinds = [line.key.get_name() for line in self._good(name) if line.key]
        first = dict.fromkeys(word for kind in kinds for word in _SHA2.get(kind, (kind,)) if word in offered)
        return [*first, *(word for word in offered if word not in first)]

    def check(self, name: str, key: PKey, host: str) -> None:
        """Pass where the host `name` (or `[name]:port`) is known by this key; messages call it `host`.

        Raises:
            HostError: it is not; the hint has the command that adds it.
        """
        shown = f"{key.get_name()} {fingerprint(key)}"
        if forbidden := next((line for line in self._lines if line.marker == "@revoked" and line.key == key), None):
            raise HostError(f"host {host}: its key is revoked ({forbidden}): {shown}", hint="it needs a new key there")
        known = self._good(name)
        if any(line.key == key for line in known):
            return
        if known:
            raise HostError(
                f"host {host}: its key is another one than {known[0]} has: {shown}. "
                "Somebody is in between, or it was installed anew",
                hint=f"if it was: ssh-keygen -R {shlex.quote(name)} -f {shlex.quote(str(known[0].path))}, "
                f"then {self._scan(name)}",
            )
        unread = [str(line) for line in self._lines if line.may_be_of(name) and not line.is_of(name)]
        unread += [str(line) for line in self._lines if line.is_of(name) and not line.key]
        raise HostError(
            f"host {host}: its key is not known: {shown}",
            hint=f"{self._scan(name)}, and compare it with `ssh-keygen -lf /etc/ssh/ssh_host_*_key.pub` there",
            details=(f"{', '.join(unread)}: ssh may know it by that, the lab cannot read it",) if unread else (),
        )

    def _good(self, name: str) -> list[_Line]:
        return [line for line in self._lines if line.key and not line.marker and line.is_of(name)]

    def _scan(self, name: str) -> str:
        """Return the command that adds a host's keys."""
        address, _, port = name.removeprefix("[").partition("]:")
        words = ["ssh-keyscan", *(["-p", port] if port else []), address]
        return f"{shlex.join(words)} >> {shlex.quote(str(self.home))}"


def fingerprint(key: PKey) -> str:
    """Return a key's fingerprint as ssh-keygen prints it."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(key.asbytes()).digest()).decode().rstrip("=")


def _read(path: Path) -> Iterable[_Line]:
    """Return the lines of a file that say something; none where there is no such file."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise HostError(f"{path}: {error.strerror}", hint="the lab reads it to know hosts by their keys") from None
    lines = enumerate(map(str.strip, text.splitlines()), 1)
    return [_line(path, number, line) for number, line in lines if line and not line.startswith("#")]


def _line(path: Path, number: int, text: str) -> _Line:
    from paramiko.hostkeys import HostKeyEntry, InvalidHostKey
    from paramiko.ssh_exception import SSHException

    marker, _, rest = text.partition(" ") if text.startswith("@") else ("", "", text)
    rest = rest.strip()
    names = tuple(rest.split()[0].split(",")) if rest else ()
    try:
        entry = HostKeyEntry.from_line(rest, number)
    except (SSHException, InvalidHostKey, ValueError, IndexError):
        entry = None
    key = entry.key if entry and marker in {"", "@revoked"} else None
    return _Line(path, number, names, key, marker)
