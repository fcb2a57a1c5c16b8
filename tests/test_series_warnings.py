"""Warnings before and after a patch, without a compiler."""

from __future__ import annotations

from kpatchlab.build.patchset import Patch
from kpatchlab.series.tree import files_of, renames_of
from kpatchlab.series.warnings import difference, parse

GCC = """\
../net/a.c: In function \u2018f\u2019:
../net/a.c:10:5: warning: unused variable \u2018x\u2019 [-Wunused-variable]
   10 |  int x;
      |      ^
../net/a.c: In function \u2018g\u2019:
../net/a.c:20:1: warning: the frame size of 1040 bytes is larger than 1024 bytes [-Wframe-larger-than=]
In function \u2018copy\u2019,
    inlined from \u2018g\u2019 at ../net/a.c:22:2:
../net/a.c:4:2: warning: \u2018memcpy\u2019 writes 8 bytes into a region of size 4 [-Wstringop-overflow=]
../net/a.c: At top level:
../net/a.c:30:12: warning: \u2018h\u2019 defined but not used [-Wunused-function]
"""


def new(before, after, files=("net/a.c",), **more):
    return [
        str(finding) for finding in difference({"net/a.o": parse(before)}, {"net/a.o": parse(after)}, files, **more)[0]
    ]


def test_lines_and_numbers_do_not_make_a_warning_new():
    moved = GCC.replace(":10:5", ":110:5").replace("1040", "1056").replace(":30:12", ":31:12")
    assert new(GCC, moved) == []
    assert len(new("", GCC)) == 4


def test_code_that_was_inlined_is_in_its_own_function():
    """What the compiler has to say of the function before it plays no part."""
    assert [finding.context for finding in parse(GCC)] == ["f", "g", "copy", ""]
    lines = GCC.splitlines(keepends=True)
    inlined = "".join(lines[6:9])
    assert new(inlined, "".join(lines[4:6]) + inlined) == new("", "".join(lines[4:6]))


def test_the_same_words_in_another_function_are_new():
    more = GCC + GCC.replace("\u2018f\u2019", "\u2018f2\u2019").split("../net/a.c: In function \u2018g")[0].replace(
        ":10:", ":60:"
    )
    assert new(GCC, more) == ["net/a.c:60: warning: unused variable \u2018x\u2019 [-Wunused-variable]"]


def test_a_headers_warning_counts_once_however_many_include_it():
    said = parse("../include/h.h:3:1: warning: no semicolon")
    one, many = {"a.o": said}, {f"{n}.o": said for n in range(50)}
    assert difference(one, many, ["include/h.h"]) == ([], [])
    assert len(difference({}, many, ["include/h.h"])[0]) == 1


def test_only_files_that_the_patch_touches_count():
    assert new("", GCC, files=["net/b.c"]) == []


def test_a_file_that_is_moved_keeps_its_warnings():
    assert (
        new(
            GCC,
            GCC.replace("net/a.c", "net/core/b.c"),
            ["net/a.c", "net/core/b.c"],
            renamed={"net/core/b.c": "net/a.c"},
        )
        == []
    )


def test_every_path_of_a_patch_is_found():
    moved = b"diff --git a/x/old.c b/x/new.c\nsimilarity index 100%\nrename from x/old.c\nrename to x/new.c\n"
    made = b"diff --git a/y.c b/y.c\nnew file mode 100644\n--- /dev/null\n+++ b/y.c\n@@ -0,0 +1 @@\n+int y;\n"
    evil = b"--- a/../../etc/passwd\n+++ b/../../etc/passwd\n@@ -1 +1 @@\n"
    patch = Patch("p", "", moved + made + evil)
    assert files_of(patch) == ["x/new.c", "x/old.c", "y.c"]
    assert renames_of(patch) == {"x/new.c": "x/old.c"}
