"""Reading from git repositories, and never writing to the user's: no refs, no index, no work tree.

What is fetched from a URL goes to a bare repository of the lab's own, `CACHE/git/<name>.git`, one per URL.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import re
import shlex
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kpatchlab import proc
from kpatchlab.build.context import BuildContext
from kpatchlab.build.gitview import ATTRIBUTES, View, environment, network_environment, plain_environment, view_of
from kpatchlab.cache import content_key
from kpatchlab.errors import HostError, UserError
from kpatchlab.urls import account, credentials_line, shown

__all__ = [
    "Repository",
    "check_word",
    "environment",
    "fetch",
    "fetch_range",
    "make_bare",
    "network_environment",
    "open_local",
    "open_url",
    "plain_environment",
    "resolve_fetched",
    "resolve_url",
    "tip",
]

QUICK_S = 60.0
NETWORK_S = 3600.0
RANGE_DEPTHS = (128, 2048, None)
"""How much history is fetched for a range, until its base is in it: all of Linux is gigabytes."""
_ABOVE = re.compile(r"([0-9a-f]{40}(?:[0-9a-f]{24})?)((?:\^|~\d{1,4})+)")
_SHA256_DIGITS = 64
_BRANCH = "refs/branches/{}"
"""In a mirror: points at what was fetched of a branch, so that it is told from a tag without the server."""
_FULL_ID = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")


@dataclass(frozen=True, slots=True)
class Repository:
    """One repository: the user's own, read only; the lab's mirror of `url`; or a work tree that the lab made."""

    path: Path
    url: str = ""
    view: View | None = field(default=None, repr=False)

    def git(
        self,
        *words: str,
        timeout_s: float = QUICK_S,
        check: bool = True,
        env: Mapping[str, str] | None = None,
        cancel: proc.Cancel | None = None,
        network: bool = False,
    ) -> proc.Result:
        """Run one git command on it; `env` is added to the environment; `network`: with the user's settings."""
        command, whole = self.command(words, env or {}, network=network)
        return proc.run(command, timeout_s=timeout_s, check=check, env=whole, cancel=cancel)

    def read(
        self,
        *words: str,
        timeout_s: float = QUICK_S,
        env: Mapping[str, str] | None = None,
        input_bytes: bytes | None = None,
    ) -> bytes:
        """Return all that a git command prints, however much it is.

        Raises:
            UserError: it fails; says so where the repository is a partial clone.
        """
        command, whole = self.command(words, env or {})
        with tempfile.TemporaryFile() as handle:
            try:
                proc.run(command, timeout_s=timeout_s, env=whole, stdout_to=handle, input_bytes=input_bytes)
            except proc.CommandFailed as error:
                raise self._failure(error) from None
            handle.seek(0)
            return handle.read()

    def command(
        self, words: Sequence[str], env: Mapping[str, str], *, network: bool = False
    ) -> tuple[list[str], dict[str, str]]:
        """Return a git command on it, and its environment, for a caller who runs it by himself."""
        if self.view:
            # Not where the lab was started: within the work tree, git would list that folder alone.
            where = ["-C", str(self.view.top or self.view.home)]
            return ["git", *where, *words], environment(**{**self.view.environment(), **env})
        where = ["--git-dir", str(self.path)] if self.url else ["-C", str(self.path)]
        return ["git", *where, *words], {**network_environment(), **env} if network else environment(**env)

    def _failure(self, error: proc.CommandFailed) -> Exception:
        if self.view and self.view.partial and not error.result.timed_out:
            return UserError(
                f"{self.path} is a partial clone, and some of what is needed is on its server only",
                hint=f"the lab fetches nothing into it; git -C {self.path} fetch --refetch --no-filter brings all",
            )
        return error

    def work_tree(self) -> dict[str, str]:
        """Return the environment in which commands see the user's files as well, by a copy of the index."""
        assert self.view
        return self.view.work_tree()

    def commit(self, revision: str) -> str:
        """Return the commit id that `revision` names, or "" where the repository does not have it."""
        result = self.git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}", check=False)
        return result.stdout.strip() if result.status == 0 else ""

    def blob(self, commit: str, path: str) -> bytes | None:
        """Return a file of a commit, None where the commit has none of that name."""
        try:
            return self.read("cat-file", "blob", f"{commit}:{path}")
        except proc.CommandFailed:
            return None

    def committed(self, commit: str) -> dt.datetime:
        """Return when a commit that the repository has was made, by its committer's clock.

        Raises:
            ValueError, OverflowError, OSError: that clock showed what is no date; git takes any number.
        """
        return dt.datetime.fromtimestamp(int(self.read("log", "-1", "--format=%ct", commit, "--")), dt.UTC)

    def is_in(self, older: str, newer: str) -> bool:
        """Whether one commit is another or an ancestor of it; False where the repository lacks one of them."""
        return self.git("merge-base", "--is-ancestor", older, newer, check=False).status == 0

    def export(self, commit: str, into: Path, ctx: BuildContext) -> None:
        """Write the files of a commit to `into`, through an index of its own that is then deleted."""
        index = into.parent / f"{into.name}.index"
        env = {"GIT_INDEX_FILE": str(index)}
        try:
            self.git("read-tree", commit, env=env, timeout_s=NETWORK_S, cancel=ctx.cancel)
            env["GIT_WORK_TREE"] = str(into)  # also for a bare repository
            words = ("-c", "checkout.workers=0", "checkout-index", "--all", "--force")
            self.git(*words, env=env, timeout_s=NETWORK_S, cancel=ctx.cancel)
        except proc.CommandFailed as error:
            ctx.check_cancel()
            raise self._failure(error) from None
        finally:
            index.unlink(missing_ok=True)
        ctx.check_cancel()


