"""What the series changed: every check of a run, each column compared with the base column.

Pure: values in, values out. The rules, in the order in which they are asked:

1. Repeats of one check become one cell. Outcomes lost to the lab (INFRA) are left out where another repeat
   answered; pass and bad together are *flaky*; several bad kinds become the worst of them.
2. A check that a job did not get to (it crashed, hung, was blocked, skipped or lost) follows its job. A check
   that is missing although the job reported all that it announced is GONE, or NEW the other way round: tests from
   two kernels' own trees are not the same, and a job that fails by one of them says nothing about the others.
3. Two cells become a verdict, see `_judge`.
4. A kernel splat is never noise: a fingerprint that the base never showed is REGRESSED, also where both sides
   fail ("fails differently"), where it came up in some repeats only, and where the base skipped the job or was
   blocked: that the base might have shown it too is no reason to pass over it. One exception: what a kernel says by
   its clock alone (`BY_CLOCK`) beside a build, and not in a repeat that passed, may be the build's doing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from kpatchlab.model import (
    BY_CLOCK,
    JOB,
    BuildResult,
    Case,
    CaseId,
    CaseKind,
    JobResult,
    Outcome,
    Run,
    Splat,
    Verdict,
    job_case,
)
from kpatchlab.verdict import witnesses
from kpatchlab.verdict.faults import faults
from kpatchlab.verdict.values import BADNESS, BuildCheck, Cell, Comparison, Group, GroupKey, Row


def compare(run: Run) -> Comparison:
    """Hold every column of `run` against its base column."""
    base = run.base or (run.columns[0] if run.columns else "")
    by_group: dict[GroupKey, dict[str, list[JobResult]]] = {}
    for job in run.jobs:
        key = (job.scenario, tuple(sorted(job.params.items())))
        by_group.setdefault(key, {}).setdefault(job.column, []).append(job)
    columns = tuple(dict.fromkeys((*run.columns, *(job.column for job in run.jobs))))
    groups = tuple(_group(key, jobs, base, columns) for key, jobs in by_group.items())
    builds = _builds(run, base)
    by_column = {column: _count(groups, column) for column in columns}
    total: Counter[Verdict] = Counter(b.verdict for b in builds if b.verdict)
    for counts in by_column.values():
        total.update(counts)
    compared = _compared(groups, base)
    if not compared:  # builds, and what is skipped on both sides, are the same and say nothing
        for counts in (total, *by_column.values()):
            counts.pop(Verdict.SAME, None)
    comparison = Comparison(
        base=base,
        columns=columns,
        same_base=run.same_base,
        difference=run.difference,
        complete=run.complete,
        builds=builds,
        groups=groups,
        verdicts=dict(total),
        by_column=by_column,
        outcomes=dict(Counter(job.outcome for job in run.jobs)),
        lost=_lost(groups, builds),
        compared=compared,
    )
    told = [fault for fault in faults(comparison) if fault.first.cell.verdict is Verdict.REGRESSED]
    scenarios = {change.group.scenario for fault in told for change in fault.changes}
    return replace(comparison, fault_count=len(told), faulty_scenarios=len(scenarios))


def _compared(groups: Iterable[Group], base: str) -> bool:
    """Whether any check ran on the base and on another column."""
    return any(
        _ran(cell) and _ran(row.cells[base])
        for group in groups
        for row in group.rows
        if base in row.cells
        for column, cell in row.cells.items()
        if column != base
    )


def _ran(cell: Cell) -> bool:
    return not cell.missing and (cell.outcome is Outcome.PASS or cell.outcome.is_bad)


def _count(groups: Iterable[Group], column: str) -> dict[Verdict, int]:
    cells = (row.cells[column] for group in groups for row in group.rows if column in row.cells)
    return dict(Counter(c.verdict for c in cells if c.verdict and not c.follows))


def _lost(groups: Iterable[Group], builds: Iterable[BuildCheck]) -> tuple[str, ...]:
    found = [f"build of {b.kernel}" for b in builds if b.outcome is Outcome.INFRA]
    for group in groups:
        for column, jobs in group.jobs.items():
            if all(job.outcome is Outcome.INFRA for job in jobs):
                found.append(f"{group.name} on {column}")
    return tuple(found)


# --- one scenario ---------------------------------------------------------------------------------------------


def _group(key: GroupKey, jobs: dict[str, list[JobResult]], base: str, columns: Sequence[str]) -> Group:
    ordered = {c: tuple(sorted(jobs[c], key=lambda j: j.repeat)) for c in columns if c in jobs}
    cases = {column: [_cases(job) for job in ordered[column]] for column in ordered}
    ids = dict.fromkeys([JOB, *(id_ for column in cases.values() for found in column for id_ in found)])
    names = _names(ids)
    rows = [Row(id_, names[id_], {c: _cell(id_, ordered[c], cases[c]) for c in ordered}) for id_ in ids]
    if len(columns) > 1 and base in columns:
        rows = [_row_verdicts(row, base) for row in rows]
        rows = _mark_followers(_splat_verdicts(rows, ordered, base), base)
        rows += [_row_verdicts(row, base) for row in _beside(rows, ordered, base)]
    return Group(key[0], dict(key[1]), tuple(rows), ordered)


def _beside(rows: Sequence[Row], jobs: dict[str, tuple[JobResult, ...]], base: str) -> list[Row]:
    """Return the rows that no job has a check for; the time of one with a check that got worse is that check's."""
    worse = {c for row in rows for c, cell in row.cells.items() if cell.verdict is Verdict.REGRESSED}
    made = []
    for id_, found in witnesses.cases(jobs, base).items():
        cells = {
            column: Cell(
                (case.outcome,),
                case.outcome,
                message=case.message,
                follows=id_.kind is CaseKind.TIME and column in worse,
            )
            for column, case in found.items()
        }
        made.append(Row(id_, id_.name, cells))
    return made


