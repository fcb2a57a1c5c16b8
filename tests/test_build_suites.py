"""Test suites of others: what a recipe builds, in what surroundings, and what is blamed on whom."""

from __future__ import annotations

import subprocess
import tarfile
from pathlib import Path

import pytest
from build_fixtures import Bench

from kpatchlab.build import debian_sources, suites
from kpatchlab.build.built import Programs
from kpatchlab.build.foreign import build_foreign
from kpatchlab.errors import UserError
from kpatchlab.fence import Fence, Lack
from kpatchlab.lab.suites import read_suites
from kpatchlab.lab.yamlfile import Problems
from kpatchlab.model import Outcome
from tests import labdir

PROJECT = Path(__file__).parents[1]
MAIN = '#include <stdio.h>\nint main(void)\n{\n\tputs("here");\n\treturn 0;\n}\n'
RECIPE = """source: {type: dir, path: mine}
build: |
  gcc -o "$OUT/main" src/main.c
  echo "$OUT $JOBS $HOME" >"$OUT/said"
  ln -s /usr/bin/env link  # in the tree, which is thrown away
"""


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """A lab with the suite `mine`, whose root is the host's own system."""
    made = Bench(tmp_path)
    labdir.write(made.lab / "suites/mine/src/main.c", MAIN)
    labdir.write(made.lab / "suites/mine.yaml", RECIPE)
    monkeypatch.setattr(suites, "_unpacked", lambda *_: Path("/"))
    return made


def build(bench, name="mine"):
    return build_foreign(bench.recipe(), f"suites/{name}", bench.ctx)


def programs(bench, built):
    return bench.ctx.cache.path("suite", built.key) / "programs"


def test_what_a_recipe_leaves_is_what_a_guest_gets(bench):
    built = build(bench)
    assert (built.outcome, built.reason, built.cached) == (Outcome.PASS, "", False)
    folder = programs(bench, built)
    assert subprocess.run([folder / "main"], capture_output=True, text=True, check=True).stdout == "here\n"
    assert (folder / "said").read_text() == "/lab/suites/mine 2 /tmp\n"
    assert sorted(path.name for path in folder.iterdir()) == ["main", "said"]
    assert not list(folder.parent.glob("private"))


def test_what_is_cached_is_not_built_again(bench):
    first = build(bench)
    assert build(bench) == Programs(Outcome.PASS, "suite", first.key, cached=True)
    labdir.write(bench.lab / "suites/mine/src/main.c", MAIN.replace("here", "there"))
    assert build(bench).key != first.key
    labdir.write(bench.lab / "suites/mine.yaml", RECIPE + "packages: [gcc]\n")
    assert not build(bench).cached


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ("gcc -o $OUT/main src/gone.c", "fatal error: src/gone.c: No such file or directory"),
        ("echo 'int main(' >src/main.c; gcc -c src/main.c", "src/main.c:1: "),
        ("false; touch $OUT/x", ""),
        ("echo $NOT_SET >$OUT/x", "NOT_SET: unbound variable"),
        ("true", "its recipe left nothing in $OUT"),
        ("ln -s /etc/passwd $OUT/x; touch $OUT/y", "a link to /etc/passwd was left: x"),
        ("mkdir $OUT/a; touch $OUT/a/x; ln -s a $OUT/b", "b in $OUT is a link to a folder, and a guest gets files"),
        ("touch /usr/x", "Read-only file system"),
        ("truncate -s 300M $OUT/x", "300 MiB in $OUT, and a guest takes 256: strip programs, leave sources out"),
    ],
)
def test_what_does_not_build_blocks(bench, lines, reason):
    labdir.write(bench.lab / "suites/mine.yaml", f"source: {{type: dir, path: mine}}\nbuild: |\n  {lines}\n")
    built = build(bench)
    assert built.outcome is Outcome.BLOCKED
    assert built.reason.startswith("mine does not build: ")
    assert reason in built.reason


