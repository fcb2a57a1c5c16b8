"""The parts of a guest that need no process: frames, QMP, console, pulse, command line, saved guests, initramfs."""

from __future__ import annotations

import errno
import gzip
import json
import lzma
import os
import shutil
import socket
import struct
import subprocess
import time
import warnings
from pathlib import Path

import pytest

from kpatchlab.cache import Cache
from kpatchlab.errors import GuestLost, HostError, LabWarning
from kpatchlab.guest import initrd, pulse, qemu, wire
from kpatchlab.guest.console import Console
from kpatchlab.guest.guest import Guest
from kpatchlab.guest.qmp import Qmp
from kpatchlab.guest.shapes import Held
from kpatchlab.guest.vm import Boot, MachineShape, Qemu, SavedGuest
from kpatchlab.host import accel
from kpatchlab.host.host import Host as LabHost
from tests.guest_support import host_qemu

QEMU = Qemu(Path("/usr/bin/q"), (7, 2, 22), ("/lib/ld.so", "/usr/bin/q"), (("A", "b"),), unpacked=True)
SHAPE = MachineShape("x86_64", "tcg", 2, 512, QEMU)
BOOT = Boot(Path("/k/vmlinuz"), Path("/k/initrd"), Path("/r/a,b.erofs"), Path("/k/modules.erofs"), SHAPE, "foo=1")


# --- frames


def test_frames_come_out_whole_however_they_are_cut():
    stream = wire.frame(b"O", 7, b"abc") + wire.frame(b"D", 7, struct.pack("<BI", 0, 3)) + wire.frame(b"P", 9)
    reader = wire.Reader()
    found = [frame for at in range(len(stream)) for frame in reader.feed(stream[at : at + 1])]
    assert found == [(b"O", 7, b"abc"), (b"D", 7, b"\0\3\0\0\0"), (b"P", 9, b"")]
    assert list(wire.Reader().feed(stream)) == found


@pytest.mark.parametrize("bad", [b"\0" * 12, b"\xa5O\1\0" + bytes(8), b"\xa5O\0\0" + b"\0\0\0\0\xff\xff\xff\x7f"])
def test_what_is_no_frame_is_refused(bad):
    with pytest.raises(wire.ProtocolError, match="not a frame"):
        list(wire.Reader().feed(bad))


def test_frames_before_garbage_are_delivered():
    frames = wire.Reader().feed(wire.frame(b"P", 1) + wire.frame(b"P", 2) + bytes(20))
    assert [next(frames)[1], next(frames)[1]] == [1, 2]
    with pytest.raises(wire.ProtocolError):
        next(frames)


def test_end_of_a_command_is_a_status_or_a_signal():
    assert wire.read_done(struct.pack("<BI", 0, 255)) == (255, 0)
    assert wire.read_done(struct.pack("<BI", 1, 9)) == (-1, 9)
    for bad in (b"", b"\0\0\0\0", b"\2\0\0\0\0"):
        with pytest.raises(wire.ProtocolError):
            wire.read_done(bad)


# --- QMP


def test_qmp_settles_answers_by_id_and_tells_events():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        qmp = Qmp(ours)
        stop, cont = qmp.send("stop"), qmp.send("cont", some_name=1)
        sent = [json.loads(line) for line in theirs.recv(4096).splitlines()]
        assert [m["execute"] for m in sent] == ["qmp_capabilities", "stop", "cont"]
        assert sent[2]["arguments"] == {"some-name": 1}
        answers = b'{"QMP": {}}\n{"return": {}, "id": 1}\n{"return": {"x": 1}, "id": 3}\n{"event": "STOP"}\nrubbish\n'
        assert [e["event"] for e in qmp.feed(answers[:70]) + qmp.feed(answers[70:])] == ["STOP"]
        assert cont.result(0) == {"x": 1}
        assert not stop.done()
        qmp.feed(b'{"error": {"desc": "no"}, "id": 2}\n{"return": 1, "id": 2}\n{"return": 1, "id": "x"}\n')
        with pytest.raises(HostError, match="QEMU refuses: no"):
            stop.result(0)
        last = qmp.send("quit")
        qmp.close(HostError("gone"))
        with pytest.raises(HostError, match="gone"):
            last.result(0)


def test_qmp_hands_over_a_file():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        Qmp(ours).send("getfd", ours.fileno(), fdname="x")
        theirs.recv(len(b'{"execute": "qmp_capabilities", "arguments": {}, "id": 1}\n'))
        _, fds, _, _ = socket.recv_fds(theirs, 4096, 4)
        assert len(fds) == 1
        os.close(fds[0])


