"""docs/add-a-source-type.md: its types, put into a copy of the program, are sources and a kind of series."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from build_fixtures import Bench
from doc_blocks import ROOT, blocks

from tests import labdir

PAGE = "add-a-source-type.md"
BEFORE = {"before the unions": "\nSource = Annotated[", "before SOURCES": "\nSOURCES: ", "before SERIES": "\nSERIES: "}
LAB = """\
title: three types
kernels:
  without: {source: {type: git-archive, remote: REPO, revision: v1}, config: [config/guest.config]}
  with:
    source: {type: git-archive, remote: REPO, revision: v1}
    series: [{type: mbox-url, url: "file://MBOX"}]
    config: [config/guest.config]
  mine: {source: {type: installed, path: INSTALLED}}
scenarios: [solo]
"""
BUILD = """
import pathlib, sys
from kpatchlab.build import BuildContext, build_kernel, kernel_key
from kpatchlab.build.patchset import read_series
from kpatchlab.build.source import source_of
from kpatchlab.cache import Cache
from kpatchlab.lab import load
lab = load.load(pathlib.Path("lab.yaml").absolute())
ctx = BuildContext.of(lab, Cache())
tree = pathlib.Path("work/tree").absolute()
tree.mkdir(parents=True)
origin = source_of(lab.kernels["with"].source, ctx)
origin.unpack(tree)
print(origin.describe())
print([patch.subject for patch in read_series(lab.kernels["with"].series, ctx)])
built = build_kernel(lab.kernels["mine"], "mine", ctx)
print(built.outcome, built.release, built.base)
assert ctx.cache.has("kernel", kernel_key(lab.kernels["mine"], ctx))
"""


def put(text, code, where):
    """Return a module's text with a block of code where the page says that it goes."""
    if where in BEFORE:
        head, tail = text.split(BEFORE[where])
        return f"{head}\n\n{code}\n\n{BEFORE[where]}{tail}"
    name = where.removeprefix("in ")
    if name.isupper():  # a table: the rows go to its end
        head, tail = text.split(f"\n{name}: ")
        return f"{head}\n{name}: {tail.replace('}', code + '}', 1)}"
    (line,) = (line for line in text.splitlines() if line.startswith(f"{name} = Annotated["))
    last = code.split(" | ")[0]
    assert line.count(last) == 1
    return text.replace(line, line.replace(last, code.strip()))


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """Return a copy of the program in which the page's blocks are where they say."""
    folder = tmp_path_factory.mktemp("copy")
    shutil.copytree(ROOT / "kpatchlab", folder / "kpatchlab", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    for block in blocks(PAGE, "python"):
        name, _, where = block.place.partition(", ")
        (folder / name).write_text(put((folder / name).read_text(), block.text, where))
    return folder


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Return a lab with a kernel of each type, everything on this host."""
    root = tmp_path_factory.mktemp("lab")
    bench = Bench(root / "bench")
    bench.repository()
    bench.git("tag", "v1")
    bench.sub("core/net.c", "return -1", "return -22")
    bench.git("commit", "-qam", "net: refuse with EINVAL")
    (root / "series.mbox").write_text(bench.git("format-patch", "--stdout", "HEAD~1..HEAD") + "\n")
    labdir.make(root)
    labdir.write(root / "kernels/config/debug.config", "CONFIG_KASAN=y\n")
    for name in ("boot/vmlinuz-6.1.0", "boot/config-6.1.0", "lib/modules/6.1.0/modules.builtin"):
        labdir.write(root / "installed" / name, "")
    text = LAB.replace("REPO", bench.tree.as_uri()).replace("MBOX", str(root / "series.mbox"))
    labdir.write(root / "lab.yaml", text.replace("INSTALLED", str(root / "installed")))
    return root


def in_copy(copy, lab, *argv, status=0):
    """Run the copy's Python in the lab; returns what it says."""
    done = subprocess.run(
        [sys.executable, *argv], capture_output=True, text=True, check=False, cwd=lab,
        env={**os.environ, "PYTHONPATH": str(copy), "KPATCHLAB_CACHE": str(lab / "cache")},
    )  # fmt: skip
    assert done.returncode == status, done.stderr
    return done.stdout + done.stderr


def test_the_files_are_read_with_them(copy, lab):
    assert in_copy(copy, lab, "-m", "kpatchlab", "check") == "no errors\n"
    wrong = labdir.write(lab / "wrong.yaml", (lab / "lab.yaml").read_text().replace("revision: v1", "revison: v1", 1))
    said = in_copy(copy, lab, "-m", "kpatchlab", "--lab", str(wrong), "check", status=2)
    assert "wrong.yaml:3: kernels.without.source.revison: there is no such key; did you mean 'revision'?" in said
    text = (lab / "lab.yaml").read_text().replace("/installed}}", "/gone}, config: [config/guest.config]}")
    labdir.write(wrong, text)
    said = in_copy(copy, lab, "-m", "kpatchlab", "--lab", str(wrong), "check", status=2)
    assert "a installed is not built here: it takes no config" in said


def test_a_finished_kernel_is_known_as_one_everywhere(copy, lab):
    plan = json.loads(in_copy(copy, lab, "-m", "kpatchlab", "plan", "--json"))
    seconds = {step["id"]: step["seconds"] for step in plan["steps"]}
    assert seconds["kernel:mine"] < seconds["kernel:with"] / 4
    said = in_copy(copy, lab, "-m", "kpatchlab", "plan", "--variant", "debug", status=2)
    assert "kernel mine is built already" in said
    said = in_copy(copy, lab, "-m", "kpatchlab", "series", "mine", status=2)
    assert "kernel mine is built already: there is nothing to look at patch by patch" in said
    said = in_copy(copy, lab, "-m", "kpatchlab", "bisect", "--kernel", "mine", "--tree", str(lab / "bench/linux"),
                   "--good", "v1", "--bad", "main", "--build", status=2)  # fmt: skip
    assert "kernel mine is built already" in said


def test_trees_patches_and_finished_kernels_come(copy, lab):
    told, subjects, built = in_copy(copy, lab, "-c", BUILD).splitlines()
    assert told.startswith(f"{(lab / 'bench/linux').as_uri()} v1 (")
    assert subjects == "['net: refuse with EINVAL']"
    assert (lab / "work/tree/core/net.c").read_text() == (ROOT / "tests/fake_linux/core/net.c").read_text()
    assert built.startswith("pass 6.1.0 ")


def test_they_keep_the_rules_of_the_house(copy, lab):
    in_copy(copy, copy, "-m", "ruff", "format", "--no-cache", "kpatchlab")
    in_copy(copy, copy, "-m", "ruff", "check", "--no-cache", "kpatchlab")
