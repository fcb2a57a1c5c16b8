"""The fence by itself: what a command sees, where it can write, what ends with it."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from kpatchlab import cgroup, fence, proc
from kpatchlab.errors import HostError
from kpatchlab.fence import Escape, Fence, NoFence
from kpatchlab.guest.shapes import Held
from kpatchlab.host import doctor

needs_sandbox = pytest.mark.skipif(fence.lacking() is not None, reason=f"no sandbox on this host: {fence.lacking()}")


@pytest.fixture
def door(tmp_path):
    for name in ("in", "out"):
        (tmp_path / name).mkdir()
    (tmp_path / "in/file").write_text("input\n")
    return Fence(write=(tmp_path / "out",), read=(tmp_path / "in",))


def sh(door, script, **more):
    return door.run(["sh", "-c", script], timeout_s=30, check=False, **more)


@needs_sandbox
def test_a_command_sees_the_system_and_what_it_is_shown(door, tmp_path, monkeypatch):
    (tmp_path / "secret").write_text("key")
    monkeypatch.setenv("KPATCHLAB_SMTP_PASSWORD", "hunter2")
    done = sh(door, f"env; tr '\\0' '\\n' </proc/1/environ; cat {tmp_path}/in/file; ls {tmp_path} / /tmp ~ /home /root")
    assert "hunter2" not in done.stdout + done.stderr
    assert "input\n" in done.stdout
    assert "secret" not in done.stdout
    assert not {"home", "root", "srv", "var", "mnt", "work", "run"} & set(done.stdout.split())
    names = {line.split("=")[0] for line in done.stdout.splitlines() if "=" in line}
    assert names <= {"PATH", "HOME", "LANG", "PWD", "TZ", "SHLVL", "_", "OLDPWD", proc.OWNER}, names


@needs_sandbox
def test_it_writes_only_where_it_may(door, tmp_path):
    done = sh(door, f"echo x >{tmp_path}/in/file; echo x >{tmp_path}/beside; echo x >/usr/x; echo y >{tmp_path}/out/y")
    assert done.stderr.count("Read-only file system") >= 2
    assert (tmp_path / "in/file").read_text() == "input\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]
    assert (tmp_path / "out/y").read_text() == "y\n"


@needs_sandbox
def test_there_is_no_network_and_no_socket_of_the_hosts(door, tmp_path):
    local = socket.socket(socket.AF_UNIX)
    abstract = f"\0kpatchlab-{os.getpid()}"
    local.bind(abstract)
    local.listen()
    with socket.create_server(("127.0.0.1", 0)) as server, local:
        port = server.getsockname()[1]
        code = (
            "import socket\n"
            f"for family, where in ((2, ('127.0.0.1', {port})), (1, {abstract!r})):\n"
            "    try: socket.socket(family).connect(where); print('reached')\n"
            "    except OSError as error: print('refused')\n"
        )
        (tmp_path / "in/try.py").write_text(code)
        done = sh(door, f"python3 {tmp_path}/in/try.py")
    assert done.stdout.split() == ["refused", "refused"], done.stderr


@needs_sandbox
def test_a_build_stays_as_nice_as_it_was_started(door):
    own = proc.autogroup_nice()
    done = sh(door, "sleep 0.5; nice; cat /proc/self/autogroup", nice=7)
    assert int(done.stdout.split()[0]) == min(19, os.nice(0) + 7)
    assert own is None or int(done.stdout.split()[-1]) == min(19, own + 7)


@needs_sandbox
def test_a_build_has_no_terminal(door):
    done = sh(door, "tty; echo </dev/tty")
    assert "No such device or address" in done.stderr, "there is no terminal to push words into"


@needs_sandbox
def test_daemons_end_with_the_command(door, tmp_path):
    beat = tmp_path / "out/beat"
    done = sh(door, f"setsid sh -c 'while :; do date >>{beat}; sleep 0.05; done' >/dev/null 2>&1 & sleep 0.5")
    assert done.status == 0
    before = beat.read_bytes()
    assert before
    time.sleep(0.5)
    assert beat.read_bytes() == before


@needs_sandbox
def test_cancelling_and_the_deadline_end_everything(door, tmp_path):
    cancel = threading.Event()
    threading.Timer(0.5, cancel.set).start()
    beat = tmp_path / "out/beat"
    daemon = f"setsid sh -c 'while :; do date >>{beat}; sleep 0.05; done' & sleep 60"
    begin = time.monotonic()
    sh(door, daemon, cancel=cancel)
    late = door.run(["sh", "-c", daemon], timeout_s=0.5, check=False)
    assert late.timed_out
    assert time.monotonic() - begin < 20
    before = beat.read_bytes()
    time.sleep(0.5)
    assert beat.read_bytes() == before


@needs_sandbox
@pytest.mark.parametrize(
    ("script", "what"),
    [
        ("ln -s /etc/shadow x", "a link to /etc/shadow was left: x"),
        ("ln -s ../secret x", "a link to ../secret was left: x"),
        ("mkdir d && ln -s /usr/bin/true d/cc.sh", "a link to /usr/bin/true was left: d/cc.sh"),
        ("mkfifo x", "a device, fifo or socket was left: x"),
        ("cp /usr/bin/true x && chmod u+s x", "a setuid program was left: x"),
        ("ln -s x x", "a link to x was left: x"),
        ("ln -s \"$(printf '/a\\nb\\033[31m')\" x", "a link to /a b was left: x"),
        ("mkdir d && ln -s /etc/shadow d/x && chmod 0 d", "a link to /etc/shadow was left: d/x"),
    ],
)
def test_what_must_not_be_read_from_outside_is_deleted_and_told(door, tmp_path, script, what):
    (tmp_path / "secret").write_text("key")
    with pytest.raises(Escape) as caught:
        sh(door, f"cd {tmp_path}/out && {script}")
    assert caught.value.message == what
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_symlink() or not path.is_dir()]


@needs_sandbox
@pytest.mark.parametrize(("count", "name"), [(1500, "d"), (30, "d" * 250)])
def test_folders_that_nobody_can_walk_are_deleted_and_told(door, tmp_path, count, name):
    code = f"import os\nfor _ in range({count}):\n    os.mkdir('{name}'); os.chdir('{name}')"
    with pytest.raises(Escape, match="more than 64 folders in one another was left: d") as caught:
        sh(door, f'cd {tmp_path}/out && python3 -c "{code}"')
    assert len(caught.value.message) < 300
    assert not list((tmp_path / "out").iterdir())


def test_a_file_that_a_command_left_is_read_up_to_a_bound(tmp_path):
    path = tmp_path / "x"
    with pytest.raises(FileNotFoundError):
        fence.read_left(path)
    path.write_bytes(b"a\xff\n")
    assert fence.read_left(path) == "a\ufffd\n"
    os.truncate(path, 1 << 40)
    with pytest.raises(Escape, match="larger than 64 MiB: x"):
        fence.read_left(path)
    with pytest.raises(Escape, match="Is a directory"):
        fence.read_left(tmp_path)
    os.mkfifo(tmp_path / "f")
    assert fence.read_left(tmp_path / "f") == ""


@needs_sandbox
def test_links_among_what_is_seen_stay(door, tmp_path):
    sh(door, f"cd {tmp_path}/out && touch y && ln -s y x && ln -s ../in source && ln -s ../in/file z")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"x", "y", "z", "source"}


@needs_sandbox
def test_a_tree_that_is_elsewhere_for_commands_and_links_to_it(tmp_path):
    """Such a link leads nowhere outside, so it goes; one to what is written is the command's own, and it is told."""
    tree, programs = tmp_path / "tree", tmp_path / "programs"
    (tree / "obj").mkdir(parents=True)
    programs.mkdir()
    (tree / "file").write_text("there\n")
    door = Fence((tree / "obj", programs), (tree,), at={tree: "/linux", programs: "/programs"})
    assert (door.inside(tree / "obj/x"), door.inside(tmp_path)) == ("/linux/obj/x", str(tmp_path))
    done = sh(
        door, f"pwd; cat /linux/file; echo y >x; ln -s /linux build; ls {tree}; echo x >/linux/new", cwd=tree / "obj"
    )
    assert done.stdout == "/linux/obj\nthere\n"
    assert "Read-only file system" in done.stderr
    assert [path.name for path in (tree / "obj").iterdir()] == ["x"]
    for target in ("/programs/x", "/linuxes", "/etc/passwd", "/linux/../etc"):
        with pytest.raises(Escape, match="a link to"):
            sh(door, f"ln -s {target} stray", cwd=tree / "obj")


