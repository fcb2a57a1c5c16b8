"""Series and trees that others made: nothing is read or written outside of the tree, and what cannot be is one line."""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import tarfile
import time

import pytest
from build_fixtures import Bench
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from kpatchlab.build import changes, diffs, patchset, posted
from kpatchlab.build.patchset import Patch
from kpatchlab.build.source import source_of
from kpatchlab.build.thread import thread_of
from kpatchlab.cli.app import Options
from kpatchlab.errors import LabError, UserError
from kpatchlab.files import read_input, read_within
from kpatchlab.lab import recipes
from kpatchlab.series.tree import Tree


@pytest.fixture
def bench(tmp_path):
    made = Bench(tmp_path)
    made.repository()
    return made


def new_file(name, text="int a;", mode="100644"):
    """Return a diff that makes a file; text without an end for a link."""
    end = "" if mode == "100644" else "\n\\ No newline at end of file"
    return (
        f"diff --git a/{name} b/{name}\nnew file mode {mode}\nindex 0000000..1111111\n--- /dev/null\n+++ b/{name}\n"
        f"@@ -0,0 +1 @@\n+{text}{end}\n"
    ).encode()


def link(name, target):
    return new_file(name, target, "120000")


def read(bench, **item):
    return patchset.read_series([TypeAdapter(recipes.Series).validate_python(item)], bench.ctx)


# ------------------------------------------------------------------------------- names


NAMES = [
    "../outside", "core/../../outside", ".git/config", ".GIT/config", "core/.git/hooks/x", "git~1/config", ".git /x",
    "obj/net.o", "obj", "./core/x.c", "core/./x.c", f"core/{'x' * 256}.c", "/".join(["d" * 200] * 25),
    ".g\u200cit/config",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["mbox", "patches", "quilt"])
def test_names_that_no_tree_has_are_refused_when_the_series_is_read(bench, name, kind):
    folder = bench.root / "patches"
    folder.mkdir()
    (folder / "0001.patch").write_bytes(b"From: A <a@b.c>\nSubject: [PATCH] a\n\nWhy.\n---\n" + new_file(name))
    (folder / "series").write_text("0001.patch\n")
    where = str(folder / "0001.patch") if kind == "mbox" else str(folder)
    with pytest.raises(UserError, match="it has the file"):
        read(bench, type=kind, path=where)
    assert not (bench.root / "outside").exists()


@pytest.mark.parametrize(
    "name", [*NAMES, "core/new.c", "a..b/c", ".github/x", "core/.gitignore", "objects/x", "...", "a~1/x"]
)
def test_no_name_passes_that_git_refuses(bench, name):
    words = ["git", "apply", "--check", "-"]
    env = {**os.environ, "GIT_DIR": "/dev/null"}
    done = subprocess.run(words, cwd=bench.tree, input=new_file(name), capture_output=True, env=env, check=False)
    assert done.returncode == 0 or diffs.unfit(name)
    assert not diffs.unfit("core/new.c")


def test_a_name_that_only_git_sees_is_checked_as_well(bench):
    """A traditional diff whose names differ: git may take the other one."""
    data = b"--- a/core/x.c\n+++ b/core/../../outside\n@@ -0,0 +1 @@\n+a\n"
    for strip in (0, 1):
        with pytest.raises(UserError):
            patchset.apply_patch(Patch("x", "", data, strip), bench.tree)
    assert not (bench.root / "outside").exists()


# ------------------------------------------------------------------------------- links


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("MAINTAINERS", "/etc/hostname"), ("core/x", "../../outside"), ("Kconfig2", "/dev/zero"), ("x",
        "/proc/self/mem"),
        ("scripts/x", "../.."), ("x", "."), ("x", "core/../.."), ("x", "../linux/core"), ("core/x",
        "../drivers/../../x"),
    ],
)  # fmt: skip
def test_links_that_lead_out_of_the_tree_are_refused(bench, name, target):
    with pytest.raises(UserError, match="a symbolic link to"):
        patchset.apply_series([Patch("x", "", link(name, target))], bench.tree, bench.ctx)
    assert not os.path.lexists(bench.tree / name)


