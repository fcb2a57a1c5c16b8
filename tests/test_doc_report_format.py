"""docs/add-a-report-format.md: its module and its row, put into a copy of the program, are a format."""

import csv
import io
import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest
from doc_blocks import ROOT, blocks

PAGE = "add-a-report-format.md"
EVERY_RUN = """
import sys
sys.path[:0] = [{tests!r}, {root!r}]
import test_report, test_report_odd
from kpatchlab.report import FORMATS
from kpatchlab.report.view import View
for run in (*test_report.RUNS, test_report_odd.odd()):
    assert FORMATS["csv"].render(View(run, {tests!r})).startswith(b"scenario,check,")
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """Return a folder with a copy of the program in which the page's blocks are put where they say."""
    folder = tmp_path_factory.mktemp("copy")
    shutil.copytree(ROOT / "kpatchlab", folder / "kpatchlab", ignore=shutil.ignore_patterns("__pycache__"))
    module, row = blocks(PAGE, "python")
    (folder / module.place).write_text(module.text)
    table, where = row.place.split(",")
    assert where == " the last of FORMATS"
    rows = (folder / table).read_text()
    assert rows.count("\n    )\n}\n") == 1
    (folder / table).write_text(rows.replace("\n    )\n}\n", f"\n{row.text}    )\n}}\n"))
    return folder


def in_copy(copy, *argv):
    done = subprocess.run(
        [sys.executable, *argv],
        cwd=copy, env={**os.environ, "PYTHONPATH": str(copy)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_its_commands_give_what_the_page_says(copy):
    earlier = next((ROOT / "tests/data/runs").iterdir())
    help_, shown, to_file = (
        in_copy(copy, "-m", "kpatchlab", *shlex.split(line.removeprefix("./lab ").replace("last", str(earlier))))
        for line in blocks(PAGE, "sh")[0].text.splitlines()
    )
    assert re.search(r"^ *csv +a row for each check, for spreadsheets$", help_, re.MULTILINE)
    head, *rows = csv.reader(io.StringIO(shown))
    assert (len(head), len(rows) > 20) == (6, True)
    assert to_file.startswith("checks.csv: ")
    assert (copy / "checks.csv").read_text() == shown


def test_every_sample_is_rendered_with_it(copy):
    in_copy(copy, "-c", EVERY_RUN.format(tests=str(ROOT / "tests"), root=str(copy)))


def test_it_keeps_the_rules_of_the_house(copy):
    shutil.copy(ROOT / "pyproject.toml", copy)
    in_copy(copy, "-m", "ruff", "check", "--no-cache", "kpatchlab/report")
    in_copy(copy, "-m", "ruff", "format", "--no-cache", "--check", "kpatchlab/report")
