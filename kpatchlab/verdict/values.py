"""The values of a comparison: what `compare` returns and every report reads."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from kpatchlab.model import JOB, CaseId, JobResult, Outcome, Verdict
from kpatchlab.textclean import counted

BADNESS = {
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
    Verdict.CHANGED,
    Verdict.FIXED,
    Verdict.NEW,
    Verdict.SAME,
)
"""From what a reader must see first to what can wait."""

HEADLINE_ORDER = (
    Verdict.REGRESSED,
    Verdict.FIXED,
    Verdict.CHANGED,
    Verdict.SAME,
    Verdict.FLAKY,
    Verdict.BLOCKED,
    Verdict.NEW,
    Verdict.GONE,
    Verdict.UNKNOWN,
)
"""As a headline tells them: the news, what stayed, what is not known."""

GroupKey = tuple[str, tuple[tuple[str, str], ...]]


def worst(outcomes: Iterable[Outcome]) -> Outcome:
    """Return the outcome that matters most."""
    return max(outcomes, key=lambda outcome: BADNESS[outcome])


@dataclass(frozen=True, slots=True)
class Cell:
    """One check in one column.

    Attributes:
        outcomes: one for each repeat that has the check or implies it.
        outcome: all repeats in one word; the worst where it is flaky.
        flaky: the repeats disagree about pass and bad, or record different answers.
        answers: what was recorded, each answer once; see `model.Case`.
        implied: the outcome is the job's, which did not get to this check (in one repeat at least).
        follows: the verdict repeats what another row of this job says, and is not counted a second time.
        missing: the job ran to its end without this check; `outcome` then means nothing.
        verdict: None in the base column, and where no column is compared with it; see `Comparison.compares`.
        reason: why the verdict is what it is, where that is not plain from the outcomes.
        applies: False for a rule that does not hold for this column's kernels.
        because: of the job's own check: the cases that made it what it is; see `model.JobResult`.
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
    answers: tuple[str, ...] = ()
    because: tuple[CaseId, ...] = ()
    applies: bool = True

    @property
    def word(self) -> str:
        """The outcome in one word for people: "pass", "flaky 2/3" (passes of repeats), "missing"."""
        if self.missing:
            return "missing"
        if self.flaky and len(self.answers) > 1:
            return f"flaky: {' or '.join(self.answers)}"
        if self.flaky:
            return f"flaky {self.outcomes.count(Outcome.PASS)}/{len(self.outcomes)}"
        return str(self.outcome)

    @property
    def fine(self) -> bool:
        """Whether the check itself ran here and passed, in every repeat."""
        return self.outcome is Outcome.PASS and not (self.missing or self.implied or self.flaky)

    @property
    def told(self) -> str:
        """What was recorded, where that is all there is to tell, and else `word`."""
        return self.answers[0] if len(self.answers) == 1 and self.outcome is Outcome.PASS else self.word


