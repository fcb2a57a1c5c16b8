"""Runs on disk: one folder a run below the results directory, and an index of all of them.

Layout of a run's folder:

    run.json            the run without its jobs and builds; `complete` is false until `finish`
    plan.json           what was to be done, for --resume
    builds/KERNEL.json  one build each, KERNEL.log beside it
    jobs/JOB.json       one job each, written as it ends; JOB/ beside it holds consoles and attachments
    index.html, junit.xml, ...  the reports

A run is read from run.json and the files of its jobs, so that a run whose process was killed reads the same way as a
finished one. `index.db` has an index of the folders, which is made anew where it is missing, and the history of all
runs, those that are deleted since included: see `kpatchlab.history`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import fcntl
import json
import os
import secrets
import shutil
import sqlite3
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Self, TypeVar

from kpatchlab.errors import HostError, LabError, LabWarning, UserError
from kpatchlab.files import safe_name, write_atomic
from kpatchlab.history import database
from kpatchlab.history.index import RunRow, insert_row, read_row, summary
from kpatchlab.history.record import MANUAL, Origin, record
from kpatchlab.model import SCHEMA_VERSION, BuildResult, JobResult, KernelFacts, Run, from_json, to_json

INDEX = "index.db"
LAST = "last"
HEADER = "run.json"
PINNED = "pinned"
_LOCK = ".lock"

T = TypeVar("T")


def _dump(value: Any) -> bytes:
    # Lone surrogates (a guest's bytes that were decoded with surrogateescape) have no UTF-8.
    return json.dumps(value, indent=1, ensure_ascii=False).encode("utf-8", "replace") + b"\n"


def _read(path: Path, cls: type[T]) -> T:
    try:
        return from_json(cls, json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise LabError(f"cannot read {path}: {error}", hint="delete the file, or the whole run") from None


class RunDir:
    """The folder of one run that is being written; nobody else can open or delete it meanwhile.

    Attributes:
        id: the run's id, also the folder's name.
        path: the folder, absolute.
    """

    def __init__(self, store: Store, header: Run) -> None:
        self._store = store
        self._header = header
        self.id = header.id
        self.path = store.root / header.id
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = _hold(self.path)

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
        """Return the folder for one job's files (consoles, attachments), made if it is not there."""
        folder = self.path / "jobs" / safe_name(job)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

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
        """Store one build without its path in the cache, and its log."""
        name = safe_name(build.kernel)
        self.write(f"builds/{name}.json", _dump(to_json(dataclasses.replace(build, path=""))))
        if log:
            self.write(f"builds/{name}.log", log.encode("utf-8", "replace"))

    def save_plan(self, plan: Any) -> None:
        """Store the plan, any JSON."""
        self.write("plan.json", _dump(plan))

    def load_plan(self) -> Any:
        """Return the stored plan, None where there is none."""
        path = self.path / "plan.json"
        return json.loads(path.read_bytes()) if path.exists() else None

    def done_jobs(self) -> dict[str, JobResult]:
        """Return the jobs that are stored, by name, whatever their outcome."""
        return {job.job: job for job in _parts(self.path / "jobs", JobResult)}

    def done_builds(self) -> dict[str, BuildResult]:
        """Return the builds that are stored, by kernel."""
        return {build.kernel: build for build in _parts(self.path / "builds", BuildResult)}

    def finish(self, run: Run) -> Path:
        """Store what is not stored yet, write the header with `run.complete`, and enter it into the index.

        Args:
            run: the run whole; its id must be this folder's.

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
        self._store.enter(run, self.origin())
        self.close()
        return self.path

    def origin(self) -> Origin | None:
        """Return where the run stands in the history; None for one that is broken on purpose, which has no place."""
        plan = self.load_plan()
        return origin_of(plan if isinstance(plan, dict) else {})

    def save_header(self, run: Run) -> None:
        """Write run.json: `run` without jobs and builds."""
        self._header = dataclasses.replace(run, jobs=(), builds=())
        order = {"job_order": [job.job for job in run.jobs], "build_order": [b.kernel for b in run.builds]}
        self.write(HEADER, _dump({**to_json(self._header), **order}))

    def _inside(self, name: str) -> Path:
        path = Path(os.path.normpath(self.path / name))
        if self.path not in path.parents or not path.parent.resolve().is_relative_to(self.path.resolve()):
            raise ValueError(f"{name!r} is not inside the run's folder")
        return path


class Store:
    """All runs below one results directory."""

    def __init__(self, results_dir: Path) -> None:
        self.root = Path(os.path.abspath(results_dir))  # also without "..": it is compared with paths below it

    # --- writing

    def new_run(
        self,
        title: str,
        *,
        base: str = "",
        columns: Iterable[str] = (),
        kernels: Iterable[KernelFacts] = (),
        host: dict[str, str] | None = None,
        command: str = "",
        version: str = "",
    ) -> RunDir:
        """Make a folder for a new run; it is listed, and loadable as incomplete, from now on.

        Raises:
            HostError: the results directory cannot be written.
        """
        now = datetime.now(UTC)
        name = f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        stamp = now.isoformat(timespec="seconds")
        header = Run(
            name,
            title,
            stamp,
            0.0,
            False,
            base,
            tuple(columns),
            tuple(kernels),
            (),
            (),
            host or {},
            command=command,
            version=version,
        )
        try:
            run_dir = RunDir(self, header)
        except OSError as error:
            raise HostError(
                f"cannot write to {self.root}: {error.strerror}", hint="choose another results directory"
            ) from None
        run_dir.save_header(header)
        self.enter(header)
        return run_dir

    def open_run(self, wanted: str) -> RunDir:
        """Open a stored run to go on with it (--resume).

        Raises:
            UserError: there is no such run, or another lab is writing it.
        """
        header = _header(self.root / self.resolve(wanted))
        run_dir = RunDir(self, header)
        self._point_last(run_dir.id)
        return run_dir

    def delete(self, wanted: str) -> None:
        """Delete a run, folder and index row.

        Raises:
            UserError: there is no such run, or a lab is writing it.
        """
        folder = self.root / self.resolve(wanted)
        with _hold(folder):
            # The header first: a half-deleted folder is then no run any more.
            (folder / HEADER).unlink(missing_ok=True)
            shutil.rmtree(folder, ignore_errors=True)
        with self.database() as index:
            index.execute("DELETE FROM runs WHERE id = ?", (folder.name,))
        left = self.ids()
        if left:
            self._point_last(left[-1])
        else:
            (self.root / LAST).unlink(missing_ok=True)

    # --- reading

    def ids(self) -> list[str]:
        """Return the ids of all stored runs, oldest first."""
        try:
            found = [e.name for e in os.scandir(self.root) if e.is_dir(follow_symlinks=False)]
        except OSError:
            return []
        return sorted(name for name in found if (self.root / name / HEADER).exists())

    def resolve(self, wanted: str) -> str:
        """Turn "last", an id, or the unique beginning or end of one into an id.

        Raises:
            UserError: none or several fit; the hint names the nearest.
        """
        known = self.ids()
        if not known:
            raise UserError(f"no runs in {self.root}", hint="kpatchlab run makes one")
        if wanted == LAST:
            target = os.path.basename(os.readlink(self.root / LAST)) if (self.root / LAST).is_symlink() else ""
            return target if target in known else known[-1]
        if wanted in known:
            return wanted
        fits = [name for name in known if wanted and (name.startswith(wanted) or name.endswith(f"-{wanted}"))]
        if len(fits) == 1:
            return fits[0]
        if fits:
            raise UserError(f"run {wanted!r} fits {len(fits)} runs", hint=f"one of {', '.join(fits[-5:])}")
        near = difflib.get_close_matches(wanted, known, n=3, cutoff=0.4) or known[-3:]
        raise UserError(f"no run {wanted!r}", hint=f"nearest: {', '.join(near)}, or {LAST}")

    def load(self, wanted: str) -> tuple[Run, Path]:
        """Read a run whole, with its folder; one that was killed comes back with `complete` false.

        Raises:
            UserError: no such run, or a newer kpatchlab wrote it.
            LabError: a file of it is damaged; the message names the file.
        """
        folder = self.root / self.resolve(wanted)
        return _load(folder), folder

    def list(self) -> list[RunRow]:
        """Return all runs, newest first, from the index; what it lacks is read from the folders."""
        known = self.ids()
        with self.database() as index:
            rows = {row.id: row for row in map(read_row, index.execute("SELECT * FROM runs"))}
            # One that was not complete may have gone on since, or be going on.
            new = [name for name in known if name not in rows or not rows[name].complete]
            rows |= {name: _summary_of(self.root / name) for name in new}
            gone = rows.keys() - set(known)
            if new or gone:
                with database.transaction(index):
                    index.executemany("DELETE FROM runs WHERE id = ?", [(name,) for name in gone])
                    for name in new:
                        insert_row(index, rows[name])
        return [rows[name] for name in reversed(known)]

    def pin(self, wanted: str, *, on: bool = True) -> str:
        """Keep a run when others are pruned, or (`on` false) no longer; its id.

        Raises:
            UserError: there is no such run.
        """
        name = self.resolve(wanted)
        mark = self.root / name / PINNED
        if on:
            write_atomic(mark, b"")
        else:
            mark.unlink(missing_ok=True)
        return name

    def pinned(self, name: str) -> bool:
        """Whether a run is kept when others are pruned."""
        return (self.root / name / PINNED).exists()

    # --- index and history

    def enter(self, run: Run, origin: Origin | None = None) -> None:
        """Put a run into the index and, where it has an origin, into the history; point results/last at it."""
        with self.database() as index, database.transaction(index):
            insert_row(index, summary(run))
            if origin:
                record(index, run, origin)
        self._point_last(run.id)

    def re_enter(self, name: str) -> None:
        """Put a run into index and history again, from its folder.

        Raises:
            LabError: its folder is damaged.
        """
        run = _load(self.root / name)
        path = self.root / name / "plan.json"
        plan = json.loads(path.read_bytes()) if path.exists() else {}
        origin = origin_of(plan if isinstance(plan, dict) else {})
        with self.database() as index, database.transaction(index):
            insert_row(index, summary(run))
            if origin and run.jobs:
                record(index, run, origin)

    @contextlib.contextmanager
    def database(self) -> Iterator[sqlite3.Connection]:
        """Open the database; one that is damaged is put aside, and the last backup takes its place.

        What a backup lacks is entered from the runs' folders, and a `LabWarning` says what happened.

        Raises:
            UserError: a newer kpatchlab wrote it.
            HostError: it is locked or read-only, or the disk is full.
        """
        path = self.root / INDEX
        try:
            index = database.connect(path)
        except database.DamagedError:
            self._mend(path)
            index = database.connect(path)
        try:
            yield index
        except sqlite3.Error as error:
            raise database.trouble(error, path) from None
        finally:
            index.close()

    def _mend(self, path: Path) -> None:
        """Put a damaged database aside, and enter into what takes its place what the folders have beyond it."""
        with self._alone():
            try:
                database.connect(path).close()
            except database.DamagedError:
                done = database.recover(path)
            else:  # another process was first
                return
            with contextlib.closing(database.connect(path)) as index:
                entered = {row[0] for row in index.execute("SELECT run FROM entries")}
            lacking = [name for name in self.ids() if name not in entered]
            added = sum(map(self._entered, lacking))
        source = "the last backup takes its place" if done.restored else "there is no backup"
        warnings.warn(
            f"{path} was damaged ({done.reason}): kept as {done.aside.name}; {source},"
            f" {added} of its runs entered from folders",
            LabWarning, stacklevel=4,
        )  # fmt: skip

    def _entered(self, name: str) -> bool:
        """Enter a finished run; one whose folder is damaged as well is named by `doctor --store`."""
        with contextlib.suppress(LabError):
            if _header(self.root / name).complete:
                self.re_enter(name)
                return True
        return False

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Let one process at a time put a database in the place of a damaged one."""
        folder = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)

    def _point_last(self, name: str) -> None:
        beside = self.root / f".{LAST}.{secrets.token_hex(4)}"
        with contextlib.suppress(OSError):  # a file system without links does without
            beside.symlink_to(name)
            os.replace(beside, self.root / LAST)


