"""Runs of a pretended lab whose process is killed: what is lost, what is left, and whether going on completes them."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path

PRETENDED = Path(__file__).with_name("pretend_lab.py")
LEFT_S = 10.0
"""How long what a killed lab has started may take to end: its guard asks, and kills what does not."""


@dataclass(frozen=True, slots=True)
class Kill:
    """What came of one kill.

    Attributes:
        stored: finished jobs that were stored when it came.
        lost: those of them that are gone or other ones after the run went on.
        left: processes of the lab that did not end.
        complete: the run that went on is whole, and so is its place in the history.
        said: what went wrong where it is not, for people.
    """

    stored: int
    lost: int
    left: int
    complete: bool
    said: str = ""


def start(root: Path, *words: str) -> subprocess.Popen[str]:
    """Start the program in the lab at `root`."""
    return subprocess.Popen(
        [sys.executable, str(PRETENDED), str(root), *words],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def killed(root: Path, after_s: float, *, stored: int = 0) -> Kill:
    """Start a run, kill its process (SIGKILL), and go on with it.

    Args:
        after_s: how long it lives, in seconds; with `stored`, at the most.
        stored: how many of its jobs are to be stored when it is killed.
    """
    results = root / "lab/results"
    before = {path.name for path in results.glob("2*")}
    child, until = start(root, "run"), time.monotonic() + after_s
    while child.poll() is None and time.monotonic() < until and not 0 < stored <= len(_jobs(results, before)):
        time.sleep(0.02)
    child.kill()
    child.communicate()
    left = _left(child.pid)
    new = [path for path in results.glob("2*") if path.name not in before and (path / "run.json").exists()]
    jobs = {path: path.read_bytes() for path in _jobs(results, before)}
    planned = bool(new and (new[0] / "plan.json").exists())
    again = start(root, "run", *(["--resume", new[0].name] if planned else []))
    _, err = again.communicate(timeout=120)
    name = new[0].name if planned else max(path.name for path in results.glob("2*"))
    lost = sum(not path.exists() or path.read_bytes() != data for path, data in jobs.items())
    complete = again.returncode == 0 and json.loads((results / name / "run.json").read_bytes())["complete"]
    return Kill(len(jobs), lost, left, complete and _entered(results, name), err[-2000:])


def _jobs(results: Path, before: Container[str]) -> list[Path]:
    """Return the stored jobs of runs that were not there before."""
    return [path for path in results.glob("2*/jobs/[!.]*.json") if path.parents[1].name not in before]


def _entered(results: Path, name: str) -> bool:
    with sqlite3.connect(results / "index.db") as index:
        return index.execute("SELECT complete FROM entries WHERE run = ?", (name,)).fetchall() == [(1,)]


def _left(pid: int) -> int:
    """Count the processes that carry the mark of a lab with this process number, once they had the time to end."""
    mark, end = f"KPATCHLAB_OWNER={pid}-".encode(), time.monotonic() + LEFT_S
    while (found := _marked(mark)) and time.monotonic() < end:
        time.sleep(0.05)
    for left in found:
        os.kill(left, signal.SIGKILL)
    return len(found)


def _marked(mark: bytes) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            text = (folder / "environ").read_bytes() + b"\0" + (folder / "cmdline").read_bytes()
            state = (folder / "stat").read_bytes().rsplit(b")", 1)[1].split()[0]
        except OSError:
            continue
        if mark in text and state != b"Z":
            found.append(int(folder.name))
    return found
