"""The base of a posted series, found in repositories that are made here."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from kpatchlab.build import base as base_module
from kpatchlab.build import diffs, git
from kpatchlab.build.base import Clues, Fit, find_base
from kpatchlab.build.patchset import split_mbox
from kpatchlab.errors import UserError

DAY = 86400
START = 1_700_000_000
LINES = [f"line {n}\n" for n in range(60)]


class Tree:
    """A repository with one file a letter, whose commits are a day apart."""

    def __init__(self, root: Path, *how: str) -> None:
        self.root, self._day = root, 0
        self.git("init", "-q", "-b", "master", *how)
        for name in "abcd":
            self.file(name).write_text("".join(LINES))
        self.commit("start")
        self.git("tag", "v6.0")

    def file(self, name: str) -> Path:
        return self.root / f"{name}.c"

    def git(self, *words: str, **more) -> str:
        when = f"{START + self._day * DAY} +0000"
        env = {
            "GIT_AUTHOR_NAME": "A", "GIT_AUTHOR_EMAIL": "a@example.com", "GIT_AUTHOR_DATE": when,
            "GIT_COMMITTER_NAME": "A", "GIT_COMMITTER_EMAIL": "a@example.com", "GIT_COMMITTER_DATE": when,
            "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1", "PATH": "/usr/bin:/bin",
        }  # fmt: skip
        done = subprocess.run(
            ["git", *words], cwd=self.root, env=env, capture_output=True, text=True, check=True, **more
        )
        return done.stdout.strip()

    def commit(self, subject: str) -> str:
        self._day += 1
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", subject)
        return self.git("rev-parse", "HEAD")

    def edit(self, name: str, line: int, text: str = "") -> str:
        lines = self.file(name).read_text().splitlines(keepends=True)
        lines[line] = f"{text or f'changed on day {self._day}'}\n"
        self.file(name).write_text("".join(lines))
        return self.commit(f"{name}: line {line}")

    def series(self, base: str, tip: str, *words: str) -> bytes:
        return self.git("format-patch", "--stdout", *words, f"{base}..{tip}").encode() + b"\n"

    def posted(self, *edits: tuple[str, int], named: bool = False) -> tuple[str, bytes]:
        """Make a series on the commit that is checked out, post it, and throw it away; returns base and mails."""
        base = self.git("rev-parse", "HEAD")
        branch = self.git("rev-parse", "--abbrev-ref", "HEAD")
        self.git("checkout", "-q", "--detach")
        for name, line in edits:
            self.edit(name, line, f"by the series {line}")
        mails = self.series(base, "HEAD", *([f"--base={base}"] if named else []))
        self.git("checkout", "-q", branch)
        self.git("reflog", "expire", "--expire=all", "--all")
        self.git("gc", "-q", "--prune=all")
        return base, mails

    def everything(self) -> list[tuple[str, bytes]]:
        return sorted((str(p), p.read_bytes()) for p in self.root.rglob("*") if p.is_file())


def find(tree: Tree, mails: bytes, asked: str = "", without=()):
    patches = split_mbox(mails, "series.mbox")
    return find_base(git.open_local(tree.root), patches, Clues.of(mails.decode(), START + 20 * DAY), asked, without)


@pytest.fixture
def tree(tmp_path):
    return Tree(tmp_path)


def test_a_base_commit_line_tells_it(tree):
    base, mails = tree.posted(("a", 5), named=True)
    tree.edit("b", 3)
    before = tree.everything()
    found = find(tree, mails)
    assert (found.commit, found.sure) == (base, True)
    assert found.why == "the series names it (base-commit)"
    assert found.tried.fits == (Fit.STRICT,)
    assert tree.everything() == before, "the user's repository is only read"


def test_blobs_tell_the_newest_commit_whose_files_are_the_posted_ones(tree):
    _, mails = tree.posted(("a", 5), ("b", 7), ("a", 9))
    tree.edit("c", 1)
    last = tree.edit("d", 1)
    tree.edit("a", 40)
    tree.edit("c", 2)
    found = find(tree, mails)
    assert (found.commit, found.sure) == (last, True)
    assert found.why == "the newest commit whose 2 files are those that the patches were made of"
    assert found.name.startswith("v6.0-2-g")
    assert found.tried.fits == (Fit.STRICT,) * 3


def test_what_is_no_candidate_is_passed_over_by_every_way_of_looking(tree):
    base, mails = tree.posted(("a", 5), named=True)
    tree.edit("b", 3)
    last = tree.edit("c", 3)
    tree.edit("a", 50)
    seen: list[str] = []
    for _ in range(3):
        found = find(tree, mails, without=seen)
        assert found.commit not in seen
        assert found.tried.applies
        seen.append(found.commit)
    assert seen == [base, last, tree.git("rev-parse", "HEAD")], "as named, by its files, by what takes the patches"
    with pytest.raises(UserError):
        find(tree, mails, without=seen)


def test_a_branch_that_others_do_not_have_is_found(tree):
    tree.git("checkout", "-q", "-b", "topic")
    tree.edit("a", 50)
    base, mails = tree.posted(("a", 49))
    tree.git("checkout", "-q", "master")
    tree.edit("a", 51)
    found = find(tree, mails)
    assert (found.commit, found.sure) == (base, True)


def test_a_base_that_was_rewritten_is_not_called_sure(tree):
    tree.git("checkout", "-q", "-b", "topic")
    tree.edit("a", 50)
    _, mails = tree.posted(("a", 10), named=True)
    tree.git("checkout", "-q", "-B", "topic", "master")
    tree.git("gc", "-q", "--prune=all")
    rebased = tree.edit("a", 52)
    found = find(tree, mails)
    assert (found.commit, found.sure) == (rebased, False)
    assert "the tree does not have it" in found.looked_at[0]
    assert found.why == "of those tried, the first that takes every patch"


def on_two_others(tree):
    """Return the base, the two commits on top of it that a series is made on, and the series, which names them."""
    stable = tree.git("rev-parse", "HEAD")
    first = tree.edit("a", 20)
    second = tree.edit("a", 21)
    tree.git("checkout", "-q", "--detach")
    tree.edit("a", 22, "by the series")
    mails = tree.series(second, "HEAD", f"--base={stable}")
    return stable, first, second, mails


def test_prerequisite_patches_are_found_on_top_of_the_base(tree):
    stable, first, second, mails = on_two_others(tree)
    assert mails.count(b"prerequisite-patch-id") == 2
    tree.git("checkout", "-q", "-B", "other", stable)
    tree.edit("c", 1)
    tree.git("cherry-pick", first, second)
    above = tree.git("rev-parse", "HEAD")
    tree.git("branch", "-D", "master")
    found = find(tree, mails)
    assert (found.commit, found.sure) == (above, True)
    assert found.why == f"the 2 prerequisite patches on top of {stable[:12]} end there"


def test_prerequisites_that_a_second_branch_has_in_part_are_found_where_all_are(tree):
    stable, first, second, mails = on_two_others(tree)
    for branch, picked in (("part", (first,)), ("whole", (first, second)), ("piece", (first,))):
        tree.git("checkout", "-q", "-B", branch, stable)
        tree.edit("c", len(branch))
        tree.git("cherry-pick", *picked)
    tree.git("branch", "-D", "master")
    found = find(tree, mails)
    assert found.commit == tree.git("rev-parse", "whole")
    assert found.why == f"the 2 prerequisite patches on top of {stable[:12]} end there"


def test_only_the_last_prerequisite_can_have_the_others_behind_it(tree, monkeypatch):
    stable = tree.git("rev-parse", "HEAD")
    edits = [tree.edit("a", line) for line in range(20, 32)]
    tree.git("checkout", "-q", "--detach")
    tree.edit("a", 40, "by the series")
    mails = tree.series(edits[-1], "HEAD", f"--base={stable}")
    asked = []
    is_in = git.Repository.is_in
    monkeypatch.setattr(git.Repository, "is_in", lambda *words: asked.append(words) or is_in(*words))
    assert find(tree, mails).commit == edits[-1]
    assert {newer for _, _, newer in asked} == {edits[-1]}
    assert len(asked) == len(edits)


@pytest.fixture
def slow_git(tmp_path, monkeypatch):
    """Return what makes a git command of some first words take a minute, from its nth time on."""
    folder = tmp_path / "bin"
    folder.mkdir()

    def make(words: str, times: int) -> None:
        (folder / "count").write_text("")
        (folder / "git").write_text(
            "#!/bin/sh\n"
            f'case "$*" in *" {words}")\n'
            f"  printf x >> {folder}/count; [ $(wc -c < {folder}/count) -gt {times} ] && exec sleep 60;;\n"
            f'esac\nexec {shutil.which("git")} "$@"\n'
        )
        (folder / "git").chmod(0o755)
        monkeypatch.setenv("PATH", str(folder), prepend=":")

    return make


def test_a_look_that_takes_too_long_ends_with_a_line_and_what_it_saw_counts(tree, monkeypatch, slow_git):
    for line in range(1, 8):
        tree.edit("a", line)
    base, mails = tree.posted(("a", 30))
    tree.edit("a", 50)
    monkeypatch.setattr(base_module, "WALK_S", 2.0)
    monkeypatch.setattr(base_module, "BATCH", 1)
    slow_git("cat-file --batch-check=%(objectname)", 3)
    found = find(tree, mails)
    assert found.commit in {base, tree.git("rev-parse", "HEAD")}
    late = [line for line in found.looked_at if "cat-file" in line]
    assert late
    assert all(
        re.fullmatch(r"git cat-file was ended after 2 s: \d+ of \d+ commits were not looked at", x) for x in late
    )


def test_prerequisites_that_take_too_long_are_a_line(tree, monkeypatch, slow_git):
    stable = tree.git("rev-parse", "HEAD")
    second = tree.edit("a", 21)
    tree.git("checkout", "-q", "--detach")
    tree.edit("a", 22, "by the series")
    mails = tree.series(second, "HEAD", f"--base={stable}")
    monkeypatch.setattr(base_module, "WALK_S", 2.0)
    slow_git("diff-tree --stdin -p --no-ext-diff --no-textconv", 0)
    found = find(tree, mails)
    assert found.commit == second
    assert [line for line in found.looked_at if "diff-tree" in line] == [
        "git diff-tree was ended after 2 s: 1 of 1 commits were not looked at"
    ]


def test_a_repository_of_sha256(tmp_path):
    (tmp_path / "sha256").mkdir()
    tree = Tree(tmp_path / "sha256", "--object-format=sha256")
    tree.edit("a", 3)
    base, mails = tree.posted(("a", 30), ("b", 10))
    tree.edit("b", 55)
    found = find(tree, mails)
    assert (len(found.commit), found.commit, found.sure) == (64, base, True)
    tree.edit("a", 27)  # near the series: only a merge takes it
    fits = find(tree, mails, "HEAD").tried.fits
    assert fits[0] in {Fit.OFFSET, Fit.THREE_WAY}


def test_a_path_that_is_no_utf8(tree):
    name = b"net/caf\xe9.c"
    path = tree.root / os.fsdecode(name)
    path.parent.mkdir()
    path.write_text("".join(LINES))
    base = tree.commit("a name in Latin-1")
    tree.git("checkout", "-q", "--detach")
    path.write_text("".join(["by the series\n", *LINES[1:]]))
    tip = tree.commit("change it")
    mails = tree.series(base, tip)
    assert b'"a/net/caf\\351.c"' in mails
    tree.git("checkout", "-q", "master")
    found = find(tree, mails)
    assert found.commit == base
    assert found.tried.applies
    assert found.tried.worst is Fit.STRICT


def test_three_way_merges_give_patches_that_apply_strictly(tree):
    base, mails = tree.posted(("a", 20), ("a", 30), ("b", 3))
    tree.git("checkout", "-q", "-B", "master", base)
    for day in range(2):
        tree.edit("a", 17 + day)
    later = tree.git("rev-parse", "HEAD")
    tree.git("tag", "-d", "v6.0")
    found = find(tree, mails, asked="HEAD")
    assert (found.commit, found.sure) == (later, True)
    assert found.tried.fits == (Fit.THREE_WAY, Fit.STRICT, Fit.STRICT)
    again = find_base(git.open_local(tree.root), found.tried.patches, Clues(), "HEAD")
    assert again.tried.fits == (Fit.STRICT,) * 3


def test_where_nothing_takes_the_series_the_best_is_told_with_hunk_and_file(tree):
    base, mails = tree.posted(("b", 3), ("a", 20), ("c", 3))
    tree.git("checkout", "-q", "-B", "master", f"{base}")
    tree.edit("b", 50)
    tree.edit("c", 50)
    tree.edit("a", 20, "something else")
    tree.git("tag", "-d", "v6.0")
    tree.git("checkout", "-q", "--orphan", "fresh")
    tree.commit("history lost")
    tree.git("branch", "-D", "master")
    found = find(tree, mails)
    assert not found.sure
    assert not found.tried.applies
    assert found.tried.fits == (Fit.STRICT, Fit.NO, Fit.UNTRIED)
    assert "a.c:18: hunk 1 of 1" in found.tried.error
    assert "by the series 20" in found.tried.details[0]


def test_another_tree_is_refused(tree):
    _, mails = tree.posted(("a", 5))
    with pytest.raises(UserError, match=r"has none of the files of the series: drivers/x.c"):
        find(tree, mails.replace(b"a.c", b"drivers/x.c"))


def test_a_word_that_names_nothing_is_refused(tree):
    _, mails = tree.posted(("a", 5))
    with pytest.raises(UserError, match="has no revision 'v9'"):
        find(tree, mails, asked="v9")


def test_files_that_the_series_makes_moves_and_removes(tree):
    base = tree.git("rev-parse", "HEAD")
    tree.git("checkout", "-q", "--detach")
    (tree.root / "new.c").write_text("new\n" * 5)
    tree.commit("add")
    tree.git("mv", "b.c", "sub.c")
    tree.commit("move")
    tree.git("rm", "-q", "c.c")
    tree.commit("remove")
    tree.edit("new", 2)
    mails = tree.series(base, "HEAD", "-M")
    tree.git("checkout", "-q", "master")
    tree.git("gc", "-q", "--prune=all")
    (tree.root / "new.c").write_text("of another\n")
    tree.commit("takes the name")
    found = find(tree, mails)
    assert (found.commit, found.sure) == (base, True)
    assert found.tried.fits == (Fit.STRICT,) * 4


def test_what_a_hunk_holds_is_no_header():
    mail = b"""\
From: A <a@example.com>
Subject: [PATCH] x

---
diff --git a/a.c b/a.c
index 1234567..89abcde 100644
--- a/a.c
+++ b/a.c
@@ -1,3 +1,3 @@
 one
--- b/other.c
+++ c/other.c
 three
"""
    (part,) = diffs.parts(split_mbox(b"From x Mon Sep 17 00:00:00 2001\n" + mail, "m")[0].data)
    assert (part.name, part.blob) == ("a.c", "1234567")
