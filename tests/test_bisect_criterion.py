"""Verdicts: what makes a commit a bad one, and what must never; what a stored run says about a failure."""

from __future__ import annotations

import dataclasses

import pytest

from kpatchlab.bisect import commits, from_run, gitlog
from kpatchlab.bisect.criterion import Criterion, check, judge_build, judge_jobs, narrowed
from kpatchlab.bisect.loop import Loop, Mark, Phase, ProbeResult
from kpatchlab.errors import UserError
from kpatchlab.model import BuildResult, Case, CaseKind, Metric, ModuleFailure, Outcome
from tests import sample_run

P, F = Outcome.PASS, Outcome.FAIL
CASE = Criterion("case", ("nfs",), case="read back whole")
BROKEN = BuildResult("k", P, module_failures=(ModuleFailure("siw", "drivers/siw.c", 3, "error: no", "log", ("rdma",)),))
BLOCKED = BuildResult("k", Outcome.BLOCKED, error="expected ';'", error_file="net/core/skbuff.c", error_line=7)


def job(cases, **more):
    return sample_run.job("nfs", "bisect", cases, **more)


@pytest.mark.parametrize(
    ("made", "verdict"),
    [
        (job({"read back whole": P}), Mark.GOOD),
        (job({"read back whole": F}), Mark.BAD),
        (job({"read back whole": P, "write": F}), Mark.GOOD),  # another case is not the one that is sought
        (job({"write": P}), Mark.SKIP),  # it did not get there
        (job({"write": P}, outcome=Outcome.CRASH, splats=(sample_run.SPLAT,)), Mark.SKIP),
        (job({"read back whole": Outcome.SKIP}), Mark.SKIP),
        (job({}, outcome=Outcome.BLOCKED, message="module siw did not build"), Mark.SKIP),
        (job({"read back whole": F}, outcome=Outcome.INFRA, message="no QEMU"), Mark.INFRA),
    ],
)
def test_a_case_that_is_sought(made, verdict):
    assert judge_jobs(CASE, [made]).verdict is verdict


def test_a_guest_that_does_not_come_up_is_tried_again_before_it_is_skipped():
    lost = dataclasses.replace(job({}, outcome=Outcome.CRASH, message="preparation: panic: IO-APIC"), guests=())
    for criterion in (
        CASE,
        Criterion("case", ("nfs",), sought=("nfs: read back whole",)),
        Criterion("splat", ("nfs",)),
    ):
        assert judge_jobs(criterion, [lost]).verdict is Mark.INFRA
    blocked = dataclasses.replace(lost, outcome=Outcome.BLOCKED)
    assert judge_jobs(CASE, [blocked]).verdict is Mark.SKIP
    loop = Loop(commits.line(8))
    for _ in range(2):
        assert "c4" not in loop.search.skipped
        loop.tell(ProbeResult("c4", Mark.INFRA, Phase.SEARCH))
    assert "c4" in loop.search.skipped


@pytest.mark.parametrize("outcome", [o for o in Outcome if not o.is_bad])
def test_what_is_no_kernels_fault_is_never_bad(outcome):
    for kind in ("case", "splat"):
        criterion = Criterion(kind, ("nfs",), fingerprint="a" * 12 if kind == "splat" else "")
        assert judge_jobs(criterion, [job({}, outcome=outcome)]).verdict is not Mark.BAD


def test_a_splat_is_bad_by_its_fingerprint_alone():
    crashed = job({"write": P}, outcome=Outcome.CRASH, splats=(sample_run.SPLAT,), message="oops")
    sought = Criterion("splat", ("nfs",), fingerprint=sample_run.SPLAT.fingerprint)
    judged = judge_jobs(sought, [crashed])
    assert (judged.verdict, judged.reason) == (Mark.BAD, sample_run.SPLAT.title)
    assert judged.details == sample_run.SPLAT.decoded
    other = dataclasses.replace(sought, fingerprint=sample_run.HUNG.fingerprint)
    assert judge_jobs(other, [crashed]).verdict is Mark.SKIP
    assert judge_jobs(sought, [job({"write": F})]).verdict is Mark.GOOD


