"""What every test can count on."""

import sys

import pytest

from kpatchlab.cli import main

pytest_plugins = ["tests.fake_stages", "tests.nights", "tests.bisect_support"]
"""Where the fixtures are that several files use: `bench`, `nights` and `lab`."""


REAL = {"guest", "build", "mirror", "browser"}
"""The marks of tests that need what takes its time: see CONTRIBUTING.md."""


def pytest_addoption(parser):
    tiers = parser.getgroup("tiers", "which of the tests (without one of these: all but the long ones)")
    tiers.addoption("--quick", action="store_true", help="those that need no guest, build, mirror or browser")
    tiers.addoption("--long", action="store_true", help="the long ones alone")


def pytest_collection_modifyitems(config, items):
    """Keep one tier, and let what takes longest begin first: what is short fills the other cores to the end."""
    marks = {item: {mark.name for mark in item.iter_markers()} for item in items}
    tier = [item for item in items if ("long" in marks[item]) == config.option.long]
    if config.option.quick:
        tier = [item for item in tier if not marks[item] & REAL]
    config.hook.pytest_deselected(items=[item for item in items if item not in set(tier)])
    items[:] = sorted(tier, key=lambda item: (not marks[item] & REAL, item.path.name != "test_linters.py"))


@pytest.fixture(autouse=True)
def _plain_surroundings(monkeypatch):
    """Leave out what a user's environment, or the script that started the tests, would change in what is printed."""
    for name in ("KPATCHLAB_PROGRAM", "_KPATCHLAB_COMPLETE", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_COLOR", "1")


@pytest.fixture
def call(capfd, monkeypatch):
    """Return a function that runs the program in this process; it returns (status, stdout, stderr)."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["kpatchlab", *words])
        with pytest.raises(SystemExit) as ended:
            main(list(words))
        sys.stdout.flush()
        out, err = capfd.readouterr()
        return ended.value.code or 0, out, err

    return run
