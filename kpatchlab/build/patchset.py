"""Patch series: reading them (one function a kind, one row in `SERIES`) and applying them, strictly.

A patch applies where its context stands unchanged, maybe some lines up or down, or it does not apply: no fuzz,
no three-way merge. What is tested is then what was posted.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kpatchlab import proc
from kpatchlab.build import b4, diffs, git, mails, posted, ranges
from kpatchlab.build.context import BuildContext
from kpatchlab.cache import content_key
from kpatchlab.errors import UserError
from kpatchlab.files import read_input
from kpatchlab.lab import recipes
from kpatchlab.textclean import one_line

APPLY_S = 120.0


@dataclass(frozen=True, slots=True)
class Patch:
    """One patch: `name` says where it is from (file, or n/m of a mailbox), `strip` is the N of `patch -pN`.

    `mail` is the whole of it, text and diff, decoded, for checks that read both; b"" where there is a diff alone.
    `author` is "Name <address>", "" where it is not known. `flowed`: its mail says format=flowed. `message_id` is its
    mail's, without angle brackets; "" where it came otherwise.
    """

    name: str
    subject: str
    data: bytes
    strip: int = 1
    mail: bytes = b""
    author: str = ""
    flowed: bool = False
    message_id: str = ""

    def __str__(self) -> str:
        """Return name and subject, for messages."""
        return f"{self.name} ({self.subject})" if self.subject else self.name


def read_series(items: Iterable[recipes.SeriesModel], ctx: BuildContext) -> list[Patch]:
    """Return every patch of a recipe's `series`, in the order in which they apply.

    Raises:
        UserError: a type that is not known, a file that is not there, a series without a patch.
        HostError: a series from the network cannot be had.
    """
    patches: list[Patch] = []
    for item in items:
        if type(item) not in SERIES:
            known = ", ".join(sorted(model.kind() for model in SERIES))
            raise UserError(f"series type {item.type!r} is not known", hint=f"one of {known}")
        found = SERIES[type(item)](item, ctx)
        if not found:
            raise UserError(
                f"series {item.type} {item.where}: there is no patch in it", hint="is it the cover letter alone?"
            )
        for patch in found:
            _check_names(
                patch, [name for part in diffs.parts(patch.data, patch.strip) for name in (part.old, part.new)]
            )
        patches += found
    return patches


def _check_names(patch: Patch, names: Iterable[str]) -> None:
    """Raise UserError where a patch has a file that no tree may have; before anything reads it or writes to it."""
    for name in filter(None, names):
        if why := diffs.unfit(name):
            raise UserError(f"{patch}: it has the file {one_line(name, 100)!r}: {why}", hint="git refuses it as well")


def origin_key(series: Sequence[recipes.SeriesModel], patches: Sequence[Patch]) -> str:
    """Return the content key of where a series comes from: the next version of the same file has the same one.

    Trees that stay warm are kept by it: no series is built in the objects of somebody else's.
    """
    places = [(item.type, item.where) for item in series]
    return content_key(places, series_key(patches) if "-" in (place for _, place in places) else "")


def series_key(patches: Sequence[Patch]) -> str:
    """Return the content key of a series, "" for none: the diffs alone, so that a reworded mail changes nothing."""
    return content_key([(patch.strip, _content(patch.data).hex()) for patch in patches]) if patches else ""


def changed_files(patches: Sequence[Patch]) -> list[str]:
    """Return the files that a series changes, makes or removes, as the tree names them; each once, sorted."""
    return sorted({name for patch in patches for name in diffs.files_of(patch.data, patch.strip)})


def describe(items: Iterable[recipes.SeriesModel], patches: Sequence[Patch]) -> str:
    """Return one line for people, "" for no series."""
    words = "; ".join(f"{item.type} {item.where}" for item in items)
    return f"{len(patches)} patches: {words}" if patches else ""


class DoesNotApplyError(UserError):
    """A patch meets a tree that is not the one it was made for; `details` has each file, hunk and line."""


def apply_series(patches: Sequence[Patch], tree: Path, ctx: BuildContext) -> None:
    """Apply every patch to the plain tree at `tree`.

    Raises:
        DoesNotApplyError: names the first patch that does not apply, and each file, hunk and line where it does not.
    """
    for number, patch in enumerate(patches, 1):
        ctx.check_cancel()
        ctx.verbose(f"applying {patch}")
        apply_patch(patch, tree, number, len(patches))


def apply_patch(patch: Patch, tree: Path, number: int = 1, total: int = 1, *, fuzz: int = 0) -> str:
    """Apply one patch to the plain tree at `tree`, all of it or nothing; returns what git says of each hunk.

    Args:
        fuzz: lines of context, of the usual three on either side, that need not match.

    Raises:
        DoesNotApplyError: with each file, hunk and line.
    """
    env = git.plain_environment()
    names = _named_by_git(patch)
    _check_names(patch, names)
    words = ["git", "apply", "--verbose", f"-p{patch.strip}", "--whitespace=nowarn"]
    words += [f"-C{3 - fuzz}"] if fuzz else []
    result = proc.run([*words, "-"], timeout_s=APPLY_S, check=False, cwd=tree, env=env, input_bytes=patch.data)
    if result.status != 0:
        undone = proc.run(
            [*words, "--reverse", "--check", "-"],
            timeout_s=APPLY_S, check=False, cwd=tree, env=env, input_bytes=patch.data,
        )  # fmt: skip
        raise failure(patch, number, total, result.stderr, already=undone.status == 0)
    _check_links(patch, tree, names)
    return result.stderr


def _named_by_git(patch: Patch) -> list[str]:
    """Return the files that git finds in a patch, by their names before and after; none in what it cannot read."""
    found: list[str] = []
    for way in ([], ["--reverse"]):
        words = ["git", "apply", "--numstat", "-z", f"-p{patch.strip}", *way, "-"]
        with tempfile.TemporaryFile() as handle:
            done = proc.run(
                words,
                timeout_s=APPLY_S,
                check=False,
                env=git.plain_environment(),
                input_bytes=patch.data,
                stdout_to=handle,
            )
            handle.seek(0)
            rows = handle.read().split(b"\0") if done.status == 0 else []
        found += [os.fsdecode(row.split(b"\t", 2)[2]) for row in rows if row.count(b"\t") >= 2]
    return found


def _check_links(patch: Patch, tree: Path, names: Iterable[str]) -> None:
    """Raise UserError where a patch made a symbolic link that leads out of the tree: the lab reads and writes there.

    A link goes up first and then down, so that no link of a later patch can turn it elsewhere.
    """
    top = os.path.realpath(tree)
    for name in names:
        if not os.path.islink(tree / name):
            continue
        target = os.readlink(tree / name)
        down = target.lstrip("./") if target.startswith(".") else target
        lexical = os.path.normpath(Path(name).parent / target)
        out = target.startswith("/") or lexical.split("/")[0] == ".." or ".." in down.split("/")
        if out or not os.path.realpath(tree / name).startswith(f"{top}/"):
            (tree / name).unlink()
            where = one_line(target, 100)
            raise UserError(
                f"{patch}: it makes {one_line(name, 100)} a symbolic link to {where}, out of the tree",
                hint="the lab reads and writes in its own copy of the tree alone",
            )


def failure(patch: Patch, number: int, total: int, stderr: str, *, already: bool) -> DoesNotApplyError:
    """Return what to raise for a patch that git refused, from what `git apply --verbose` said of it."""
    details = []
    for line in stderr.splitlines():
        if line == "error: while searching for:":  # with --verbose; what was looked for follows, and is in the patch
            continue
        if match := re.match(r"error: patch failed: (.+):(\d+)$", line):
            details.append(_hunk(patch, match[1], int(match[2])))
        elif line.startswith("error: ") and not line.endswith("patch does not apply"):
            details.append(line.removeprefix("error: "))
    place = details[0].splitlines()[0] if details else (stderr.strip().splitlines() or ["git apply says nothing"])[-1]
    hint = "the tree is not the one that the series was made for; name its base as source.revision"
    if patch.flowed:
        hint = "its mail is format=flowed: the mail program has changed blanks; git send-email leaves a patch alone"
    if already:
        hint = "it is in the tree already: take it out of the series, or start from an older revision"
    message = f"patch {number} of {total} does not apply: {patch}: {place}"
    return DoesNotApplyError(message, hint=hint, details=tuple(details))


def _hunk(patch: Patch, file: str, line: int) -> str:
    """Return "FILE:LINE: hunk N of M" and the hunk's text, for the hunk of `file` that starts at `line`."""
    for part in diffs.parts(patch.data, patch.strip):
        for number, hunk in enumerate(part.hunks, 1):
            if file in {part.old, part.new} and hunk.old_start == line:
                rows = [f"{sign}{text}".rstrip("\n") for sign, text in hunk.rows]
                shown = [row.encode("utf-8", "surrogateescape").decode("utf-8", "replace") for row in rows[:24]]
                return "\n".join([f"{file}:{line}: hunk {number} of {len(part.hunks)}", hunk.head, *shown])
    return f"{file}:{line}"


