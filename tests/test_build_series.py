"""Series: every type is read to the same patches, and one that does not apply is named to the hunk."""

from __future__ import annotations

import base64
import gzip
import sys
from typing import Literal, get_args

import pytest
from build_fixtures import Bench
from pydantic import TypeAdapter

from kpatchlab.build import patchset
from kpatchlab.errors import HostError, UserError
from kpatchlab.lab import recipes


@pytest.fixture
def bench(tmp_path):
    made = Bench(tmp_path)
    made.repository()
    made.commit("core/net.c", "return -1", "return -22", "net: refuse with EINVAL")
    made.commit("drivers/delta.c", "core_send(0)", "core_send(1)", "delta: send with a flag")
    return made


def read(bench, **item):
    return patchset.read_series([TypeAdapter(recipes.Series).validate_python(item)], bench.ctx)


def mbox(bench):
    return bench.git("format-patch", "--stdout", "--cover-letter", "--subject-prefix=PATCH v2", "HEAD~2..HEAD") + "\n"


def base_tree(bench):
    bench.git("checkout", "-q", "HEAD~2")
    return bench.tree


def test_all_types_read_the_same_patches(bench):
    folder = bench.root / "patches"
    bench.git("format-patch", "-q", "-o", str(folder), "HEAD~2..HEAD")
    (folder / "series").write_text(
        "# the lot\n\n" + "".join(f"{path.name} -p1 # why\n" for path in sorted(folder.glob("*.patch")))
    )
    (bench.root / "s.mbox").write_text(mbox(bench))
    (bench.root / "s.mbox.gz").write_bytes(gzip.compress(mbox(bench).encode()))
    ways = [
        {"type": "git", "path": str(bench.tree), "range": "HEAD~2..HEAD"},
        {"type": "git", "url": bench.tree.as_uri(), "range": f"{bench.git('rev-parse', 'HEAD~2')}..main"},
        {"type": "patches", "path": str(folder)},
        {"type": "quilt", "path": str(folder)},
        {"type": "mbox", "path": str(bench.root / "s.mbox")},
        {"type": "mbox", "path": str(bench.root / "s.mbox.gz")},
    ]
    found = [read(bench, **way) for way in ways]
    for patches in found:
        assert [patch.subject for patch in patches] == ["net: refuse with EINVAL", "delta: send with a flag"]
        patchset.apply_series(patches, base_tree(bench), bench.ctx)
        assert bench.git("diff", "--stat", "main") == ""
        bench.git("checkout", "-qf", "main")
    assert len({patchset.series_key(patches) for patches in found[2:]}) == 1


def test_a_mailbox_out_of_order_with_replies(bench):
    mails = ["From " + part for part in mbox(bench).split("\nFrom ") if part]
    cover, first, second = mails[0].removeprefix("From "), mails[1], mails[2]
    reply = first.replace("Subject: [", "Subject: Re: [").replace("\n+", "\n> +")
    (bench.root / "s.mbox").write_text(f"{second}\n{reply}\n{cover}\n{first}")
    patches = read(bench, type="mbox", path=str(bench.root / "s.mbox"))
    assert [patch.subject for patch in patches] == ["net: refuse with EINVAL", "delta: send with a flag"]


def test_an_encoded_mail_is_decoded(bench):
    text = bench.git("format-patch", "--stdout", "-1") + "\n"
    head, _, body = text.partition("\n\n")
    coded = base64.encodebytes(body.encode()).decode()
    kind = "MIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: base64"
    (bench.root / "s.mbox").write_text(f"{head}\n{kind}\n\n{coded}\n")
    patches = read(bench, type="mbox", path=str(bench.root / "s.mbox"))
    bench.git("checkout", "-q", "HEAD~1")
    patchset.apply_series(patches, bench.tree, bench.ctx)
    assert "core_send(1)" in (bench.tree / "drivers/delta.c").read_text()


