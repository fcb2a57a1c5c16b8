"""The tree's own tests that a trial runs: which a series calls for, the scenarios that are made, and their kernels."""

from __future__ import annotations

import shlex
import subprocess

import pytest
import yaml

from kpatchlab.build.git import open_local
from kpatchlab.build.patchset import Patch
from kpatchlab.files import safe_name
from kpatchlab.maintainers import parse
from kpatchlab.model import Outcome
from kpatchlab.series.selftests import Selftests
from kpatchlab.store.run_dir import load_run
from tests.bisect_support import concluded
from tests.labdir import LAB, write
from tests.posting import runs, try_

T = "tools/testing/selftests"
MAINTAINERS = f"""\
CORE
F:\tcore/
F:\t{T}/core/

CORE, THE NET
F:\tcore/net.c
F:\t{T}/net/one.c
F:\t{T}/net/sub/

DRIVERS
F:\tdrivers/
F:\t{T}/deep/

SPOTS
F:\tinclude/
F:\t{T}/core/b*
F:\t{T}/core/h*
F:\t{T}/net/*

NO TESTS
F:\tcore/net.c*
"""
FILES = {
    "MAINTAINERS": MAINTAINERS,
    "Kconfig": "",
    "Makefile": "headers:\n\tmkdir -p usr/include\n",
    f"{T}/Makefile": "TARGETS = core net\n",
    f"{T}/lib.mk": "$(OUTPUT)/%: %.c\n\tgcc $(LDFLAGS) $< -o $@\n",
    f"{T}/harness.h": "",
    f"{T}/core/Makefile": "TEST_PROGS := a.sh b.sh\nTEST_GEN_FILES := helper\n",
    f"{T}/core/a.sh": "#!/bin/sh\n",
    f"{T}/core/b.sh": "#!/bin/sh\n",
    f"{T}/core/helper.c": "int main(void) { return 0; }\n",
    f"{T}/core/config": "CONFIG_BLOCK=y\nCONFIG_EXPERT=y\nCONFIG_GONE=y\n"
    "# CONFIG_X86 is not set\nCONFIG_DEEP=m\nCONFIG_NR=3\n",
    f"{T}/net/Makefile": "TEST_GEN_PROGS := \\\n\tzero \\\n\t$(OUTPUT)/one\nTEST_GEN_PROGS += two\n",
    f"{T}/net/one.c": "int main(void) { return 0; }\n",
    f"{T}/net/two.c": "",
    f"{T}/net/shared.c": "",
    f"{T}/net/sub/Makefile": "",
    f"{T}/net/sub/x.c": "",
    f"{T}/deep/one/Makefile": "",
    f"{T}/deep/two/below/Makefile": "",
    f"{T}/deep/two/below/x.c": "",
}


@pytest.fixture
def tree(tmp_path):
    for name, text in FILES.items():
        write(tmp_path / name, text)
    git = ["git", "-C", tmp_path, "-c", "user.name=A", "-c", "user.email=a@example.com"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "base"]):
        subprocess.run([*git, *words], check=True)
    return open_local(tmp_path)


def patch(tree, files: dict[str, str]) -> Patch:
    """Return a patch that writes these files."""
    git = ["git", "-C", str(tree.path)]
    for name, text in files.items():
        write(tree.path / name, text)
    subprocess.run([*git, "add", "-A"], check=True)
    diff = subprocess.run([*git, "diff", "--cached"], check=True, capture_output=True).stdout
    subprocess.run([*git, "reset", "-q", "--hard"], check=True)
    return Patch("1", "1", diff, 1)


def called_for(tree, *files, patches=()):
    found = Selftests(tree, "HEAD", patches).called_for(files, parse(MAINTAINERS.encode()))
    return [(one.name, one.changed) for one in found]


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        ([f"{T}/core/helper.c"], [("core", True)]),
        ([f"{T}/core/config", f"{T}/core/Makefile"], [("core", True)]),
        ([f"{T}/core/b.sh"], [("core/b", True)]),
        ([f"{T}/net/one.c", f"{T}/net/two.c"], [("net/one", True), ("net/two", True)]),
        ([f"{T}/net/shared.c"], [("net", True)]),
        ([f"{T}/net/sub/x.c"], [("net/sub", True)]),
        ([f"{T}/harness.h", f"{T}/Makefile", f"{T}/unbuilt/x.c", "README"], []),
        (["core/main.c"], [("core", False)]),
        (["core/net.c"], [("net/one", False), ("net/sub", False)]),
        (["core/main.c", f"{T}/core/helper.c"], [("core", True)]),
        (["core/main.c", f"{T}/net/shared.c"], [("net", True), ("core", False)]),
        (["drivers/x.c"], [("deep/one", False), ("deep/two/below", False)]),
        (["include/x.h"], [("core/b", False), ("net", False)]),
        (["include/x.h", f"{T}/net/one.c", f"{T}/core/helper.c"], [("core", True), ("net", False)]),
    ],
    ids=str,
)
def test_which_collections_the_files_of_a_series_call_for(tree, files, wanted):
    assert called_for(tree, *files) == wanted


