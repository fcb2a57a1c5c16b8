"""Verdicts: every pair of outcomes, crashes and what they keep from running, repeats, splats, builds, exit codes."""

import dataclasses

import pytest
from sample_run import SPLAT, B, C, F, I, P, S, T, builds, job, sample

from kpatchlab.model import BuildResult, Case, CaseId, CaseKind, KernelFacts, Outcome, Run, Splat, Verdict, reach_case
from kpatchlab.report.sentence import sentence, word
from kpatchlab.verdict.compare import compare
from kpatchlab.verdict.faults import changes

OTHER = dataclasses.replace(SPLAT, fingerprint="feedfacecafe", title="KASAN: something else")


def run_of(*jobs, columns=("a", "b"), built=(), complete=True):
    kernels = tuple(KernelFacts(name, "base" if name == columns[0] else "series") for name in columns)
    return Run(
        id="r",
        title="t",
        started="",
        duration_s=1.0,
        complete=complete,
        base=columns[0],
        columns=columns,
        kernels=kernels,
        builds=built,
        jobs=jobs,
    )


def pair(a, b, name="check"):
    return compare(run_of(job("s", "a", {"job": P, name: a}), job("s", "b", {"job": P, name: b})))


def cell(comparison, case="check", column="b"):
    return next(r for r in comparison.groups[0].rows if r.case == case).cells[column]


@pytest.mark.parametrize(
    ("a", "b", "verdict"),
    [
        (P, P, "SAME"), (F, F, "SAME"), (F, C, "SAME"), (S, S, "SAME"),
        (P, F, "REGRESSED"), (P, C, "REGRESSED"), (P, T, "REGRESSED"),
        (F, P, "FIXED"), (C, P, "FIXED"), (T, P, "FIXED"),
        (P, B, "BLOCKED"), (B, P, "BLOCKED"), (B, B, "BLOCKED"), (S, B, "BLOCKED"), (I, B, "BLOCKED"),
        (P, S, "UNKNOWN"), (S, P, "UNKNOWN"), (S, F, "UNKNOWN"), (F, S, "UNKNOWN"),
        (P, I, "UNKNOWN"), (I, F, "UNKNOWN"), (I, I, "UNKNOWN"),
    ],
)  # fmt: skip
def test_pairs(a, b, verdict):
    assert cell(pair(a, b)).verdict == verdict


def test_worse_kind_of_bad_is_said():
    assert cell(pair(F, C)).reason == "fail on the base, crash here"


@pytest.mark.parametrize(
    ("a", "b", "verdict"),
    [
        ((S, "condition: x"), P, "SAME"), (P, (S, "condition: x"), "SAME"),
        ((S, "condition: x"), F, "REGRESSED"), (F, (S, "condition: x"), "UNKNOWN"), (P, F, "REGRESSED"),
    ],
)  # fmt: skip
def test_reach_that_does_not_apply_is_no_alarm(a, b, verdict):
    assert cell(pair(a, b, "reach: f"), "reach: f").verdict == verdict


def answered(answer, outcome=P, **more):
    made = job("s", "b", {"job": P}, **more)
    return dataclasses.replace(made, cases=(*made.cases, Case("q", outcome, answer=answer)))


def test_another_answer_is_a_change_and_no_alarm():
    base = dataclasses.replace(answered("old"), column="a", job="s@a")
    comparison = compare(run_of(base, answered("new")))
    assert cell(comparison, "q").verdict is Verdict.CHANGED
    assert cell(comparison, "q").reason == "old on the base, new here"
    assert (cell(comparison, "q").told, cell(comparison, "q").word) == ("new", "pass")
    assert comparison.exit_code == 0
    assert "1 CHANGED" in comparison.headline
    assert cell(compare(run_of(base, answered("old"))), "q").verdict is Verdict.SAME
    assert cell(compare(run_of(base, answered("none", F))), "q").verdict is Verdict.REGRESSED