def test_a_patch_that_does_not_apply_is_named_to_the_hunk(bench):
    (bench.root / "s.mbox").write_text(mbox(bench))
    patches = read(bench, type="mbox", path=str(bench.root / "s.mbox"))
    base_tree(bench)
    bench.sub("drivers/delta.c", "core_send(0)", "core_send(0 )")
    with pytest.raises(UserError) as caught:
        patchset.apply_series(patches, bench.tree, bench.ctx)
    message = caught.value.message
    assert message.startswith(
        "patch 2 of 2 does not apply: s.mbox [2/2] (delta: send with a flag): drivers/delta.c:3: "
    )
    assert message.endswith("hunk 1 of 1")
    assert "-\treturn core_send(0);" in caught.value.details[0]


def test_fuzz_is_refused(bench):
    (bench.root / "s.mbox").write_text(mbox(bench))
    patches = read(bench, type="mbox", path=str(bench.root / "s.mbox"))
    base_tree(bench)
    bench.sub("core/net.c", "int core_send(int flags)\n{", "int core_send(int flags) /* moved */\n{")
    with pytest.raises(UserError, match=r"core/net\.c"):
        patchset.apply_series(patches, bench.tree, bench.ctx)


def test_a_series_that_is_in_the_tree_already(bench):
    (bench.root / "s.mbox").write_text(mbox(bench))
    patches = read(bench, type="mbox", path=str(bench.root / "s.mbox"))
    with pytest.raises(UserError) as caught:
        patchset.apply_series(patches, bench.tree, bench.ctx)
    assert "in the tree already" in caught.value.hint


def test_a_patch_of_a_file_that_is_not_there(bench):
    patch = patchset.Patch("x", "", b"--- a/no/such.c\n+++ b/no/such.c\n@@ -1 +1 @@\n-a\n+b\n")
    with pytest.raises(UserError, match=r"no/such\.c: No such file"):
        patchset.apply_series([patch], bench.tree, bench.ctx)


def test_a_quilt_series_with_strip_levels(bench):
    folder = bench.root / "quilt"
    folder.mkdir()
    base_tree(bench)
    diff = (
        "Answer otherwise\n--- net.c\n+++ net.c\n@@ -5,3 +5,3 @@\n"
        " \tif (flags)\n-\t\treturn -1;\n+\t\treturn -2;\n \treturn 0;\n"
    )
    (folder / "deep.patch").write_text(diff.replace(" net.c", " a/b/core/net.c"))
    (folder / "series").write_text("deep.patch -p2\n")
    patches = read(bench, type="quilt", path=str(folder))
    assert (patches[0].strip, patches[0].subject) == (2, "Answer otherwise")
    patchset.apply_series(patches, bench.tree, bench.ctx)
    assert "return -2" in (bench.tree / "core/net.c").read_text()
    (folder / "series").write_text("deep.patch --fuzz=3\n")
    with pytest.raises(UserError, match=r"option '--fuzz=3' of deep\.patch"):
        read(bench, type="quilt", path=str(folder))


@pytest.mark.parametrize(
    ("head", "title"),
    [
        ("", ""),
        ("Answer otherwise\n", "Answer otherwise"),
        ("Origin: upstream\nDescription: answer otherwise\n and more\n", "answer otherwise"),
        ("commit 0123456789\nAuthor: A <a@example.org>\nDate:   now\n\n    net: answer\n\n    Why.\n", "net: answer"),
        ("Index: linux/net.c\n==========\n", ""),
        ("From: A <a@example.org>\nSubject: [PATCH 1/2] net: answer\n\nWhy.\n---\n net.c | 2 +-\n", "net: answer"),
    ],
)
def test_the_patches_of_a_folder_have_titles(bench, head, title):
    folder = bench.root / "patches"
    folder.mkdir()
    diff = "--- a/net.c\n+++ b/net.c\n@@ -1 +1 @@\n-a\n+b\n"
    (folder / "0001-x.patch").write_text(head + diff)
    (patch,) = read(bench, type="patches", path=str(folder))
    assert (patch.subject, patch.name) == (title, "0001-x.patch")


