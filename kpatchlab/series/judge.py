"""From the facts of a walk to the table patch x check, and the first bad patch of each failure. Pure."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from kpatchlab.model import ModuleFailure, Outcome
from kpatchlab.series import warnings
from kpatchlab.series.values import Built, Fault, Finding, Looked, PatchResult, Walk

BUILDS = ("apply", "build", "modules")
_BAD = {str(outcome) for outcome in Outcome if outcome.is_bad}


class State(enum.StrEnum):
    """What one check says of one patch."""

    OK = "ok"
    WARN = "warn"  # to be looked at; does not make the series bad
    FAIL = "fail"  # this patch's doing
    STILL = "still"  # as bad as before the patch
    SKIP = "skip"  # could not be looked at
    UNTRIED = "untried"  # a patch before it does not apply


@dataclass(frozen=True, slots=True)
class Cell:
    """One check of one patch; `text` is short enough for a table, `lines` are what a reader wants next."""

    state: State
    text: str
    lines: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Row:
    """One patch with a cell for each column of the table."""

    facts: PatchResult
    cells: dict[str, Cell]

    @property
    def bad(self) -> bool:
        """Whether the patch itself did something wrong."""
        return any(cell.state is State.FAIL for cell in self.cells.values())


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
    base: Row
    rows: tuple[Row, ...]
    failures: tuple[Failure, ...]
    rebuilt: int
    looked: int
    clean: int

    @property
    def exit_code(self) -> int:
        """0 where no patch did anything wrong, else 1."""
        return int(any(row.bad for row in self.rows))


def judge(walk: Walk) -> Table:
    """Return the table of a walk, finished or not."""
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
        rows.append(Row(facts, cells))
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
        self.build: dict[tuple[str, str], tuple[Fault, int]] = {}
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


def _apply(facts: PatchResult, track: _Track) -> Cell:
    applied = facts.applied
    moved = (f"{applied.offsets} hunk{'s' if applied.offsets > 1 else ''} at an offset",) if applied.offsets else ()
    if applied.how == "strict":
        return Cell(State.OK, "ok", moved)
    if applied.how == "fuzz":
        return Cell(State.WARN, f"fuzz {applied.fuzz}", (f"applies only with fuzz {applied.fuzz}", *moved))
    if applied.how == "no":
        track.broke(("apply",), Failure("apply", f"does not apply: {applied.error}", facts.number))
        return Cell(State.FAIL, "no", applied.details or (applied.error,))
    return Cell(State.UNTRIED, "not tried")


def _build(facts: PatchResult, track: _Track) -> Cell:
    built = facts.built
    if not built:
        return Cell(State.UNTRIED, "-")
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
        return Cell(State.FAIL, "no", tuple(lines))
    if now:
        return Cell(State.STILL, _since(old), tuple(lines))
    if mended:
        return Cell(State.OK, "mended", tuple(lines))
    code = [file for file in facts.files if file.endswith((".c", ".h", ".S")) and file not in built.deleted]
    if code and len(built.unseen) == len(code):
        return Cell(State.SKIP, "not compiled", tuple(lines))
    return Cell(State.OK, "ok" if not built.unseen else f"ok, {len(built.unseen)} unseen", tuple(lines))


def _tried(known: Fault, built: Built) -> bool:
    """Whether a build came to where an earlier one had this fault.

    Make tries every object, but links none where one does not compile; and where make itself stops, nobody knows
    what it would have come to.
    """
    return not built.faults or all(fault.object for fault in (known, *built.faults))


def _lost(built: Built) -> dict[str, tuple[ModuleFailure, bool]]:
    """Return module -> why it cannot be used, and whether it is itself at fault."""
    lost = {name: (failure, False) for failure in built.modules for name in failure.dependents}
    return lost | {failure.module: (failure, True) for failure in built.modules}


def _modules(facts: PatchResult, track: _Track) -> Cell:
    built = facts.built
    if not built:
        return Cell(State.UNTRIED, "-")
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
        return Cell(State.FAIL, f"{len(new)} broken", tuple(lines))
    if old:
        first = min(track.modules[name] for name in old)
        return Cell(State.STILL, f"{len(old)} {_since(first)}", tuple(lines))
    return Cell(State.OK, f"{len(mended)} mended" if mended else "ok", tuple(lines))


def _check(facts: PatchResult, check: str, track: _Track) -> Cell:
    look = facts.look(check)
    if not look:
        return Cell(State.UNTRIED, "-")
    if look.skipped:
        return Cell(State.SKIP, "skipped", (look.skipped,))
    for finding in look.gone:
        track.mended((check, *warnings.key(finding)), facts.number)
    if check == "checkpatch":
        return _mail(facts, look, track)
    for finding in look.new:
        track.broke((check, *warnings.key(finding)), Failure(check, str(finding), facts.number))
    lines = (*map(str, look.new), *(f"gone: {finding}" for finding in look.gone), *look.notes)
    if look.new:
        return Cell(State.FAIL, f"{len(look.new)} new", lines)
    return Cell(State.OK, f"{len(look.gone)} gone" if look.gone else "ok", lines)


def _mail(facts: PatchResult, look: Looked, track: _Track) -> Cell:
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
    return Cell(State.FAIL if errors else State.WARN if others else State.OK, ", ".join(words) or "ok", lines)


def _errors_first(finding: Finding) -> bool:
    return finding.severity != "error"


def _scenarios(facts: PatchResult, track: _Track) -> Cell:
    if not facts.scenarios:
        return Cell(State.UNTRIED, "-")
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
    state = State.FAIL if worse else State.STILL if bad else State.OK if passed == len(facts.scenarios) else State.SKIP
    return Cell(state, text, tuple(lines))
