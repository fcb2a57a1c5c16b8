"""The text of a night's mail: its own verdict first, then the text of `report --format mail` for every run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from kpatchlab.errors import LabError
from kpatchlab.history.news import ALARMS, Kind, News
from kpatchlab.history.nights import NightReport
from kpatchlab.nightly.night import details
from kpatchlab.report import mail
from kpatchlab.report.prose import WIDTH, item, items, part, prose, verbatim
from kpatchlab.report.view import View
from kpatchlab.store.store import Store
from kpatchlab.textclean import clean

WORSE = (*sorted(ALARMS, key=list(Kind).index), Kind.LOST)


def letter(report: NightReport, store: Store) -> str:
    """Return the mail's text, wrapped as the reply to a thread is; what cannot be read of a run is told in its place.

    The runs' part is bounded as each run's own reply is.
    """
    report = clean(report)
    name = f"night {report.night}" if report.night else "no night"
    out = prose(f"{report.title or 'kpatchlab'}, {name}: {report.headline}.")
    good = {run for entry in report.news if (run := entry.good)}
    since = f" since the last good night ({', '.join(sorted(good))})" if len(good) == 1 else ""
    fresh = [entry for entry in report.news if entry.kind in WORSE]
    if report.runs and not fresh:
        out += prose(f"Nothing got worse{since}.")
    out += ["", *prose("Lines that begin with four blanks are verbatim and not wrapped.")]
    out += part(f"New{' since the last good night' if fresh else ''}", _fresh(fresh))
    out += part("Not run", (row for trouble in report.troubles for row in item(f"{trouble.lane}: {trouble.message}")))
    other = [entry for entry in report.news if entry.kind not in WORSE]
    out += part("Fixed, flaky, old or known", items([_line(entry) for entry in other]))
    out += part("Runs", _runs(report))
    for lane, run in report.runs.items():
        out += ["", "", "=" * WIDTH, *prose(f"{lane}: run {run}"), "=" * WIDTH, "", *_run(run, store)]
    return "\n".join(out) + "\n"


def _line(entry: News) -> str:
    where = f"{entry.lane}, {entry.column}" if entry.column else entry.lane
    return "; ".join([f"{entry.kind.upper()}: {entry.subject} on {where}: {entry.text}", *details(entry)])


def _fresh(found: Iterable[News]) -> Iterator[str]:
    for number, entry in enumerate(found):
        if number:
            yield ""
        yield from item(_line(entry))
        if entry.bisect:
            yield from verbatim([entry.bisect])
        elif entry.unsearchable:
            yield from prose(f"no commit to look for: {entry.unsearchable}", "  ", "  ")


def _runs(report: NightReport) -> Iterator[str]:
    for lane, run in report.runs.items():
        spans = ", ".join(f"{kernel} {span}" for kernel, span in report.moved.get(lane, {}).items())
        yield from item(f"{lane}: run {run}{f' ({spans})' if spans else ''}")
    for note in (*report.notes, *([f"pruned {len(report.pruned)} old runs"] if report.pruned else [])):
        # What wrapping cannot keep within the width, such as a command or a long path, is left whole.
        whole = max(map(len, note.split()), default=0) > WIDTH - 2
        yield from verbatim([note]) if whole else item(note)


def _run(name: str, store: Store) -> list[str]:
    try:
        view = View(*store.load(name))
    except LabError as error:
        return prose(f"It cannot be read: {error.message}")
    return mail.body(view).splitlines()