def test_a_collection_that_the_series_adds(tree):
    files = {f"{T}/fresh/Makefile": "TEST_GEN_PROGS := x\n", f"{T}/fresh/config": "CONFIG_NET=y\n"}
    patches = [patch(tree, {**files, f"{T}/fresh/x.c": "int main(void) { return 0; }\n"})]
    (one,) = Selftests(tree, "HEAD", patches).called_for([f"{T}/fresh/x.c"], ())
    assert (one.name, one.config) == ("fresh/x", {"NET": "y"})
    assert one.scenario == "kselftest-fresh.x"


def test_a_test_that_the_series_adds_to_a_collection(tree):
    makefile = FILES[f"{T}/net/Makefile"].replace("\tzero \\\n", "\tzero \\\n\tthree \\\n")
    patches = [patch(tree, {f"{T}/net/Makefile": makefile, f"{T}/net/three.c": "int x;\n"})]
    assert called_for(tree, f"{T}/net/three.c", patches=patches) == [("net/three", True)]
    assert called_for(tree, f"{T}/net/three.c") == [("net", True)]


def test_a_symbol_that_the_series_adds_is_in_the_tree(tree):
    added = 'config FRESH\n\tbool "Fresh"\n\tdepends on OLD\nconfig OLD\n\tbool "Old"\n'
    patches = [patch(tree, {"Kconfig": 'source "sub/Kconfig"\n', "sub/Kconfig": added})]
    assert Selftests(tree, "HEAD", patches).kconfig("x86").with_dependencies({"FRESH": "y"}, ()) == {
        "FRESH": "y",
        "OLD": "y",
    }


def test_what_its_config_asks_for(tree):
    (one,) = Selftests(tree, "HEAD", ()).called_for([f"{T}/core/helper.c"], ())
    assert one.config == {"BLOCK": "y", "GONE": "y", "DEEP": "m", "NR": "3"}


def test_a_name_that_no_collection_can_have(tree):
    patches = [patch(tree, {f"{T}/a b/Makefile": "TEST_PROGS := x.sh\n"})]
    assert called_for(tree, f"{T}/a b/Makefile", patches=patches) == []


# ------------------------------------------------------------------------------------------ trials

pytestmark = pytest.mark.toy


@pytest.fixture
def tested(posted):
    """Return a lab whose tree has tests, of code that no scenario is about; it runs selftests."""
    path = posted.root / "scenarios/solo/scenario.yaml"
    write(path, path.read_text().replace("files: [core]", "files: [elsewhere]").replace("tags: [", "tags: [smoke, "))
    write(posted.root / "scenarios/lib/kselftest.py", "")
    files = {name: text for name, text in FILES.items() if name not in {"Makefile", "Kconfig"}}
    posted.tree.write("Makefile", (posted.tree.tree / "Makefile").read_text() + "\n" + FILES["Makefile"])
    kconfig = (posted.tree.tree / "Kconfig").read_text()
    posted.tree.write("Kconfig", kconfig + 'config DEEP\n\tbool "Deep"\n\tdepends on SHALLOW && (NET || BLOCK)\n')
    posted.tree.write("Kconfig", (posted.tree.tree / "Kconfig").read_text() + 'config SHALLOW\n\tbool "Shallow"\n')
    for name, text in files.items():
        posted.tree.write(name, text)
    posted.tree.git("add", "-A")
    posted.tree.git("commit", "-qm", "tests")
    return posted


def test_the_tests_of_the_code_that_a_series_changes_are_run_on_kernels_that_have_what_they_need(tested):
    tested.grow("comment")
    tested.commit("", "/* x */\n", "core/main.c")
    tested.post(1)
    status, out, err = try_(tested, "--no-patches")
    assert status == 0, out + err
    assert "selftests  core\n" in out
    assert {job.partition("@")[0] for job in tested.jobs} == {"solo", "kselftest-core"}
    (run,) = runs(tested)
    scenario = yaml.safe_load((run / "scenarios/kselftest-core/scenario.yaml").read_text())
    needs = {"config": ["BLOCK", "DEEP"], "packages": ["python3"], "kselftest": ["core"]}
    assert scenario["needs"] == needs
    kernels = yaml.safe_load((run / "lab.yaml").read_text())["kernels"]
    wanted = {"BLOCK": "y", "DEEP": "m", "SHALLOW": "y"}
    assert [kernel["config_set"] for kernel in kernels.values()] == [wanted, wanted]
    assert len(list(tested.host.cache.root.glob("kselftest/*/programs/a.sh"))) == 2, "from either tree"
    tested.jobs.clear()
    status, out, err = tested.call("--lab", str(run / "lab.yaml"), "run")
    assert status == 0, out + err
    assert {job.partition("@")[0] for job in tested.jobs} == {"solo", "kselftest-core"}
    assert tested.call("--lab", str(run / "lab.yaml"), "check")[0] == 0


