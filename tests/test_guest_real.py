"""What only a real kernel in a real QEMU can show: loss, saving, identity, cables, load; pytest -rP shows the times."""

# ruff: noqa: T201

from __future__ import annotations

import os
import re
import signal
import threading
import time

import pytest

from kpatchlab.errors import GuestLost, Loss
from kpatchlab.guest import pulse
from kpatchlab.guest.vm import Identity, SavedGuest, boot, link, resume
from tests.guest_support import children, real_boot

pytestmark = pytest.mark.guest


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A guest saved right after boot: each test resumes its own."""
    folder = tmp_path_factory.mktemp("saved")
    begin = time.monotonic()
    with boot(real_boot(folder), console_path=folder / "console") as guest:
        booted = time.monotonic()
        guest.save(folder)
        print(f"boot {booted - begin:.2f} s, save {time.monotonic() - booted:.2f} s")
        assert guest.run(["true"], timeout_s=10).status == 0  # it goes on after saving
    return SavedGuest.load(folder)


@pytest.fixture
def guest(saved, tmp_path):
    with resume(saved, console_path=tmp_path / "console") as found:
        yield found


@pytest.fixture(autouse=True)
def _nothing_is_left():
    before = children()
    yield
    assert children() - before == set()


def loss(guest, script, timeout_s=60):
    """Return why a guest was lost, and after how many seconds."""
    begin = time.monotonic()
    with pytest.raises(GuestLost) as caught:
        guest.run(["sh", "-c", script], timeout_s=timeout_s)
    took = time.monotonic() - begin
    print(f"{caught.value} after {took:.2f} s")
    return caught.value.reason, caught.value.detail, took


def test_console_is_recorded_from_the_first_line(saved):
    assert re.search(r"^(\[.*\] )?Linux version", (saved.path / "console").read_text(), re.MULTILINE)


def test_resumed_guest_knows_its_kernel(guest):
    assert guest.release == guest.run(["uname", "-r"], timeout_s=10).stdout.decode().strip()


def test_root_is_writable_and_forks_do_not_see_each_other(saved, tmp_path):
    with resume(saved, console_path=tmp_path / "a") as one, resume(saved, console_path=tmp_path / "b") as other:
        one.put("/etc/mine", b"1")
        assert one.get("/etc/mine") == b"1"
        assert other.run(["test", "-e", "/etc/mine"], timeout_s=10).status == 1


def test_forks_have_an_identity_of_their_own(saved, tmp_path):
    script = (
        "hostname; cat /sys/class/net/eth0/address /etc/machine-id; head -c 16 /dev/urandom | od -An -tx1; date +%s"
    )
    told = []
    for number in (1, 2):
        with resume(saved, console_path=tmp_path / f"c{number}") as guest:
            identity = Identity(
                f"guest{number}", f"52:54:00:77:00:0{number}", f"10.77.0.{number}/24", f"{number:032x}", os.urandom(32)
            )
            guest.identify(identity)
            told.append(guest.run(["sh", "-c", script], timeout_s=20).stdout.decode().split("\n"))
            address = guest.run(["ip", "-4", "-br", "address", "show", "eth0"], timeout_s=10).stdout.split()
            # Its state is told by a delayed work of the kernel: DOWN right after it was brought up, on a busy host.
            assert [address[0], address[2]] == [b"eth0", f"10.77.0.{number}/24".encode()]
    (name, mac, machine, _, clock, _), (_, _, _, other_random, _, _) = told
    assert (name, mac, machine) == ("guest1", "52:54:00:77:00:01", f"{1:032x}")
    assert told[0][3] != other_random
    assert abs(int(clock) - time.time()) < 60


def test_panic_is_known_at_once_with_its_trace(guest):
    reason, detail, took = loss(guest, "echo c > /proc/sysrq-trigger; sleep 60")
    assert (reason, detail) == ("panic", "sysrq triggered crash")
    assert took < 8
    assert b"sysrq_handle_crash" in guest.console.data()
    assert b"Kernel Offset:" in guest.console.data()  # the trace's last line


def test_hang_with_interrupts_off_is_known_with_its_stack(guest):
    if guest.run(["modprobe", "lkdtm"], timeout_s=20).status != 0:
        pytest.skip("this kernel has no LKDTM")
    reason, _, took = loss(guest, "echo HARDLOCKUP > /sys/kernel/debug/provoke-crash/DIRECT; sleep 60")
    assert reason == "hang"
    assert took < 30
    assert b"lkdtm_HARDLOCKUP" in guest.console.data()


def test_oops_does_not_end_the_guest(guest):
    if guest.run(["modprobe", "lkdtm"], timeout_s=20).status != 0:
        pytest.skip("this kernel has no LKDTM")
    done = guest.run(["sh", "-c", "echo EXCEPTION > /sys/kernel/debug/provoke-crash/DIRECT"], timeout_s=20)
    assert done.signal == signal.SIGKILL
    assert guest.run(["echo", "alive"], timeout_s=20).stdout == b"alive\n"
    assert b"Oops" in guest.console.data()


def test_reboot_and_poweroff_are_ends(saved, tmp_path):
    for letter, reason in (("b", Loss.PANIC), ("o", Loss.OFF)):
        with resume(saved, console_path=tmp_path / letter) as guest:
            assert loss(guest, f"echo {letter} > /proc/sysrq-trigger; sleep 60")[0] == reason


def test_killed_qemu_is_known_at_once(guest):
    threading.Timer(0.5, os.kill, (guest._process.pid, signal.SIGKILL)).start()
    reason, detail, took = loss(guest, "sleep 60")
    assert (reason, detail) == ("exit", "QEMU ended with status -9")
    assert took < 3


LOADS = {
    "spinning and forking": "for i in 1 2 3 4; do while :; do :; done & while :; do /bin/true; done & done; sleep 10",
    "memory and disk": "for i in 1 2 3; do head -c 60M /dev/zero > /tmp/z$i & done; wait; cat /lib/*/*.so* >/dev/null",
    "long traces on the console": "for i in 1 2 3 4 5; do echo t > /proc/sysrq-trigger; done",
    "function tracing": "cd /sys/kernel/tracing; echo function > current_tracer; sleep 4; echo nop > current_tracer",
    "real-time hog": "timeout 8 chrt -f 40 sh -c 'while :; do :; done'",
}


@pytest.mark.parametrize("load", LOADS)
def test_busy_guest_does_not_hang(guest, load):
    done = guest.run(["sh", "-c", LOADS[load]], timeout_s=120)
    print(f"{load}: {done.duration_s:.1f} s, status {done.status}, silence at most {guest._pulse.longest_s:.2f} s")
    guest.ping(20)
    assert guest._pulse.longest_s < 0.7 * pulse.SILENT_S


def test_a_guest_is_told_the_processor_time_that_it_used(guest):
    """Asked before and after, with work and without; how long the host takes to answer is not in it."""
    script = """