def test_a_link_that_a_later_one_would_turn_outwards_is_refused(bench):
    first, second = link("core/m", "l/../../../x"), link("core/l", "../drivers/beta")
    with pytest.raises(UserError, match="a symbolic link to"):
        patchset.apply_series([Patch("1", "", first), Patch("2", "", second)], bench.tree, bench.ctx)


def test_links_inside_of_the_tree_are_made(bench):
    patchset.apply_series([Patch("x", "", link("drivers/net.c", "../core/net.c"))], bench.tree, bench.ctx)
    assert (bench.tree / "drivers/net.c").read_text() == (bench.tree / "core/net.c").read_text()
    assert changes.reader(bench.tree)("drivers/net.c") == b"../core/net.c"


def test_what_the_lab_reads_of_a_tree_is_the_trees_own(bench):
    os.mkfifo(bench.tree / "fifo")
    for name, target in (("MAINTAINERS", "/etc/hostname"), ("zero", "/dev/zero"), ("ff", "fifo"), ("d", "/etc")):
        (bench.tree / name).symlink_to(target)
    (bench.tree / "inside").symlink_to("core/net.c")
    for name in ("MAINTAINERS", "zero", "ff", "fifo", "d/hostname", "../patches", "core", "x\0y", "n" * 300):
        assert read_within(bench.tree, name) is None
        assert not changes.reader(bench.tree)(name) or name in {"MAINTAINERS", "zero", "ff"}
    assert read_within(bench.tree, "inside") == (bench.tree / "core/net.c").read_bytes()


def test_a_walk_writes_nothing_behind_a_link_of_the_tree(bench, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "key").write_text("secret\n")
    folder = tmp_path / "walk"
    (folder / "tree").mkdir(parents=True)
    (folder / "tree/d").symlink_to(outside)
    text = "--- a/d/key\n+++ b/d/key\n@@ -1 +1 @@\n-secret\n+other\n"
    tree = Tree(folder, [Patch("x", "", text.encode())])
    assert tree.apply().how == "no"
    tree = Tree(folder, [Patch("x", "", new_file("d/new"))])
    tree.apply()
    with pytest.raises(UserError, match="symbolic link"):
        tree.settle()
    assert sorted(p.name for p in outside.iterdir()) == ["key"]
    assert (outside / "key").read_text() == "secret\n"


def test_a_walk_turns_links_into_folders_and_back(tmp_path):
    folder = tmp_path / "walk"
    (folder / "tree/real").mkdir(parents=True)
    (folder / "tree/real/x").write_text("x\n")
    (folder / "tree/d").symlink_to("real")
    gone = b"diff --git a/d b/d\ndeleted file mode 120000\n--- a/d\n+++ /dev/null\n@@ -1 +0,0 @@\n-real\n"
    gone += b"\\ No newline at end of file\n"
    tree = Tree(folder, [Patch("x", "", gone + new_file("d/y"))])
    assert tree.apply().how == "strict"
    tree.settle()
    assert (folder / "tree/d/y").read_text() == "int a;\n"
    tree = Tree(folder, [Patch("x", "", new_file("z"))])
    tree.apply()
    tree.settle()
    assert os.readlink(folder / "tree/d") == "real"


# ------------------------------------------------------------------------------- files that are none, or endless


@pytest.fixture
def odd(bench):
    """Return paths that are no regular files of a bounded size."""
    folder = bench.root / "odd"
    folder.mkdir()
    os.mkfifo(folder / "fifo")
    (folder / "zero").symlink_to("/dev/zero")
    (folder / "tty").symlink_to("/dev/tty")
    with (folder / "huge").open("wb") as handle:
        handle.truncate(1 << 40)
    return folder


