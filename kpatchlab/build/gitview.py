"""Git that goes by no settings: not the user's, and not those of a repository that it reads.

Git's settings change what it prints, and a repository's own can run programs (filters, fsmonitor, hooks). So the lab
looks at a repository through a git directory of its own (`View`), which has that repository's objects and refs, and
neither its configuration nor its attributes. Only fetching goes by the user's settings: proxy, credentials,
`insteadOf`.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kpatchlab import proc
from kpatchlab.cache import content_key
from kpatchlab.errors import UserError

ASK_S = 60.0
ATTRIBUTES = "* -text !eol -ident -filter !working-tree-encoding !diff !merge !whitespace !conflict-marker-size\n"
"""What `info/attributes` of the lab's own repositories says: files are what the commit has, whatever its tree asks."""
_SETTINGS = {
    "core.attributesFile": "/dev/null",  # else $XDG_CONFIG_HOME/git/attributes, and ignore beside it
    "core.excludesFile": "/dev/null",
    "core.hooksPath": "/dev/null",
    "core.fsmonitor": "false",
    "gc.auto": "0",
    "maintenance.auto": "false",
}


def _callers() -> dict[str, str]:
    """Return the caller's environment with the user's settings, without GIT_DIR and its like, prompts and pagers."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith("GIT_") or name.startswith("GIT_SSL")
    }
    return {**kept, "GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C.UTF-8"}


def network_environment(settings: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment for what asks a server: with the user's settings, without hooks of his.

    Args:
        settings: what is to be set otherwise than he has it.
    """
    own = {name: _SETTINGS[name] for name in ("core.hooksPath", "gc.auto", "maintenance.auto")}
    return {**_callers(), **_numbered({**own, **(settings or {})})}


def environment(**more: str) -> dict[str, str]:
    """Return the environment for git: no settings or attributes of the user's or of the system."""
    nothing = {
        "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1", "GIT_ATTR_NOSYSTEM": "1",
        "GIT_NO_REPLACE_OBJECTS": "1",
    }  # fmt: skip
    return {**_callers(), **_numbered(_SETTINGS), **nothing, **more}


def plain_environment(**more: str) -> dict[str, str]:
    """Return the environment for git without a repository: a `.git` in a tree that it works on is none to it."""
    return environment(GIT_DIR="/dev/null", **more)


def _numbered(settings: Mapping[str, str]) -> dict[str, str]:
    """Return what git takes for `-c NAME=VALUE` from the environment."""
    found = {"GIT_CONFIG_COUNT": str(len(settings))}
    for number, (name, value) in enumerate(settings.items()):
        found |= {f"GIT_CONFIG_KEY_{number}": name, f"GIT_CONFIG_VALUE_{number}": value}
    return found


@dataclass(frozen=True, slots=True)
class View:
    """The lab's own git directory for a repository of the user's.

    Attributes:
        home: the directory: a copy of HEAD, links to refs and to packed refs, a configuration of the lab's.
        objects: the repository's own objects.
        index: the repository's own index.
        top: its work tree, None for a bare one.
        partial: it is a partial clone: some objects are on a server only.
        sha256: its objects are named by SHA-256.
    """

    home: Path
    objects: Path
    index: Path
    top: Path | None
    partial: bool
    sha256: bool

    def environment(self) -> dict[str, str]:
        """Return what makes git look through it."""
        return {"GIT_DIR": str(self.home), "GIT_OBJECT_DIRECTORY": str(self.objects)}

    def work_tree(self) -> dict[str, str]:
        """Return what makes git see the user's files as well, by a copy of the index: git may refresh it."""
        assert self.top
        copy = self.home / "index"
        with contextlib.suppress(FileNotFoundError):  # nothing was ever added
            beside = copy.with_name(f"index.{threading.get_ident()}.new")
            shutil.copy2(self.index, beside)  # with its time: git compares files with it
            beside.replace(copy)
        return {"GIT_WORK_TREE": str(self.top), "GIT_INDEX_FILE": str(copy)}


