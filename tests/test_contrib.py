"""What is ready to use for CI systems: valid by linters and schemas of their own, with steps that are verbs here."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from kpatchlab.cli.main import Verbs

CONTRIB = Path(__file__).parents[1] / "contrib"


def run(*words):
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("schema", "name"),
    [("vendor.github-workflows", "github/nightly.yml"), ("vendor.gitlab-ci", "gitlab/gitlab-ci.yml")],
)
def test_schema(schema, name):
    pytest.importorskip("check_jsonschema")
    words = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema]
    if "gitlab" in schema:
        words += ["--data-transform", "gitlab-ci"]
    run(*words, CONTRIB / name)


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze")
def test_systemd(tmp_path):
    for path in (CONTRIB / "systemd").iterdir():
        text = path.read_text().replace("%h/kpatchlab/lab", "/bin/true").replace("%h", str(tmp_path))
        (tmp_path / path.name).write_text(text)
    (tmp_path / "kpatchlab").mkdir()
    run("systemd-analyze", "verify", "--man=no", *sorted(tmp_path.glob("kpatchlab-*.*")))


def commands():
    for name in ("github/nightly.yml", "gitlab/gitlab-ci.yml"):
        whole = yaml.safe_load((CONTRIB / name).read_text())
        for job in whole.get("jobs", {"nightly": whole.get("nightly")}).values():
            yield from (step["run"] for step in job.get("steps", ()) if "run" in step)
            yield from (line for key in ("before_script", "script", "after_script") for line in job.get(key, ()))
    yield from re.findall(r"sh(?:\(script:)? '([^']*)'", (CONTRIB / "jenkins/Jenkinsfile").read_text())


def test_steps_parse_and_name_verbs_that_there_are():
    found = list(commands())
    assert len(found) >= 8
    for command in found:
        run("sh", "-n", "-c", command)
    verbs = {verb for command in found for verb in re.findall(r"\./lab (?:--\S+ )*(\w+)", command)}
    assert verbs == {"nightly"}
    assert verbs <= set(Verbs.ORDER)


def test_the_kvm_check_runs_and_says_which(tmp_path):
    whole = yaml.safe_load((CONTRIB / "github/nightly.yml").read_text())
    (step,) = [step for step in whole["jobs"]["nightly"]["steps"] if step.get("id") == "kvm"]
    out = tmp_path / "out"
    subprocess.run(
        ["sh", "-e", "-c", step["run"]], check=True, env={"GITHUB_OUTPUT": str(out), "PATH": "/usr/bin:/bin"}
    )
    assert out.read_text() in {"accel=kvm\n", "accel=tcg\n"}
