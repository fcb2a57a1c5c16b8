"""Roots: their keys, what is put into them, what is said when they cannot be built."""

import dataclasses
import io
import os
import subprocess
import tarfile
import threading
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from kpatchlab import proc
from kpatchlab.build import BuildCancelled, BuildContext, roots
from kpatchlab.cache import Cache
from kpatchlab.errors import HostError, UserError
from kpatchlab.lab.recipes import RootRecipe

HERE = Path(__file__).parents[1]


def recipe(packages=("kmod", "mawk"), **more):
    return RootRecipe(packages=packages, **more)


def context(cache, lab_root):
    return BuildContext(Cache(cache), lab_root, "http://m.example/debian")


def own_files(tmp_path):
    folder = tmp_path / "rootfs/mine/etc"
    folder.mkdir(parents=True)
    (folder / "motd").write_text("hello")
    (folder / "run.sh").write_text("#!/bin/sh\n")
    (folder / "run.sh").chmod(0o700)
    return recipe(files="mine")


def test_key_ignores_order_and_repeats(tmp_path):
    assert roots.root_key(recipe(packages=("mawk", "kmod", "mawk")), tmp_path) == roots.root_key(recipe(), tmp_path)


def test_key_follows_suite_packages_and_files(tmp_path):
    own = own_files(tmp_path)
    keys = {roots.root_key(one, tmp_path) for one in (recipe(), recipe(suite="forky"), recipe(packages=()), own)}
    assert len(keys) == 4
    (tmp_path / "rootfs/mine/etc/motd").write_text("other")
    assert roots.root_key(own, tmp_path) not in keys


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(UserError, match="rootfs/gone"):
        roots.root_key(recipe(files="gone"), tmp_path)


def test_own_files_belong_to_root(tmp_path):
    own_files(tmp_path)
    with tarfile.open(fileobj=io.BytesIO(roots._files_tar(tmp_path / "rootfs/mine"))) as tar:
        seen = {member.name: (member.uid, member.gid, oct(member.mode)) for member in tar}
    assert seen == {"etc": (0, 0, "0o755"), "etc/motd": (0, 0, "0o644"), "etc/run.sh": (0, 0, "0o755")}


@pytest.fixture
def quiet_debian(monkeypatch, tmp_path):
    """No apt and no mirror: every package exists."""
    monkeypatch.setattr(roots.debian.Apt, "resolve", lambda self, *names: list(names))
    monkeypatch.setattr(roots.debian, "keyring", lambda: tmp_path / "k.gpg")
    monkeypatch.setattr(roots.debian, "reach_options", lambda: ('Acquire::Check-Date "false";',))
    monkeypatch.setattr(roots, "_mode", lambda: "root")
    monkeypatch.setattr(roots, "_mounts_of_its_own", tuple)


def destination(argv, inside):
    """Return where mmdebstrap's `download` hook for `inside` would write."""
    word = next(word for word in argv if word.startswith(f"--customize-hook=download {inside} "))
    return Path(word.split()[-1])


def test_build_keeps_image_and_names(monkeypatch, tmp_path, quiet_debian):
    seen, given = [], []

    def fake(argv, *, input_bytes, **_kwargs):
        seen.append(argv)
        given.append(input_bytes.decode().splitlines())
        destination(argv, "/tmp/root.erofs").write_bytes(b"image")
        destination(argv, "/var/lib/dpkg/status").write_text(
            "Package: kmod\nStatus: install ok installed\nVersion: 1\n\n"
            "Package: gone\nStatus: deinstall ok config-files\n\n"
            "Package: bash\nEssential: yes\nStatus: install ok installed\nVersion: 5\n"
        )
        return proc.Result(tuple(argv), 0, "", "", 1.0)

    monkeypatch.setattr(roots.proc, "run", fake)
    ctx = context(tmp_path / "a cache", tmp_path)
    monkeypatch.setattr("shlex.quote", lambda text: text)  # the fake splits at the last blank only
    ctx = dataclasses.replace(ctx, cache=Cache(tmp_path / "cache"))
    path = roots.root_image(recipe(), ctx)
    assert path.read_bytes() == b"image"
    assert roots.packages_in(path) == {"kmod", "bash"}
    assert roots.root_image(recipe(), ctx) == path
    assert len(seen) == 1
    assert "--include=kmod,mawk" in seen[0]
    assert '--aptopt=Acquire::Check-Date "false";' in seen[0]
    assert [line.split()[4] for line in given[0]] == ["trixie", "trixie-updates", "trixie-security"]
    assert not [word for word in seen[0] if "://" in word], "a mirror's URL can have a password in it"


