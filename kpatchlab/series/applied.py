"""Which commits of a tree are a mail's: where a reviewer's tool has applied the series already."""

from __future__ import annotations

import email.policy
import re
from email.parser import BytesParser
from pathlib import Path

from kpatchlab.build import git
from kpatchlab.errors import UserError

_NUMBER = re.compile(r"\[[^\]]*?\b(\d+)/(\d+)\s*\]")
_MOST = 500


def commits_of(mail: bytes, tree: Path, *, of_patch: bool) -> str:
    """Return the range of a series that `tree` has on top, or of one patch of it.

    Args:
        mail: a cover letter or a patch of the series.
        of_patch: the range of this mail's patch alone.

    Raises:
        UserError: the mail has no subject, or the tree has no such commits on top.
    """
    subject = str(BytesParser(policy=email.policy.default).parsebytes(mail, headersonly=True)["subject"] or "")
    subject = re.sub(r"\s+", " ", subject).strip()
    if not subject:
        raise UserError("the mail on standard input has no subject", hint="b4 hands one over to its check commands")
    repository = git.open_local(tree)
    match = _NUMBER.search(subject)
    total = int(match[2]) if match else 1
    rows = repository.git("log", f"--max-count={_MOST}", "--first-parent", "--format=%H %P%x00%s", "HEAD").stdout
    commits = [(ids.split(), title) for ids, _, title in (row.partition("\0") for row in rows.splitlines())]
    if not of_patch:
        if len(commits) <= total:
            raise UserError(f"{tree} has no {total} commits")
        return f"{commits[total][0][0]}..{commits[0][0][0]}"
    title = re.sub(r"^(\[[^\]]*\]\s*)+", "", subject)
    for ids, name in commits:
        if name == title and len(ids) > 1:
            return f"{ids[1]}..{ids[0]}"
    raise UserError(f"{tree} has no commit {title!r} on top", hint="b4 review applies a series before it checks it")
