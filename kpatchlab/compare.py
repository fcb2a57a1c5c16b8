"""What the series changed: every check of a run, each column held against the base column.

Pure: values in, values out. The rules, in the order in which they are asked:

1. Repeats of one check become one cell. Outcomes lost to the lab (INFRA) are left out where another repeat
   answered; pass and bad together are *flaky*; several bad kinds become the worst of them.
2. A check that a job did not get to (it crashed, hung, was blocked, skipped or lost) follows its job. A check
   that is missing although the job ran to its end is GONE, or NEW the other way round.
3. Two cells become a verdict, see `_judge`.
4. A kernel splat is never noise: a fingerprint that the base never showed is REGRESSED, also where both sides
   fail ("fails differently") and where it came up in some repeats only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from kpatchlab.model import BuildResult, Case, JobResult, Outcome, Run, Splat, Verdict

JOB_CASE = "job"
"""Name of the check that stands for the job itself: did it run to its end, without a crash, in time."""

_BADNESS = {
    Outcome.CRASH: 6,
    Outcome.TIMEOUT: 5,
    Outcome.FAIL: 4,
    Outcome.BLOCKED: 3,
    Outcome.INFRA: 2,
    Outcome.SKIP: 1,
    Outcome.PASS: 0,
}
VERDICT_ORDER = (
    Verdict.REGRESSED,
    Verdict.BLOCKED,
    Verdict.FLAKY,
    Verdict.UNKNOWN,
    Verdict.GONE,
    Verdict.FIXED,
    Verdict.NEW,
    Verdict.SAME,
)
"""From what a reader must see first to what can wait."""

HEADLINE_ORDER = (
    Verdict.REGRESSED,
    Verdict.FIXED,
    Verdict.SAME,
    Verdict.FLAKY,
    Verdict.BLOCKED,
    Verdict.NEW,
    Verdict.GONE,
    Verdict.UNKNOWN,
)
"""As a headline tells them: the news, what stayed, what is not known."""

GroupKey = tuple[str, tuple[tuple[str, str], ...]]


@dataclass(frozen=True, slots=True)
class Cell:
    """One check in one column.

    Attributes:
        outcomes: one for each repeat that has the check or implies it.
        outcome: all repeats in one word; the worst where it is flaky.
        flaky: the repeats disagree about pass and bad.
        implied: the check itself never ran here; the outcome is its job's.
        follows: the verdict repeats what the job's own row says, and is not counted a second time.
        missing: the job ran to its end without this check; `outcome` then means nothing.
        verdict: None in the base column, and where the run has one column only.
        reason: why the verdict is what it is, where that is not plain from the outcomes.
    """

    outcomes: tuple[Outcome, ...]
    outcome: Outcome
    flaky: bool = False
    implied: bool = False
    follows: bool = False
    missing: bool = False
    message: str = ""
    details: str = ""
    duration_s: float = 0.0
    verdict: Verdict | None = None
    reason: str = ""

    @property
    def word(self) -> str:
        """The outcome in one word for people: "pass", "flaky 2/3" (passes of repeats), "missing"."""
        if self.missing:
            return "missing"
        if self.flaky:
            return f"flaky {self.outcomes.count(Outcome.PASS)}/{len(self.outcomes)}"
        return str(self.outcome)


@dataclass(frozen=True, slots=True)
class Row:
    """One check across the columns; a column that ran no such job has no cell."""

    case: str
    cells: dict[str, Cell]

    @property
    def quiet(self) -> bool:
        """Whether there is nothing to look at: passes, and the same in every column."""
        return all(
            c.outcome is Outcome.PASS and not c.missing and not c.flaky and c.verdict in {None, Verdict.SAME}
            for c in self.cells.values()
        )


@dataclass(frozen=True, slots=True)
class Group:
    """One scenario with one set of parameters: its checks, and the jobs that made them, by column."""

    scenario: str
    params: dict[str, str]
    rows: tuple[Row, ...]
    jobs: dict[str, tuple[JobResult, ...]]

    @property
    def name(self) -> str:
        """`scenario` or `scenario[a=1,b=2]`."""
        return f"{self.scenario}[{self.params_text}]" if self.params else self.scenario

    @property
    def params_text(self) -> str:
        """`a=1,b=2`, ordered by name."""
        return ",".join(f"{k}={v}" for k, v in sorted(self.params.items()))

    def verdict(self, column: str) -> Verdict | None:
        """Return the verdict that matters most among this column's checks."""
        found = {row.cells[column].verdict for row in self.rows if column in row.cells}
        return next((v for v in VERDICT_ORDER if v in found), None)

    def outcome(self, column: str) -> tuple[Outcome, bool] | None:
        """Return the worst outcome of this column's checks, and whether one is flaky; None: did not run."""
        cells = [row.cells[column] for row in self.rows if column in row.cells]
        cells = [c for c in cells if not c.missing]
        if not cells:
            return None
        # A check that is skipped among others that ran is a detail; only a skipped job is a skip.
        ran = [c for c in cells if c.outcome is not Outcome.SKIP] or cells
        solid = [c for c in ran if not c.flaky]
        flaky = len(solid) < len(ran)
        return _worst(c.outcome for c in (solid or ran)), flaky

    def count(self, column: str) -> tuple[int, int]:
        """Return how many of this column's checks pass, and how many apply (skipped ones left out)."""
        cells = [row.cells[column] for row in self.rows if column in row.cells]
        cells = [c for c in cells if not c.missing and c.outcome is not Outcome.SKIP]
        return sum(c.outcome is Outcome.PASS for c in cells), len(cells)


