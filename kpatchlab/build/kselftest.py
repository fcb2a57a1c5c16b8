"""The kernel's own selftests, built from the tree under test: source + series + collection -> programs, by content key.

A collection is a folder below tools/testing/selftests, or FOLDER/PROGRAM for one program of a folder, together with
the script PROGRAM.sh of the same name. The tree's own Makefiles build them, statically linked, so that the guest's C
library does not matter. What does not compile is survived as modules are: a single test is left out of its program
and reported by its name, a program is left out of its folder, and only then is the collection at fault.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from kpatchlab import proc
from kpatchlab.build import config, confined, diffs, failures, patchset, source, toolchain
from kpatchlab.build.built import Programs, Unbuilt, check_host, version_of
from kpatchlab.build.context import BuildContext
from kpatchlab.build.kconfig import OPENS
from kpatchlab.build.origin import Source
from kpatchlab.cache import Cache, content_key
from kpatchlab.errors import HostError, LabError
from kpatchlab.fence import Escape, Fence, read_left
from kpatchlab.files import put_plain
from kpatchlab.lab.recipes import KernelRecipe
from kpatchlab.model import Outcome

VERSION, TREE_VERSION = 4, 2
"""Part of every key: raise one when the same inputs are to give other programs, or another tree to build them from."""
TESTS, LEFT_OUT = "lab.tests", "lab.left-out"
"""Beside the programs: which of them are tests, and what could not be built, see `_write_lists`."""
LACKS = "lab.lacks"
"""Beside the programs in a guest: what of `ASKED` its kernel lacks, where it lacks any."""
BESIDE = "beside"
"""Folder beside `programs`: files of other folders that scripts take from there, by their names below selftests."""
ASKED = "asked"
"""Beside the folder `programs` of a whole collection: the symbols that its file `config` asks for, one a line."""
HEADERS_S, MAKE_S = 900.0, 900.0
ROUNDS = 5
"""How often tests that do not compile are left out and the rest is tried again."""
_TREES = "kselftest-tree"
"""Kind of the artifacts that have what selftests are built from."""
_SELFTESTS = "tools/testing/selftests"
_KEPT = (
    *("Makefile", "scripts", "usr/include", _SELFTESTS, "tools/build", "tools/scripts", "tools/arch", "tools/include"),
    *("tools/lib", "include/uapi"),
)
"""What of a kernel's tree its selftests are built from; below arch/ the headers."""
_ERROR = re.compile(r"^(?P<file>[^:\s]+):(?P<line>\d{1,9}):\d+: (?:fatal )?error: (?P<text>.*)$", re.MULTILINE)
_SYMBOL = re.compile(r"CONFIG_(\w+)=(y|m|-?\d+|0x[0-9a-fA-F]+|\"[^\"]*\")\s*$")
_TEST = re.compile(r"^(?P<macro>TEST(?:_[A-Z_]+)?)\((?P<words>[^)]*)\)?")
_LIST = "lab-list: ; $(info lab-tests $(TEST_GEN_PROGS) $(TEST_CUSTOM_PROGS)) $(info lab-scripts $(TEST_PROGS)) "
_LIST += "$(info lab-others $(TEST_GEN_PROGS_EXTENDED) $(TEST_GEN_FILES)) "
_LIST += "$(info lab-files $(TEST_PROGS_EXTENDED) $(TEST_FILES)) @:"


@dataclass(frozen=True, slots=True)
class _Recipe:
    """How a collection comes from the tree.

    Attributes:
        stage: of `packages`, what it needs of the host beyond a compiler.
        tools: programs whose versions decide about the result.
    """

    make: Any
    stage: str = ""
    tools: tuple[str, ...] = ()


