"""The database of a store, `results/index.db`: opened, brought up to date, kept from harm.

One file has the index of runs, which can be made anew from their folders, and the history, which cannot: runs are
pruned and what they were is kept. So a file that is damaged is put aside, never deleted; the newest copy that a
night made (`index.backup.db`) takes its place; and one that a newer kpatchlab wrote is refused.

`PRAGMA user_version` says which of `MIGRATIONS` the file has had; each runs in one transaction.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from kpatchlab.earlier import kind_of
from kpatchlab.errors import HostError, UserError

BACKUP = "index.backup.db"
BUSY_S = 30.0
MEND = "kpatchlab doctor --store --repair mends it"

MIGRATIONS = (
    # 1: the index of runs
    """
    CREATE TABLE IF NOT EXISTS runs (id TEXT PRIMARY KEY, title TEXT, started TEXT, duration_s REAL, complete INTEGER,
        outcomes TEXT, verdicts TEXT, kernels TEXT, exit_code INTEGER, problem TEXT);
    """,
    # 2: the history; texts that come back every night are stored once, what a check was is a row of small integers
    """
    CREATE TABLE entries (id INTEGER PRIMARY KEY, run TEXT NOT NULL UNIQUE, lane TEXT NOT NULL, night TEXT NOT NULL,
        started TEXT NOT NULL, title TEXT NOT NULL, complete INTEGER NOT NULL, exit_code INTEGER NOT NULL,
        lost INTEGER NOT NULL, digest TEXT NOT NULL, heads TEXT NOT NULL);
    CREATE INDEX entries_by_lane ON entries (lane, id);
    CREATE TABLE checks (id INTEGER PRIMARY KEY, lane TEXT NOT NULL, subject TEXT NOT NULL, name TEXT NOT NULL,
        column TEXT NOT NULL, UNIQUE (lane, subject, name, column));
    CREATE TABLE texts (id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE);
    CREATE TABLE results (check_id INTEGER NOT NULL, entry INTEGER NOT NULL, outcome INTEGER NOT NULL,
        good INTEGER NOT NULL, runs INTEGER NOT NULL, message INTEGER NOT NULL,
        PRIMARY KEY (check_id, entry)) WITHOUT ROWID;
    CREATE TABLE splats (id INTEGER PRIMARY KEY, fingerprint TEXT NOT NULL UNIQUE, kind TEXT NOT NULL,
        title TEXT NOT NULL, text TEXT NOT NULL);
    CREATE TABLE sightings (splat INTEGER NOT NULL, entry INTEGER NOT NULL, column TEXT NOT NULL,
        subject TEXT NOT NULL, count INTEGER NOT NULL, PRIMARY KEY (splat, entry, column, subject)) WITHOUT ROWID;
    CREATE TABLE metrics (id INTEGER PRIMARY KEY, lane TEXT NOT NULL, subject TEXT NOT NULL, name TEXT NOT NULL,
        column TEXT NOT NULL, unit TEXT NOT NULL, direction TEXT NOT NULL, mode TEXT NOT NULL,
        UNIQUE (lane, subject, name, column, unit, direction, mode));
    CREATE TABLE figures (metric INTEGER NOT NULL, entry INTEGER NOT NULL, value REAL NOT NULL, ratio REAL,
        repeats INTEGER NOT NULL,
        PRIMARY KEY (metric, entry)) WITHOUT ROWID;
    CREATE TABLE nights (id TEXT PRIMARY KEY, started TEXT NOT NULL, ended TEXT NOT NULL, state TEXT NOT NULL,
        exit_code INTEGER NOT NULL, plan TEXT NOT NULL, report TEXT NOT NULL);
    """,
    # 3: kinds of checks, which until here followed from their names
    """
    CREATE TABLE checks_3 (id INTEGER PRIMARY KEY, lane TEXT NOT NULL, subject TEXT NOT NULL, kind TEXT NOT NULL,
        name TEXT NOT NULL, column TEXT NOT NULL, UNIQUE (lane, subject, kind, name, column));
    INSERT INTO checks_3 SELECT id, lane, subject, kind_of(name), name, column FROM checks;
    DROP TABLE checks;
    ALTER TABLE checks_3 RENAME TO checks;
    """,
)
VERSION = len(MIGRATIONS)


@dataclass(frozen=True, slots=True)
class Damage:
    """What was wrong with a database, and where it was put aside."""

    reason: str
    aside: Path
    restored: bool


class DamagedError(HostError):
    """The file is no database, or not a whole one."""


def connect(path: Path, *, busy_s: float = BUSY_S) -> sqlite3.Connection:
    """Open the database, made or brought up to date where needed.

    Raises:
        UserError: a newer kpatchlab wrote it.
        DamagedError: it is damaged; `recover` is the remedy.
        HostError: it is locked for longer than `busy_s`, read-only, or the disk is full.
    """
    if (gone := _gone(path)) and path.with_name(BACKUP).exists():
        # sqlite would take it for a new one, and the night's next backup would end what the last one kept.
        raise DamagedError(f"{path} {gone}, and there is a backup of it", hint=MEND)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(path, timeout=busy_s, isolation_level=None)
    except (OSError, sqlite3.Error) as error:
        raise HostError(f"cannot use {path}: {error}") from None
    try:
        _migrate(connection, path)
    except sqlite3.OperationalError as error:
        connection.close()
        raise trouble(error, path) from None
    except sqlite3.DatabaseError as error:
        connection.close()
        raise DamagedError(f"{path} is damaged: {error}", hint=MEND) from None
    except BaseException:
        connection.close()
        raise
    return connection


def _gone(path: Path) -> str:
    """Return what is amiss where nothing of a database is left, "" where something is."""
    try:
        return "" if path.stat().st_size else "is empty"
    except OSError:
        return "is gone"


def trouble(error: sqlite3.Error, path: Path) -> HostError:
    """Return what a failing statement means for people."""
    if "locked" in str(error) or "busy" in str(error):
        return HostError(f"{path} is locked by another program", hint="fuser names it; try again when it has ended")
    if "malformed" in str(error) or "not a database" in str(error):
        return DamagedError(f"{path} is damaged: {error}", hint=MEND)
    return HostError(f"cannot use {path}: {error}", hint="is the disk full, or the folder read-only?")


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > VERSION:
        raise UserError(
            f"{path} has version {version}, this kpatchlab reads up to {VERSION}",
            hint="use the newer kpatchlab that wrote it; nothing was changed",
        )
    if version == VERSION:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        return
    connection.execute("PRAGMA journal_mode = WAL")
    connection.create_function("kind_of", 1, lambda name: str(kind_of(name)), deterministic=True)
    for number in range(version + 1, VERSION + 1):
        with transaction(connection):
            # Somebody else may have been first; the lock is held from here on.
            (now,) = connection.execute("PRAGMA user_version").fetchone()
            if now < number:
                for statement in MIGRATIONS[number - 1].split(";"):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {number}")


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Hold the write lock; all or nothing."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        with contextlib.suppress(sqlite3.Error):  # a full disk has rolled back already
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def recover(path: Path) -> Damage:
    """Put a damaged database aside and the last backup in its place; without one the next opening makes a new one."""
    reason = _gone(path) or integrity(path)
    stamp = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    aside = path.with_name(f"{path.stem}.damaged-{stamp}.db")
    for suffix in ("-wal", "-shm", ""):
        with contextlib.suppress(FileNotFoundError):
            os.replace(f"{path}{suffix}", f"{aside}{suffix}")
    backup = path.with_name(BACKUP)
    restored = backup.exists() and not integrity(backup)
    if restored:
        source = sqlite3.connect(backup)
        target = sqlite3.connect(path)
        with contextlib.closing(source), contextlib.closing(target):
            source.backup(target)
    return Damage(reason, aside, restored)


def integrity(path: Path) -> str:
    """Return what is wrong inside a database file, "" where nothing is."""
    try:
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5)) as connection:
            rows = [str(row[0]) for row in connection.execute("PRAGMA integrity_check(3)")]
    except sqlite3.Error as error:
        return str(error)
    return "" if rows == ["ok"] else "; ".join(rows)


def backup(path: Path) -> None:
    """Copy the database beside itself, whole or not at all.

    Raises:
        HostError: it cannot be written.
    """
    beside = path.with_name(f".{BACKUP}.{secrets.token_hex(4)}")
    try:
        with contextlib.closing(connect(path)) as source, contextlib.closing(sqlite3.connect(beside)) as target:
            source.backup(target)
        os.replace(beside, path.with_name(BACKUP))
    except (sqlite3.Error, OSError) as error:
        raise HostError(f"cannot write {path.with_name(BACKUP)}: {error}", hint="is the disk full?") from None
    finally:
        beside.unlink(missing_ok=True)
