"""Bases that are kept with their objects: what a series gets of them, and what it never can do to them."""

from __future__ import annotations

import os
import shutil

import pytest

from kpatchlab import fence
from kpatchlab.build import build_kernel, config, warm
from kpatchlab.build.spec import read_spec
from kpatchlab.cache import Cache
from kpatchlab.fence import Lack
from kpatchlab.model import Outcome
from tests.build_fixtures import Bench
from tests.test_copies import held, seen


@pytest.fixture
def bench(tmp_path):
    """A lab whose tree is a repository, so that its bases are not built where they lie."""
    made = Bench(tmp_path)
    made.repository()
    return made


def base_of(bench, **changes):
    source = {"type": "git", "path": str(bench.tree), "revision": "main~0"}
    return bench.recipe(source=source, **changes)


def series_of(bench, edit):
    """Return the recipe of what `edit` changes in the tree, as a series of one patch; what was changed before stays."""
    bench.git("add", "-A")
    edit()
    bench.git("add", "-A", "-N")
    (bench.root / "a.patch").write_text(bench.git("diff", "--binary") + "\n")
    bench.git("checkout", "-q", "--", ".")
    return base_of(bench, series=[{"type": "mbox", "path": str(bench.root / "a.patch")}])


def artifact_of(bench, build):
    folder = bench.ctx.cache.path("kernel", build.key)
    return {name: data for name, data in held(folder).items() if name.endswith((".ko", "config", "System.map"))}


def kept(bench):
    return bench.ctx.cache.path(warm.WARM, read_spec(base_of(bench), bench.ctx).key) / "tree"


def test_a_series_is_compiled_where_it_differs_from_its_base_also_without_ccache(bench, monkeypatch):
    which = fence.which
    monkeypatch.setattr(fence, "which", lambda name: None if name == "ccache" else which(name))
    first = build_kernel(base_of(bench), "base", bench.ctx)
    assert (first.outcome, first.objects_compiled) == (Outcome.PASS, first.objects_total), first.error
    before = seen(kept(bench))

    series = series_of(bench, lambda: bench.sub("core/net.c", "return -1;", "return -2;"))
    second = build_kernel(series, "series", bench.ctx)
    assert (second.outcome, second.objects_compiled, second.objects_total) == (Outcome.PASS, 1, first.objects_total)
    assert seen(kept(bench)) == before
    assert (bench.ctx.cache.path("kernel", first.key) / "vmlinux").read_bytes() != (
        bench.ctx.cache.path("kernel", second.key) / "vmlinux"
    ).read_bytes()


def test_it_is_the_kernel_that_a_tree_of_its_own_gives(bench):
    """With a file more, one less, one renamed with its module and its symbol, and one of another mode."""

    def edit():
        bench.sub("core/net.c", "return -1;", "return -2;")
        (bench.tree / "core/net.c").chmod(0o755)
        (bench.tree / "core/more.h").write_text("another\n")
        (bench.tree / "README.md").unlink()
        (bench.tree / "drivers/alpha.c").rename(bench.tree / "drivers/alpha2.c")
        bench.sub("drivers/Kconfig", "config ALPHA", "config ALPHA2")
        bench.sub("Makefile", "drivers/alpha.ko: drivers/alpha.o", "drivers/alpha2.ko: drivers/alpha2.o")
        bench.sub("Makefile", "CONFIG_ALPHA) += drivers/alpha.ko", "CONFIG_ALPHA2) += drivers/alpha2.ko")

    series = series_of(bench, edit)
    alone = build_kernel(series, "alone", bench.ctx)
    assert alone.outcome is Outcome.PASS, alone.error
    assert not kept(bench).exists()  # a stranger's tree is none to keep

    build_kernel(base_of(bench), "base", bench.ctx)
    before = seen(kept(bench))
    names = artifact_of(bench, alone)
    bench.ctx.cache.drop("kernel", alone.key)
    lent = build_kernel(series, "lent", bench.ctx)
    assert (lent.outcome, lent.key, lent.release) == (Outcome.PASS, alone.key, alone.release)
    assert artifact_of(bench, lent) == names
    assert {name for name in names if name.endswith(".ko")} == {
        "modules-debug/drivers/delta.ko"
    }  # the others need alpha
    assert seen(kept(bench)) == before
    assert not os.access(kept(bench) / "core/net.c", os.X_OK)


