"""A night's searches for what broke it: a process each, within their time; a killed night's are gone on with."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from kpatchlab import proc
from kpatchlab.bisect.drive import REPORT
from kpatchlab.bisect.state import Searches
from kpatchlab.errors import HostError, LabError, UserError
from kpatchlab.progress import clock

FOUND = ("culprit: ", "one of ", "refused: ")
"""How the line of a search's report begins that says what it came to, see `bisect.report`."""
PROGRAM = (sys.executable, "-m", "kpatchlab")


def bisect_by(results: Path, command: str, seconds: float, night: str) -> str:
    """Run a command line of `bisect` (its words after the program's name), and return what it came to, in one line.

    Args:
        night: id of the night that asks: a search for the same that it began before it was killed is gone on with,
            and one that is at its end is not begun again.

    Raises:
        HostError: it did not end in time.
        UserError: it could not be done.
    """
    words = shlex.split(command)[1:]
    if begun := _begun(results, words, night):
        words = [*words[: words.index("bisect") + 1], "--resume", begun]
        report = results / "bisect" / begun / REPORT
        if report.exists() and (found := _found(report.read_text("utf-8", "replace"))):
            return found
    result = proc.run([*PROGRAM, *words], timeout_s=seconds, check=False)
    if result.timed_out:
        raise HostError(f"not found within {clock(seconds)}; it can go on: kpatchlab bisect --resume last")
    if found := _found(result.stdout):
        return found
    said = result.stderr.strip().splitlines() or ["it said nothing"]
    raise UserError(next((line for line in said if line.startswith("kpatchlab: ")), said[-1]))


def _found(text: str) -> str:
    return next((line for line in text.splitlines() if line.startswith(FOUND)), "")


def _begun(results: Path, words: list[str], night: str) -> str:
    """Return the last search for what `words` ask that began in a night, "" where there is none."""
    searches = Searches(results)
    for name in reversed(searches.ids()):
        if name < night:  # both begin with when they were made
            break
        try:
            state, _ = searches.open(name)
        except LabError:  # of a newer version, or damaged: another one takes its place
            continue
        if shlex.split(state.question.command)[1:] == words:
            return name
    return ""
