"""Mailboxes as people send and keep them: the versions that are in one, what is missing, and what is refused."""

from __future__ import annotations

import base64
import gzip
import quopri
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from build_fixtures import Bench
from pydantic import TypeAdapter

from kpatchlab.build import diffs, mails, patchset, posted
from kpatchlab.errors import UserError
from kpatchlab.lab import recipes

CASES = Path(__file__).with_name("data") / "series"
ONE = ("core/net.c", "return -1", "return -22")
TWO = ("drivers/delta.c", "core_send(0)", "core_send(1)")


@pytest.fixture
def bench(tmp_path):
    made = Bench(tmp_path)
    made.repository()
    return made


@pytest.fixture
def series(bench):
    """The fake tree with three patches on it, and the mails that `git format-patch` makes of them."""
    bench.sub(*ONE)
    bench.git("commit", "-qam", "net: one")
    bench.sub(*TWO)
    bench.git("commit", "-qam", "delta: two")
    bench.write("core/eq.c", "int eq = 1;\n")
    bench.git("add", "-A")
    bench.git("commit", "-qm", "core: three")
    return bench


def formatted(bench, *options, count=3):
    """Return the mails of the last commits, each with a message id, and a cover letter where one is asked for."""
    text = bench.git("format-patch", "--stdout", *options, f"HEAD~{count}") + "\n"
    return ["From " + part for part in re.split(r"^From (?=[0-9a-f]{40} )", text, flags=re.MULTILINE)[1:]]


def box(text, name="s.mbox"):
    return posted.read(text.encode() if isinstance(text, str) else text, name)


def read(bench, path, **more):
    item = {"type": "mbox", "path": str(path), **more}
    return patchset.read_series([TypeAdapter(recipes.Series).validate_python(item)], bench.ctx)


def folder(bench, kind, **more):
    item = {"type": kind, "path": str(bench.root / "patches"), **more}
    return patchset.read_series([TypeAdapter(recipes.Series).validate_python(item)], bench.ctx)


def applied(bench, patches):
    """Apply to the first commit's tree; returns what `git diff --stat main` says of the result."""
    bench.git("checkout", "-qf", bench.git("rev-list", "--max-parents=0", "HEAD"))
    patchset.apply_series(patches, bench.tree, bench.ctx)
    bench.git("add", "-A")
    return bench.git("diff", "--cached", "--stat", "main")


# ------------------------------------------------------------------------------- subjects


@pytest.mark.parametrize(
    ("subject", "version", "number", "total", "title"),
    [
        ("[PATCH] net: one", (1, 0), None, 0, "net: one"),
        ("[PATCH v2] net: one", (2, 0), None, 0, "net: one"),
        ("[PATCH net-next v3 02/10] net: one", (3, 0), 2, 10, "net: one"),
        ("[net-next PATCH v3 02/10] net: one", (3, 0), 2, 10, "net: one"),
        ("[PATCH 2/10 net-next v3] net: one", (3, 0), 2, 10, "net: one"),
        ("[net-next,v3,02/10] net: one", (3, 0), 2, 10, "net: one"),
        ("[v2,1/3] net: one", (2, 0), 1, 3, "net: one"),
        ("[PATCHv4 1/3] net: one", (4, 0), 1, 3, "net: one"),
        ("[PATCH-v4 1/3] net: one", (4, 0), 1, 3, "net: one"),
        ("[RFC PATCH V2 00/28] net: one", (2, 0), 0, 28, "net: one"),
        ("[RFCv2 1/3] net: one", (2, 0), 1, 3, "net: one"),
        ("[PATCH v2.1 3/5] net: one", (2, 1), 3, 5, "net: one"),
        ("[PATCH 5.15/6.1 1/3] net: one", (1, 0), 1, 3, "net: one"),
        ("[PATCH stable 5.15/6.1 v2 1/3] net: one", (2, 0), 1, 3, "net: one"),
        ("[PATCH RESEND v2 1/3] net: one", (2, 0), 1, 3, "net: one"),
        ("[RESEND][PATCH v2][1/3] net: one", (2, 0), 1, 3, "net: one"),
        ("[PATCH 6.1] [net v2] [1/3] net: one", (2, 0), 1, 3, "net: one"),
        ("[linux-nfs] [PATCH v2 1/3] net: one", (2, 0), 1, 3, "net: one"),
        ("[PATCH 1/3] net: one [v2 2/9]", (1, 0), 1, 3, "net: one [v2 2/9]"),
        ("net: one", (1, 0), None, 0, "net: one"),
        ("[PATCH bpf-next 1/3] selftests/bpf: 10/20", (1, 0), 1, 3, "selftests/bpf: 10/20"),
        ("[PATCH v2 [net] 1/3] net: one", (2, 0), 1, 3, "net: one"),
        ("[PATCH 1 of 3 V2] net: one", (2, 0), 1, 3, "net: one"),
        ("[PATCH (v2) 1/3] net: one", (2, 0), 1, 3, "net: one"),
        ("[PATCH ver2 1/3] net: one", (2, 0), 1, 3, "net: one"),
        ("[PATCH 6.1/6.6/6.12 1/3] net: one", (1, 0), 1, 3, "net: one"),
        ("[PATCH 5/6 stable 1/3] net: one", (1, 0), 1, 3, "net: one"),
    ],
)
def test_what_a_subject_says(subject, version, number, total, title):
    tags = mails.tags_of(subject)
    assert (tags.version, tags.number, tags.total, tags.title) == (version, number, total, title)
    assert not tags.reply