@pytest.mark.parametrize("name", ["fifo", "zero", "tty", "huge"])
def test_series_that_are_no_files_are_refused_at_once(bench, odd, name):
    began = time.monotonic()
    told = {"fifo": "a fifo", "zero": "a device", "tty": "a device", "huge": "larger than"}[name]
    with pytest.raises(UserError, match=told):
        read(bench, type="mbox", path=str(odd / name))
    (odd / "quilt").mkdir()
    (odd / "quilt/series").symlink_to(odd / name)
    with pytest.raises(UserError, match=told):
        read(bench, type="quilt", path=str(odd / "quilt"))
    (odd / "patches").mkdir()
    (odd / "patches/0001.patch").symlink_to(odd / name)
    with pytest.raises(UserError, match=told):
        read(bench, type="patches", path=str(odd / "patches"))
    (odd / "series").write_text(f"{name}\n")
    with pytest.raises(UserError, match=told):
        read(bench, type="quilt", path=str(odd))
    assert thread_of("with", [recipes.MboxSeries(type="mbox", path=str(odd / name))], bench.ctx) is None
    assert time.monotonic() - began < 5


def test_an_archive_that_unpacks_to_too_much_is_refused(bench):
    path = bench.root / "s.mbox.gz"
    block = subprocess.run(["gzip", "-c"], input=bytes(1 << 20), capture_output=True, check=True).stdout
    path.write_bytes(block * 200)
    with pytest.raises(UserError, match="unpacks to more than 128 MiB"):
        read(bench, type="mbox", path=str(path))
    path.write_bytes(block[:100])
    with pytest.raises(UserError, match="cannot be unpacked"):
        read(bench, type="mbox", path=str(path))


def test_a_mailbox_of_a_million_mails_is_no_series(bench):
    path = bench.root / "s.mbox"
    path.write_bytes(b"From a Mon Sep 17 00:00:00 2001\nSubject: x\n\n\n" * 100_000)
    began = time.monotonic()
    with pytest.raises(UserError, match="more than 20000 mails"):
        read(bench, type="mbox", path=str(path))
    assert time.monotonic() - began < 5


def test_an_endless_standard_input_is_refused(monkeypatch):
    with open("/dev/zero", "rb") as zero:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(zero))
        with pytest.raises(UserError, match="standard input: larger than"):
            Options().stdin()


def test_a_folder_of_very_many_patches_is_no_series(bench):
    folder = bench.root / "patches"
    folder.mkdir()
    for number in range(2001):
        (folder / f"{number}.patch").touch()
    (folder / "series").write_text("".join(f"{number}.patch\n" for number in range(2001)))
    for kind in ("patches", "quilt"):
        with pytest.raises(UserError, match="2001 patches, and at most 2000"):
            read(bench, type=kind, path=str(folder))


@pytest.mark.parametrize("limit", [4, 1 << 20])
def test_a_file_of_just_the_limit_is_read(tmp_path, limit):
    path = tmp_path / "x"
    path.write_bytes(bytes(limit))
    assert len(read_input(path, limit)) == limit
    path.write_bytes(bytes(limit + 1))
    with pytest.raises(UserError, match="larger than"):
        read_input(path, limit)


# ------------------------------------------------------------------------------- mails that git refuses


def test_a_mailbox_that_git_refuses_is_the_users_file_and_the_mail_is_named(bench, monkeypatch):
    mail = "From: A <a@b.c>\nSubject: [PATCH {0}/2] net: {0}\n\n---\n" + new_file("core/{0}.c").decode()
    text = "".join(f"From a Mon Sep 17 00:00:00 2001\n{mail.format(n)}\n" for n in (1, 2))
    folder = bench.root / "bin"
    folder.mkdir()
    program = folder / "git"
    program.write_text(
        '#!/bin/sh\ncase "$*" in *mailinfo*) cat > /tmp/kpl.$$; if grep -q "2/2" /tmp/kpl.$$; then rm /tmp/kpl.$$; '
        "echo 'error: cannot convert from x to UTF-8' >&2; exit 1; fi; "
        'PATH=${PATH#*:} git "$@" < /tmp/kpl.$$; rm /tmp/kpl.$$; exit 0;; *) PATH=${PATH#*:} exec git "$@";; esac\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    with pytest.raises(
        UserError, match=r"s\.mbox \[2/2\] \(\[PATCH 2/2\] net: 2\): git cannot read this mail: .*convert"
    ):
        posted.read(text.encode(), "s.mbox")