def test_failure_says_what_mmdebstrap_said(monkeypatch, tmp_path, quiet_debian):
    said = "I: running\nset -eu\nE: Unable to locate package nosuch\nE: mmdebstrap failed to run\n"
    monkeypatch.setattr(roots.proc, "run", lambda argv, **_k: proc.Result(tuple(argv), 25, "", said, 1.0))
    ctx = context(tmp_path / "cache", tmp_path)
    with pytest.raises(HostError, match="status 25") as caught:
        roots.root_image(recipe(), ctx)
    assert caught.value.details == ("E: Unable to locate package nosuch", "E: mmdebstrap failed to run")
    assert not list(ctx.cache.root.glob("root/*")), "nothing half made stays"


def test_a_root_for_which_there_is_no_room_is_not_begun(tmp_path):
    ctx = context(tmp_path / "cache", tmp_path)
    with pytest.raises(HostError, match=r"GiB free below .*, the root of Debian trixie needs 1074.2"):
        roots.root_image(recipe(size_hint_mib=1_100_000), ctx)


def test_mirror_out_of_reach(monkeypatch, tmp_path, quiet_debian):
    said = "Err:1 http://m.example/debian trixie InRelease\n  Temporary failure resolving 'm.example'\n"
    monkeypatch.setattr(roots.proc, "run", lambda argv, **_k: proc.Result(tuple(argv), 25, "", said, 1.0))
    with pytest.raises(HostError, match="cannot be reached"):
        roots.root_image(recipe(), context(tmp_path / "cache", tmp_path))


def test_mode_without_root(monkeypatch, tmp_path):
    monkeypatch.setattr(roots.os, "geteuid", lambda: 1000)
    monkeypatch.setattr(roots.shutil, "which", lambda _name: None)
    with pytest.raises(HostError, match="newuidmap"):
        roots._mode()
    monkeypatch.setattr(roots.shutil, "which", lambda _name: "/usr/bin/newuidmap")
    monkeypatch.setattr(roots, "_has_subordinate_ids", lambda: False)
    with pytest.raises(HostError, match="subordinate"):
        roots._mode()
    monkeypatch.setattr(roots, "_has_subordinate_ids", lambda: True)
    assert roots._mode() == "unshare"


UNSHARED = ("unshare", "--mount", "--propagation", "private", "--")
BOOTSTRAP = """\
#!/bin/sh
# Stands in for mmdebstrap: mounts what it fills, and is killed before it ends.
mkdir "$TMPDIR/proc"
mount -t tmpfs none "$TMPDIR/proc" || exit 1
touch "$TMPDIR/proc/mounted"
echo mounted >&2
sleep 300
"""


@pytest.mark.parametrize(
    ("uid", "there", "status", "words"),
    [(0, True, 0, UNSHARED), (0, True, 1, ()), (0, False, 0, ()), (1000, True, 0, ())],
    ids=["root", "forbidden", "no unshare", "not root"],
)
def test_what_stands_before_mmdebstrap(monkeypatch, tmp_path, uid, there, status, words):
    asked = []

    def fake(argv, **_kwargs):
        asked.append(tuple(argv))
        return proc.Result(tuple(argv), status, "", "", 0.1)

    monkeypatch.setattr(roots.os, "geteuid", lambda: uid)
    monkeypatch.setattr(roots.shutil, "which", lambda name: f"/usr/bin/{name}" if there else None)
    monkeypatch.setattr(roots.proc, "run", fake)
    assert roots._mounts_of_its_own() == words
    assert asked == ([(*UNSHARED, "true")] if uid == 0 and there else [])


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts as root")
def test_what_root_mounts_ends_with_the_build_that_is_stopped(monkeypatch, tmp_path):
    if not roots._mounts_of_its_own():
        pytest.skip("this host lets root unshare nothing")
    monkeypatch.setattr(roots.debian.Apt, "resolve", lambda self, *names: list(names))
    monkeypatch.setattr(roots.debian, "keyring", lambda: tmp_path / "k.gpg")
    program = tmp_path / "bin/mmdebstrap"
    program.parent.mkdir()
    program.write_text(BOOTSTRAP)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    stop = threading.Event()
    said = []

    def verbose(line):
        said.append(line)
        stop.set()

    ctx = dataclasses.replace(context(tmp_path / "cache", tmp_path), verbose=verbose, cancel=stop)
    with pytest.raises(BuildCancelled):
        roots.root_image(recipe(), ctx)
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    left = [place for place in mounts if place.startswith(str(tmp_path))]
    for place in left:
        subprocess.run(["umount", place], check=True)
    assert (said, left) == (["mounted"], [])
    assert not list(ctx.cache.root.glob("tmp/root*"))


