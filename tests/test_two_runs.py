"""Two runs as one: which columns are held against which, what is told of each, and what cannot be compared."""

import dataclasses
from pathlib import Path

import pytest
from sample_run import SPLAT, C, F, P, job, sample

from kpatchlab.errors import UserError
from kpatchlab.model import KernelFacts, Outcome, Run, Verdict
from kpatchlab.report import FORMATS
from kpatchlab.report.view import View
from kpatchlab.verdict.compare import compare
from kpatchlab.verdict.two_runs import COLUMN, Side, pairs, versus


def again(run, **changes):
    return dataclasses.replace(run, **{"id": "20230318-090000-b7e1", **changes})


def side(run, column="", root="/results"):
    return Side(run, Path(root) / run.id, column)


def small(name, column, cases, **more):
    made = job("s", column, cases, roles=("client",), **more)
    return Run(
        id=name,
        title="t",
        started="",
        duration_s=1.0,
        complete=True,
        base=column,
        columns=(column,),
        kernels=(KernelFacts(column, "base"),),
        builds=(),
        jobs=(made,),
    )


def test_the_same_run_twice_is_the_same_everywhere():
    run, _ = versus(side(sample()), side(again(sample())))
    found = compare(run)
    assert run.columns == ("a3f2", "b7e1")
    assert set(found.verdicts) <= {Verdict.SAME, Verdict.FLAKY, Verdict.BLOCKED}
    assert {group.params[COLUMN] for group in found.groups} == set(sample().columns)
    assert found.exit_code == 0
    assert found.basis.startswith("The same kernels twice")
    assert len({made.job for made in run.jobs}) == len(run.jobs) == 2 * len(sample().jobs)


def test_builds_are_held_against_the_same_kernel_of_the_first_run():
    later = dataclasses.replace(sample().builds[1], module_failures=(), key="c" * 64, series="v2 of the series")
    run, _ = versus(side(sample()), side(again(sample(), builds=(sample().builds[0], later))))
    found = compare(run)
    assert {(b.kernel, b.step): b.verdict for b in found.builds} == {
        ("a3f2:without", "kernel"): None,
        ("a3f2:with", "kernel"): None,
        ("a3f2:with", "module siw"): None,
        ("b7e1:without", "kernel"): Verdict.SAME,
        ("b7e1:with", "kernel"): Verdict.SAME,
    }
    assert found.basis == "Same base: the kernels differ by their series alone."


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"key": "c" * 64}, "differ by their configuration or compiler"),
        ({"key": "c" * 64, "base_key": "other"}, "Different bases:"),
        ({"key": "", "base_key": ""}, "Different bases:"),
        ({"key": "c" * 64, "compiler": "gcc 14"}, "Different tools: a difference need not be the series' doing."),
        ({"key": "c" * 64, "compiler": ""}, "differ by their configuration or compiler"),
        ({"key": "c" * 64, "compiler": "gcc 14", "series": "v2"}, "Different tools:"),
        ({"key": "c" * 64, "compiler": "gcc 14", "base_key": "other"}, "Different bases and tools:"),
    ],
)
def test_what_a_difference_can_mean(change, word):
    first = small("r-1", "with", {"x": P})
    first = dataclasses.replace(first, builds=(sample().builds[1],))
    later = dataclasses.replace(first, id="r-2", builds=(dataclasses.replace(sample().builds[1], **change),))
    assert word in compare(versus(side(first), side(later))[0]).basis


def test_regressions_between_two_runs():
    one = small("r-1", "with", {"job": P, "x": P, "y": F})
    two = small("r-2", "with", {"job": (C, SPLAT.title), "x": P, "y": P}, splats=(SPLAT,), message=SPLAT.title)
    run, _ = versus(side(one), side(two))
    found = compare(run)
    assert (found.regressed, found.fixed, found.exit_code) == (1, 1, 1)
    assert run.columns == ("1:with", "2:with")
    back = compare(versus(side(two), side(one))[0])
    assert (back.fixed, back.regressed) == (1, 1)


def test_any_kernels_pair_where_each_run_has_one_column():
    one, two = small("r-1", "a", {"x": P}), small("r-2", "b", {"x": P})
    assert pairs(side(one), side(two)) == (("a", "b"),)


def test_a_column_that_is_named_is_taken():
    assert pairs(side(sample(), "without"), side(again(sample()), "with")) == (("without", "with"),)
    assert pairs(side(sample(), "with"), side(again(sample()))) == (("with", "with"),)
    run, _ = versus(side(sample(), "without"), side(sample(), "with"))
    here, there = compare(run), compare(sample())
    assert here.regressed == there.by_column["with"][Verdict.REGRESSED] + 1  # and the module that does not build


@pytest.mark.parametrize(
    ("one", "two", "words"),
    [
        (side(sample(), "wiht"), side(again(sample())), "has no column 'wiht'"),
        (side(sample()), side(sample()), "against itself"),
        (side(sample(), "with"), side(sample(), "with"), "against itself"),
        (side(sample()), side(again(sample(), jobs=())), "has no jobs"),
        (side(sample()), side(small("r-2", "b", {"x": P})), "no column of run r-2"),
    ],
)
def test_what_cannot_be_compared_is_one_line(one, two, words):
    with pytest.raises(UserError, match=words) as caught:
        versus(one, two)
    assert "\n" not in caught.value.message


def test_what_one_run_lacks_is_told_and_no_pass():
    short = again(sample(), jobs=tuple(made for made in sample().jobs if made.scenario != "nfs"))
    run, _ = versus(side(sample()), side(short))
    absent = [made for made in run.jobs if made.outcome is Outcome.SKIP and made.scenario == "nfs"]
    assert {made.column for made in absent} == {"b7e1"}
    assert absent[0].message == "b7e1 did not run it"
    assert compare(run).verdicts[Verdict.UNKNOWN] == 5  # and three are BLOCKED as before
    assert b"b7e1 did not run it" in FORMATS["text"].render(View(run, Path()))


def test_files_of_both_runs_are_found_from_the_folder_that_is_returned():
    run, folder = versus(side(sample(), root="/a/results"), side(again(sample()), root="/b/old"))
    consoles = [guest.console for made in run.jobs for guest in made.guests]
    assert folder == Path("/")
    assert consoles[0].startswith("a/results/20230317-120411-a3f2/jobs/")
    assert consoles[-1].startswith("b/old/20230318-090000-b7e1/jobs/")
    assert not any(name.startswith(("/", "..")) for name in consoles)


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_shows_two_runs(form):
    run, folder = versus(side(sample()), side(again(sample())))
    assert FORMATS[form].render(View(run, folder))
