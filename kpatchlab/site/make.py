"""From the history to the site's pages; what did not change is not written again.

index.html         the lanes as they are, and the nights, newest first
nights/NIGHT.html  what a night brought
checks/ID.html     one check, run by run
trends.html        every metric with its changes
badge.svg, badge-LANE.svg
runs/RUN/          the page of each run and its logs, where the site does not lie in the results folder, beside the runs
                   themselves
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import escape

from kpatchlab.errors import HostError
from kpatchlab.files import is_inert, link_or_copy, safe_name
from kpatchlab.history.news import ALARMS
from kpatchlab.history.nights import NightState, nights_of
from kpatchlab.history.query import CheckHistory, Entry, History
from kpatchlab.history.text import change, letter
from kpatchlab.history.trends import Trend, trends
from kpatchlab.lab.load import Lab
from kpatchlab.store.store import Store
from kpatchlab.templates import templates
from kpatchlab.textclean import one_line

RECENT = 200
"""Runs of a check, and of a metric, that its page goes back."""
LISTED = 400
"""Nights on the first page."""
FOLDER = "site"
WORDS = {0: "ok", 1: "worse", 3: "lost"}


@dataclass(frozen=True, slots=True)
class Made:
    """How many pages a site has, and how many of them were written now."""

    pages: int
    written: int


def folder_of(lab: Lab) -> Path | None:
    """Return where a lab file has the site of its nights; None: nowhere."""
    return lab.root / Path(lab.nightly.site).expanduser() if lab.nightly.site else None


def place_of(lab: Lab, store: Store) -> Path:
    """Return where the site is made and looked at where nothing else is said, also of a lab whose nights write none."""
    return folder_of(lab) or store.root / FOLDER


def make_site(store: Store, folder: Path, title: str) -> Made:
    """Write the site of a store's nights into a folder.

    Raises:
        UserError, HostError: the store cannot be read, or the folder not be written.
    """
    with store.database() as connection:
        pages = list(_pages(store, History(connection), folder, title))
    written = 0
    for name, data in pages:
        path = folder / name
        written += data is not None and _write(path, data)
    if not lies_inside(folder, store):
        _keep_logs(store, folder)
    return Made(len(pages), written)


def lies_inside(folder: Path, store: Store) -> bool:
    """Whether a site lies in the results folder, so that its links lead to the runs themselves."""
    return folder.resolve().is_relative_to(store.root.resolve())


def _keep_logs(store: Store, folder: Path) -> None:
    """Put what the runs' pages link to beside them, for as long as the store has the run: links where they can be."""
    for page in folder.glob("runs/*/index.html"):
        kept, logs = page.parent / "jobs", store.root / page.parent.name / "jobs"
        if not logs.is_dir():
            shutil.rmtree(kept, ignore_errors=True)
            continue
        try:
            for source in logs.glob("*/**/*"):
                target = kept / source.relative_to(logs)
                if source.is_file() and is_inert(source.name) and _stamp(target) != _stamp(source):
                    link_or_copy(source, target)
        except OSError as error:
            raise HostError(f"cannot write {kept}: {error.strerror}", hint="is the disk full?") from None


def _stamp(path: Path) -> tuple[int, int] | None:
    return (path.stat().st_size, path.stat().st_mtime_ns) if path.exists() else None


def _write(path: Path, data: bytes) -> bool:
    """Write a page whole or not at all, unless it is there; not synced, since it can be made again at any time."""
    beside = path.with_name(f".{path.name}.new")
    try:
        if path.exists() and path.read_bytes() == data:
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_bytes(data)
        beside.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise HostError(f"cannot write {path}: {error.strerror}", hint="is the disk full?") from None
    return True


def _pages(store: Store, history: History, folder: Path, title: str) -> Iterator[tuple[str, bytes | None]]:
    env = templates(Path(__file__).parent)
    env.globals |= {"title": title, "alarms": sorted(ALARMS), "words": WORDS}
    entries = {entry.id: entry for entry in history.entries()}
    nights = nights_of(history.connection)
    there, runs_at = set(store.ids()), "runs"
    if lies_inside(folder, store):
        runs_at = os.path.relpath(store.root.resolve(), folder.resolve())
    else:
        yield from _run_pages(store, folder, there)
        there |= {path.name for path in (folder / runs_at).glob("*")}
    lanes = [_lane(lane, entries) for lane in history.lanes()]
    env.globals |= {"entries": entries, "there": there, "runs_at": runs_at, "paged": {night.id for night in nights}}

    def page(template: str, root: str, **values: Any) -> bytes:
        return env.get_template(template).render(root=root, **values).encode("utf-8", "replace")

    yield "style.css", (Path(__file__).parent / "style.css").read_bytes()
    checks = list(_checks(history, entries))
    yield "index.html", page(
        "index.html.j2", "", nights=nights[: -LISTED - 1 : -1], more=max(0, len(nights) - LISTED), lanes=lanes,
        loud=[c for c in checks if c["now"] not in {"pass", "skip"} or c["flake_rate"]][:200], checks=checks,
    )  # fmt: skip
    for place, night in enumerate(nights):
        name = f"nights/{night.id}.html"
        # An old night changes no more, but the newest two: the one before the last learns of its successor.
        settled = place < len(nights) - 2 and night.state is not NightState.RUNNING and (folder / name).exists()
        before, after = nights[place - 1] if place else None, nights[place + 1] if place + 1 < len(nights) else None
        yield name, None if settled else page("night.html.j2", "../", night=night, before=before, after=after)
    for check in checks:
        yield f"checks/{check['id']}.html", page("check.html.j2", "../", check=check)
    yield "trends.html", page("trends.html.j2", "", metrics=list(_metrics(history, entries)))
    states = {lane["name"]: lane["state"] for lane in lanes}
    worst = next((s for s in ("failing", "lost", "ok") if s in states.values()), "none")
    for name, state in {"": worst, **states}.items():
        yield f"badge{f'-{safe_name(name)}' if name else ''}.svg", _badge(name or "nightly", state)


