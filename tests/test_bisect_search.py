"""The search of a bisection, on made-up histories: the code that also decides which kernels are built."""

from __future__ import annotations

import collections
import itertools
import random
from statistics import mean

import pytest

from kpatchlab.bisect.commits import CommitRange, line, make
from kpatchlab.bisect.loop import EndsDoNotDiffer, Loop, Mark, Phase, ProbeResult
from kpatchlab.bisect.search import FIGURES, Noise, Search
from kpatchlab.errors import UserError


def simulate(loop, run, at_most=10_000):
    """Carry a search through with a function in the place of guests; yields each run."""
    for _ in range(at_most):
        if (wanted := loop.ask()) is None:
            return
        one = ProbeResult(wanted.commit, run(wanted.commit), wanted.phase)
        loop.tell(one)
        yield one


def summary(loop):
    """Return how many runs each phase took."""
    return {phase.value: sum(one.phase is phase for one in loop.told) for phase in Phase}


def search_for(culprit, history=None, *, rate=1.0, alarms=0.0, seed=0, broken=(), **more):
    """Carry a search through for a culprit; returns the loop, over."""
    history = history or line(64)
    bit = 1 << history.index(culprit)
    dice = random.Random(seed)

    def run(commit):
        if commit in broken:
            return Mark.SKIP
        return Mark.BAD if dice.random() < (rate if history.mask(commit) & bit else alarms) else Mark.GOOD

    loop = Loop(history, **more)
    for _ in simulate(loop, run):
        pass
    return loop


@pytest.mark.parametrize("number", [*range(1, 65)])
def test_a_deterministic_fault_takes_the_steps_of_plain_bisection(number):
    loop = search_for(f"c{number}")
    assert loop.proven
    assert loop.search.suspects()[0] == [f"c{number}"]
    assert len(loop.steps) <= 6
    assert summary(loop) == {"ends": 6, "search": len(loop.steps), "proof": 6}


def test_a_fault_that_shows_in_one_run_of_three_is_found():
    """At least 95 right of 100, with fewer runs than ten of each of plain bisection's six steps."""
    right, total, searching = 0, [], []
    for seed in range(100):
        culprit = f"c{random.Random(seed + 1000).randint(1, 64)}"
        try:
            loop = search_for(culprit, rate=1 / 3, seed=seed)
        except EndsDoNotDiffer:
            continue  # counts as not found
        right += loop.proven and loop.search.suspects()[0] == [culprit]
        total.append(len(loop.told))
        searching.append(summary(loop)["search"])
    assert right >= 95
    assert mean(searching) < 60
    assert mean(total) < 100  # both ends, six steps and the proof of two commits, ten runs each


def test_a_figure_that_varies_is_found():
    found = 0
    for seed in range(12):
        try:
            loop = search_for("c11", line(32), rate=0.9, alarms=0.1, seed=seed, noise=FIGURES)
        except EndsDoNotDiffer:
            continue
        found += loop.search.suspects()[0] == ["c11"]
    assert found >= 10


def diamond(width=8):
    """Return a history with a branch of `width` commits merged between two straight parts."""
    rows = [("a1", ("good",))]
    rows += [(f"l{n}", (f"l{n - 1}" if n else "a1",)) for n in range(width)]
    rows += [(f"r{n}", (f"r{n - 1}" if n else "a1",)) for n in range(width)]
    rows += [("m", (f"l{width - 1}", f"r{width - 1}")), ("z1", ("m",)), ("z2", ("z1",))]
    return make("good", "z2", rows)


@pytest.mark.parametrize("culprit", ["a1", "l0", "l7", "r0", "r3", "r7", "m", "z1", "z2"])
def test_a_culprit_on_any_side_of_a_merge_is_found(culprit):
    loop = search_for(culprit, diamond())
    assert loop.search.suspects()[0] == [culprit]
    assert loop.proven
    assert len(loop.steps) <= 6  # 20 candidates; git counts on a step more where merges make halves uneven


def test_a_merge_is_proven_against_each_of_its_parents():
    loop = search_for("m", diamond())
    assert {one.commit for one in loop.told if one.phase is Phase.PROOF} == {"m", "l7", "r7"}


def test_commits_that_cannot_be_tested_are_gone_around():
    loop = search_for("c20", broken={f"c{n}" for n in range(30, 36)})
    assert loop.search.suspects()[0] == ["c20"]
    assert loop.proven
    assert sum(one.verdict is Mark.SKIP for one in loop.told) <= 2


def test_a_culprit_among_untestable_commits_is_told_as_one_of_them():
    loop = search_for("c32", broken={"c31", "c32", "c33"})
    suspects, probability = loop.search.suspects()
    assert suspects == ["c31", "c32", "c33", "c34"]
    assert probability > 0.95
    assert not loop.proven


def test_the_labs_own_fault_is_tried_again_and_is_never_bad():
    loop = Loop(line(4))
    for commit in ("c4",) * 3 + ("c0",) * 3:
        loop.tell(ProbeResult(commit, Mark.BAD if commit == "c4" else Mark.GOOD, Phase.ENDS))
    assert loop.ask().commit == "c2"
    loop.tell(ProbeResult("c2", Mark.INFRA, Phase.SEARCH))
    assert loop.ask().commit == "c2"
    loop.tell(ProbeResult("c2", Mark.INFRA, Phase.SEARCH))
    assert loop.ask().commit != "c2"
    assert loop.search.consistent() == 0b1111