@pytest.mark.parametrize(
    "subject",
    [
        "[PATCH] net: one", "[PATCH v2 1/3] net: one", "[RFC PATCH v2 00/28] a", "[PATCH 5.15/6.1 1/3] a",
        "[PATCHv4 1/3] a", "[RESEND][PATCH v2][1/3] a", "[PATCH net-next v3 02/10] a", "Re: [PATCH 1/2] a", "a",
    ],
)  # fmt: skip
def test_b4_reads_subjects_alike(subject):
    from b4 import LoreSubject

    tags, theirs = mails.tags_of(subject), LoreSubject(subject)
    number, total = (None, 0) if theirs.counters_inferred else (theirs.counter, theirs.expected)
    assert (tags.version[0], tags.number, tags.total) == (theirs.revision, number, total)
    assert (tags.reply, tags.resend, tags.title) == (theirs.reply, theirs.resend, theirs.subject)


@pytest.mark.parametrize(
    "subject", ["Re: [PATCH 1/2] a", "RE: a", "AW: [PATCH] a", "Re[2]: [PATCH] a", "Fwd: [PATCH] a"]
)
def test_answers(subject):
    assert mails.tags_of(subject).reply


# ------------------------------------------------------------------------------- the recorded cases


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("two-of-three.mbox", "patch 2 of 3 of v2 is missing"),
        ("v1-and-v2-unnumbered.mbox", "2 versions of a series are in it: v1 and v2"),
        ("v1-1of2-with-v2-2of2.mbox", r"2 versions .* v1 \(1 of 2 patches\) and v2 \(1 of 2 patches\)"),
    ],
)
def test_what_is_no_one_series_is_refused(bench, name, message):
    with pytest.raises(UserError, match=f"{name}: {message}"):
        read(bench, CASES / name)


@pytest.mark.parametrize(
    ("name", "titles"),
    [
        ("cover-with-a-diff.mbox", ["net: one", "delta: two", "core: three"]),
        ("twice-by-message-id.mbox", ["net: one", "delta: two", "core: three"]),
        ("slash-in-the-prefix.mbox", ["net: one", "delta: two", "core: three"]),
    ],
)
def test_what_is_one_series_is_built_whole(series, name, titles):
    patches = read(series, CASES / name)
    assert [patch.subject for patch in patches] == titles
    assert applied(series, patches) == ""


@pytest.mark.parametrize("name", ["qp-delivered-to.patch", "base64-x-mozilla-status.patch", "crlf.eml"])
@pytest.mark.parametrize("kind", ["mbox", "patches", "quilt"])
def test_a_mail_file_is_decoded_wherever_it_lies(bench, name, kind):
    where = bench.root / "patches"
    where.mkdir()
    shutil.copy(CASES / name, where / "0001.patch")
    (where / "series").write_text("0001.patch\n")
    (patch,) = read(bench, where / "0001.patch") if kind == "mbox" else folder(bench, kind)
    patchset.apply_series([patch], bench.tree, bench.ctx)
    assert (bench.tree / "core/eq.c").read_bytes() == b"int eq = 1;\n"
    assert (patch.subject, patch.author) == ("core: three", "A U Thor <author@example.com>")


def test_the_changed_files_are_those_that_git_names(bench):
    patches = read(bench, CASES / "changed-files.mbox")
    assert patchset.changed_files(patches) == [
        "doc/empty.txt", "doc/logo.bin", "drivers/delta.c", "drivers/delta2.c", "lib/x509.asn1", "scripts/tool.sh",
    ]  # fmt: skip


# ------------------------------------------------------------------------------- versions


