"""Test suites from source packages: what is built, and what is blamed on whom."""

from __future__ import annotations

import tarfile
from types import SimpleNamespace

import pytest
from build_fixtures import Bench

from kpatchlab.build import suites
from kpatchlab.build.built import Programs
from kpatchlab.build.foreign import build_foreign
from kpatchlab.errors import UserError
from kpatchlab.model import Outcome

LIB = 'const char *kcapi_word(void) { return "kcapi"; }\n'
MAIN = "#include <stdio.h>\nconst char *kcapi_word(void);\nint main(void)\n{\n\tputs(kcapi_word());\n\treturn 0;\n}\n"


@pytest.fixture
def bench(tmp_path, monkeypatch):
    made = Bench(tmp_path)
    made.files = {"lib/a.c": LIB, "test/kcapi-main.c": MAIN, "test/test.sh": "#!/bin/bash\n", "test/libtest.sh": "\n"}

    def fetch(package):
        if not made.files:
            raise UserError("Debian trixie has no source package libkcapi")
        for name, text in made.files.items():
            path = tmp_path / "libkcapi-9" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        with tarfile.open(tmp_path / f"{package}_9.orig.tar.xz", "w:xz") as archive:
            archive.add(tmp_path / "libkcapi-9", "libkcapi-9")
        return tmp_path / f"{package}_9.orig.tar.xz"

    monkeypatch.setattr(suites, "Apt", lambda *_, **__: SimpleNamespace(fetch_upstream=fetch))
    return made


def build(bench, name="libkcapi"):
    return build_foreign(bench.recipe(), f"suites/{name}", bench.ctx)


def test_libkcapi(bench):
    built = build(bench)
    assert (built.outcome, built.reason, built.cached) == (Outcome.PASS, "", False)
    assert sorted(path.name for path in (bench.ctx.cache.path("suite", built.key) / "programs").iterdir()) == [
        "kcapi",
        "libtest.sh",
        "test.sh",
    ]


def test_what_is_cached_is_not_built_again(bench, tmp_path, monkeypatch):
    first = build(bench)
    monkeypatch.setattr(suites, "Apt", lambda *_, **__: SimpleNamespace(fetch_upstream=lambda _: archive))
    archive = tmp_path / "libkcapi_9.orig.tar.xz"
    assert build(bench) == Programs(Outcome.PASS, "suite", first.key, cached=True)


def test_what_does_not_compile_blocks(bench):
    bench.files["lib/a.c"] = "nonsense\n"
    built = build(bench)
    assert built.outcome is Outcome.BLOCKED
    assert built.reason.startswith("libkcapi does not build: lib/a.c:1: ")


def test_what_is_not_there_is_skipped(bench):
    bench.files = {}
    assert build(bench) == Programs(Outcome.SKIP, reason="Debian trixie has no source package libkcapi")
    assert build(bench, "ltp").reason == "there is no suite ltp; there are libkcapi"
