"""The verb `try`: from a mailbox and a tree to a verdict and a reply, on the fake tree."""

from __future__ import annotations

import io
import json
import sys

import pytest
import yaml

from kpatchlab.model import Outcome, Splat
from tests.labdir import SOLO, write


@pytest.fixture
def posted(lab):
    """Return a lab, and a way to post the last commits of its tree: mails, and the tree without them."""

    def post(count: int, *words: str) -> bytes:
        git = lab.tree.git
        mails = git("format-patch", "--stdout", *words, f"HEAD~{count}..HEAD") + "\n"
        git("reset", "-q", "--hard", f"HEAD~{count}")
        path = write(lab.root / "series.mbox", mails)
        return path.read_bytes()

    write(lab.root / "scenarios/solo/scenario.yaml", SOLO + "touches: {files: [core]}\n")
    lab.post = post
    return lab


def try_(lab, *words, series="series.mbox"):
    return lab.call("try", str(lab.root / series), "--tree", str(lab.tree.tree), *words)


def runs(lab):
    return sorted(path.parent for path in lab.root.glob("results/2*/run.json"))


def test_from_a_mailbox_to_a_verdict_a_reply_and_the_patch_that_did_it(posted):
    posted.grow("comment", "printk", "fault", "printk")
    posted.post(3)
    before = posted.untouched()
    status, out, err = try_(posted)
    assert status == 1, out + err
    assert posted.untouched() == before
    assert "series     printk 2 (v1): 3 patches, by A U Thor <author@example.com>" in out
    assert "the newest commit whose 2 files are those that the patches were made of" in out
    assert "solo: 2 REGRESSED" in out, "a verdict as soon as it is there"
    assert out.index("solo: 2 REGRESSED") < out.index("results: ")
    (run, *_) = runs(posted)
    assert "REGRESSED" in (run / "comment.md").read_text()
    mail = (run / "mail.txt").read_text()
    assert "data intact" in mail
    first = out.split("first bad patch of each failure:")[1]
    assert ["2", "scenarios:", "solo:", "fail"] in [line.split() for line in first.splitlines()], out


def test_the_lab_of_a_trial_can_be_run_again(posted):
    posted.grow("comment", "printk")
    posted.post(1)
    status, out, err = try_(posted, "--no-patches")
    assert status == 0, out + err
    (run,) = runs(posted)
    kept = yaml.safe_load((run / "lab.yaml").read_text())
    assert kept["kernels"]["without"]["source"]["revision"] == posted.tree.git("rev-parse", "HEAD")
    (posted.root / "series.mbox").unlink()
    status, out, err = posted.call("--lab", str(run / "lab.yaml"), "run")
    assert status == 0, out + err
    assert len(runs(posted)) == 2
    assert "cached" in out


def test_a_dry_run_builds_nothing(posted):
    posted.grow("comment", "printk")
    posted.post(1)
    status, out, err = try_(posted, "--dry-run")
    assert status == 0, out + err
    assert "kernel:with: to make" in out
    assert "takes " in out
    assert not runs(posted)
    assert not list(posted.host.cache.root.glob("kernel/*"))


def test_where_it_does_not_apply_the_hunk_is_named(posted):
    posted.grow("comment", "printk")
    mails = posted.post(1)
    text = posted.tree.tree / "core/main.c"
    text.write_text("/* all is new */\n")
    posted.tree.git("commit", "-qam", "rewrite")
    status, out, err = try_(posted, "--base", "HEAD")
    assert status == 2, out + err
    assert "patch 1 applies not" in out
    assert "core/main.c:" in err
    assert "hunk 1 of 1" in err
    assert mails


def test_a_range_of_the_tree_is_a_series(posted):
    posted.grow("comment", "printk", "fault")
    status, out, err = posted.call("try", "HEAD~2..HEAD", "--tree", str(posted.tree.tree), "--no-patches")
    assert status == 1, out + err
    assert "2 patches" in out
    assert "solo: 2 REGRESSED" in out


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("nothing.mbox", "no such file or folder, no range and no message-id"),
        ("HEAD..nowhere", "has no revision 'nowhere'"),
    ],
)
def test_a_series_that_is_none_is_one_line(posted, word, said):
    status, out, err = posted.call("try", word, "--tree", str(posted.tree.tree))
    assert status == 2, out + err
    assert said in err
    assert "Traceback" not in err


def answer(lab, monkeypatch, mail: str, *words: str):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(mail.encode())))
    monkeypatch.chdir(lab.tree.tree)
    status, out, err = lab.call("--lab", str(lab.root / "lab.yaml"), "try", *words)
    assert status == 0, out + err
    return {row["tool"]: row for row in json.loads(out)}


