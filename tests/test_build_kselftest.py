"""The kernel's own selftests from a fake tree: what is built, what is left out, what is blamed on whom."""

from __future__ import annotations

import os
import subprocess
from types import SimpleNamespace

import pytest
from build_fixtures import Bench

from kpatchlab import fence
from kpatchlab.build import BuildCancelled, debian_sources, kselftest, source
from kpatchlab.build.built import Programs
from kpatchlab.build.foreign import build_foreign
from kpatchlab.build.kselftest import without_tests
from kpatchlab.errors import HostError, UserError
from kpatchlab.host import packages
from kpatchlab.lab.recipes import KernelRecipe
from kpatchlab.model import Outcome
from kpatchlab.run import inputs, payload

SELFTESTS = "tools/testing/selftests"
LIB = """\
TEST_GEN_PROGS := $(patsubst %,$(OUTPUT)/%,$(TEST_GEN_PROGS))
all: $(TEST_GEN_PROGS)
$(OUTPUT)/%: %.c
\tgcc -I.. $(KHDR_INCLUDES) $(CFLAGS) $(LDFLAGS) $< -o $@
"""
GOOD = "#include <stdio.h>\n#include <lab-uapi.h>\nint main(void)\n{\n\tputs(GREETING);\n\treturn 0;\n}\n"
HARNESS = """\
#define TEST(name) static void name(void)
#define TEST_F(fixture, name) static void fixture##_##name(void)

TEST(first)
{
\tint x = 0;
\t(void)x;
}

TEST_F(tls, second)
{
\tno_such_type x;
}

int main(void)
{
\treturn 0;
}
"""


LIBBPF = """\
$(OUTPUT)libbpf.a:
\tar rc $@
install_headers:
\tmkdir -p $(DESTDIR)/include/bpf
\ttouch $(DESTDIR)/include/bpf/bpf.h
"""


@pytest.fixture
def bench(tmp_path):
    made = Bench(tmp_path)
    made.write("Makefile", "headers:\n\tmkdir -p usr/include\n\tcp include/lab-uapi.h usr/include\n")
    made.write("include/lab-uapi.h", '#define GREETING "hello from the tree"\n')
    made.write(f"{SELFTESTS}/lib.mk", LIB)
    made.write(
        f"{SELFTESTS}/net/Makefile",
        "TEST_GEN_PROGS := good harness\nTEST_PROGS := good.sh other.sh\nTEST_FILES := shared.sh\ninclude ../lib.mk\n",
    )
    made.write(f"{SELFTESTS}/net/good.c", GOOD)
    made.write(f"{SELFTESTS}/net/harness.c", HARNESS)
    for name in ("good.sh", "other.sh", "shared.sh", "settings"):
        made.write(f"{SELFTESTS}/net/{name}", "#!/bin/sh\n")
        (made.tree / SELFTESTS / "net" / name).chmod(0o755)
    return made


def build(bench, collection, recipe=None, ctx=None):
    return build_foreign(recipe or bench.recipe(), f"kselftest/{collection}", ctx or bench.ctx)


def programs(bench, built):
    return bench.ctx.cache.path(built.kind, built.key) / "programs"


def names(bench, built):
    return sorted(path.name for path in programs(bench, built).iterdir())


def listed(bench, built):
    return (programs(bench, built) / kselftest.TESTS).read_text().split()


def left_out(bench, built):
    text = (programs(bench, built) / kselftest.LEFT_OUT).read_text()
    return [tuple(line.split("\t")) for line in text.splitlines()]


def test_a_program_and_its_script_are_built_from_the_tree(bench):
    before = bench.snapshot()
    built = build(bench, "net/good")
    assert (built.outcome, built.cached) == (Outcome.PASS, False), built.reason
    assert names(bench, built) == ["good", "good.sh", "lab.left-out", "lab.tests", "settings", "shared.sh"]
    assert listed(bench, built) == ["good", "good.sh"]
    done = subprocess.run([programs(bench, built) / "good"], capture_output=True, text=True, check=True)
    assert done.stdout == "hello from the tree\n"
    assert bench.snapshot() == before
    again = build(bench, "net/good")
    assert again.cached
    assert again.key == built.key