def test_an_answer_that_changes_from_repeat_to_repeat_is_flaky():
    base = dataclasses.replace(answered("old"), column="a", job="s@a")
    comparison = compare(run_of(base, answered("old"), answered("new", repeat=2)))
    assert cell(comparison, "q").verdict is Verdict.FLAKY
    assert cell(comparison, "q").word == "flaky: new or old"


def test_new_and_gone():
    comparison = compare(run_of(job("s", "a", {"job": P, "old": P}), job("s", "b", {"job": P, "new": P, "bad": F})))
    assert cell(comparison, "old").verdict is Verdict.GONE
    assert cell(comparison, "old").word == "missing"
    assert cell(comparison, "new").verdict is Verdict.NEW
    assert cell(comparison, "bad").verdict is Verdict.REGRESSED  # new, and it fails: nobody may overlook it


def test_log_check_left_out_where_clean():
    comparison = compare(run_of(job("s", "a", {"job": P}), job("s", "b", {"job": P, "log: client": P})))
    assert cell(comparison, "log: client").verdict is Verdict.SAME
    comparison = compare(run_of(job("s", "a", {"job": P}), job("s", "b", {"job": P, "log: client": F})))
    assert cell(comparison, "log: client").verdict is Verdict.REGRESSED


def test_crash_takes_its_checks_along_and_counts_once():
    comparison = compare(
        run_of(
            job("s", "a", {"job": P, "one": P, "two": P, "three": F}),
            job("s", "b", {"job": (C, "oops"), "one": P}, splats=(SPLAT,)),
        )
    )
    assert cell(comparison, "two").verdict is Verdict.REGRESSED
    assert cell(comparison, "two").implied
    assert cell(comparison, "two").message == "not reached: oops"
    assert cell(comparison, "three").verdict is Verdict.SAME
    assert comparison.verdicts == {Verdict.REGRESSED: 1, Verdict.SAME: 1}


def test_a_job_that_failed_and_reported_all_says_nothing_about_checks_that_it_does_not_have():
    here = {"job": (F, "known: no"), "known": F, "new": P, "new and bad": F}
    base = {"job": (F, "known: no"), "known": F, "old": P}
    comparison = compare(run_of(job("s", "a", base, reported=True), job("s", "b", here, reported=True)))
    names = ("known", "new", "new and bad", "old")
    assert [cell(comparison, name).verdict for name in names] == [
        Verdict.SAME, Verdict.NEW, Verdict.REGRESSED, Verdict.GONE,
    ]  # fmt: skip
    comparison = compare(run_of(job("s", "a", base), job("s", "b", here)))
    assert cell(comparison, "new").verdict is Verdict.FIXED
    assert cell(comparison, "new").implied is False


def test_crash_on_the_base_fixed_counts_once():
    comparison = compare(run_of(job("s", "a", {"job": C}), job("s", "b", {"job": P, "one": P, "two": P})))
    assert cell(comparison, "two").verdict is Verdict.FIXED
    assert comparison.verdicts == {Verdict.FIXED: 1}


def test_job_row_is_made_where_the_job_names_none():
    comparison = compare(run_of(job("s", "a", {"x": P}), job("s", "b", {}, outcome=T, message="late")))
    assert cell(comparison, "job").verdict is Verdict.REGRESSED
    comparison = compare(run_of(job("s", "a", {"x": P}), job("s", "b", {}, outcome=F, message="set-up: status 1")))
    assert cell(comparison, "x").verdict is Verdict.REGRESSED


def test_failing_check_counts_once_though_it_fails_its_job():
    told = {"job": (F, "x: EINVAL"), "x": (F, "EINVAL"), "y": P}
    comparison = compare(run_of(job("s", "a", {"job": P, "x": P, "y": P}), job("s", "b", told)))
    assert comparison.verdicts == {Verdict.REGRESSED: 1, Verdict.SAME: 1}
    other = told | {"job": (F, "run.py exited with 1")}
    assert compare(run_of(job("s", "a", {"job": P, "x": P, "y": P}), job("s", "b", other))).regressed == 2