@dataclass(frozen=True, slots=True)
class Row:
    """One check across the columns; a column that ran no such job has no cell.

    Attributes:
        case: its name for people, unlike that of any other row of its group.
    """

    id: CaseId
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
        """Return the verdict that matters most among this column's checks; what still fails is not FIXED."""
        found = {row.cells[column].verdict for row in self.rows if column in row.cells}
        first = next((v for v in VERDICT_ORDER if v in found), None)
        outcome = self.outcome(column)
        return Verdict.SAME if first is Verdict.FIXED and outcome and outcome[0].is_bad else first

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
        return worst(c.outcome for c in (solid or ran)), flaky

    def count(self, column: str) -> tuple[int, int]:
        """Return how many of this column's checks pass, and how many apply; the job itself and skips left out."""
        cells = [row.cells[column] for row in self.rows if column in row.cells and row.id != JOB]
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
        difference: see `Run.difference`.
        verdicts: how many checks (builds included) got each verdict, over all columns; a crash that keeps
            seven checks from running counts once.
        by_column: the same for each column, builds left out.
        outcomes: how many jobs ended how.
        fault_count, faulty_scenarios: how many faults regressed (see `verdict.faults`), and in how many scenarios.
        compared: whether any check ran on the base and on another column; without, nothing counts as SAME.
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
    difference: str = "series"
    compared: bool = True
    fault_count: int = 0
    faulty_scenarios: int = 0

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
        """Whether a column is compared with the base column; else no cell has a verdict.

        Two kernels are not enough: a mixed column has both, and where it alone was run nothing is compared with it.
        """
        return len(self.columns) > 1 and self.base in self.columns

    @property
    def alone(self) -> bool:
        """Whether one kernel is all there is: then no build has a verdict either."""
        return len(self.columns) < 2 and len({b.kernel for b in self.builds}) < 2

    @property
    def bad_cells(self) -> int:
        """Number of bad cells, in whatever column."""
        return sum(c.outcome.is_bad and not c.missing for g in self.groups for r in g.rows for c in r.cells.values())

    @property
    def bad(self) -> int:
        """Number of bad cells and broken builds, in whatever column."""
        return self.bad_cells + sum(b.outcome.is_bad or b.outcome is Outcome.BLOCKED for b in self.builds)

    @property
    def judged(self) -> bool:
        """Whether anything at all passed or failed; skips and losses alone are no result."""
        return self.bad > 0 or any(
            c.outcome is Outcome.PASS and not c.missing for g in self.groups for r in g.rows for c in r.cells.values()
        )

    @property
    def exit_code(self) -> int:
        """What the process ends with.

        1: something regressed, a broken build of kernel or module included; where the base column did not run:
        any check is bad; with one kernel alone: anything is. 3: no regression is known, but the lab lost a job in
        every repeat (INFRA), the run is not complete, or nothing was judged at all (every job skipped). 0: nothing
        regressed. Checks that are bad on the base too, flaky ones, skips and blocked scenarios do not change it by
        themselves.
        """
        bad = self.bad if self.alone else self.bad_cells  # of two kernels' builds the verdicts tell
        if self.regressed or (not self.compares and bad):
            return 1
        return 3 if self.lost or not self.complete or not self.judged else 0

    @property
    def headline(self) -> str:
        """`2 faults REGRESSED in 1 scenario (12 checks), 1 FIXED, 40 SAME`; outcomes of jobs without a comparison."""
        if self.compares:
            words = [f"{self.verdicts[v]} {v}" for v in HEADLINE_ORDER if self.verdicts.get(v)]
            words[:1] = self._regressed() if self.regressed else words[:1]
            nothing = [] if self.compared or self.regressed else ["nothing compared"]
            return ", ".join(nothing + words) or "nothing compared"
        words = [f"{self.outcomes[o]} {o}" for o in Outcome if self.outcomes.get(o)]
        return ", ".join(words) or "no job ran"

    def _regressed(self) -> list[str]:
        """Return what regressed in words: faults before checks, since one fault may fail many."""
        builds = sum(check.verdict is Verdict.REGRESSED for check in self.builds)
        checks = self.regressed - builds
        faults = f"{counted(self.fault_count, 'fault')} REGRESSED in {counted(self.faulty_scenarios, 'scenario')}"
        told = [f"{faults} ({counted(checks, 'check')})"] if checks else []
        return told + ([f"{counted(builds, 'build')} REGRESSED"] if builds else [])

    @property
    def basis(self) -> str:
        """What a difference between the columns can mean, in one sentence."""
        if self.alone:
            return "One kernel: nothing to compare with."
        if not self.compares:
            return "The base column did not run: nothing to compare with."
        if not self.builds:
            return "No build is stored: whether the kernels have one base is not known."
        if self.same_base:
            return {
                "": "The same kernels twice: a difference is chance, or the host's or the scenarios' doing.",
                "configuration": "Same base and series: the kernels differ by their configuration or compiler.",
            }.get(self.difference, "Same base: the kernels differ by their series alone.")
        what = {"tools": "Different tools", "base and tools": "Different bases and tools"}
        return f"{what.get(self.difference, 'Different bases')}: a difference need not be the series' doing."
