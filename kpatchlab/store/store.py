"""All runs below one results directory, one folder each, and an index of them.

`index.db` has an index of the folders, which is made anew where it is missing, and the history of all runs, those that
are deleted since included: see `kpatchlab.history`.
"""

from __future__ import annotations

import contextlib
import difflib
import fcntl
import os
import secrets
import shutil
import sqlite3
import warnings
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from kpatchlab.errors import HostError, LabError, LabWarning, UserError
from kpatchlab.files import write_atomic
from kpatchlab.history import database
from kpatchlab.history.index import RunRow, insert_row, read_row, summary
from kpatchlab.history.record import Origin, record
from kpatchlab.model import BuildResult, KernelFacts, Run
from kpatchlab.store.run_dir import HEADER, RunDir, hold, load_builds, load_header, load_run, load_seconds
from kpatchlab.store.run_plan import RunPlan, load_plan
from kpatchlab.verdict.compare import compare
from kpatchlab.verdict.values import Comparison

INDEX = "index.db"
LAST = "last"
PINNED = "pinned"


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
            id=name,
            title=title,
            started=stamp,
            duration_s=0.0,
            complete=False,
            base=base,
            columns=tuple(columns),
            kernels=tuple(kernels),
            builds=(),
            jobs=(),
            host=host or {},
            command=command,
            version=version,
        )
        try:
            run_dir = RunDir(self.root, header, self.enter)
        except OSError as error:
            raise HostError(
                f"cannot write to {self.root}: {error.strerror}", hint="choose another results directory"
            ) from None
        run_dir.save_header(header)
        self.enter(header, compare(header))
        return run_dir

    def open_run(self, wanted: str) -> RunDir:
        """Open a stored run to go on with it (--resume).

        Raises:
            UserError: there is no such run, or another lab is writing it.
        """
        folder = self.root / self.resolve(wanted)
        header = load_header(folder)
        if header.id != folder.name:
            raise UserError(f"run {folder.name} says that it is run {header.id}", hint=f"delete {folder}")
        run_dir = RunDir(self.root, header, self.enter)
        self._point_last(run_dir.id)
        return run_dir

    def delete(self, wanted: str) -> None:
        """Delete a run, folder and index row.

        Raises:
            UserError: there is no such run, or a lab is writing it.
        """
        folder = self.root / self.resolve(wanted)
        with hold(folder):
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
        return load_run(folder), folder

    def builds(self, wanted: str) -> tuple[BuildResult, ...]:
        """Read the builds of a run, and none of its jobs, which can be thousands; raises as `load`."""
        return load_builds(self.root / self.resolve(wanted))

    def seconds(self, wanted: str) -> dict[str, float]:
        """Read what each job of a run took, and none of its cases, which can be millions; raises as `load`."""
        return load_seconds(self.root / self.resolve(wanted))

    def plan(self, wanted: str) -> RunPlan:
        """Read what a run was to do.

        Raises:
            UserError: there is no such run.
            LabError: the file is damaged.
        """
        return load_plan(self.root / self.resolve(wanted))

    def list(self) -> list[RunRow]:
        """Return all runs, newest first, from the index; what it lacks is read from the folders."""
        self.catch_up()
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

    def enter(self, run: Run, comparison: Comparison, origin: Origin | None = None) -> None:
        """Put a run into the index and, where it has an origin, into the history; point results/last at it."""
        path = self.root / INDEX
        while True:
            with self.database() as index, database.transaction(index):
                used = _file(path)
                insert_row(index, summary(run, comparison))
                if origin:
                    record(index, run, comparison, origin)
            if _file(path) == used:
                break
            # Another lab found the database damaged and has put it aside meanwhile, this run's rows with it.
        self._point_last(run.id)

    def catch_up(self) -> None:
        """Enter finished runs that the history lacks: a lab was killed when it had stored one and not entered it."""
        with self.database() as index:
            entered = {row[0] for row in index.execute("SELECT run FROM entries")}
        for name in self.ids():
            if name not in entered:
                with contextlib.suppress(LabError):  # one that is damaged is named by who reads it
                    if load_header(self.root / name).complete and load_plan(self.root / name).place:
                        self.re_enter(name)

    def re_enter(self, name: str) -> None:
        """Put a run into index and history again, from its folder.

        Raises:
            LabError: its folder is damaged.
        """
        run = load_run(self.root / name)
        comparison, origin = compare(run), load_plan(self.root / name).place
        with self.database() as index, database.transaction(index):
            insert_row(index, summary(run, comparison))
            if origin and run.jobs:
                record(index, run, comparison, origin)

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
            if load_header(self.root / name).complete:
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


def _file(path: Path) -> tuple[int, int]:
    """Return which file is at a path, (0, 0) for none."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_dev, found.st_ino


def _summary_of(folder: Path) -> RunRow:
    try:
        run = load_run(folder)
        return summary(run, compare(run))
    except LabError as error:
        return RunRow(folder.name, "", "", 0.0, False, {}, {}, (), 3, error.message)
