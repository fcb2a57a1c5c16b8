"""What is around a QEMU: tried on this host with its own QEMU, and by the words where a host lacks a part."""

import grp
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pytest

from kpatchlab import fence, proc
from kpatchlab.cache import Cache
from kpatchlab.fence import Lack
from kpatchlab.guest import jail
from kpatchlab.guest.shapes import Held, MachineShape, Qemu
from kpatchlab.host import accel
from kpatchlab.host import qemu as host_qemu
from kpatchlab.host.qemu import held
from tests.guest_support import stub_boot

BOTH = Held(bubblewrap=True, seccomp=True)
needs_fence = pytest.mark.skipif(fence.lacking() is not None, reason="this host has no bubblewrap that runs")


def boot(folder, *, around=BOTH, **more):
    made = stub_boot(folder)
    return replace(made, machine=replace(made.machine, qemu=replace(made.machine.qemu, held=around, **more)))


def inside(folder, script, **more):
    """Run a script of this host's shell where QEMU would run, with what surrounds it there."""
    made = boot(folder, path=Path("/usr/bin/sh"), **more)
    words = jail.words(replace(made, initrd=folder / "initrd"), ["/bin/sh", "-c", script])
    return proc.run(words[: -len(jail.SECCOMP)], timeout_s=30, check=False, env={"SECRET": "1"}).stdout.split("\n")


@pytest.fixture
def files(tmp_path):
    (tmp_path / "nothing").write_text("image")
    (tmp_path / "initrd").write_text("initrd")
    (tmp_path / "key").write_text("secret")
    return tmp_path


@needs_fence
def test_there_is_nothing_to_read_and_nothing_to_reach(files):
    said = inside(
        files,
        f"cat {files}/key; ls {files}; ls -A /; ls -A /root /home {Path.home()} 2>/dev/null; env; echo x >/new;"
        f"echo x >{files}/initrd; cat {files}/initrd; cat /proc/1/environ; cat /etc/passwd; ls /dev",
    )
    assert {"initrd", "nothing", "usr"} <= set(said)
    hidden = {"key", "secret", "SECRET=1", "root", "home", "proc", "dev", "sys", "new"}
    assert not (hidden - {files.parts[1]}) & set(said)  # what leads to the files themselves
    assert not [line for line in said if line.startswith(("KPATCHLAB", "HOME=", "root:"))]
    assert (files / "initrd").read_text() == "initrd"
    assert not Path("/new").exists()


@needs_fence
def test_there_is_no_network_no_process_and_no_capability(files):
    script = "import os, socket; s = socket.socket(); print(s.connect_ex(('127.0.0.1', 9)))\n"
    script += "print(os.getpid(), [name for _, name in socket.if_nameindex()])\n"
    script += "try: os.chown('/', 1, 1)\nexcept OSError as error: print(error.errno)\n"
    system = shutil.which("python3", path="/usr/bin:/bin")
    if system is None:
        pytest.skip("no Python of the system's own")
    said = inside(files, f"exec {system} -S -E -c \"exec(bytes.fromhex('{script.encode().hex()}'))\"")
    assert said[0] != "0"
    assert said[1] == "1 ['lo']"
    assert said[2] in {"1", "30"}  # EPERM, EROFS


def test_a_guest_goes_before_the_lab_and_fills_no_disk(files):
    made = boot(files, around=Held())
    words = jail.words(made, ["sh", "-c", "cat /proc/self/oom_score_adj; ulimit -c; ulimit -f"])
    said = proc.run(words, timeout_s=30, env={"PATH": os.environ["PATH"]}).stdout.split()
    assert said[:2] == [str(jail.OOM_SCORE), "0"]
    assert int(said[2]) * 512 == 2 * (made.machine.memory_mib << 20) + jail.STATE_BYTES


def test_one_thread_starts_all_children_also_where_many_begin_at_once(monkeypatch):
    monkeypatch.setattr(proc, "_starters", {})
    real = proc.ThreadPoolExecutor
    made = []

    def slow(*args, **more):
        time.sleep(0.05)
        made.append(real(*args, **more))
        return made[-1]

    monkeypatch.setattr(proc, "ThreadPoolExecutor", slow)
    with real(8) as pool:
        children = list(pool.map(lambda _: proc.spawn(["true"]), range(8)))
    assert [child.wait(20) for child in children] == [0] * 8
    assert len(made) == 1


@needs_fence
def test_it_ends_with_who_started_it_and_not_with_the_thread(files):
    made = boot(files, path=Path("/usr/bin/sleep"))
    words = jail.words(made, ["sleep", "7171"])[: -len(jail.SECCOMP)]
    code = (
        "import os, sys, threading, time; from kpatchlab import proc\n"
        "found = []\nthread = threading.Thread(target=lambda: found.append(proc.spawn(sys.argv[1:], env={})))\n"
        "thread.start(); thread.join(); time.sleep(0.5)\n"
        "assert found[0].poll() is None\nprint(found[0].pid, flush=True)\nos.kill(os.getpid(), 9)\n"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code, *words], env=env, capture_output=True, text=True, check=False)
    assert done.stdout.strip().isdigit(), done.stderr
    end = time.monotonic() + 10
    while _sleeping() and time.monotonic() < end:
        time.sleep(0.05)
    assert not _sleeping()


