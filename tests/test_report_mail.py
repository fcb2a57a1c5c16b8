"""The mails: whom they go to, that they thread, 72 columns, and that the whole story is in them."""

import dataclasses
import email
import email.policy
from pathlib import Path

import pytest
from pydantic import TypeAdapter
from sample_run import F, P, S, job, sample

from kpatchlab.build.context import BuildContext
from kpatchlab.build.thread import thread_of
from kpatchlab.cache import Cache, content_key
from kpatchlab.lab.recipes import Series
from kpatchlab.maintainers import NAME, parse, written
from kpatchlab.model import ChangedFunction, Metric, PatchFacts, ReachCount, Thread
from kpatchlab.report import FORMATS
from kpatchlab.report.mail import file_name, letters, subsystems
from kpatchlab.report.prose import WIDTH
from kpatchlab.report.view import View, maintainers_of
from tests.test_maintainers import TEXT

SECTIONS = parse(
    TEXT
    + b"""
KSMBD
M:	Namjae Jeon <linkinjeon@example.org>
R:	Tom Talpey <tom@example.org>
L:	linux-cifs@example.org
F:	fs/ksmbd/
"""
)
THREAD = Thread(
    "with",
    "[RFC PATCH 00/28] splice, net: Replace sendpage",
    "20230316152618.711970-1-dhowells@example.org",
    "David Howells <dhowells@example.org>",
    ("Matthew Wilcox <willy@example.org>",),
    ("netdev@example.org", "Märta <m@example.org>"),
)
PATCHES = (
    PatchFacts("with", 1, "net: Declare MSG_SPLICE_PAGES", ("include/linux/socket.h",)),
    PatchFacts("with", 2, "unix: Convert", ("net/unix/af_unix.c",), (ChangedFunction("unix_stream_sendmsg", "x"),)),
    PatchFacts("with", 3, "smb: Convert", ("fs/ksmbd/smb2pdu.c",), (ChangedFunction("smb2_read", "x"),)),
)


def full():
    jobs = tuple(
        dataclasses.replace(
            j, patched=(ReachCount("client", "unix_stream_sendmsg", 7), ReachCount("server", "smb2_read", 0))
        )
        if j.column == "with"
        else j
        for j in sample().jobs
    )
    touches = {"unix-splice": ("net/unix/af_unix.c",), "cifs-ksmbd": ("fs/ksmbd",)}
    return dataclasses.replace(sample(), threads=(THREAD,), patches=PATCHES, touches=touches, jobs=jobs)


def read(data):
    return email.message_from_bytes(data, policy=email.policy.default)


def mail(run):
    return read(FORMATS["mail"].render(View(run, Path("/nowhere"))))


def seen(run, folder):
    """Return the run with `SECTIONS` as the tree's MAINTAINERS."""
    (folder / NAME).write_bytes(written(SECTIONS))
    return View(run, folder, (folder / NAME,))


def stored_sections(run, folder):
    return View(run, folder, maintainers_of(run, folder, Cache())).sections


def test_it_answers_the_thread():
    found = mail(full())
    assert found["Subject"] == "Re: [RFC PATCH 00/28] splice, net: Replace sendpage"
    assert found["In-Reply-To"] == found["References"] == "<20230316152618.711970-1-dhowells@example.org>"
    assert found["To"] == "David Howells <dhowells@example.org>"
    assert found["Cc"].addresses[0].addr_spec == "willy@example.org"
    assert "Märta <m@example.org>".encode() in FORMATS["mail"].render(View(full(), Path()))


def test_it_cannot_be_taken_for_sent():
    assert not {"From", "Date", "Message-Id"} & set(mail(full()).keys())


def test_the_whole_story():
    body = mail(full()).get_content()
    for words in (
        "3 faults REGRESSED in 3 scenarios (4 checks), 1 build",
        "* without: Linux 6.3.0-rc2-kpl, Linux 6.3-rc2 (eeac8ede1755)",
        "CONFIG_SMC_LO=y came out as not set",
        "    drivers/infiniband/sw/siw/siw_qp_tx.c: In function 'siw_tcp_sendpages':",
        "     __ksmbd_close_fd (fs/ksmbd/vfs_cache.c:331) ksmbd",
        "    kpatchlab run cifs-ksmbd --column with --repeat 1",
        "* FIXED: unix-splice on with: splice with MSG_MORE",
        "* 3 jobs blocked: module siw did not build",
        "* 2 jobs skipped: kernel lacks CONFIG_SMC_LO",
        "* patch 3 (smb: Convert): its functions: not reached",
    ):
        assert words in body, words
    assert "patch 2" not in body


