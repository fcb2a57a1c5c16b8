"""The table of systems, choosing scenarios by it, and what the kernels can run of it."""

import dataclasses
import json
import sys

import pytest

from kpatchlab.build.patchset import Patch, changed_files
from kpatchlab.cache import Cache
from kpatchlab.errors import UserError
from kpatchlab.lab import load, systems
from kpatchlab.lab.scenario import Needs
from kpatchlab.model import BuildResult, ModuleFailure, Outcome
from kpatchlab.plan import runnable
from kpatchlab.plan.needs import refusal
from tests import labdir

TABLE = """\
systems:
  unix: {title: AF_UNIX, files: [net/unix/af_unix.c]}
  nfs: {title: NFS, without: [svc_tcp_send_kvec], with: [svc_tcp_sendmsg], files: [net/sunrpc]}
  dlm: {title: DLM, files: [fs/dlm/lowcomms.c]}
"""


@pytest.fixture
def root(tmp_path):
    """A lab with a table of three systems: `solo` is about the first, `duo` about the second."""
    labdir.make(tmp_path)
    labdir.write(tmp_path / "scenarios" / "systems.yaml", TABLE)
    more = "systems: [unix]\nneeds: {config: [UNIX]}\ntouches: {files: [fs/splice.c]}\n"
    labdir.write(tmp_path / "scenarios" / "solo" / "scenario.yaml", labdir.SOLO + more)
    labdir.write(tmp_path / "scenarios" / "duo" / "scenario.yaml", labdir.DUO + "systems: [nfs]\n")
    return tmp_path


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["system:unix"], ("solo",)),
        (["system:nfs", "system:unix"], ("duo", "solo")),
        (["touching:net/unix/af_unix.c"], ("solo",)),
        (["touching:net"], ("duo", "solo")),
        (["touching:net/sunrpc/svcsock.c"], ("duo",)),
        (["touching:fs/splice.c"], ("solo",)),
        (["*", "!system:nfs"], ("solo",)),
        (["!touching:net/unix"], ("duo",)),
    ],
)
def test_choosing(root, words, names):
    assert load.load(root / "lab.yaml", words).selected == names


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("system:unxi", "there is no system 'unxi' with a scenario; did you mean 'unix'?"),
        ("system:dlm", "there is no system 'dlm' with a scenario"),
        ("touching:net/unix/af_unx.c", "no scenario touches 'net/unix/af_unx.c'; did you mean 'net/unix/af_unix.c'?"),
        ("touching:net/uni", "no scenario touches 'net/uni'"),
    ],
)
def test_choosing_nothing(root, word, message):
    with pytest.raises(UserError) as error:
        load.load(root / "lab.yaml", [word])
    assert error.value.message.startswith(message)


def test_system_that_is_not_in_the_table(root):
    labdir.write(root / "scenarios" / "duo" / "scenario.yaml", labdir.DUO + "systems: [nsf]\n")
    with pytest.raises(UserError) as error:
        load.load(root / "lab.yaml")
    assert error.value.details == (
        "scenarios/duo/scenario.yaml:11: systems[0]: there is no system 'nsf'; did you mean 'nfs'?",
    )


def test_unknown_key_in_the_table(root):
    labdir.write(root / "scenarios" / "systems.yaml", TABLE.replace("title: DLM", "titel: DLM"))
    with pytest.raises(UserError) as error:
        load.load(root / "lab.yaml")
    assert any("systems.yaml:4" in line and "titel" in line for line in error.value.details)


def test_files_that_a_series_changes():
    git = b"--- a/net/unix/af_unix.c\n+++ b/net/unix/af_unix.c\n@@ -1 +1 @@\n-a\n+b\n"
    git += b"--- /dev/null\n+++ b/mm/new.c\n@@ -0,0 +1 @@\n+a\n"
    quilt = b"--- linux/fs/old.c\t2023-03-16\n+++ /dev/null\n@@ -1 +0,0 @@\n-a\n"
    deep = b"--- x/y/fs/a.c\n+++ x/y/fs/a.c\n@@ -1 +1 @@\n-a\n+b\n"
    found = changed_files([Patch("1", "", git), Patch("2", "", quilt), Patch("3", "", deep, strip=2)])
    assert found == ["fs/a.c", "fs/old.c", "mm/new.c", "net/unix/af_unix.c"]


BUILT = BuildResult("with", Outcome.PASS, key="key-with")


def _kernel(folder, config="", modules="", symbols=""):
    folder.mkdir(parents=True)
    (folder / "config").write_text(config)
    (folder / "modules.dep").write_text(modules)
    (folder / "modules.builtin").write_text("")
    if symbols:
        (folder / "System.map").write_text(symbols)
    return folder


def test_what_a_kernel_lacks(tmp_path):
    map_of = "ffffffff81000000 T splice_to_socket\n"
    kernel = _kernel(tmp_path / "k", "CONFIG_A=y\nCONFIG_B=m\n# CONFIG_C is not set\n", "kernel/x/a-b.ko:\n", map_of)
    assert refusal(Needs(config=("A", "B"), modules=("a_b",), symbols=("splice_to_socket",)), BUILT, kernel) is None
    assert refusal(Needs(config=("A", "C")), BUILT, kernel) == (Outcome.SKIP, "lacks CONFIG_C")
    assert refusal(Needs(modules=("siw",)), BUILT, kernel) == (Outcome.SKIP, "lacks module siw")
    assert refusal(Needs(symbols=("zcopy_alloc",)), BUILT, kernel) == (Outcome.SKIP, "lacks the symbol zcopy_alloc")


def test_symbols_of_a_kernel_without_a_map_show_when_it_runs(tmp_path):
    assert refusal(Needs(symbols=("zcopy_alloc",)), BUILT, _kernel(tmp_path / "k")) is None


