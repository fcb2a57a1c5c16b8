"""What the page says: its first sentence, its systems, its figures in words and plots, its consoles."""

import dataclasses
import math
import re
from pathlib import Path

import pytest
from sample_run import SPLAT, B, C, F, I, P, S, bench_jobs, full, job, sample

from kpatchlab.model import KernelFacts, Metric, Outcome, Run, SystemFacts
from kpatchlab.report import FORMATS, markup, matrix, sentence, speed
from kpatchlab.report.view import View
from kpatchlab.verdict.compare import compare
from kpatchlab.verdict.ratios import AGAIN, metric_rows


def run_of(*jobs, columns=("a", "b"), **more):
    kernels = tuple(KernelFacts(name, "base" if name == columns[0] else "") for name in columns)
    return Run(
        id="r",
        title="t",
        started="",
        duration_s=1.0,
        complete=True,
        base=columns[0],
        columns=columns,
        kernels=kernels,
        builds=(),
        jobs=tuple(jobs),
        **more,
    )


def two(base, here, **more):
    """Return a run of one scenario with one check, as it came out on each kernel."""
    sides = (("a", base), ("b", here))
    return run_of(*(job("s", column, {"x": outcome}, roles=("client",)) for column, outcome in sides), **more)


def page(run):
    return FORMATS["html"].render(View(run, Path("/results/run"))).decode()


# --- the sentence


@pytest.mark.parametrize(
    ("run", "word", "said"),
    [
        (
            sample(),
            "REGRESSED",
            (
                "The series brings 3 faults in nfs, cifs-ksmbd and rxrpc (4 checks), "
                "and breaks the build of module siw; 1 check fixed; "
                "1 flaky, 3 could not be compared."
            ),
        ),
        (two(P, F), "REGRESSED", "New against “a”: 2 faults in s (2 checks)."),
        (two(F, P), "NO REGRESSION", "Nothing regressed: 2 checks in s fixed, 0 the same."),
        (two(P, P), "NO REGRESSION", "Nothing changed: 2 checks came out the same on every kernel."),
        (two(S, S), "NOT TESTED", "Nothing was tested: every job was skipped, blocked or lost."),
        (two(P, I), "INCOMPLETE", "Nothing compared; 2 could not be compared, 1 lost by the lab itself."),
        (
            run_of(job("s", "a", {"x": P}), columns=("a",)),
            "PASSED",
            "The one check passed on “a”, with no other kernel",
        ),
        (
            run_of(job("s", "a", {"x": F}), columns=("a",)),
            "FAILED",
            "2 of 2 checks failed, in s, on “a”, with no other",
        ),
        (
            Run(
                id="a",
                title="b",
                started="c",
                duration_s=0,
                complete=False,
                base="",
                columns=(),
                kernels=(),
                builds=(),
                jobs=(),
            ),
            "NOT TESTED",
            "The run did not end; so far nothing was tested",
        ),
    ],
)
def test_sentence(run, word, said):
    comparison = compare(run)
    assert sentence.word(comparison) == word
    assert sentence.sentence(comparison).startswith(said)
    assert sentence.sentence(comparison) in page(run)


def measured(columns, *more):
    """Return a measurement: column -> the values of its figure, one a repeat."""
    jobs = [
        dataclasses.replace(
            job("s", c, {"x": P}, repeat=i, metrics=(Metric("m", v, "B/kinstr", "higher"),)), mode="instructions"
        )
        for c, values in columns.items()
        for i, v in enumerate(values, 1)
    ]
    return run_of(*jobs, *more, columns=tuple(columns))


@pytest.mark.parametrize(
    ("columns", "word", "said"),
    [
        ({"b": [90, 90, 90.1]}, "SLOWER", "Of 1 figure held against “a”: 1 slower."),
        ({"b": [100, 100, 100.1]}, "SAME", "Of 1 figure held against “a”: 1 the same."),
        ({"b": [110, 110, 110.1], "c": [90, 90, 90.1]}, "SLOWER", "Of 2 figures held against “a”: 1 slower, 1 faster."),
        ({"b": [110, 110, 110.1]}, "FASTER", "Of 1 figure held against “a”: 1 faster."),
        ({"b": [90, 110, 100]}, "UNKNOWN", "Of 1 figure held against “a”: 1 not known."),
        ({}, "SAME", "The base against itself: 1 comparisons, 1 SAME within 0.5 %, 0 false alarms"),
    ],
)
def test_a_measurement_speaks_of_its_figures(columns, word, said):
    base = {"a": [100, 100, 100.1]}
    run = measured({**base, **columns, f"a{AGAIN}": [100, 100.1, 100]})
    comparison = compare(run)
    assert sentence.word(comparison) == word
    assert sentence.sentence(comparison).startswith(said)
    text = page(run)
    assert text.index('id="speed"') < text.index('id="matrix"')
    assert f"<title>{word}: " in text