@dataclass(frozen=True, slots=True)
class BuildCheck:
    """One step of a kernel's build: "kernel" for vmlinux and the whole, or "module NAME" for one that failed."""

    kernel: str
    step: str
    outcome: Outcome
    message: str = ""
    verdict: Verdict | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The judgement of a whole run.

    Attributes:
        builds: one check per kernel, and one per module that did not compile.
        groups: in order of first appearance in the run.
        verdicts: how many checks (builds included) got each verdict, over all columns; a crash that keeps
            seven checks from running counts once.
        by_column: the same for each column, builds left out.
        outcomes: how many jobs ended how.
    """

    base: str
    columns: tuple[str, ...]
    same_base: bool
    complete: bool
    builds: tuple[BuildCheck, ...]
    groups: tuple[Group, ...]
    verdicts: dict[Verdict, int]
    by_column: dict[str, dict[Verdict, int]]
    outcomes: dict[Outcome, int]
    lost: tuple[str, ...] = field(default=())

    @property
    def regressed(self) -> int:
        """Number of checks that pass on the base and are bad here."""
        return self.verdicts.get(Verdict.REGRESSED, 0)

    @property
    def fixed(self) -> int:
        """Number of checks that are bad on the base and pass here."""
        return self.verdicts.get(Verdict.FIXED, 0)

    @property
    def compares(self) -> bool:
        """Whether there is more than one kernel or column to hold against another."""
        return len(self.columns) > 1 or len({b.kernel for b in self.builds}) > 1

    @property
    def bad(self) -> int:
        """Number of bad cells and broken builds, in whatever column."""
        cells = sum(c.outcome.is_bad and not c.missing for g in self.groups for r in g.rows for c in r.cells.values())
        return cells + sum(b.outcome.is_bad or b.outcome is Outcome.BLOCKED for b in self.builds)

    @property
    def judged(self) -> bool:
        """Whether anything at all passed or failed; skips and losses alone are no result."""
        return self.bad > 0 or any(
            c.outcome is Outcome.PASS and not c.missing for g in self.groups for r in g.rows for c in r.cells.values()
        )

    @property
    def exit_code(self) -> int:
        """What the process ends with.

        1: something regressed, a broken build of kernel or module included; with one kernel alone: anything is
        bad. 3: no regression is known, but the lab lost a job in every repeat (INFRA), the run is not complete,
        or nothing was judged at all (every job skipped). 0: nothing regressed. Checks that are bad on the base
        too, flaky ones, skips and blocked scenarios do not change it by themselves.
        """
        if self.regressed or (not self.compares and self.bad):
            return 1
        return 3 if self.lost or not self.complete or not self.judged else 0

    @property
    def headline(self) -> str:
        """`2 REGRESSED, 1 FIXED, 40 SAME, 3 BLOCKED`; outcomes of jobs where there is nothing to compare."""
        if self.compares:
            words = [f"{self.verdicts[v]} {v}" for v in HEADLINE_ORDER if self.verdicts.get(v)]
            return ", ".join(words) or "nothing compared"
        words = [f"{self.outcomes[o]} {o}" for o in Outcome if self.outcomes.get(o)]
        return ", ".join(words) or "no job ran"

    @property
    def basis(self) -> str:
        """What a difference between the columns can mean, in one sentence."""
        if not self.compares:
            return "One kernel: nothing to compare with."
        if self.same_base:
            return "Same base: the kernels differ by their series alone."
        return "Different bases: a difference need not be the series' doing."


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
    return Comparison(
        base=base,
        columns=columns,
        same_base=run.same_base,
        complete=run.complete,
        builds=builds,
        groups=groups,
        verdicts=dict(total),
        by_column=by_column,
        outcomes=dict(Counter(job.outcome for job in run.jobs)),
        lost=_lost(groups, builds),
    )


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
    names = dict.fromkeys([JOB_CASE, *(name for column in cases.values() for found in column for name in found)])
    rows = [Row(name, {c: _cell(name, ordered[c], cases[c]) for c in ordered}) for name in names]
    if len(columns) > 1:
        rows = [_row_verdicts(row, base) for row in rows]
        rows = _mark_followers(_splat_verdicts(rows, ordered, base), base)
    return Group(key[0], dict(key[1]), tuple(rows), ordered)


def _cases(job: JobResult) -> dict[str, Case]:
    """Return the job's checks by name, its own first; of two with one name the worse one counts."""
    found: dict[str, Case] = {}
    for case in job.cases:
        if case.name not in found or _BADNESS[case.outcome] > _BADNESS[found[case.name].outcome]:
            found[case.name] = case
    own = found.pop(JOB_CASE, None)
    if own is None:
        outcome = job.outcome
        if outcome is Outcome.FAIL and any(case.outcome.is_bad for case in found.values()):
            outcome = Outcome.PASS  # it ran to its end; the checks say what failed
        own = Case(JOB_CASE, outcome, "" if outcome is Outcome.PASS else job.message, duration_s=job.duration_s)
    return {JOB_CASE: own, **found}