# --- console


def test_console_keeps_head_and_tail(tmp_path):
    console = Console(tmp_path / "c", 100)
    for number in range(100):
        console.add(b"line %03d\n" % number)
    assert console.total == 900
    assert len((tmp_path / "c").read_bytes()) == 50  # the head is there at once
    console.flush()
    kept = (tmp_path / "c").read_bytes()
    assert kept == console.data()
    assert kept.startswith(b"line 000\n")
    assert kept.endswith(b"line 099\n")
    assert len(kept) < 150


def test_short_console_is_on_disk_as_it_comes(tmp_path):
    console = Console(tmp_path / "c", 100)
    console.add(b"\xffab")
    assert (tmp_path / "c").read_bytes() == b"\xffab"
    assert console.text() == "\N{REPLACEMENT CHARACTER}ab"


def test_a_disk_that_refuses_costs_the_console_nothing_but_its_file(tmp_path):
    folder = tmp_path / "job"
    folder.mkdir()
    console = Console(folder / "c", 100)
    console.add(b"one ")
    folder.rename(tmp_path / "away")
    console.add(b"two ")
    (tmp_path / "away").rename(folder)
    console.add(b"three")
    assert console.data() == b"one two three"
    assert (folder / "c").read_bytes() == b"one "  # with no gap
    console.flush()
    assert (folder / "c").read_bytes() == b"one two three"


def test_a_console_whose_file_is_not_whole_is_told_once(tmp_path):
    console = Console(tmp_path / "c", 100)
    (tmp_path / "c").unlink()
    (tmp_path / "c").mkdir()
    console.add(b"lost")
    with pytest.warns(LabWarning, match="c is not whole: Is a directory"):
        console.flush()
    with warnings.catch_warnings(action="error"):
        console.flush()


def test_a_fault_of_the_reader_is_not_the_kernels_and_wakes_all_before_the_disk_is_asked(tmp_path, monkeypatch):
    ours, theirs = socket.socketpair()
    guest, woken = Guest(ours, Console(tmp_path / "c")), []

    def tick():
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(guest, "_tick", tick)
    monkeypatch.setattr(guest.console, "flush", lambda: woken.append(guest._gone.is_set()))
    with theirs, guest:
        guest._thread.start()
        with pytest.raises(GuestLost, match=r"cannot read the guest: OSError\(24, 'Too many") as caught:
            guest.run(["anything"], timeout_s=20)
        guest._thread.join()
    assert caught.value.reason == "exit"
    assert woken
    assert all(woken)


# --- pulse


class Host:
    """A host whose clock and whose QEMU's use of it the test turns.

    Attributes:
        got: seconds that QEMU got.
    """

    def __init__(self, monkeypatch):
        self.now, self.used, self.got, self.sleeps = 100.0, 5.0, 0.0, False
        monkeypatch.setattr(pulse, "used_s", lambda _: self.used)
        monkeypatch.setattr(pulse, "idle", lambda _: self.sleeps)
        monkeypatch.setattr(pulse.time, "monotonic", lambda: self.now)

    def seconds(self, heart, wall, share=1.0, printed=0.0, kept=None):
        """Let time pass in tenths of a second, with `share` of a processor for QEMU; return the first verdict.

        Args:
            kept: share of the time that the host keeps from QEMU; None: what it does not use of a processor.
        """
        for _ in range(round(wall * 10)):
            self.now += 0.1
            self.used += 0.1 * share
            self.got += 0.1 * (1 - (max(0.0, 1 - share) if kept is None else kept))
            if verdict := heart.hangs(self.now, self.now - printed if printed else 0.0):
                return verdict
        return ""


@pytest.fixture
def host(monkeypatch):
    return Host(monkeypatch)


def heart_of(host, cpus=1, stretch=1.0):
    heart = pulse.Pulse(cpus, lambda: host.got, stretch)
    heart.resume(1)
    return heart


def test_silence_with_a_processor_at_hand_is_a_hang(host):
    assert host.seconds(heart_of(host), 5.8) == ""
    assert "no sign of life for 6 s" in host.seconds(heart_of(host), 6.3)


def test_beats_keep_it_alive(host):
    heart = heart_of(host)
    for _ in range(10):
        assert host.seconds(heart, 5.5) == ""
        heart.beat(b"\0\0")
    assert 5.4 < heart.longest_s < 5.6


def test_busy_host_is_not_the_guests_fault(host):
    assert host.seconds(heart_of(host), 25, share=0.1) == ""


