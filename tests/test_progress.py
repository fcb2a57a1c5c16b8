"""Lines for logs, and the live view, without a terminal."""

import dataclasses
import io
import time

import pytest

from kpatchlab import progress
from kpatchlab.model import BuildResult, JobResult, ModuleFailure, Outcome
from kpatchlab.progress import LiveProgress, PlainProgress, built, clock, job_line


def job(outcome=Outcome.PASS, message=""):
    return JobResult(
        job="solo@with#1",
        scenario="solo",
        params={},
        column="with",
        placement={"main": "with"},
        repeat=1,
        outcome=outcome,
        message=message,
        duration_s=3.21,
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (4.24, "4.2 s"), (59.94, "59.9 s"), (59.99, "1 min 00 s"), (200, "3 min 20 s"),
     (3599.6, "1 h 00 min"), (3725, "1 h 02 min")],
)  # fmt: skip
def test_durations_as_people_read_them(seconds, text):
    assert clock(seconds) == text


def test_a_finished_kernel_is_one_line():
    good = BuildResult("with", Outcome.PASS, release="6.12.1", duration_s=200, objects_compiled=10, objects_total=2000)
    assert built(good) == "kernel with: 6.12.1 (built in 3 min 20 s, 10 of 2000 objects compiled)"
    lame = BuildResult(
        "with", Outcome.PASS, release="6.12.1", cached=True, module_failures=(ModuleFailure("siw", "a.c", 1, "x"),)
    )
    assert built(lame) == "kernel with: 6.12.1 (cached, 1 module did not compile)"
    bad = BuildResult("with", Outcome.BLOCKED, error="expected ';'", error_file="net/core.c", error_line=7)
    assert built(bad) == "kernel with: does not build: net/core.c:7: expected ';'"


def test_a_finished_job_is_one_line():
    assert job_line(job()) == "PASS     solo@with#1  3.2 s"
    assert job_line(job(Outcome.CRASH, "BUG: it")) == "CRASH    solo@with#1  3.2 s  BUG: it"


def test_plain_jobs_are_counted():
    out = io.StringIO()
    plain = PlainProgress(out)
    plain.begin(2, {})
    with plain:
        plain.note("a note")
        plain.job_started("solo@with#1")
        plain.job_done(job())
    assert out.getvalue() == "a note\n[1/2] PASS     solo@with#1  3.2 s\n"
    plain.begin(1, {})
    plain.job_done(job())
    assert out.getvalue().endswith("[1/1] PASS     solo@with#1  3.2 s\n"), "another run counts from the beginning"


def test_phases_that_pass_at_once_are_not_printed(monkeypatch):
    monkeypatch.setattr(progress, "PLAIN_AFTER_S", 0.2)
    out = io.StringIO()
    plain = PlainProgress(out)
    plain.stage("kernel with", "source")
    plain.stage_done("kernel with", "")
    plain.stage("kernel without", "source")
    plain.stage("kernel without", "compile", 30, 100)
    time.sleep(0.6)
    plain.stage_done("kernel without", "kernel without: 6.1")
    assert out.getvalue() == "kernel without: compile 30 of about 100 objects\nkernel without: 6.1\n"


def test_nothing_is_said_of_a_phase_after_the_end(monkeypatch):
    monkeypatch.setattr(progress, "PLAIN_AFTER_S", 0.1)
    out = io.StringIO()
    with PlainProgress(out) as plain:
        plain.stage("kernel with", "compile")
    time.sleep(0.4)
    assert out.getvalue() == ""


def test_a_long_phase_is_told_again(monkeypatch):
    monkeypatch.setattr(progress, "PLAIN_EVERY_S", 0.0)
    out = io.StringIO()
    plain = PlainProgress(out)
    plain.stage("kernel with", "compile", 1)
    plain.stage("kernel with", "compile", 2)
    assert out.getvalue() == "kernel with: compile 2 objects\n"


def test_a_reader_that_left_does_not_end_the_run():
    class Broken(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    plain = PlainProgress(Broken())
    plain.note("x")
    plain.job_done(job())


def test_time_left_is_told_when_it_is_known():
    stage = progress._Stage("compile", 50, 100, began=time.monotonic() - 10)
    assert stage.eta_s() == pytest.approx(10, abs=0.5)
    assert "50 of about 100 objects, 10" in progress._stage_text(stage)
    assert progress._Stage("compile", 10, 100, began=time.monotonic() - 10).eta_s() is None  # too early to tell
    assert progress._Stage("compile", 100, 100, began=time.monotonic() - 10).eta_s() is None


@pytest.mark.parametrize("width", [40, 80, 120])
def test_live_view_fits_its_terminal(width):
    from rich.console import Console

    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=True, color_system=None)
    live = LiveProgress(console)
    live.begin(3, {})
    with live:
        live.stage("kernel with", "compile", 30, 100)
        live.stage("root base", "packages")
        live.job_started("nfs-tcp+vers=4.2@client=with,server=without#1")
        live.job_done(job(Outcome.FAIL, "[not markup] " + "x" * 300))
        live.stage_done("kernel with", "kernel with: 6.12 [cached]")
        live.stage_done("root base", "")
        table = live._render()
        console.print(table)
    text = out.getvalue()
    assert "FAIL     solo@with#1" in text
    assert "kernel with: 6.12 [cached]" in text
    assert "1 of 3" in text


