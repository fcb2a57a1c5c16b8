"""What every executor must do, held to whole runs of a small lab: in this process, and in others that share nothing.

The workers of the second have a cache of their own, and a copy of the package without the lab: what a job needs comes
by key, and what it leaves comes back with its result. QEMU is pretended, so that scripts really run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from kpatchlab.cache import Cache
from kpatchlab.evidence.splats import find_splats
from kpatchlab.host.host import Host
from kpatchlab.jsonable import to_json
from kpatchlab.lab.file import Jobs
from kpatchlab.lab.load import load
from kpatchlab.model import BuildResult, Outcome
from kpatchlab.plan.jobs import make_plan
from kpatchlab.progress import PlainProgress
from kpatchlab.run import process, stages
from kpatchlab.run.cluster.certificates import Authority
from kpatchlab.run.cluster.executor import HostsExecutor
from kpatchlab.run.cluster.launch import Here, Keeper
from kpatchlab.run.cluster.mailbox import Mailbox
from kpatchlab.run.executor import Room
from kpatchlab.run.executors import EXECUTORS, executor_of
from kpatchlab.run.pipeline import execute
from kpatchlab.run.stages import Settings
from kpatchlab.store.store import Store
from tests import labdir
from tests.test_job import OOPS

PROJECT = Path(__file__).parent.parent
WANTED = {"process": {"cache": "../workers"}}
"""Type of an executor -> its other keys in lab.yaml."""
ONE = "description: one guest\ntimeout_s: 60\nroles: {main: {run: run.sh}}\n"
TWO = "description: two\nroles:\n  server: {setup: up.sh, prepare: [siw]}\n  client: {run: run.sh}\n"
SCENARIOS = {
    "says": {
        "scenario.yaml": ONE + "parameters: {size: ['1', '2']}\nneeds: {modules: [unix], config: [UNIX]}\n",
        "words.j2": "size {{ size }}\n",
        "run.sh": """\
