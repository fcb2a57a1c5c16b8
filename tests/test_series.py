"""A series patch by patch: what each patch does is its own, whatever an incremental build compiles for it."""

from __future__ import annotations

import json
import os
import re
import shutil
from xml.etree import ElementTree as ET

import pytest
from series_fixtures import SeriesBench, program, row

from kpatchlab import fence
from kpatchlab.build import build_kernel, kernel_key, series_changes
from kpatchlab.build.patchset import apply_series
from kpatchlab.cache import disk_bytes
from kpatchlab.errors import HostError, UserError
from kpatchlab.lab.recipes import QuiltSeries
from kpatchlab.series import Wanted, judge, walk
from kpatchlab.series.scenarios import write_quilt
from kpatchlab.series.views import VIEWS

pytestmark = pytest.mark.toy

ALPHA = ("drivers/alpha.c", "return core_answer();")
SEND = "int core_send(int flags)\n{"
WARNS = "int core_send2(int flags, int more);\nint core_send2(int flags, int more)\n{\n\treturn flags;\n}\n"


@pytest.fixture
def bench(tmp_path):
    return SeriesBench(tmp_path)


@pytest.fixture(scope="module")
def walked(tmp_path_factory):
    """A warning, a break, a header, the mending, a harmless patch, fuzz, one that does not apply, one more."""
    bench = SeriesBench(tmp_path_factory.mktemp("walked"))
    bench.patch("net: warn", ("core/net.c", SEND, WARNS + SEND))
    bench.patch("alpha: break", (*ALPHA, "return core_answer(;"))
    bench.patch("header: a word", ("include/module.h", "#define MODULE_LICENSE", "/* why */\n#define MODULE_LICENSE"))
    bench.patch("alpha: mend", ("drivers/alpha.c", "core_answer(;", "core_answer() + 1;"))
    bench.patch("delta: send", ("drivers/delta.c", "core_send(0)", "core_send(1)"))
    fuzzy = bench.patch("gamma: fuzz", ("drivers/gamma.c", "return beta_call()", "return 2 + beta_call()"))
    fuzzy.write_text(fuzzy.read_text().replace(" int gamma_call(void)\n {", " int gamma_called(void)\n {"))
    astray = bench.patch("delta: does not apply", ("drivers/delta.c", "core_send(1)", "core_send(2)"))
    astray.write_text(astray.read_text().replace("-\treturn core_send(1);", "-\treturn core_send(7);"))
    bench.patch("delta: never tried", ("drivers/delta.c", "core_send(2)", "core_send(3)"))
    bench.table = bench.walk()
    return bench


def test_each_patch_is_judged_by_what_it_does(walked):
    table = walked.table
    assert row(table, 1, "W=1") == ("fail", "1 new")
    assert "unused parameter" in table.rows[0].cells["W=1"].lines[0]
    assert row(table, 2, "modules") == ("fail", "3 broken")  # beta and gamma need alpha
    assert "drivers/alpha.c:6" in table.rows[1].cells["modules"].lines[0]
    assert row(table, 3, "modules") == ("still", "3 since 2")
    assert row(table, 4, "modules") == ("ok", "3 mended")
    assert row(table, 5, "modules") == ("ok", "ok")
    first = {failure.what.split(":")[0]: (failure.first, failure.mended) for failure in table.failures}
    net = (1, 0)
    assert first.items() >= {"core/net.c": net, "alpha": (2, 4), "fake_beta": (2, 4), "gamma": (2, 4)}.items()
    assert table.exit_code == 1


def test_a_header_that_recompiles_everything_makes_no_warnings(walked):
    """core/net.c has an old warning at W=1; a header that it includes is no reason to call it new."""
    table = walked.table
    assert table.rows[2].facts.built.rebuilt == 7
    assert row(table, 3, "W=1") == ("ok", "ok")
    assert table.rows[4].facts.built.rebuilt == 1
    built = [one.facts.built for one in table.rows if one.facts.built]
    assert (len(built), table.clean) == (6, 6 * 7)
    assert table.rebuilt == sum(one.rebuilt for one in built)


