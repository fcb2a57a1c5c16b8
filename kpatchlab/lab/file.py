"""What lab.yaml says: its keys, their defaults and what they mean."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, PlainValidator, Tag, WithJsonSchema

from kpatchlab.lab.hosts import Hosts
from kpatchlab.lab.nightly import Nightly
from kpatchlab.lab.patchwork import Patchwork, Server
from kpatchlab.lab.recipes import ArchName, KernelRecipe, Name, Needed
from kpatchlab.lab.yamlfile import FileModel

FILE = "lab.yaml"


def _auto_or_count(value: Any) -> int | Literal["auto"]:
    if value == "auto":
        return "auto"
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    raise ValueError(f"'{value}' is neither auto nor a whole number of at least 1")


AutoCount = Annotated[
    int | Literal["auto"],
    PlainValidator(_auto_or_count),
    WithJsonSchema({"anyOf": [{"const": "auto"}, {"type": "integer", "minimum": 1}]}),
]


def _member(text: str, other: str) -> Callable[[Any], str]:
    """Return what tells text from mappings in a union of both; its tags are no part of error locations."""
    return lambda value: text if isinstance(value, str) else other


class Machine(FileModel):
    """The virtual machine that a guest runs on."""

    accel: Literal["auto", "kvm", "tcg"] = Field(
        default="auto", description="kvm, tcg (emulation, slower), or auto: kvm where a probe guest really runs on it"
    )
    cpus: int = Field(default=1, ge=1, le=64, description="virtual processors")
    memory_mib: int = Field(default=1024, ge=64, description="memory in MiB")
    arch: ArchName = Field(
        default="",
        description="architecture: guests on this machine have kernels of it alone, and it is that of all kernels whose"
        " recipes name none, where this is the lab's `machine`; empty: any",
    )


class LocalJobs(FileModel):
    """Jobs run in the lab's own process, as threads."""

    type: Literal["local"] = Field(description="jobs run in the lab's own process, as threads")


class ProcessJobs(FileModel):
    """Each job runs in a process of its own, with a cache of its own: as on another host, but on this one."""

    type: Literal["process"] = Field(description="each job runs in a process of its own, with a cache of its own")
    cache: Needed = Field(
        description="directory of that cache; what it lacks is linked or copied from the lab's own cache. "
        "`disk_gib` holds for each of the two"
    )


class ClusterJobs(FileModel):
    """Jobs run on a Dask cluster that stands, whose workers have this version of the lab."""

    type: Literal["cluster"] = Field(description="jobs run on a Dask cluster that stands")
    scheduler: str = Field(pattern=r"^tls://[^\s/]+:\d+$", description="its scheduler, `tls://HOST:PORT`")
    ca: str = Field(
        default="",
        description="file with its authority's certificate; empty: Dask's own setting `distributed.comm.tls.ca-file`",
    )
    certificate: str = Field(
        default="", description="file with a certificate for the lab; empty: Dask's `distributed.comm.tls.client.cert`"
    )
    key: str = Field(default="", description="file with its key; empty: Dask's `distributed.comm.tls.client.key`")


Jobs = Annotated[LocalJobs | ProcessJobs | ClusterJobs, Field(discriminator="type")]
"""What runs the jobs."""


class Limits(FileModel):
    """How much of the host the lab may take."""

    guests: AutoCount = Field(default="auto", description="guests at once; auto: as processors and memory allow")
    build_jobs: AutoCount = Field(default="auto", description="compilers at once; auto: one for each processor")
    disk_gib: float = Field(
        default=20.0,
        gt=0,
        description="size in GiB that the cache may grow to; the lab deletes saved guests before kernels",
    )
    console_mib: float = Field(default=4.0, gt=0, description="how much of each guest's console the lab keeps, in MiB")


Column = Annotated[
    Annotated[str, Tag("<name>")] | Annotated[dict[str, str], Tag("<placement>")],
    Discriminator(_member("<name>", "<placement>")),
]
"""`kernels`, `pairs`, a kernel's name, or role -> kernel."""


class Matrix(FileModel):
    """Which placements of kernels every scenario is run on."""

    columns: tuple[Column, ...] = Field(
        default=("kernels", "pairs"),
        description="kernels: each kernel, on every role; pairs: the base kernel on one role and another kernel on the "
        "other, both ways round, for scenarios with two roles; a kernel's name; or a mapping of roles to kernels",
    )


KernelEntry = Annotated[
    Annotated[str, Tag("<recipe>")] | Annotated[KernelRecipe, Tag("<inline>")],
    Discriminator(_member("<recipe>", "<inline>")),
]
"""The name of a recipe in `kernels/`, or the recipe itself."""


KernelName = Annotated[Name, Field(max_length=40)]
"""Shorter than other names: two of them stand in the name of a mixed pair's jobs, which are names of files."""


class LabFile(FileModel):
    """A lab as its file has it."""

    title: str = Field(default="", description="what the lab is about; reports show it")
    root: str = Field(
        default="",
        description="directory that has `kernels`, `rootfs`, `scenarios` and `results`, relative to this file; empty: "
        "the file's own",
    )
    base: str = Field(default="", description="the kernel that the others are compared with; empty: the first one")
    kernels: dict[KernelName, KernelEntry] = Field(
        min_length=1, description="kernel's name -> name of a recipe in `kernels/`, or a recipe itself"
    )
    machine: str = Field(default="default", description="machine of scenarios that name none")
    machines: dict[Name, Machine] = Field(
        default={}, description="machine's name -> machine; `default` is always there, and can be redefined"
    )
    rootfs: str = Field(
        default="base", description="root file system of scenarios that name none: a recipe in `rootfs/`"
    )
    scenarios: tuple[str, ...] = Field(
        default=("*",),
        description="scenarios to run: names, globs, `tag:TAG`, `system:NAME`, `touching:FILE`, `kselftest:NAME`; "
        "with a leading `!`: scenarios to leave out",
    )
    matrix: Matrix = Field(default=Matrix(), description="which placements of kernels to run")
    repeat: int = Field(default=1, ge=1, le=1000, description="how often to run each job")
    settle_s: float = Field(
        default=6.0,
        ge=0,
        description="seconds that the guests of a job idle before their logs are read: a splat of delayed work comes "
        "late; other jobs run beside them",
    )
    limits: Limits = Field(default=Limits(), description="how much of the host the lab may take")
    variants: dict[Name, tuple[Needed, ...]] = Field(
        default={"debug": ("config/debug.config",)},
        description="name -> fragments in `kernels/` for a slow variant of each kernel that finds more, merged on top "
        "of the kernel's own: `run --variant NAME`; the lab takes no figures on it",
    )
    mirror: str = Field(default="", description="URL of a Debian mirror; empty: what the host's own apt uses")
    qemu: Literal["auto", "host", "debian"] = Field(
        default="auto",
        description="host: the host's QEMU; debian: Debian's, unpacked and not installed; auto: the host's where there "
        "is one",
    )
    executor: Jobs = Field(default=LocalJobs(type="local"), description="what runs the jobs")
    hosts: Hosts = Field(default={}, description="name -> other host to run on, see docs/hosts.md")
    nightly: Nightly = Field(default=Nightly(), description="what the verb `nightly` runs, keeps and reports")
    patchwork: Patchwork | None = Field(default=None, description="the server that `try --post` tells of its checks")
    results_url: Server = Field(
        default="", description="URL under which `results/` is served; checks link to the pages there"
    )
