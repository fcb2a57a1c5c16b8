"""What is wrong with a store, and which of it can be mended; deletes nothing."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from kpatchlab.errors import LabError, UserError
from kpatchlab.history import database
from kpatchlab.history.nights import NightState, nights_of
from kpatchlab.history.query import History
from kpatchlab.store.run_dir import job_order
from kpatchlab.store.store import INDEX, Store

JUMP = timedelta(days=1)
MENDED, FOUND, OK = "mended", "bad", "ok"


@dataclass(frozen=True, slots=True)
class StoreFinding:
    """One thing: `state` is "ok", "mended" or "bad" (which somebody has to decide about)."""

    state: str
    text: str
    remedy: str = ""


def examine(store: Store, *, repair: bool) -> list[StoreFinding]:
    """Look at a store's database and folders, and mend what can be; `repair` false: only say it."""
    found = list(_database(store, repair=repair))
    if any(item.state == FOUND for item in found):
        return found
    found += _folders(store, repair=repair)
    found += _clock(store)
    return found or [StoreFinding(OK, f"{store.root}: nothing is wrong")]


def _database(store: Store, *, repair: bool) -> Iterator[StoreFinding]:
    path = store.root / INDEX
    if not path.exists():
        backup = path.with_name(database.BACKUP)
        if not backup.exists():
            return
        if not repair:
            yield StoreFinding(FOUND, f"{path} is gone; there is a backup", "kpatchlab doctor --store --repair")
            return
        database.recover(path)
        yield StoreFinding(MENDED, f"{path} was gone: made from the backup")
        return
    try:
        database.connect(path, busy_s=2.0).close()
        wrong = database.integrity(path)
    except database.DamagedError as error:
        wrong = error.message
    except LabError as error:  # locked, or from a newer version: not ours to touch
        yield StoreFinding(FOUND, error.message, error.hint)
        return
    if not wrong:
        return
    if not repair:
        yield StoreFinding(FOUND, f"{path}: {wrong}", "kpatchlab doctor --store --repair")
        return
    done = database.recover(path)
    source = "the backup takes its place" if done.restored else "there is no backup, so it is made from the folders"
    yield StoreFinding(MENDED, f"{path} was damaged ({wrong}): put aside as {done.aside.name}; {source}")


def _folders(store: Store, *, repair: bool) -> Iterator[StoreFinding]:
    """Enter what the history lacks, and name what cannot be read."""
    with store.database() as connection:
        history = History(connection)
        entered = {entry.run for entry in history.entries()}
        running = [night.id for night in nights_of(connection) if night.state is NightState.RUNNING]
    for name in store.ids():
        try:
            run, folder = store.load(name)
        except UserError as error:
            yield StoreFinding(FOUND, error.message, error.hint)
            continue
        except LabError as error:
            yield StoreFinding(FOUND, error.message, error.hint)
            continue
        there = {job.job for job in run.jobs}
        lacking = [job for job in job_order(folder) if job not in there]
        if run.complete and lacking:
            yield StoreFinding(FOUND, *_half(store, name, len(lacking), known=name in entered))
        elif run.complete and run.jobs and name not in entered:
            if repair:
                store.re_enter(name)
                yield StoreFinding(MENDED, f"run {name} was not in the history, and is now")
            else:
                yield StoreFinding(FOUND, f"run {name} is not in the history", "kpatchlab doctor --store --repair")
    headless = [p.name for p in sorted(store.root.iterdir()) if (p / "jobs").is_dir() and not (p / "run.json").exists()]
    for name in headless:
        yield StoreFinding(FOUND, f"{name} has jobs and no run.json: half deleted", f"delete {store.root / name}")
    for night in running:
        yield StoreFinding(OK, f"night {night} was stopped: the next one goes on with it")


def _half(store: Store, name: str, count: int, *, known: bool) -> tuple[str, str]:
    words = "the history has them" if known else "the history does not have them either"
    return f"run {name}: {count} of its jobs are gone from its folder; {words}", f"delete {store.root / name}"


def _clock(store: Store) -> Iterator[StoreFinding]:
    """Say where the clock has jumped: order is by entry, so nothing is lost, but ages are not what they seem."""
    with store.database() as connection:
        entries = [entry for entry in History(connection).entries() if entry.night]
    stamps = []
    for entry in entries:
        with contextlib.suppress(ValueError):
            stamps.append((entry.run, datetime.fromisoformat(entry.started)))
    for (_, one), (run, other) in itertools.pairwise(stamps):
        if one - other > JUMP:
            yield StoreFinding(OK, f"run {run} is stamped {(one - other).days} days before the one that it follows")
    if stamps and stamps[-1][1] > datetime.now(UTC) + JUMP:
        yield StoreFinding(
            FOUND, f"run {stamps[-1][0]} is stamped in the future: {stamps[-1][1]:%Y-%m-%d}", "set the clock"
        )
