"""Which commit of a tree a posted series was made on, found without writing to the tree.

What tells, in this order: the user's word, the `base-commit:` and `prerequisite-patch-id:` lines of git format-patch,
the blobs that the patches' `index` lines name, and at last what the patches apply to. Patches are tried in an index of
the lab's own that holds the files of the series alone.
"""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from kpatchlab import proc
from kpatchlab.build import diffs, git
from kpatchlab.build.patchset import DoesNotApplyError, Patch, failure
from kpatchlab.errors import UserError

DESCRIBE_S = 2.0
WALK_S = 8.0
"""How long one look through the history may take."""
MOST_TRIED = 12
"""On how many commits a series is tried."""
MOST_STATES = 3000
"""How many commits that changed files of the series are looked at."""
PREREQUISITES_AT_MOST = 1000
BATCH = 200
"""Of how many commits git is asked at once: what it said of those before counts where the time runs out."""
DAY_S = 86400
WINDOWS = (120 * DAY_S, 730 * DAY_S, None)
"""How far before the series' own date the history is searched, one after the other, in s; None: all of it."""
RELEASES = 6
_RELEASE = re.compile(r"refs/tags/v\d+\.\d+(?:\.\d+)?(?:-rc\d+)?")


class Fit(StrEnum):
    """How a patch met the base with the patches before it."""

    STRICT = "strictly"
    OFFSET = "at an offset"
    THREE_WAY = "three-way"
    NO = "not"
    UNTRIED = "untried"


@dataclass(frozen=True, slots=True)
class Clues:
    """What a series says of its base.

    Attributes:
        commit: of a `base-commit:` line, "" for none.
        prerequisites: patch ids, in the order in which they were to be applied.
        date: when it was sent, in seconds since the epoch; None where no mail has a date.
    """

    commit: str = ""
    prerequisites: tuple[str, ...] = ()
    date: float | None = None

    @classmethod
    def of(cls, text: str, date: float | None = None) -> Clues:
        """Read them from the text of a whole series, cover letter and signatures included; the last word counts."""
        commits = re.findall(r"^base-commit: ([0-9a-f]{12,64})\s*$", text, re.MULTILINE)
        ids = re.findall(r"^prerequisite-patch-id: ([0-9a-f]{40,64})\s*$", text, re.MULTILINE)
        return cls(commits[-1] if commits else "", tuple(dict.fromkeys(ids)), date)


@dataclass(frozen=True, slots=True)
class Tried:
    """A series on one commit.

    Attributes:
        fits: a word for each patch.
        patches: the series as patches that apply strictly there; shorter where one does not apply.
        error: file, hunk and line where the first one does not apply, "" where all do.
        details: each hunk that does not.
    """

    commit: str
    fits: tuple[Fit, ...]
    patches: tuple[Patch, ...]
    error: str = ""
    details: tuple[str, ...] = ()

    @property
    def applies(self) -> bool:
        """Whether every patch does, in whatever way."""
        return not self.error

    @property
    def worst(self) -> Fit:
        """The way of the patch that met the commit least well."""
        return max(self.fits, key=list(Fit).index, default=Fit.STRICT)


@dataclass(frozen=True, slots=True)
class Base:
    """The commit that was found.

    Attributes:
        name: how people call it: a tag or branch where one is there, with the distance to it.
        why: what told it, in words.
        sure: whether it is what the series was made on, as far as its files go.
        looked_at: what was tried before, a line each.
    """

    tried: Tried
    name: str
    why: str
    sure: bool
    looked_at: tuple[str, ...] = ()

    @property
    def commit(self) -> str:
        """Its id."""
        return self.tried.commit


def find_base(
    tree: git.Repository, patches: Sequence[Patch], clues: Clues, asked: str = "", without: Collection[str] = ()
) -> Base:
    """Return the commit of `tree` that a series is built on; where no commit takes all of it, the one that takes most.

    Args:
        asked: the user's own word for it, which settles it.
        without: commits that are no candidates.

    Raises:
        UserError: `asked` is no revision of the tree, or the tree has no commit, or none of the series' files.
    """
    return _Finder(tree, patches, clues, without).find(asked)