def _run_pages(store: Store, folder: Path, runs: Iterable[str]) -> Iterator[tuple[str, bytes | None]]:
    """Yield the pages of runs that the site lacks, or has of before; one that stands there outlives its run."""
    for run in sorted(runs):
        name, page = f"runs/{run}/index.html", store.root / run / "index.html"
        with contextlib.suppress(OSError):  # a run that has no page, or is being pruned
            old = (folder / name).exists() and (folder / name).stat().st_mtime_ns >= page.stat().st_mtime_ns
            yield name, None if old else page.read_bytes()


def _lane(name: str, entries: dict[int, Entry]) -> dict[str, Any]:
    own = [entry for entry in entries.values() if entry.lane == name]
    last = own[-1]
    state = {0: "ok", 1: "failing"}.get(last.exit_code, "lost") if last.usable else "lost"
    return {"name": name, "runs": len(own), "last": last, "state": state}


def _checks(history: History, entries: dict[int, Entry]) -> Iterator[dict[str, Any]]:
    first = dict(history.connection.execute("SELECT check_id, min(entry) FROM results GROUP BY check_id"))
    recent = sorted(entries)[-RECENT:]
    for check in history.checks():
        found = history.check(check, since=recent[0])
        points = found.points
        if not points or check.id not in first:
            continue
        good, since = found.last_good, found.bad_since
        yield {
            "id": check.id, "lane": check.lane, "text": check.text, "column": check.column,
            "now": "flaky" if points[-1].flaky else str(points[-1].outcome), "message": points[-1].message,
            "first": entries[first[check.id]], "good": entries[good.entry] if good else None,
            "since": entries[since.entry] if since else None, "flake_rate": found.flake_rate,
            "strip": _strip(found, entries), "turns": list(_turns(found, entries))[::-1][:100],
        }  # fmt: skip


def _strip(found: CheckHistory, entries: dict[int, Entry]) -> list[tuple[str, str, str]]:
    """Return a letter a run, equal neighbours together: (letters, class, from which run to which)."""
    strip = []
    for sign, same in itertools.groupby(found.points, letter):
        group = list(same)
        first, last = entries[group[0].entry].run, entries[group[-1].entry].run
        word = "flaky" if sign == "~" else str(group[0].outcome)
        strip.append((sign * len(group), word, first if first == last else f"{first} to {last}"))
    return strip


def _turns(found: CheckHistory, entries: dict[int, Entry]) -> Iterator[dict[str, Any]]:
    """Yield the runs in which a check was not what it was in the run before."""
    was = None
    for point in found.points:
        now = "flaky" if point.flaky else str(point.outcome)
        if now != was:
            yield {"now": now, "entry": entries[point.entry], "message": point.message}
        was = now


def _metrics(history: History, entries: dict[int, Entry]) -> Iterator[dict[str, Any]]:
    for metric in history.metrics():
        found = history.metric(metric)
        found = type(found)(metric, found.points[-RECENT:])
        values = found.values
        changes = trends(values)
        yield {
            "metric": metric, "unit": "times the base" if found.is_ratio else metric.unit, "now": values[-1],
            "runs": len(values), "plot": _plot(values, changes, metric.direction),
            "changes": [change(found, trend, entries) for trend in changes][::-1],
        }  # fmt: skip


def _plot(
    values: list[float], changes: list[Trend], direction: str, width: int = 600, height: int = 80
) -> dict[str, Any]:
    """Return a polyline's points, and where the changes are, in a box of width x height."""
    low, high = min(values), max(values)
    span = (high - low) or abs(high) or 1.0
    step = width / max(1, len(values) - 1)

    def y(value: float) -> float:
        return round(height - 4 - (value - low) / span * (height - 8), 1)

    return {
        "width": width, "height": height, "low": low, "high": high,
        "points": " ".join(f"{i * step:.1f},{y(v)}" for i, v in enumerate(values)),
        "marks": [(round(t.at * step, 1), "bad" if t.worse(direction) else "good") for t in changes],
    }  # fmt: skip


def _badge(label: str, state: str) -> bytes:
    """Return a small SVG; its width follows the text's, in a font of fixed width."""
    colour = {"ok": "#1a6b2f", "failing": "#b3181d", "lost": "#6a2ca0"}.get(state, "#5c6470")
    label = one_line(label, 40)
    left, right = 7 * len(label) + 12, 7 * len(state) + 12
    label = str(escape(label))
    text = 'font-family="DejaVu Sans Mono,monospace" font-size="11" fill="#fff"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + right}" height="20" role="img"'
        f' aria-label="{label}: {state}"><rect width="{left}" height="20" fill="#444"/>'
        f'<rect x="{left}" width="{right}" height="20" fill="{colour}"/>'
        f'<text x="6" y="14" {text}>{label}</text><text x="{left + 6}" y="14" {text}>{state}</text></svg>\n'
    ).encode()