def test_fuzz_is_told_and_what_does_not_apply_ends_the_trying(walked):
    table = walked.table
    assert [row(table, n, "apply")[1] for n in range(1, 9)] == ["ok"] * 5 + ["fuzz 2", "no", "not tried"]
    cell = table.rows[6].cells["apply"]
    assert cell.lines[0].startswith("drivers/delta.c:3: hunk 1 of 1\n@@ ")
    assert [row(table, 8, column)[0] for column in ("build", "modules", "W=1")] == ["untried"] * 3
    assert [(f.first, f.check) for f in table.failures if f.check == "apply"] == [(7, "apply")]


def test_scenarios_run_on_a_patch_that_took_fuzz_as_what_it_came_to(bench, tmp_path):
    """The kernel is built strictly, as any other: from what the patch has changed, and so are those after it."""
    bench.patch("delta: send", ("drivers/delta.c", "core_send(0)", "core_send(1)"))
    fuzzy = bench.patch("gamma: fuzz", ("drivers/gamma.c", "return beta_call()", "return 2 + beta_call()"))
    fuzzy.write_text(fuzzy.read_text().replace(" int gamma_call(void)\n {", " int gamma_called(void)\n {"))
    bench.patch("gamma: more", ("drivers/gamma.c", "return 2 + beta_call()", "return 3 + beta_call()"))
    seen = []

    def run(_, patches, keep):
        tree = tmp_path / f"plain-{len(patches)}"
        bench.git("worktree", "add", "-q", "--detach", str(tree), bench.git("rev-list", "--max-parents=0", "HEAD"))
        apply_series(patches, tree, bench.ctx)
        seen.append((tree / "drivers/gamma.c").read_text().split("return ")[1].split(";")[0])
        return {"solo": "pass"}

    first = bench.git("rev-list", "--max-parents=0", "HEAD")
    source = {"type": "git", "path": str(bench.tree), "revision": first}
    recipe = bench.recipe(source=source, series=[{"type": "patches", "path": str(bench.patches)}])
    wanted = Wanted(("W=1",), scenarios=("solo",), run_scenarios=run)
    done, _ = walk(recipe, "with", bench.ctx, bench.results, wanted, bench.told.append)
    assert [one.applied.how for one in done.patches] == ["strict", "strict", "fuzz", "strict"]
    assert [one.scenarios for one in done.patches] == [{"solo": "pass"}] * 4
    assert seen == ["beta_call()", "beta_call()", "2 + beta_call()", "3 + beta_call()"]


def test_scenarios_run_on_the_kernel_that_the_walk_has_built(bench):
    """No tree is unpacked and built once more for them, but for the base: what a series made is in none.

    A kernel that does not build runs none.
    """
    bench.patch("alpha: two", ("drivers/alpha.c", "core_answer();", "core_answer() + 2;"))
    bench.patch("core: broken", ("core/net.c", SEND, "int core_send(int flags\n{"))
    bench.patch("core: mended", ("core/net.c", "int core_send(int flags\n{", SEND))
    bench.patch("delta: one", ("drivers/delta.c", "core_send(0)", "core_send(1)"))
    first = bench.git("rev-list", "--max-parents=0", "HEAD")
    source = {"type": "git", "path": str(bench.tree), "revision": first}
    recipe = bench.recipe(source=source, series=[{"type": "patches", "path": str(bench.patches)}])
    kept = {}

    def run(_, patches, keep):
        folder = bench.root / f"quilt-{len(patches)}"
        shutil.rmtree(folder, ignore_errors=True)
        write_quilt(folder, patches)
        series = (QuiltSeries(type="quilt", path=str(folder)),) if patches else ()
        shorter = recipe.model_copy(update={"series": series})
        keep(shorter)
        kept[len(patches)] = build_kernel(shorter, "k", bench.ctx)
        return {"solo": "infra" if len(patches) == 1 and len(kept) == 2 else "pass"}

    wanted = Wanted((), scenarios=("solo",), run_scenarios=run)
    done, _ = walk(recipe, "with", bench.ctx, bench.results, wanted, bench.told.append)
    ways = [one.scenarios.get("solo") for one in done.patches]
    assert ways == ["pass", "infra", "blocked", "pass", "pass"]
    assert [(n, one.cached, one.objects_compiled) for n, one in sorted(kept.items())] == [
        (0, False, 7), (1, True, 1), (3, True, 0), (4, True, 1)  # 3: out of ccache
    ]  # fmt: skip
    # What the lab was at fault for is run now, and what was stopped: its kernel is there; and where it is not, the
    # tree stands there once more.
    for lost in (False, True):
        if lost:
            shutil.rmtree(bench.ctx.cache.path("kernel", kept[1].key))
            (stored,) = (bench.results / "series").glob("*/patches/0001-*.json")
            stored.write_text(json.dumps(json.loads(stored.read_text()) | {"scenarios": {}}))
        done, _ = walk(recipe, "with", bench.ctx, bench.results, wanted, bench.told.append)
        assert [one.scenarios.get("solo") for one in done.patches] == ["pass", "pass", "blocked", "pass", "pass"]
        assert kept[1].cached
    plain = bench.recipe(source=source, series=[{"type": "patches", "path": str(bench.patches)}])
    assert kernel_key(plain, bench.ctx) == kept[4].key
    assert series_changes(plain, bench.ctx).patches[3].hunks