def test_subordinate_ids(tmp_path):
    for name in ("subuid", "subgid"):
        (tmp_path / name).write_text("someone-else:100000:65536\n")
    assert not roots._has_subordinate_ids(tmp_path)
    for name in ("subuid", "subgid"):
        (tmp_path / name).write_text(f"{roots.os.getuid()}:100000:65536\n")
    assert roots._has_subordinate_ids(tmp_path)
    assert not roots._has_subordinate_ids(tmp_path / "none")


@pytest.mark.parametrize("path", sorted((HERE / "rootfs").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_recipes_are_plain(path):
    recipe = yaml.safe_load(path.read_text())
    assert recipe["description"]
    assert len(recipe["packages"]) == len(set(recipe["packages"]))


@pytest.mark.mirror
def test_real_root(tmp_path):
    ctx = dataclasses.replace(context(tmp_path / "a cache", tmp_path), mirror="")
    path = roots.root_image(own_files(tmp_path).model_copy(update={"packages": ()}), ctx)
    assert path.read_bytes()[1024:1028] == b"\xe2\xe1\xf5\xe0", "erofs's magic number"
    assert {"bash", "coreutils"} <= roots.packages_in(path)
    proc.run(["fsck.erofs", path], timeout_s=60)


@pytest.mark.parametrize("name", ["../../..", "/etc", "mine/../../../home", ".."])
def test_files_of_the_host_do_not_get_into_a_root(tmp_path, name):
    with pytest.raises(ValidationError, match="leads out of rootfs/"):
        RootRecipe(files=name)


def test_a_link_to_the_hosts_files_does_not_get_into_a_root(tmp_path):
    (tmp_path / "rootfs").mkdir()
    (tmp_path / "secret").mkdir()
    (tmp_path / "rootfs/mine").symlink_to("../secret")
    with pytest.raises(UserError, match="leads out of the lab"):
        roots.root_key(RootRecipe(files="mine"), tmp_path)


def test_fifos_and_devices_stay_out_of_a_root(tmp_path):
    own_files(tmp_path)
    os.mkfifo(tmp_path / "rootfs/mine/fifo")
    with tarfile.open(fileobj=io.BytesIO(roots._files_tar(tmp_path / "rootfs/mine"))) as tar:
        assert "fifo" not in tar.getnames()


def test_nobody_can_look_into_a_root_that_root_makes(monkeypatch, tmp_path, quiet_debian):
    seen = []

    def fake(argv, *, env, **_kwargs):
        place = Path(env["TMPDIR"])
        seen.append((argv, place, place.stat().st_mode & 0o777))
        (place / "left").write_text("as a kill leaves it")
        return proc.Result(tuple(argv), 25, "", "E: killed", 1.0)

    monkeypatch.setattr(roots.proc, "run", fake)
    monkeypatch.setattr(roots.os, "geteuid", lambda: 0)
    ctx = context(tmp_path / "cache", tmp_path)
    with pytest.raises(HostError):
        roots.root_image(recipe(), ctx)
    argv, place, mode = seen[0]
    assert place.is_relative_to(ctx.cache.root)
    assert mode == 0o700
    assert '--aptopt=APT::Sandbox::User "root";' in argv
    assert not place.exists()