def test_check_lost_in_a_job_that_fails_on_both_sides_is_not_overlooked():
    """The script dies half way, in a job that fails on the base too, for another reason."""
    comparison = compare(run_of(job("s", "a", {"job": F, "x": F, "y": P}), job("s", "b", {"job": F, "x": F})))
    assert cell(comparison, "job").verdict is Verdict.SAME
    assert cell(comparison, "y").verdict is Verdict.REGRESSED
    assert comparison.regressed == 1


def test_crash_in_one_repeat_is_one_flaky_count():
    jobs = [job("s", "b", {"job": P, "x": P, "y": P}), job("s", "b", {"job": (C, "lost")}, repeat=1)]
    comparison = compare(run_of(job("s", "a", {"job": P, "x": P, "y": P}), *jobs))
    assert comparison.verdicts == {Verdict.FLAKY: 1}


def repeats(column, outcomes, splats=None):
    made = []
    for i, outcome in enumerate(outcomes):
        found = splats[i] if splats else ()
        if outcome in {C, T, B, I}:
            made.append(job("s", column, {}, repeat=i, outcome=outcome, splats=found))
        else:
            made.append(job("s", column, {"job": P, "check": outcome}, repeat=i, splats=found))
    return made


@pytest.mark.parametrize(
    ("a", "b", "verdict", "word"),
    [
        ([P, P], [P, F], "FLAKY", "flaky 1/2"),
        ([P, F], [P, P], "FLAKY", "pass"),
        ([P, P], [F, F], "REGRESSED", "fail"),
        ([F, F], [F, T], "SAME", "timeout"),
        ([P, P], [P, I], "SAME", "pass"),
        ([P, P], [F, I], "REGRESSED", "fail"),
        ([P, P], [I, I], "UNKNOWN", "infra"),
        ([P, P], [P, S], "SAME", "pass"),
        ([P, P], [P, C], "FLAKY", "flaky 1/2"),
    ],
)
def test_repeats(a, b, verdict, word):
    found = cell(compare(run_of(*repeats("a", a), *repeats("b", b))))
    assert (found.verdict, found.word) == (verdict, word)


def test_another_splat_than_the_bases_is_a_regression():
    crash = {"job": C, "log: client": C}
    same = compare(run_of(job("s", "a", crash, splats=(SPLAT,)), job("s", "b", crash, splats=(SPLAT,))))
    assert same.exit_code == 0
    other = compare(run_of(job("s", "a", crash, splats=(SPLAT,)), job("s", "b", crash, splats=(SPLAT, OTHER))))
    found = cell(other, "log: client")
    assert (found.verdict, found.reason) == (Verdict.REGRESSED, "fails differently: KASAN: something else")
    assert other.regressed == 1
    assert cell(other, "job").verdict is Verdict.SAME


def test_splat_in_one_of_three_repeats_is_no_flake():
    jobs = [*repeats("a", [P, P, P]), *repeats("b", [P, C, P], [(), (SPLAT,), ()])]
    found = cell(compare(run_of(*jobs)), "job")
    assert (found.verdict, found.reason) == (Verdict.REGRESSED, f"in 1 of 3 repeats: {SPLAT.title}")
    known = [*repeats("a", [P, C, P], [(), (SPLAT,), ()]), *repeats("b", [P, C, P], [(), (SPLAT,), ()])]
    assert compare(run_of(*known)).regressed == 0


def test_new_splat_is_counted_where_it_regressed_already():
    crash = {"job": C, "log: client": C, "log: server": P}
    both = {"job": C, "log: client": C, "log: server": C}
    comparison = compare(run_of(job("s", "a", crash, splats=(SPLAT,)), job("s", "b", both, splats=(SPLAT, OTHER))))
    assert comparison.regressed == 1
    assert cell(comparison, "log: server").verdict is Verdict.REGRESSED


