"""Patch series: reading them (one function a kind, one row in `SERIES`) and applying them, strictly.

A patch applies where its context stands unchanged, maybe some lines up or down, or it does not apply: no fuzz,
no three-way merge. What is tested is then what was posted.
"""

from __future__ import annotations

import gzip
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kpatchlab import proc
from kpatchlab.build import git
from kpatchlab.build.context import BuildContext
from kpatchlab.cache import content_key
from kpatchlab.errors import HostError, LabError, UserError
from kpatchlab.lab import recipes

APPLY_S = 120.0
B4_S = 300.0
_NUMBERED = re.compile(r"\[[^\]]*?(\d+)/(\d+)[^\]]*\]")
_DIFF = re.compile(rb"^(diff --git |--- )", re.MULTILINE)
_FILE = re.compile(r"^(?:--- |\+\+\+ )(?!/dev/null)([^\t\n]+/[^\t\n]+?)(?:\t.*)?$", re.MULTILINE)
_HUNK = re.compile(r"^@@ -(\d+)(?:,\d+)? \+\d+(?:,\d+)? @@", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Patch:
    """One patch: `name` says where it is from (file, or n/m of a mailbox), `strip` is the N of `patch -pN`.

    `mail` is the whole of it, text and diff, decoded, for checks that read both; b"" where there is a diff alone.
    """

    name: str
    subject: str
    data: bytes
    strip: int = 1
    mail: bytes = b""

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
        patches += found
    return patches


def series_key(patches: Sequence[Patch]) -> str:
    """Return the content key of a series, "" for none: the diffs alone, so that a reworded mail changes nothing."""
    return content_key([(patch.strip, _content(patch.data).hex()) for patch in patches]) if patches else ""


def changed_files(patches: Sequence[Patch]) -> list[str]:
    """Return the files that a series changes, makes or removes, as the tree names them; each once, sorted."""
    names = {
        match[1].split("/", patch.strip)[-1]
        for patch in patches
        for match in _FILE.finditer(patch.data.decode("utf-8", "replace"))
    }
    return sorted(names)


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
    env = git.environment(
        GIT_CEILING_DIRECTORIES=str(tree.parent),  # a repository around the cache must not catch the paths
        GIT_CONFIG_GLOBAL="/dev/null",
        GIT_CONFIG_NOSYSTEM="1",
    )
    words = ["git", "apply", "--verbose", f"-p{patch.strip}", "--whitespace=nowarn"]
    words += [f"-C{3 - fuzz}"] if fuzz else []
    result = proc.run([*words, "-"], timeout_s=APPLY_S, check=False, cwd=tree, env=env, input_bytes=patch.data)
    if result.status != 0:
        undone = proc.run(
            [*words, "--reverse", "--check", "-"],
            timeout_s=APPLY_S, check=False, cwd=tree, env=env, input_bytes=patch.data,
        )  # fmt: skip
        raise _failure(patch, number, total, result.stderr, already=undone.status == 0)
    return result.stderr


def _failure(patch: Patch, number: int, total: int, stderr: str, *, already: bool) -> DoesNotApplyError:
    text = patch.data.decode("utf-8", "replace")
    details = []
    for line in stderr.splitlines():
        if line == "error: while searching for:":  # with --verbose; what was looked for follows, and is in the patch
            continue
        if match := re.match(r"error: patch failed: (.+):(\d+)$", line):
            details.append(_hunk(text, match[1], int(match[2])))
        elif line.startswith("error: ") and not line.endswith("patch does not apply"):
            details.append(line.removeprefix("error: "))
    place = details[0].splitlines()[0] if details else (stderr.strip().splitlines() or ["git apply says nothing"])[-1]
    hint = "the tree is not the one that the series was made for; name its base as source.revision"
    if already:
        hint = "it is in the tree already: take it out of the series, or start from an older revision"
    message = f"patch {number} of {total} does not apply: {patch}: {place}"
    return DoesNotApplyError(message, hint=hint, details=tuple(details))


def _hunk(text: str, file: str, line: int) -> str:
    """Return "FILE:LINE: hunk N of M" and the hunk's text, for the hunk of `file` that starts at `line`."""
    parts = re.split(r"^(?=--- )", text, flags=re.MULTILINE)
    part = next((part for part in parts if re.match(rf"--- \S+\n\+\+\+ (?:[^/\n]+/)*?{re.escape(file)}\s", part)), "")
    hunks = list(_HUNK.finditer(part))
    for number, hunk in enumerate(hunks, 1):
        if int(hunk[1]) == line:
            end = hunks[number].start() if number < len(hunks) else len(part)
            body = part[hunk.start() : end].splitlines()
            body = body[
                : next((i for i, row in enumerate(body[1:], 1) if row[:1] not in {" ", "+", "-", "\\", ""}), None)
            ]
            return "\n".join([f"{file}:{line}: hunk {number} of {len(hunks)}", *body[:25]])
    return f"{file}:{line}"


def diff_of(data: bytes) -> bytes:
    """Return a patch without the text before its first file."""
    match = _DIFF.search(data)
    return data[match.start() :] if match else data


def _content(data: bytes) -> bytes:
    """Return what a patch changes: without its text, its blobs' ids and the mail program's signature."""
    return re.sub(
        rb"^index [0-9a-f]+\.\.[0-9a-f]+.*\n|^-- \n[^\n]*\s*\Z", b"", diff_of(data), flags=re.MULTILINE
    ).strip()


# ---------------------------------------------------------------------------------------------- readers


def split_mbox(data: bytes, name: str) -> list[Patch]:
    """Return the patches of a mailbox: replies and cover letters left out, [PATCH n/m] put in order.

    Raises:
        UserError: two patches have one number, as when a mailbox holds two versions of a series.
    """
    if data[:2] == b"\x1f\x8b":
        data = gzip.decompress(data)
    with tempfile.TemporaryDirectory(prefix="kpatchlab-mbox-") as scratch:
        folder = Path(scratch)
        mbox = folder / "mbox"
        mbox.write_bytes(data)
        env = git.environment()
        words = ["git", "mailsplit", "-b", "--keep-cr", f"-o{folder}", str(mbox)]
        proc.run(words, timeout_s=APPLY_S, env=env, cwd=folder)
        found = [_mail(mail, folder, name) for mail in sorted(folder.glob("[0-9]*"))]
    patches = [patch for patch in found if patch]
    numbers = [_NUMBERED.search(patch.name) for patch in patches]
    if not all(numbers):
        return patches
    order = [int(match[1]) for match in numbers if match]
    if twice := [number for number in sorted(set(order)) if order.count(number) > 1]:
        raise UserError(
            f"{name}: patch {twice[0]} is in it {order.count(twice[0])} times: several versions of a series?",
            hint="b4 am picks one version: series: {type: message-id, id: ...}",
        )
    return [patch for _, patch in sorted(zip(order, patches, strict=True), key=lambda pair: pair[0])]


def _mail(mail: Path, folder: Path, name: str) -> Patch | None:
    """Return the patch of one mail, decoded; None where it has none or answers one."""
    message, diff = folder / "message", folder / "diff"
    words = ["git", "mailinfo", "--encoding=UTF-8", "-k", str(message), str(diff)]
    text = mail.read_bytes()
    result = proc.run(words, timeout_s=APPLY_S, env=git.environment(), cwd=folder, input_bytes=text)
    head = dict(line.split(": ", 1) for line in result.stdout.splitlines() if ": " in line)
    subject = head.get("Subject", "")
    if subject.lower().startswith("re:") or not _DIFF.search(diff.read_bytes()):
        return None
    title = re.sub(r"^(\[[^\]]*\]\s*)+", "", subject)
    tag = _NUMBERED.search(subject)
    author = f"{head.get('Author', '')} <{head.get('Email', '')}>"
    lines = f"From: {author}\nDate: {head.get('Date', '')}\nSubject: {subject}\n"
    whole = lines.encode() + b"\n" + message.read_bytes() + b"---\n" + diff.read_bytes()
    return Patch(f"{name} [{tag[1]}/{tag[2]}]" if tag else name, title, diff.read_bytes(), mail=whole)


def _from_file(path: Path, strip: int = 1) -> list[Patch]:
    """Return what one file holds: mails where it starts like one, else a plain diff, with text before it or without."""
    data = _read(path)
    if re.match(rb"(\x1f\x8b|From |From:|Return-Path:|Received:|Message-I[Dd]:|Date:|Subject:)", data):
        return [Patch(path.name, p.subject, p.data, strip, p.mail) for p in split_mbox(data, path.name)]
    if not _DIFF.search(data):
        return []
    head = data[: len(data) - len(diff_of(data))].decode("utf-8", "replace")
    return [Patch(path.name, _title(head), data, strip)]


def _title(head: str) -> str:
    """Return what a diff's text calls it: Debian's Description, the indented title of `git show`, or its first line."""
    lines = [
        line for line in head.splitlines() if line.strip() and not re.match(r"Index: |=+$|commit [0-9a-f]{7,}", line)
    ]
    named = next((line for line in lines if re.match(r"(Description|Subject): *\S", line)), "")
    shown = next((line for line in lines if line.startswith("    ")), "") if "\nAuthor: " in f"\n{head}" else ""
    return re.sub(r"^(Description|Subject): *", "", (named or shown or next(iter(lines), "")).strip())


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}", hint="paths in a recipe start at the kernels folder") from None


