"""What a host says of itself, in the lab's own words; `look` runs this on the far side as well."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass

from kpatchlab.cache import Cache
from kpatchlab.host.doctor import HostCheck, examine
from kpatchlab.host.host import Host, available_mib, free_bytes
from kpatchlab.jsonable import from_json, to_json


@dataclass(frozen=True, slots=True)
class Told:
    """What a host is, and what the doctor finds there.

    Attributes:
        facts: see `Host.facts`.
        memory_mib: memory that can be had now.
        disk_mib: room on the disk of the cache.
        cache: that cache's folder.
    """

    facts: dict[str, str]
    checks: tuple[HostCheck, ...]
    cpus: int
    memory_mib: int
    disk_mib: int
    cache: str


def tell(mirror: str, qemu: str) -> Told:
    """Look at this host; `mirror` and `qemu` are those of lab.yaml."""
    host = Host(Cache(), mirror, qemu)
    checks = tuple(examine(host))  # finds out the QEMU and the accelerator, which are facts then
    cpus = len(os.sched_getaffinity(0))
    return Told(host.facts(), checks, cpus, available_mib(), free_bytes(host.cache) >> 20, str(host.cache.root))


def understood(text: str) -> Told:
    """Return what another host told.

    Raises:
        ValueError, TypeError: it told something else.
    """
    return from_json(Told, json.loads(text))


if __name__ == "__main__":
    print(json.dumps(to_json(tell(*sys.argv[1:3]))))  # noqa: T201 - the answer, as on other hosts
