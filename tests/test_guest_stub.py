"""What the lab says of a QEMU that hangs, floods, lies, crashes, or ignores SIGTERM."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from kpatchlab.errors import GuestLost, HostError, Loss
from kpatchlab.guest import guest as guest_module
from kpatchlab.guest import pulse
from kpatchlab.guest.vm import boot, link
from tests.guest_support import children, stub_boot


@pytest.fixture(autouse=True)
def _nothing_is_left():
    before, files = children(), len(os.listdir("/proc/self/fd"))
    yield
    assert children() - before == set()
    assert len(os.listdir("/proc/self/fd")) <= files + 1  # the guard's pipe, at its first start


def start(folder: Path, *words: str, cpus: int = 1, **more):
    return boot(stub_boot(folder, *words, cpus=cpus), console_path=folder / "console", **{"deadline_s": 10, **more})


def lost_by(folder: Path, mode: str, cpus: int = 1, timeout_s: float = 20) -> tuple[str, str, bytes]:
    with start(folder, mode, cpus=cpus) as guest:
        with pytest.raises(GuestLost) as caught:
            guest.run(["anything"], timeout_s=timeout_s)
        assert guest.lost is not None
    return caught.value.reason, caught.value.detail, (folder / "console").read_bytes()


def test_qemu_that_does_not_start_is_the_hosts_fault(tmp_path):
    with pytest.raises(HostError, match=r"status 1: stub: Could not open 'root.erofs'"):
        start(tmp_path, "dies")


def test_qemu_that_does_not_speak_or_end(tmp_path):
    begin = time.monotonic()
    with pytest.raises(GuestLost, match="silence: no agent within 1 s; last on the console: nothing was printed"):
        start(tmp_path, "deaf", deadline_s=1)
    assert time.monotonic() - begin < 5


@pytest.mark.parametrize(
    ("mode", "why"),
    [
        ("garbage", "garbled: not a frame"),
        ("huge-frame", "garbled: not a frame"),
        ("newer", "the agent speaks version '99'"),
    ],
)
def test_agent_that_lies(tmp_path, mode, why):
    with pytest.raises(GuestLost, match=why):
        start(tmp_path, mode)


def test_end_that_is_malformed_is_no_answer(tmp_path):
    assert lost_by(tmp_path, "bad-end")[:2] == ("silence", "the agent's channel is garbled: malformed end of a command")


def test_crash_of_qemu(tmp_path):
    assert lost_by(tmp_path, "crashes")[:2] == (Loss.CRASH, "QEMU ended with status -11")


@pytest.mark.parametrize("mode", ["killed", "stopped", "killed-inside"])
def test_an_end_that_only_the_host_can_bring_is_the_hosts(tmp_path, mode):
    assert lost_by(tmp_path, mode)[0] is Loss.EXIT


def test_guest_that_switches_itself_off(tmp_path):
    assert lost_by(tmp_path, "switches-off")[:2] == (Loss.OFF, "the guest switched itself off")


def test_reset_without_a_trace_counts_as_a_panic(tmp_path):
    reason, detail, _ = lost_by(tmp_path, "resets")
    assert reason == "panic"
    assert "triple fault" in detail


def test_panics_trace_is_waited_for(tmp_path):
    reason, detail, console = lost_by(tmp_path, "panics")
    assert (reason, detail) == ("panic", "stub gave up")
    assert b"Call Trace: line 7" in console


def test_flood_is_kept_in_part(tmp_path):
    with start(tmp_path, "floods", console_limit_bytes=1 << 16) as guest:
        done = guest.run(["flood"], timeout_s=60, keep_bytes=1 << 12)
        assert done.stdout_total == 1000 + 2000 * 16384
        assert len(done.stdout) < 5000
        while guest.console.total < 2000 << 14:
            time.sleep(0.01)
        time.sleep(0.2)
    kept = (tmp_path / "console").read_bytes()
    assert len(kept) < 70_000
    assert kept.startswith(b"[    0.000000] Linux version")
    assert kept.endswith(b"the last word\n")


def test_silent_guest_is_told_to_say_where_it_hangs(tmp_path, monkeypatch):
    monkeypatch.setattr(pulse, "SILENT_S", 1.0)
    begin = time.monotonic()
    reason, detail, console = lost_by(tmp_path, "stops-beating")
    assert reason == "hang"
    assert "no sign of life" in detail
    assert b"stuck in stub_spin" in console
    assert time.monotonic() - begin < 6


def test_one_silent_processor_of_two_is_a_hang(tmp_path, monkeypatch):
    monkeypatch.setattr(pulse, "SILENT_S", 1.0)
    reason, detail, _ = lost_by(tmp_path, "one-cpu-stops", cpus=2)
    assert reason == "hang"
    assert detail.startswith("processor 1 of the guest")


def test_command_that_never_ends_is_given_up_and_the_guest_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr(guest_module, "TERM_GRACE_S", 0.2)
    monkeypatch.setattr(guest_module, "KILL_GRACE_S", 0.2)
    with start(tmp_path, "speaks-half") as guest:
        done = guest.run(["anything"], timeout_s=0.5)
        assert (done.timed_out, done.status, done.signal) == (True, -1, 0)
        assert guest.lost is None


def held(guest, seconds):
    """Have the host hold a guest's QEMU for so long, then let it go on."""
    os.kill(guest._pid(), signal.SIGSTOP)
    return threading.Timer(seconds, os.kill, (guest._pid(), signal.SIGCONT))