def test_the_repository_of_a_range_is_only_read(bench):
    before = {path: path.stat().st_mtime_ns for path in (bench.tree / ".git").rglob("*") if path.is_file()}
    read(bench, type="git", path=str(bench.tree), range="HEAD~1..HEAD")
    assert {path: path.stat().st_mtime_ns for path in (bench.tree / ".git").rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"type": "git", "path": "{tree}", "range": "nowhere..HEAD"}, "no revision 'nowhere'"),
        ({"type": "git", "path": "{tree}", "range": "HEAD..HEAD"}, "there is no patch in it"),
        ({"type": "mbox", "path": "nowhere.mbox"}, "No such file"),
        ({"type": "patches", "path": "nowhere"}, "no such folder"),
    ],
)
def test_mistakes_are_named(bench, item, message):
    item = {name: value.format(tree=bench.tree) for name, value in item.items()}
    with pytest.raises(UserError, match=message):
        read(bench, **item)


class Darcs(recipes.SeriesModel):
    type: Literal["darcs"] = "darcs"

    @property
    def where(self):
        return "there"


def test_a_kind_without_a_row_is_named(bench):
    with pytest.raises(UserError, match="series type 'darcs' is not known"):
        patchset.read_series([Darcs()], bench.ctx)


def test_every_kind_has_a_row():
    assert set(patchset.SERIES) == set(get_args(get_args(recipes.Series)[0]))


def test_standard_input_is_what_is_handed_in(bench):
    bench.ctx = bench.context(stdin=lambda: mbox(bench).encode())
    patches = read(bench, type="mbox", path="-")
    assert [patch.subject for patch in patches] == ["net: refuse with EINVAL", "delta: send with a flag"]
    assert patchset.describe([recipes.MboxSeries(type="mbox", path="-")], patches) == "2 patches: mbox -"
    bench.ctx = bench.context()
    with pytest.raises(UserError, match="there is none"):
        read(bench, type="mbox", path="-")


def stub_b4(bench, monkeypatch, script):
    program = bench.root / "bin/b4"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n" + script)
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program.parent / "python3"))


def test_a_message_id_goes_through_b4_once(bench, monkeypatch):
    (bench.root / "s.mbox").write_text(mbox(bench))
    stub_b4(bench, monkeypatch, f'echo "$@" >> {bench.root}/calls\ncat {bench.root}/s.mbox\n')
    for _ in range(2):
        patches = read(bench, type="message-id", id="<1@example.com>")
        assert [patch.subject for patch in patches] == ["net: refuse with EINVAL", "delta: send with a flag"]
    assert (bench.root / "calls").read_text().splitlines() == ["am --no-add-trailers -o - 1@example.com"]


@pytest.mark.parametrize(("version", "number"), [("2", "2"), ("v2", "2"), ("rfc-1", "1")])
def test_b4_is_asked_for_a_version_by_its_number(bench, monkeypatch, version, number):
    (bench.root / "s.mbox").write_text(mbox(bench))
    stub_b4(bench, monkeypatch, f'echo "$@" >> {bench.root}/calls\ncat {bench.root}/s.mbox\n')
    item = recipes.MessageIdSeries(type="message-id", id="1@example.com", version=version)
    patchset.posted_of(item, bench.ctx)
    assert f"-v {number} -o -" in (bench.root / "calls").read_text()


def test_no_network_for_b4(bench, monkeypatch):
    stub_b4(bench, monkeypatch, "echo 'requests.exceptions.ConnectionError: Max retries exceeded' >&2; exit 1\n")
    with pytest.raises(HostError, match="cannot reach") as caught:
        read(bench, type="message-id", id="1@example.com")
    assert "mbox" in caught.value.hint
