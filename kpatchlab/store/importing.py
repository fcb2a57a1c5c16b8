"""Results of other tools into the store: JUnit XML and KTAP become runs, which reports and the history read as any."""

from __future__ import annotations

import dataclasses
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kpatchlab import __version__
from kpatchlab.errors import UserError
from kpatchlab.evidence.ktap import parse
from kpatchlab.history.record import Origin
from kpatchlab.model import Case, JobResult, KernelFacts, Outcome, Run, job_case
from kpatchlab.store.run_plan import RunKind, RunPlan
from kpatchlab.store.store import Store
from kpatchlab.textclean import one_line
from kpatchlab.verdict.compare import compare
from kpatchlab.verdict.values import worst

LIMIT_BYTES = 256 << 20
MESSAGE_CHARS = 1000
DETAILS_CHARS = 64 << 10

Suite = tuple[str, tuple[Case, ...], str, float]
"""Name, cases, when it began ("" where the file does not say), seconds."""


def junit(data: bytes, name: str) -> list[Suite]:
    """Read a JUnit file: a suite for each of its suites that has cases.

    Raises:
        UserError: it is no JUnit file.
    """
    import junitparser

    try:
        root: Any = ET.fromstring(data)  # noqa: S314 - expat bounds entities since 2.4.1
        whole: Any = junitparser.JUnitXml.fromroot(root)
    except (ET.ParseError, junitparser.JUnitXmlError) as error:
        raise UserError(f"{name} is no JUnit file: {error}") from None
    tops = [whole] if isinstance(whole, junitparser.TestSuite) else list(whole)
    return list(_suites(tops, name))


def _suites(suites: list[Any], default: str) -> Iterator[Suite]:
    import junitparser

    for suite in suites:
        found: dict[str, list[Case]] = {}
        for case in suite.iterchildren(junitparser.TestCase):  # plain iteration goes into inner suites as well
            found.setdefault(str(suite.name or case.classname or default), []).append(_case(case))
        for name, cases in found.items():
            yield one_line(name), _apart(cases), str(suite.timestamp or ""), float(suite.time or 0)
        yield from _suites(list(suite.testsuites()), default)


def _case(case: Any) -> Case:
    import junitparser

    outcome, message, details = Outcome.PASS, "", ""
    for result in case.result:
        kind = {
            junitparser.Failure: Outcome.FAIL,
            junitparser.Error: Outcome.INFRA if "infra" in str(result.type).lower() else Outcome.FAIL,
            junitparser.Skipped: Outcome.SKIP,
        }.get(type(result))
        if kind:
            outcome = worst([outcome, kind])
            message = message or one_line(str(result.message or ""))[:MESSAGE_CHARS]
            details = details or str(result.text or "")[:DETAILS_CHARS]
    prefix = f"{case.classname}." if case.classname else ""
    return Case(one_line(f"{prefix}{case.name}"), outcome, message, details, float(case.time or 0))


def _apart(cases: list[Case]) -> tuple[Case, ...]:
    """Number names that are there twice."""
    seen: dict[str, int] = {}
    found = []
    for case in cases:
        seen[case.name] = seen.get(case.name, 0) + 1
        again = seen[case.name]
        name = f"{case.name} ({again})" if again > 1 else case.name
        found.append(Case(name, case.outcome, case.message, case.details, case.duration_s))
    return tuple(found)


def ktap(data: bytes, name: str) -> list[Suite]:
    """Read KTAP (or TAP 13): one suite.

    Raises:
        UserError: there is no result in it.
    """
    parsed = parse(data, exit_status=None)
    if not parsed.cases:
        raise UserError(f"{name} has no KTAP result", hint="lines of `ok` and `not ok` are what it is about")
    cases = [Case(f"report: {problem}", Outcome.FAIL, problem) for problem in parsed.problems]
    return [(one_line(name), (*parsed.cases, *cases), "", 0.0)]


READERS: dict[str, Callable[[bytes, str], list[Suite]]] = {"junit": junit, "ktap": ktap}
"""Format -> (bytes, name of what has no name) -> suites."""


def import_file(store: Store, form: str, path: Path, *, column: str, lane: str) -> Run:
    """Store a file's results as one run.

    Args:
        column: the kernel that they are about.
        lane: what they are compared with from run to run.

    Raises:
        UserError: the file cannot be read, or holds nothing of the kind.
        HostError: the store cannot be written.
    """
    try:
        if path.stat().st_size > LIMIT_BYTES:
            raise UserError(f"{path} is larger than {LIMIT_BYTES >> 20} MiB")
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    suites = READERS[form](data, path.stem)
    if not any(cases for _, cases, _, _ in suites):
        raise UserError(f"{path} has no results in it")
    jobs = tuple(_job(number, suite, column) for number, suite in enumerate(suites, 1))
    stamps = [stamp for stamp in map(_stamp, (suite[2] for suite in suites)) if stamp]
    run_dir = store.new_run(
        f"{lane}: {path.name}", base=column, columns=(column,), kernels=(KernelFacts(column, "base"),),
        command=f"kpatchlab import {form} {path.name}", version=__version__,
    )  # fmt: skip
    run_dir.save_plan(RunPlan(kind=RunKind.IMPORT, origin=Origin(lane=lane)))
    run = dataclasses.replace(
        run_dir.header,
        started=min(stamps, default=run_dir.header.started),
        duration_s=sum(suite[3] for suite in suites),
        complete=True,
        jobs=jobs,
    )
    run_dir.finish(run, compare(run))
    return run


def _job(number: int, suite: Suite, column: str) -> JobResult:
    name, cases, stamp, seconds = suite
    outcome = worst([Outcome.PASS, *(case.outcome for case in cases if case.outcome is not Outcome.SKIP)])
    first = next((f"{case.name}: {case.message}" for case in cases if case.outcome.is_bad), "")
    job = job_case(outcome, first)
    clean = re.sub(r"[\[\]]", "_", name)
    return JobResult(
        job=f"{clean}@{column}#1.{number}",
        scenario=clean,
        params={},
        column=column,
        placement={"main": column},
        repeat=1,
        outcome=outcome,
        message=first,
        cases=(job, *cases),
        started=stamp,
        duration_s=seconds,
        reported=True,
    )


def _stamp(text: str) -> str:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return ""
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC).isoformat(timespec="seconds")
