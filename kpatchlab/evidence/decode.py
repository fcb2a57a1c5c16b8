"""File and line for the frames of a splat, from the kernel's own symbols and debug information.

`function+0x1a/0x40 [module]` is looked up by name in the ELF symbol table; of several functions with one name,
the one whose size fits is taken, as scripts/faddr2line does. binutils does the rest: one `addr2line` for all
addresses of a report in one object's section. A frame of a call trace is a return address, so the line of the
instruction before it is the call's (scripts/decode_stacktrace.sh shows the line after it).
"""

from __future__ import annotations

import bisect
import dataclasses
import posixpath
import re
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from kpatchlab.arch import reads
from kpatchlab.errors import HostError
from kpatchlab.evidence.patterns import ANY_FRAME, FRAME, PROGRAM_COUNTER
from kpatchlab.fence import tool
from kpatchlab.model import Splat

TIMEOUT_S = 60.0
"""For one call of readelf or addr2line; a distribution's vmlinux takes some 10 s."""
MAX_MISFIT = 128
"""Bytes by which a function's size may differ from the log's: padding may; the function of another kernel will not."""

_SECTION = re.compile(r"\s*\[ *(\d+)\] (\S+) +\S+ +[0-9a-f]+ [0-9a-f]+ ([0-9a-f]+)")
_SYMBOL = re.compile(r"\s*\d+: ([0-9a-f]+) +\S+ (?:FUNC|NOTYPE) +\w+ +\w+ +(?:\[.*\] +)?(\d+) (\S+)")
_STAMPED = re.compile(r"(?:<\d+>)?(?:\[ *\d+\.\d+\](?:\[ *[TC]\d+\])? ?)?")
_GROUP = re.compile(r"^0x([0-9a-f]+)\n", re.MULTILINE)

Line = tuple[str, str]
"""(function, "file:line"), innermost first where functions are inlined."""


@dataclass(slots=True)
class _Object:
    """The functions of vmlinux or one module: where each name is, and all starts, to tell sizes."""

    path: Path
    names: dict[str, list[tuple[str, int]]] = field(default_factory=lambda: defaultdict(list))
    starts: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    ends: dict[str, int] = field(default_factory=dict)
    lines: dict[tuple[str, int], list[Line]] = field(default_factory=dict)
    has_lines: bool = False

    def find(self, name: str, offset: int, size: int) -> tuple[str, int] | None:
        """Return section and address of `name+offset/size`, None where no function of that name reaches so far.

        The kernel takes the distance to the next symbol for a function's size, not what the ELF file says.
        """
        best: tuple[int, str, int] | None = None
        for section, start in self.names.get(name, ()):
            following = self.starts[section]
            after = bisect.bisect_right(following, start)
            end = following[after] if after < len(following) else self.ends.get(section, start + size)
            misfit = abs(end - start - size)
            if offset <= size and misfit <= MAX_MISFIT and (best is None or misfit < best[0]):
                best = (misfit, section, start + offset)
        return best[1:] if best else None


