"""Bases that have not moved for weeks: what is known of branches and of Debian's suites without asking anybody."""

from __future__ import annotations

import datetime as dt
import subprocess

import pytest

from kpatchlab.build import debian_sources, source
from kpatchlab.build.standing import STILL, standing_still
from kpatchlab.cache import Cache
from kpatchlab.host import dates, debian
from kpatchlab.lab.recipes import KernelRecipe
from tests.build_fixtures import Bench

NOW = dt.datetime(2026, 11, 30, 12, tzinfo=dt.UTC)
DATE = dt.datetime(2026, 10, 28, 12, tzinfo=dt.UTC)
IMAGE = {"type": "debian-image", "package": "linux-image-amd64", "suite": "sid"}


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def told(bench, *sources, now=NOW):
    return standing_still([KernelRecipe.model_validate({"source": given}) for given in sources], bench.ctx, now)


@pytest.fixture
def branch(bench):
    """A repository whose one commit is of DATE, on main, under a tag, and at a commit of no branch."""
    bench.repository()
    stamp = f"--date=@{DATE.timestamp():.0f}"
    env = {"GIT_COMMITTER_DATE": f"@{DATE.timestamp():.0f}"}
    who = ["-c", "user.name=A", "-c", "user.email=a@example.com"]
    words = ["git", *who, "-C", bench.tree, "commit", "-q", "--amend", "--no-edit", stamp]
    subprocess.run(words, check=True, env={**env, "PATH": "/usr/bin:/bin"})
    bench.git("tag", "next-20261028")
    return bench


@pytest.mark.parametrize("revision", ["main", "refs/heads/main", "HEAD"])
def test_a_branch_that_nobody_pushes_to_is_told(branch, revision):
    given = {"type": "git", "path": str(branch.tree), "revision": revision}
    (line,) = told(branch, given, given)
    assert line.startswith(f"base git {branch.tree} {revision} (")
    assert line.endswith("has not moved: nothing newer for 33 days, since 2026-10-28")
    assert not told(branch, given, now=DATE + STILL - dt.timedelta(minutes=1))


@pytest.mark.parametrize("revision", ["next-20261028", "", "main~0", "nothing"])
def test_what_is_no_branch_never_moves(branch, revision):
    given = {"type": "git", "path": str(branch.tree), "revision": revision or branch.git("rev-parse", "main")}
    assert not told(branch, given)
    assert not told(branch, {"type": "dir", "path": str(branch.tree)})


def test_a_branch_of_a_server_is_told_without_asking_it(branch):
    given = {"type": "git", "url": branch.tree.as_uri(), "revision": "main"}
    tagged = {**given, "revision": "next-20261028"}
    assert not told(branch, given)
    for number, one in enumerate((given, tagged)):
        into = branch.root / f"out{number}"
        into.mkdir()
        source.source_of(KernelRecipe.model_validate({"source": one}).source, branch.ctx).unpack(into)
    branch.tree.rename(branch.root / "gone")
    (line,) = told(branch, given, tagged)
    assert line.startswith(f"base git {branch.tree.as_uri()} main (")
    assert line.endswith("nothing newer for 33 days, since 2026-10-28")


class Apt:
    """What the lab's apt says without a network."""

    version, date, until = "7.2.13-1", DATE, None
    mirror = debian.Mirror("http://m.example/debian", "http://m.example/debian-security")

    def __init__(self, *_words, **_settings):
        pass

    def known(self, _package):
        return self.version

    def made(self, _version):
        return self.date

    def valid_until(self):
        return self.until


BASE = "base Debian linux-image-amd64 7.2.13-1 (sid) has not moved: "
PAST, AHEAD = NOW - dt.timedelta(days=24), NOW + dt.timedelta(days=2)


@pytest.mark.parametrize(
    ("date", "until", "said"),
    [
        (DATE, None, "nothing newer for 33 days, since 2026-10-28"),
        (NOW, PAST, "the mirror's lists were valid until 2026-11-06"),
        (DATE, PAST, "nothing newer for 33 days, since 2026-10-28; the mirror's lists were valid until 2026-11-06"),
        (NOW, AHEAD, None),
        (None, None, None),
    ],
)
def test_a_suite_without_news_and_a_stale_mirror_are_told(bench, monkeypatch, date, until, said):
    monkeypatch.setattr(debian_sources, "Apt", type("Found", (Apt,), {"date": date, "until": until}))
    assert told(bench, IMAGE, IMAGE) == ([BASE + said] if said else [])
    other = {"type": "debian-image", "package": "x", "suite": "sid"}
    assert told(bench, IMAGE, other) == ([BASE + said, BASE.replace("linux-image-amd64", "x") + said] if said else [])


@pytest.mark.parametrize("stamp", ["@999999999999", "@99999999999999", "@253402300800"])
def test_a_clock_that_shows_no_date_says_nothing_and_costs_nothing(branch, stamp):
    env = {"GIT_COMMITTER_DATE": f"{stamp} +0000", "PATH": "/usr/bin:/bin"}
    who = ["-c", "user.name=A", "-c", "user.email=a@example.com"]
    subprocess.run(["git", *who, "-C", branch.tree, "commit", "-q", "--amend", "--no-edit"], check=True, env=env)
    assert branch.git("log", "-1", "--format=%ct") == stamp[1:]
    assert not told(branch, {"type": "git", "path": str(branch.tree), "revision": "main"})


def test_a_package_without_a_version_says_nothing(bench, monkeypatch):
    monkeypatch.setattr(debian_sources, "Apt", type("None", (Apt,), {"version": "", "until": PAST}))
    assert not told(bench, IMAGE)


def test_a_snapshot_is_not_followed(bench, monkeypatch):
    archive = "http://s.example/archive/debian/20261030T000000Z"
    monkeypatch.setattr(
        debian_sources, "Apt", type("Old", (Apt,), {"until": PAST, "mirror": debian.Mirror(archive, archive)})
    )
    assert not told(bench, IMAGE)


def test_lists_that_are_not_there_say_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(debian.proc, "run", None)
    apt = debian.Apt(Cache(tmp_path), "sid", "http://m.example/debian")
    assert (apt.known("linux-image-amd64"), apt.made("7.2.13-1"), apt.valid_until()) == ("", None, None)


def test_a_package_has_the_date_of_its_changelog(tmp_path):
    (tmp_path / "debian-binary").write_text("2.0\n")
    deb = tmp_path / "a.deb"
    head = f"{'debian-binary':<16}{DATE.timestamp():<12.0f}{'0':<6}{'0':<6}{'100644':<8}{'4':<10}`\n2.0\n"
    deb.write_text("!<arch>\n" + head)
    assert dates.made(deb) == DATE
    deb.write_text("no package at all, and long enough to be one")
    assert dates.made(deb) is None
    deb.write_text("")
    assert dates.made(deb) is None


def test_the_first_of_a_suites_release_files_counts(tmp_path):
    for name, ends in (("sid", "Fri, 06 Nov 2026 08:08:01 UTC"), ("sid-updates", "Sun, 06 Dec 2026 00:53:14 UTC")):
        (tmp_path / f"m_dists_{name}_InRelease").write_text(f"Suite: unstable\nValid-Until: {ends}\n")
    (tmp_path / "m_dists_stable_InRelease").write_text("Suite: stable\n")
    (tmp_path / "m_dists_odd_Release").write_text("Valid-Until: some day\n")
    assert dates.valid_until(tmp_path) == dt.datetime(2026, 11, 6, 8, 8, 1, tzinfo=dt.UTC)
