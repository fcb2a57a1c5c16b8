"""The verb `history`: what the store remembers of a check, a splat or a metric."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from kpatchlab.cli.app import Options, Verb, as_called
from kpatchlab.cli.common import as_json, dump, pass_options, table
from kpatchlab.errors import UserError

if TYPE_CHECKING:
    from kpatchlab.history.query import Entry, History
    from kpatchlab.history.text import CheckSummary


@click.command(
    cls=Verb,
    epilog="\b\nExamples:\n  kpatchlab history\n  kpatchlab history unix-splice --column with\n"
    "  kpatchlab history 'nfs*: read back whole'\n  kpatchlab history throughput --json\n"
    "  kpatchlab history --splats '3f2a*'\n  kpatchlab history --pin last\n"
    "A run: . pass, F fail, C crash, T timeout, B blocked, - skip, ~ its repeats disagree.",
)
@click.argument("what", required=False, metavar="[CASE|METRIC]")
@click.option("--column", metavar="NAME", help="Only this column.")
@click.option("--lane", metavar="NAME", help="Only this lane of the nights; `manual`: runs that no night made.")
@click.option("--splats", metavar="GLOB", help="Splats by fingerprint or title, the newest first.")
@click.option("--pin", metavar="RUN", help="Keep a run when nights are pruned.")
@click.option("--unpin", metavar="RUN", help="Let nights prune the run again.")
@as_json
@pass_options
def history(
    options: Options,
    what: str | None,
    column: str | None,
    lane: str | None,
    splats: str | None,
    pin: str | None,
    unpin: str | None,
    as_json: bool,
) -> None:
    """Show when a check was first seen and last good, how often it flakes, and where a metric changed."""
    from kpatchlab.history.query import History
    from kpatchlab.store.store import Store

    store = Store(options.results())
    for wanted, on in ((pin, True), (unpin, False)):
        if wanted:
            click.echo(f"{store.pin(wanted, on=on)}: {'pinned' if on else 'no longer pinned'}")
            return
    if not store.root.is_dir():
        raise UserError(f"no runs in {store.root}", hint="kpatchlab run makes one")
    store.catch_up()
    with store.database() as connection:
        asked = History(connection)
        entries = {entry.id: entry for entry in asked.entries()}
        if splats is not None:
            _splats(asked, splats, entries, as_json=as_json)
        elif what is None:
            _runs([e for e in entries.values() if lane in {None, e.lane}], as_json=as_json)
        else:
            _names(asked, what, column, lane, entries, as_json=as_json)


def _runs(entries: list[Entry], *, as_json: bool) -> None:
    if as_json:
        dump(entries)
        return
    state = {True: "done", False: "stopped"}
    table(
        [
            {"run": e.run, "lane": e.lane, "night": e.night, "state": state[e.complete], "lost": e.lost or ""}
            | {"exit": e.exit_code, "title": e.title}
            for e in reversed(entries[-200:])
        ]
    )


def _splats(asked: History, pattern: str, entries: dict[int, Entry], *, as_json: bool) -> None:
    found = asked.splats(pattern)
    rows = [
        {
            "fingerprint": s.fingerprint,
            "kind": s.kind,
            "first_seen": entries[s.first].run,
            "last_seen": entries[s.last].run,
            "runs": s.runs,
            "columns": ", ".join(s.columns),
            "title": s.title,
        }
        for s in found
    ]
    if as_json:
        dump(rows)
        return
    table(rows)
    if len(found) == 1:
        click.echo("\n" + asked.splat_text(found[0].fingerprint).rstrip())


def _names(
    asked: History, what: str, column: str | None, lane: str | None, entries: dict[int, Entry], *, as_json: bool
) -> None:
    from kpatchlab.history.query import CheckName, MetricName, matching
    from kpatchlab.history.text import check_lines, check_row, metric_lines, metric_row

    every: list[CheckName | MetricName] = [*asked.checks(lane), *asked.metrics(lane)]
    names = [name for name in every if column in {None, name.column}]
    found = matching(what, names)
    checks = [n for n in found if isinstance(n, CheckName)]
    metrics = [n for n in found if not isinstance(n, CheckName)]
    check_rows = [check_row(asked, n, entries) for n in checks]
    metric_rows = [metric_row(asked, n, entries) for n in metrics]
    if as_json:
        dump({"checks": check_rows, "metrics": metric_rows})
        return
    if len(found) == 1:
        lines = (
            check_lines(asked, check_rows[0], asked.check(checks[0]), entries)
            if checks
            else metric_lines(metric_rows[0])
        )
        for line in lines:
            click.echo(as_called(line))
        return
    if check_rows:
        table([_short(row) for row in check_rows])
    if metric_rows:
        table(
            [
                {
                    "lane": row.lane,
                    "metric": row.metric,
                    "column": row.column,
                    "now": row.last,
                    "changes": ", ".join(f"{item.kind} {item.change:+.1%}" for item in row.changes[-2:]),
                    "last runs": row.strip[-20:],
                }
                for row in metric_rows
            ]
        )


def _short(row: CheckSummary) -> dict[str, Any]:
    return {
        "lane": row.lane,
        "check": row.check,
        "column": row.column,
        "now": row.now,
        "bad since": row.bad_since,
        "last good": row.last_good if row.bad_since else "",
        "flaky": f"{row.flake_rate:.0%}" if row.flake_rate else "",
        "last runs": row.strip[-20:],
    }
