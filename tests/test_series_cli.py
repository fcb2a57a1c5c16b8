"""`kpatchlab series` as it is typed: what it prints, leaves behind and exits with."""

from __future__ import annotations

import json

import pytest
import yaml
from series_fixtures import SeriesBench

from kpatchlab.host import packages
from kpatchlab.series.values import Applied, PatchBuild, PatchResult, Walk
from tests import labdir

pytestmark = pytest.mark.toy


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """A lab whose kernel `with` is the fake tree with a made series, and `without` the tree alone."""
    made = SeriesBench(tmp_path)
    labdir.make(made.lab)
    first = made.git("rev-parse", "HEAD")
    recipe = {"source": {"type": "git", "path": str(made.tree), "revision": first}, "config": ["config/all.config"]}
    (made.lab / "kernels/old.yaml").write_text(yaml.safe_dump(recipe))
    recipe["series"] = [{"type": "patches", "path": str(made.patches)}]
    (made.lab / "kernels/new.yaml").write_text(yaml.safe_dump(recipe))
    monkeypatch.chdir(made.lab)
    monkeypatch.setenv("KPATCHLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("kpatchlab.build.context.BuildContext.check_space", lambda _: None)
    monkeypatch.setattr(packages, "missing", lambda stages: [])
    return made


def test_the_table_the_files_and_the_status(bench, call):
    bench.patch("net: a word", ("core/net.c", "int core_send(int flags)\n{", "/* why */\nint core_send(int flags)\n{"))
    bench.patch("delta: break", ("drivers/delta.c", "core_send(0);", "core_send(0;"))
    status, out, err = call("series")
    assert status == 1
    assert "patch 2: delta: break: 1 objects" in err
    assert "   2  modules: delta: drivers/delta.c:6: " in out
    folder = next((bench.lab / "results/series").iterdir())
    assert {"index.html", "junit.xml", "series.json", "patches"} <= {path.name for path in folder.iterdir()}
    status, out, err = call("series", "with", "--format", "json")
    assert (status, json.loads(out)["objects"]["clean_builds"]) == (1, 14)
    assert "patch 2: delta: break: known" in err
    status, out, err = call("series", "with", "--format", "junit", "-o", str(bench.root / "junit.xml"))
    assert (status, out) == (1, "")
    assert (bench.root / "junit.xml").read_bytes().startswith(b"<?xml")


def test_a_series_without_fault_ends_with_status_0(bench, call):
    bench.patch("net: a word", ("core/net.c", "int core_send(int flags)\n{", "/* why */\nint core_send(int flags)\n{"))
    assert call("series")[0] == 0


def test_a_walk_that_is_stopped_at_once_says_how_to_go_on(bench, call, monkeypatch):
    base = PatchResult(0, "the tree without any patch", "", "", Applied("strict"), built=PatchBuild())
    done = Walk("with", "a tree", "2 patches", "gcc", ("W=1",), (base,), "", 0.0, complete=False)
    monkeypatch.setattr("kpatchlab.series.walk", lambda *_: (done, bench.root / "found"))
    status, out, err = call("series", "--allmodconfig", "--coccicheck", "--fresh")
    assert status == 130
    assert "stopped before the last patch" in out
    assert "series with --allmodconfig --coccicheck\n" in err.split("stopped; to go on: ")[1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["without"], "kernel without has no series"),
        (["wiht"], "no such kernel: wiht"),
        (["with"], "there is no patch in it"),
    ],
)
def test_what_cannot_be_walked_is_one_line_and_status_2(bench, call, words, said):
    status, out, err = call("series", *words)
    assert (status, out) == (2, "")
    assert said in err
    assert len(err.strip().splitlines()) == 2  # the line and its hint


def test_a_folder_for_a_file_is_one_line(bench, call):
    bench.patch("net: a word", ("core/net.c", "int core_send(int flags)\n{", "/* why */\nint core_send(int flags)\n{"))
    status, _, err = call("series", "with", "--format", "junit", "-o", str(bench.root))
    assert status == 2
    assert f"kpatchlab: {bench.root} is a folder\nhint: a file in it: -o {bench.root}/NAME\n" in err
