"""Parts of scenarios that ask for the ends of things: kTLS's steps, big files' borders, files changed on their way."""

import importlib
import os
import socket
import sys
import threading
from pathlib import Path

import pytest

SCENARIOS = Path(__file__).parent.parent / "scenarios"


@pytest.fixture
def load(monkeypatch, tmp_path):
    """Import a module of the library or of a scenario anew, as in a guest."""
    monkeypatch.setenv("LAB_TMP", str(tmp_path))
    monkeypatch.setenv("LAB_SCALE", "0.25")
    monkeypatch.setenv("LAB_LIB", str(SCENARIOS / "lib"))
    before = set(sys.modules)
    for folder in ("lib", "ktls", "tcp-lossy"):
        monkeypatch.syspath_prepend(str(SCENARIOS / folder))
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(SCENARIOS)):
            del sys.modules[name]


def test_steps_of_records(load):
    steps = load("steps")
    plan = steps.parse("write:100+,pieces:17*7,eof:0,kind,close")
    assert [(step.name, step.total, step.more) for step in plan] == [
        ("write", 100, True),
        ("pieces", 119, False),
        ("eof", 0, False),
        ("kind", 0, False),
        ("close", 0, False),
    ]
    ends = load("ends")
    texts = [text for _, texts in ends.WHOLE for text in texts] + [text for _, cases in ends.EXACT for text, _ in cases]
    known = {*steps._STEPS, "close"}
    assert {step.name for text in texts for step in steps.parse(text)} <= known


def test_steps_send_their_bytes_in_order(load, tmp_path):
    steps, splicecalls = load("steps"), load("splicecalls")
    data = os.urandom(9000)
    (tmp_path / "file").write_bytes(data)
    near, far = splicecalls.pair("tcp", 5)
    with near, far:
        plan = steps.parse("cork,write:10+,sendfile:4000,pieces:5*3+,eof:4975,uncork")
        assert steps.take(near, str(tmp_path / "file"), plan)
        assert load("datafile").receive(far, 9000) == data
        assert load("tcpinfo").counts(near).queued == 9000
        assert not steps.take(near, str(tmp_path / "file"), steps.parse("close"))


def test_how_many_bytes_were_sent_before_the_count(load, monkeypatch):
    ends, steps, records = load("ends"), load("steps"), load("records")
    counted = [6 + 121]

    def taken(*_):
        data = [(records.DATA, b"x" * 100), (records.DATA, b"y" * 50)]
        return [*data, (records.HANDSHAKE, steps.COUNTED + b"%d" % counted[0])], [121, 192, 230]

    monkeypatch.setattr(ends, "_take", taken)
    assert ends._sent_of("write:150+,count,close", 1, ("1.3", "aes128")) == 100
    counted[0] = 6 + 192
    assert ends._sent_of("write:150+,count,close", 1, ("1.3", "aes128")) == 150
    counted[0] += 1
    with pytest.raises(AssertionError, match="TCP had 193 bytes, which is the end of no record"):
        ends._sent_of("write:150+,count,close", 1, ("1.3", "aes128"))


def test_padding_that_nobody_asked_for_is_told(load):
    records, evp = load("records"), load("evp")
    stream = records.Stream("1.3", "aes128", 1)
    inner = b"data" + bytes([records.DATA]) + bytes(3)
    head = records._HEAD.pack(records.DATA, 0x0303, len(inner) + evp.TAG)
    body = evp.seal(stream.suite.name, stream.key, stream._nonce(), head, inner)
    with pytest.raises(AssertionError, match="3 bytes of padding"):
        stream.open(head, body)


def test_a_big_file_has_data_around_its_borders(load):
    bigfile = load("bigfile")
    with bigfile._open() as file:
        for at in (bigfile.BORDERS[1] - 50_000, bigfile.SIZE - 7000):
            assert os.pread(file.fileno(), 7000, at) == bigfile._content(at, 7000)
        assert bigfile._content(bigfile.BORDERS[0] - 100, 200).strip(b"\0")
        assert not bigfile._content(bigfile.BORDERS[0] + (1 << 20), 200).strip(b"\0")


@pytest.mark.parametrize("kind", ["unix", "tcp"])
def test_offsets_and_counts_that_are_cut_are_told(load, monkeypatch, kind):
    bigfile, splicecalls = load("bigfile"), load("splicecalls")
    right = splicecalls.sendfile
    monkeypatch.setattr(splicecalls, "sendfile", lambda s, f, at, n: right(s, f, at, n % (1 << 32)))
    with pytest.raises(AssertionError, match="sendfile of 4294967296 bytes into a socket that may not block took 0"):
        bigfile.of_kind(kind, bigfile.counts)
    monkeypatch.setitem(
        bigfile.SENDERS, "cut", lambda s, f, at, n: bigfile.SENDERS["sendfile"](s, f, at % (1 << 32), n)
    )
    with pytest.raises(AssertionError, match="20000 bytes from 4294967296 on, as they arrived"):
        bigfile.of_kind(kind, bigfile.around, "cut")


def test_bytes_that_a_changed_file_never_had_are_told(load):
    changed, datafile = load("changed"), load("datafile")
    size, old, new = 3 * datafile.PAGE + 5, 1, 2
    before, now = bytes(datafile.content(size, old)), bytes(datafile.content(size, new))
    cut = datafile.PAGE + 100
    for sent, zeroes, verdict in (
        (before, False, "right"),
        (before[:cut] + now[cut:], False, "right"),
        (before[:cut] + bytes(size - cut), True, "right"),
        (before[:cut] + bytes(size - cut), False, f"of {size} is 0x00"),
        (before[1:] + before[:1], True, "and the file never had that there"),
        (before[:-1], False, f"{size - 1} bytes came, {size} were sent"),
    ):
        near, far = socket.socketpair()
        with near, far:
            line = changed.request(size, old, new, zeroes=zeroes).decode()
            server = threading.Thread(target=changed.answer, args=(far, line))
            server.start()
            near.sendall(sent)
            near.shutdown(socket.SHUT_WR)
            server.join()
            assert verdict in near.recv(4096).decode()
