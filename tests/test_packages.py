"""What the host lacks, and installing it."""

import time

import pytest

from kpatchlab import proc
from kpatchlab.errors import HostError, UserError
from kpatchlab.host import packages
from kpatchlab.host.packages import Missing, Need

LACKING = [Missing("flex", "builds kconfig", ("build",)), Missing("bc", "constants", ("build",))]


def table(monkeypatch, *needs):
    monkeypatch.setattr(packages, "HOST_PACKAGES", needs)


def test_programs_and_files(monkeypatch, tmp_path):
    (tmp_path / "there.h").touch()
    table(
        monkeypatch,
        Need("shell", "s", ("build",), ("sh",)),
        Need("no-program", "p", ("build", "guest"), ("sh", "no-such-program")),
        Need("header", "h", ("build",), files=(f"{tmp_path}/no.h", f"{tmp_path}/th*.h")),
        Need("no-header", "n", ("build",), files=(f"{tmp_path}/no.h",)),
        Need("elsewhere", "e", ("guest",), ("no-such-program",)),
    )
    assert packages.missing(["build"]) == [
        Missing("no-program", "p", ("build",)),
        Missing("no-header", "n", ("build",)),
    ]
    assert packages.missing(["guest"])[0].for_what == ("guest",)


def test_sbin_counts_though_not_in_path(monkeypatch, tmp_path):
    program = tmp_path / "sbin/tool"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    table(monkeypatch, Need("tool", "t", ("build",), ("tool",)))
    assert packages.missing(["build"])
    monkeypatch.setattr(packages, "_SBIN", (str(program.parent),))
    assert not packages.missing(["build"])


def test_what_only_others_than_root_need(monkeypatch):
    table(monkeypatch, Need("uidmap", "u", ("image",), ("no-such-program",), non_root=True))
    monkeypatch.setattr(packages.os, "geteuid", lambda: 0)
    assert not packages.missing()
    monkeypatch.setattr(packages.os, "geteuid", lambda: 1000)
    assert packages.missing()


def test_unknown_stage():
    with pytest.raises(UserError, match="cooking"):
        packages.missing(["cooking"])


def test_require_names_package_purpose_and_command(monkeypatch):
    table(monkeypatch, Need("flex", "builds kconfig", ("build",), ("no-such-program",)))
    with pytest.raises(HostError, match="1 package missing on this host: flex") as caught:
        packages.require()
    assert caught.value.details == ("flex: builds kconfig",)
    assert "apt-get install --yes --no-install-recommends flex" in caught.value.hint


def test_table_is_sound_and_quick():
    names = [need.package for need in packages.HOST_PACKAGES]
    assert len(names) == len(set(names))
    assert all(need.programs or need.files for need in packages.HOST_PACKAGES)
    assert all(
        set(need.stages) <= {*packages.STAGES, *packages.OPTIONAL, *packages.TESTS} for need in packages.HOST_PACKAGES
    )
    begin = time.perf_counter()
    packages.missing()
    assert time.perf_counter() - begin < 0.2, "some milliseconds; the bound leaves room for a busy host"


@pytest.fixture
def commands(monkeypatch):
    """Record commands instead of running them; `status` maps a command's word to its status."""
    ran = []
    status = {}

    def fake(argv, **_kwargs):
        ran.append(list(argv))
        code = next((code for word, code in status.items() if word in argv), 0)
        return proc.Result(tuple(argv), code, "", "W: a\nE: no\nnoise\n" if code else "", 0.0)

    monkeypatch.setattr(packages.proc, "run", fake)
    monkeypatch.setattr(packages.shutil, "which", lambda name, **_k: f"/usr/bin/{name}")
    monkeypatch.setattr(packages.os, "geteuid", lambda: 0)
    return ran, status


def test_install_as_root(commands):
    said = []
    packages.install(LACKING, said.append)
    assert said == ["installing flex: builds kconfig", "installing bc: constants"]
    assert commands[0][-1] == ["apt-get", "install", "--yes", "--no-install-recommends", "bc", "flex"]


def test_install_nothing(commands):
    packages.install([], print)
    assert not commands[0]


def test_install_through_sudo(monkeypatch, commands):
    monkeypatch.setattr(packages.os, "geteuid", lambda: 1000)
    packages.install(LACKING, lambda _text: None)
    assert commands[0][-1][:2] == ["sudo", "-n"]


def test_install_without_rights(monkeypatch, commands):
    monkeypatch.setattr(packages.os, "geteuid", lambda: 1000)
    commands[1]["sudo"] = 1
    with pytest.raises(HostError, match="root's rights") as caught:
        packages.install(LACKING, print)
    assert caught.value.hint == "as root: apt-get install --yes --no-install-recommends bc flex"


def test_install_on_another_distribution(monkeypatch, commands):
    monkeypatch.setattr(packages.shutil, "which", lambda *_a, **_k: None)
    with pytest.raises(HostError, match="not a Debian system"):
        packages.install(LACKING, print)


def test_install_that_fails(commands):
    commands[1]["install"] = 100
    with pytest.raises(HostError, match="could not install bc flex") as caught:
        packages.install(LACKING, lambda _text: None)
    assert caught.value.details == ("W: a", "E: no")


def test_what_only_some_scenarios_need_is_not_asked_of_everybody(monkeypatch):
    table(monkeypatch, Need("clang", "c", ("bpf",), ("no-such-program",)))
    assert not packages.missing()
    assert packages.missing(packages.OPTIONAL) == [Missing("clang", "c", ("bpf",))]