def test_every_view_has_every_patch(walked):
    table = walked.table
    text = VIEWS["text"](table).decode()
    assert re.search(r"^ *2 +alpha: break +ok +ok +3 broken", text, re.MULTILINE)
    assert "2, mended by 4  modules: alpha: drivers/alpha.c:6: " in text
    assert "6 clean builds would compile 42" in text
    root = ET.fromstring(VIEWS["junit"](table))
    modules = next(suite for suite in root if suite.get("name") == "modules")
    assert (modules.get("tests"), modules.get("failures"), modules.get("skipped")) == ("8", "1", "2")
    assert "alpha" in modules.find("testcase/failure").text
    found = json.loads(VIEWS["json"](table))
    assert found["patches"][1]["cells"]["modules"]["state"] == "fail"
    assert found["exit_code"] == 1
    page = VIEWS["html"](table).decode()
    assert page.count('<h3 id="p') == 8
    assert "never tried" in page


def test_what_is_known_is_not_looked_at_again(walked):
    """The second walk compiles nothing; an edited patch is looked at again, and all after it, and none before."""
    again = walked.walk()
    assert [one.facts.number for one in again.rows if not one.facts.stored] == []
    assert [one.cells for one in again.rows] == [one.cells for one in walked.table.rows]
    edited = walked.patches / "0005.patch"
    before = edited.read_text()
    edited.write_text(before.replace("+\treturn core_send(1)", "+\treturn core_send(1 + 0)"))
    try:
        table = walked.walk()
    finally:
        edited.write_text(before)
    assert [one.facts.stored for one in table.rows[:6]] == [True] * 4 + [False] * 2
    assert table.rows[4].facts.built.rebuilt == 1  # what stood before it was put right first, and is not counted
    assert row(table, 5, "modules") == ("ok", "ok")


def test_a_walk_that_is_killed_loses_one_patch_at_most(bench):
    for number in range(4):
        bench.patch(f"net: {number}", ("core/net.c", SEND, f"/* {number} */\n{SEND}"))

    def die(facts):
        if facts.number == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench.walk(tell=die)
    torn = bench.warm() / "tree/core/net.c"
    torn.write_text("half a fi")  # as a kill in the middle of a write leaves it
    table = bench.walk()
    assert [one.facts.stored for one in table.rows] == [True, True, False, False]
    assert all(one.cells["build"].text == "ok" for one in table.rows)
    assert torn.read_text() == (bench.tree / "core/net.c").read_text()


