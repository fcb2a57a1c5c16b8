"""Which QEMU is taken."""

from pathlib import Path

import pytest

from kpatchlab import proc
from kpatchlab.cache import Cache
from kpatchlab.errors import HostError, UserError
from kpatchlab.guest.shapes import Qemu
from kpatchlab.host import qemu

OURS = Qemu(Path("/cache/qemu"), (10, 0, 13), ("/cache/ld", "/cache/qemu"), unpacked=True)


@pytest.fixture
def host(monkeypatch):
    """A host whose QEMU has the version that is set here; None for no QEMU."""
    facts = {"version": "7.2.22 (Debian 1:7.2+dfsg-7)", "mirror": True}
    monkeypatch.setattr(qemu.shutil, "which", lambda _name: "/usr/bin/qemu" if facts["version"] else None)
    said = "QEMU emulator version {}\nCopyright\n"
    monkeypatch.setattr(
        qemu.proc, "run", lambda argv, **_k: proc.Result(tuple(argv), 0, said.format(facts["version"]), "", 0.0)
    )

    def debian(_cache, _mirror="", _arch=""):
        if not facts["mirror"]:
            raise HostError("mirror x cannot be reached")
        return OURS

    monkeypatch.setattr(qemu, "debian_qemu", debian)
    return facts


@pytest.mark.parametrize(
    ("choice", "version", "kvm", "unpacked"),
    [
        ("auto", "7.2.22", False, True),
        ("auto", "7.2.22", None, True),
        ("auto", "7.2.22", True, False),
        ("auto", "10.1.0 (v10.1.0-dirty)", False, False),
        ("auto", "", None, True),
        ("host", "7.2.22", False, False),
        ("debian", "10.1.0", True, True),
    ],
)
def test_choice(host, choice, version, kvm, unpacked):
    host["version"] = version
    assert qemu.find_qemu(choice, Cache(Path("/x")), kvm_works=kvm).unpacked is unpacked


def test_auto_makes_do_with_the_hosts(host):
    host["mirror"] = False
    notes = []
    found = qemu.find_qemu("auto", Cache(Path("/x")), note=notes.append)
    assert found.version == (7, 2, 22)
    assert notes == ["guests run in the host's QEMU 7.2: mirror x cannot be reached"]
    with pytest.raises(HostError):
        qemu.find_qemu("debian", Cache(Path("/x")))


def test_no_qemu_on_the_host(host):
    host["version"] = ""
    with pytest.raises(HostError, match="not on this host"):
        qemu.find_qemu("host", Cache(Path("/x")))


def test_odd_answers(host):
    host["version"] = "unknown"
    with pytest.raises(HostError, match="--version says"):
        qemu.host_qemu()
    with pytest.raises(UserError, match="qemu: 'kvm'"):
        qemu.find_qemu("kvm", Cache(Path("/x")))


@pytest.mark.mirror
def test_debians_own_starts_a_machine(tmp_path):
    found = qemu.find_qemu("debian", Cache(tmp_path / "a cache"))
    assert found.version >= qemu.FAST_VERSION
    machine = ["-machine", "q35", "-accel", "tcg", "-nodefaults", "-display", "none", "-S", "-monitor", "stdio"]
    devices = ["-device", "pvpanic-pci", "-device", "virtio-serial-pci", "-device", "i6300esb"]
    proc.run([*found.argv, *machine, *devices], timeout_s=60, input_bytes=b"quit\n")