def _mbox(item: recipes.MboxSeries, ctx: BuildContext) -> list[Patch]:
    """`{type: mbox, path:}`: a mailbox, gzipped or not; "-" is standard input."""
    if item.path == "-":
        return split_mbox(ctx.stdin(), "standard input")
    path = ctx.path(item.path)
    return split_mbox(_read(path), path.name)


def _patches(item: recipes.PatchesSeries, ctx: BuildContext) -> list[Patch]:
    """`{type: patches, path:}`: every *.patch and *.diff of a folder, by name."""
    folder = ctx.path(item.path)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder", hint="for a single file: {type: mbox, path: ...}")
    files = sorted(path for path in folder.iterdir() if path.suffix in {".patch", ".diff"})
    return [patch for path in files for patch in _from_file(path)]


def _quilt(item: recipes.QuiltSeries, ctx: BuildContext) -> list[Patch]:
    """`{type: quilt, path:}`: a folder with a `series` file: one patch a line, `#` for comments, -pN as in quilt."""
    folder = ctx.path(item.path)
    patches: list[Patch] = []
    for line in _read(folder / "series").decode().splitlines():
        words = re.sub(r"(^|\s)#.*", "", line).split()
        if not words:
            continue
        strip = 1
        for option in words[1:]:
            if not (match := re.fullmatch(r"-p([\dab]+)", option)):
                raise UserError(f"{folder}/series: option {option!r} of {words[0]} is not known", hint="only -pN")
            strip = int(match[1]) if match[1].isdigit() else 1  # -pab: quilt's word for a/ and b/
        patches += _from_file(folder / words[0], strip)
    return patches


