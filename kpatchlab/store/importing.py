"""Results of other tools into the store: they become runs, which reports and the history read as any."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from kpatchlab import __version__
from kpatchlab.errors import UserError
from kpatchlab.evidence import blktests, printed
from kpatchlab.evidence.ktap import parse
from kpatchlab.evidence.suite import Suite, apart, problem
from kpatchlab.files import read_input
from kpatchlab.history.record import Origin
from kpatchlab.model import JobResult, KernelFacts, Outcome, Run, job_case
from kpatchlab.store.run_plan import RunKind, RunPlan
from kpatchlab.store.store import Store
from kpatchlab.textclean import one_line
from kpatchlab.verdict.compare import compare
from kpatchlab.verdict.values import worst

LIMIT_BYTES = 256 << 20


def ktap(data: bytes, name: str) -> list[Suite]:
    """Read KTAP (or TAP 13): one suite, whatever number of reports; what is wrong with them is a case that fails.

    Raises:
        UserError: there is no result in it.
    """
    parsed = parse(data, exit_status=None)
    if not parsed.cases:
        raise UserError(f"{name} has no KTAP result", hint="lines of `ok` and `not ok` are what it is about")
    return [Suite(one_line(name), apart((*parsed.cases, *map(problem, parsed.problems))))]


READERS: dict[str, Callable[[bytes, str], list[Suite]]] = {
    "ktap": ktap,
    **{str(form): reader for form, reader in printed.READERS.items()},
}
"""Format -> (bytes, name of what has no name) -> suites."""
FOLDERS: dict[str, Callable[[Path], list[Suite]]] = {"blktests": blktests.read_folder}
"""Format -> folder -> suites."""


def import_file(store: Store, form: str, path: Path, *, column: str, lane: str) -> Run:
    """Store a file's results, or a folder's, as one run.

    Args:
        form: of `READERS`.
        column: the kernel that they are about.
        lane: what they are compared with from run to run.

    Raises:
        UserError: it cannot be read, or holds nothing of the kind.
        HostError: the store cannot be written.
    """
    suites = [suite for suite in _read(form, path) if suite.cases]
    if not suites:
        raise UserError(f"{path} has no results in it")
    jobs = tuple(_job(number, suite, column) for number, suite in enumerate(suites, 1))
    stamps = [stamp for stamp in map(_stamp, (suite.began for suite in suites)) if stamp]
    run_dir = store.new_run(
        f"{lane}: {path.name}", base=column, columns=(column,), kernels=(KernelFacts(column, "base"),),
        command=f"kpatchlab import {form} {path.name}", version=__version__,
    )  # fmt: skip
    run_dir.save_plan(RunPlan(kind=RunKind.IMPORT, origin=Origin(lane=lane)))
    run = dataclasses.replace(
        run_dir.header,
        started=min(stamps, default=run_dir.header.started),
        duration_s=sum(suite.seconds for suite in suites),
        complete=True,
        jobs=jobs,
    )
    run_dir.finish(run, compare(run))
    return run


def _read(form: str, path: Path) -> list[Suite]:
    try:
        if path.is_dir():
            if form not in FOLDERS:
                raise UserError(f"{path} is a folder", hint=f"the format {form} is a file")
            return FOLDERS[form](path)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    try:
        data = read_input(path, LIMIT_BYTES)
    except UserError as error:
        raise UserError(f"cannot read {error.message}") from None
    return READERS[form](data, path.stem)


def _job(number: int, suite: Suite, column: str) -> JobResult:
    outcomes = [case.outcome for case in suite.cases if case.outcome is not Outcome.SKIP]
    outcome = worst(outcomes) if outcomes else Outcome.SKIP
    first = next(
        (f"{case.name}: {case.message}" for case in suite.cases if case.outcome is outcome is not Outcome.PASS), ""
    )
    job = job_case(outcome, first)
    clean = re.sub(r"[\[\]]", "_", suite.name)
    return JobResult(
        job=f"{clean}@{column}#1.{number}",
        scenario=clean,
        params={},
        column=column,
        placement={"main": column},
        repeat=1,
        outcome=outcome,
        message=first,
        cases=(job, *suite.cases),
        started=suite.began,
        duration_s=suite.seconds,
        reported=True,
    )


def _stamp(text: str) -> str:
    try:
        found = datetime.fromisoformat(text)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError):  # the first and the last day of all have no hour in other zones
        return ""