def _names(ids: Iterable[CaseId]) -> dict[CaseId, str]:
    """Return the checks' names; a scenario's own that is called as one of the lab's is, says so."""
    labs = {id_.name for id_ in ids if id_.kind is not CaseKind.CHECK}
    return {
        id_: f"{id_.name} (the scenario's own)" if id_.kind is CaseKind.CHECK and id_.name in labs else id_.name
        for id_ in ids
    }


def _cases(job: JobResult) -> dict[CaseId, Case]:
    """Return the job's checks, its own first; of two that cannot be told apart the worse one counts."""
    found: dict[CaseId, Case] = {}
    for case in job.cases:
        if case.id not in found or BADNESS[case.outcome] > BADNESS[found[case.id].outcome]:
            found[case.id] = case
    own = found.pop(JOB, None) or job_case(job.outcome, job.message, duration_s=job.duration_s)
    return {JOB: own, **found}


def _cell(id_: CaseId, jobs: Sequence[JobResult], cases: Sequence[dict[CaseId, Case]]) -> Cell:
    seen: list[Case] = []
    ran: list[Case] = []
    for job, found in zip(jobs, cases, strict=True):
        own = found[JOB]
        if id_ in found:
            seen.append(found[id_])
            ran.append(found[id_])
        elif own.outcome is not Outcome.PASS and not job.reported:
            why = own.message or job.message
            seen.append(Case(id_.name, own.outcome, f"not reached: {why}" if why else "not reached"))
    if not seen:
        return Cell((), Outcome.SKIP, missing=True)
    counted = [c for c in seen if c.outcome is not Outcome.INFRA] or seen
    counted = [c for c in counted if c.outcome is not Outcome.SKIP] or counted
    kinds = {c.outcome for c in counted}
    shown = max(counted, key=lambda c: BADNESS[c.outcome])
    answers = tuple(sorted({c.answer for c in counted if c.answer and c.outcome is Outcome.PASS}))
    told_by = (job.because for job, found in zip(jobs, cases, strict=True) if found[JOB] is shown)
    return Cell(
        tuple(c.outcome for c in seen),
        shown.outcome,
        flaky=(Outcome.PASS in kinds and any(k.is_bad for k in kinds)) or len(answers) > 1,
        implied=not any(shown is c for c in ran),
        message=shown.message or next(iter(shown.details.splitlines()), ""),
        details=shown.details,
        duration_s=sum(c.duration_s for c in seen) / len(seen),
        answers=answers,
        because=next(told_by, ()),
        applies=shown.applies,
    )


