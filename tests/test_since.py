"""What became of an earlier version's faults, and what is known: pure, on made runs."""

from __future__ import annotations

import dataclasses

import pytest

from kpatchlab.errors import UserError
from kpatchlab.lab.known import Known, KnownIssue
from kpatchlab.model import (
    BuildResult,
    Case,
    JobResult,
    KernelFacts,
    ModuleFailure,
    Outcome,
    Run,
    Splat,
    job_case,
    log_case,
)
from kpatchlab.series.since import Tried, since
from kpatchlab.verdict.compare import compare

OLD = Splat("warning", "WARNING in one", "aaaaaaaaaaaa", "WARNING: one\n")
NEW = Splat("oops", "Oops in two", "bbbbbbbbbbbb", "Oops: two\n")
KERNELS = (KernelFacts("without", "base"), KernelFacts("with", "patched"))
BUILDS = tuple(BuildResult(name, Outcome.PASS, base_key="b", key=name, series=name) for name in ("without", "with"))
BEFORE = Tried("net: both", "v1", "1")


def job(scenario: str, column: str, outcome=Outcome.PASS, *splats: Splat, case=None, message="it differs"):
    went_on = outcome is Outcome.CRASH and all(splat.kind == "warning" for splat in splats)
    case = case or (Outcome.PASS if went_on else outcome if outcome in {Outcome.PASS, Outcome.FAIL} else None)
    said = "" if outcome is Outcome.PASS else message
    cases = (Case("data intact", case, said if case is Outcome.FAIL else ""),) if case else ()
    return JobResult(
        job=f"{scenario}@{column}", scenario=scenario, params={}, column=column, placement={"main": column}, repeat=0,
        outcome=outcome, message=said, cases=(job_case(outcome, said), *cases), splats=splats,
        because=tuple(one.id for one in cases if one.outcome is Outcome.FAIL),
    )  # fmt: skip


def run_of(*jobs: JobResult, builds=BUILDS, complete=True, also=()) -> Run:
    columns = ("without", "with", *also)
    good = tuple(job(name, "without") for name in dict.fromkeys(one.scenario for one in jobs))
    return Run(
        id="2", title="t", started="", duration_s=1.0, complete=complete, base="without", columns=columns,
        kernels=KERNELS, builds=builds, jobs=(*good, *jobs),
    )  # fmt: skip


class Runs:
    """A store of one run."""

    def __init__(self, run: Run | None) -> None:
        self.run = run

    def load(self, wanted: str):
        if self.run is None:
            raise UserError(f"no run {wanted}")
        return self.run, None


def told(now: Run, before: Run | None = None, *issues: KnownIssue):
    return since(compare(now), BEFORE if before else None, Runs(before), Known(issues), "net: both", "v2")


def known(**words) -> KnownIssue:
    return KnownIssue(reason="another tree", **words)


CASE = known(case="solo: *")
FAILED = job("solo", "with", Outcome.FAIL)


def test_nothing_but_what_is_known_is_no_regression():
    now = run_of(FAILED)
    assert compare(now).exit_code == 1
    found = told(now, None, CASE)
    assert (found.exit_code(compare(now)), len(found.known), found.excused) == (0, 1, {"solo"})


@pytest.mark.parametrize(
    ("now", "status"),
    [
        (run_of(FAILED, builds=(BUILDS[0], dataclasses.replace(BUILDS[1], module_failures=(
            ModuleFailure("siw", "siw.c", 3, "error: no"),)))), 1),
        (run_of(FAILED, complete=False), 3),
        (run_of(FAILED, job("duo", "with", Outcome.INFRA)), 3),
        (run_of(FAILED, job("duo", "with", Outcome.FAIL)), 1),
    ],
    ids=["a module does not build", "stopped", "a job was lost", "another scenario fails"],
)  # fmt: skip
def test_what_is_known_excuses_nothing_else(now, status):
    assert told(now, None, CASE).exit_code(compare(now)) == status


def test_a_scenario_is_excused_where_all_that_it_shows_is_known():
    now = run_of(FAILED, job("duo", "with", Outcome.CRASH, OLD), job("trio", "with", Outcome.FAIL))
    issues = (CASE, known(splat=OLD.fingerprint))
    assert told(now, None, *issues).excused == {"solo", "duo"}
    assert told(now, None, CASE).excused == {"solo"}


@pytest.mark.parametrize("splats", [(OLD, NEW), (NEW, OLD)])
def test_a_known_splat_hides_no_other_one_of_the_same_job(splats):
    now = run_of(job("solo", "with", Outcome.CRASH, *splats))
    found = told(now, None, known(splat=OLD.fingerprint), CASE)
    assert (found.known, found.exit_code(compare(now))) == ((), 1)
    both = told(now, None, known(splat=OLD.fingerprint), known(splat=NEW.fingerprint))
    assert (len(both.known), both.exit_code(compare(now))) == (1, 0)


def test_a_known_splat_hides_no_other_one_of_another_job():
    now = run_of(job("solo", "with", Outcome.CRASH, OLD), job("duo", "with", Outcome.CRASH, OLD, NEW))
    assert told(now, None, known(splat=OLD.fingerprint)).known == ()


def test_what_is_known_in_one_column_is_not_in_another():
    mixed = "client=with,server=without"
    now = run_of(FAILED, job("solo", mixed, Outcome.FAIL), also=(mixed,))
    assert told(now, None, known(case="solo: *", column="with")).known == ()
    assert len(told(now, None, CASE).known) == 1


def hung(*splats: Splat) -> JobResult:
    """A job that did not get to its check."""
    return dataclasses.replace(job("solo", "with", Outcome.CRASH, *splats), cases=(job_case(Outcome.CRASH, "hangs"),))