def test_what_the_bad_end_showed_is_what_is_sought():
    shown = judge_jobs(Criterion("case", ("nfs",)), [job({"write": F, "mount": P})])
    criterion = narrowed(Criterion("case", ("nfs",)), [shown.signatures])
    assert judge_jobs(criterion, [job({"write": F, "mount": F})]).verdict is Mark.BAD
    assert judge_jobs(criterion, [job({"write": P, "mount": F})]).verdict is Mark.GOOD
    assert judge_jobs(criterion, [job({"mount": F})]).verdict is Mark.SKIP


def test_a_build_that_fails_is_bad_only_where_it_is_sought():
    assert judge_build(CASE, BLOCKED).verdict is Mark.SKIP
    assert judge_build(CASE, BROKEN) is None
    any_build = Criterion("build")
    first = judge_build(any_build, BROKEN)
    assert (first.verdict, first.reason) == (Mark.BAD, "drivers/siw.c:3: error: no")
    sought = narrowed(any_build, [first.signatures])
    assert judge_build(sought, BLOCKED).verdict is Mark.SKIP
    assert judge_build(sought, BuildResult("k", P)).verdict is Mark.GOOD
    module = Criterion("build", module="rdma")
    assert judge_build(module, BROKEN).verdict is Mark.BAD
    assert judge_build(module, BLOCKED).verdict is Mark.SKIP
    assert judge_build(any_build, BuildResult("k", Outcome.INFRA, error="disk full")).verdict is Mark.INFRA


@pytest.mark.parametrize(("direction", "value", "bad"), [("higher", 80, 1), ("lower", 80, 0), ("lower", 125, 1)])
def test_a_figure_is_held_against_the_good_end_beside_it(direction, value, bad):
    criterion = Criterion("metric", ("nfs",), metric="speed", bound=1.1)
    made = [job({"write": P}, metrics=(Metric("speed", v, "MB/s", direction),)) for v in (value, 100)]
    assert judge_jobs(criterion, made[:1], made[1:]).verdict is (Mark.BAD if bad else Mark.GOOD)
    assert judge_jobs(criterion, [job({"write": F})], made[1:]).verdict is Mark.SKIP


def test_criteria_that_say_too_little_are_refused():
    with pytest.raises(UserError, match="which scenario"):
        check(Criterion("case"), {})
    with pytest.raises(UserError, match="there is no scenario old") as caught:
        check(Criterion("case", ("old",)), {"new": 1})
    assert "renamed" in caught.value.hint
    with pytest.raises(UserError, match="a factor above 1"):
        check(Criterion("metric", ("new",), metric="speed", bound=0.9), {"new": 1})


def test_a_stored_run_fills_in_the_question():
    found = from_run.find(sample_run.sample(), "nfs: O_DIRECT read at odd offset")
    assert (found.kernel, found.base, found.placement) == ("with", "without", {})
    assert found.criterion == Criterion(
        "case", ("nfs",), {"transport": "tcp", "vers": "4.2"}, "O_DIRECT read at odd offset", case_kind=CaseKind.CHECK
    )
    crash = from_run.find(sample_run.sample(), "cifs-ksmbd")
    assert (crash.criterion.case, crash.criterion.fingerprint) == ("", sample_run.SPLAT.fingerprint)


def test_what_a_stored_run_does_not_show_is_refused():
    with pytest.raises(UserError, match=r"nothing in run .* that fails is 'nothing'") as caught:
        from_run.find(sample_run.sample(), "nothing")
    assert "nfs: O_DIRECT read at odd offset" in caught.value.hint
    with pytest.raises(UserError, match="on the base without as well"):
        from_run.find(sample_run.sample(), "splice with MSG_MORE")
    with pytest.raises(UserError, match="on the base without as well"):
        from_run.find(sample_run.sample(), "af-alg")