def test_a_measurement_whose_benchmark_fails_says_that_first():
    run = measured(
        {"a": [1, 1, 1], "b": [1, 1, 1], f"a{AGAIN}": [1, 1, 1]}, job("t", "a", {"x": P}), job("t", "b", {"x": F})
    )
    assert sentence.word(compare(run)) == "REGRESSED"
    assert sentence.sentence(compare(run)).startswith("New against “a”: 2 faults in t (2 checks)")


def test_names_in_a_sentence():
    assert sentence.listed([]) == ""
    assert sentence.listed(["a"]) == "a"
    assert sentence.listed(["a", "b", "a"]) == "a and b"
    assert sentence.listed("abcde") == "a, b, c, d and e"
    assert sentence.listed("abcdefg") == "a, b, c, d and 3 more"


# --- systems


def test_every_scenario_is_in_one_system_and_none_is_lost():
    run = full()
    comparison = compare(run)
    found, missing = matrix.systems(run, comparison)
    assert [system.name for system in found] == ["af-unix", "nfs", "cifs", "udp", "tcp", ""]
    assert missing == ["Distributed lock manager"]
    shown = [group for system in found for group in system.groups]
    assert sorted(id(group) for group in shown) == sorted(id(group) for group in comparison.groups)
    assert found[4].elsewhere == ("bench-tcp",)
    assert found[4].groups == ()


def test_system_is_as_bad_as_its_worst_scenario():
    jobs = [job(name, "a", {"x": outcome}, roles=("client",)) for name, outcome in (("s", P), ("t", C), ("u", S))]
    facts = (SystemFacts("y", "Y", ("s", "t", "u")), SystemFacts("z", "Z", ("u",)))
    run = run_of(*jobs, columns=("a",), systems=facts)
    (system, again), _ = matrix.systems(run, compare(run))
    assert system.outcome("a") == (Outcome.CRASH, False)
    assert system.count("a") == (1, 2)
    assert system.outcome("b") is None
    assert again.elsewhere == ("u",)


def test_column_of_the_base_again_is_no_column_of_the_matrix_unless_it_differs():
    jobs = bench_jobs()
    assert matrix.shown_columns(compare(run_of(*jobs, columns=("without", "with"))), AGAIN) == ["without", "with"]
    broken = dataclasses.replace(jobs[1], cases=(dataclasses.replace(jobs[1].cases[0], outcome=F),), outcome=F)
    columns = matrix.shown_columns(compare(run_of(broken, *jobs[0:1], columns=("without",))), AGAIN)
    assert columns == ["without", f"without{AGAIN}"]


# --- figures


def figures(*metrics, mode="time (KVM)", repeats=1):
    """Return the only table of a run in which base and other kernel measured so; a metric is (base, here, ...)."""
    jobs = [
        job("s", column, {"x": P}, repeat=repeat, roles=("client",), mode=mode,
            metrics=tuple(Metric(f"m{n}", values[side], "s", "lower") for n, values in enumerate(metrics)
                          if values[side] is not None))
        for side, column in enumerate(("a", "b")) for repeat in range(repeats)
    ]  # fmt: skip
    comparison = compare(run_of(*jobs))
    (table,) = speed.tables(comparison, metric_rows(comparison))
    return table


@pytest.mark.parametrize(
    ("base", "here", "why"),
    [
        (1.0, None, "no figure on b"),
        (None, 1.0, "no figure on a"),
        (math.nan, 1.0, "no figure on a; of the values 1 is no number on a"),
        (1.0, math.inf, "no figure on b; of the values 1 is no number on b"),
        (math.nan, -math.inf, "no figure on a and b; of the values 1 is no number on a, 1 is no number on b"),
        (0.0, 1.0, "the base's figure is 0: there is no ratio"),
        (1.0, 1.1, "too few values; 4 more on each side would tell"),
    ],
)
def test_figure_that_says_nothing_tells_why(base, here, why):
    (row,) = figures((base, here)).rows
    assert (row.word, row.why) == ("UNKNOWN", why)
    assert not row.interval


def test_old_run_says_that_the_mode_is_not_known():
    assert figures((1.0, 2.0), mode="").mode == "mode not recorded"
    assert "mode not recorded" in page(sample())


def test_figures_that_changed_come_first_and_right_is_better():
    run = full()
    comparison = compare(run)
    tables = {table.mode: table for table in speed.tables(comparison, metric_rows(comparison))}
    table = tables["instructions"]
    assert [row.word for row in table.rows] == sorted(
        (row.word for row in table.rows), key=["SLOWER", "FASTER", "UNKNOWN", "SAME"].index
    )
    assert table.count("FASTER") == 1
    row = table.rows[0]
    assert (row.name, row.change, row.direction) == ("send 4 KiB", "-7.01 %", "lower is better")
    ratio, low, high = row.better
    assert 1 < low < ratio < high, "seven percent fewer instructions are plotted to the right of 1"
    assert {row.column for row in table.again} == {f"without{AGAIN}"}
    assert all(row.column == "with" for row in table.rows)
    assert re.match(r"the base against itself: 5 comparisons, .* false alarms", table.again_told)
    assert table.splits_told.startswith("100 comparisons")