. "$LAB_LIB/ktap.sh"
[ "$(cat words)" = "size $LAB_SIZE" ] && echo "ok 1 - template"
echo "ok 2 - $LAB_ROLE in $LAB_MODE, emulated $LAB_EMULATED"
echo "metric rate $LAB_SIZE MiB/s higher"
echo "a word" >&2
mkdir -p "$LAB_ATTACH/deep" && echo "kept $LAB_SIZE" >"$LAB_ATTACH/deep/file"
printf '[    2.0] done %s\\n' "$LAB_SIZE" >"$LAB_TMP/console"
""",
    },
    "pair": {
        "scenario.yaml": TWO,
        "up.sh": "echo server is up\n",
        "run.sh": 'echo "KTAP version 1"\necho 1..1\necho "not ok 1 - $LAB_ROLE of $LAB_SERVER"\n',
    },
    "oops": {
        "scenario.yaml": ONE,
        "run.sh": 'echo "KTAP version 1"\necho 1..1\ncat oops.txt >"$LAB_TMP/console"\necho "ok 1 - it lives"\n',
        "oops.txt": OOPS.decode(),
    },
    "lacks": {"scenario.yaml": ONE + "needs: {config: [TLS]}\n", "run.sh": "exit 1\n"},
    "dies": {"scenario.yaml": ONE, "run.sh": 'touch "$LAB_TMP/die"\n'},
    "waits": {"scenario.yaml": ONE, "run.sh": "echo here; sleep 50\n"},
}


class Site:
    """A lab with its artifacts, where its jobs run, and what came of them."""

    def __init__(self, root, monkeypatch):
        self.root = root
        self.cluster, self.closing = None, []
        self.lab = dataclasses.replace(load(self._lab(root / "lab")), settle_s=0.0)
        self.host = Host(Cache(root / "cache"), qemu_choice="host")
        self.store = Store(self.lab.results)
        self.out = io.StringIO()
        self.settings = Settings()
        kernel = {"config": "CONFIG_UNIX=y\n", "modules.dep": "", "modules.builtin": "kernel/net/unix/unix.ko\n"}
        for kind, key, files in (
            ("kernel", "key-kernel", kernel), ("root", "key-root", {"packages.txt": "python3\n"}),
            ("initrd", "key-initrd", {}),
        ):  # fmt: skip
            self.host.cache.get(
                kind, key, lambda work, files=files: [labdir.write(work / n, t) for n, t in files.items()]
            )
        build = BuildResult("", Outcome.PASS, key="key-kernel", release="6.1.0-pretended")
        monkeypatch.setattr(process, "PACKAGE", self._package(root / "elsewhere"))
        monkeypatch.setattr(stages, "kernel_key", lambda *_: build.key)
        monkeypatch.setattr(stages, "build_kernel", lambda _, name, *__: dataclasses.replace(build, kernel=name))
        monkeypatch.setattr(stages, "root_image", lambda recipe, ctx: None)
        monkeypatch.setattr(stages, "root_key", lambda *_: "key-root")
        monkeypatch.setattr(stages, "initrd", lambda kernel, ctx: "key-initrd")

    def _package(self, folder):
        """Return a folder with a copy of the package, where no lab is; it leaves a mark where it is used."""
        shutil.copytree(PROJECT / "kpatchlab", folder / "kpatchlab", ignore=shutil.ignore_patterns("__pycache__"))
        with (folder / "kpatchlab/__init__.py").open("a") as handle:
            handle.write("import pathlib\npathlib.Path(__file__).with_name('used').touch()\n")
        return folder

    def _lab(self, root):
        path = labdir.make(root)
        for name in ("solo", "duo"):
            shutil.rmtree(root / "scenarios" / name)
        labdir.write(root / "scenarios/lib/ktap.sh", 'echo "KTAP version 1"\necho "1..2"\n')
        for name, files in SCENARIOS.items():
            for file, text in files.items():
                script = file.endswith(".sh")
                place = root / "scenarios" / name / file
                labdir.write(place, f"#!/bin/sh\n{text}" if script else text, 0o755 if script else 0o644)
        return path

    def executor(self, kind, guests=2):
        """Return one that lab.yaml names."""
        if kind == "hosts":
            workers = [Here(name, cache=str(self.root / "hosts" / name)) for name in ("one", "two")]
            return HostsExecutor(self.host, workers, guests=guests)
        more = self.standing() if kind == "cluster" else WANTED.get(kind, {})
        asked = TypeAdapter(Jobs).validate_python({"type": kind, **more})
        limits = self.lab.limits.model_copy(update={"guests": guests})
        return executor_of(dataclasses.replace(self.lab, executor=asked, limits=limits), self.host)

    def standing(self):
        """Return the keys of a Dask cluster of two workers, which stands until the test ends."""
        if self.cluster is None:
            identity = Authority().issue("cluster")
            identity.write(self.root / "tls")
            self.cluster = Mailbox(identity, "127.0.0.1")
            url = f"tls://127.0.0.1:{self.cluster.port}"
            keepers = [Keeper(Here(name), url, identity, print) for name in ("three", "four")]
            self.closing += [keeper.stop for keeper in keepers] + [keeper.join for keeper in keepers]
            self.closing.append(self.cluster.close)
        files = {"ca": "ca.pem", "certificate": "cert.pem", "key": "key.pem"}
        url = f"tls://127.0.0.1:{self.cluster.port}"
        return {"scheduler": url, **{word: str(self.root / "tls" / name) for word, name in files.items()}}

    def run(self, executor, *choice):
        """Run scenarios on the kernel `without`; returns the run and its folder."""
        plan = make_plan(self.lab, choice=choice, kernels=("without",), repeat=1)
        run_dir = self.store.new_run("t", base=plan.base, columns=plan.columns, command="", version="0")
        progress = PlainProgress(self.out)
        view = execute(self.lab, plan, self.host, run_dir, progress, self.settings, executor)
        return {job.scenario + "".join(job.params.values()): job for job in view.run.jobs}, view.folder


@pytest.fixture
def site(tmp_path, monkeypatch):
    # QEMU gets none of the lab's variables.
    start = f'TMPDIR="{tmp_path / "tmp"}" exec "{sys.executable}" -S -E'
    program = f'#!/bin/sh\n{start} "{Path(__file__).with_name("pretend_qemu.py")}" "$@"\n'
    labdir.write(tmp_path / "bin/qemu-system-x86_64", program, 0o755)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setattr("kpatchlab.run.again.disturbed", lambda _: "")  # by how busy this host is
    monkeypatch.setenv("KPATCHLAB_CACHE", str(tmp_path / "cluster"))  # of a cluster's workers
    found = Site(tmp_path, monkeypatch)
    yield found
    for close in found.closing:
        close()


KINDS = sorted({*EXECUTORS, "hosts"})


@pytest.fixture(params=KINDS)
def executor(request, site):
    with site.executor(request.param) as found:
        yield found


def timeless(value):
    """Return a result as JSON without its times and what the host did meanwhile, which are no two runs' the same."""
    if isinstance(value, dict):
        chance = {"started", "beside", "left", "host"}
        return {k: timeless(item) for k, item in value.items() if k not in chance and not k.endswith("_s")}
    return [timeless(item) for item in value] if isinstance(value, list) else value


def test_every_outcome_is_the_same_wherever_a_job_runs(site):
    found = {}
    for kind in KINDS:
        with site.executor(kind) as executor:
            jobs, _ = site.run(executor, "says", "pair", "oops", "lacks", "dies")
        found[kind] = {name: timeless(to_json(job)) for name, job in jobs.items()}
    first, *others = found.values()
    for other in others:
        assert other == first
    assert {name: job["outcome"] for name, job in first.items()} == {
        "says1": "pass", "says2": "pass", "pair": "fail", "oops": "crash", "lacks": "skip", "dies": "infra",
    }  # fmt: skip


