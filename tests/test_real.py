"""The whole lab on real kernels: the self-tests through the command line, what kills it, and what it leaves behind.

The kernels are those that Debian built, and the small one of this project (`tiny`), which is built where it is not in
the cache: it has LKDTM, which hangs and oopses on request, and virtme-ng's drivers built in.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from kpatchlab.jsonable import from_json
from kpatchlab.model import JobResult, Run
from kpatchlab.proc import OWNER
from kpatchlab.store.store import Store
from tests.labdir import write

pytestmark = [pytest.mark.guest, pytest.mark.mirror]

PROJECT = Path(__file__).parent.parent
LAB = """\
title: the lab's own test
kernels: {without: debian-image-6.1, with: debian-image-6.12, lean: tiny}
scenarios: ["tag:selftest"]
"""
SLEEPER = """\
description: The guest is busy for some seconds.
tags: [own]
timeout_s: 60
roles: {main: {run: run.sh}}
"""
OOPS = """\
description: An oops that nobody expects.
tags: [own]
timeout_s: 30
roles: {main: {run: run.sh}}
needs: {config: [LKDTM], modules: [lkdtm]}
"""


@dataclass
class Lab:
    """A lab directory of the tests' own, on the user's cache."""

    root: Path

    def start(self, *words: str, **env: str) -> subprocess.Popen[str]:
        path = os.pathsep.join([str(PROJECT), os.environ.get("PYTHONPATH", "")])
        return subprocess.Popen(
            [sys.executable, "-m", "kpatchlab", *words],
            cwd=self.root,
            env={**os.environ, "PYTHONPATH": path, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            start_new_session=True,  # a signal from a test meets this process alone, as `kill` does
        )

    def call(self, *words: str, timeout_s: float = 1800, **env: str) -> Ended:
        return self.ended(self.start(*words, **env), timeout_s)

    def ended(self, child: subprocess.Popen[str], timeout_s: float = 1800) -> Ended:
        begin = time.monotonic()
        out, err = child.communicate(timeout=timeout_s)
        print(f"{' '.join(child.args[2:])}: status {child.returncode}, {time.monotonic() - begin:.1f} s\n{out}{err}")  # noqa: T201 - for `pytest -rP`
        return Ended(child.returncode, out, err, child.pid)

    def last(self) -> tuple[Run, Path]:
        return Store(self.root / "results").load("last")


@dataclass
class Ended:
    status: int
    out: str
    err: str
    pid: int


def owned(pid: int) -> list[int]:
    """Return the processes that the lab of this process id started, however far down."""
    mark, found = f"{OWNER}={pid}-".encode(), []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (folder / "environ").read_bytes().split(b"\0")
            if any(word.startswith(mark) for word in words):
                found.append(int(folder.name))
    return found


def guests(pid: int) -> list[int]:
    """Return the QEMUs among them."""
    found = []
    for process in owned(pid):
        with contextlib.suppress(OSError):
            if b"virtserialport" in Path(f"/proc/{process}/cmdline").read_bytes():
                found.append(process)
    return found


def wait_for(what, timeout_s=120.0):
    """Return the first true value of `what()`."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if found := what():
            return found
        time.sleep(0.1)
    raise AssertionError(f"nothing came of it in {timeout_s:g} s")


def nothing_is_left(home: Lab, pid: int) -> None:
    """Check that no process of a lab is there, and nothing half written in its results."""
    wait_for(lambda: not owned(pid), 5.0)
    assert not [path for path in home.root.rglob("results/**/*") if path.name.endswith((".new", ".tmp"))]


