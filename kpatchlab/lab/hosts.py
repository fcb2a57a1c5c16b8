"""The `hosts:` section of lab.yaml, and hosts in a file of their own: where else a lab may run."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from kpatchlab.lab.recipes import Name
from kpatchlab.lab.yamlfile import Document, FileModel, Problems, read

LOCAL = "local"
"""The destination that is this host itself; no other host can have it for a name."""

SSH_PORT = 22
_DESTINATION = re.compile(
    r"""(?:(?P<user>[^@\s:\[\]-][^@\s:\[\]]*)@)?
        (?:\[(?P<v6>[\w:.%]+)\]|(?P<host>[^@\s:\[\]/-][^@\s:\[\]/]*))
        (?::(?P<port>\d{1,5}))?""",
    re.VERBOSE | re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Destination:
    """Where ssh is to go; an empty user and a port of 0 are not said."""

    host: str
    user: str = ""
    port: int = 0


def destination(text: str) -> Destination:
    """Return what `[user@]host[:port]` says; an IPv6 address stands in brackets.

    Raises:
        ValueError: it says nothing of the kind.
    """
    found = _DESTINATION.fullmatch(text)
    port = int(found["port"] or 0) if found else 0
    if not found or port > 65535 or found["port"] == "0":
        raise ValueError(f"'{text}' is not of the form [user@]host[:port], nor {LOCAL}")
    return Destination(found["v6"] or found["host"], found["user"] or "", port)


def _checked(text: str) -> str:
    if text != LOCAL:
        destination(text)
    return text


Ssh = Annotated[str, AfterValidator(_checked)]


class HostEntry(FileModel):
    """A host that jobs and builds may run on; its paths are absolute once the lab is loaded."""

    ssh: Ssh = Field(
        description="`[user@]host[:port]`, or a name of ~/.ssh/config; `local`: the host that the lab is called on"
    )
    user: str = Field(default="", pattern=r"^([^\s@:-][^\s@:]*)?$", description="user there; empty: as ssh would")
    port: int = Field(default=0, ge=0, le=65535, description="port of its sshd; 0: as ssh would, or 22")
    key: str = Field(default="", description="file with the private key; empty: the agent's, and those in ~/.ssh")
    known_hosts: str = Field(
        default="", description="file with its key, beside ~/.ssh/known_hosts and /etc/ssh/ssh_known_hosts"
    )
    cache: str = Field(
        default="",
        pattern=r"^((~/|/)[^\s|&\\]*)?$",
        description="folder there for artifacts and the lab itself; empty: `~/.cache/kpatchlab`",
    )
    share: str = Field(
        default="",
        pattern=r"^(/[^\s|&\\]*)?$",
        description="folder there in which this lab's cache is mounted (NFS), for reading; empty: artifacts are sent",
    )
    cpus: int = Field(default=0, ge=0, le=4096, description="processors that the lab may take there; 0: all")
    memory_gib: float = Field(
        default=0, ge=0, allow_inf_nan=False, description="memory that the lab may take there, in GiB; 0: all"
    )
    tags: tuple[Name, ...] = Field(default=(), description="words to choose hosts by")

    @model_validator(mode="after")
    def _once(self) -> HostEntry:
        if self.is_local:
            if said := [word for word in ("user", "port", "key", "known_hosts", "share") if getattr(self, word)]:
                raise ValueError(f"nobody logs in to the {LOCAL} host: leave out {', '.join(said)}")
            return self
        there = destination(self.ssh)
        for word, inner, own in (("user", there.user, self.user), ("port", there.port, self.port)):
            if inner and own and inner != own:
                raise ValueError(f"the {word} is {inner} in `ssh`, and {own} in `{word}`")
        return self

    @property
    def is_local(self) -> bool:
        """Whether this is the host that the lab is called on."""
        return self.ssh == LOCAL

    @property
    def where(self) -> Destination:
        """Where ssh goes, `user` and `port` included; not for the local host."""
        there = destination(self.ssh)
        return Destination(there.host, self.user or there.user, self.port or there.port)


HostWord = Annotated[
    Annotated[Ssh, Tag("<destination>")] | Annotated[HostEntry, Tag("<entry>")],
    Discriminator(lambda value: "<destination>" if isinstance(value, str) else "<entry>"),
]
"""A destination, or an entry that has one."""

Hosts = dict[Name, HostWord]


class HostsFile(FileModel):
    """Hosts in a file of their own, for `--hosts`: they stand in the place of the lab's."""

    hosts: Hosts = Field(min_length=1, description="name -> destination, or an entry")


def resolved(hosts: Mapping[str, HostWord], document: Document) -> dict[str, HostEntry]:
    """Return the hosts of a file, by name, with paths that do not depend on where it is; notes what leads nowhere."""
    found = {}
    for name, said in hosts.items():
        entry = HostEntry(ssh=said) if isinstance(said, str) else said
        paths = {}
        for word in ("key", "known_hosts"):
            if path := getattr(entry, word):
                paths[word] = os.path.normpath(document.path.parent / Path(path).expanduser())
                if not os.path.isfile(paths[word]):
                    document.add(
                        ["hosts", name, word], f"there is no file {document.problems.shown(Path(paths[word]))}"
                    )
        if name == LOCAL and not entry.is_local:
            document.add(["hosts", name], f"`{LOCAL}` is the host that the lab is called on, and no other one's name")
        found[name] = entry.model_copy(update=paths)
    local = [name for name, entry in found.items() if entry.is_local]
    for name in local[1:]:
        document.add(["hosts", name], f"is the {LOCAL} host, as {local[0]} is")
    return found


def load_hosts(path: Path) -> dict[str, HostEntry]:
    """Read a file of hosts.

    Raises:
        UserError: anything is wrong with it, with one line of `details` per error.
    """
    problems = Problems(path.parent)
    document = read(path, problems)
    file = document.parse(HostsFile) if document else None
    found = resolved(file.hosts, document) if document and file else {}
    problems.raise_if_any()
    return found
