"""One run as a report reads it."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

from kpatchlab.cache import Cache
from kpatchlab.files import is_safe
from kpatchlab.maintainers import NAME, Section, parse
from kpatchlab.model import Run
from kpatchlab.textclean import clean
from kpatchlab.verdict.compare import compare
from kpatchlab.verdict.values import Comparison

NO_MAINTAINERS = "--maintainers FILE names that of a kernel tree"
"""What a user can do where none is at hand."""


@dataclass(frozen=True)
class View:
    """One stored run with all that a report may ask for; what is costly is made when it is first asked for, and once.

    Attributes:
        folder: where the files are that the run's relative paths name.
        maintainers: files that may be the tree's MAINTAINERS; the first that can be read counts.
        subsystem: title of a section of MAINTAINERS: the report is for its maintainers; "" for everybody.
    """

    run: Run
    folder: Path
    maintainers: tuple[Path, ...] = ()
    subsystem: str = ""

    def __post_init__(self) -> None:
        """Clean the run: what a guest or a patch says in it reaches no report as a control character."""
        object.__setattr__(self, "run", clean(self.run))  # frozen for everybody else

    @functools.cached_property
    def comparison(self) -> Comparison:
        """What the run says of its columns."""
        return compare(self.run)

    @functools.cached_property
    def sections(self) -> tuple[Section, ...]:
        """What is known of the tree's MAINTAINERS; () if nothing."""
        for path in self.maintainers:
            try:
                return parse(path.read_bytes())
            except OSError:
                continue
        return ()


def maintainers_of(run: Run, folder: Path, cache: Cache) -> tuple[Path, ...]:
    """Return where a run's MAINTAINERS may be: in its folder, else with its kernels."""
    return (folder / NAME, *(cache.path("kernel", build.key) / NAME for build in run.builds if is_safe(build.key)))
