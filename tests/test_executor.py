"""What runs beside what, and what becomes of a job that raises."""

import contextlib
import threading
import time
from concurrent.futures import wait
from types import SimpleNamespace

import pytest

from kpatchlab.errors import HostError
from kpatchlab.host.host import available_mib
from kpatchlab.model import Outcome
from kpatchlab.plan.jobs import JobSpec
from kpatchlab.run import executor
from kpatchlab.run.executor import LocalExecutor, Weight, infra


def spec(name="solo@with#1"):
    return JobSpec(name, "solo", {}, {"main": "with"}, "with", 1, (), "base", "default", 30.0)


def task(name="solo@with#1"):
    return SimpleNamespace(spec=spec(name))


def executor_with(call, guests=None):
    """Return an executor that has each job's result from `call(task)`."""
    cache = SimpleNamespace(scratch=lambda name: None, using=lambda folder: contextlib.nullcontext())
    host = SimpleNamespace(cache=cache)
    return LocalExecutor(host, guests, lambda task, here: call(task))


@pytest.fixture
def host(monkeypatch):
    """A host of two processors and 4000 MiB, of which guests may take 3000."""
    monkeypatch.setattr(executor, "available_mib", lambda: 4000)
    monkeypatch.setattr(executor.os, "sched_getaffinity", lambda pid: {0, 1})


ONE = Weight(1, 1, 1)


def submit(local, weight=ONE, priority=0, name="solo@with#1", cancel=None, started=lambda *_: None):
    return local.submit(task(name), weight, priority, cancel=cancel or threading.Event(), started=started)


@pytest.fixture
def held():
    """A call that does not return until its event is set."""
    over = threading.Event()
    yield over
    over.set()


def taken(held, guests, *weights):
    """Return an executor in which jobs of these weights run, until the test ends."""
    found = executor_with(lambda _: held.wait(20), guests)
    for weight in weights:
        assert submit(found, weight).running()
    return found


@pytest.mark.parametrize(
    ("guests", "running", "wanted", "room"),
    [
        (None, [], Weight(9, 9, 99_999), True),  # alone: whatever it is
        (None, [Weight(1, 1, 1024)], Weight(1, 1, 1024), True),
        (None, [Weight(1, 1, 1024)], Weight(2, 2, 1024), False),  # processors
        (None, [Weight(1, 1, 2000)], Weight(1, 1, 1001), False),  # memory
        (None, [Weight(1, 1, 2000)], Weight(1, 1, 1000), True),
        (1, [Weight(1, 1, 1024)], Weight(1, 1, 1), False),  # guests, as limited
        (4, [Weight(2, 2, 512)], Weight(2, 2, 512), True),  # a limit of guests stands in place of processors
        (4, [Weight(2, 2, 512)], Weight(2, 2, 2800), False),
        (3, [Weight(2, 2, 512)], Weight(2, 2, 512), False),
    ],
)
def test_packs_by_processors_memory_and_guests(host, held, guests, running, wanted, room):
    assert submit(taken(held, guests, *running), wanted).running() is room


def test_room_comes_back_when_a_job_ends(host, held):
    local = taken(held, 1, Weight(1, 1, 1024))
    waits = submit(local, Weight(1, 1, 1024))
    assert not waits.running()
    held.set()
    assert waits.result(10).result is True


def test_one_processor_still_takes_a_pair(monkeypatch, held):
    monkeypatch.setattr(executor, "available_mib", lambda: 9000)
    monkeypatch.setattr(executor.os, "sched_getaffinity", lambda pid: {0})
    local = taken(held, None)
    assert submit(local, Weight(1, 1, 512)).running()
    assert submit(local, Weight(1, 1, 512)).running()
    assert not submit(local, Weight(1, 1, 512)).running()


@pytest.mark.parametrize(
    ("guests", "weight", "width"),
    [
        (None, Weight(1, 1, 1000), 2),
        (None, Weight(1, 1, 2000), 1),
        (None, Weight(9, 9, 9999), 1),
        (5, Weight(2, 2, 9), 2),
    ],
)
def test_width_is_how_many_run_side_by_side(host, guests, weight, width):
    assert executor_with(None, guests).width(weight) == width


