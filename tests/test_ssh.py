"""Logins on other hosts: whom the lab takes for whom, and that nothing outlives its connection."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from kpatchlab.errors import HostError
from kpatchlab.hosts import ssh
from kpatchlab.hosts.ssh import Connection
from kpatchlab.lab.hosts import HostEntry
from tests.relay import Relay
from tests.ssh_hosts import hosts

pytestmark = pytest.mark.hosts
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def host():
    with hosts("a") as made:
        yield made["a"]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """Give the controller a home without keys and known hosts, and no agent."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return tmp_path


@pytest.fixture
def connection(host):
    with Connection.open(HostEntry(**host.entry), "a") as made:
        yield made


def entry(host, **more):
    return HostEntry(**{**host.entry, **more})


def refused(made):
    with pytest.raises(HostError) as caught:
        Connection.open(made, "a")
    return caught.value


def gone(host, word, within_s):
    """Wait until no command line on a host has a word any more; returns the seconds that took."""
    begin = time.monotonic()
    while any(word in line for line in host.commands()):
        assert time.monotonic() < begin + within_s, host.commands()
        time.sleep(0.05)
    return time.monotonic() - begin


def test_an_unknown_key_is_refused_with_the_command_that_adds_it(host, home):
    made = entry(host, known_hosts=str(home / "mine"))
    error = refused(made)
    assert error.message.startswith("host a: its key is not known: ssh-ed25519 SHA256:")
    command = error.hint.split(", and compare")[0]
    assert command == f"ssh-keyscan {host.address} >> {home}/mine"
    subprocess.run(["sh", "-c", command], check=True, capture_output=True)
    with Connection.open(made, "a") as there:
        assert there.run(["hostname"]).status == 0


def test_a_changed_key_is_refused(host, home):
    known = home / "known"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", home / "other"], check=True)
    known.write_text(f"{host.address} {(home / 'other.pub').read_text()}")
    error = refused(entry(host, known_hosts=str(known)))
    assert f"its key is another one than {known}:1 has" in error.message
    assert f"ssh-keygen -R {host.address} -f {known}" in error.hint
    known.write_text(known.read_text() + Path(str(host.entry["known_hosts"])).read_text())
    Connection.open(entry(host, known_hosts=str(known)), "a").close()  # of two keys of one kind either will do


def test_a_revoked_key_is_refused_and_lines_that_cannot_be_read_are_named(host, home):
    known, good = home / "known", Path(str(host.entry["known_hosts"])).read_text()
    kind, key = good.split()[1:3]
    known.write_text(f"@cert-authority * {kind} {key}\n")
    error = refused(entry(host, known_hosts=str(known)))
    assert error.details == (f"{known}:1: ssh may know it by that, the lab cannot read it",)
    known.write_text(f"@cert-authority * {kind} {key}\nnonsense\na b c\n{good}")
    Connection.open(entry(host, known_hosts=str(known)), "a").close()
    known.write_text(f"{good}@revoked * {kind} {key}\n")
    assert f"its key is revoked ({known}:2)" in refused(entry(host, known_hosts=str(known))).message


def test_a_hashed_name_and_the_users_own_files_are_found(host, home):
    (home / ".ssh").mkdir()
    shutil.copy(str(host.entry["known_hosts"]), home / ".ssh/known_hosts")
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", home / ".ssh/known_hosts"], check=True, capture_output=True)
    shutil.copy(str(host.entry["key"]), home / ".ssh/id_ed25519")
    (home / ".ssh/config").write_text(f"Host rack\n  HostName {host.address}\n  User {host.entry['user']}\n")
    with Connection.open(HostEntry(ssh="rack")) as there:
        assert there.name == "rack"
        assert there.run(["echo", "a  b"]).stdout == "a  b\n"
    (home / ".ssh/config").write_text(f"Host rack\n  HostName {host.address}\n  ProxyJump elsewhere\n")
    assert "proxyjump, which the lab does not follow" in refused(HostEntry(ssh="rack")).message


def test_a_key_that_the_host_does_not_take(host, home):
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", home / "wrong"], check=True)
    error = refused(entry(host, key=str(home / "wrong")))
    assert error.message == f"host a: {host.address} port {host.port} takes no key of {host.entry['user']}'s"
    assert error.hint == f"ssh-copy-id -i {home}/wrong {host.entry['user']}@{host.address} adds one"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "secret", "-f", home / "locked"], check=True)
    assert refused(entry(host, key=str(home / "locked"))).hint == f"an agent holds it: ssh-add {home}/locked"


