"""The lab's own copy of a user's tree: what it gets, what it keeps, and what a kill leaves."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kpatchlab.build import copies
from kpatchlab.build.source import source_of
from tests.build_fixtures import Bench


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def update(bench):
    """Bring the copy up to date; returns its folder."""
    tree = source_of(bench.recipe().source, bench.ctx)
    with copies.copy_of(tree, bench.ctx) as copy:
        return copy


def seen(folder: Path) -> dict[str, tuple[bytes | str, int]]:
    """Return path -> (what it holds, its time) of all files below."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            found[str(path.relative_to(folder))] = (os.readlink(path), 0)
        elif path.is_file():
            found[str(path.relative_to(folder))] = (path.read_bytes(), path.stat().st_mtime_ns)
    return found


def held(folder: Path) -> dict[str, bytes | str]:
    return {name: data for name, (data, _) in seen(folder).items()}


def test_a_copy_gets_what_changed_and_keeps_the_rest(bench):
    bench.write("net/added.c", "int added;\n")
    copy = update(bench)
    assert held(copy) == held(bench.tree)
    (copy / "net/added.o").write_bytes(b"built")
    before = seen(copy)

    bench.write("net/added.c", "int changed;\n")
    (bench.tree / "link").symlink_to("net/added.c")
    os.utime(bench.tree / "Makefile")  # another time, the same bytes
    update(bench)
    after = seen(copy)
    assert after["net/added.c"][0] == b"int changed;\n"
    assert after["link"] == ("net/added.c", 0)
    assert {name: now for name, now in after.items() if before.get(name) != now}.keys() == {"net/added.c", "link"}


def test_what_is_gone_goes_and_a_file_may_become_a_folder(bench):
    bench.write("net/one", "a file\n")
    bench.write("net/two/deep", "in a folder\n")
    copy = update(bench)
    (bench.tree / "net/one").unlink()
    (bench.tree / "net/two/deep").unlink()
    (bench.tree / "net/two").rmdir()
    bench.write("net/one/deep", "in a folder now\n")
    bench.write("net/two", "a file now\n")
    update(bench)
    assert held(copy) == held(bench.tree)


def test_a_copy_killed_midway_forgets_no_file_that_it_got(bench, monkeypatch):
    update(bench)
    bench.write("arch/new.c", "int first;\n")
    bench.sub("Makefile", "\n", "\n\n")
    bring = copies._bring

    def killed(source, target):
        if source.name == "Makefile":
            raise KeyboardInterrupt
        bring(source, target)

    monkeypatch.setattr(copies, "_bring", killed)
    with pytest.raises(KeyboardInterrupt):
        update(bench)
    monkeypatch.setattr(copies, "_bring", bring)
    (bench.tree / "arch/new.c").unlink()
    copy = update(bench)
    assert held(copy) == held(bench.tree), "neither the new file, nor the old Makefile"
