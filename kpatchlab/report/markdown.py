"""A comment for a merge request: verdict and table first, details folded away, within GitHub's limit."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from kpatchlab.model import Outcome, Run, Verdict
from kpatchlab.report.common import line, markdown_table
from kpatchlab.report.digest import (
    Figures,
    NewsLine,
    excerpt,
    figures,
    news,
    standing,
    tested,
    uncovered,
    unit,
    where,
)
from kpatchlab.report.digest import outcomes as outcomes_of
from kpatchlab.report.view import View
from kpatchlab.textclean import printable
from kpatchlab.verdict.faults import Fault, faults
from kpatchlab.verdict.ratios import Speed
from kpatchlab.verdict.values import Comparison, Group

LIMIT = 65_535
"""What GitHub takes for a comment, a description or a check's summary, in bytes (its own errors: "body is too long
(maximum is 65536 characters)"; "Only 65535 characters are allowed", which counts bytes); GitLab takes a million."""
CUT = "\n\n*Cut here: {left} more lines do not fit into {limit} bytes. The page of the run has them.*\n"
MAX_ROWS = 40
_SIGNS = re.compile(r"([\\`*_\[\]<>|~#])")


def render(view: View, more: Sequence[str] = ()) -> bytes:
    """Return the comment, UTF-8, at most `LIMIT` bytes; `more` has lines of plain text behind its summary."""
    return cut(list(_lines(view.run, view.comparison, more)), LIMIT).encode("utf-8", "replace")


def cut(lines: Sequence[str], limit: int) -> str:
    """Return the lines as one text of at most `limit` bytes; what is left out is told, what is open is closed."""
    whole = "\n".join(lines) + "\n"
    if _size(whole) <= limit:
        return whole
    room = limit - len(CUT) - 60  # the numbers, a closing fence, a closing tag
    kept: list[str] = []
    for words in lines:
        room -= _size(words) + 1
        if room < 0:
            break
        kept.append(words)
    fenced = sum(words.startswith("```") for words in kept) % 2
    opened = sum(words.startswith("<details") for words in kept) - sum(words == "</details>" for words in kept)
    tail = ["```"] * fenced + ["", "</details>"] * (opened > 0)
    return "\n".join([*kept, *tail]) + CUT.format(left=len(lines) - len(kept), limit=limit)


def _size(words: str) -> int:
    return len(words.encode("utf-8", "replace"))


def _lines(run: Run, comparison: Comparison, more: Sequence[str]) -> Iterator[str]:
    yield f"## {text(run.title or 'kpatchlab')}: {comparison.headline}"
    yield ""
    yield comparison.basis + ("" if run.complete else " **The run did not end: jobs are missing.**")
    yield ""
    found, measured = faults(comparison), figures(comparison)
    yield from _table(["scenario", *comparison.columns], _matrix(comparison))
    yield from _summary(comparison, found)
    yield from [*(f"* {text(words)}" for words in more), ""] if more else []
    yield from _builds(run, comparison)
    for number, fault in enumerate(found):
        yield from _fault(fault, is_open=number == 0)
    fixed = news(comparison, [Verdict.FIXED])
    yield from _folded(f"{len(fixed)} fixed", _news(fixed))
    other = news(comparison, [Verdict.CHANGED, Verdict.FLAKY, Verdict.GONE, Verdict.NEW])
    yield from _folded(f"{len(other)} changed, flaky, gone or new", _news(other))
    alike = standing(comparison)
    yield from _folded(f"{len(alike)} failing and no regression: the base fails there too", _news(alike))
    yield from _figures(measured)
    left = uncovered(run, comparison)
    yield from _folded(f"Not covered: {len(left)}", [f"* {text(what)}" for what in left])
    yield from _folded("What was tested", [f"* {text(name)}: {text(words)}" for name, words in tested(run, comparison)])


def _summary(comparison: Comparison, found: Sequence[Fault]) -> Iterator[str]:
    if not comparison.judged:
        yield "Nothing was judged: every job was skipped, blocked or lost."
        yield ""
    for lost in comparison.lost[:MAX_ROWS]:
        yield f"* Lost by the lab itself, not judged: {text(lost)}"
    for fault in found[:MAX_ROWS]:
        yield f"* **{fault.word}** {text(fault.title)} ({text(where(fault.changes))})"
    if comparison.lost or found:
        yield ""


