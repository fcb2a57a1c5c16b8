"""The conclusion of a judged walk, in words that its views share."""

from __future__ import annotations

from kpatchlab.progress import clock
from kpatchlab.series.judge import CheckState, Table
from kpatchlab.textclean import one_line


def conclusion(table: Table) -> list[str]:
    """Return the first bad patch of each failure, what could not be looked at, and what it cost."""
    lines = ["first bad patch of each failure:" if table.failures else "no patch broke anything"]
    for failure in table.failures:
        end = f", mended by {failure.mended}" if failure.mended else ""
        lines.append(f"  {failure.first:4}{end}  {failure.check}: {one_line(failure.what, 160)}")
    lines += [f"{name}: not looked at in {_patches(count)}: {why}" for (name, why), count in _skipped(table).items()]
    walk = table.walk
    tried = sum(row.facts.built is not None for row in table.rows)
    if untried := [row for row in table.rows if row.facts.applied.how == "untried"]:
        lines.append(f"{_patches(len(untried))} not tried: one before does not apply")
    if not walk.complete:
        lines.append("stopped before the last patch; the same command goes on there")
    known = sum(row.facts.stored for row in table.rows)
    seconds = clock(sum(row.facts.duration_s for row in table.rows))
    lines.append(
        f"{_patches(tried)} built and looked at in {seconds}" + (f" ({known} known from before)" if known else "")
    )
    lines.append(
        f"objects compiled: {table.rebuilt} for the patches ({table.rebuilt / max(1, tried):.1f} each), "
        f"{table.looked} more to compare warnings; {tried} clean builds would compile {table.clean}"
    )
    return lines


def _patches(count: int) -> str:
    return f"{count} patch{'' if count == 1 else 'es'}"


def _skipped(table: Table) -> dict[tuple[str, str], int]:
    found: dict[tuple[str, str], int] = {}
    for row in table.rows:
        for name, cell in row.cells.items():
            if cell.state is CheckState.SKIP and cell.lines:
                unseen = cell.text == "not compiled"
                why = "touch only files that are not compiled here" if unseen else cell.lines[0]
                found[name, why] = found.get((name, why), 0) + 1
    return found