def build(recipe: KernelRecipe, collection: str, ctx: BuildContext) -> Programs:
    """Return a collection of a kernel recipe's tree with its series applied; see `foreign.build_foreign`.

    Raises:
        Unbuilt: there is no such collection, or it does not build.
    """
    origin = source.source_of(recipe.source, ctx).of_its_tree()
    how = _RECIPES.get(collection, _Recipe(_by_its_makefile))
    if how.stage:
        check_host(how.stage)
    patches = patchset.read_series(recipe.series, ctx)
    tree_key = _tree_key(origin, patches, ctx)
    tools = [version_of(tool) for tool in how.tools]
    key = content_key(VERSION, tree_key, collection, toolchain.of_host(ctx.arch), tools)
    cached = ctx.cache.has("kselftest", key)
    what = origin.describe()

    def tree_of(work: Path) -> None:
        _unpack(origin, patches, work, ctx)

    def produce(work: Path) -> None:
        tree = ctx.cache.get(_TREES, tree_key, tree_of, label=f"source of selftests: {what}") / "tree"
        how.make(tree, collection, work, ctx, patchset.series_key(patches))

    try:
        ctx.cache.get("kselftest", key, produce, label=f"selftests {collection} of {what}")
    except patchset.DoesNotApplyError as error:
        raise Unbuilt(Outcome.BLOCKED, error.message) from None
    except Escape as error:
        raise Unbuilt(Outcome.BLOCKED, f"the build tried to leave its folders: {error.message}") from None
    return Programs(Outcome.PASS, "kselftest", key, cached=cached)


def _tree_key(origin: Source[Any], patches: Sequence[patchset.Patch], ctx: BuildContext) -> str:
    return content_key(TREE_VERSION, ctx.arch, origin.spec.type, origin.key, patchset.series_key(patches), _KEPT)


def asked_for(lines: Iterable[str]) -> dict[str, str]:
    """Return what a collection's file `config` asks for: symbol -> value; without those that only show others."""
    found = (_SYMBOL.match(line) for line in lines)
    return {match[1]: match[2] for match in found if match and match[1] not in OPENS}


def asked_of(artifact: Path) -> list[str]:
    """Return the symbols that a collection which is built asks a kernel for; none where that is not known."""
    path = artifact / ASKED
    return path.read_text().split() if path.exists() else []


def folders(recipe: KernelRecipe, ctx: BuildContext) -> frozenset[str] | None:
    """Return the folders below tools/testing/selftests with a Makefile, in a kernel recipe's tree with its series.

    None: that is not known before the tree is there. Nothing is unpacked for it.
    """
    try:
        origin = source.source_of(recipe.source, ctx).of_its_tree()
        patches = patchset.read_series(recipe.series, ctx)
        key = _tree_key(origin, patches, ctx)
        if ctx.cache.has(_TREES, key):
            return folders_in(ctx.cache.path(_TREES, key) / "tree")
        if isinstance(origin, source.Dir):
            found = folders_in(origin.path())
        elif isinstance(origin, source.Git) and origin.spec.path:
            listed = origin.fetched().read("ls-tree", "-rz", "--name-only", origin.key["commit"], "--", _SELFTESTS)
            found = _with_makefile(listed.decode("utf-8", "replace").split("\0"))
        else:
            return None
    except (LabError, Unbuilt):
        return None
    return found | _with_makefile(part.new for patch in patches for part in diffs.parts(patch.data, patch.strip))


def folders_cached(cache: Cache) -> frozenset[str]:
    """Return the folders of selftests that any tree in the cache has."""
    return frozenset[str]().union(*(folders_in(tree) for tree in cache.root.glob(f"{_TREES}/*/tree")))


def folders_in(tree: Path) -> frozenset[str]:
    """Return the folders below a tree's tools/testing/selftests with a Makefile."""
    home = tree / _SELFTESTS
    return _with_makefile(f"{_SELFTESTS}/{path.relative_to(home)}" for path in home.rglob("Makefile"))


