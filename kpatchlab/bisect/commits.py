"""The commits of a range as a graph: which of them each one contains. Pure.

A set of commits is an int with one bit for each, so that ranges of ten thousand commits and many merges stay cheap.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from kpatchlab.errors import UserError


@dataclass(frozen=True, slots=True)
class NamedCommit:
    """A commit as people read it: its id, and the first line of its message, "" where that is not known."""

    commit: str
    subject: str = ""

    def __str__(self) -> str:
        """Return it in words."""
        return f'{self.commit[:12]} ("{self.subject}")' if self.subject else self.commit[:12]


@dataclass(frozen=True, slots=True)
class CommitRange:
    """The candidates: all that is reachable from the bad end and not from the good one, parents before children.

    Attributes:
        good / bad: ids of the two ends; `bad` is the last of the candidates, `good` is none of them.
        commits: ids, in the order of their bits.
        parents: id -> ids of its parents, also of such as lie outside of the range.
        contains: id -> the candidates that are in it, itself included.
        subjects: id -> first line of its message.
    """

    good: str
    bad: str
    commits: tuple[str, ...]
    parents: Mapping[str, tuple[str, ...]]
    contains: Mapping[str, int]
    subjects: Mapping[str, str]

    @property
    def all(self) -> int:
        """The set of all candidates."""
        return (1 << len(self.commits)) - 1

    def named(self, commit: str) -> NamedCommit:
        """Return a commit with its name; those outside of the range have none."""
        return NamedCommit(commit, self.subjects.get(commit, ""))

    def mask(self, commit: str) -> int:
        """Return the candidates that a commit contains; one from before the range contains none."""
        return self.contains.get(commit, 0)

    def index(self, commit: str) -> int:
        """Return the place of a candidate: its bit."""
        return self.contains[commit].bit_length() - 1

    def members(self, mask: int) -> list[str]:
        """Return the commits of a set, oldest first."""
        return [self.commits[bit] for bit in bits(mask)]


def bits(mask: int) -> Iterator[int]:
    """Yield the places of the bits that are set, lowest first."""
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low


def make(
    good: str, bad: str, rows: Sequence[tuple[str, tuple[str, ...]]], subjects: Mapping[str, str] | None = None
) -> CommitRange:
    """Return the history of (commit, parents) rows, each commit behind all of its parents.

    Raises:
        UserError: there is nothing between the ends.
    """
    if not rows:
        raise UserError(f"no commit lies between {good[:12]} and {bad[:12]}", hint="do the paths name what changed?")
    contains: dict[str, int] = {}
    for place, (commit, parents) in enumerate(rows):
        mask = 1 << place
        for parent in parents:
            mask |= contains.get(parent, 0)
        contains[commit] = mask
    # With paths the bad end itself may have been left out: it holds every commit of the range all the same.
    contains[bad] = (1 << len(rows)) - 1
    return CommitRange(good, bad, tuple(row[0] for row in rows), dict(rows), contains, subjects or {})


def line(count: int) -> CommitRange:
    """Return a straight history of `count` commits, c1 being the oldest and c0 the good end."""
    return make("c0", f"c{count}", [(f"c{n}", (f"c{n - 1}",)) for n in range(1, count + 1)])
