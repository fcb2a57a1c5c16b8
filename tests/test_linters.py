"""The linters, as tests: a fault in style or types is a red test, found beside all others on another core."""

import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]


@pytest.mark.parametrize("words", ["mypy", "ruff check", "ruff format --check"])
def test_clean(words):
    done = subprocess.run(
        [sys.executable, "-m", *words.split()], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