def _cell(name: str, jobs: Sequence[JobResult], cases: Sequence[dict[str, Case]]) -> Cell:
    seen: list[Case] = []
    ran = 0
    for job, found in zip(jobs, cases, strict=True):
        if name in found:
            seen.append(found[name])
            ran += 1
        elif found[JOB_CASE].outcome is not Outcome.PASS:
            why = found[JOB_CASE].message or job.message
            seen.append(Case(name, found[JOB_CASE].outcome, f"not reached: {why}" if why else "not reached"))
    if not seen:
        return Cell((), Outcome.SKIP, missing=True)
    counted = [c for c in seen if c.outcome is not Outcome.INFRA] or seen
    counted = [c for c in counted if c.outcome is not Outcome.SKIP] or counted
    kinds = {c.outcome for c in counted}
    worst = max(counted, key=lambda c: _BADNESS[c.outcome])
    return Cell(
        tuple(c.outcome for c in seen),
        worst.outcome,
        flaky=Outcome.PASS in kinds and any(k.is_bad for k in kinds),
        implied=ran == 0,
        message=worst.message,
        details=worst.details,
        duration_s=sum(c.duration_s for c in seen) / len(seen),
    )


def _worst(outcomes: Iterable[Outcome]) -> Outcome:
    return max(outcomes, key=lambda o: _BADNESS[o])


def _row_verdicts(row: Row, base: str) -> Row:
    cells = {}
    for column, cell in row.cells.items():
        if column == base:
            cells[column] = cell
        elif base not in row.cells:
            cells[column] = replace(cell, verdict=Verdict.UNKNOWN, reason="the base column did not run it")
        else:
            verdict, reason = _judge(row.case, row.cells[base], cell)
            cells[column] = replace(cell, verdict=verdict, reason=reason)
    return Row(row.case, cells)


