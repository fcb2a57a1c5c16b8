"""What runs beside what, and what becomes of a job that raises."""

import threading
from types import SimpleNamespace

import pytest

from kpatchlab.errors import HostError
from kpatchlab.host.host import available_mib
from kpatchlab.model import Outcome
from kpatchlab.plan.jobs import JobSpec
from kpatchlab.run import executor
from kpatchlab.run.executor import EXECUTORS, LocalExecutor, Weight, infra


def spec(name="solo@with#1"):
    return JobSpec(name, "solo", {}, {"main": "with"}, "with", 1, (), "base", "default", 30.0)


def inputs(name="solo@with#1"):
    return SimpleNamespace(spec=spec(name), reproduce=f"kpatchlab run --job {name}")


@pytest.fixture
def host(monkeypatch):
    """A host of two processors and 4000 MiB, of which guests may take 3000."""
    monkeypatch.setattr(executor, "available_mib", lambda: 4000)
    monkeypatch.setattr(executor.os, "sched_getaffinity", lambda pid: {0, 1})


def taken(guests, *weights):
    """Return an executor in which jobs of these weights run, until the test ends."""
    found = LocalExecutor(guests, call=lambda _: None)
    for weight in weights:
        found.submit(inputs(), weight)
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
def test_packs_by_processors_memory_and_guests(host, guests, running, wanted, room):
    assert taken(guests, *running).has_room(wanted) is room


def test_room_comes_back_when_a_job_ends(host):
    local = taken(1, Weight(1, 1, 1024))
    assert not local.has_room(Weight(1, 1, 1024))
    local.release(Weight(1, 1, 1024))
    assert local.has_room(Weight(1, 1, 1024))


def test_one_processor_still_takes_a_pair(monkeypatch):
    monkeypatch.setattr(executor, "available_mib", lambda: 9000)
    monkeypatch.setattr(executor.os, "sched_getaffinity", lambda pid: {0})
    local = taken(None, Weight(1, 1, 512))
    assert local.has_room(Weight(1, 1, 512))
    local.submit(inputs(), Weight(1, 1, 512))
    assert not local.has_room(Weight(1, 1, 512))


def test_jobs_run_side_by_side(host):
    both = threading.Barrier(2, timeout=10)
    local = LocalExecutor(2, call=lambda _: both.wait())
    futures = [local.submit(inputs(), Weight(1, 1, 1)) for _ in range(2)]
    assert sorted(future.result(10) for future in futures) == [0, 1]
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

    result = LocalExecutor(1, call=call).submit(inputs(), Weight(1, 1, 1)).result(10)
    assert (result.outcome, result.message, result.job) == (Outcome.INFRA, message, "solo@with#1")
    assert details in result.cases[0].details
    assert result.reproduce == "kpatchlab run --job solo@with#1"


def test_infra_says_what_it_stood_for():
    result = infra(spec("duo@with#2"), HostError("full"))
    assert (result.scenario, result.column, result.placement) == ("solo", "with", {"main": "with"})


def test_executors_are_listed_by_name():
    assert EXECUTORS["local"] is LocalExecutor


def test_memory_is_read_from_the_kernel():
    assert 100 < available_mib() < 1 << 26
