"""The search itself: what is known of each commit, and which one to test next. Pure.

Two explanations compete all along. *Deterministic*: every commit with the culprit fails, none without it does; a run
then halves what is left, as plain bisection has it. *Noisy*: a commit with the culprit fails at a rate p, one without
it at a rate q, neither of them known; both are integrated out (Beta-Bernoulli, as git-bayesect has it), so that they
are estimated as the runs come in. The next run is where it tells most about the culprit for each second that it
takes (mutual information, as in D. Turner's and J. Kara's stochastic bisection), over any graph of commits: commits
that lie on the same side of all runs so far are one class, and sums over classes are counts of bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kpatchlab.bisect.commits import CommitRange, bits

NEAR_SKIP = 0.8
"""How likely a neighbour of an untestable commit is untestable, and the square of it for the next one."""
POINTLESS_BITS = 1e-6
"""A run that tells less than this tells nothing: what it could tell apart is settled."""
NEGLIGIBLE = 1e-7
"""Candidates of this probability together are not looked at when the next run is chosen."""


@dataclass(frozen=True, slots=True)
class Noise:
    """What is believed of runs before there is any.

    Attributes:
        deterministic: probability that the fault shows always, and never without its commit.
        bad: (a, b) of the Beta distribution of the rate at which a commit with the culprit fails.
        good: likewise of one without it: false alarms.
    """

    deterministic: float = 0.9
    bad: tuple[float, float] = (1.0, 1.0)
    good: tuple[float, float] = (0.2, 100.0)


FIGURES = Noise(deterministic=0.0, bad=(4.0, 1.0), good=(1.0, 4.0))
"""For figures beyond a bound: both sides vary, and neither is ever certain."""


@dataclass(slots=True)
class Count:
    """The runs of one commit."""

    bad: int = 0
    good: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.bad + self.good


@dataclass(frozen=True, slots=True)
class _Class:
    """Candidates that no run so far tells apart: their set, each one's probability, and both rates if one is it."""

    mask: int
    weight: float
    p: float
    q: float
    h: float  # entropy of p, and of q
    g: float
    size: int


def _beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _entropy(p: float) -> float:
    return 0.0 if p <= 0.0 or p >= 1.0 else -p * math.log2(p) - (1 - p) * math.log2(1 - p)


def _spread(parts: Sequence[int]) -> float:
    """Return the bits that it tells in which of several sets the culprit is."""
    total = sum(part.bit_count() for part in parts)
    shares = [part.bit_count() / total for part in parts]
    return -sum(share * math.log2(share) for share in shares)


