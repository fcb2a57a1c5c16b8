"""What every guest must do: one suite for the fake (the agent as a process of this host) and the real guest."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import termios
import threading
import time

import pytest

from kpatchlab.cache import Cache
from kpatchlab.errors import GuestLost, HostError
from kpatchlab.guest.initrd import build_agent
from kpatchlab.guest.vm import Identity, boot
from kpatchlab.guest.vng import boot_vng
from tests.guest_support import FakeGuest, host_qemu, real_boot

REAL = [pytest.param(name, marks=pytest.mark.guest) for name in ("real", "vng")]


@pytest.fixture(scope="module", params=["fake", *REAL])
def guest(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("guest")
    if request.param == "fake":
        build_agent(folder / "agent")
        with FakeGuest(folder / "agent", folder / "console") as fake:
            yield fake
    elif request.param == "vng":
        outside_tmp = Cache().root / "tmp"
        outside_tmp.mkdir(parents=True, exist_ok=True)
        agent = outside_tmp / f"agent-{os.getpid()}"
        build_agent(agent)
        with boot_vng(real_boot(folder, host_qemu()), agent, console_path=folder / "console") as vng:
            yield vng
        agent.unlink()
    else:
        with boot(real_boot(folder), console_path=folder / "console") as real:
            yield real


@pytest.fixture(autouse=True)
def _alive_before_and_after(guest):
    guest.ping(10)
    yield
    guest.ping(10)


def sh(guest, script, *args, timeout_s=30, **more):
    return guest.run(["sh", "-c", script, "sh", *args], timeout_s=timeout_s, **more)


def test_streams_are_apart_and_whole(guest):
    done = sh(guest, "echo out; echo err >&2")
    assert (done.status, done.signal, done.stdout, done.stderr) == (0, 0, b"out\n", b"err\n")


def test_every_exit_status_arrives(guest):
    wanted = [0, 1, 2, 77, 126, 127, 128, 137, 254, 255]
    assert [sh(guest, f"exit {n}").status for n in wanted] == wanted


@pytest.mark.parametrize("number", [6, 9, 11, 15])
def test_death_by_signal_is_told_apart_from_a_status(guest, number):
    done = sh(guest, f"kill -{number} $$")
    assert (done.status, done.signal, done.timed_out) == (-1, number, False)


def test_bytes_go_through_unchanged(guest):
    data = bytes(range(256)) * 1000
    done = guest.run(["cat"], stdin=data, timeout_s=30)
    assert done.stdout == data
    assert done.stdout_total == len(data)


def test_arguments_and_variables_keep_spaces_line_feeds_and_unicode(guest):
    words = ["", " a  b ", "two\nlines", "$HOME `id` 'q' \"", "žluťoučký 漢字 \N{PILE OF POO}"]
    done = sh(guest, 'printf "%s|" "$@"; printf "%s" "$LAB_X"', *words, env={"LAB_X": "v=\nw"})
    assert done.stdout.decode() == "|".join(words) + "|v=\nw"


def test_folder_is_where_the_command_runs(guest):
    assert sh(guest, "pwd", cwd="/usr").stdout == b"/usr\n"
    missing = sh(guest, "pwd", cwd="/no/such/folder")
    assert missing.status == 126
    assert b"/no/such/folder" in missing.stderr


def test_program_that_is_missing_or_no_program_says_so(guest):
    missing = guest.run(["no-such-program"], timeout_s=10)
    assert (missing.status, missing.stdout) == (127, b"")
    assert b"cannot execute no-such-program" in missing.stderr
    assert guest.run(["/etc/passwd"], timeout_s=10).status == 126


def test_command_that_does_not_read_its_input_ends(guest):
    assert guest.run(["true"], stdin=b"x" * 300_000, timeout_s=20).status == 0


def test_reader_of_input_sees_its_end(guest):
    assert guest.run(["wc", "-c"], timeout_s=10).stdout.strip() == b"0"


def test_deadline_ends_the_whole_tree(guest):
    begin = time.monotonic()
    script = "trap '' TERM; sh -c 'trap \"\" TERM; sleep 7777 & setsid sleep 7778 & wait' & wait"
    done = sh(guest, script, timeout_s=1.5)
    assert done.timed_out
    assert (done.status, done.signal) == (-1, 9)
    assert time.monotonic() - begin < 12
    assert (
        b"7777" not in sh(guest, "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' | grep -o 'sleep 777[78]'").stdout
    )


def test_output_before_the_deadline_is_kept(guest):
    done = sh(guest, "echo early; exec sleep 60", timeout_s=1.5)
    assert (done.timed_out, done.signal, done.stdout) == (True, 15, b"early\n")


def test_daemon_left_behind_is_not_waited_for_and_lives(guest):
    begin = time.monotonic()
    done = sh(guest, "(while sleep 0.2; do echo noise; done) & echo $!")
    assert time.monotonic() - begin < 5
    pid = done.stdout.split()[0].decode()
    time.sleep(1)
    assert sh(guest, f"kill -9 {pid}").status == 0  # SIGPIPE has not ended it


def test_long_output_is_kept_in_part_and_counted_in_full(guest):
    size = 20 << 20
    done = sh(guest, f"head -c {size} /dev/zero; echo end", timeout_s=120, keep_bytes=1 << 16)
    assert done.stdout_total == size + 4
    assert len(done.stdout) < 70_000
    assert done.stdout.endswith(b"end\n")
    assert b"bytes cut" in done.stdout


def test_output_is_told_as_it_comes(guest):
    seen = []
    done = sh(
        guest,
        "echo a; sleep 0.5; echo b >&2; sleep 0.5",
        on_output=lambda stream, data: seen.append((stream, data, time.monotonic())),
    )
    assert [(stream, data) for stream, data, _ in seen] == [("stdout", b"a\n"), ("stderr", b"b\n")]
    assert seen[1][2] - seen[0][2] > 0.2
    assert done.status == 0


def test_commands_run_at_the_same_time(guest):
    results = {}

    def work(number):
        results[number] = sh(guest, f"sleep 1; echo {number}; exit {number}")

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    begin = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - begin < 6
    assert {n: (r.status, r.stdout) for n, r in results.items()} == {n: (n, b"%d\n" % n) for n in range(8)}


def test_files_go_in_and_come_out(guest):
    folder = "/tmp/kpatchlab test"
    files = [
        (f"{folder}/a", b"", 0o600),
        (f"{folder}/deep/er/b\nc", bytes(range(256)) * 999, 0o755),
        (f"{folder}/ž", b"z", 0o644),
    ]
    guest.put_many(files)
    assert [guest.get(path) for path, _, _ in files] == [data for _, data, _ in files]
    modes = guest.run(["stat", "-c", "%a", *(path for path, _, _ in files)], timeout_s=10).stdout
    assert modes.split() == [b"600", b"755", b"644"]
    guest.put(files[2][0], b"shorter", 0o600)
    assert guest.get(files[2][0]) == b"shorter"
    guest.run(["rm", "-r", folder], timeout_s=10)


def test_get_is_limited_and_reads_files_without_a_size(guest):
    assert guest.get("/dev/zero", limit_bytes=100_000) == bytes(100_000)
    assert guest.get("/proc/self/status").startswith(b"Name:")


def test_files_that_cannot_be_had_are_errors(guest):
    with pytest.raises(HostError, match="cannot open /no/such: No such file"):
        guest.get("/no/such")
    with pytest.raises(HostError, match="cannot create /proc/no/such"):
        guest.put("/proc/no/such", b"")
    with pytest.raises(ValueError, match="not an absolute path"):
        guest.put("relative", b"")


def test_guest_is_given_a_name_and_an_address(guest):
    identity = Identity("named", "52:54:00:77:00:09", "10.77.0.9/24", f"{9:032x}", os.urandom(32))
    if isinstance(guest, FakeGuest):  # a host is not renamed
        with pytest.raises(HostError, match="refused on a host: identify"):
            guest.identify(identity)
        return
    guest.identify(identity)
    # The kernel's own table: under virtme-ng the root is this host's, which may lack ip(8).
    script = "hostname; cat /sys/class/net/eth0/address /etc/machine-id; grep -o '10[.]77[.]0[.]9$' /proc/net/fib_trie"
    told = sh(guest, script).stdout.split()
    assert told[:3] == [b"named", b"52:54:00:77:00:09", b"%032x" % 9]
    assert told[-1] == b"10.77.0.9"
    for wrong in (Identity("x", "zz"), Identity("x", "", "10.0.0"), Identity("x", identity.mac, device="eth7")):
        with pytest.raises(HostError, match="guest: identify"):
            guest.identify(wrong)


def test_what_a_job_left_running_is_ended(guest):
    if isinstance(guest, FakeGuest):  # these are the host's
        with pytest.raises(HostError, match="refused on a host: settle"):
            guest.settle()
        return
    sh(guest, "setsid sleep 1000 <&- >&- 2>&- &")
    assert sh(guest, "cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -c 'sleep 1[0]00'").stdout == b"1\n"
    guest.settle()
    assert sh(guest, "cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -c 'sleep 1[0]00'").stdout == b"0\n"


def test_several_files_are_read_in_one_go(guest):
    if isinstance(guest, FakeGuest):
        with pytest.raises(HostError, match="refused on a host: look"):
            guest.look(["/proc/meminfo"], drop_caches=False)
        return
    for drop in (False, True):
        found = guest.look(["/proc/meminfo", "/no/such", "/proc/loadavg"], drop_caches=drop)
        assert list(found) == ["/proc/meminfo", "/proc/loadavg"]
        assert found["/proc/meminfo"].startswith("MemTotal:")
    assert b"drop_caches" not in guest.console.data()


def test_impossible_commands_are_refused_here(guest):
    with pytest.raises(ValueError, match="NUL"):
        guest.run(["a\0b"], timeout_s=1)
    with pytest.raises(ValueError, match="without arguments"):
        guest.run([], timeout_s=1)
    with pytest.raises(ValueError, match="too long"):
        guest.run(["x" * (2 << 20)], timeout_s=1)


TERMINAL = """
import sys
from pathlib import Path
from kpatchlab.guest.terminal import bridge
from tests.guest_support import FakeGuest
with FakeGuest(Path(sys.argv[1]), Path(sys.argv[2])) as guest:
    status = bridge(guest, ["bash", "--norc", "-i"], env={"PS1": "lab> "})
    print(f"status {status}", flush=True)
