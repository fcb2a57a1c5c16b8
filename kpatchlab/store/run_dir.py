"""The folder of one run: what is in it, written and read.

    run.json            the run without its jobs and builds; `complete` is false until `finish`
    plan.json           what is to be done, for --resume; see `run_plan`
    builds/KERNEL.json  one build each, KERNEL.log beside it
    jobs/JOB.json       one job each, written as it ends; JOB/ beside it holds consoles and attachments
    index.html, junit.xml, ...  the reports

A run is read from run.json and the files of its jobs, so that a run whose process was killed reads the same way as a
finished one.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any, Self, TypeVar

from pydantic_core import PydanticSerializationError
from pydantic_core import to_json as to_json_bytes

from kpatchlab.earlier import job_result
from kpatchlab.errors import HostError, LabError, UserError
from kpatchlab.files import is_inert, is_safe, read_input, safe_name, write_atomic
from kpatchlab.history.record import Origin
from kpatchlab.jsonable import from_json, to_json
from kpatchlab.model import SCHEMA_VERSION, BuildResult, JobResult, Run
from kpatchlab.store.run_plan import FILE as PLAN
from kpatchlab.store.run_plan import RunPlan, load_plan
from kpatchlab.textclean import one_line
from kpatchlab.urls import hide
from kpatchlab.verdict.values import Comparison

HEADER = "run.json"
_LOCK = ".lock"
MAX_PART_BYTES = 1 << 30
"""Of one file of a run: a million cases with their details are smaller."""

T = TypeVar("T")


def _dump(value: Any) -> bytes:
    """Return JSON with indents, which Python's own encoder writes in eight times the time."""
    try:
        return to_json_bytes(value, indent=1, inf_nan_mode="constants") + b"\n"
    except PydanticSerializationError:
        # Lone surrogates (a guest's bytes that were decoded with surrogateescape) have no UTF-8.
        return json.dumps(value, indent=1, ensure_ascii=False).encode("utf-8", "replace") + b"\n"


def _read(path: Path, made: Callable[[Any], T], hint: str = "delete the file, or the whole run") -> T:
    try:
        return made(json.loads(read_input(path, MAX_PART_BYTES)))
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise LabError(f"cannot read {path}: {one_line(str(error))}", hint=hint) from None
    except UserError as error:
        raise LabError(f"cannot read {path}: {error.message.removeprefix(f'{path}: ')}", hint=hint) from None