def test_each_of_several_hosts_says_what_it_does(monkeypatch):
    from rich.console import Console

    monkeypatch.setattr(progress, "PLAIN_EVERY_S", -1.0)
    out, seen = io.StringIO(), io.StringIO()
    console = Console(file=seen, width=100, force_terminal=True, color_system=None)
    plain, live = PlainProgress(out), LiveProgress(console)
    for shows in (plain, live):
        shows.begin(4, dict.fromkeys(("a#1", "b#1", "c#1", "d#1"), 5.0))
        shows.job_started("a#1", "rack-2", 0.5)
        shows.job_started("b#1", "rack-1", 1.25)
        shows.job_started("c#1", "rack-1", 1.75)
        shows.job_started("b#1", "rack-2", 2.0)  # the other one lost it
        shows.job_done(dataclasses.replace(job(), job="a#1", host="rack-2"))
    last = out.getvalue().splitlines()[-1]
    assert last.startswith("1 of 4 jobs, about ")
    assert last.endswith("; rack-1: 1 run, 0 done, load 1.8; rack-2: 1 run, 1 done, load 2.0")
    console.print(live._render())
    words = [line.split() for line in seen.getvalue().splitlines()[1:]]
    assert [(line[0], line[-1] if line[0] == "job" else line[1]) for line in words[:-1]] == [
        ("host", "rack-1"), ("job", "c#1"), ("host", "rack-2"), ("job", "b#1"),
    ]  # fmt: skip
    assert words[-1][0] == "jobs"


def test_time_left_is_what_was_expected_at_the_pace_so_far(monkeypatch):
    """Two of four jobs are done, in twice the time that they were expected to take: so will the others, by and by."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    out = io.StringIO()
    plain = PlainProgress(out)
    plain.begin(4, {"a": 10.0, "b": 30.0, "c": 20.0, "d": 5.0})
    for name, took in (("a", 20.0), ("b", 60.0)):
        plain.job_started(name)
        now[0] += took
        plain.job_done(dataclasses.replace(job(), job=name, duration_s=took))
    assert out.getvalue().splitlines()[-1] == "2 of 4 jobs, about 35.0 s left"
    plain.stage("kernel with", "compile", 1)
    assert plain._left() == "2 of 4 jobs, about 35.0 s left behind what is built"
    plain.total_jobs = 5
    assert plain._left() == "2 of 5 jobs", "nothing is known of the fifth"


def run_of_jobs(expected, really, at_once):
    """Return (seconds gone, what is told to be left) after each of some jobs that run so many at a time."""
    jobs, now, running, told, done = list(zip(expected, really, strict=True)), 0.0, [], [], []
    while jobs or running:
        while jobs and len(running) < at_once:
            running.append((now, *jobs.pop(0)))
        begun = min(running, key=lambda job: job[0] + job[2])
        now = begun[0] + begun[2]
        running.remove(begun)
        done.append(begun)
        left = progress.time_left(
            expected=sum(want for _, want, _ in done),
            took=sum(took for _, _, took in done),
            running=[(want, now - since) for since, want, _ in running],
            waiting=[want for want, _ in jobs],
            wall=now,
        )
        told.append((now, left))
    return told


@pytest.mark.parametrize("at_once", [1, 2])
@pytest.mark.parametrize("slower", [0.3, 1.0, 3.0])
def test_time_left_gets_better_and_the_first_job_does_not_decide(at_once, slower):
    expected = [60.0] * 40
    really = [60.0 * slower * (6 if n == 0 else 1) for n in range(40)]  # the first one boots, and fills the cache
    told = run_of_jobs(expected, really, at_once)
    whole = told[-1][0]
    wrong = [abs(left - (whole - gone)) / whole for gone, left in told]
    assert wrong[0] < 3.5, "within a few times of what it is, from the first one on"
    assert max(wrong[20:]) < 0.25
    assert max(wrong[30:]) < 0.15


def test_a_job_that_is_late_has_time_left():
    left = progress.time_left(expected=60, took=60, running=[(15.0, 300.0)], waiting=[], wall=360)
    assert left >= 60, "not a nought that lasts"
