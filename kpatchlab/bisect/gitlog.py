"""`git bisect log`, written and read: hand a search over to git, or go on with one that git began. Pure."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from kpatchlab.bisect.loop import Loop
from kpatchlab.errors import UserError

SURE = 0.95
"""Probability from which on a commit counts as good or bad in a log, which knows no other word."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a log says: revisions by verdict, and the paths that the search is limited to."""

    good: tuple[str, ...]
    bad: tuple[str, ...]
    skip: tuple[str, ...]
    paths: tuple[str, ...] = ()


def write(loop: Loop) -> str:
    """Return the log of a search; `git bisect replay` takes it."""
    history = loop.history
    lines = ["git bisect start"]
    done = set()
    narrowest = history.all
    order = [history.bad, history.good, *loop.steps]
    for commit in order:
        word = _word(loop, commit)
        if commit in done:
            continue
        done.add(commit)
        title = f"[{commit}] {history.subjects.get(commit, '')}".rstrip()
        if not word:
            lines.append(f"# undecided: {title}")
            continue
        lines.append(f"# {word}: {title}")
        if word == "bad":
            # git believes the last bad commit: one that contains an earlier one says nothing new, and would widen it.
            mask = history.mask(commit)
            if mask != narrowest and mask & narrowest == narrowest:
                continue
            narrowest = mask
        lines.append(f"git bisect {word} {commit}")
    group, probability = loop.search.suspects()
    if len(group) == 1 and probability >= loop.confidence and loop.search.settled:
        lines.append(f"# first bad commit: [{group[0]}] {history.subjects.get(group[0], '')}".rstrip())
    return "\n".join(lines) + "\n"


def _word(loop: Loop, commit: str) -> str:
    history = loop.history
    if commit in {history.good, history.bad}:
        return "good" if commit == history.good else "bad"
    if commit in loop.search.skipped:
        return "skip"
    probability = loop.search.probability_bad(commit)
    return "bad" if probability >= SURE else "good" if probability <= 1 - SURE else ""


def read(text: str, name: str) -> Replayed:
    """Read a log, as `git bisect log` prints it.

    Raises:
        UserError: a line is none of a log's, with its number.
    """
    found: dict[str, list[str]] = {"good": [], "bad": [], "skip": []}
    terms = {"good": "good", "old": "good", "bad": "bad", "new": "bad", "skip": "skip"}
    paths: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        words = shlex.split(line, comments=True)
        if not words:
            continue
        if words[:2] != ["git", "bisect"] or len(words) < 3:
            raise UserError(f"{name}:{number}: not a line of git bisect log: {line.strip()}")
        verb, rest = words[2], words[3:]
        if verb == "start":
            revisions = rest[: rest.index("--")] if "--" in rest else rest
            paths += rest[rest.index("--") + 1 :] if "--" in rest else []
            revisions = [word for word in revisions if not word.startswith("--")]
            found["bad"] += revisions[:1]
            found["good"] += revisions[1:]
        elif verb in terms and rest:
            found[terms[verb]] += rest
        elif verb not in {"reset", "next", "terms"}:
            raise UserError(f"{name}:{number}: git bisect {verb} is not known here")
    if not found["good"] or not found["bad"]:
        raise UserError(f"{name}: names no good or no bad commit")
    unique = {verdict: tuple(dict.fromkeys(names)) for verdict, names in found.items()}
    return Replayed(unique["good"], unique["bad"], unique["skip"], tuple(paths))
