"""What is of strangers and cannot be bounded from outside, done by a process that is: in seconds, memory and output.

A template of jinja2 is a program: it can loop for ever, and make much of little. It is rendered in jinja2's sandbox, so
that it reaches nothing of Python, and in a process of its own. Python's own compiler takes its time and its stack with
hostile text, too. Nothing of a scenario is run.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

CHILD = Path(__file__).with_name("bounded_child.py")
_WAIT_S = 30.0
"""Seconds of wall time for all tasks of one process, each of which has its own of a processor's."""
_ALL_S = 2.0
"""Seconds of a processor for all tasks together; each process that did not get over one leaves the next half of it."""
_LOST = 5
"""Tasks that may end their process; what comes behind them is not looked at."""


@dataclass(frozen=True, slots=True)
class Task:
    """What is to be done with one file.

    Attributes:
        kind: "render" a template, or "compile" a Python script, without running it.
        folders: where a template and those that it includes are.
        name: the template's in the first of them; for messages, a script's.
        text: of a script.
    """

    kind: str
    name: str
    folders: tuple[str, ...] = ()
    params: Mapping[str, str] = field(default_factory=dict)
    text: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a task: `error` is "" where nothing is wrong; `path` and `line` say where, "" and 0: not known."""

    text: str = ""
    error: str = ""
    path: str = ""
    line: int = 0


def work_off(tasks: Sequence[Task]) -> list[Answer]:
    """Return what became of each task, in their order; one that ends its process is told, and the others go on."""
    found: list[Answer] = []
    for lost in range(_LOST):
        if len(found) == len(tasks):
            return found
        got, why = _child(tasks[len(found) :], _ALL_S / 2**lost)
        found += got
        if len(found) < len(tasks):
            found.append(Answer(error=why))
    return found + [Answer(error="not looked at, since others before it did not end")] * (len(tasks) - len(found))


def _child(tasks: Sequence[Task], all_s: float) -> tuple[list[Answer], str]:
    """Return the answers of one process, and what to say of the task that it did not get over.

    Args:
        all_s: seconds of a processor for all tasks together.
    """
    import tempfile

    from kpatchlab import proc
    from kpatchlab.lab import bounded_child as limits

    with tempfile.TemporaryFile() as output:
        done = proc.run(
            [sys.executable, "-I", CHILD],
            input_bytes=json.dumps([all_s, *map(asdict, tasks)]).encode("utf-8", "surrogatepass"),
            timeout_s=_WAIT_S, check=False, stdout_to=output,
        )  # fmt: skip
        output.seek(0)
        lines = output.read().split(b"\n")[:-1]  # the last one is not whole, or empty
    end = f"did not end within {limits.TIME_S:g} s of processor time"
    if done.status == limits.NO_MEMORY:
        end = f"takes more than {limits.MEMORY_MIB} MiB of memory, or makes more than {limits.OUTPUT_MIB} MiB of text"
    elif done.status == limits.LATE:
        end = f"not looked at, since those before it took {all_s:g} s of processor time"
    elif not done.timed_out and done.status != -limits.TIME_SIGNAL:
        end = f"breaks what reads it (status {done.status})"
    return [Answer(**json.loads(line)) for line in lines], end


def path_of(answer: Answer, fallback: Path) -> Path:
    """Return the file that an answer blames."""
    return Path(answer.path) if answer.path else fallback
