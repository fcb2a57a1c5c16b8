"""A search from its question to its report: asks the loop what to run, lets the prober run it, stores every run."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from kpatchlab.bisect import gitlog, state, summary
from kpatchlab.bisect.commits import CommitRange
from kpatchlab.bisect.criterion import Judged, narrowed
from kpatchlab.bisect.loop import Ask, EndsDoNotDiffer, Loop, Mark, Phase, ProbeResult
from kpatchlab.bisect.prober import BuiltCommit, Prober
from kpatchlab.bisect.search import FIGURES, Noise
from kpatchlab.bisect.state import Ended, SearchState
from kpatchlab.build.context import BuildCancelled
from kpatchlab.errors import UserError
from kpatchlab.files import write_atomic
from kpatchlab.lab.recipes import KernelRecipe
from kpatchlab.progress import Progress, clock
from kpatchlab.textclean import printable

CANDIDATES = 3
"""Commits side by side where there is room: the half of what is left, and both quarters beside it."""
REPORT, MAIL, GIT_LOG = "report.txt", "mail.txt", "git-bisect.log"


@dataclass(slots=True)
class Drive:
    """One search that is carried through.

    Args:
        folder: where the state and the reports are written.
        whole: the recipe with the whole configuration, where the prober has one with fewer modules.
    """

    state: SearchState
    folder: Path
    history: CommitRange
    prober: Prober
    progress: Progress
    cancel: threading.Event = field(default_factory=threading.Event)
    whole: KernelRecipe | None = None
    loop: Loop = field(init=False)
    _built: dict[str, BuiltCommit] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        question = self.state.question
        kind = question.criterion.kind
        self.loop = Loop(
            self.history,
            FIGURES if kind == "metric" else Noise(),
            question.confidence,
            1 if kind == "build" else question.runs,
            self.prober.space.parents,
            list(self.state.told),
        )
        self._narrow()

    def go(self) -> SearchState:
        """Search to the end.

        Raises:
            UserError: the ends do not differ; the report has the evidence.
            BuildCancelled: the user ended it; what was run is stored.
            LabError: the lab or the host failed; likewise.
        """
        if self.state.ended:
            return self.state
        try:
            while (ask := self.loop.ask(self.cost)) is not None:
                self._check_cancel()
                self._step(ask)
        except EndsDoNotDiffer as refused:
            if self._widened(refused):
                return self.go()
            self.state.ended, self.state.reason = Ended.REFUSED, refused.message
            self._write(refused.message)
            raise UserError(
                f"nothing to search for: {refused.message}", hint=refused.hint, details=tuple(self._evidence())
            ) from None
        if self.loop.exhausted and not self.loop.proven:
            self.progress.note(summary.given_up(self.loop))
        if self.loop.proven and not self.state.reverted:
            self._check_cancel()
            self.state.reverted = self._revert()
        self._conclude()
        self._write()
        return self.state

    def _widened(self, refused: EndsDoNotDiffer) -> bool:
        """Begin anew with the whole configuration where the ends do not differ without some modules.

        Returns:
            Whether that is so.
        """
        if not self.state.trimmed or self.whole is None:
            return False
        self.progress.note(f"{refused.message}; once more with all modules of the configuration")
        self.state.trimmed, self.state.told, self.state.sought = (), (), ()
        self.state.kernels.clear()
        self.prober.use(self.whole)
        self.prober.criterion = self.state.question.criterion
        self._begin()
        self._save()
        return True

    def cost(self, commit: str) -> float:
        """Return the seconds that a run on a commit takes now."""
        guests = self.prober.times.run_s() if self.prober.criterion.runs_guests else 0.0
        if commit in self.prober.kernels:
            return guests + 0.1
        return guests + self.prober.times.build_s(self._distance(commit))

    def _distance(self, commit: str) -> int:
        """Return how many commits lie between one and what the object directory holds."""
        if not self.prober.at:
            return len(self.history.commits)
        return (self.history.mask(commit) ^ self.history.mask(self.prober.at)).bit_count()

    def _check_cancel(self) -> None:
        if self.cancel.is_set():
            raise BuildCancelled("search stopped", hint=f"kpatchlab bisect --resume {self.state.id} goes on")

    # --- one step

    def _step(self, ask: Ask) -> None:
        ready: list[tuple[ProbeResult, BuiltCommit]] = []
        # In the order of the history, so that each is built from a near neighbour.
        for one in sorted([ask, *self._beside(ask)], key=lambda one: self.history.mask(one.commit).bit_count()):
            found = self._build(one)
            # What is built to the same objects as another one that is to be run now has that one's verdict afterwards.
            if found and not any(found[1].digest and found[1].digest == other.digest for _, other in ready):
                ready.append(found)
        if len(ready) > 1:
            judgements, run, seconds = self.prober.run_beside([built for _, built in ready])
            self._check_cancel()
            each = round(seconds / len(ready), 1)
            for (first, _), judged in zip(ready, judgements, strict=True):
                self._tell(replace(first, seconds=each, run=run), [judged], save=False)
            self._save()
        elif ready:
            self._run(*ready[0], ask.runs)

    def _beside(self, ask: Ask) -> list[Ask]:
        """Return what is built and run together with a step, where the machine has room for it."""
        asked, kind = self.state.question.candidates, self.prober.criterion.kind
        if asked == 1 or kind not in {"case", "splat"} or self.prober.tests_of_tree:
            return []
        if not asked and self.prober.width() < CANDIDATES:
            return []
        most, times = asked or CANDIDATES, self.prober.times
        return self.loop.beside(
            ask, most, lambda commit: max(0.0, self.cost(commit) - times.run_s()), times.run_s(), always=bool(asked)
        )

    def _build(self, ask: Ask) -> tuple[ProbeResult, BuiltCommit] | None:
        """Return a commit's kernel that is to be run; None where what was built told all, and that is recorded."""
        again = ask.phase is Phase.PROOF and self.prober.criterion.kind == "build"
        built = self.prober.built(ask.commit, self._distance(ask.commit), again=again)
        self._check_cancel()
        first = ProbeResult(
            ask.commit, Mark.SKIP, ask.phase, build_s=round(built.seconds, 1),
            objects=built.result.objects_compiled if built.fresh else 0,
        )  # fmt: skip
        if judged := self.prober.judge_build(built):
            self._tell(first, [judged])
            return None
        if same := self._same(ask, built):
            alike = self.loop.alike(ask.commit, same, ask.phase)
            self._told(replace(alike, build_s=first.build_s, objects=first.objects))
            return None
        return first, built

    def _run(self, first: ProbeResult, built: BuiltCommit, runs: int) -> None:
        good = self._good_end() if self.prober.criterion.kind == "metric" else None
        count = max(1, min(self.prober.width(), runs))
        judgements, run, seconds = self.prober.run(built, good, count)
        self._check_cancel()  # jobs that were ended are missing in the run: nothing can be told from it
        self._tell(replace(first, seconds=round(seconds, 1), run=run), judgements)

    def _good_end(self) -> BuiltCommit:
        """Return the good end's kernel; figures are taken on it beside each step's."""
        good = self.prober.built(self.history.good, self._distance(self.history.good))
        if judged := self.prober.judge_build(good):
            raise UserError(f"the good end cannot be tested: {judged.reason}")
        return good

    def _same(self, ask: Ask, built: BuiltCommit) -> str:
        """Return the tested commit that stands for one that is to be run, "" where it has to be run itself."""
        if ask.phase is Phase.PROOF or any(one.commit == ask.commit and not one.same_as for one in self.loop.told):
            return ""
        own = [one for one in self.loop.told if one.verdict in {Mark.GOOD, Mark.BAD} and not one.same_as]
        tested = dict.fromkeys(one.commit for one in own)
        same = self.prober.same_objects(built, [c for c in tested if c != ask.commit])
        if same and ask.phase is Phase.ENDS:
            raise EndsDoNotDiffer(
                "both ends are built to the same objects", "does the configuration have what the range changes?"
            )
        return same if same and self.loop.search.can_be_same(ask.commit, same) else ""

    def _tell(self, first: ProbeResult, judgements: Sequence[Judged], *, save: bool = True) -> None:
        for number, judged in enumerate(judgements):
            one = self._against_the_ends(first, judged)
            told = replace(first, verdict=one.verdict, reason=one.reason, details=one.details[:20_000])
            self._told(told if number == 0 else replace(told, build_s=0.0, objects=0), save=False)
        if save:
            self._save()

    def _against_the_ends(self, first: ProbeResult, judged: Judged) -> Judged:
        """Learn from the ends what is sought: all that the bad one shows and the good one does not."""
        if first.phase is not Phase.ENDS or judged.verdict is not Mark.BAD or self.prober.criterion.kind == "metric":
            return judged
        if first.commit == self.history.bad:
            self.state.sought = tuple(dict.fromkeys((*self.state.sought, *judged.signatures)))
        elif first.commit == self.history.good and self.state.question.criterion != self.prober.criterion:
            left = tuple(name for name in self.state.sought if name not in judged.signatures)
            if left:
                self.state.sought = left
                judged = Judged(Mark.GOOD, f"fails as the bad end does, but not with {', '.join(left)}")
        self._narrow()
        return judged

    def _narrow(self) -> None:
        if self.state.sought:
            self.prober.criterion = narrowed(self.state.question.criterion, [self.state.sought])

    def _told(self, one: ProbeResult, *, save: bool = True) -> None:
        self.loop.tell(one)
        if save:
            self._save()
        self.progress.note(summary.step_line(self.loop, one, self._left()))

    def _left(self) -> str:
        if not self.loop.search.counts:
            return ""
        proof_s = 2 * self.loop.runs * self.prober.times.run_s() if self.prober.criterion.runs_guests else 0.0
        return f"about {clock(self.loop.search.remaining_s(self.cost, proof_s))} left"

    def _save(self) -> None:
        self.state.told = tuple(self.loop.told)
        state.save(self.state, self.folder)

    # --- the end

    def _revert(self) -> str:
        """Test the bad end with the culprit undone; returns what came of it."""
        (culprit,), _ = self.loop.search.suspects()
        self.progress.note(f"undoing {culprit[:12]} on top of the bad end")
        commit = self.prober.space.revert(culprit, self.history.bad)
        if not commit:
            return "does not apply: later commits build on it"
        built = self.prober.built(commit, self._distance(self.history.bad))
        if judged := self.prober.judge_build(built):
            return f"{judged.verdict.value}: {judged.reason}"
        good = self._good_end() if self.prober.criterion.kind == "metric" else None
        judgements, _, _ = self.prober.run(built, good, self.loop.runs)
        self._check_cancel()
        bad = sum(one.verdict is Mark.BAD for one in judgements)
        if lost := next((one for one in judgements if one.verdict in {Mark.SKIP, Mark.INFRA}), None):
            return f"cannot be tested: {lost.reason}"
        what = ": it is gone" if not bad else ": something else breaks it as well" if bad == len(judgements) else ""
        return f"failed in {bad} of {len(judgements)} runs{what}"

    def _conclude(self) -> None:
        """Put into the state which commit it is, as far as that can be told."""
        self.state.ended = Ended.FOUND if self.loop.proven else Ended.SUSPECTS
        if self.loop.elsewhere[0]:
            self.state.reason = summary.elsewhere(self.state, self.loop)
            return
        group, _ = self.loop.search.suspects()
        self.state.suspects = tuple(map(self.history.named, group))
        self.state.culprit = self.state.suspects[0] if len(group) == 1 else None

    def _evidence(self) -> list[str]:
        return [summary.told_line(self.history, one) for one in self.loop.told]

    def _write(self, refused: str = "") -> None:
        """Write state, report, mail and git's log."""
        self._save()
        text = printable(summary.text(self.state, self.loop, self.prober.space, refused))
        write_atomic(self.folder / REPORT, text.encode("utf-8", "replace"))
        write_atomic(self.folder / GIT_LOG, gitlog.write(self.loop).encode("utf-8", "replace"))
        if self.state.ended is Ended.FOUND:
            mail = printable(summary.mail(self.state, self.loop, self.prober.space))
            write_atomic(self.folder / MAIL, mail.encode("utf-8", "replace"))
