"""Reach and coverage of a made series on a real, small kernel: built, booted, counted, told."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.labdir import write

pytestmark = [
    *(pytest.mark.guest, pytest.mark.mirror, pytest.mark.build),
    *(pytest.mark.long, pytest.mark.timeout(4 * 3600)),
]

PROJECT = Path(__file__).parent.parent
SERIES = PROJECT / "tests/data/tiny-series"
STREAMS = """\
#!/usr/bin/env python3
import socket
a, b = socket.socketpair()
for size in (1, 100, 4096):
    a.send(b"x" * size)
    assert len(b.recv(1 << 16)) == size
print("KTAP version 1\\n1..1\\nok 1 - streams")
"""
CLOSING = """\
#!/usr/bin/env python3
import socket
a, b = socket.socketpair()
a.shutdown(socket.SHUT_RDWR)
assert b.recv(1) == b""
print("KTAP version 1\\n1..1\\nok 1 - closing")
"""


@pytest.fixture
def lab(tiny_base, tmp_path):
    """Return a lab of one kernel with the series, and a scenario for each of two of its paths."""
    shutil.copytree(PROJECT / "kernels/config", tmp_path / "kernels/config")
    shutil.copytree(PROJECT / "scenarios/lib", tmp_path / "scenarios/lib")
    shutil.copytree(PROJECT / "rootfs", tmp_path / "rootfs")
    shutil.copytree(SERIES, tmp_path / "kernels/tiny-series")
    recipe = yaml.safe_load((PROJECT / "kernels/tiny.yaml").read_text())
    recipe["series"] = [{"type": "patches", "path": "tiny-series"}]
    write(tmp_path / "kernels/made.yaml", yaml.safe_dump(recipe))
    write(tmp_path / "lab.yaml", "title: a made series\nkernels: {with: made}\n")
    for name, script in (("streams", STREAMS), ("closing", CLOSING)):
        text = f"description: {name}\nroles: {{main: {{run: run.py}}}}\n"
        write(tmp_path / f"scenarios/{name}/scenario.yaml", text)
        write(tmp_path / f"scenarios/{name}/run.py", script, 0o755)
    return tmp_path


def call(lab, *words):
    done = subprocess.run(
        [sys.executable, "-m", "kpatchlab", *words], cwd=lab, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
    )  # fmt: skip
    print(done.stdout, done.stderr)  # noqa: T201 - for `pytest -rP`
    return done


def test_changed_lines_are_found_where_they_ran_and_the_last_choice_goes_by_it(lab):
    """Each scenario has its own lines, the line that none runs is told, and a module that is not loaded has none."""
    done = call(lab, "coverage", "--lcov", "c.info", "--cobertura", "c.xml", "--json")
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)
    text = call(lab, "coverage", "--of", "last").stdout
    never = text[text.index("that no scenario ran:") :]
    assert 'pr_info("a length that no scenario sends' in never
    ran = found["ran"]["net/unix/af_unix.c"]
    lines = {
        line["text"].strip(): str(line["number"])
        for patch in found["changes"]["patches"]
        for hunk in patch["hunks"]
        for line in hunk["lines"]
    }
    assert lines["lab_bytes++;"] in ran["streams"]
    assert lines["unix_lab_note(sock->sk, 0);"] in ran["closing"]
    assert lines["unix_lab_note(sock->sk, 0);"] not in ran["streams"]
    assert lines["unix_lab_note(sk, len);"] not in ran["closing"]
    assert "SF:net/unix/af_unix.c" in (lab / "c.info").read_text()
    assert 'filename="net/unix/af_unix.c"' in (lab / "c.xml").read_text()
    chosen = call(lab, "plan", "--changed", "--json")
    assert "2 scenarios that ran changed lines, of 2 in the coverage of run" in chosen.stderr
    assert {job["id"].split("@")[0] for job in json.loads(chosen.stdout)["jobs"]} == {"streams", "closing"}
