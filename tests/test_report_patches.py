"""Patch x scenario, from what jobs counted."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from kpatchlab.jsonable import from_json, to_json
from kpatchlab.model import ChangedFunction, Outcome, PatchFacts, ReachCount
from kpatchlab.report import FORMATS
from kpatchlab.report.patches import function_word, patch_rows, summary, told
from kpatchlab.report.view import View
from tests.sample_run import job, sample

FILE = "net/unix/af_unix.c"


def facts(number, *functions, kernel="with"):
    return PatchFacts(kernel, number, f"patch {number}", (FILE,), tuple(functions))


def counted(scenario, column, *counts, **more):
    made = job(scenario, column, {"a": Outcome.PASS}, **more)
    return dataclasses.replace(made, patched=tuple(ReachCount(*count) for count in counts))


def a_run(patches, *jobs):
    return dataclasses.replace(sample(), patches=tuple(patches), jobs=tuple(jobs))


F, G, INLINED = ChangedFunction("f", FILE), ChangedFunction("g", FILE), ChangedFunction("i", FILE, "inlined")


def test_words_tell_not_reached_from_not_traceable_from_not_counted():
    """The five ways in which a patch's function can be absent from a count stay apart."""
    x = ChangedFunction("x", FILE)
    patches = [facts(1, F), facts(2, G), facts(3, INLINED), facts(4), facts(5, F, G), facts(6, x)]
    counts = (("client", "f", 3), ("server", "f", 4), ("client", "g", 0), ("client", "x", -1))
    run = a_run(patches, counted("s", "with", *counts), job("t", "with", {"a": Outcome.PASS}))
    rows = {row.patch.number: row for row in patch_rows(run)}
    assert [rows[n].cells["s"].word for n in range(1, 7)] == [
        "reached", "not reached", "not traceable", "no function", "partly", "not traceable",
    ]  # fmt: skip
    assert [rows[n].cells["t"].word for n in range(1, 5)] == [
        "not counted", "not counted", "not traceable", "no function",
    ]  # fmt: skip
    assert rows[1].cells["s"].calls == 7
    assert told(rows[5].cells["s"]) == "partly 1/2"
    assert [rows[n].whole.word for n in range(1, 7)] == [rows[n].cells["s"].word for n in range(1, 7)]
    assert [function_word(f, rows[5].cells["s"]) for f in (F, G, INLINED)] == ["7", "0", "inlined"]


def test_only_guests_with_the_patches_kernel_count():
    """In a mixed pair the other side's kernel has no series: its calls are not the patch's."""
    mixed = counted("s", "client=with,server=without", ("client", "f", 0), ("server", "f", 9))
    (row,) = patch_rows(a_run([facts(1, F)], mixed))
    assert row.cells["s"].word == "not reached"


def test_one_job_that_could_not_trace_does_not_hide_another_that_did():
    jobs = [counted("s", "with", ("client", "f", count), repeat=number) for number, count in enumerate((-1, 2))]
    run = a_run([facts(1, F)], *jobs)
    assert next(patch_rows(run)).cells["s"].counts == {"f": 2}


def test_summary_and_page_name_the_patch_that_nothing_ran():
    run = a_run([facts(1, F), facts(2, G)], counted("s|x", "with", ("client", "f", 1), ("client", "g", 0)))
    assert summary(patch_rows(run)) == ["with: 1 of 2 patches ran in some scenario", "  2 patch 2: not reached"]
    page = FORMATS["reach"].render(View(run, Path())).decode()
    assert "| 1 patch 1 | reached 1/1 | reached 1/1 |" in page
    assert "| patch | all | s\\|x |" in page
    assert "| g | net/unix/af\\_unix.c | 0 | - |" in page
    text = FORMATS["text"].render(View(run, Path())).decode()
    assert "1 of 2 patches ran" in text


def test_a_run_without_a_series_says_so():
    run = a_run([], counted("s", "with"))
    assert list(patch_rows(run)) == []
    assert b"No kernel of this run has a series" in FORMATS["reach"].render(View(run, Path()))
    assert "patches ran" not in FORMATS["text"].render(View(run, Path())).decode()


def test_a_run_of_before_there_were_patches_is_read():
    """A stored run that lacks the fields has no patches, and its jobs no counts."""
    stored = to_json(a_run([facts(1, F)], counted("s", "with", ("client", "f", 1))))
    del stored["patches"], stored["jobs"][0]["patched"]
    assert list(patch_rows(from_json(type(sample()), stored))) == []