@pytest.fixture(scope="session")
def home(tmp_path_factory) -> Lab:
    root = tmp_path_factory.mktemp("lab")
    for name in ("scenarios", "rootfs", "suites", "kernels"):
        shutil.copytree(PROJECT / name, root / name)
    for name, text, script in (
        ("sleeper", SLEEPER, "sleep 8"),
        ("oops", OOPS, "(echo EXCEPTION >/sys/kernel/debug/provoke-crash/DIRECT)"),
    ):
        write(root / "scenarios" / name / "scenario.yaml", text)
        ktap = f'#!/bin/sh\n. "$LAB_LIB/ktap.sh"\nktap_plan 1\n{script}\nktap_ok "went on"\n'
        write(root / "scenarios" / name / "run.sh", ktap, 0o755)
    write(root / "lab.yaml", LAB)
    return Lab(root)


@pytest.fixture(scope="session")
def selftests(home) -> tuple[Ended, Run, Path]:
    """One run of every self-test on two kernels."""
    done = home.call("run", "--kernel", "without", "--kernel", "with")
    nothing_is_left(home, done.pid)
    return done, *home.last()


@pytest.fixture(scope="session")
def crashes(home) -> tuple[Run, Path]:
    """One run of what breaks a kernel."""
    done = home.call("run", "selftest-hang", "selftest-oops", "selftest-panic", "oops", "--kernel", "lean")
    assert done.status == 1
    nothing_is_left(home, done.pid)
    return home.last()


def job(run: Run, scenario: str, column: str) -> JobResult:
    """Return a job's first run; a bad one may have a second, where this host was busy."""
    found = [job for job in run.jobs if (job.scenario, job.column) == (scenario, column)]
    return min(found, key=lambda job: job.repeat)


# --- verdicts


def test_run_ends_with_nothing_regressed(selftests):
    done, run, folder = selftests
    assert (done.status, run.complete) == (0, True), done.out[-6000:]
    assert done.out.count("guests run in QEMU") == 1
    assert {path.name for path in folder.iterdir()} >= {"run.json", "plan.json", "junit.xml", "index.html"}


@pytest.mark.parametrize("column", ["without", "with"])
@pytest.mark.parametrize(
    ("scenario", "outcome", "message"),
    [
        ("pass", "pass", ""),
        ("fail", "fail", "the second does not"),
        ("panic", "crash", "main (COLUMN): Kernel panic: sysrq triggered crash"),
        ("oops", "skip", "kernel COLUMN (main) lacks CONFIG_LKDTM"),
        ("hang", "skip", "kernel COLUMN (main) lacks CONFIG_LKDTM"),
        ("flood", "fail", "printed 1048"),
        ("forged", "fail", "sound"),
        ("killed", "fail", "run.sh was killed by signal 9"),
        ("binary", "fail", "is not UTF-8"),
        ("timeout", "timeout", "run.sh ran longer than 3 s"),
        ("tainted", "fail", "taint: main: bit 9 (W) is set: the kernel issued a warning"),
        ("pair", "pass", ""),
    ],
)
def test_each_selftest_has_one_clear_verdict(selftests, scenario, outcome, message, column):
    found = job(selftests[1], f"selftest-{scenario}", column)
    assert str(found.outcome) == outcome, found.message
    assert message.replace("COLUMN", column) in found.message
    assert "\n" not in found.message
    assert (found.cases[0].name, str(found.cases[0].outcome)) == ("job", outcome)
    assert found.reproduce == f"kpatchlab run --job '{found.job}'"


@pytest.mark.parametrize("column", ["client=with,server=without", "client=without,server=with"])
def test_mixed_pairs_pass(selftests, column):
    found = job(selftests[1], "selftest-pair", column)
    assert str(found.outcome) == "pass", found.message
    assert {count.function: count.count > 0 for count in found.reach} == {"tcp_v4_rcv": True}
    assert {(guest.role, guest.kernel) for guest in found.guests} == set(found.placement.items())


def test_what_a_scenario_left_is_kept(selftests):
    _, run, folder = selftests
    found = job(run, "selftest-pass", "with")
    assert [(metric.name, metric.value) for metric in found.metrics] == [("answer", 42.0)]
    assert [(folder / name).read_text() for name in found.attachments] == ["kept\n"]
    assert "free text for standard error" in found.stderr_tail


