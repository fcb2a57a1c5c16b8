"""What each patch of a series changes, and which scenario ran it: patch x scenario, also as a page in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from kpatchlab.model import ChangedFunction, JobResult, PatchFacts, Run
from kpatchlab.report.common import line, markdown_table, unconfined
from kpatchlab.report.view import View

REACHED, PARTLY, NOT_REACHED = "reached", "partly", "not reached"
NOT_TRACEABLE, NOT_COUNTED, NO_FUNCTION = "not traceable", "not counted", "no function"
WORDS = {
    REACHED: "every function that can be counted ran",
    PARTLY: "some of those that can be counted ran",
    NOT_REACHED: "none of those that can be counted ran",
    NOT_TRACEABLE: "none can be counted by its name: inlined, gone, or not in this kernel",
    NOT_COUNTED: "no job of the scenario counted: it ran untraced, or on kernels without the series, or not at all",
    NO_FUNCTION: "the patch changes no function's body",
}
"""Words of a cell -> what they mean."""


@dataclass(frozen=True, slots=True)
class PatchCell:
    """One patch in one scenario.

    Attributes:
        word: one of `WORDS`.
        counts: function -> calls, summed over the scenario's jobs and guests with the patch's kernel; -1 where it
            could not be traced in any of them. Functions that cannot be counted at all are not among them.
    """

    word: str
    counts: Mapping[str, int] = field(default_factory=dict)

    @property
    def ran(self) -> int:
        """How many functions ran."""
        return sum(1 for count in self.counts.values() if count > 0)

    @property
    def counted(self) -> int:
        """How many functions were counted, those that did not run among them."""
        return sum(1 for count in self.counts.values() if count >= 0)

    @property
    def calls(self) -> int:
        """How often they ran, all together."""
        return sum(count for count in self.counts.values() if count > 0)


@dataclass(frozen=True, slots=True)
class PatchRow:
    """One patch of one kernel's series: scenario -> cell, in the order in which the run has its scenarios."""

    patch: PatchFacts
    cells: Mapping[str, PatchCell]

    @property
    def whole(self) -> PatchCell:
        """All scenarios together."""
        words = {cell.word for cell in self.cells.values()}
        found: dict[str, list[int]] = {}
        for cell in self.cells.values():
            for name, count in cell.counts.items():
                found.setdefault(name, []).append(count)
        counts = {name: _total(every) for name, every in found.items()}
        fixed = words & {NO_FUNCTION} or (words & {NOT_TRACEABLE} if not counts else set())
        return PatchCell(fixed.pop() if fixed else _word(counts), counts)


def patch_rows(run: Run) -> Iterator[PatchRow]:
    """Yield a row for each patch of each kernel's series; nothing where no kernel of the run has one."""
    jobs: dict[str, list[JobResult]] = {}
    for job in run.jobs:
        jobs.setdefault(job.scenario, []).append(job)
    # Calls are stored by function: looked up once for each job, not for each patch.
    kernels = dict.fromkeys(patch.kernel for patch in run.patches)
    calls = {(name, kernel): _calls(found, kernel) for name, found in jobs.items() for kernel in kernels}
    for patch in run.patches:
        yield PatchRow(patch, {name: _cell(patch, calls[name, patch.kernel]) for name in jobs})


def _calls(jobs: Iterable[JobResult], kernel: str) -> dict[str, int]:
    """Return function -> calls in the guests of these jobs that ran the kernel."""
    found: dict[str, list[int]] = {}
    for job in jobs:
        for reach in job.patched:
            if job.placement.get(reach.role) == kernel:
                found.setdefault(reach.function, []).append(reach.count)
    return {name: _total(counts) for name, counts in found.items()}


def _total(counts: Iterable[int]) -> int:
    known = [count for count in counts if count >= 0]
    return sum(known) if known else -1


def _cell(patch: PatchFacts, calls: Mapping[str, int]) -> PatchCell:
    names = dict.fromkeys(function.name for function in patch.functions if not function.trace)
    if not patch.functions:
        return PatchCell(NO_FUNCTION)
    if not names:
        return PatchCell(NOT_TRACEABLE)
    counts = {name: calls[name] for name in names if name in calls}
    return PatchCell(_word(counts), counts)