def test_what_is_no_mailbox_is_told(bench):
    path = bench.root / "s.mbox"
    for data in (b"", b"\0" * 1000, b"hello\n", b"From \n", b"From: \n", b"\x1f\x8b", b"\xff" * 50):
        path.write_bytes(data)
        with pytest.raises(UserError):
            read(bench, type="mbox", path=str(path))


# ------------------------------------------------------------------------------- trees


def tarball(bench, *members):
    """Write a kernel tree as an archive, with members of a kind of their own in it."""
    path = bench.root / "linux.tar"
    with tarfile.open(path, "w") as tar:
        tar.add(bench.tree, "linux", filter=lambda info: None if "/.git" in info.name else info)
        for name, kind, data in members:
            info = tarfile.TarInfo(f"linux/{name}")
            info.type, info.size, info.mode = kind, len(data), 0o6755
            if kind == tarfile.CHRTYPE:
                info.devmajor, info.devminor = 1, 5
            tar.addfile(info, io.BytesIO(data))
    return source_of(recipes.TarballSource(type="tarball", path=str(path)), bench.ctx)


@pytest.mark.parametrize(("kind", "told"), [(tarfile.FIFOTYPE, "is a fifo"), (tarfile.CHRTYPE, "device")])
def test_a_tarball_with_a_fifo_or_a_device_is_refused(bench, kind, told):
    into = bench.root / "tree"
    into.mkdir()
    with pytest.raises(UserError, match=told):
        tarball(bench, ("core/odd", kind, b"")).write_tree(into)


@pytest.mark.parametrize(
    "members",
    [
        [("../../outside", tarfile.REGTYPE, "")],
        [("out", tarfile.SYMTYPE, ".."), ("out/../outside", tarfile.REGTYPE, "")],
        [("out", tarfile.SYMTYPE, "../.."), ("out/outside", tarfile.REGTYPE, "")],
        [("out", tarfile.SYMTYPE, "{root}"), ("out/outside", tarfile.REGTYPE, "")],
        [("hard", tarfile.LNKTYPE, "{root}/secret"), ("hard", tarfile.REGTYPE, "")],
        [("{root}/outside", tarfile.REGTYPE, "")],
    ],
)
def test_a_tarball_writes_nothing_outside_and_brings_nothing_in(bench, members):
    secret = bench.root / "secret"
    secret.write_text("key")
    into = bench.root / "a/b/tree"
    into.mkdir(parents=True)
    source = tarball(bench)
    with tarfile.open(bench.root / "linux.tar", "a") as tar:
        for name, kind, target in members:
            info = tarfile.TarInfo(name.format(root=bench.root) if name.startswith("{") else f"linux/{name}")
            info.type, info.linkname, info.size = kind, target.format(root=bench.root), 4 * (kind == tarfile.REGTYPE)
            tar.addfile(info, io.BytesIO(b"evil"))
    with contextlib.suppress(LabError):
        source.write_tree(into)
    assert secret.read_text() == "key"
    assert not [path for path in bench.root.rglob("outside") if not path.resolve().is_relative_to(into)]
    assert not [path for path in into.rglob("*") if path.is_file() and not path.is_symlink() and path.samefile(secret)]


def test_a_tarball_loses_set_uid_bits_and_what_is_gits(bench):
    into = bench.root / "tree"
    into.mkdir()
    members = [(name, tarfile.REGTYPE, b"x") for name in ("core/tool", ".git/config", "core/.git/hooks/post-checkout")]
    tarball(bench, *members).write_tree(into)
    assert (into / "core/tool").stat().st_mode & 0o7000 == 0
    assert not (into / ".git").exists()
    assert not (into / "core/.git").exists()


def test_a_tree_with_something_where_the_lab_builds_is_refused(bench):
    into = bench.root / "tree"
    into.mkdir()
    with pytest.raises(UserError, match="file or folder named obj"):
        tarball(bench, ("obj/vmlinux", tarfile.REGTYPE, b"x")).write_tree(into)