def _with_makefile(files: Iterable[str]) -> frozenset[str]:
    """Return the folders below tools/testing/selftests whose Makefile is among a tree's files."""
    found = (PurePath(name) for name in files if name.startswith(f"{_SELFTESTS}/"))
    return frozenset(
        str(path.parent.relative_to(_SELFTESTS)) for path in found if path.name == "Makefile" and len(path.parts) > 4
    )


def host_stage(collection: str) -> str:
    """Return what a collection needs of the host beyond a compiler: a stage of `packages`, or ""."""
    return _RECIPES[collection].stage if collection in _RECIPES else ""


def _check_time(done: proc.Result, what: str) -> None:
    """Blame the host, and no kernel, for a step that it gave too little time.

    Raises:
        HostError: it ran out of time.
    """
    if done.timed_out:
        raise HostError(f"{what}: make did not end in {done.duration_s / 60:.0f} minutes", hint="is the host busy?")


def _fence(ctx: BuildContext, author: str, *write: Path) -> Fence:
    return confined.build_fence(ctx, author, write=write).adding({"LDFLAGS": "-static -s"})


def _unpack(origin: Source[Any], patches: Sequence[patchset.Patch], work: Path, ctx: BuildContext) -> None:
    """Write to `work`/tree what selftests need of the tree, with the headers that its kernel gives to programs."""
    whole, tree = work / "whole", work / "tree"
    whole.mkdir()
    origin.write_tree(whole)
    patchset.apply_series(patches, whole, ctx)
    ctx.check_cancel()
    arch = config.source_arch(ctx.arch)
    words = ["make", f"-j{ctx.jobs or os.cpu_count() or 1}", f"ARCH={arch}", "headers"]
    fence = _fence(ctx, patchset.series_key(patches), whole)
    done = fence.run(words, timeout_s=HEADERS_S, check=False, cwd=whole, nice=proc.BUILD_NICE, cancel=ctx.cancel)
    ctx.check_cancel()
    _check_time(done, "headers")
    if done.status != 0:
        fault = failures.first_fault(done.stderr, whole, make=True)
        raise Unbuilt(Outcome.BLOCKED, f"make headers: {_place(fault)}{fault.text}")
    for name in (*_KEPT, f"arch/{arch}/include"):
        if (whole / name).exists():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (whole / name).rename(tree / name)
    ctx.discard(whole)


def _place(fault: failures.BuildError) -> str:
    return f"{fault.file}:{fault.line}: " if fault.file else ""


# --------------------------------------------------------------------------- by the tree's own Makefiles


@dataclass(frozen=True, slots=True)
class _Listed:
    """What a folder's Makefile lists, by file name: tests to build, tests that are scripts, and what these need."""

    tests: list[str]
    scripts: list[str]
    others: list[str]
    files: list[str]