def test_a_folder_that_became_a_link_is_not_shown(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "obj").symlink_to(tmp_path / "home")
    with pytest.raises(Escape, match="is a link"):
        Fence(write=(tmp_path / "obj",), unconfined=True).run(["true"], timeout_s=10)


@needs_sandbox
def test_the_sandboxs_own_failure_is_not_the_commands(door, tmp_path):
    with pytest.raises(NoFence, match="Can't find source path"):
        door.adding(read=[tmp_path / "gone"]).run(["true"], timeout_s=10)
    forged = sh(door, "echo 'bwrap: Creating new namespace failed' >&2; exit 1")
    assert forged.status == 1
    assert sh(door, "kill -9 $$").status in {137, -9}


def test_a_program_that_is_not_there_is_the_hosts(door):
    with pytest.raises(HostError, match="no-such-program: not found"):
        door.run(["no-such-program"], timeout_s=10)


def test_files_and_memory_are_bounded(door, tmp_path, monkeypatch):
    monkeypatch.setattr(fence, "FILE_BYTES", 1 << 20)
    monkeypatch.setattr(fence, "memory_bytes", lambda: 200 << 20)
    door = Fence(door.write, door.read, unconfined=True)
    done = sh(door, f"head -c 5000000 /dev/zero >{tmp_path}/out/large; ulimit -c")
    assert (tmp_path / "out/large").stat().st_size == 1 << 20
    assert done.stdout.split()[-1] == "0"
    (tmp_path / "in/eat.py").write_text("print(len(bytearray(300 << 20)))")
    assert "MemoryError" in sh(door, f"python3 {tmp_path}/in/eat.py").stderr


