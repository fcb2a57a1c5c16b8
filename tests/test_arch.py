"""Guests of other architectures: what is asked of Debian, of the compilers and of QEMU, and which jobs there are."""

from __future__ import annotations

import dataclasses
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from kpatchlab import arch
from kpatchlab.arch import ARCHES, HOST
from kpatchlab.build import BuildContext, debian_sources, kernel_key, make, prebuilt
from kpatchlab.build.foreign import build_foreign
from kpatchlab.cache import Cache
from kpatchlab.errors import HostError, UserError
from kpatchlab.guest import qemu
from kpatchlab.guest.shapes import Boot, MachineShape, Qemu
from kpatchlab.host import emulation, packages
from kpatchlab.host.host import Host
from kpatchlab.lab import load
from kpatchlab.lab.recipes import KernelRecipe
from kpatchlab.model import Outcome
from kpatchlab.plan.jobs import ImageStep, make_plan
from tests import labdir

OTHERS = [name for name in ARCHES if name != HOST]
LAB = """\
base: here
kernels:
  here: old
  there: {source: {type: dir, path: tree}, arch: s390x}
scenarios: [duo, solo]
"""


def lab_of(root: Path, text: str) -> load.Lab:
    path = labdir.make(root)
    (root / "kernels/tree").mkdir()
    path.write_text(text)
    return load.load(path)


def words_of(name: str) -> list[str]:
    path = Path("/x")
    shape = MachineShape(name, "tcg", 1, 512, Qemu(path, (10,), ("qemu",)))
    return qemu.command_line(Boot(path, path, path, path, shape), qemu.Ends((1, 2, 3, 4, 5), 6), incoming=False)


@pytest.mark.parametrize("name", ARCHES)
def test_every_device_is_on_the_machines_own_bus(name):
    words = words_of(name)
    devices = [words[n + 1] for n, word in enumerate(words) if word == "-device"]
    virtio = [device.split(",")[0] for device in devices if device.startswith("virtio-")]
    assert len(virtio) == 5
    assert {device.rpartition("-")[2] for device in virtio} == {"ccw" if name == "s390x" else "pci"}
    assert ("pvpanic-pci" in devices) == (name != "s390x")
    assert any("romfile" in device for device in devices) == (name != "s390x")


@pytest.mark.parametrize("name", OTHERS)
def test_a_kernel_is_told_what_its_architecture_knows(name):
    line = words_of(name)[words_of(name).index("-append") + 1]
    assert "console=" in line
    assert "no_timer_check" not in line


def test_mixed_pairs_of_architectures_have_a_root_each(tmp_path):
    plan = make_plan(lab_of(tmp_path, LAB), choice=["duo"])
    assert set(plan.columns) == {"here", "there", "client=here,server=there", "client=there,server=here"}
    assert plan.images == (ImageStep("base"), ImageStep("base", "s390x"))
    assert [step.id for step in plan.images] == ["image:base", "image:base (s390x)"]
    mixed = next(job for job in plan.jobs if job.column == "client=here,server=there")
    assert {role.name: role.arch for role in mixed.roles} == {"client": HOST, "server": "s390x"}
    assert {step.arch for step in mixed.roots} == {HOST, "s390x"}


def test_the_labs_machine_is_that_of_kernels_that_name_none(tmp_path):
    lab = lab_of(tmp_path, LAB + "machine: arm\nmachines: {arm: {arch: arm64}}\n")
    assert {name: kernel.built_for for name, kernel in lab.kernels.items()} == {"here": "arm64", "there": "s390x"}
    assert {job.column for job in make_plan(lab).jobs} == {"here"}, "the machine takes no other architecture"


@pytest.mark.parametrize(("of_image", "wrong"), [("", False), ("arch: s390x\n", False), ("arch: arm64\n", True)])
def test_a_kernels_image_is_of_its_architecture(of_image, wrong, tmp_path):
    image = "source: {type: debian-image, package: 'linux-image-{arch}', suite: trixie}\n"
    labdir.write(tmp_path / "kernels/image.yaml", image + of_image)
    text = LAB.replace("arch: s390x", "arch: s390x, prebuilt: image")
    if not wrong:
        assert lab_of(tmp_path, text).images["there"].built_for == "s390x"
        return
    with pytest.raises(UserError) as caught:
        lab_of(tmp_path, text)
    assert caught.value.details[0].endswith("prebuilt: kernels/image.yaml is for arm64")


def test_an_architecture_that_is_none_is_one_line(tmp_path):
    with pytest.raises(UserError) as caught:
        lab_of(tmp_path, LAB.replace("s390x", "vax"))
    assert len(caught.value.details) == 1
    assert "lab.yaml:4:" in caught.value.details[0]


def test_kernels_of_two_architectures_are_two_kernels(tmp_path):
    (tmp_path / "tree").mkdir()
    context = BuildContext(Cache(tmp_path / "cache"), tmp_path)
    image = {"source": {"type": "debian-image", "package": "linux-image-{arch}", "suite": "trixie"}}
    asked = []

    class Apt:
        def __init__(self, cache, suite, mirror, arch, **_):
            asked.append(arch)

        def candidate(self, package):
            asked.append(package)
            return "1"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(debian_sources, "Apt", Apt)
        keys = {kernel_key(KernelRecipe.model_validate(image | {"arch": name}), context) for name in ("", *ARCHES)}
    assert len(keys) == len(ARCHES), "none named is the host's"
    assert {"linux-image-amd64", "linux-image-arm64", "linux-image-riscv64", "linux-image-s390x"} <= set(asked)
    assert {"amd64", "arm64", "riscv64", "s390x"} <= set(asked)


