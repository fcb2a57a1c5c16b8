"""docs/add-an-executor.md: its class, keys and row, put into a copy of the program, are an executor that passes."""

import os
import shutil
import subprocess
import sys

import pytest
from doc_blocks import ROOT, blocks

PAGE = "add-an-executor.md"
IMPORT = "from kpatchlab.run.background import BackgroundExecutor\n"


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """Return a folder with a copy of the program in which the page's blocks are put where they say."""
    folder = tmp_path_factory.mktemp("copy")
    for name in ("kpatchlab", "tests", "tools", "docs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "img"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    for block in (*blocks(PAGE, "python"), *blocks(PAGE, "markdown")):
        name, _, where = block.place.partition(", ")
        path = folder / name
        path.write_text(put(path.read_text() if path.exists() else "", where, block.text))
    rows = folder / "kpatchlab/run/executors.py"
    rows.write_text(
        rows.read_text().replace("from kpatchlab.run.executor import", f"{IMPORT}from kpatchlab.run.executor import")
    )
    return folder


def put(text, where, block):
    """Return a file's text with a block where the page says."""
    if not where:
        return block
    if where == "above Jobs":
        return replaced(text, "\nJobs = Annotated", f"\n{block}\n\nJobs = Annotated")
    if where == "in place of Jobs":
        (line,) = [line for line in text.splitlines(keepends=True) if line.startswith("Jobs = Annotated")]
        return replaced(text, line, block)
    if where == "the last of EXECUTORS":
        return replaced(text, "\n}\n", f"\n{block}}}\n")
    if where == "in WANTED":
        return replaced(text, "WANTED = {", f"WANTED = {{\n{block}    ")
    assert where == "below the table of ProcessJobs"
    before, table, after = text.partition("<!-- keys of ProcessJobs -->")
    return before + table + after.replace("<!-- end -->\n", f"<!-- end -->\n\n{block}", 1)


def replaced(text, old, new):
    assert text.count(old) == 1, old
    return text.replace(old, new)


def in_copy(copy, *argv):
    done = subprocess.run(
        [sys.executable, *argv],
        cwd=copy, env={**os.environ, "PYTHONPATH": str(copy)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
    return done.stdout


def test_it_passes_what_every_executor_must(copy):
    told = in_copy(
        copy, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_executor_contract.py", "-k", "background"
    )
    assert " passed" in told


def test_its_guests_take_what_nobody_else_wants(copy):
    told = in_copy(copy, "-c", "from kpatchlab.run.background import BackgroundExecutor as B; print(*B.prefix, 'nice')")
    assert subprocess.run(told.split(), capture_output=True, text=True, check=True).stdout.strip() == "19"


def test_its_keys_are_in_the_schema_and_the_page(copy):
    in_copy(copy, *blocks(PAGE, "sh")[0].text.split()[1:])
    assert '"background"' in (copy / "kpatchlab/schemas/lab.schema.json").read_text()
    assert "required: `background`" in (copy / "docs/files.md").read_text()
    in_copy(copy, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_schemas.py")


def test_it_keeps_the_rules_of_the_house(copy):
    in_copy(copy, "-m", "ruff", "check", "--no-cache", "kpatchlab/run", "kpatchlab/lab")
    in_copy(copy, "-m", "ruff", "format", "--no-cache", "--check", "kpatchlab/run", "kpatchlab/lab")