def test_a_build_has_no_network_and_nothing_of_the_users(bench, tmp_path, monkeypatch):
    labdir.write(tmp_path / "secret", "x")
    monkeypatch.setenv("SECRET", "x")
    lines = f"! cat {tmp_path}/secret; ! ls /root /home; echo ${{SECRET:-none}} >$OUT/x; cat /proc/net/dev >$OUT/net"
    labdir.write(bench.lab / "suites/mine.yaml", f"source: {{type: dir, path: mine}}\nbuild: |\n  {lines}\n")
    folder = programs(bench, build(bench))
    assert (folder / "x").read_text() == "none\n"
    assert [line.split(":")[0].strip() for line in (folder / "net").read_text().splitlines()[2:]] == ["lo"]


def test_what_is_not_there_is_skipped(bench, monkeypatch):
    def gone(*_: object) -> Path:
        raise UserError("Debian trixie has no source package mine")

    assert build(bench, "ltp") == Programs(Outcome.SKIP, reason="there is no suite ltp")
    assert build(bench, "mime") == Programs(Outcome.SKIP, reason="there is no suite mime; did you mean 'mine'?")
    monkeypatch.setattr(debian_sources.Apt, "fetch_upstream", gone)
    source = "{type: debian-upstream, package: mine, suite: trixie}"
    labdir.write(bench.lab / "suites/mine.yaml", f"source: {source}\nbuild: make\n")
    assert build(bench) == Programs(Outcome.SKIP, reason="Debian trixie has no source package mine")


def test_the_archive_of_a_source_package(bench, tmp_path, monkeypatch):
    labdir.write(tmp_path / "mine-9/src/main.c", MAIN)
    with tarfile.open(tmp_path / "mine_9.orig.tar.xz", "w:xz") as archive:
        archive.add(tmp_path / "mine-9", "mine-9")
    monkeypatch.setattr(debian_sources.Apt, "fetch_upstream", lambda *_: tmp_path / "mine_9.orig.tar.xz")
    source = "{type: debian-upstream, package: mine, suite: trixie}"
    labdir.write(bench.lab / "suites/mine.yaml", f"source: {source}\nbuild: cp -r src $OUT\n")
    assert (programs(bench, build(bench)) / "src/main.c").read_text() == MAIN


def test_a_suite_is_not_built_without_a_fence(bench, monkeypatch):
    monkeypatch.setattr("kpatchlab.fence.lacking", lambda: Lack("bubblewrap is not installed", "get it"))
    built = build(bench)
    assert built.outcome is Outcome.SKIP
    assert built.reason == "this host cannot run anything in a root of its own: bubblewrap is not installed"


def test_a_root_is_there_in_place_of_the_hosts(tmp_path):
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "lib64").symlink_to("usr/lib64")
    words = Fence(write=(tmp_path / "w",), root=tmp_path, at={tmp_path / "w": "/w"})._bwrap(tmp_path / "w", 3)
    text = " ".join(words)
    assert f"--ro-bind {tmp_path}/usr /usr " in text
    assert "--symlink usr/lib64 /lib64" in text
    assert f"--ro-bind-try {tmp_path}/etc /etc" in text.replace("/etc/ ", "/etc ").replace("/etc/ ", "/etc ")
    assert f"--bind {tmp_path}/w /w " in text
    assert text.endswith("--chdir /w")
    assert " /usr /usr " not in text.replace(f"{tmp_path}/usr", "")


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("build: make\n", "suites/mine.yaml:1: source: "),
        ("source: {type: dir, path: gone}\nbuild: make\n", "suites/mine.yaml:1: source.path: there is no suites/gone"),
        ("source: {type: debian-image, package: x, suite: y}\nbuild: make\n", "suites/mine.yaml:1: source.type: "),
        ("source: {type: dir, path: mine}\nbuild: ''\n", "suites/mine.yaml:2: build: "),
    ],
)
def test_recipes_that_are_wrong(bench, text, wrong):
    labdir.write(bench.lab / "suites/mine.yaml", text)
    problems = Problems(bench.lab)
    read_suites(bench.lab, problems)
    with pytest.raises(UserError) as caught:
        problems.raise_if_any()
    assert any(line.startswith(wrong) for line in caught.value.details), caught.value.details


def test_the_projects_own_recipes():
    problems = Problems(PROJECT)
    found = read_suites(PROJECT, problems)
    problems.raise_if_any()
    assert {"libkcapi", "ltp", "kirk", "blktests", "xfstests", "pynfs"} <= set(found)