def test_a_suites_compilers_are_for_the_host_alone():
    recipe = {"source": {"type": "dir", "path": "x"}, "toolchain": "sid", "arch": "arm64"}
    with pytest.raises(ValueError, match="toolchain: a suite's compilers are for x86_64"):
        KernelRecipe.model_validate(recipe)


@pytest.mark.parametrize("name", OTHERS)
def test_make_gets_the_cross_compiler(name, tmp_path, monkeypatch):
    monkeypatch.setattr(make.confined, "build_fence", lambda *_, **__: dataclasses.replace(make.fence.tool(tmp_path)))
    context = dataclasses.replace(BuildContext(Cache(tmp_path / "cache"), tmp_path), arch=name)
    job = make.Job("k", tmp_path / "tree", tmp_path / "tree/obj", tmp_path / "work", context, "")
    assert f"CROSS_COMPILE={ARCHES[name].gnu}-" in job._make()
    assert context.program == f"{ARCHES[name].gnu}-gcc"


def test_tests_of_others_are_skipped_there_with_the_reason(tmp_path):
    recipe = KernelRecipe.model_validate({"source": {"type": "dir", "path": "x"}, "arch": "riscv64"})
    built = build_foreign(recipe, "kselftest/net", BuildContext(Cache(tmp_path), tmp_path))
    assert (built.outcome, built.reason) == (Outcome.SKIP, "tests of others are not built for riscv64")


@pytest.mark.parametrize("name", ["vmlinuz", "vmlinux"])
def test_an_image_is_found_by_either_name(name, tmp_path):
    unpacked, work, root = tmp_path / "unpacked", tmp_path / "work", tmp_path / "root"
    work.mkdir()
    labdir.write(unpacked / f"boot/{name}-6.12.1-riscv64", "image")
    labdir.write(unpacked / "boot/config-6.12.1-riscv64", "CONFIG_RISCV=y\n")
    labdir.write(unpacked / "usr/lib/modules/6.12.1-riscv64/modules.order", "")
    assert prebuilt.take(unpacked, "it", work, root) == "6.12.1-riscv64"
    assert sorted(path.name for path in work.iterdir()) == ["config", "vmlinuz"]


@pytest.mark.parametrize("name", ARCHES)
def test_object_files_are_read_by_their_own_binutils(name, tmp_path):
    file = tmp_path / "a.o"
    order = ">" if name == "s390x" else "<"
    file.write_bytes(
        b"\x7fELF\x02" + (b"\2" if order == ">" else b"\1") + bytes(10) + struct.pack(f"{order}HH", 1, ARCHES[name].elf)
    )
    assert arch.reads("nm", file) == f"{ARCHES[name].cross}nm"


def test_what_is_no_object_file_is_for_the_hosts_own(tmp_path):
    (tmp_path / "empty").touch()
    assert arch.reads("nm", tmp_path / "empty") == arch.reads("nm", tmp_path / "none") == "nm"


def test_other_architectures_are_emulated(tmp_path, monkeypatch):
    host = Host(Cache(tmp_path))
    monkeypatch.setattr(Host, "qemu", lambda self, arch=HOST: Qemu(Path(arch), (10,), (arch,)))
    shape = host.shape("arm64", "auto", 1, 64)
    assert (shape.accel, shape.qemu.argv, shape.mode) == ("tcg", ("arm64",), "time (TCG) on arm64")
    with pytest.raises(HostError, match="KVM runs no arm64 here"):
        host.shape("arm64", "kvm", 1, 64)


def test_what_compiles_for_another_architecture_is_named(monkeypatch):
    monkeypatch.setattr(packages, "_is_met", lambda need: False)
    assert [item.package for item in packages.missing(["s390x"])] == ["gcc-s390x-linux-gnu", "libc6-dev-s390x-cross"]


INSIDE = [sys.executable, "-I", "-S", str(Path(emulation.__file__).with_name("emulation_inside.py"))]
ENTRY = ":kpatchlab-test:M::#kpatchlab-test::/bin/cat:F"


def run_inside(*command):
    """Run a command where `ENTRY` is known."""
    done = subprocess.run([*INSIDE, ENTRY, "--", *command], capture_output=True, text=True, check=False)
    if done.stderr.startswith(("unshare:", "mount:")):
        pytest.skip(f"this host has no table of formats for a namespace: {done.stderr.strip()}")
    return done


def test_a_format_is_known_inside_alone(tmp_path):
    """The guard of the host: what is registered for a root's programs is registered nowhere else."""
    file = labdir.write(tmp_path / "program", "#kpatchlab-test\n", 0o755)
    done = run_inside(str(file))
    assert (done.returncode, done.stdout) == (0, "#kpatchlab-test\n"), done.stderr
    with pytest.raises(OSError, match="Exec format error"):
        subprocess.run([str(file)], check=False)
    assert not os.path.exists("/proc/sys/fs/binfmt_misc/kpatchlab-test")


@pytest.mark.parametrize(
    ("command", "status", "said"),
    [
        (["sh", "-c", "exit 7"], 7, ""),
        (["sh", "-c", "kill -9 $$"], 137, ""),
        (["no-such-program"], 1, "no-such-program: No such file or directory"),
    ],
)
def test_the_commands_status_is_told(command, status, said):
    done = run_inside(*command)
    assert (done.returncode, done.stderr.strip()) == (status, said)
