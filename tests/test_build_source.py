"""Sources: what a tree's key sees, and that the user's repositories and trees are only read."""

from __future__ import annotations

import subprocess
from types import SimpleNamespace
from typing import Literal, get_args

import pytest
from build_fixtures import Bench
from pydantic import TypeAdapter

from kpatchlab.build import debian_sources, gitview
from kpatchlab.build.patchset import read_series
from kpatchlab.build.source import SOURCES, source_of
from kpatchlab.cache import file_digest, tree_digest
from kpatchlab.errors import HostError, UserError
from kpatchlab.lab import recipes


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def spec(**keys):
    return TypeAdapter(recipes.Source).validate_python(keys)


def unpack(bench, given):
    into = bench.root / "out" / "tree"
    into.mkdir(parents=True)
    source_of(given, bench.ctx).unpack(into)
    return into


def key(bench, given):
    return source_of(given, bench.ctx).key


def test_git_gives_any_revision_and_leaves_the_repository_alone(bench):
    first = bench.repository()
    fake = tree_digest(bench.tree / "drivers")
    bench.sub("drivers/delta.c", "core_send(0)", "core_send(1)")
    bench.git("commit", "-qam", "Change")
    bench.git("tag", "-a", "-m", "x", "v2")
    bench.write("drivers/delta.c", "work in progress\n")
    before = bench.snapshot()
    given = spec(type="git", path=str(bench.tree), revision="HEAD~1")
    assert key(bench, given) == {"commit": first}
    assert tree_digest(unpack(bench, given) / "drivers") == fake
    assert bench.snapshot() == before
    assert key(bench, spec(type="git", path=str(bench.tree), revision="v2")) == {
        "commit": bench.git("rev-parse", "HEAD")
    }


def test_git_url_is_mirrored_in_the_cache(bench):
    commit = bench.repository()
    bench.git("tag", "-a", "-m", "x", "v1")
    bench.git("branch", "topic/one")
    for revision in ("v1", "topic/one", "main", commit):
        assert key(bench, spec(type="git", url=bench.tree.as_uri(), revision=revision)) == {"commit": commit}
    tree = unpack(bench, spec(type="git", url=bench.tree.as_uri(), revision="v1"))
    assert (tree / "Makefile").read_bytes() == (bench.tree / "Makefile").read_bytes()
    assert not (tree / ".git").exists()
    assert list((bench.ctx.cache.root / "git").glob("*.git"))


def test_git_url_without_network_answers_from_the_mirror(bench):
    commit = bench.repository()
    given = spec(type="git", url=bench.tree.as_uri(), revision="main")
    unpack(bench, given)
    bench.tree.rename(bench.root / "gone")
    assert key(bench, given) == {"commit": commit}


def test_a_base_is_named_by_the_first_commit_of_a_range_at_an_address(bench):
    """As mission.yaml names its series: nothing but the range and its parent is fetched."""
    old = bench.repository()
    ids = []
    for number in range(4):
        bench.write("core/new.c", f"int x{number};\n")
        bench.git("add", "-A")
        bench.git("commit", "-q", "-m", f"patch {number}")
        ids.append(bench.git("rev-parse", "HEAD"))
    url = bench.tree.as_uri()
    assert key(bench, spec(type="git", url=url, revision=f"{ids[1]}^")) == {"commit": ids[0]}
    assert key(bench, spec(type="git", url=url, revision=f"{ids[3]}~3")) == {"commit": ids[0]}
    (mirror,) = (bench.ctx.cache.root / "git").glob("*.git")
    assert (mirror / "shallow").exists()
    series = recipes.GitSeries(type="git", url=url, range=f"{ids[1]}^..{ids[3]}")
    assert [patch.subject for patch in read_series([series], bench.ctx)] == ["patch 1", "patch 2", "patch 3"]
    with pytest.raises(UserError, match="has no"):
        key(bench, spec(type="git", url=url, revision=f"{old}~5"))


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        ({"type": "git", "path": "{tree}", "revision": "v9"}, UserError, "no revision 'v9'"),
        ({"type": "git", "path": "nowhere", "revision": "v9"}, UserError, "no such directory"),
        ({"type": "git", "url": "file://{tree}", "revision": "v9"}, UserError, "no tag or branch 'v9'"),
        ({"type": "git", "url": "file:///nowhere", "revision": "v9"}, HostError, "cannot fetch from file:///nowhere"),
        ({"type": "dir", "path": "."}, UserError, "not a kernel tree"),
        ({"type": "tarball", "path": "nowhere.tar"}, UserError, "no such file"),
        ({"type": "tarball", "url": "ftp://x/y.tar"}, UserError, "not an http or https address"),
    ],
)
def test_mistakes_are_named(bench, given, kind, message):
    bench.repository()
    given = spec(**{name: value.format(tree=bench.tree) for name, value in given.items()})
    with pytest.raises(kind, match=message):
        key(bench, given)


