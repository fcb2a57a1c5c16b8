"""The programs that were built for a guest, or why they were not, and what building them needs of this host."""

from __future__ import annotations

from dataclasses import dataclass

from kpatchlab import proc
from kpatchlab.host import packages
from kpatchlab.model import Outcome


@dataclass(frozen=True, slots=True)
class Programs:
    """What one name led to: an artifact with the folder `programs` where the outcome is PASS, else why there is none.

    The outcome is SKIP for what host or source lack, BLOCKED for what does not compile.
    """

    outcome: Outcome
    kind: str = ""
    key: str = ""
    reason: str = ""
    cached: bool = False


class Unbuilt(Exception):
    """There are no such programs; becomes a `Programs`."""

    def __init__(self, outcome: Outcome, reason: str) -> None:
        super().__init__(reason)
        self.outcome, self.reason = outcome, reason


def check_host(stage: str) -> None:
    """Raise Unbuilt where the host lacks packages of an optional stage."""
    if lacking := packages.missing((stage,)):
        names = " ".join(item.package for item in lacking)
        raise Unbuilt(Outcome.SKIP, f"this host lacks what it is built with (apt-get install {names})")


def version_of(tool: str) -> str:
    """Return the first line of `TOOL --version`."""
    return (proc.run([tool, "--version"], timeout_s=60).stdout.splitlines() or [tool])[0]