def test_a_log_of_gits_is_read_with_its_faults_named():
    text = "git bisect start '--first-parent' 'b1' 'g1' -- 'net' 'mm'\n# good: [x] y\ngit bisect skip s1 s2\n"
    read = gitlog.read(text, "log")
    assert (read.bad, read.good, read.skip, read.paths) == (("b1",), ("g1",), ("s1", "s2"), ("net", "mm"))
    with pytest.raises(UserError, match="log:2: not a line"):
        gitlog.read("git bisect start\nhello\n", "log")
    with pytest.raises(UserError, match="names no good or no bad"):
        gitlog.read("git bisect start\n", "log")


def jobs_of(**cases):
    """Return jobs of one run: `a` and `b` are the values of a parameter."""
    found = []
    for value, outcomes in cases.items():
        made = job(outcomes)
        found.append(dataclasses.replace(made, params={"vers": value}))
    return found


def test_the_jobs_of_one_run_are_told_apart_by_their_parameters():
    shown = judge_jobs(Criterion("case", ("nfs",)), jobs_of(a={"old": F, "new": P}, b={"old": F, "new": F}))
    assert set(shown.signatures) == {"nfs vers=a: old", "nfs vers=b: old", "nfs vers=b: new"}
    criterion = narrowed(Criterion("case", ("nfs",)), [["nfs vers=b: new"]])
    assert judge_jobs(criterion, jobs_of(a={"new": F}, b={"new": P})).verdict is Mark.GOOD
    assert judge_jobs(criterion, jobs_of(a={"new": P}, b={"new": F})).verdict is Mark.BAD


def test_a_job_that_is_not_asked_tells_nothing():
    blocked = sample_run.job("cifs", "bisect", {}, outcome=Outcome.BLOCKED, message="no module")
    assert judge_jobs(CASE, [blocked, job({"read back whole": P})]).verdict is Mark.GOOD
    assert judge_jobs(CASE, [blocked]).verdict is Mark.SKIP
    crashed = sample_run.job("cifs", "bisect", {}, outcome=Outcome.CRASH, splats=(sample_run.SPLAT,))
    assert judge_jobs(CASE, [crashed, job({"read back whole": P})]).verdict is Mark.SKIP  # it may have had the case
    known = narrowed(CASE, [["nfs: read back whole", "nfs: other"]])
    assert known.sought == ("nfs: read back whole",)
    assert judge_jobs(known, [crashed, job({"read back whole": P})]).verdict is Mark.GOOD
    assert judge_jobs(known, []).verdict is Mark.INFRA


def test_another_splat_than_the_one_shown_tells_nothing():
    splat = f"splat {sample_run.SPLAT.fingerprint}"
    criterion = narrowed(Criterion("case", ("nfs",)), [[splat, "nfs: write"]])
    other = job({"write": F}, outcome=Outcome.CRASH, splats=(sample_run.HUNG,))
    assert judge_jobs(criterion, [other]).verdict is Mark.SKIP
    assert judge_jobs(criterion, [job({"write": F})]).verdict is Mark.BAD


def test_a_figure_is_held_against_that_of_the_same_parameters():
    criterion = Criterion("metric", ("nfs",), metric="speed", bound=1.1)

    def run(**speeds):
        made = jobs_of(**{value: {"write": P} for value in speeds})
        values = speeds.values()
        return [
            dataclasses.replace(one, metrics=(Metric("speed", float(v), "MB/s", "higher"),))
            for one, v in zip(made, values, strict=True)
        ]

    assert judge_jobs(criterion, run(a=100, b=500), run(a=100, b=1000)).verdict is Mark.BAD
    assert judge_jobs(criterion, run(a=100, b=990), run(a=100, b=1000)).verdict is Mark.GOOD


