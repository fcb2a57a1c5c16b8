"""What a trial found, as the checks that b4 and GitHub show to reviewers. Pure.

b4 (0.16, `b4.review-series-check-cmd` and `b4.review-perpatch-check-cmd`) reads a JSON list of objects from standard
output; it takes a status that it does not know for a failure, of two results of one tool the last, and it heeds the
exit status only where nothing was printed.

GitHub (REST API, `POST /repos/OWNER/REPO/check-runs`) takes a check run of a commit that it has. A required check with
the conclusion "neutral" lets a branch be merged, so what was not tested is "action_required".
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum

from kpatchlab.build.mails import Tags
from kpatchlab.errors import UserError
from kpatchlab.model import Verdict
from kpatchlab.report import markdown
from kpatchlab.series.judge import CheckState, SeriesRow, Table
from kpatchlab.series.since import Since
from kpatchlab.textclean import one_line, printable
from kpatchlab.verdict.faults import changes
from kpatchlab.verdict.values import Comparison

TOOL = "kpatchlab"
GITHUB_FILE = "github-check.json"
SCENARIOS = "scenarios"
MOST_LINES = 40
"""Lines of details; a review window shows them whole."""


class Status(StrEnum):
    """The three words that b4 knows."""

    PASS = "pass"  # noqa: S105
    WARN = "warn"
    FAIL = "fail"


_STATUS = {CheckState.FAIL: Status.FAIL, CheckState.OK: Status.PASS}


@dataclass(frozen=True, slots=True)
class Check:
    """One line of a reviewer's list.

    Attributes:
        tool: what looked; a name of its own for each check, as b4 keeps one result for each.
        url: where there is more, "" for nowhere.
    """

    tool: str
    status: Status
    summary: str
    url: str = ""
    details: str = ""


def of_scenarios(comparison: Comparison, told: Since, url: str = "") -> Check:
    """Return what the scenarios say of the whole series; what is known is no failure."""
    code = told.exit_code(comparison)
    status = Status.FAIL if code == 1 else Status.WARN if code else Status.PASS
    regressed = (change for change in changes(comparison) if change.cell.verdict is Verdict.REGRESSED)
    worse = list(dict.fromkeys(f"{change.group.name}: {change.row.case}" for change in regressed))
    lost = [f"not tested: {name}" for name in comparison.lost]
    return Check(
        f"{TOOL} {SCENARIOS}", status, one_line(comparison.headline), url, _lines([*told.lines(), *worse, *lost])
    )


def of_patches(table: Table, url: str = "") -> list[Check]:
    """Return a check for each column of a walk's table, over all patches."""
    return [_column(name, table.rows, url) for name in table.columns]


def of_patch(table: Table, mail: Tags, url: str = "") -> list[Check]:
    """Return a check for each column of a walk's table, of the patch that a mail's subject names.

    Raises:
        UserError: the walk did not come to it.
    """
    title = one_line(mail.title, 500)
    named = [row for row in table.rows if row.facts.title == title]
    row = next((row for row in named if row.facts.number == mail.number), named[0] if named else None)
    if row is None:
        raise UserError(f"the walk over the patches ended before {title!r}")
    return of_row(row, url)


def of_row(row: SeriesRow, url: str = "") -> list[Check]:
    """Return a check for each column of one patch's row."""
    return [_column(name, [row], url) for name in row.cells]


def _column(name: str, rows: Sequence[SeriesRow], url: str) -> Check:
    cells = [(row, row.cells[name]) for row in rows if name in row.cells]
    states = [_STATUS.get(cell.state, Status.WARN) for _, cell in cells]
    status = max(states, key=list(Status).index, default=Status.WARN)
    told = [(row, cell) for row, cell in cells if cell.state is not CheckState.OK]
    summary = "; ".join(f"patch {row.facts.number}: {cell.text}" for row, cell in told) or "ok"
    lines = [f"patch {row.facts.number}: {text}" for row, cell in told for text in cell.lines]
    tool = f"{TOOL} {name}{' by patch' if name == SCENARIOS else ''}"  # not that of the whole series
    return Check(tool, status, one_line(summary), url, _lines(lines))


def _lines(lines: Sequence[str]) -> str:
    more = [f"and {len(lines) - MOST_LINES} more lines"] if len(lines) > MOST_LINES else []
    return printable("\n".join([*lines[:MOST_LINES], *more]))


def untested(why: str) -> Check:
    """Return what to say where nothing could be tested: no reason to call a patch bad."""
    return Check(TOOL, Status.WARN, one_line(f"not tested: {why}"))


def for_b4(checks: Iterable[Check]) -> bytes:
    """Return them as b4 reads them from a check command."""
    rows = [{key: str(value) for key, value in asdict(check).items()} for check in checks]
    return json.dumps(rows, indent=1).encode() + b"\n"


def for_github(commit: str, exit_code: int, title: str, summary: bytes, checks: Sequence[Check], page: str) -> bytes:
    """Return the body of the request that makes a check run.

    Args:
        commit: the series' last one.
        exit_code: of `try`: 0 where nothing is wrong, 1 where something is.
        summary: Markdown.
        checks: of the patches.
        page: URL, "" for none.
    """
    told = [f"* **{check.status}** {markdown.text(f'{check.tool}: {check.summary}')}" for check in checks]
    body = {
        "name": TOOL,
        "head_sha": commit,
        "status": "completed",
        "conclusion": {0: "success", 1: "failure"}.get(exit_code, "action_required"),
        **({"details_url": page} if page else {}),
        "output": {
            "title": one_line(title),
            "summary": markdown.cut(summary.decode("utf-8", "replace").splitlines(), markdown.LIMIT),
            **({"text": markdown.cut(told, markdown.LIMIT)} if told else {}),
        },
    }
    return json.dumps(body, indent=1).encode() + b"\n"