def test_a_folder_is_built_whole_and_a_test_that_does_not_compile_is_left_out(bench):
    built = build(bench, "net")
    assert listed(bench, built) == ["good", "harness", "good.sh", "other.sh"]
    ((program, test, why),) = left_out(bench, built)
    assert (program, test) == ("harness", "tls.second")
    assert why.startswith("does not compile: harness.c:12: unknown type name")
    (cached,) = bench.ctx.cache.root.glob(f"kselftest-tree/*/tree/{SELFTESTS}/net/harness.c")
    assert cached.read_text() == HARNESS


def test_a_program_that_does_not_compile_costs_itself(bench):
    bench.write(f"{SELFTESTS}/net/good.c", "int main(void)\n{\n\treturn nothing;\n}\n")
    built = build(bench, "net")
    assert listed(bench, built) == ["harness", "good.sh", "other.sh"]
    assert ("good", "", left_out(bench, built)[-1][2]) == left_out(bench, built)[-1]
    assert "good.c:3: " in left_out(bench, built)[-1][2]
    alone = build(bench, "net/good")
    assert alone.outcome is Outcome.BLOCKED
    assert alone.reason.startswith("net/good does not build: good.c:3: ")
    assert not bench.ctx.cache.has("kselftest", alone.key)


def test_folders_that_tests_need_come_with_them_and_links_to_folders_do_not(bench):
    bench.write(f"{SELFTESTS}/net/Makefile", "TEST_PROGS := good.sh gone.sh\nTEST_FILES := data\ninclude ../lib.mk\n")
    bench.write(f"{SELFTESTS}/net/data/below/x.txt", "x")
    (bench.tree / SELFTESTS / "net/data/loop").symlink_to("..")
    built = build(bench, "net")
    assert built.outcome is Outcome.PASS, built.reason
    found = [name for name, _, _ in payload.read(programs(bench, built))]
    assert found == ["/data/below/x.txt", "/good.sh", "/lab.left-out", "/lab.tests", "/settings"]
    assert left_out(bench, built) == [("gone.sh", "", "it is not in its folder")]


def test_a_folder_without_tests_is_skipped(bench):
    bench.write(f"{SELFTESTS}/net/Makefile", "TEST_GEN_FILES := good\ninclude ../lib.mk\n")
    assert build(bench, "net") == Programs(Outcome.SKIP, reason=f"the kernel's tree has no test in {SELFTESTS}/net")


@pytest.mark.parametrize("collection", ["net/none", "none", "none/at/all"])
def test_what_the_tree_does_not_have_is_skipped(bench, collection):
    built = build(bench, collection)
    assert built == Programs(Outcome.SKIP, reason=f"the kernel's tree has no {SELFTESTS}/{collection}")


def test_the_series_is_applied(bench, tmp_path):
    patch = tmp_path / "patches/0001.patch"
    patch.parent.mkdir()
    patch.write_text(
        "--- a/include/lab-uapi.h\n+++ b/include/lab-uapi.h\n@@ -1 +1 @@\n"
        '-#define GREETING "hello from the tree"\n+#define GREETING "hello from the series"\n'
    )
    recipe = bench.recipe(series=[{"type": "patches", "path": str(patch.parent)}])
    plain, patched = build(bench, "net/good"), build(bench, "net/good", recipe)
    assert plain.key != patched.key
    assert b"from the series" in (programs(bench, patched) / "good").read_bytes()
    bench.write("include/lab-uapi.h", "#define GREETING 1\n")
    blocked = build(bench, "net/good", recipe)
    assert blocked.outcome is Outcome.BLOCKED
    assert "does not apply" in blocked.reason


def test_headers_that_cannot_be_made_block(bench):
    bench.write("Makefile", "headers:\n\tfalse\n")
    built = build(bench, "net/good")
    assert built.outcome is Outcome.BLOCKED
    assert built.reason.startswith("make headers: ")


def test_a_build_that_had_too_little_time_blames_no_kernel(bench, monkeypatch):
    monkeypatch.setattr(kselftest, "MAKE_S", 1.0)
    bench.write(f"{SELFTESTS}/net/Makefile", "TEST_GEN_PROGS := good\ninclude ../lib.mk\n$(OUTPUT)/good: ; sleep 60\n")
    with pytest.raises(HostError, match="selftests: make did not end in"):
        build(bench, "net/good")