class RunDir:
    """The folder of one run that is being written; nobody else can open or delete it meanwhile.

    Args:
        root: the folder of all runs.
        enter: puts the finished run into index and history.

    Attributes:
        id: the run's id, also the folder's name.
        path: the folder, absolute.
    """

    def __init__(self, root: Path, header: Run, enter: Callable[[Run, Comparison, Origin | None], None]) -> None:
        self._enter = enter
        self._header = header
        self.id = header.id
        self.path = root / header.id
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = hold(self.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def header(self) -> Run:
        """The run without its jobs and builds, as it stands on disk."""
        return self._header

    def close(self) -> None:
        """Let go of the folder; `finish` does it too."""
        self._lock.close()

    def write(self, name: str, data: bytes) -> Path:
        """Write a file of the run, atomically; `name` is relative to its folder.

        Raises:
            ValueError: `name` leads out of the run's folder.
        """
        path = self._inside(name)
        write_atomic(path, data)
        return path

    def job_dir(self, job: str) -> Path:
        """Return where one job's files (consoles, attachments) are, if it has any."""
        return self.path / "jobs" / safe_name(job)

    def take_in(self, job: JobResult, files: Path) -> JobResult:
        """Move a job's files to their place, whatever is there; returns the job with paths in the run's folder.

        An attachment whose name may be taken for a page's gets `.txt` behind it.

        Args:
            job: its paths are relative to `files`.

        Raises:
            HostError: the results directory cannot be written.
        """
        folder = self.job_dir(job.job)
        try:
            attachments = [_made_inert(files, name) for name in job.attachments]
            shutil.rmtree(folder, ignore_errors=True)
            folder.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(files, folder)
            folder.chmod(0o755)
        except OSError as error:
            raise HostError(f"cannot write {folder}: {error.strerror}", hint="is the disk full?") from None
        place = self.relative(folder)
        return dataclasses.replace(
            job,
            guests=tuple(dataclasses.replace(guest, console=f"{place}/{guest.console}") for guest in job.guests),
            attachments=tuple(f"{place}/{name}" for name in attachments),
        )

    def relative(self, path: Path) -> str:
        """Return a path below the run's folder as it is stored.

        Raises:
            ValueError: it is not below the run's folder.
        """
        return str(path.relative_to(self.path))

    def save_job(self, job: JobResult) -> None:
        """Store one job; one of the same name is replaced."""
        self.write(f"jobs/{safe_name(job.job)}.json", _dump(to_json(job)))

    def drop_job(self, job: str) -> None:
        """Forget one job's result, for it to be run again."""
        (self.path / "jobs" / f"{safe_name(job)}.json").unlink(missing_ok=True)

    def save_build(self, build: BuildResult, log: str = "") -> None:
        """Store one build, and its log."""
        name = safe_name(build.kernel)
        self.write(f"builds/{name}.json", _dump(to_json(build)))
        if log:
            self.write(f"builds/{name}.log", log.encode("utf-8", "replace"))

    def save_plan(self, plan: RunPlan) -> None:
        """Store what is to be done."""
        self.write(PLAN, _dump(to_json(plan)))

    def load_plan(self) -> RunPlan:
        """Return what was to be done; a plan without jobs where none is stored."""
        return load_plan(self.path)

    def done_jobs(self) -> dict[str, JobResult]:
        """Return the jobs that are stored, by name, whatever their outcome."""
        return {job.job: job for job in _parts(self.path / "jobs", job_result)}

    def done_builds(self) -> dict[str, BuildResult]:
        """Return the builds that are stored, by kernel."""
        return {build.kernel: build for build in _parts(self.path / "builds", partial(from_json, BuildResult))}

    def finish(self, run: Run, comparison: Comparison) -> Path:
        """Store what is not stored yet, write the header with `run.complete`, and enter it into the index.

        Args:
            run: the run whole; its id must be this folder's.
            comparison: what it says of its columns.

        Returns:
            The run's folder.
        """
        if run.id != self.id:
            raise ValueError(f"run {run.id} does not belong to {self.path}")
        done = self.done_jobs()
        for job in run.jobs:
            if done.get(job.job) != job:
                self.save_job(job)
        for build in run.builds:
            if not (self.path / f"builds/{safe_name(build.kernel)}.json").exists():
                self.save_build(build)
        self.save_header(run)
        self._enter(run, comparison, self.load_plan().place)
        self.close()
        return self.path

    def save_header(self, run: Run) -> None:
        """Write run.json: `run` without jobs and builds."""
        command = hide(run.command)
        self._header = dataclasses.replace(run, jobs=(), builds=(), schema=SCHEMA_VERSION, command=command)
        order = {"job_order": [job.job for job in run.jobs], "build_order": [b.kernel for b in run.builds]}
        self.write(HEADER, _dump({**to_json(self._header), **order}))

    def _inside(self, name: str) -> Path:
        path = Path(os.path.normpath(self.path / name))
        if self.path not in path.parents or not path.parent.resolve().is_relative_to(self.path.resolve()):
            raise ValueError(f"{name!r} is not inside the run's folder")
        return path


def _made_inert(folder: Path, name: str) -> str:
    """Rename a file that may be taken for a page; returns its name."""
    if is_inert(name):
        return name
    new, number = f"{name}.txt", 1
    while (folder / new).exists():
        number += 1
        new = f"{name}.{number}.txt"
    (folder / name).rename(folder / new)
    return new


def hold(folder: Path) -> IO[str]:
    """Keep every other lab out of a run's folder until the file that comes back is closed.

    Raises:
        UserError: another one has it.
        HostError: the folder cannot be written.
    """
    try:
        handle = (folder / _LOCK).open("a")
    except OSError as error:
        raise HostError(
            f"cannot write to {folder}: {error.strerror}", hint="is the disk full, or the folder read-only?"
        ) from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        handle.close()
        raise UserError(f"run {folder.name} is in use by another kpatchlab", hint="wait for it, or stop it") from None
    return handle


def load_header(folder: Path) -> Run:
    """Read a run without its jobs and builds.

    Raises:
        UserError: a newer kpatchlab wrote it.
        LabError: the file is damaged.
    """
    return _header(folder).run


@dataclasses.dataclass(frozen=True, slots=True)
class _Header:
    """What run.json says: the run without jobs and builds, and their names in the order in which reports have them."""

    run: Run
    jobs: list[str]
    builds: list[str]


def _header(folder: Path) -> _Header:
    found = _read(folder / HEADER, _parsed, f"delete {folder}")
    if isinstance(found, int):
        raise UserError(
            f"run {folder.name} has format {found}, this kpatchlab reads up to {SCHEMA_VERSION}",
            hint="use the newer kpatchlab that wrote it",
        )
    return found


def _parsed(data: Any) -> _Header | int:
    """Return what a header says; the number of its format where that is a newer one."""
    schema = data.get("schema", 1)
    if not isinstance(schema, int):
        raise TypeError("a format that is no number")
    if schema > SCHEMA_VERSION:
        return schema
    run = from_json(Run, data)
    if not is_safe(run.id):
        raise ValueError("its id is no name of a folder")
    orders = [data.get(key, []) for key in ("job_order", "build_order")]
    if not all(isinstance(order, list) and all(isinstance(name, str) for name in order) for order in orders):
        raise TypeError("an order that is no list of names")
    return _Header(run, *orders)


def job_order(folder: Path) -> list[str]:
    """Return the names of all jobs that a run has, or had; raises as `load_header`."""
    return _header(folder).jobs


def load_builds(folder: Path) -> tuple[BuildResult, ...]:
    """Read the builds of a run alone; raises as `load_run`."""
    return _builds(folder, _header(folder))


def load_seconds(folder: Path) -> dict[str, float]:
    """Read what each job of a run took alone, in seconds, by name; raises as `load_run`."""
    _header(folder)
    return dict(_parts(folder / "jobs", _took))


def _took(data: Any) -> tuple[str, float]:
    name, seconds = data["job"], data.get("duration_s", 0.0)
    if not isinstance(name, str) or not isinstance(seconds, (int, float)):
        raise TypeError("no name, or no time")
    return name, seconds


def load_run(folder: Path) -> Run:
    """Read a run whole; raises as `load_header`, and LabError for a damaged file of a job or build."""
    header = _header(folder)
    jobs = _ordered(_parts(folder / "jobs", job_result), header.jobs, lambda job: job.job)
    return dataclasses.replace(header.run, jobs=jobs, builds=_builds(folder, header))


def _builds(folder: Path, header: _Header) -> tuple[BuildResult, ...]:
    found = _parts(folder / "builds", partial(from_json, BuildResult))
    return _ordered(found, header.builds, lambda build: build.kernel)


def _parts(folder: Path, made: Callable[[Any], T]) -> Iterator[T]:
    for path in sorted(folder.glob("*.json")):
        if not path.name.startswith("."):
            yield _read(path, made)


def _ordered(found: Iterable[T], order: Iterable[str], name: Callable[[T], str]) -> tuple[T, ...]:
    rank = {key: i for i, key in enumerate(order)}
    return tuple(sorted(found, key=lambda item: rank.get(name(item), len(rank))))