def test_another_series_on_the_same_tree_finds_it_as_it_was(bench):
    bench.patch("alpha: break", (*ALPHA, "return core_answer(;"), ("drivers/new.c", "", "int new;\n"))
    bench.walk()
    next(bench.patches.glob("*.patch")).unlink()
    bench.git("reset", "-q", "--hard", "HEAD~1")
    bench.patch("net: a word", ("core/net.c", SEND, f"/* a word */\n{SEND}"))
    table = bench.walk()
    assert row(table, 1, "modules") == ("ok", "ok")
    assert not (bench.warm() / "tree/drivers/new.c").exists()


def test_two_series_on_one_base_have_a_tree_and_a_folder_each_that_clean_leaves_while_they_are_walked(bench):
    bench.patch("alpha: break", (*ALPHA, "return core_answer(;"))
    bench.walk()
    first = bench.out
    bench.patches = shutil.copytree(bench.patches, bench.root / "theirs")

    def prune(_: object) -> None:
        for entry in bench.ctx.cache.entries():
            if entry.kind == "series-tree":
                bench.ctx.cache.remove(entry)

    bench.walk(tell=prune)
    assert bench.out != first
    left = [entry.path for entry in bench.ctx.cache.entries() if entry.kind == "series-tree"]
    assert [(path / "tree/Makefile").exists() for path in left] == [True]
    assert bench.out.name.removeprefix("with-") == left[0].name[:12]
    assert all(list((folder / "patches").glob("*.json")) for folder in (first, bench.out))


def test_how_large_a_series_store_is_becomes_known(bench):
    if not fence.which("ccache"):
        pytest.skip("no ccache on this host")
    bench.patch("alpha: other", (*ALPHA, "return core_answer() + 1;"))
    bench.walk()
    (store,) = [entry for entry in bench.ctx.cache.entries() if entry.label == "objects of a series"]
    assert store.size_bytes == disk_bytes(store.path)
    assert store.size_bytes > 4096


def test_what_a_configuration_brings_to_light_is_not_the_patchs(bench):
    """A module that a patch first makes possible is compiled for the first time; its old warning is old."""
    old = "int delta_old(int one);\nint delta_old(int one)\n{\n\treturn 0;\n}\nint delta_call(void)\n{"
    bench.sub("drivers/delta.c", "int delta_call(void)\n{", old)
    bench.sub("drivers/Kconfig", 'tristate "Delta"', 'tristate "Delta"\n\tdepends on ABSENT')
    bench.git("commit", "-qa", "--amend", "--no-edit")
    new = "int delta_new(int two);\nint delta_new(int two)\n{\n\treturn 0;\n}\n"
    edit = ("drivers/delta.c", "#include <module.h>\n", f"#include <module.h>\n{new}")
    bench.patch("delta: for all", ("drivers/Kconfig", "\n\tdepends on ABSENT", ""), edit)
    table = bench.walk()
    (line,) = table.rows[0].cells["W=1"].lines
    assert "two" in line
    assert "configuration: DELTA=m, was n" in table.rows[0].cells["build"].lines
    stat = (bench.warm() / "tree/drivers/delta.c").stat()
    assert stat.st_mtime_ns <= (bench.warm() / "tree/obj/drivers/delta.o").stat().st_mtime_ns


def test_built_in_code_that_does_not_compile(bench):
    bench.patch("net: break", ("core/net.c", "return 0;", "return 0"))
    bench.patch("delta: harmless", ("drivers/delta.c", "core_send(0)", "core_send(1)"))
    bench.patch("net: mend", ("core/net.c", "return 0\n", "return 0;\n"))
    table = bench.walk()
    assert [row(table, n, "build") for n in (1, 2, 3)] == [("fail", "no"), ("still", "since 1"), ("ok", "mended")]
    assert [row(table, n, "modules")[0] for n in (1, 2, 3)] == ["ok"] * 3
    (failure,) = table.failures
    assert (failure.check, failure.first, failure.mended) == ("build", 1, 3)
    assert row(table, 1, "W=1")[0] == "skip"