def _judge(case: str, base: Cell, here: Cell) -> tuple[Verdict, str]:
    """Return the verdict for one check, and a reason where the two outcomes do not speak for themselves."""
    if base.missing and here.missing:
        return Verdict.SAME, "in neither"
    if here.missing:
        # The lab's own checks may be left out where there is nothing to say.
        return (Verdict.SAME, "") if _own(case) and not base.outcome.is_bad else (Verdict.GONE, "missing here")
    if base.missing:
        if here.outcome.is_bad and not here.flaky:
            return Verdict.REGRESSED, "not a check on the base, and it fails here"
        return (Verdict.SAME, "") if _own(case) and not here.flaky else (Verdict.NEW, "only here")
    sides = {base.outcome, here.outcome}
    if Outcome.BLOCKED in sides:
        where = "both" if len(sides) == 1 else "the base" if base.outcome is Outcome.BLOCKED else "here"
        return Verdict.BLOCKED, f"blocked on {where}" if where != "here" else "blocked here"
    if Outcome.INFRA in sides:
        return Verdict.UNKNOWN, "the lab lost one side"
    if Outcome.SKIP in sides:
        return _judge_skip(case, base, here)
    if base.flaky or here.flaky:
        both = base.flaky and here.flaky
        return Verdict.FLAKY, f"{'both sides' if both else 'the base' if base.flaky else 'this side'} flaky"
    if base.outcome.is_bad == here.outcome.is_bad:
        same = base.outcome is here.outcome
        return Verdict.SAME, "" if same else f"{base.outcome} on the base, {here.outcome} here"
    return (Verdict.REGRESSED if here.outcome.is_bad else Verdict.FIXED), ""


def _judge_skip(case: str, base: Cell, here: Cell) -> tuple[Verdict, str]:
    if base.outcome is here.outcome:
        return Verdict.SAME, "skipped on both"
    conditional = case.startswith("reach:") and "condition:" in (
        base.message if base.outcome is Outcome.SKIP else here.message
    )
    if case.startswith("reach:") and not base.outcome.is_bad and not here.outcome.is_bad:
        return Verdict.SAME, "does not apply to one side"
    if conditional and here.outcome.is_bad and not here.flaky:
        return Verdict.REGRESSED, "does not apply to the base, and fails here"
    side = "the base" if base.outcome is Outcome.SKIP else "this side"
    return Verdict.UNKNOWN, f"{side} skipped it"


def _own(case: str) -> bool:
    return case == JOB_CASE or case.startswith("log:")


def _splat_verdicts(rows: list[Row], jobs: dict[str, tuple[JobResult, ...]], base: str) -> list[Row]:
    """Raise SAME and FLAKY to REGRESSED on the row that carries a splat which the base never showed."""
    known = {s.fingerprint for s in _splats(jobs.get(base, ()))}
    if base not in jobs:
        return rows
    for column, made in jobs.items():
        fresh = [s for s in _splats(made) if s.fingerprint not in known] if column != base else []
        carriers = [i for i, row in enumerate(rows) if _own(row.case) and rows[i].cells[column].outcome.is_bad]
        carriers.sort(key=lambda i: rows[i].case == JOB_CASE)  # log:ROLE is the nearer one
        if not fresh or any(rows[i].cells[column].verdict is Verdict.REGRESSED for i in carriers):
            continue
        for i in carriers:
            cell, held = rows[i].cells[column], rows[i].cells[base]
            if cell.verdict in {Verdict.SAME, Verdict.FLAKY}:
                what = (
                    "fails differently" if held.outcome.is_bad else f"in {_bad(cell)} of {len(cell.outcomes)} repeats"
                )
                raised = replace(cell, verdict=Verdict.REGRESSED, reason=f"{what}: {fresh[0].title}")
                rows[i] = Row(rows[i].case, {**rows[i].cells, column: raised})
                break
    return rows


def _mark_followers(rows: list[Row], base: str) -> list[Row]:
    """Mark what one event, shown by the job's own row, does to the other rows: checks not reached, its log."""
    own = rows[0].cells  # `_group` puts the job's row first
    marked = rows[:1]
    for row in rows[1:]:
        cells = dict(row.cells)
        for column, cell in row.cells.items():
            event = own[column].verdict not in {None, Verdict.SAME} and cell.verdict is own[column].verdict
            implied = cell.implied or (base in row.cells and row.cells[base].implied)
            if implied or (event and row.case.startswith("log:")):
                cells[column] = replace(cell, follows=True)
        marked.append(Row(row.case, cells))
    return marked


def _bad(cell: Cell) -> int:
    return sum(o.is_bad for o in cell.outcomes)


def _splats(jobs: Iterable[JobResult]) -> list[Splat]:
    return [splat for job in jobs for splat in job.splats]


# --- builds -----------------------------------------------------------------------------------------------------


def _builds(run: Run, base: str) -> tuple[BuildCheck, ...]:
    base_kernel = next((k.name for k in run.kernels if k.role == "base"), base)
    held = next((b for b in run.builds if b.kernel == base_kernel), None)
    found: list[BuildCheck] = []
    for build in run.builds:
        against = None if held is None or build.kernel == base_kernel else held
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
