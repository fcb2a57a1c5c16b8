"""Jobs on hosts that are killed, paused, cut off, full, strange, late or added: no job is lost, or counted twice.

Hosts are worker processes of this machine with caches of their own, over real Dask with TLS. Their copy of the package
has a stand-in for `run_job` that does what a job's parameters say, and notes in a journal what began where.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import wait
from functools import partial
from pathlib import Path

import pytest

from kpatchlab.cache import Cache
from kpatchlab.errors import HostError
from kpatchlab.host.host import Host
from kpatchlab.lab.scenario import ScenarioFile
from kpatchlab.model import Outcome
from kpatchlab.plan.jobs import JobSpec
from kpatchlab.run import process
from kpatchlab.run.cluster import executor as cluster
from kpatchlab.run.cluster import launch, settings
from kpatchlab.run.cluster.executor import HostsExecutor
from kpatchlab.run.cluster.launch import Here
from kpatchlab.run.executor import Weight
from kpatchlab.run.task import JobTask
from tests.relay import Relay

PROJECT = Path(__file__).parents[1]
ONE = Weight(1, 1, 16)
STAND_IN = '''

def run_job(task, here):
    """A stand-in: does what the job's parameters say."""
    asked, name = task.spec.params, get_worker().name
    home = Path("{root}")
    with (home / "journal").open("a") as journal:
        journal.write(task.spec.id + " " + name + "\\\\n")
    if asked.get("full") == name and not (home / "emptied").exists():
        raise OSError(28, "No space left on device")
    if "child" in asked:
        proc.spawn(["sleep", "612"])
    if "idle" in asked:
        here.idle()
    end = time.monotonic() + float(asked.get("s", "0"))
    while time.monotonic() < end and not here.cancel.is_set():
        time.sleep(0.05)
    (here.folder / "kept").write_text(name)
    outcome = Outcome.INFRA if here.cancel.is_set() else Outcome.PASS
    return replace(infra(task.spec, HostError("ended early")), outcome=outcome, message="")