for name in /sys/class/virtio-ports/*/name; do
    [ "$(cat $name)" != kpatchlab.clock ] || port=/dev/$(basename $(dirname $name))
done
exec 3<>$port
ask() { printf '?' >&3; head -c 8 <&3 | od -An -td8; }
ask; sleep 2; ask; i=0; while [ $i -lt 200000 ]; do i=$((i + 1)); done; ask
"""
    pid = guest._pid()
    before = pulse.process_ns(pid)
    slept, began, ended = map(int, guest.run(["sh", "-c", script], timeout_s=120).stdout.split())
    assert before <= slept < began < ended <= pulse.process_ns(pid)
    assert began - slept < ended - began
    print(f"two seconds of sleep: {(began - slept) / 1e9:.3f} s, a loop: {(ended - began) / 1e9:.3f} s")


def test_memory_eaten_up_is_no_hang(guest):
    guest.run(["python3", "-c", "x = []\nwhile True: x.append(bytearray(1 << 20))"], timeout_s=30)
    guest.ping(20)
    print(f"silence at most {guest._pulse.longest_s:.2f} s")


def test_hundred_mebibytes_do_not_stay_in_memory(guest):
    before = memory_mib()
    done = guest.run(["head", "-c", str(100 << 20), "/dev/zero"], timeout_s=200)
    assert done.stdout_total == 100 << 20
    print(f"100 MiB in {done.duration_s:.1f} s")
    assert memory_mib() - before < 60


def memory_mib():
    with open("/proc/self/statm") as handle:
        return int(handle.read().split()[1]) * 4096 >> 20


def test_two_guests_on_a_cable(saved, tmp_path):
    one, other = link()
    begin = time.monotonic()
    with (
        resume(saved, console_path=tmp_path / "a", link_fd=one) as server,
        resume(saved, console_path=tmp_path / "b", link_fd=other) as client,
    ):
        server.identify(Identity("server", "52:54:00:77:00:01", "10.77.0.1/24", seed=os.urandom(32)))
        client.identify(Identity("client", "52:54:00:77:00:02", "10.77.0.2/24", seed=os.urandom(32)))
        print(f"two guests resumed and named in {time.monotonic() - begin:.2f} s")
        # Nobody listens there: 111, ECONNREFUSED, is the other kernel's own answer.
        code = "import _socket; s = _socket.socket(); s.settimeout(15); print(s.connect_ex(('10.77.0.1', 9)))"
        done = client.run(["python3", "-c", code], timeout_s=30)
        print(f"first answer after {time.monotonic() - begin:.2f} s")
        assert done.stdout == b"111\n", done
        server.close()
        assert client.run(["true"], timeout_s=20).status == 0  # a peer's end is not one's own


def test_prepared_guest_is_saved_again(saved, tmp_path):
    with resume(saved, console_path=tmp_path / "a") as guest:
        guest.identify(Identity("warm", "52:54:00:77:00:05", "10.77.0.5/24"))
        guest.put("/lab/state", b"kept")
        again = guest.save(tmp_path)
    with resume(again, console_path=tmp_path / "b") as guest:
        assert guest.get("/lab/state") == b"kept"
        assert guest.run(["hostname"], timeout_s=10).stdout == b"warm\n"


def test_resume_is_quick(saved, tmp_path):
    times = []
    for number in range(5):
        begin = time.monotonic()
        with resume(saved, console_path=tmp_path / str(number)) as guest:
            guest.run(["true"], timeout_s=10)
            times.append(time.monotonic() - begin)
    print("resume to first answer: " + ", ".join(f"{t:.2f}" for t in times))
    assert min(times) < 2.0
