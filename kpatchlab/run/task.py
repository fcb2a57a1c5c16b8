"""One job as it travels to where it runs: a value of names and content keys, without paths and without a host."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import TypeAdapter

from kpatchlab.build.built import Programs
from kpatchlab.lab.scenario import ScenarioFile
from kpatchlab.model import BuildResult
from kpatchlab.plan.jobs import JobSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelUnderTest:
    """One of a job's kernels, with what was made for it.

    Attributes:
        build: what came of its build; no logs, and no commands of the host that built it.
        initrd: key of its initramfs; "" where it does not build.
        debug: whether it is one with debugging.
        covered: whether it is built for gcov.
        patched: functions of its series whose calls are counted, as `reach start` takes them.
        tests: name -> the tests of others that the job needs, built for it.
    """

    build: BuildResult
    initrd: str = ""
    debug: bool = False
    covered: bool = False
    patched: tuple[str, ...] = ()
    tests: Mapping[str, Programs] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobTask:
    """All that a job is.

    Attributes:
        roots: architecture -> key of its guests' root.
        payload: keys of the artifacts with the files that are put into each guest.
        accel: what is asked of its guests' machine, as in lab.yaml; where the job runs says what "auto" is.
        console_bytes: how much of each guest's console is kept.
        guest: "fork" for saved guests, "vng" for virtme-ng on the host's own root.
        broken: the scenario is told to send something wrong, which it then has to see.
        settle_s: how long its guests idle before they are judged.
        pinned: see `stages.Settings`.
    """

    spec: JobSpec
    scenario: ScenarioFile
    kernels: Mapping[str, KernelUnderTest]
    roots: Mapping[str, str]
    payload: tuple[str, ...]
    accel: str
    console_bytes: int = 4 << 20
    guest: str = "fork"
    broken: bool = False
    settle_s: float = 0.0
    pinned: bool = False

    def to_json(self) -> bytes:
        """Return it as JSON."""
        return _adapter().dump_json(self)

    @classmethod
    def from_json(cls, data: bytes) -> JobTask:
        """Read back what `to_json` wrote.

        Raises:
            ValueError: it is something else.
        """
        return _adapter().validate_json(data)


@functools.cache
def _adapter() -> TypeAdapter[JobTask]:
    return TypeAdapter(JobTask)