def test_changed_tests_run_beside_the_scenarios_of_the_code_and_no_others(tested):
    path = tested.root / "scenarios/solo/scenario.yaml"
    write(path, path.read_text().replace("elsewhere", "core"))
    tested.commit("", "/* x */\n", "core/main.c")
    tested.commit("", "/* x */\n", f"{T}/net/one.c")
    tested.post(2)
    status, out, err = try_(tested, "--dry-run")
    assert status == 0, out + err
    assert "selftests  net/one\n" in out
    assert "2 by a changed file, 0 by a changed system: kselftest-net.one, solo" in " ".join(out.split())


def test_more_collections_than_are_asked_for_are_named(tested):
    for name in ("core/helper.c", "net/one.c", "net/two.c"):
        tested.commit("", "/* x */\n", f"{T}/{name}")
    tested.post(3)
    status, out, err = try_(tested, "--dry-run", "--selftests", "1")
    assert status == 0, out + err
    assert "not run: selftests net/one, net/two: at most 1, see --selftests" in out
    assert "kselftest-core" in out
    (tested.root / "scenarios/lib/kselftest.py").unlink()
    status, out, err = try_(tested, "--dry-run")
    assert "not run: selftests core, net/one, net/two: the lab has no scenarios/lib/kselftest.py" in out


def test_a_scenario_of_the_lab_is_taken_before_one_is_made(tested):
    own = "description: x\nroles: {main: {run: run.sh}}\nneeds: {kselftest: [net/one]}\n"
    write(tested.root / "scenarios/mine/scenario.yaml", own)
    write(tested.root / "scenarios/mine/run.sh", "#!/bin/sh\n", 0o755)
    tested.commit("", "/* x */\n", f"{T}/net/one.c")
    tested.post(1)
    status, out, err = try_(tested, "--dry-run")
    assert status == 0, out + err
    assert "nearby: mine, solo" in " ".join(out.split())


def test_a_regression_in_a_changed_collection_is_searched_patch_by_patch(tested):
    tested.job = lambda text: Outcome.FAIL if b"LAB_FAULT" in text else Outcome.PASS
    tested.commit("", "/* x */\n", f"{T}/core/helper.c")
    tested.grow("fault")
    tested.post(2)
    status, out, err = try_(tested)
    assert status == 1, out + err
    first = out.split("first bad patch of each failure:")[1]
    assert ["2", "scenarios:", "kselftest-core:", "fail"] in [line.split() for line in first.splitlines()], out


# ------------------------------------------------------------------------------------------ by their names


@pytest.fixture
def named(tested):
    """Return the lab with kernels of the tree that has tests."""
    for name in ("old", "new"):
        source = f"source: {{type: git, path: {tested.tree.tree}, revision: main}}\n"
        write(tested.root / f"kernels/{name}.yaml", f"{source}config: [config/all.config]\n")
    return tested


def test_any_collection_runs_by_its_name_and_its_jobs_are_found_again(named):
    status, out, err = named.call("run", "kselftest:core,net/one")
    assert status == 0, out + err
    ids = {f"kselftest:{name}@{kernel}#1" for name in ("core", "net/one") for kernel in ("without", "with")}
    assert set(named.jobs) == ids
    (run,) = runs(named)
    assert "kselftest:net/one" in (run / "index.html").read_text()
    assert 'classname="with.kselftest:net/one"' in (run / "junit.xml").read_text()
    stored = load_run(run)
    assert stored.touches["kselftest:core"] == (f"{T}/core",)
    run.joinpath("jobs", safe_name("kselftest:core@with#1") + ".json").unlink()
    named.jobs.clear()
    status, out, err = named.call("run", "--resume", "last")
    assert status == 0, out + err
    assert named.jobs == ["kselftest:core@with#1"]
    (job,) = (job for job in stored.jobs if job.job == "kselftest:net/one@with#1")
    named.jobs.clear()
    assert named.call(*shlex.split(job.reproduce)[1:])[0] == 0
    assert named.jobs == ["kselftest:net/one@with#1"]


def test_a_collection_that_the_lab_file_names(named):
    write(named.root / "lab.yaml", LAB.replace('["*"]', '[solo, "kselftest:core"]'))
    status, out, err = named.call("plan", "--json")
    assert status == 0, out + err
    assert "kselftest:core@with#1" in out
    assert "The kernel's own tests core pass." in named.call("list")[1]
    status, out, err = named.call("run", "kselftest:cores")
    assert (status, out) == (2, "")
    assert "no kernel's tree has the selftests 'cores'; did you mean 'core'" in err
    assert named.call("run", "kselftest:../x")[0] == 2
    assert not runs(named)


def test_a_search_by_a_collection(named):
    named.tree.git("tag", "-f", "good")
    named.grow("comment", "fault")
    where = ["--tree", str(named.tree.tree), "--good", "good", "--bad", "main"]
    status, out, err = named.call("bisect", *where, "--scenario", "kselftest:core")
    assert status == 0, out + err
    assert {job.partition("@")[0] for job in named.jobs} == {"kselftest:core"}
    assert "fault" in concluded(named)[1]