def test_who_does_not_answer(host, home, monkeypatch):
    assert "nobody listens there" in refused(entry(host, port=1)).message
    assert "there is no address of no-such-host.invalid" in refused(entry(host, ssh="no-such-host.invalid")).message
    monkeypatch.setattr("kpatchlab.hosts.login.LOGIN_S", 1.0)
    with Relay(host.port, host.address) as relay:
        relay.stall()
        error = refused(entry(host, ssh="127.0.0.1", port=relay.port))
    assert "takes the connection and says nothing of SSH" in error.message
    assert "half a minute" in error.hint


def test_a_command_has_its_streams_its_status_and_its_end(connection):
    done = connection.run(["sh", "-c", "cat; echo e >&2; exit 3"], input_bytes=b"x" * 5_000_000, check=False)
    assert (done.status, done.stderr, len(done.stdout) > 4_000_000) == (3, "e\n", True)
    assert "bytes cut" in done.stdout
    with pytest.raises(HostError, match=r"host a: sh -c 'echo no >&2; exit 9' exited with 9: no"):
        connection.run(["sh", "-c", "echo no >&2; exit 9"])
    assert connection.run(["sh", "-c", "kill -9 $$"], check=False).status in {-1, 137}
    begin = time.monotonic()
    assert connection.run(["sh", "-c", "sleep 30 & echo begun"]).stdout == "begun\n"
    assert time.monotonic() < begin + 10


def test_a_command_that_takes_too_long_ends_there_as_well(host, connection):
    with pytest.raises(HostError, match=r"sleep did not end within 0\.5 s"):
        connection.run(["sleep", "77"], timeout_s=0.5)
    gone(host, "sleep 77", 5)


def test_a_network_that_stalls(host):
    with Relay(host.port, host.address) as relay:
        known = Path(str(host.entry["known_hosts"]))
        lines = known.read_text()
        known.write_text(lines + lines.replace(host.address, f"[127.0.0.1]:{relay.port}"))
        with Connection.open(entry(host, ssh="127.0.0.1", port=relay.port), "a") as there:
            remote = there.start(["sleep", "78"])
            relay.stall()
            with pytest.raises(HostError, match=r"host a: the connection is lost: it began nothing within 1 s"):
                there.run(["true"], timeout_s=1)
            assert not there.alive
            assert remote.wait(5) == -1
            relay.cut()
        gone(host, "sleep 78", 5)
        relay.stall(on=False)
        with Connection.open(entry(host, ssh="127.0.0.1", port=relay.port), "a") as there:
            threading.Timer(0.5, relay.stall).start()
            with pytest.raises(HostError, match="sleep did not end within 2 s"):
                there.run(["sleep", "1"], timeout_s=2)
            relay.stall(on=False)
            assert there.run(["true"]).status == 0
            threading.Timer(0.5, relay.cut).start()
            with pytest.raises(HostError, match="host a: the connection is lost"):
                there.run(["sleep", "5"], timeout_s=10)


def test_a_file_goes_there_and_back_whole(connection, host, tmp_path):
    data = os.urandom(3_000_000)
    (tmp_path / "up").write_bytes(data)
    (tmp_path / "up").chmod(0o750)
    connection.put(tmp_path / "up", f"{host.home}/new folder/up")
    there = host.home / "new folder/up"
    assert (there.read_bytes() == data, there.stat().st_mode & 0o777) == (True, 0o750)
    connection.get(str(there), tmp_path / "down")
    assert (tmp_path / "down").read_bytes() == data
    with pytest.raises(HostError, match="No such file"):
        connection.get(f"{host.home}/nothing", tmp_path / "none")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["down", "up"]


def test_a_folder_goes_there_whole(connection, host, tmp_path):
    source = tmp_path / "tree"
    (source / "deep").mkdir(parents=True)
    (source / "deep/run.sh").write_text("#!/bin/sh\n")
    (source / "deep/run.sh").chmod(0o755)
    (source / "link").symlink_to("deep/run.sh")
    (source / "ü b").write_bytes(bytes(100_000))
    for _ in range(2):  # the second takes the place of the first
        connection.put_tree(source, f"{host.home}/x/tree")
    there = host.home / "x/tree"
    assert sorted(str(p.relative_to(there)) for p in there.rglob("*")) == ["deep", "deep/run.sh", "link", "ü b"]
    assert os.access(there / "deep/run.sh", os.X_OK)
    assert os.readlink(there / "link") == "deep/run.sh"
    assert [path.name for path in (host.home / "x").iterdir()] == ["tree"]