def _sleeping():
    return [p for p in Path("/proc").glob("[0-9]*/cmdline") if _read(p).endswith(b"sleep\x007171\0")]


def _read(path):
    try:
        return path.read_bytes()
    except OSError:
        return b""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's children can do without groups")
def test_root_leaves_its_groups_behind():
    other = max(group.gr_gid for group in grp.getgrall()) % 60000 + 1
    code = f"import os; os.setgroups([{other}]); from kpatchlab import proc; import subprocess\n"
    code += "for no in (False, True): print(*proc.spawn(['id', '-G'], stdout=subprocess.PIPE, no_groups=no).stdout)"
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    kept, dropped = done.stdout.splitlines()[0], done.stdout.splitlines()[-1]
    assert str(other) in kept
    assert str(other) not in dropped


@pytest.mark.skipif(not shutil.which("qemu-system-x86_64"), reason="no QEMU on this host")
def test_qemu_of_this_host_runs_in_it():
    found = jail.tried(host_qemu.host_qemu())
    assert found.seccomp
    assert found.bubblewrap is (fence.lacking() is None)


def test_what_does_not_run_in_it_runs_without(tmp_path, monkeypatch):
    """A QEMU without seccomp, as some builds are; one that bubblewrap cannot show its files."""
    tries = []

    def run(argv, **_):
        tries.append(argv)
        ok = "-sandbox" not in argv
        return proc.Result(tuple(argv), 0 if ok else 1, "", "", 0.0)

    monkeypatch.setattr(jail.proc, "run", run)
    monkeypatch.setattr(jail.fence, "lacking", lambda: None)
    found = jail.tried(Qemu(Path("/usr/bin/qemu"), (7,), ("/usr/bin/qemu",)))
    assert found == Held(bubblewrap=True)
    monkeypatch.setattr(jail.proc, "run", lambda argv, **_: proc.Result(tuple(argv), "bwrap" in str(argv), "", "", 0.0))
    assert jail.tried(Qemu(Path("/usr/bin/qemu"), (7,), ("/usr/bin/qemu",))) == Held(seccomp=True)
    monkeypatch.setattr(jail.proc, "run", lambda argv, **_: proc.Result(tuple(argv), 1, "", "", 0.0))
    assert jail.tried(Qemu(Path("/usr/bin/qemu"), (7,), ("/usr/bin/qemu",))) == Held()


def test_what_was_found_out_is_kept_until_the_host_boots_again(tmp_path, monkeypatch):
    tries = []
    monkeypatch.setattr(host_qemu.jail, "tried", lambda qemu: tries.append(qemu) or BOTH)
    qemu = Qemu(Path("/usr/bin/qemu"), (7,), ("/usr/bin/qemu",))
    assert [held(qemu, Cache(tmp_path)) for _ in range(2)] == [BOTH, BOTH]
    assert len(tries) == 1
    monkeypatch.setattr(host_qemu, "_boot_id", lambda: "another")
    held(qemu, Cache(tmp_path))
    assert len(tries) == 2


def test_a_sandbox_that_has_come_is_used_before_the_host_boots_again(tmp_path, monkeypatch):
    found = [Held(), BOTH]
    monkeypatch.setattr(host_qemu.jail, "tried", lambda _: found.pop(0))
    qemu = Qemu(Path("/usr/bin/qemu"), (7,), ("/usr/bin/qemu",))
    monkeypatch.setattr(host_qemu.fence, "lacking", lambda: Lack("no user namespaces", "sysctl"))
    assert [held(qemu, Cache(tmp_path)) for _ in range(2)] == [Held(), Held()]
    monkeypatch.setattr(host_qemu.fence, "lacking", lambda: None)
    assert [held(qemu, Cache(tmp_path)) for _ in range(2)] == [BOTH, BOTH]


def test_what_a_busy_host_did_not_start_is_tried_again(tmp_path, monkeypatch):
    found = [Held(seccomp=True), BOTH]
    monkeypatch.setattr(host_qemu.jail, "tried", lambda _: found.pop(0))
    monkeypatch.setattr(host_qemu.fence, "lacking", lambda: None)
    qemu = Qemu(Path("/usr/bin/qemu"), (7,), ("/usr/bin/qemu",))
    assert [held(qemu, Cache(tmp_path)) for _ in range(3)] == [Held(seccomp=True), BOTH, BOTH]


def test_its_own_copy_sees_not_even_the_system(tmp_path):
    made = Qemu(Path("/cache/qemu/key/usr/bin/qemu"), (10,), ("/cache/qemu/key/ld",), unpacked=True)
    words = jail.bubblewrap(made, [], kvm=False)
    assert words[words.index("--ro-bind") + 1] == "/cache/qemu/key"
    assert "/usr" not in words
    assert jail.KVM in jail.bubblewrap(made, [], kvm=True)


@needs_fence
@pytest.mark.guest
def test_a_guest_runs_in_it(tmp_path, monkeypatch):
    """The probe of `accel` again: two processors, timers, a disk that firmware reads."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    found = host_qemu.host_qemu()
    argv = (*jail.bubblewrap(found, [tmp_path], kvm=False), *found.argv, *jail.SECCOMP)
    done = accel.run_probe(MachineShape("x86_64", "tcg", 2, 64, replace(found, argv=argv)), timeout_s=60)
    assert done.reason.startswith("a probe guest ran"), done.reason