@needs_sandbox
@pytest.mark.skipif("do not bound" in fence.bounded_by(), reason="nothing here bounds how many processes root has")
def test_processes_are_bounded(door, monkeypatch):
    monkeypatch.setattr(fence, "PROCESSES", 20)
    done = sh(door, "for i in $(seq 40); do sleep 5 & done; kill 0")
    assert "annot fork" in done.stderr


def test_the_scopes_command_line(tmp_path):
    assert fence.scope_words(1000, tmp_path) == ()
    for place in ("systemd", "user/1000/systemd"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "private").touch()
    words = fence.scope_words(1000, tmp_path)
    assert words[:3] == ("systemd-run", "--user", "--scope")
    assert words[-1] == "--"
    assert {f"TasksMax={fence.PROCESSES}", f"MemoryMax={fence.memory_bytes()}", "MemorySwapMax=0"} <= set(words)
    assert "--user" not in fence.scope_words(0, tmp_path)


@pytest.mark.parametrize(
    ("files", "reason", "remedy"),
    [
        ({"proc/sys/kernel/unprivileged_userns_clone": "0"}, "switched off", "unprivileged_userns_clone=1"),
        ({"proc/sys/user/max_user_namespaces": "0"}, "switched off", "user.max_user_namespaces"),
        ({".dockerenv": ""}, "container", "seccomp=unconfined"),
        ({"proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1"}, "AppArmor", "bwrap-userns-restrict"),
        ({}, "setting up uid map: Permission denied", "bwrap --ro-bind"),
    ],
)
def test_what_keeps_a_sandbox_away_is_named_with_its_remedy(tmp_path, files, reason, remedy):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    lack = fence._explained("setting up uid map: Permission denied", tmp_path)
    assert reason in lack.reason
    assert remedy in lack.remedy


@pytest.fixture
def no_sandbox(monkeypatch):
    lack = fence.Lack("bubblewrap is not installed", "apt-get install bubblewrap")
    monkeypatch.setattr(fence, "lacking", lambda: lack)


