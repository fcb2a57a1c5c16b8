"""Counters around a scenario: what is said of a kernel, and what is not, where counting does not start."""

import pytest

from kpatchlab.errors import GuestRefused
from kpatchlab.lab.scenario import Reach
from kpatchlab.model import Outcome
from kpatchlab.run.reach import Counters
from tests.test_job import OOPS, FakeGuest, ended

NEVER = (Reach(function="sock_no_sendpage", max=0),)
FAILED = ended(status=1, stderr=b"sh: write error: Device or resource busy\nreach: cannot start to count\n")


def counters(rules=NEVER, patched=()):
    return Counters("client", rules, lambda _: frozenset(), patched)


def guest(start, read=b""):
    return FakeGuest({"reach": lambda _, argv: start if argv[1] == "start" else read})


@pytest.mark.parametrize(
    ("start", "why"),
    [
        (FAILED, "reach: cannot start to count"),
        (ended(status=-1, signal=9), "status -1"),
        (ended(status=-1, signal=15, timed_out=True), "it took longer than 600 s"),
        (ended(timed_out=True), "it took longer than 600 s"),
    ],
)
def test_counters_that_do_not_start_are_told(start, why):
    with pytest.raises(GuestRefused, match=f"^client: counting did not start: {why}$"):
        counters().start(guest(start))


def test_counters_that_do_not_start_for_a_splat_leave_the_verdict_to_the_log():
    one = guest(FAILED, ended(status=1))
    one.console.bytes += OOPS
    counted = counters()
    counted.start(one)
    _, _, (case,) = counted.read(one)
    assert (case.outcome, case.message) == (Outcome.FAIL, "its count could not be read")


def test_counts_that_judge_nothing_cost_no_job():
    counted = counters(rules=(), patched=("tcp_sendmsg",))
    one = guest(FAILED, ended(status=1))
    counted.start(one)
    _, patched, cases = counted.read(one)
    assert ([count.count for count in patched], cases) == ([-1], [])
