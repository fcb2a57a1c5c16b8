"""Which tests a run takes, in which order, and which of them one worker of pytest-xdist runs."""

from __future__ import annotations

import functools
import gc
import os
import shutil
from pathlib import Path

import pytest
from xdist.scheduler import LoadScopeScheduling

MEMORY = Path("/dev/shm")
ROOM_BYTES = 4 << 30
"""So much of it has to be free; the quick tests use a tenth of that. Containers have 64 MiB by default."""
REAL = {"guest", "build", "mirror", "browser", "hosts"}
"""The marks of tests that need what takes its time: see CONTRIBUTING.md."""
TOY = "toy"
"""The mark of builds too that take seconds each; any number of them run at once."""


def pytest_addoption(parser: pytest.Parser) -> None:
    tiers = parser.getgroup("tiers", "which of the tests (without one of these: all but the long ones)")
    tiers.addoption("--quick", action="store_true", help="those that need no guest, build, mirror, browser or host")
    tiers.addoption("--long", action="store_true", help="the long ones alone")


@pytest.hookimpl(tryfirst=True)  # before pytest decides where its folders are
def pytest_configure(config: pytest.Config) -> None:
    """Give the quick tests folders in memory where there is room, and look for circles of garbage more rarely.

    They make and delete some 100,000 small files: ext4 takes a sixth of all their time, and garbage collection a tenth.
    """
    gc.set_threshold(100_000, 20, 50)
    if config.option.quick and not config.option.basetemp and MEMORY.is_dir():
        room = os.statvfs(MEMORY)
        if room.f_bavail * room.f_frsize >= ROOM_BYTES:
            config.option.basetemp = str(MEMORY / f"kpatchlab-tests-{os.getpid()}")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Leave nothing in memory; what failed is kept only on a disk."""
    base = config.option.basetemp or ""
    if not hasattr(config, "workerinput") and base == str(MEMORY / f"kpatchlab-tests-{os.getpid()}"):
        shutil.rmtree(base, ignore_errors=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep one tier; what takes longest begins first, and what is short fills all workers to the end."""
    marks = {item: {mark.name for mark in item.iter_markers()} for item in items}
    tier = [item for item in items if ("long" in marks[item]) == config.option.long]
    if config.option.quick:
        tier = [item for item in tier if not marks[item] & {*REAL, TOY}]
    config.hook.pytest_deselected(items=[item for item in items if item not in set(tier)])

    def place(item: pytest.Item) -> tuple[bool, bool, bool]:
        return "build" not in marks[item], not marks[item] & REAL, item.path.name != "test_linters.py"

    items[:] = sorted(tier, key=place)


class Scheduling(LoadScopeScheduling):
    """One worker for all tests of a group, in the order of the collection.

    Not `--dist loadgroup`: pytest-xdist 3.8 writes its groups into an attribute that pytest 9.2 does not read.
    """

    def _split_scope(self, nodeid: str) -> str:
        file, _, _ = nodeid.partition("::")
        return _group(self.config.rootpath / file) or nodeid


@functools.cache
def _group(path: Path) -> str:
    """Return the group of a file's tests, or "" where each is one of its own.

    A kernel build takes all processors, so that two are never made at once; what a file's tests share is made once.
    """
    text = path.read_text()
    if "pytest.mark.build" in text:
        return "builds"
    return path.name if 'scope="module"' in text or 'scope="session"' in text else ""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    return Scheduling(config, log)
