"""What a kernel was made of, as KCIDB names it."""

from __future__ import annotations

import dataclasses

import pytest

from kpatchlab.build import build_kernel, git, kernel_key, series_changes
from kpatchlab.build.checkout import checkout_of, hash_of
from kpatchlab.build.source import source_of
from kpatchlab.model import BuildResult, Outcome
from tests.build_fixtures import Bench


@pytest.fixture
def bench(tmp_path):
    made = Bench(tmp_path)
    made.repository()
    made.commit("core/net.c", "return -1", "return -22", "net: refuse with EINVAL")
    return made


def checkout(bench, recipe, **changes):
    build = BuildResult("with", Outcome.PASS, key=kernel_key(recipe, bench.ctx))
    return checkout_of(dataclasses.replace(build, **changes), recipe, bench.ctx, source_of(recipe.source, bench.ctx))


def recipe(bench, *series, revision="main~1"):
    return bench.recipe(source={"type": "git", "path": str(bench.tree), "revision": revision}, series=list(series))


def test_a_commit_and_the_patches_on_top(bench):
    ours = {"type": "git", "path": str(bench.tree), "range": "main~1..main"}
    one, files = checkout(bench, recipe(bench, ours))
    assert (one.kernel, one.commit, one.url) == ("with", bench.git("rev-parse", "main~1"), "")
    assert one.patchset == hash_of(files) != ""
    assert b"Subject: [PATCH 1/1] net: refuse with EINVAL" in files[0]
    one, files = checkout(bench, recipe(bench))
    assert (one.commit, one.patchset, files) == (bench.git("rev-parse", "main~1"), "", [])


def test_what_was_built_is_named_and_never_what_a_branch_is_by_now(bench):
    now = recipe(bench, revision="main")
    origin, commit = source_of(now.source, bench.ctx), bench.git("rev-parse", "main")
    build = BuildResult("with", Outcome.PASS, key=kernel_key(now, bench.ctx, origin))
    bench.sub("core/net.c", "return -22", "return -14")
    bench.git("commit", "-qam", "net: refuse with EFAULT")
    one, _ = checkout_of(build, now, bench.ctx, origin)
    assert one.commit == commit != bench.git("rev-parse", "main")
    assert checkout_of(build, now, bench.ctx, source_of(now.source, bench.ctx)) is None
    assert checkout(bench, now)


def test_a_server_is_asked_once_for_a_kernel_its_changes_and_what_it_was_made_of(bench, monkeypatch):
    commit, asked = bench.git("rev-parse", "main"), []
    resolve = git.resolve_fetched
    monkeypatch.setattr(git, "resolve_fetched", lambda *words: asked.append(words) or resolve(*words))
    (bench.root / "a.patch").write_text(bench.git("diff", "-R", "main~1..main") + "\n")
    ours = {"type": "mbox", "path": str(bench.root / "a.patch")}
    far = bench.recipe(source={"type": "git", "url": bench.tree.as_uri(), "revision": "main"}, series=[ours])
    origin = source_of(far.source, bench.ctx)
    assert origin.key == {"commit": commit}
    bench.sub("core/net.c", "return -22", "return -14")
    bench.git("commit", "-qam", "net: refuse with EFAULT")
    build = build_kernel(far, "with", bench.ctx, origin)
    assert (build.outcome, commit[:12] in build.base) == (Outcome.PASS, True), build.error
    assert series_changes(far, bench.ctx, origin).patches
    one, _ = checkout_of(build, far, bench.ctx, origin)
    assert (one.commit, len(asked)) == (commit, 1)


def test_what_nobody_else_can_name_has_no_checkout(bench):
    assert checkout(bench, bench.recipe()) is None, "a folder"
    assert checkout(bench, recipe(bench), key="") is None, "nothing was built"
    folder = bench.root / "queue"
    folder.mkdir()
    diff = bench.git("diff", "--no-prefix", "main~1..main") + "\n"
    (folder / "a.patch").write_text(diff)
    (folder / "series").write_text("a.patch -p0\n")
    assert checkout(bench, recipe(bench, {"type": "quilt", "path": str(folder)})) is None, "not for git apply"


def test_an_address_is_told_without_its_password(bench, monkeypatch):
    commit = bench.git("rev-parse", "main")
    monkeypatch.setattr(git, "resolve_fetched", lambda *_: commit)
    far = bench.recipe(source={"type": "git", "url": "https://me:secret@git.example.org/x.git", "revision": "main"})
    one, _ = checkout(bench, far)
    assert (one.commit, one.url) == (commit, "https://git.example.org/x.git")