def check_word(word: str, what: str) -> None:
    """Refuse a word that git would take for an option.

    Raises:
        UserError: it begins with a dash.
    """
    if word.startswith("-"):
        raise UserError(f"{word!r} is no {what}: it begins with a dash", hint="git would take it for an option")


@contextlib.contextmanager
def _asked(url: str) -> Iterator[tuple[list[str], str]]:
    """Yield options for git, and the URL to give it: user and password go to it in a file, not in its arguments.

    Without any in the URL, the user's own credential helpers are asked, as ever.
    """
    found = account(url)
    if not found.user and not found.password:
        yield [], found.url
        return
    with tempfile.NamedTemporaryFile("w", prefix="kpatchlab-") as handle:  # made with mode 0600
        handle.write(credentials_line(found))
        handle.flush()
        yield (
            ["-c", "credential.helper=", "-c", f"credential.helper=store --file={shlex.quote(handle.name)}"],
            found.url,
        )


def open_local(path: Path) -> Repository:
    """Return the user's repository at `path` (a work tree, or a bare one).

    Raises:
        UserError: there is none, or git refuses it.
    """
    if not path.is_dir():
        raise UserError(f"{path}: no such directory", hint="--tree, or path in a recipe, names a git repository")
    return Repository(path, view=view_of(path))


def open_url(url: str, ctx: BuildContext) -> Repository:
    """Return the lab's own bare repository for `url`, made empty where there is none yet."""
    check_word(url, "URL")
    name = re.sub(r"[^A-Za-z0-9.]+", "-", shown(url).rstrip("/").removesuffix(".git"))[-40:].strip("-")
    path = ctx.cache.root / "git" / f"{name}-{content_key(url)[:8]}.git"
    repository = Repository(path, url)
    if not (path / "HEAD").exists():
        with ctx.cache.lock(f"git-{path.name}"):
            make_bare(path)
    return repository


def make_bare(path: Path, *, sha256: bool = False) -> None:
    """Make an empty bare repository of the lab's own; `sha256`: for objects that are named by SHA-256."""
    words = [f"--object-format={'sha256' if sha256 else 'sha1'}", "--", str(path)]
    proc.run(["git", "init", "--quiet", "--bare", *words], timeout_s=QUICK_S, env=environment())
    (path / "info").mkdir(exist_ok=True)
    (path / "info/attributes").write_text(ATTRIBUTES)