def _content(data: bytes) -> bytes:
    """Return what a patch changes: without its text, its blobs' ids and the mail program's signature."""
    return re.sub(
        rb"^index [0-9a-f]+\.\.[0-9a-f]+.*\n|^-- \n[^\n]*\s*\Z", b"", diffs.diff_of(data), flags=re.MULTILINE
    ).strip()


# ---------------------------------------------------------------------------------------------- readers


def split_mbox(data: bytes, name: str, version: str = "") -> list[Patch]:
    """Return the patches of a mailbox: answers and cover letters left out, [PATCH n/m] put in order.

    Args:
        version: which one, "2" for v2; "": the only one.

    Raises:
        UserError: git cannot read a mail, a patch is missing, or there are several versions and none is named.
    """
    data = mails.unpacked(data, name)
    if not mails.is_mail(data):
        return _plain(data, name)
    return patches_of(posted.read(data, name).choose(version), name)


def patches_of(version: posted.Version, name: str) -> list[Patch]:
    """Return the patches of one version of a series, as they apply."""
    return [
        _patch(mail, f"{name} [{mail.tags.number}/{mail.tags.total}]" if mail.tags.total else name)
        for mail in version.patches
    ]


def _patch(mail: mails.Mail, name: str, strip: int = 1) -> Patch:
    return Patch(name, mail.tags.title, mail.diff, strip, mail.whole(), mail.author, mail.flowed, mail.message_id)