def _ask(path: Path, *words: str) -> proc.Result:
    """Ask a user's repository where its parts are; git reads its configuration for that, and runs nothing of it."""
    return proc.run(["git", "-C", str(path), *words], timeout_s=ASK_S, check=False, env=_callers())


def view_of(path: Path) -> View:
    """Return the view of the user's repository at `path`, as it is now.

    Raises:
        UserError: there is none, or git refuses it, with git's own reason.
    """
    words = ("--absolute-git-dir", "--path-format=absolute", "--git-common-dir", "--git-path", "objects")
    asked = _ask(path, "rev-parse", *words, "--show-object-format", "--is-inside-work-tree")
    if asked.status != 0:
        raise _refused(path, asked)
    lines = asked.stdout.splitlines()
    git_dir, common, objects = (Path(line) for line in lines[:3])
    top = _ask(path, "rev-parse", "--show-toplevel").stdout.rstrip("\n") if lines[4:] == ["true"] else ""
    partial = _ask(path, "config", "--get-regexp", r"^(extensions\.partialclone|remote\..*\.promisor)$").stdout
    home = Path(_folder().name) / content_key(str(git_dir))[:16]
    _fill(home, git_dir, common, lines[3])
    return View(
        home,
        objects,
        git_dir / "index",
        Path(top) if top else None,
        partial=bool(partial.strip()),
        sha256=lines[3] == "sha256",
    )


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """Return where this process has its views; it goes with the process."""
    return tempfile.TemporaryDirectory(prefix="kpatchlab-git-")


def _fill(home: Path, git_dir: Path, common: Path, object_format: str) -> None:
    """Write or renew a view; another thread may look through it."""
    (home / "info").mkdir(parents=True, exist_ok=True)
    extensions = [f"\tobjectFormat = {object_format}\n"] if object_format != "sha1" else []
    extensions += ["\trefStorage = reftable\n"] if (common / "reftable").is_dir() else []
    config = f"[core]\n\trepositoryformatversion = {int(bool(extensions))}\n\tbare = true\n\tfilemode = true\n"
    _put(home / "config", (config + ("[extensions]\n" + "".join(extensions) if extensions else "")).encode())
    _put(home / "info/attributes", ATTRIBUTES.encode())
    copies = {name: git_dir / name for name in ("HEAD", "FETCH_HEAD", "ORIG_HEAD", "MERGE_HEAD")}
    copies |= {"shallow": common / "shallow", "info/exclude": common / "info/exclude"}
    for name, origin in copies.items():
        if origin.is_file():
            _put(home / name, origin.read_bytes())
        else:
            (home / name).unlink(missing_ok=True)
    links = {name: common / name for name in ("refs", "packed-refs", "logs", "reftable")}
    links |= {path.name: path for path in git_dir.glob("sharedindex.*")}
    for name, origin in links.items():
        with contextlib.suppress(FileExistsError):
            (home / name).symlink_to(origin)


def _put(path: Path, data: bytes) -> None:
    if not path.exists() or path.read_bytes() != data:
        beside = path.with_name(f"{path.name}.{threading.get_ident()}.new")
        beside.write_bytes(data)
        beside.replace(path)


def _refused(path: Path, asked: proc.Result) -> UserError:
    said = next((line for line in asked.stderr.splitlines() if line.startswith("fatal: ")), "fatal: git says nothing")
    reason = said.removeprefix("fatal: ")
    if "not a git repository" in reason:
        return UserError(
            f"{path}: not a git repository",
            hint="try and bisect need its history; a recipe also takes {type: dir, path: ...}",
        )
    if "dubious ownership" in reason:
        return UserError(
            f"git refuses {path}: {reason}: it belongs to another user",
            hint=f"if you trust it: git config --global --add safe.directory {path}",
        )
    return UserError(f"git refuses {path}: {reason}", hint=f"git -C {path} status says the same")
