"""The order of a search: both ends first, then the run that tells most, then the proof. Pure: the caller runs them.

The same code serves a search with guests, a search that goes on after a kill, and a simulation.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from dataclasses import dataclass, field

from kpatchlab.bisect.commits import CommitRange
from kpatchlab.bisect.search import Count, Noise, Search

ENDS_AT_MOST = 12
"""Runs of an end before it counts as one that does not show what is said of it: a fault that shows in one run of
three is missed by so many in one search of 130."""
MISSED = 0.05
"""How likely a fault may have been missed where runs that show nothing are to prove something."""
ELSEWHERE_RUNS = 4
"""Runs of a parent outside of the range, all bad, that are 95 % sure beside one good run of the commit before it."""
INFRA_TRIES = 2
STEP_RUNS_AT_MOST = 60
"""So many runs for each step that plain bisection needs, and for ends and proof, then a search gives up. 480 for 64
commits, where a fault that shows in one run of ten took 220 in the mean and 417 at most (16 simulated searches)."""


class Mark(enum.StrEnum):
    """What one run says about a commit."""

    GOOD = "good"
    BAD = "bad"
    SKIP = "skip"  # it cannot be tested: not built, not booted, fails otherwise
    INFRA = "infra"  # the lab's own fault: tried again, and then as SKIP


class Phase(enum.StrEnum):
    """What a run is for."""

    ENDS = "ends"
    SEARCH = "search"
    PROOF = "proof"


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """One run: what was seen, in one line, and how long it took.

    Attributes:
        same_as: a tested commit that is built to the same objects: nothing was run then, the verdict is that one's.
        build_s: seconds from checkout to a kernel; objects: how many the compiler made. Both in a commit's first run.
        run: folder of the run below the search's own, with consoles and all.
        details: the splat or the compiler's words.
    """

    commit: str
    verdict: Mark
    phase: Phase
    reason: str = ""
    seconds: float = 0.0
    same_as: str = ""
    build_s: float = 0.0
    objects: int = 0
    run: str = ""
    details: str = ""


@dataclass(frozen=True, slots=True)
class Ask:
    """The next thing to do: `runs` runs of a commit are known to be needed; after fewer it is asked for again."""

    commit: str
    runs: int
    phase: Phase


class EndsDoNotDiffer(Exception):
    """The search has no ground; `message` says why, `hint` what can be done."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message, self.hint = message, hint


