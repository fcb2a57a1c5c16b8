"""Artifacts over mutual TLS: whole or not at all, once per key, gone on with where the line broke, from nobody else."""

import io
import json
import shutil
import socket
import ssl
import tarfile
import threading
import urllib.request

import pytest

from kpatchlab.cache import META, Cache, tree_digest
from kpatchlab.errors import HostError
from kpatchlab.run.cluster import artifacts
from kpatchlab.run.cluster.artifacts import Https, Packed, Shelf, Unreachable
from kpatchlab.run.cluster.certificates import CONTROLLER, Authority
from tests.relay import Relay

BODY = bytes(range(256)) * 20_000  # 5 MB


def make(work):
    (work / "deep/er").mkdir(parents=True)
    (work / "empty").mkdir()
    (work / "deep/er/body").write_bytes(BODY)
    (work / "run.sh").write_text("#!/bin/sh\n")
    (work / "run.sh").chmod(0o755)
    (work / "nothing").touch()
    (work / ("long" * 60)).write_text("a name of 240 bytes")
    (work / "link").symlink_to("deep/er/body")


class Net:
    """A controller's cache with one artifact, its shelf, and a worker's cache that pulls from it."""

    def __init__(self, root):
        self.authority = Authority()
        self.ours, self.root = Cache(root / "ours"), root
        self.path = self.ours.get("kernel", "key", make)
        context = self.authority.issue(CONTROLLER).context(server=True)
        self.shelf = Shelf(self.ours, context, "127.0.0.1")
        self.worker = self.authority.issue("worker-1.kpatchlab").context(server=False)

    def theirs(self, port=0, context=None):
        url = f"https://127.0.0.1:{port or self.shelf.port}"
        return Cache(self.root / "theirs", Https(url, context or self.worker))


@pytest.fixture
def net(tmp_path, monkeypatch):
    monkeypatch.setattr(artifacts.time, "sleep", lambda _: None)
    found = Net(tmp_path)
    yield found
    found.shelf.close()


def same(one, other):
    return tree_digest(one, META) == tree_digest(other, META)


def test_an_artifact_comes_whole_and_once(net):
    theirs = net.theirs()
    got = theirs.need("kernel", "key")
    assert same(got, net.path)
    assert (got / "link").is_symlink()
    assert (got / "empty").is_dir()
    assert (got / "run.sh").stat().st_mode & 0o777 == 0o555
    sent = net.shelf.sent_bytes["kernel/key"]
    assert len(BODY) < sent < len(BODY) + 20_000
    theirs.need("kernel", "key")
    assert net.shelf.sent_bytes["kernel/key"] == sent


def test_where_the_cache_is_mounted_it_is_read_there_and_what_it_lacks_is_sent(net, tmp_path):
    other = Https(f"https://127.0.0.1:{net.shelf.port}", net.worker)

    def theirs(name, share):
        return Cache(tmp_path / name, artifacts.Shared(share, other)).need("kernel", "key")

    assert same(theirs("a", net.ours.root), net.path)
    assert not net.shelf.sent_bytes
    mounted = tmp_path / "mounted"
    shutil.copytree(net.ours.root, mounted, symlinks=True)
    body = mounted / "kernel/key/deep/er/body"
    body.chmod(0o644)
    body.write_bytes(BODY[::-1])
    for number, share in enumerate((mounted, tmp_path / "gone"), 1):
        assert same(theirs(f"b{number}", share), net.path)
        assert len(BODY) * number < net.shelf.sent_bytes["kernel/key"] < (len(BODY) + 20_000) * number