@pytest.mark.parametrize(
    ("ratio", "told"),
    [(1.0, "+0.00 %"), (0.9931, "-0.69 %"), (1.866, "+86.6 %"), (0.31, "-69.0 %"), (5.2, "x 5.2")],
)
def test_percent(ratio, told):
    assert speed.percent(ratio) == told


@pytest.mark.parametrize(
    ("value", "told"),
    [(0.31, "0.31"), (1234.5, "1234.5"), (1004376.2, "1,004,376"), (math.nan, "not a number"), (-math.inf, "infinite")],
)
def test_number(value, told):
    assert speed.number(value) == told


def places(svg, kind):
    return [float(x) for x in re.findall(rf'class="{kind}" d="M([\d.]+)', svg)]


def test_forest_plot():
    svg = markup.forest(1.1, 1.05, 1.15, 1.2, 0.02)
    middle = markup.WIDTH / 2
    (left,) = places(svg, "ci")
    assert left > middle
    assert places(svg, "one") == [middle]
    assert "off" not in svg
    assert svg.count('class="off"') == 0
    beyond = markup.forest(2.0, 0.1, 9.0, 1.2, 0.02)
    assert beyond.count('class="off"') == 2, "both ends leave the axis"
    assert markup.forest(1.0, None, None, 1.2, 0.02).count('class="no"') == 1
    assert markup.forest(1.0, -math.inf, math.inf, 1.2, 0.02).count('class="off"') == 2


def test_axis_says_what_it_is():
    assert re.findall(r">([^<]+)</text>", markup.forest_axis(1.25)) == ["-20 %", "0", "+25 %"]


def test_strips_share_one_axis():
    svg = markup.strips([(1.0, 2.0), (3.0,)])
    low, high = places(svg, "base")[0], places(svg, "here")[0]
    assert low < high <= markup.STRIP
    assert places(markup.strips([(5.0, 5.0), (5.0,)]), "mean") == [markup.STRIP / 2] * 2


# --- consoles


def test_splat_is_set_apart_in_a_console():
    made = markup.console(f"[ 1.0] before\n{SPLAT.text}[ 2.0] after <b>\n", [SPLAT, SPLAT])
    assert made.startswith(
        f'[ 1.0] before\n<span class="splat" title="{SPLAT.title}"><u>[   14.201877] </u><b class=loud>'
    )
    assert made.count('class="splat"') == 1
    assert made.endswith("</span>\n[ 2.0] after &lt;b&gt;")
    assert re.sub("<[^>]+>", "", made).count("\n") == SPLAT.text.count("\n") + 1


def test_long_line_of_a_console_is_cut():
    made = markup.console("x" * 5000 + "\nshort", [])
    assert made == "x" * 2000 + " [3000 more characters]\nshort"


def test_title_of_a_splat_cannot_leave_its_attribute():
    splat = dataclasses.replace(SPLAT, title='"><script>')
    assert '"><script>' not in markup.console(SPLAT.text, [splat])


# --- what is not there has its word


def test_bare_run():
    text = page(two(P, P))
    for told in (
        "This run names no systems",
        "No scenario of this run printed a figure",
        "No patches are stored with this run",
        "No kernel was built or fetched",
        "not recorded",
    ):
        assert told in text, told


def test_old_run_says_so():
    run = dataclasses.replace(full(), schema=0, version="0.0.1")
    assert "An older kpatchlab stored this run (format 0;" in page(run)
    assert "kpatchlab 0.0.1 ran it" in page(run)


def test_blocked_kernel_is_told_first():
    run = full()
    broken = dataclasses.replace(run.builds[1], outcome=B, error="net/socket.c:12: oops", module_failures=())
    text = page(dataclasses.replace(run, builds=(run.builds[0], broken)))
    first = text[text.index('<ul class="first">') :]
    assert "net/socket.c:12: oops" in first[: first.index("</li>")]


def test_every_cell_of_the_reach_map_is_a_number_or_a_word():
    text = page(full())
    table = text[text.index('<table class="heat">') :]
    cells = re.findall(r"<td class=\"h\w\"[^>]*>(.*?)</td>", table[: table.index("</table>")], re.DOTALL)
    assert len(cells) == 8 * 5
    plain = {re.sub("<[^>]+>", " ", cell).split()[0] for cell in cells}
    assert plain == {"1/1", "1/2", "0/2", "n/t", "—", "·"}
