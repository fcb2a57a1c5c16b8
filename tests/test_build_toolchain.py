"""Kernels that are built with the compiler and the tools of a Debian suite: what is asked, where it runs, the keys."""

from __future__ import annotations

import pytest
from build_fixtures import Bench
from pydantic import ValidationError

from kpatchlab.build import build_kernel, kernel_key, roots, toolchain
from kpatchlab.errors import UserError
from kpatchlab.fence import Fence
from kpatchlab.model import Outcome

VERSIONS = {"gcc": "4:14.2.0-1", "gcc-14": "14.2.0-19", "gcc-16": "16.1.0-2", "binutils": "2.44-3"}


class Apt:
    """A suite's packages."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def candidate(self, package: str) -> str:
        if package not in VERSIONS:
            raise UserError(f"Debian sid has no package {package}")
        return VERSIONS[package]

    def resolve(self, *packages: str) -> list[str]:
        return ["gcc-14", "gcc-14-x86-64-linux-gnu", *packages]


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """Roots are the host's own system, and say with what they were asked for."""
    made = Bench(tmp_path)
    made.filled = []

    def fill(recipe, ctx, out):
        made.filled.append(recipe)
        (out / roots.IMAGE).touch()

    monkeypatch.setattr(toolchain, "Apt", Apt)
    monkeypatch.setattr(roots, "fill", fill)
    monkeypatch.setattr(roots, "extract", lambda image, into, ctx: into.symlink_to("/"))
    return made


def test_a_kernel_is_built_in_a_root_of_the_suite(bench, monkeypatch):
    seen = []
    run = Fence.run
    monkeypatch.setattr(Fence, "run", lambda self, *words, **more: seen.append(self.root) or run(self, *words, **more))
    built = build_kernel(bench.recipe(toolchain="sid"), "k", bench.ctx)
    assert (built.outcome, built.error) == (Outcome.PASS, "")
    assert built.compiler == "gcc-14 14.2.0-19; binutils 2.44-3 (Debian sid)"
    assert built.reproduce.startswith("in a root of Debian sid with gcc: ")
    assert any(root is not None for root in seen)
    (asked,) = bench.filled  # one root for all that is built with it
    assert (asked.suite, set(asked.packages)) == ("sid", set(toolchain.PACKAGES))


def test_the_compiler_is_in_the_root_and_in_the_key(bench, monkeypatch):
    keys = {
        kernel_key(bench.recipe(**more), bench.ctx)
        for more in ({}, {"toolchain": "sid"}, {"toolchain": "trixie"}, {"toolchain": "sid", "compiler": "gcc-16"})
    }
    assert len(keys) == 4
    before = kernel_key(bench.recipe(toolchain="sid"), bench.ctx)
    ctx = bench.ctx.compiling(bench.recipe(toolchain="sid", compiler="gcc-16"))
    assert toolchain.system(ctx).name == "system"
    assert "gcc-16" in bench.filled[-1].packages
    monkeypatch.setitem(VERSIONS, "binutils", "2.45-1")  # the suite has moved
    toolchain._versions.cache_clear()  # and the lab is called anew
    assert kernel_key(bench.recipe(toolchain="sid"), bench.ctx) != before
    toolchain.system(ctx)
    assert len(bench.filled) == 2


def test_without_a_suite_it_is_the_hosts(bench):
    assert toolchain.system(bench.ctx) is None
    assert toolchain.described(bench.recipe(), bench.ctx) == toolchain.of_host(bench.ctx.arch)


def test_nobody_enters_the_root_of_a_toolchain(bench):
    found = toolchain.system(bench.ctx.compiling(bench.recipe(toolchain="sid")))
    assert found.parent.stat().st_mode & 0o777 == 0o700
    assert not (found.parent / "image" / roots.IMAGE).exists()


def test_a_compiler_that_the_suite_lacks(bench):
    with pytest.raises(UserError, match="Debian sid has no package gcc-99"):
        kernel_key(bench.recipe(toolchain="sid", compiler="gcc-99"), bench.ctx)


@pytest.mark.parametrize("name", ["../x", "-x", "a b"])
def test_names_that_are_no_suite(bench, name):
    with pytest.raises(ValidationError):
        bench.recipe(toolchain=name)


def test_what_is_built_already_has_no_toolchain(bench):
    source = {"type": "debian-image", "package": "linux-image-amd64", "suite": "sid"}
    with pytest.raises(ValidationError, match="takes no toolchain"):
        bench.recipe(source=source, config=[], toolchain="sid")