def test_a_starved_guest_is_not_taken_for_one_that_hangs_however_long(host):
    assert host.seconds(heart_of(host), 400, share=0.01) == ""


def test_a_guest_that_wants_nothing_and_is_silent_hangs(host):
    assert "30 s" in host.seconds(heart_of(host), 31, share=0.01, kept=0.0)


def test_sleeping_qemu_that_is_silent_hangs(host):
    host.sleeps = True
    assert host.seconds(heart_of(host), 6.3, share=0.0)


def test_long_trace_is_a_sign_of_life_for_a_while(host):
    assert host.seconds(heart_of(host), 15, printed=0.5) == ""
    assert host.seconds(heart_of(host), 21, printed=0.5)


def test_each_processor_counts(host):
    heart = heart_of(host, cpus=2)
    for _ in range(20):
        if verdict := host.seconds(heart, 0.5, share=2.0):
            break
        heart.beat(b"\0")
    assert verdict.startswith("processor 1 of the guest")


def test_paused_guest_does_not_hang(host):
    heart = heart_of(host)
    heart.pause()
    assert host.seconds(heart, 100) == ""
    heart.resume(1)
    assert host.seconds(heart, 2) == ""


def test_a_pause_of_lab_and_guest_together_is_no_silence(host):
    heart = heart_of(host)
    host.sleeps = True
    assert host.seconds(heart, 4) == ""
    host.now += 3600
    assert heart.hangs(host.now, 0.0) == ""
    assert host.seconds(heart, 0.5) == ""
    assert host.seconds(heart, 1) != "", "one that goes on being silent hangs"


def test_processor_time_leaves_out_what_a_process_waits_for():
    before = pulse.process_ns(os.getpid())
    time.sleep(0.2)
    slept = pulse.process_ns(os.getpid()) - before
    end = time.process_time_ns() + 50_000_000
    while time.process_time_ns() < end:
        pass
    used = pulse.process_ns(os.getpid()) - before - slept
    assert slept < 50_000_000 < used
    with pytest.raises(OSError, match="Invalid argument"):
        pulse.process_ns(1 << 22)


def test_own_process_uses_time_and_is_not_idle():
    assert pulse.used_s(os.getpid()) > 0
    assert not pulse.idle(os.getpid())
    assert pulse.used_s(1 << 30) == 0.0


# --- command line and saved guests


def test_devices_are_the_same_with_a_cable_and_without():
    ends = (10, 11, 12, 13, 15)
    alone = qemu.command_line(BOOT, qemu.Ends(ends), incoming=False)
    linked = qemu.command_line(BOOT, qemu.Ends(ends, 14), incoming=True)
    devices = [[words[n + 1] for n, word in enumerate(words) if word == "-device"] for words in (alone, linked)]
    assert devices[0] == devices[1]
    assert alone[:2] == ["/lib/ld.so", "/usr/bin/q"]
    assert "stream,id=net0,server=off,addr.type=fd,addr.str=14" in linked
    assert linked[-2:] == ["-incoming", "defer"]


def test_paths_with_commas_stay_whole():
    words = qemu.command_line(BOOT, qemu.Ends((1, 2, 3, 4, 5)), incoming=False)
    nodes = [json.loads(words[n + 1]) for n, word in enumerate(words) if word == "-blockdev"]
    assert [node["file"]["filename"] for node in nodes] == ["/r/a,b.erofs", "/k/modules.erofs"]
    assert all(node["read-only"] for node in nodes)


def test_kernel_command_line_ends_with_the_boots_own():
    line = qemu.kernel_command_line(BOOT).split()
    assert line[0] == "console=ttyS0"
    assert "panic=-1" in line
    assert line[-1] == "foo=1"


@pytest.mark.parametrize(("name", "words"), [("kvm", "-accel kvm"), ("icount", "shift=0,sleep=off"), ("tcg", "multi")])
def test_accelerators(name, words):
    line = " ".join(qemu.machine_options(MachineShape("x86_64", name, 1, 64, QEMU)))
    assert words in line
    assert "-machine q35" in line
    assert ("-cpu host" in line) == (name == "kvm")
    assert ("-cpu max,-erms,-fsrm" in line) == (name == "icount")


def test_a_clock_that_counts_instructions_beats_slower_and_is_waited_for(host):
    for stretch, hangs in ((1.0, True), (20.0, False)):
        assert bool(host.seconds(heart_of(host, stretch=stretch), 2 * pulse.SILENT_GOT_S)) == hangs


def test_boot_survives_json():
    assert Boot.from_json(json.loads(json.dumps(BOOT.to_json()))) == BOOT


