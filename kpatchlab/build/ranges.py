"""The commits of a range. Diffs and messages are asked for apart, so a message that quotes a diff is no patch."""

from __future__ import annotations

from dataclasses import dataclass

from kpatchlab.build import diffs
from kpatchlab.build.git import Repository
from kpatchlab.errors import UserError
from kpatchlab.textclean import one_line

LOG_S = 120.0


@dataclass(frozen=True, slots=True)
class Commit:
    """One commit that changes something; `author` is "Name <address>", `body` its message without the title."""

    author: str
    date: str
    title: str
    body: bytes
    diff: bytes

    def mail(self, tag: str) -> bytes:
        """Return it as a mail whose subject begins with `tag`, for checks that read message and diff."""
        head = f"From: {self.author}\nDate: {self.date}\nSubject: {tag} {self.title}\n\n"
        return head.encode() + self.body + b"---\n" + self.diff


def read(repository: Repository, revisions: str, *, at_most: int) -> list[Commit]:
    """Return the commits of a range in their order; merges and commits that change nothing are left out.

    Raises:
        UserError: there are more than `at_most`, or objects are missing (a partial clone).
    """
    words = ["rev-list", "--reverse", "--no-merges", "--end-of-options", revisions]
    commits = repository.read(*words, timeout_s=LOG_S)
    if (count := commits.count(b"\n")) > at_most:
        raise UserError(f"{revisions}: {count} commits, and at most {at_most} make a series")
    words = ["diff-tree", "--root", "--patch", "--binary", "--full-index", "--find-renames", "--diff-algorithm=myers"]
    words += ["--no-color", "--no-ext-diff", "--no-textconv", "--src-prefix=a/", "--dst-prefix=b/", "-O/dev/null"]
    words += ["--stdin", "--format=%x00%x01%an <%ae>%x00%aD%x00%s%x00%B%x00"]
    data = repository.read(*words, timeout_s=LOG_S, input_bytes=commits)
    found: list[Commit] = []
    for row in data.split(b"\0\1")[1:]:
        author, date, subject, message, diff = row.split(b"\0", 4)
        if diffs.has_diff(diff):
            person, when, title = (one_line(part.decode("utf-8", "replace"), 500) for part in (author, date, subject))
            found.append(Commit(person, when, title, message.partition(b"\n\n")[2], diffs.diff_of(diff)))
    return found