def test_the_api_says_what_is_there(series):
    v1 = formatted(series, "-v1", "--cover-letter")
    v2 = formatted(series, "-v2", "--cover-letter")
    found = box("".join(v1 + v2[:2]))
    assert [version.label for version in found.versions] == ["v1", "v2"]
    first, second = found.versions
    assert (first.whole, first.total, first.missing) == (True, 3, ())
    assert (second.whole, second.total, second.missing) == (False, 3, (2, 3))
    assert first.cover
    assert first.cover.tags.number == 0
    assert found.choose("1") is found.choose("v1") is first
    with pytest.raises(UserError, match="2 versions") as caught:
        found.choose()
    assert caught.value.details == (
        'v1 "*** SUBJECT HERE ***": 3 patches',
        'v2 "*** SUBJECT HERE ***": 1 of 3 patches, missing: 2-3',
    )
    with pytest.raises(UserError, match="patches 2-3 of 3 of v2 are missing"):
        found.newest()
    with pytest.raises(UserError, match="it has no version 3") as caught:
        found.choose("3")
    assert caught.value.hint == "it has v1 and v2 (1 of 3 patches)"


def test_an_rfc_is_a_version_of_its_own_and_older(series):
    rfc = formatted(series, "--subject-prefix=RFC PATCH")
    final = formatted(series)
    found = box("".join([*rfc, final[0], final[2]]))
    assert [version.label for version in found.versions] == ["RFC v1", "v1"]
    with pytest.raises(UserError, match=r"RFC v1 and v1 \(2 of 3 patches\)"):
        found.choose()
    assert found.choose("rfc-1").rfc
    with pytest.raises(UserError, match="patch 2 of 3 of v1 is missing"):
        found.newest()
    with pytest.raises(UserError, match="2 versions"):
        box(rfc[0] + final[1] + final[2]).choose()
    assert box("".join(rfc)).choose("1").label == "RFC v1"


def test_a_recipe_names_the_version(series):
    (series.root / "s.mbox").write_text("".join(formatted(series, "-v1") + formatted(series, "-v2")))
    with pytest.raises(UserError, match="2 versions") as caught:
        read(series, series.root / "s.mbox")
    assert caught.value.hint == "name one of them, as in `version: 2`"
    assert len(read(series, series.root / "s.mbox", version="2")) == 3


@pytest.mark.parametrize(("gone", "told"), [((0,), "1"), ((2,), "3"), ((0, 2), "1, 3"), ((1, 2), "2-3")])
def test_any_gap_is_named(series, gone, told):
    kept = [mail for number, mail in enumerate(formatted(series)) if number not in gone]
    with pytest.raises(UserError, match=f"{told} of 3 of v1"):
        box("".join(kept)).choose()


def test_the_order_is_that_of_the_numbers(series):
    found = box("".join(formatted(series)[::-1])).choose()
    assert [mail.tags.number for mail in found.patches] == [1, 2, 3]


def test_unnumbered_patches_are_a_series_in_their_order(series):
    found = box("".join(formatted(series, "-N"))).choose()
    assert [mail.tags.title for mail in found.patches] == ["net: one", "delta: two", "core: three"]
    assert found.whole


def test_a_patch_that_was_posted_again_without_a_version_is_refused(series):
    old = formatted(series, count=1)[0]
    new = old.replace("int eq = 1;", "int eq = 2;")
    assert len(box(old + old).choose().patches) == 1
    with pytest.raises(UserError, match="patch 1 of v1 is in it twice, with different changes"):
        box(old + new).choose()


@pytest.mark.parametrize("title", ["v2: core: three", "core: three (v2)", "core: three [V3]"])
def test_a_version_that_stands_in_the_title_alone_is_not_applied_on_top_of_the_first(series, title):
    two, three = formatted(series, "-N", count=2)
    again = three.replace("[PATCH] core: three", f"[PATCH] {title}").replace("int eq = 1;", "int eq = 2;")
    with pytest.raises(UserError, match="patch 1 of v1 is in it twice, with different changes"):
        box(three + again).choose()
    assert len(box(two + again).choose().patches) == 2


def test_the_same_mail_by_the_list_and_directly(series):
    one, two, three = formatted(series)
    footer = "\n_______________________________________________\nlist mailing list\nhttp://lists.example.org/\n"
    by_list = two.replace("Subject: ", "List-Id: <list.example.org>\nSubject: ") + footer
    found = box(one + by_list + two + three).choose()
    assert applied(series, patchset.patches_of(found, "s.mbox")) == ""
    with pytest.raises(UserError, match="patch 2 of v1 is in it twice"):
        box(one + two + two.replace("core_send(1)", "core_send(2)") + three).choose()