def _word(counts: Mapping[str, int]) -> str:
    traced = [count for count in counts.values() if count >= 0]
    if not counts:
        return NOT_COUNTED
    if not traced:
        return NOT_TRACEABLE
    ran = sum(1 for count in traced if count)
    return NOT_REACHED if not ran else REACHED if ran == len(traced) else PARTLY


def function_word(function: ChangedFunction, cell: PatchCell) -> str:
    """Return what one function of a patch did in a cell: "1204", "0", or why there is no count."""
    if function.trace:
        return function.trace
    if function.name not in cell.counts:
        return NOT_COUNTED
    count = cell.counts[function.name]
    return str(count) if count >= 0 else NOT_TRACEABLE


def told(cell: PatchCell) -> str:
    """Return a cell in a few words: "reached 5/5", "not reached"."""
    return f"{cell.word} {cell.ran}/{cell.counted}" if cell.word in {REACHED, PARTLY} else cell.word


def summary(rows: Iterable[PatchRow]) -> list[str]:
    """Return a few lines for a terminal: how many patches ran, and those that no scenario ran."""
    every = list(rows)
    lines = []
    for kernel in dict.fromkeys(row.patch.kernel for row in every):
        own = [(row, row.whole) for row in every if row.patch.kernel == kernel]
        if all(whole.word in {NOT_COUNTED, NO_FUNCTION, NOT_TRACEABLE} for _, whole in own):
            lines.append(f"{kernel}: {len(own)} patches, none of their functions was counted")
            continue
        ran = sum(1 for _, whole in own if whole.ran)
        lines.append(f"{kernel}: {ran} of {len(own)} patches ran in some scenario")
        lines += [
            f"  {row.patch.number} {line(row.patch.title, 60)}: {whole.word}" for row, whole in own if not whole.ran
        ]
    return lines


def render(view: View) -> bytes:
    """Return patch x scenario as Markdown, and below it each patch's functions with their calls."""
    run = view.run
    rows = list(patch_rows(run))
    if not rows:
        bare = [f"{kernel}: {words}\n" for kernel, words in unconfined(run)]
        return "".join(["No kernel of this run has a series: there are no patches to look for.\n", *bare]).encode()
    out = [f"# Which scenario ran what each patch changes: {line(run.title) or run.id}", ""]
    out += [f"* {word}: {meaning}" for word, meaning in WORDS.items()]
    out += [f"* kernel {kernel}: {_escaped(words)}" for kernel, words in unconfined(run)]
    for kernel in dict.fromkeys(row.patch.kernel for row in rows):
        own = [row for row in rows if row.patch.kernel == kernel]
        out += ["", f"## Kernel {kernel}", "", *_matrix(own)]
        for row in own:
            out += ["", *_functions(row)]
    return ("\n".join(out) + "\n").encode("utf-8", "replace")


def _matrix(rows: list[PatchRow]) -> Iterator[str]:
    scenarios = list(rows[0].cells)
    yield from _table(
        ["patch", "all", *scenarios],
        ([_title(row.patch), told(row.whole), *(told(row.cells[name]) for name in scenarios)] for row in rows),
    )


def _functions(row: PatchRow) -> Iterator[str]:
    yield f"### {_escaped(_title(row.patch))}"
    yield ""
    if not row.patch.functions:
        files = ", ".join(row.patch.files)
        yield f"No function's body changes{f'; files: {_escaped(files)}' if files else ''}."
        return
    yield from _table(
        ["function", "file", "calls", "in"],
        ([f.name, f.file, function_word(f, row.whole), _where(row, f)] for f in row.patch.functions),
    )


def _where(row: PatchRow, function: ChangedFunction) -> str:
    ran = [name for name, cell in row.cells.items() if cell.counts.get(function.name, 0) > 0]
    return "-" if function.trace else ", ".join(ran) or "-"


def _title(patch: PatchFacts) -> str:
    return f"{patch.number} {line(patch.title, 90)}".rstrip()


def _table(heads: list[str], rows: Iterable[list[str]]) -> list[str]:
    return markdown_table(map(_escaped, heads), (map(_escaped, row) for row in rows))


def _escaped(text: str) -> str:
    """Return text that Markdown shows as it is, within a cell of a table."""
    for sign in "\\|`*_<[":
        text = text.replace(sign, f"\\{sign}")
    return line(text)