def _builds(run: Run, comparison: Comparison) -> Iterator[str]:
    bad = [check for check in comparison.builds if check.outcome is not Outcome.PASS]
    if not bad:
        return
    yield "**Builds**"
    yield ""
    for check in bad:
        word = check.verdict or check.outcome.upper()
        yield f"* **{word}** {text(check.kernel)}, {text(check.step)}: {text(check.message or check.reason)}"
    yield ""
    logs = {f.module: f.log for build in run.builds for f in build.module_failures if f.log}
    logs |= {
        build.kernel: build.log_tail for build in run.builds if build.log_tail and build.outcome is not Outcome.PASS
    }
    for name, log in logs.items():
        yield from _folded(f"compiler's output: {name}", _fenced(log.splitlines()[-40:]))


def _matrix(comparison: Comparison) -> list[list[str]]:
    """Return the scenarios with something to see; the last row counts the others."""
    loud = [group for group in comparison.groups if not all(row.quiet for row in group.rows)]
    rows = [[text(group.name), *(_mark(group, column) for column in comparison.columns)] for group in loud[:MAX_ROWS]]
    if more := len(loud) - MAX_ROWS:
        rows += [[f"{more} more with something to see", *[""] * len(comparison.columns)]] if more > 0 else []
    if quiet := len(comparison.groups) - len(loud):
        rows.append([f"{quiet} other scenarios", *["pass"] * len(comparison.columns)])
    return rows


def _mark(group: Group, column: str) -> str:
    worst = group.outcome(column)
    if worst is None:
        return "-"
    good, count = group.count(column)
    word = "flaky" if worst[1] and worst[0] is Outcome.PASS else str(worst[0])
    if worst[0].is_bad and count > 1:
        word += f" {good}/{count}"
    verdict = group.verdict(column)
    return word if verdict in {None, Verdict.SAME} else f"{word} **{verdict}**"


def _fault(fault: Fault, *, is_open: bool) -> Iterator[str]:
    change = fault.first
    body = [f"* check: {text(change.row.case)}", f"* outcome: {text(outcomes_of(change))}"]
    if fault.others:
        body.append(f"* also in: {text(where(fault.others, change))}")
    if fault.end:
        body.append(f"* end: {text(fault.end)}")
    body += [f"* splat as well: {text(splat.title)}" for splat in fault.more_splats]
    if change.cell.message and not fault.splat:
        body.append(f"* message: {text(change.cell.message)}")
    if change.cell.reason:
        body.append(f"* reason: {text(change.cell.reason)}")
    if change.not_reached:
        body.append(f"* checks not reached: {len(change.not_reached)} of {len(change.group.rows)}")
    if fault.splat:
        body += ["", *_fenced(excerpt(fault.splat))]
    if change.reproduce:
        body += ["", "To reproduce:", "", *_fenced([change.reproduce], "sh")]
    title = f"{fault.word}: {fault.title}, {change.group.name} on {change.column}"
    yield from _folded(title, body, is_open=is_open)


def _news(found: Iterable[NewsLine]) -> list[str]:
    return [f"* {item.word} {text(item.text)}" for item in found]


def _figures(measured: Figures) -> Iterator[str]:
    rows = [
        [
            told.name,
            f"{told.figure.mean:.5g} {unit(told.row)}",
            told.ratio,
            f"**{told.speed}**",
            told.row.mode,
            told.more,
        ]
        for told in measured.told
        if told.figure.low is not None
    ]
    body = [measured.against_itself, ""] if measured.against_itself else []
    if rows:
        body += _table(["figure", "mean", "ratio (95 % interval)", "", "counts", ""], rows[: 3 * MAX_ROWS])
    if measured.once:
        body.append(f"* {measured.once} measured too seldom for an interval: run with --repeat 5 or more")
    body += [f"* {text(what)}" for _, what in measured.lacking]
    if body:
        news_first = bool(measured.of(Speed.SLOWER))
        yield from _folded(f"Figures: {measured.counts or 'none has a base'}", body, is_open=news_first)


# --- Markdown ---------------------------------------------------------------------------------------------------


def text(words: str) -> str:
    """Return words that Markdown shows as they are, on one line; `@name` notifies nobody."""
    return _SIGNS.sub(r"\\\1", line(words)).replace("@", "@\u200b")


def _folded(title: str, body: Sequence[str], *, is_open: bool = False) -> Iterator[str]:
    if not body:
        return
    yield f"<details{' open' if is_open else ''}><summary>{_html(title)}</summary>"
    yield ""
    yield from body
    yield ""
    yield "</details>"
    yield ""


def _html(words: str) -> str:
    return line(words).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("@", "@\u200b")


def _fenced(lines: Iterable[str], kind: str = "") -> list[str]:
    """Return a block that is shown as it is; a fence within it cannot end it."""
    whole = printable("\n".join(lines))
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", whole)), default=0))
    return [f"{fence}{kind}", *whole.splitlines(), fence]


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a table of cells that are Markdown already."""
    return [*markdown_table(map(text, heads), rows), ""] if rows else []