def posted_mail(text, message_id, answers="", sender="A U Thor <author@example.com>"):
    """Return a mail as it was sent: with an id, and with what it answers."""
    more = f"Message-Id: <{message_id}>\n" + (f"In-Reply-To: <{answers}>\nReferences: <{answers}>\n" if answers else "")
    return re.sub(r"^From: .*\n", f"From: {sender}\n{more}", text, count=1, flags=re.MULTILINE)


def test_a_resend_of_one_patch_fills_the_gap_and_counts_once(series):
    one, two, three = (
        posted_mail(mail, f"{i}@x", "0@x" if i > 1 else "") for i, mail in enumerate(formatted(series), 1)
    )
    again = three.replace("[PATCH 3/3]", "[PATCH RESEND 3/3]").replace("<3@x>", "<4@x>").replace("<0@x>", "<9@y>")
    assert box(one.replace("<1@x>", "<0@x>") + two + again).choose().whole
    assert len(box(one.replace("<1@x>", "<0@x>") + two + three + again).choose().patches) == 3


def test_two_series_in_one_mailbox_are_no_series(series):
    one, two, three = formatted(series)
    mine = posted_mail(one, "1@a", "0@a", "A <a@example.org>")
    yours = posted_mail(two.replace("2/3]", "2/2]"), "2@b", "0@b", "B <b@example.org>")
    with pytest.raises(UserError, match="2 series are in it") as caught:
        box(mine.replace("1/3]", "1/2]") + yours).choose()
    assert "missing: 2" in caught.value.details[0]
    with pytest.raises(UserError, match="2 series are in it"):
        box(one + two + three + formatted(series, count=1)[0]).choose()
    unthreaded = [posted_mail(text, f"{i}@x", sender=f"{i} <{i}@x>") for i, text in enumerate((one, two, three))]
    with pytest.raises(UserError, match="3 series are in it"):
        box("".join(unthreaded)).choose()


def test_a_mail_without_its_patch_is_told(series):
    one, two, three = formatted(series, "-N")
    with pytest.raises(UserError, match=r"s\.mbox, mail 2 \(\[PATCH\] delta: two\): there is no patch in this mail"):
        box(one + two.partition("---\n")[0] + three).choose()
    talk = posted_mail(two.partition("---\n")[0], "2@x", "1@x")
    assert len(box(posted_mail(one, "1@x") + talk).choose().patches) == 1


def test_a_pull_request_is_told():
    with pytest.raises(UserError, match="there is no patch in it") as caught:
        box("From: A <a@b.c>\nSubject: [GIT PULL] net: fixes for 6.12\n\nThe following changes since commit\n").choose()
    assert "pull request" in caught.value.hint


def test_the_diff_of_a_pull_request_a_cover_letter_or_an_answer_is_no_patch(series):
    mail = formatted(series, count=1)[0]
    for subject in ("[GIT PULL] core: three", "[git pull] core", "[PULL] core", "[PATCH 0/1] core", "Re: [PATCH] core"):
        text = mail.replace("Subject: [PATCH] core: three", f"Subject: {subject}")
        (series.root / "patches").mkdir(exist_ok=True)
        (series.root / "patches/0001.patch").write_text(text)
        (series.root / "patches/series").write_text("0001.patch\n")
        with pytest.raises(UserError, match="there is no patch in it"):
            patchset.split_mbox(text.encode(), "s.mbox")
        for kind in ("patches", "quilt"):
            with pytest.raises(UserError, match="there is no patch in it"):
                folder(series, kind)
    assert box(mail.replace("[PATCH]", "[PULL 1/1]")).choose().whole


@pytest.mark.parametrize("option", ["--interdiff", "--range-diff"])
def test_a_cover_letter_with_what_changed_since_is_left_out(series, option):
    series.git("branch", "v2")
    series.git("checkout", "-q", "-b", "v1", "HEAD~1")
    series.write("core/eq.c", "int eq = 0;\n")
    series.git("add", "-A")
    series.git("commit", "-qm", "core: three")
    series.git("checkout", "-qf", "v2")
    text = series.git("format-patch", "--stdout", "-v2", "--cover-letter", f"{option}=v1", "HEAD~3") + "\n"
    assert ("Interdiff" if option == "--interdiff" else "Range-diff") in text
    assert applied(series, patchset.split_mbox(text.encode(), "s.mbox")) == ""