def test_what_the_host_lacks_is_the_reason(bench, monkeypatch):
    monkeypatch.setattr(packages, "missing", lambda stages: [packages.Missing("clang", "c", tuple(stages))])
    built = build(bench, "bpf/test_sockmap")
    assert built == Programs(Outcome.SKIP, reason="this host lacks what it is built with (apt-get install clang)")


def test_sockmap_where_the_tree_has_none(bench, monkeypatch):
    monkeypatch.setattr(kselftest, "check_host", lambda stage: None)
    monkeypatch.setattr(kselftest, "version_of", lambda tool: f"{tool} 1")
    assert build(bench, "bpf/test_sockmap").reason == f"the kernel's tree has no {SELFTESTS}/bpf/test_sockmap"


CLANG = """\
#!/bin/sh
# Stands in for clang that compiles for BPF, which is none of the machines that the kernel's headers know.
for word; do
    shift
    case $word in -target | bpf | -mcpu=* | -mlittle-endian | -D__TARGET_ARCH_*) ;; *) set -- "$@" "$word" ;; esac
done
exec gcc -U__x86_64__ -U__i386__ -U__aarch64__ "$@"
"""
BITS = """\
#include <uapi/asm-generic/bitsperlong.h>
#if __CHAR_BIT__ * __SIZEOF_LONG__ != __BITS_PER_LONG
#error Inconsistent word size. Check asm/bitsperlong.h
#endif
"""


