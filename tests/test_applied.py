"""Which commits a reviewer's tool has applied, on repositories as `b4 review` 0.16 leaves them."""

from __future__ import annotations

import json

import pytest

from kpatchlab.errors import UserError
from kpatchlab.series.applied import applied
from tests.build_fixtures import Bench

CHANGE = "20261130-both-0123456789ab"
BRANCH = f"b4/review/{CHANGE}"
TWO = "=?utf-8?q?net=3A_two=3A_=C3=A4=C3=B6=C3=BC?="


@pytest.fixture
def tree(tmp_path):
    """Return a tree with a series of two on b4's branch above a prerequisite, and another commit checked out."""
    bench = Bench(tmp_path)
    bench.repository()
    bench.git("checkout", "-q", "-b", BRANCH)
    for number, title in enumerate(("needed before", "net: one", "net: two: äöü")):
        bench.write(f"core/new{number}.h", f"/* {number} */\n")
        bench.git("add", "-A")
        bench.git("commit", "-q", "-m", title)
    bench.git("commit", "-q", "--allow-empty", "-m", "Both\n\n--- b4-review-tracking ---\n{}")
    bench.git("checkout", "-q", "main")
    bench.write("core/other.h", "/* other */\n")
    bench.git("add", "-A")
    bench.git("commit", "-q", "-m", "other work")
    return bench


def notes(tree, **changes):
    series = {
        "change-id": CHANGE, "first-patch-commit": tree.git("rev-parse", f"{BRANCH}~2"), "revision": 3,
        "subject": "[PATCH net-next v3 0/2] net: both",
    }  # fmt: skip
    path = tree.root / "notes.json"
    path.write_text(json.dumps({"series": series | changes, "patches": []}))
    return path


def mail(subject: str, text: str = "Text.") -> bytes:
    return f"From: A <a@example.com>\nSubject: {subject}\n\n{text}\n".encode()


COVER = mail("[PATCH net-next v3 0/2] net: both")


@pytest.mark.parametrize(
    "text", [COVER, mail("[net-next,v3,1/2] net: one"), mail(f"[PATCH v3 2/2] {TWO}")]
)  # fmt: skip
def test_b4s_file_says_which_commits_the_series_is(tree, text):
    found = applied(text, tree.tree, notes(tree))
    base, tip = (tree.git("rev-parse", f"{BRANCH}~{back}") for back in (3, 1))
    assert (found.range, found.title, found.version) == (f"{base}..{tip}", "net: both", "v3")


def test_a_mail_of_another_series_than_b4s_file_is_refused(tree):
    with pytest.raises(UserError, match="no commit 'needed before' in this series"):
        applied(mail("[PATCH 1/2] needed before"), tree.tree, notes(tree))


@pytest.mark.parametrize(
    "changes", [{"change-id": "gone"}, {"first-patch-commit": "0" * 40}, {"first-patch-commit": "main"}]
)
def test_a_branch_that_is_not_that_of_b4s_file_is_refused(tree, changes):
    with pytest.raises(UserError, match="does not have the series that b4 names"):
        applied(COVER, tree.tree, notes(tree, **changes))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"series": 3}', "\xff"])
def test_a_file_that_is_not_b4s_is_one_line(tree, text):
    path = tree.root / "notes.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match="it is not b4's file about a series"):
        applied(COVER, tree.tree, path)


def test_without_a_file_the_series_is_what_is_on_top_without_empty_commits(tree):
    tree.git("checkout", "-q", BRANCH)
    tree.git("commit", "-q", "--allow-empty", "-m", "notes again")
    found = applied(mail(f"[PATCH v2 2/2] {TWO}"), tree.tree)
    base, tip = (tree.git("rev-parse", f"HEAD~{back}") for back in (4, 2))
    assert (found.range, found.title, found.version) == (f"{base}..{tip}", "net: one", "v2")
    listed = "Both.\n\nA U Thor (2):\n  net: one\n  net: two:\n    äöü\n\n core/new1.h | 1 +\n"
    assert applied(mail("[RFC PATCH 0/2] net: both", listed), tree.tree).range == found.range
    assert applied(mail("[RFC PATCH 0/2] net: both", listed), tree.tree).version == "RFC v1"


@pytest.mark.parametrize(
    "text",
    [
        mail("[PATCH 1/2] net: one"),
        mail("[PATCH 0/2] net: both", "A U Thor (2):\n  net: one\n  net: two: äöü\n"),
        mail("[PATCH 0/2] net: both"),
        mail("[PATCH 1/9] other work"),
    ],
)
def test_what_is_on_top_and_is_another_series_is_refused(tree, text):
    with pytest.raises(UserError, match=r"in this series|on top") as caught:
        applied(text, tree.tree)
    assert "BASE..TIP" in caught.value.hint


def test_a_mail_without_a_subject_is_one_line(tree):
    for text in (b"", mail("[PATCH 1/2]"), b"Subject:\n\nText.\n"):
        with pytest.raises(UserError, match="has no subject"):
            applied(text, tree.tree)
