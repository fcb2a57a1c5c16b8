"""Whole builds of the fake tree: what comes out, what is survived, what is blamed on whom."""

from __future__ import annotations

import dataclasses
import os
import shutil
import threading
import time

import pytest
from build_fixtures import CONFIG, FAKE, Bench

from kpatchlab import fence, proc
from kpatchlab.build import BuildCancelled, build_kernel, confined, kernel_key
from kpatchlab.build import make as make_module
from kpatchlab.cache import disk_bytes
from kpatchlab.errors import HostError, UserError
from kpatchlab.model import Outcome

pytestmark = pytest.mark.toy

BROKEN = '#include <module.h>\nint broken(void)\n{\n\treturn nothing_of_that_name;\n}\nMODULE_LICENSE("GPL");\n'


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def build(bench, recipe=None, ctx=None):
    return build_kernel(recipe or bench.recipe(), "k", ctx or bench.ctx)


def test_a_kernel_is_built_and_then_found(bench):
    result = build(bench)
    assert (result.outcome, result.release, result.objects_total) == (Outcome.PASS, "6.0.0-fake", 7), bench.lines
    folder = bench.ctx.cache.path("kernel", result.key)
    names = {path.name for path in folder.iterdir()}
    assert names == {
        ".meta.json", "vmlinuz", "vmlinux", "config", "System.map", "modules.erofs", "modules.dep", "modules-debug",
        "modules.builtin", "build.json", "build.log", "module-failures.json",
    }  # fmt: skip
    assert str(bench.ctx.cache.root) not in (folder / "build.json").read_text()
    assert "kernel/drivers/gamma.ko: " in (folder / "modules.dep").read_text()
    assert {path.name for path in (folder / "modules-debug").rglob("*.ko")} == {
        "alpha.ko", "fake-beta.ko", "gamma.ko", "delta.ko",
    }  # fmt: skip
    phases = list(dict.fromkeys(item.phase for item in bench.progress))
    assert phases == ["source", "config", "compile", "link", "package", "done"]
    assert max(item.done for item in bench.progress) == 7
    again = build(bench)
    assert again.cached
    assert again.key == result.key


def test_the_recipes_compiler_builds_it(bench):
    major = proc.run(["gcc", "-dumpversion"], timeout_s=60).stdout.split(".")[0].strip()
    plain = build(bench)
    other = build(bench, bench.recipe(compiler=f"gcc-{major}"))
    assert other.compiler.startswith(f"gcc-{major} ")
    assert (other.outcome, other.key == plain.key) == (Outcome.PASS, False)
    assert f" CC=gcc-{major} " in other.reproduce
    assert " CC=" not in plain.reproduce
    notes = next(bench.ctx.cache.root.glob("ccache/**/stats"), None)
    assert notes  # what it compiled is in the lab's store as well


def test_a_compiler_that_is_not_there_is_named_with_its_package(bench):
    with pytest.raises(HostError) as caught:
        build(bench, bench.recipe(compiler="clang-99"))
    assert (caught.value.message, caught.value.hint) == ("clang-99: not found", "apt-get install clang-99")


@pytest.mark.parametrize("broken", [False, True])
def test_what_a_series_changes_and_no_configuration_compiles_is_told_of_what_make_went_through(bench, broken):
    bench.repository()
    bench.write("core/unbuilt.c", "int unbuilt;\n")
    if broken:  # make stops there, and has not come to the rest
        bench.sub("core/main.c", "#include", "#error built in\n#include")
    bench.git("add", "-A")
    bench.git("commit", "-qm", "both")
    series = [{"type": "git", "path": str(bench.tree), "range": "HEAD~1..HEAD"}]
    source = {"type": "git", "path": str(bench.tree), "revision": "HEAD~1"}
    result = build(bench, bench.recipe(source=source, series=series))
    wanted = (Outcome.BLOCKED, ()) if broken else (Outcome.PASS, ("core/unbuilt.c",))
    assert (result.outcome, result.unbuilt) == wanted