def test_a_series_that_decides_about_the_configuration_is_configured_anew(bench, monkeypatch):
    build_kernel(base_of(bench), "base", bench.ctx)
    series = series_of(bench, lambda: bench.sub("Kconfig", "config NET\n", "config NET\n\t# first\n"))
    asked, configure = [], config.configure
    monkeypatch.setattr(config, "configure", lambda *words: asked.append(words) or configure(*words))
    build = build_kernel(series, "series", bench.ctx)
    assert (build.outcome, len(asked)) == (Outcome.PASS, 1), build.error


def test_a_series_on_a_users_own_tree_gets_the_objects_of_the_labs_copy(bench, monkeypatch):
    which = fence.which
    monkeypatch.setattr(fence, "which", lambda name: None if name == "ccache" else which(name))
    bench.sub("core/main.c", "return 42", "return 43")  # not committed
    series = series_of(bench, lambda: bench.sub("core/net.c", "return -1;", "return -2;"))
    own = bench.recipe(series=series.model_dump()["series"])
    first = build_kernel(bench.recipe(), "base", bench.ctx)
    before = bench.snapshot()
    second = build_kernel(own, "series", bench.ctx)
    assert (second.outcome, second.objects_compiled, second.objects_total) == (Outcome.PASS, 1, first.objects_total)
    assert bench.snapshot() == before

    bench.sub("core/main.c", "return 43", "return 44")  # newer than what lies built
    third = build_kernel(own, "series", bench.ctx)
    assert (third.outcome, third.objects_compiled) == (Outcome.PASS, 2)


def test_the_last_two_are_kept(bench):
    for number in range(3):
        bench.write("core/number.h", f"#define NUMBER {number}\n")
        bench.git("add", "-A")
        bench.git("commit", "-qm", f"number {number}")
        assert build_kernel(base_of(bench), "base", bench.ctx).outcome is Outcome.PASS
    found = [entry for entry in bench.ctx.cache.entries() if entry.kind == warm.WARM]
    assert len(found) == warm.MOST
    assert kept(bench).parent in {entry.path for entry in found}
    assert all("with its objects" in entry.label and entry.size_bytes > 0 for entry in found)


def test_nothing_is_lent_where_a_build_is_not_confined(bench, monkeypatch):
    """A Makefile of a series could write to a source that is a link to the base's."""
    build_kernel(base_of(bench), "base", bench.ctx)
    tree = bench.root / "tree"
    tree.mkdir()
    key = read_spec(base_of(bench), bench.ctx).key
    monkeypatch.setattr(warm, "lacking", lambda: Lack("no bubblewrap", "install it"))
    assert not warm.lend(key, tree, bench.ctx)
    monkeypatch.undo()
    assert warm.lend(key, tree, bench.ctx)
    assert {path.name for path in tree.iterdir()} == {path.name for path in kept(bench).iterdir()}


def test_what_cannot_be_copied_is_unpacked(bench, monkeypatch):
    build_kernel(base_of(bench), "base", bench.ctx)
    shutil.rmtree(kept(bench) / "obj")
    series = series_of(bench, lambda: bench.sub("core/net.c", "return -1;", "return -2;"))
    build = build_kernel(series, "series", bench.ctx)
    assert build.outcome is Outcome.PASS, build.error


def test_no_room_no_tree(bench):
    ctx = bench.context(min_free_bytes=1 << 60)
    tree = bench.root / "tree"
    shutil.copytree(bench.tree, tree)
    warm.keep("k" * 64, tree, "a tree", ctx)
    assert not tree.exists()
    assert not Cache(bench.root / "cache").path(warm.WARM, "k" * 64).exists()
