"""A work tree of the lab's own, in its cache, in which commits are checked out one after the other.

The user's repository is only read: its objects are borrowed (git's alternates), its refs, index and work tree are
never touched. A series becomes commits on top of its base, here and nowhere else. The tree stays where it is from one
search to the next, so that its object directory is warm.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kpatchlab import proc
from kpatchlab.bisect import commits
from kpatchlab.bisect.commits import CommitRange
from kpatchlab.build import git, patchset, source
from kpatchlab.build.context import BuildContext
from kpatchlab.build.gitview import ATTRIBUTES
from kpatchlab.build.origin import Source
from kpatchlab.build.spec import STRANGERS, WORK_TREES
from kpatchlab.build.trees import OBJECTS
from kpatchlab.cache import content_key
from kpatchlab.errors import HostError, UserError
from kpatchlab.lab.recipes import KernelRecipe

LOG_S = 600.0
OLDER_NS = 1_000_000_000  # some file systems keep whole seconds
_BASE = "refs/kpatchlab/base"
_IDENTITY = {
    "GIT_CONFIG_GLOBAL": "/dev/null",  # no hooks, no signatures, no line endings of the user's
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "kpatchlab",
    "GIT_AUTHOR_EMAIL": "kpatchlab@localhost",
    "GIT_COMMITTER_NAME": "kpatchlab",
    "GIT_COMMITTER_EMAIL": "kpatchlab@localhost",
    # always the same date: a series that is applied once more has the same commits
    "GIT_AUTHOR_DATE": "2020-01-01T00:00:00Z",
    "GIT_COMMITTER_DATE": "2020-01-01T00:00:00Z",
}


@dataclass(frozen=True, slots=True)
class Workspace:
    """The work tree at `path`; `origin` is the repository that its commits come from, None for an imported tree."""

    path: Path
    ctx: BuildContext
    origin: git.Repository | None = None

    def git(self, *words: str, check: bool = True) -> str:
        """Run git in the work tree; returns its output, "" where it failed and `check` is off."""
        result = git.Repository(self.path).git(
            "-c", "advice.detachedHead=false", "-c", "checkout.workers=0", "-c", "gc.auto=0", *words,
            timeout_s=git.NETWORK_S, check=check, env=_IDENTITY, cancel=self.ctx.cancel,
        )  # fmt: skip
        self.ctx.check_cancel()
        return result.stdout.strip() if result.status == 0 else ""

    def checkout(self, commit: str) -> None:
        """Bring the work tree to a commit; only files that differ are written, so that make sees only these.

        Objects from the future, as a clock that was set back leaves them, are dated back first: make goes by times
        alone, and would take them for this commit's.
        """
        for objects in self.path.glob(f"{OBJECTS}*"):
            if (ahead := _newest(objects) - time.time_ns()) > 0:
                _date_back(objects, ahead + OLDER_NS)
        self.git("checkout", "--quiet", "--force", "--detach", commit)

    def commit(self, name: str) -> str:
        """Return the id of the commit that a name means.

        Raises:
            UserError: there is none; says so where the repository is a shallow clone.
        """
        repository = self.origin or git.Repository(self.path)
        if found := repository.commit(name):
            return found
        hint = "git fetch it there, then try again"
        if self.shallow:
            hint = f"it is a shallow clone: git -C {repository.path} fetch --unshallow"
        raise UserError(f"{repository.path} has no revision {name!r}", hint=hint)

    @property
    def shallow(self) -> bool:
        """Whether the history ends where a clone was cut."""
        return (self.path / ".git/shallow").exists()

    def range(self, good: str, bad: str, paths: Sequence[str] = ()) -> CommitRange:
        """Return the commits that are in `bad` and not in `good`; with `paths`, those that touch them.

        Raises:
            UserError: the ends are one commit, or swapped, or not on one line of history.
        """
        self._check_ends(good, bad)
        words = ["log", "--topo-order", "--reverse", "--parents", "--format=%H%x00%P%x00%s", bad, f"^{good}", "--"]
        listing = self.path.with_name(f"{self.path.name}.log")
        with listing.open("wb") as handle:
            command = ["git", "-C", str(self.path), *words, *paths]
            proc.run(command, timeout_s=LOG_S, stdout_to=handle, env=git.environment(**_IDENTITY))
        rows, subjects = [], {}
        for line in listing.read_text("utf-8", "replace").splitlines():
            commit, parents, subject = line.split("\0", 2)
            rows.append((commit, tuple(parents.split())))
            subjects[commit] = subject
        listing.unlink()
        if not rows and paths:
            raise UserError(f"no commit between {good[:12]} and {bad[:12]} touches {' '.join(paths)}")
        found = commits.make(good, bad, rows, subjects)
        for end in (good, bad):
            subjects.setdefault(end, self.git("log", "-1", "--format=%s", end))
        return found

    def _check_ends(self, good: str, bad: str) -> None:
        if good == bad:
            raise UserError(f"good and bad are the same commit {good[:12]}")
        here = git.Repository(self.path)
        if here.is_in(good, bad):
            return
        if here.is_in(bad, good):
            raise UserError(
                f"good and bad are swapped: {bad[:12]} (bad) is an ancestor of {good[:12]} (good)",
                hint="to find what mended something, look for the failure in the older one: exchange both",
            )
        fork = self.git("merge-base", good, bad, check=False)
        if not fork:
            more = ": the clone is shallow" if self.shallow else ""
            hint = "git fetch --unshallow in the repository" if self.shallow else "name two commits of one history"
            raise UserError(f"no path leads from {good[:12]} to {bad[:12]}{more}", hint=hint)
        raise UserError(
            f"{good[:12]} (good) is not in the history of {bad[:12]} (bad)",
            hint=f"they part at {fork[:12]}: --good {fork[:12]}, if that one is good",
        )

    def parents(self, commit: str) -> tuple[str, ...]:
        """Return a commit's own parents, whatever paths the search is limited to."""
        return tuple(self.git("rev-list", "--parents", "-1", commit).split()[1:])

    def show(self, commit: str) -> str:
        """Return a commit as `git show` has it: message, statistics, diff."""
        return self.git("show", "--no-color", "--no-ext-diff", "--stat", "--patch", "--format=fuller", commit)

    def revert(self, commit: str, on: str) -> str:
        """Return a new commit on top of `on` in which `commit` is undone, "" where that does not apply."""
        self.checkout(on)
        main = ("-m", "1") if len(self.parents(commit)) > 1 else ()
        try:
            words = ("revert", "--no-edit", *main, commit)
            done = git.Repository(self.path).git(*words, check=False, env=_IDENTITY, timeout_s=git.NETWORK_S)
            return self.git("rev-parse", "HEAD") if done.status == 0 else ""
        finally:
            if (self.path / ".git/REVERT_HEAD").exists():
                self.git("revert", "--abort", check=False)