def test_what_breaks_on_the_way_leaves_nothing(host, tmp_path):
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/big").write_bytes(bytes(200_000_000))
    with Connection.open(entry(host), "a") as there:

        def cut():
            while not list((host.home / "broken").glob("tree.*/new/big")):
                time.sleep(0.01)
            there.close()

        threading.Thread(target=cut, daemon=True).start()
        with pytest.raises(HostError, match="the connection is lost"):
            there.put_tree(tmp_path / "tree", f"{host.home}/broken/tree")
    deadline = time.monotonic() + 10
    while list((host.home / "broken").iterdir()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert list((host.home / "broken").iterdir()) == []


def test_a_process_tells_its_lines_and_its_status(connection):
    lines = []
    remote = connection.start(["sh", "-c", 'echo "$WORD"; echo two >&2; printf three; exit 5'],
                              env={"WORD": "one 'word'"}, on_line=lines.append)  # fmt: skip
    assert remote.wait(10) == 5
    assert sorted(lines) == ["one 'word'", "three", "two"]
    assert not remote.running
    assert connection.start(["no-such-program"], on_line=lines.append).wait(10) == 127


def test_a_process_is_stopped_with_its_group(host, connection):
    lines = []
    remote = connection.start(["sh", "-c", "trap 'echo ending; exit 0' TERM; sleep 71 & echo up; wait"],
                              on_line=lines.append)  # fmt: skip
    while not lines:
        time.sleep(0.02)
    assert remote.running
    assert remote.wait(0.1) is None
    begin = time.monotonic()
    assert remote.stop() == 0
    assert (lines, time.monotonic() - begin < 4) == (["up", "ending"], True)
    gone(host, "sleep 71", 3)


def test_a_process_that_does_not_want_to_end_is_ended(host, connection):
    lines = []
    remote = connection.start(["sh", "-c", "trap '' TERM; echo up; while :; do sleep 72; done"],
                              on_line=lines.append, grace_s=1)  # fmt: skip
    while not lines:
        time.sleep(0.02)
    assert remote.stop() == 137
    gone(host, "sleep 72", 3)


def test_a_process_ends_when_its_connection_does(host):
    with Connection.open(entry(host), "a") as there:
        remote = there.start(["sleep", "73"])
        time.sleep(0.5)
        assert remote.running
    gone(host, "sleep 73", 5)
    assert remote.wait(5) == -1


def test_a_process_ends_when_the_controller_is_killed(host, tmp_path):
    code = (
        "import json, sys, time\nfrom kpatchlab.hosts.ssh import Connection\n"
        "from kpatchlab.lab.hosts import HostEntry\n"
        "there = Connection.open(HostEntry(**json.loads(sys.argv[1])))\n"
        "there.start(['sh', '-c', 'sleep 74 & sleep 75'])\nprint('up', flush=True)\n"
        "there.run(['sh', '-c', 'sleep 79 & wait'], timeout_s=300)"
    )
    import json

    words = [sys.executable, "-c", code, json.dumps(host.entry)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, cwd=ROOT) as controller:
        assert controller.stdout.readline() == b"up\n"
        while not {"sleep 75", "sleep 79"} <= set(host.commands()):
            time.sleep(0.05)
        controller.send_signal(signal.SIGKILL)
    gone(host, "sleep 7", 5)


def test_a_process_ends_when_the_controller_is_not_heard(host, monkeypatch):
    """As where its machine lost its power, which tells nobody."""
    monkeypatch.setattr(ssh, "SILENCE_S", 2)
    monkeypatch.setattr(ssh, "PULSE_S", 0.5)
    with Connection.open(entry(host), "a") as there:
        remote = there.start(["sleep", "76"])
        time.sleep(4)
        assert remote.running
        host.unplug()
        try:
            gone(host, "sleep 76", 6)
        finally:
            host.unplug(out=False)


def test_more_commands_than_sshd_takes_sessions(connection):
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(12) as pool:
        done = list(pool.map(lambda n: connection.run(["sh", "-c", f"sleep 0.2; echo {n}"]).stdout, range(12)))
    assert done == [f"{n}\n" for n in range(12)]


def test_nothing_is_left_on_a_host(host):
    deadline = time.monotonic() + 15
    while (left := host.commands()) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert left == []