def test_a_directory_with_a_fifo_for_a_file_is_told(bench):
    (bench.tree / "core/net.c").unlink()
    os.mkfifo(bench.tree / "core/net.c")
    into = bench.root / "tree"
    into.mkdir()
    with pytest.raises(UserError, match=r"core/net\.c is a fifo"):
        source_of(recipes.DirSource(type="dir", path=str(bench.tree)), bench.ctx).write_tree(into)


@pytest.mark.parametrize("git", [True, False])
def test_odd_files_beside_a_directorys_own_and_what_was_built_in_obj_stay_there(bench, git):
    if not git:
        subprocess.run(["rm", "-rf", bench.tree / ".git"], check=True)
    os.mkfifo(bench.tree / "core/fifo")
    bench.write("obj/vmlinux.c", "built\n")
    into = bench.root / "tree"
    into.mkdir()
    source_of(recipes.DirSource(type="dir", path=str(bench.tree)), bench.ctx).write_tree(into)
    assert not (into / "core/fifo").exists()
    assert not (into / "obj").exists()
    assert (into / "core/net.c").exists()


# ------------------------------------------------------------------------------- which files a patch changes


def commits(bench):
    """Make commits of every kind that git knows."""
    names = ["core/a b.c", "core/\u00fc.c", 'core/q".c', "core/tab\t.c", "core/-- x", "core/b/a b/c", "core/ends "]
    for number, name in enumerate(names):
        bench.write(name, f"int a{number};\n-- old\n")
    bench.write("core/minus.sql", "-- one\n-- two/three x\n--- four\n+++ five\nkeep\n")
    (bench.tree / "core/x.bin").write_bytes(bytes(range(256)) * 8)
    yield "new files"
    for name in names:
        bench.write(name, (bench.tree / name).read_text().replace("-- old\n", "int b;\n"))
    bench.write("core/minus.sql", "++ b/x\nkeep\n")
    yield "change"
    (bench.tree / "core/x.bin").write_bytes(b"\0" * 100)
    bench.write("core/empty", "")
    (bench.tree / "core/net.c").chmod(0o755)
    yield "binary, empty, mode"
    bench.git("mv", "core/a b.c", "drivers/a c.c")
    bench.git("mv", 'core/q".c', 'core/q"2.c')
    bench.git("mv", "core/x.bin", "core/y.bin")
    yield "renames"
    bench.write("drivers/a c.c", "int a0;\nint c;\nint b;\n")
    bench.git("mv", "core/\u00fc.c", "core/\u00e4.c")
    (bench.tree / "core/ends ").unlink()
    (bench.tree / "core/empty").unlink()
    (bench.tree / "core/link").symlink_to("net.c")
    yield "rename with change, deletions, a link"
    (bench.tree / "core/link").unlink()
    bench.write("core/link", "no link\n")
    bench.write("core/noend", "one\ntwo")
    yield "type change, no end of line"
    bench.write("core/noend", "one\ntwo\n")
    yield "end of line"


def test_the_files_of_a_patch_are_those_that_git_says(bench):
    for title in commits(bench):
        bench.git("add", "-A")
        bench.git("commit", "-qm", title)
        for options in ([], ["-M", "-C", "--find-copies-harder"], ["--no-renames"], ["-M", "--no-prefix"], ["-U0"]):
            words = ["git", "-C", bench.tree, "diff", "--binary", *options, "HEAD~1"]
            data = subprocess.run(words, check=True, capture_output=True).stdout
            words = ["git", "-C", bench.tree, "diff", "--name-status", "-z", *options, "HEAD~1"]
            rows = subprocess.run(words, check=True, capture_output=True).stdout.decode().split("\0")[:-1]
            expected, at = set(), 0
            while at < len(rows):
                moved = rows[at][0] in "RC"
                names = rows[at + 1 : at + 2 + moved]
                expected |= set(names[rows[at][0] == "C" :])
                at += 2 + moved
            strip = 0 if "--no-prefix" in options else 1
            assert set(diffs.files_of(data, strip)) == expected, (title, options)
            assert patchset.changed_files([Patch("x", "", data, strip)]) == sorted(expected)