def test_the_users_tree_is_never_touched(bench):
    bench.repository()
    before = bench.snapshot()
    build(bench)
    assert bench.snapshot() == before
    bench.write("drivers/delta.c", BROKEN)
    before = bench.snapshot()
    build(bench)
    assert bench.snapshot() == before
    assert bench.git("status", "--porcelain") == "M drivers/delta.c"


def test_what_is_kept_of_a_kernel_is_not_written_over_by_the_next_one_in_the_same_objects(bench):
    first = bench.ctx.cache.path("kernel", build(bench).key)
    kept = {path.name: path.read_bytes() for path in first.rglob("*") if path.is_file()}
    bench.sub("core/net.c", "int core_send(int flags)\n{", "int core_more = 2;\nint core_send(int flags)\n{")
    (bench.lab / "kernels/config/all.config").write_text(CONFIG.replace("DELTA=m", "DELTA=n"))
    second = bench.ctx.cache.path("kernel", build(bench).key)
    (bench.lab / "kernels/config/all.config").write_text(CONFIG)
    third = bench.ctx.cache.path("kernel", build(bench).key)
    assert "core_more" in (third / "System.map").read_text()
    assert len({first, second, third}) == 3
    assert {path.name: path.read_bytes() for path in first.rglob("*") if path.is_file()} == kept


@pytest.mark.parametrize("known_to_git", [True, False])
def test_a_tree_that_was_built_where_it_lies_is_taken_without_what_was_built(bench, known_to_git):
    if known_to_git:
        bench.write(".gitignore", ".*\n!.gitignore\n*.o\ninclude/config\ninclude/generated\n")
        bench.repository()
    plain = build(bench)
    for name in (".config", "include/config/auto.conf", "include/generated/autoconf.h", "core/net.o", ".core.o.cmd"):
        bench.write(name, "built in place\n")
    before = bench.snapshot()
    again = build(bench)
    assert (again.outcome, again.key) == (Outcome.PASS, plain.key)
    bench.sub("core/net.c", "int core_send(int flags)\n{", "int core_more = 2;\nint core_send(int flags)\n{")
    before |= {path: kept for path, kept in bench.snapshot().items() if path.endswith("core/net.c")}
    edited = build(bench)
    assert edited.outcome is Outcome.PASS
    assert edited.key != plain.key
    assert bench.snapshot() == before
    assert not list(bench.ctx.cache.root.glob("trees/*/tree/core/net.o"))


def test_what_is_deleted_or_moved_in_the_tree_is_so_in_its_copy(bench):
    build(bench)
    (copy,) = bench.ctx.cache.root.glob("trees/*/tree")
    bench.write("core/extra/one.h", "/* one */\n")
    build(bench)
    assert (copy / "core/extra/one.h").exists()
    (bench.tree / "core/extra/one.h").unlink()
    (bench.tree / "core/extra").rmdir()
    bench.write("core/extra", "now a file\n")
    assert build(bench).outcome is Outcome.PASS
    assert (copy / "core/extra").read_text() == "now a file\n"


def test_a_base_in_a_folder_and_the_same_with_a_series_share_their_objects(bench):
    bench.repository()
    build(bench)
    bench.lines.clear()
    bench.sub("drivers/delta.c", "core_send(0)", "core_send(1)")
    (bench.root / "one").mkdir()
    (bench.root / "one/1.patch").write_text(bench.git("diff") + "\n")
    bench.git("checkout", "-q", ".")
    result = build(bench, bench.recipe(series=[{"type": "patches", "path": str(bench.root / "one")}]))
    assert result.outcome is Outcome.PASS
    assert result.objects_compiled == 1


def test_an_edit_compiles_only_what_it_touches(bench):
    build(bench)
    bench.sub("drivers/delta.c", "core_send(0)", "core_send(1)")
    result = build(bench)
    assert result.objects_total == 7
    assert sum(line.startswith("  CC") for line in bench.lines) == 8


def test_a_module_that_does_not_compile_costs_that_module(bench):
    bench.write("drivers/beta/two.c", BROKEN)
    result = build(bench)
    assert result.outcome is Outcome.PASS, result
    (failure,) = result.module_failures
    assert (failure.module, failure.source, failure.line) == ("fake_beta", "drivers/beta/two.c", 4)
    assert "nothing_of_that_name" in failure.error
    assert "nothing_of_that_name" in failure.log
    folder = bench.ctx.cache.path("kernel", result.key)
    modules = {line.split(":")[0] for line in (folder / "modules.dep").read_text().splitlines()}
    assert "kernel/drivers/beta/fake-beta.ko" not in modules
    assert "kernel/drivers/delta.ko" in modules


