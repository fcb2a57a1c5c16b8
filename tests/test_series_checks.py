"""What a check does where make, the configuration or a tool stops: it says so, and says nothing else."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from series_fixtures import SeriesBench, program, row

from kpatchlab.build import objects
from kpatchlab.errors import UserError
from kpatchlab.series import checks, judge
from kpatchlab.series.values import Applied, LostObject, PatchBuild, PatchResult, Walk

pytestmark = pytest.mark.toy

WARN_SH = Path(checks.__file__).with_name("warn.sh")
UNUSED = "int {0}_{1}(int {1});\nint {0}_{1}(int {1})\n{{\n\treturn 0;\n}}\n"
BETA = "drivers/beta/: drivers/beta/one.o drivers/beta/two.o\n"


@pytest.fixture
def bench(tmp_path):
    return SeriesBench(tmp_path)


@pytest.fixture
def modules(bench):
    """A tree whose folders follow the configuration, and in which drivers/old is left out of it."""
    bench.sub("Makefile", BETA, BETA + "".join(
        f"drivers/{name}/: $(if $(CONFIG_{name.upper()}),drivers/{name}/{name}.o)\n.PHONY: drivers/{name}/\n"
        for name in ("foo", "old")
    ))  # fmt: skip
    everything = "sed -n 's/^config \\(.*\\)/CONFIG_\\1=m/p' $(srctree)/drivers/Kconfig > .config"
    refuses = "! grep -Hn BROKEN $(srctree)/drivers/Kconfig >&2"
    bench.sub("Makefile", "printf 'CONFIG_%s=m\\n' ALPHA BETA GAMMA DELTA > .config", f"{refuses} && {everything}")
    bench.write("include/old.h", "#define OLD 0\n")
    bench.write("drivers/old/old.c", "#include <old.h>\nint zero = OLD;\n" + UNUSED.format("old", "one"))
    bench.folders("drivers/old")
    bench.git("add", "-A")
    bench.git("commit", "-q", "--amend", "--no-edit")
    return bench


def symbol(name):
    """Return the edit that adds a symbol."""
    return "drivers/Kconfig", "config EPSILON", f'config {name}\n\ttristate "{name}"\n\nconfig EPSILON'


def test_a_folder_that_a_patch_brings_or_enables_is_compiled_with_the_symbol_that_it_brings(modules):
    foo = ("drivers/foo/foo.c", "", UNUSED.format("foo", "one"))
    modules.patch("foo: new", foo, ("drivers/foo/Makefile", "", ""), symbol("FOO"))
    more = UNUSED.format("old", "one")
    modules.patch("old: enable", ("drivers/old/old.c", more, more + UNUSED.format("old", "two")), symbol("OLD"))
    header = ("include/old.h", "OLD", "NEW")  # what it names anew does not let the old text compile, which once did
    modules.patch("old: rename", ("drivers/old/old.c", "OLD", "NEW"), header, symbol("MORE"))
    table = modules.walk("allmodconfig")
    assert [row(table, n, "allmodconfig") for n in (1, 2, 3)] == [("fail", "1 new"), ("fail", "1 new"), ("ok", "ok")]
    first, second, _ = (one.cells["allmodconfig"].lines[0] for one in table.rows)
    assert first.startswith("drivers/foo/foo.c:2: warning: unused parameter")
    assert second.startswith("drivers/old/old.c:9: warning: unused parameter")  # that in line 4 is old


def test_a_configuration_that_is_refused_costs_the_patches_beside_it_alone(modules):
    answer = ("drivers/alpha.c", "core_answer();", "core_answer() + 1;")
    modules.patch("alpha: break Kconfig", ("drivers/Kconfig", "config EPSILON", "BROKEN\nconfig EPSILON"), answer)
    modules.patch("alpha: mend Kconfig", ("drivers/Kconfig", "BROKEN\n", ""), ("drivers/alpha.c", " + 1;", " + 2;"))
    modules.patch(
        "alpha: warn",
        ("drivers/alpha.c", "int alpha_call(void)\n{", UNUSED.format("a", "b") + "int alpha_call(void)\n{"),
    )
    table = modules.walk("allmodconfig")
    assert [row(table, n, "allmodconfig")[0] for n in (1, 2, 3)] == ["skip", "skip", "fail"]
    lines = [one.cells["allmodconfig"].lines[0] for one in table.rows]
    assert lines[0].startswith("make allmodconfig: ../drivers/Kconfig:19:BROKEN")
    assert lines[1] == f"before the patch: {lines[0]}"


def test_objects_that_make_does_not_come_to_are_not_ok(bench):
    """Make stops where the tree is prepared; what was said of the objects before is not what they are now."""
    prepare = "drivers/delta.o: | bounds\n.PHONY: bounds\nbounds:\n"
    bench.sub("Makefile", BETA, f"{BETA}{prepare}\t@$(CC) $(flags) -S -o bounds.s $(srctree)/kernel/bounds.c\n")
    bench.write("include/bounds.h", "#define BOUND 1\n")
    bench.write("kernel/bounds.c", "#include <bounds.h>\n")
    bench.sub("drivers/delta.c", "#include <module.h>\n", "#include <module.h>\n#include <bounds.h>\n")
    bench.git("add", "-A")
    bench.git("commit", "-q", "--amend", "--no-edit")
    bench.patch(
        "break", ("include/bounds.h", "1\n", "1\nint (;\n"), ("drivers/delta.c", "core_send(0)", "core_send(1)")
    )
    bench.patch("mend", ("include/bounds.h", "int (;\n", ""), ("drivers/delta.c", "core_send(1)", "core_send(2)"))
    table = bench.walk("W=1", "allmodconfig")
    assert [row(table, n, "W=1")[0] for n in (1, 2)] == ["skip", "skip"]
    assert row(table, 1, "allmodconfig") == ("fail", "1 new")
    assert table.rows[0].cells["allmodconfig"].lines[0].startswith("include/bounds.h:2: error: ")
    assert row(table, 2, "allmodconfig") == ("ok", "1 gone")


def test_a_check_that_takes_too_long_is_skipped(bench, monkeypatch):
    monkeypatch.setattr(checks, "CHECK_S", 0.001)
    bench.patch("delta: one", ("drivers/delta.c", "core_send(0)", "core_send(1)"))
    table = bench.walk("W=1", "allmodconfig")
    assert row(table, 1, "W=1") == row(table, 1, "allmodconfig") == ("skip", "skipped")
    assert "make did not end in" in table.rows[0].cells["W=1"].lines[0]
    assert row(table, 1, "build") == ("ok", "ok")


def test_coccicheck_that_fails_finds_nothing(bench):
    bench.write("scripts/coccicheck", "echo broken >&2; echo coccicheck failed; exit 3\n")
    with pytest.raises(UserError, match=r"failed on drivers/delta\.c: broken"):
        checks.coccicheck(bench.tree, ["drivers/delta.c"], bench.ctx)


def test_a_folder_without_a_makefile_is_compiled_by_the_one_above_it(tmp_path):
    for name in ("fs", "fs/xfs", "net", "net/core"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "Makefile").touch()
    files = ["fs/xfs/libxfs/a.c", "net/core/b.h", "fs/new/c.c", "include/linux/d.h", "tools/e/f.c", "net/made/g.c"]
    found = objects.folders_of([*files, "net/made/Kbuild"], tmp_path)
    assert found == ["fs/xfs/", "net/core/", "net/made/"]


def test_a_header_is_found_however_the_source_names_it(tmp_path):
    folder = tmp_path / "drivers/tty/serial/8250"
    folder.mkdir(parents=True)
    deps = "  ../drivers/tty/serial/8250/../gpio.h \\\n  ../drivers/tty/serial/8250/gpio.h \\\n"
    (folder / ".core.o.cmd").write_text(f"deps_drivers/tty/serial/8250/core.o := \\\n{deps}")
    found, lost, _ = objects.objects_of(["drivers/tty/serial/gpio.h", "drivers/gpio.h"], tmp_path)
    assert (found, lost) == (["drivers/tty/serial/8250/core.o"], ["drivers/gpio.h"])


def test_code_of_the_kernel_that_no_object_is_compiled_from_is_named(tmp_path):
    files = ["a/own.c", "a/part.c", "a/left.c", "a/gone.c", "a/Kconfig", "tools/x.c"]
    for file in files:
        path = tmp_path / "tree" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "tree/a/gone.c").unlink()
    (tmp_path / "obj/a").mkdir(parents=True)
    (tmp_path / "obj/a/.own.o.cmd").write_text("deps_a/own.o := \\\n  ../a/part.c \\\n")
    assert objects.unbuilt(files, tmp_path / "tree", tmp_path / "obj") == ("a/left.c",)


def test_an_object_that_fails_keeps_nothing_of_what_was_said_before(tmp_path):
    program(tmp_path, "cc", 'echo "a.c:1: warning: x" >&2; test ! -e fail')
    words = ["sh", WARN_SH, "-c", "-DKBUILD_MODNAME=a", "-o", "net/a.o", "a.c"]
    env = {"PATH": "/usr/bin:/bin", "KPATCHLAB_CC": "./cc", "KPATCHLAB_RECORDS": str(tmp_path)}
    left = []
    for fails in (False, True):
        (tmp_path / "net%a.o.sparse").touch()
        if fails:
            (tmp_path / "fail").touch()
        subprocess.run(words, check=not fails, cwd=tmp_path, env=env, stderr=subprocess.DEVNULL)
        left.append(sorted(path.name for path in tmp_path.glob("net*")))
    assert left == [["net%a.o.warnings"], ["net%a.o.failed"]]


def built(*faults, **more):
    return PatchBuild(tuple(LostObject(*fault) for fault in faults), **more)


def judged(*builds, files=()):
    results = tuple(PatchResult(n, "", "", "", Applied("strict"), files, one) for n, one in enumerate(builds))
    return judge(Walk("with", "", "", "", (), results, "", 0.0, complete=True))


def test_what_make_does_not_come_to_is_neither_mended_nor_broken_anew():
    link, object_ = ("", "net/a.c", 3, "undefined reference to `f'"), ("net/z.o", "net/z.c", 10, "expected ';'")
    stop = ("", "", 0, "No rule to make target")
    table = judged(built(link), built(object_), built(link), built())
    assert [row(table, n, "build") for n in (1, 2, 3)] == [
        ("fail", "no"),
        ("still", "before the series"),
        ("ok", "mended"),
    ]
    assert [(one.first, one.mended) for one in table.failures] == [(1, 3)]
    table = judged(built(), built(object_), built(stop), built(object_), built())
    assert [row(table, n, "build")[0] for n in (1, 2, 3, 4)] == ["fail", "fail", "still", "ok"]


def test_a_fault_is_one_in_many_objects_and_wherever_it_moves_to():
    """It is mended when the last object has it no more."""
    faults = [(f"net/{n}.o", "include/a.h", 5, "expected ';' at 5") for n in range(3)]
    moved = [(name, file, 8, "expected ';' at 8") for name, file, _, _ in faults[:1]]
    table = judged(built(), built(*faults), built(*moved), built())
    assert [row(table, n, "build")[0] for n in (1, 2, 3)] == ["fail", "still", "ok"]
    assert table.rows[0].cells["build"].lines == ("include/a.h:5: expected ';' at 5",)
    assert [(one.first, one.mended) for one in table.failures] == [(1, 3)]


def test_a_file_that_is_moved_and_not_compiled_is_not_ok():
    files = ("net/foo.c", "net/bar.c")
    table = judged(built(), built(unseen=("net/bar.c",), deleted=("net/foo.c",)), built(deleted=files), files=files)
    assert [row(table, n, "build") for n in (1, 2)] == [("skip", "not compiled"), ("ok", "ok")]
