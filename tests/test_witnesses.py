"""What a comparison alone can tell: a multiple of the base's time, and a loss that grows with the work."""

import dataclasses

import pytest
from test_compare import run_of

from kpatchlab.model import CaseKind, JobResult, Left, Outcome, Verdict
from kpatchlab.plan.jobs import JobSpec
from kpatchlab.report import FORMATS
from kpatchlab.report.view import View
from kpatchlab.run import leftovers
from kpatchlab.run.again import disturbed, once_more
from kpatchlab.verdict import witnesses
from kpatchlab.verdict.compare import compare


def job(column, guest_s=15.0, left=(), *, repeat=1, turns=1, outcome=Outcome.PASS, cases=()):
    return JobResult(
        job=f"s@{column}#{repeat}", scenario="s", params={}, column=column, placement={"main": column}, repeat=repeat,
        outcome=outcome, cases=cases, guest_s=guest_s, reported=True, turns=turns, left=tuple(left),
    )  # fmt: skip


def pages(*turns, role="main", what="pages"):
    return [Left(role, what, turns)]


def told(*jobs):
    """Return (name, verdict, message) of what a comparison adds."""
    comparison = compare(run_of(*jobs))
    return [
        (row.case, row.cells["b"].verdict, row.cells["b"].message)
        for row in comparison.groups[0].rows
        if row.id.kind in {CaseKind.TIME, CaseKind.LEFT}
    ]


# --- time


def test_a_job_that_takes_a_multiple_is_told_once_it_was_run_again():
    once = [job("a", 15), job("b", 136)]
    assert told(*once) == []
    assert witnesses.doubts({"a": once[:1], "b": once[1:]}, "a") == {
        "b": witnesses.Doubt("it takes 2 min 16 s, and 15.0 s on the base")
    }
    ((name, verdict, message),) = told(*once, job("a", 16, repeat=2), job("b", 130, repeat=2))
    assert (name, verdict) == ("time", Verdict.REGRESSED)
    assert message == "takes 2 min 10 s and more, 8.1 times the 16.0 s that the base takes at most, in 2 runs"


@pytest.mark.parametrize(
    ("base", "here"),
    [
        ((15, 15), (136, 40)),  # the second run says that the host was busy
        ((15, 60), (136, 136)),  # the base can take that long
        ((2, 2), (20, 20)),  # ten times, of nothing
        ((100, 100), (250, 250)),  # as under load
    ],
)
def test_a_job_that_is_not_always_slow_is_not_told(base, here):
    made = [job("a", s, repeat=n) for n, s in enumerate(base, 1)]
    assert told(*made, *(job("b", s, repeat=n) for n, s in enumerate(here, 1))) == []


def test_a_job_that_did_not_end_has_no_time():
    late = job("b", 240, outcome=Outcome.TIMEOUT)
    assert witnesses.doubts({"a": [job("a")], "b": [late]}, "a") == {}


def test_machines_of_two_kinds_are_not_held_against_each_other():
    here = [dataclasses.replace(job("b", 136, pages(5000), repeat=n), mode="time (TCG) on s390x") for n in (1, 2)]
    base = [dataclasses.replace(job("a", 15, repeat=n), mode="time (TCG)") for n in (1, 2)]
    assert witnesses.doubts({"a": base, "b": here}, "a") == {}
    assert told(*base, *here) == []
    same = [dataclasses.replace(one, mode="time (TCG)") for one in here]
    assert [name for name, *_ in told(*base, *same)] == ["time"]


# --- what is left


def test_what_is_left_is_told_where_it_grows_with_each_turn():
    once = [job("a", left=pages(40)), job("b", left=pages(5000))]
    doubt = witnesses.Doubt("it leaves more than on the base: 5000 pages", witnesses.TURNS)
    assert witnesses.doubts({"a": once[:1], "b": once[1:]}, "a") == {"b": doubt}
    assert told(*once) == []
    again = [
        job("a", left=pages(40, 3, 0, 2), repeat=2, turns=4),
        job("b", left=pages(5000, 4803, 4800, 4801), repeat=2, turns=4),
    ]
    assert told(*once, *again) == [
        (
            "left: pages (main)",
            Verdict.REGRESSED,
            "each turn leaves 4797 more than on the base: +5000, +4803, +4800, +4801",
        )
    ]


def test_what_one_column_leaves_is_in_every_report_of_several(tmp_path):
    jobs = [job("a", left=pages(0, 0, 0, 0), turns=4), job("b", left=pages(900, 900, 900, 900), turns=4), job("c")]
    run = run_of(*jobs)
    rows = [row for row in compare(run).groups[0].rows if row.id.kind is CaseKind.LEFT]
    assert [set(row.cells) for row in rows] == [{"a", "b"}]  # c was not held against the base
    for form in FORMATS.values():
        assert form.render(View(run, tmp_path)), form


def test_a_loss_is_told_by_what_was_sent():
    here = job("b", left=pages(5000, 5120, 5120, 5120), turns=4)
    sent = dataclasses.replace(here, sent_bytes=20 << 20, sent_calls=512)
    ((_, _, message),) = told(job("a", turns=4), sent)
    assert message.startswith("each turn leaves 5120 more than on the base (256.0 a MiB, 10 a call): ")