def _by_its_makefile(tree: Path, collection: str, work: Path, ctx: BuildContext, author: str) -> None:
    """Build a folder, or one program of it, with the folder's own Makefile."""
    folder, only = _folder(tree, collection)
    copy, out, programs = work / "tree", work / "out", work / "programs"
    shutil.copytree(tree, copy, symlinks=True)  # a test can be left out, and the cache's own is not for a build
    for made in (out, programs):
        made.mkdir()
    here = copy / _SELFTESTS / folder
    words = ["make", "-k", "-C", str(here), f"OUTPUT={out}", f"KHDR_INCLUDES=-isystem {copy / 'usr/include'}"]
    fence = _fence(ctx, author, copy, out)
    listed = _listed(words, fence)
    if only:
        listed = _narrowed(listed, only)
    if not listed.tests and not listed.scripts:
        lacks = f"no {_SELFTESTS}/{collection}" if only else f"no test in {_SELFTESTS}/{collection}"
        raise Unbuilt(Outcome.SKIP, f"the kernel's tree has {lacks}")
    left_out, log = _compile(words, [*listed.tests, *listed.others], here, out, fence, ctx)
    for name in [*listed.tests, *listed.others]:
        if (out / name).exists():
            shutil.copy2(out / name, programs / name)
    for name in [*listed.scripts, *listed.files, "settings"]:
        if (here / name).is_file():
            shutil.copy2(here / name, programs / name)
        elif (here / name).is_dir() and not (programs / name).exists():
            shutil.copytree(here / name, programs / name, ignore=_linked_folders, ignore_dangling_symlinks=True)
    there = [name for name in (*listed.tests, *listed.scripts) if (programs / name).exists()]
    failed = [name for name in (*listed.tests, *listed.others) if not (programs / name).exists()]
    if not there or (only and failed):
        fault = failures.first_fault(log, here, make=True)
        raise Unbuilt(Outcome.BLOCKED, f"{collection} does not build: {_place(fault)}{fault.text}")
    left_out += [(name, "", f"does not build: {_reason(log, name)}") for name in failed]
    left_out += [(name, "", "it is not in its folder") for name in listed.scripts if not (programs / name).exists()]
    _write_lists(programs, there, left_out)
    _put_beside(words, fence, copy / _SELFTESTS, folder, work / BESIDE)
    if not only and (here / "config").is_file():
        wanted = asked_for(read_left(here / "config").splitlines())
        (work / ASKED).write_text("".join(f"{name}\n" for name, value in wanted.items() if value in {"y", "m"}))
    for done in (copy, out):
        shutil.rmtree(done)


