"""Guests that are booted and prepared once, with fakes in place of QEMU; and what ends a job's guests early."""

import json
import threading
import time
from dataclasses import replace

import pytest

from kpatchlab.cache import Cache
from kpatchlab.errors import GuestLost, Loss
from kpatchlab.guest.vm import Exit, Identity, MachineShape, Qemu, SavedGuest
from kpatchlab.run import guests, saved
from kpatchlab.run.boot import BootSpec
from kpatchlab.run.saved import Preparation, PrepareFailed
from tests.test_job import LOCKUP, OOPS

LIB = (("/lab/lib/prepare/siw.sh", b"#!/bin/sh\nip link\n", 0o755), ("/lab/lib/ktap.sh", b"echo\n", 0o644))
HOW = Preparation(
    Identity("server", "52:54:00:77:00:01", "10.77.0.1/24"), ("siw",), ("siw",), LIB, (("LAB_ROLE", "server"),)
)


class FakeConsole:
    def __init__(self, data=b"console"):
        self.bytes = data

    def data(self):
        return self.bytes

    @property
    def total(self):
        return len(self.bytes)


class FakeGuest:
    """Answers by the first word of a command; `log` has what was done to all of them, `kept_s` what the host kept."""

    kept_s = 0.0

    def __init__(self, log, answers, console=b"console", boot=None):
        self.log, self.answers, self.boot = log, answers, boot
        self.console = FakeConsole(console)
        self.closed = threading.Event()
        self.lost = None

    def run(self, argv, **more):
        self.log.append(argv[0])
        answer = self.answers.get(argv[0], Exit(0, 0, b"", b"", 0, 0, 0.1, False))
        if isinstance(answer, GuestLost):
            self.lost = answer
            raise answer
        return answer

    def identify(self, identity):
        self.log.append(f"identify {identity.hostname}")

    def put_many(self, files):
        self.log.append(f"put {len(files)}")

    def save(self, folder):
        self.log.append("save")
        (folder / SavedGuest.FACTS).write_text(json.dumps(self.boot.to_json()))

    def withheld_s(self, within_s=None):
        return min(self.kept_s, within_s or self.kept_s)

    def give_up(self, reason, detail):
        self.lost = GuestLost(reason, detail)

    def close(self):
        self.closed.set()


@pytest.fixture
def bench(tmp_path, monkeypatch):
    class Bench:
        def __init__(self):
            self.log, self.answers, self.guests, self.printed = [], {}, [], b""
            self.cache = Cache(tmp_path / "cache")

        def start(self, word, problem=None):
            def begin(what, *, console_path, **more):
                self.log.append(word)
                console_path.write_bytes(f"{word} console".encode())
                if problem:
                    raise problem
                console = f"{word} console".encode() + self.printed
                self.guests.append(FakeGuest(self.log, self.answers, console, getattr(what, "boot", what)))
                return self.guests[-1]

            monkeypatch.setattr(saved, word, begin)

    found = Bench()
    found.start("boot")
    found.start("resume")
    shape = MachineShape("x86_64", "tcg", 1, 64, Qemu("qemu", (7, 2, 0), ("qemu",)))
    found.spec = BootSpec("key-kernel", "key-root", "key-initrd", shape)
    return found


def exited(status=0, stdout=b"", stderr=b"", timed_out=False):
    return Exit(status, 0, stdout, stderr, len(stdout), len(stderr), 0.1, timed_out)


def test_a_guest_is_booted_once(bench):
    bench.answers["awk"] = exited(stdout=b"do_splice\ntcp_sendmsg\n")
    first = saved.booted(bench.spec, bench.cache, "with")
    assert saved.booted(bench.spec, bench.cache, "with").path == first.path
    assert bench.log.count("boot") == bench.log.count("save") == 1
    assert saved.symbols_of(first, ["do_splice", "tcp_sendpage"]) == {"do_splice"}
    assert saved.console_of(first) == b"boot console"
    assert all(guest.closed.is_set() for guest in bench.guests)


OTHERS = [
    {"kernel": "another"},
    {"root": "another"},
    {"initrd": "another"},
    {"cmdline": "mitigations=off"},
    {"accel": "icount"},
    {"cpus": 2},
    {"memory_mib": 65},
    {"accel": "kvm", "processor": "Model A"},
    {"accel": "kvm", "processor": "Model B"},
    {"qemu": Qemu("qemu", (7, 2, 1), ("qemu",))},
]