def test_what_a_script_says_of_its_work_is_read():
    assert leftovers.work(b"ok 1 - a\n# sent 12 bytes in 3 calls\n") == (12, 3)
    assert leftovers.work(b"ok 1 - a # sent 12 bytes in 3 calls\n") == (0, 0)


@pytest.mark.parametrize(
    ("base", "here"),
    [
        ((40, 3, 0, 2), (5000, 10, 0, 4)),  # a cache that was filled once
        ((40, 3, 0, 2), (5000, 900, 20, 800)),  # one that is filled now and then
        ((900, 900, 900, 900), (1500, 905, 900, 899)),  # the base loses as much
    ],
)
def test_what_does_not_grow_is_not_told(base, here):
    jobs = [job("a", left=pages(*base), turns=4), job("b", left=pages(*here), turns=4)]
    assert told(*jobs) == []
    assert witnesses.doubts({"a": jobs[:1], "b": jobs[1:]}, "a") == {}  # asked once


def test_every_kind_of_leftover_has_a_limit():
    files = {
        "/proc/meminfo": "MemTotal: 4000 kB\nMemFree: 400 kB\nCached: 400 kB\nVmallocUsed: 40 kB\n",
        "/proc/zoneinfo": "    cpu: 0\n              count: 10\n",
        "/proc/slabinfo": "slabinfo - version: 2.1\n# name <active_objs>\nkmalloc-64 70 100 64 : tunables 0\n"
        "kmalloc-rnd-05-64 4 100 64 : tunables 0\nkmalloc-cg-64 3 100 64 : tunables 0\n",
        "/proc/net/protocols": "protocol size sockets memory press\nTCP 2000 3 5 no\nUNIX 1000 44 -1 NI\n",
        "/proc/modules": "tls 100 2 - Live 0x0\n",
        "/proc/self/mounts": "a / b\nc /d e\n",
        "/proc/net/dev": "head\nhead\nlo: 1\n",
        "/proc/sys/fs/file-nr": "320\t0\t100000\n",
        "/proc/loadavg": "0.00 0.01 0.05 1/77 1234\n",
    }
    found = leftovers.amounts(files)
    assert set(files) == set(leftovers.FILES)
    assert found == {
        "pages": 1000 - 100 - 10 - 100 - 10, "vmalloc pages": 10, "slab kmalloc-64": 77, "sockets TCP": 3,
        "socket pages TCP": 5, "sockets UNIX": 44, "module tls": 2, "mounts": 2, "network devices": 1,
        "open files": 320, "threads": 77,
    }  # fmt: skip
    for what in found:
        assert witnesses.limit_of(what).each > 0


def test_what_is_left_is_the_difference_of_each_turn():
    looks = [
        {"pages": 10.0, "mounts": 2.0},
        {"pages": 15.0, "mounts": 2.0},
        {"pages": 12.0, "mounts": 2.0, "module x": 1},
    ]
    assert leftovers.left("main", looks) == (Left("main", "pages", (5.0, -3.0)), Left("main", "module x", (0.0, 1.0)))


# --- what is run again


@pytest.mark.parametrize(
    ("took", "asked"),
    [
        ({"duration_s": 10.0, "withheld_s": 8.0}, True),
        ({"duration_s": 100.0, "guest_s": 20.0, "withheld_s": 12.0}, True),  # it booted and prepared its guest as well
        ({"duration_s": 100.0, "withheld_s": 12.0}, False),
        ({"duration_s": 9.0, "guest_s": 0.2, "withheld_s": 1.0}, False),
        ({"duration_s": 9.0, "guest_s": 8.0, "withheld_s": 1.0}, False),
        ({"duration_s": 9.0, "beside": ("kernel with",)}, True),
    ],
)
def test_a_bad_job_that_the_host_disturbed_is_run_once_more(took, asked):
    bad = dataclasses.replace(job("b"), outcome=Outcome.FAIL, **{"guest_s": 0.0, **took})
    assert bool(disturbed(bad)) is asked
    assert not disturbed(dataclasses.replace(bad, outcome=Outcome.PASS))


def test_a_doubtful_job_and_its_base_are_run_once_more():
    def spec(column, scenario="s"):
        return JobSpec(f"{scenario}@{column}#1", scenario, {}, {"main": column}, column, 1, (), "base", "default", 10.0)

    plan = [*map(spec, "abc"), spec("a", "other"), spec("b", "other")]
    done = {"s@a#1": job("a"), "s@b#1": job("b", left=pages(5000)), "s@c#1": job("c", 200)}
    more = once_more(plan, done, "a")
    assert [(spec.id, spec.turns, why) for spec, why in more] == [
        ("s@b#2", 4, "it leaves more than on the base: 5000 pages"),
        ("s@c#2", 1, "it takes 3 min 20 s, and 15.0 s on the base"),
        ("s@a#2", 4, "to compare with it"),
    ]
    slow = {**done, "s@c#2": job("c", 200, repeat=2)}
    assert once_more(plan, slow, "a") == more  # a run that goes on asks for the same
    assert once_more(plan, {"s@a#1": job("a"), "s@b#1": job("b")}, "a") == []
