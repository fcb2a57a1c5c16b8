"""A search on disk: its question and all its runs, written after every run, so that a kill costs one run.

Layout: `results/bisect/ID/state.json`, and beside it `runs/` (a store of its own, one run a step, with consoles),
`report.txt`, `mail.txt` and `git-bisect.log` at the end.
"""

from __future__ import annotations

import enum
import json
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from kpatchlab.bisect.commits import NamedCommit
from kpatchlab.bisect.criterion import Criterion
from kpatchlab.bisect.loop import ProbeResult
from kpatchlab.errors import LabError, UserError
from kpatchlab.files import write_atomic
from kpatchlab.jsonable import from_json, to_json

FILE = "state.json"
VERSION = 1
LAST = "last"


class Ended(enum.StrEnum):
    """How a search ended."""

    NOT = ""  # it goes on, or can
    FOUND = "found"  # one commit, and proven
    SUSPECTS = "suspects"  # as far as it can be told
    REFUSED = "refused"  # there is nothing to search for: the ends do not differ


@dataclass(frozen=True, slots=True)
class Question:
    """What is searched, and where; all names are resolved, so that a branch that moves does not matter.

    Attributes:
        kernel: the lab's kernel whose configuration (and series) is used.
        repository: the git repository's path; "" for the patches of the kernel's series.
        series: what stands in the place of the recipe's own series, as a recipe has it.
        good / bad: commit ids; good_name / bad_name: as the user said them.
        placement: role -> kernel of the lab, for roles that are not to run what is searched.
        runs: of each end and of the proof, at least.
        variant: of the lab's kernels.
        whole: whether each step has all modules of the configuration, also those that the criterion does not need.
        mode: in which figures are taken, as `measure` has it: "instructions" or "time".
        candidates: commits that are run side by side; 0: as many as there is room for, where that is quicker.
    """

    kernel: str
    criterion: Criterion
    good: str = ""
    bad: str = ""
    good_name: str = ""
    bad_name: str = ""
    repository: str = ""
    series: tuple[dict[str, str], ...] = ()
    paths: tuple[str, ...] = ()
    placement: dict[str, str] = field(default_factory=dict)
    confidence: float = 0.95
    runs: int = 3
    lab: str = ""
    variant: str = ""
    whole: bool = False
    mode: str = ""
    candidates: int = 0
    command: str = ""


@dataclass(frozen=True, slots=True)
class Kernel:
    """A commit's kernel: its key in the cache, and the digest of its objects."""

    key: str
    digest: str = ""


@dataclass(slots=True)
class SearchState:
    """A search: `told` in the order of time.

    Attributes:
        kernels: commit -> its kernel.
        config: what decides about the configuration of each step, beside its tree, as a content key.
        trimmed: symbols that are left out of each step's configuration; None: not decided yet.
        reverted: the verdict on the bad end without the culprit, in words.
        ended: how; `report.txt` tells it at length, `summary.conclusion` in one line.
        culprit: of a search that has ended: the commit that it is; None where several can be, or none is named.
        suspects: likewise: all that it can be, the culprit among them.
        reason: likewise: why no commit is named, "" where one is.
    """

    id: str
    question: Question
    told: tuple[ProbeResult, ...] = ()
    kernels: dict[str, Kernel] = field(default_factory=dict)
    sought: tuple[str, ...] = ()
    config: str = ""
    trimmed: tuple[str, ...] | None = None
    reverted: str = ""
    ended: Ended = Ended.NOT
    culprit: NamedCommit | None = None
    suspects: tuple[NamedCommit, ...] = ()
    reason: str = ""
    started: str = ""
    version: int = VERSION


class Searches:
    """All searches below one results directory."""

    def __init__(self, results: Path) -> None:
        self.root = results / "bisect"

    def new(self, question: Question) -> tuple[SearchState, Path]:
        """Make the folder of a new search."""
        now = datetime.now(UTC)
        state = SearchState(
            f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}", question, started=now.isoformat(timespec="seconds")
        )
        folder = self.root / state.id
        save(state, folder)
        return state, folder

    def ids(self) -> list[str]:
        """Return the ids of all searches, oldest first."""
        return sorted(path.parent.name for path in self.root.glob(f"*/{FILE}"))

    def open(self, wanted: str) -> tuple[SearchState, Path]:
        """Read a search: an id, the start or the end of one, or "last".

        Raises:
            UserError: none or several fit.
            LabError: it cannot be read.
        """
        known = self.ids()
        fits = known[-1:] if wanted == LAST else [n for n in known if n.startswith(wanted) or n.endswith(f"-{wanted}")]
        if len(fits) != 1:
            raise UserError(
                f"{wanted!r} fits {len(fits)} searches", hint=f"there are {', '.join(known[-5:]) or 'none so far'}"
            )
        folder = self.root / fits[0]
        try:
            state = from_json(SearchState, json.loads((folder / FILE).read_bytes()))
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise LabError(f"cannot read {folder / FILE}: {error}") from None
        if state.version > VERSION:
            raise UserError(f"search {state.id} was made by a newer kpatchlab")
        return state, folder


def save(state: SearchState, folder: Path) -> None:
    """Write a search, atomically."""
    write_atomic(folder / FILE, json.dumps(to_json(state), indent=1).encode() + b"\n")
