"""The history of many nights, made by a generator: its size, how long its questions take, and the site of it.

The rows are written as `record` writes them (through the same tables), 1,000 nights of 500 checks and 20 metrics by
default; `--each` gives every check that many metrics, ten million figures. Nothing below results/ is touched.
"""

from __future__ import annotations

import json
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchkit.rounds import Figures, last_line, parser, run, say, show

from kpatchlab.history import database
from kpatchlab.history.nights import NightPlan, NightReport
from kpatchlab.history.query import History
from kpatchlab.history.text import check_row, metric_row
from kpatchlab.nightly import book
from kpatchlab.site.make import make_site
from kpatchlab.store.store import INDEX, Store


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__, rounds=5)
    arguments.add_argument("--nights", type=int, default=1000)
    arguments.add_argument("--checks", type=int, default=500)
    arguments.add_argument("--metrics", type=int, default=20)
    arguments.add_argument("--each", action="store_true", help="so many metrics for every check, and no site")
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="kpatchlab-bench-") as folder:
        store = Store(Path(folder))
        metrics = options.metrics * (options.checks if options.each else 1)
        begin = time.monotonic()
        fill(store, options.nights, options.checks, metrics)
        say(f"{options.nights} nights made in {time.monotonic() - begin:.1f} s")
        size = (store.root / INDEX).stat().st_size / (1 << 20)
        found = {name: rounds(call, options.rounds) for name, call in questions(store).items()}
        made: dict[str, float] = {}
        if not options.each:
            made = site(store, options.checks, metrics)
        show(found)
        worst = max(figures.median for figures in found.values())
        last_line(db_mib=size, query_ms=worst, nights=options.nights, metrics=metrics, **made)


def rounds(call: Callable[[], object], count: int) -> Figures:
    """Return milliseconds of each call, after one that does not count."""
    call()
    taken = []
    for _ in range(count):
        begin = time.perf_counter()
        call()
        taken.append((time.perf_counter() - begin) * 1e3)
    return Figures(tuple(taken))


def fill(store: Store, nights: int, checks: int, metrics: int) -> None:
    """Make the nights: a flake in a hundred checks, a failure here and there, steps in one metric of ten."""
    source = random.Random(1)
    with store.database() as connection, database.transaction(connection):
        names = [
            (number + 1, "main", f"scenario-{number // 10}", "check", f"check {number}", "with")
            for number in range(checks)
        ]
        connection.executemany("INSERT INTO checks VALUES (?, ?, ?, ?, ?, ?)", names)
        figures = [
            (n + 1, "main", f"scenario-{n % 50}", f"figure {n}", "with", "MB/s", "higher", "instructions")
            for n in range(metrics)
        ]
        connection.executemany("INSERT INTO metrics VALUES (?, ?, ?, ?, ?, ?, ?, ?)", figures)
        connection.executemany("INSERT INTO texts VALUES (?, ?)", [(n, f"message {n}") for n in range(1, 50)])
        entries = [entry_row(number) for number in range(1, nights + 1)]
        connection.executemany("INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", entries)
        # By check and by metric, the order of the tables: a thousand nights are made in seconds.
        for check in range(1, checks + 1):
            rows = [result(source, check, night) for night in range(1, nights + 1)]
            connection.executemany("INSERT INTO results VALUES (?, ?, ?, ?, ?, ?)", rows)
        for metric in range(1, metrics + 1):
            level = [100 * (1.05 if metric % 10 == 0 and night > nights // 2 else 1) for night in range(nights)]
            values = [(metric, night + 1, source.gauss(v, v * 0.01), None, 3) for night, v in enumerate(level)]
            connection.executemany("INSERT INTO figures VALUES (?, ?, ?, ?, ?)", values)
        for number in range(1, nights + 1):
            connection.execute("INSERT INTO nights VALUES (?, '', '', 'done', 0, '{}', ?)", night_row(number))


def entry_row(number: int) -> tuple[object, ...]:
    """Return one run."""
    heads = json.dumps({"with": {"source": "tree", "commit": f"{number:040x}"}})
    return (
        number,
        f"run-{number:05}",
        "main",
        f"night-{number:05}",
        "2026-01-01T00:00:00+00:00",
        "t",
        1,
        0,
        0,
        "",
        heads,
    )


def result(source: random.Random, check: int, night: int) -> tuple[int, ...]:
    """Return what a check was in a night."""
    if check % 100 == 0 and source.random() < 0.2:
        return check, night, 1, 2, 4, check % 49 + 1
    bad = check % 37 == 0 and night % 200 > 190
    return check, night, int(bad), int(not bad), 1, check % 49 + 1 if bad else 0


def night_row(number: int) -> tuple[str, str]:
    """Return one night with a report."""
    item = {"kind": "old failure", "lane": "main", "column": "with", "subject": "scenario-3: check 37", "text": "fail"}
    item |= {"since": "", "good": "", "bisect": "", "reason": "", "link": ""}
    report = {"headline": "1 old failure", "news": [item], "runs": {"main": f"run-{number:05}"}, "moved": {}}
    return f"night-{number:05}", json.dumps(report)


def questions(store: Store) -> dict[str, Callable[[], object]]:
    """Return what is asked, each on a connection of its own, as a verb asks it."""

    def asking(ask: Callable[[History], object]) -> Callable[[], object]:
        def call() -> object:
            with store.database() as connection:
                return ask(History(connection))

        return call

    def check(history: History) -> object:
        return check_row(history, history.checks()[99], {e.id: e for e in history.entries()})

    def metric(history: History) -> object:
        return metric_row(history, history.metrics()[9], {e.id: e for e in history.entries()})

    return {
        "check, ms": asking(check),
        "metric and its trends, ms": asking(metric),
        "splats, ms": asking(lambda history: history.splats()),
        "one run's checks, ms": asking(lambda history: history.of_entry(history.entries()[-1])),
    }


def site(store: Store, checks: int, metrics: int) -> dict[str, float]:
    """Return the seconds of a whole site, and of one more night's."""
    folder = store.root / "site"
    begin = time.monotonic()
    made = make_site(store, folder, "bench")
    whole = time.monotonic() - begin
    source = random.Random(2)
    with store.database() as connection, database.transaction(connection):
        (last,) = connection.execute("SELECT max(id) FROM entries").fetchone()
        number = last + 1
        connection.execute("INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", entry_row(number))
        rows = [result(source, check, number) for check in range(1, checks + 1)]
        connection.executemany("INSERT INTO results VALUES (?, ?, ?, ?, ?, ?)", rows)
        figures = [(metric, number, source.gauss(100, 1), None, 3) for metric in range(1, metrics + 1)]
        connection.executemany("INSERT INTO figures VALUES (?, ?, ?, ?, ?)", figures)
    book.begin(store, NightPlan()).end(NightReport())
    begin = time.monotonic()
    more = make_site(store, folder, "bench")
    say(f"{made.pages} pages, then {more.written} of them for one night")
    return {"site_s": whole, "night_s": time.monotonic() - begin, "pages": made.pages}


if __name__ == "__main__":
    run(main)
