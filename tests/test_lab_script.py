"""`lab`, the program of a clone: which verb it takes for itself, and what it hands over."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent.parent


@pytest.fixture
def lab(tmp_path):
    """Return a function that calls `lab` in a copy of the clone whose Python only says what it was called with."""
    clone = tmp_path / "a clone"
    shutil.copytree(PROJECT / "lock", clone / "lock")
    shutil.copytree(PROJECT / "bench", clone / "bench", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("lab", "pyproject.toml"):
        shutil.copy(PROJECT / name, clone)
    program = clone / ".venv/bin/python"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\nprintf '%s\\n' \"$*\"\n")
    program.chmod(0o755)
    for stamp, locked in ((".kpatchlab-stamp", "lab"), (".kpatchlab-tests-stamp", "tests")):
        parts = [
            (clone / name).read_text() for name in ("pyproject.toml", "lab", f"lock/{locked}.txt", "lock/build.txt")
        ]
        (clone / ".venv" / stamp).write_text("".join(parts) + f"{clone}\n")

    def call(*words):
        env = {name: value for name, value in os.environ.items() if not name.startswith("KPATCHLAB")}
        done = subprocess.run([clone / "lab", *words], capture_output=True, text=True, check=False, env=env)
        return done.returncode, done.stdout.splitlines(), done.stderr

    call.clone = clone
    return call


@pytest.mark.parametrize(
    ("words", "handed"),
    [
        (["check"], "-m kpatchlab check"),
        (["--lab", "quick.yaml", "run", "test"], "-m kpatchlab --lab quick.yaml run test"),
        (["--lab", "test", "check"], "-m kpatchlab --lab test check"),
        (["--hosts", "test", "check"], "-m kpatchlab --hosts test check"),
        (["--lab=test", "-v", "check"], "-m kpatchlab --lab=test -v check"),
        (["run", "test"], "-m kpatchlab run test"),
        ([], "-m kpatchlab"),
        (["--lab"], "-m kpatchlab --lab"),
        (["test", "tests/test_plan.py", "-k", "pairs"], "-m pytest tests/test_plan.py -k pairs"),
        (["--lab", "quick.yaml", "test", "-x"], "-m pytest -x"),
        (["--lab", "test", "test", "-x"], "-m pytest -x"),
        (["--no-install", "--lab=x", "test", "-x"], "-m pytest -x"),
    ],
)
def test_the_verb_is_the_first_word_that_is_no_option_and_no_lab_file(lab, words, handed):
    status, out, err = lab(*words)
    assert (status, out[-1]) == (0, handed), err


def test_benchmarks_behind_a_lab_file(lab):
    status, out, err = lab("--lab", "bench", "bench", "history", "x")
    assert status == 0, err
    assert out[-1].endswith("/bench/history.py x")
    status, _, err = lab("--lab", "bench", "bench", "nothing")
    assert (status, err.splitlines()[0]) == (3, "lab: no such benchmark: nothing")


EACH = "-n auto --durations=25 --durations-min=20"
"""What pytest is told in every tier."""


@pytest.mark.parametrize(
    ("words", "needs", "handed"),
    [
        (["test"], "all", EACH),
        (["test", "--quick"], "quick", f"{EACH} --quick"),
        (["test", "--quick", "--", "-k", "pairs"], "quick", f"{EACH} --quick -k pairs"),
        (["test", "--long"], "all", f"{EACH} --long"),
        (["test", "-k", "pairs"], "all", "-k pairs"),
    ],
)
def test_each_tier_asks_the_host_for_what_it_needs(lab, words, needs, handed):
    for before, fix in ((), " --install"), (("--no-install",), ""):
        status, out, err = lab(*before, *words)
        assert (status, out) == (0, [f"-m pytest {handed}"])
        assert err == f"-m kpatchlab doctor --packages --tests {needs}{fix}\n"


def test_another_lock_of_the_tests_is_installed_once(lab):
    with (lab.clone / "lock/tests.txt").open("a") as lock:
        lock.write("# another one\n")
    assert "pip" not in "".join(map(str, lab("--version")))
    assert "--require-hashes -r lock/tests.txt" in lab("test")[2]
    assert "pip" not in lab("test")[2]


SYSTEM = f"""\
#!/bin/sh
# The system's Python: what it is asked of itself it says, and the environment that it makes is as the fixture's.
case "$1 $2" in
"-m venv") echo "made anew" >&2; rm -rf "$4"; mkdir -p "$4/bin"; cp "$0" "$4/bin/python"; exit ;;
-m*) printf '%s\\n' "$*"; exit ;;
esac
exec {sys.executable} "$@"
"""


@pytest.fixture
def outdated(lab, monkeypatch, tmp_path):
    """Return a clone whose environment is sound, and was made before pyproject.toml changed."""
    system = tmp_path / "bin/python3"
    system.parent.mkdir()
    system.write_text(SYSTEM)
    system.chmod(0o755)
    monkeypatch.setenv("PATH", f"{system.parent}:{os.environ['PATH']}")
    python = lab.clone / ".venv/bin/python"
    python.write_text(f'#!/bin/sh\ncase $1 in -c) exec {sys.executable} "$@" ;; esac\nprintf \'%s\\n\' "$*"\n')
    with (lab.clone / "pyproject.toml").open("a") as file:
        file.write("# another one\n")
    (lab.clone / ".venv/theirs").touch()
    return lab


PIP = ["--require-hashes -r lock/lab.txt", "--no-deps --editable ."]


def test_an_environment_that_is_sound_is_brought_up_to_date_in_place(outdated):
    status, out, err = outdated("check")
    assert (status, out) == (0, ["-m kpatchlab check"])
    assert "made anew" not in err
    assert [line.partition("--use-pep517 ")[2] for line in err.splitlines() if "pip install" in line] == PIP
    assert (outdated.clone / ".venv/theirs").exists()
    assert "pip" not in outdated("check")[2]
    assert "--require-hashes -r lock/tests.txt" in outdated("test")[2], "what is new may not be what the tests have"


@pytest.mark.parametrize("broken", ["gone", "no pip", "another Python", "none of its own"])
def test_an_environment_that_is_not_sound_is_made_anew(outdated, broken):
    python = outdated.clone / ".venv/bin/python"
    if broken == "gone":
        python.unlink()
        python.symlink_to("/no/such/python")
    else:
        said = {"no pip": "exit 1", "another Python": "echo True 3 9; exit", "none of its own": "echo False 3 11; exit"}
        python.write_text(f"#!/bin/sh\ncase $1 in -c) {said[broken]} ;; esac\n")
    status, out, err = outdated("check")
    assert (status, out) == (0, ["-m kpatchlab check"]), err
    assert "made anew" in err
    assert [line.partition("--use-pep517 ")[2] for line in err.splitlines() if "pip install" in line] == PIP


def test_an_update_that_fails_is_tried_again(outdated):
    python = outdated.clone / ".venv/bin/python"
    good = python.read_text()
    python.write_text(good + "exit 1\n")
    assert outdated("check")[0] == 3
    python.write_text(good)
    pyproject = outdated.clone / "pyproject.toml"
    pyproject.write_text(pyproject.read_text().removesuffix("# another one\n"))
    assert "pip install" in outdated("check")[2], "what it was made of before is no longer in it"


def test_help_names_what_a_clone_has_beside_the_verbs(lab):
    for words in (["--help"], ["--lab", "x.yaml", "-h"]):
        status, out, err = lab(*words)
        assert (status, out[0], err) == (0, f"-m kpatchlab {' '.join(words)}", "")
        assert out[1:3] == ["", "In a clone:"]
        assert [line.split()[0] for line in out[3:]] == ["test", "bench"]
    assert lab("run", "--help")[1] == ["-m kpatchlab run --help"]


@pytest.mark.parametrize("words", [["test", "--help"], ["test", "--quick", "-h"], ["--lab", "x", "bench", "--help"]])
def test_help_of_what_a_clone_has_makes_and_installs_nothing(lab, words):
    shutil.rmtree(lab.clone / ".venv")
    status, out, err = lab(*words)
    assert (status, err) == (0, "")
    assert out[0].startswith(f"Usage: ./lab {'test' if 'test' in words else 'bench'} ")
    assert not (lab.clone / ".venv").exists()


def test_help_of_pytest_and_of_a_benchmark_is_theirs(lab):
    assert lab("test", "--quick", "--", "--help")[1] == [f"-m pytest {EACH} --quick --help"]
    assert lab("bench", "history", "--help")[1][-1].endswith("/bench/history.py --help")


def test_help_names_every_tier_and_every_benchmark(lab):
    text = "\n".join(lab("test", "--help")[1])
    assert re.findall(r"^  (--\w+)  ", text, re.MULTILINE) == ["--quick", "--long"]
    names = {path.stem for path in (PROJECT / "bench").glob("*.py")}
    assert set(lab("bench", "--help")[1][-1].removeprefix("  Names:").split()) == names
