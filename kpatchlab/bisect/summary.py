"""The result of a search in plain text: for the terminal, for the file, and as a mail that is ready to send."""

from __future__ import annotations

from typing import Protocol

from kpatchlab.bisect.commits import CommitRange
from kpatchlab.bisect.criterion import narrowed
from kpatchlab.bisect.loop import Loop, Mark, Phase, ProbeResult, told_count
from kpatchlab.bisect.search import Count
from kpatchlab.bisect.state import Ended, SearchState
from kpatchlab.build.confined import unconfined
from kpatchlab.progress import clock

DIFF_LINES = 200
DETAIL_LINES = 60


class Shows(Protocol):
    """Where a commit's text comes from."""

    def show(self, commit: str, /) -> str:
        """Return message, statistics and diff."""


def told_line(history: CommitRange, one: ProbeResult) -> str:
    """Return one line about a run."""
    return f"{one.verdict.value.upper():5} {history.named(one.commit)}: {one.reason or one.phase.value}"


def step_line(loop: Loop, one: ProbeResult, left: str) -> str:
    """Return one line about a run, and how the search stands after it."""
    words = [told_line(loop.history, one)]
    took = [f"built in {clock(one.build_s)}, {one.objects} objects compiled"] if one.build_s else []
    took += [f"run in {clock(one.seconds)}"] if one.seconds else []
    if took:
        words.append(f"       {'; '.join(took)}")
    if one.phase is not Phase.ENDS:
        words.append(f"       {standing(loop)}{'; ' + left if left else ''}")
    return "\n".join(words)


def standing(loop: Loop) -> str:
    """Return how far a search is."""
    search = loop.search
    left = search.consistent()
    if search.deterministic > 0.5 and left:
        count = left.bit_count()
        return f"{count} commit{'s' if count > 1 else ''} left"
    group, probability = search.suspects()
    return f"most probable: {group[0][:12]}, {probability:.0%}; fails in {search.rate():.0%} of runs"


def text(state: SearchState, loop: Loop, shows: Shows, refused: str = "") -> str:
    """Return the whole report."""
    question, history = state.question, loop.history
    criterion = narrowed(question.criterion, [state.sought])
    lines = [f"search {state.id}: {criterion}"]
    lines += [f"good  {question.good_name} {history.named(history.good)}"]
    lines += [f"bad   {question.bad_name} {history.named(history.bad)}", ""]
    # The user's own repository is built as a base: it is trusted.
    if not question.repository and (bare := unconfined()):
        lines += [f"commits were built WITHOUT A SANDBOX (--trust): {bare}", ""]
    if refused:
        lines += [f"refused: {refused}", ""]
    else:
        lines += _finding(state, loop, shows)
    lines += ["", f"{len(loop.steps)} commits tested between the ends, {len(loop.told)} runs:"]
    lines += [f"  {told_line(history, one)}" for one in loop.told]
    lines += ["", f"lab: {question.lab}", f"command: {question.command}"]
    return "\n".join(lines) + "\n"


def conclusion(state: SearchState) -> str:
    """Return what a search came to in one line, "" while it goes on."""
    if state.culprit:
        return f"culprit: {state.culprit}{'' if state.ended is Ended.FOUND else ' (not proven)'}"
    if state.suspects:
        names = ", ".join(map(str, state.suspects))
        return f"one of {len(state.suspects)} commits, no one of which can be told from the others: {names}"
    return f"{state.ended}: {state.reason}" if state.ended is Ended.REFUSED else state.reason


def headline(state: SearchState, loop: Loop) -> list[str]:
    """Return what was found in a few lines."""
    history = loop.history
    group, probability = loop.search.suspects()
    if loop.elsewhere[0]:
        return _elsewhere(state, loop)
    if len(group) == 1:
        culprit = group[0]
        lines = [f"culprit: {history.named(culprit)}", f"probability: {_percent(probability)}"]
        if not loop.proven:
            lines[0] += " (not proven)"
    else:
        lines = [f"one of {len(group)} commits, no one of which can be told from the others (skipped):"]
        lines += [f"  {history.named(commit)}" for commit in group]
    counts = loop.search.counts
    for commit, words in [(c, "culprit") for c in group[:1]] + [(p, "parent") for p in loop.parents_of(group[0])]:
        if commit in counts:
            lines.append(f"{words} {commit[:12]}: {told_count(counts[commit])}")
    if loop.exhausted and not loop.proven:
        lines.append(given_up(loop))
    if state.reverted:
        lines.append(f"bad end without it: {state.reverted}")
    return lines


