"""Where to look for what broke a check between two runs: a ready command line of `bisect`, or why there is none.

What can be searched depends on what a kernel is made of, which the night wrote into the run's entry (`lanes.pin`):
commits of a repository on this host; the patches of a kernel that has a series; and of an archive, a Debian package
or a URL nothing, since only single versions of it are here.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kpatchlab.history.query import Entry
from kpatchlab.history.record import BUILD
from kpatchlab.model import CaseKind

Head = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class SearchCommand:
    """The words after the program's name that look for it, else the reason why there are none.

    Attributes:
        moved: the kernel whose commits are searched, "" where it is patches or nothing.
    """

    words: tuple[str, ...] = ()
    reason: str = ""
    moved: str = ""


def by_case(subject: str, name: str, kind: CaseKind = CaseKind.CHECK) -> list[str]:
    """Return the options that mean one check; one of the lab's that sums up others means any that fails in the job."""
    if subject == BUILD:
        return ["--build", *(["--module", name.removeprefix("module ")] if name.startswith("module ") else [])]
    return [*_scenario(subject), *([] if kind.sums_up else ["--case", name])]


def by_splat(subject: str, fingerprint: str) -> list[str]:
    """Return the options that mean a kernel report in a scenario."""
    return [*_scenario(subject), "--splat", fingerprint]


def by_metric(subject: str, name: str, change: float) -> list[str]:
    """Return the options that mean a figure which changed by so much, 0.05 being 5 %.

    What counts as bad is half way, in factors, from the good level to the bad one.
    """
    factor = abs(math.log(max(1 + change, 1e-3)))
    return [*_scenario(subject), "--metric", name, "--bound", f"{max(math.exp(factor / 2), 1.001):.4g}"]


def _scenario(subject: str) -> list[str]:
    words = ["--scenario", subject.partition("[")[0]]
    for pair in subject.partition("[")[2].rstrip("]").split(","):
        words += ["--param", pair] if pair else []
    return words


def search(old: Entry | None, new: Entry, column: str, criterion: Sequence[str]) -> SearchCommand:
    """Return where to look for what came between two runs in one column.

    Args:
        old: the last run in which it was good; None where there is none, which leaves patches alone.
        criterion: what is sought, see `by_case`, `by_splat`, `by_metric`.
    """
    reasons = []
    for name in _kernels(new, column, beside="--metric" in criterion):
        found = _of_kernel(name, old.heads.get(name, {}) if old else None, new.heads[name])
        if found.words:
            variant = new.heads[name].get("variant", "")
            own = ["--kernel", name, *(["--variant", variant] if variant else [])]
            return SearchCommand(("bisect", *found.words, *own, *criterion), "", found.moved)
        reasons.append(found.reason)
    return SearchCommand((), "; ".join(dict.fromkeys(filter(None, reasons))))


def _kernels(new: Entry, column: str, *, beside: bool) -> list[str]:
    """Return the kernels that a column is made of; figures are compared with those beside them as well."""
    own = {part.rpartition("=")[2] for part in column.split(",")}
    found = [name for name in new.heads if name in own]
    # Of a mixed pair the kernel under test first, which is not the first one of a lab.
    return found[::-1] + [name for name in new.heads if beside and name not in own]


def _of_kernel(name: str, old: Head | None, new: Head) -> SearchCommand:
    if old and old.get("key") and old.get("key") == new.get("key"):
        return SearchCommand(
            (), f"{name} is the same kernel in both runs: what changed is a scenario, a root or the host"
        )
    if new.get("patches"):
        return SearchCommand(tuple(shlex.split(new["patches"])))
    if new.get("no_patches"):
        return SearchCommand((), new["no_patches"])
    if not old or not new.get("source"):
        return SearchCommand()
    source = new["source"]
    if not (old.get("commit") and new.get("commit")) or old.get("source") != source:
        what = source if old.get("source") == source else f"{old.get('source') or 'something else'}, then {source}"
        return SearchCommand(
            (), f"{name} comes from {what}: no commits lie between two versions of it, and it has no series"
        )
    ends = ("--good", old["commit"][:12], "--bad", new["commit"][:12])
    if old["commit"] == new["commit"]:
        return SearchCommand(
            (), f"{name} is made of the same commit in both runs: its configuration or compiler changed"
        )
    if not source.startswith("/"):
        return SearchCommand(
            (), f"no history of {source} is kept here: in a clone of it, bisect --tree CLONE {' '.join(ends)}"
        )
    return SearchCommand(("--tree", source, *ends), "", name)


def commit_range(before: Entry | None, after: Entry) -> dict[str, str]:
    """Return kernel -> `OLD..NEW` for what moved between two runs."""
    found = {}
    for kernel, head in after.heads.items():
        old, new = (before.heads.get(kernel, {}) if before else {}).get("commit"), head.get("commit")
        if old and new and old != new:
            found[kernel] = f"{old[:12]}..{new[:12]}"
    return found