def test_a_known_warning_excuses_no_hang_and_a_known_end_does():
    now = run_of(hung(OLD))
    found = told(now, None, known(splat=OLD.fingerprint), CASE)
    assert (found.known, found.exit_code(compare(now)), found.excused) == ((), 1, set())
    went_on = run_of(job("solo", "with", Outcome.CRASH, OLD))
    assert told(went_on, None, known(splat=OLD.fingerprint)).exit_code(compare(went_on)) == 0
    for end in (NEW, dataclasses.replace(OLD, fatal=True)):
        now = run_of(hung(end))
        assert told(now, None, known(splat=end.fingerprint)).exit_code(compare(now)) == 0


@pytest.mark.parametrize(
    ("now", "news"),
    [
        ((OLD,), ({"still": ("WARNING in one (solo on with)",)})),
        ((OLD, NEW), ({"new": ("Oops in two (solo on with)",)})),
        ((NEW, OLD), ({"new": ("Oops in two (solo on with)",)})),
        ((NEW,), {"new": ("Oops in two (solo on with)",), "fixed": ()}),
    ],
    ids=["the same", "one more", "one more in front", "another one"],
)
def test_a_report_that_was_not_there_before_is_news_and_hides_none(now, news):
    found = told(run_of(job("solo", "with", Outcome.CRASH, *now)), run_of(job("solo", "with", Outcome.CRASH, OLD)))
    assert {"fixed": found.fixed, "still": found.still, "new": found.new} == {
        "fixed": (), "still": (), "new": (), **news
    }  # fmt: skip


def test_one_report_less_is_still_the_same_fault():
    now = run_of(job("solo", "with", Outcome.CRASH, OLD))
    found = told(now, run_of(job("solo", "with", Outcome.CRASH, NEW, OLD)))
    assert (len(found.still), found.new, found.fixed) == (1, (), ())


def test_a_report_that_the_base_makes_too_is_no_news():
    noise = dataclasses.replace(OLD, fingerprint="c" * 12)
    now = run_of(job("solo", "with", Outcome.CRASH, OLD, noise))
    now = dataclasses.replace(now, jobs=(dataclasses.replace(now.jobs[0], splats=(noise,)), *now.jobs[1:]))
    found = told(now, run_of(job("solo", "with", Outcome.CRASH, OLD)))
    assert (len(found.still), found.new) == (1, ())


LESS = (job_case(Outcome.PASS),)
FINE, BAD = job("solo", "with"), job("solo", "with", Outcome.FAIL)


@pytest.mark.parametrize(
    "jobs",
    [
        (FINE, dataclasses.replace(BAD, repeat=1)),
        (BAD, job("solo", "without", Outcome.FAIL)),
        (hung(NEW),),
        (dataclasses.replace(FINE, cases=LESS), dataclasses.replace(job("solo", "without"), cases=LESS)),
    ],
    ids=["flaky now", "bad on both", "not reached", "no such check any more"],
)
def test_what_does_not_pass_for_sure_is_not_fixed(jobs):
    now = run_of(*jobs)
    if jobs[-1].column == "without":
        now = dataclasses.replace(now, jobs=jobs)
    assert told(now, run_of(BAD)).fixed == ()


@pytest.mark.parametrize(("again", "fixed"), [(FINE, 1), (hung(NEW), 0), (job("solo", "with", Outcome.SKIP), 0)])
def test_a_kernel_that_did_not_boot_is_fixed_where_its_job_passes(again, fixed):
    died = dataclasses.replace(OLD, fatal=True)
    log = log_case("main", Outcome.CRASH, died.title, preparing="with")
    before = hung(died)
    skipped = job("solo", "without", Outcome.SKIP)
    first = dataclasses.replace(run_of(), jobs=(skipped, dataclasses.replace(before, cases=(*before.cases, log))))
    assert len(told(run_of(again), first).fixed) == fixed


@pytest.mark.parametrize(
    ("job", "fixed"),
    [
        (job("solo", "with"), 1),
        (job("solo", "with", case=Outcome.SKIP), 0),
        (job("solo", "with", Outcome.SKIP), 0),
        (job("solo", "with", Outcome.BLOCKED), 0),
        (job("solo", "with", Outcome.INFRA), 0),
        (job("duo", "with"), 0),
    ],
    ids=["passes", "check skipped", "skipped", "blocked", "lost", "not run"],
)
def test_fixed_is_what_ran_again_and_passes(job, fixed):
    assert len(told(run_of(job), run_of(FAILED)).fixed) == fixed


def test_a_splat_is_fixed_where_all_that_showed_it_ran_again():
    before = run_of(job("solo", "with", Outcome.CRASH, OLD), job("duo", "with", Outcome.CRASH, OLD))
    assert len(told(run_of(job("solo", "with"), job("duo", "with")), before).fixed) == 1
    assert told(run_of(job("solo", "with"), job("duo", "with", Outcome.SKIP)), before).fixed == ()


def test_a_fault_that_other_parameters_showed_is_still_the_same():
    def of(vers):
        names = ("without", "with")
        return tuple(
            dataclasses.replace(
                job("nfs", name, Outcome.FAIL if name == "with" and vers in bad else Outcome.PASS),
                job=f"nfs+vers={vers}@{name}",
                params={"vers": vers},
            )
            for name in names
        )

    bad = {"3", "4"}
    before = dataclasses.replace(run_of(), jobs=(*of("3"), *of("4")))
    bad = {"4"}
    now = dataclasses.replace(run_of(), jobs=(*of("3"), *of("4")))
    found = told(now, before)
    assert (len(found.still), found.new, found.fixed) == (1, (), ())
