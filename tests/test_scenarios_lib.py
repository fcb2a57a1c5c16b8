"""Units of scenarios/lib that can run on the host: reach against a made-up tracefs, KTAP printers, test data."""

import errno
import lzma
import os
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from kpatchlab.evidence import ktap
from kpatchlab.model import Outcome

LIB = Path(__file__).parent.parent / "scenarios" / "lib"


@pytest.fixture(scope="module", autouse=True)
def _path():
    sys.path.insert(0, str(LIB))
    yield
    sys.path.remove(str(LIB))


@pytest.fixture
def datafile():
    import datafile

    return datafile


@pytest.fixture
def udp(monkeypatch):
    """The scenario udp-splice: its receiver and its sender, each as the module that it is in a guest."""
    monkeypatch.syspath_prepend(str(LIB.parent / "udp-splice"))
    for name in ("peer", "client"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import client
    import peer

    yield peer, client
    for name in ("peer", "client"):
        sys.modules.pop(name)


@pytest.mark.parametrize("lacking", ["client", "server", ""])
def test_a_kernel_without_udplite_is_a_skip(udp, monkeypatch, lacking):
    peer, client = udp
    there = socket.socket

    def without(family=-1, kind=-1, protocol=-1, fileno=None):
        here = "server" if threading.current_thread() is not threading.main_thread() else "client"
        if protocol == peer.UDPLITE and here == lacking:
            raise OSError(errno.EPROTONOSUPPORT, "Protocol not supported")
        return there(family, kind, socket.IPPROTO_UDP if protocol == peer.UDPLITE else protocol, fileno)

    with socket.create_server(("127.0.0.1", 0)) as free:
        monkeypatch.setattr(peer, "PORT", free.getsockname()[1])
    peer.serve(peer.listen("127.0.0.1"))
    path = client.Path("127.0.0.1", "::1")
    monkeypatch.setattr(socket, "socket", without)
    monkeypatch.setattr(peer, "_SO_RCVBUFFORCE", socket.SO_RCVBUF)

    def send(sock):
        sock.send(b"datagram")
        return {"one": [b"datagram"]}

    if lacking:
        name = {"client": "this kernel", "server": "the server's kernel"}[lacking]
        with pytest.raises(client.ktap.Skip, match=f"{name} has no UDP-Lite"):
            path.exchange("UDPLITE over IPv4", send)
    else:
        assert path.exchange("UDPLITE over IPv4", send) == "one"
    assert path.exchange("UDP over IPv4", send) == "one"  # the connection goes on


# --- reach


@pytest.fixture
def trace(tmp_path):
    """Return a function that runs reach on a folder which looks like tracefs; files keep the last thing written."""
    tracing = tmp_path / "tracing"
    (tracing / "trace_stat").mkdir(parents=True)
    (tracing / "available_filter_functions").write_text(
        "tcp_sendpage\ntcp_sendpage_locked\nsiw_tx_hdt [siw]\nsvc_tcp_sendmsg.constprop.0 [sunrpc]\n"
        "svc_tcp_sendmsg.cold [sunrpc]\na_function_with_a_name_of_more_than_30_letters\n"
    )
    (tracing / "function_profile_enabled").write_text("")
    (tracing / "set_ftrace_filter").write_text("")
    (tmp_path / "kallsyms").write_text(
        "ff00 T tcp_sendpage\nff10 t siw_tx_hdt\t[siw]\nff20 T splice_to_socket_not\nff30 T tcp_sendpage\n"
    )
    env = {
        **os.environ,
        "REACH_TRACING": str(tracing),
        "REACH_KALLSYMS": str(tmp_path / "kallsyms"),
        "REACH_STATE": str(tmp_path / "state"),
        "REACH_MODULES": str(tmp_path / "modules"),
    }

    def reach(*words, **more):
        return subprocess.run([LIB / "reach", *words], env={**env, **more}, capture_output=True, text=True, check=False)

    reach.tracing = tracing
    return reach


def test_reach_counts_with_the_profiler(trace):
    wanted = [
        "tcp_sendpage",
        "no_such",
        "svc_tcp_sendmsg",
        "a_function_with_a_name_of_more_than_30_letters",
        "siw_tx_hdt",
    ]
    assert trace("start", *wanted).returncode == 0
    # By their lines in available_filter_functions, behind the one that keeps the filter from being empty.
    assert (trace.tracing / "set_ftrace_filter").read_text().split() == ["1", "1", "3", "4", "6"]
    assert (trace.tracing / "function_profile_enabled").read_text() == "1\n"
    head = "  Function                               Hit\n  --------                               ---\n"
    for cpu, hits in enumerate((4, 5)):
        (trace.tracing / "trace_stat" / f"function{cpu}").write_text(
            f"{head}  tcp_sendpage                           {hits}\n"
            "  svc_tcp_sendmsg.constprop.0              1    10.0 us\n"
            "  a_function_with_a_name_of_more           7\n"
        )
    done = trace("read")
    assert done.stdout.splitlines() == [
        "tcp_sendpage 9",
        "no_such -1",
        "svc_tcp_sendmsg 2",
        "a_function_with_a_name_of_more_than_30_letters 14",
        "siw_tx_hdt 0",
    ]
    assert (trace.tracing / "function_profile_enabled").read_text() == "0\n"


def test_reach_says_what_a_module_calls(trace, tmp_path):
    drivers = tmp_path / "modules/kernel/drivers"
    drivers.mkdir(parents=True)
    names = b"\x7fELF\0crypto_ahash_digest\0crc32c_arch\0"
    (drivers / "nvme-tcp.ko").write_bytes(names)
    (drivers / "nvmet-tcp.ko.xz").write_bytes(lzma.compress(names))
    (tmp_path / "modules/modules.dep").write_text(
        "kernel/drivers/nvme-tcp.ko: kernel/x.ko\nkernel/drivers/nvmet-tcp.ko.xz:\n"
    )
    asked = [
        "nvme-tcp:crypto_ahash_digest",
        "nvme_tcp:crc32c",
        "nvmet-tcp:crc32c_arch",
        "siw:crc32c",
        "nvmet-tcp:ahash",
    ]
    done = trace("uses", *asked)
    assert (done.returncode, done.stdout.split()) == (0, ["nvme-tcp:crypto_ahash_digest", "nvmet-tcp:crc32c_arch"])


@pytest.mark.parametrize("ends", [True, False])
def test_an_nfs_server_starts_also_where_its_grace_period_cannot_be_ended(tmp_path, ends):
    proc, tools = tmp_path / "nfsd", tmp_path / "bin"
    tools.mkdir()
    (proc / "" if ends else proc / "v4_end_grace").mkdir(parents=True)  # a folder cannot be written, as EBUSY
    for name in ("versions", "portlist", "threads"):
        (proc / name).write_text(f"{name}\n")
    for name in ("mount", "pidof", "exportfs", "rpc.mountd", "rpc.nfsd"):
        (tools / name).write_text(f"#!/bin/sh\n[ {name} != rpc.nfsd ] || cat {proc}/nfsv4gracetime\n")
        (tools / name).chmod(0o755)
    text = (LIB / "nfs-server.sh").read_text().replace("/proc/fs/nfsd", str(proc))
    for path in ("/srv/export", "/run/rpcbind", "/var/lib/nfs", "/etc/exports"):
        text = text.replace(path, f"{tmp_path}{path}")
    (tmp_path / "etc").mkdir()
    env = {"PATH": f"{tools}:{os.environ['PATH']}", "LAB_VERS": "4.2"}
    done = subprocess.run(["sh", "-c", text], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["10", "versions", "portlist"], (
        "the server starts with the shortest grace period"
    )
    assert ("ends by itself" in done.stderr) is not ends


def test_reach_waits_for_a_module_and_counts_nothing_else_meanwhile(trace):
    """A module that is not loaded is named to ftrace; the filter holds more than that, or all would be counted."""
    assert trace("start", "siw_tx_hdt:mod:siw", "later:mod:tls", "other:mod:tls").returncode == 0
    assert (trace.tracing / "set_ftrace_filter").read_text().split() == ["1", "3", "*:mod:tls"]
    (trace.tracing / "trace_stat" / "function0").write_text("  later                           3\n")
    assert trace("read").stdout == "siw_tx_hdt 0\nlater 3\nother 0\n"


def test_reach_does_not_guess_which_of_two_names_was_cut_off(trace):
    names = [f"a_function_with_a_name_of_more_than_30_{end}" for end in ("one", "two")]
    (trace.tracing / "available_filter_functions").write_text("\n".join(["f", *names]) + "\n")
    assert trace("start", "f", *names).returncode == 0
    (trace.tracing / "trace_stat" / "function0").write_text("  f   3\n  a_function_with_a_name_of_more   7\n")
    assert trace("read").stdout == f"f 3\n{names[0]} -1\n{names[1]} -1\n"


def test_reach_on_a_kernel_without_tracing_says_that_nothing_can_be_traced(trace, tmp_path):
    """Not that the counts could not be read, as where tracefs is there and not mounted."""
    shutil.rmtree(trace.tracing)
    known = tmp_path / "filesystems"
    known.write_text("nodev\tsysfs\n")
    assert trace("start", "tcp_sendpage", REACH_FILESYSTEMS=str(known)).returncode == 0
    assert trace("read").stdout == "tcp_sendpage -1\n"
    known.write_text("nodev\tsysfs\nnodev\ttracefs\n")
    assert "mount tracefs" in trace("start", "tcp_sendpage", REACH_FILESYSTEMS=str(known)).stderr


def test_reach_of_nothing_traceable_does_not_profile_the_whole_kernel(trace):
    assert trace("start", "no_such", "neither").returncode == 0
    assert (trace.tracing / "function_profile_enabled").read_text() == "0\n"
    assert trace("read").stdout == "no_such -1\nneither -1\n"


@pytest.mark.parametrize("asked", [True, False])
def test_reach_counts_with_kprobes(trace, asked):
    (trace.tracing / "kprobe_events").write_text("")
    (trace.tracing / "events" / "reach").mkdir(parents=True)
    (trace.tracing / "events" / "reach" / "enable").write_text("")
    if not asked:
        (trace.tracing / "function_profile_enabled").unlink()
    assert trace("start", "tcp_sendpage", "no_such", REACH_METHOD="kprobe" if asked else "").returncode == 0
    assert "p:reach/probe0 tcp_sendpage\n" in (trace.tracing / "kprobe_events").read_text()
    (trace.tracing / "kprobe_profile").write_text("  probe0                 12               0\n")
    assert trace("read").stdout == "tcp_sendpage 12\nno_such -1\n"


def test_reach_has_no_counts_of_a_start_that_failed_at_its_last_write(trace):
    (trace.tracing / "kprobe_events").write_text("")
    (trace.tracing / "kprobe_profile").write_text("")
    done = trace("start", "tcp_sendpage", REACH_METHOD="kprobe")  # events/reach is not there
    assert (done.returncode, done.stderr.splitlines()[-1]) == (1, "reach: cannot start to count")
    assert (trace("read").returncode, trace("read").stdout) == (1, "")


def test_reach_has_no_counts_of_an_earlier_start_where_the_next_fails(trace):
    (trace.tracing / "trace_stat" / "function0").write_text("  tcp_sendpage   4\n")
    assert trace("start", "tcp_sendpage").returncode == 0
    (trace.tracing / "function_profile_enabled").unlink()
    (trace.tracing / "function_profile_enabled").symlink_to("/dev/full")
    assert "cannot start to count" in trace("start", "tcp_sendpage").stderr
    assert (trace("read").returncode, trace("read").stdout) == (1, "")


def test_reach_says_what_is_wrong(trace):
    for words in ((), ("start",), ("read",), ("frobnicate",)):
        done = trace(*words)
        assert done.returncode == 1
        assert done.stderr.startswith("reach: ")


def test_reach_symbols_are_whole_names_and_come_once(trace):
    assert trace("symbols", "splice_to_socket", "tcp_sendpage", "siw_tx_hdt").stdout == "tcp_sendpage\nsiw_tx_hdt\n"


# --- KTAP printers


def _cases(stdout):
    parsed = ktap.parse(stdout, exit_status=0)
    assert not parsed.problems
    return [(case.name, case.outcome, case.message) for case in parsed.cases], parsed.metrics


def test_ktap_of_the_shell_is_read_back():
    script = (
        f". {LIB}/ktap.sh; ktap_plan 5; ktap_ok one; ktap_not_ok two 'so and so'; ktap_skip three 'not here';"
        "ktap_check four true; ktap_check five sh -c 'echo broken; exit 3'; ktap_metric rate 1.5 MiB/s higher"
    )
    done = subprocess.run(["sh", "-eu", "-c", script], capture_output=True, check=True)
    cases, metrics = _cases(done.stdout)
    assert [name for name, _, _ in cases] == ["one", "two", "three", "four", "five"]
    assert [o for _, o, _ in cases] == [Outcome.PASS, Outcome.FAIL, Outcome.SKIP, Outcome.PASS, Outcome.FAIL]
    assert b"# sh -c echo broken; exit 3 ended with status 3: broken\n" in done.stdout
    assert metrics[0].value == 1.5


def test_ktap_of_python_is_read_back(tmp_path):
    script = tmp_path / "checks.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(LIB)!r})\n"
        "import ktap\n"
        "def no(): raise AssertionError('41 instead of 42')\n"
        "def gone(): open('/nowhere/at/all')\n"
        "def skip(): raise ktap.Skip('not here')\n"
        "ktap.plan(4)\n"
        "assert ktap.check('one', lambda: 7) == 7\n"
        "for name, what in (('two', no), ('three', gone), ('four', skip)): ktap.check(name, what)\n"
        "ktap.metric('rate', 1234.5, 'MiB/s', 'higher')\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, check=True)
    cases, metrics = _cases(done.stdout)
    assert [o for _, o, _ in cases] == [Outcome.PASS, Outcome.FAIL, Outcome.FAIL, Outcome.SKIP]
    assert b"# 41 instead of 42\nnot ok 2 - two\n" in done.stdout
    assert b"No such file" in done.stdout
    assert metrics[0].direction == "higher"


# --- test data


def test_content_is_a_function_of_size_and_seed_and_no_two_pages_are_equal(datafile):
    data = datafile.content(3 << 20, 5)
    assert data == datafile.content(3 << 20, 5)
    pages = {bytes(data[i : i + 4096]) for i in range(0, len(data), 4096)}
    assert len(pages) == 768
    assert len({page[16:] for page in pages}) == 768  # without their stamps as well
    for size in (0, *datafile.SIZES):
        assert len(datafile.content(size, 1)) == size
    assert datafile.content(65537, 1) != datafile.content(65537, 2)


def test_a_difference_is_named(datafile):
    right = datafile.content(5 * 4096 + 7, 1)
    datafile.same(bytes(right), right)
    assert datafile.difference(right, right) == ""
    wrong = bytearray(right)
    wrong[4096 + 300] ^= 1
    assert "byte 4396 of" in datafile.difference(wrong, right)
    with pytest.raises(AssertionError, match="byte 4396"):
        datafile.same(wrong, right)
    wrong = bytearray(right)
    wrong[8192:12288] = bytes(4096)
    assert datafile.difference(wrong, right).endswith("zeroes instead of data")
    wrong[8192:12288] = right[4096:8192]
    assert datafile.difference(wrong, right).endswith("belongs to byte 4096 instead")
    assert datafile.difference(right[:-3], right).startswith("20484 bytes instead of 20487; the common part")


@pytest.mark.parametrize("sender", ["sendfile", "splice", "write"])
@pytest.mark.parametrize("receiver", ["recv", "splice"])
@pytest.mark.skipif(not hasattr(os, "splice"), reason="os.splice needs Python 3.10 on Linux")
def test_streams_arrive_whole(datafile, tmp_path, monkeypatch, sender, receiver):
    monkeypatch.setenv("LAB_TMP", str(tmp_path))
    size, offset = (1 << 20) + 13, 4093
    datafile.make(tmp_path / "data", size + offset, 3)
    near, far = (datafile.patient(end, 10) for end in socket.socketpair())
    with near, far:
        got, seconds = datafile.while_reading(
            far, size, receiver, lambda: datafile.send(near, tmp_path / "data", offset, size, sender)
        )
    datafile.same(got, datafile.content(size + offset, 3)[offset:])
    assert seconds > 0
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_sender_that_fails_does_not_leave_the_reader_waiting(datafile, tmp_path):
    near, far = (datafile.patient(end, 60) for end in socket.socketpair())
    with near, far, pytest.raises(FileNotFoundError):
        datafile.while_reading(far, 10, "recv", lambda: datafile.send(near, tmp_path / "none", 0, 10, "sendfile"))


def test_a_stream_that_stops_is_an_error_not_a_hang(datafile):
    near, far = (datafile.patient(end, 1) for end in socket.socketpair())
    with near, far, pytest.raises(AssertionError, match="the stream has stopped"):
        datafile.while_reading(far, 10, "recv", lambda: near.sendall(b"only"))


# --- checks of network file systems, on a folder of the host


def test_file_checks_hold_on_a_sound_folder_and_name_what_differs(tmp_path, monkeypatch, capfd):
    import filecheck
    import ktap

    monkeypatch.setattr(filecheck, "_forget", lambda: None)
    monkeypatch.setattr(filecheck.os.path, "ismount", lambda _: True)
    monkeypatch.setattr(filecheck.os, "O_DIRECT", 0)  # no local file system takes it at odd offsets
    monkeypatch.setattr(ktap, "_number", 0)
    filecheck.serve(tmp_path)
    filecheck.run(str(tmp_path), ["true"])
    cases, _ = _cases(capfd.readouterr().out.encode())
    assert {outcome for _, outcome, _ in cases} == {Outcome.PASS}
    sums = subprocess.run(["sha256sum", "--quiet", "--check", "SHA256SUMS"], cwd=tmp_path, check=False)
    assert sums.returncode == 0

    with open(tmp_path / "served-long", "r+b") as file:
        file.seek(5000)
        file.write(b"?")
    monkeypatch.setattr(ktap, "_number", 0)
    filecheck.run(str(tmp_path), ["false"])
    said = capfd.readouterr().out
    assert "not ok 4 - mount anew" in said
    assert "# served-long: first difference at byte 5000 of 8388608" in said


def test_file_checks_refuse_what_is_not_mounted(tmp_path):
    import filecheck

    with pytest.raises(SystemExit, match="is not mounted"):
        filecheck.run(str(tmp_path), ["true"])


def test_orders_are_carried_out_at_the_other_end_and_failures_come_back(monkeypatch):
    monkeypatch.setenv("LAB_SERVER", "127.0.0.1")
    import orders

    class Node:
        def double(self, number):
            if number > 2:
                raise AssertionError("too much")
            return 2 * number

    listening = threading.Event()
    monkeypatch.setattr(orders.background, "detach", listening.set)
    with socket.create_server(("127.0.0.1", 0)) as free:
        monkeypatch.setattr(orders, "PORT", free.getsockname()[1])
    threading.Thread(target=orders.serve, args=(Node(),), daemon=True).start()
    assert listening.wait(10)
    for _ in range(2):  # one client after the other
        there = orders.Remote()
        assert there.double(2) == 4
        with pytest.raises(AssertionError, match="server: double: too much"):
            there.double(3)
        assert there.double(1) == 2
        there.close()


def test_a_server_that_ends_is_told_of(monkeypatch):
    monkeypatch.setenv("LAB_SERVER", "127.0.0.1")
    import orders

    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setattr(orders, "PORT", listener.getsockname()[1])
        there = orders.Remote()
        listener.accept()[0].close()
        with pytest.raises(AssertionError, match="the connection has ended"):
            there.double(2)
    there.close()


def test_a_file_is_written_past_the_page_cache_but_for_its_last_bytes(tmp_path):
    import blockcheck

    data = os.urandom(blockcheck.SECTOR * 9 + 13)
    blockcheck.write_sectors(tmp_path / "file", data)
    assert (tmp_path / "file").read_bytes() == data
