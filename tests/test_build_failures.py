"""Blame: what the first error in an output is, and where."""

from __future__ import annotations

from pathlib import Path

import pytest

from kpatchlab import fence
from kpatchlab.build import failures
from kpatchlab.build.failures import BuildError, first_fault, module_failures, normal, read_records, relative

TREE = Path("/t/linux")


@pytest.mark.parametrize(
    ("output", "fault"),
    [
        (
            "In file included from ../net/a.c:3:\n../include/x.h:7:1: error: unknown type name 'y'\nz.c:9: error: z",
            BuildError("include/x.h", 7, "unknown type name 'y'"),
        ),
        ("/t/linux/net/a.c:4:10: fatal error: no.h: No such file", BuildError("net/a.c", 4, "no.h: No such file")),
        ("../arch/x86/a.S: Assembler messages:\n../arch/x86/a.S:12: Error: no such instruction: `foo'",
         BuildError("arch/x86/a.S", 12, "no such instruction: `foo'")),
        ("ld: a.o: in function `f':\n/t/linux/obj/../net/a.c:2: undefined reference to `bar'",
         BuildError("net/a.c", 2, "undefined reference to `bar'")),
        ("ld: an.o: in function `f':\na.c:(.text+0x5): undefined reference to `bar'",
         BuildError("a.c", 0, "undefined reference to `bar'")),
        ("ld: b.o: in function `f':\nb.c:(.text+0x0): multiple definition of `f'; a.o:a.c:1: first defined here",
         BuildError("b.c", 0, "multiple definition of `f'; a.o:a.c:1: first defined here")),
        ("make[2]: *** Waiting for unfinished jobs....\nmake[2]: *** No rule to make target 'x.o', Stop.",
         BuildError("", 0, "No rule to make target 'x.o', Stop.")),
        ("make[3]: *** [../scripts/Makefile.build:250: a.o] Error 1",
         BuildError("scripts/Makefile.build", 250, "Error 1")),
        ("", BuildError("", 0, "no output")),
    ],
)  # fmt: skip
def test_first_fault(output, fault):
    assert first_fault(output, TREE, make=True) == fault


def test_paths_become_relative_to_the_tree():
    assert relative("../net/../net/a.c", TREE) == "net/a.c"
    assert relative("/t/linux/net/a.c", TREE) == "net/a.c"
    assert relative("/t/linux/obj/include/generated/x.h", TREE) == "obj/include/generated/x.h"
    assert relative("/usr/include/x.h", TREE) == "/usr/include/x.h"


def test_a_compiler_that_runs_into_the_memory_limit_is_told_as_such():
    fault = first_fault("cc1: out of memory allocating 65536 bytes after a total of 1 bytes\n", TREE)
    assert fault.text.endswith(f"(a process may have {fence.memory_bytes() >> 20} MiB)")


def test_a_record_that_was_cut_off_is_dropped(tmp_path):
    (tmp_path / "net%a.o").write_text('net/a.o\n../net/a.c\n"a:b-c"\nmodule\nboom\nmore')
    (tmp_path / "net%b.o").write_text("net/b.o\n../net")
    (tmp_path / "out").write_text("../../home/me/key\n../net/a.c\na\nmodule\nboom\n")
    (record,) = read_records(tmp_path, Path("/t/linux/obj"))
    assert (record.modules, record.builtin, record.output) == (("a", "b_c"), False, "boom\nmore")
    assert normal("snd-hda,x") == "snd_hda_x"


def test_records_that_no_compiler_made_are_bounded(tmp_path, monkeypatch):
    for number in range(300):
        text = f"a{number}.o\n../a.c\nm{number}\nmodule\n" + "a.c:1: error: x\n" + "y" * 100_000
        (tmp_path / str(number)).write_text(text)
    (tmp_path / "many").write_text("b.o\n../b.c\n" + "m:" * 100_000 + "\nmodule\nboom")
    records = read_records(tmp_path, Path("/obj"))
    found = module_failures(records, TREE)
    assert {name for failure in found for name in [failure.module]} == {f"m{number}" for number in range(300)}
    assert sum(len(failure.log) for failure in found) <= failures.LOGS_BYTES
    assert found[0].log.startswith("a.c:1: error: x")
    monkeypatch.setattr(failures, "MOST_RECORDS", 100)
    with pytest.raises(fence.Escape, match="records of objects that fail"):
        read_records(tmp_path, Path("/obj"))


@pytest.mark.parametrize("line", ["9" * 30, "9" * 5000])
def test_no_line_is_too_long_a_number(line):
    for text in (f"a.c:{line}: error: x", f"a.S:{line}: Error: x", f"make: *** [Makefile:{line}: x] Error 1"):
        assert first_fault(text, TREE, make=True).line < 1 << 31