def test_what_stands_between_two_faults_in_built_in_code_is_nobodys(bench):
    """Each fault is its own, wherever it moves to, and whichever object make names first."""
    bench.patch("net: break", ("core/net.c", "return 0;", "return 0"))
    bench.patch("main: break", ("core/main.c", "return 42;", "return 42"), ("core/net.c", SEND, f"\n\n\n{SEND}"))
    bench.patch("main: mend", ("core/main.c", "return 42\n", "return 42;\n"))
    bench.patch("net: mend", ("core/net.c", "return 0\n", "return 0;\n"))
    table = bench.walk("W=1")
    cells = [row(table, n, "build") for n in (1, 2, 3, 4)]
    assert cells == [("fail", "no"), ("fail", "no"), ("still", "since 1"), ("ok", "mended")]
    net, main = table.failures
    assert (net.what.split(":")[0], net.first, net.mended) == ("core/net.c", 1, 4)
    assert (main.what.split(":")[0], main.first, main.mended) == ("core/main.c", 2, 3)


def test_sparse_says_what_is_new(bench, monkeypatch):
    said = 'test "$1" != --version || { echo stub; exit; }\nfor f do :; done\n'
    said += 'grep -n SPARSE "$f" | sed "s,^\\([0-9]*\\):.*,$f:\\1:2: warning: context imbalance,"; exit 1'
    program(bench.root / "bin", "sparse", said)
    monkeypatch.setenv("PATH", f"{bench.root / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setattr(fence, "SYSTEM", (*fence.SYSTEM, str(bench.root / "bin")))
    bench.sub("core/net.c", SEND, f"/* SPARSE */\n{SEND}")
    bench.git("commit", "-qa", "--amend", "--no-edit")
    bench.patch("net: a word", ("core/net.c", SEND, f"/* a word */\n{SEND}"))
    bench.patch(
        "delta: imbalance", ("drivers/delta.c", "int delta_call(void)\n{", "int delta_call(void)\n{ /* SPARSE */")
    )
    table = bench.walk()
    assert row(table, 1, "sparse") == ("ok", "ok")
    assert row(table, 2, "sparse") == ("fail", "1 new")
    assert table.rows[1].cells["sparse"].lines == ("drivers/delta.c:5: warning: context imbalance",)


def test_without_sparse_the_check_is_skipped_with_the_reason(bench, monkeypatch):
    real = fence.which
    monkeypatch.setattr(fence, "which", lambda name: None if name == "sparse" else real(name))
    bench.patch("net: a word", ("core/net.c", SEND, f"/* a word */\n{SEND}"))
    table = bench.walk("W=1", "sparse", "checkpatch")
    assert row(table, 1, "sparse") == ("skip", "skipped")
    assert "not installed" in table.rows[0].cells["sparse"].lines[0]
    assert table.rows[0].cells["checkpatch"].lines == ("this tree has no scripts/checkpatch.pl",)
    assert table.exit_code == 0


def test_checkpatch_is_the_trees_own_and_reads_the_mail(bench):
    script = (
        "local $/; my $mail = <STDIN>; print '-:1: ERROR:MISSING_SIGN_OFF: Missing Signed-off-by: line(s)', qq{\\n}"
    )
    script += " unless $mail =~ /^Signed-off-by:/m; print 'drivers/delta.c:5: WARNING:LONG_LINE: too long', qq{\\n}"
    script += " if $mail =~ /delta/; exit 1;"
    bench.write("scripts/checkpatch.pl", script)
    bench.git("add", "-A")
    bench.git("commit", "-q", "--amend", "--no-edit")
    bench.patch("net: unsigned", ("core/net.c", SEND, f"/* a word */\n{SEND}"), text="Why.")
    bench.patch("delta: long", ("drivers/delta.c", "core_send(0)", "core_send(1)"))
    table = bench.walk("checkpatch")
    assert row(table, 1, "checkpatch") == ("fail", "1 error")
    assert row(table, 2, "checkpatch") == ("warn", "1 warning")
    assert table.rows[1].cells["checkpatch"].lines == ("drivers/delta.c:5: warning: LONG_LINE: too long",)
    mail = bench.patches / "0001.patch"
    mail.write_text(mail.read_text().replace("Why.", "Why.\n\nSigned-off-by: A <a@b.c>"))
    assert row(bench.walk("checkpatch"), 1, "checkpatch") == ("ok", "ok")  # the text alone has changed


def test_allmodconfig_and_coccicheck_on_request(bench, monkeypatch):
    """delta is not in the lab's configuration: only with everything as a module is it seen that it breaks."""
    (bench.lab / "kernels/config/all.config").write_text("CONFIG_NET=y\nCONFIG_ALPHA=m\n")
    program(bench.root / "bin", "spatch", "exit 0")
    monkeypatch.setenv("PATH", f"{bench.root / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setattr(fence, "SYSTEM", (*fence.SYSTEM, str(bench.root / "bin")))
    bench.write(
        "scripts/coccicheck", 'grep -n COCCI "$1" | sed "s,^\\([0-9]*\\):.*,./$1:\\1:2-7: WARNING: use kzalloc,"\n'
    )
    bench.git("add", "-A")
    bench.git("commit", "-q", "--amend", "--no-edit")
    bench.patch("delta: break", ("drivers/delta.c", "core_send(0);", "core_send(0; /* COCCI */"))
    bench.patch("delta: mend", ("drivers/delta.c", "core_send(0; /* COCCI */", "core_send(0);"))
    table = bench.walk("W=1", "allmodconfig", "coccicheck")
    assert row(table, 1, "build") == ("skip", "not compiled")
    assert row(table, 1, "allmodconfig") == ("fail", "1 new")
    assert table.rows[0].cells["allmodconfig"].lines[0].startswith("drivers/delta.c:6: error: ")
    assert row(table, 2, "allmodconfig") == ("ok", "1 gone")
    assert table.rows[0].cells["coccicheck"].lines == ("drivers/delta.c:6: warning: use kzalloc",)
    assert {(f.check, f.first, f.mended) for f in table.failures} == {("allmodconfig", 1, 2), ("coccicheck", 1, 2)}


def test_a_range_with_merges_says_so(bench):
    first = bench.git("rev-parse", "HEAD")
    bench.git("checkout", "-q", "-b", "side")
    bench.patch("delta: side", ("drivers/delta.c", "core_send(0)", "core_send(1)"))
    bench.git("checkout", "-q", "main")
    bench.patch("net: main", ("core/net.c", SEND, f"/* a word */\n{SEND}"))
    bench.git("merge", "-q", "--no-edit", "side")
    series = [{"type": "git", "path": str(bench.tree), "range": f"{first}..main"}]
    recipe = bench.recipe(source={"type": "git", "path": str(bench.tree), "revision": first}, series=series)
    done, _ = walk(recipe, "with", bench.ctx, bench.results, Wanted(("W=1",)), bench.told.append)
    assert len(judge(done).rows) == 2
    assert done.notes[0].endswith("patches of both sides stand in one line")
    assert f"{first}..main has 1 merge:" in done.notes[0]


def test_what_cannot_be_walked_is_told(bench):
    with pytest.raises(UserError, match="has no series"):
        walk(bench.recipe(), "with", bench.ctx, bench.results, Wanted(), bench.told.append)
    with pytest.raises(UserError, match="no patch in it"):
        bench.walk()
    recipe = bench.recipe(source={"type": "debian-image", "package": "linux-image-amd64", "suite": "trixie"}, config=[])
    with pytest.raises(UserError, match="built already"):
        walk(recipe, "with", bench.ctx, bench.results, Wanted(), bench.told.append)


def test_a_full_disk_is_the_hosts_fault_and_what_is_done_stays(bench, monkeypatch):
    monkeypatch.setattr(fence, "LEAST_FREE_BYTES", 1 << 60)
    bench.patch("net: a word", ("core/net.c", SEND, f"/* a word */\n{SEND}"))
    bench.patch("net: fill", ("core/net.c", SEND, f"/* more */\n{SEND}"), ("fail", "", "nospace\n"))
    with pytest.raises(HostError, match="no space left"):
        bench.walk()
    assert len(list((bench.results / "series").glob("*/patches/0001-*.json"))) == 1
    assert not list((bench.results / "series").glob("*/patches/0002-*.json"))
