"""The verb `try`: from a mailbox and a tree to a verdict and a reply, on the fake tree."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
from types import SimpleNamespace

import pytest
import yaml

from kpatchlab.build import BuildContext, b4, patchset
from kpatchlab.build.base import Fit
from kpatchlab.build.checkout import hash_of
from kpatchlab.build.patchset import Patch
from kpatchlab.cache import Cache
from kpatchlab.lab.recipes import QuiltSeries
from kpatchlab.model import Case, JobResult, Outcome, Splat, job_case, log_case
from kpatchlab.series import trial
from kpatchlab.series.since import Tried, earlier, remember
from kpatchlab.store.run_dir import load_run
from tests.labdir import write
from tests.posting import runs, try_

pytestmark = pytest.mark.toy


def test_from_a_mailbox_to_a_verdict_a_reply_and_the_patch_that_did_it(posted):
    posted.grow("comment", "printk", "fault", "printk")
    posted.post(3)
    before = posted.untouched()
    status, out, err = try_(posted)
    assert status == 1, out + err
    assert posted.untouched() == before
    assert "series     printk 2 (v1): 3 patches, by A U Thor <author@example.com>" in out
    assert "the newest commit whose 2 files are those that the patches were made of" in out
    assert "solo: 2 faults REGRESSED in 1 scenario (2 checks)" in out, "a verdict as soon as it is there"
    assert out.index("solo: 2 faults REGRESSED in 1 scenario (2 checks)") < out.index("results: ")
    (run, *_) = runs(posted)
    assert "REGRESSED" in (run / "comment.md").read_text()
    mail = (run / "mail.txt").read_text()
    assert "data intact" in mail
    first = out.split("first bad patch of each failure:")[1]
    assert ["2", "scenarios:", "solo:", "fail"] in [line.split() for line in first.splitlines()], out


def test_the_lab_of_a_trial_can_be_run_again(posted):
    posted.grow("comment", "printk", "comment")
    posted.post(2)
    status, out, err = try_(posted, "--no-patches")
    assert status == 0, out + err
    (run,) = runs(posted)
    base, patched = load_run(run).checkouts
    assert base.commit == patched.commit == posted.tree.git("rev-parse", "HEAD")
    files = [run / name for name in patched.patches]
    assert (len(files), base.patchset, patched.patchset) == (2, "", hash_of([file.read_bytes() for file in files]))
    posted.tree.git("apply", "--check", *map(str, files))
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


def test_whose_code_a_series_changes_is_said(posted):
    posted.commit("maintainers", "THE CORE\nM:\tB <b@example.com>\nF:\tcore/\n", "MAINTAINERS")
    posted.grow("comment", "printk")
    posted.post(1)
    status, out, err = try_(posted, "--dry-run")
    assert status == 0, out + err
    assert "subsystems THE CORE\npeople     B <b@example.com>\n" in out


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
    assert "solo: 2 faults REGRESSED in 1 scenario (2 checks)" in out


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


@pytest.fixture
def reviewed(posted, monkeypatch):
    """Return a lab whose tree has a series of two on b4's branch, which is not checked out, and b4's notes of it."""
    posted.tree.git("checkout", "-q", "-b", "b4/review/things")
    posted.grow("comment", "printk", "fault")
    posted.tree.git("commit", "-q", "--allow-empty", "-m", "notes")
    first = posted.tree.git("rev-parse", "HEAD~2")
    posted.tree.git("checkout", "-q", "main")
    (posted.tree.tree / "MAINTAINERS").write_text("x\n")
    series = {"change-id": "things", "first-patch-commit": first, "subject": "[PATCH v2 0/2] Things"}
    notes = write(posted.root / "notes.json", json.dumps({"series": series}))
    monkeypatch.setenv("B4_TRACKING_FILE", str(notes))
    return posted


COVER = "From: A <a@example.com>\nSubject: [PATCH v2 0/2] Things\n\nCover.\n"


def test_b4_gets_a_list_of_checks_for_a_series_on_its_own_branch(reviewed, monkeypatch):
    found = answer(reviewed, monkeypatch, COVER, "--for", "b4")
    assert found["kpatchlab scenarios"]["status"] == "fail"
    assert "solo: data intact" in found["kpatchlab scenarios"]["details"]
    assert found["kpatchlab build"]["status"] == "pass"
    (kept,) = reviewed.root.glob("results/tries/*/trial.json")
    assert {"title": "Things", "version": "v2"}.items() <= json.loads(kept.read_text()).items()
    issues = [{"case": "solo: *", "series": "Things", "version": "v2", "reason": "another tree"}]
    write(reviewed.root / "known.yaml", json.dumps({"known": issues}))
    found = answer(reviewed, monkeypatch, COVER, "--for", "b4")
    assert found["kpatchlab scenarios"]["status"] == "pass"
    assert "kpatchlab scenarios by patch" not in found


def test_b4_gets_a_list_of_checks_for_each_patch_of_one_walk(reviewed, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"Subject: [PATCH v2 2/2] fault 3\n\nText.\n")))
    monkeypatch.chdir(reviewed.tree.tree)
    status, out, err = reviewed.call("--lab", str(reviewed.root / "lab.yaml"), "try", "--for", "b4-patch")
    found = {row["tool"]: row["status"] for row in json.loads(out)}
    assert (status, found["kpatchlab build"]) == (0, "pass")
    assert "kpatchlab scenarios" not in found
    assert "known" not in err
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"Subject: [PATCH v2 1/2]\n printk 2\n\n")))
    status, out, err = reviewed.call("--lab", str(reviewed.root / "lab.yaml"), "try", "--for", "b4-patch")
    found = {row["tool"]: row["status"] for row in json.loads(out)}
    assert (status, found["kpatchlab build"]) == (0, "pass")
    assert "patch 1: printk 2: known" in err
    assert "patch 2: fault 3: known" in err


def test_b4_is_told_of_what_cannot_be_tested_as_a_warning(posted, monkeypatch):
    posted.grow("comment")
    (posted.tree.tree / "MAINTAINERS").write_text("x\n")
    found = answer(posted, monkeypatch, "Subject: [PATCH 1/1] of another tree\n\n", "--for", "b4-patch")
    assert found["kpatchlab"]["status"] == "warn"
    assert "has no commit 'of another tree' in this series" in found["kpatchlab"]["summary"]


def test_b4_is_told_of_a_stop_as_a_warning(reviewed, monkeypatch):
    def job(text):
        os.kill(os.getpid(), signal.SIGINT)
        return Outcome.PASS

    reviewed.job = job
    found = answer(reviewed, monkeypatch, COVER, "--for", "b4")
    assert (found["kpatchlab"]["status"], found["kpatchlab"]["summary"]) == ("warn", "not tested: it was stopped")


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
    posted.grow("comment")
    posted.commit("fault", 'static const char fault[] __attribute__((used)) = "LAB_FAULT";\n')
    posted.post(1)
    assert try_(posted)[0] == 1, "the walk stores what scenarios say of each patch"
    known = "known:\n" + "".join(
        f'  - {{case: "solo: {case}", series: "fault*", version: v1, message: "*byte 4096*", reason: another tree}}\n'
        for case in ("job", "data intact")
    )
    write(posted.root / "known.yaml", known)
    status, out, err = try_(posted)
    assert status == 0, out + err
    assert "2 known" in out
    assert "known: data intact: byte 4096 differs (solo on with): another tree" in out
    assert "first bad patch" not in out
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


def test_a_folder_within_a_tree_means_the_tree(posted, monkeypatch):
    posted.grow("comment", "printk")
    (posted.tree.tree / "MAINTAINERS").write_text("x\n")
    monkeypatch.chdir(posted.tree.tree / "core")
    status, out, err = posted.call("--lab", str(posted.root / "lab.yaml"), "try", "HEAD~1..HEAD", "--dry-run")
    assert status == 0, out + err
    assert "changes    core/main.c" in out


def test_what_was_merged_is_kept_with_its_mails_beside_what_is_remembered(tmp_path):
    diff = b"--- core/x.c\n+++ core/x.c\n@@ -1 +1 @@\n-a\n+b\n"
    mail = b"From: A <a@example.com>\nSubject: [PATCH 1/2] core: b\n\nText.\n---\n"
    patches = (Patch("1/2", "core: b", diff, 0, mail + diff), Patch("2/2", "core: c", diff.replace(b"b", b"c"), 0))
    folder = tmp_path / "tried"
    remember(folder, Tried("core", "v1", "1"))
    tried = SimpleNamespace(worst=Fit.THREE_WAY, patches=patches)
    trial.write(SimpleNamespace(folder=folder, base=SimpleNamespace(tried=tried)), b"From 0\n")
    assert earlier(tmp_path, "core", "v2") == Tried("core", "v1", "1")
    assert (folder / "series.mbox").read_bytes() == b"From 0\n"
    context = BuildContext(Cache(tmp_path / "cache"), tmp_path)
    read = patchset.read_series([QuiltSeries(type="quilt", path=str(folder))], context)
    assert [(patch.subject, patch.strip) for patch in read] == [("core: b", 0), ("core: c", 0)]
    assert b"Text." in read[0].mail
    assert patchset.series_key(read) == patchset.series_key(patches)


@pytest.mark.parametrize("version", ["2", "v2"])
def test_the_version_of_a_message_id_is_the_one_that_is_fetched(posted, monkeypatch, version):
    posted.grow("comment", "printk")
    mails, asked = posted.post(1, "-v2"), []
    monkeypatch.setattr(b4, "thread", lambda item, ctx: asked.append(item.version) or mails)
    status, out, err = try_(posted, "--version", version, "--dry-run", series="1@example.com")
    assert status == 0, out + err
    assert set(asked) == {"2"}
    assert "(v2): 1 patch" in out


def on_a_broken_base(lab) -> str:
    """Post a series on a commit that does not compile; returns the commit before it, which has the same file."""
    good = lab.grow("comment").commits[-1]
    lab.commit("other", "#error nobody can build this\n", "core/main.c")
    lab.grow("comment")
    lab.post(1)
    return good


def test_a_base_that_does_not_build_is_told_and_the_next_one_is_offered(posted):
    good = on_a_broken_base(posted)
    status, out, err = try_(posted, "--no-patches")
    assert status == 3, out + err
    line = next(line for line in out.splitlines() if line.startswith("the base "))
    assert "does not build: core/main.c:" in line
    assert "nobody can build this" in line
    line = next(line for line in out.splitlines() if line.startswith("the next candidate is "))
    assert line.endswith(f"--no-patches --base {good[:12]}")
    status, out, err = try_(posted, "--no-patches", "--base", good)
    assert status == 0, out + err
    assert "next candidate" not in out


def test_a_base_that_does_not_boot_is_told_and_a_bad_one_is_not_offered_again(posted):
    good = on_a_broken_base(posted)
    try_(posted, "--no-patches")
    posted.job = lambda text: Outcome.CRASH
    _, out, err = try_(posted, "--no-patches", "--base", good)
    assert f"({good[:12]}) does not boot as far as a scenario: data intact" in out, err
    assert "the tree has no other commit that the series applies to" in out


def of_base(outcome, *cases, **more):
    """A run of one job, on the base of a trial."""
    why = "main: exit status 1"
    job = JobResult(
        job="solo@without", scenario="solo", params={}, column=trial.BASE, placement={"main": trial.BASE}, repeat=0,
        outcome=outcome, message=why, cases=(job_case(outcome, why), *cases), **more,
    )  # fmt: skip
    return SimpleNamespace(builds=(), jobs=(job,))


DIED = log_case("main", Outcome.CRASH, "Oops", preparing=trial.BASE)
UNLOADED = log_case("main", Outcome.PASS, preparing=trial.BASE)


@pytest.mark.parametrize(
    ("run", "ground"),
    [
        (of_base(Outcome.FAIL), True),
        (of_base(Outcome.TIMEOUT), True),
        (of_base(Outcome.PASS), True),
        (of_base(Outcome.CRASH, Case("first", Outcome.PASS)), True),
        (of_base(Outcome.CRASH, log_case("main", Outcome.CRASH, "Oops"), guest_s=0.1), True),
        (of_base(Outcome.CRASH, log_case("main", Outcome.CRASH, "Oops")), False),
        (of_base(Outcome.CRASH, DIED), False),
        (of_base(Outcome.FAIL, UNLOADED), False),
    ],
    ids=["its script fails", "no end", "passes without checks", "a check", "its script began", "lost before", "boot",
         "preparation"],
)  # fmt: skip
def test_only_a_base_that_comes_to_no_scenario_is_no_ground(run, ground):
    assert (trial.fault_of_base(run) == "", trial.is_ground(run)) == (ground, ground)


def test_a_base_that_no_job_tried_is_neither():
    for run in (of_base(Outcome.SKIP), SimpleNamespace(builds=(), jobs=())):
        assert (trial.fault_of_base(run), trial.is_ground(run)) == ("", False)


def test_a_base_that_tests_well_is_no_longer_kept_from_trials(posted):
    good = on_a_broken_base(posted)
    posted.job = lambda text: Outcome.CRASH
    try_(posted, "--no-patches", "--base", good)
    (note,) = posted.root.glob(f"results/{trial.FOLDER}/*/{trial.BROKEN}")
    other = write(note.parents[1] / "other" / trial.BROKEN, note.read_text())
    unlike = write(note.parents[1] / "unlike" / trial.BROKEN, "0" * 40)
    posted.job = lambda text: Outcome.SKIP
    try_(posted, "--no-patches", "--base", good)
    assert note.exists()
    posted.job = lambda text: Outcome.PASS
    try_(posted, "--no-patches", "--base", good)
    assert [path.exists() for path in (note, other, unlike)] == [False, False, True]


def test_a_series_that_crashes_alone_says_nothing_of_its_base(posted):
    posted.grow("comment", "fault")
    posted.post(1)
    posted.job = lambda text: Outcome.CRASH if b"LAB_FAULT" in text else Outcome.PASS
    status, out, err = try_(posted, "--no-patches")
    assert status == 1, out + err
    assert "the base " not in out
