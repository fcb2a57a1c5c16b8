"""A night as it is stored: its plan, which grows as its runs begin, and its report."""

from __future__ import annotations

import enum
import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from kpatchlab import __version__
from kpatchlab.history.news import Kind, News
from kpatchlab.jsonable import from_json

PLURAL = frozenset({Kind.NEW_SPLAT, Kind.NEW_FAILURE, Kind.FLAKE, Kind.OLD_FAILURE, Kind.DRIFT})


class NightState(enum.StrEnum):
    """How far a night is; the first two are those of a night that the next one sees to."""

    RUNNING = "running"
    UNTOLD = "untold"  # it has ended, and those who are to be told of it have not been told yet
    DONE = "done"
    LOST = "lost"  # nothing of it could be run
    STOPPED = "stopped"  # by the user; stored it is running still
    NOTHING_NEW = "nothing new"  # never stored


@dataclass(frozen=True, slots=True)
class Trouble:
    """A lane that could not be run."""

    lane: str
    message: str
    hint: str = ""
    details: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LanePlan:
    """A lane with its trees fixed.

    Attributes:
        heads: kernel -> {"source", "commit", "revision", "key"}: what it is made of, for people and for ranges;
            {"patches", "no_patches", "variant"}: how its series is searched, see `history.culprit`.
        ranges: kernel -> the ranges of its git series, fixed; "" for series of other kinds.
        digest: of all that goes into the lane's run.
        run: id of its run, "" until that has begun.
    """

    lane: str
    heads: Mapping[str, Mapping[str, str]]
    ranges: Mapping[str, tuple[str, ...]]
    digest: str = ""
    run: str = ""


@dataclass(frozen=True, slots=True)
class NightPlan:
    """What a night is to do.

    Attributes:
        lab: name of the lab file.
        troubles: lanes that are no part of it, since their trees could not be had.
    """

    lanes: tuple[LanePlan, ...] = ()
    lab: str = ""
    troubles: tuple[Trouble, ...] = ()

    def begun(self, lane: str, run: str) -> NightPlan:
        """Return the plan with the run of a lane."""
        return replace(self, lanes=tuple(replace(one, run=run) if one.lane == lane else one for one in self.lanes))


@dataclass(frozen=True, slots=True)
class NightReport:
    """What a night came to; `to_json` of it is what is stored, posted and shown.

    Attributes:
        runs: lane -> run.
        moved: lane -> kernel -> `OLD..NEW`.
        notes: what else there is to say, one line each.
        pruned: runs whose folders went.
    """

    night: str = ""
    state: NightState = NightState.DONE
    exit_code: int = 0
    news: tuple[News, ...] = ()
    runs: Mapping[str, str] = field(default_factory=dict)
    moved: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    troubles: tuple[Trouble, ...] = ()
    notes: tuple[str, ...] = ()
    pruned: tuple[str, ...] = ()
    title: str = ""
    version: str = __version__

    @property
    def headline(self) -> str:
        """Return `1 new failure, 2 flakes, 3 known`, or what there is instead."""
        counts = {kind: sum(item.kind is kind for item in self.news) for kind in Kind}
        words = [f"{n} {kind}{'s' if n > 1 and kind in PLURAL else ''}" for kind, n in counts.items() if n]
        return ", ".join(words) or ("all as it was" if self.state is NightState.DONE else str(self.state))


@dataclass(frozen=True, slots=True)
class StoredNight:
    """A night in the database; `report` is None until it has ended."""

    id: str
    started: str
    ended: str
    state: NightState
    exit_code: int
    plan: NightPlan
    report: NightReport | None = None


def nights_of(connection: sqlite3.Connection) -> list[StoredNight]:
    """Return the nights of a database, those of earlier versions too, oldest first."""
    rows = connection.execute("SELECT id, started, ended, state, exit_code, plan, report FROM nights ORDER BY rowid")
    return [
        StoredNight(
            id=name,
            started=started,
            ended=ended,
            state=NightState(state),
            exit_code=exit_code,
            plan=from_json(NightPlan, json.loads(plan)),
            report=from_json(NightReport, stored) if (stored := json.loads(report)) else None,
        )
        for name, started, ended, state, exit_code, plan, report in rows
    ]
