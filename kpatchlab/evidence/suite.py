"""What other tools' results become: suites of cases."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from kpatchlab.model import Case, Outcome
from kpatchlab.textclean import one_line, printable

MESSAGE_CHARS = 1000
DETAILS_CHARS = 64 << 10
LONGEST_S = 1e9
"""More than any test took (31 years): what claims more claims nothing."""
_SECONDS = re.compile(r"\s*(\d{1,12}|\d{1,3}(?:,\d{3}){1,4})(?:[.,](\d{0,12}))?\s*(ms|us|ns|s|sec|seconds|m|min|h)?\s*")
_UNIT_S = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "m": 60.0, "min": 60.0, "h": 3600.0}


@dataclass(frozen=True, slots=True)
class Suite:
    """Cases that belong together; `began` in ISO 8601, "" where nothing says so."""

    name: str
    cases: tuple[Case, ...]
    began: str = ""
    seconds: float = 0.0


def case_of(name: str, outcome: Outcome, message: str = "", details: str = "", duration_s: float = 0.0) -> Case:
    """Return a case of what another tool said, which may be anything: cleaned and bounded."""
    return Case(
        one_line(name) or "(no name)",
        outcome,
        one_line(message, MESSAGE_CHARS),
        printable(details[-DETAILS_CHARS:]),
        duration_s,
    )


def problem(text: str) -> Case:
    """Return a case that fails because the report itself is at fault."""
    return case_of(f"report: {text}", Outcome.FAIL, text)


def apart(cases: Iterable[Case]) -> tuple[Case, ...]:
    """Return cases, the second of one name with " (2)" behind it, so that names are keys."""
    every = list(cases)
    taken = {case.name for case in every}
    count: dict[str, int] = {}
    found = []
    for case in every:
        count[case.name] = count.get(case.name, 0) + 1
        name = case.name
        while count[case.name] > 1 and (name := f"{case.name} ({count[case.name]})") in taken:
            count[case.name] += 1
        taken.add(name)
        found.append(replace(case, name=name))
    return tuple(found)


def seconds(text: object) -> float:
    """Return what a tool calls a time: seconds, with a unit ("3s", "250 ms") or thousands ("1,234.5"); else 0.0."""
    if isinstance(text, int | float) and not isinstance(text, bool):
        return float(text) if math.isfinite(text) and 0 <= text <= LONGEST_S else 0.0
    match = _SECONDS.fullmatch(text) if isinstance(text, str) else None
    if not match:
        return 0.0
    value = float(f"{match[1].replace(',', '')}.{match[2] or 0}") * _UNIT_S.get(match[3] or "s", 1.0)
    return value if value <= LONGEST_S else 0.0