def test_highest_priority_that_fits_goes_first(host, held):
    ends = threading.Event()
    local = executor_with(lambda given: (ends if given.spec.id == "ends" else held).wait(20), 2)
    submit(local, name="stays")
    first = submit(local, name="ends")
    low, pair = submit(local, priority=-9), submit(local, Weight(2, 2, 1), priority=5)
    high, later = submit(local, priority=1), submit(local, priority=1)
    ends.set()
    first.result(10)
    assert [future.running() for future in (pair, high, later, low)] == [False, True, False, False]


def test_queue_goes_by_priority_and_then_by_turn(host):
    order, first = [], threading.Event()
    local = executor_with(lambda given: first.wait(20) and order.append(given.spec.id), 1)
    futures = [submit(local, name="runs")]
    for name, priority in (("c", -2), ("a", 0), ("d", -2), ("b", -1)):
        futures.append(submit(local, Weight(1, 1, 7 if name == "b" else 1), priority, name))
    first.set()
    wait(futures, 20)
    assert order == ["runs", "a", "b", "c", "d"]


def test_tells_when_a_job_really_starts(host, held):
    told = []
    local = taken(held, 1, Weight(1, 1, 1))
    waits = submit(local, started=lambda *_: told.append("now"))
    assert told == []
    held.set()
    waits.result(10)
    assert told == ["now"]


def test_what_has_not_begun_is_cancelled(host, held):
    cancel = threading.Event()
    local = taken(held, 1, Weight(1, 1, 1))
    waits = [submit(local, cancel=cancel) for _ in range(3)]
    other = submit(local)
    cancel.set()
    held.set()
    assert all(future in wait(waits, 10).done and future.cancelled() for future in waits)
    assert other.result(10).result is True


def test_shutdown_ends_the_queue_and_waits_for_what_runs(host):
    going, order = threading.Event(), []

    def call(_):
        going.set()
        time.sleep(0.2)
        order.append("ended")

    local = executor_with(call, 1)
    runs, waits = submit(local), submit(local)
    assert going.wait(10)
    with local:
        pass
    assert (runs.done(), waits.cancelled(), order) == (True, True, ["ended"])


def test_an_interrupt_in_a_job_is_the_submitters(host):
    def call(_):
        raise KeyboardInterrupt

    with executor_with(call, 1) as local:
        futures = [submit(local), submit(local)]
        for future in futures:
            with pytest.raises(KeyboardInterrupt):
                future.result(10)


def test_jobs_run_side_by_side(host):
    both = threading.Barrier(2, timeout=10)
    local = executor_with(lambda _: both.wait(), 2)
    futures = [submit(local) for _ in range(2)]
    assert sorted(future.result(10).result for future in futures) == [0, 1]
    local.shutdown()


@pytest.mark.parametrize(
    ("error", "message", "details"),
    [
        (HostError("no QEMU", hint="install it"), "no QEMU", "install it"),
        (ValueError("odd"), "ValueError: odd", "Traceback"),
    ],
)
def test_whatever_a_job_raises_is_infra(host, error, message, details):
    def call(_):
        raise error

    result = submit(executor_with(call, 1)).result(10).result
    assert (result.outcome, result.message, result.job) == (Outcome.INFRA, message, "solo@with#1")
    assert details in result.cases[0].details


def test_infra_says_what_it_stood_for():
    result = infra(spec("duo@with#2"), HostError("full"))
    assert (result.scenario, result.column, result.placement) == ("solo", "with", {"main": "with"})


def test_memory_is_read_from_the_kernel():
    assert 100 < available_mib() < 1 << 26


def test_a_job_that_idles_holds_memory_and_no_slot(host, held):
    begun = []

    def call(task, here):
        begun.append(task.spec.id)
        here.idle()
        held.wait(20)

    cache = SimpleNamespace(scratch=lambda name: None, using=lambda folder: contextlib.nullcontext())
    local = LocalExecutor(SimpleNamespace(cache=cache), 1, call)
    weight = Weight(1, 1, 1000)
    futures = [submit(local, weight, name=f"{number}@with#1") for number in range(4)]
    for _ in range(200):
        if len(begun) == 3:
            break
        time.sleep(0.01)
    time.sleep(0.05)
    assert begun == ["0@with#1", "1@with#1", "2@with#1"]  # three times 1000 MiB is all that there is
    held.set()
    wait(futures)
    assert len(begun) == 4
    assert local._room.free == local._room.total
