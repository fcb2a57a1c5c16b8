"""Which functions of a series can be counted by name on the built kernel, and why the others cannot."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kpatchlab import fence
from kpatchlab.arch import reads
from kpatchlab.build.changes import Changes, Named
from kpatchlab.build.config import read_config
from kpatchlab.build.failures import normal
from kpatchlab.model import ChangedFunction, PatchFacts

READ_S = 300.0
GONE, INLINED, NOT_BUILT, AMBIGUOUS, UNTRACED = "gone", "inlined", "not built", "ambiguous", "ftrace off"
UNKNOWN = "no symbol, and no DWARF to say why"
"""Words for `ChangedFunction.trace`.

Gone: by the patch itself or a later one. Inlined: the compiler left no function of that name, or it is never called.
Not built: not in this configuration, or its module failed. Ambiguous: several files have one of that name, and calls
are counted by name.
"""


@dataclass(frozen=True, slots=True)
class _Symbols:
    """The functions of a built kernel.

    Attributes:
        homes: function -> where it is, once for each of that name: a module, or "" for the image.
        files: source files that were compiled; empty where there is no DWARF.
        tracing: whether the kernel can count calls at all.
    """

    homes: dict[str, list[str]] = field(default_factory=dict)
    files: frozenset[str] = frozenset()
    tracing: bool = True


def facts(kernel: str, changes: Changes, artifact: Path | None) -> tuple[tuple[PatchFacts, ...], tuple[str, ...]]:
    """Return a series as a run stores it, and what `reach start` takes for the functions that can be counted.

    Args:
        artifact: the built kernel's folder; None for one that did not build: then nothing can be counted.
    """
    functions = dict.fromkeys(function for patch in changes.patches for function in patch.functions)
    symbols = _symbols(artifact, {function.name for function in functions}) if artifact and functions else None
    words = {function: _word(function, symbols) if symbols else NOT_BUILT for function in functions}
    told = tuple(
        PatchFacts(
            kernel,
            patch.number,
            patch.title,
            patch.files,
            tuple(ChangedFunction(f.name, f.file, GONE if f.gone else words[f]) for f in patch.functions),
        )
        for patch in changes.patches
    )
    names = dict.fromkeys(function.name for function in functions if not words[function])
    return told, tuple(_asked(name, symbols) for name in names) if symbols else ()


def _word(function: Named, symbols: _Symbols) -> str:
    if function.gone:
        return GONE
    if not symbols.tracing:
        return UNTRACED
    homes = symbols.homes.get(function.name, [])
    if homes:
        # An inline function of a header stands in every object that did not inline it: all of them are that one.
        return AMBIGUOUS if len(homes) > 1 and function.file.endswith(".c") else ""
    if not symbols.files:
        return UNKNOWN
    return NOT_BUILT if function.file.endswith(".c") and function.file not in symbols.files else INLINED


def _asked(name: str, symbols: _Symbols) -> str:
    """Return a function as `reach start` takes it: with its module, which may be loaded while the scenario runs."""
    homes = set(symbols.homes[name])
    module = homes.pop() if len(homes) == 1 else ""
    return f"{name}:mod:{module}" if module else name


def _symbols(artifact: Path, wanted: set[str]) -> _Symbols:
    homes: dict[str, list[str]] = {}
    clones: dict[str, set[str]] = {}
    modules = sorted((artifact / "modules-debug").rglob("*.ko"))
    for home, kind, symbol in _listed(artifact / "System.map", modules):
        # The compiler's clones (foo.isra.0) are the function itself; its cold half (foo.cold) is no function.
        name, _, clone = symbol.partition(".")
        if kind not in "tTwW" or name not in wanted or clone.startswith("cold"):
            continue
        if clone:
            clones.setdefault(name, set()).add(home)
        else:
            homes.setdefault(name, []).append(home)
    for name, where in clones.items():
        here = homes.setdefault(name, [])
        here += sorted(where.difference(here))
    config = read_config(artifact / "config")
    tracing = "y" in {config.get("FUNCTION_PROFILER"), config.get("KPROBE_EVENTS")}
    return _Symbols(homes, frozenset(_compiled([artifact / "vmlinux", *modules])), tracing)


def _listed(system_map: Path, modules: Sequence[Path]) -> Iterator[tuple[str, str, str]]:
    """Yield (module or "", kind as nm has it, name) of every symbol."""
    for line in fence.read_left(system_map).splitlines():
        if len(words := line.split()) > 1:
            yield "", *words[-2:]  # type: ignore[misc]
    home = normal(modules[0].stem) if modules else ""  # of a single file nm does not print the name
    for line in _read([reads("nm", modules[0]), *map(str, modules)], system_map.parent) if modules else ():
        if line.endswith(".ko:"):
            home = normal(Path(line[:-1]).stem)
        elif len(words := line.split()) == 3:
            yield home, words[1], words[2]


def _compiled(objects: Sequence[Path]) -> Iterator[str]:
    """Yield the source files that objects were compiled from, as the tree names them: the head of each DWARF unit."""
    there = [str(path) for path in objects if path.exists()]
    for line in _read(["readelf", "--debug-dump=info", "--dwarf-depth=1", *there], objects[0].parent) if there else ():
        if match := re.match(r"\s+<[0-9a-f]+>\s+DW_AT_name\s+: (?:\([^)]*\): )?(.*\S)", line):
            yield os.path.normpath(match[1]).removeprefix("../")  # compiled in obj/, a folder of the tree


def _read(words: list[str], artifact: Path) -> Iterator[str]:
    """Yield the lines of a command's output; none where it fails: what cannot be read is not known."""
    with tempfile.TemporaryFile() as handle:
        fence.tool(artifact).run(words, timeout_s=READ_S, check=False, stdout_to=handle)
        handle.seek(0)
        yield from (line.decode("utf-8", "replace").rstrip("\n") for line in handle)