@pytest.mark.parametrize(("base", "verdict"), [(S, "UNKNOWN"), (B, "BLOCKED"), (I, "UNKNOWN")])
def test_new_splat_where_the_base_did_not_run_it(base, verdict):
    """What the base lacks a symbol or a module for may still not oops; only what the lab lost is not known."""
    held, bad = job("s", "a", {}, outcome=base), {"job": C, "log: client": C, "x": F}
    comparison = compare(run_of(held, job("s", "b", bad, splats=(SPLAT,))))
    found = cell(comparison, "log: client")
    if base is I:
        assert (found.verdict, comparison.regressed) == (verdict, 0)
    else:
        assert (found.verdict, found.reason) == (Verdict.REGRESSED, f"the base did not run it; here: {SPLAT.title}")
        assert (comparison.regressed, comparison.exit_code) == (1, 1)
    assert cell(comparison, "x").verdict == verdict
    assert compare(run_of(held, job("s", "b", bad))).regressed == 0


MIXED = ("client=b,server=a", "client=a,server=b")


@pytest.mark.parametrize("columns", [MIXED[:1], MIXED])
@pytest.mark.parametrize(("outcome", "code"), [(C, 1), (T, 1), (P, 0), (B, 3)])
def test_mixed_columns_without_the_base_column(columns, outcome, code):
    """The one command that a report gives to run a mixed pair again: two kernels, and nothing to hold it against."""
    splats = (SPLAT,) if outcome is C else ()
    made = [job("s", c, {"x": P} if outcome is P else {}, outcome=outcome, splats=splats) for c in columns]
    built = tuple(dataclasses.replace(b, kernel=k, module_failures=()) for b, k in zip(builds(), "ab", strict=True))
    comparison = compare(dataclasses.replace(run_of(*made, built=built), base="a", columns=columns))
    assert comparison.exit_code == code
    assert comparison.headline == f"{len(columns)} {outcome}"
    assert comparison.basis == "The base column did not run: nothing to compare with."
    assert [c.column for c in changes(comparison)] == ([] if outcome is P else list(columns))
    assert outcome is B or f"“{columns[0]}”" in sentence(comparison)
    assert comparison.verdicts == {}, "the second kernel's build is no comparison of tests"


def test_a_module_broken_on_both_kernels_does_not_fail_a_mixed_column():
    built = tuple(dataclasses.replace(builds()[1], kernel=kernel) for kernel in "ab")
    run = dataclasses.replace(run_of(job("s", MIXED[0], {"x": P}), built=built), base="a", columns=MIXED[:1])
    assert compare(run).exit_code == 0
    good = dataclasses.replace(builds()[0], kernel="a")
    assert compare(dataclasses.replace(run, builds=(good, built[1]))).exit_code == 1


def test_column_that_ran_no_such_job_has_no_verdict():
    comparison = compare(run_of(job("s", "a", {"x": P}), job("s", "b", {"x": P}), columns=("a", "b", "a=b,c=a")))
    assert all("a=b,c=a" not in row.cells for row in comparison.groups[0].rows)
    assert comparison.groups[0].verdict("a=b,c=a") is None
    comparison = compare(run_of(job("s", "b", {"x": P})))
    assert cell(comparison, "x").verdict is Verdict.UNKNOWN


def blocked_build(kernel):
    return dataclasses.replace(
        builds()[0], kernel=kernel, outcome=B, error="no rule", error_file="net/x.c", error_line=3
    )


def test_builds():
    base, series = (dataclasses.replace(b, kernel=name) for b, name in zip(builds(), "ab", strict=True))
    jobs = (job("s", "a", {"x": P}), job("s", "b", {"x": P}))
    comparison = compare(run_of(*jobs, built=(base, series)))
    assert [(b.kernel, b.step, b.verdict) for b in comparison.builds] == [
        ("a", "kernel", None), ("b", "kernel", "SAME"), ("b", "module siw", "REGRESSED"),
    ]  # fmt: skip
    assert comparison.exit_code == 1
    broken = compare(run_of(jobs[0], job("s", "b", {}, outcome=B), built=(base, blocked_build("b"))))
    assert broken.builds[1].verdict is Verdict.REGRESSED
    assert broken.builds[1].message == "net/x.c:3: no rule"
    assert broken.exit_code == 1
    assert compare(run_of(built=(blocked_build("a"), blocked_build("b")))).builds[1].verdict is Verdict.SAME


