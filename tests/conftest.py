"""What every test can count on."""

import sys

import pytest
from hypothesis import settings

from kpatchlab import fence
from kpatchlab.build import confined
from kpatchlab.cli import main

pytest_plugins = [
    "tests.tiers", "tests.fake_stages", "tests.nights", "tests.bisect_support", "tests.real_tree", "tests.posting",
]  # fmt: skip
"""Which tests run where, and the fixtures that several files use: `bench`, `nights`, `lab`, `real_base`, `posted`."""

settings.register_profile("steady", derandomize=True)
settings.load_profile("steady")  # a clone has the same result on every day; `./lab bench fuzz` looks for new inputs


@pytest.fixture(autouse=True)
def _plain_surroundings(monkeypatch):
    """Leave out what a user's environment, or the script that started the tests, would change in what is printed."""
    for name in ("KPATCHLAB_PROGRAM", "_KPATCHLAB_COMPLETE", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_COLOR", "1")


TRUSTS = confined.trusts


@pytest.fixture(autouse=True)
def _hosts_without_a_sandbox(monkeypatch):
    """Have the tests' own series built also where the host has no sandbox; the sandbox's own tests are then skipped."""
    if fence.lacking():
        monkeypatch.setattr(confined, "trusts", lambda *_: True)


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
