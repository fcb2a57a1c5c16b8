"""The way into a host: where it is, which key it shows and takes, and what to do where there is none."""

from __future__ import annotations

import contextlib
import functools
import getpass
import os
import shlex
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kpatchlab.errors import HostError
from kpatchlab.hosts.keys import KnownHosts
from kpatchlab.lab.hosts import SSH_PORT, HostEntry

if TYPE_CHECKING:
    from paramiko import PKey, SSHClient, Transport

CONNECT_S = 15.0
LOGIN_S = 30.0
"""For what each side says before the login, and for the login itself."""
UNHEARD_MS = 60_000
"""What the far side's kernel does not acknowledge for so long ends the connection (TCP_USER_TIMEOUT, tcp(7))."""
KEEPALIVE_S = 15


@dataclass(frozen=True, slots=True)
class _Target:
    """Where and as whom to log in; `name` is what known_hosts calls it."""

    address: str
    port: int
    user: str
    keys: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.address if self.port == SSH_PORT else f"[{self.address}]:{self.port}"

    @property
    def ssh(self) -> str:
        """What follows `ssh` on a command line that logs in there."""
        port = [] if self.port == SSH_PORT else ["-p", str(self.port)]
        return shlex.join([*port, f"{self.user}@{self.address}"])


def logged_in(entry: HostEntry, host: str) -> SSHClient:
    """Return a client that is logged in; messages call the host `host`.

    Raises:
        HostError: there is no way in; the hint is the remedy.
    """
    from paramiko import SSHClient, SSHException

    target = _target(entry, host)
    known = KnownHosts(entry.known_hosts)
    client = SSHClient()
    client.set_missing_host_key_policy(_Checked(known, host))
    try:
        client.connect(
            target.address,
            target.port,
            target.user,
            key_filename=list(target.keys) or None,
            timeout=CONNECT_S,
            banner_timeout=LOGIN_S,
            auth_timeout=LOGIN_S,
            look_for_keys=not target.keys,
            transport_factory=functools.partial(_transport, known, target.name),
        )
    except HostError:
        client.close()
        raise
    except (SSHException, OSError, EOFError, ValueError, TypeError) as error:  # the last two: of a broken key file
        client.close()
        raise _refusal(error, target, host) from None
    return client


class _Checked:
    """Asks `KnownHosts`, as paramiko does for every host of which it knows no key: it is given none."""

    def __init__(self, known: KnownHosts, host: str) -> None:
        self._known, self._host = known, host

    def missing_host_key(self, client: SSHClient, name: str, key: PKey) -> None:  # noqa: ARG002
        """Pass where the host may show this key.

        Raises:
            HostError: it may not.
        """
        self._known.check(name, key, self._host)


def _transport(known: KnownHosts, name: str, sock: socket.socket, **more: Any) -> Transport:
    """Return paramiko's side of a connection, which asks for the key that the host is known by."""
    from paramiko import Transport

    with contextlib.suppress(OSError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNHEARD_MS)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    transport = Transport(sock, **more)
    options = transport.get_security_options()
    options.key_types = known.algorithms(name, options.key_types)
    transport.set_keepalive(KEEPALIVE_S)
    return transport


def _target(entry: HostEntry, host: str) -> _Target:
    """Return where to go: what the entry says, then what ~/.ssh/config does.

    Raises:
        HostError: the user's file cannot be read, or says what the lab does not do.
    """
    there = entry.where
    said = _ssh_config(there.host)
    if lead := next((word for word in ("proxyjump", "proxycommand") if said.get(word, "none") != "none"), ""):
        raise HostError(
            f"host {host}: ~/.ssh/config leads to it by {lead}, which the lab does not follow",
            hint="a tunnel does: ssh -N -L 2222:HOST:22 GATEWAY, and `ssh: 127.0.0.1:2222`",
        )
    keys = [entry.key] if entry.key else [path for path in said.get("identityfile", []) if os.path.isfile(path)]
    port, user = there.port or int(said.get("port", SSH_PORT)), there.user or said.get("user") or getpass.getuser()
    return _Target(said.get("hostname", there.host), port, user, tuple(keys))


def _ssh_config(host: str) -> dict[str, Any]:
    from paramiko import SSHConfig, SSHException

    path = Path("~/.ssh/config").expanduser()
    if not path.is_file():
        return {}
    try:
        with path.open(encoding="utf-8", errors="replace") as handle:
            config = SSHConfig()
            config.parse(handle)
            return dict(config.lookup(host))
    except (SSHException, OSError, ValueError, KeyError) as error:
        raise HostError(f"{path} cannot be read: {error}", hint="does ssh itself read it?") from None


def _refusal(error: Exception, target: _Target, host: str) -> HostError:
    """Return what to tell of a login that failed."""
    from paramiko import ssh_exception as known

    where = f"{target.address} port {target.port}"
    text = str(error)
    if isinstance(error, socket.gaierror):
        return HostError(f"host {host}: there is no address of {target.address}", hint="is its name right?")
    if isinstance(error, known.PasswordRequiredException):
        return HostError(
            f"host {host}: the key is locked by a passphrase, and nobody can be asked for it",
            hint=f"an agent holds it: ssh-add {' '.join(map(shlex.quote, target.keys))}".rstrip(),
        )
    if isinstance(error, known.AuthenticationException) or "No authentication methods" in text:
        key = f"-i {shlex.quote(target.keys[0])} " if target.keys else ""
        return HostError(
            f"host {host}: {where} takes no key of {target.user}'s", hint=f"ssh-copy-id {key}{target.ssh} adds one"
        )
    if "banner" in text:
        return HostError(
            f"host {host}: {where} takes the connection and says nothing of SSH",
            hint="after failed logins sshd turns everybody away for half a minute: wait, and try again",
        )
    if isinstance(error, TimeoutError):
        return HostError(
            f"host {host}: {where} does not answer within {CONNECT_S:g} s", hint="is it up, and reachable?"
        )
    if isinstance(error, known.NoValidConnectionsError) or (isinstance(error, OSError) and error.strerror):
        why = "nobody listens there" if isinstance(error, known.NoValidConnectionsError) else error.strerror
        return HostError(f"host {host}: no connection to {where}: {why}", hint="is it up, and its sshd on that port?")
    return HostError(
        f"host {host}: {where} ended the login: {text or type(error).__name__}",
        hint=f"what does `ssh {target.ssh}` say?",
    )