def test_saved_guest_that_is_not_there_or_not_whole(tmp_path):
    for content in (None, "", "{}", "[]"):
        if content is not None:
            (tmp_path / "guest.json").write_text(content)
        with pytest.raises(HostError, match="no saved guest"):
            SavedGuest.load(tmp_path)
    (tmp_path / "guest.json").write_text(json.dumps(BOOT.to_json()))
    assert SavedGuest.load(tmp_path).boot == BOOT


# --- initramfs and probe


def test_initramfs_holds_the_agent_and_the_modules_in_order(tmp_path):
    modules = tmp_path / "boot-modules"
    modules.mkdir()
    (modules / "order").write_text("b.ko.xz\na.ko\nc.ko.gz\n")
    (modules / "b.ko.xz").write_bytes(lzma.compress(b"module b"))
    (modules / "a.ko").write_bytes(b"module a")
    (modules / "c.ko.gz").write_bytes(gzip.compress(b"module c"))
    initrd.build_initrd(tmp_path / "initrd", modules)
    if shutil.which("cpio"):
        out = tmp_path / "out"
        out.mkdir()
        data = (tmp_path / "initrd").read_bytes()
        subprocess.run(["cpio", "-id", "--quiet", "--no-absolute-filenames"], input=data, cwd=out, check=False)
        assert (out / "boot-modules/order").read_text() == "b.ko\na.ko\nc.ko\n"
        assert (out / "boot-modules/b.ko").read_bytes() == b"module b"
        assert os.access(out / "init", os.X_OK)
    else:
        assert b"b.ko\na.ko\nc.ko\n" in (tmp_path / "initrd").read_bytes()


def test_agent_has_no_warnings(tmp_path):
    sources = [str(path) for path in initrd.source_files() if path.suffix == ".c"]
    words = ["gcc", "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-Wno-missing-field-initializers", "-pthread"]
    done = subprocess.run([*words, "-o", tmp_path / "a", *sources], capture_output=True, text=True, check=False)
    assert done.stderr == ""


@pytest.mark.guest
def test_probes_guest_runs_under_tcg_in_time():
    found = accel.run_probe(MachineShape("x86_64", "tcg", 2, 64, host_qemu()), timeout_s=20)
    assert found.reason.startswith("a probe guest ran under TCG")


def test_probe_that_does_not_end_or_fails_means_tcg(tmp_path):
    for script, why in (("sleep 60", "did not get through within 1 s"), ("echo broken >&2; exit 1", "broken")):
        program = tmp_path / "qemu"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        shape = MachineShape("x86_64", "kvm", 2, 64, Qemu(program, (7,), (str(program),)))
        found = accel.run_probe(shape, timeout_s=1)
        assert found.name == "tcg"
        assert why in found.reason


def test_no_kvm_device_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(accel, "KVM", tmp_path / "kvm")
    found = accel.probe_accel(Cache(tmp_path), QEMU)
    assert (found.name, found.reason) == ("tcg", f"{tmp_path}/kvm: No such file or directory")


def test_probes_answer_is_kept(tmp_path, monkeypatch):
    calls = []
    device = tmp_path / "kvm"
    device.touch()
    monkeypatch.setattr(accel, "KVM", device)
    monkeypatch.setattr(accel, "run_probe", lambda _: calls.append(1) or accel.Accel("kvm", "ran"))
    for _ in range(2):
        assert accel.probe_accel(Cache(tmp_path / "cache"), QEMU) == accel.Accel("kvm", "ran")
    other = Qemu(Path("/other"), (10,), ("/other",))
    accel.probe_accel(Cache(tmp_path / "cache"), other)
    assert len(calls) == 2


def test_a_command_of_many_runs_tells_once_what_its_guests_run_in(tmp_path, monkeypatch):
    monkeypatch.setattr("kpatchlab.host.host.find_qemu", lambda *_, **__: QEMU)
    monkeypatch.setattr("kpatchlab.host.host.probe_accel", lambda *_: accel.Accel("tcg", "no KVM"))
    monkeypatch.setattr("kpatchlab.host.host.held", lambda *_: Held(bubblewrap=True, seccomp=True))
    one = LabHost(Cache(tmp_path))
    assert [line.startswith("guests run in QEMU") for line in one.news()] == [True]
    assert one.news() == []


def test_the_key_of_the_agent_is_made_of_its_files():
    names = [path.name for path in initrd.source_files()]
    assert names == ["agent.c", "agent.h", "agent_builtin.c", "agent_init.c", "agent_ports.c", "initrd.py"]