def _git(item: recipes.GitSeries, ctx: BuildContext) -> list[Patch]:
    """`{type: git, path: or url:, range: base..tip}`: the commits of a range, as git format-patch prints them."""
    if item.url:
        repository = git.open_url(item.url, ctx)
        base, tip = (git.resolve_url(repository, name) for name in re.split(r"\.\.+", item.range, maxsplit=1))
        git.fetch(repository, tip, tip, ctx, history=True)
        revisions = f"{base}..{tip}"
    else:
        repository = git.open_local(ctx.path(item.path))
        for name in filter(None, re.split(r"\.\.+", item.range, maxsplit=1)):
            if not repository.commit(name):
                raise UserError(
                    f"{repository.path} has no revision {name!r}", hint="git fetch it there, then try again"
                )
        revisions = item.range
    with tempfile.TemporaryFile() as handle:
        words = ["git", "-C", str(repository.path), "format-patch", "--stdout", "--binary", "--full-index"]
        words += ["--no-signature", "--no-color", "--no-ext-diff", "--src-prefix=a/", "--dst-prefix=b/", revisions]
        proc.run(words, timeout_s=APPLY_S, env=git.environment(), stdout_to=handle)
        handle.seek(0)
        data = handle.read()
    return split_mbox(data, item.range) if data else []


def _message_id(item: recipes.MessageIdSeries, ctx: BuildContext) -> list[Patch]:
    """`{type: message-id, id:}`: a thread of the kernel's mailing lists, through `b4 am`; fetched once."""
    beside = Path(sys.executable).parent / "b4"
    program = str(beside) if beside.exists() else shutil.which("b4")
    if not program:
        raise HostError("b4 is not installed", hint="pip install b4")
    wanted = item.id.strip().strip("<>")

    def fetch(work: Path) -> None:
        words = [program, "am", "--no-add-trailers", "-o", "-", wanted]
        with (work / "series.mbox").open("wb") as handle:
            result = proc.run(words, timeout_s=B4_S, check=False, cwd=work, stdout_to=handle, cancel=ctx.cancel)
        ctx.check_cancel()
        if result.status != 0 or (work / "series.mbox").stat().st_size == 0:
            raise _b4_failure(wanted, result)

    path = ctx.cache.get("series", content_key("b4", wanted), fetch, label=f"series {wanted}")
    return split_mbox(_read(path / "series.mbox"), wanted)


def _b4_failure(wanted: str, result: proc.Result) -> LabError:
    text = result.stderr
    if result.timed_out or re.search(
        r"ConnectionError|Max retries|resolve|Network|timed out|CRITICAL.*(50\d|querying)", text
    ):
        return HostError(
            f"b4 cannot reach the mailing lists' archive for {wanted}",
            hint="is there a network? a saved mailbox does as well: series: {type: mbox, path: ...}",
            details=tuple(text.strip().splitlines()[-3:]),
        )
    last = (text.strip().splitlines() or ["it says nothing"])[-1]
    return UserError(f"b4 finds no series for {wanted}: {last}", hint="is the message-id right, without < and >?")


SERIES: dict[type[recipes.SeriesModel], Callable[[Any, BuildContext], list[Patch]]] = {
    recipes.GitSeries: _git,
    recipes.MboxSeries: _mbox,
    recipes.MessageIdSeries: _message_id,
    recipes.PatchesSeries: _patches,
    recipes.QuiltSeries: _quilt,
}
"""What a recipe says -> its reader. A new kind is a function above and a row here."""