def test_dependents_of_a_failed_module_are_named_and_left_out(bench):
    bench.sub("drivers/beta/one.c", "return alpha_call()", "return alpha_call(1)")
    result = build(bench)
    (failure,) = result.module_failures
    assert failure.dependents == ("gamma",)
    text = (bench.ctx.cache.path("kernel", result.key) / "modules.dep").read_text()
    assert sorted(line.split(":")[0] for line in text.splitlines()) == [
        "kernel/drivers/alpha.ko",
        "kernel/drivers/delta.ko",
    ]


def test_dependents_through_others(bench):
    bench.sub("drivers/alpha.c", "return core_answer();", "return core_answer()")
    failure = build(bench).module_failures[0]
    assert (failure.module, failure.dependents) == ("alpha", ("fake_beta", "gamma"))


def test_every_failed_module_is_found_in_one_pass(bench):
    bench.write("drivers/delta.c", BROKEN)
    bench.write("drivers/beta/two.c", BROKEN)
    result = build(bench)
    assert {failure.module for failure in result.module_failures} == {"delta", "fake_beta"}


def test_a_symbol_that_nobody_exports_any_more_fails_its_user(bench):
    bench.sub("core/net.c", "EXPORT_SYMBOL(core_send);", "")
    result = build(bench)
    assert {(f.module, f.error) for f in result.module_failures} == {
        ("delta", "undefined symbol: core_send"),
        ("fake_beta", "undefined symbol: core_send"),
    }
    assert {f.dependents for f in result.module_failures if f.module == "fake_beta"} == {("gamma",)}


def test_a_repaired_module_is_compiled_again(bench):
    good = (bench.tree / "drivers/delta.c").read_text()
    bench.write("drivers/delta.c", BROKEN)
    assert build(bench).module_failures
    bench.write("drivers/delta.c", good)
    assert not build(bench).module_failures


def test_built_in_code_that_does_not_compile_blocks(bench):
    bench.sub("core/net.c", "return 0;", "return zero;")
    result = build(bench)
    assert (result.outcome, result.error_file, result.error_line) == (Outcome.BLOCKED, "core/net.c", 7)
    assert "zero" in result.error
    assert result.log_tail
    assert not bench.ctx.cache.has("kernel", result.key)


def test_a_full_disk_is_the_hosts_fault(bench, monkeypatch):
    bench.write("fail", "nospace\n")
    monkeypatch.setattr(fence, "LEAST_FREE_BYTES", 1 << 60)
    with pytest.raises(HostError, match="no space left"):
        build(bench)


def test_words_of_a_full_disk_are_not_the_hosts_fault(bench):
    bench.write("fail", "nospace\n")
    assert build(bench).outcome is Outcome.BLOCKED
    (bench.tree / "fail").unlink()
    for words in ("No space left on device", "fatal error: Killed signal terminated program cc1"):
        bench.write("drivers/delta.c", f"#error {words}\n")
        result = build(bench)
        assert result.outcome is Outcome.PASS, result
        assert [(failure.module, words in failure.error) for failure in result.module_failures] == [("delta", True)]
        bench.write("core/net.c", f"#error {words}\n")
        result = build(bench)
        assert (result.outcome, result.error_file) == (Outcome.BLOCKED, "core/net.c")
        shutil.copy(FAKE / "core/net.c", bench.tree / "core/net.c")


def test_a_process_that_the_kernel_killed_for_memory_is_the_hosts_fault(bench, monkeypatch):
    kills = iter(range(100))
    monkeypatch.setattr(fence, "oom_kills", lambda: next(kills))
    bench.write("fail", "config\n")
    with pytest.raises(HostError, match="lack of memory"):
        build(bench)


def test_too_little_room_is_said_before_anything_is_unpacked(bench):
    with pytest.raises(HostError, match="GiB free"):
        build(bench, ctx=bench.context(min_free_bytes=1 << 60))