def test_two_who_want_one_fetch_it_once(net):
    threads = [threading.Thread(target=net.theirs().need, args=("kernel", "key")) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert net.shelf.sent_bytes["kernel/key"] < 2 * len(BODY)


def test_what_nobody_has_and_what_does_not_travel_is_not_to_be_had(net):
    net.ours.get("saved", "guest", lambda work: (work / "ram").touch())
    for kind, key in (("kernel", "other"), ("saved", "guest")):
        with pytest.raises(HostError, match=f"no {kind} {key}"):
            net.theirs().need(kind, key)
    for path in ("/kernel/../saved/guest", "/kernel/%2e%2e", "//", "/saved/guest"):
        stream = artifacts._Stream(f"https://127.0.0.1:{net.shelf.port}", net.worker, path)
        assert not stream.open()


def test_a_line_that_breaks_is_gone_on_with(net):
    with Relay(net.shelf.port, cut_after=2_000_000) as relay:
        assert same(net.theirs(relay.port).need("kernel", "key"), net.path)
    assert relay.connections > 2
    assert net.shelf.sent_bytes["kernel/key"] < 3 * len(BODY)  # what was in flight is sent again, not what had come


def test_a_line_that_garbles_is_seen_by_tls_and_gone_on_with(net):
    with Relay(net.shelf.port, garble_at=1_000_000, garble=2) as relay:
        assert same(net.theirs(relay.port).need("kernel", "key"), net.path)
    assert relay.connections == 3


def test_a_line_that_stalls_is_given_up(net, monkeypatch):
    monkeypatch.setattr(artifacts, "STALL_S", 0.3)
    with Relay(net.shelf.port, stall_at=2_000_000) as relay:
        assert same(net.theirs(relay.port).need("kernel", "key"), net.path)  # each new connection brings some
    assert relay.connections > 2
    net.theirs().drop("kernel", "key")
    with Relay(net.shelf.port, stall_at=1) as relay, pytest.raises(Unreachable, match="does not give /kernel/key"):
        net.theirs(relay.port).need("kernel", "key")
    assert not net.theirs().has("kernel", "key")


def test_bytes_that_are_not_what_was_published_are_fetched_again_and_then_refused(net, monkeypatch):
    tries = []

    def altered(self, start):
        tries.append(start)
        return iter([data.replace(b"\x01\x02", b"\x02\x01") for data in read(self, start)])

    read = Packed.read
    monkeypatch.setattr(Packed, "read", altered)
    with pytest.raises(Unreachable, match="came altered from the controller 3 times"):
        net.theirs().need("kernel", "key")
    assert len(tries) == 3
    monkeypatch.setattr(Packed, "read", read)
    assert same(net.theirs().need("kernel", "key"), net.path)


def hostile(*members):
    """Return a tar with a member of each (name, type, link)."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, kind, link in members:
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.size = kind, link, 4 if kind == tarfile.REGTYPE else 0
            archive.addfile(member, io.BytesIO(b"evil"))
    return stream.getvalue()


@pytest.mark.parametrize(
    "members",
    [
        [("../evil", tarfile.REGTYPE, "")],
        [("/tmp/evil", tarfile.REGTYPE, "")],
        [("a/../../evil", tarfile.REGTYPE, "")],
        [("out", tarfile.SYMTYPE, ".."), ("out/evil", tarfile.REGTYPE, "")],
        [("out", tarfile.SYMTYPE, "../evil"), ("out", tarfile.REGTYPE, "")],
        [("out", tarfile.SYMTYPE, ".."), ("out/evil", tarfile.DIRTYPE, "")],
        [("hard", tarfile.LNKTYPE, "../secret")],
        [("device", tarfile.CHRTYPE, "")],
        [("pipe", tarfile.FIFOTYPE, "")],
    ],
)
def test_nothing_is_written_outside(tmp_path, members):
    into = tmp_path / "into"
    into.mkdir()
    (tmp_path / "secret").write_text("kept")
    assert not artifacts._unpacked(io.BytesIO(hostile(*members)), into)
    assert {path.name for path in tmp_path.iterdir()} == {"into", "secret"}


def test_any_bytes_are_no_artifact(tmp_path):
    for data in (b"", b"x" * 10_000, hostile(("a", tarfile.REGTYPE, ""))[:700]):
        folder = tmp_path / "into"
        folder.mkdir()
        assert not (artifacts._unpacked(io.BytesIO(data), folder) and artifacts._as_published(folder))
        shutil.rmtree(folder)


def test_who_has_no_certificate_of_the_run_gets_nothing(net):
    stranger = Authority().issue("worker-1.kpatchlab").context(server=False)
    with pytest.raises(Unreachable):
        net.theirs(context=stranger).need("kernel", "key")
    naked = ssl.create_default_context()
    naked.check_hostname, naked.verify_mode = False, ssl.CERT_NONE
    for url, context in ((f"https://127.0.0.1:{net.shelf.port}", naked), (f"http://127.0.0.1:{net.shelf.port}", None)):
        with pytest.raises(OSError):  # noqa: PT011 - TLS tells it in several ways
            urllib.request.urlopen(f"{url}/kernel/key", context=context, timeout=5).read()
    assert not net.shelf.sent_bytes


def test_another_host_of_the_run_is_not_taken_for_the_controller(net):
    other = Shelf(net.ours, net.authority.issue("worker-2.kpatchlab").context(server=True), "127.0.0.1")
    try:
        with pytest.raises(Unreachable, match="certificate"):
            net.theirs(other.port).need("kernel", "key")
    finally:
        other.close()


def test_one_who_connects_and_says_nothing_keeps_nobody_waiting(net):
    with socket.create_connection(("127.0.0.1", net.shelf.port)):
        assert same(net.theirs().need("kernel", "key"), net.path)


def test_more_than_two_wait_for_their_turn(net, monkeypatch):
    monkeypatch.setattr(artifacts, "TURN_S", 0.1)
    for _ in range(2):
        net.shelf.turns.acquire()
    timer = threading.Timer(1.0, net.shelf.turns.release)
    timer.start()
    assert same(net.theirs().need("kernel", "key"), net.path)
    timer.join()


def test_the_digest_is_in_what_travels(net):
    assert json.loads((net.path / META).read_text())["digest"] == tree_digest(net.path, META)
