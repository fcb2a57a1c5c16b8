"""What a walk over a series finds: facts for each patch, stored at once. `judge` says what they mean."""

from __future__ import annotations

from dataclasses import dataclass, field

from kpatchlab.model import ModuleFailure


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a check says; `file` is relative to the tree, "" where it is about the mail; `line` 0: none.

    Attributes:
        severity: the checker's own word: "warning", "error", "check".
        context: the function that it is in, where the checker says that.
    """

    text: str
    file: str = ""
    line: int = 0
    severity: str = "warning"
    context: str = ""

    def __str__(self) -> str:
        """Return it as compilers print it."""
        place = f"{self.file}:{self.line}: " if self.line else f"{self.file}: " if self.file else ""
        return f"{place}{self.severity}: {self.text}"


@dataclass(frozen=True, slots=True)
class Applied:
    """How a patch met the tree that those before it left.

    Attributes:
        how: "strict", "fuzz", "no", or "untried" where one before it did not apply.
        fuzz: lines of context that were let go, 0 for strict.
        offsets: hunks that stand some lines away from where the patch says.
        error: one line, for "no"; `details` has file, hunk and line.
    """

    how: str
    fuzz: int = 0
    offsets: int = 0
    error: str = ""
    details: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LostObject:
    """One thing for which there is no kernel.

    Attributes:
        object: the object of built-in code that does not compile; "" where make or the linker stopped.
        file, line: the place in the tree, as far as it is known.
    """

    object: str
    file: str
    line: int
    text: str

    def __str__(self) -> str:
        """Return it as compilers print it."""
        place = f"{self.file}:{self.line}: " if self.line else f"{self.file}: " if self.file else ""
        return f"{place}{self.text}"


@dataclass(frozen=True, slots=True)
class PatchBuild:
    """What make came to with the patch, in an object directory that the patch before left.

    Attributes:
        faults: why there is no kernel: every object that does not compile, or what make says; empty where there is one.
        modules: every module that cannot be used.
        rebuilt: objects that make compiled again, `compiled` those that the compiler cache did not have,
            `total` those that the kernel has.
        config: symbols that came out otherwise than before the patch, as "FOO=m, was n".
        unseen: files that the patch changes and that this configuration does not compile.
        deleted: files that the patch takes away.
    """

    faults: tuple[LostObject, ...] = ()
    modules: tuple[ModuleFailure, ...] = ()
    rebuilt: int = 0
    compiled: int = 0
    total: int = 0
    duration_s: float = 0.0
    config: tuple[str, ...] = ()
    unseen: tuple[str, ...] = ()
    deleted: tuple[str, ...] = ()

    @property
    def error(self) -> str:
        """The first reason why there is no kernel, "" where there is one."""
        return self.faults[0].text if self.faults else ""


@dataclass(frozen=True, slots=True)
class Looked:
    """What one check says of one patch.

    Attributes:
        check: "W=1", "sparse", "checkpatch", "allmodconfig", "coccicheck".
        new: what is there with the patch and is not without it.
        gone: the other way round.
        skipped: why it was not looked at; everything else is then empty.
        notes: what a reader has to know to trust the answer.
        objects: objects compiled for it, before and after the patch.
    """

    check: str
    new: tuple[Finding, ...] = ()
    gone: tuple[Finding, ...] = ()
    skipped: str = ""
    notes: tuple[str, ...] = ()
    objects: int = 0
    duration_s: float = 0.0


@dataclass(frozen=True, slots=True)
class PatchResult:
    """One patch; number 0 is the tree without any.

    Attributes:
        key: content key of this patch and all before it on this tree and configuration.
        stored: whether it was known from an earlier walk.
        scenarios: scenario -> outcome of its worst job, where scenarios were run.
    """

    number: int
    title: str
    name: str
    key: str
    applied: Applied
    files: tuple[str, ...] = ()
    built: PatchBuild | None = None
    looked: tuple[Looked, ...] = ()
    scenarios: dict[str, str] = field(default_factory=dict)
    stored: bool = False

    @property
    def duration_s(self) -> float:
        """What it took."""
        return (self.built.duration_s if self.built else 0.0) + sum(look.duration_s for look in self.looked)

    def look(self, check: str) -> Looked | None:
        """Return what a check says, None where it was not asked."""
        return next((look for look in self.looked if look.check == check), None)


@dataclass(frozen=True, slots=True)
class Walk:
    """A whole walk, finished or interrupted.

    Attributes:
        patches: in the order in which they apply; the first is the tree without any.
        checks: checks that were asked for, in the order of the table.
        base: what the tree is, in words.
        run: id of the run that has the scenarios' results, "" for none.
        notes: what holds for the series as a whole.
    """

    kernel: str
    base: str
    series: str
    compiler: str
    checks: tuple[str, ...]
    patches: tuple[PatchResult, ...]
    started: str
    duration_s: float
    complete: bool
    run: str = ""
    notes: tuple[str, ...] = ()
    command: str = ""
    version: str = ""