def posted_of(item: recipes.SeriesModel, ctx: BuildContext) -> posted.Posted | None:
    """Return the versions that a mailbox, one mail, or a folder of one series' mails has; None for what is no mail.

    Raises:
        UserError: it cannot be read.
    """
    match item:
        case recipes.MboxSeries():
            data, name = mailbox(item, ctx)
            return posted.read(data, name) if mails.is_mail(mails.unpacked(data, name)) else None
        case recipes.MessageIdSeries():
            return posted.read(b4.thread(item, ctx), b4.message_id(item))
        case recipes.PatchesSeries():
            return _one_series([file for path in _files(item, ctx) if (file := _File.read(path))], item.where)
        case _:
            return None


@dataclass(frozen=True, slots=True)
class _File:
    """What one file of a folder holds: mails where it is one, else a plain diff, with text before it or without."""

    path: Path
    data: bytes
    mails: tuple[mails.Mail, ...] = ()
    mail: bool = False

    @classmethod
    def read(cls, path: Path) -> _File:
        data = mails.unpacked(read_input(path, hint=_PATHS_HINT), _shown(path))
        if not mails.is_mail(data):
            return cls(path, data)
        return cls(path, data, tuple(mails.read(data, _shown(path))), mail=True)

    def patches(self, strip: int = 1) -> list[Patch]:
        """Return its patches; a cover letter has none, whatever diff is in it, and an empty file.

        Raises:
            UserError: it has something else.
        """
        if self.mail:
            found = posted.sort(self.mails, _shown(self.path)).choose().patches if len(self.mails) > 1 else self.mails
            patches = [_patch(mail, _shown(self.path), strip) for mail in found if mail.is_patch]
        else:
            patches = _plain(self.data, _shown(self.path), strip)
        cover = any(mail.tags.number == 0 for mail in self.mails)
        if not patches and not cover and self.data.strip():
            raise UserError(f"{self.path}: there is no patch in it", hint="take it out, or give it another ending")
        return patches


