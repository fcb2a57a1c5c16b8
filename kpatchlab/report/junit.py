"""JUnit XML: one suite per column, one for the builds; what Jenkins' schema allows and GitLab reads.

The format knows pass, failure, error and skipped. A verdict against the base has no place of its own: it opens
the failure's message ("REGRESSED: ..."), is a line of the case's output, and is summed in the suite's properties.
FAIL, CRASH and TIMEOUT are failures; INFRA is an error; SKIP and BLOCKED are skipped, with the reason: what
did not run is no failure, and no pass either. A flaky check is a failure, as one of its repeats is. A case is
`column.scenario.params` by class name, and the check by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from xml.etree import ElementTree as ET

from junit_xml import TestCase, TestSuite

from kpatchlab.model import BuildResult, JobResult, Outcome, Run
from kpatchlab.report.common import line, on_builds, on_hosts, tail
from kpatchlab.report.view import View
from kpatchlab.textclean import printable
from kpatchlab.verdict.faults import splats
from kpatchlab.verdict.ratios import metric_rows
from kpatchlab.verdict.values import BuildCheck, Cell, Comparison, Group, Row

TAIL_BYTES = 16 << 10
"""How much of a console and of a build log one case carries; only the first bad case of a job carries any."""
BUDGET_BYTES = 4 << 20
"""What all consoles together may take, and all details of checks."""
DETAIL_BYTES = 4 << 10
MAX_SPLATS = 5


def render(view: View) -> bytes:
    """Return the run as JUnit XML, UTF-8."""
    run, comparison = view.run, view.comparison
    suites = [_build_suite(run, comparison)] if run.builds else []
    suites += [_column_suite(run, comparison, column) for column in comparison.columns]
    root = ET.Element("testsuites", {"name": printable(f"kpatchlab {run.title}".strip())})
    for suite in suites:
        element = suite.build_xml_doc(encoding="utf-8")
        element.attrib.pop("disabled", None)  # not in the schema of Jenkins' plugin
        element.set("time", _seconds(float(element.get("time", "0"))))
        root.append(element)
    for name in ("tests", "failures", "errors"):
        root.set(name, str(sum(int(element.get(name, "0")) for element in root)))
    root.set("time", _seconds(run.duration_s))
    return bytes(ET.tostring(root, encoding="utf-8", xml_declaration=True)) + b"\n"


def _seconds(value: float) -> str:
    return f"{value:.3f}"


# --- builds -----------------------------------------------------------------------------------------------------


def _build_suite(run: Run, comparison: Comparison) -> TestSuite:
    builds = {build.kernel: build for build in run.builds}
    cases = [_build_case(check, builds[check.kernel]) for check in comparison.builds]
    return _suite(run, "build", cases, {name: value for b in run.builds for name, value in _build_facts(b)})


def _build_case(check: BuildCheck, build: BuildResult) -> TestCase:
    whole = check.step == "kernel"
    case = _case("build", check.kernel, name=check.step, seconds=build.duration_s if whole else 0.0)
    message = _message(check.verdict, check.message or check.outcome, check.reason)
    log = (
        build.log_tail
        if whole
        else next((f.log for f in build.module_failures if f"module {f.module}" == check.step), "")
    )
    text = printable(f"{log[-TAIL_BYTES:]}\n\nto reproduce: {build.reproduce}\n")
    if check.outcome is Outcome.INFRA:
        case.add_error_info(message, text, "infra")
    elif check.outcome is not Outcome.PASS:
        case.add_failure_info(message, text, "build")
    misses = [
        f"{m.symbol}: asked {m.asked}, got {m.got or 'nothing'} ({m.reason}) {m.where}" for m in build.config_misses
    ]
    if whole:
        case.stdout = printable("\n".join([f"{name}: {value}" for name, value in _build_facts(build)] + misses))
    return case


def _build_facts(build: BuildResult) -> list[tuple[str, str]]:
    facts = {
        "release": build.release,
        "base": build.base,
        "series": build.series,
        "compiler": build.compiler,
        "cached": "yes" if build.cached else "no",
        "unconfined": build.unconfined,
        "config misses": " ".join(m.symbol for m in build.config_misses),
    }
    return [(f"{build.kernel}: {name}", printable(value)) for name, value in facts.items() if value]


# --- one column -------------------------------------------------------------------------------------------------


def _column_suite(run: Run, comparison: Comparison, column: str) -> TestSuite:
    kernels = {build for job in run.jobs if job.column == column for build in job.builds.values()}
    facts = dict(fact for build in run.builds if build.kernel in kernels for fact in _build_facts(build))
    if words := on_builds(run):
        facts["builds"] = words
    if words := on_hosts(run):
        facts["hosts"] = words
    facts["base column"] = comparison.base
    facts["comparison"] = comparison.basis
    facts["run"] = run.id
    facts["complete"] = "yes" if run.complete else "no"
    facts |= {f"host {name}": value for name, value in run.host.items()}
    facts |= dict(_metrics(comparison, column))
    facts |= {f"verdict {verdict}": str(count) for verdict, count in comparison.by_column[column].items()}
    bad = sum(job.outcome.is_bad for job in run.jobs)
    limits = _Limits(min(TAIL_BYTES, BUDGET_BYTES // max(1, bad)), _detail_bytes(comparison))
    cases = []
    for group in comparison.groups:
        rows = [row for row in group.rows if column in row.cells and not row.cells[column].missing]
        first_bad = next((row for row in rows if _is_bad(row.cells[column]) and not row.cells[column].implied), None)
        cases += [_row_case(group, row, column, limits, with_tail=row is first_bad) for row in rows]
    return _suite(run, column, cases, facts)


def _metrics(comparison: Comparison, column: str) -> Iterator[tuple[str, str]]:
    """Yield each figure of a column as a property; a metric that this column lacks says so."""
    for row in metric_rows(comparison):
        name = printable(f"metric {row.group.name}: {row.title}")
        mode = f", {row.mode}" if row.mode else ""
        if column in row.lacking:
            yield name, "no figure"
        elif figure := row.figures.get(column):
            value = f"{figure.mean:.6g} {row.unit or '(no unit)'}, mean of {len(figure.values)}{mode}"
            if figure.speed:
                ratio = "no figure on the base" if figure.ratio is None else f"{figure.ratio:.4f} of the base"
                bounds = "" if figure.low is None else f" ({figure.low:.4f} to {figure.high:.4f})"
                value += f", {ratio}{bounds}, {figure.speed}"
            yield name, printable(value)


def _suite(run: Run, name: str, cases: list[TestCase], properties: dict[str, str]) -> TestSuite:
    return TestSuite(
        printable(name),
        cases,
        hostname=printable(run.host.get("hostname", "")) or None,
        timestamp=run.started.partition("+")[0].removesuffix("Z") or None,  # the format's stamps carry no zone; UTC
        properties={printable(key): printable(value) for key, value in properties.items()},
    )


def _case(group: str, *parts: str, name: str, seconds: float) -> TestCase:
    """Make a case; its class name begins with the column: readers that know no suites must not merge two columns."""
    # Jenkins reads dots in a class name as packages; a version such as 4.2 must not become one.
    classname = ".".join(part.replace(".", "_") for part in (group, *parts) if part)
    return TestCase(printable(name), classname=printable(classname), elapsed_sec=round(seconds, 3) or None)


@dataclass(frozen=True, slots=True)
class _Limits:
    tail_bytes: int
    detail_bytes: int


def _detail_bytes(comparison: Comparison) -> int:
    return min(DETAIL_BYTES, BUDGET_BYTES // max(1, comparison.bad))


def _is_bad(cell: Cell) -> bool:
    return cell.outcome.is_bad or cell.flaky


def _row_case(group: Group, row: Row, column: str, limits: _Limits, *, with_tail: bool) -> TestCase:
    cell, jobs = row.cells[column], group.jobs[column]
    case = _case(column, group.scenario, group.params_text, name=row.case, seconds=cell.duration_s)
    message = _message(cell.verdict, cell.message or cell.word, cell.reason)
    evidence = _evidence(row, cell, jobs, limits.detail_bytes)
    if cell.outcome is Outcome.INFRA:
        case.add_error_info(message, evidence, "infra")
    elif _is_bad(cell):
        case.add_failure_info(message, evidence, "flaky" if cell.flaky else str(cell.outcome))
    elif cell.outcome in {Outcome.SKIP, Outcome.BLOCKED}:
        case.add_skipped_info(
            message if cell.outcome is Outcome.SKIP else f"BLOCKED: {printable(cell.message or cell.reason)}"
        )
    if cell.verdict:
        case.stdout = f"verdict: {cell.verdict}" + (f" ({printable(cell.reason)})" if cell.reason else "")
    words = [f"ran on host {printable(name)}" for name in sorted({job.host for job in jobs} - {""})]
    words += ["ran on an image"] if any(job.images for job in jobs) else []
    case.stdout = "\n".join(word for word in (case.stdout, *words) if word)
    if with_tail:
        case.stdout = "\n".join([case.stdout or "", *_tails(jobs, limits.tail_bytes)]).strip()
    return case


def _message(verdict: object, message: str, reason: str) -> str:
    parts = [str(verdict) if verdict else "", message, reason if reason not in message else ""]
    return line(": ".join(part for part in parts if part))


def _evidence(row: Row, cell: Cell, jobs: Iterable[JobResult], detail_bytes: int) -> str:
    """Return what one needs to see first: the splat, decoded where it is, then the check's own words."""
    jobs = tuple(jobs)
    parts = []
    if row.id.kind.sums_up and not cell.implied:
        parts += [(splat.decoded or splat.text)[:TAIL_BYTES] for splat in splats(jobs)[:MAX_SPLATS]]
    parts += [
        cell.details[:detail_bytes],
        f"outcomes over {len(cell.outcomes)} runs: {' '.join(cell.outcomes)}" if len(cell.outcomes) > 1 else "",
    ]
    parts += dict.fromkeys(
        f"to reproduce: {job.reproduce}" for job in jobs if job.reproduce and job.outcome is not Outcome.PASS
    )
    return printable("\n\n".join(part.rstrip() for part in parts if part.strip()))


def _tails(jobs: Iterable[JobResult], limit: int) -> list[str]:
    worst = next((job for job in jobs if job.outcome.is_bad), None)
    if worst is None:
        return []
    each = limit // max(1, len(worst.guests))
    return [
        f"--- console of {printable(guest.role)} ({printable(guest.kernel)}), whole in {printable(guest.console)}\n"
        + tail(guest.console_tail, each)
        for guest in worst.guests
    ]
