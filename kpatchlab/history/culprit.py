"""The search for what broke a check between two runs, with its command line, or the reason why there is none.

What can be searched depends on what a kernel is made of, which the night wrote into the run's entry (`lanes.pin`):
commits of a repository on this host; the patches of a kernel that has a series; and of an archive, a Debian package
or a URL nothing, since only single versions of it are here.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from kpatchlab.history.query import Entry
from kpatchlab.history.record import BUILD
from kpatchlab.model import CaseKind

Head = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Where:
    """Where a search looks: between commits of a repository, or in a series, whose ends are numbers of patches.

    Attributes:
        tree: the repository's path; "" for a series.
        series: an mbox, a folder or a message-id; "" for the kernel's own.
    """

    tree: str = ""
    series: str = ""
    good: str = ""
    bad: str = ""

    @property
    def words(self) -> tuple[str, ...]:
        """The options of `bisect` that mean it."""
        given = {"--tree": self.tree, "--series": self.series, "--good": self.good, "--bad": self.bad}
        return tuple(word for name, value in given.items() if value for word in (name, value))

    @classmethod
    def read(cls, text: str) -> Where:
        """Read what `words` are when a shell's words are made of them, as a run's entry has it."""
        words = shlex.split(text)
        return cls(**{name.removeprefix("--"): value for name, value in zip(words[::2], words[1::2], strict=True)})


@dataclass(frozen=True, slots=True)
class Sought:
    """What a search seeks: a case, a kernel report, a build error or a figure; nothing of them: any case that fails.

    Attributes:
        scenario: "" for a build error, which shows without any.
        params: `NAME=VALUE`, those that a job must have.
        build: a build error; `module`: of this module, "": of the kernel or of any.
        bound: ratio to the good end from which on a figure is worse.
    """

    scenario: str = ""
    params: tuple[str, ...] = ()
    case: str = ""
    case_kind: CaseKind | None = None
    fingerprint: str = ""
    build: bool = False
    module: str = ""
    metric: str = ""
    bound: float = 0.0

    @property
    def words(self) -> tuple[str, ...]:
        """The options of `bisect` that mean it."""
        bound = f"{self.bound:.4g}" if self.metric else ""
        given = [("--scenario", self.scenario), *(("--param", pair) for pair in self.params), ("--case", self.case)]
        given += [("--splat", self.fingerprint), ("--metric", self.metric), ("--bound", bound)]
        named = tuple(word for name, value in given if value for word in (name, value))
        return (*named, *(["--build"] if self.build else []), *(["--module", self.module] if self.module else []))


@dataclass(frozen=True, slots=True)
class SearchCommand:
    """A search that looks for what broke it, else the reason why there is none.

    Attributes:
        where: None where there is nothing to search.
        kernel: whose configuration (and series) is used; variant: of the lab's kernels, "" for these themselves.
        moved: the kernel whose commits are searched, "" where it is patches or nothing.
    """

    where: Where | None = None
    kernel: str = ""
    variant: str = ""
    sought: Sought = field(default_factory=Sought)
    reason: str = ""
    moved: str = ""

    @property
    def words(self) -> tuple[str, ...]:
        """The words after the program's name that do it; () where there is nothing to search."""
        if self.where is None:
            return ()
        own = ("--kernel", self.kernel, *(["--variant", self.variant] if self.variant else []))
        return ("bisect", *self.where.words, *own, *self.sought.words)


def by_case(subject: str, name: str, kind: CaseKind = CaseKind.CHECK) -> Sought:
    """Return what means one check; one of the lab's that sums up others means any that fails in the job."""
    if subject == BUILD:
        return Sought(build=True, module=name.removeprefix("module ") if name.startswith("module ") else "")
    return _scenario(subject) if kind.sums_up else replace(_scenario(subject), case=name, case_kind=kind)


def by_splat(subject: str, fingerprint: str) -> Sought:
    """Return what means a kernel report in a scenario."""
    return replace(_scenario(subject), fingerprint=fingerprint)


def by_metric(subject: str, name: str, change: float) -> Sought:
    """Return what means a figure which changed by so much, 0.05 being 5 %.

    What counts as bad is half way, in factors, from the good level to the bad one.
    """
    factor = abs(math.log(max(1 + change, 1e-3)))
    bound = float(f"{max(math.exp(factor / 2), 1.001):.4g}")
    return replace(_scenario(subject), metric=name, bound=bound)


def _scenario(subject: str) -> Sought:
    name, _, pairs = subject.partition("[")
    return Sought(name, tuple(pair for pair in pairs.rstrip("]").split(",") if pair))


def search(old: Entry | None, new: Entry, column: str, sought: Sought) -> SearchCommand:
    """Return where to look for what came between two runs in one column.

    Args:
        old: the last run in which it was good; None where there is none, which leaves patches alone.
        sought: see `by_case`, `by_splat`, `by_metric`.
    """
    reasons = []
    for name in _kernels(new, column, beside=bool(sought.metric)):
        found = _of_kernel(name, old.heads.get(name, {}) if old else None, new.heads[name])
        if found.where:
            return replace(found, kernel=name, variant=new.heads[name].get("variant", ""), sought=sought)
        reasons.append(found.reason)
    return SearchCommand(reason="; ".join(dict.fromkeys(filter(None, reasons))))


def _kernels(new: Entry, column: str, *, beside: bool) -> list[str]:
    """Return the kernels that a column is made of; figures are compared with those beside them as well."""
    own = {part.rpartition("=")[2] for part in column.split(",")}
    found = [name for name in new.heads if name in own]
    # Of a mixed pair the kernel under test first, which is not the first one of a lab.
    return found[::-1] + [name for name in new.heads if beside and name not in own]


def _of_kernel(name: str, old: Head | None, new: Head) -> SearchCommand:
    if old and old.get("key") and old.get("key") == new.get("key"):
        return _none(f"{name} is the same kernel in both runs: what changed is a scenario, a root or the host")
    if new.get("patches"):
        return SearchCommand(Where.read(new["patches"]))
    if new.get("no_patches"):
        return _none(new["no_patches"])
    if not old or not new.get("source"):
        return SearchCommand()
    source = new["source"]
    if not (old.get("commit") and new.get("commit")) or old.get("source") != source:
        what = source if old.get("source") == source else f"{old.get('source') or 'something else'}, then {source}"
        return _none(f"{name} comes from {what}: no commits lie between two versions of it, and it has no series")
    if old["commit"] == new["commit"]:
        return _none(f"{name} is made of the same commit in both runs: its configuration or compiler changed")
    ends = Where(good=old["commit"][:12], bad=new["commit"][:12])
    if not source.startswith("/"):
        words = " ".join(ends.words)
        return _none(f"no history of {source} is kept here: in a clone of it, bisect --tree CLONE {words}")
    return SearchCommand(replace(ends, tree=source), moved=name)


def _none(reason: str) -> SearchCommand:
    return SearchCommand(reason=reason)


def commit_range(before: Entry | None, after: Entry) -> dict[str, str]:
    """Return kernel -> `OLD..NEW` for what moved between two runs."""
    found = {}
    for kernel, head in after.heads.items():
        old, new = (before.heads.get(kernel, {}) if before else {}).get("commit"), head.get("commit")
        if old and new and old != new:
            found[kernel] = f"{old[:12]}..{new[:12]}"
    return found
