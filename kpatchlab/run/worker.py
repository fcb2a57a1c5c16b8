"""One job in a process of its own: a task on standard input, its result and its files as a tar on standard output.

    python -m kpatchlab.run.worker --cache DIR --upstream DIR [--qemu CHOICE] [--mirror URL]

The lab itself need not be there: all that a task names comes from the cache, and from upstream what that lacks.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import signal
import sys
import tarfile
import threading
from pathlib import Path
from typing import IO

from kpatchlab.cache import Cache, Folder
from kpatchlab.errors import HostError
from kpatchlab.host.host import Host
from kpatchlab.jsonable import from_json, to_json
from kpatchlab.model import JobResult
from kpatchlab.run.executor import infra
from kpatchlab.run.inputs import Here
from kpatchlab.run.job import run_job
from kpatchlab.run.task import JobTask
from kpatchlab.urls import shown

MODULE = "kpatchlab.run.worker"
RESULT = "result.json"
FILES = "files"
IDLE = "kpatchlab.run.worker: the guests idle"
"""A line on standard error: from now on the job takes no more than memory, see `Here.idle`."""


def command_line(cache: Path, host: Host) -> list[str]:
    """Return the arguments of Python for a worker that has what this host has, in a cache of its own."""
    where = ["--cache", str(cache), "--upstream", str(host.cache.root)]
    # Arguments are for everybody to read: a mirror that takes a password is asked by the lab itself alone.
    return ["-m", MODULE, *where, "--qemu", host.qemu_choice, "--mirror", " ".join(map(shown, host.mirror.split()))]


def pack(result: JobResult, folder: Path, stream: IO[bytes]) -> None:
    """Write a job's result and its files."""
    data = json.dumps(to_json(result)).encode()
    with tarfile.open(fileobj=stream, mode="w|") as archive:
        member = tarfile.TarInfo(RESULT)
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
        archive.add(folder, FILES)


def unpack(stream: IO[bytes], folder: Path) -> JobResult:
    """Read what `pack` wrote, the files into a folder.

    Raises:
        HostError: it is something else, or a part of it.
    """
    result = None
    try:
        # By hand: extract(filter="data") came with Python 3.11.4, and Debian 12 has 3.11.2.
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            for member in archive:
                content = archive.extractfile(member) if member.isfile() else None
                target = Path(os.path.normpath(folder / os.path.relpath(member.name, FILES)))
                if content is None:
                    continue
                if member.name == RESULT:
                    result = from_json(JobResult, json.loads(content.read()))
                elif target.is_relative_to(folder):
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with target.open("wb") as handle:
                        shutil.copyfileobj(content, handle)
    except (tarfile.TarError, ValueError, TypeError) as error:
        raise HostError(f"the job's worker gave no whole result: {error}") from None
    if result is None:
        raise HostError("the job's worker gave no result")
    return result


def _idle() -> None:
    sys.stderr.write(f"{IDLE}\n")
    sys.stderr.flush()


def main() -> None:
    """Carry out the job."""
    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}", description=__doc__.partition("\n")[0])
    parser.add_argument("--cache", type=Path, required=True, help="artifacts of this worker")
    parser.add_argument("--upstream", type=Path, required=True, help="a cache that has the job's artifacts")
    parser.add_argument("--qemu", default="auto", help="as in lab.yaml")
    parser.add_argument("--mirror", default="", help="as in lab.yaml")
    options = parser.parse_args()
    cancel = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: cancel.set())
    task = JobTask.from_json(sys.stdin.buffer.read())
    cache = Cache(options.cache, Folder(options.upstream))
    folder = cache.scratch("job")
    try:
        with cache.using(folder):
            host = Host(cache, options.mirror, options.qemu)
            result = run_job(task, Here(host, folder, cancel, _idle))
    except Exception as error:  # noqa: BLE001 - whatever it is, it is this one job's and the lab's, not a kernel's
        result = infra(task.spec, error)
    try:
        pack(result, folder, sys.stdout.buffer)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