def ends(bad, good):
    loop = Loop(line(8))
    queues = {"c8": list(bad), "c0": list(good)}
    for _ in simulate(loop, lambda c: Mark.BAD if queues[c].pop(0) else Mark.GOOD):
        pass


def test_swapped_ends_are_refused_with_the_evidence():
    with pytest.raises(EndsDoNotDiffer, match=r"failed in 0 of 3 runs.*failed in 3 of 3 runs") as caught:
        ends([0] * 3, [1] * 3)
    assert "swapped" in caught.value.hint


def test_ends_that_both_fail_are_refused():
    with pytest.raises(EndsDoNotDiffer, match="both ends fail"):
        ends([1] * 3, [1] * 3)


def test_a_bad_end_that_never_fails_is_refused():
    with pytest.raises(EndsDoNotDiffer, match="failed in 0 of 12 runs"):
        ends([0] * 12, [0] * 3)


def test_an_end_that_cannot_be_tested_is_refused_with_its_reason():
    loop = Loop(line(8))
    loop.tell(ProbeResult("c8", Mark.SKIP, Phase.ENDS, "does not build"))
    with pytest.raises(EndsDoNotDiffer, match="bad end c8 cannot be tested: does not build"):
        loop.ask()


def test_equal_objects_rule_out_what_lies_between():
    search = Search(line(8))
    search.record("c8", bad=3)
    search.record("c0", good=3)
    search.same("c6", "c3")
    assert search.history.members(search.consistent()) == ["c1", "c2", "c3", "c7", "c8"]


def test_a_warm_neighbour_is_chosen_where_it_costs_no_step():
    """Of 40 commits any split into parts of at most 32 keeps plain bisection's six steps."""
    loop = Loop(line(40))
    loop.search.record("c40", bad=3)
    loop.search.record("c0", good=3)
    near_the_end = lambda c: 1.0 if int(c[1:]) >= 30 else 10.0  # noqa: E731
    assert loop.search.choose(lambda _: 1.0) == "c20"
    chosen = int(loop.search.choose(near_the_end)[1:])
    assert chosen in {30, 31, 32}


def test_a_search_is_the_same_when_its_runs_are_told_again():
    """What a search that goes on after a kill rests on."""
    loop = search_for("c17", rate=1 / 3, seed=3)
    for cut in range(0, len(loop.told), 7):
        again = Loop(line(64), told=list(loop.told[:cut]))
        wanted = again.ask()
        assert (wanted.commit, wanted.phase) == (loop.told[cut].commit, loop.told[cut].phase)


def test_a_wrong_proof_sends_the_search_on():
    """A flaky fault that looked deterministic at first: the proof contradicts, and the right commit is found."""
    loop = Loop(line(16))
    for one in [("c16", 1)] * 3 + [("c0", 0)] * 3:
        loop.tell(ProbeResult(one[0], Mark.BAD if one[1] else Mark.GOOD, Phase.ENDS))
    for _ in range(4):  # by bad luck every commit looks good: c16 would be it
        loop.tell(ProbeResult(loop.ask().commit, Mark.GOOD, Phase.SEARCH))
    assert loop.search.suspects()[0] == ["c16"]
    dice = random.Random(5)
    for _ in simulate(loop, lambda c: Mark.BAD if int(c[1:]) >= 5 and dice.random() < 0.4 else Mark.GOOD):
        pass
    assert loop.search.suspects()[0] == ["c5"]
    assert loop.proven


def test_the_remaining_time_goes_down_to_the_proof():
    loop = Loop(line(64))
    loop.search.record("c64", bad=3)
    loop.search.record("c0", good=3)
    assert loop.search.remaining_s(lambda _: 10.0, 60.0) == pytest.approx(120.0)
    loop.search.record("c32", bad=1)
    assert loop.search.remaining_s(lambda _: 10.0, 60.0) == pytest.approx(110.0)


def test_probabilities_sum_to_one():
    search = Search(diamond(), Noise())
    search.record("z2", bad=2, good=1)
    search.record("l3", good=4)
    search.record("r3", bad=1, good=1)
    assert sum(search.probability(c) for c in search.history.commits) == pytest.approx(1.0)
    assert max(search.history.commits, key=search.probability) in {"r0", "r1", "r2", "r3"}


def test_a_range_without_commits_is_refused():
    with pytest.raises(UserError, match="no commit lies between"):
        make("a", "b", [])


def test_a_range_of_ten_thousand_commits_is_quick():
    history = line(10_000)
    assert isinstance(history, CommitRange)
    loop = search_for("c1234", history)
    assert len(loop.steps) <= 14


