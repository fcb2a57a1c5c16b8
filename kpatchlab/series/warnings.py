"""What compilers and checkers print -> findings, and which of them a patch brings. Pure.

A finding is the same before and after a patch if file, function and text are: lines move, and numbers in the text
(sizes of stack frames, subscripts) change with code that has nothing to do with it. How many files an incremental
build happened to compile plays no part: two sets of outputs are compared, of the same objects.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

from kpatchlab.build.objects import inside_tree
from kpatchlab.series.values import Finding

_SAID = re.compile(
    r"^(?P<file>[^\s:][^:\n]*):(?P<line>\d{1,9})(?::\d+)?(?:-\d+)?: "
    r"(?:(?P<kind>warning|error|fatal error|WARNING|ERROR|CHECK): ?)?(?P<text>\S.*)$"
)
# A function that was inlined has no file before it, and its callers after it.
_INSIDE = re.compile(r"^(?:\S[^:]*: )?In (?:member )?function [\u2018'`](?P<name>[^\u2019'`]+)[\u2019'`][:,]$")
_TOP = re.compile(r"^\S[^:]*: At top level:$")
_NUMBER = re.compile(r"\b(?:0x[0-9a-fA-F]+|\d+)\b")

Key = tuple[str, str, str, str]


def parse(output: str, *, plain: bool = False) -> list[Finding]:
    r"""Return the findings in a checker's output, in its order; notes and quoted source lines are left out.

    Args:
        plain: take lines without the word "warning" too, as semantic patches print them.

    >>> [str(f) for f in parse("../a/b.c: In function 'f':\n../a/b.c:7:5: warning: unused variable 'x'")]
    ["a/b.c:7: warning: unused variable 'x'"]
    """
    found: list[Finding] = []
    inside = ""
    for line in output.splitlines():
        if match := _INSIDE.match(line):
            inside = match["name"]
        elif _TOP.match(line):
            inside = ""
        elif (match := _SAID.match(line)) and (match["kind"] or plain):
            kind = (match["kind"] or "warning").lower().removeprefix("fatal ")
            found.append(Finding(match["text"].strip(), inside_tree(match["file"]), int(match["line"]), kind, inside))
    return found


def key(finding: Finding) -> Key:
    """Return what makes two findings one."""
    return finding.file, finding.context, finding.severity, without_numbers(finding.text)


def without_numbers(text: str) -> str:
    """Return a text as it is compared: lines, sizes and subscripts in it come and go with other code."""
    return _NUMBER.sub("N", text)


def difference(
    before: Mapping[str, Iterable[Finding]],
    after: Mapping[str, Iterable[Finding]],
    files: Iterable[str],
    renamed: Mapping[str, str] | None = None,
) -> tuple[list[Finding], list[Finding]]:
    """Return what is new in `files`, and what is gone from them.

    A header's warning shows in every object that includes it; it counts as often as in the object that has it most.

    Args:
        before, after: object -> what compiling it printed; objects that are in one of them alone are compared too.
        renamed: new name -> old name of files that the patch moves.
    """
    back = {old: new for new, old in (renamed or {}).items()}
    wanted = set(files)
    counts = [_most(outputs, wanted, back) for outputs in (before, after)]
    new = counts[1][0] - counts[0][0]
    gone = counts[0][0] - counts[1][0]
    return _some(new, counts[1][1]), _some(gone, counts[0][1])


def _most(
    outputs: Mapping[str, Iterable[Finding]], wanted: set[str], back: Mapping[str, str]
) -> tuple[Counter[Key], dict[Key, list[Finding]]]:
    most: Counter[Key] = Counter()
    places: dict[Key, list[Finding]] = {}
    for findings in outputs.values():
        here: dict[Key, list[Finding]] = {}
        for finding in findings:
            file, *rest = key(finding)
            file = back.get(file, file)
            if file in wanted:
                here.setdefault((file, *rest), []).append(finding)  # type: ignore[arg-type]
        for name, those in here.items():
            if len(those) > most[name]:
                most[name], places[name] = len(those), those
    return most, places


def _some(wanted: Counter[Key], places: Mapping[Key, list[Finding]]) -> list[Finding]:
    """Return as many findings as were counted: the last ones in their files, where the earlier stood before."""
    found = [finding for name, count in wanted.items() for finding in places[name][-count:]]
    return sorted(found, key=lambda finding: (finding.file, finding.line))
