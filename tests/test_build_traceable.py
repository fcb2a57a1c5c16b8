"""Which functions can be counted by name, from the symbols and the DWARF of small objects built here."""

from __future__ import annotations

import subprocess

import pytest

from kpatchlab.build.changes import Changes, Named, PatchChanges
from kpatchlab.build.traceable import facts

FILE = "net/a.c"
CODE = """
static inline __attribute__((always_inline)) int small(int a) { return a + 1; }
__attribute__((noinline)) static int twice(int a) { return a * 2; }
int big(int a) { return small(a) + twice(a); }
"""


@pytest.fixture
def artifact(tmp_path):
    """Return a folder as a kernel's artifact has it: an image, one module, and lists."""
    tree = tmp_path / "tree"
    for name, text in ((FILE, CODE), ("net/m.c", CODE.replace("big", "huge").replace("small", "tiny"))):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text)
    out = tmp_path / "artifact"
    (out / "modules-debug/net").mkdir(parents=True)
    (tree / "obj").mkdir()
    for source, target in ((FILE, "vmlinux"), ("net/m.c", "modules-debug/net/my-mod.ko")):
        command = ["gcc", "-O2", "-g", "-c", f"../{source}", "-o", str(out / target)]
        subprocess.run(command, check=True, cwd=tree / "obj")
    listed = subprocess.run(["nm", str(out / "vmlinux")], check=True, capture_output=True, text=True).stdout
    (out / "System.map").write_text(listed)
    (out / "config").write_text("CONFIG_FUNCTION_PROFILER=y\n")
    return out


def words(artifact, *functions):
    """Return function -> word, and what is asked of the guest."""
    told, asked = facts("with", Changes((PatchChanges(1, "t", (FILE,), (), functions),)), artifact)
    assert [(p.kernel, p.number, p.title) for p in told] == [("with", 1, "t")]
    return {f.name: f.trace for f in told[0].functions}, asked


def test_each_reason_has_its_word(artifact):
    found, asked = words(
        artifact,
        Named("big", FILE), Named("small", FILE), Named("twice", FILE), Named("huge", "net/m.c"),
        Named("old", FILE, gone=True), Named("other", "net/unbuilt.c"), Named("helper", "include/net/h.h"),
    )  # fmt: skip
    assert found == {
        "big": "", "small": "inlined", "twice": "ambiguous", "huge": "", "old": "gone", "other": "not built",
        "helper": "inlined",
    }  # fmt: skip
    assert asked == ("big", "huge:mod:my_mod")


def test_an_inline_function_of_a_header_may_stand_in_several_objects(artifact):
    assert words(artifact, Named("twice", "include/net/h.h")) == ({"twice": ""}, ("twice",))


def test_clones_are_the_function_and_cold_halves_are_not(artifact):
    """`foo.isra.0` is foo wherever it is listed; foo.cold alone is no function that is called."""
    for lines in ("1 t foo.isra.0\n2 t foo.cold\n3 t bar.cold\n", "1 t foo.isra.0\n2 t foo\n"):
        (artifact / "System.map").write_text(lines)
        found, asked = words(artifact, Named("foo", FILE), Named("bar", FILE))
        assert found == {"foo": "", "bar": "inlined"}
        assert asked == ("foo",)


def test_a_kernel_without_tracing_says_so(artifact):
    (artifact / "config").write_text("CONFIG_FTRACE=n\n")
    assert words(artifact, Named("big", FILE)) == ({"big": "ftrace off"}, ())


def test_without_dwarf_the_reason_is_not_guessed(artifact):
    for path in (artifact / "vmlinux", artifact / "modules-debug/net/my-mod.ko"):
        subprocess.run(["strip", "--strip-debug", str(path)], check=True)
    found, _ = words(artifact, Named("big", FILE), Named("small", FILE))
    assert found == {"big": "", "small": "no symbol, and no DWARF to say why"}


def test_a_kernel_that_did_not_build_has_its_patches_all_the_same():
    assert words(None, Named("big", FILE), Named("old", FILE, gone=True)) == ({"big": "not built", "old": "gone"}, ())