# ------------------------------------------------------------------------------------- what a series needs


def _wants(patches: Sequence[Patch]) -> dict[str, str | None]:
    """Return path -> the blob that the base has there, abbreviated; "" any, None: there is no such file."""
    wanted: dict[str, str | None] = {}
    made: set[str] = set()
    for patch in patches:
        for part in diffs.parts(patch.data, patch.strip):
            if part.old and part.old not in made:
                wanted.setdefault(part.old, part.blob)
            if part.new and part.new != part.old and part.new not in made:
                wanted.setdefault(part.new, None)
            made |= {part.old, part.new}
    return wanted


# ------------------------------------------------------------------------------------------------ the search


class _Finder:
    def __init__(
        self, tree: git.Repository, patches: Sequence[Patch], clues: Clues, without: Collection[str] = ()
    ) -> None:
        self.tree, self.patches, self.clues, self.without = tree, patches, clues, without
        self.wanted = _wants(patches)
        self.said: list[str] = []
        self.near: list[str] = []  # commits that have some of the files, the most first
        self.tips = self._tips()
        if not self.tips:
            raise UserError(f"{tree.path} has no commit", hint="--tree names a clone of Linux with its history")

    def find(self, asked: str) -> Base:
        if asked:
            return self._asked(asked)
        for look in (self._trailer, self._blobs, self._nearest):
            if found := look():
                if not found.sure and self.tree.read("rev-parse", "--is-shallow-repository").strip() == b"true":
                    self.said.append("the tree is a shallow clone; git fetch --unshallow there brings what it lacks")
                return replace(found, looked_at=tuple(self.said))
        raise UserError(
            f"{self.tree.path} has none of the files of the series: {', '.join(list(self.wanted)[:3])}",
            hint="is it another tree? --tree names the one that the series is for",
        )

    def _base(self, tried: Tried, why: str, *, sure: bool) -> Base:
        return Base(tried, self._name(tried.commit), why, sure)

    def _asked(self, asked: str) -> Base:
        commit = self.tree.commit(asked)
        if not commit:
            raise UserError(f"{self.tree.path} has no revision {asked!r}", hint="git fetch it there, then try again")
        return self._base(self._try(commit), "--base names it", sure=True)

    def _trailer(self) -> Base | None:
        """Look for the commit that the series itself names, with the patches below it that the series needs."""
        if not self.clues.commit:
            return None
        short = self.clues.commit[:12]
        commit = self.tree.commit(self.clues.commit)
        if not commit:
            self.said.append(f"base-commit {short}: the tree does not have it")
            return None
        why = "the series names it (base-commit)"
        if self.clues.prerequisites:
            above = self._with_prerequisites(commit)
            if not above:
                self.said.append(f"base-commit {short}: no branch has the prerequisite patches on top of it")
                return None
            commit, why = above, f"the {len(self.clues.prerequisites)} prerequisite patches on top of {short} end there"
        if commit in self.without:
            return None
        tried = self._try(commit)
        if tried.worst in {Fit.STRICT, Fit.OFFSET}:
            return self._base(tried, why, sure=True)
        self.said.append(f"base-commit {short}: {tried.error or 'applies three-way only'}")
        return None

    def _with_prerequisites(self, base: str) -> str:
        """Return the first commit above `base` that has all prerequisite patches; "" where none has."""
        above = self._lines(
            "rev-list", "--reverse", "--topo-order", "--no-merges", "--branches", "--remotes", "--tags", f"^{base}"
        )[:PREREQUISITES_AT_MOST]
        order = {commit: place for place, commit in enumerate(above)}
        places: dict[str, list[int]] = defaultdict(list)  # patch id -> where in `above` it is
        words = ("diff-tree", "--stdin", "-p", "--no-ext-diff", "--no-textconv")
        for _, patches in self._in_batches(above, words, lambda commit: (commit,)):
            ids = self.tree.read("patch-id", "--stable", input_bytes=patches).decode()
            for line in ids.splitlines():
                patch, commit = line.split()
                places[patch].append(order[commit])
        wanted = [places.get(one, []) for one in self.clues.prerequisites]
        if not all(wanted):
            return ""
        # Parents come before their children: only the last of them, or what is behind it, can have the others.
        last = max(min(at) for at in wanted)
        for place in sorted({place for at in wanted for place in at if place >= last}):
            if all(any(self.tree.is_in(above[one], above[place]) for one in at if one <= place) for at in wanted):
                return above[place]
        return ""

    # --- by blobs

    def _blobs(self) -> Base | None:
        """Look for the newest commit whose files are those that the patches were made of."""
        known = [path for path, blob in self.wanted.items() if blob]
        if not known:
            self.said.append("the patches have no index lines: what they apply to must tell")
            return None
        seen = self._count(list(self.tips))
        for back_s in WINDOWS if self.clues.date else (None,):
            seen |= self._count([commit for commit in self._around_changes(back_s) if commit not in seen])
            whole = [
                commit for commit, count in seen.items() if count == len(self.wanted) and commit not in self.without
            ]
            if not whole:
                continue
            tried = self._try(self._newest(whole))
            if tried.applies:
                why = f"the newest commit whose {_files(len(known))} are those that the patches were made of"
                return self._base(tried, why, sure=tried.worst in {Fit.STRICT, Fit.OFFSET})
        best = max(seen.values(), default=0)
        self.said.append(f"no commit has all files as the patches have them: at most {best} of {len(self.wanted)}")
        self.near = sorted(seen, key=lambda commit: -seen[commit])
        return None

    def _around_changes(self, back_s: int | None) -> list[str]:
        """Return the commits that change a file of the series, and their parents: the last that were before."""
        since = [f"--since={int(self.clues.date - back_s)}"] if self.clues.date and back_s else []
        words = ("log", "--format=%H %P", f"--max-count={MOST_STATES}", *since)
        rows = self._lines(*words, "--branches", "--remotes", "--tags", "HEAD", "--", *self.wanted)
        return list(dict.fromkeys(commit for row in rows for commit in row.split()))

    def _count(self, commits: Sequence[str]) -> dict[str, int]:
        """Return how many of the series' files each commit has as the patches have them, until time is up."""
        words = ("cat-file", "--batch-check=%(objectname)")
        found = {}
        for batch, answer in self._in_batches(commits, words, lambda one: (f"{one}:{path}" for path in self.wanted)):
            blobs = iter(answer.decode("utf-8", "surrogateescape").splitlines())
            for commit in batch:
                found[commit] = sum(_same(blob, next(blobs)) for blob in self.wanted.values())
        return found

    def _newest(self, commits: Sequence[str]) -> str:
        """Return the commit that was made last; of those that many refs name, a branch before a tag."""
        rows = self._lines("rev-list", "--no-walk=sorted", "--max-count=1", "--stdin", data="\n".join(commits) + "\n")
        return rows[0]

    # --- by trying

    def _nearest(self) -> Base | None:
        """Take the commit that takes all patches, strictly before three-way; else the one that takes most."""
        commits = list(
            dict.fromkeys([*self.near[: MOST_TRIED // 2], *self._releases(), *list(self.tips)[: MOST_TRIED // 2]])
        )
        commits = [commit for commit in commits if commit not in self.without]
        tried = [self._try(commit, three_way=False) for commit in commits[: 2 * MOST_TRIED]]
        if not tried:
            return None
        order = sorted(tried, key=lambda one: (not one.applies, -len(one.patches)))
        if order[0].applies:
            return self._base(order[0], "of those tried, the first that takes every patch", sure=False)
        merged = [self._try(one.commit) for one in order[: MOST_TRIED // 2]]
        best = min(merged, key=lambda one: (not one.applies, -len(one.patches)))
        if not self._has_a_file(best.commit):
            return None
        why = "merged three-way, every patch applies" if best.applies else "it takes most of the patches"
        return self._base(best, why, sure=False)

    def _has_a_file(self, commit: str) -> bool:
        paths = [path for path, blob in self.wanted.items() if blob is not None]
        return not paths or bool(self._lines("ls-tree", "--full-tree", "--name-only", commit, "--", *paths))

    def _releases(self) -> list[str]:
        """Return the releases that were made last before the series, and the one after it."""
        rows = self._lines(
            "for-each-ref", "--format=%(creatordate:unix) %(*objectname) %(objectname) %(refname)", "refs/tags"
        )
        dated = sorted((float(words[0]), words[1]) for row in rows if _RELEASE.fullmatch((words := row.split())[-1]))
        when = self.clues.date or datetime.now(UTC).timestamp()
        before = [commit for date, commit in dated if date <= when]
        return [*reversed(before[-RELEASES:]), *[commit for date, commit in dated if date > when][:1]]

    def _try(self, commit: str, *, three_way: bool = True) -> Tried:
        with _index(self.tree, commit, self.wanted) as index:
            return index.apply(self.patches, three_way=three_way)

    # --- git

    def _tips(self) -> dict[str, str]:
        """Return commit -> name of every branch, tag and remote branch, and HEAD."""
        fields = "%(objecttype) %(*objecttype) %(objectname) %(*objectname) %(refname:short)"
        rows = self._lines(
            "for-each-ref", "--sort=-committerdate", f"--format={fields}",
            "refs/heads", "refs/remotes", "refs/tags",
        )  # fmt: skip
        tips: dict[str, str] = {}
        if head := self.tree.commit("HEAD"):
            tips[head] = "HEAD"
        for row in rows:
            kind, *words = row.split()
            if kind == "commit":
                tips.setdefault(words[0], words[-1])
            elif kind == "tag" and words[0] == "commit":
                tips.setdefault(words[2], words[-1])
        return tips

    def _name(self, commit: str) -> str:
        """Return a branch's or tag's name, with the distance to a tag where that is quickly told; else the short id."""
        if (tip := self.tips.get(commit, "HEAD")) != "HEAD":
            return tip
        if not self._lines("for-each-ref", "--count=1", "refs/tags"):  # describe would look for one to the first commit
            return commit[:12]
        words = ("describe", "--tags", "--always", "--abbrev=12", commit)
        return self.tree.git(*words, check=False, timeout_s=DESCRIBE_S).stdout.strip() or commit[:12]

    def _lines(self, *words: str, data: str = "") -> list[str]:
        """Return what git says, a line each; what it had said so far where it takes too long."""
        with tempfile.TemporaryFile() as handle:
            command, env = self.tree.command(words, {})
            result = proc.run(
                command, timeout_s=WALK_S, check=False, env=env, stdout_to=handle,
                input_bytes=data.encode() if data else None,
            )  # fmt: skip
            handle.seek(0)
            text = handle.read().decode("utf-8", "surrogateescape")
        if result.timed_out:
            self._say_late(words[0], "the oldest commits")
            text = text[: text.rfind("\n") + 1]
        return text.splitlines()

    def _in_batches(
        self, commits: Sequence[str], words: Sequence[str], lines: Callable[[str], Iterable[str]]
    ) -> Iterator[tuple[Sequence[str], bytes]]:
        """Yield some of the commits and all that git says of them, until there are no more or time is up.

        Args:
            lines: what git is asked of a commit.
        """
        ends = time.monotonic() + WALK_S
        for start in range(0, len(commits), BATCH):
            batch = commits[start : start + BATCH]
            asked = "".join(f"{line}\n" for commit in batch for line in lines(commit))
            left = ends - time.monotonic()
            try:
                answer = self.tree.read(*words, timeout_s=max(left, 0.0), input_bytes=os.fsencode(asked))
            except proc.CommandFailed as error:
                if not error.result.timed_out:
                    raise
                self._say_late(words[0], f"{len(commits) - start} of {len(commits)} commits")
                return
            yield batch, answer

    def _say_late(self, what: str, rest: str) -> None:
        line = f"git {what} was ended after {WALK_S:.0f} s: {rest} were not looked at"
        if line not in self.said:
            self.said.append(line)


def _files(count: int) -> str:
    return f"{count} file{'' if count == 1 else 's'}"


def _same(wanted: str | None, found: str) -> bool:
    missing = found.endswith(" missing")
    if wanted is None:
        return missing
    return not missing and found.startswith(wanted)


# ---------------------------------------------------------------------------------------- a series on a commit


@dataclass(frozen=True, slots=True)
class _Index:
    """A repository of the lab's own with the files of the series as a commit has them, and nothing else."""

    own: git.Repository
    commit: str

    def git(self, *words: str, data: bytes = b"", check: bool = False) -> proc.Result:
        command, env = self.own.command(words, {})
        return proc.run(command, timeout_s=git.QUICK_S, check=check, env=env, input_bytes=data or None)

    def apply(self, patches: Sequence[Patch], *, three_way: bool) -> Tried:
        """Apply one after the other, up to the first that does not."""
        fits: list[Fit] = []
        applied: list[Patch] = []
        merged = False  # what comes after a merge has other context than was posted
        for number, patch in enumerate(patches, 1):
            before = self.git("write-tree").stdout.strip() if three_way else ""
            try:
                fit = self._one(patch, number, len(patches), three_way=three_way)
            except DoesNotApplyError as error:
                rest = [Fit.NO, *[Fit.UNTRIED] * (len(patches) - number)]
                return Tried(self.commit, (*fits, *rest), tuple(applied), error.message, error.details)
            merged = merged or fit is Fit.THREE_WAY
            if merged:
                patch = replace(patch, data=self._difference(before), strip=1)  # noqa: PLW2901
            fits.append(fit)
            applied.append(patch)
        return Tried(self.commit, tuple(fits), tuple(applied))

    def _one(self, patch: Patch, number: int, total: int, *, three_way: bool) -> Fit:
        words = ("apply", "--cached", "--verbose", "--whitespace=nowarn", f"-p{patch.strip}")
        strict = self.git(*words, "-", data=patch.data)
        if strict.status == 0:
            return Fit.OFFSET if "(offset " in strict.stderr else Fit.STRICT
        if three_way and self.git(*words, "--3way", "-", data=patch.data).status == 0:
            return Fit.THREE_WAY
        raise failure(patch, number, total, strict.stderr, already=False)

    def _difference(self, before: str) -> bytes:
        after = self.git("write-tree").stdout.strip()
        return self.own.read("diff-tree", "-p", "--binary", "--full-index", "--no-ext-diff", before, after)


@contextmanager
def _index(tree: git.Repository, commit: str, wanted: Mapping[str, str | None]) -> Iterator[_Index]:
    """Make an index of some files of a commit, with the blobs that the patches were made of for three-way merges.

    In a repository of its own: in one that borrows the user's objects, git would touch those that it writes again.
    """
    with tempfile.TemporaryDirectory(prefix="kpatchlab-base-") as scratch:
        git.make_bare(Path(scratch), sha256=bool(tree.view and tree.view.sha256))
        index = _Index(git.Repository(Path(scratch)), commit)
        listed = tree.read("ls-tree", "-z", "--full-tree", commit, "--", *wanted)
        rows = [row for row in listed.split(b"\0") if b" blob " in row]  # bytes: a path need not be UTF-8
        blobs = {row.split(b"\t")[0].split()[2] for row in rows}
        named = "".join(f"{blob}\n" for blob in wanted.values() if blob)
        words = ("cat-file", "--batch-check=%(objectname) %(objecttype)")
        found = tree.read(*words, input_bytes=named.encode())
        blobs |= {line.split()[0] for line in found.splitlines() if line.endswith(b" blob")}
        ids = b"".join(blob + b"\n" for blob in blobs)
        pack = tree.read("pack-objects", "--stdout", "-q", input_bytes=ids)
        index.git("index-pack", "--stdin", data=pack, check=True)
        index.git("update-index", "-z", "--add", "--index-info", data=b"".join(row + b"\0" for row in rows), check=True)
        yield index
