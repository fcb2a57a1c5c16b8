"""The book of nights in the store's database: what a night was to do, and what it came to."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from kpatchlab.history import database
from kpatchlab.history.query import Entry, History
from kpatchlab.store.store import Store

RUNNING = "running"
UNTOLD = "untold"
"""It has ended, and those who are to be told of it have not been told yet."""
DONE = "done"
LOST = "lost"


def begin(store: Store, plan: Mapping[str, Any]) -> str:
    """Enter a night that begins now; its id, which is unique also where the clock has jumped back."""
    now = datetime.now(UTC)
    with store.database() as connection, database.transaction(connection):
        known = {row[0] for row in connection.execute("SELECT id FROM nights")}
        name = stem = f"{now:%Y%m%d-%H%M%S}"
        number = 2
        while name in known:
            name, number = f"{stem}-{number}", number + 1
        values = (name, now.isoformat(timespec="seconds"), "", RUNNING, 3, json.dumps(plan), "{}")
        connection.execute("INSERT INTO nights VALUES (?, ?, ?, ?, ?, ?, ?)", values)
    return name


def save(store: Store, night: str, plan: Mapping[str, Any]) -> None:
    """Store what a night has got to."""
    with store.database() as connection, database.transaction(connection):
        _present(connection, night)
        connection.execute("UPDATE nights SET plan = ? WHERE id = ?", (json.dumps(plan), night))


def end(store: Store, night: str, state: str, exit_code: int, report: Mapping[str, Any]) -> None:
    """Close a night."""
    stamp = datetime.now(UTC).isoformat(timespec="seconds")
    with store.database() as connection, database.transaction(connection):
        _present(connection, night)
        connection.execute(
            "UPDATE nights SET ended = ?, state = ?, exit_code = ?, report = ? WHERE id = ?",
            (stamp, state, exit_code, json.dumps(report), night),
        )


def told(store: Store, night: str, state: str) -> None:
    """Enter that those who are to be told of a night have been."""
    with store.database() as connection, database.transaction(connection):
        connection.execute("UPDATE nights SET state = ? WHERE id = ?", (state, night))


def untold(store: Store) -> list[dict[str, Any]]:
    """Return the nights that were killed before anybody was told of them."""
    with store.database() as connection:
        return [night for night in History(connection).nights() if night["state"] == UNTOLD]


def _present(connection: sqlite3.Connection, night: str) -> None:
    """See that a night has its row, also where the database was damaged meanwhile and a backup took its place."""
    stamp = datetime.now(UTC).isoformat(timespec="seconds")
    values = (night, stamp, "", RUNNING, 3, "{}", "{}")
    connection.execute("INSERT OR IGNORE INTO nights VALUES (?, ?, ?, ?, ?, ?, ?)", values)


def open_night(store: Store, lab: str) -> dict[str, Any] | None:
    """Return the night of a lab file that was killed, if one was; another lab's next night goes on with its own."""
    with store.database() as connection:
        nights = [n for n in History(connection).nights() if n["state"] == RUNNING and n["plan"].get("lab", lab) == lab]
    return nights[-1] if nights else None


def entries(store: Store, lane: str) -> list[Entry]:
    """Return the runs of a lane, oldest first."""
    with store.database() as connection:
        return History(connection).entries(lane)


def last_whole(store: Store, lane: str) -> Entry | None:
    """Return the last run of a lane of which nothing was lost."""
    return next((entry for entry in reversed(entries(store, lane)) if entry.usable), None)


def entry_of(store: Store, run: str) -> Entry | None:
    """Return what the history has of a run."""
    with store.database() as connection:
        return next((entry for entry in History(connection).entries() if entry.run == run), None)