def test_b4_gets_a_list_of_checks_for_a_series_that_it_has_applied(posted, monkeypatch):
    posted.grow("comment", "printk", "fault")
    (posted.tree.tree / "MAINTAINERS").write_text("x\n")
    mail = "From: A <a@example.com>\nSubject: [PATCH v2 0/2] Things\n\nCover.\n"
    found = answer(posted, monkeypatch, mail, "--for", "b4")
    assert found["kpatchlab scenarios"]["status"] == "fail"
    assert "solo: data intact" in found["kpatchlab scenarios"]["details"]
    assert found["kpatchlab build"]["status"] == "pass"


def test_b4_gets_a_list_of_checks_for_one_patch(posted, monkeypatch):
    posted.grow("comment", "printk", "fault")
    (posted.tree.tree / "MAINTAINERS").write_text("x\n")
    mail = "From: A <a@example.com>\nSubject: [PATCH v2 1/2]\n printk 2\n\nText.\n"
    found = answer(posted, monkeypatch, mail, "--for", "b4-patch")
    assert found["kpatchlab build"]["status"] == "pass"
    assert "kpatchlab scenarios" not in found


def test_b4_is_told_of_what_cannot_be_tested_as_a_warning(posted, monkeypatch):
    (posted.tree.tree / "MAINTAINERS").write_text("x\n")
    found = answer(posted, monkeypatch, "Subject: [PATCH 1/1] of another tree\n\n", "--for", "b4-patch")
    assert found["kpatchlab"]["status"] == "warn"
    assert "has no commit 'of another tree' on top" in found["kpatchlab"]["summary"]


def mailbox(lab, *parts: str) -> None:
    write(lab.root / "series.mbox", "\n".join(parts) + "\n")


def test_of_several_versions_the_newest_is_tried_or_the_one_that_is_named(posted):
    posted.grow("comment", "fault")
    old = posted.post(1, "-v1").decode()
    posted.grow("printk")
    new = posted.post(1, "-v2").decode()
    mailbox(posted, old, new)
    status, out, err = try_(posted, "--dry-run")
    assert status == 0, out + err
    assert "(v2): 1 patch" in out
    status, out, err = try_(posted, "--version", "1", "--no-patches")
    assert status == 1, out + err
    assert "changes    core/net.c" in out
    (run,) = runs(posted)
    assert yaml.safe_load((run / "lab.yaml").read_text())["kernels"]["with"]["series"][0]["version"] == "1"


def test_a_series_with_a_gap_is_named_and_refused(posted):
    posted.grow("comment", "printk", "comment", "printk")
    mails = posted.post(3).decode().split("\nFrom ")
    mailbox(posted, mails[0], "From " + mails[2])
    status, out, err = try_(posted)
    assert status == 2, out + err
    assert "patch 2 of 3 of v1 is missing" in err


def test_a_second_version_is_held_against_the_first_one(posted):
    posted.grow("comment", "fault")
    old = posted.post(1, "-v1").decode()
    mailbox(posted, old)
    status, out, err = try_(posted, "--no-patches")
    assert status == 1, out + err
    assert "since" not in out
    (first,) = runs(posted)
    posted.grow("printk")
    new = posted.post(1, "-v2").decode().replace("printk 3", "fault 2")
    mailbox(posted, new)
    status, out, err = try_(posted, "--no-patches")
    assert status == 0, out + err
    assert f"since v1 (run {first.name}): 2 fixed" in out
    assert "  fixed: data intact: byte 4096 differs (solo on with)" in out
    second = runs(posted)[-1]
    assert "since v1" in (second / "mail.txt").read_text()


def test_what_is_known_of_a_series_is_told_once_and_is_no_failure(posted):
    posted.grow("comment", "fault")
    posted.post(1)
    known = "known:\n" + "".join(
        f'  - {{case: "solo: {case}", series: "fault*", version: v1, message: "*byte 4096*", reason: another tree}}\n'
        for case in ("job", "data intact")
    )
    write(posted.root / "known.yaml", known)
    status, out, err = try_(posted, "--no-patches")
    assert status == 0, out + err
    assert "2 known" in out
    assert "known: data intact: byte 4096 differs (solo on with): another tree" in out
    write(posted.root / "known.yaml", known.replace("byte 4096", "byte 1"))
    status, out, err = try_(posted, "--no-patches")
    assert status == 1, out + err


def test_a_known_check_hides_no_new_splat(posted):
    posted.grow("comment", "fault")
    posted.post(1)
    splat = Splat("warning", "WARNING in core_send", "0123456789abcdef", "WARNING: core/net.c:3\n")
    posted.job = lambda text: splat if b"LAB_FAULT" in text else Outcome.PASS
    write(posted.root / "known.yaml", 'known:\n  - {case: "solo: *", reason: whatever}\n')
    status, out, err = try_(posted, "--no-patches")
    assert status == 1, out + err
    assert "1 known" not in out
