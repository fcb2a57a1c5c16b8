"""The lab's own apt: what is read from the host, what is asked of a mirror."""

import hashlib
import os
import time

import pytest

from kpatchlab import proc
from kpatchlab.cache import Cache
from kpatchlab.errors import HostError, UserError
from kpatchlab.host import debian
from kpatchlab.host.debian import Apt, Mirror

THIRD_PARTY = """\
Types: deb
URIs: https://third.example/linux/debian
Suites: bookworm
Components: main
Signed-By: /usr/share/keyrings/third.gpg
"""
DEB822 = """\
# a comment
Types: deb deb-src
URIs: http://one.example/debian/
Suites: bookworm
# in the middle
 bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://sec.example/debian-security
Suites: bookworm-security
Components: main
"""


def etc(tmp_path, **files):
    """Return an /etc/apt with the named files: `list` is sources.list, others NAME_SUFFIX below sources.list.d."""
    (tmp_path / "sources.list.d").mkdir()
    for name, text in files.items():
        path = tmp_path / "sources.list" if name == "list" else tmp_path / "sources.list.d" / name.replace("_", ".")
        path.write_text(text)
    return tmp_path


def test_host_mirror_deb822(tmp_path):
    found = debian.host_mirror(etc(tmp_path, debian_sources=DEB822, a_sources=THIRD_PARTY))
    assert found == Mirror("http://one.example/debian", "http://sec.example/debian-security")


def test_host_mirror_one_line(tmp_path):
    text = (
        "deb cdrom:[Debian 12]/ bookworm main\n"
        "# deb http://off.example/debian bookworm main\n"
        "deb-src http://src.example/debian bookworm main\n"
        "deb [arch=amd64 signed-by=/usr/share/keyrings/docker.gpg] http://docker.example/debian bookworm main\n"
        "deb [arch=amd64] http://two.example/debian trixie main contrib # why\n"
    )
    assert debian.host_mirror(etc(tmp_path, list=text)) == Mirror(
        "http://two.example/debian", "http://two.example/debian-security"
    )


@pytest.mark.parametrize(
    "text",
    [
        "deb http://archive.example/ubuntu jammy main\n",
        "deb http://other.example/debian bookworm stable\n",
        "",
    ],
)
def test_host_mirror_of_another_distribution_is_none(tmp_path, text):
    assert debian.host_mirror(etc(tmp_path, list=text)) is None


def test_disabled_stanza_is_left_out(tmp_path):
    off = DEB822.replace("Types: deb", "Enabled: no\nTypes: deb")
    assert debian.host_mirror(etc(tmp_path, debian_sources=off)) is None


@pytest.mark.parametrize(
    ("text", "security"),
    [
        ("http://m.example/debian/", "http://m.example/debian-security"),
        (
            "http://s.example/archive/debian/20250520T000000Z",
            "http://s.example/archive/debian-security/20250520T000000Z",
        ),
        ("http://m.example/pool http://sec.example/s/", "http://sec.example/s"),
    ],
)
def test_parse_mirror(text, security):
    assert debian.parse_mirror(text).security == security


@pytest.mark.parametrize("text", ["m.example/debian", "http://m.example/pool", "http://a/ http://b/ http://c/"])
def test_parse_mirror_refuses(text):
    with pytest.raises(UserError):
        debian.parse_mirror(text)


def test_sources_have_the_pockets(monkeypatch, tmp_path):
    monkeypatch.setattr(debian, "keyring", lambda: tmp_path / "k.gpg")
    mirror = Mirror("http://m/debian", "http://m/debian-security")
    suites = [line.split()[4] for line in debian.sources("bookworm-backports", mirror)]
    assert suites == ["bookworm", "bookworm-updates", "bookworm-security", "bookworm-backports"]
    assert [line.split()[4] for line in debian.sources("sid", mirror)] == ["sid"]


def test_missing_keyring_names_the_package(tmp_path):
    with pytest.raises(HostError) as caught:
        debian.keyring(tmp_path)
    assert "debian-archive-keyring" in caught.value.hint


def test_suite_must_be_a_name(tmp_path):
    with pytest.raises(UserError):
        Apt(Cache(tmp_path), "trixie main")


class FakeApt:
    """Answers instead of apt: `answers` maps the program's verb to (status, stdout, stderr)."""

    def __init__(self, **answers):
        self.answers = answers
        self.asked = []

    def __call__(self, argv, **_kwargs):
        verb = next(word for word in argv if word in {"update", "policy", "download", "install", "source"})
        self.asked.append(verb)
        status, stdout, stderr = self.answers[verb]
        return proc.Result(tuple(argv), status, stdout, stderr, 0.0)


def apt(tmp_path, monkeypatch, fake):
    monkeypatch.setattr(debian.proc, "run", fake)
    monkeypatch.setattr(debian, "keyring", lambda: tmp_path / "k.gpg")
    monkeypatch.setattr(debian, "reach_options", lambda: ())
    return Apt(Cache(tmp_path), "trixie", "http://m.example/debian")


HELLO = "hello:\n  Installed: (none)\n  Candidate: 2.10-5\n"


def test_lists_are_fetched_once(tmp_path, monkeypatch):
    fake = FakeApt(update=(0, "", ""), policy=(0, HELLO, ""))
    subject = apt(tmp_path, monkeypatch, fake)
    assert [subject.candidate("hello"), subject.candidate("hello")] == ["2.10-5"] * 2
    assert fake.asked == ["update", "policy", "policy"]
    assert apt(tmp_path, monkeypatch, fake).candidate("hello")
    assert fake.asked.count("update") == 1