def test_a_tree_that_cannot_be_configured(bench):
    bench.write("fail", "config\n")
    made = build(bench)
    assert (made.outcome, made.error_file, made.error_line) == (Outcome.BLOCKED, "Kconfig", 3)
    assert made.error == "the tree cannot be configured: syntax error"
    assert "Kconfig:3" in made.log_tail


def test_modules_that_need_each_other_are_the_kernels_fault(bench, monkeypatch):
    lines = ["depmod: ERROR: Cycle detected: a -> b -> a", "depmod: ERROR: Found 2 modules in dependency cycles!"]

    def run(argv, **more):
        result = real(argv, **more)
        if any(str(word).endswith("/depmod") for word in argv):
            return dataclasses.replace(result, status=2, stderr="\n".join(lines))
        return result

    real = proc.run
    monkeypatch.setattr(proc, "run", run)
    made = build(bench)
    assert (made.outcome, made.error) == (Outcome.BLOCKED, "modules need each other: Cycle detected: a -> b -> a")
    assert made.log_tail.splitlines() == lines


def test_cancel_is_prompt_and_the_next_try_goes_on(bench):
    bench.write("fail", "hang\n")
    cancel = threading.Event()
    threading.Timer(1.5, cancel.set).start()
    begin = time.monotonic()
    with pytest.raises(BuildCancelled):
        build(bench, ctx=bench.context(cancel=cancel))
    assert time.monotonic() - begin < 10
    (bench.tree / "fail").unlink()
    assert build(bench).outcome is Outcome.PASS


def test_a_killed_build_goes_on_where_it_was(bench, monkeypatch):
    recipe = bench.recipe(series=[{"type": "patches", "path": "patches"}])
    patch_delta(bench)
    whole = make_module.Job.install_modules

    def killed(*_args):
        raise KeyboardInterrupt

    monkeypatch.setattr(make_module.Job, "install_modules", killed)
    with pytest.raises(KeyboardInterrupt):
        build(bench, recipe)
    assert sum(line.startswith("  CC") for line in bench.lines) == 7
    monkeypatch.setattr(make_module.Job, "install_modules", whole)
    assert build(bench, recipe).outcome is Outcome.PASS
    assert sum(line.startswith("  CC") for line in bench.lines) == 7