def elsewhere(state: SearchState, loop: Loop) -> str:
    """Return where the culprit lies, of which is known that no commit which touches the question's paths is it."""
    parent, child = loop.elsewhere
    before = next(iter(loop.history.parents.get(child, ())), loop.history.good)
    where = f"it is {loop.history.named(parent)} or lies between {before[:12]} and it"
    return f"the culprit touches none of {' '.join(state.question.paths)}: {where}"


def _elsewhere(state: SearchState, loop: Loop) -> list[str]:
    parent, child = loop.elsewhere
    before = next(iter(loop.history.parents.get(child, ())), loop.history.good)
    counts = loop.search.counts
    return [
        elsewhere(state, loop),
        *(f"{commit[:12]}: {told_count(counts[commit])}" for commit in (before, parent) if commit in counts),
        f"to find it: --good {before[:12]} --bad {parent[:12]}, without --path",
    ]


def given_up(loop: Loop) -> str:
    """Return why a search ended before it was sure."""
    return (
        f"given up after {len(loop.told)} runs, more than {loop.at_most - 1} are not done:"
        f" the runs contradict each other too much for {loop.confidence:.0%} certainty"
    )


def _percent(probability: float) -> str:
    return f"{probability:.1%}" if probability < 0.9995 else "over 99.9 %"


def _finding(state: SearchState, loop: Loop, shows: Shows) -> list[str]:
    lines = headline(state, loop)
    group, _ = loop.search.suspects()
    if loop.elsewhere[0]:
        return lines
    if details := _details(loop):
        lines += ["", *details]
    if len(group) == 1:
        lines += ["", *_cut(shows.show(group[0]), DIFF_LINES)]
    return lines


def _details(loop: Loop) -> list[str]:
    """Return the splat or the failure as the culprit showed it, else as the bad end did."""
    group, _ = loop.search.suspects()
    failing = [one for one in loop.told if one.verdict is Mark.BAD and one.details]
    own = [one for one in failing if one.commit in group] or failing
    return _cut(own[0].details, DETAIL_LINES) if own else []


def _cut(whole: str, limit: int) -> list[str]:
    lines = whole.splitlines()
    return lines if len(lines) <= limit else [*lines[:limit], f"[... {len(lines) - limit} more lines]"]


def mail(state: SearchState, loop: Loop, shows: Shows) -> str:
    """Return a mail to the lists about a culprit that was found, as regressions are reported there."""
    history, question = loop.history, state.question
    (culprit,), probability = loop.search.suspects()
    count = loop.search.counts.get(culprit, Count())
    parents = [p for p in loop.parents_of(culprit) if p in loop.search.counts]
    subject = history.subjects.get(culprit, culprit[:12])
    own = [one for one in loop.told if one.commit == culprit and not one.same_as]
    first = next((one for one in own if one.verdict is Mark.BAD), None)
    lines = [
        f"Subject: [REGRESSION] {subject}: {first.reason if first else question.criterion}"[:200],
        "",
        "Hi,",
        "",
        "a bisection has led to this commit:",
        "",
        f'  {culprit[:12]} ("{subject}")',
        "",
        f"What fails: {narrowed(question.criterion, [state.sought])}",
        f"With the commit: {told_count(count)}.",
        *(f"With its parent {p[:12]}: {told_count(loop.search.counts[p])}." for p in parents),
        (
            f"Probability that it is this commit: {_percent(probability)}"
            f" ({len(loop.steps)} commits tested of {len(history.commits)} between {question.good_name} and"
            f" {question.bad_name})."
        ),
    ]
    if state.reverted:
        lines.append(f"With it reverted on top of {question.bad_name}: {state.reverted}.")
    if details := _details(loop):
        lines += ["", *details]
    stat = shows.show(culprit).split("\ndiff --git", 1)[0].splitlines()
    lines += ["", "The commit:", "", *(f"  {line}".rstrip() for line in stat)]
    lines += ["", f"#regzbot introduced: {culprit}", ""]
    return "\n".join(lines)