class Search:
    """The state of one search: a pure function of what was recorded, in whatever order.

    Args:
        confidence: probability at which a commit counts as found.
    """

    def __init__(self, history: CommitRange, noise: Noise | None = None, confidence: float = 0.95) -> None:
        self.history, self.noise, self.confidence = history, noise or Noise(), confidence
        self.counts: dict[str, Count] = {}
        self.skipped: set[str] = set()
        self.twins: dict[str, str] = {}  # commit -> a tested one that is built to the same objects
        self._alive = history.all
        self._masks: dict[str, int] = {}
        self._classes: list[_Class] | None = None
        self._sure = 0.0

    # --- what is told

    def record(self, commit: str, *, bad: int = 0, good: int = 0, mask: int | None = None) -> None:
        """Take the verdicts of runs; `mask`: the candidates in a commit that the history does not have."""
        count = self.counts.setdefault(commit, Count())
        count.bad += bad
        count.good += good
        self._masks[commit] = self.history.mask(commit) if mask is None else mask
        self._classes = None

    def skip(self, commit: str) -> None:
        """Leave a commit out: it cannot be tested, and can still be the culprit."""
        self.skipped.add(commit)

    def same(self, commit: str, other: str) -> None:
        """Take it that two commits are built to the same objects: no commit that only one of them has is it.

        From then on the other one is run in the place of this one, which tells nothing more.

        Where no candidate would be left nothing is taken: runs are at odds with the objects, and may be right.
        """
        if self.can_be_same(commit, other):
            self._alive &= ~(self.history.mask(commit) ^ self.history.mask(other))
            self.twins[commit] = other
            self._classes = None

    def can_be_same(self, commit: str, other: str) -> bool:
        """Return whether a candidate is left if two commits are the same."""
        return bool(self._alive & ~(self.history.mask(commit) ^ self.history.mask(other)))

    # --- what is known

    def consistent(self) -> int:
        """Return the candidates that explain every run if the fault is deterministic."""
        left = self._alive
        for commit, count in self.counts.items():
            if count.bad:
                left &= self._masks[commit]
            if count.good:
                left &= ~self._masks[commit]
        return left

    @property
    def deterministic(self) -> float:
        """Probability that the fault is deterministic."""
        self._update()
        return self._sure

    def probability(self, commit: str) -> float:
        """Return the probability that a candidate is the culprit."""
        bit = 1 << self.history.index(commit)
        return next((c.weight for c in self._update() if c.mask & bit), 0.0)

    def probability_bad(self, commit: str) -> float:
        """Return the probability that a commit contains the culprit."""
        mask = self._masks.get(commit, self.history.mask(commit))
        return sum(c.weight * (c.mask & mask).bit_count() for c in self._update())

    def rate(self) -> float:
        """Return the rate at which a commit with the culprit is expected to fail."""
        return sum(c.weight * c.mask.bit_count() * c.p for c in self._update())

    def bits_left(self) -> float:
        """Return the uncertainty about the culprit, in bits."""
        return -sum(c.weight * c.mask.bit_count() * math.log2(c.weight) for c in self._update() if c.weight > 0)

    def suspects(self) -> tuple[list[str], float]:
        """Return the most probable candidates that no testable commit tells apart, and their probability together.

        It is one commit, unless commits that cannot be tested stand in between.
        """
        classes = sorted(self._update(), key=lambda c: -c.weight)
        top = classes[0].mask
        group = top & -top
        if top.bit_count() > 1 or self.skipped:
            group = max((self._group(1 << bit) for bit in bits(top)), key=self._weight)
        return self.history.members(group), self._weight(group)

    def _weight(self, group: int) -> float:
        return sum(c.weight * (c.mask & group).bit_count() for c in self._update())

    @property
    def settled(self) -> bool:
        """Whether the search can stop, up to the proof of what it found."""
        consistent = self.consistent()
        if self.deterministic > 0.5 and consistent:
            return self._best_split(consistent) is None
        group, probability = self.suspects()
        return bool(group) and probability >= self.confidence

    def _group(self, bit: int) -> int:
        """Return the living candidates that testable commits cannot tell from one."""
        group = self._alive
        for commit in self._testable():
            mask = self.history.contains[commit]
            group &= mask if mask & bit else ~mask
            if group == bit:
                break
        return group

    def _testable(self) -> list[str]:
        # A twin lies on the same side of every living candidate as the commit that it equals.
        return [c for c in self.history.contains if c not in self.skipped and c not in self.twins]

    # --- what to do

    def choose(self, cost: Callable[[str], float]) -> str | None:
        """Return the commit to test next, None where no further run tells anything.

        Args:
            cost: commit -> seconds that a run on it takes now, what has to be built first included.
        """
        consistent = self.consistent()
        if self.deterministic > 0.5 and consistent:
            return self._best_split(consistent, cost)
        best, most = None, 0.0
        classes = [c for c in self._update() if c.weight * c.size > NEGLIGIBLE]
        matters = sum(c.mask for c in classes)  # classes are disjoint: the sum is the union
        known: dict[int, float] = {}
        for commit in self._testable():
            mask = self.history.contains[commit] & matters
            if (told := known.get(mask, -1.0)) < 0:
                told = known[mask] = self._information(mask, classes)
            if told > POINTLESS_BITS and (rate := told * self._chance(commit) / max(cost(commit), 1e-3)) > most:
                best, most = commit, rate
        return best

    def beside(self, chosen: Sequence[str]) -> tuple[str | None, float]:
        """Return which commit to test at once with others, and the bits that one run of each tells together.

        That is for a deterministic fault: beside the half come the quarters. None where a further one tells nothing.
        """
        parts = self._parts([self.consistent()], chosen)
        best, most = None, _spread(parts)
        for commit in self._testable():
            told = _spread(self._parts(parts, [commit]))
            if told > most + POINTLESS_BITS:
                best, most = commit, told
        return best, most

    def _parts(self, parts: Sequence[int], commits: Sequence[str]) -> list[int]:
        """Return sets of candidates, divided by whether each of these commits contains them."""
        found = list(parts)
        for commit in commits:
            mask = self.history.contains[commit]
            found = [piece for part in found for piece in (part & mask, part & ~mask) if piece]
        return found

    def remaining_s(self, cost: Callable[[str], float], proof_s: float = 0.0) -> float:
        """Return the seconds that the search is expected to take from here, the proof (`proof_s`) included."""
        nearest = self.choose(cost)
        if nearest is None or self.settled:
            return proof_s
        each, left = cost(nearest), self.consistent()
        if self.deterministic > 0.5 and left:
            return math.ceil(math.log2(max(left.bit_count(), 1))) * each + proof_s
        told = self._information(self.history.contains[nearest], self._update())
        done = _entropy(self.confidence)
        return max(0.0, self.bits_left() - done) / max(told, 0.01) * each + proof_s

    def _best_split(self, left: int, cost: Callable[[str], float] = lambda _: 1.0) -> str | None:
        """Return the commit that halves `left` best for its price, without a step more than plain bisection needs."""
        total = left.bit_count()
        half = 1 << max(0, (total - 1).bit_length() - 1)
        best: tuple[bool, float] = (False, 0.0)
        found = None
        for commit in self._testable():
            part = (self.history.contains[commit] & left).bit_count()
            if not 0 < part < total:
                continue
            worth = _entropy(part / total) * self._chance(commit) / max(cost(commit), 1e-3)
            rank = (max(part, total - part) <= half, worth)
            if found is None or rank > best:
                best, found = rank, commit
        return found

    def _chance(self, commit: str) -> float:
        """Return the probability that a commit can be tested: commits near an untestable one often cannot."""
        # A culprit's own parent can be none of the range, which paths limit: it says nothing of its neighbours there.
        skipped = [other for other in self.skipped if other in self.history.contains]
        if not skipped or commit in self.counts:
            return 1.0
        place = self.history.index(commit)
        nearest = min(abs(place - self.history.index(other)) for other in skipped)
        return 1.0 - NEAR_SKIP**nearest

    def _information(self, mask: int, classes: list[_Class]) -> float:
        """Return how many bits about the culprit one run of a commit tells."""
        fails = known = 0.0
        for c in classes:
            inside = (c.mask & mask).bit_count()
            outside = c.size - inside
            fails += c.weight * (inside * c.p + outside * c.q)
            known += c.weight * (inside * c.h + outside * c.g)
        return max(0.0, _entropy(fails) - known)

    def _update(self) -> list[_Class]:
        if self._classes is None:
            self._classes = self._weigh()
        return self._classes

    def _weigh(self) -> list[_Class]:
        """Divide the candidates into classes and weigh each: the posterior."""
        parts: dict[tuple[int, ...], int] = {(): self._alive}
        told = [(self._masks[commit], count) for commit, count in self.counts.items() if count.bad or count.good]
        for number, (mask, _) in enumerate(told):
            pieces = [
                pair for side, part in parts.items() for pair in ((side, part & ~mask), ((*side, number), part & mask))
            ]
            parts = {side: piece for side, piece in pieces if piece}
        a, b = self.noise.bad
        c, d = self.noise.good
        bad, good = sum(count.bad for _, count in told), sum(count.good for _, count in told)
        raw = []
        consistent = self.consistent()
        for inside, part in parts.items():
            hit = sum(told[n][1].bad for n in inside)
            miss = sum(told[n][1].good for n in inside)
            noisy = _beta(a + hit, b + miss) - _beta(a, b) + _beta(c + bad - hit, d + good - miss) - _beta(c, d)
            p = (a + hit) / (a + b + hit + miss)
            q = (c + bad - hit) / (c + d + bad + good - hit - miss)
            raw.append((part, noisy, bool(part & consistent), p, q))
        # Every class lies on one side of each run, so it is consistent as a whole or not at all.
        prior = self.noise.deterministic
        top = max(noisy for _, noisy, *_ in raw)
        top = max(top, 0.0) if prior and consistent else top
        sure = [prior * math.exp(-top) if fits else 0.0 for *_, fits, _, _ in raw]
        unsure = [(1 - prior) * math.exp(noisy - top) for _, noisy, *_ in raw]
        total = sum((s + u) * part.bit_count() for (part, *_), s, u in zip(raw, sure, unsure, strict=True))
        self._sure = sum(s * part.bit_count() for (part, *_), s in zip(raw, sure, strict=True)) / total
        classes = []
        for (part, _, _, p, q), s, u in zip(raw, sure, unsure, strict=True):
            if s + u:
                p, q = (s + u * p) / (s + u), u * q / (s + u)  # noqa: PLW2901 - the two explanations mixed
            classes.append(_Class(part, (s + u) / total, p, q, _entropy(p), _entropy(q), part.bit_count()))
        return classes