def test_prose_is_wrapped_and_what_is_copied_is_not():
    body = mail(full()).get_content()
    long = [words for words in body.splitlines() if len(words) > WIDTH]
    assert long
    assert all(words.startswith("    ") for words in long), long


def test_figures_name_mode_interval_and_direction():
    jobs = tuple(
        job("s", c, {"job": P}, repeat=i, mode="instructions", metrics=(Metric("bytes", at + i / 1000, "", "higher"),))
        for c, at in (("without", 1.0), ("with", 2.0))
        for i in range(5)
    )
    body = mail(dataclasses.replace(sample(), jobs=jobs, columns=("without", "with"))).get_content()
    flat = " ".join(body.split())
    assert "* FASTER: s: bytes on with: 2.002 no unit (more is better), 1.998 of the base (1.99" in flat
    assert "), instructions" in flat
    assert "all: 1 FASTER; they count instructions" in flat


def test_each_subsystem_gets_what_is_about_its_files(tmp_path):
    found = letters(seen(full(), tmp_path))
    assert list(found) == ["thread.txt", "af-unix.txt", "networking-general.txt", "one-level.txt", "ksmbd.txt"]
    smb = read(found["ksmbd.txt"])
    assert smb["To"] == "Namjae Jeon <linkinjeon@example.org>"
    assert [a.addr_spec for a in smb["Cc"].addresses] == [
        "tom@example.org",
        "linux-cifs@example.org",
        "dhowells@example.org",
    ]
    assert smb["In-Reply-To"] == "<20230316152618.711970-1-dhowells@example.org>"
    body = smb.get_content()
    assert "slab-use-after-free in opinfo_put" in body
    assert "patch 3 (smb: Convert): its functions: not reached" in body
    assert "unix-splice" not in body
    assert "siw_qp_tx" not in body
    assert "EINVAL" not in body
    unix = read(found["af-unix.txt"]).get_content()
    assert "FIXED: unix-splice on with" in unix
    assert "opinfo_put" not in unix
    assert "siw_qp_tx.c" in read(found["one-level.txt"]).get_content()


def test_without_a_series_only_those_whose_code_failed_get_a_letter(tmp_path):
    run = dataclasses.replace(full(), patches=(), threads=())
    assert [section.title for section in subsystems(seen(run, tmp_path))] == ["ONE LEVEL", "KSMBD"]
    assert mail(run)["Subject"].startswith("MSG_SPLICE_PAGES: 3 faults REGRESSED")
    assert mail(run)["In-Reply-To"] is None


def test_a_run_that_was_stored_without_its_thread_still_answers_it():
    builds = [dataclasses.replace(b, series="28 patches: message-id <a.1@example.org>") for b in sample().builds]
    found = mail(dataclasses.replace(sample(), builds=tuple(builds)))
    assert found["In-Reply-To"] == "<a.1@example.org>"
    assert found["Subject"] == "Re: MSG_SPLICE_PAGES"


def test_patches_whose_calls_were_not_counted_are_told_so():
    run = dataclasses.replace(sample(), patches=PATCHES)
    assert "were not counted in this run" in " ".join(mail(run).get_content().split())


def test_headers_take_no_foreign_lines():
    bad = "x\r\nBcc: all@example.org"
    thread = Thread("with", bad, bad, bad, (bad,), (bad,))
    found = mail(dataclasses.replace(sample(), title=bad, threads=(thread,)))
    assert found["Bcc"] is None


def test_sections_come_from_the_runs_folder_then_from_the_artifact(tmp_path, monkeypatch):
    monkeypatch.setenv("KPATCHLAB_CACHE", str(tmp_path / "cache"))
    run = sample()
    assert stored_sections(run, tmp_path) == ()
    artifact = Cache().path("kernel", run.builds[0].key)
    artifact.mkdir(parents=True)
    (artifact / NAME).write_bytes(TEXT)
    assert len(stored_sections(run, tmp_path)) == 4
    (tmp_path / NAME).write_bytes(b"ONE\nM:\tA <a@b.c>\nF:\tx/\n")
    assert [section.title for section in stored_sections(run, tmp_path)] == ["ONE"]


