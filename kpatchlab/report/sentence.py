"""A run's outcome in one word and one sentence, for a reader who reads nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from kpatchlab.model import Outcome, Verdict
from kpatchlab.report.common import line
from kpatchlab.textclean import counted
from kpatchlab.verdict.faults import changes
from kpatchlab.verdict.ratios import AGAIN, Speed, again, metric_rows
from kpatchlab.verdict.values import Comparison

NAMED = 4
"""At most so many scenarios are named in a sentence."""


def word(comparison: Comparison) -> str:
    """Return REGRESSED, FAILED, NOT TESTED, INCOMPLETE, NO REGRESSION or PASSED, as the exit code has it.

    Of a measurement whose benchmarks all ran: what its figures say, SLOWER where any does.
    """
    if comparison.exit_code == 1:
        return "REGRESSED" if comparison.compares else "FAILED"
    if not comparison.judged:
        return "NOT TESTED"
    if comparison.exit_code:
        return "INCOMPLETE"
    if comparison.compares and not comparison.compared:
        return "NOT TESTED"
    if measured(comparison):
        speeds = _speeds(comparison)
        return next((str(speed) for speed in _RANK if speeds[speed]), "UNKNOWN")
    return "NO REGRESSION" if comparison.compares else "PASSED"


def sentence(comparison: Comparison) -> str:
    """Return what the run found, for people: who broke what, or that nothing is broken, and what is not known."""
    if not comparison.judged:
        said = "Nothing was tested: every job was skipped, blocked or lost"
    elif measured(comparison):
        said = _figures(comparison)
    elif not comparison.compares:
        said = _alone(comparison)
    elif comparison.regressed:
        said = _regressed(comparison)
    else:
        said = _held(comparison)
    doubts = _doubts(comparison)
    text = "; ".join([said, doubts] if doubts else [said]) + "."
    if not comparison.complete:
        return f"The run did not end; so far {text[0].lower()}{text[1:]}"
    return f"{text[0].upper()}{text[1:]}"


def listed(names: Iterable[str], most: int = NAMED) -> str:
    """Return `a, b and c`, or `a, b, c, d and 3 more`; each name once."""
    clean = [line(name, 60) for name in dict.fromkeys(names)]
    if len(clean) > most + 1:
        clean[most:] = [f"{len(clean) - most} more"]
    return clean[0] if len(clean) == 1 else f"{', '.join(clean[:-1])} and {clean[-1]}" if clean else ""


def _regressed(comparison: Comparison) -> str:
    steps = [check for check in comparison.builds if check.verdict is Verdict.REGRESSED]
    checks = counted(comparison.regressed - len(steps), "check")
    where = listed(_scenarios(comparison, [Verdict.REGRESSED]))
    brings = [f"{counted(comparison.fault_count, 'fault')} in {where} ({checks})"] if comparison.fault_count else []
    kernels = [f"“{line(check.kernel, 60)}”" for check in steps if check.step == "kernel"]
    modules = [check.step.removeprefix("module ") for check in steps if check.step != "kernel"]
    builds = [
        f"the build of {noun}{'' if len(names) == 1 else 's'} {listed(names)}"
        for noun, names in (("kernel", kernels), ("module", modules))
        if names
    ]
    if comparison.same_base:
        broken = [f"breaks {', and '.join(builds)}"] if builds else []
        said = f"The series {', and '.join([f'brings {brings[0]}', *broken] if brings else broken)}"
    else:
        said = f"New against “{line(comparison.base, 60)}”: {', and '.join(brings + [f'{b} fails' for b in builds])}"
    return f"{said}; {counted(comparison.fixed, 'check')} fixed" if comparison.fixed else said


_RANK = {Speed.SLOWER: "slower", Speed.FASTER: "faster", Speed.SAME: "the same", Speed.UNKNOWN: "not known"}


def measured(comparison: Comparison) -> bool:
    """Whether it is a measurement, which is about figures, and all of its checks came out well."""
    return not comparison.exit_code and any(column.endswith(AGAIN) for column in comparison.columns)


def _others(comparison: Comparison) -> list[str]:
    """Return what the base is compared with; itself where there is nothing else."""
    columns = [column for column in comparison.columns if column != comparison.base]
    return [column for column in columns if not column.endswith(AGAIN)] or columns


def _speeds(comparison: Comparison) -> Counter[Speed]:
    """Return how many figures have which verdict; what one side lacks is not known."""
    return Counter(
        (row.figures[column].speed or Speed.UNKNOWN) if column in row.figures else Speed.UNKNOWN
        for row in metric_rows(comparison)
        for column in _others(comparison)
    )


def _figures(comparison: Comparison) -> str:
    speeds, others = _speeds(comparison), _others(comparison)
    told = [f"{speeds[speed]} {words}" for speed, words in _RANK.items() if speeds[speed]]
    if not told:
        return "No benchmark gave a figure"
    if others[0].endswith(AGAIN):
        return f"{again(metric_rows(comparison))}"
    return f"Of {counted(speeds.total(), 'figure')} held against “{line(comparison.base, 60)}”: {', '.join(told)}"


def _held(comparison: Comparison) -> str:
    same = comparison.verdicts.get(Verdict.SAME, 0)
    news = []
    if comparison.fixed:
        where = _scenarios(comparison, [Verdict.FIXED])
        news.append(f"{counted(comparison.fixed, 'check')}{f' in {listed(where)}' if where else ''} fixed")
    if changed := comparison.verdicts.get(Verdict.CHANGED, 0):
        news.append(f"{counted(changed, 'recorded answer')} changed")
    if new := comparison.verdicts.get(Verdict.NEW, 0):
        news.append(f"{counted(new, 'check')} new")
    if news:
        return f"Nothing regressed: {', '.join(news)}, {same} the same"
    if not same:
        return "Nothing compared"
    return f"Nothing changed: {counted(same, 'check')} came out the same on every kernel"


def _alone(comparison: Comparison) -> str:
    bad = [change.group.scenario for change in changes(comparison) if change.cell.outcome.is_bad]
    good = sum(group.count(column)[0] for group in comparison.groups for column in group.jobs)
    broken = [
        f"kernel {build.kernel}" if build.step == "kernel" else build.step
        for build in comparison.builds
        if build.outcome.is_bad or build.outcome is Outcome.BLOCKED
    ]
    columns = listed(f"“{line(column, 56)}”" for column in comparison.columns)
    why = "no other kernel" if comparison.alone else "no base column"
    where = f"on {columns}, with {why} to compare"
    if not bad and not broken:
        return f"All {counted(good, 'check')} passed {where}" if good != 1 else f"The one check passed {where}"
    parts = [f"{len(bad)} of {counted(len(bad) + good, 'check')} failed, in {listed(bad)}"] if bad else []
    parts += [f"{listed(broken)} did not build"] if broken else []
    return f"{' and '.join(parts)}, {where}"


def _doubts(comparison: Comparison) -> str:
    count = comparison.verdicts.get
    parts = [f"{count(Verdict.FLAKY, 0)} flaky"] if count(Verdict.FLAKY) else []
    parts += [f"{count(Verdict.GONE, 0)} gone"] if count(Verdict.GONE) else []
    unknown = count(Verdict.BLOCKED, 0) + count(Verdict.UNKNOWN, 0)
    parts += [f"{unknown} could not be compared"] if unknown else []
    lost = len(comparison.lost)
    parts += [f"{lost} lost by the lab itself"] if lost else []
    return ", ".join(parts)


def _scenarios(comparison: Comparison, verdicts: Sequence[Verdict]) -> list[str]:
    return [
        group.scenario
        for group in comparison.groups
        for row in group.rows
        for cell in row.cells.values()
        if cell.verdict in verdicts and not cell.follows
    ]