def other(spec, change):
    own = {name: value for name, value in change.items() if hasattr(spec, name)}
    machine = {name: value for name, value in change.items() if name not in own}
    return replace(spec, machine=replace(spec.machine, **machine), **own)


def test_another_guest_is_booted_anew(bench):
    guests = [bench.spec, *(other(bench.spec, change) for change in OTHERS)]
    for spec in guests:
        saved.booted(spec, bench.cache, "with")
    assert bench.log.count("boot") == len(guests)


def test_the_same_guest_has_the_same_key_in_every_cache(bench, tmp_path):
    """Nor does it matter where QEMU is, and how it is called from there."""
    elsewhere = Cache(tmp_path / "elsewhere")
    unpacked = Qemu("/other/qemu", (7, 2, 0), ("/other/ld.so", "/other/qemu", "-L", "/other/bios"), unpacked=True)
    here = saved.booted(bench.spec, bench.cache, "with")
    there = saved.booted(other(bench.spec, {"qemu": unpacked}), elsewhere, "with")
    assert here.path.name == there.path.name
    assert [found.boot.vmlinuz for found in (here, there)] == [
        cache.root / "kernel/key-kernel/vmlinuz" for cache in (bench.cache, elsewhere)
    ]
    prepared = [saved.prepared(base, HOW, cache, "x") for base, cache in ((here, bench.cache), (there, elsewhere))]
    assert prepared[0].path.name == prepared[1].path.name != here.path.name


def test_a_cache_that_was_moved_resumes_with_what_lies_in_it(bench, tmp_path):
    before = saved.booted(bench.spec, bench.cache, "with")
    moved = Cache(bench.cache.root.rename(tmp_path / "moved"))
    after = saved.booted(bench.spec, moved, "with")
    assert bench.log.count("boot") == 1
    assert (after.path.name, after.boot) == (before.path.name, bench.spec.resolve(moved))


def test_a_guest_is_prepared_once_on_top_of_the_booted_one(bench):
    base = saved.booted(bench.spec, bench.cache, "with")
    bench.log.clear()
    made = saved.prepared(base, HOW, bench.cache, "with server")
    again = saved.prepared(
        base, replace(HOW, identity=replace(HOW.identity, seed=b"other")), bench.cache, "with server"
    )
    assert made.path == again.path != base.path
    assert bench.log == ["resume", "identify server", "put 4", "modprobe", "/lab/lib/prepare/siw.sh", "save"]
    assert saved.console_of(made) == b"boot consoleresume console"


def test_nothing_to_prepare_is_the_booted_guest(bench):
    base = saved.booted(bench.spec, bench.cache, "with")
    assert saved.prepared(base, replace(HOW, modules=(), scripts=()), bench.cache, "x") is base


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"modules": ("siw", "nfsd")}, False),
        ({"env": (("LAB_ROLE", "client"),)}, False),
        ({"identity": replace(HOW.identity, mac="52:54:00:77:00:02")}, False),
        ({"files": ((LIB[0][0], b"changed", 0o755), LIB[1])}, False),
        ({"files": (LIB[0], ("/lab/lib/ktap.sh", b"changed", 0o644))}, True),  # no script of the preparation
        ({"identity": replace(HOW.identity, hostname="another")}, True),
    ],
)
def test_key_has_what_the_prepared_guest_depends_on(change, same):
    assert (replace(HOW, **change).key() == HOW.key()) is same


@pytest.mark.parametrize(
    ("word", "answer", "message"),
    [
        ("modprobe", exited(1, stderr=b"x\nFATAL: no siw\n"), "modprobe failed (status 1): FATAL: no siw"),
        ("modprobe", exited(1), "modprobe failed (status 1): no output"),
        ("/lab/lib/prepare/siw.sh", exited(-1, timed_out=True), "prepare/siw.sh failed (ran out of time): no output"),
        ("modprobe", GuestLost(Loss.PANIC, "it died"), "panic: it died"),
    ],
)
def test_a_failed_preparation_says_how_far_it_came(bench, word, answer, message):
    base = saved.booted(bench.spec, bench.cache, "with")
    bench.answers[word] = answer
    with pytest.raises(PrepareFailed) as caught:
        saved.prepared(base, HOW, bench.cache, "with server")
    assert caught.value.message == message
    assert b"resume console" in caught.value.console
    assert (caught.value.lost is None) is not isinstance(answer, GuestLost)
    assert all(guest.closed.is_set() for guest in bench.guests)
    assert not list((bench.cache.root / "tmp").iterdir())


