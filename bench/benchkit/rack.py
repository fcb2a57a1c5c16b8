"""Simulated hosts for `hosts_plan`: the real program as the controller, and workers whose jobs only sleep.

    python rack.py controller FOLDER JOBS HOSTS SLOTS MEAN_S WHO     a run on so many hosts; WHO places: lab or dask
    python rack.py hosts SCHEDULER TLS SLOTS NAME...                 their workers, in one process

The last line of the controller's standard error has: seconds of the jobs' phase, processor seconds, peak of MiB, the
sum and the longest of what the jobs slept, and how many jobs there are results of.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
import random
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

CLONE = Path(__file__).parents[2]
sys.path[:0] = [str(CLONE), str(CLONE / "bench")]

DURATIONS = (
    0.31, 0.44, 0.52, 0.6, 0.66, 0.71, 0.77, 0.82, 0.86, 0.9, 0.95, 1.0, 1.04, 1.1, 1.16, 1.25, 1.36, 1.5, 1.9, 2.15,
)  # fmt: skip
"""What jobs take, in terms of their mean: a spread as that of a lab's scenarios, most near it and few twice as long."""
GROUP = 25
"""Hosts in one process."""


def seconds_of(job: str, mean_s: float) -> float:
    """Return what a job sleeps: the same in every process."""
    return random.Random(job).choice(DURATIONS) * mean_s


class Launched:
    """A simulated host that runs until its process ends."""

    def ended(self) -> None:
        """It does not."""

    def stop(self) -> None:
        """Leave it to the end of its process."""


class Processes:
    """The processes that have the simulated hosts."""

    def __init__(self, folder: Path, names: list[str], slots: int) -> None:
        self._folder, self._slots, self._lock = folder, slots, threading.Lock()
        self._groups = [names[at : at + GROUP] for at in range(0, len(names), GROUP)]
        self.children: list[subprocess.Popen[bytes]] = []

    def start(self, scheduler: str, identity: Any) -> Launched:
        """Start all of them, once."""
        with self._lock:
            if not self.children:
                identity.write(self._folder / "tls")
                for group in self._groups:
                    words = [
                        sys.executable,
                        __file__,
                        "hosts",
                        scheduler,
                        str(self._folder / "tls"),
                        str(self._slots),
                        *group,
                    ]
                    self.children.append(subprocess.Popen(words))
        return Launched()

    def close(self) -> None:
        """End them."""
        for child in self.children:
            child.kill()
            child.wait()


@dataclasses.dataclass
class Simulated:
    """A launcher of a host that is simulated."""

    name: str
    processes: Processes
    cache: str
    shares: bool = False
    share: str = ""
    cpus: int = 0
    memory_mib: int = 0

    def face(self) -> str:
        """Return the loopback."""
        return "127.0.0.1"

    def start(self, scheduler: str, identity: Any) -> Launched:
        """Start it, and all others."""
        return self.processes.start(scheduler, identity)