def origin_of(plan: Mapping[str, Any]) -> Origin | None:
    """Return where a run with this plan stands in the history; None for one that is broken on purpose."""
    if plan.get("broken"):
        return None
    found = plan.get("origin") or {}
    return Origin(
        str(found.get("lane", MANUAL)),
        str(found.get("night", "")),
        str(found.get("digest", "")),
        found.get("heads", {}),
    )


def _hold(folder: Path) -> IO[str]:
    handle = (folder / _LOCK).open("a")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        handle.close()
        raise UserError(f"run {folder.name} is in use by another kpatchlab", hint="wait for it, or stop it") from None
    return handle


def _header(folder: Path) -> Run:
    path = folder / HEADER
    try:
        data = json.loads(path.read_bytes())
        schema = int(data.get("schema", 1))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise LabError(f"cannot read {path}: {error}", hint=f"delete {folder}") from None
    if schema > SCHEMA_VERSION:
        raise UserError(
            f"run {folder.name} has format {schema}, this kpatchlab reads up to {SCHEMA_VERSION}",
            hint="use the newer kpatchlab that wrote it",
        )
    return _read(path, Run)


def _load(folder: Path) -> Run:
    header = _header(folder)
    data = json.loads((folder / HEADER).read_bytes())
    jobs = _ordered(_parts(folder / "jobs", JobResult), data.get("job_order", ()), lambda job: job.job)
    builds = _ordered(_parts(folder / "builds", BuildResult), data.get("build_order", ()), lambda build: build.kernel)
    return dataclasses.replace(header, jobs=jobs, builds=builds)


def _parts(folder: Path, cls: type[T]) -> Iterator[T]:
    for path in sorted(folder.glob("*.json")):
        if not path.name.startswith("."):
            yield _read(path, cls)


def _ordered(found: Iterable[T], order: Iterable[str], name: Callable[[T], str]) -> tuple[T, ...]:
    rank = {key: i for i, key in enumerate(order)}
    return tuple(sorted(found, key=lambda item: rank.get(name(item), len(rank))))


def _summary_of(folder: Path) -> RunRow:
    try:
        return summary(_load(folder))
    except LabError as error:
        return RunRow(folder.name, "", "", 0.0, False, {}, {}, (), 3, error.message)
