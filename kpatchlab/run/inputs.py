"""What a job works on."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kpatchlab.build.built import Programs
from kpatchlab.cache import Cache
from kpatchlab.lab.scenario import Scenario
from kpatchlab.model import BuildResult
from kpatchlab.plan.jobs import JobSpec
from kpatchlab.proc import Cancel
from kpatchlab.run.boot import BootSpec


@dataclass(frozen=True, slots=True)
class JobInputs:
    """All that a job works on.

    Attributes:
        kernels: kernel name -> its build.
        boots: role -> what its guest boots.
        packages: Debian packages in the root.
        out: the run's folder; paths in the result are relative to it.
        folder: the job's own folder, below `out`.
        reproduce: command line that runs this job alone.
        cancel: set to end the job early; its result then says INFRA.
        guest: "fork" for saved guests, "vng" for virtme-ng on the host's own root.
        debug: those of the kernels that are ones with debugging.
        broken: the scenario is told to send something wrong, which it then has to see.
        foreign: (kernel, name) -> the tests of others that the job needs, built for that kernel.
        covered: those of the kernels that are built for gcov.
        patched: kernel -> functions of its series whose calls are counted, as `reach start` takes them.
    """

    spec: JobSpec
    scenario: Scenario
    kernels: Mapping[str, BuildResult]
    boots: Mapping[str, BootSpec]
    packages: frozenset[str]
    lab_root: Path
    cache: Cache
    out: Path
    folder: Path
    console_bytes: int = 4 << 20
    reproduce: str = ""
    cancel: Cancel = field(default_factory=threading.Event)
    guest: str = "fork"
    broken: bool = False
    debug: frozenset[str] = frozenset()
    foreign: Mapping[tuple[str, str], Programs] = field(default_factory=dict)
    covered: frozenset[str] = frozenset()
    patched: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def artifact(self, kernel: str) -> Path:
        """Return the directory of a kernel that was built."""
        return self.cache.path("kernel", self.kernels[kernel].key)

    @property
    def mode(self) -> str:
        """What figures of this job count: "" where there is nothing to boot; see `MachineShape.mode`."""
        return next((boot.machine.mode for boot in self.boots.values()), "")

    @property
    def emulated(self) -> bool:
        """Whether a guest of this job has a processor that is not the host's own."""
        return any(boot.machine.accel != "kvm" for boot in self.boots.values())

    @property
    def stretch(self) -> float:
        """See `MachineShape.stretch`."""
        return max((boot.machine.stretch for boot in self.boots.values()), default=1.0)
