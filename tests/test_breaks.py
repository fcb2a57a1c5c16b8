"""Each scenario of the project's own is made to send something wrong, and must see it: none passes whatever happens.

They run on the kernels that Debian built. What these lack (soft-iWARP, ESP in TCP, ...) is broken on the lab's own
kernel where that is in the cache: this is no place to build one. All of them take half an hour: only a few, which are
quick and share their checks with the others, are in the tier that CI runs.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kpatchlab.cache import Cache
from kpatchlab.lab import load
from kpatchlab.model import CaseKind, JobResult
from kpatchlab.plan.runnable import survey
from kpatchlab.store.store import Store

pytestmark = [pytest.mark.guest, pytest.mark.mirror]

PROJECT = Path(__file__).parent.parent
WHOLE = load.load(PROJECT / "lab.yaml")
QUICK = {
    *("unix-splice", "tcp-splice", "udp-splice", "splice-core", "af-alg", "kcm", "rds-tcp", "nfs-tcp", "rxrpc-socket"),
}
NO_DATA = {
    "chelsio-tls": "needs its card: it is compiled and loaded, nothing is sent",
    "zcopy-alloc": "no kernel that can be had here has the allocator",
}
"""Systems through which nothing can be sent here."""


def _with_systems():
    """Return the project's own scenarios; what others wrote (kselftest, LTP) sends what it sends."""
    return [s for _, s in sorted(WHOLE.scenarios.items()) if s.systems and "others" not in s.tags]


def _own_checks(job: JobResult) -> list[str]:
    """Return the names of the scenario's own checks that did not hold: not the lab's, which see other things."""
    return [case.name for case in job.cases if case.outcome.is_bad and case.kind is CaseKind.CHECK]


def _asks_the_clock(scenario: str) -> bool:
    """Whether checks of the scenario time calls that may not wait, which a break lets sleep; the library's as well."""
    scenarios = PROJECT / "scenarios"
    timed = [path.stem for path in (scenarios / "lib").glob("*.py") if "from atonce import" in path.read_text()]
    words = re.compile(rf"^(from atonce import|import ({'|'.join(timed)})\b)", re.MULTILINE)
    return any(words.search(path.read_text()) for path in (scenarios / scenario).glob("*.py"))


class Broken:
    """The jobs of one run with `--break`, by scenario."""

    def __init__(self, folder: Path, like: str, kernel: str, names: list[str]) -> None:
        for name in ("kernels", "rootfs", "suites", "scenarios"):
            (folder / name).symlink_to(PROJECT / name)
        text = (PROJECT / like).read_text()
        (folder / "lab.yaml").write_text(text)
        words = [sys.executable, "-m", "kpatchlab", "run", "--break", "--kernel", kernel, *names]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(PROJECT), os.environ.get("PYTHONPATH", "")])}
        done = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, timeout=3600, check=False)
        print(done.stdout[-4000:], done.stderr[-4000:])  # noqa: T201 - for `pytest -rP`
        run, _ = Store(folder / "results").load("last")
        assert run.complete, done.stderr[-2000:]
        self.jobs: dict[str, list[JobResult]] = {}
        for job in run.jobs:
            self.jobs.setdefault(job.scenario, []).append(job)


@pytest.fixture(scope="module")
def prebuilt(tmp_path_factory, request):
    """All of the tier on the 6.12 that Debian built."""
    names = [scenario.name for scenario in _with_systems() if (scenario.name in QUICK) != request.config.option.long]
    return Broken(tmp_path_factory.mktemp("prebuilt"), "quick.yaml", "with", names)


@pytest.fixture(scope="module")
def built(tmp_path_factory, prebuilt, request):
    """Those that Debian's kernel could not run, on the lab's own 6.12; None where that is not built."""
    if not all(able.built for row in survey(WHOLE, Cache(), ["with"]) for able in row.kernels):
        return None
    names = [name for name, jobs in prebuilt.jobs.items() if all(job.outcome == "skip" for job in jobs)]
    assert names or not request.config.option.long, "soft-iWARP at least is not in Debian's kernel"
    return names and Broken(tmp_path_factory.mktemp("built"), "lab.yaml", "with", names)


def _in_its_tier(name):
    slow = [pytest.mark.long, pytest.mark.timeout(4 * 3600)]
    return pytest.param(name, marks=[] if name in QUICK else slow)


@pytest.mark.parametrize("scenario", [_in_its_tier(scenario.name) for scenario in _with_systems()])
def test_scenario_sees_what_is_wrong(scenario, prebuilt, built):
    systems = set(WHOLE.scenarios[scenario].systems)
    if systems <= set(NO_DATA):
        pytest.skip(NO_DATA[systems.pop()])
    jobs = [job for job in prebuilt.jobs[scenario] if job.outcome != "skip"]
    if not jobs and built is None:
        pytest.skip("needs the lab's own kernel, which is not built: ./lab build with")
    jobs = jobs or built.jobs[scenario]
    for job in jobs:
        assert job.outcome in {"fail", "crash"}, f"{job.job}: {job.outcome} {job.message}"
        assert _own_checks(job), f"{job.job}: no check of its own saw it: {job.message}"
        slept = [case.name for case in job.cases if "may not wait, and slept" in case.message + case.details]
        assert slept or not _asks_the_clock(scenario), f"{job.job}: nobody saw the calls that slept"