def test_one_patch_with_what_changed_since_behind_its_line(series):
    series.git("branch", "v2")
    series.git("checkout", "-q", "-b", "v1", "HEAD~1")
    series.write("core/eq.c", "int eq = 0;\n")
    series.git("add", "-A")
    series.git("commit", "-qm", "core: three")
    series.git("checkout", "-qf", "v2")
    text = series.git("format-patch", "--stdout", "-v2", "--interdiff=v1", "-1") + "\n"
    (patch,) = patchset.split_mbox(text.encode(), "s.mbox")
    assert diffs.files_of(patch.data) == ["core/eq.c"]


# ------------------------------------------------------------------------------- how mails are written


HEADERS = [
    "Delivered-To: me@example.org", "MIME-Version: 1.0", "List-Id: <linux-kernel.vger.kernel.org>",
    "Reply-To: you@example.org", "X-Mozilla-Status: 0001", "Content-Type: text/plain; charset=utf-8",
    "Return-Path: <a@example.org>", "Received: from a by b\n\twith ESMTP; Mon, 1 Jan 2024 00:00:00 +0000",
    "Message-ID: <1@example.org>", "DKIM-Signature: v=1; a=rsa-sha256;\n d=example.org", "ARC-Seal: i=1",
    "Authentication-Results: mx.example.org", "To: list@example.org", "Cc: list@example.org", "Sender: a@example.org",
    "References: <0@example.org>", "X-Spam-Score: 1", "Precedence: bulk", "Archived-At: <https://example.org>",
]  # fmt: skip


def quoted_printable(data):
    return quopri.encodestring(data.replace(b"\r\n", b"\x7f\n")).replace(b"=7F", b"=0D")


def coded(mail, way, charset="utf-8", flowed=""):
    """Return a mail's bytes in a transfer encoding."""
    head, _, body = mail.partition("\n\n")
    data = body.encode(charset)
    if way == "base64 with CRLF":
        data, way = data.replace(b"\n", b"\r\n"), "base64"
    body = {"base64": base64.encodebytes, "quoted-printable": quoted_printable, "8bit": bytes}[way](data)
    kind = f"MIME-Version: 1.0\nContent-Type: text/plain; charset={charset}{flowed}\nContent-Transfer-Encoding: {way}\n"
    return f"{head}\n{kind}\n".encode(charset) + body


@pytest.mark.parametrize("first", HEADERS)
@pytest.mark.parametrize("kind", ["patches", "quilt"])
def test_a_mail_file_may_begin_with_any_header(series, first, kind):
    where = series.root / "patches"
    where.mkdir()
    mail = formatted(series, count=1)[0].partition("\n")[2]
    kept = "" if first.startswith(("MIME", "Content-Type")) else "MIME-Version: 1.0\n"
    whole = coded(mail, "quoted-printable").decode().replace("MIME-Version: 1.0\n", kept)
    (where / "0001.patch").write_text(f"{first}\n{whole}")
    (where / "series").write_text("0001.patch\n")
    (patch,) = folder(series, kind)
    assert patch.subject == "core: three"
    assert b"+int eq = 1;\n" in patch.data


@pytest.mark.parametrize("way", ["8bit", "quoted-printable", "base64", "base64 with CRLF"])
@pytest.mark.parametrize("charset", ["utf-8", "iso-8859-1"])
def test_encodings(series, way, charset):
    mails_ = [coded(mail.replace("net: one", "net: one, f\u00fcr alle"), way, charset) for mail in formatted(series)]
    patches = patchset.split_mbox(b"\n".join(mails_) + b"\n", "s.mbox")
    assert [patch.subject for patch in patches][1:] == ["delta: two", "core: three"]
    assert applied(series, patches) == ""


@pytest.mark.parametrize("name", ["one mail", "mailbox"])
def test_mails_with_crlf_that_git_am_takes(series, name):
    text = "".join(formatted(series) if name == "mailbox" else formatted(series, count=1)).replace("\n", "\r\n")
    patches = patchset.split_mbox(text.encode(), "s.mbox")
    assert all(b"\r" not in patch.data for patch in patches)
    series.git("checkout", "-qf", "HEAD~3" if name == "mailbox" else "HEAD~1")
    patchset.apply_series(patches, series.tree, series.ctx)
    series.git("add", "-A")
    assert series.git("diff", "--cached", "--stat", "main") == ""


def test_a_patch_with_crlf_that_is_no_mail(series):
    where = series.root / "patches"
    where.mkdir()
    (where / "a.diff").write_text(series.git("diff", "HEAD~1").replace("\n", "\r\n") + "\r\n", newline="")
    (patch,) = folder(series, "patches")
    series.git("checkout", "-qf", "HEAD~1")
    patchset.apply_series([patch], series.tree, series.ctx)
    assert (series.tree / "core/eq.c").read_bytes() == b"int eq = 1;\n"


