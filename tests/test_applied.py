"""Which commits a reviewer's tool has applied, on repositories as `b4 review` 0.16 leaves them."""

from __future__ import annotations

import base64
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


@pytest.mark.parametrize("odd", ["\u2028", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85"])
def test_a_title_may_have_what_ends_a_line_for_others(tree, odd):
    tree.write("core/odd.h", "/* odd */\n")
    tree.git("add", "-A")
    tree.git("commit", "-q", "-m", f"net: odd{odd}end")
    head = tree.git("rev-parse", "HEAD")
    text = f"=?utf-8?b?{base64.b64encode(f'net: odd{odd}end'.encode()).decode()}?="
    assert applied(mail(f"[PATCH 1/1] {text}"), tree.tree).range.endswith(f"..{head}")
    listed = f"Both.\n\nA U Thor (1):\n  net: odd{odd}end\n"
    assert applied(mail("[PATCH 0/1] net: all", listed), tree.tree).range.endswith(f"..{head}")


@pytest.mark.parametrize("charset", ["idna", "punycode", "undefined", "rot13", "nobody-knows", "utf-8\0", "hex"])
def test_a_charset_that_is_none_is_utf_8(tree, charset):
    tree.git("checkout", "-q", BRANCH)
    head = "From: A <a@example.com>\nSubject: [PATCH 0/2] net: both\nMIME-Version: 1.0\n"
    head += f"Content-Type: text/plain; charset={charset}\nContent-Transfer-Encoding: 8bit\n\n"
    text = "Both.\n\nA U Thor (2):\n      net: one\n      net: two: äöü\n"
    base, tip = (tree.git("rev-parse", f"HEAD~{back}") for back in (3, 1))
    assert applied((head + text).encode(), tree.tree).range == f"{base}..{tip}"


@pytest.mark.parametrize("title", ["net", "net: a", "one"])
def test_a_cover_letter_names_a_commit_by_a_whole_line(tree, title):
    tree.write("core/odd.h", "/* odd */\n")
    tree.git("add", "-A")
    tree.git("commit", "-q", "-m", title)
    listed = "This is one for net: all of it.\n\nA U Thor (1):\n  net: a new one\n\n core/net.c | 1 +\n"
    with pytest.raises(UserError, match="on top"):
        applied(mail("[PATCH 0/1] net: both", listed), tree.tree)
    listed = listed.replace("net: a new one", title)
    assert applied(mail("[PATCH 0/1] net: both", listed), tree.tree).title == "net: both"


def test_what_git_lists_of_a_long_title_is_one_title(tree):
    tree.write("core/odd.h", "/* odd */\n")
    tree.git("add", "-A")
    tree.git("commit", "-q", "-m", "net: " + "a title of many words that git wraps in its list " * 4)
    letter = tree.git("format-patch", "--stdout", "--cover-letter", "-1").split("\n---\n")[0]
    assert "  net: a title" in letter
    assert applied(f"{letter}\n".encode(), tree.tree).title


def test_a_mail_without_a_subject_is_one_line(tree):
    for text in (b"", mail("[PATCH 1/2]"), b"Subject:\n\nText.\n"):
        with pytest.raises(UserError, match="has no subject"):
            applied(text, tree.tree)
