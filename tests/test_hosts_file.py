"""`hosts:` of a lab file, and hosts in a file of their own."""

from __future__ import annotations

from pathlib import Path

import labdir
import pytest

from kpatchlab.errors import UserError
from kpatchlab.lab import load
from kpatchlab.lab.hosts import Destination, destination, load_hosts

HOSTS = """\
hosts:
  here: local
  a: me@rack1:2222
  b:
    ssh: "[2001:db8::7]:22"
    user: lab
    key: id_lab
    known_hosts: ~/known
    cache: /srv/lab
    cpus: 4
    memory_gib: 7.5
    tags: [fast, kvm]
"""


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    labdir.write(tmp_path / "home/known", "")
    labdir.write(tmp_path / "id_lab", "")
    return labdir.make(tmp_path)


def test_the_hosts_of_a_lab(path: Path) -> None:
    path.write_text(labdir.LAB + HOSTS)
    hosts = load.load(path).hosts
    assert list(hosts) == ["here", "a", "b"]
    assert [entry.is_local for entry in hosts.values()] == [True, False, False]
    assert hosts["a"].where == Destination("rack1", "me", 2222)
    assert hosts["b"].where == Destination("2001:db8::7", "lab", 22)
    assert (hosts["b"].key, hosts["b"].known_hosts) == (str(path.parent / "id_lab"), str(path.parent / "home/known"))
    assert (hosts["b"].cpus, hosts["b"].memory_gib, hosts["b"].tags) == (4, 7.5, ("fast", "kvm"))


def test_hosts_in_a_file_of_their_own_stand_in_the_place_of_the_labs(path: Path) -> None:
    own = labdir.write(path.parent / "sub/mine.yaml", HOSTS.replace("id_lab", "../id_lab"))
    assert load_hosts(own)["b"].key == str(path.parent / "id_lab")
    own.write_text(HOSTS)
    with pytest.raises(UserError) as caught:
        load_hosts(own)
    assert caught.value.details == ("mine.yaml:7: hosts.b.key: there is no file id_lab",)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("{a: 'two words'}", "lab.yaml:6: hosts.a: 'two words' is not of the form [user@]host[:port], nor local"),
        (
            "{a: -oProxyCommand=x}",
            "lab.yaml:6: hosts.a: '-oProxyCommand=x' is not of the form [user@]host[:port], nor local",
        ),
        ("{a: 'x:99999'}", "lab.yaml:6: hosts.a: 'x:99999' is not of the form [user@]host[:port], nor local"),
        ("{a: {user: x}}", "lab.yaml:6: hosts.a.ssh: is missing"),
        ("{a: {ssh: x, prot: 22}}", "lab.yaml:6: hosts.a.prot: there is no such key; did you mean 'port'?"),
        ("{a: {ssh: 'me@x', user: you}}", "lab.yaml:6: hosts.a: the user is me in `ssh`, and you in `user`"),
        ("{a: {ssh: 'x:1', port: 2}}", "lab.yaml:6: hosts.a: the port is 1 in `ssh`, and 2 in `port`"),
        ("{a: {ssh: local, port: 2}}", "lab.yaml:6: hosts.a: nobody logs in to the local host: leave out port"),
        ("{a: {ssh: x, key: gone}}", "lab.yaml:6: hosts.a.key: there is no file gone"),
        ("{a: {ssh: x, cache: here}}", "lab.yaml:6: hosts.a.cache: 'here' is not of the form ^((~/|/)[^\\s|&\\\\]*)?$"),
        ("{a: {ssh: x, share: there}}", "lab.yaml:6: hosts.a.share: 'there' is not of the form ^(/[^\\s|&\\\\]*)?$"),
        ("{a: {ssh: local, share: /x}}", "lab.yaml:6: hosts.a: nobody logs in to the local host: leave out share"),
        ("{a: {ssh: x, cpus: -1}}", "lab.yaml:6: hosts.a.cpus: '-1' is less than 0"),
        ("{a: {ssh: x, memory_gib: inf}}", "lab.yaml:6: hosts.a.memory_gib: 'inf' is not a finite number"),
        ("{a: local, b: local}", "lab.yaml:6: hosts.b: is the local host, as a is"),
        (
            "{local: x}",
            "lab.yaml:6: hosts.local: `local` is the host that the lab is called on, and no other one's name",
        ),
        ("{a/b: x}", "lab.yaml:6: hosts.a/b: 'a/b' is not of the form ^[A-Za-z0-9][A-Za-z0-9._-]*$"),
        ("[a]", "lab.yaml:6: hosts: must be a mapping ('key: value' lines), not a list"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(path: Path, text: str, wanted: str) -> None:
    path.write_text(f"{labdir.LAB}hosts: {text}\n")
    with pytest.raises(UserError) as caught:
        load.load(path)
    assert caught.value.details == (wanted,)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("rack", Destination("rack")),
        ("me@rack.example.org", Destination("rack.example.org", "me")),
        ("[fe80::1%eth0]", Destination("fe80::1%eth0")),
        ("10.0.0.1:22", Destination("10.0.0.1", "", 22)),
    ],
)
def test_destinations(text: str, wanted: Destination) -> None:
    assert destination(text) == wanted
