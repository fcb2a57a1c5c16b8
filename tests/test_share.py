"""How much the host gave a guest, by a turned clock and by real processes; what a starved guest's word is worth."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from kpatchlab.guest import share
from kpatchlab.guest.share import Share, ThreadTimes
from kpatchlab.model import Splat
from kpatchlab.run import starved

BUSY = "while True: pass"
SLEEPS = "import time\nwhile True: time.sleep(10)"


class Host:
    """A host whose clock, and whose word on each thread, the test turns."""

    def __init__(self, monkeypatch):
        self.now, self.threads = 100.0, {}
        monkeypatch.setattr(share, "threads", lambda _: dict(self.threads))
        monkeypatch.setattr(share.time, "monotonic", lambda: self.now)
        self.share = Share(lambda: 1)

    def pass_time(self, seconds, **rates):
        """Let time pass in tenths of a second; thread -> (share that it runs, share that it waits, its state)."""
        for _ in range(round(seconds * 10)):
            self.now += 0.1
            for name, (runs, waits, state) in rates.items():
                before = self.threads.get(int(name[1:]), ThreadTimes(0.0, 0.0, "S"))
                waited = None if waits is None else (before.waited or 0.0) + 0.1 * waits
                self.threads[int(name[1:])] = ThreadTimes(before.ran + 0.1 * runs, waited, state)
            self.share.got_s()
        return self.share.got_s()


@pytest.fixture
def host(monkeypatch):
    return Host(monkeypatch)


@pytest.mark.parametrize(
    ("threads", "got"),
    [
        ({"t1": (1.0, 0.0, "R")}, 10),  # has a processor of its own
        ({"t1": (0.0, 0.0, "S")}, 10),  # sleeps: it wants none
        ({"t1": (0.3, 0.0, "S")}, 10),  # works now and then
        ({"t1": (0.25, 0.75, "R")}, 2.5),  # has a quarter of a processor
        ({"t1": (0.25, 0.75, "R"), "t2": (0.0, 0.0, "S")}, 2.5),
        ({"t1": (1.0, 0.0, "R"), "t2": (0.5, 0.5, "R")}, 5),  # one of two processors waits half the time
        ({"t1": (0.0, 0.0, "R")}, 0),  # waits all the time: the kernel adds that when it is over
        ({"t1": (0.0, 0.0, "T")}, 0),  # stopped
        ({"t1": (0.0, 0.0, "D")}, 0),  # waits for a disk
        ({"t1": (0.25, None, "R")}, 2.5),  # a kernel that does not count waits
    ],
)
def test_what_a_process_got(host, threads, got):
    before = host.pass_time(0.2, **threads)
    assert host.pass_time(10, **threads) - before == pytest.approx(got, abs=0.25)


def test_a_long_wait_is_counted_once(host):
    host.pass_time(0.2, t1=(1.0, 0.0, "R"))
    before = host.pass_time(0.1, t1=(1.0, 0.0, "R"))
    host.pass_time(5, t1=(0.0, 0.0, "R"))
    host.threads[1] = ThreadTimes(host.threads[1].ran, 5.0, "R")  # it runs again: the kernel says how long it waited
    assert host.pass_time(5, t1=(1.0, 0.0, "R")) - before == pytest.approx(5, abs=0.25)


def test_the_worst_stretch_is_told(host):
    host.pass_time(60, t1=(1.0, 0.0, "R"))
    host.pass_time(15, t1=(0.0, 0.0, "T"))
    host.pass_time(60, t1=(1.0, 0.0, "R"))
    assert host.share.withheld_s() == pytest.approx(15, abs=0.5)
    assert host.share.withheld_s(20.0) == pytest.approx(15, abs=1.2)
    assert host.share.withheld_s(10.0) == pytest.approx(10, abs=1.2)


def test_a_pause_of_lab_and_guest_together_gives_the_guest_nothing(host):
    before = host.pass_time(1, t1=(0.0, 0.0, "S"))
    host.now += 3600
    assert host.pass_time(1, t1=(0.0, 0.0, "S")) - before < 2.5


def measured(code, seconds, *, beside=(), stop=False):
    """Return which share of the wall's time the host gave a process on one processor, by the host's own figures."""
    cpu = min(os.sched_getaffinity(0))
    words = ["taskset", "-c", str(cpu), sys.executable, "-c"]
    children = [subprocess.Popen([*words, each]) for each in (code, *beside)]
    try:
        time.sleep(0.3)
        got = Share(lambda: children[0].pid)
        if stop:
            children[0].send_signal(signal.SIGSTOP)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(0.1)
            got.got_s()
        return got.got_s() / (got.got_s() + got.withheld_s())
    finally:
        for child in children:
            child.kill()
            child.wait()


def test_real_processes_are_told_apart():
    assert measured(SLEEPS, 1.0) > 0.8
    assert measured(SLEEPS, 1.0, stop=True) < 0.3
    assert measured(BUSY, 2.0, beside=[BUSY, BUSY, BUSY]) < 0.6


def test_a_process_that_is_gone_has_no_threads():
    assert share.threads(1 << 30) == {}
    Share(lambda: 1 << 30).got_s()


class Kept:
    """A guest from which the host kept so many seconds in one stretch."""

    def __init__(self, seconds):
        self.seconds = seconds

    def got_s(self):
        return 10.0

    def withheld_s(self, within_s=None):
        return min(self.seconds, within_s or self.seconds)


def splat(kind, *, fatal=False):
    return Splat(kind, f"{kind} in f", "0" * 12, "text", fatal=fatal)


@pytest.mark.parametrize(
    ("kept", "kind", "excused"),
    [
        (25, "soft-lockup", True),
        (11, "soft-lockup", True),
        (8, "soft-lockup", False),
        (0, "soft-lockup", False),
        (25, "rcu-stall", True),
        (25, "hung-task", False),
        (70, "hung-task", True),
        (500, "oops", False),
        (500, "warning", False),
    ],
)
def test_only_a_watchdogs_splat_of_a_guest_that_stood_still_is_the_hosts(kept, kind, excused):
    assert bool(starved.made_by_host(Kept(kept), [splat(kind)])) is excused
    assert not starved.made_by_host(Kept(kept), [splat(kind, fatal=True)])
