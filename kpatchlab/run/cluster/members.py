"""The hosts that are there, what each has room for, and which of them gets the next job. Pure.

The lab decides, and not Dask: only the lab knows what a job weighs and what it needs, and Dask gets to know of a job
when it starts at once. So a host that dies costs the jobs that ran there, and one that comes takes work at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from kpatchlab.model import Outcome
from kpatchlab.plan.jobs import Group
from kpatchlab.run import payload
from kpatchlab.run.executor import Queue, Queued, Room, Weight
from kpatchlab.run.task import JobTask


@dataclass(frozen=True, slots=True)
class Seat:
    """A worker as Dask has it.

    Attributes:
        name: its host's.
        address: another one after it came back.
        slots: how many jobs it can run side by side, whatever they take.
    """

    name: str
    address: str
    slots: int


Name = tuple[str, str]
"""Kind and key of an artifact."""


@dataclass(eq=False, slots=True)
class Member:
    """A host whose worker is there.

    Attributes:
        has: artifacts that it need not fetch.
        unfit: why it gets no job for now; "" where it does.
        load: its load average when the last job began there.
    """

    seat: Seat
    room: Room
    has: set[Name] = field(default_factory=set)
    unfit: str = ""
    load: float = 0.0

    @property
    def name(self) -> str:
        """The host's."""
        return self.seat.name

    def takes(self, weight: Weight) -> bool:
        """Whether it has room for a job now."""
        return not self.unfit and self.room.running < self.seat.slots and self.room.fits(weight)


def artifacts_of(task: JobTask) -> frozenset[Name]:
    """Return what a job needs where it runs."""
    found = {*(("root", key) for key in task.roots.values()), *((payload.KIND, key) for key in task.payload)}
    for kernel in task.kernels.values():
        if kernel.build.outcome is Outcome.PASS:
            found |= {("kernel", kernel.build.key), ("initrd", kernel.initrd)}
        found |= {(built.kind, built.key) for built in kernel.tests.values() if built.outcome is Outcome.PASS}
    return frozenset(found)


class Members:
    """The hosts that are there, by name.

    Args:
        size_of: how many bytes an artifact has.
    """

    def __init__(self, size_of: Callable[[Name], int]) -> None:
        self._size_of = size_of
        self._all: dict[str, Member] = {}
        self._pins: dict[Group, str] = {}  # whose figures are compared -> host
        self._homes: dict[Weight, list[Member]] = {}  # those that are large enough for it, else all

    def __iter__(self) -> Iterator[Member]:
        return iter(list(self._all.values()))

    def __len__(self) -> int:
        return len(self._all)

    def get(self, name: str) -> Member | None:
        """Return one that is there."""
        return self._all.get(name)

    def add(self, member: Member) -> None:
        """Have one more."""
        self._all[member.name] = member
        self._homes.clear()

    def remove(self, member: Member) -> None:
        """Have one less."""
        if self._all.get(member.name) is member:
            del self._all[member.name]
            self._homes.clear()

    def width(self, weight: Weight) -> int:
        """Return how many jobs of a weight run side by side where nothing else does; at least 1."""
        return max(1, sum(min(weight.times_in(one.room.total), one.seat.slots) for one in self._all.values()))

    def next(
        self, queue: Queue, lost_on: Callable[[Queued], Sequence[str]] = lambda _: ()
    ) -> tuple[Queued, Member] | None:
        """Take the first job out of the queue that a host has room for, and say which host.

        Args:
            lost_on: names of the hosts that have lost a job; it goes to one of these again where there is no other.
        """
        aside: list[Queued] = []
        try:
            while (queued := queue.pop(self._takes)) is not None:
                homes = self._homes_of(queued, lost_on(queued))
                if able := [one for one in homes if one.takes(queued.weight)]:
                    best = self._best(able, artifacts_of(queued.task))
                    if queued.task.pinned:
                        self._pins[queued.task.spec.group] = best.name
                    return queued, best
                aside.append(queued)
            return None
        finally:
            for queued in aside:
                queue.push(queued)

    def _homes_of(self, queued: Queued, lost_on: Sequence[str]) -> Sequence[Member]:
        """Return the hosts that may have a job: that of its pin, and none that has lost it, where there are others."""
        pinned = self._all.get(self._pins.get(queued.task.spec.group, "")) if queued.task.pinned else None
        if pinned is not None and pinned.name not in lost_on:
            return [pinned]
        large = self._large(queued.weight)
        if not lost_on:
            return large
        others = [one for one in self._all.values() if one.name not in lost_on]
        return [one for one in large if one in others] if others else large

    def _takes(self, weight: Weight) -> bool:
        return any(one.takes(weight) for one in self._large(weight))

    def _large(self, weight: Weight) -> list[Member]:
        if weight not in self._homes:
            everyone = list(self._all.values())
            self._homes[weight] = [one for one in everyone if weight.times_in(one.room.total)] or everyone
        return self._homes[weight]

    def _best(self, able: Sequence[Member], artifacts: frozenset[Name]) -> Member:
        """Return the host that has the fewest bytes to fetch for it; of equals, the one with the most room free."""
        if len(able) == 1:
            return able[0]

        def rank(one: Member) -> tuple[int, float, str]:
            free, total = one.room.free, one.room.total
            busy = 1 - min(free.cpus / max(1, total.cpus), free.memory_mib / max(1, total.memory_mib))
            return sum(map(self._size_of, artifacts - one.has)), busy, one.name

        return min(able, key=rank)