def _row_verdicts(row: Row, base: str) -> Row:
    cells = {}
    for column, cell in row.cells.items():
        if column == base:
            cells[column] = cell
        elif base not in row.cells:
            cells[column] = replace(cell, verdict=Verdict.UNKNOWN, reason="the base column did not run it")
        else:
            verdict, reason = _judge(row.id.kind, row.cells[base], cell)
            cells[column] = replace(cell, verdict=verdict, reason=reason)
    return replace(row, cells=cells)


def _judge(kind: CaseKind, base: Cell, here: Cell) -> tuple[Verdict, str]:
    """Return the verdict for one check, and a reason where the two outcomes do not speak for themselves."""
    if base.missing and here.missing:
        return Verdict.SAME, "in neither"
    if here.missing:
        # What sums up may be left out where there is nothing to say.
        return (Verdict.SAME, "") if kind.sums_up and not base.outcome.is_bad else (Verdict.GONE, "missing here")
    if base.missing:
        if here.outcome.is_bad and not here.flaky:
            return Verdict.REGRESSED, "not a check on the base, and it fails here"
        return (Verdict.SAME, "") if kind.sums_up and not here.flaky else (Verdict.NEW, "only here")
    sides = {base.outcome, here.outcome}
    if Outcome.BLOCKED in sides:
        where = "both" if len(sides) == 1 else "the base" if base.outcome is Outcome.BLOCKED else "here"
        return Verdict.BLOCKED, f"blocked on {where}" if where != "here" else "blocked here"
    if Outcome.INFRA in sides:
        return Verdict.UNKNOWN, "the lab lost one side"
    if Outcome.SKIP in sides:
        return _judge_skip(kind, base, here)
    if base.flaky or here.flaky:
        both = base.flaky and here.flaky
        return Verdict.FLAKY, f"{'both sides' if both else 'the base' if base.flaky else 'this side'} flaky"
    if base.answers != here.answers and {base.outcome, here.outcome} == {Outcome.PASS}:
        return Verdict.CHANGED, f"{_told(base.answers)} on the base, {_told(here.answers)} here"
    if base.outcome.is_bad == here.outcome.is_bad:
        same = base.outcome is here.outcome
        return Verdict.SAME, "" if same else f"{base.outcome} on the base, {here.outcome} here"
    return (Verdict.REGRESSED if here.outcome.is_bad else Verdict.FIXED), ""


def _told(answers: Sequence[str]) -> str:
    return " or ".join(answers) or "no answer"


def _judge_skip(kind: CaseKind, base: Cell, here: Cell) -> tuple[Verdict, str]:
    if base.outcome is here.outcome:
        return Verdict.SAME, "skipped on both"
    if kind is CaseKind.REACH and not base.outcome.is_bad and not here.outcome.is_bad:
        return Verdict.SAME, "does not apply to one side"
    if not base.applies and here.outcome.is_bad and not here.flaky:
        return Verdict.REGRESSED, "does not apply to the base, and fails here"
    side = "the base" if base.outcome is Outcome.SKIP else "this side"
    return Verdict.UNKNOWN, f"{side} skipped it"


def _splat_verdicts(rows: list[Row], jobs: dict[str, tuple[JobResult, ...]], base: str) -> list[Row]:
    """Raise a row that carries a splat which the base never showed to REGRESSED.

    SAME and FLAKY are raised, and what could not be compared since the base did not run it; a side that the lab
    lost stays UNKNOWN.
    """
    known = {s.fingerprint for s in _splats(jobs.get(base, ()))}
    if base not in jobs:
        return rows
    for column, made in jobs.items():
        fresh = [s for s in _own_splats(made) if s.fingerprint not in known] if column != base else []
        carriers = [i for i, row in enumerate(rows) if row.id.kind.sums_up and rows[i].cells[column].outcome.is_bad]
        carriers.sort(key=lambda i: rows[i].id == JOB)  # a guest's log is the nearer one
        if not fresh or any(rows[i].cells[column].verdict is Verdict.REGRESSED for i in carriers):
            continue
        for i in carriers:
            cell, held = rows[i].cells[column], rows[i].cells[base]
            if cell.verdict in {Verdict.SAME, Verdict.FLAKY}:
                what = (
                    "fails differently" if held.outcome.is_bad else f"in {_bad(cell)} of {len(cell.outcomes)} repeats"
                )
            elif cell.verdict in {Verdict.UNKNOWN, Verdict.BLOCKED} and held.outcome in {Outcome.SKIP, Outcome.BLOCKED}:
                what = "the base did not run it; here"
            else:
                continue
            raised = replace(cell, verdict=Verdict.REGRESSED, reason=f"{what}: {fresh[0].title}")
            rows[i] = replace(rows[i], cells={**rows[i].cells, column: raised})
            break
    return rows


