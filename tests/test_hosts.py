"""A copy of the lab on other hosts, made without an index, and what `hosts` says of each."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import labdir
import pytest

from kpatchlab import proc
from kpatchlab.cache import META, Cache
from kpatchlab.errors import HostError
from kpatchlab.host.doctor import HostCheck
from kpatchlab.hosts import bringup, look
from kpatchlab.hosts import wheels as collected
from kpatchlab.hosts.bringup import Far, bring_up
from kpatchlab.hosts.ssh import Connection, Result
from kpatchlab.hosts.tell import Told
from kpatchlab.hosts.wheels import Platform
from kpatchlab.lab.hosts import HostEntry
from tests.ssh_hosts import hosts


@pytest.fixture(scope="module")
def host():
    with hosts("a") as made:
        yield made["a"]


@pytest.fixture(scope="module")
def copied(host):
    """Return the lines said, and a copy of the lab on a host that had none."""
    said = []
    with Connection.open(HostEntry(**host.entry), "a") as there:
        yield said, bring_up(there, HostEntry(**host.entry), Cache(), say=said.append)


@pytest.mark.hosts
def test_a_host_without_a_network_gets_the_lab_and_can_run_it(host, copied):
    said, copy = copied
    assert (copy.copied, copy.cache) == (True, str(host.cache))
    assert said[0].startswith("host a: copying the lab there, ")
    code = "import distributed, numpy, paramiko, pydantic, sys, kpatchlab; print(kpatchlab.__file__, sys.prefix)"
    file, prefix = copy.connection.run([copy.python, "-c", code]).stdout.split()
    assert file.startswith(copy.folder)
    assert prefix == f"{copy.folder}/venv"
    assert [path.name for path in (host.cache / "lab").iterdir()] == [Path(copy.folder).name]
    shebang = Path(copy.folder, "venv/bin/b4").read_text().splitlines()[0]
    assert shebang == f"#!{copy.python}"
    assert "usage: b4" in copy.connection.run([f"{copy.folder}/venv/bin/b4", "--help"]).stdout


@pytest.mark.hosts
def test_a_second_time_nothing_is_copied(host, copied, monkeypatch):
    _, copy = copied
    monkeypatch.setattr(Connection, "put_tree", lambda *_, **__: pytest.fail("copied once more"))
    again = bring_up(copy.connection, copy.connection.entry, Cache())
    assert (again.copied, again.python, again.key) == (False, copy.python, copy.key)


@pytest.mark.hosts
def test_a_copy_that_cannot_be_made_leaves_nothing(host, monkeypatch):
    own = HostEntry(**{**host.entry, "cache": str(host.home / "other")})
    monkeypatch.setattr(bringup, "PINS", "no-pins.txt")  # and so they are not sent along
    with (
        Connection.open(own, "a") as there,
        pytest.raises(HostError, match=r"host a: the lab could not be set up there: .*wheels/pins\.txt"),
    ):
        bring_up(there, own, Cache())
    assert list((host.home / "other/lab").iterdir()) == []


@pytest.mark.hosts
def test_the_verb_says_what_each_host_can_do(host, copied, tmp_path, call):
    path = labdir.make(tmp_path)
    entries = {
        "rack": {**host.entry, "share": "/nowhere"},
        "strange": {**host.entry, "known_hosts": ""},
        "greedy": {**host.entry, "cpus": 4096, "cache": str(host.cache)},
        "off": {**host.entry, "port": 1},
    }
    path.write_text(f"{labdir.LAB}hosts: {json.dumps(entries)}\n")
    status, out, err = call("--lab", str(path), "hosts")
    assert status == 3
    rows = {line.split()[0]: line.split() for line in out.splitlines()[1:5]}
    assert [rows[name][1] for name in entries] == ["note", "BAD", "BAD", "BAD"]
    assert rows["rack"][2:4] == [host.address, "x86_64"]
    assert "BAD   strange reachable:    its key is not known: ssh-ed25519" in out
    assert "BAD   greedy  cpus:         4096 asked for, and it has" in out
    assert "BAD   off     reachable:    no connection to" in out
    assert "note  rack    mirror:" in out  # it has no network
    assert re.search(r"note  rack +share: +/nowhere", out)
    assert "ssh-keyscan" in out
    assert "copying" not in err
    status, out, err = call("--lab", str(path), "hosts", "rack", "--json")
    found = json.loads(out)[0]
    assert (status, found["state"], found["where"]) == (0, "note", host.address)
    assert found["told"]["cache"] == str(host.cache)
    states = {check["name"]: check["state"] for check in found["checks"]}
    assert {states[name] for name in ("reachable", "machine", "clock", "lab")} == {"ok"}


@pytest.mark.hosts
def test_a_copy_that_was_changed_is_made_anew(host, copied, monkeypatch):
    _, copy = copied
    site = next(Path(copy.folder).glob("venv/lib/python*/site-packages/kpatchlab"))
    (site / "errors.py").write_text((site / "errors.py").read_text() + "\n")
    monkeypatch.setattr(bringup, "_install", lambda *_: None)  # that it is asked for is enough
    assert bring_up(copy.connection, copy.connection.entry, Cache()).copied
    assert list((host.cache / "lab").iterdir()) == []


@pytest.mark.hosts
def test_a_host_can_be_told_to_forget(host, tmp_path, call):
    (host.cache / "lab/old").mkdir(parents=True)
    (tmp_path / "own.yaml").write_text(json.dumps({"hosts": {"rack": host.entry, "here": "local"}}))
    status, _, err = call("--hosts", str(tmp_path / "own.yaml"), "hosts", "--forget")
    assert (status, err) == (0, "rack: no copy of the lab is left\n")
    assert not (host.cache / "lab").exists()


def test_hosts_that_are_not_there(tmp_path, call, monkeypatch):
    path = labdir.make(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert call("hosts")[::2] == (
        2, "kpatchlab: the lab names no hosts\nhint: `hosts:` in its file does, or --hosts FILE\n"
    )  # fmt: skip
    own = tmp_path / "mine.yaml"
    own.write_text("hosts: {rack1: x, rack2: y}\n")
    status, _, err = call("--hosts", str(own), "hosts", "rack3")
    assert (status, err.splitlines()[0]) == (2, "kpatchlab: there is no host 'rack3'; did you mean 'rack2'?")
    path.write_text("nonsense")
    assert call("--hosts", str(own), "hosts", "rack3")[0] == 2
    own.write_text("hosts: {rack1: [x]}\n")
    assert "mine.yaml:1: hosts.rack1" in call("hosts", "--hosts", str(own))[2]


@pytest.mark.parametrize(
    ("said", "told", "hint"),
    [
        ("newest=3.9.2\n", "there is no Python 3.11 or later (3.9.2 is the newest)", "Debian 12"),
        ("", "there is no Python 3.11 or later", "apt-get install python3 "),
        (
            "newest=3.11.2\npython=/usr/bin/python3.11\nversion=3.11.2\nglibc=2.36\n",
            "/usr/bin/python3.11 has no module venv", "apt-get install python3-venv",
        ),
    ],
)  # fmt: skip
def test_a_host_without_the_python_it_takes(said, told, hint):
    class Silent:
        name = "a"

        def run(self, words, **_):
            return Result(0, "1700000000.5\n" if words[0] == "date" else f"home=/root\nmachine=x86_64\n{said}", "")

    with pytest.raises(HostError) as caught:
        bring_up(Silent(), HostEntry(ssh="a"), Cache(Path("/nowhere")))
    assert caught.value.message == f"host a: {told}"
    assert hint in caught.value.hint
    assert bringup.far(Silent()).ahead_s < -1e6


HERE = Platform("3.11.7", "x86_64", "2.36")


@pytest.mark.parametrize(
    ("other", "takes"),
    [
        (Platform("3.11.2", "x86_64", "2.41"), True),
        (Platform("3.11.2", "x86_64", "2.31"), False),
        (Platform("3.12.7", "x86_64", "2.36"), False),
        (Platform("3.11.7", "aarch64", "2.36"), False),
        (Platform("3.11.7", "x86_64", ""), False),
    ],
)
def test_whose_wheels_do(other, takes):
    assert other.takes_those_of(HERE) is takes


def test_the_releases_of_another_python_are_those_of_its_markers():
    names = {
        version: {pin.name for pin in collected._pins(Platform(version, "x86_64", "2.36"))}
        for version in ("3.11.2", "3.13.1")
    }
    assert names["3.11.2"] - names["3.13.1"] >= {"zipp"}
    lines = {pin.name: pin.lines for pin in collected._pins(HERE)}
    assert lines["zipp"].startswith("zipp==")
    assert ";" not in lines["zipp"]
    assert "--hash=sha256:" in lines["zipp"]


def test_without_a_lock_the_releases_are_those_that_are_here(monkeypatch, tmp_path):
    monkeypatch.setattr(collected, "LOCK", tmp_path)
    monkeypatch.setattr(
        collected.importlib.metadata, "requires", {"kpatchlab": ["click>=8", "gone; python_version<'3'"]}.get
    )
    pins = collected._pins(HERE)
    assert [(pin.name, pin.lines) for pin in pins] == [("click", f"click=={pins[0].version}\n")]


def test_a_package_without_a_wheel_is_told_of(monkeypatch, tmp_path):
    said = "ERROR: Could not find a version\nERROR: No matching distribution found for scipy==1.0\n"
    monkeypatch.setattr(proc, "run", lambda argv, **_: proc.Result(tuple(map(str, argv)), 1, "", said, 0.1))
    pins = [collected._Pin("scipy", "1.0", "scipy==1.0\n")]
    with pytest.raises(HostError, match=r"there is no wheel of scipy==1\.0 for Python 3\.19 on x86_64"):
        collected._Pip(tmp_path, hashed=False).download(pins, Platform("3.19.0", "x86_64", "2.36"))


@pytest.mark.parametrize(
    ("ahead_s", "unsure_s", "state"), [(0.5, 0.1, "ok"), (-7.0, 4.0, "ok"), (-7.0, 0.1, "note"), (86400.0, 0.1, "bad")]
)
def test_clocks(ahead_s, unsure_s, state):
    assert look._clock(Far("/root", "", HERE, True, ahead_s, unsure_s)).state == state


@pytest.mark.parametrize(
    ("has", "state", "text"),
    [
        ("the same", "ok", "/net/lab has this host's artifacts"),
        ("another one", "note", "/net/lab has not the artifacts of "),
        ("", "note", "/net/lab has not the artifacts of "),
        ("nothing here", "note", "/net/lab: there is no artifact here yet to look for"),
    ],
)
def test_a_share_is_looked_at_by_an_artifact(tmp_path, has, state, text):
    cache, asked = Cache(tmp_path), []
    if has != "nothing here":
        meta = cache.get("kernel", "key", lambda work: (work / "vmlinuz").touch()) / META

    def run(words, *, check):
        asked.append((words, check))
        return SimpleNamespace(status=int(not has), stdout=meta.read_text() if has == "the same" else has)

    entry = HostEntry(ssh="x", share="/net/lab")
    (found,) = look._share(SimpleNamespace(run=run), entry, cache)
    assert (found.state, found.text.startswith(text)) == (state, True)
    assert asked in ([(["cat", f"/net/lab/kernel/key/{META}"], False)], [])
    assert look._share(None, HostEntry(ssh="x"), cache) == []


def test_this_host_is_looked_at_as_the_others_are(monkeypatch, tmp_path):
    said = Told({"memory_mib": "4096"}, (HostCheck("kvm", "note", "slow", "buy one"),), 2, 3000, 9000, "/c")
    monkeypatch.setattr(look, "tell", lambda *_: said)
    hosts = {"here": HostEntry(ssh="local"), "small": HostEntry(ssh="local", memory_gib=8)}
    here, small = look.look(hosts, Cache(tmp_path), "", "auto")
    assert (here.state, here.told, [check.name for check in here.checks]) == ("note", said, ["machine", "kvm"])
    assert (small.state, small.checks[-1].text) == ("bad", "8 asked for, and it has 4.0")


def test_one_host_that_fails_in_a_way_nobody_thought_of_leaves_the_others(monkeypatch, tmp_path):
    monkeypatch.setattr(look, "tell", lambda *_: 1 / 0)
    (found,) = look.look({"here": HostEntry(ssh="local")}, Cache(tmp_path), "", "auto")
    assert (found.state, found.checks[0].text) == ("bad", "ZeroDivisionError: division by zero")


def test_a_host_that_tells_something_else():
    with pytest.raises(ValueError, match="Expecting value"):
        look.understood("motd")
    whole = '{"facts": {"accel": "kvm"}, "checks": [{"name": "a", "state": "ok", "text": "b"}], "cpus": 2, '
    told = look.understood(whole + '"memory_mib": 3, "disk_mib": 4, "cache": "/c"}')
    assert (type(told), told.cpus, told.checks[0].text) == (Told, 2, "b")
