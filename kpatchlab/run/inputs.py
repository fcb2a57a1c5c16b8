"""A job on the host that runs it: its task, with everything that the task names found in this host's cache."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from kpatchlab.build import kselftest
from kpatchlab.build.roots import IMAGE, packages_in
from kpatchlab.cache import Cache
from kpatchlab.host.host import Host
from kpatchlab.lab.scenario import GuestFile, ScenarioFile
from kpatchlab.model import Outcome
from kpatchlab.plan.jobs import JobSpec
from kpatchlab.plan.needs import switched_off
from kpatchlab.proc import Cancel
from kpatchlab.run import payload
from kpatchlab.run.boot import BootSpec
from kpatchlab.run.task import JobTask, KernelUnderTest


@dataclass(frozen=True, slots=True)
class Here:
    """Where a job runs.

    Attributes:
        folder: the job's own, for its consoles, outputs and attachments; empty.
        cancel: set to end the job early; its result then says INFRA.
        idle: called when the job's guests only idle from now on, and take no more than their memory.
    """

    host: Host
    folder: Path
    cancel: Cancel
    idle: Callable[[], None] = lambda: None

    @property
    def cache(self) -> Cache:
        """The artifacts of this host."""
        return self.host.cache


@dataclass(frozen=True, slots=True)
class JobInputs:
    """All that a job works on.

    Attributes:
        boots: role -> what its guest boots, where that was built.
        files: what is put into each guest.
        programs: kernel -> the tests of others that are put into its guests.
        packages: Debian packages in the root.
    """

    task: JobTask
    here: Here
    boots: Mapping[str, BootSpec]
    files: tuple[GuestFile, ...]
    programs: Mapping[str, tuple[GuestFile, ...]]
    packages: frozenset[str]

    @property
    def spec(self) -> JobSpec:
        """What the plan says of the job."""
        return self.task.spec

    @property
    def scenario(self) -> ScenarioFile:
        """What its scenario says."""
        return self.task.scenario

    @property
    def kernels(self) -> Mapping[str, KernelUnderTest]:
        """Kernel name -> kernel."""
        return self.task.kernels

    @property
    def cache(self) -> Cache:
        """The artifacts of this host."""
        return self.here.cache

    @property
    def folder(self) -> Path:
        """The job's own folder; paths in its result are relative to it."""
        return self.here.folder

    def artifact(self, kernel: str) -> Path:
        """Return the directory of a kernel that was built."""
        return self.cache.path("kernel", self.kernels[kernel].build.key)

    @property
    def mode(self) -> str:
        """What figures of this job count: "" where there is nothing to boot; see `MachineShape.mode`."""
        return " and ".join(dict.fromkeys(boot.machine.mode for boot in self.boots.values()))

    @property
    def emulated(self) -> bool:
        """Whether a guest of this job has a processor that is not the host's own."""
        return any(boot.machine.accel != "kvm" for boot in self.boots.values())

    @property
    def stretch(self) -> float:
        """See `MachineShape.stretch`."""
        return max((boot.machine.stretch for boot in self.boots.values()), default=1.0)


def resolve(task: JobTask, here: Here) -> JobInputs:
    """Find here what a task names.

    Raises:
        HostError: an artifact is not to be had, or the host has no QEMU.
    """
    cache = here.cache
    boots = boots_of(task, here.host)
    for boot in boots.values():
        boot.need(cache)
    files = [cache.need(payload.KIND, key) / payload.FILES for key in task.payload]
    return JobInputs(
        task=task,
        here=here,
        boots=boots,
        files=tuple(file for folder in files for file in payload.read(folder)),
        programs={name: tuple(programs_of(kernel, cache)) for name, kernel in task.kernels.items()},
        packages=frozenset.intersection(*(packages_in(cache.need("root", key) / IMAGE) for key in task.roots.values())),
    )


def boots_of(task: JobTask, host: Host) -> dict[str, BootSpec]:
    """Return what the guest of each role boots on a host, where its kernel was built.

    Raises:
        HostError: the host has no QEMU.
    """
    found = {}
    for role in task.spec.roles:
        kernel = task.kernels[role.kernel]
        if kernel.build.outcome is Outcome.PASS:
            machine = host.shape(role.arch, task.accel, role.cpus, role.memory_mib)
            root = task.roots[role.arch]
            found[role.name] = BootSpec(kernel.build.key, root, kernel.initrd, machine, task.scenario.cmdline)
    return found


def programs_of(kernel: KernelUnderTest, cache: Cache) -> list[GuestFile]:
    """Return the tests of others for a kernel's guests, and what these are to know of the kernel.

    Beside selftests that is what the kernel lacks of what they ask for. Suites look for its configuration where a
    distribution has it.
    """
    found: list[GuestFile] = []
    if kernel.build.outcome is Outcome.PASS and any(name.startswith("suites/") for name in kernel.tests):
        config = (cache.path("kernel", kernel.build.key) / "config").read_bytes()
        found.append((f"/boot/config-{kernel.build.release}", config, 0o644))
    for name, built in sorted(kernel.tests.items()):
        if built.outcome is not Outcome.PASS:
            continue
        artifact = cache.need(built.kind, built.key)
        found += payload.read(artifact / "programs", f"/lab/{name}")
        found += payload.read(artifact / kselftest.BESIDE, "/lab/kselftest")
        asked = kselftest.asked_of(artifact) if kernel.build.outcome is Outcome.PASS else []
        if off := switched_off(asked, cache.path("kernel", kernel.build.key)) if asked else []:
            found.append((f"/lab/{name}/{kselftest.LACKS}", "".join(f"CONFIG_{one}\n" for one in off).encode(), 0o644))
    return found