def _put_beside(words: Sequence[str], fence: Fence, home: Path, folder: str, beside: Path) -> None:
    """Copy what a folder's scripts take from others: its Makefile's TEST_INCLUDES, and what all of them share."""
    done = fence.run([*words, "--eval=lab-beside: ; $(info lab-beside $(TEST_INCLUDES)) @:", "lab-beside"],
                     timeout_s=MAKE_S, check=False)  # fmt: skip
    said = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("lab-beside ")]
    names = [os.path.normpath(f"{folder}/{name}") for listed in said for name in listed]
    names += [str(path.relative_to(home)) for path in (home / "kselftest").glob("*.sh")]
    root = home.resolve()
    for name in names:
        if (home / name).is_file() and (home / name).resolve().is_relative_to(root) and not name.startswith("."):
            (beside / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(home / name, beside / name)


def _linked_folders(folder: str, names: list[str]) -> list[str]:
    """Return what of a folder is not copied: a link may lead into the folder that it is in."""
    return [name for name in names if Path(folder, name).is_symlink() and Path(folder, name).is_dir()]


def _folder(tree: Path, collection: str) -> tuple[str, str]:
    """Return folder and program; the program is "" for all of a folder."""
    if (tree / _SELFTESTS / collection / "Makefile").exists():
        return collection, ""
    folder, _, program = collection.rpartition("/")
    if folder and (tree / _SELFTESTS / folder / "Makefile").exists():
        return folder, program
    raise Unbuilt(Outcome.SKIP, f"the kernel's tree has no {_SELFTESTS}/{collection}")


def _listed(words: Sequence[str], fence: Fence) -> _Listed:
    done = fence.run([*words, f"--eval={_LIST}", "lab-list"], timeout_s=MAKE_S, check=False)
    if done.status != 0:
        fault = failures.first_fault(done.stderr, Path("/"), make=True)
        raise Unbuilt(Outcome.BLOCKED, f"make does not list its tests: {_place(fault)}{fault.text}")
    found = {}
    for line in done.stdout.splitlines():
        kind, _, names = line.strip().partition(" ")
        if kind.startswith("lab-"):
            found[kind] = [os.path.basename(name) for name in names.split()]
    return _Listed(*(found.get(kind, []) for kind in ("lab-tests", "lab-scripts", "lab-others", "lab-files")))


def _narrowed(listed: _Listed, program: str) -> _Listed:
    """Leave a folder's list at one program, its script, and the files that scripts share."""
    return _Listed(
        [name for name in listed.tests if name == program],
        [name for name in listed.scripts if name in {program, f"{program}.sh"}],
        [name for name in listed.others if name == program],
        listed.files if f"{program}.sh" in listed.scripts else [],
    )


def _compile(
    words: Sequence[str], names: Sequence[str], here: Path, out: Path, fence: Fence, ctx: BuildContext
) -> tuple[list[tuple[str, str, str]], str]:
    """Make programs; returns the tests that had to be left out as (program, test, why), and make's last errors."""
    left_out: list[tuple[str, str, str]] = []
    log = ""
    for _ in range(ROUNDS):
        goals = [str(out / name) for name in names if not (out / name).exists()]
        if not goals:
            break
        goal = [*words, *goals]
        done = fence.run(
            goal, timeout_s=MAKE_S, check=False, nice=proc.BUILD_NICE, cancel=ctx.cancel, on_line=ctx.verbose
        )
        ctx.check_cancel()
        _check_time(done, "selftests")
        log = done.stderr
        if done.status == 0:
            break
        dropped = _leave_out(log, here)
        if not dropped:
            break
        left_out += dropped
    return left_out, log


def _leave_out(log: str, here: Path) -> list[tuple[str, str, str]]:
    """Take the tests out of their sources in which the compiler found errors; (program, test, why) of each."""
    errors: dict[Path, list[tuple[int, str]]] = {}
    for match in _ERROR.finditer(log):
        path = here / match["file"]
        if path.suffix == ".c" and path.is_file():
            errors.setdefault(path, []).append((int(match["line"]), match["text"]))
    dropped = []
    for path, found in errors.items():
        text, gone = without_tests(read_left(path), found)
        if gone:
            put_plain(path, text.encode())
            dropped += [(path.stem, test, f"does not compile: {path.name}:{why}") for test, why in gone]
    return dropped


def without_tests(text: str, errors: Iterable[tuple[int, str]]) -> tuple[str, list[tuple[str, str]]]:
    """Blank out the kselftest_harness tests of a source that have errors; lines keep their numbers.

    Args:
        errors: (line, from 1, and the compiler's words).

    Returns:
        The source, and (test, "LINE: words") of each test that is gone, by the name that the harness gives it.
    """
    lines = text.splitlines()
    blocks = []
    for number, line in enumerate(lines):
        if match := _TEST.match(line):
            end = next((n for n in range(number, len(lines)) if lines[n].startswith("}")), number)
            blocks.append((number, end, _harness_name(match["macro"], match["words"])))
    gone: dict[str, str] = {}
    for at, words in errors:
        for start, end, name in blocks:
            if start < at <= end + 1 and name not in gone:
                gone[name] = f"{at}: {words}"
                lines[start : end + 1] = [""] * (end + 1 - start)
    return "\n".join(lines) + "\n", list(gone.items())


def _harness_name(macro: str, words: str) -> str:
    parts = [word.strip() for word in words.split(",")]
    return ".".join(parts[:2]) if macro.startswith("TEST_F") else f"global.{parts[0]}"


def _reason(log: str, name: str) -> str:
    """Return the first error that names a program's source, else the first there is."""
    own = next((m for m in _ERROR.finditer(log) if Path(m["file"]).stem == name), None)
    if own:
        return f"{own['file']}:{own['line']}: {own['text']}"
    fault = failures.first_fault(log, Path("/"), make=True)
    return f"{_place(fault)}{fault.text}"


def _write_lists(programs: Path, tests: Sequence[str], left_out: Iterable[tuple[str, str, str]]) -> None:
    """Write the names of the tests, one a line, and what was left out: PROGRAM, TEST and why between tabs."""
    (programs / TESTS).write_text("".join(f"{name}\n" for name in tests))
    rows = ("\t".join(re.sub(r"\s+", " ", part) for part in row) for row in left_out)
    (programs / LEFT_OUT).write_text("".join(f"{row}\n" for row in rows))


# ------------------------------------------------------------------------------------------ sockmap


def _sockmap(tree: Path, collection: str, work: Path, ctx: BuildContext, author: str) -> None:
    """Build bpf/test_sockmap alone: its folder's Makefile wants the kernel's debug information for all its programs."""
    here, libbpf, programs = tree / _SELFTESTS / "bpf", work / "libbpf", work / "programs"
    if not (here / "test_sockmap.c").exists():
        raise Unbuilt(Outcome.SKIP, f"the kernel's tree has no {_SELFTESTS}/{collection}")
    for made in (libbpf, programs):
        made.mkdir()

    fence = _fence(ctx, author, libbpf, programs).adding(read=[tree])

    def run(words: Sequence[str | Path]) -> None:
        done = fence.run(words, timeout_s=MAKE_S, check=False, nice=proc.BUILD_NICE, cancel=ctx.cancel)
        ctx.check_cancel()
        _check_time(done, collection)
        if done.status != 0:
            fault = failures.first_fault(done.stderr, tree, make=True)
            raise Unbuilt(Outcome.BLOCKED, f"{collection} does not build: {_place(fault)}{fault.text}")

    uapi, own = tree / "tools/include/uapi", tree / "usr/include"
    place = [f"OUTPUT={libbpf}/", f"DESTDIR={libbpf}/install", "prefix="]
    flags = ["EXTRA_CFLAGS=-O2 -g -Wno-error"]  # a warning of a newer compiler must not end it
    goals = [str(libbpf / "libbpf.a"), "install_headers"]
    run(["make", f"-j{ctx.jobs or os.cpu_count() or 1}", "-C", tree / "tools/lib/bpf", *place, *flags, *goals])
    first, last = [f"-I{libbpf}/install/include", f"-I{here}"], [f"-I{uapi}", "-isystem", str(own)]
    include = [*first, f"-I{tree}/tools/include", *last]
    sources = [here / "test_sockmap.c", here / "cgroup_helpers.c"]
    libraries = [str(libbpf / "libbpf.a"), *_libelf()]
    result = programs / "test_sockmap"
    run(["gcc", "-O2", "-static", "-s", "-D_GNU_SOURCE", *include, *sources, *libraries, "-o", result])
    target = ["-target", "bpf", "-mcpu=v3", "-mlittle-endian", f"-D__TARGET_ARCH_{config.source_arch(ctx.arch)}"]
    # the C library's headers last, as the folder's Makefile has it: the tree's own come first
    late = [
        word for folder in (f"/usr/include/{ctx.arch}-linux-gnu", "/usr/include") for word in ("-idirafter", folder)
    ]
    for name in ("test_sockmap_kern", "test_sockhash_kern"):
        if (here / f"progs/{name}.c").exists():
            # Without tools/include, as in the folder's Makefile: its asm-generic/bitsperlong.h compares the compiler's
            # word with that of the uapi header, which up to 6.4 is 32 for a machine that it does not know, as BPF.
            words = ["clang", "-g", "-O2", *target, *first, *last, *late, "-Wno-compare-distinct-pointer-types"]
            run([*words, "-c", here / f"progs/{name}.c", "-o", programs / f"{name}.bpf.o"])
    _write_lists(programs, ["test_sockmap"], ())
    shutil.rmtree(libbpf)


def _libelf() -> list[str]:
    """Return the linker's words for libelf and what it needs in turn, which differs between its versions."""
    if shutil.which("pkg-config"):
        done = proc.run(["pkg-config", "--static", "--libs", "libelf"], timeout_s=60, check=False)
        if done.status == 0 and done.stdout.strip():
            return shlex.split(done.stdout)
    return ["-lelf", "-lz"]


_RECIPES: dict[str, _Recipe] = {
    "bpf/test_sockmap": _Recipe(_sockmap, stage="bpf", tools=("clang",)),
}
"""Collections that their folder's Makefile cannot build alone. A new one is a function above and a row here."""
