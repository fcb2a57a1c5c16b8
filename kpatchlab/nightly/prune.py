"""Old nights lose their folders; the history keeps what they were."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from kpatchlab.cache import disk_bytes
from kpatchlab.errors import LabError
from kpatchlab.history.query import Entry, History
from kpatchlab.history.record import MANUAL
from kpatchlab.lab.nightly import Keep
from kpatchlab.store.store import Store

JUMP = timedelta(days=30)
"""A night so much later or earlier than the one before it may have a wrong clock."""


def prune(store: Store, keep: Keep, now: datetime) -> list[str]:
    """Delete the folders of old nights, the oldest first; pinned runs and the last two of each lane stay.

    Returns:
        The runs that went.
    """
    with store.database() as connection:
        entries = [entry for entry in History(connection).entries() if entry.lane != MANUAL]
    there = set(store.ids())
    lasting = {run for lane in {e.lane for e in entries} for run in _last(entries, lane)}
    free = [e for e in entries if e.run in there and e.run not in lasting and not store.pinned(e.run)]
    stamps = _stamps([*entries], now)
    limit = now - timedelta(days=keep.days)
    gone = [e for e in free if stamps[e.run] < limit]
    left = [e for e in entries if e.run in there and e not in gone]
    sizes = {e.run: disk_bytes(store.root / e.run) for e in left}
    total = sum(sizes.values())
    for entry in free:
        if total <= keep.gib * (1 << 30):
            break
        if entry not in gone:
            gone.append(entry)
            total -= sizes[entry.run]
    done = []
    for entry in gone:
        try:
            store.delete(entry.run)
        except LabError:  # somebody reads or resumes it: the next night asks again
            continue
        done.append(entry.run)
    return done


def _last(entries: list[Entry], lane: str) -> list[str]:
    return [entry.run for entry in entries if entry.lane == lane and entry.complete][-2:]


def _stamps(entries: list[Entry], now: datetime) -> dict[str, datetime]:
    """Return from when on each run's age counts: where the clock has jumped since, from the jump on.

    Which of the clocks was the right one nobody knows; so a run of before has its days once more.
    """
    stamps = [_stamp(entry) for entry in entries]
    both = zip(stamps, [*stamps[1:], now], strict=False)
    jumps = [place for place, (one, other) in enumerate(both) if abs(other - one) > JUMP]
    last = jumps[-1] if jumps else -1
    since = [*stamps, now][last + 1]
    return {entry.run: since if place <= last else stamps[place] for place, entry in enumerate(entries)}


def _stamp(entry: Entry) -> datetime:
    try:
        stamp = datetime.fromisoformat(entry.started)
    except ValueError:
        return datetime.now(UTC)
    return stamp if stamp.tzinfo else stamp.replace(tzinfo=UTC)
