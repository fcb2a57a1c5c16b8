"""The scripts in findings/: what can be told of them without running them, since they fetch packages."""

import os
import re
import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "findings"


@pytest.mark.parametrize("path", sorted(set(FOLDER.glob("*.sh")) - {FOLDER / "common.sh"}), ids=lambda path: path.stem)
def test_a_finding_is_a_script_that_states_its_version_and_fails_on_change(path):
    text = path.read_text()
    subprocess.run(["sh", "-n", path], check=True)
    assert os.access(path, os.X_OK)
    assert re.match(r"#!/bin/(sh|bash)\n# .*\d", text), "the second line names the tool and its version"
    for words in re.findall(r"(?m)^install_python (.*)$", text):
        assert all("==" in word for word in words.split()), words
