"""The lock: whole, with hashes, and never older than what pyproject.toml asks for."""

import ast
import importlib.metadata
import re
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((PROJECT / "pyproject.toml").read_text())
ASKED = {
    "build": PYPROJECT["dependency-groups"]["build"],
    "lab": PYPROJECT["project"]["dependencies"],
    "tests": [*PYPROJECT["project"]["dependencies"], *PYPROJECT["dependency-groups"]["tests"]],
}
PIN = re.compile(
    r"^([\w.-]+)==([\w.]+)(?: ; ([^\\]+?))?( \\(?:\n +--hash=sha256:[0-9a-f]{64}(?: \\)?)+)?$", re.MULTILINE
)


def pins(name):
    """Return each package of a lock with (release, marker, whether there are hashes); one may be there twice."""
    found = {}
    for package, release, marker, hashes in PIN.findall((PROJECT / f"lock/{name}.txt").read_text()):
        found.setdefault(package, []).append((release, marker, bool(hashes)))
    return found


@pytest.mark.parametrize("name", ASKED)
def test_what_is_asked_for_is_in_the_lock_and_new_enough(name):
    locked = pins(name)
    for asked in map(Requirement, ASKED[name]):
        releases = [release for release, _, _ in locked.get(canonicalize_name(asked.name), [])]
        assert releases, f"{asked} is not in lock/{name}.txt: tox run -e lock"
        assert all(release in asked.specifier for release in releases), f"{asked}: the lock has {releases}"


@pytest.mark.parametrize("name", ASKED)
def test_a_lock_has_pins_alone_and_names_no_host(name):
    text = (PROJECT / f"lock/{name}.txt").read_text()
    rest = PIN.sub("", text)
    assert [line for line in rest.splitlines() if line and not line.startswith("#")] == []
    assert "//" not in text
    if name != "build":  # pip's own build environments take no hashes
        assert all(hashed for every in pins(name).values() for _, _, hashed in every)


def test_the_tests_run_on_what_users_get_and_no_lock_contradicts_another():
    lab, tests, build = pins("lab"), pins("tests"), pins("build")
    assert {name: tests.get(name) for name in lab} == lab
    both = tests.keys() & build.keys()
    assert {name: tests[name][0][0] for name in both} == {name: build[name][0][0] for name in both}


def test_what_is_imported_is_asked_for():
    """A package that only another one, or the tests, bring would be missing one day."""
    asked = {canonicalize_name(Requirement(text).name) for text in ASKED["lab"]}
    providers = importlib.metadata.packages_distributions()
    for path in sorted((PROJECT / "kpatchlab").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            names += [name.name for name in node.names] if isinstance(node, ast.Import) else []
            for top in {name.split(".")[0] for name in names} - {"kpatchlab"} - sys.stdlib_module_names:
                brought = {canonicalize_name(name) for name in providers.get(top, [])}
                assert brought & asked, f"{path.relative_to(PROJECT)} imports {top}, of {brought or 'nothing'}"