@pytest.mark.parametrize(
    ("jobs", "options", "code"),
    [
        ([("a", P), ("b", P)], {}, 0),
        ([("a", P), ("b", F)], {}, 1),
        ([("a", F), ("b", F)], {}, 0),
        ([("a", P), ("b", I)], {}, 3),
        ([("a", P), ("b", B)], {}, 0),
        ([("a", P), ("b", S)], {}, 0),
        ([("a", S), ("b", S)], {}, 3),  # nothing was tested: not green
        ([], {}, 3),
        ([("a", P), ("b", P)], {"complete": False}, 3),
        ([("a", P), ("b", F)], {"complete": False}, 1),
        ([("a", P)], {"columns": ("a",)}, 0),
        ([("a", T)], {"columns": ("a",)}, 1),
        ([("a", I)], {"columns": ("a",)}, 3),
    ],
)
def test_exit_code(jobs, options, code):
    made = [job("s", column, {"x": o} if o in {P, F} else {}, outcome=o) for column, o in jobs]
    assert compare(run_of(*made, **options)).exit_code == code


def test_infra_beside_a_regression_is_a_regression():
    made = [job("s", "a", {"x": P}), job("s", "b", {"x": F}), job("t", "a", {"x": P}), job("t", "b", {}, outcome=I)]
    comparison = compare(run_of(*made))
    assert comparison.exit_code == 1
    assert comparison.lost == ("t on b",)


def test_infra_in_one_repeat_of_two_is_made_up_for():
    assert compare(run_of(*repeats("a", [P, P]), *repeats("b", [P, I]))).exit_code == 0


def test_sample():
    comparison = compare(sample())
    regressed = "3 faults REGRESSED in 3 scenarios (4 checks), 1 build REGRESSED"
    assert comparison.headline == f"{regressed}, 1 FIXED, 47 SAME, 1 FLAKY, 3 BLOCKED"

    assert comparison.basis.startswith("Same base")
    assert comparison.exit_code == 1
    by_name = {group.name: group for group in comparison.groups}
    assert by_name["cifs-ksmbd"].verdict("with") is Verdict.REGRESSED
    assert by_name["cifs-ksmbd"].verdict("client=with,server=without") is Verdict.SAME
    assert by_name["cifs-ksmbd"].outcome("with") == (Outcome.CRASH, False)
    assert by_name["udp-cork"].outcome("with") == (Outcome.PASS, True)
    assert by_name["unix-splice"].verdict("with") is Verdict.FIXED
    assert by_name["smc"].outcome("with") == (Outcome.SKIP, False)


def test_different_bases_are_said():
    other = dataclasses.replace(builds()[1], base_key="other")
    assert compare(dataclasses.replace(sample(), builds=(builds()[0], other))).basis.startswith("Different bases")


def test_bases_that_are_not_known_are_not_called_different():
    assert "not known" in compare(dataclasses.replace(sample(), builds=())).basis


@pytest.mark.parametrize(
    ("a", "b", "headline"),
    [
        (S, S, "nothing compared"),
        (P, S, "nothing compared, 1 UNKNOWN"),
        (I, P, "nothing compared, 1 UNKNOWN"),
        (P, B, "nothing compared, 1 BLOCKED"),
    ],
)
def test_where_nothing_was_compared_nothing_is_the_same(a, b, headline):
    """The two kernels build alike, which is no result of a test."""
    jobs = job("s", "a", {}, outcome=a), job("s", "b", {}, outcome=b)
    built = tuple(BuildResult(name, P, key=name, base_key="k") for name in "ab")
    comparison = compare(run_of(*jobs, built=built))
    assert comparison.headline == headline
    assert Verdict.SAME not in comparison.verdicts
    assert word(comparison) in {"NOT TESTED", "INCOMPLETE"}
    assert "the same" not in sentence(comparison)


