"""A series patch by patch: what each patch does is its own, whatever an incremental build compiles for it."""

from __future__ import annotations

import pytest
from series_fixtures import SeriesBench, row

GAMMA = ("drivers/gamma.c", "return beta_call();")
ALPHA = ("drivers/alpha.c", "return core_answer();")


@pytest.fixture
def bench(tmp_path):
    return SeriesBench(tmp_path)


def made(bench):
    """The series of the module's first test: a warning, a break, a header, the mending, a harmless one."""
    bench.patch(
        "net: warn",
        (
            "core/net.c",
            "int core_send(int flags)\n{",
            "int core_send2(int flags, int more);\nint core_send2(int flags, int more)\n{\n\treturn flags;\n}\nint core_send(int flags)\n{",
        ),
    )
    bench.patch("alpha: break", (*ALPHA, "return core_answer(;"))
    bench.patch(
        "header: a word", ("include/module.h", "#define MODULE_LICENSE", "/* licence */\n#define MODULE_LICENSE")
    )
    bench.patch("alpha: mend", ("drivers/alpha.c", "core_answer(;", "core_answer() + 1;"))
    bench.patch("delta: send", ("drivers/delta.c", "core_send(0)", "core_send(1)"))
    bench.git("checkout", "-q", "HEAD")


def test_each_patch_is_judged_by_what_it_does(bench):
    made(bench)
    table = bench.walk()
    assert [row(table, n, "apply")[1] for n in range(1, 6)] == ["ok"] * 5
    assert row(table, 1, "W=1") == ("fail", "1 new")
    assert "unused parameter" in table.rows[0].cells["W=1"].lines[0]
    assert row(table, 2, "modules") == ("fail", "3 broken")  # beta and gamma need alpha
    assert "drivers/alpha.c:6" in table.rows[1].cells["modules"].lines[0]
    assert row(table, 3, "modules") == ("still", "3 since 2")
    assert row(table, 4, "modules") == ("ok", "3 mended")
    assert row(table, 5, "modules") == ("ok", "ok")
    first = {failure.what.split(":")[0]: (failure.first, failure.mended) for failure in table.failures}
    assert first == {"core/net.c": (1, 0), "alpha": (2, 4), "fake_beta": (2, 4), "gamma": (2, 4)}
    assert table.exit_code == 1


def test_a_header_that_recompiles_everything_makes_no_warnings(bench):
    """core/net.c has an old warning at W=1; a header that it includes is no reason to call it new."""
    made(bench)
    table = bench.walk()
    assert table.rows[2].facts.built.rebuilt == 7
    assert row(table, 3, "W=1") == ("ok", "ok")
    assert table.rows[4].facts.built.rebuilt == 1
    assert table.rebuilt == sum(r.facts.built.rebuilt for r in table.rows)
    assert table.clean == 5 * 7