def test_file_names():
    assert file_name("NETWORKING [GENERAL]") == "networking-general"
    assert file_name("../../etc") == "etc"
    assert file_name("///") == "subsystem"


# --- the thread of a series


MBOX = """\
From git@z Thu Jan  1 00:00:00 1970
From: =?utf-8?q?M=C3=A4rta?= <m@example.org>
To: netdev@example.org, Jakub <kuba@example.org>
Cc: =?utf-8?q?J=C3=BCrgen?= <j@example.org>
Subject: [PATCH net 1/2] tcp: one
Message-ID: <1@example.org>

From the beginning
---
diff --git a/x b/x
--- a/x
+++ b/x

From git@z Thu Jan  1 00:00:00 1970
From: M <m@example.org>
Subject: Re: [PATCH net 0/2] tcp: both
Message-ID: <9@example.org>

no

From git@z Thu Jan  1 00:00:00 1970
From: =?utf-8?q?M=C3=A4rta?= <m@example.org>
To: netdev@example.org
Subject: [PATCH net 0/2] tcp:
 both
Message-ID: <0@example.org>

cover
"""


@pytest.fixture
def ctx(tmp_path):
    (tmp_path / "kernels").mkdir()
    return BuildContext(Cache(tmp_path / "cache"), tmp_path, "")


def item(**values):
    return TypeAdapter(Series).validate_python(values)


def test_thread_of_a_mailbox_is_its_cover_letter(ctx, tmp_path):
    (tmp_path / "kernels" / "s.mbox").write_text(MBOX)
    found = thread_of("with", [item(type="mbox", path="s.mbox")], ctx)
    assert found == Thread(
        "with", "[PATCH net 0/2] tcp: both", "0@example.org", "Märta <m@example.org>", ("netdev@example.org",)
    )


def test_thread_of_a_mailbox_with_versions_is_that_of_the_one_that_is_built(ctx, tmp_path):
    second = MBOX.replace("[PATCH net ", "[PATCH net v2 ").replace("<0@", "<10@").replace("<1@", "<11@")
    (tmp_path / "kernels" / "s.mbox").write_text(MBOX + "\n" + second)
    for version, wanted in (("", "10@example.org"), ("1", "0@example.org"), ("v2", "10@example.org")):
        assert thread_of("with", [item(type="mbox", path="s.mbox", version=version)], ctx).message_id == wanted


def test_thread_of_a_folder_of_patches_is_the_first(ctx, tmp_path):
    (tmp_path / "kernels" / "p").mkdir()
    for number in (2, 1):
        text = f"From {'0' * 40} Mon Sep 17 00:00:00 2001\nFrom: A <a@b.c>\nSubject: [PATCH {number}/2] x\n"
        (tmp_path / f"kernels/p/{number:04}.patch").write_text(f"{text}Message-Id: <{number}@b.c>\n\nx\n")
    assert thread_of("with", [item(type="patches", path="p")], ctx).message_id == "1@b.c"


def test_thread_of_a_message_id_is_that_mails(ctx):
    wanted = "0@example.org"
    assert thread_of("with", [item(type="message-id", id=f"<{wanted}>")], ctx) == Thread("with", "", wanted)
    folder = ctx.cache.path("series", content_key("b4", wanted))
    folder.mkdir(parents=True)
    (folder / "series.mbox").write_text(
        MBOX.split("\nFrom git@z", maxsplit=1)[0] + "\n"
    )  # b4 leaves the cover letter out
    found = thread_of("with", [item(type="message-id", id=wanted)], ctx)
    assert (found.message_id, found.subject) == (wanted, "[PATCH net 1/2] tcp: one")


@pytest.mark.parametrize(
    "series", [item(type="git", path="/", range="a..b"), item(type="mbox", path="gone"), item(type="mbox", path="d")]
)
def test_what_is_no_mail_has_no_thread(ctx, tmp_path, series):
    (tmp_path / "kernels" / "d").write_bytes(b"--- a/x\n+++ b/x\n")
    assert thread_of("with", [series], ctx) is None
    assert thread_of("with", [], ctx) is None


def test_skips_alone_are_no_verdict():
    run = dataclasses.replace(
        sample(), jobs=(job("s", "without", {}, outcome=S), job("s", "with", {}, outcome=S)), builds=()
    )
    assert "2 jobs skipped" in mail(run).get_content()
    assert F.is_bad
