"""The benchmarks start, and end with a line for programs; what needs a guest or a build is not measured here."""

import re
import shutil
import sys
from pathlib import Path

import pytest

from kpatchlab import proc

BENCH = Path(__file__).parents[1] / "bench"
SCRIPTS = sorted(path.stem for path in BENCH.glob("*.py"))


def bench(name, *words, check=True):
    return proc.run([sys.executable, BENCH / f"{name}.py", *words], timeout_s=60, check=check)


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_says_what_it_measures(name):
    said = bench(name, "--help").stdout
    assert "--rounds" in said
    assert len(said.splitlines()) > 8


@pytest.mark.skipif(not shutil.which("yes"), reason="no yes(1)")
def test_the_console_keeps_its_memory_and_the_last_line_is_for_programs():
    last = bench("memory", "--no-guest", "--mib", "64").stdout.splitlines()[-1]
    match = re.fullmatch(r"peak_rss_mib=([\d.]+) mib=64", last)
    assert match
    assert float(match[1]) < 150


def test_reports_are_compared_with_the_titles_that_a_collection_wants(tmp_path):
    """Two reports, of which one is named otherwise than wanted, one that is not found, and one false alarm."""
    warning = "[    1.000000] WARNING: CPU: 0 PID: 9 at a.c:1 {0}+0x1/0x2\n[    1.000001] RIP: 0010:{0}+0x1/0x2\n"
    files = {
        "0": "TITLE: WARNING in victim\nTYPE: WARNING\n\n" + warning.format("victim"),
        "1": "TITLE: WARNING in victim\n\n" + warning.format("other") + "\nREPORT:\n" + warning.format("victim"),
        "2": "TITLE: WARNING in victim\nCORRUPTED: Y\n\n[    1.000000] nothing\n",
        "3": "\n\n[    1.000000] nothing\n",
        "4": "\n\n" + warning.format("victim"),
        "5": "TITLE: SYZFAIL: no executor\n\n[    1.000000] nothing\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    last = bench("splats", tmp_path).stdout.splitlines()[-1]
    assert last.startswith("found=2/3 false=1/2 kind_right=2/2 same=1/2 machinery=0 other=1 none=0 ")
    done = bench("splats", tmp_path / "nowhere", check=False)
    assert done.status == 2
    assert "no report tests of syzkaller" in done.stderr
    clone = BENCH.parent
    timed = bench("splats", tmp_path, "--against", clone, "--mib", "1", "--rounds", "1").stdout.splitlines()[-1]
    assert 0.2 < float(timed.rpartition("ratio=")[2]) < 5


def test_a_kernel_that_is_not_there_is_told_in_one_line():
    done = bench("overhead", "--kernel", "nonesuch", check=False)
    assert done.status == 2
    assert done.stderr.startswith("kpatchlab: no kernel nonesuch in the cache\nhint: ")


def test_figures_drop_the_warm_up_and_interleave(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))
    from benchkit import rounds

    seen = []
    values = iter([99.0, 98.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    case = {name: lambda name=name: seen.append(name) or next(values) for name in "ab"}
    figures = rounds.interleaved(case, 3)
    assert "".join(seen) == "abababab"
    assert figures["a"].values == (1.0, 3.0, 5.0)
    assert figures["b"].median == 4.0


def test_the_last_line(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(BENCH))
    from benchkit import rounds

    rounds.last_line(a_s=1.23456, b=None, c="x")
    assert capsys.readouterr().out == "a_s=1.235 b=- c=x\n"