def test_a_patch_to_a_file_with_crlf_keeps_it(bench):
    bench.write("core/dos.c", "int a;\n")
    (bench.tree / "core/dos.c").write_bytes(b"int a;\r\nint b;\r\n")
    bench.git("add", "-A")
    bench.git("commit", "-qm", "dos")
    (bench.tree / "core/dos.c").write_bytes(b"int a;\r\nint c;\r\n")
    bench.git("commit", "-qam", "dos: change")
    text = bench.git("format-patch", "--stdout", "-1") + "\n"
    raw = subprocess.run(
        ["git", "-C", str(bench.tree), "format-patch", "--stdout", "-1"], check=True, capture_output=True
    ).stdout
    assert "\r" not in text.splitlines()[0]
    for data in (raw, coded(raw.decode(), "quoted-printable"), coded(raw.decode(), "base64")):
        patches = patchset.split_mbox(data, "s.mbox")
        bench.git("checkout", "-qf", "HEAD~1")
        patchset.apply_series(patches, bench.tree, bench.ctx)
        assert (bench.tree / "core/dos.c").read_bytes() == b"int a;\r\nint c;\r\n"
        bench.git("checkout", "-qf", "main")


def test_lines_that_begin_with_from_in_a_quoted_mailbox(series):
    one = formatted(series, count=1)[0]
    text = one.replace("\n---\n", "\nFrom a@b.c Mon Jan  1 12:00:00 2024 on it is so.\n---\n", 1)
    quoted = "From mboxrd@z Thu Jan  1 00:00:00 1970\n" + text.partition("\n")[2].replace("\nFrom a@", "\n>From a@")
    (patch,) = patchset.split_mbox(quoted.encode(), "s.mbox")
    assert b"\nFrom a@b.c Mon" in patch.mail
    assert diffs.files_of(patch.data) == ["core/eq.c"]


def test_an_attached_patch(series):
    diff = series.git("diff", "HEAD~1") + "\n"
    text = (
        "From: A <a@b.c>\nSubject: [PATCH] core: three\nMIME-Version: 1.0\n"
        'Content-Type: multipart/mixed; boundary="xx"\n\n--xx\nContent-Type: text/plain\n\nWhy.\n---\n--xx\n'
        'Content-Type: text/x-patch; name="a.patch"\nContent-Transfer-Encoding: base64\n\n'
        + base64.encodebytes(diff.encode()).decode() + "\n--xx--\n"
    )  # fmt: skip
    (patch,) = patchset.split_mbox(text.encode(), "s.mbox")
    assert patchset.changed_files([patch]) == ["core/eq.c"]


def stuffed(mail):
    """Return a mail as a program that flows text writes it: a blank more where a line begins with one (RFC 3676)."""
    head, _, body = mail.partition("\n\n")
    kind = "MIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8; format=flowed\n"
    return f"{head}\n{kind}\n" + re.sub("^ ", "  ", body, flags=re.MULTILINE)


def test_a_flowed_mail_is_taken_as_git_am_takes_it(series):
    assert applied(series, patchset.split_mbox("".join(map(stuffed, formatted(series))).encode(), "s.mbox")) == ""


def test_a_flowed_mail_that_git_am_refuses_is_told(series):
    """A program that says flowed and does not stuff: git takes a blank from each line of context."""
    first = coded(formatted(series)[0].replace("1/3]", "1/1]"), "8bit", flowed="; format=flowed")
    series.git("checkout", "-qf", "main~3")
    (series.root / "s.mbox").write_bytes(first)
    with pytest.raises(subprocess.CalledProcessError):
        series.git("am", "-q", str(series.root / "s.mbox"))
    series.git("am", "--abort")
    with pytest.raises(UserError, match="does not apply") as caught:
        patchset.apply_series(patchset.split_mbox(first, "s.mbox"), series.tree, series.ctx)
    assert "format=flowed" in caught.value.hint


def test_git_am_makes_the_same_tree(series):
    """`git am` is the judge of what a mailbox holds."""
    text = "".join(formatted(series, "--cover-letter")[1:]).encode()
    for data in (text, text.replace(b"\n", b"\r\n"), b"\n".join(coded(m, "base64") for m in formatted(series)) + b"\n"):
        (series.root / "s.mbox").write_bytes(data)
        series.git("checkout", "-qf", "main~3")
        series.git("am", "-q", str(series.root / "s.mbox"))
        assert series.git("diff", "--stat", "main") == ""
        assert applied(series, patchset.split_mbox(data, "s.mbox")) == ""
        series.git("checkout", "-qf", "main")