@pytest.mark.usefixtures("no_sandbox")
def test_without_a_sandbox_only_trusted_commands_run(door, monkeypatch):
    monkeypatch.setenv("KPATCHLAB_SMTP_PASSWORD", "hunter2")
    with pytest.raises(NoFence, match="bubblewrap is not installed") as caught:
        sh(door, "true")
    assert caught.value.hint == "apt-get install bubblewrap"
    done = sh(Fence(door.write, door.read, unconfined=True), "env")
    assert "hunter2" not in done.stdout


@needs_sandbox
def test_the_host_is_tried_once(door, monkeypatch):
    for known in vars(fence).values():
        if hasattr(known, "cache_clear"):
            known.cache_clear()
    tried = []
    one = fence._try
    monkeypatch.setattr(fence, "_try", lambda words: tried.append(words) or one(words))
    assert sh(door, "true").status == sh(door, "true").status == 0
    assert fence.lacking() is None
    probes = [tuple(words) for words in tried if words[0] == "bwrap"]
    assert len(probes) == len(set(probes)) > 0


@needs_sandbox
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_it_works_for_a_user_too(tmp_path):
    """Root's sandbox needs no user namespace, a user's does."""
    words = ["bwrap", *fence._ALWAYS, *fence._system(), "--", "true"]
    done = subprocess.run(
        words, user=65534, group=65534, extra_groups=[], capture_output=True, text=True, check=False, cwd="/"
    )
    if done.returncode and Path("/proc/sys/user/max_user_namespaces").read_text().strip() == "0":
        pytest.skip("no user namespaces on this host")
    assert done.returncode == 0, done.stderr


def test_a_cgroup_of_either_kind_gets_its_bounds_and_goes(tmp_path):
    for place in ("one/pids", "one/memory", "two"):
        (tmp_path / place).mkdir(parents=True)
    (tmp_path / "two/cgroup.subtree_control").write_text("cpu memory pids\n")
    with cgroup.bounded(1 << 30, 100, tmp_path / "one") as words:
        (pids,) = (tmp_path / "one/pids").iterdir()
        (memory,) = (tmp_path / "one/memory").iterdir()
        assert (pids / "pids.max").read_text() == "100"
        assert (memory / "memory.limit_in_bytes").read_text() == str(1 << 30)
        assert words[-3:] == ["2", str(pids), str(memory)]
        for file in (pids / "pids.max", memory / "memory.limit_in_bytes"):
            file.unlink()  # a cgroup's files go with it
    with cgroup.bounded(1 << 30, 100, tmp_path / "two") as words:
        assert words[-2] == "1"
        folder = Path(words[-1])
        assert (folder / "memory.max").read_text() == str(1 << 30)
        for file in ("pids.max", "memory.max"):
            (folder / file).unlink()
    assert not list((tmp_path / "one/pids").iterdir())
    assert not folder.exists()
    with cgroup.bounded(1 << 30, 100, tmp_path / "nowhere") as words:
        assert words == []


@pytest.mark.parametrize("lack", [None, fence.Lack("no bubblewrap", "apt-get install bubblewrap")])
@pytest.mark.parametrize("held", [Held(bubblewrap=True, seccomp=True), Held(seccomp=True), Held()])
def test_the_doctor_shows_the_sandbox_of_builds_and_that_of_guests(monkeypatch, lack, held):
    monkeypatch.setattr(fence, "lacking", lambda: lack)
    host = SimpleNamespace(qemu=lambda: SimpleNamespace(held=held))
    names = {"_packages", "_kvm", "_qemu", "_memory", "_disk", "_namespaces", "_mirror"}
    for name in names:
        monkeypatch.setattr(doctor, name, lambda *_: doctor.HostCheck("other", "ok", ""))
    found = {check.name: check for check in doctor.examine(SimpleNamespace(cache=None, qemu=host.qemu))}
    builds, guests = found["sandbox"], found["guests"]
    assert (builds.state, builds.remedy) == (("bad", lack.remedy) if lack else ("ok", ""))
    assert ("series are built only with --trust: no bubblewrap" in builds.text) is bool(lack)
    whole = held.bubblewrap and held.seccomp
    assert (guests.state, bool(guests.remedy)) == (("ok", False) if whole else ("note", True))
    assert guests.text.startswith("bubblewrap and a seccomp filter" if whole else "only" if str(held) else "nothing")