@dataclass(slots=True)
class Loop:
    """Decides what is run, from all that was run so far.

    Args:
        runs: runs of each end, and of the culprit and its parents in the proof, at least.
        parents: commit -> the commits that the proof compares it with; default: those of the history.

    Attributes:
        told: every run so far, in order.
    """

    history: CommitRange
    noise: Noise = field(default_factory=Noise)
    confidence: float = 0.95
    runs: int = 3
    parents: Callable[[str], tuple[str, ...]] | None = None
    told: list[ProbeResult] = field(default_factory=list)
    search: Search = field(init=False)
    _untold: dict[str, int] = field(default_factory=dict)
    _children: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.search = Search(self.history, self.noise, self.confidence)
        earlier, self.told = self.told, []
        for one in earlier:
            self.tell(one)

    def tell(self, one: ProbeResult) -> None:
        """Take one run."""
        self.told.append(one)
        if one.same_as:
            self.search.same(one.commit, one.same_as)
        elif one.verdict in {Mark.INFRA, Mark.SKIP}:
            self._untold[one.commit] = untold = self._untold.get(one.commit, 0) + 1
            # A commit that told before can be tested: a host that was too busy for once does not take that away.
            told = self.search.counts.get(one.commit, Count()).total
            if untold >= (INFRA_TRIES if one.verdict is Mark.INFRA else 1) and untold > told:
                self.search.skip(one.commit)
        else:
            bad = int(one.verdict is Mark.BAD)
            self.search.record(one.commit, bad=bad, good=1 - bad, mask=self._mask(one.commit))

    def _mask(self, commit: str) -> int | None:
        """Return the candidates in a parent that the range, limited to paths, does not have; None: it has it."""
        child = self._child(commit)
        return self.history.mask(child) & ~(1 << self.history.index(child)) if child else None

    def _child(self, commit: str) -> str:
        """Return the candidate that a commit which is none itself is a parent of, "" where there is none."""
        if commit in self.history.contains or commit == self.history.good:
            return ""
        if commit not in self._children:
            self._children[commit] = next((c for c in self.history.commits if commit in self.parents_of(c)), "")
        return self._children[commit]

    def parents_of(self, commit: str) -> tuple[str, ...]:
        """Return the commits that a proof compares a commit with: its own parents, whatever the range is limited to."""
        return (self.parents or (lambda c: self.history.parents.get(c, ())))(commit)

    def ask(self, cost: Callable[[str], float] = lambda _: 1.0) -> Ask | None:
        """Return what to do next, None where the search is over.

        Raises:
            EndsDoNotDiffer: the ends were tested, and there is nothing to find between them.
        """
        if ends := self._ends():
            return ends
        if self.exhausted:
            return None
        for parent in self._elsewhere():
            if left := self._unsure(parent):
                return Ask(parent, left, Phase.PROOF)
        if self.elsewhere[0]:
            return None
        if not self.search.settled:
            if commit := self.search.choose(cost):
                return Ask(commit, 1 if self.search.deterministic > 0.5 else self.runs, Phase.SEARCH)
            return None
        return self._proof()

    def beside(
        self, ask: Ask, most: int, build_s: Callable[[str], float], run_s: float, *, always: bool = False
    ) -> list[Ask]:
        """Return what to run at once with the next run of a search: of a deterministic fault, the quarters as well.

        Builds go one after the other, since each has all processors, so another candidate costs its build; what runs
        at once takes the time of one. A candidate is added while all together then tell more for each second.

        Args:
            most: candidates at once, the first one included.
            build_s: seconds of a commit's build; run_s: of a run.
            always: add up to `most`, whatever they cost.
        """
        if ask.phase is not Phase.SEARCH or self.search.deterministic <= 0.5 or not self.search.consistent():
            return []
        chosen, told = [ask.commit], 1.0
        seconds = build_s(ask.commit) + run_s
        while len(chosen) < most:
            commit, more = self.search.beside(chosen)
            longer = seconds + (build_s(commit) if commit else 0.0)
            if commit is None or (not always and more / longer <= told / seconds):
                break
            chosen, told, seconds = [*chosen, commit], more, longer
        return [Ask(commit, 1, Phase.SEARCH) for commit in chosen[1:]]

    def alike(self, commit: str, other: str, phase: Phase) -> ProbeResult:
        """Return what is told of a commit that is built to the same objects as a tested one: what that one showed.

        Of several runs it is the last that failed; of figures, which vary, the last of those that most agree with.
        """
        count = self._count(other)
        bad = count.bad > count.good if self.noise.deterministic == 0 else count.bad > 0
        verdict = Mark.BAD if bad else Mark.GOOD
        shown = next(one for one in reversed(self.told) if one.commit == other and one.verdict is verdict)
        reason = f"built to the same objects as {other[:12]}" + (f": {shown.reason}" if shown.reason else "")
        return ProbeResult(commit, verdict, phase, reason, same_as=other)

    @property
    def at_most(self) -> int:
        """The runs after which the search gives up."""
        return STEP_RUNS_AT_MOST * (2 + (len(self.history.commits) - 1).bit_length())

    @property
    def exhausted(self) -> bool:
        """Whether the search has had all the runs that it may have."""
        return len(self.told) >= self.at_most

    @property
    def steps(self) -> list[str]:
        """The commits that were tested to find the culprit, each once: neither the ends nor the proof alone."""
        found = [one.commit for one in self.told if one.phase is Phase.SEARCH]
        return [c for c in dict.fromkeys(found) if c not in {self.history.good, self.history.bad}]

    @property
    def proven(self) -> bool:
        """Whether what was found holds: settled, tested again, and probable enough."""
        group, probability = self.search.suspects()
        sure = len(group) == 1 and probability >= self.confidence and self.search.settled
        if not sure or self.elsewhere[0] or self._proof() is not None:
            return False
        return not self.search.skipped.intersection(self.parents_of(group[0]))

    @property
    def elsewhere(self) -> tuple[str, str]:
        """(parent, candidate): a candidate's own parent fails as well, so no candidate broke it; ("", "") as a rule.

        That is how a range that is limited to paths ends where the culprit touches none of them.
        """
        for commit in self._elsewhere():
            child, inside = self._child(commit), self._mask(commit) or 0
            known = [c for c in self.search.counts if not self.history.mask(c) & ~inside and not self._child(c)]
            without = Count(*(sum(getattr(self._count(c), side) for c in known) for side in ("bad", "good")))
            count = self._count(commit)
            alike = better(self._count(child), count) < self.confidence
            if not self._unsure(commit) and alike and better(count, without) >= self.confidence:
                return commit, child
        return "", ""

    def _unsure(self, commit: str) -> int:
        """Return how many runs of a parent outside of the range are to come before it is said to fail as well."""
        count = self._count(commit)
        wanted = ENDS_AT_MOST if count.good else max(self.runs, ELSEWHERE_RUNS)
        return 0 if commit in self.search.skipped else max(0, wanted - count.total)

    def _elsewhere(self) -> list[str]:
        """Return the parents outside of the range that failed at least once."""
        return [c for c, count in self.search.counts.items() if count.bad and self._child(c)]

    def _count(self, commit: str, phase: Phase | None = None) -> Count:
        count = Count()
        for one in self.told:
            if one.commit == commit and not one.same_as and phase in {None, one.phase}:
                count.bad += one.verdict is Mark.BAD
                count.good += one.verdict is Mark.GOOD
        return count

    # --- the ends

    def _ends(self) -> Ask | None:
        bad, good = self._count(self.history.bad, Phase.ENDS), self._count(self.history.good, Phase.ENDS)
        self._check_testable()
        if not bad.bad and bad.good < ENDS_AT_MOST:
            # The good end is looked at before the bad one is run over and over: they may be swapped.
            if bad.good >= self.runs and good.total < self.runs:
                return Ask(self.history.good, self.runs - good.total, Phase.ENDS)
            if not (bad.good >= self.runs and good.bad > 0 and good.good == 0):
                wanted = min(self.runs, ENDS_AT_MOST) if bad.good < self.runs else ENDS_AT_MOST
                return Ask(self.history.bad, wanted - bad.good, Phase.ENDS)
        if bad.total < self.runs and bad.bad:
            return Ask(self.history.bad, self.runs - bad.total, Phase.ENDS)
        wanted = max(self.runs, min(ENDS_AT_MOST, enough(bad.bad / bad.total))) if bad.bad else self.runs
        if good.total < wanted:
            return Ask(self.history.good, wanted - good.total, Phase.ENDS)
        if good.bad and self.noise.deterministic == 0 and bad.total < ENDS_AT_MOST:
            return Ask(self.history.bad, 1, Phase.ENDS)
        self._check_differ(bad, good)
        return None

    def _check_testable(self) -> None:
        for end, name in ((self.history.bad, "bad"), (self.history.good, "good")):
            if end in self.search.skipped:
                reason = next(one.reason for one in reversed(self.told) if one.commit == end)
                raise EndsDoNotDiffer(
                    f"the {name} end {end[:12]} cannot be tested: {reason}",
                    "choose an end that can; it need not be far",
                )

    def _check_differ(self, bad: Count, good: Count) -> None:
        shows = f"bad end {told_count(bad)}, good end {told_count(good)}"
        if not bad.bad and good.bad:
            raise EndsDoNotDiffer(f"the good end fails and the bad end does not: {shows}", "are good and bad swapped?")
        if not bad.bad:
            raise EndsDoNotDiffer(
                f"the bad end does not fail: {shows}", "does it fail on this machine, with this configuration?"
            )
        if good.bad and better(bad, good) < self.confidence:
            raise EndsDoNotDiffer(f"both ends fail: {shows}", "choose an older good end, or a narrower criterion")

    # --- the proof

    def _proof(self) -> Ask | None:
        """Return the next run of the culprit or of a parent of its; both were tested, and are tested again."""
        group, _ = self.search.suspects()
        if len(group) != 1:
            return None
        culprit = group[0]
        wanted = enough(self.search.rate())
        again = self._count(culprit, Phase.PROOF)
        needed = self.runs if again.bad else max(self.runs, wanted)
        if culprit not in self.search.skipped and again.total < needed:
            return Ask(culprit, (needed if again.total >= self.runs else self.runs) - again.total, Phase.PROOF)
        for parent in self.parents_of(culprit) or (self.history.good,):
            count, fresh = self._count(parent), self._count(parent, Phase.PROOF)
            left = max(self.runs - fresh.total, min(ENDS_AT_MOST, wanted) - count.total)
            if parent not in self.search.skipped and left > 0:
                return Ask(parent, left, Phase.PROOF)
        if self.search.suspects()[1] < self.confidence and (commit := self._doubt(culprit)):
            return Ask(commit, 1, Phase.PROOF)
        return None

    def _doubt(self, culprit: str) -> str | None:
        """Return where one more run raises a probability that is not high enough yet."""
        sides = [c for c in (*self.parents_of(culprit), culprit) if c not in self.search.skipped]
        counts = {c: self._count(c) for c in sides}
        sides = [c for c in sides if counts[c].total < 4 * ENDS_AT_MOST]
        return min(sides, key=lambda c: counts[c].total, default=None)


def enough(rate: float) -> int:
    """Return after how many runs without a failure one that fails at `rate` would have shown it.

    >>> enough(1.0), enough(1 / 3)
    (1, 8)
    """
    return 1 if rate >= 1 - MISSED else math.ceil(math.log(MISSED) / math.log(1 - max(rate, 0.01)))


def better(bad: Count, good: Count, grid: int = 200) -> float:
    """Return the probability that the bad end's failure rate is above the good end's, from uniform priors."""
    points = [(n + 0.5) / grid for n in range(grid)]
    high = [p**bad.bad * (1 - p) ** bad.good for p in points]
    low = [p**good.bad * (1 - p) ** good.good for p in points]
    below, won = 0.0, 0.0
    for p, q in zip(high, low, strict=True):
        won += p * (below + q / 2)
        below += q
    return won / (sum(high) * sum(low))


def told_count(count: Count) -> str:
    """Return a count in words."""
    return f"failed in {count.bad} of {count.total} runs"
