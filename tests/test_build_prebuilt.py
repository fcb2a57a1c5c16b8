"""Kernels that Debian built, in both forms of its packages: all in linux-image-V, and split from forky on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from kpatchlab import proc
from kpatchlab.build import build_kernel, debian_sources, prebuilt, source
from kpatchlab.errors import HostError
from kpatchlab.lab.recipes import KernelRecipe
from kpatchlab.model import Outcome
from tests.build_fixtures import Bench

PLACEHOLDER = "ffffffffffffffff B The real System.map is in the linux-image-7.9.1-amd64-dbg package\n"
CONFIG = 'CONFIG_CC_VERSION_TEXT="gcc-16 (Debian 16.2.0-4) 16.2.0"\nCONFIG_NET=y\n'
RELEASE = "7.9.1-amd64"
OLD = {
    f"linux-image-{RELEASE}": {
        f"boot/vmlinuz-{RELEASE}": "image",
        f"boot/config-{RELEASE}": CONFIG,
        f"boot/System.map-{RELEASE}": PLACEHOLDER,
        f"lib/modules/{RELEASE}/kernel/net/tls.ko": "",
        f"lib/modules/{RELEASE}/modules.builtin": "kernel/net/unix.ko\n",
    },
}
SPLIT = {
    f"linux-image-{RELEASE}": {f"usr/share/doc/linux-image-{RELEASE}/copyright": "none"},
    f"linux-binary-{RELEASE}": {f"usr/lib/modules/{RELEASE}/vmlinuz": "image"},
    f"linux-modules-{RELEASE}": {f"usr/lib/modules/{RELEASE}/kernel/net/tls.ko": ""},
    f"linux-base-{RELEASE}": {
        f"usr/lib/modules/{RELEASE}/config": CONFIG,
        f"usr/lib/modules/{RELEASE}/System.map": PLACEHOLDER,
        f"usr/lib/modules/{RELEASE}/modules.builtin": "kernel/net/unix.ko\n",
    },
}
OTHERS = ["dracut", "kmod", "linux-base", "linux-base-amd64", "linux-sysctl-defaults"]


class Apt:
    """An archive of packages: name -> file -> what is in it."""

    def __init__(self, packages: dict[str, dict[str, str]]) -> None:
        self.packages = packages

    def __call__(self, *_words: object, **_settings: object) -> Apt:
        return self

    def candidate(self, _package: str) -> str:
        return "7.9.1-1"

    def resolve(self, package: str) -> list[str]:
        return sorted([*OTHERS, package, *self.packages])

    def fetch(self, packages: list[str]) -> list[Path]:
        return [Path(f"{package}_7.9.1-1_amd64.deb") for package in packages]

    def unpack(self, deb: Path, into: Path) -> None:
        for name, text in self.packages[deb.name.partition("_")[0]].items():
            (into / name).parent.mkdir(parents=True, exist_ok=True)
            (into / name).write_text(text)


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def built(bench, monkeypatch, packages, package="linux-image-amd64"):
    monkeypatch.setattr(debian_sources, "Apt", Apt(packages))
    recipe = {"source": {"type": "debian-image", "package": package, "suite": "sid"}}
    result = build_kernel(KernelRecipe.model_validate(recipe), "new", bench.ctx)
    return result, bench.ctx.cache.path("kernel", result.key)


def changed(packages, **files):
    """Return the packages with other files in linux-base, None for one that is left out."""
    base = f"linux-base-{RELEASE}"
    merged = packages[base] | {f"usr/lib/modules/{RELEASE}/{name}": text for name, text in files.items()}
    return packages | {base: {name: text for name, text in merged.items() if text is not None}}


@pytest.mark.parametrize("packages", [OLD, SPLIT], ids=["one package", "split"])
@pytest.mark.parametrize("package", ["linux-image-amd64", f"linux-image-{RELEASE}"])
def test_the_kernel_is_found_in_both_forms(bench, monkeypatch, packages, package):
    result, folder = built(bench, monkeypatch, packages, package)
    assert (result.outcome, result.release) == (Outcome.PASS, RELEASE)
    assert (folder / "vmlinuz").read_text() == "image"
    assert (folder / "config").read_text() == CONFIG
    assert "kernel/net/tls.ko" in (folder / "modules.dep").read_text()
    assert (folder / "modules.builtin").read_text() == "kernel/net/unix.ko\n"
    assert not (folder / "System.map").exists()
    assert result.compiler == "gcc-16 (Debian 16.2.0-4) 16.2.0"
    assert result.reproduce == f"apt-get download {' '.join(sorted(packages))}"


@pytest.mark.skipif(not shutil.which("dump.erofs", path="/usr/bin:/usr/sbin:/bin:/sbin"), reason="no dump.erofs")
def test_the_image_is_no_part_of_the_modules(bench, monkeypatch):
    _, folder = built(bench, monkeypatch, SPLIT)
    listed = proc.run(["/usr/bin/dump.erofs", "--ls", f"--path=/{RELEASE}", folder / "modules.erofs"], timeout_s=60)
    assert "modules.dep" in listed.stdout
    assert not {"vmlinuz", "config", "System.map"} & set(listed.stdout.split())


def test_a_real_system_map_is_kept(bench, monkeypatch):
    real = "ffffffff81000000 T _text\n"
    _, folder = built(bench, monkeypatch, changed(SPLIT, **{"System.map": real}))
    assert (folder / "System.map").read_text() == real


def test_a_kernel_that_was_kept_without_its_compiler_has_it(bench, monkeypatch):
    with monkeypatch.context() as before:
        before.setattr(prebuilt, "compiler", lambda _config: "")
        assert not built(bench, before, OLD)[0].compiler
    result, _ = built(bench, monkeypatch, OLD)
    assert (result.cached, result.compiler) == (True, "gcc-16 (Debian 16.2.0-4) 16.2.0")


def test_the_newest_source_is_followed(bench, monkeypatch):
    packed = bench.root / "linux.tar.gz"
    proc.run(["tar", "--create", "--gzip", "--file", packed, "--directory", bench.root, "linux"], timeout_s=60)

    class Sources(Apt):
        def resolve(self, package: str) -> list[str]:
            return ["binutils", package, "linux-source-7.9", "xz-utils"]

        def unpack(self, deb: Path, into: Path) -> None:
            assert deb.name.startswith("linux-source")
            (into / "usr/src").mkdir(parents=True, exist_ok=True)
            if "7.9" in deb.name:
                shutil.copyfile(packed, into / "usr/src/linux-source-7.9.tar.gz")

    monkeypatch.setattr(debian_sources, "Apt", Sources({}))
    for package in ("linux-source", "linux-source-7.9"):
        into = bench.root / package / "tree"
        into.mkdir(parents=True)
        recipe = {"source": {"type": "debian-source", "package": package, "suite": "sid"}}
        source.source_of(KernelRecipe.model_validate(recipe).source, bench.ctx).unpack(into)
        assert (into / "Makefile").is_file()


@pytest.mark.parametrize(
    ("packages", "gone", "complaint"),
    [
        (SPLIT, "vmlinuz", "no kernel image in it"),
        (OLD, "vmlinuz", "no kernel image in it"),
        (OLD, "modules", "no modules of 7.9.1-amd64 in it"),
    ],
)
def test_a_part_that_is_missing_is_told(bench, monkeypatch, packages, gone, complaint):
    left = {name: {path: text for path, text in files.items() if gone not in path} for name, files in packages.items()}
    with pytest.raises(HostError, match=complaint):
        built(bench, monkeypatch, left)
