"""Coverage of a series for people and for other tools: a table, the lines that nothing ran, LCOV and Cobertura."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath
from xml.etree import ElementTree as ET

from kpatchlab.report.common import line
from kpatchlab.textclean import printable
from kpatchlab.variants.coverage import Coverage, Share, share, why_no_code

BY = 3
"""So many scenarios are named for a hunk: those that ran most of it."""


def lines(coverage: Coverage) -> Iterator[str]:
    """Yield the coverage of one series, a line at a time: the whole, each patch, each hunk, then what nothing ran."""
    patches = coverage.changes.patches
    whole = share(coverage, (hunk for patch in patches for hunk in patch.hunks))
    yield (
        f"{coverage.kernel}: {_told(whole)} of the changed lines with code ran, "
        f"in {len(coverage.scenarios)} scenario{'' if len(coverage.scenarios) == 1 else 's'}"
    )
    for name in coverage.lost:
        yield f"no counters of {name}: its guest did not live to give them"
    for patch in patches:
        yield ""
        yield f"patch {patch.number}  {_told(share(coverage, patch.hunks)):>16}  {line(patch.title, 80)}"
        for unread in patch.unread:
            yield f"    {line(unread)}: not looked at"
        for hunk in patch.hunks:
            found = share(coverage, [hunk])
            who = f"  {_who(found)}" if found.by else ""
            what = _told(found) if found.code else why_no_code(coverage, hunk)
            yield f"    {what:>16}  {hunk.file} hunk {hunk.number}{who}"
    if whole.missed:
        yield ""
        yield f"{len(whole.missed)} changed lines that no scenario ran:"
        yield from (f"  {file}:{number}: {printable(text).strip()}" for file, number, text in sorted(whole.missed))


def _told(found: Share) -> str:
    return f"{found.ran}/{found.code} ({100 * found.ran // found.code} %)" if found.code else "no code"


def _who(found: Share) -> str:
    named = [name if count == found.code else f"{name} {count}" for name, count in list(found.by.items())[:BY]]
    more = len(found.by) - len(named)
    return ", ".join(named) + (f" and {more} more" if more > 0 else "")


def lcov(every: Sequence[Coverage]) -> bytes:
    """Return a tracefile for lcov and genhtml (geninfo(1)): a section for each scenario and file, as TN names them.

    All lines of the files that were looked at are in it, not those alone that changed.
    """
    out = []
    for coverage in every:
        for scenario in coverage.scenarios:
            for file, code in coverage.code.items():
                ran = coverage.ran.get(file, {}).get(scenario, {})
                # A test's name is letters, digits and underscores there.
                out += [f"TN:{''.join(c if c.isalnum() else '_' for c in scenario)}", f"SF:{file}"]
                out += [f"DA:{number},{ran.get(number, 0)}" for number in code]
                out += [f"LF:{len(code)}", f"LH:{sum(1 for number in code if ran.get(number))}", "end_of_record"]
    return ("\n".join(out) + "\n").encode() if out else b""


def cobertura(every: Sequence[Coverage], timestamp: int) -> bytes:
    """Return Cobertura's XML (coverage-04.dtd), all scenarios together: a package for a folder, a class for a file.

    Args:
        timestamp: seconds since 1970, when the counters were taken.
    """
    files: dict[str, dict[int, int]] = {}
    for coverage in every:
        for file, code in coverage.code.items():
            hits = files.setdefault(file, {})
            for number in code:
                hits[number] = hits.get(number, 0) + sum(r.get(number, 0) for r in coverage.ran.get(file, {}).values())
    root = ET.Element("coverage", _rates([h for hits in files.values() for h in hits.values()]))
    root.attrib |= {"complexity": "0", "timestamp": str(timestamp), "version": "kpatchlab"}
    ET.SubElement(ET.SubElement(root, "sources"), "source").text = "."
    packages = ET.SubElement(root, "packages")
    folders: dict[str, list[str]] = {}
    for file in sorted(files):
        folders.setdefault(str(PurePosixPath(file).parent), []).append(file)
    for folder, names in folders.items():
        hits_here = [h for name in names for h in files[name].values()]
        package = ET.SubElement(packages, "package", {"name": folder.replace("/", "."), **_some(hits_here)})
        classes = ET.SubElement(package, "classes")
        for name in names:
            given = {"name": PurePosixPath(name).name, "filename": name, **_some(files[name].values())}
            found = ET.SubElement(classes, "class", given)
            ET.SubElement(found, "methods")
            rows = ET.SubElement(found, "lines")
            for number, ran in sorted(files[name].items()):
                ET.SubElement(rows, "line", {"number": str(number), "hits": str(ran), "branch": "false"})
    ET.indent(root)
    head = '<?xml version="1.0" encoding="UTF-8"?>\n'
    head += '<!DOCTYPE coverage SYSTEM "http://cobertura.sourceforge.net/xml/coverage-04.dtd">\n'
    return f"{head}{ET.tostring(root, encoding='unicode')}\n".encode()


def _rates(hits: Sequence[int]) -> dict[str, str]:
    covered = sum(1 for h in hits if h)
    counts = {"lines-covered": str(covered), "lines-valid": str(len(hits))}
    return {**_some(hits, branches=False), **counts, "branches-covered": "0", "branches-valid": "0", "branch-rate": "0"}


def _some(hits: Iterable[int], *, branches: bool = True) -> dict[str, str]:
    every = list(hits)
    rate = sum(1 for h in every if h) / len(every) if every else 0.0
    return {"line-rate": f"{rate:.4f}"} | ({"branch-rate": "0", "complexity": "0"} if branches else {})
