"""What did not compile: the records that cc.sh leaves, and which modules are missing for them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kpatchlab import fence
from kpatchlab.arch import reads
from kpatchlab.files import below, clear
from kpatchlab.model import ModuleFailure

PLACE = "/linux"
"""Where make finds the tree, whichever it is. Objects stay good in a copy of their tree: tools/build writes absolute
paths into what it makes (6.12: objtool), and every command that names another compiler's path is run again."""
NM_S = 300.0
NM_BATCH = 100
"""Modules in one call of nm: its output stays below what proc keeps."""
LOG_BYTES = 64 << 10
LOGS_BYTES = 16 << 20
"""Of all modules of a kernel together: one bad header can fail thousands."""
MOST_MODULES = 64
"""That one object is part of; kbuild itself has a few."""
MOST_RECORDS = 100_000
"""A kernel of allyesconfig has some 30,000 objects."""
_ERROR = re.compile(r"^(?P<file>[^\s:]+):(?P<line>\d{1,9}):(?:\d+:)? (?:fatal )?error: (?P<text>.*)$", re.MULTILINE)
_ASSEMBLER = re.compile(r"^(?P<file>[^\s:]+):(?P<line>\d{1,9}): Error: (?P<text>.*)$", re.MULTILINE)
_LINKER = re.compile(
    r"^(?:.*?[:\s])?(?P<file>[^\s:()]+\.\w+):(?:(?P<line>\d{1,9})|\([^)]*\)): "
    r"(?P<text>(?:undefined reference to|multiple definition of) .*)$",
    re.MULTILINE,
)
_MAKE = re.compile(
    r"^make(?:\[\d+\])?: \*\*\* (?:\[(?P<file>[^\]:]+):(?P<line>\d{1,9}): \S+\] )?(?P<text>.*)$", re.MULTILINE
)
_UNDEFINED = re.compile(r"^(.+\.ko):\s+U (?!_GLOBAL_OFFSET_TABLE_)(\S+)$", re.MULTILINE)
_NO_MEMORY = re.compile(r"out of memory allocating|memory exhausted|Cannot allocate memory")
_EXPORT = re.compile(r"\bEXPORT_\w*SYMBOL\w*\(\s*(\w+)")


@dataclass(frozen=True, slots=True)
class BuildError:
    """Where a build stopped: file inside the tree ("" if unknown), line (0 if unknown), one line of text."""

    file: str
    line: int
    text: str


@dataclass(frozen=True, slots=True)
class Record:
    """One file of cc.sh: an object that did not compile; paths as the compiler saw them."""

    object: str
    source: str
    modules: tuple[str, ...]
    builtin: bool
    output: str
    path: Path


def normal(module: str) -> str:
    """Return a module's name as modprobe compares it: `-` is `_`."""
    return module.replace("-", "_").replace(",", "_")


def relative(path: str, tree: Path) -> str:
    """Return a path of the compiler's as one inside the tree.

    >>> relative("../net/ipv4/tcp.c", Path("/t")), relative(f"{PLACE}/net/ipv4/tcp.c", Path("/t"))
    ('net/ipv4/tcp.c', 'net/ipv4/tcp.c')
    """
    text = os.path.normpath(path)
    if os.path.isabs(text):
        home = next((home for home in (str(tree), PLACE) if Path(text).is_relative_to(home)), None)
        return os.path.relpath(text, home) if home else text
    return text.removeprefix("../")


def first_fault(output: str, tree: Path, *, make: bool = False) -> BuildError:
    """Return the first error in a compiler's output; with `make` also the linker's and make's own."""
    for pattern in (_ERROR, _ASSEMBLER):
        if match := pattern.search(output):
            return BuildError(relative(match["file"], tree), int(match["line"]), match["text"].strip())
    if make:
        if match := _LINKER.search(output):
            return BuildError(relative(match["file"], tree), int(match["line"] or 0), match["text"].strip())
        found = [match for match in _MAKE.finditer(output) if "Waiting for unfinished" not in match["text"]]
        if found:
            file = relative(found[0]["file"], tree) if found[0]["file"] else ""
            return BuildError(file, int(found[0]["line"] or 0), found[0]["text"].strip())
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    text = lines[0] if lines else "no output"
    limit = f" (a process may have {fence.memory_bytes() >> 20} MiB)" if _NO_MEMORY.search(text) else ""
    return BuildError("", 0, text + limit)


def read_records(folder: Path, obj: Path) -> list[Record]:
    """Return what cc.sh recorded, sorted by object; the build can write there, so only objects below `obj` count.

    Raises:
        Escape: there are more than a kernel has objects, or one is none to be read.
    """
    found = []
    paths = sorted(folder.glob("*"))
    if len(paths) > MOST_RECORDS:
        raise fence.Escape(f"{len(paths)} records of objects that fail")
    for path in paths:
        if not path.is_file():
            continue
        lines = fence.read_left(path).split("\n")
        words = re.split(r"[:\s]+", lines[2].strip("\"'")) if len(lines) > 4 else []
        # The first is so where a kill cut it off.
        if len(lines) < 5 or not below(obj, lines[0]) or len(words) > MOST_MODULES:
            path.unlink()
            continue
        names = tuple(normal(name) for name in words if name)
        found.append(Record(lines[0], lines[1], names, lines[3] == "builtin", "\n".join(lines[4:]), path))
    return found