def test_module_that_did_not_build_blocks_what_needs_it(tmp_path):
    failure = ModuleFailure("siw", "drivers/siw.c", 7, "error: no", dependents=("rpcrdma",))
    build = dataclasses.replace(BUILT, module_failures=(failure,))
    found = refusal(Needs(modules=("rpcrdma",)), build, tmp_path)
    assert found == (
        Outcome.BLOCKED,
        "rpcrdma needs siw of kernel with does not build: drivers/siw.c:7: error: no",
    )


@pytest.mark.mirror
def test_survey_of_kernels_that_are_not_built_goes_by_their_recipes(root, tmp_path):
    labdir.write(root / "kernels" / "config" / "guest.config", "# CONFIG_UNIX is not set\n")
    rows = {row.system: row for row in runnable.survey(load.load(root / "lab.yaml"), Cache(tmp_path / "c"), ["with"])}
    assert (rows["unix"].runnable, rows["unix"].reason) == (False, "with: is asked for without CONFIG_UNIX")
    assert (rows["nfs"].runnable, rows["nfs"].known, rows["nfs"].reason) == (True, False, "with: is not built yet")
    assert (rows["dlm"].runnable, rows["dlm"].reason) == (False, "no scenario tests it")
    assert not rows["unix"].kernels[0].built


def test_survey_of_a_built_kernel(root, tmp_path, monkeypatch):
    found = load.load(root / "lab.yaml")
    cache = Cache(tmp_path / "c")
    _kernel(cache.path("kernel", BUILT.key), "CONFIG_NET=y\n")
    monkeypatch.setattr(runnable, "cached_kernel", lambda recipe, name, context: BUILT)
    rows = {row.system: row for row in runnable.survey(found, cache, ["with"])}
    assert (rows["unix"].runnable, rows["unix"].reason) == (False, "with: lacks CONFIG_UNIX")
    assert rows["unix"].kernels[0].built


@pytest.mark.parametrize(("config", "known"), [("CONFIG_UNIX=y\n", True), ("CONFIG_NET=y\n", False)])
def test_survey_goes_by_the_image_of_a_kernel_that_is_not_built(root, tmp_path, monkeypatch, config, known):
    found = load.load(root / "lab.yaml")
    image = found.kernels["with"].model_copy()
    found = dataclasses.replace(found, images={"with": image})
    cache = Cache(tmp_path / "c")
    _kernel(cache.path("kernel", BUILT.key), config)
    monkeypatch.setattr(runnable, "cached_kernel", lambda recipe, name, context: BUILT if recipe is image else None)
    monkeypatch.setattr(runnable, "asked_symbols", lambda recipe, context: {})
    rows = {row.system: row for row in runnable.survey(found, cache, ["with"])}
    assert (rows["unix"].runnable, rows["unix"].known) == (True, known)
    assert rows["unix"].reason == ("" if known else "with: is not built yet")
    assert not rows["unix"].kernels[0].built


@pytest.mark.mirror
def test_list_systems_for_scripts(root, monkeypatch, capfd):
    from kpatchlab.cli import main

    monkeypatch.chdir(root)
    monkeypatch.setenv("KPATCHLAB_CACHE", str(root / "cache"))
    monkeypatch.setattr("sys.argv", ["kpatchlab", "list", "systems", "--json"])
    with pytest.raises(SystemExit):
        main(sys.argv[1:])
    rows = json.loads(capfd.readouterr().out)
    assert [(row["system"], row["scenarios"], row["runnable"]) for row in rows] == [
        ("unix", ["solo"], None),  # no kernel is built
        ("nfs", ["duo"], None),
        ("dlm", [], False),
    ]
    assert rows[2]["reason"] == "no scenario tests it"


def test_a_folder_stands_for_what_is_below_it(root):
    found = load.load(root / "lab.yaml")
    solo = found.scenarios["solo"]
    assert systems.touches(solo, found.systems, "net/unix")
    assert not systems.touches(solo, found.systems, "net/uni")


def _changed(root, monkeypatch, capfd, *files):
    from kpatchlab.cli import main

    diff = "".join(f"--- a/{file}\n+++ b/{file}\n@@ -1 +1 @@\n-a\n+b\n" for file in files)
    labdir.write(root / "kernels" / "patches" / "1.patch", diff)
    labdir.write(root / "kernels" / "new.yaml", labdir.KERNEL + "series: [{type: patches, path: patches}]\n")
    monkeypatch.chdir(root)
    monkeypatch.setenv("KPATCHLAB_CACHE", str(root / "cache"))
    with pytest.raises(SystemExit) as ended:
        main(["plan", "--changed", "--json"])
    out, err = capfd.readouterr()
    return ended.value.code or 0, {job["id"].partition("@")[0] for job in json.loads(out)["jobs"]} if out else out, err


@pytest.mark.mirror
def test_changed_chooses_by_the_series_own_diff(root, monkeypatch, capfd):
    status, names, err = _changed(root, monkeypatch, capfd, "net/unix/af_unix.c", "fs/ocfs2/file.c")
    assert (status, names) == (0, {"solo"})
    assert err == "changed, and no scenario is about it: fs/ocfs2/file.c\n"


def test_changed_where_no_scenario_is_about_it(root, monkeypatch, capfd):
    status, _, err = _changed(root, monkeypatch, capfd, "fs/ocfs2/file.c")
    assert status == 2
    assert "no scenario is about a file that the series change" in err


def test_changed_without_a_series(root, monkeypatch, capfd):
    from kpatchlab.cli import main

    monkeypatch.chdir(root)
    with pytest.raises(SystemExit) as ended:
        main(["plan", "--changed"])
    assert ended.value.code == 2
    assert "no kernel of this lab has a series" in capfd.readouterr().err