'''


def package(root):
    """Return a folder with a copy of the package whose workers have the stand-in."""
    shutil.copytree(PROJECT / "kpatchlab", root / "kpatchlab", ignore=shutil.ignore_patterns("__pycache__"))
    place = root / "kpatchlab/run/cluster/place.py"
    text = place.read_text().replace(
        "from dataclasses import dataclass, field", "from dataclasses import dataclass, field, replace"
    )
    text = text.replace("from kpatchlab.cache import", "from kpatchlab import proc\nfrom kpatchlab.cache import", 1)
    place.write_text(text + STAND_IN.replace("{root}", str(root)).replace("\\\\n", "\\n"))
    return root


class Rack:
    """Some hosts, an executor on them, and what it was given."""

    def __init__(self, root, *launchers, **options):
        self.root, self.started, self.cancel = root, [], threading.Event()
        self.executor = HostsExecutor(Host(Cache(root / "cache"), qemu_choice="host"), launchers, **options)

    def submit(self, count=1, weight=ONE, **params):
        """Submit jobs; returns their futures."""
        first = len(self.started)
        self.started += [0] * count

        def begun(number, host, load):
            self.started[number] += 1

        return [
            self.executor.submit(task(number, params), weight, cancel=self.cancel, started=partial(begun, number))
            for number in range(first, first + count)
        ]

    def pids(self, name=""):
        """Return the workers' processes."""
        return processes(b"kpatchlab.run.cluster.worker", f"--name\0{name}".encode(), str(self.root).encode())

    def journal(self):
        with contextlib.suppress(FileNotFoundError):
            return [tuple(line.split()) for line in (self.root / "journal").read_text().splitlines()]
        return []

    def until(self, done, within_s=60):
        """Wait for something of the journal."""
        end = time.monotonic() + within_s
        while not done(self.journal()):
            assert time.monotonic() < end, self.journal()
            time.sleep(0.05)


def task(number, params):
    params = {name: str(value) for name, value in params.items()}
    spec = JobSpec(f"job{number}@with#1", "solo", params, {"main": "with"}, "with", 1, (), "base", "default", 30.0)
    scenario = ScenarioFile.model_validate({"description": "one", "roles": {"main": {"run": "run.sh"}}})
    return JobTask(spec=spec, scenario=scenario, kernels={}, roots={"x86_64": "r"}, payload=(), accel="tcg")


def processes(*words):
    """Return the processes that have some words in their command line or environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            text = (path / "cmdline").read_bytes() + (path / "environ").read_bytes()
            if all(word in text for word in words):
                found.append(int(path.name))
    return found


def outcomes(futures, within_s=90):
    """Return (outcome, host) of each."""
    assert not wait(futures, within_s).not_done
    return [(future.result().result.outcome, future.result().result.host) for future in futures]


@pytest.fixture
def rack(tmp_path, monkeypatch, recwarn):
    monkeypatch.setattr(process, "PACKAGE", package(tmp_path))
    monkeypatch.setattr(launch, "AGAIN_S", 0.2)
    monkeypatch.setitem(settings.CONTROLLER, "distributed.scheduler.worker-ttl", "2s")
    made = []

    def make(*names, launchers=(), **options):
        here = [Here(name, cache=str(tmp_path / name), cpus=2) for name in names]
        made.append(Rack(tmp_path, *here, *launchers, **options))
        return made[-1]

    yield make
    for one in made:
        one.cancel.set()
        one.executor.shutdown()
        assert not one.pids()
        assert not processes(b"sleep\x00612", str(tmp_path).encode())


def test_jobs_fill_all_hosts_and_come_home_with_their_files(rack):
    lab = rack("one", "two")
    assert lab.executor.width(ONE) in {2, 4}  # the second may not be there yet
    futures = lab.submit(8, s=1)
    assert {outcome for outcome, _ in outcomes(futures)} == {Outcome.PASS}
    assert {host for _, host in outcomes(futures)} == {"one", "two"}
    for future in futures:
        returned = future.result()
        assert (returned.folder / "kept").read_text() == returned.result.host
    assert lab.started == [1] * 8
    assert len(lab.journal()) == 8


def test_a_host_that_is_killed_costs_no_job_and_takes_work_again(rack, recwarn):
    lab = rack("one", "two")
    futures = lab.submit(4, s=3)
    lab.until(lambda seen: len(seen) == 4)
    mine = [name for name, host in lab.journal() if host == "one"]
    (pid,) = lab.pids("one")
    os.kill(pid, signal.SIGKILL)
    assert {outcome for outcome, _ in outcomes(futures)} == {Outcome.PASS}
    again = [name for name, _ in lab.journal()[4:]]
    assert sorted(again) == sorted(mine), "and no other host's job ran twice"
    assert any("host one" in str(warning.message) for warning in recwarn)
    lab.submit(60, s=1)
    lab.until(lambda seen: [host for _, host in seen].count("one") > len(mine))


def test_a_job_that_every_host_loses_is_infra_with_their_names(rack):
    lab = rack("one", "two")
    (future,) = lab.submit(1, s=30)
    for count in range(1, 4):
        lab.until(lambda seen, count=count: len(seen) == count)
        (pid,) = lab.pids(lab.journal()[-1][1])
        os.kill(pid, signal.SIGKILL)
    assert outcomes([future])[0][0] is Outcome.INFRA
    message = future.result().result.message
    assert "lost 3 times, on " in message
    assert "one" in message
    assert "two" in message
    assert len(lab.journal()) == 3


def test_a_host_that_is_paused_is_given_up_and_its_late_word_counts_for_nothing(rack):
    lab = rack("one", "two")
    futures = lab.submit(4, s=4)
    lab.until(lambda seen: len(seen) == 4)
    (pid,) = lab.pids("one")
    os.kill(pid, signal.SIGSTOP)
    try:
        assert set(outcomes(futures)) == {(Outcome.PASS, "two")}
    finally:
        os.kill(pid, signal.SIGCONT)
    before = len(lab.journal())
    assert before == 6
    lab.submit(60, s=1)
    lab.until(lambda seen: "one" in {host for _, host in seen[before:]})  # it comes back by itself
    assert lab.pids("one") == [pid]


class Far(Here):
    """A host behind a relay, which `relay` is."""

    relay: Relay

    def start(self, scheduler, identity):
        self.relay = Relay(int(scheduler.rpartition(":")[2]))
        return super().start(f"tls://127.0.0.1:{self.relay.port}", identity)


def test_a_host_whose_line_is_cut_costs_no_job_and_comes_back(rack, tmp_path):
    far = Far("far", cache=str(tmp_path / "far"), cpus=2)
    lab = rack("near", launchers=[far])
    futures = lab.submit(4, s=2)
    lab.until(lambda seen: len(seen) == 4)
    far.relay.cut()
    assert {outcome for outcome, _ in outcomes(futures)} == {Outcome.PASS}
    before = len(lab.journal())
    lab.submit(60, s=1)
    lab.until(lambda seen: "far" in {host for _, host in seen[before:]})


def test_a_host_whose_line_stalls_is_given_up(rack, tmp_path):
    far = Far("far", cache=str(tmp_path / "far"), cpus=2)
    lab = rack("near", launchers=[far])
    futures = lab.submit(4, s=4)
    lab.until(lambda seen: len(seen) == 4)
    far.relay.stall()
    assert set(outcomes(futures)) == {(Outcome.PASS, "near")}
    far.relay.stall(on=False)


def test_a_host_that_is_full_gets_no_jobs_until_it_has_room(rack, monkeypatch, recwarn, tmp_path):
    monkeypatch.setattr(cluster, "UNFIT_S", 1.0)
    lab = rack("one", "two")
    futures = lab.submit(6, s=1, full="one")
    assert set(outcomes(futures)) == {(Outcome.PASS, "two")}
    assert any("one gets no jobs for now" in str(warning.message) for warning in recwarn)
    (tmp_path / "emptied").touch()
    before = len(lab.journal())
    lab.submit(60, s=1, full="one")
    lab.until(lambda seen: "one" in {host for _, host in seen[before:]})


def test_a_worker_of_another_version_is_refused_with_a_line(rack, tmp_path, monkeypatch, recwarn):
    other = tmp_path / "other"
    shutil.copytree(process.PACKAGE / "kpatchlab", other / "kpatchlab")
    (other / "kpatchlab/run/job.py").write_text("# an older one\n" + (other / "kpatchlab/run/job.py").read_text())

    class Old(Here):
        def start(self, scheduler, identity):
            time.sleep(2)  # the other host's worker has been started from the right place by then
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(process, "PACKAGE", other)
                return super().start(scheduler, identity)

    lab = rack("one", launchers=[Old("old", cache=str(tmp_path / "old"))])
    time.sleep(8)
    assert set(outcomes(lab.submit(4, s=1))) == {(Outcome.PASS, "one")}
    told = [str(warning.message) for warning in recwarn]
    assert sum("host old is not used: its worker has version" in text for text in told) == 1
    assert not lab.pids("old")


def test_no_host_at_all_ends_the_jobs_with_what_is_known(rack, monkeypatch):
    class Never(Here):
        def start(self, scheduler, identity):
            raise HostError("there is no way to it")

    monkeypatch.setattr(cluster, "NOBODY_S", 1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lab = rack(launchers=[Never("never")])
        (future,) = lab.submit(1)
        assert outcomes([future])[0][0] is Outcome.INFRA
    assert "no host is left to run it: host never: there is no way to it" in future.result().result.message


def test_cancel_ends_what_runs_on_every_host(rack):
    lab = rack("one", "two")
    futures = lab.submit(8, s=60)
    lab.until(lambda seen: len(seen) == 4)
    began = time.monotonic()
    lab.cancel.set()
    wait(futures, 20)
    assert time.monotonic() - began < 5
    assert sum(future.cancelled() for future in futures) == 4
    assert {future.result().result.outcome for future in futures if not future.cancelled()} == {Outcome.INFRA}


def test_a_host_that_hangs_does_not_hold_up_a_cancel(rack, monkeypatch):
    monkeypatch.setattr(cluster, "CANCEL_S", 1.0)
    lab = rack("one")
    (future,) = lab.submit(1, s=60)
    lab.until(len)
    (pid,) = lab.pids("one")
    os.kill(pid, signal.SIGSTOP)
    lab.cancel.set()
    assert outcomes([future], 10)[0][0] is Outcome.INFRA
    os.kill(pid, signal.SIGCONT)


def test_jobs_whose_guests_idle_let_others_have_the_processors(rack):
    lab = rack("one")
    futures = lab.submit(4, s=4, idle=1)
    lab.until(lambda seen: len(seen) == 4, 10)
    assert not any(future.done() for future in futures)


CONTROLLER = """\
import sys, threading, time
from pathlib import Path
from tests import test_cluster
root = Path(sys.argv[1])
test_cluster.process.PACKAGE = root

class Free(test_cluster.Here):
    def start(self, scheduler, identity):
        test_cluster.proc_free(self, scheduler, identity)
        return test_cluster.Forever()

lab = test_cluster.Rack(root, Free("one", cache=str(root / "one"), cpus=2))
lab.submit(2, s=600, child=1)
time.sleep(600)
"""


class Forever:
    """A worker that is none of this process's children: another host's."""

    def ended(self):
        return None

    def stop(self):
        pass


def proc_free(launcher, scheduler, identity):
    """Start a worker that no guard of the controller's knows, as on another host."""
    home = Path(launcher.cache).parent / "tls"
    identity.write(home)
    words = ["-m", launch.MODULE, "--scheduler", scheduler, "--name", launcher.name, "--tls", str(home)]
    env = {**os.environ, "PYTHONPATH": f"{process.PACKAGE}:{PROJECT}"}
    subprocess.Popen([sys.executable, *words], env=env, cwd=home, start_new_session=True)


def test_a_controller_that_is_killed_leaves_nothing_on_its_hosts(tmp_path):
    package(tmp_path)
    env = {**os.environ, "PYTHONPATH": str(PROJECT)}
    child = subprocess.Popen([sys.executable, "-c", CONTROLLER, str(tmp_path)], env=env, start_new_session=True)
    ours = str(tmp_path).encode()
    try:
        end = time.monotonic() + 60
        while len(processes(b"sleep\x00612", ours)) < 2 and time.monotonic() < end:
            time.sleep(0.1)
        assert len(processes(b"sleep\x00612", ours)) == 2
    finally:
        child.kill()
        child.wait()
    end = time.monotonic() + 60
    while (left := processes(b"cluster.worker", ours) + processes(b"sleep\x00612", ours)) and time.monotonic() < end:
        time.sleep(0.2)
    assert not left, "within a minute"