class Svn(recipes.SourceModel):
    type: Literal["svn"] = "svn"


def test_a_type_without_a_row_is_named(bench):
    with pytest.raises(UserError, match="source type 'svn' is not known"):
        source_of(Svn(), bench.ctx)


def test_the_key_of_a_dir_sees_every_change_that_git_sees(bench):
    given = spec(type="dir", path=str(bench.tree))
    plain = key(bench, given)
    assert set(plain) == {"digest"}
    bench.write(".gitignore", "*.o\n")
    bench.repository()
    keys = [key(bench, given)]
    bench.write("core/net.o", "an object")
    assert key(bench, given) == keys[0]
    bench.sub("core/net.c", "return 0;", "return 1;")
    keys.append(key(bench, given))
    bench.git("add", "-A")
    assert key(bench, given) == keys[1]
    bench.write("core/new.c", "int x;\n")
    keys.append(key(bench, given))
    (bench.tree / "core/main.c").unlink()
    keys.append(key(bench, given))
    assert len({str(sorted(one.items())) for one in keys}) == 4


def test_the_key_of_a_dir_copies_the_index_once(bench, monkeypatch):
    bench.repository()
    copied = []
    copy = gitview.shutil.copy2
    monkeypatch.setattr(gitview.shutil, "copy2", lambda *words: copied.append(words) or copy(*words))
    key(bench, spec(type="dir", path=str(bench.tree)))
    assert len(copied) == 1


def test_a_dir_is_copied_with_its_changes_but_without_objects(bench):
    bench.write(".gitignore", "*.o\n")
    bench.repository()
    bench.write("core/net.o", "an object")
    bench.write("core/new.c", "int x;\n")
    (bench.tree / "drivers/delta.c").unlink()
    tree = unpack(bench, spec(type="dir", path=str(bench.tree)))
    assert (tree / "core/new.c").exists()
    assert not (tree / "core/net.o").exists()
    assert not (tree / "drivers/delta.c").exists()


def test_tarballs_from_path_and_url(bench):
    archive = bench.root / "linux-1.tar.gz"
    subprocess.run(["tar", "czf", archive, "-C", bench.root, "linux"], check=True)
    digest = file_digest(archive)
    for given in (
        spec(type="tarball", path=str(archive), sha256=""),
        spec(type="tarball", url=archive.as_uri(), sha256=digest),
    ):
        assert key(bench, given) == {"sha256": digest}
    tree = unpack(bench, spec(type="tarball", url=archive.as_uri(), sha256=digest))
    assert tree_digest(tree) == tree_digest(bench.tree)
    (bench.root / "out/tree").rename(bench.root / "out/done")
    with pytest.raises(UserError, match="its sha256 is not"):
        unpack(bench, spec(type="tarball", path=str(archive), sha256="0" * 64))


def test_every_type_says_what_it_is(bench):
    bench.repository()
    of_kernels, of_suites = (set(get_args(get_args(union)[0])) for union in (recipes.Source, recipes.SuiteSource))
    assert {model.kind() for model in of_kernels} == {"debian-image", "debian-source", "dir", "git", "tarball"}
    assert {model.kind() for model in of_suites} == {"debian-upstream", "dir", "git", "tarball"}
    assert set(SOURCES) == of_kernels | of_suites
    given = spec(type="dir", path=str(bench.tree))
    text = source_of(given, bench.ctx).describe()
    assert text.startswith(f"{bench.tree} (")


@pytest.mark.parametrize(
    ("given", "key"),
    [
        (
            {"type": "tarball", "path": "x", "sha256": "0" * 64},
            "6208ec2e2eb550c6a4763bfad29cf8dfdaafc3a537c6fe91a52cd3270c76c40b",
        ),
        (
            {"type": "debian-source", "package": "linux-source-6.1", "suite": "bookworm"},
            "a26748d53abb8d8c8f1103da7b1fdc6f564c72b821f827e2d13c9830ff051ceb",
        ),
        (
            {"type": "debian-image", "package": "linux-image-amd64", "suite": "bookworm"},
            "a6ca5136c4bd4995dc4042644967acab126ed4653e13655b795946a391d7d4e1",
        ),
    ],
)
def test_a_trees_key_stays_what_caches_have(bench, monkeypatch, given, key):
    monkeypatch.setattr(debian_sources, "Apt", lambda *_, **__: SimpleNamespace(candidate=lambda package: "6.1.192-2"))
    assert source_of(spec(**given), bench.ctx).tree_key == key
