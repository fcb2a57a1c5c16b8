"""Which scenarios a trial runs, and in which order."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from kpatchlab.lab.scenario import Needs, Scenario, Touches
from kpatchlab.series.selftests import Collection
from kpatchlab.series.trial import choose

FILE = "net/unix/af_unix.c"


def scenario(*files, systems=(), tags=(), kselftest=()):
    return Scenario.model_construct(
        name="",
        folder=Path("/"),
        touches=Touches(files=files),
        systems=systems,
        tags=tags,
        needs=Needs(kselftest=kselftest),
    )


SCENARIOS = {
    "by-file": scenario(FILE),
    "by-folder": scenario("net/unix"),
    "by-system": scenario(systems=("unix",)),
    "far": scenario("mm/slub.c", tags=("smoke",)),
    "farther": scenario("fs/nfs", kselftest=("net/tls",)),
    "unselected": scenario(FILE),
}
LAB = SimpleNamespace(
    scenarios=SCENARIOS,
    selected=tuple(name for name in SCENARIOS if name != "unselected"),
    systems={"unix": SimpleNamespace(files=("net/unix",))},
)


def chosen(*files, seconds=None, told=(), everything=False, lab=LAB, collections=()):
    trial = SimpleNamespace(lab=lab, files=files, collections=collections)
    return choose(trial, seconds or {}, told, everything=everything)


def test_what_names_the_file_runs_before_the_rest_of_its_system():
    found = chosen(FILE)
    assert found.names == ("by-file", "by-folder", "by-system")
    assert found.why == "2 by a changed file, 1 by a changed system"


def test_what_has_told_something_runs_first_and_then_what_is_short():
    assert chosen(FILE, seconds={"by-file": 9.0, "by-folder": 2.0}).names[:2] == ("by-folder", "by-file")
    assert chosen(FILE, seconds={"by-file": 9.0}, told=["by-file"]).names[:2] == ("by-file", "by-folder")
    assert chosen(FILE, told=["by-system"]).names[-1] == "by-system"


def test_all_of_the_labs_others_run_last_where_they_are_asked_for():
    found = chosen(FILE, seconds={"far": 3.0}, everything=True)
    assert found.names == ("by-file", "by-folder", "by-system", "farther", "far")


@pytest.mark.parametrize(("file", "names"), [("drivers/gpu/x.c", ("far",)), ("net/tls/tls_sw.c", ("far", "farther"))])
def test_where_nothing_is_about_a_file_smoke_and_the_folders_own_tests_run_and_it_says_so(file, names):
    found = chosen(file)
    assert found.names == names
    assert found.why.startswith("no scenario is about a file of the series")


def test_without_smoke_all_that_the_lab_selects_runs():
    lab = SimpleNamespace(scenarios={"a": scenario("x")}, selected=("a",), systems={})
    found = chosen(FILE, lab=lab)
    assert (found.names, found.why.split(": ")[1]) == (("a",), "all that the lab selects")


def test_changed_selftests_run_first_and_those_of_changed_code_where_nothing_else_is_about_it():
    tls = [Collection("net/tls", changed, {}) for changed in (True, False)]
    assert chosen(FILE, collections=tls[:1]).names == ("by-file", "by-folder", "farther", "by-system")
    assert chosen(FILE, collections=tls[:1]).why == "3 by a changed file, 1 by a changed system"
    assert chosen("drivers/gpu/x.c", collections=tls[:1]).names == ("farther", "far")
    assert chosen("drivers/gpu/x.c", collections=tls[1:]).names == ("far", "farther")
