"""The lab's git goes by no settings of a user's, and by none of a repository or a tree that it reads."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest
from build_fixtures import Bench
from pydantic import TypeAdapter, ValidationError

from kpatchlab.build import git, gitview, patchset
from kpatchlab.build.source import source_of
from kpatchlab.errors import LabError, UserError
from kpatchlab.lab import recipes

SETTINGS = {
    "format.useAutoBase": "true", "diff.orderFile": "{root}/order", "diff.noprefix": "true", "diff.renames": "copies",
    "diff.mnemonicPrefix": "true", "format.attach": "xx", "format.numbered": "false", "format.signature": "me",
    "format.coverLetter": "true", "format.thread": "deep", "format.subjectPrefix": "PATCH v9 7/9",
    "color.ui": "always", "core.quotePath": "false", "core.abbrev": "4", "diff.algorithm": "patience",
    "diff.context": "9", "log.date": "raw", "diff.interHunkContext": "9", "diff.suppressBlankEmpty": "true",
    "diff.wordRegex": ".", "log.showSignature": "true", "diff.external": "{spy}", "core.pager": "{spy}",
    "core.attributesFile": "{root}/attributes", "mailinfo.scissors": "true", "core.excludesFile": "{root}/ignore",
    "apply.whitespace": "fix", "apply.ignoreWhitespace": "change", "core.autocrlf": "true", "core.eol": "crlf",
    "core.fsmonitor": "{spy}", "core.hooksPath": "{root}/hooks", "filter.spy.clean": "{spy}",
    "filter.spy.smudge": "{spy}", "filter.spy.required": "true", "format.notes": "true", "diff.spy.textconv": "{spy}",
    "diff.spy.command": "{spy}", "format.from": "Me <me@example.org>", "diff.dirstat": "0",
    "format.encodeEmailHeaders": "false", "format.outputDirectory": "{root}/elsewhere",
    "i18n.logOutputEncoding": "latin1", "status.showUntrackedFiles": "no", "diff.ignoreSubmodules": "all",
    "core.ignoreCase": "true", "diff.stat": "false", "core.alternateRefsCommand": "{spy}",
    "core.sparseCheckout": "true", "am.keepcr": "true", "core.fileMode": "false", "mailinfo.quotedCr": "strip",
    "log.follow": "true", "log.mailmap": "true", "diff.relative": "true", "core.sshCommand": "{spy}",
    "credential.helper": "{spy}", "gpg.program": "{spy}", "core.editor": "{spy}",
}  # fmt: skip


@pytest.fixture
def bench(tmp_path):
    made = Bench(tmp_path)
    made.repository()
    made.git("tag", "base")
    made.sub("core/net.c", "return -1", "return -22")
    made.git("commit", "-qam", "net: one")
    made.git("mv", "drivers/delta.c", "drivers/delta2.c")
    made.write("core/eq.c", "int eq = 1;\n")
    made.git("add", "-A")
    made.git("commit", "-qam", "delta: two\n\nIt is this:\n\ndiff --git a/core/x.c b/core/x.c\n--- a/core/x.c\n")
    made.write("core/new.c", "int x;\n")
    made.sub("core/main.c", "int", "long")
    return made


def spied(bench):
    """Write what the settings name: a program that leaves a mark when it is run, and files that hide everything."""
    spy = bench.root / "spy"
    spy.write_text(f"#!/bin/sh\ntouch {bench.root}/ran\ncat\n")
    spy.chmod(0o755)
    (bench.root / "order").write_text("drivers/*\ncore/*\n")
    (bench.root / "attributes").write_text("* binary\n*.c filter=spy diff=spy\n")
    (bench.root / "ignore").write_text("*\n")
    for hook in ("post-index-change", "post-checkout", "reference-transaction", "fsmonitor-watchman"):
        (bench.root / "hooks").mkdir(exist_ok=True)
        shutil.copy(spy, bench.root / "hooks" / hook)
    return {name: value.format(root=bench.root, spy=spy) for name, value in SETTINGS.items()}


def seen(bench):
    """Return all that the lab reads from the repository."""
    spec = TypeAdapter(recipes.Source).validate_python
    series = TypeAdapter(recipes.Series).validate_python
    here, home = str(bench.tree), bench.root / f"out-{len(list(bench.root.glob('out-*')))}"
    found = []
    for given in ({"type": "dir", "path": here}, {"type": "git", "path": here, "revision": "HEAD"}):
        source = source_of(spec(given), bench.ctx)
        into = home / given["type"] / "tree"
        into.mkdir(parents=True)
        source.unpack(into)
        files = {str(p.relative_to(into)): p.read_bytes() for p in sorted(into.rglob("*")) if p.is_file()}
        found.append((source.key, files))
    patches = patchset.read_series([series({"type": "git", "path": here, "range": "base..HEAD"})], bench.ctx)
    return [*found, patches, patchset.changed_files(patches)]


def test_no_setting_of_the_users_changes_what_is_read(bench, monkeypatch):
    before = seen(bench)
    home = bench.root / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "xdg"))
    for name, value in spied(bench).items():
        subprocess.run(["git", "config", "--global", name, value], check=True)
    (home / "xdg/git").mkdir(parents=True)
    shutil.copy(bench.root / "attributes", home / "xdg/git/attributes")
    shutil.copy(bench.root / "ignore", home / "xdg/git/ignore")
    for name in ("GIT_DIR", "GIT_EXTERNAL_DIFF", "GIT_INDEX_FILE", "GIT_ATTR_SOURCE"):
        monkeypatch.setenv(name, "/nowhere")
    after = seen(bench)
    assert after == before
    assert before[3] == ["core/eq.c", "core/net.c", "drivers/delta.c", "drivers/delta2.c"]
    assert not (bench.root / "ran").exists()


def test_nothing_of_a_repository_or_its_tree_is_run_or_gone_by(bench):
    before = seen(bench)
    for name, value in spied(bench).items():
        bench.git("config", name, value)
    shutil.copytree(bench.root / "hooks", bench.tree / ".git/hooks", dirs_exist_ok=True)
    shutil.copy(bench.root / "attributes", bench.tree / ".git/info/attributes")
    (bench.root / "ran").unlink(missing_ok=True)
    state = {p: p.stat().st_mtime_ns for p in (bench.tree / ".git").rglob("*") if p.is_file()}
    assert seen(bench) == before
    assert not (bench.root / "ran").exists()
    assert {p: p.stat().st_mtime_ns for p in (bench.tree / ".git").rglob("*") if p.is_file()} == state


def test_attributes_in_a_tree_change_no_file(bench):
    bench.write(".gitattributes", "* text eol=crlf ident\n*.c filter=spy\n")
    bench.write("core/id.c", "/* $Id$ */\n")
    bench.git("-c", "core.attributesFile=/dev/null", "add", "-A")
    bench.git("commit", "-qm", "attributes")
    (bench.root / "tree").mkdir()
    repository = git.open_local(bench.tree)
    repository.export(repository.commit("HEAD~1"), bench.root / "tree", bench.ctx)
    assert (bench.root / "tree/core/net.c").read_bytes().count(b"\r") == 0
    bench.write("x.patch", "--- a/core/net.c\n+++ b/core/net.c\n@@ -1 +1 @@\n-int a\n+int b\n")
    (bench.root / "tree/.gitattributes").write_text("* text eol=crlf\n")
    (bench.root / "tree/core/net.c").write_text("int a\n")
    patch = patchset.Patch("x", "", (bench.tree / "x.patch").read_bytes())
    patchset.apply_patch(patch, bench.root / "tree")
    assert (bench.root / "tree/core/net.c").read_bytes() == b"int b\n"


def test_a_repository_inside_a_tree_is_none_to_the_patches(bench):
    tree = bench.root / "tree"
    (tree / ".git/info").mkdir(parents=True)
    shutil.copytree(bench.tree / ".git", tree / ".git", dirs_exist_ok=True)
    spied(bench)
    subprocess.run(["git", "-C", tree, "config", "core.fsmonitor", str(bench.root / "spy")], check=True)
    subprocess.run(["git", "-C", tree, "config", "core.worktree", "/nowhere"], check=True)
    (tree / "a.c").write_text("int a\n")
    patch = patchset.Patch("x", "", b"--- a/a.c\n+++ b/a.c\n@@ -1 +1 @@\n-int a\n+int b\n")
    patchset.apply_patch(patch, tree)
    assert (tree / "a.c").read_text() == "int b\n"
    assert not (bench.root / "ran").exists()


# ------------------------------------------------------------------------------- whose, and whole


def test_a_repository_of_another_user_is_refused_with_gits_reason(bench, monkeypatch):
    callers = gitview._callers
    monkeypatch.setattr(gitview, "_callers", lambda: {**callers(), "GIT_TEST_ASSUME_DIFFERENT_OWNER": "1"})
    with pytest.raises(UserError, match="detected dubious ownership in repository at") as caught:
        source_of(recipes.DirSource(type="dir", path=str(bench.tree)), bench.ctx).ask()
    assert f"safe.directory {bench.tree}" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("config", "[core\n", "bad config line 1"),
        ("config", "[core]\nrepositoryformatversion = 9\n", "git repo version"),
    ],
)
def test_a_repository_that_git_refuses_is_told_with_gits_reason(bench, name, text, reason):
    (bench.tree / ".git" / name).write_text(text)
    with pytest.raises(UserError, match=f"git refuses .*{reason}"):
        git.open_local(bench.tree)


def test_a_partial_clone_is_told_and_nothing_is_fetched_into_it(bench):
    bench.git("config", "uploadpack.allowFilter", "true")
    for wanted in ("blob:none", "tree:0"):
        clone = bench.root / wanted.replace(":", "-")
        words = ["git", "clone", "-q", "--no-checkout", f"--filter={wanted}", bench.tree.as_uri(), str(clone)]
        subprocess.run(words, check=True)
        state = sorted(str(p) for p in (clone / ".git").rglob("*"))
        source = source_of(recipes.GitSource(type="git", path=str(clone), revision="HEAD"), bench.ctx)
        into = bench.root / f"into-{clone.name}"
        into.mkdir()
        with pytest.raises(UserError, match="is a partial clone"):
            source.unpack(into)
        with pytest.raises(UserError, match="is a partial clone"):
            patchset.read_series([recipes.GitSeries(type="git", path=str(clone), range="HEAD~1..HEAD")], bench.ctx)
        assert sorted(str(p) for p in (clone / ".git").rglob("*")) == state


def sha256(bench):
    """Make the tree a repository whose objects are named by SHA-256."""
    shutil.rmtree(bench.tree / ".git")
    bench.git("init", "-q", "--object-format=sha256")
    bench.git("add", "-A")
    bench.git("commit", "-qm", "Base")
    bench.sub("core/net.c", "return -22", "return -5")
    bench.git("commit", "-qam", "net: one")


def test_a_sha256_repository_is_read_where_it_lies(bench):
    sha256(bench)
    (patch,) = patchset.read_series(
        [recipes.GitSeries(type="git", path=str(bench.tree), range="HEAD~1..HEAD")], bench.ctx
    )
    (bench.root / "tree").mkdir()
    source_of(recipes.GitSource(type="git", path=str(bench.tree), revision="HEAD~1"), bench.ctx).unpack(
        bench.root / "tree"
    )
    patchset.apply_patch(patch, bench.root / "tree")
    assert "return -5" in (bench.root / "tree/core/net.c").read_text()


def test_a_sha256_repository_behind_a_url_is_told(bench):
    sha256(bench)
    source = source_of(recipes.GitSource(type="git", url=bench.tree.as_uri(), revision="main"), bench.ctx)
    (bench.root / "tree").mkdir()
    with pytest.raises(UserError, match="keeps its objects by SHA-256"):
        source.unpack(bench.root / "tree")


@pytest.mark.parametrize("kind", ["work tree", "shallow", "bare", "split index", "packed"])
def test_every_shape_of_repository_is_read(bench, kind):
    where = bench.root / "other"
    before = seen(bench)[2]
    if kind == "work tree":
        bench.git("worktree", "add", "-q", "--detach", str(where))
    elif kind in {"shallow", "bare"}:
        more = ["--bare"] if kind == "bare" else ["--depth=3"]
        subprocess.run(["git", "clone", "-q", *more, bench.tree.as_uri(), str(where)], check=True)
    else:
        where = bench.tree
        bench.git(*(["update-index", "--split-index"] if kind == "split index" else ["gc", "-q"]))
    series = recipes.GitSeries(type="git", path=str(where), range="HEAD~2..HEAD")
    assert [p.data for p in patchset.read_series([series], bench.ctx)] == [p.data for p in before]
    if kind != "bare":
        assert source_of(recipes.DirSource(type="dir", path=str(where)), bench.ctx).ask()["commit"]


def test_what_moves_meanwhile_is_seen(bench):
    first = git.open_local(bench.tree).commit("HEAD")
    bench.git("checkout", "-qf", "HEAD~1")
    assert git.open_local(bench.tree).commit("HEAD") == bench.git("rev-parse", "HEAD") != first


# ------------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("model", "keys"),
    [
        (recipes.GitSource, {"type": "git", "path": "x", "revision": "--output=/tmp/x"}),
        (recipes.GitSource, {"type": "git", "url": "--upload-pack=touch /tmp/x", "revision": "main"}),
        (recipes.GitSeries, {"type": "git", "path": "x", "range": "--output=/tmp/x..y"}),
        (recipes.GitSeries, {"type": "git", "path": "x", "range": "x..-y"}),
        (recipes.MessageIdSeries, {"type": "message-id", "id": "--help"}),
    ],
)  # fmt: skip
def test_no_word_of_a_recipe_becomes_an_option(model, keys):
    with pytest.raises(ValidationError):
        model(**keys)


@pytest.mark.parametrize("url", ["ext::sh -c 'touch {root}/ran'", "fd::7", "file::{root}", "ext::touch {root}/ran"])
def test_no_url_names_a_program(bench, url):
    url = url.format(root=bench.root)
    with pytest.raises(LabError):
        git.resolve_url(git.open_url(url, bench.ctx), "main")
    assert not (bench.root / "ran").exists()


def test_no_word_becomes_an_option_of_git(bench):
    for url in ("--upload-pack=x", "-x"):
        with pytest.raises(UserError, match="begins with a dash"):
            git.open_url(url, bench.ctx)
    mirror = git.open_url(bench.tree.as_uri(), bench.ctx)
    with pytest.raises(UserError, match="begins with a dash"):
        git.resolve_url(mirror, "--exec=x")
    assert git.open_local(bench.tree).commit("--output=x") == ""
    assert not os.path.exists("x")
