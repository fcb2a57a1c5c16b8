"""What is missing or broken in a run has its clear word in every report that shows it, and breaks nothing else."""

from __future__ import annotations

import dataclasses
import html
import math
import re
from pathlib import Path

import pytest
from sample_run import P, job

from kpatchlab.build.traceable import GONE, UNKNOWN, UNTRACED
from kpatchlab.model import SCHEMA_VERSION, ChangedFunction, KernelFacts, Metric, PatchFacts, ReachCount, Run
from kpatchlab.report import FORMATS
from kpatchlab.report.view import View
from kpatchlab.verdict.ratios import AGAIN

METRICS = {
    "a": (Metric("bare", 3.0, "", "higher"), Metric("hole", math.nan, "s", "lower"), Metric("left", 1, "s", "lower")),
    "b": (Metric("bare", 3.0, "", "higher"), Metric("hole", 2.0, "s", "lower"), Metric("right", 2, "s", "lower")),
}


def odd(mode="instructions"):
    """Return a run in which everything is odd that can be, and one figure and one function that are not."""
    sound = Metric("sound", 100.0, "B/kinstr", "higher")
    jobs = []
    for repeat in (1, 2, 3):
        for column, kernel in (("a", "a"), ("b", "b"), (f"a{AGAIN}", "a")):
            # The function of a rule is on the base alone: a kernel without it says -1, which is not 0.
            counts = (ReachCount("main", "vanished", 7 if kernel == "a" else -1), ReachCount("main", "there", 5))
            made = job("s", column, {"x": P}, repeat=repeat, metrics=(*METRICS[kernel], sound), mode=mode)
            patched = (ReachCount("main", "counted", 9),) if kernel == "b" else ()
            jobs.append(dataclasses.replace(made, placement={"main": kernel}, reach=counts, patched=patched))
    functions = {"net/x.c": "", "net/dwarf.c": UNKNOWN, "net/trace.c": UNTRACED, "net/gone.c": GONE}
    names = dict(zip(functions, ("counted", "blind", "dark", "away"), strict=True))
    patches = tuple(
        PatchFacts("b", number, f"change {file}", (file,), (ChangedFunction(names[file], file, why),))
        for number, (file, why) in enumerate(functions.items(), 1)
    )
    kernels = (KernelFacts("a", "base"), KernelFacts("b", ""))
    return Run(
        id="r",
        title="t",
        started="",
        duration_s=1.0,
        complete=True,
        base="a",
        columns=("a", "b", f"a{AGAIN}"),
        kernels=kernels,
        builds=(),
        jobs=tuple(jobs),
        patches=patches,
    )


def words(name, run):
    """Return a report as plain text, in one line."""
    text = FORMATS[name].render(View(run, Path("/results/run"))).decode()
    text = re.sub(r"(?s)<(script|style).*?</\1>", " ", text) if name == "html" else text
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", text) if name == "html" else text).split())


@pytest.mark.parametrize("name", list(FORMATS))
def test_every_format_takes_it(name):
    assert FORMATS[name].render(View(odd(), Path("/results/run")))
    assert FORMATS[name].render(View(odd(mode=""), Path("/results/run")))
    assert FORMATS[name].render(View(dataclasses.replace(odd(), schema=0), Path("/results/run")))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("html", ["blind net/dwarf.c no symbol, and no DWARF to say why", "net/trace.c ftrace off", "net/gone.c gone"]),
        ("reach", ["no symbol, and no DWARF to say why", "net/trace.c | ftrace off", "net/gone.c | gone"]),
    ],
)
def test_functions_that_cannot_be_counted_say_why(name, told):
    text = words(name, odd())
    assert [one for one in told if one not in text] == []


def test_a_function_that_one_kernel_lacks_is_not_one_that_never_ran():
    text = words("html", odd())
    assert "vanished main 7 not traceable 7" in text
    assert "there main 5 5 5" in text


@pytest.mark.parametrize("name", ["html", "markdown"])
def test_figures_that_lack_something_say_what(name):
    text = words(name, odd())
    assert "no figure on a" in text or "no figure on the base" in text
    assert "no figure on b" in text
    assert "no unit" in text or name != "html"
    assert "nan" not in re.findall(r"\w+", text.lower())


def test_a_value_that_is_no_number_is_counted():
    assert "of the values 3 are no number on a" in words("html", odd())


def test_a_run_of_an_older_version_says_so():
    old = dataclasses.replace(odd(mode=""), schema=0, version="0.0.1")
    text = words("html", old)
    assert f"An older kpatchlab stored this run (format 0; {SCHEMA_VERSION} is today's)." in text
    assert "kpatchlab 0.0.1 ran it" in text
    assert "what the figures count is not known" in text


@pytest.mark.parametrize("name", ["html", "markdown"])
def test_what_is_sound_is_told_all_the_same(name):
    assert "sound" in words(name, odd())