def test_checks_before_a_crash_or_a_time_out_are_kept(selftests):
    found = job(selftests[1], "selftest-timeout", "with")
    assert "before the wait" in {case.name for case in found.cases}


def test_panic_is_known_within_seconds(selftests):
    for column in ("without", "with"):
        found = job(selftests[1], "selftest-panic", column)
        (splat, *_) = found.splats
        assert (splat.kind, splat.fatal) == ("panic", True)
        assert "sysrq_handle_crash" in splat.title
        assert found.guest_s < 10


def test_flood_is_not_kept_whole(selftests):
    found = job(selftests[1], "selftest-flood", "with")
    files = list((selftests[2] / "jobs").glob("selftest-flood@*/main-run.out"))
    assert len(files) >= 2
    assert all(path.stat().st_size < 8 << 20 for path in files)
    assert len(found.stdout_tail) <= 16 << 10


def test_hang_is_known_with_its_function(crashes):
    found = job(crashes[0], "selftest-hang", "lean")
    assert str(found.outcome) == "crash"
    assert found.message == f"main (lean): {found.splats[0].title}"
    assert "lkdtm_HARDLOCKUP" in found.message
    assert found.duration_s < 60


def test_oops_that_is_expected_is_no_crash(crashes):
    found = job(crashes[0], "selftest-oops", "lean")
    assert str(found.outcome) == "pass"
    assert found.splats


@pytest.mark.parametrize(
    ("scenario", "function"), [("oops", "lkdtm_EXCEPTION"), ("selftest-panic", "sysrq_handle_crash")]
)
def test_crash_is_told_with_file_and_line(crashes, scenario, function):
    found = job(crashes[0], scenario, "lean")
    assert str(found.outcome) == "crash"
    assert function in found.message
    told = "".join(splat.decoded + splat.title for splat in found.splats)
    assert function in told
    if scenario == "oops":
        assert "lkdtm/bugs.c:" in told


# --- reports of the stored run


@pytest.mark.parametrize(
    ("form", "start"), [("text", b"the lab's own test"), ("html", b"<!"), ("junit", b"<?xml"), ("json", b"{")]
)
def test_stored_run_is_rendered_again(home, selftests, tmp_path, form, start):
    target = tmp_path / "report"
    done = home.call("report", selftests[1].id, "--format", form, "-o", str(target))
    assert done.status == 0
    assert target.read_bytes().lower().startswith(start)
    if form == "json":
        assert len(from_json(Run, json.loads(target.read_bytes())["run"]).jobs) == len(selftests[1].jobs)


def test_reproduce_line_runs_the_job_alone(home, selftests):
    found = job(selftests[1], "selftest-pass", "with")
    done = home.call(*found.reproduce.replace("'", "").split()[1:])
    assert done.status == 0
    assert [job.job for job in home.last()[0].jobs] == [found.job]


# --- ended from outside


def test_qemu_killed_from_outside_is_the_labs_fault(home, selftests):
    child = home.start("run", "sleeper", "--kernel", "without")
    (guest,) = wait_for(lambda: guests(child.pid))
    time.sleep(3)
    with contextlib.suppress(ProcessLookupError):
        os.kill(guest, signal.SIGKILL)
    done = home.ended(child)
    (found,) = home.last()[0].jobs
    assert (str(found.outcome), done.status) == ("infra", 3), found.message
    assert "QEMU ended with status -9" in found.message
    nothing_is_left(home, done.pid)


def some_done(home: Lab, child: subprocess.Popen[str], before: list[str]) -> bool:
    """Whether the run that `child` began has a job done and another one's guest up."""
    new = set(Store(home.root / "results").ids()) - set(before)
    return any(list((home.root / "results" / name / "jobs").glob("*.json")) for name in new) and bool(guests(child.pid))


