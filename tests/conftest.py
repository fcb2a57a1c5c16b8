"""What every test can count on."""

import pytest


@pytest.fixture(autouse=True)
def _plain_surroundings(monkeypatch):
    """Leave out what a user's environment, or the script that started the tests, would change in what is printed."""
    for name in ("KPATCHLAB_PROGRAM", "_KPATCHLAB_COMPLETE", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_COLOR", "1")
