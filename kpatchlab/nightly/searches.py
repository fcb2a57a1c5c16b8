"""A night's searches for what broke it, within their time; goes on with one that a killed night had begun."""

from __future__ import annotations

import contextlib
import shlex
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kpatchlab.bisect.criterion import Criterion
from kpatchlab.bisect.request import Request
from kpatchlab.bisect.session import SearchSession, SearchStopped
from kpatchlab.bisect.state import Searches, SearchState
from kpatchlab.bisect.summary import conclusion
from kpatchlab.errors import HostError, LabError, told
from kpatchlab.history.culprit import SearchCommand, Sought
from kpatchlab.host.host import Host
from kpatchlab.lab.load import Lab
from kpatchlab.nightly.night import Watched
from kpatchlab.progress import clock
from kpatchlab.run.stages import Settings
from kpatchlab.variants import debug

WATCH_S = 0.2
"""How often a search's time is looked at."""


@dataclass(frozen=True, slots=True)
class NightSearches:
    """Searches in the night's own process, one after the other.

    Attributes:
        lab: as its file has it.
        settings: the night's; what ends the night ends a search too, which the next night then goes on with.
    """

    lab: Lab
    host: Host
    settings: Settings
    progress: Watched

    def __call__(self, search: SearchCommand, command: str, seconds: float, night: str, /) -> str:
        """Look for a commit, and return what it came to in one line.

        Args:
            command: the command line that looks for the same.
            seconds: after which it is stopped.
            night: id of the night that asks: a search for the same that it began before it was killed is gone on with,
                and one that is at its end is not begun again.

        Raises:
            HostError: it did not end in time.
            LabError: it could not be done; whatever was wrong, the night goes on.
        """
        begun = _begun(Searches(self.lab.results), command, night)
        if begun and begun.ended:
            return conclusion(begun)
        with _limited(self.settings, seconds) as cancel, self.progress() as progress:
            try:
                lab = debug.variant(self.lab, search.variant) if search.variant else self.lab
                settings = Settings(command=command, cancel=cancel, verbose=self.settings.verbose)
                session = SearchSession(lab, self.host, progress, settings)
                state = session.go_on(begun.id) if begun else session.begin(request_of(search, command))
            except LabError as error:
                if not cancel.is_set() or self.settings.cancel.is_set():
                    raise
                words = f"not found within {clock(seconds)}"
                if isinstance(error, SearchStopped):
                    words += f"; it can go on: kpatchlab bisect --resume {error.search}"
                raise HostError(words) from error
            except Exception as error:
                raise LabError(told(error), details=tuple(traceback.format_exc().splitlines())) from error
        return conclusion(state)


def request_of(search: SearchCommand, command: str) -> Request:
    """Return what a night's search asks for; it has somewhere to search."""
    where = search.where
    assert where
    return Request(
        criterion=_criterion(search.sought),
        kernel=search.kernel,
        tree=Path(where.tree) if where.tree else None,
        series=where.series,
        good=where.good,
        bad=where.bad,
        variant=search.variant,
        command=command,
    )


def _criterion(sought: Sought) -> Criterion:
    kinds = {"splat": sought.fingerprint, "build": sought.build, "metric": sought.metric}
    return Criterion(
        kind=next((kind for kind, wanted in kinds.items() if wanted), "case"),
        scenarios=(sought.scenario,) if sought.scenario else (),
        params=dict(pair.partition("=")[::2] for pair in sought.params),
        case=sought.case,
        case_kind=sought.case_kind,
        fingerprint=sought.fingerprint,
        module=sought.module,
        metric=sought.metric,
        bound=sought.bound,
    )


@contextlib.contextmanager
def _limited(settings: Settings, seconds: float) -> Iterator[threading.Event]:
    """Yield what is set when the night is to end, or when the time is up."""
    cancel, done = threading.Event(), threading.Event()
    end = time.monotonic() + seconds

    def watch() -> None:
        while not done.wait(WATCH_S):
            if settings.cancel.is_set() or time.monotonic() > end:
                cancel.set()
                return

    watcher = threading.Thread(target=watch, name="search", daemon=True)
    watcher.start()
    try:
        yield cancel
    finally:
        done.set()
        watcher.join()


def _begun(searches: Searches, command: str, night: str) -> SearchState | None:
    """Return the last search for what a command line asks that began in a night, None where there is none."""
    words = shlex.split(command)[1:]
    for name in reversed(searches.ids()):
        if name < night:  # both begin with when they were made
            break
        with contextlib.suppress(LabError):  # of a newer version, or damaged: another one takes its place
            state, _ = searches.open(name)
            if shlex.split(state.question.command)[1:] == words:
                return state
    return None