def test_a_series_that_does_not_build_is_on_top_also_where_nothing_was_compared():
    jobs = job("s", "a", {"job": P}), job("s", "b", {}, outcome=B)
    built = BuildResult("a", P, key="a", base_key="k"), BuildResult("b", B, base_key="k", error="no")
    assert compare(run_of(*jobs, built=built)).headline == "1 build REGRESSED, 1 BLOCKED"


def test_one_kernel_headline_counts_jobs():
    comparison = compare(run_of(job("s", "a", {"x": P}), job("t", "a", {}, outcome=S), columns=("a",)))
    assert comparison.headline == "1 pass, 1 skip"


def test_two_checks_of_one_name_count_as_the_worse():
    twice = dataclasses.replace(
        job("s", "b", {"x": P}), cases=job("s", "b", {"x": F}).cases + job("s", "b", {"x": P}).cases
    )
    assert cell(compare(run_of(job("s", "a", {"x": P}), twice)), "x").verdict is Verdict.REGRESSED


def test_splats_do_not_need_a_title():
    bare = Splat("oops", "", "1" * 12, "")
    assert compare(run_of(job("s", "a", {"job": P}), job("s", "b", {"job": C}, splats=(bare,)))).regressed == 1


def test_what_a_check_says_of_itself_stands_for_a_message():
    good, bad = (
        dataclasses.replace(job("s", column, {"job": P}), cases=(Case("whole", outcome, details=said),))
        for column, outcome, said in (("a", P, ""), ("b", F, "first difference at byte 7\nmore"))
    )
    assert cell(compare(run_of(good, bad)), "whole").message == "first difference at byte 7"


@pytest.mark.parametrize("message", ["two checks are bad", "", "other: words", "check: it says"])
def test_the_job_follows_the_checks_that_made_it_fail_whatever_its_message_says(message):
    failed = job("s", "b", {"job": (F, message), "other": P, "check": (F, "it says")})
    comparison = compare(
        run_of(
            job("s", "a", {"job": P, "other": P, "check": P}),
            dataclasses.replace(failed, because=(CaseId(CaseKind.CHECK, "check"),)),
        )
    )
    assert cell(comparison, "job").follows
    assert comparison.regressed == 1
    alone = compare(run_of(*(made for made in comparison.groups[0].jobs["b"]), columns=("b",)))
    assert [change.row.case for change in changes(alone)] == ["check"]


@pytest.mark.parametrize("message", ["check: it says", "check failed"])
def test_a_job_that_failed_of_itself_is_told_though_its_message_begins_like_a_check(message):
    failed = job("s", "b", {"job": (F, message), "check": (F, "it says")})
    comparison = compare(run_of(job("s", "a", {"job": P, "check": P}), dataclasses.replace(failed, because=())))
    assert not cell(comparison, "job").follows
    assert comparison.regressed == 2


def test_a_job_follows_any_of_the_checks_that_made_it_fail():
    ids = tuple(CaseId(CaseKind.CHECK, name) for name in ("first", "second"))
    failed = job("s", "b", {"job": (F, "first: x"), "first": (F, "x"), "second": (F, "y")})
    comparison = compare(
        run_of(job("s", "a", {"job": P, "first": S, "second": P}), dataclasses.replace(failed, because=ids))
    )
    assert [cell(comparison, name).verdict for name in ("first", "second", "job")] == [
        Verdict.UNKNOWN, Verdict.REGRESSED, Verdict.REGRESSED,
    ]  # fmt: skip
    assert comparison.regressed == 1


@pytest.mark.parametrize("message", ["only on other kernels", "condition: only where the kernel has x", ""])
@pytest.mark.parametrize("applies", [True, False])
def test_whether_a_rule_applies_is_said_by_a_field(message, applies):
    skipped = reach_case("f", "main", S, message, applies=applies)
    sides = (job("s", "a", {"job": P}), skipped), (job("s", "b", {"job": P}), reach_case("f", "main", F, "ran 0 times"))
    made = [dataclasses.replace(side, cases=(*side.cases, case)) for side, case in sides]
    told = cell(compare(run_of(*made)), "reach: f (main)")
    assert told.verdict is (Verdict.UNKNOWN if applies else Verdict.REGRESSED)