def test_hunks_are_those_that_git_applies(bench):
    base = bench.git("rev-parse", "HEAD")
    for title in commits(bench):
        bench.git("add", "-A")
        bench.git("commit", "-qm", title)
    patches = read(bench, type="git", path=str(bench.tree), range=f"{base}..HEAD")

    def at(revision):
        def content(name):
            done = subprocess.run(
                ["git", "-C", bench.tree, "show", f"{revision}:{name}"], check=False, capture_output=True
            )
            return done.stdout if done.returncode == 0 else None

        return content

    found = changes.Replay(patches, at(base)).run(at("HEAD"))
    unread = [text for patch in found.patches for text in patch.unread]
    assert all("binary" in text for text in unread), unread


# ------------------------------------------------------------------------------- made inputs


PIECES = st.sampled_from(
    [
        "diff --git a/x b/x", "diff --git a/x b/y", 'diff --git "a/x" b/x', "--- a/x", "+++ b/x", "--- /dev/null",
        "+++ /dev/null",
        "@@ -1 +1 @@", "@@ -1,3 +1,3 @@", "@@ -0,0 +1 @@", "@@ -1,0 +2 @@", "@@ -999999999 +1 @@", "@@ @@", "-a",
        "+b", " c", "",
        "\\ No newline at end of file", "new file mode 100644", "new file mode 120000", "deleted file mode 100644",
        "rename from x", "rename to y", "copy from x", "copy to z", "old mode 100644", "new mode 100755",
        "similarity index 90%",
        "index 1..2 100644", "GIT binary patch", "literal 5", "delta 3", "Binary files a/x and b/x differ", "-- ",
        "\x0c", "\r",
        "From a Mon Sep 17 00:00:00 2001", "Subject: [PATCH 1/2] a", "Subject: =?utf-8?q?=ff?=", "Message-Id: <1@x>",
        "References: <1@x> <2@x>", "From: a <a@b>", "To: " + "(" * 300, "Content-Type: text/plain; charset=x-none",
        "Content-Transfer-Encoding: base64", "Content-Type: multipart/mixed; boundary=a", "--a", "[PATCH v2 2/2]",
        "\udcff", "\0",
    ]
)  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(PIECES, max_size=30))
def test_no_mailbox_is_a_traceback(pieces):
    data = "\n".join(pieces).encode("utf-8", "surrogateescape")
    try:
        patches = patchset.split_mbox(data, "s")
    except LabError:
        return
    for patch in patches:
        patchset.changed_files([patch])


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(PIECES, max_size=40), st.integers(0, 3))
def test_no_patch_is_a_traceback(pieces, strip):
    data = "\n".join(pieces).encode("utf-8", "surrogateescape")
    patch = Patch("x", "", data, strip)
    names = diffs.files_of(data, strip)
    assert len(names) == len(set(names))
    diffs.essence(data)
    changes.Replay([patch, patch], lambda name: b"a\nc\nb\n").run(lambda name: b"b\nc\n")


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(PIECES, max_size=25))
def test_no_mail_breaks_the_thread(tmp_path_factory, pieces):
    global folder  # noqa: PLW0603 - one for all examples
    folder = folder or Bench(tmp_path_factory.mktemp("thread"))
    path = folder.root / "s.mbox"
    path.write_bytes("\n".join(pieces).encode("utf-8", "surrogateescape"))
    thread_of("with", [recipes.MboxSeries(type="mbox", path=str(path))], folder.ctx)


folder = None


def seconds(call, *arguments):
    began = time.process_time()
    call(*arguments)
    return time.process_time() - began


