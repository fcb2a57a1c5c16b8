"""file:line for frames, on a small ELF file built here that stands for vmlinux, and a relocatable for a module."""

import itertools
import shutil
import subprocess
from pathlib import Path

import pytest

from kpatchlab.evidence.decode import Decoder
from kpatchlab.model import Splat

pytestmark = pytest.mark.skipif(
    not (shutil.which("gcc") and shutil.which("addr2line")), reason="needs gcc and binutils"
)

MAIN = """\
int sink;
__attribute__((noinline)) void leaf(void) { sink++; }
static __attribute__((noinline)) void twin(void)
{
    sink = 1;
}
void kernel_init(void)
{
    leaf();
    twin();
}
"""
OTHER = """\
extern int sink;
void leaf(void);
static inline __attribute__((always_inline)) void inner(void)
{
    leaf();
    sink--;
}
static __attribute__((noinline)) void twin(void)
{
    inner();
    sink *= 3; sink ^= 5; sink *= 7; sink ^= 9; sink *= 11; sink ^= 13; sink *= 17; sink ^= 19;
    leaf();
}
void caller(void) { twin(); leaf(); }
"""
MODULE = """\
void leaf(void);
__attribute__((section(".text.unlikely"))) void cold_one(void)
{
    leaf();
    leaf();
}
void warm_one(void)
{
    leaf();
    leaf();
}
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    root = tmp_path_factory.mktemp("tree")
    for name, text in (("init/main.c", MAIN), ("net/other.c", OTHER), ("drivers/lab-mod.c", MODULE)):
        (root / name).parent.mkdir()
        (root / name).write_text(text)
    (root / "obj").mkdir()
    flags = ["gcc", "-g", "-O1", "-fno-pie", "-fno-optimize-sibling-calls", "-fno-stack-protector"]
    link = ["-no-pie", "-nostdlib", "-static", "-Wl,-e,kernel_init"]
    subprocess.run([*flags, *link, "-o", "vmlinux", "../init/main.c", "../net/other.c"], cwd=root / "obj", check=True)
    subprocess.run([*flags, "-c", "-o", "lab-mod.ko", "../drivers/lab-mod.c"], cwd=root / "obj", check=True)
    return root


def sizes(path):
    """Name -> (start, size to the next symbol) of functions, in order."""
    rows = [line.split() for line in subprocess.check_output(["nm", "-n", path], text=True).splitlines()]
    rows = [(int(a, 16), name) for a, kind, name in rows if kind in "tT"]
    return [(name, b[0] - a) for (a, name), b in itertools.pairwise(rows)]


def decode(built, *lines, modules=True):
    obj = built / "obj"
    decoder = Decoder(obj / "vmlinux", obj if modules else None)
    splat = Splat("oops", "t", "0" * 12, "\n".join(lines))
    return decoder, decoder.decode(splat).decoded.split("\n")


def test_return_address_and_program_counter(built):
    size = dict(sizes(built / "obj" / "vmlinux"))["kernel_init"]
    code = subprocess.check_output(["objdump", "-d", "--no-show-raw-insn", built / "obj" / "vmlinux"], text=True)
    body = code.split("<kernel_init>:")[1].splitlines()[1:]
    start = int(body[0].split(":")[0], 16)
    after = next(int(body[n + 1].split(":")[0], 16) for n, row in enumerate(body) if "call" in row and "<leaf>" in row)
    offset = after - start
    _, (trace, counter) = decode(
        built,
        f"[    1.000000]  kernel_init+{offset:#x}/{size:#x}",
        f"[    1.000000] RIP: 0010:kernel_init+{offset:#x}/{size:#x}",
    )
    assert trace.endswith("(init/main.c:9)")  # the call, though the address is that of the next instruction
    assert counter.endswith("(init/main.c:10)")


def test_a_frame_at_the_start_of_a_function_is_the_one_before(built):
    """Its call does not return, so the compiler ended the function with it."""
    order = [name for name, _ in sizes(built / "obj" / "vmlinux")]
    size = dict(sizes(built / "obj" / "vmlinux"))["kernel_init"]
    before = order[order.index("kernel_init") - 1]
    _, (trace, pointer) = decode(
        built, f"[    1.000000]  kernel_init+0x0/{size:#x}", f"[    1.000000] hint: kernel_init+0x0/{size:#x}"
    )
    assert f"({before} at init/main.c:" in trace
    assert "0x0/" in pointer
    assert " (init/main.c:" in pointer


def test_twins_are_told_apart_by_size_and_inlined_callers_shown(built):
    small, large = [size for name, size in sizes(built / "obj" / "vmlinux") if name == "twin"]
    _, lines = decode(built, f" twin+0x5/{small:#x}", f"[    1.000000]  twin+0x9/{large:#x}")
    assert lines[0].endswith("(init/main.c:5)") or lines[0].endswith("(init/main.c:4)")
    assert lines[1].endswith("(net/other.c:5)")
    assert lines[2].strip() == "(inlined by) twin (net/other.c:10)"
    assert lines[2].startswith(" " * 15)


def test_modules_and_their_sections(built):
    _, lines = decode(
        built, " cold_one+0x9/0x20 [lab_mod]", " warm_one+0x9/0x20 [lab_mod 0123abcd]", " ? gone+0x1/0x2 [gone]"
    )
    assert lines[0].endswith("(drivers/lab-mod.c:4)")
    assert lines[1].endswith("(drivers/lab-mod.c:9)")
    assert lines[2] == " ? gone+0x1/0x2 [gone]"


def test_the_function_of_another_kernel_is_left_alone(built):
    decoder, lines = decode(built, " kernel_init+0x5/0x1000", " leaf+0xff/0x100")
    assert lines == [""]
    assert decoder.note == ""


def test_without_symbols(built, tmp_path):
    splat = Splat("oops", "t", "0" * 12, " leaf+0x1/0x10")
    nothing = Decoder(None)
    assert nothing.decode(splat) == splat
    assert "no vmlinux" in nothing.note
    broken = Decoder(tmp_path / "vmlinux")
    (tmp_path / "vmlinux").write_bytes(b"\x7fELF rubbish")
    assert broken.decode(splat).decoded == ""
    assert broken.note
    stripped = tmp_path / "stripped"
    subprocess.run(["objcopy", "--strip-debug", built / "obj" / "vmlinux", stripped], check=True)
    bare = Decoder(Path(stripped))
    assert bare.decode(splat).decoded == ""
    assert bare.note == "no debug information for vmlinux"