def _plain(data: bytes, name: str, strip: int = 1) -> list[Patch]:
    """Return the patch of a file that is no mail: a diff, with text before it or without."""
    data = diffs.with_line_feeds(data)
    if not diffs.has_diff(data):
        return []
    head = data[: len(data) - len(diffs.diff_of(data))].decode("utf-8", "replace")
    return [Patch(name, _title(head), data, strip)]


def _shown(path: Path) -> str:
    """Return a file's name for people: a name in another encoding than UTF-8 is one too."""
    return os.fsencode(path.name).decode("utf-8", "replace")


def _title(head: str) -> str:
    """Return what a diff's text calls it: Debian's Description, the indented title of `git show`, or its first line."""
    lines = [
        line for line in head.splitlines() if line.strip() and not re.match(r"Index: |=+$|commit [0-9a-f]{7,}|# ", line)
    ]
    named = next((line for line in lines if re.match(r"(Description|Subject): *\S", line)), "")
    shown = next((line for line in lines if line.startswith("    ")), "") if "\nAuthor: " in f"\n{head}" else ""
    return re.sub(r"^(Description|Subject): *", "", (named or shown or next(iter(lines), "")).strip())


_PATHS_HINT = "paths in a recipe start at the kernels folder"


def mailbox(item: recipes.MboxSeries, ctx: BuildContext) -> tuple[bytes, str]:
    """Return the bytes of a mailbox, gzipped or not, and its name for messages."""
    if item.path == "-":
        return ctx.stdin(), "standard input"
    path = ctx.path(item.path)
    return read_input(path, hint=_PATHS_HINT), _shown(path)


def _mbox(item: recipes.MboxSeries, ctx: BuildContext) -> list[Patch]:
    """`{type: mbox, path:}`: a mailbox, gzipped or not; "-" is standard input."""
    data, name = mailbox(item, ctx)
    return split_mbox(data, name, item.version)


def _files(item: recipes.PatchesSeries, ctx: BuildContext) -> list[Path]:
    folder = ctx.path(item.path)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder", hint="for a single file: {type: mbox, path: ...}")
    found = sorted(path for path in folder.iterdir() if path.suffix in {".patch", ".diff"})
    _check_count(len(found), folder)
    return found


def _check_count(count: int, where: Path) -> None:
    if count > mails.MAX_PATCHES:
        raise UserError(f"{where}: {count} patches, and at most {mails.MAX_PATCHES} make a series")


def _patches(item: recipes.PatchesSeries, ctx: BuildContext) -> list[Patch]:
    """`{type: patches, path:}`: every *.patch and *.diff of a folder, by name."""
    files = [_File.read(path) for path in _files(item, ctx)]
    if series := _one_series(files, item.where):
        names = {id(mail): _shown(file.path) for file in files for mail in file.mails}
        return [_patch(mail, names[id(mail)]) for mail in series.choose(item.version).patches]
    return [patch for file in files for patch in file.patches()]