def test_out_of_reach_without_lists_is_an_error(tmp_path, monkeypatch):
    fake = FakeApt(update=(100, "", "E: Failed to fetch http://m.example  Could not resolve 'm.example'"))
    with pytest.raises(HostError, match="cannot be reached"):
        apt(tmp_path, monkeypatch, fake).candidate("hello")


def test_out_of_reach_with_old_lists_goes_on(tmp_path, monkeypatch):
    fake = FakeApt(update=(0, "", ""), policy=(0, HELLO, ""))
    subject = apt(tmp_path, monkeypatch, fake)
    subject.candidate("hello")
    old = time.time() - 48 * 3600
    os.utime(subject._base / "updated", (old, old))
    fake.answers["update"] = (100, "", "E: Could not connect to m.example:80")
    assert subject.candidate("hello") == "2.10-5"
    assert subject.candidate("hello") == "2.10-5"
    assert fake.asked.count("update") == 2, "a mirror that was just out of reach is not tried for each question"


def test_unknown_package_is_the_users_error(tmp_path, monkeypatch):
    fake = FakeApt(update=(0, "", ""), policy=(0, "", ""))
    with pytest.raises(UserError, match="has no package nosuch"):
        apt(tmp_path, monkeypatch, fake).candidate("nosuch")


@pytest.mark.parametrize(
    ("text", "kind", "says"),
    [
        ("E: The repository 'http://m trixi Release' does not have a Release file.", UserError, "does not have it"),
        ("W: GPG error: http://m trixie InRelease: NO_PUBKEY 123", HostError, "signature"),
        ("E: Release file for http://m is not valid yet", HostError, "clock"),
        ("E: something else", proc.CommandFailed, "something else"),
    ],
)
def test_apts_complaints_are_told_apart(tmp_path, monkeypatch, text, kind, says):
    with pytest.raises(kind, match=says):
        apt(tmp_path, monkeypatch, FakeApt(update=(100, "", text))).candidate("hello")


def test_kept_package_is_not_fetched_again_and_checked(tmp_path, monkeypatch):
    digest = hashlib.sha256(b"deb").hexdigest()
    uris = f"'http://m.example/debian/pool/hello_2.10-5_amd64.deb' hello_2.10-5_amd64.deb 3 SHA256:{digest}\n"
    fake = FakeApt(update=(0, "", ""), policy=(0, HELLO, ""), download=(0, uris, ""))
    subject = apt(tmp_path, monkeypatch, fake)
    subject.candidate("hello")
    kept = subject._base / "archives/hello_2.10-5_amd64.deb"
    kept.write_bytes(b"deb")
    assert subject.fetch(["hello"]) == [kept]
    assert fake.asked.count("download") == 1, "only the URLs are asked for"
    kept.write_bytes(b"bad")
    with pytest.raises(HostError, match="not what the archive's lists promise"):
        subject.fetch(["hello"])


def test_the_upstream_archive_of_a_source_package(tmp_path, monkeypatch):
    digest = hashlib.sha256(b"tar").hexdigest()
    uris = f"'http://m.example/pool/kcapi_1.4.orig.tar.xz' kcapi_1.4.orig.tar.xz 3 SHA256:{digest}\n"
    fake = FakeApt(update=(0, "", ""), source=(0, uris, ""))
    plain = apt(tmp_path, monkeypatch, fake)
    subject = Apt(Cache(tmp_path), "trixie", "http://m.example/debian", with_sources=True)
    assert subject._base != plain._base
    subject._ready()
    assert "\ndeb-src [" in (subject._base / "etc/sources.list").read_text()
    (subject._base / "archives/kcapi_1.4.orig.tar.xz").write_bytes(b"tar")
    assert subject.fetch_upstream("kcapi").name == "kcapi_1.4.orig.tar.xz"
    (subject._base / "archives/kcapi_1.4.orig.tar.xz").write_bytes(b"bad")
    with pytest.raises(HostError, match="not what the archive's lists promise"):
        subject.fetch_upstream("kcapi")
    fake.answers["source"] = (100, "", "E: Unable to find a source package for nosuch")
    with pytest.raises(UserError, match="no source package nosuch"):
        subject.fetch_upstream("nosuch")


@pytest.mark.mirror
def test_real_mirror(tmp_path):
    subject = Apt(Cache(tmp_path / "cache"), "trixie")
    deb = subject.fetch(["hello"])[0]
    subject.unpack(deb, tmp_path / "root")
    assert (tmp_path / "root/usr/bin/hello").exists()
    assert {"hello", "libc6"} <= set(subject.resolve("hello"))
    with pytest.raises(UserError):
        subject.candidate("no-such-package-at-all")


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("Err:1 http://x y\n  Could not resolve 'x'\n", "it cannot be reached"),
        ("E: Failed to fetch http://x/pool/a_1_s390x.deb  502  Bad Gateway [IP: 1.2.3.4 80]\n", "it cannot be reached"),
        (
            "E: Failed to fetch http://x/pool/libc6_2.41-12%2bdeb13u5_s390x.deb  404  Not Found [IP: 1.2.3.4 80]\n" * 2,
            "it lists packages that it does not have: libc6_2.41-12+deb13u5_s390x.deb and 1 more",
        ),
        ("Get:7 http://x trixie/main s390x libx s390x 1:20250502-1 [1503 kB]\nE: dpkg failed\n", None),
    ],
)
def test_what_apt_blames_the_mirror_for(said, told):
    found = debian.explained(said, "it")
    assert (found and found.message) == told