@contextlib.contextmanager
def of_repository(path: Path, ctx: BuildContext) -> Iterator[Workspace]:
    """Open the work tree for the user's repository at `path`, for as long as nobody else has it.

    Raises:
        UserError: there is no repository.
    """
    origin = git.open_local(path)
    objects = _absolute(origin, "objects")
    with _held(content_key(str(objects))[:16], ctx) as folder:
        space = Workspace(folder / "tree", ctx, origin)
        _borrow(space, origin)
        yield space


@contextlib.contextmanager
def of_series(
    recipe: KernelRecipe, ctx: BuildContext, patches_at_most: int | None = None
) -> Iterator[tuple[Workspace, list[str]]]:
    """Open the work tree for a recipe's series: its base, then a commit for each patch; yields their ids as well.

    Args:
        patches_at_most: leave the series at so many, as where a later one does not apply.

    Raises:
        UserError: there is no series, or a patch of it does not apply.
    """
    patches = patchset.read_series(recipe.series, ctx)[:patches_at_most]
    if not patches:
        raise UserError("the kernel has no series", hint="--series FILE, or --good and --bad for commits")
    if recipe.is_prebuilt:
        raise UserError("the kernel is built already: there is no tree to apply a series to")
    origin = source.source_of(recipe.source, ctx)
    repository = origin.fetched() if isinstance(origin, source.Git) else None
    # Another version of the series finds the objects warm, and a series of somebody else's does not.
    with _held(content_key(origin.tree_key, patchset.origin_key(recipe.series, patches))[:16], ctx) as folder:
        (folder / STRANGERS).touch()
        space = Workspace(folder / "tree", ctx, repository)
        if repository is not None:
            _borrow(space, repository)
            base = origin.key["commit"]
        else:
            base = _imported(space, origin)
        yield space, [base, *_applied(space, base, patches, ctx)]