# ------------------------------------------------------------------------------- folders


def put(bench, *options, count=3):
    bench.git("format-patch", "-q", "-o", str(bench.root / "patches"), *options, f"HEAD~{count}")
    return sorted((bench.root / "patches").glob("*.patch"))


def test_a_folder_with_a_gap_is_refused_and_a_quilt_series_may_pick(series):
    files = put(series)
    files[1].unlink()
    with pytest.raises(UserError, match="patch 2 of 3 of v1 is missing") as caught:
        folder(series, "patches")
    assert "quilt series" in caught.value.hint
    (series.root / "patches/series").write_text(f"{files[0].name}\n{files[2].name}\n")
    assert len(folder(series, "quilt")) == 2


def test_a_folder_with_two_versions_is_refused_unless_one_is_named(series):
    put(series)
    put(series, "-v2", "--cover-letter")
    with pytest.raises(UserError, match="2 versions of a series"):
        folder(series, "patches")
    assert [patch.name for patch in folder(series, "patches", version="2")] == [
        "v2-0001-net-one.patch", "v2-0002-delta-two.patch", "v2-0003-core-three.patch",
    ]  # fmt: skip


def test_a_folder_of_picked_patches_is_no_series(series):
    files = put(series)
    files[0].write_text(files[0].read_text().replace("1/3]", "4/7]"))
    assert [patch.subject for patch in folder(series, "patches")] == ["net: one", "delta: two", "core: three"]


def test_a_quilt_series_in_another_encoding(series):
    files = put(series)
    raw = files[0].parent / "0001-f\udcfcr.patch"
    files[0].rename(raw)
    (files[0].parent / "series").write_bytes(b"# f\xfcr alle\n0001-f\xfcr.patch\n0002-delta-two.patch # \xe4\n")
    patches = folder(series, "quilt")
    assert [patch.name for patch in patches] == ["0001-f\ufffdr.patch", "0002-delta-two.patch"]


@pytest.mark.parametrize("kind", ["patches", "quilt"])
def test_a_file_without_a_patch_is_told_and_an_empty_one_is_none(series, kind):
    files = put(series, "--cover-letter")
    (files[0].parent / "series").write_text("".join(f"{path.name}\n" for path in files))
    assert len(folder(series, kind)) == 3
    files[1].write_text("")
    if kind == "quilt":
        assert len(folder(series, kind)) == 2
    files[1].write_text("Why.\n")
    with pytest.raises(UserError, match=f"{files[1].name}: there is no patch in it" if kind == "quilt" else "missing"):
        folder(series, kind)


def test_the_same_mails_are_decoded_once(series, monkeypatch):
    boxes = {"whole.mbox": "".join(formatted(series)), "one.patch": formatted(series)[0]}
    first = [mails.read(text.encode(), name) for name, text in boxes.items()]
    started = []
    monkeypatch.setattr(mails.proc, "run", lambda *words, **_: started.append(words))
    assert [mails.read(text.encode(), name) for name, text in boxes.items()] == first
    assert [len(found) for found in first] == [3, 1]
    assert not started


def test_gzipped_patches_and_a_mark_in_front_are_read(series):
    files = put(series)
    files[0].write_bytes(gzip.compress(files[0].read_bytes()))
    files[1].write_bytes(b"\xef\xbb\xbf" + files[1].read_bytes().partition(b"\n")[2])
    (files[0].parent / "series").write_bytes(b"\xef\xbb\xbf" + "".join(f"{path.name}\r\n" for path in files).encode())
    for kind in ("quilt", "patches"):
        assert [patch.subject for patch in folder(series, kind)] == ["net: one", "delta: two", "core: three"]


def test_mercurials_patch_is_called_by_its_title(series):
    where = series.root / "a.patch"
    head = "# HG changeset patch\n# User A <a@b.c>\n# Date 1700000000 0\n# Node ID 0123456789ab\ncore: three\n\n"
    where.write_text(head + series.git("diff", "HEAD~1") + "\n")
    assert [patch.subject for patch in read(series, where)] == ["core: three"]


def test_debians_headers_are_no_mail(series):
    where = series.root / "patches"
    where.mkdir()
    diff = series.git("diff", "HEAD~1") + "\n"
    (where / "a.patch").write_text(f"From: A <a@b.c>\nSubject: core: three\nOrigin: upstream\nForwarded: no\n{diff}")
    for patches in (folder(series, "patches"), read(series, where / "a.patch")):
        assert [(patch.subject, patchset.changed_files([patch])) for patch in patches] == [
            ("core: three", ["core/eq.c"])
        ]


