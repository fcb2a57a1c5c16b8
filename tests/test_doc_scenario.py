"""docs/write-a-scenario.md: its first scenario, laid out as the page says, in a lab of its own."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from doc_blocks import ROOT, blocks

from kpatchlab.lab import load
from tests import labdir, test_scenarios_all

PAGE = "write-a-scenario.md"
NAME = "my-test"


def lay_out(root, kernels):
    """Make a lab with the project's recipes, roots and scenarios, its own kernels, and the page's scenario."""
    for name in ("kernels", "rootfs", "suites", "scenarios"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    for block in (*blocks(PAGE, "yaml")[:1], *blocks(PAGE, "sh")[1:2]):
        name, _, mode = block.place.partition(" (")
        labdir.write(root / name, block.text, 0o755 if mode == "chmod +x)" else 0o644)
    return labdir.write(root / "lab.yaml", f"kernels: {kernels}\nscenarios: [{NAME}]\n")


@pytest.fixture
def lab(tmp_path):
    """Return a lab whose kernels are of a tree on this host."""
    source = f"{{source: {{type: dir, path: {ROOT / 'tests/fake_linux'}}}}}"
    return lay_out(tmp_path, f"{{without: {source}, with: {source}}}")


def kpatchlab(lab, *words):
    """Call the program in a lab; returns its status and what it says."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "kpatchlab", *words],
        cwd=lab.parent,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_the_first_scenario_is_sound_and_keeps_the_rules_of_the_projects_own(lab):
    assert kpatchlab(lab, "check") == (0, "no errors\n", "")
    scenario = load.load(lab).scenarios[NAME]
    test_scenarios_all.test_every_scenario_says_what_it_is_about(scenario)
    test_scenarios_all.test_reach_asks_for_something_on_both_sides_of_the_series(scenario)


def test_the_first_scenario_is_planned_on_every_kernel(lab):
    status, out, err = kpatchlab(lab, "plan", NAME, "--json")
    assert status == 0, err
    assert [job["column"] for job in json.loads(out)["jobs"]] == ["without", "with"]
    assert kpatchlab(lab, "plan", "--touching", "fs/pipe.c", "--json")[0] == 0


@pytest.mark.parametrize(("broken", "verdict"), [("", "ok"), ("1", "not ok")])
def test_its_script_passes_and_can_fail(lab, broken, verdict):
    folder = lab.parent / "scenarios" / NAME
    env = {**os.environ, "LAB_LIB": str(lab.parent / "scenarios/lib"), "LAB_BREAK": broken}
    done = subprocess.run([folder / "run.sh"], cwd=folder, env=env, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == f"{verdict} 1 - 1 MiB through a pipe"


def test_its_commands_are_those_of_the_walk(lab, monkeypatch):
    made, checked, *others = (line.split("#")[0].split() for line in blocks(PAGE, "sh")[0].text.splitlines())
    shutil.rmtree(lab.parent / "scenarios" / NAME)
    assert made[0] == checked[0] == "./lab"
    status, out, err = kpatchlab(lab, *made[1:])
    assert status == 0, err
    assert "run --break my-test" in out
    assert kpatchlab(lab, *checked[1:])[:2] == (0, "no errors\n")
    assert [[word for word in words if word in {"run", "shell"}] for words in others] == [["run"]] * 3 + [["shell"]]


@pytest.mark.guest
@pytest.mark.mirror
def test_the_first_scenario_runs_in_a_real_guest_and_can_fail(tmp_path):
    lab = lay_out(tmp_path, "{with: debian-image-6.12}")
    status, out, err = kpatchlab(lab, "run", NAME)
    assert status == 0, out + err
    status, out, err = kpatchlab(lab, "run", "--break", NAME)
    assert (status, "broken on purpose: 1 of 1 jobs saw it" in out) == (0, True), out + err
