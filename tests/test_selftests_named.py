"""Selftests that are chosen by the name of their collection: the word, the scenario, the trees that have it."""

from __future__ import annotations

from pathlib import Path

import labdir
import pytest
from build_fixtures import Bench

from kpatchlab.build.trim import Wanted
from kpatchlab.cache import Cache
from kpatchlab.errors import UserError
from kpatchlab.lab import load
from kpatchlab.lab.scenario import scenario_files
from kpatchlab.lab.selftests import RUNNER
from kpatchlab.plan.jobs import make_plan, plan_of_jobs
from kpatchlab.plan.selftests import check_named
from kpatchlab.series import selftests as of_series
from tests.series_fixtures import SeriesBench

T = "tools/testing/selftests"
OWN = "description: x\nroles: {main: {run: run.sh}}\nneeds: {kselftest: [net/tls]}\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = labdir.make(tmp_path / "lab")
    for name, needs in {"mine": "[net/tls]", "both": "[net/tls, splice]"}.items():
        labdir.write(made.parent / f"scenarios/{name}/scenario.yaml", OWN.replace("[net/tls]", needs))
        labdir.write(made.parent / f"scenarios/{name}/run.sh", "#!/bin/sh\n", 0o755)
    labdir.write(made.parent / RUNNER, "")
    return made


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["kselftest:net/forwarding"], ["kselftest:net/forwarding"]),
        (["kselftest:splice,net/tls"], ["kselftest:splice", "mine"]),
        (["kselftest:splice", "solo"], ["kselftest:splice", "solo"]),
        (["*", "!kselftest:net/tls"], ["both", "duo", "solo"]),
        (["kselftest:splice,core", "!kselftest:core"], ["kselftest:splice"]),
        (["kselftest:splice", "solo", "!tag:kselftest"], ["solo"]),
        (["kselftest:splice", "solo", "!touching:tools/testing/selftests/splice"], ["solo"]),
    ],
    ids=str,
)
def test_a_word_chooses_what_runs_the_collection(path: Path, words: list[str], wanted: list[str]) -> None:
    assert list(load.load(path, words).selected) == wanted
    path.write_text(labdir.LAB.replace('["*"]', str(words)))
    lab = load.load(path)
    assert list(lab.selected) == wanted
    assert set(wanted) <= set(lab.scenarios), "the verb `list` shows them"


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("../x", "'../x' is no collection of selftests: a folder below tools/testing/selftests is"),
        ("splice,", "'' is no collection"),
        ("", "'' is no collection"),
        ("net/*", "'net/*' is no collection"),
        ("a" * 101, "is no collection"),
        ("net/tls/", "is kselftest:net/tls meant?"),
        (f"{T}/net/tls/", "is kselftest:net/tls meant?"),
    ],
)
def test_what_is_no_name_of_a_collection(path: Path, word: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        load.load(path, ["solo", f"kselftest:{word}"])
    assert said in caught.value.message
    assert caught.value.hint
    path.write_text(labdir.LAB.replace('["*"]', f'[solo, "kselftest:{word}"]'))
    with pytest.raises(UserError) as caught:
        load.load(path)
    assert len(caught.value.details) == 1
    assert said in caught.value.details[0]


def test_a_lab_without_the_runner(path: Path) -> None:
    (path.parent / RUNNER).unlink()
    assert load.load(path, ["kselftest:net/tls"]).selected == ("mine",)
    with pytest.raises(UserError, match=rf"the lab has no {RUNNER}, which runs kselftest:splice"):
        load.load(path, ["kselftest:splice"])


def test_the_scenario_is_that_of_a_series_but_for_its_name_and_what_it_knows_of_the_configuration(path: Path) -> None:
    lab = load.load(path)
    named = lab.scenario("kselftest:net/forwarding")
    assert (named.tags, named.timeout_s, named.needs.config) == (("kselftest",), 600.0, ())
    assert named.needs.kselftest == ("net/forwarding",)
    assert named.needs.packages == ("python3",)
    ((place, text, mode),) = scenario_files(named, {})
    assert (place, mode) == ("/lab/scenario/run.sh", 0o755)
    assert b"kselftest.py" in text
    of_series.write([named], path.parent / "run")
    assert not (path.parent / "run").exists(), "its name is enough"


def test_a_job_is_found_again_by_its_id_alone(path: Path) -> None:
    plan = make_plan(load.load(path), choice=["kselftest:net/forwarding", "solo"])
    ids = [job.id for job in plan.jobs]
    assert ids[:2] == ["kselftest:net/forwarding@without#1", "kselftest:net/forwarding@with#1"]
    assert plan.jobs[0].foreign == ("kselftest/net/forwarding",)
    assert [job.id for job in plan_of_jobs(load.load(path), ids).jobs] == ids
    with pytest.raises(UserError, match="no such job"):
        plan_of_jobs(load.load(path), ["kselftest:net/tls@with#1"])


def test_no_module_is_left_out_for_tests_that_lie_in_a_kernels_tree(path: Path) -> None:
    lab = load.load(path)
    assert Wanted.by(lab, ["solo", "kselftest:splice"]) is None
    assert Wanted.by(lab, ["solo"]) is not None


# ------------------------------------------------------------------------------------------ trees


@pytest.fixture
def trees(path: Path, tmp_path: Path) -> SeriesBench:
    """Return a tree with selftests, of which both kernels of the lab are, `with` with a series that adds some."""
    bench = SeriesBench(tmp_path / "trees")
    bench.folders(f"{T}/net", f"{T}/net/forwarding")
    bench.write(f"{T}/Makefile", "")
    bench.git("add", "-A")
    bench.git("commit", "-qm", "tests")
    head = bench.git("rev-parse", "HEAD")
    bench.patch("add tests", (f"{T}/fresh/Makefile", "", "TEST_PROGS := x.sh\n"))
    bench.git("reset", "-q", "--hard", head)
    labdir.write(path.parent / "kernels/old.yaml", f"source: {{type: dir, path: {bench.tree}}}\n")
    series = f"series: [{{type: patches, path: {bench.patches}}}]\n"
    source = f"source: {{type: git, path: {bench.tree}, revision: {head}}}\n"
    labdir.write(path.parent / "kernels/new.yaml", source + series)
    return bench


def told(path: Path, cache: Path, word: str, *kernels: str) -> str:
    """Return what is said against a word, and its hint."""
    lab = load.load(path)
    try:
        check_named(lab, make_plan(lab, choice=[f"kselftest:{word}"], kernels=kernels), Cache(cache))
    except UserError as error:
        return f"{error.message} ({error.hint})"
    return ""


@pytest.mark.usefixtures("trees")
def test_a_collection_that_no_kernels_tree_has(path: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    for name in ("net", "net/forwarding", "net/forwarding/one.sh", "fresh"):
        assert told(path, cache, name) == ""
    hint = "(a folder below tools/testing/selftests with a Makefile is meant, or FOLDER/PROGRAM)"
    assert told(path, cache, "fresh", "without") == f"no kernel's tree has the selftests 'fresh' {hint}"
    near = "no kernel's tree has the selftests 'net/forwardin/x'; did you mean 'net/forwarding'"
    assert told(path, cache, "net/forwardin/x", "with").startswith(near)
    assert told(path, cache, "lib") == f"no kernel's tree has the selftests 'lib' {hint}"
    assert told(path, cache, "net,lib").startswith("no kernel's tree has the selftests 'lib'")


def test_nothing_is_said_of_a_tree_that_is_not_there_yet(path: Path, trees: Bench, tmp_path: Path) -> None:
    source = "{type: tarball, url: 'http://127.0.0.1:9/linux.tar', sha256: '%s'}" % ("0" * 64)
    labdir.write(path.parent / "kernels/new.yaml", f"source: {source}\n")
    assert told(path, tmp_path / "cache", "lib") == ""
    assert told(path, tmp_path / "cache", "lib", "without")
    assert trees.tree.exists()