def test_bpf_programs_are_not_compiled_with_the_headers_of_this_hosts_programs(bench, monkeypatch, tmp_path):
    """As 6.2 to 6.4 have them: to their uapi header, a machine that it does not know has words of 32 bits."""
    monkeypatch.setattr(kselftest, "check_host", lambda stage: None)
    monkeypatch.setattr(kselftest, "version_of", lambda tool: f"{tool} 1")
    monkeypatch.setattr(kselftest, "_libelf", list)
    clang = tmp_path / "bin/clang"
    clang.parent.mkdir()
    clang.write_text(CLANG)
    clang.chmod(0o755)
    monkeypatch.setenv("PATH", f"{clang.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(fence, "SYSTEM", (*fence.SYSTEM, str(clang.parent)))
    uapi, bpf = "tools/include/uapi", f"{SELFTESTS}/bpf"
    bench.write(f"{uapi}/asm-generic/bitsperlong.h", "#ifndef __BITS_PER_LONG\n#define __BITS_PER_LONG 32\n#endif\n")
    known = "#ifdef __x86_64__\n#define __BITS_PER_LONG 64\n#endif\n#include <asm-generic/bitsperlong.h>\n"
    bench.write(f"{uapi}/asm/bitsperlong.h", known)
    bench.write("tools/include/asm-generic/bitsperlong.h", BITS)
    bench.write("tools/include/uapi/lab.h", "#include <asm/bitsperlong.h>\n")
    bench.write("tools/lib/bpf/Makefile", LIBBPF)
    bench.write(f"{bpf}/test_sockmap.c", "#include <lab.h>\n#include <bpf/bpf.h>\nint main(void) { return 0; }\n")
    bench.write(f"{bpf}/cgroup_helpers.c", "")
    bench.write(f"{bpf}/progs/test_sockmap_kern.c", "#include <lab.h>\n#include <bpf/bpf.h>\nint ours;\n")
    built = build(bench, "bpf/test_sockmap")
    assert built.outcome is Outcome.PASS, built.reason
    assert {"test_sockmap", "test_sockmap_kern.bpf.o"} <= set(names(bench, built))


IMAGE = {"type": "debian-image", "package": "linux-image-amd64", "suite": "bookworm"}


@pytest.mark.parametrize(
    ("there", "reason"),
    [
        ("6.1.999-1", "it is 6.1.192-2, and Debian bookworm has linux-source-6.1 6.1.999-1"),
        (None, "it is 6.1.192-2, and Debian bookworm has no linux-source-6.1"),
    ],
)
def test_a_prebuilt_kernel_needs_the_source_of_its_version(bench, monkeypatch, there, reason):
    class Apt:
        def __init__(self, *_, **__):
            pass

        def candidate(self, package):
            if package == "linux-image-amd64":
                return "6.1.192-2"
            if there is None:
                raise UserError("no such package")
            return there

    monkeypatch.setattr(debian_sources, "Apt", Apt)
    built = build(bench, "net/good", KernelRecipe(source=IMAGE))
    assert built.outcome is Outcome.SKIP
    assert built.reason == f"no source of this kernel: {reason}"


def test_a_prebuilt_kernels_tree_is_its_source_package(bench, monkeypatch):
    monkeypatch.setattr(debian_sources, "Apt", lambda *_, **__: SimpleNamespace(candidate=lambda package: "6.1.192-2"))
    origin = source.source_of(KernelRecipe(source=IMAGE).source, bench.ctx).of_its_tree()
    assert isinstance(origin, source.DebianSource)
    assert (origin.spec.package, origin.spec.suite) == ("linux-source-6.1", "bookworm")


def test_cancelling(bench):
    ctx = bench.context()
    ctx.cancel.set()
    with pytest.raises(BuildCancelled):
        build(bench, "net/good", ctx=ctx)
    assert not list((bench.ctx.cache.root / "tmp").glob("kselftest*"))


def test_tests_are_blanked_out_by_their_lines():
    source = "TEST_F_TIMEOUT(a, one, 5)\n{\n\tbad;\n}\nTEST(two)\n{\n\tgood;\n}\nint helper;\n"
    text, gone = without_tests(source, [(3, "no bad"), (3, "again"), (9, "elsewhere")])
    assert gone == [("a.one", "3: no bad")]
    assert text == "\n\n\n\nTEST(two)\n{\n\tgood;\n}\nint helper;\n"
    assert without_tests(source, [(7, "x")])[1] == [("global.two", "7: x")]


def test_what_goes_into_a_guest(tmp_path):
    (tmp_path / "tls").write_bytes(b"ELF")
    (tmp_path / "tls").chmod(0o755)
    (tmp_path / "lab.tests").write_text("tls\n")
    files = payload.read(tmp_path, "/lab/kselftest/net/tls")
    assert files == [
        ("/lab/kselftest/net/tls/lab.tests", b"tls\n", 0o644),
        ("/lab/kselftest/net/tls/tls", b"ELF", 0o755),
    ]


def test_what_a_whole_collection_asks_a_kernel_for_is_known_and_what_the_kernel_lacks_of_it_goes_to_its_guest(bench):
    text = "CONFIG_NET=y\nCONFIG_DEEP=m\n# CONFIG_OFF is not set\nCONFIG_NR=3\nCONFIG_NO=n\n"
    bench.write(f"{SELFTESTS}/net/config", text)
    bench.sub(f"{SELFTESTS}/net/Makefile", "TEST_FILES", "TEST_INCLUDES := ../lib.sh\nTEST_FILES")
    for name in ("kselftest/module.sh", "lib.sh"):
        bench.write(f"{SELFTESTS}/{name}", "true\n")
    whole, alone = build(bench, "net"), build(bench, "net/good")
    cache = bench.ctx.cache
    assert kselftest.asked_of(cache.path(whole.kind, whole.key)) == ["NET", "DEEP"]
    assert kselftest.asked_of(cache.path(alone.kind, alone.key)) == []
    assert kselftest.folders(bench.recipe(), bench.ctx) == {"net"}
    key = "0" * 32
    cache.get("kernel", key, lambda work: (work / "config").write_text("CONFIG_NET=y\n# CONFIG_DEEP is not set\n"))
    under_test = SimpleNamespace(
        tests={"kselftest/net": whole, "kselftest/net/good": alone},
        build=SimpleNamespace(outcome=Outcome.PASS, key=key),
    )
    given = {place: data for place, data, _ in inputs.programs_of(under_test, cache)}
    assert given["/lab/kselftest/kselftest/module.sh"] == given["/lab/kselftest/lib.sh"] == b"true\n"
    assert given["/lab/kselftest/net/lab.lacks"] == b"CONFIG_DEEP\n"
    assert "/lab/kselftest/net/good/lab.lacks" not in given