@contextlib.contextmanager
def _held(key: str, ctx: BuildContext) -> Iterator[Path]:
    folder = ctx.cache.path(WORK_TREES, key)
    with ctx.cache.lock(f"{WORK_TREES}-{key}"):
        folder.mkdir(parents=True, exist_ok=True)
        for lock in (folder / "tree/.git").glob("*.lock"):  # of a git that was killed; nobody else is here
            lock.unlink()
        try:
            yield folder
        finally:  # also of a search that was refused: `clean` is to know it
            with contextlib.suppress(OSError):  # a full disk: what has filled it is told, not this
                ctx.note(folder, "work tree of searches")


def _newest(objects: Path) -> int:
    """Return when the newest object was made, in ns since the epoch: kbuild removes a file beside each (fixdep)."""
    return max(os.stat(folder).st_mtime_ns for folder, _, _ in os.walk(objects))


def _date_back(objects: Path, by_ns: int) -> None:
    """Make all objects older by the same time: which is newer than which stays."""
    for path in [*objects.rglob("*"), objects]:
        was = path.lstat()
        os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns - by_ns), follow_symlinks=False)


def _absolute(repository: git.Repository, name: str) -> Path:
    words = ("rev-parse", "--path-format=absolute", "--git-path", name)
    return Path(repository.git(*words).stdout.strip())


def _borrow(space: Workspace, origin: git.Repository) -> None:
    """Make the work tree's own repository, which reads the objects of another one.

    Raises:
        UserError: the other one names its objects by SHA-256, which git cannot mix.
    """
    if origin.view and origin.view.sha256:
        raise UserError(
            f"{origin.path} keeps its objects by SHA-256, which no search can read",
            hint="search in a clone that keeps them by SHA-1, as kernel.org's do",
        )
    home = space.path / ".git"
    if not (home / "HEAD").exists():
        shutil.rmtree(space.path, ignore_errors=True)
        space.path.mkdir(parents=True)
        space.git("init", "--quiet")
    _exclude(home)
    (home / "objects/info").mkdir(parents=True, exist_ok=True)
    (home / "objects/info/alternates").write_text(f"{_absolute(origin, 'objects')}\n")
    shallow = _absolute(origin, "shallow")
    if shallow.exists():
        shutil.copyfile(shallow, home / "shallow")
    else:
        (home / "shallow").unlink(missing_ok=True)


def _exclude(home: Path) -> None:
    """Have git look past the objects that are built in the work tree, and past what the tree's own files ask for."""
    (home / "info").mkdir(exist_ok=True)
    (home / "info/exclude").write_text(f"/{OBJECTS}*/\n")
    (home / "info/attributes").write_text(ATTRIBUTES)


def _imported(space: Workspace, origin: Source[Any]) -> str:
    """Return the commit that a tree without git's help was imported as; done once."""
    if (space.path / ".git").exists() and (base := space.git("rev-parse", "--verify", "--quiet", _BASE, check=False)):
        return base
    shutil.rmtree(space.path, ignore_errors=True)
    space.path.mkdir(parents=True)
    origin.write_tree(space.path)
    origin.ctx.check_cancel()
    space.git("init", "--quiet")
    _exclude(space.path / ".git")
    space.git("add", "--all", "--force")
    space.git("commit", "--quiet", "--message", origin.describe())
    base = space.git("rev-parse", "HEAD")
    space.git("update-ref", _BASE, base)
    return base


def _applied(space: Workspace, base: str, patches: Sequence[patchset.Patch], ctx: BuildContext) -> list[str]:
    """Return the commits of a series on its base."""
    space.checkout(base)
    space.git("clean", "-fdxq", "-e", f"/{OBJECTS}*/")
    commits = []
    for number, patch in enumerate(patches, 1):
        try:
            patchset.apply_series([patch], space.path, ctx)
        except patchset.DoesNotApplyError as error:
            space.git("reset", "--hard", "--quiet")
            place = error.message.split(": ", 1)[-1]
            before = f"; the {number - 1} before it can be searched: --bad {number - 1}" if number > 1 else ""
            raise UserError(
                f"patch {number} of {len(patches)} does not apply: {place}", hint=f"{error.hint}{before}",
                details=error.details,
            ) from None  # fmt: skip
        space.git("add", "--all", "--force", "--", ".", f":(exclude){OBJECTS}*/**")
        space.git("commit", "--quiet", "--allow-empty", "--message", f"{patch.subject}\n\n{patch.name}")
        commits.append(space.git("rev-parse", "HEAD"))
    if not commits:
        raise HostError("no patch was applied")
    return commits
