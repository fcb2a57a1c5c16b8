"""Which host gets which job: the fewest bytes to fetch, the most room, its pin, and none that has lost it."""

import threading
from types import SimpleNamespace

from kpatchlab.run.cluster.members import Member, Members, Seat
from kpatchlab.run.executor import Queue, Queued, Room, Weight

SIZES = {("root", "r"): 600, ("payload", "p"): 1}


def member(name, cpus=4, has=(), slots=64):
    return Member(Seat(name, f"tls://{name}", slots), Room(Weight(99, cpus, 9999)), set(has))


def members(*some):
    found = Members(lambda name: SIZES.get(name, 0))
    for one in some:
        found.add(one)
    return found


def queued(number=0, cpus=1, *, pinned=False, payload=("p",), group="solo"):
    task = SimpleNamespace(
        roots={"x86_64": "r"}, payload=payload, kernels={}, pinned=pinned, spec=SimpleNamespace(group=(group, ()))
    )
    return Queued((0, number), task, Weight(1, cpus, 1), threading.Event(), lambda: None)


def placed(hosts, *jobs, lost_on=lambda _: ()):
    """Return where jobs go, one after the other, as long as there is room."""
    queue, names = Queue(), []
    for job in jobs:
        queue.push(job)
    while found := hosts.next(queue, lost_on):
        job, host = found
        host.room.take(job)
        names.append((job.rank[1], host.name))
    return names, len(queue)


def test_a_job_goes_where_its_artifacts_are():
    hosts = members(member("a"), member("b", has=[("root", "r")]), member("c", has=[("payload", "p")]))
    assert placed(hosts, queued())[0] == [(0, "b")]


def test_of_equals_it_goes_where_most_is_free():
    hosts = members(member("a", 2), member("b", 8), member("c", 4))
    assert [name for _, name in placed(hosts, *map(queued, range(14)))[0]].count("b") == 8


def test_what_has_no_room_anywhere_waits():
    hosts = members(member("a", 2), member("b", 2, slots=1))
    names, left = placed(hosts, *map(queued, range(5)))
    assert sorted(name for _, name in names) == ["a", "a", "b"]
    assert left == 2


def test_a_large_job_waits_for_a_host_that_is_large_enough():
    large = member("large", 8)
    hosts = members(member("small", 2), large)
    large.room.take(queued(9, 4))
    assert placed(hosts, queued(0, 6)) == ([], 1)
    assert placed(members(member("small", 2)), queued(0, 6)) == ([(0, "small")], 0)  # there is none: it has to do


def test_a_host_that_lost_a_job_gets_it_again_only_where_there_is_no_other():
    assert placed(members(member("a", 8), member("b", 1)), queued(), lost_on=lambda _: ["a"])[0] == [(0, "b")]
    assert placed(members(member("a", 8)), queued(), lost_on=lambda _: ["a"])[0] == [(0, "a")]
    full = member("b", 1)
    full.room.take(queued(9))
    hosts = members(member("a", 8), full)
    lost = {0: ["a"]}
    assert placed(hosts, queued(0), queued(1), lost_on=lambda job: lost.get(job.rank[1], ())) == ([(1, "a")], 1)


def test_jobs_whose_figures_are_compared_stay_on_one_host():
    hosts = members(member("a", 2), member("b", 2))
    names, left = placed(hosts, *(queued(number, pinned=True) for number in range(4)))
    assert len({name for _, name in names}) == 1
    assert left == 2
    (name,) = {name for _, name in names}
    hosts.remove(hosts.get(name))  # it is lost: the rest goes on elsewhere
    assert placed(hosts, queued(7, pinned=True))[0] == [(7, "b" if name == "a" else "a")]


def test_a_host_that_is_not_fit_gets_nothing():
    bad = member("a", 8)
    bad.unfit = "full"
    assert placed(members(bad, member("b", 1)), queued(), queued(1)) == ([(0, "b")], 1)


def test_width_is_that_of_all_hosts():
    hosts = members(member("a", 2), member("b", 8, slots=3))
    assert hosts.width(Weight(1, 1, 1)) == 5
    assert members().width(Weight(1, 1, 1)) == 1
