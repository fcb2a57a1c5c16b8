"""A request for a search, made into a question whose names are all resolved."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from kpatchlab.bisect import from_run, gitlog
from kpatchlab.bisect.criterion import Criterion, check
from kpatchlab.bisect.gitlog import Replayed
from kpatchlab.bisect.state import Question
from kpatchlab.errors import UserError
from kpatchlab.lab.load import Lab
from kpatchlab.lab.recipes import GitSource, locate
from kpatchlab.store.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A search as somebody asks for it; what is left empty is found in the lab.

    Attributes:
        criterion: what is sought; a run says it instead where one is named.
        run: a stored run that showed it; case: what failed in it.
        kernel: whose configuration is used; "": the base's.
        tree: the repository that is searched; good and bad: revisions in it.
        series: patches that are searched: an mbox, a folder, or a message-id; good and bad: numbers of them.
        paths: only commits that touch one of them.
        replay: a log of git's to begin with.
        variant: of the lab's kernels, which is the lab's already.
        runs, confidence, candidates, mode, whole: see `state.Question`.
        command: the command line that asks, for the record.
    """

    criterion: Criterion
    run: str = ""
    case: str = ""
    kernel: str = ""
    tree: Path | None = None
    series: str = ""
    good: str = ""
    bad: str = ""
    paths: tuple[str, ...] = ()
    replay: Path | None = None
    variant: str = ""
    runs: int = 3
    confidence: float = 0.95
    candidates: int = 0
    mode: str = ""
    whole: bool = False
    command: str = ""


@dataclass(frozen=True, slots=True)
class _Where:
    """Repository (or series) and ends, as `state.Question` has them."""

    good: str
    bad: str
    tree: Path | None = None
    series: tuple[dict[str, str], ...] = ()


def question(lab: Lab, request: Request) -> Question:
    """Return what is asked, with the names of both ends as they were given.

    Raises:
        UserError: there is no such run, case, kernel or scenario, or nothing says where to search.
    """
    criterion, kernel = request.criterion, request.kernel or lab.base
    base, placement = lab.base, dict[str, str]()
    if request.run:
        if not request.case:
            raise UserError("which case of the run?", hint="kpatchlab bisect RUN CASE; report RUN shows what failed")
        stored, _ = Store(lab.results).load(request.run)
        found = from_run.find(stored, request.case)
        criterion, kernel, placement, base = found.criterion, found.kernel, found.placement, found.base
    if kernel not in lab.kernels:
        raise UserError(f"there is no kernel {kernel}", hint=f"there are {', '.join(lab.kernels)}")
    check(criterion, lab.scenarios)
    if request.replay:
        request = _replayed(request, replayed(request.replay))
    where = _where(lab, request, kernel, base)
    return Question(
        kernel=kernel,
        criterion=criterion,
        good_name=where.good,
        bad_name=where.bad,
        repository=str(where.tree) if where.tree else "",
        series=where.series,
        paths=request.paths,
        placement=placement,
        confidence=request.confidence,
        runs=request.runs,
        lab=str(lab.path),
        variant=request.variant,
        whole=request.whole,
        candidates=request.candidates,
        mode=_mode(lab, criterion, request.mode),
        command=request.command,
    )


def replayed(path: Path) -> Replayed:
    """Read a log of git's.

    Raises:
        UserError: it is none.
    """
    return gitlog.read(path.read_text(), str(path))


def _replayed(request: Request, log: Replayed) -> Request:
    """Return the request with what it leaves open as the log has it."""
    return replace(
        request, good=request.good or log.good[0], bad=request.bad or log.bad[0], paths=request.paths or log.paths
    )


def _mode(lab: Lab, criterion: Criterion, wanted: str) -> str:
    """Return in which mode figures are taken, "" where none are."""
    if criterion.kind != "metric":
        return ""
    alone = all(len(lab.scenario(name).roles) == 1 for name in lab.choose(criterion.scenarios))
    if wanted == "instructions" and not alone:
        raise UserError("two guests have two clocks that count instructions", hint="--mode time measures them")
    return wanted or ("instructions" if alone else "time")


def _where(lab: Lab, request: Request, kernel: str, base: str) -> _Where:
    """Return where to search: as the request says, else as the kernels' own recipes do."""
    good, bad = request.good, request.bad
    if request.series:
        return _Where(good or "0", bad, series=(_series_item(request.series),))
    if request.tree:
        if not good or not bad:
            raise UserError("--good and --bad name both ends of the range")
        return _Where(good, bad, request.tree.expanduser().absolute())
    own, other = lab.kernels[kernel].source, lab.kernels[base].source
    if lab.kernels[kernel].series:
        return _Where(good or "0", bad)
    if isinstance(own, GitSource) and own.path:
        if isinstance(other, GitSource) and other.path == own.path:
            good = good or other.revision
        if good:
            return _Where(good, bad or own.revision, locate(own.path, lab.root))
    raise UserError(
        f"nothing says where to search: kernel {kernel} has no series",
        hint="--tree PATH --good REV --bad REV, or --series MBOX",
    )


def _series_item(text: str) -> dict[str, str]:
    path = Path(text).expanduser().absolute()
    if path.is_dir():
        return {"type": "quilt" if (path / "series").exists() else "patches", "path": str(path)}
    if path.exists():
        return {"type": "mbox", "path": str(path)}
    if "@" in text:
        return {"type": "message-id", "id": text.strip("<>")}
    raise UserError(f"{text}: no such file or folder, and no message-id")