def test_a_stub_of_a_killed_build_is_not_taken_for_an_object(bench, monkeypatch):
    bench.write("drivers/delta.c", BROKEN)
    whole = make_module.Job.install_modules
    monkeypatch.setattr(make_module.Job, "install_modules", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        build(bench)
    monkeypatch.setattr(make_module.Job, "install_modules", whole)
    assert [failure.module for failure in build(bench).module_failures] == ["delta"]


def test_a_ccache_that_is_gone_hides_no_result(bench, monkeypatch):
    folder = bench.ctx.cache.path(confined.STORES, confined.SHARED)
    (folder / "objects").mkdir(parents=True)
    bench.ctx.note(folder, confined.SHARED_LABEL)
    (folder / "objects/one").write_bytes(b"x" * 100_000)
    monkeypatch.setattr(confined, "SHARED_BYTES", 1)
    monkeypatch.setenv("PATH", "")
    confined.tidy(bench.ctx, confined.TRUSTED)
    (store,) = [entry for entry in bench.ctx.cache.entries() if entry.kind == confined.STORES]
    assert store.size_bytes >= 100_000


def test_without_ccache_it_builds_as_well(bench, monkeypatch):
    real = fence.which
    monkeypatch.setattr(fence, "which", lambda name: None if name == "ccache" else real(name))
    result = build(bench)
    assert (result.outcome, result.objects_compiled) == (Outcome.PASS, 7)


def test_ccache_serves_another_tree_from_the_first_ones_objects(bench):
    if not fence.which("ccache"):
        pytest.skip("no ccache on this host")
    patch_delta(bench)
    series = [{"type": "patches", "path": "patches"}]
    bench.repository()
    git = {"type": "git", "path": str(bench.tree), "revision": "HEAD"}
    without = build(bench, bench.recipe(source=git))
    changed = build(bench, bench.recipe(source=git, series=series))
    assert (without.objects_compiled, changed.objects_compiled) == (7, 1)
    assert without.base_key == changed.base_key
    assert without.key != changed.key


def test_a_tree_that_changes_while_it_is_built_is_not_published(bench, monkeypatch):
    whole = make_module.Job.run

    def edited(self):
        outcome = whole(self)
        bench.write("drivers/delta.c", BROKEN)
        return outcome

    monkeypatch.setattr(make_module.Job, "run", edited)
    with pytest.raises(UserError, match="changed while it was being built"):
        build(bench)


def test_a_work_directory_that_is_deleted_meanwhile_is_not_the_kernels_fault(bench, monkeypatch):
    patch_delta(bench)
    whole = make_module.Job.run

    def deleted(self):
        outcome = whole(self)
        (self.work / "unpacked-tree").unlink()
        return outcome

    monkeypatch.setattr(make_module.Job, "run", deleted)
    with pytest.raises(HostError, match="was deleted while k was built in it"):
        build(bench, bench.recipe(series=[{"type": "patches", "path": "patches"}]))


def test_config_misses_come_with_their_reason(bench):
    wish = {"EPSILON": "y", "HIDDEN": "y", "NOWHERE": "m", "BETA": "y"}
    misses = {miss.symbol: miss for miss in build(bench, bench.recipe(config_set=wish)).config_misses}
    assert misses["NOWHERE"].reason == "no such symbol in this tree"
    assert misses["EPSILON"].reason == "depends on (ABSENT || DELTA=y) (ABSENT=n, DELTA=m)"
    assert "no prompt" in misses["HIDDEN"].reason
    assert "BETA" not in misses


def test_the_callers_environment_does_not_leak_in(bench, monkeypatch):
    for name, value in {"CC": "false", "ARCH": "arm64", "KCFLAGS": "-O9", "MAKEFLAGS": "n", "O": "/nowhere"}.items():
        monkeypatch.setenv(name, value)
    assert build(bench).outcome is Outcome.PASS


def test_key_is_stable_and_sees_each_input(bench):
    patch_delta(bench)
    base = kernel_key(bench.recipe(), bench.ctx)
    assert kernel_key(bench.recipe(), bench.ctx) == base
    changed = {
        kernel_key(bench.recipe(config_set={"DELTA": "n"}), bench.ctx),
        kernel_key(bench.recipe(series=[{"type": "patches", "path": "patches"}]), bench.ctx),
        base,
    }
    bench.sub("core/net.c", "return 0;", "return  0;")
    changed.add(kernel_key(bench.recipe(), bench.ctx))
    assert len(changed) == 4


def patch_delta(bench):
    folder = bench.lab / "kernels/patches"
    folder.mkdir(exist_ok=True)
    (folder / "0001.patch").write_text(
        "Delta sends with a flag\n\n--- a/drivers/delta.c\n+++ b/drivers/delta.c\n@@ -4,5 +4,5 @@ context\n"
        ' int delta_call(void)\n {\n-\treturn core_send(0);\n+\treturn core_send(1);\n }\n MODULE_LICENSE("GPL");\n'
    )


def test_the_store_that_series_read_stays_within_its_size_and_clean_knows_it(bench, monkeypatch):
    if not fence.which("ccache"):
        pytest.skip("no ccache on this host")
    objects = bench.ctx.cache.path(confined.STORES, confined.SHARED) / "objects"
    objects.mkdir(parents=True)
    for number in range(4):
        (objects / f"old-{number}").write_bytes(os.urandom(1 << 20))
        os.utime(objects / f"old-{number}", (1_600_000_000 + number, 1_600_000_000))
    monkeypatch.setattr(confined, "SHARED_BYTES", 3 << 20)
    build(bench)
    left = sorted(path.name for path in objects.glob("old-*"))
    assert left in (["old-2", "old-3"], ["old-3"])
    (store,) = [entry for entry in bench.ctx.cache.entries() if entry.kind == confined.STORES]
    assert (store.key, store.size_bytes) == (confined.SHARED, disk_bytes(store.path))
    assert store.size_bytes < 3 << 20