def begun(home: Lab) -> subprocess.Popen[str]:
    """Start a run of four jobs, and return when one of them is done and another one goes on."""
    before = Store(home.root / "results").ids()
    child = home.start("run", "selftest-pass", "sleeper", "--kernel", "without", "--kernel", "with")
    wait_for(lambda: some_done(home, child, before))
    return child


def goes_on(home: Lab) -> None:
    """Check that the last run stopped half-way, and that --resume makes it whole."""
    stopped, _ = home.last()
    assert not stopped.complete
    assert 1 <= len(stopped.jobs) < 4
    assert {str(job.outcome) for job in stopped.jobs} == {"pass"}
    done = home.call("run", "--resume", "last")
    run, _ = home.last()
    assert (done.status, run.id, run.complete, len(run.jobs)) == (0, stopped.id, True, 4)
    assert {str(job.outcome) for job in run.jobs} == {"pass"}
    assert done.out.count("[1/") == 1
    assert f"{len(stopped.jobs)} of 4 jobs are done already" in done.out
    # By name, for only a run that ended says in which order its jobs were planned.
    whole = {job.job: job for job in run.jobs}
    assert {name: whole[name] for name in (job.job for job in stopped.jobs)} == {job.job: job for job in stopped.jobs}
    nothing_is_left(home, done.pid)


def test_killed_lab_leaves_no_guest_and_goes_on(home, selftests):
    child = begun(home)
    child.kill()
    child.wait(10)
    wait_for(lambda: not owned(child.pid), 5.0)
    goes_on(home)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_run_is_stored_and_goes_on(home, selftests, number):
    child = begun(home)
    begin = time.monotonic()
    os.kill(child.pid, number)
    done = home.ended(child, 60)
    assert done.status == 130
    assert time.monotonic() - begin < 10
    assert "stopping" in done.err
    assert "to go on: kpatchlab run --resume" in done.err
    nothing_is_left(home, done.pid)
    goes_on(home)


# --- other guests, other hosts


def test_virtme_ng_guest_runs_on_the_hosts_own_root(home):
    done = home.call("run", "selftest-pass", "selftest-pair", "--kernel", "lean", "--guest", "vng")
    run, _ = home.last()
    assert str(job(run, "selftest-pass", "lean").outcome) == "pass", job(run, "selftest-pass", "lean").message
    assert job(run, "selftest-pair", "lean").message == "virtme-ng runs scenarios of one guest"
    assert "run --guest vng --job" in job(run, "selftest-pass", "lean").reproduce
    assert done.status == 0
    nothing_is_left(home, done.pid)


@pytest.fixture
def small_disk(tmp_path):
    """Return a folder on a file system of 8 MiB."""
    target = tmp_path / "small"
    target.mkdir()
    options = "size=8m"
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", target], check=False).returncode:
        pytest.skip("only root can mount a small file system")
    yield target
    subprocess.run(["umount", "--lazy", target], check=True)


def test_full_disk_is_one_line(home, small_disk):
    done = home.call("run", "selftest-pass", "--kernel", "without", KPATCHLAB_CACHE=str(small_disk))
    assert done.status == 3
    assert "Traceback" not in done.err
    lines = done.err.strip().splitlines()
    assert [line for line in lines if "o space left" in line or "GiB free" in line], lines
    assert [line for line in lines if line.startswith("hint: ")], lines
    nothing_is_left(home, done.pid)


def test_full_results_are_one_line(home, selftests, small_disk):
    for name in ("scenarios", "rootfs", "suites", "kernels", "lab.yaml"):
        (small_disk / name).symlink_to(home.root / name)
    with contextlib.suppress(OSError), open(small_disk / "filling", "wb") as filling:
        filling.write(bytes(8 << 20))
    done = Lab(small_disk).call("run", "selftest-pass", "--kernel", "without")
    assert done.status == 3
    assert "Traceback" not in done.err
    assert "No space left" in done.err
    assert not guests(done.pid)
