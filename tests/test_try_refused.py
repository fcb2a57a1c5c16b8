"""What `try` is given that is no series, or no tree for it: one clear line each, before anything is built."""

import re
import shutil
import subprocess

import pytest

from kpatchlab.build import gitview
from tests.labdir import write
from tests.posting import runs, try_


@pytest.fixture
def ready(posted):
    """Return a lab with a posted series of two commits, the second of which is good."""
    posted.grow("comment", "printk", "comment", "printk")
    posted.mails = posted.post(2).decode()
    return posted


def refused(lab, *words, status=2):
    """Try the series; returns the one line that it is refused with."""
    before = lab.untouched()
    found, out, err = try_(lab, *words)
    assert found == status, out + err
    assert lab.untouched() == before
    lines = err.strip().splitlines()
    assert lines[0].startswith("kpatchlab: ")
    assert "Traceback" not in err
    assert [line for line in lines if line.startswith("kpatchlab: ")] == lines[:1]
    assert not runs(lab)
    assert not list(lab.host.cache.root.glob("kernel/*"))
    return lines[0]


def mails(lab, *parts):
    write(lab.root / "series.mbox", "\n".join(parts) + "\n")


# ----------------------------------------------------------------------------------------------- the tree


def other_tree(lab, name="other"):
    """Let the next call name another folder beside the tree; returns it."""
    lab.tree.tree, where = lab.root / name, lab.tree.tree
    return where


def test_a_folder_that_is_no_repository(ready):
    source = other_tree(ready)
    shutil.copytree(source, ready.tree.tree, ignore=shutil.ignore_patterns(".git"))
    status, out, err = try_(ready)
    assert status == 2, out + err
    assert err.startswith(f"kpatchlab: {ready.tree.tree}: not a git repository\n")


def test_a_repository_without_a_commit(ready):
    other_tree(ready)
    subprocess.run(["git", "init", "-q", str(ready.tree.tree)], check=True)
    status, out, err = try_(ready)
    assert status == 2, out + err
    assert err.startswith(f"kpatchlab: {ready.tree.tree} has no commit\n")


def test_a_folder_that_is_not_there(ready):
    other_tree(ready)
    status, out, err = try_(ready)
    assert status == 2, out + err
    assert err.startswith(f"kpatchlab: {ready.tree.tree}: no such directory\n")


def clone(lab, *words):
    source = other_tree(lab)
    words = ["git", "clone", "-q", *words, source.as_uri(), str(lab.tree.tree)]
    subprocess.run(words, check=True)


def test_a_shallow_tree_that_has_the_base_is_as_good(ready):
    clone(ready, "--depth=1")
    status, out, err = try_(ready, "--dry-run")
    assert status == 0, out + err
    assert "whose 2 files are those that the patches were made of" in out
    assert "shallow" not in out


def test_a_shallow_tree_that_lacks_the_base_says_that_it_is_shallow(ready):
    ready.grow("printk", "comment")
    clone(ready, "--depth=1")
    status, out, err = try_(ready, "--dry-run")
    assert status == 2, out + err
    assert "tried: the tree is a shallow clone; git fetch --unshallow there brings what it lacks" in out
    assert "does not apply: " in err.splitlines()[0]


def test_a_partial_tree(ready):
    ready.tree.git("config", "uploadpack.allowFilter", "true")
    clone(ready, "--filter=blob:none", "--no-checkout")
    assert "is a partial clone" in refused(ready)


def test_a_dirty_tree_is_taken_as_it_was_committed(ready):
    (ready.tree.tree / "core/main.c").write_text("#error not committed\n")
    (ready.tree.tree / "core/new.c").write_text("new\n")
    before = ready.untouched()
    status, out, err = try_(ready, "--no-patches")
    assert status == 0, out + err
    assert ready.untouched() == before


def test_a_tree_of_another_user(ready, monkeypatch):
    callers = gitview._callers
    monkeypatch.setattr(gitview, "_callers", lambda: {**callers(), "GIT_TEST_ASSUME_DIFFERENT_OWNER": "1"})
    status, out, err = try_(ready)
    assert status == 2, out + err
    assert "detected dubious ownership in repository at" in err.splitlines()[0]
    assert not runs(ready)


def test_a_tree_with_a_hostile_configuration_runs_nothing_of_it(ready):
    spy = ready.root / "spy"
    spy.write_text(f"#!/bin/sh\necho $0 $@ >>{ready.root}/ran\ncat\n")
    spy.chmod(0o755)
    for name in ("core.fsmonitor", "core.pager", "diff.external", "filter.x.smudge", "filter.x.clean", "core.editor"):
        ready.tree.git("config", name, str(spy))
    (ready.tree.tree / ".git/info/attributes").write_text("* filter=x diff=x merge=x\n")
    (ready.tree.tree / ".git/hooks").mkdir(exist_ok=True)
    for hook in ("post-checkout", "post-index-change", "reference-transaction"):
        shutil.copy(spy, ready.tree.tree / ".git/hooks" / hook)
    (ready.root / "ran").unlink(missing_ok=True)
    status, out, err = try_(ready, "--no-patches")
    assert status == 0, out + err
    assert not (ready.root / "ran").exists()


def test_a_tree_with_a_configuration_that_git_refuses(ready):
    (ready.tree.tree / ".git/config").write_text("[core\n")
    status, out, err = try_(ready)
    assert status == 2, out + err
    assert "bad config line 1" in err.splitlines()[0]


# ----------------------------------------------------------------------------------------------- the series


def test_a_series_for_another_tree(ready):
    mails(ready, ready.mails.replace("core/", "drivers/gpu/"))
    assert "has none of the files of the series: drivers/gpu/net.c, drivers/gpu/main.c" in refused(ready)


PULL = "From: A <a@b.example>\nSubject: [GIT PULL] net for 6.13\n\nThe following changes since commit 1:\n\n  x\n"
TALK = "From: A <a@b.example>\nSubject: what do you think?\n\nWords.\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (PULL, "there is no patch in it"),
        (TALK, "there is no patch in it"),
        ("", "there is no patch in it"),
        ("From: A <a@b.example>\nSubject: [PATCH 0/2] cover\n\nBoth.\n", "there is no patch in it"),
    ],
    ids=["pull request", "talk", "nothing", "cover letter alone"],
)
def test_a_mailbox_without_patches(ready, text, said):
    write(ready.root / "series.mbox", text)
    line = refused(ready)
    assert said in line
    status, _, err = try_(ready)
    assert status == 2
    assert ("it is a pull request: fetch it" in err) == (text == PULL)


def test_two_series_in_one_mailbox(ready):
    ready.grow("printk", "comment")
    other = ready.post(2).decode()
    mails(ready, ready.mails, other)
    assert re.search(r"2 series are in it|is in it twice, with different changes", refused(ready))


def test_a_patch_to_a_file_that_is_not_built_is_said(posted):
    posted.grow("comment")
    posted.commit("tools", "int unbuilt;\n", "core/unbuilt.c")
    posted.post(1)
    status, out, err = try_(posted)
    assert status == 0, out + err
    assert "not built here: core/unbuilt.c" in out
    run = runs(posted)[0]
    for name in ("mail.txt", "comment.md"):
        assert "core/unbuilt.c" in (run / name).read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--config", "config/none.config"), "none.config"),
        (("--version", "7"), "it has no version 7"),
        (("--base", "nowhere"), "has no revision 'nowhere'"),
        (("--for", "b4"), "--for takes the series from b4's tree"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_a_word_that_leads_nowhere(ready, words, said):
    assert said in refused(ready, *words)