def hostile(kind, size):
    """Return a patch of some size that is dear to read, and the file that it is for."""
    if kind == "one line again and again":
        body = b"a\n" * (size // 4)
        hunk = b" a\n" * (size // 20) + b"-b\n+c\n"
        count = size // 20 + 1
        return b"--- a/x\n+++ b/x\n@@ -9,%d +9,%d @@\n" % (count, count) + hunk, body
    if kind == "many hunks":
        lines = [b"l%d\n" % n for n in range(size // 16)]
        hunks = b"".join(b"@@ -%d +%d @@\n-l%d\n+m%d\n" % (n + 1, n + 1, n, n) for n in range(0, size // 16, 3))
        return b"--- a/x.c\n+++ b/x.c\n" + hunks, b"".join(lines)
    if kind == "blank lines behind":
        return b"--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n" + b"\n" * size, b"a\n"
    if kind == "no hunk is whole":
        return b"--- a/x\n+++ b/x\n@@ -1,99999 +1,99999 @@\n" * (size // 48), b"a\n"
    if kind == "many files":
        return b"".join(b"--- a/f%d.c\n+++ b/f%d.c\n@@ -1 +1 @@\n-a\n+b\n" % (n, n) for n in range(size // 50)), b"a\n"
    if kind == "names with blanks":
        return b"diff --git " + b"a " * min(size // 2, 8000) + b"\n", b""
    if kind == "deep braces":
        return b"--- a/x.c\n+++ b/x.c\n@@ -1 +1,2 @@\n a\n+" + b"{" * (size // 40) + b"\n", b"a\n"
    return b"--- a/x.c\n+++ b/x.c\n@@ -1 +1,%d @@\n a\n" % (size // 8 + 1) + b"+#if a\n" * (size // 8), b"a\n"


KINDS = [
    "one line again and again", "many hunks", "blank lines behind", "no hunk is whole", "many files",
    "names with blanks",
    "deep braces", "nested conditions",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_time_grows_with_the_size_of_a_patch(kind):
    def replay(size):
        data, file = hostile(kind, size)
        diffs.essence(data)
        changes.Replay([Patch("x", "", data)], lambda name: file).run(lambda name: file)

    small, large = seconds(replay, 1 << 17), seconds(replay, 1 << 20)
    assert large < 5
    assert large < 40 * max(small, 0.02), (small, large)


@pytest.mark.parametrize(
    "head",
    [
        "Subject: " + "[" * 100_000, "Subject: " + "[a" * 50_000 + "]" * 50_000, "Subject: " + "=?" * 50_000,
        "Subject: " + "Re: " * 30_000, "To: " + "(" * 100_000, "To: " + '"' * 99_999, "To: " + "a@b," * 50_000,
        "References: " + "<a@b> " * 30_000, "Message-Id: " + "<" * 100_000, "X: a\n" * 50_000, "From: " + "a" * 200_000,
        "Subject: =?utf-\ufffd?q?a?=",
        "Subject: " + "=?utf-8?q?a?= " * 10_000, "Subject: " + "[1/2]" * 20_000, "Cc: " + "a " * 60_000,
    ],
)  # fmt: skip
def test_no_header_keeps_the_lab_busy(bench, head):
    path = bench.root / "s.mbox"
    path.write_text(
        f"From: A <a@b.c>\nMessage-Id: <1@x>\n{head}\nSubject: [PATCH] a\n\nWhy.\n---\n{new_file('core/x.c').decode()}"
    )

    def both():
        with contextlib.suppress(UserError):
            read(bench, type="mbox", path=str(path))
        thread_of("with", [recipes.MboxSeries(type="mbox", path=str(path))], bench.ctx)

    assert seconds(both) < 2


def test_every_message_is_one_line(bench):
    for name in ("core/\x1b[31m../../x", "../a\nb"):
        quoted = '"a/' + re.sub(r"[\x00-\x1f]", lambda m: f"\\{ord(m[0]):03o}", name) + '"'
        data = (
            new_file("NAME")
            .replace(b"a/NAME", quoted.encode())
            .replace(b"b/NAME", quoted.replace("a/", "b/", 1).encode())
        )
        (bench.root / "x.patch").write_bytes(data)
        with pytest.raises(UserError) as caught:
            read(bench, type="mbox", path=str(bench.root / "x.patch"))
        assert "\n" not in caught.value.message
        assert "\x1b" not in caught.value.message
