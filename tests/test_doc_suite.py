"""docs/add-a-suite.md: its suite and its scenario, laid out as the page says, in a lab of its own."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from build_fixtures import Bench
from doc_blocks import blocks

from kpatchlab.build import suites
from kpatchlab.build.foreign import build_foreign
from kpatchlab.evidence import printed
from kpatchlab.lab import load
from tests import labdir
from tests.test_doc_scenario import kpatchlab, lay_out

PAGE = "add-a-suite.md"
NAME = "pipes-suite"


def lay_out_suite(root, kernels):
    """Make a lab as `lay_out` does, with the page's suite and scenario; returns its file."""
    lay_out(root, kernels)
    for language in ("yaml", "c", "sh"):
        for block in blocks(PAGE, language):
            name, _, mode = block.place.partition(" (")
            if name:
                labdir.write(root / name, block.text, 0o755 if mode == "chmod +x)" else 0o644)
    return labdir.write(root / "lab.yaml", f"kernels: {kernels}\nscenarios: [{NAME}]\n")


@pytest.fixture
def bench(tmp_path, monkeypatch):
    made = Bench(tmp_path)
    shutil.rmtree(made.lab)
    lay_out_suite(made.lab, f"{{without: {{source: {{type: dir, path: {made.tree}}}}}}}")
    monkeypatch.setattr(suites, "_unpacked", lambda *_: Path("/"))
    return made


def test_the_page_is_sound(bench):
    assert kpatchlab(bench.lab / "lab.yaml", "check") == (0, "no errors\n", "")
    assert " pipes " in kpatchlab(bench.lab / "lab.yaml", "list", "suites")[1].replace("\n", " ")


@pytest.mark.parametrize(("broken", "outcome"), [("", "pass"), ("1", "fail")])
def test_its_suite_builds_passes_and_can_fail(bench, tmp_path, broken, outcome):
    built = build_foreign(bench.recipe(), "suites/pipes", bench.ctx)
    assert built.reason == ""
    programs = bench.ctx.cache.path("suite", built.key) / "programs"
    scenario = load.load(bench.lab / "lab.yaml").scenarios[NAME]
    script = (scenario.folder / "run.sh").read_text().replace("/lab/suites/pipes", str(programs))
    env = {**os.environ, "LAB_BREAK": broken}
    done = subprocess.run(["sh", "-c", script], env=env, capture_output=True, check=True)
    parsed = printed.read(scenario.roles["main"].prints, done.stdout, exit_status=0)
    assert [(case.name, str(case.outcome)) for case in parsed.cases] == [("word", outcome)]
    lost = printed.read(scenario.roles["main"].prints, b"# asked: more\n" + done.stdout, exit_status=0)
    assert [case.message for case in lost.cases if case.name == "more"] == ["it was to run, and has no result"]


@pytest.mark.guest
@pytest.mark.mirror
def test_it_runs_in_a_real_guest_and_can_fail(tmp_path):
    lab = lay_out_suite(tmp_path, "{with: debian-image-6.12}")
    status, out, err = kpatchlab(lab, "run", NAME)
    assert (status, "1 pass" in out.lower() or "pass" in out) == (0, True), out + err
    status, out, err = kpatchlab(lab, "run", "--break", NAME)
    assert (status, "broken on purpose: 1 of 1 jobs saw it" in out) == (0, True), out + err
