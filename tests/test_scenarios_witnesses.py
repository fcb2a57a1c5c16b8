"""What scenarios/lib sees beside the data that arrive: calls that wait, sources that change. On the host's kernel."""

import ast
import errno
import itertools
import mmap
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

SCENARIOS = Path(__file__).parent.parent / "scenarios"
LIB = SCENARIOS / "lib"
SHM = Path("/dev/shm")
"""A tmpfs, as in the guests."""


@pytest.fixture
def lib(monkeypatch, tmp_path):
    """Import a module of the library anew, on a folder of the test's own."""
    folder = SHM / f"kpatchlab-{os.getpid()}"
    folder.mkdir()
    monkeypatch.setenv("LAB_TMP", str(folder))
    monkeypatch.setenv("LAB_SCALE", "0.05")
    monkeypatch.syspath_prepend(str(LIB))
    names = ("atonce", "datafile", "exchange", "ktap", "outcome", "sources", "splicecalls", "tcpinfo")
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)

    def load(name):
        return __import__(name)

    load.folder = folder
    yield load
    for name in names:
        sys.modules.pop(name, None)
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


# --- calls that may not wait


def test_a_call_that_sleeps_is_told_however_it_ends(lib):
    atonce = lib("atonce")

    def late(error=None):
        time.sleep(0.15)
        if error:
            raise error

    with pytest.raises(AssertionError, match=r"splice may not wait, and slept for 0\.[12] s"):
        atonce.at_once("splice", late)
    with pytest.raises(AssertionError, match="splice may not wait"):  # as a socket's deadline ends it
        atonce.refused("splice", late, BlockingIOError())


def test_a_call_that_works_for_long_does_not_wait(lib, monkeypatch):
    atonce = lib("atonce")
    for name in ("monotonic", "thread_time"):
        seconds = itertools.count(step=60)
        monkeypatch.setattr(atonce.time, name, lambda ticks=seconds: next(ticks))
    assert atonce.at_once("splice", lambda: "done") == "done"


def test_a_call_that_has_to_be_refused(lib):
    atonce = lib("atonce")
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    atonce.refused("read", os.read, reader, 1)
    os.write(writer, b"x")
    with pytest.raises(AssertionError, match="read has to be refused with EAGAIN, and returned b'x'"):
        atonce.refused("read", os.read, reader, 1)
    os.close(reader)
    os.close(writer)


MAY_WAIT = {
    "families/links.py: tipc": "connect before accept: sets a link up",
    "families/links.py: _receive": "a deadline is over",
    "kcm/run.py: packet_no_end": "what is asked is whether data come within a deadline",
    "kcm/run.py: spliced_out": "a deadline is over",
    "ktls/client.py: take_records": "a deadline is over",
    "ktls/ends.py: _take": "a deadline is over",
    "lib/exchange.py: _serve": "a deadline is over",
    "rds-tcp/client.py: completed": "looks again until a completion is there",
    "rds-tcp/messages.py: send": "tries until it is taken",
    "udp-splice/peer.py: _collect": "takes what is left; the server asks nothing",
    "splice-open-questions/run.py: land": "a deadline is over",
    "splice-open-questions/run.py: nonblock_flag": "asks by a timer whether the call waits",
    "espintcp/server.py: send_back": "a deadline is over",
    "dlm/node.py: joined": "opens a device that is asked with select",
    "ocfs2/node.py: lock": "the client times it, with the way to the other node",
}
"""Functions with calls that do not block, or are refused, and that mean something else by it."""
WORDS = {"MSG_DONTWAIT", "NONBLOCK", "O_NONBLOCK", "NOQUEUE", "BlockingIOError", "setblocking", "set_blocking"}