"""


def test_terminal_is_bridged(tmp_path):
    build_agent(tmp_path / "agent")
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (33, 111))
    words = [sys.executable, "-c", TERMINAL, str(tmp_path / "agent"), str(tmp_path / "console")]
    child = subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    said = b""

    def until(text):
        nonlocal said
        end = time.monotonic() + 20
        while text not in said and time.monotonic() < end:
            if select.select([ours], [], [], 0.1)[0]:
                said += os.read(ours, 4096)
        assert text in said, said

    until(b"lab> ")
    os.write(ours, b"stty size; tty -s && echo 'is a' terminal\r")
    until(b"33 111\r\n")
    until(b"is a terminal\r\n")
    os.write(ours, b"sleep 50\r")
    time.sleep(0.5)
    os.write(ours, b"\3")  # the key goes to the guest's terminal, which interrupts what runs there
    os.write(ours, b"exit 7\r")
    until(b"status 7")
    assert child.wait(10) == 0
    os.close(ours)


def test_closing_wakes_up_who_waits(tmp_path):
    build_agent(tmp_path / "agent")
    guest = FakeGuest(tmp_path / "agent", tmp_path / "console")
    threading.Timer(0.5, guest.close).start()
    with pytest.raises(GuestLost, match="the lab closed"):
        guest.run(["sleep", "60"], timeout_s=30)
    guest.close()
    assert guest.process.poll() is not None
    with pytest.raises(GuestLost):
        guest.run(["true"], timeout_s=1)