@pytest.mark.parametrize("name", ["jobs are queued", "work is queued", "job: one", "log: rotated", "logs are kept"])
def test_a_check_is_sought_by_itself_however_it_begins(name):
    criterion = Criterion("case", ("nfs",), case=name)
    own = ({"job": F, "log: client": P, "other": F}, {"job": F, "log: client": P, "other": P})
    passes, fails = (plain(job(cases), name, outcome) for cases, outcome in zip(own, (P, F), strict=True))
    assert judge_jobs(criterion, [passes]).verdict is Mark.GOOD
    assert judge_jobs(criterion, [fails]).verdict is Mark.BAD
    assert judge_jobs(criterion, [fails]).signatures == (f"nfs: {name}",)
    assert narrowed(criterion, [[f"nfs: {name}", "nfs: other"]]).sought == (f"nfs: {name}",)
    any_case = Criterion("case", ("nfs",))
    assert f"nfs: {name}" in judge_jobs(any_case, [fails]).signatures


def plain(made, name, outcome):
    """Return a job with one more check, as a script has printed it."""
    return dataclasses.replace(made, cases=(*made.cases, Case(name, outcome)))


@pytest.mark.parametrize("name", ["job", "log: client"])
def test_a_name_that_the_lab_uses_too_means_the_scenarios_own_check(name):
    criterion = Criterion("case", ("nfs",), case=name)
    own = {"job": F, "log: client": P, "other": F}
    assert judge_jobs(criterion, [plain(job(own), name, P)]).verdict is Mark.GOOD
    shown = judge_jobs(criterion, [plain(job(own), name, F)])
    assert shown.verdict is Mark.BAD
    known = narrowed(criterion, [shown.signatures])
    assert known.sought == (f"nfs: {name}",)
    assert judge_jobs(known, [plain(job(own), name, P)]).verdict is Mark.GOOD
    assert judge_jobs(known, [job(own)]).verdict is Mark.SKIP  # its script did not get there
    assert judge_jobs(known, [job({"job": P, "log: client": P})]).verdict is Mark.SKIP


@pytest.mark.parametrize("name", ["job", "log: client"])
def test_the_labs_own_job_and_logs_mean_whatever_fails(name):
    criterion = Criterion("case", ("nfs",), case=name)
    shown = judge_jobs(criterion, [job({"job": (F, "write: x"), "log: client": P, "write": (F, "x"), "read": P})])
    assert (shown.verdict, shown.signatures) == (Mark.BAD, ("nfs: write",))
    known = narrowed(criterion, [shown.signatures])
    assert known.sought == ("nfs: write",)
    assert judge_jobs(known, [job({"job": F, "log: client": P, "write": P, "read": F})]).verdict is Mark.GOOD


def run_with(*more):
    """Return the sample with these checks, in a scenario that passes on the base and fails with the series."""
    made = [
        sample_run.job("queue", column, {"job": outcome, "log: client": P}, roles=("client",))
        for column, outcome in (("without", P), ("with", F))
    ]
    jobs = [plain(plain(one, "fine", P), name, P if one.column == "without" else F) for one in made for name in more]
    return dataclasses.replace(sample_run.sample(), jobs=tuple(jobs))


@pytest.mark.parametrize("name", ["jobs are queued", "log: rotated", "job", "log: client"])
def test_a_stored_run_names_a_check_that_begins_like_the_labs(name):
    found = from_run.find(run_with(name), f"queue: {name}").criterion
    assert (found.case, found.case_kind) == (name, CaseKind.CHECK)
    whole = from_run.find(run_with(name), "queue").criterion
    assert (whole.case, whole.case_kind) == ("", None)


def test_a_rule_of_the_labs_is_sought_as_such_where_a_run_shows_it():
    lost = sample_run.job("queue", "with", {"job": F, "reach: f (client)": (F, "ran 0 times")}, roles=("client",))
    good = sample_run.job("queue", "without", {"job": P, "reach: f (client)": P}, roles=("client",))
    run = dataclasses.replace(sample_run.sample(), jobs=(good, lost))
    criterion = from_run.find(run, "reach: f (client)").criterion
    assert (criterion.case, criterion.case_kind) == ("reach: f (client)", CaseKind.REACH)
    assert judge_jobs(criterion, [plain(good, "reach: f (client)", F)]).verdict is Mark.GOOD
    assert judge_jobs(criterion, [plain(lost, "reach: f (client)", P)]).verdict is Mark.BAD