def test_deadline_counts_what_the_host_gave_the_guest(tmp_path, monkeypatch):
    monkeypatch.setattr(guest_module, "TERM_GRACE_S", 0.2)
    monkeypatch.setattr(guest_module, "KILL_GRACE_S", 0.2)
    with start(tmp_path, "speaks-half") as guest:
        release, begin = held(guest, 3.0), time.monotonic()
        release.start()
        done = guest.run(["anything"], timeout_s=1.0)
        took = time.monotonic() - begin
        assert done.timed_out, "it had its processor in the end and did not finish"
        assert took > 3.5
        assert guest.withheld_s() > 2.0
        release.join()


def test_boot_that_is_cancelled_is_not_waited_for(tmp_path):
    cancel, begin = threading.Event(), time.monotonic()
    threading.Timer(0.3, cancel.set).start()
    with pytest.raises(GuestLost, match="the job was cancelled"):
        start(tmp_path, "deaf", deadline_s=60, cancel=cancel)
    assert time.monotonic() - begin < 10


def test_guest_that_is_starved_for_too_long_is_the_hosts_fault(tmp_path, monkeypatch):
    monkeypatch.setattr(guest_module, "FAR_LEAST_S", 2.0)
    with start(tmp_path, "speaks-half") as guest:
        held(guest, 0)  # never let go
        with pytest.raises(GuestLost, match=r"starved: the host gave the guest 0 s of 2 s") as caught:
            guest.run(["anything"], timeout_s=0.2)
        assert caught.value.reason == "starved"


def test_a_held_guest_is_silent_and_does_not_hang(tmp_path, monkeypatch):
    monkeypatch.setattr(pulse, "SILENT_S", 0.5)
    monkeypatch.setattr(pulse, "SILENT_GOT_S", 1.0)
    with start(tmp_path, "speaks-half") as guest:
        release = held(guest, 3.0)
        release.start()
        done = guest.run(["anything"], timeout_s=0.5)
        assert done.timed_out
        assert guest.lost is None
        release.join()


def test_qemu_that_refuses_to_save_is_quoted(tmp_path):
    with start(tmp_path, "refuses") as guest, pytest.raises(HostError, match="QEMU refuses: Not today"):
        guest.save(tmp_path)
    assert not list(tmp_path.glob("guest.*"))


def test_cable_is_taken_over_also_where_nothing_starts(tmp_path):
    one, other = link()
    with pytest.raises(HostError):
        start(tmp_path, "dies", link_fd=one)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(one)
    os.close(other)