def resolve_url(repository: Repository, revision: str, *, offline: bool = True) -> str:
    """Return the commit id of a tag, branch or full id; asks the server unless it is a full id.

    Args:
        offline: take what was fetched last time where the server cannot be reached.

    Raises:
        UserError: the server has no such ref.
        HostError: the server cannot be reached.
    """
    check_word(revision, "revision")
    if _FULL_ID.fullmatch(revision):
        return revision
    pattern = revision.removeprefix("refs/heads/").removeprefix("refs/tags/")
    with _asked(repository.url) as (options, url):
        words = (*options, "ls-remote", "--", url, pattern, f"{pattern}^{{}}")
        result = repository.git(*words, timeout_s=QUICK_S, check=False, network=True)
    if result.status != 0 or result.timed_out:
        if offline and (known := repository.commit(f"refs/kpatchlab/{pattern}")):
            return known  # no network: what was fetched last time
        raise _unreachable(repository, result)
    rows = (line.partition("\t") for line in result.stdout.splitlines())
    refs = {name: commit for commit, _, name in rows}
    for name in (f"refs/tags/{pattern}^{{}}", f"refs/tags/{pattern}", branch := f"refs/heads/{pattern}", pattern):
        if name in refs:
            if name == branch and not repository.commit(_BRANCH.format(pattern)):
                repository.git("symbolic-ref", _BRANCH.format(pattern), f"refs/kpatchlab/{pattern}", check=False)
            return refs[name]
    raise UserError(
        f"{shown(repository.url)} has no tag or branch {revision!r}",
        hint="a commit that no ref points at is named by all its 40 digits",
    )


def tip(repository: Repository, revision: str) -> str:
    """Return the commit of a branch as far as it is known here; "" where `revision` is no branch, or unknown."""
    if repository.url:
        return repository.commit(_BRANCH.format(revision.removeprefix("refs/heads/")))
    name = repository.git("rev-parse", "--symbolic-full-name", revision, check=False).stdout.strip()
    return repository.commit(name) if name.startswith(("refs/heads/", "refs/remotes/")) else ""


def resolve_fetched(repository: Repository, revision: str, ctx: BuildContext) -> str:
    """Return what `resolve_url` does, also for an ancestor of a full id: `ID^`, `ID~3`; fetches as much as that needs.

    Raises:
        UserError, HostError: as `resolve_url` and `fetch`.
    """
    match = _ABOVE.fullmatch(revision)
    if not match:
        return resolve_url(repository, revision)
    if not repository.commit(revision):
        steps = sum(int(word[1:] or 1) if word[0] == "~" else 1 for word in re.findall(r"\^|~\d*", match[2]))
        fetch(repository, match[1], match[1], ctx, depth=steps + 1)
    if found := repository.commit(revision):
        return found
    raise UserError(f"{shown(repository.url)} has no {revision}", hint="so far does the history not go back")


def fetch_range(repository: Repository, base: str, tip: str, ctx: BuildContext) -> None:
    """Bring the commits from `base` to `tip` into the lab's mirror, and not much more of what is behind them.

    Raises:
        HostError: as `fetch`.
    """
    for depth in RANGE_DEPTHS:
        if repository.is_in(base, tip):
            return
        fetch(repository, tip, tip, ctx, depth=depth)


def fetch(repository: Repository, commit: str, name: str, ctx: BuildContext, *, depth: int | None = 1) -> None:
    """Bring `commit` into the lab's mirror and keep it by a ref.

    Args:
        depth: how many commits of its history come with it, itself counted; None: all.

    Raises:
        HostError: the server cannot be reached, or does not hand out single commits.
    """
    if len(commit) == _SHA256_DIGITS:
        raise UserError(
            f"{shown(repository.url)} keeps its objects by SHA-256, and the lab's mirrors do by SHA-1",
            hint="clone it, and name the clone by its path",
        )
    shallow = (repository.path / "shallow").exists()
    if repository.commit(commit) and (depth == 1 or not shallow):
        return
    words = [f"--depth={depth}"] if depth else ["--unshallow"] if shallow else []
    ref = f"+{commit}:refs/kpatchlab/{name}"
    with ctx.cache.lock(f"git-{repository.path.name}"), _asked(repository.url) as (options, url):
        command = (*options, "fetch", "--quiet", "--no-tags", "--no-write-fetch-head", *words, "--", url, ref)
        result = repository.git(*command, timeout_s=NETWORK_S, check=False, cancel=ctx.cancel, network=True)
    ctx.check_cancel()
    if result.status != 0:
        raise _unreachable(repository, result)
    ctx.note(repository.path, f"commits of {shown(repository.url)}")


def _unreachable(repository: Repository, result: proc.Result) -> HostError:
    url = shown(repository.url)
    if result.timed_out:
        return HostError(f"{url}: no answer in {result.duration_s:.0f} s", hint="is there a network?")
    lines = [line for line in result.stderr.splitlines() if line.startswith(("fatal:", "error:"))] or ["git failed"]
    return HostError(
        f"cannot fetch from {url}: {lines[0].split(': ', 1)[-1]}",
        hint="is there a network? a local clone does as well: source: {type: git, path: ..., revision: ...}",
        details=tuple(lines[1:4]),
    )
