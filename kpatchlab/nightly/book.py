"""The book of nights in the store's database: their plans and their reports."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from datetime import UTC, datetime

from kpatchlab.history import database
from kpatchlab.history.nights import NightPlan, NightReport, NightState, StoredNight, nights_of
from kpatchlab.history.query import Entry, History
from kpatchlab.jsonable import to_json
from kpatchlab.store.store import Store


@dataclass(slots=True)
class OpenNight:
    """A night that goes on; what it has got to is stored at each step, so that the next one can go on with it."""

    store: Store
    id: str
    plan: NightPlan

    def begun(self, lane: str, run: str) -> None:
        """Enter that the run of a lane has begun."""
        self.plan = self.plan.begun(lane, run)
        with self.store.database() as connection, database.transaction(connection):
            self._present(connection)
            values = (json.dumps(to_json(self.plan)), self.id)
            connection.execute("UPDATE nights SET plan = ? WHERE id = ?", values)

    def end(self, report: NightReport, *, untold: bool = False) -> None:
        """Close the night; `untold`: somebody is to be told of it now, see `told`."""
        stamp = datetime.now(UTC).isoformat(timespec="seconds")
        stored = json.dumps(to_json(report) | {"headline": report.headline})
        state = NightState.UNTOLD if untold else report.state
        with self.store.database() as connection, database.transaction(connection):
            self._present(connection)
            connection.execute(
                "UPDATE nights SET ended = ?, state = ?, exit_code = ?, report = ? WHERE id = ?",
                (stamp, state, report.exit_code, stored, self.id),
            )

    def _present(self, connection: sqlite3.Connection) -> None:
        """See that the night has its row, also where the database was damaged and a backup took its place."""
        stamp = datetime.now(UTC).isoformat(timespec="seconds")
        values = (self.id, stamp, "", NightState.RUNNING, 3, json.dumps(to_json(self.plan)), "{}")
        connection.execute("INSERT OR IGNORE INTO nights VALUES (?, ?, ?, ?, ?, ?, ?)", values)


def begin(store: Store, plan: NightPlan) -> OpenNight:
    """Enter a night that begins now, under an id which is unique also where the clock has jumped back."""
    now = datetime.now(UTC)
    with store.database() as connection, database.transaction(connection):
        known = {row[0] for row in connection.execute("SELECT id FROM nights")}
        name = stem = f"{now:%Y%m%d-%H%M%S}"
        number = 2
        while name in known:
            name, number = f"{stem}-{number}", number + 1
        stamp = now.isoformat(timespec="seconds")
        values = (name, stamp, "", NightState.RUNNING, 3, json.dumps(to_json(plan)), "{}")
        connection.execute("INSERT INTO nights VALUES (?, ?, ?, ?, ?, ?, ?)", values)
    return OpenNight(store, name, plan)


def told(store: Store, night: str, state: NightState) -> None:
    """Enter that those who are to be told of a night have been."""
    with store.database() as connection, database.transaction(connection):
        connection.execute("UPDATE nights SET state = ? WHERE id = ?", (state, night))


def untold(store: Store) -> list[NightReport]:
    """Return the reports of nights that were killed before anybody was told of them."""
    return [night.report for night in _nights(store) if night.state is NightState.UNTOLD and night.report]


def open_night(store: Store, lab: str) -> OpenNight | None:
    """Return the night of a lab file that was killed, if one was; another lab's next night goes on with its own."""
    found = [n for n in _nights(store) if n.state is NightState.RUNNING and n.plan.lab in {lab, ""}]
    return OpenNight(store, found[-1].id, found[-1].plan) if found else None


def _nights(store: Store) -> list[StoredNight]:
    with store.database() as connection:
        return nights_of(connection)


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