def _one_series(files: Sequence[_File], name: str) -> posted.Posted | None:
    """Return the versions in a folder whose files are one series by their n/m, or have one patch in two versions.

    None for a collection, whose order is that of its names: what is picked from other series keeps its n/m.
    """
    found = [mail for file in files for mail in file.mails]
    tags = [mail.tags for mail in found if mail.is_patch]
    if any(not file.mail and diffs.has_diff(file.data) for file in files):
        return None
    one = len(tags) > 1 and tags[0].total > 0 and len({tag.total for tag in tags}) == 1
    several = len({(tag.title, tag.version) for tag in tags}) > len({tag.title for tag in tags})
    return posted.sort(found, name) if one or several else None


def _quilt(item: recipes.QuiltSeries, ctx: BuildContext) -> list[Patch]:
    """`{type: quilt, path:}`: a folder with a `series` file: one patch a line, `#` for comments, -pN as in quilt."""
    folder = ctx.path(item.path)
    patches: list[Patch] = []
    listed = mails.unpacked(read_input(folder / "series", hint=_PATHS_HINT), f"{folder}/series")
    rows = [re.sub(r"(^|\s)#.*", "", line).split() for line in os.fsdecode(listed).split("\n")]
    _check_count(sum(map(bool, rows)), folder / "series")
    for words in filter(None, rows):
        strip = 1
        for option in words[1:]:
            if not (match := re.fullmatch(r"-p(\d|ab)", option)):
                raise UserError(f"{folder}/series: option {option!r} of {words[0]} is not known", hint="only -pN")
            strip = int(match[1]) if match[1].isdigit() else 1  # -pab: quilt's word for a/ and b/
        if words[0].startswith("/") or ".." in words[0].split("/"):
            raise UserError(f"{folder}/series: {words[0]!r} is not below that folder", hint="copy the patch into it")
        patches += _File.read(folder / words[0]).patches(strip)
    return patches


def _git(item: recipes.GitSeries, ctx: BuildContext) -> list[Patch]:
    """`{type: git, path: or url:, range: base..tip}`: the commits of a range, but merges, in order.

    Diffs and messages are asked for apart: a message that quotes a diff is no patch.
    """
    ends = re.split(r"\.\.+", item.range, maxsplit=1)
    for name in ends:
        git.check_word(name, "revision")
    if item.url:
        repository = git.open_url(item.url, ctx)
        base, tip = (git.resolve_fetched(repository, name, ctx) for name in ends)
        git.fetch_range(repository, base, tip, ctx)
        revisions = f"{base}..{tip}"
    else:
        repository = git.open_local(ctx.path(item.path))
        for name in filter(None, ends):
            if not repository.commit(name):
                raise UserError(
                    f"{repository.path} has no revision {name!r}", hint="git fetch it there, then try again"
                )
        revisions = item.range
    found = ranges.read(repository, revisions, at_most=mails.MAX_PATCHES)
    patches: list[Patch] = []
    for number, commit in enumerate(found, 1):
        place = f"{item.range} [{number}/{len(found)}]" if len(found) > 1 else item.range
        mail = commit.mail(f"[PATCH {number}/{len(found)}]")
        patches.append(Patch(place, commit.title, commit.diff, mail=mail, author=commit.author))
    return patches


def _message_id(item: recipes.MessageIdSeries, ctx: BuildContext) -> list[Patch]:
    """`{type: message-id, id:}`: a thread of the kernel's mailing lists, through b4."""
    return split_mbox(b4.thread(item, ctx), b4.message_id(item), item.version)


SERIES: dict[type[recipes.SeriesModel], Callable[[Any, BuildContext], list[Patch]]] = {
    recipes.GitSeries: _git,
    recipes.MboxSeries: _mbox,
    recipes.MessageIdSeries: _message_id,
    recipes.PatchesSeries: _patches,
    recipes.QuiltSeries: _quilt,
}
"""What a recipe says -> its reader. A new kind is a function above and a row here."""
