"""What runs of format 1 do not say of themselves: the kind of a check was in its name, its cause in a message.

Read once, where a stored run is opened; everything else asks the fields. In format 1 a check of a scenario whose name
began like one of the lab's own counted as the lab's. So it does here: verdicts of old runs stay as they were.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from kpatchlab.jsonable import from_json
from kpatchlab.model import Case, CaseKind, JobResult, Outcome

_NAMES = (
    (CaseKind.JOB, r"job"),
    (CaseKind.PREPARATION, r"log: preparation of .*"),
    (CaseKind.LOG, r"log: ?(?P<role>.*)"),
    (CaseKind.REACH, r"reach: ?(?P<function>.*?)(?: \((?P<role>[^()]*)\))?"),
    (CaseKind.LEAKS, r"leaks: (?P<role>.*)"),
)


def job_result(data: Any) -> JobResult:
    """Read a job's result as any format has it.

    Raises:
        TypeError, ValueError, KeyError, AttributeError: it is none.
    """
    job = from_json(JobResult, data)
    return job if "because" in data else with_kinds(job)


def with_kinds(job: JobResult) -> JobResult:
    """Return a job of format 1 with the kinds of its checks and what made it fail."""
    cases = tuple(map(_with_kind, job.cases))
    own = next((case.message for case in cases if case.kind is CaseKind.JOB), "")
    because = tuple(dict.fromkeys(case.id for case in cases if _made_it_fail(case, job.outcome, own or job.message)))
    return dataclasses.replace(job, cases=cases, because=because)


def kind_of(name: str) -> CaseKind:
    """Return the kind of a check that had this name in format 1."""
    return _read(name)[0]


def _with_kind(case: Case) -> Case:
    kind, words = _read(case.name)
    applies = not (kind is CaseKind.REACH and case.outcome is Outcome.SKIP and "condition:" in case.message)
    role, function = words.get("role") or "", words.get("function") or ""
    return dataclasses.replace(case, kind=kind, role=role, function=function, applies=applies)


def _read(name: str) -> tuple[CaseKind, dict[str, str | None]]:
    for kind, pattern in _NAMES:
        if match := re.fullmatch(pattern, name, re.DOTALL):
            return kind, match.groupdict()
    return CaseKind.CHECK, {}


def _made_it_fail(case: Case, outcome: Outcome, message: str) -> bool:
    if case.kind.is_log:
        return case.outcome is outcome is Outcome.CRASH
    told = message.startswith((f"{case.name}:", f"{case.name} failed"))
    return told and case.outcome.is_bad and case.kind is not CaseKind.JOB