class Decoder:
    """Adds file:line to reports of one kernel.

    Args:
        vmlinux: with debug information; None where the kernel came without.
        modules_dir: unstripped `NAME.ko` anywhere below it; None where modules are not to be decoded.
        source_prefix: what to take off file names; "": found out from where `kernel_init` is.

    Attributes:
        note: why frames are not decoded, one line, or "".
    """

    def __init__(self, vmlinux: Path | None, modules_dir: Path | None = None, source_prefix: str = "") -> None:
        self._vmlinux = vmlinux
        self._modules_dir = modules_dir
        self._prefix = source_prefix.rstrip("/")
        self._objects: dict[str, _Object | None] = {}
        self._module_files: dict[str, Path] | None = None
        self.note = "" if vmlinux else "the kernel has no vmlinux with debug information: frames are not decoded"

    def decode(self, splat: Splat) -> Splat:
        """Return `splat` with `decoded`; "" there, and a `note`, where nothing could be looked up. Never raises."""
        decoded = self.text(splat.text)
        return dataclasses.replace(splat, decoded=decoded if decoded != splat.text else "")

    def text(self, text: str) -> str:
        """Return a text with file and line behind every frame that is known, as it is where none is. Never raises."""
        wanted: dict[str, set[tuple[str, int]]] = defaultdict(set)
        frames: dict[int, tuple[str, tuple[str, int]]] = {}
        rows = text.split("\n")
        try:
            for number, row in enumerate(rows):
                if found := self._place(row):
                    frames[number] = found
                    wanted[found[0]].add(found[1])
            for module, places in wanted.items():
                self._look_up(module, places)
        except HostError as error:
            self.note = error.message
        out: list[str] = []
        for number, row in enumerate(rows):
            module, place = frames.get(number, ("", None))
            known = self._objects.get(module)
            lines = known.lines.get(place) if known and place else None
            if not lines:
                out.append(row)
                continue
            stamp = _STAMPED.match(row)
            indent = " " * (stamp.end() if stamp else 0)
            out.append(f"{row} ({_before(row, lines[-1][0])}{lines[0][1]})")
            out += [f"{indent}    (inlined by) {function} ({where})" for function, where in lines[1:]]
        return "\n".join(out)

    def _place(self, row: str) -> tuple[str, tuple[str, int]] | None:
        match = ANY_FRAME.search(row)
        if not match:
            return None
        module = (match["module"] or "").replace("-", "_")
        known = self._object(module)
        offset, size = int(match["offset"], 16), int(match["size"], 16)
        place = known.find(match["name"], offset, size) if known else None
        if not place:
            return None
        message = row[len(_STAMPED.match(row)[0]) :]  # type: ignore[index] # the pattern matches the empty string
        returned = FRAME.match(message) if offset == 0 else not message.startswith("WARNING:")
        exact = not returned or PROGRAM_COUNTER.match(message) or place[1] == 0
        return module, place if exact else (place[0], place[1] - 1)

    def _object(self, module: str) -> _Object | None:
        if module not in self._objects:
            path = self._module_file(module) if module else self._vmlinux
            self._objects[module] = None  # not tried again where it fails
            if path and path.is_file():
                self._objects[module] = _read_object(path, relocatable=bool(module))
            if (known := self._objects[module]) is None or not known.has_lines:
                self._objects[module] = None
                self.note = self.note or f"no debug information for {module or 'vmlinux'}"
        return self._objects[module]

    def _module_file(self, module: str) -> Path | None:
        if self._modules_dir is None:
            return None
        if self._module_files is None:
            self._module_files = {path.stem.replace("-", "_"): path for path in self._modules_dir.rglob("*.ko")}
        return self._module_files.get(module)

    def _look_up(self, module: str, places: Iterable[tuple[str, int]]) -> None:
        known = self._object(module)
        if known is None:
            return
        if not self._prefix and self._vmlinux:
            self._find_prefix()
        by_section: dict[str, list[int]] = defaultdict(list)
        for section, address in places:
            if (section, address) not in known.lines:
                by_section[section].append(address)
        for section, addresses in by_section.items():
            answers = _addr2line(known.path, section, sorted(addresses))
            for address, lines in answers.items():
                known.lines[section, address] = [(function, self._short(where)) for function, where in lines]

    def _find_prefix(self) -> None:
        """Take the tree's place from the file that has kernel_init, as scripts/decode_stacktrace.sh does."""
        kernel = self._object("")
        self._prefix = "/dev/null"  # looked for once
        for section, start in kernel.names.get("kernel_init", ()) if kernel else ():
            assert kernel
            for _, where in _addr2line(kernel.path, section, [start]).get(start, ()):
                tree, found, _ = _normal(where).partition("/init/main.c:")
                if found:
                    self._prefix = tree

    def _short(self, where: str) -> str:
        return _normal(where).removeprefix(self._prefix + "/")


def _before(row: str, function: str) -> str:
    """Name the function to which a return address at another one's start belongs: its last call does not return."""
    match = ANY_FRAME.search(row)
    return f"{function} at " if match and int(match["offset"], 16) == 0 and match["name"] != function else ""


def _normal(where: str) -> str:
    """Return addr2line's `file:line (discriminator 3)` without `..` and discriminator."""
    path, _, line = where.partition(" (")[0].rpartition(":")
    while path.startswith("../"):  # a build below its tree (O=tree/obj) with relative names
        path = path[3:]
    return f"{posixpath.normpath(path)}:{line}"


def _read_object(path: Path, *, relocatable: bool) -> _Object:
    """Read sections and functions; a module's addresses count from their section's start."""
    known = _Object(path)
    sections: dict[str, str] = {}
    with tempfile.TemporaryFile() as table:
        words: list[str | Path] = ["readelf", "--section-headers", "--symbols", "--wide", path]
        tool(path).run(words, timeout_s=TIMEOUT_S, stdout_to=table)
        table.seek(0)
        for raw in table:
            row = raw.decode("utf-8", "replace")
            if match := _SYMBOL.match(row):
                section = sections.get(match[2], "") if relocatable else ""
                start = int(match[1], 16)
                if match[3] != "$x" and (section or not relocatable):
                    known.names[match[3]].append((section, start))
                    known.starts[section].append(start)
            elif match := _SECTION.match(row):
                known.has_lines |= match[2] in {".debug_line", ".zdebug_line"}
                sections[match[1]] = match[2]
                if relocatable:
                    known.ends[match[2]] = int(match[3], 16)
    for starts in known.starts.values():
        starts.sort()
    return known


def _addr2line(path: Path, section: str, addresses: list[int]) -> dict[int, list[Line]]:
    """Ask once for all addresses; those that the debug information does not cover are left out."""
    program = reads("addr2line", path)
    argv: list[str | Path] = [program, "-a", "-f", "-i", "-e", path, *(["-j", section] if section else [])]
    feed = "".join(f"{address:#x}\n" for address in addresses).encode()
    result = tool(path).run(argv, timeout_s=TIMEOUT_S, input_bytes=feed)
    found: dict[int, list[Line]] = {}
    parts = _GROUP.split(result.stdout)[1:]
    for address, answer in zip(parts[::2], parts[1::2], strict=True):
        rows = answer.splitlines()
        lines = [(f, where) for f, where in zip(rows[::2], rows[1::2], strict=False) if not where.startswith("??")]
        if lines:
            found[int(address, 16)] = lines
    return found
