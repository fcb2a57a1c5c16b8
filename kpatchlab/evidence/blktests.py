"""blktests' own results -> suites: its folder `results`, or what `./check` printed.

`./check` ends with status 0 for a test that it does not know, and leaves old results where they are. A test that
exits or is killed leaves no result, only the files beside it.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

from kpatchlab.errors import LabWarning, UserError
from kpatchlab.evidence.suite import DETAILS_CHARS, Suite, apart, case_of, seconds
from kpatchlab.model import Case, Outcome
from kpatchlab.textclean import one_line, printable

_FILE = re.compile(r"(\d{3})(?:\.(full|out|out\.bad|dmesg|runtime))?")
_HEAD = re.compile(
    r"(?P<test>[\w.-]+/(?:\d{3}|\*\*\*))(?P<dev> => \S+)?(?P<cond> \([^()\s]+=[^()]*\))?(?: +\(.*\))?"
    r"(?: *\[(?P<status>passed|failed|not run)\])?$"
)
LINE_CHARS = 1000
_OUTCOMES = {"pass": Outcome.PASS, "passed": Outcome.PASS, "not run": Outcome.SKIP}
_WHY = {"output": "other output than expected", "dmesg": "something in dmesg"}
_LOST = "it left no result: it exited, was killed, or the guest died"
_OLD = timedelta(days=1)
"""No test takes so long; results further apart are of two runs."""


def read_folder(folder: Path) -> list[Suite]:
    """Return a suite for each device (or `nodev`) with its condition below `results`.

    Warns with a `LabWarning` where results of another run lie beside the last ones.

    Args:
        folder: `results`, a folder in it, or blktests' own.

    Raises:
        UserError: something in it cannot be read.
    """
    found: dict[str, list[Case]] = {}
    dates: dict[str, list[datetime]] = {}
    for place, numbers in _groups(folder / "results" if (folder / "results").is_dir() else folder):
        device = one_line(place.parent.name)
        for number, suffixes in sorted(numbers.items()):
            keys = _keys(place / number) if "" in suffixes else None
            found.setdefault(device, []).append(_case(place, number, keys))
            dates.setdefault(device, []).extend(_date(keys or {}))
    _warn_of_old([date for every in dates.values() for date in every], folder)
    return [
        Suite(device, apart(cases), str(min(dates[device], default="")), sum(case.duration_s for case in cases))
        for device, cases in found.items()
    ]


def _groups(folder: Path) -> Iterator[tuple[Path, dict[str, set[str]]]]:
    """Yield the folders of groups, with the suffixes of each test's files; "" is the result itself."""
    for name, below, files in os.walk(folder.resolve(), onerror=_refuse):
        below[:] = sorted(entry for entry in below if not entry.startswith("tmpdir."))
        numbers: dict[str, set[str]] = {}
        for match in filter(None, map(_FILE.fullmatch, files)):
            if os.path.isfile(f"{name}/{match[0]}"):
                numbers.setdefault(match[1], set()).add(match[2] or "")
        if numbers:
            yield Path(name), numbers


def _refuse(error: OSError) -> None:
    raise UserError(f"cannot read {error.filename}: {error.strerror}") from None


def _text(path: Path) -> str:
    """Return the head of a file, "" where there is none."""
    try:
        with path.open("rb") as file:
            return printable(file.read(DETAILS_CHARS))
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None


def _keys(path: Path) -> dict[str, str]:
    return {key.strip(): value.strip() for key, _, value in (line.partition("\t") for line in _text(path).split("\n"))}


def _date(keys: dict[str, str]) -> list[datetime]:
    try:
        return [datetime.strptime(keys.get("date", ""), "%Y-%m-%d %H:%M:%S")]  # noqa: DTZ007 - of the host's zone
    except ValueError:
        return []


def _warn_of_old(dates: list[datetime], folder: Path) -> None:
    dates = sorted(dates)
    if any(later - earlier > _OLD for earlier, later in pairwise(dates)):
        text = (
            f"{folder} has results of {dates[0]:%Y-%m-%d} and of {dates[-1]:%Y-%m-%d}: blktests leaves old ones there"
        )
        warnings.warn(text, LabWarning, stacklevel=3)


def _case(place: Path, number: str, keys: dict[str, str] | None) -> Case:
    name, took = f"{place.name}/{number}", 0.0
    outcome, message = Outcome.FAIL, _LOST
    if keys is not None:
        took = seconds(keys.get("runtime"))
        outcome, message = _judge(keys)
    endings = (".out.bad", ".out", ".dmesg", ".full") if outcome is Outcome.FAIL else ()
    parts = ((ending, _text(place / f"{number}{ending}")) for ending in endings)
    details = "\n".join(f"{ending[1:]}:\n{text}" for ending, text in parts if text)
    return case_of(name, outcome, message, details, took)


def _judge(keys: dict[str, str]) -> tuple[Outcome, str]:
    status, reason, left = keys.get("status", ""), keys.get("reason", ""), keys.get("exit_status", "0")
    outcome = _OUTCOMES.get(status, Outcome.FAIL)
    if outcome is Outcome.PASS and left != "0":
        return Outcome.FAIL, f"passed, but exited with status {left}"
    if outcome is not Outcome.FAIL:
        return outcome, reason
    if not status:
        return outcome, "its result has no status"
    return outcome, {**_WHY, "exit": f"exited with status {left}"}.get(reason, reason or status)


def read_text(data: bytes, name: str) -> list[Suite]:
    """Return what `./check` printed as one suite; a test that was begun and has no status did not end.

    Raises:
        UserError: there is no result in it.
    """
    found: list[tuple[str, str, list[str]]] = []
    for line in printable(data).split("\n"):
        if head := _HEAD.fullmatch(line[:LINE_CHARS].rstrip()):
            test = f"{head['test']}{head['dev'] or ''}{head['cond'] or ''}"
            if head["status"] and found and found[-1][:2] == (test, ""):
                found.pop()  # it was announced, and this is how it ended
            found.append((test, head["status"] or "", []))
        elif found and line.strip():
            found[-1][2].append(line.strip())
    cases = [_printed(*test) for test in found]
    if not cases:
        raise UserError(f"{name} has no result of blktests", hint="the folder `results`, or what `./check` printed")
    return [Suite(one_line(name), apart(cases), "", sum(case.duration_s for case in cases))]


def _printed(test: str, status: str, lines: list[str]) -> Case:
    times = [line.split() for line in lines if line.startswith("runtime")]
    took = seconds(times[-1][-1]) if times and times[-1][-1] != "..." else 0.0
    lines = [line for line in lines if not line.startswith("runtime")]
    outcome, message = _OUTCOMES.get(status, Outcome.FAIL), next(iter(lines), "")
    if outcome is Outcome.FAIL and not status:
        message = _LOST
    elif message.startswith("--- "):
        message = _WHY["output"]
    return case_of(test, outcome, "" if outcome is Outcome.PASS else message, "\n".join(lines), took)
