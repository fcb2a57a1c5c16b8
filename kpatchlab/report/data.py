"""The run and its judgement as one JSON document, for other programs; consoles are named, not included."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

from kpatchlab.jsonable import to_json
from kpatchlab.model import SCHEMA_VERSION
from kpatchlab.report.view import View
from kpatchlab.verdict.faults import faults
from kpatchlab.verdict.values import Comparison


def render(view: View) -> bytes:
    """Return `{"schema", "run", "comparison"}`; `run` is what `jsonable.from_json` reads back."""
    run = view.run
    jobs = tuple(replace(job, guests=tuple(replace(g, console_tail="") for g in job.guests)) for job in run.jobs)
    document = {
        "schema": SCHEMA_VERSION,
        "run": to_json(replace(run, jobs=jobs)),
        "comparison": _comparison(view.comparison),
    }
    text = json.dumps(_finite(document), indent=1, ensure_ascii=False, default=str, allow_nan=False)
    return text.encode("utf-8", "replace") + b"\n"


def _finite(value: Any) -> Any:
    """Return the value with null for each figure that is no number: JSON knows no NaN."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _comparison(comparison: Comparison) -> dict[str, Any]:
    return {
        "headline": comparison.headline,
        "exit_code": comparison.exit_code,
        "same_base": comparison.same_base,
        "complete": comparison.complete,
        "base": comparison.base,
        "columns": list(comparison.columns),
        "verdicts": to_json(comparison.verdicts),
        "by_column": to_json(comparison.by_column),
        "outcomes": to_json(comparison.outcomes),
        "lost": list(comparison.lost),
        "builds": to_json(comparison.builds),
        "faults": [
            {
                "verdict": fault.first.cell.verdict,
                "title": fault.title,
                "end": fault.end,
                "checks": [
                    {"scenario": c.group.scenario, "params": c.group.params, "column": c.column, "case": c.row.case}
                    for c in fault.changes
                ],
            }
            for fault in faults(comparison)
        ],
        "rows": [
            {
                "scenario": g.scenario,
                "params": g.params,
                "kind": r.id.kind,
                "case": r.id.name,
                "cells": to_json(r.cells),
            }
            for g in comparison.groups
            for r in g.rows
        ],
    }
