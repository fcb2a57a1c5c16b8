"""Scenarios with each patch: an ordinary run of the lab's own kernel, with a shorter series."""

from __future__ import annotations

import pytest

from kpatchlab.build.patchset import Patch
from kpatchlab.model import Outcome
from kpatchlab.progress import PlainProgress
from kpatchlab.run import stages
from kpatchlab.series.judge import judge
from kpatchlab.series.scenarios import runner
from kpatchlab.series.values import Applied, PatchBuild, PatchResult, Walk


def test_each_patch_is_an_ordinary_run_of_the_patches_so_far(bench, monkeypatch):
    seen = []

    def kernel(recipe, name, ctx, origin):
        folder = ctx.path(recipe.series[0].path) if recipe.series else None
        seen.append((name, (folder / "series").read_text().split() if folder else []))
        return bench.artifact(name)

    monkeypatch.setattr(stages, "build_kernel", kernel)
    bench.job = lambda inputs: Outcome.FAIL
    run = runner(bench.lab, "with", ("solo",), bench.host, PlainProgress(bench.out), bench.settings)
    patches = [Patch("one", "", b"--- a/x\n", 1), Patch("two", "", b"--- x\n", 0)]
    kept = []
    assert run("with, patch 2: two", patches, kept.append) == {"solo": "fail"}
    assert run("with, patch 0", [], kept.append) == {"solo": "fail"}
    assert [len(recipe.series) for recipe in kept] == [1, 0]
    assert seen == [("patch-2", ["0001.patch", "-p1", "0002.patch", "-p0"]), ("patch-0", [])]
    assert bench.store.load("last")[0].title == "with, patch 0"
    assert not list((bench.host.cache.root / "tmp").glob("series-*"))


def test_the_first_patch_that_breaks_a_scenario_is_named():
    ways = [
        {"a": "pass", "b": "fail"},
        {"a": "fail", "b": "fail"},
        {"a": "fail", "b": "pass"},
        {"a": "pass", "b": "skip"},
    ]
    results = tuple(
        PatchResult(n, f"patch {n}", "", "", Applied("strict"), built=PatchBuild(), scenarios=way)
        for n, way in enumerate(ways)
    )
    table = judge(Walk("with", "", "", "", (), results, "", 0.0, complete=True))
    cells = [(str(row.cells["scenarios"].state), row.cells["scenarios"].text) for row in table.rows]
    assert cells == [("fail", "0 of 2 pass"), ("still", "1 of 2 pass"), ("skip", "1 of 2 pass")]
    (failure,) = table.failures
    assert (failure.what, failure.first, failure.mended) == ("a: fail", 1, 3)


@pytest.mark.parametrize(
    ("ways", "states", "first"),
    [
        (["fail", "blocked", "fail"], ["skip", "still"], []),
        (["pass", "fail", "infra", "fail"], ["fail", "skip", "still"], [1]),
        (["pass", "fail", "crash", "skip", "pass"], ["fail", "still", "skip", "ok"], [1]),
    ],
)
def test_a_scenario_that_did_not_run_says_nothing_about_the_kernel(ways, states, first):
    results = tuple(
        PatchResult(n, "", "", "", Applied("strict"), built=PatchBuild(), scenarios={"a": way})
        for n, way in enumerate(ways)
    )
    table = judge(Walk("with", "", "", "", (), results, "", 0.0, complete=True))
    assert [str(row.cells["scenarios"].state) for row in table.rows] == states
    assert [failure.first for failure in table.failures] == first
