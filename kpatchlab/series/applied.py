"""Which commits of a tree are the series of a mail: where a reviewer's tool has applied it already.

`b4 review` (0.16) applies a series to a branch `b4/review/CHANGE-ID`, which need not be checked out, and puts an empty
commit on top that keeps its notes. A file, named by B4_TRACKING_FILE while check commands run, has these notes as JSON:
`series` there has `first-patch-commit`, `change-id` and `subject`, the cover letter's or the first patch's. Its own
patches are FIRST~1..b4/review/CHANGE-ID~1: what they need besides lies below. There is no such file where the series is
on no such branch.
"""

from __future__ import annotations

import email.policy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.parser import BytesParser
from itertools import pairwise
from pathlib import Path
from typing import Any

from kpatchlab.build import git, mails
from kpatchlab.errors import UserError
from kpatchlab.files import read_input
from kpatchlab.textclean import one_line

TRACKING = "B4_TRACKING_FILE"
_BRANCH = "b4/review/"
_WRAPPED = 6
"""Lines of one title in a shortlog: `git format-patch` wraps at 72 letters."""
_MOST = 4 * mails.MAX_PATCHES
_HINT = "b4 review applies a series before it checks it: name its branch's commits as BASE..TIP to try them"


@dataclass(frozen=True, slots=True)
class Applied:
    """A series that a tree has as commits.

    Attributes:
        range: of its commits, BASE..TIP.
        title, version: of the series, as a mailbox of it would have them: "net: both", "v2".
        mail: what the mail's subject says, which is of the series or of one patch.
    """

    range: str
    title: str
    version: str
    mail: mails.Tags


@dataclass(frozen=True, slots=True)
class _Commit:
    id: str
    tree: str
    parents: tuple[str, ...]
    title: str


def applied(mail: bytes, tree: Path, tracking: Path | None = None) -> Applied:
    """Return the series of a mail, where `tree` has it: on b4's branch, else on top of what is checked out.

    Args:
        mail: its cover letter, or one of its patches.
        tracking: b4's file about the series.

    Raises:
        UserError: the mail has no subject, or these commits are of another series.
    """
    heads = mails.heads(mails.unpacked(mail, "standard input"), "standard input")
    head = next(heads, None)
    tags = mails.tags_of(mails.header(head, "subject") if head else "")
    if not tags.title:
        raise UserError("the mail on standard input has no subject", hint="b4 hands one over to its check commands")
    repository = git.open_local(tree)
    notes = _notes(tracking) if tracking else {}
    if not notes.get("first-patch-commit"):
        base, commits = _on_top(repository, mail, tags)
        tip = commits[-1].id
    else:
        base, tip = _reviewed(repository, notes)
        commits = _log(repository, f"{base}..{tip}")[::-1]
    if tags.number != 0:
        _check_title(tags.title, commits, tree)
    series = mails.tags_of(str(notes.get("subject") or ""))
    if not series.title:
        series = tags
    title = series.title if notes.get("subject") or tags.number == 0 else commits[0].title
    return Applied(f"{base}..{tip}", title, series.label, tags)


def _notes(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(read_input(path))["series"]
    except (ValueError, KeyError, TypeError):
        found = None
    if not isinstance(found, dict):
        raise UserError(f"{path}: it is not b4's file about a series", hint=f"b4 review sets {TRACKING}")
    return found


def _reviewed(repository: git.Repository, notes: Mapping[str, Any]) -> tuple[str, str]:
    """Return base and tip of the series on b4's own branch."""
    branch = f"{_BRANCH}{notes.get('change-id')}"
    first, tip = repository.commit(str(notes["first-patch-commit"])), repository.commit(f"refs/heads/{branch}~1")
    base = repository.commit(f"{first}~1") if first else ""
    if base and tip and repository.is_in(first, tip):
        return base, tip
    raise UserError(
        f"{repository.path}: the branch {one_line(branch, 100)} does not have the series that b4 names", hint=_HINT
    )


def _on_top(repository: git.Repository, mail: bytes, tags: mails.Tags) -> tuple[str, list[_Commit]]:
    """Return the last commits of what is checked out that change something, the oldest first, and what is below.

    A cover letter is theirs where its shortlog has them all; a patch where it is one of them, see `_check_title`.
    """
    total = tags.total or 1
    found: list[_Commit] = []
    rows = _log(repository, "HEAD", "--first-parent", f"--max-count={_MOST}")
    for commit, parent in pairwise(rows):
        if len(commit.parents) > 1 or len(found) == total:
            break
        found += [commit] if commit.tree != parent.tree else []
    listed = _shortlog(_text(mail)) if tags.number == 0 else set()
    lacking = [commit.title for commit in found if tags.number == 0 and _plain(commit.title) not in listed]
    if len(found) < total or lacking:
        raise UserError(f"{repository.path} has no {total} commits of {tags.title!r} on top", hint=_HINT)
    return found[-1].parents[0], found[::-1]


def _check_title(title: str, commits: Sequence[_Commit], tree: Path) -> None:
    if _plain(title) not in {_plain(commit.title) for commit in commits}:
        raise UserError(f"{tree} has no commit {title!r} in this series", hint=_HINT)


def _log(repository: git.Repository, *words: str) -> list[_Commit]:
    rows = repository.read("log", "--format=%H%x00%T%x00%P%x00%s", *words).decode("utf-8", "replace").split("\n")
    parted = [row.split("\0", 3) for row in rows if row]  # a title may have what ends a line for Python alone
    return [_Commit(commit, tree, tuple(parents.split()), title) for commit, tree, parents, title in parted]


def _plain(title: str) -> str:
    return one_line(" ".join(title.split()), 500)


def _shortlog(text: str) -> set[str]:
    """Return the titles that a cover letter may list: its indented lines, and up to `_WRAPPED` of these joined.

    `git format-patch` wraps a long title; how far each line of it is indented is the user's to choose.
    """
    lines = [line.strip() if line[:1] in {" ", "\t"} else "" for line in text.split("\n")]
    spans = (lines[at : at + count] for at in range(len(lines)) for count in range(1, _WRAPPED + 1))
    return {_plain(" ".join(span)) for span in spans if all(span)}


def _text(mail: bytes) -> str:
    """Return what a mail says, as UTF-8 where it names no charset, or one that nobody knows."""
    body = BytesParser(policy=email.policy.default).parsebytes(mail).get_body(("plain",))
    data = body.get_payload(decode=True) if body else b""
    try:
        return data.decode(body.get_content_charset("utf-8"), "replace") if body and isinstance(data, bytes) else ""
    except (LookupError, ValueError):  # also codecs that are none of text, and those that replace nothing
        return data.decode("utf-8", "replace") if isinstance(data, bytes) else ""