def _functions():
    for path in sorted(SCENARIOS.glob("*/*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                inner = {n for f in ast.walk(node) if isinstance(f, ast.FunctionDef) and f is not node for n in f.body}
                found = [n for n in ast.walk(node) if isinstance(n, ast.Name | ast.Attribute) and n not in inner]
                names = {n.id if isinstance(n, ast.Name) else n.attr for n in found}
                yield f"{path.parent.name}/{path.name}: {node.name}", names


def test_every_call_that_may_not_wait_is_timed():
    """A new check that asks for EAGAIN has to ask the clock as well."""
    untimed = {where for where, names in _functions() if names & WORDS and not names & {"at_once", "refused", "denied"}}
    assert untimed == set(MAY_WAIT), "use atonce.at_once or atonce.refused"


@pytest.mark.parametrize(
    ("scenario", "told"),
    [
        ("unix-splice", ["a socket that may not block", "the other end is closed"]),
        (
            "splice-core",
            [
                f"{kind}: {name}"
                for kind in ("unix", "tcp")
                for name in (
                    "splice into a full socket that may not block",
                    "sendfile into a full socket that may not block",
                    "splice from an empty pipe and from a closed one",
                    "parts of a pipe in odd pieces",
                    "a pipe with written bytes, pages of a file and pages of a process",
                    "splice to a closed stream",
                    "a file of 5 GiB: counts beyond 2 and 4 GiB, sendfile",
                )
            ],
        ),
    ],
)
def test_a_broken_run_blocks_where_nothing_may(scenario, told, tmp_path):
    folder = SHM / f"kpatchlab-{os.getpid()}-{scenario}"
    folder.mkdir()
    env = {**os.environ, "LAB_TMP": str(folder), "LAB_LIB": str(LIB), "LAB_SCALE": "0.05", "LAB_BREAK": "1"}
    done = subprocess.run(
        [sys.executable, "run.py"],
        cwd=SCENARIOS / scenario,
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    lines = done.stdout.splitlines()
    late = [
        after.partition(" - ")[2] for before, after in itertools.pairwise(lines) if "may not wait, and slept" in before
    ]
    assert late == told, done.stderr


# --- what is sent stays as it is


def _scribble(lib, path, at):
    """Change a byte as a kernel does that writes to the page: no system call says that the file was changed."""
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as area:
        area[at] ^= 1
        os.utime(file.fileno(), ns=(lib("sources").MARK_NS,) * 2)


def test_a_file_that_sending_changed_is_told(lib):
    datafile, sources = lib("datafile"), lib("sources")
    path = lib.folder / "data"
    datafile.make(path, 10_000, 1)
    sources.whole()
    datafile.make(path, 10_000, 1)
    _scribble(lib, path, 4098)
    with pytest.raises(AssertionError, match="changed the file that was sent: in the page cache, byte 4098"):
        sources.whole()
    sources.whole()  # it is told once
    datafile.make(path, 10_000, 1)
    _scribble(lib, path, 4098)
    with pytest.raises(AssertionError, match="sending has changed the file"):
        datafile.make(path, 10_000, 2)


def test_a_file_that_was_deleted_since_is_told(lib):
    datafile = lib("datafile")
    path = lib.folder / "data"
    datafile.make(path, 5000, 1)
    _scribble(lib, path, 0)
    path.unlink()
    with pytest.raises(AssertionError, match="byte 0 of 5000"):
        lib("sources").whole()


def test_a_file_on_a_disk_is_read_from_there_as_well(lib, tmp_path):
    if not os.major(tmp_path.stat().st_dev):
        pytest.skip("there is no disk under the test's folder")
    path = tmp_path / "data"
    lib("datafile").make(path, 10_000, 1)
    lib("sources").whole()
    lib("datafile").make(path, 10_000, 1)
    _scribble(lib, path, 4098)
    with pytest.raises(AssertionError, match=r"in the page cache, byte 4098 of .*; on the disk, byte 4098"):
        lib("sources").whole()


def test_a_file_that_was_written_on_purpose_is_not_told(lib):
    path = lib.folder / "data"
    lib("datafile").make(path, 10_000, 1)
    with open(path, "r+b") as file:
        file.write(b"other")
    lib("sources").whole()


def test_files_written_without_the_library_are_held_when_they_are_sent(lib):
    import socket

    path = lib.folder / "data"
    path.write_bytes(b"x" * 5000)
    near, far = socket.socketpair()
    with near, far:
        lib("datafile").send(near, path, 0, 5000, "sendfile")
    _scribble(lib, path, 17)
    with pytest.raises(AssertionError, match="byte 17 of 5000"):
        lib("sources").whole()


def test_memory_that_sending_changed_is_told(lib):
    calls = lib("splicecalls")
    area = memoryview(mmap.mmap(-1, 8192))
    with calls.Pipe() as pipe:
        calls.vmsplice(pipe.writer, area)
        area[5000] = 1
        with pytest.raises(AssertionError, match="sending has changed the memory that was sent: byte 5000 of 8192"):
            lib("sources").whole()
        calls.vmsplice(pipe.reader, area)  # this direction is meant to change it
        area[5000] = 2
        calls.vmsplice(pipe.writer, area, stays=False)
        area[5000] = 3
        lib("sources").whole()


def test_the_page_behind_in_the_pipe_is_watched(lib, monkeypatch):
    import socket

    datafile = lib("datafile")
    path = lib.folder / "data"
    datafile.make(path, 65_536, 1)
    near, far = socket.socketpair()
    with near, far:
        for size in (1, 4096, 60_000, 65_536):
            datafile.send(near, path, 0, size, "splice")
            assert datafile.receive(far, size) == datafile.content(65_536, 1)[:size]
        whole = os.read
        monkeypatch.setattr(os, "read", lambda fd, size: whole(fd, size)[:-1] + b"?")
        with pytest.raises(AssertionError, match="the pipe's next page has changed"):
            datafile.send(near, path, 0, 5000, "splice")


def test_a_check_asks_at_its_end_and_leaves_nothing_to_the_next(lib, capfd):
    ktap, datafile = lib("ktap"), lib("datafile")
    path = lib.folder / "data"

    def changed():
        datafile.make(path, 5000, 1)
        _scribble(lib, path, 3)

    def fails():
        changed()
        raise AssertionError("of its own")

    ktap.check("one", changed)
    ktap.check("two", fails)
    ktap.check("three", lambda: None)
    lib("outcome").record("four", changed)
    lines = capfd.readouterr().out.splitlines()
    assert lines[0].startswith("# sending has changed the file that was sent: in the page cache, byte 3 of 5000")
    assert lines[1:5] == ["not ok 1 - one", "# of its own", "not ok 2 - two", "ok 3 - three"]
    assert lines[6] == "not ok 4 - four"


def test_no_answer_hides_that_something_was_changed(lib, capfd):
    def refused(error):
        path = lib.folder / "data"
        lib("datafile").make(path, 5000, 1)
        _scribble(lib, path, 3)
        raise error

    lib("outcome").record("an error", refused, OSError(errno.EOPNOTSUPP, "no"))
    lib("outcome").record("a skip", refused, lib("ktap").Skip("not here"))
    lib("ktap").check("a check", refused, OSError(errno.EIO, "no"))
    lines = [line for line in capfd.readouterr().out.splitlines() if not line.startswith("#")]
    assert lines == ["not ok 1 - an error", "not ok 2 - a skip", "not ok 3 - a check"]


def test_a_child_asks_at_its_end(lib):
    def changed():
        path = lib.folder / "data"
        lib("datafile").make(path, 5000, 1)
        _scribble(lib, path, 3)

    with pytest.raises(AssertionError, match="sending has changed the file"):
        lib("splicecalls").in_child(changed, deadline_s=20)


def test_the_other_end_says_what_it_has_changed(lib, monkeypatch):
    import socket
    import threading

    exchange, datafile = lib("exchange"), lib("datafile")
    plain = datafile.send

    def spoiling(sock, path, offset, count, how):
        plain(sock, path, offset, count, how)
        _scribble(lib, path, 1)  # not among the bytes that are under way

    for send, wrong in ((plain, ""), (spoiling, "at the other end, sending has changed the file")):
        monkeypatch.setattr(datafile, "send", send)
        near, far = socket.socketpair()
        with near, far:
            server = threading.Thread(target=lambda end=far: exchange.answer(end, exchange.line(end)))
            server.start()
            if wrong:
                with pytest.raises(AssertionError, match=wrong):
                    exchange.get(near, 5000, 3, 1, "sendfile", "recv")
            else:
                exchange.get(near, 5000, 3, 1, "sendfile", "recv")
            server.join()


# --- numbers that the kernel returns


def test_a_call_that_says_it_moved_more_than_it_was_asked_for_is_told(lib, monkeypatch):
    import socket

    datafile = lib("datafile")
    path = lib.folder / "data"
    datafile.make(path, 5000, 1)
    near, far = socket.socketpair()
    with near, far:
        monkeypatch.setattr(os, "sendfile", lambda *_: 5004)
        with pytest.raises(AssertionError, match="sendfile of 5000 bytes says that it moved 5004"):
            datafile.send(near, path, 0, 5000, "sendfile")
        plain = os.splice
        monkeypatch.setattr(os, "splice", lambda *a, **more: plain(*a, **more) - (a[1] == near.fileno()))
        with pytest.raises(AssertionError, match="splice took 4999 bytes, and 4096 are left, not 4097"):
            datafile.send(near, path, 0, 5000, "splice")


def test_bytes_behind_those_that_were_sent_are_told(lib):
    import socket

    near, far = socket.socketpair()
    with near, far, pytest.raises(AssertionError, match="2 bytes wait behind the 3 that were sent"):
        lib("datafile").while_reading(far, 3, "recv", lambda: near.sendall(b"12345"))


@pytest.mark.parametrize("wrong", [0, 4])
def test_what_tcp_counts_is_compared(lib, monkeypatch, wrong):
    exchange = lib("exchange")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    counts = exchange._tcp_counts
    extra = iter([0, wrong])

    def miscounted(sock):
        right = counts(sock)
        return right._replace(acknowledged=right.acknowledged + next(extra))

    monkeypatch.setattr(exchange, "_tcp_counts", miscounted)
    with near, far:
        server = threading.Thread(target=lambda: exchange.answer(far, exchange.line(far)))
        server.start()
        if wrong:
            with pytest.raises(AssertionError, match=r"TCP counts \d+ bytes as acknowledged, \d+ were sent"):
                exchange.put(near, 70_001, 3, 1, "sendfile", "recv")
        else:
            exchange.put(near, 70_001, 3, 1, "sendfile", "recv")
        server.join()


def test_a_script_says_at_its_end_what_it_sent(tmp_path):
    script = """
import os, socket, datafile
near, far = socket.socketpair()
datafile.make("data", 5000, 1)
if not os.fork():
    datafile.send(near, "data", 0, 5000, "sendfile")
    os._exit(0)
os.wait()
datafile.send(near, "data", 0, 3, "write")
"""
    env = {**os.environ, "PYTHONPATH": str(LIB), "LAB_ROLE": "main", "LAB_TMP": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=env, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "# sent 5003 bytes in 2 calls\n"


def test_tcp_is_asked_when_what_was_sent_before_has_arrived(lib):
    class Slow:
        answers = iter([(28, 0, 0, 5, 0, 28, 0), (28, 0, 0, 5, 0, 28, 0), (0, 0, 28, 5, 0, 28, 0)])

        def __init__(self, domain):
            self.domain = domain

        def getsockopt(self, level, option, size=0):
            if level == socket.SOL_SOCKET:
                return {socket.SO_DOMAIN: self.domain, socket.SO_PROTOCOL: socket.IPPROTO_TCP}[option]
            return lib("tcpinfo")._LAYOUT.pack(*next(self.answers))

    exchange = lib("exchange")
    counts = exchange._tcp_counts(Slow(socket.AF_INET))
    assert (counts.acknowledged, counts.received) == (28, 5)
    smc = 43
    assert exchange._tcp_counts(Slow(smc)) is None, "RDMA carries its data, and TCP counts none of it"


def test_an_offset_that_does_not_stand_behind_what_was_taken_is_told(lib):
    calls = lib("splicecalls")
    assert calls._behind("sendfile", 5, 7, 12) == 7
    with pytest.raises(AssertionError, match="sendfile took 7 bytes from 5 on and leaves the offset at 5"):
        calls._behind("sendfile", 5, 7, 5)