def carry(loop, objects, run, bound=2000):
    """Carry a search through where commits of the same `objects` are not run twice; returns all that was asked."""
    asked, built = [], {}
    while (ask := loop.ask()) is not None:
        assert len(asked) < bound
        asked.append(ask)
        tested = [one.commit for one in loop.told if not one.same_as]
        same = next((c for c in tested if c != ask.commit and objects(c) == objects(ask.commit)), "")
        fresh = ask.phase is Phase.SEARCH and ask.commit not in built
        built[ask.commit] = True
        if same and fresh and loop.search.can_be_same(ask.commit, same):
            loop.tell(loop.alike(ask.commit, same, ask.phase))
        else:
            loop.tell(ProbeResult(ask.commit, run(ask.commit), ask.phase, f"{ask.commit} ran"))
    return asked


@pytest.mark.parametrize("noise", [Noise(), FIGURES, Noise(deterministic=0.0)])
@pytest.mark.parametrize("rate", [1.0, 0.6])
def test_a_commit_of_the_same_objects_has_its_neighbour_s_verdict_and_is_asked_for_once(noise, rate):
    """Of each four commits three leave the objects as they are; the one with the fault changes them."""
    for seed in range(10):
        dice = random.Random(seed)
        loop = Loop(line(16), noise)

        def objects(commit):
            return (int(commit[1:]) + 3) // 4

        def run(commit, dice=dice):
            return Mark.BAD if int(commit[1:]) >= 9 and dice.random() < rate else Mark.GOOD

        asked = carry(loop, objects, run)
        assert loop.search.suspects()[0] == ["c9"]
        alike = [one for one in loop.told if one.same_as]
        assert len({one.commit for one in alike}) == len(alike)
        for one in alike:
            assert one.same_as != one.commit
            assert objects(one.same_as) == objects(one.commit)
            assert one.reason.endswith(f"{one.same_as} ran")
            later = [ask for ask in asked if ask.commit == one.commit and ask.phase is Phase.SEARCH]
            assert len(later) == 1
        if rate == 1.0:
            assert all((one.verdict is Mark.BAD) == (int(one.commit[1:]) >= 9) for one in alike)


def test_a_verdict_is_taken_over_from_the_neighbour_s_runs():
    """Any failure counts; of figures, which vary, what most runs say."""
    for noise, verdict in ((Noise(), Mark.BAD), (FIGURES, Mark.GOOD)):
        loop = Loop(line(8), noise)
        for said, words in ((Mark.GOOD, "first"), (Mark.BAD, "second"), (Mark.GOOD, "third")):
            loop.tell(ProbeResult("c4", said, Phase.SEARCH, words))
        alike = loop.alike("c5", "c4", Phase.SEARCH)
        assert (alike.commit, alike.verdict, alike.same_as) == ("c5", verdict, "c4")
        words = "second" if verdict is Mark.BAD else "third"
        assert alike.reason == f"built to the same objects as c4: {words}"


def test_runs_that_are_at_odds_with_the_objects_are_believed():
    """Both ends of what is left are said to be the same: the commit is run, and may differ."""
    loop = Loop(line(2))
    loop.tell(ProbeResult("c0", Mark.GOOD, Phase.SEARCH, same_as="c2"))
    assert not loop.search.twins
    assert not loop.search.can_be_same("c0", "c2")
    assert loop.search.consistent() == 0b11


def test_a_search_gives_up_where_runs_only_contradict_each_other():
    """Figures that are worse in every other run of whichever commit: no confidence can ever be had."""
    loop = Loop(line(64), FIGURES, confidence=0.9999)
    for end, verdict in (("c64", Mark.BAD), ("c0", Mark.GOOD)):
        for _ in range(3):
            loop.tell(ProbeResult(end, verdict, Phase.ENDS))
    said = collections.defaultdict(lambda: itertools.cycle([Mark.BAD, Mark.GOOD]))
    told = list(simulate(loop, lambda commit: next(said[commit])))
    assert loop.exhausted
    assert not loop.proven
    assert len(told) + 6 == loop.at_most == 480


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_no_more_runs_are_asked_for_than_are_needed(width):
    """Runs side by side are no more runs: three of each end, three of the culprit and of its parent."""
    loop = Loop(line(8))
    while (ask := loop.ask()) is not None:
        for _ in range(min(width, ask.runs)):
            loop.tell(ProbeResult(ask.commit, Mark.BAD if int(ask.commit[1:]) >= 5 else Mark.GOOD, ask.phase))
    assert loop.proven
    assert summary(loop) == {"ends": 6, "search": 3, "proof": 6}


def test_a_commit_that_told_something_is_not_left_out_for_one_run_that_says_nothing():
    """A host that is too busy for once has a guest run out of time; a commit that never tells is left out at once."""
    loop = Loop(line(8))
    for verdict in (Mark.GOOD, Mark.GOOD, Mark.SKIP, Mark.SKIP):
        loop.tell(ProbeResult("c3", verdict, Phase.SEARCH))
    assert "c3" not in loop.search.skipped
    loop.tell(ProbeResult("c3", Mark.INFRA, Phase.SEARCH))
    assert "c3" in loop.search.skipped
    loop.tell(ProbeResult("c4", Mark.SKIP, Phase.SEARCH))
    assert "c4" in loop.search.skipped