def test_results_are_whole(site, executor):
    jobs, _ = site.run(executor, "says", "oops")
    one, two, oops = jobs["says1"], jobs["says2"], jobs["oops"]
    assert [case.name for case in two.cases] == ["job", "template", "main in time, emulated 1", "log: main"]
    assert [metric.value for metric in (*one.metrics, *two.metrics)] == [1.0, 2.0]
    assert (two.stderr_tail, two.reported, two.mode) == ("a word\n", True, "time (TCG)")
    assert two.reproduce == "kpatchlab run --job says+size=2@without#1"
    assert [splat.fingerprint for splat in oops.splats] == [splat.fingerprint for splat in find_splats(OOPS)]
    assert site.out.getvalue().count("PASS") == 2


def test_a_job_whose_guests_idle_lets_go_of_its_slot(site, executor, monkeypatch):
    idle, freed = Room.idle, []
    monkeypatch.setattr(Room, "idle", lambda self, queued: (freed.append(queued), idle(self, queued)))
    site.run(executor, "says")
    assert not freed, "a job that does not idle keeps it"
    site.lab = dataclasses.replace(site.lab, settle_s=0.1)
    site.run(executor, "says")
    assert len(freed) == 2


def test_files_come_back_with_the_result(site, executor):
    jobs, folder = site.run(executor, "says", "pair")
    job, pair = jobs["says2"], jobs["pair"]
    assert b"done 2" in (folder / job.guests[0].console).read_bytes()
    assert [(folder / name).read_text() for name in job.attachments] == ["kept 2\n"]
    home = (folder / job.guests[0].console).parent
    assert home.parent == folder / "jobs"
    assert b"ok 1 - template" in (home / "main-run.out").read_bytes()
    assert {(folder / guest.console).name for guest in pair.guests} == {"console-server.log", "console-client.log"}
    assert ((folder / pair.guests[0].console).parent / "server-setup.out").read_text() == "server is up\n"
    assert not list((site.host.cache.root / "tmp").glob("job-*"))


def test_a_job_that_cannot_be_had_is_infra_and_others_go_on(site, executor, monkeypatch):
    monkeypatch.setattr(stages, "initrd", lambda kernel, ctx: "key-that-nobody-has")
    jobs, _ = site.run(executor, "lacks", "says")
    assert {job.outcome for job in jobs.values()} == {Outcome.INFRA}
    assert "no initrd key-that-nob" in jobs["says1"].message


def started(site, scenario="waits"):
    """Wait until a guest runs the scenario's script."""
    end = time.monotonic() + 60
    while not list((site.root / "tmp").glob("pretended-*/lab/scenario/run.sh")) and time.monotonic() < end:
        time.sleep(0.1)
    time.sleep(0.5)


def test_cancel_ends_what_runs_and_what_waits(site, executor):
    def stop():
        started(site)
        site.settings.cancel.set()

    stopper = threading.Thread(target=stop)
    stopper.start()
    began = time.monotonic()
    jobs, _ = site.run(executor, "waits", "says", "pair", "oops")
    stopper.join()
    assert "waits" not in jobs  # `run --resume` does it again
    assert all(job.outcome is not Outcome.INFRA for job in jobs.values())
    assert time.monotonic() - began < 50
    gone(site)


def gone(site):
    """Wait until no QEMU and no worker of this test is there any more."""
    end = time.monotonic() + 15
    while (left := processes(b"pretend_qemu.py", site) + processes(b"kpatchlab.run.worker", site)) and (
        time.monotonic() < end
    ):
        time.sleep(0.2)
    assert not left


def processes(word, site):
    """Return the processes of this test that have a word in their command line."""
    found, ours = [], str(site.root).encode()
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if word in (path / "cmdline").read_bytes() and ours in (path / "environ").read_bytes():
                found.append(int(path.name))
    return found


# --- of processes alone


def test_workers_have_what_travels_from_upstream_and_make_the_rest(site):
    with site.executor("process") as executor:
        site.run(executor, "says")
    theirs, ours = Cache(site.root / "workers"), site.host.cache
    assert {entry.kind for entry in theirs.entries()} == {"kernel", "root", "initrd", "payload", "saved"}
    assert {entry.kind for entry in ours.entries()} == {"kernel", "root", "initrd", "payload"}
    assert {(entry.kind, entry.key) for entry in ours.entries()} < {
        (entry.kind, entry.key) for entry in theirs.entries()
    }
    assert (site.root / "elsewhere/kpatchlab/used").exists(), "their own copy of the package ran"
    assert not list((theirs.root / "tmp").glob("job-*"))


def test_saved_guests_have_the_same_keys_in_both_caches(site):
    for kind in KINDS:
        with site.executor(kind) as executor:
            site.run(executor, "says")
    keys = [{e.key for e in Cache(site.root / name).entries() if e.kind == "saved"} for name in ("cache", "workers")]
    assert keys[0] == keys[1] != set()


def test_a_worker_that_is_killed_costs_its_job_alone(site):
    def kill():
        started(site)
        for pid in processes(b"kpatchlab.run.worker", site):
            os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with site.executor("process", 1) as executor:
        jobs, _ = site.run(executor, "waits", "lacks")
    killer.join()
    assert (jobs["waits"].outcome, jobs["lacks"].outcome) == (Outcome.INFRA, Outcome.SKIP)
    assert "the job's worker ended with status -9" in jobs["waits"].message
    gone(site)