def test_a_kernel_that_does_not_boot_keeps_its_console(bench):
    bench.start("boot", GuestLost(Loss.SILENCE, "no agent within 120 s"))
    with pytest.raises(PrepareFailed) as caught:
        saved.booted(bench.spec, bench.cache, "with")
    assert caught.value.lost.reason == "silence"
    assert caught.value.console == b"boot console"
    assert not [entry for entry in bench.cache.entries() if entry.kind == "saved"]


# --- what ends a job's guests early


def one(vm=None):
    return guests.JobGuest("main", "with", HOW, vm=vm)


def test_cancel_closes_the_guests():
    cancel, guest = threading.Event(), FakeGuest([], {})
    with guests._watching(cancel, [one(guest)]):
        cancel.set()
        assert guest.closed.wait(5)


def test_cancel_also_closes_a_guest_that_comes_up_later():
    cancel, late = threading.Event(), one()
    cancel.set()
    with guests._watching(cancel, [late]):
        time.sleep(0.5)
        late.vm = FakeGuest([], {})
        assert late.vm.closed.wait(5)


def test_a_broken_kernel_ends_its_job_soon(monkeypatch):
    monkeypatch.setattr(guests, "AFTER_OOPS_S", 0.1)
    console = OOPS
    broken, peer = one(FakeGuest([], {}, console)), one(FakeGuest([], {}))
    with guests._watching(threading.Event(), [broken, peer]):
        assert peer.vm.closed.wait(5)
        assert broken.vm.closed.is_set()
    assert broken.broken.kind in guests.BROKEN
    assert peer.broken is None


@pytest.mark.parametrize("kept_s", [25.0, 0.0])
def test_a_lockup_of_a_guest_that_the_host_held_is_the_hosts(kept_s):
    held = one(FakeGuest([], {}, LOCKUP))
    held.vm.kept_s, held.vm.lost = kept_s, None
    with guests._watching(threading.Event(), [held]):
        time.sleep(0.6)
    assert (held.broken is None) is bool(kept_s)
    assert bool(held.vm.lost) is bool(kept_s)
    if kept_s:
        assert "the host kept the processor from the guest for 20 of 20 s: BUG: soft lockup" in held.vm.lost.detail


def test_a_guest_with_a_lockup_of_the_hosts_making_is_not_kept_for_others(bench, monkeypatch):
    monkeypatch.setattr(FakeGuest, "kept_s", 25.0)
    bench.printed = b"\n" + LOCKUP
    with pytest.raises(PrepareFailed) as caught:
        saved.booted(bench.spec, bench.cache, "with")
    assert caught.value.starved
    assert not [entry for entry in bench.cache.entries() if entry.kind == "saved"]


def test_a_preparation_that_fails_says_which_watchdogs_the_host_set_off(bench, monkeypatch):
    base = saved.booted(bench.spec, bench.cache, "with")
    monkeypatch.setattr(FakeGuest, "kept_s", 25.0)
    bench.printed = b"\n" + LOCKUP
    bench.answers["modprobe"] = exited(1, stderr=b"no such module")
    how = Preparation(Identity("guest", "52:54:00:77:00:01", "", "0" * 32, b""), ("siw",), (), (), ())
    with pytest.raises(PrepareFailed) as caught:
        saved.prepared(base, how, bench.cache, "with")
    assert caught.value.withheld_s == 25.0
    assert [splat.kind for splat in caught.value.excused] == ["soft-lockup"]
    assert caught.value.made_by_host(caught.value.excused) == caught.value.excused


def test_a_warning_does_not_end_a_job():
    console = b"[    5.1] WARNING: CPU: 0 PID: 1 at net/core/x.c:1 f+0x1/0x2\n"
    warned = one(FakeGuest([], {}, console))
    with guests._watching(threading.Event(), [warned]):
        assert not warned.vm.closed.wait(0.6)