def _mark_followers(rows: list[Row], base: str) -> list[Row]:
    """Mark the rows that tell an event a second time.

    A crash is told by the job's row: checks that it kept from running and the log that shows it follow. A check
    that fails makes its job fail: there the job's row follows.
    """
    own = rows[0].cells  # `_group` puts the job's row first
    told_by = {c: replace(cell, follows=_is_echo(rows, c, base)) for c, cell in own.items()}
    marked = [replace(rows[0], cells=told_by)]
    for row in rows[1:]:
        cells = dict(row.cells)
        for column, cell in row.cells.items():
            implied = cell.implied or (base in row.cells and row.cells[base].implied)
            told = own[column].verdict is not Verdict.SAME and cell.verdict in {own[column].verdict, Verdict.FLAKY}
            if (implied and (told or cell.verdict is Verdict.SAME)) or (row.id.kind.is_log and told):
                cells[column] = replace(cell, follows=True)
        marked.append(replace(row, cells=cells))
    return marked


def _is_echo(rows: list[Row], column: str, base: str) -> bool:
    own = rows[0].cells[column]
    bad = own if own.outcome.is_bad or own.flaky or base not in rows[0].cells else rows[0].cells[base]
    return own.verdict in {Verdict.REGRESSED, Verdict.FIXED, Verdict.FLAKY} and any(
        row.cells[column].verdict is own.verdict and not row.cells[column].implied and row.id in bad.because
        for row in rows[1:]
        if not row.id.kind.is_log
    )


def _bad(cell: Cell) -> int:
    return sum(o.is_bad for o in cell.outcomes)


def _splats(jobs: Iterable[JobResult]) -> list[Splat]:
    return [splat for job in jobs for splat in job.splats]


def _own_splats(jobs: Sequence[JobResult]) -> list[Splat]:
    """Return the splats that are the kernel's own doing for sure."""
    passed = any(job.outcome is Outcome.PASS for job in jobs)
    return [splat for job in jobs for splat in job.splats if not (passed and job.beside and splat.kind in BY_CLOCK)]


# --- builds -----------------------------------------------------------------------------------------------------


def _builds(run: Run, base: str) -> tuple[BuildCheck, ...]:
    base_kernel = next((k.name for k in run.kernels if k.role == "base"), base)
    made = {build.kernel: build for build in run.builds}
    held_by = {k.name: k.against for k in run.kernels if k.against}
    found: list[BuildCheck] = []
    for build in run.builds:
        held = held_by.get(build.kernel, base_kernel)
        against = made.get(held) if held != build.kernel else None
        found.append(_build_check(build, against))
        known = {f.module for f in against.module_failures} if against else set()
        for failure in build.module_failures:
            verdict, reason = None, ""
            if against and against.outcome is Outcome.PASS:
                new = failure.module not in known
                verdict = Verdict.REGRESSED if new else Verdict.SAME
                reason = "no such failure on the base" if new else "fails on the base too"
            elif against:
                verdict, reason = Verdict.UNKNOWN, "the base did not build"
            where = f"{failure.source}:{failure.line}: " if failure.source else ""
            step = f"module {failure.module}"
            found.append(BuildCheck(build.kernel, step, Outcome.FAIL, where + failure.error, verdict, reason))
    return tuple(found)


def _build_check(build: BuildResult, against: BuildResult | None) -> BuildCheck:
    where = f"{build.error_file}:{build.error_line}: " if build.error_file else ""
    check = BuildCheck(build.kernel, "kernel", build.outcome, where + build.error if build.error else "")
    if against is None:
        return check
    ok, was_ok = build.outcome is Outcome.PASS, against.outcome is Outcome.PASS
    if Outcome.INFRA in {build.outcome, against.outcome}:
        return replace(check, verdict=Verdict.UNKNOWN, reason="the lab lost one side")
    if ok == was_ok:
        return replace(check, verdict=Verdict.SAME)
    if ok:
        return replace(check, verdict=Verdict.FIXED, reason="the base does not build")
    return replace(check, verdict=Verdict.REGRESSED, reason="the base builds, this does not")