def forget(records: Iterable[Record], obj: Path) -> None:
    """Delete stubs and their records, so that the next make compiles those objects again."""
    for record in records:
        target = obj / record.object  # below it, as `read_records` has seen to
        for path in (target, target.with_name(f".{target.name}.cmd"), record.path):
            clear(path)


def module_failures(records: Iterable[Record], tree: Path) -> list[ModuleFailure]:
    """Return one failure for each module and object, without dependents yet."""
    found: list[ModuleFailure] = []
    room = LOGS_BYTES
    for record in records:
        fault = first_fault(record.output, tree)
        file = fault.file or relative(record.source, tree)
        for name in () if record.builtin else record.modules:
            log = record.output[: min(LOG_BYTES, room)]
            room -= len(log)
            found.append(ModuleFailure(name, file, fault.line, fault.text, log))
    return found


@dataclass(frozen=True, slots=True)
class Links:
    """Who needs whom among the modules that were linked.

    Attributes:
        needs: module -> modules whose exports it uses.
        undefined: module -> symbols that nothing in this kernel exports.
    """

    needs: Mapping[str, set[str]]
    undefined: Mapping[str, set[str]]


def read_links(obj: Path, modules: Mapping[str, Path]) -> Links:
    """Read the symbol tables of `modules` (name -> .ko) against `obj`/Module.symvers.

    modpost names only the first ten unresolved symbols of a kernel, hence this one.
    """
    owners: dict[str, str] = {}
    for line in fence.read_left(obj / "Module.symvers").splitlines():
        fields = line.split("\t")
        if len(fields) < 3:
            continue
        owners[fields[1]] = "" if fields[2] == "vmlinux" else normal(Path(fields[2]).name)
    wanted: dict[str, set[str]] = {name: set() for name in modules}
    paths = [str(path) for path in modules.values()]
    for begin in range(0, len(paths), NM_BATCH):
        words = [reads("nm", Path(paths[begin])), "-A", "--undefined-only", *paths[begin : begin + NM_BATCH]]
        text = fence.tool(obj).run(words, timeout_s=NM_S).stdout
        for match in _UNDEFINED.finditer(text):
            wanted[normal(Path(match[1]).stem)].add(match[2])
    needs = {name: {owners[s] for s in symbols if owners.get(s)} - {name} for name, symbols in wanted.items()}
    undefined = {name: {s for s in symbols if s not in owners} for name, symbols in wanted.items()}
    return Links(needs, undefined)


def unresolved(links: Links, failures: Sequence[ModuleFailure], tree: Path, places: Mapping[str, str]) -> Links:
    """Return `links` with each undefined symbol charged to the failed module whose source exports it, if any does."""
    exports = {
        symbol: failure.module
        for failure in failures
        for symbol in _EXPORT.findall(_text(tree, failure.source) + "".join(_blamed(failure, tree, places)))
    }
    needs = {name: set(mods) for name, mods in links.needs.items()}
    undefined: dict[str, set[str]] = {}
    for name, symbols in links.undefined.items():
        needs[name] |= {exports[symbol] for symbol in symbols if symbol in exports} - {name}
        if left := {symbol for symbol in symbols if symbol not in exports}:
            undefined[name] = left
    return Links(needs, undefined)


def _blamed(failure: ModuleFailure, tree: Path, places: Mapping[str, str]) -> list[str]:
    """Return the text of the source that was compiled, where the compiler blames a header of it."""
    source = places.get(failure.module, "")
    return [_text(tree, source)] if source and source != failure.source else []


def _text(tree: Path, name: str) -> str:
    """Return a source of the tree, "" where there is none; the name is the build's word."""
    path = below(tree, name)
    try:
        inside = path is not None and path.is_file() and path.resolve().is_relative_to(tree.resolve())
        return path.read_text(encoding="utf-8", errors="replace") if path and inside else ""
    except OSError:
        return ""


def with_dependents(failures: Iterable[ModuleFailure], links: Links) -> list[ModuleFailure]:
    """Return the failures, each with every module that needs it, in whole or through others."""
    users: dict[str, set[str]] = {}
    for name, mods in links.needs.items():
        for other in mods:
            users.setdefault(other, set()).add(name)
    done = []
    for failure in failures:
        seen: set[str] = set()
        todo = [failure.module]
        while todo:
            fresh = users.get(todo.pop(), set()) - seen
            seen |= fresh
            todo += fresh
        done.append(replace(failure, dependents=tuple(sorted(seen - {failure.module}))))
    return done
