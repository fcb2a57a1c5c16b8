"""From the facts of a walk to the table patch x check, and the first bad patch of each failure. Pure."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from kpatchlab.model import ModuleFailure, Outcome
from kpatchlab.series import warnings
from kpatchlab.series.values import Finding, Looked, LostObject, PatchBuild, PatchResult, Walk
from kpatchlab.textclean import clean

BUILDS = ("apply", "build", "modules")
_BAD = {str(outcome) for outcome in Outcome if outcome.is_bad}


class CheckState(enum.StrEnum):
    """What one check says of one patch."""

    OK = "ok"
    WARN = "warn"  # to be looked at; does not make the series bad
    FAIL = "fail"  # this patch's doing
    STILL = "still"  # as bad as before the patch
    SKIP = "skip"  # could not be looked at
    UNTRIED = "untried"  # a patch before it does not apply


@dataclass(frozen=True, slots=True)
class CheckCell:
    """One check of one patch; `text` is short enough for a table, `lines` are what a reader wants next."""

    state: CheckState
    text: str
    lines: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SeriesRow:
    """One patch with a cell for each column of the table."""

    facts: PatchResult
    cells: dict[str, CheckCell]

    @property
    def bad(self) -> bool:
        """Whether the patch itself did something wrong."""
        return any(cell.state is CheckState.FAIL for cell in self.cells.values())


@dataclass(frozen=True, slots=True)
class Failure:
    """One thing that went wrong: since which patch, and which later one mended it (0: none did)."""

    check: str
    what: str
    first: int
    mended: int = 0


@dataclass(frozen=True, slots=True)
class Table:
    """The whole walk, judged.

    Attributes:
        columns: the checks, in their order.
        base: the tree without patches; its failures are nobody's in the series.
        failures: by first bad patch.
        rebuilt: objects that make compiled for all patches, the first build of the tree left out.
        looked: objects compiled besides, to compare warnings.
        clean: objects that as many clean builds would compile.
    """

    walk: Walk
    columns: tuple[str, ...]
    base: SeriesRow
    rows: tuple[SeriesRow, ...]
    failures: tuple[Failure, ...]
    rebuilt: int
    looked: int
    clean: int

    @property
    def exit_code(self) -> int:
        """0 where no patch did anything wrong, else 1."""
        return int(any(row.bad for row in self.rows))


def judge(walk: Walk) -> Table:
    """Return the table of a walk, finished or not; what patches and compilers say in it is clean."""
    walk = clean(walk)
    scenarios = any(facts.scenarios for facts in walk.patches)
    columns = (*BUILDS, *walk.checks, *(["scenarios"] if scenarios else []))
    track = _Track()
    rows = []
    for facts in walk.patches:
        cells = {
            "apply": _apply(facts, track),
            "build": _build(facts, track),
            "modules": _modules(facts, track),
            **{check: _check(facts, check, track) for check in walk.checks if facts.number},
        }
        if scenarios:
            cells["scenarios"] = _scenarios(facts, track)
        rows.append(SeriesRow(facts, cells))
    built = [facts.built for facts in walk.patches[1:] if facts.built]
    return Table(
        walk=walk,
        columns=columns,
        base=rows[0],
        rows=tuple(rows[1:]),
        failures=tuple(sorted(track.failures.values(), key=lambda failure: failure.first)),
        rebuilt=sum(one.rebuilt for one in built),
        looked=sum(look.objects for facts in walk.patches for look in facts.looked),
        clean=sum(one.total for one in built),
    )


class _Track:
    """What is broken so far, and since when."""

    def __init__(self) -> None:
        self.failures: dict[tuple[object, ...], Failure] = {}
        self.build: dict[tuple[str, str], tuple[LostObject, int]] = {}
        self.modules: dict[str, int] = {}
        self.scenarios: set[str] = set()

    def broke(self, key: tuple[object, ...], failure: Failure) -> None:
        """Note a failure; one that came again after it was mended counts from its first patch on."""
        known = self.failures.get(key)
        self.failures[key] = Failure(failure.check, failure.what, known.first if known else failure.first)

    def mended(self, key: tuple[object, ...], number: int) -> None:
        """Note that a failure is gone."""
        if (known := self.failures.get(key)) and not known.mended:
            self.failures[key] = Failure(known.check, known.what, known.first, number)


def _since(number: int) -> str:
    return f"since {number}" if number else "before the series"


def _apply(facts: PatchResult, track: _Track) -> CheckCell:
    applied = facts.applied
    moved = (f"{applied.offsets} hunk{'s' if applied.offsets > 1 else ''} at an offset",) if applied.offsets else ()
    if applied.how == "strict":
        return CheckCell(CheckState.OK, "ok", moved)
    if applied.how == "fuzz":
        return CheckCell(CheckState.WARN, f"fuzz {applied.fuzz}", (f"applies only with fuzz {applied.fuzz}", *moved))
    if applied.how == "no":
        track.broke(("apply",), Failure("apply", f"does not apply: {applied.error}", facts.number))
        return CheckCell(CheckState.FAIL, "no", applied.details or (applied.error,))
    return CheckCell(CheckState.UNTRIED, "not tried")


def _build(facts: PatchResult, track: _Track) -> CheckCell:
    built = facts.built
    if not built:
        return CheckCell(CheckState.UNTRIED, "-")
    # A line moves with what stands above it, and a header's fault is one in however many objects.
    now = {(fault.file, warnings.without_numbers(fault.text)): fault for fault in reversed(built.faults)}
    new = sorted(now.keys() - track.build)
    mended = [key for key, (fault, _) in track.build.items() if key not in now and _tried(fault, built)]
    lines = [str(now[key]) for key in new]
    for key in mended:
        fault, since = track.build.pop(key)
        lines.append(f"{fault}: mended, was broken {_since(since)}")
        track.mended(("build", *key), facts.number)
    lines += [f"{fault}: broken {_since(since)}" for fault, since in track.build.values()]
    old = min((since for _, since in track.build.values()), default=0)
    for key in new:
        track.build[key] = now[key], facts.number
        if facts.number:
            track.broke(("build", *key), Failure("build", str(now[key]), facts.number))
    more = tuple(f"configuration: {line}" for line in built.config[:20]) if facts.number else ()
    lines += [*more, *(f"{file} is not compiled in this configuration" for file in built.unseen)]
    if new:
        return CheckCell(CheckState.FAIL, "no", tuple(lines))
    if now:
        return CheckCell(CheckState.STILL, _since(old), tuple(lines))
    if mended:
        return CheckCell(CheckState.OK, "mended", tuple(lines))
    code = [file for file in facts.files if file.endswith((".c", ".h", ".S")) and file not in built.deleted]
    if code and len(built.unseen) == len(code):
        return CheckCell(CheckState.SKIP, "not compiled", tuple(lines))
    return CheckCell(CheckState.OK, "ok" if not built.unseen else f"ok, {len(built.unseen)} unseen", tuple(lines))


def _tried(known: LostObject, built: PatchBuild) -> bool:
    """Whether a build came to where an earlier one had this fault.

    Make tries every object, but links none where one does not compile; and where make itself stops, nobody knows
    what it would have come to.
    """
    return not built.faults or all(fault.object for fault in (known, *built.faults))


def _lost(built: PatchBuild) -> dict[str, tuple[ModuleFailure, bool]]:
    """Return module -> why it cannot be used, and whether it is itself at fault."""
    lost = {name: (failure, False) for failure in built.modules for name in failure.dependents}
    return lost | {failure.module: (failure, True) for failure in built.modules}


def _modules(facts: PatchResult, track: _Track) -> CheckCell:
    built = facts.built
    if not built:
        return CheckCell(CheckState.UNTRIED, "-")
    lost = _lost(built)
    new = sorted(set(lost) - set(track.modules))
    # Where built-in code does not compile, modules are not linked: those that needed a broken one stay unknown.
    mended = [] if built.error else sorted(set(track.modules) - set(lost))
    lines = []
    for name in new:
        failure, own = lost[name]
        place = f"{failure.source}:{failure.line}: " if failure.line else f"{failure.source}: "
        what = f"{name}: {place}{failure.error}" if own else f"{name}: needs {failure.module}, which is broken"
        lines.append(what)
        track.modules[name] = facts.number
        if facts.number:
            track.broke(("modules", name), Failure("modules", what, facts.number))
    for name in mended:
        lines.append(f"{name}: mended, was broken {_since(track.modules.pop(name))}")
        track.mended(("modules", name), facts.number)
    old = [name for name in track.modules if name not in new]
    lines += [f"{name}: broken {_since(track.modules[name])}" for name in sorted(old)]
    if new:
        return CheckCell(CheckState.FAIL, f"{len(new)} broken", tuple(lines))
    if old:
        first = min(track.modules[name] for name in old)
        return CheckCell(CheckState.STILL, f"{len(old)} {_since(first)}", tuple(lines))
    return CheckCell(CheckState.OK, f"{len(mended)} mended" if mended else "ok", tuple(lines))


def _check(facts: PatchResult, check: str, track: _Track) -> CheckCell:
    look = facts.look(check)
    if not look:
        return CheckCell(CheckState.UNTRIED, "-")
    if look.skipped:
        return CheckCell(CheckState.SKIP, "skipped", (look.skipped,))
    for finding in look.gone:
        track.mended((check, *warnings.key(finding)), facts.number)
    if check == "checkpatch":
        return _mail(facts, look, track)
    for finding in look.new:
        track.broke((check, *warnings.key(finding)), Failure(check, str(finding), facts.number))
    lines = (*map(str, look.new), *(f"gone: {finding}" for finding in look.gone), *look.notes)
    if look.new:
        return CheckCell(CheckState.FAIL, f"{len(look.new)} new", lines)
    return CheckCell(CheckState.OK, f"{len(look.gone)} gone" if look.gone else "ok", lines)


def _mail(facts: PatchResult, look: Looked, track: _Track) -> CheckCell:
    errors = [finding for finding in look.new if finding.severity == "error"]
    others = len(look.new) - len(errors)
    for finding in errors:
        track.broke(("checkpatch", facts.number, str(finding)), Failure("checkpatch", str(finding), facts.number))
    lines = tuple(map(str, sorted(look.new, key=_errors_first)))
    words = [
        f"{count} {word}{'s' if count > 1 else ''}"
        for count, word in ((len(errors), "error"), (others, "warning"))
        if count
    ]
    return CheckCell(
        CheckState.FAIL if errors else CheckState.WARN if others else CheckState.OK, ", ".join(words) or "ok", lines
    )


def _errors_first(finding: Finding) -> bool:
    return finding.severity != "error"


def _scenarios(facts: PatchResult, track: _Track) -> CheckCell:
    if not facts.scenarios:
        return CheckCell(CheckState.UNTRIED, "-")
    worse, lines = [], []
    for name, outcome in facts.scenarios.items():
        if outcome != "pass":
            lines.append(f"{name}: {outcome}")
        if outcome in _BAD:
            if name not in track.scenarios:
                worse.append(name)
                if facts.number:
                    track.broke(("scenarios", name), Failure("scenarios", f"{name}: {outcome}", facts.number))
            track.scenarios.add(name)
        elif outcome == "pass":  # one that did not run says nothing about the kernel: it stands as it stood
            track.scenarios.discard(name)
            track.mended(("scenarios", name), facts.number)
    passed = sum(outcome == "pass" for outcome in facts.scenarios.values())
    text = f"{passed} of {len(facts.scenarios)} pass"
    bad = any(outcome in _BAD for outcome in facts.scenarios.values())
    state = (
        CheckState.FAIL
        if worse
        else CheckState.STILL
        if bad
        else CheckState.OK
        if passed == len(facts.scenarios)
        else CheckState.SKIP
    )
    return CheckCell(state, text, tuple(lines))
