"""The plan of a run, and how to carry it out: stored as `plan.json` in the run's folder, so that it can go on later."""

from __future__ import annotations

import enum
import json
import shlex
from dataclasses import dataclass, field
from pathlib import Path

from kpatchlab.errors import LabError, UserError
from kpatchlab.files import read_input
from kpatchlab.history.record import Origin
from kpatchlab.jsonable import from_json
from kpatchlab.textclean import one_line

FILE = "plan.json"


class RunKind(enum.StrEnum):
    """The verb that made a run."""

    RUN = "run"
    MEASURE = "measure"
    COVERAGE = "coverage"
    SERIES = "series"
    PLANTS = "plants"
    NIGHT = "nightly"
    BISECT = "bisect"
    IMPORT = "import"

    @property
    def resumed_by(self) -> str:
        """The verb that goes on with a run of this kind (`VERB --resume RUN`), "" where none does."""
        return {RunKind.RUN: "run", RunKind.NIGHT: "run", RunKind.MEASURE: "measure"}.get(self, "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What a measurement takes, and how; see `run.measure`.

    Attributes:
        mode: "instructions" or "time".
        base: the kernel that the others are compared with.
        kernels: names of all of them, the base's among them.
        scenarios: names of the benchmarks.
        first: repeats that are run before anything is asked.
        budget_s: seconds in which figures that say nothing yet are repeated; 0: nothing is repeated.
    """

    mode: str
    base: str
    kernels: tuple[str, ...]
    scenarios: tuple[str, ...]
    first: int
    budget_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlan:
    """What a run is to do, and how.

    Attributes:
        jobs: ids of the jobs that it begins with; none: it was stopped before it had any.
        guest: "fork" for saved guests, "vng" for virtme-ng on the host's own root.
        variant: of the lab's kernels, "" for these themselves.
        broken: scenarios are told to send something wrong, which they have to see.
        trace: calls of the functions that the series change are counted.
        images: scenarios run on images of their kernels where they can, see `plan.images`.
        measurement: what it takes, beyond the jobs that it begins with; None for all other runs.
        origin: where it stands in the history, see `place`.
    """

    jobs: tuple[str, ...] = ()
    kind: RunKind = RunKind.RUN
    guest: str = "fork"
    variant: str = ""
    broken: bool = False
    trace: bool = True
    images: bool = False
    measurement: Measurement | None = None
    origin: Origin = field(default_factory=Origin)

    def __post_init__(self) -> None:
        if (self.kind is RunKind.MEASURE) != (self.measurement is not None):
            raise ValueError(f"a run of `{self.kind}` {'has' if self.measurement else 'lacks'} a measurement")

    @property
    def place(self) -> Origin | None:
        """Where the run stands in the history; None for one that is broken on purpose, which has no place in it."""
        return None if self.broken else self.origin

    @property
    def options(self) -> str:
        """The options of `run` that mean the same, each with a blank behind it; ready for a shell."""
        words = ["--variant", self.variant] if self.variant else []
        words += ["--guest", self.guest] if self.guest != "fork" else []
        words += ["--break"] if self.broken else []
        words += [] if self.trace else ["--no-trace"]
        return "".join(f"{shlex.quote(word)} " for word in words)


def load_plan(folder: Path) -> RunPlan:
    """Read the plan of the run in a folder, of any earlier version too; one without jobs where none is stored.

    Raises:
        LabError: the file is damaged.
    """
    path = folder / FILE
    try:
        stored = json.loads(read_input(path)) if path.exists() else {}
        # Earlier versions wrote null where there was no variant, and left out what was as usual.
        given = {name: value for name, value in stored.items() if value is not None}
        return from_json(RunPlan, given)
    except (UserError, OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise LabError(f"cannot read {path}: {one_line(str(error))}", hint="delete the whole run") from None
