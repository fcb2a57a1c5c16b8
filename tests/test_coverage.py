"""From a guest's counters to shares, tables, LCOV and Cobertura; gcc and gcov are the host's own."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import subprocess
import sys
import tarfile
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from kpatchlab.build.changes import AddedLine, Changes, Hunk, PatchChanges
from kpatchlab.errors import UserError
from kpatchlab.lab.load import load
from kpatchlab.model import Outcome
from kpatchlab.report.coverage import cobertura, lcov, lines
from kpatchlab.store.store import Store
from kpatchlab.variants import coverage
from kpatchlab.variants.coverage import Coverage
from tests import labdir
from tests.sample_run import job, sample

SOURCE = """\
#include "../include/a.h"

int small(int a)
{
	if (a > 5)
		return a * 3;
	return twice(a);
}

int main(int argc, char **argv)
{
	return small(argc) == 2 ? 0 : 1;
}
"""
HEADER = "static inline int twice(int a)\n{\n\treturn a * 2;\n}\n"
TREE_FILE, TREE_HEADER = "net/a.c", "include/a.h"


@pytest.fixture
def built(tmp_path):
    """Return (artifact, counters): a program built in obj/ of a tree as a kernel is, and its counts of two runs."""
    tree = tmp_path / "tree"
    for name, text in ((TREE_FILE, SOURCE), (TREE_HEADER, HEADER)):
        labdir.write(tree / name, text)
    obj = tree / "obj"
    (obj / "net").mkdir(parents=True)
    flags = ["-O0", "-fprofile-arcs", "-ftest-coverage"]
    subprocess.run(["gcc", *flags, "-c", "../net/a.c", "-o", "net/a.o"], cwd=obj, check=True)
    subprocess.run(["gcc", *flags, "net/a.o", "-o", "program"], cwd=obj, check=True)
    for _ in range(2):
        subprocess.run([obj / "program"], check=True)
    artifact = tmp_path / "artifact"
    (artifact / "gcno/net").mkdir(parents=True)
    (obj / "net/a.gcno").rename(artifact / "gcno/net/a.gcno")
    (artifact / "gcno/objects").write_text(f"{obj}\n")
    return artifact, {str(obj / "net/a.gcda").lstrip("/"): (obj / "net/a.gcda").read_bytes()}


def packed(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def hunk(file, *numbers, added=None, number=1):
    text = {TREE_FILE: SOURCE, TREE_HEADER: HEADER}.get(file, "\n" * 99).split("\n")
    return Hunk(
        file, number, tuple(AddedLine(n, text[n - 1]) for n in numbers), len(numbers) if added is None else added
    )


CHANGES = Changes((
    PatchChanges(1, "first", (TREE_FILE,), (hunk(TREE_FILE, 4, 5, 6, 7), hunk(TREE_FILE, added=2, number=2))),
    PatchChanges(2, "second", (TREE_HEADER,), (hunk(TREE_HEADER, 3), hunk("net/b.c", 3), hunk("net/c.c"))),
))  # fmt: skip


def collected(tmp_path, built, *scenarios):
    artifact, counters = built
    jobs = []
    for scenario in scenarios:
        made = job(scenario, "with-coverage", {"a": Outcome.PASS}, roles=("guest",))
        packed(tmp_path / "run" / Path(made.guests[0].console).parent / "gcov-guest.tar", counters)
        jobs.append(made)
    jobs.append(job("died", "with-coverage", {"a": Outcome.CRASH}, roles=("guest",)))
    run = dataclasses.replace(sample(), jobs=tuple(jobs))
    (found,) = coverage.collect(run, tmp_path / "run", {"with-coverage": (artifact, "key", CHANGES)})
    return found


def test_counters_give_lines_of_the_tree(tmp_path, built):
    artifact, counters = built
    rows = set(coverage.read_counters(packed(tmp_path / "c.tar", counters), artifact))
    assert {(TREE_FILE, 5, 2), (TREE_FILE, 6, 0), (TREE_FILE, 7, 2), (TREE_HEADER, 3, 2)} <= rows


def test_counters_under_names_of_other_places_are_left_alone(tmp_path, built):
    """A guest's tar is a guest's: what climbs out, has no notes or is no counter is not read."""
    artifact, counters = built
    (data,) = counters.values()
    bad = {"../../etc/a.gcda": data, "/etc/b.gcda": data, next(iter(counters)).replace("a.gcda", "z.gcda"): data}
    assert list(coverage.read_counters(packed(tmp_path / "c.tar", bad), artifact)) == []
    long = packed(tmp_path / "e.tar", {f"{'d' * 300}/{'x/' * 3000}a.gcda": data, **bad})
    assert list(coverage.read_counters(long, artifact)) == []
    whole = packed(tmp_path / "f.tar", counters).read_bytes()
    for cut in (b"", b"no tar" * 200, whole[:520], b"\xff" * 1024):
        (tmp_path / "g.tar").write_bytes(cut)
        assert all(count == 0 for _, _, count in coverage.read_counters(tmp_path / "g.tar", artifact))
    broken = dict.fromkeys(counters, b"not counters")
    assert all(count == 0 for _, _, count in coverage.read_counters(packed(tmp_path / "d.tar", broken), artifact))


def test_shares_by_patch_hunk_and_scenario(tmp_path, built):
    found = collected(tmp_path, built, "s", "t")
    assert found.kernel == "with"
    assert found.scenarios == ("s", "t")
    assert found.lost == ("died.with-coverage.0",)
    first = coverage.share(found, CHANGES.patches[0].hunks)
    assert (first.code, first.ran, dict(first.by)) == (3, 2, {"s": 2, "t": 2})
    assert first.missed == ((TREE_FILE, 6, "\t\treturn a * 3;"),)
    assert found.ran[TREE_FILE]["s"][5] == 2
    assert coverage.runners([found]) == {"s", "t"}


def test_the_table_names_what_nothing_ran_and_why_a_hunk_has_no_code(tmp_path, built):
    text = "\n".join(lines(collected(tmp_path, built, "s")))
    assert "with: 3/4 (75 %) of the changed lines with code ran, in 1 scenario\n" in text
    assert "no counters of died.with-coverage.0" in text
    assert "2/3 (66 %)  net/a.c hunk 1  s 2" in text
    assert "superseded by a later patch  net/a.c hunk 2" in text
    assert "1/1 (100 %)  include/a.h hunk 1  s" in text
    assert "not built, or no counters of it  net/b.c hunk 1" in text
    assert "removes lines only  net/c.c hunk 1" in text
    assert text.endswith("1 changed lines that no scenario ran:\n  net/a.c:6: return a * 3;")


def test_lcov_has_a_section_for_each_scenario(tmp_path, built):
    text = lcov([collected(tmp_path, built, "s-1", "t")]).decode()
    assert text.count("end_of_record") == 4
    assert text.startswith(f"TN:s_1\nSF:{TREE_HEADER}\nDA:1,2\nDA:3,2\n")
    section = text.split("end_of_record\n")[1]
    assert "DA:6,0\n" in section
    assert section.endswith("LF:6\nLH:5\n")
    # Records of functions are others in lcov 2 (FNL, FNA) than before it (FN, FNDA); these are the same in both.
    assert {row.partition(":")[0] for row in text.splitlines()} == {"TN", "SF", "DA", "LF", "LH", "end_of_record"}
    assert lcov([]) == b""


def test_cobertura_is_read_by_another_program(tmp_path, built):
    """gcovr reads it and finds the same lines; both runs of both scenarios are summed."""
    path = tmp_path / "c.xml"
    path.write_bytes(cobertura([collected(tmp_path, built, "s", "t")], 1))
    root = ET.parse(path).getroot()
    assert (root.get("lines-valid"), root.get("lines-covered")) == ("8", "7")
    for name, text in ((TREE_FILE, SOURCE), (TREE_HEADER, HEADER)):
        labdir.write(tmp_path / "sources" / name, text)
    # It takes what is below its root alone, by the absolute path.
    path.write_text(path.read_text().replace("<source>.<", f"<source>{tmp_path / 'sources'}<"))
    words = [sys.executable, "-m", "gcovr", "--root", ".", "--cobertura-add-tracefile", str(path), "--json", "-"]
    done = subprocess.run(words, cwd=tmp_path / "sources", check=True, capture_output=True, text=True)
    files = {file["file"]: file["lines"] for file in json.loads(done.stdout)["files"]}
    assert {line["line_number"]: line["count"] for line in files[TREE_FILE]}[7] == 4


def test_what_is_saved_is_loaded_and_the_newest_of_the_series_is_found(tmp_path, built):
    found = collected(tmp_path, built, "s")
    store = Store(tmp_path / "results")
    with store.new_run("older") as older:
        coverage.save([found], older.path)
    assert coverage.load(older.path) == [found]
    with store.new_run("newer") as newer:
        coverage.save([dataclasses.replace(found, series="another")], newer.path)
    assert coverage.last(store, {"key"}) == (older.id, [found])
    assert coverage.last(store, {"no such"}) is None
    (older.path / coverage.FILE).write_text("{}")
    assert coverage.last(store, {"key"}) is None
    with pytest.raises(UserError, match="cannot read"):
        coverage.load(older.path)
    with pytest.raises(UserError, match="has no coverage"):
        coverage.load(tmp_path)


def test_the_variant_has_the_kernels_with_a_series_and_no_others(tmp_path):
    lab = load(labdir.make(tmp_path))
    with pytest.raises(UserError, match="no kernel of this lab has a series"):
        coverage.variant(lab)
    with pytest.raises(UserError, match="there is no kernel 'x'"):
        coverage.variant(lab, ["x"])
    labdir.write(
        tmp_path / "kernels/new.yaml", labdir.KERNEL + "series: [{type: patches, path: p}]\nconfig_set: {A: y}\n"
    )
    (tmp_path / "kernels/p").mkdir()
    made = coverage.variant(load(tmp_path / "lab.yaml"))
    assert list(made.kernels) == ["with-coverage"] == [made.base]
    recipe = made.kernels["with-coverage"]
    assert recipe.coverage
    assert recipe.config_set == {"A": "y", "GCOV_KERNEL": "y", "DEBUG_FS": "y"}


def test_a_series_without_counters_says_so():
    text = list(lines(Coverage("with", "k", CHANGES)))
    assert text[0] == "with: no code of the changed lines with code ran, in 0 scenarios"


@pytest.mark.parametrize("listed", [True, False])
def test_the_compilers_wrapper_instruments_what_is_listed_and_nothing_else(tmp_path, listed):
    tree = tmp_path / "tree"
    labdir.write(tree / TREE_FILE, "int f(void) { return 1; }\n")
    (tree / "obj/net").mkdir(parents=True)
    names = labdir.write(tmp_path / "covered", f"{TREE_FILE if listed else 'lib/net/a.c'}\nnet/aXc\n")
    wrapper = Path(coverage.__file__).parents[1] / "build/cc.sh"
    words = ["sh", str(wrapper), "-DKBUILD_MODNAME=a", "-c", "-o", "net/a.o", f"../{TREE_FILE}"]
    env = {**os.environ, "KPATCHLAB_CC": "gcc", "KPATCHLAB_FAILURES": str(tmp_path), "KPATCHLAB_COVER": str(names)}
    subprocess.run(words, cwd=tree / "obj", env=env, check=True)
    assert (tree / "obj/net/a.o").exists()
    assert (tree / "obj/net/a.gcno").exists() is listed