def controller(folder: Path, jobs: int, hosts: int, slots: int, mean_s: float, who: str) -> None:
    """Run, and print."""
    from benchkit import pretended
    from kpatchlab.run import session, stages
    from kpatchlab.run.cluster.executor import HostsExecutor
    from kpatchlab.run.cluster.members import Member, Seat
    from kpatchlab.run.executor import Room, Weight

    os.environ["KPATCHLAB_CACHE"] = str(folder / "cache")
    os.environ["PATH"] = f"{folder / 'bin'}:{os.environ['PATH']}"
    pretended.lay_out(folder, jobs, settles=True)
    pretended.pretend(folder, stages)
    os.chdir(folder / "lab")
    names = [f"host{number:03}" for number in range(hosts)]
    processes = Processes(folder, names, slots)
    slept: list[float] = []
    began: list[float] = []

    ended: list[tuple[float, float]] = []

    class Timed(HostsExecutor):
        """Notes when the first job is submitted, when the last one has ended, and what each sleeps."""

        def submit(self, task: Any, *words: Any, **named: Any) -> Any:
            began[:] = began or [time.monotonic()]
            slept.append(seconds_of(task.spec.id, mean_s))
            return super().submit(task, *words, **named)

        def shutdown(self) -> None:
            ended[:] = ended or [(time.monotonic(), cpu_s())]
            super().shutdown()

    class DaskPlaces(Timed):
        """Gives Dask all jobs at once, and lets it decide where each runs."""

        anywhere = Member(Seat("anywhere", "", 1 << 20), Room(Weight(1 << 30, 1 << 30, 1 << 40)))

        def _start(self) -> None:
            self._due = False
            while (queued := self._queue.pop(lambda _: True)) is not None:
                if queued.future.set_running_or_notify_cancel():
                    self._play_on(queued, self.anywhere)

        def __init__(self, *words: Any, **named: Any) -> None:
            super().__init__(*words, **named)
            client: Any = self._mail._client  # noqa: SLF001
            self._mail.submit = lambda key, _seat, work, *more: client.submit(  # type: ignore[method-assign]
                work, *more, key=key, pure=False, retries=0
            )

    def executor(_: Any, host: Any) -> HostsExecutor:
        launchers = [Simulated(name, processes, str(folder / "hosts" / name)) for name in names]
        made = (DaskPlaces if who == "dask" else Timed)(host, launchers)
        while len(made._members) < hosts:  # noqa: SLF001 - the start of the hosts is no part of the plan
            time.sleep(0.1)
        began_cpu.append(cpu_s())
        return made

    began_cpu: list[float] = []
    vars(session).update(executor_of=executor)
    from kpatchlab.cli import main as lab

    try:
        with contextlib.suppress(SystemExit):
            lab(["run"])
    finally:
        processes.close()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    found = len(list((folder / "lab/results").glob("2*/jobs/*.json")))
    figures = (ended[0][0] - began[0], ended[0][1] - began_cpu[0], peak, sum(slept), max(slept), found)
    sys.stderr.write("\n" + " ".join(f"{figure:.3f}" for figure in figures) + "\n")


def cpu_s() -> float:
    """Return the processor time of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def simulated(scheduler: str, tls: Path, slots: int, names: list[str]) -> None:
    """Serve as some hosts."""
    import dask

    from kpatchlab.model import Outcome
    from kpatchlab.run.cluster import place, settings
    from kpatchlab.run.cluster.certificates import Identity
    from kpatchlab.run.cluster.worker import Served
    from kpatchlab.run.executor import UNLIMITED, Weight, infra

    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    mean_s = float(os.environ["KPATCHLAB_MEAN_S"])

    def sleep(task: Any, _: Any) -> Any:
        seconds = seconds_of(task.spec.id, mean_s)
        time.sleep(seconds)
        result = infra(task.spec, RuntimeError(""))
        return dataclasses.replace(result, outcome=Outcome.PASS, message="", cases=(), duration_s=seconds)

    room = Weight(UNLIMITED, slots, UNLIMITED)
    version = place.version_of(CLONE / "kpatchlab")  # the same for all of them
    vars(place).update(run_job=sleep, room_here=lambda _: room, version_of=lambda _: version)
    identity = Identity.read(tls)

    async def serve() -> None:
        await asyncio.gather(*(Served(scheduler, name, identity, slots).serve() for name in names))

    with dask.config.set(settings.WORKER):
        asyncio.run(serve())


def main() -> None:
    """Be one of both."""
    kind, *words = sys.argv[1:]
    if kind == "controller":
        os.environ["KPATCHLAB_MEAN_S"] = words[4]
        controller(Path(words[0]), int(words[1]), int(words[2]), int(words[3]), float(words[4]), words[5])
    else:
        simulated(words[0], Path(words[1]), int(words[2]), words[3:])


if __name__ == "__main__":
    main()
