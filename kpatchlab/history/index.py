"""The index of runs: one row a run, made of its folder, for lists that must not read every folder."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from typing import Any

from kpatchlab.model import Run
from kpatchlab.verdict.values import Comparison


@dataclass(frozen=True, slots=True)
class RunRow:
    """One line of the list of runs; `problem` says why a run cannot be read, the counts are empty then."""

    id: str
    title: str
    started: str
    duration_s: float
    complete: bool
    outcomes: dict[str, int]
    verdicts: dict[str, int]
    kernels: tuple[str, ...]
    exit_code: int
    problem: str = ""


def summary(run: Run, comparison: Comparison) -> RunRow:
    """Return the row of a run and what it says of its columns."""
    return RunRow(
        run.id,
        run.title,
        run.started,
        run.duration_s,
        run.complete,
        {str(k): v for k, v in comparison.outcomes.items()},
        {str(k): v for k, v in comparison.verdicts.items()},
        tuple(k.name for k in run.kernels),
        comparison.exit_code,
    )


def insert_row(index: sqlite3.Connection, row: RunRow) -> None:
    """Store a row; one of the same run is replaced."""
    packed = [json.dumps(value) for value in (row.outcomes, row.verdicts, row.kernels)]
    values = (row.id, row.title, row.started, row.duration_s, row.complete, *packed, row.exit_code, row.problem)
    index.execute("INSERT OR REPLACE INTO runs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", values)


def read_row(row: tuple[Any, ...]) -> RunRow:
    """Read a stored row back."""
    name, title, started, duration_s, complete, outcomes, verdicts, kernels, exit_code, problem = row
    counts = json.loads(outcomes), json.loads(verdicts)
    return RunRow(
        name, title, started, duration_s, bool(complete), *counts, tuple(json.loads(kernels)), exit_code, problem
    )