@pytest.mark.parametrize("line", ["../x.patch", "/etc/passwd", "a/../../x.patch"])
def test_a_quilt_series_stays_in_its_folder(series, line):
    put(series)
    (series.root / "patches/series").write_text(f"{line}\n")
    with pytest.raises(UserError, match="not below that folder"):
        folder(series, "quilt")


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("net: für alle".encode(), "net: für alle"),
        ("net: für alle".encode("latin-1"), "net: für alle"),
        (b"=?utf-8?q?net=3A_f=C3=BCr_alle?=", "net: für alle"),
    ],
)
def test_a_header_is_read_with_its_letters_also_where_nothing_says_how(raw, text):
    mail = mails._headers(b"From: " + raw + b" <a@example.com>\nSubject: " + raw + b"\n\nbody\n")
    assert mails.header(mail, "Subject") == text
    assert "für alle" in mails.addresses(mail, "From")[0]


@pytest.mark.parametrize("how", ["8bit", "quoted-printable", "base64"])
def test_a_mail_of_another_charset_becomes_utf_8_and_its_patch_stays(how):
    said, diff = "größer\n".encode("latin-1"), b"--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+gr\xf6\xdfe\n"
    body = {"8bit": bytes, "quoted-printable": quopri.encodestring, "base64": base64.encodebytes}[how](
        said + b"---\n" + diff
    )
    head = b"From: =?iso-8859-1?q?J=F6rg?= <a@example.com>\nSubject: [PATCH] x\nMIME-Version: 1.0\n"
    head += f"Content-Type: text/plain; charset=iso-8859-1\nContent-Transfer-Encoding: {how}\n\n".encode()
    (mail,) = mails.read(head + body, "m")
    assert (mail.author, mail.text) == ("Jörg <a@example.com>", "größer\n".encode())
    assert diff in mail.diff


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("[PATCH] žluť =?UTF-8?q?na=C3=AFve?=", "[PATCH] žluť naïve"),
        ("[PATCH] =?UTF-8?q?na=C3=AFve?= größe", "[PATCH] naïve größe"),
        ("=?UTF-8?q?na=C3=AFve_?=\n =?utf-8?b?xb5sdcWl?= end", "naïve žluť end"),
        ("=?utf-8?B?xb5sdcWlPw?= =?utf-8?q?a_b?=", "žluť?a b"),
        ("a=?utf-8?q?=C3=A4?=b", "aäb"),
        ("=?utf-8?q?net=3A really??=", "net: really?"),
        ("=?utf-8?q?=C3=A4?= a =?utf-8?q?=C3=B6?=", "ä a ö"),
    ],
)
def test_encoded_words_are_read_among_other_letters_as_git_reads_them(tmp_path, raw, text):
    data = f"From: =?UTF-8?q?J=C3=B6rg?= Žluť <a@example.com>\nSubject: {raw}\n\nbody\n".encode()
    mail = mails._headers(data)
    words = ["git", "mailinfo", "-k", "--encoding=UTF-8", str(tmp_path / "m"), str(tmp_path / "d")]
    said = subprocess.run(words, input=data, capture_output=True, check=True).stdout.decode().splitlines()
    assert "Author: Jörg Žluť" in said
    assert f"Subject: {text}" in said
    assert mails.header(mail, "subject") == text
    assert mails.addresses(mail, "from") == ("Jörg Žluť <a@example.com>",)


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("what =? is ?= this", "what =? is ?= this"),
        ("=?UTF-8?q?na=C3=AFve?= =?iso-8859-1?Q?gr=F6=DFe?= ö", "naïvegröße ö"),
        ("=?utf-8?q?=C3=A4?= ?= =?utf-8?q?=C3=B6?=", "ä ?= ö"),
        ("a =?nobody?q?b?= ö", "a =?nobody?q?b?= ö"),
        ("a =?idna?q?=C3=A4?= =?utf-8?q?=FF?=", "a =?idna?q?=C3=A4?= =?utf-8?q?=FF?="),
        ("=?utf-8?b?x?= =?nobody?q?b?= c", "=?utf-8?b?x?= =?nobody?q?b?= c"),
        ("=?utf-8*cs?q?=C5=BElu=C5?= =?utf-8?q?=A5?=", "žluť"),
    ],
)
def test_an_encoded_word_that_says_nothing_stays_and_one_letter_in_two_is_one(raw, text):
    mail = mails._headers(f"Subject: {raw}\n\nbody\n".encode())
    assert mails.header(mail, "subject") == text
