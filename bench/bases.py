"""How often the base of a posted series is found, and how long that takes in a long history.

Found: a tree of Linux with some branches, two of which are rewritten, and series made on its commits: with the
`base-commit:` line of git format-patch or without, of one patch to many, some on a branch that is rewritten afterwards,
some with one patch dropped, some with a file that is renamed meanwhile, and a few on files that are nowhere any more.
Right is a commit whose files of the series are those of the commit that the series was made on. Wrong and not told as
`not sure` must never be.

Long: made histories, a quarter of the commits, half of them and all, with a series some way below the tip.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchkit.rounds import last_line, parser, run, say

from kpatchlab.build import BuildContext, git
from kpatchlab.build.base import Clues, find_base
from kpatchlab.build.patchset import split_mbox
from kpatchlab.build.source import source_of
from kpatchlab.cache import Cache
from kpatchlab.errors import UserError
from kpatchlab.lab.recipes import DebianSource

WHO = ("-c", "user.name=A U Thor", "-c", "user.email=author@example.com", "-c", "gc.auto=0")
START = 1_700_000_000
DAY = 86400
FOLDERS = ("net/unix", "net/ipv4", "net/tls", "fs/nfs", "net/sunrpc", "crypto", "drivers/infiniband/sw/siw", "net/core")
KINDS = ("trailer", "plain", "plain", "rewritten", "dropped", "renamed")
LOST_EVERY = 20
"""Of so many series one is made on files that no commit has any more: all that can be said is `not sure`."""


@dataclass(frozen=True)
class Made:
    """A series: its mails, and the files of the commit that it was made on, path -> blob."""

    kind: str
    base: str
    mails: bytes
    files: dict[str, str]


class Tree:
    """A repository in which commits are a day apart."""

    def __init__(self, path: Path, dice: random.Random) -> None:
        self.path, self.dice, self.day = path, dice, 0
        self.pool = [str(p.relative_to(path)) for folder in FOLDERS for p in sorted((path / folder).glob("*.c"))]
        self.git("init", "-q", "-b", "master")
        self.git("add", "-A", "-f")
        self.commit("Base")
        self.git("tag", "v6.12")

    def git(self, *words: str) -> str:
        when = f"{START + self.day * DAY} +0000"
        env = git.environment() | {"GIT_AUTHOR_DATE": when, "GIT_COMMITTER_DATE": when}
        command = ["git", *WHO, "-C", str(self.path), *words]
        return subprocess.run(
            command, check=True, capture_output=True, text=True, env=env, errors="replace"
        ).stdout.strip()

    def commit(self, subject: str) -> str:
        self.day += 1
        self.git("commit", "-q", "--allow-empty", "-m", subject)
        return self.git("rev-parse", "HEAD")

    def edit(self, name: str) -> str:
        path = self.path / name
        lines = path.read_text("utf-8", "surrogateescape").splitlines(keepends=True)
        at = self.dice.randrange(len(lines) - 1)
        lines.insert(at, f"/* {self.dice.getrandbits(64):x} */\n")
        path.write_text("".join(lines), "utf-8", "surrogateescape")
        self.git("add", "-f", name)
        return self.commit(f"{name}: line {at}")

    def grow(self, commits: int) -> None:
        for _ in range(commits):
            self.edit(self.dice.choice(self.pool))

    def series(self, kind: str) -> Made:
        """Make a series of a kind, and leave the branches without it."""
        branches = [row for row in self.git("branch", "--format=%(refname:short)").splitlines() if "(" not in row]
        branch = self.dice.choice(branches)
        back = self.dice.randrange(3)
        self.git("checkout", "-q", "--detach", f"{branch}~{back}")
        names = self.dice.sample(self.pool, 6)
        if kind in {"rewritten", "lost"}:  # as on a branch that is not there any more
            self.edit(names[0] if kind == "lost" else self.dice.choice([n for n in self.pool if n not in names]))
        base = self.git("rev-parse", "HEAD")
        count = self.dice.choice((1, 2, 3, 5, 8, 13, 28))
        for number in range(count):
            self.edit(names[0] if number == 0 else self.dice.choice(names[: min(count, 6)]))
        first = base
        if kind == "dropped" and count > 2:
            drop = self.git("rev-parse", f"HEAD~{count // 2}")
            try:
                self.git("rebase", "-q", "--onto", f"{drop}~1", drop)
            except subprocess.CalledProcessError:
                self.git("rebase", "--abort")
        named = [f"--base={base}"] if kind == "trailer" else []
        mails = self.git("format-patch", "--stdout", *named, f"{first}..HEAD").encode("utf-8", "replace") + b"\n"
        touched = self.git("diff", "--name-only", first, "HEAD").splitlines()
        files = {name: self.git("rev-parse", f"{base}:{name}") for name in touched}
        self.git("checkout", "-q", "-f", "master")
        if kind == "renamed":
            moved = touched[0]
            self.git("mv", moved, f"{moved.removesuffix('.c')}-moved-{self.day}.c")
            self.commit(f"move {moved}")
            self.pool = [name for name in self.pool if name not in touched]
        return Made(kind, base, mails, files)


def made_tree(path: Path, dice: random.Random) -> Tree:
    path.mkdir()
    source_of(
        DebianSource(type="debian-source", package="linux-source-6.12", suite="trixie"), BuildContext(Cache(), path)
    ).unpack(path)
    tree = Tree(path, dice)
    for number in range(11):
        tree.git(
            "checkout",
            "-q",
            "-b",
            f"topic-{number}",
            dice.choice(["master", f"topic-{max(0, number - 1)}" if number else "master"]),
        )
        tree.grow(3)
    tree.git("checkout", "-q", "master")
    tree.grow(7)
    return tree


def found_rates(options: argparse.Namespace) -> dict[str, float | str | None]:
    """Make series and look for their bases."""
    dice = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="kpatchlab-bases-", dir=options.work) as work:
        tree = made_tree(Path(work) / "linux", dice)
        series = [
            tree.series("lost" if number % LOST_EVERY == LOST_EVERY - 1 else KINDS[number % len(KINDS)])
            for number in range(options.series)
        ]
        for number in (3, 7):  # two branches are rewritten
            tree.git("checkout", "-q", "-B", f"topic-{number}", "master~2")
            tree.grow(2)
        tree.git("reflog", "expire", "--expire=all", "--all")
        repository = git.open_local(tree.path)
        right, misled, seconds = 0, 0, []
        for number, made in enumerate(series, 1):
            patches = split_mbox(made.mails, f"series {number}")
            began = time.monotonic()
            try:
                base = find_base(
                    repository, patches, Clues.of(made.mails.decode("utf-8", "replace"), START + tree.day * DAY)
                )
            except UserError as error:
                say(f"{number} {made.kind}: {error.message}")
                continue
            seconds.append(time.monotonic() - began)
            same = all(
                repository.git("rev-parse", f"{base.commit}:{name}", check=False).stdout.strip() == blob
                for name, blob in made.files.items()
            )
            right += same
            misled += not same and base.sure
            words = "right" if same else "wrong, and sure of it" if base.sure else "another, not sure"
            what = f"{number:3} {made.kind:9} {len(patches):2} patches"
            say(f"{what}: {words}: {base.why} ({seconds[-1]:.2f} s, {base.tried.worst})")
    return {"series": options.series, "right": right, "wrong_and_sure": misled, "slowest_s": f"{max(seconds):.2f}"}


def long_history(path: Path, commits: int) -> None:
    """Make a history of so many commits, half an hour apart, each to one of 400 files in 20 folders."""
    subprocess.run(["git", "init", "-q", "--bare", "-b", "master", str(path)], check=True)
    importer = subprocess.Popen(["git", "-C", str(path), "fast-import", "--quiet"], stdin=subprocess.PIPE)
    assert importer.stdin
    dice = random.Random(1)
    for number in range(commits):
        name = f"d{dice.randrange(20)}/f{dice.randrange(20)}.c"
        text = "".join(f"line {n}\n" for n in range(12)) + f"{number}\n"
        when = START + number * 1800
        importer.stdin.write(
            f"commit refs/heads/master\ncommitter A <a@example.com> {when} +0000\ndata 2\nx\n"
            f"M 100644 inline {name}\ndata {len(text)}\n{text}\n".encode()
        )
    importer.stdin.close()
    if importer.wait():
        raise SystemExit("git fast-import failed")
    subprocess.run(["git", "-C", str(path), "repack", "-q", "-a", "-d", "--depth=10", "--window=5"], check=True)


def long_times(options: argparse.Namespace) -> dict[str, float | str | None]:
    """Look for the base of a series in histories of growing length."""
    found: dict[str, float | str | None] = {}
    for share in (4, 2, 1):
        commits = options.commits // share
        with tempfile.TemporaryDirectory(prefix="kpatchlab-bases-", dir=options.work) as work:
            path = Path(work) / "long.git"
            long_history(path, commits)
            repository = git.open_local(path)
            back = repository.git("rev-parse", f"master~{min(2000, commits // 10)}").stdout.strip()
            name = "d3/f5.c"
            old = repository.git("rev-parse", f"{back}:{name}").stdout.strip()
            text = repository.git("cat-file", "blob", old).stdout.splitlines()
            diff = f"diff --git a/{name} b/{name}\nindex {old[:12]}..123456789abc 100644\n--- a/{name}\n+++ b/{name}\n"
            diff += f"@@ -1,3 +1,4 @@\n {text[0]}\n+new\n {text[1]}\n {text[2]}\n"
            when = START + (commits - min(2000, commits // 10)) * 1800
            mail = f"From x Mon Sep 17 00:00:00 2001\nFrom: A <a@example.com>\nSubject: [PATCH] x\n\ny\n---\n{diff}"
            began = time.monotonic()
            base = find_base(repository, split_mbox(mail.encode(), "m"), Clues("", (), when))
            took = time.monotonic() - began
            same = repository.git("rev-parse", f"{base.commit}:{name}").stdout.strip() == old
            verdict = "right" if same else "wrong"
            say(f"{commits} commits: {verdict} in {took:.2f} s: {base.why}; {'; '.join(base.looked_at)}")
            found[f"s_of_{commits}"] = f"{took:.2f}"
    return found


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__, rounds=1)
    arguments.add_argument("--series", type=int, default=60, help="how many series are made")
    arguments.add_argument("--commits", type=int, default=1_200_000, help="of the longest history; 0: leave it out")
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--work", type=Path, help="folder for the trees, some 4 GiB; default: the usual one")
    options = arguments.parse_args()
    figures = found_rates(options) if options.series else {}
    figures |= long_times(options) if options.commits else {}
    last_line(**figures)


if __name__ == "__main__":
    run(main)
