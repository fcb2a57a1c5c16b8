"""Mails with patches, read as `git am` reads them: `git mailsplit` splits a mailbox, `git mailinfo` decodes a mail.

Git says nothing of versions and numbers; these are in the subject, which is read here (`tags_of`).
"""

from __future__ import annotations

import binascii
import email.utils
import functools
import gzip
import io
import re
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.message import Message
from email.parser import BytesHeaderParser
from email.policy import compat32
from functools import cached_property
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from kpatchlab import proc
from kpatchlab.build import diffs, git
from kpatchlab.errors import UserError
from kpatchlab.files import MAX_INPUT_BYTES
from kpatchlab.textclean import one_line

GIT_S = 120.0
MAX_MAILS = 20_000
MAX_PATCHES = 2_000
"""More is no series: a whole release of Linux is better named as a range of commits. Git takes some 5 ms for each."""
KEPT, KEPT_BYTES = 256, 2 << 20
"""How many mailboxes and mail files stay decoded, and up to which size."""
_MARK = b"\xef\xbb\xbf"
"""What some programs write in front of UTF-8."""
_HEAD_BYTES = 256 << 10
_HEADER_CHARS = 20_000
_FIELD = re.compile(rb"[!-9;-~]+:")
_MAIL_FIELDS = re.compile(
    rb"^(from|subject|date|message-id|received|return-path|delivered-to|mime-version|content-[a-z-]+|list-[a-z-]+|"
    rb"to|cc|reply-to|sender|in-reply-to|references|x-[!-9;-~]+|dkim-signature|authentication-results|arc-[a-z-]+)"
    rb"[ \t]*:",
    re.IGNORECASE | re.MULTILINE,
)
_WHOSE = re.compile(rb"^(from|subject|date|message-id|content-transfer-encoding)[ \t]*:", re.IGNORECASE | re.MULTILINE)
_REPLY = re.compile(r"\s*(re|aw|sv|antw|fwd?)\s*(\[\d+\])?\s*:", re.IGNORECASE)
_BRACKET = re.compile(r"\s*\[([^\[\]]*(?:\[[^\[\]]*\][^\[\]]*)*)\]\s*")
_COUNTER = re.compile(r"(\d{1,4})/(\d{1,4})")
_OF = re.compile(r"\b(\d{1,4}) of (\d{1,4})\b")  # as Mercurial writes it
_VERSION = re.compile(r"(?:patch|rfc|resend)?-?v(?:er)?(\d{1,4})(?:\.(\d{1,4}))?", re.IGNORECASE)
_WORD = re.compile(r"=\?([^?\s]+)\?([bBqQ])\?(.*?)\?=")
"""RFC 2047's encoded word; as git-mailinfo(1) has it, blanks and question marks may be in its text."""
_WORDS = re.compile(r"=\?[^?\s]+\?[bBqQ]\?.*?\?=(?:\s*=\?[^?\s]+\?[bBqQ]\?.*?\?=)*")


@dataclass(frozen=True, slots=True)
class Tags:
    """What a mail's subject says in front of its title: `[PATCH net-next v3 02/10]`.

    Attributes:
        version: (3, 0) for v3, (2, 1) for v2.1; (1, 0) where it says none.
        number: 2; None where it has no n/m. 0 is the cover letter.
        total: 10; 0 where it has no n/m.
        patch: it says PATCH.
        rfc: it says RFC.
        pull: it asks to pull: `[GIT PULL]`. What is numbered under `[PULL 2/10]` is a patch all the same.
    """

    title: str
    version: tuple[int, int] = (1, 0)
    number: int | None = None
    total: int = 0
    reply: bool = False
    resend: bool = False
    patch: bool = False
    rfc: bool = False
    pull: bool = False

    @property
    def word(self) -> str:
        """What names the version, see `version_word`."""
        return version_word(self.version, rfc=self.rfc)

    @property
    def label(self) -> str:
        """What people call the version, see `version_label`."""
        return version_label(self.version, rfc=self.rfc)


def version_word(version: tuple[int, int], *, rfc: bool) -> str:
    """Return what names a version where one is chosen: "2", "2.1", "rfc-1"."""
    return f"{'rfc-' if rfc else ''}{version[0]}" + (f".{version[1]}" if version[1] else "")


def version_label(version: tuple[int, int], *, rfc: bool) -> str:
    """Return what people call a version: "v2", "RFC v1"."""
    return ("RFC v" if rfc else "v") + version_word(version, rfc=False)


def tags_of(subject: str) -> Tags:
    """Return what a subject says; the last n/m and the last version count, each a word of its own.

    Patchwork parts the words by commas: `[net-next,v3,02/10]`.

    >>> tags_of("[PATCH 5.15/6.1 v2 1/3] net: one").number
    1
    """
    rest, words = subject, list[str]()
    reply = bool(_REPLY.match(rest))
    while match := _REPLY.match(rest):
        rest = rest[match.end() :]
    while match := _BRACKET.match(rest):
        words += re.split(r"[\s,;:()\[\]]+", _OF.sub(r"\1/\2", match[1]))
        rest = rest[match.end() :]
    counters = [found for word in words if (found := _COUNTER.fullmatch(word))]
    versions = [found for word in words if (found := _VERSION.fullmatch(word))]
    return Tags(
        rest.strip(),
        (int(versions[-1][1]), int(versions[-1][2] or 0)) if versions else (1, 0),
        int(counters[-1][1]) if counters else None,
        int(counters[-1][2]) if counters else 0,
        reply,
        any(word.lower().startswith("resend") for word in words),
        any("patch" in word.lower() for word in words),
        any(word.lower().startswith("rfc") for word in words),
        any(re.fullmatch(r"(git-?)?pull", word, re.IGNORECASE) for word in words) and not counters,
    )


@dataclass(frozen=True)
class Mail:
    """One mail, decoded to UTF-8.

    Attributes:
        where: its place, for messages: "s.mbox [2/3]", or "s.mbox, mail 4" where its subject has no number.
        author: "Name <address>", the one whom a line `From:` in the text names where there is one.
        sender: who sent it, "Name <address>".
        references: the message ids that it answers, the thread's first mail first.
        text: what is before the diff, the commit's message.
        diff: the patch, with what is between it and the text (the diffstat); b"" where there is none.
        flowed: its program says format=flowed: it may have changed the blanks of the patch.
    """

    where: str
    subject: str
    author: str
    sender: str
    date: str
    message_id: str
    references: tuple[str, ...]
    text: bytes = field(repr=False)
    diff: bytes = field(repr=False)
    flowed: bool = False

    @cached_property
    def tags(self) -> Tags:
        """What its subject says."""
        return tags_of(self.subject)

    @property
    def is_patch(self) -> bool:
        """Whether it has a patch that is meant: a cover letter's and a pull request's diff is for people."""
        return bool(self.diff) and self.tags.number != 0 and not self.tags.pull

    @cached_property
    def changes(self) -> bytes:
        """What its patch changes, to compare two mails by: without text, blobs' ids and what stands behind it."""
        return diffs.essence(self.diff)

    def whole(self) -> bytes:
        """Return it as one text, for checks that read both the message and the diff."""
        lines = f"From: {self.author}\nDate: {self.date}\nSubject: {self.subject}\n"
        return lines.encode("utf-8", "replace") + b"\n" + self.text + b"---\n" + self.diff


def is_mail(data: bytes) -> bool:
    """Whether a file's bytes, `unpacked`, are a mail or a mailbox, and not a diff alone or one with words before it.

    As `git am` sees it: every line before the first empty one is a header. One of them has to be a mail's.
    """
    if data.startswith(b"From "):
        return True
    head = _head(data)
    lines = head.splitlines()
    plain = all(_FIELD.match(line) or line[:1] in {b" ", b"\t"} or line.startswith(b">From ") for line in lines)
    return bool(lines) and plain and bool(_MAIL_FIELDS.search(head) and _WHOSE.search(head))


def unpacked(data: bytes, name: str) -> bytes:
    """Return a file's bytes, unpacked where it is gzipped.

    Raises:
        UserError: it cannot be unpacked, or it becomes larger than any series.
    """
    if data[:2] != b"\x1f\x8b":
        return data.removeprefix(_MARK)
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as handle:
            found = handle.read(MAX_INPUT_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{name}: cannot be unpacked: {error}", hint="is the file whole? gzip -t tests it") from None
    if len(found) > MAX_INPUT_BYTES:
        raise UserError(f"{name}: it unpacks to more than {MAX_INPUT_BYTES >> 20} MiB", hint="no series is that large")
    return found.removeprefix(_MARK)


def heads(data: bytes, name: str) -> Iterator[Message]:
    """Yield the headers of every mail in a mailbox or mail file, `unpacked`; `header` and `ids` read their values."""
    for _, raw in _split(data, name):
        yield _headers(raw)


def read(data: bytes, name: str) -> list[Mail]:
    """Return the mails of a mailbox or mail file, `unpacked`, in its order, answers (`Re:`) left out.

    The same bytes are decoded once in a process, unless they are many: a run asks for its series dozens of times.

    Raises:
        UserError: git cannot read it, or one mail of it, which is named.
    """
    return list((_kept if len(data) <= KEPT_BYTES else _read)(data, name))


def _read(data: bytes, name: str) -> tuple[Mail, ...]:
    found: list[Mail] = []
    with tempfile.TemporaryDirectory(prefix="kpatchlab-mail-") as scratch:
        for number, raw in _split(data, name):
            head = _headers(raw)
            tags = tags_of(header(head, "subject"))
            if tags.reply:
                continue
            where = f"{name} [{tags.number}/{tags.total}]" if tags.number is not None else f"{name}, mail {number}"
            found.append(_decoded(raw, head, where, Path(scratch)))
            if len(found) > MAX_PATCHES:
                raise UserError(f"{name}: more than {MAX_PATCHES} mails that are no answers: no series", hint=_RANGE)
    return tuple(found)


_kept = functools.lru_cache(KEPT)(_read)
_RANGE = "commits of a repository are named as a range: series: {type: git, path: ..., range: ...}"


def _split(data: bytes, name: str) -> Iterator[tuple[int, bytes]]:
    """Yield each mail's number and bytes, with line feeds alone where its own header ends its lines with CRLF."""
    if data.count(b"\nFrom ") > MAX_MAILS:
        raise UserError(f"{name}: more than {MAX_MAILS} mails: no series", hint=_RANGE)
    with tempfile.TemporaryDirectory(prefix="kpatchlab-mbox-") as scratch:
        words = ["git", "mailsplit", "-b", "--keep-cr", f"-o{scratch}"]
        # public-inbox and b4 quote every line of a text that begins with "From ", as mboxrd does.
        words += ["--mboxrd"] if data.startswith(b"From mboxrd@z ") else []
        result = proc.run(
            words, timeout_s=GIT_S, check=False, env=git.plain_environment(), cwd=Path(scratch), input_bytes=data
        )
        if result.status != 0:
            raise UserError(
                f"{name}: git cannot read this mailbox: {_last(result)}", hint="is it a mailbox, or one mail?"
            )
        for path in sorted(Path(scratch).glob("[0-9]*"), key=lambda path: int(path.name)):
            raw = path.read_bytes().lstrip(b"\r\n")
            line = raw.split(b"\n", 1)[0]
            yield int(path.name), raw.replace(b"\r\n", b"\n") if line.endswith(b"\r") else raw


def _decoded(raw: bytes, head: Message, where: str, folder: Path) -> Mail:
    message, diff = folder / "message", folder / "diff"
    # Not --encoding=UTF-8, with which git 2.39.5 decodes nothing.
    words = ["git", "-c", "i18n.commitEncoding=UTF-8", "mailinfo", "-u"]
    words += ["-k", "--no-scissors", "--quoted-cr=nowarn"]
    result = proc.run(
        [*words, str(message), str(diff)],
        timeout_s=GIT_S, check=False, env=git.plain_environment(), cwd=folder, input_bytes=raw,
    )  # fmt: skip
    subject = header(head, "subject")
    if result.status != 0:
        raise UserError(
            f"{where} ({one_line(subject, 80)}): git cannot read this mail: {_last(result)}",
            hint="git mailinfo says the same of it; take it out, or have it sent again as plain text",
        )
    said = dict(line.split(": ", 1) for line in result.stdout.splitlines() if ": " in line)
    found = diff.read_bytes()
    return Mail(
        where,
        one_line(subject or said.get("Subject", ""), 500),
        one_line(f"{said.get('Author', '')} <{said.get('Email', '')}>"),
        next(iter(addresses(head, "from")), ""),
        one_line(said.get("Date", "")),
        next(iter(ids(head, "message-id")), ""),
        tuple(dict.fromkeys(ids(head, "references") + ids(head, "in-reply-to"))),
        message.read_bytes(),
        diffs.with_line_feeds(found) if diffs.has_diff(found) else b"",
        "flowed" in header(head, "content-type").lower(),
    )


def _last(result: proc.Result) -> str:
    if result.timed_out:
        return f"no end in {result.duration_s:.0f} s"
    return one_line((result.stderr.strip().splitlines() or [f"{result.argv[1]} ends with {result.status}"])[-1])


# ---------------------------------------------------------------------------------------------- headers


def _head(data: bytes) -> bytes:
    """Return the lines before the first empty one."""
    text = data[:_HEAD_BYTES].removeprefix(_MARK).lstrip(b"\r\n").replace(b"\r\n", b"\n")
    return text.partition(b"\n\n")[0] + b"\n"


def _headers(raw: bytes) -> Message:
    text = re.sub(rb"\A>?From [^\n]*\n", b"", _head(raw))
    return BytesHeaderParser(policy=compat32).parsebytes(text + b"\n")


def header(mail: Message, name: str) -> str:
    """Return a header's value as text on one line, "" for none; what cannot be decoded stays as it is."""
    return _text(next(iter(_values(mail, name)), ""))


def _values(mail: Message, name: str) -> list[str]:
    """Return the values of a header as they stand; bytes that no RFC 2047 names are UTF-8, as for git-mailinfo(1)."""
    found = []
    for key, value in mail.raw_items():
        if key.lower() == name.lower():
            data = str(value).encode("utf-8", "surrogateescape")
            try:
                found.append(data.decode())
            except UnicodeDecodeError:
                found.append(data.decode("latin-1"))
    return [value[:_HEADER_CHARS] for value in found]


def _text(raw: str) -> str:
    found = _WORDS.sub(_of_words, " ".join(raw.split()))
    return " ".join(found.encode("utf-8", "replace").decode("utf-8", "replace").split())


def _of_words(run: re.Match[str]) -> str:
    """Return what a run of encoded words says, without the blanks between them; as it is where that is unknown.

    `email.header` takes the letters around them for ASCII, and reads them wrong where they are not.
    """
    words = ((charset.partition("*")[0].lower(), _bytes(kind, text)) for charset, kind, text in _WORD.findall(run[0]))
    try:
        # A program may part one letter's bytes between two words.
        alike = [(charset, b"".join(data for _, data in group)) for charset, group in groupby(words, itemgetter(0))]
        return "".join(data.decode(charset) for charset, data in alike)
    except (ValueError, LookupError):  # a charset that Python does not know; broken base64
        return run[0]


def _bytes(kind: str, text: str) -> bytes:
    if kind in "qQ":
        return binascii.a2b_qp(text.encode("utf-8", "replace"), header=True)
    return binascii.a2b_base64(text + "===")  # some leave out what fills the last four


def ids(mail: Message, name: str) -> tuple[str, ...]:
    """Return the message ids of a header, without angle brackets."""
    text = one_line(header(mail, name), _HEADER_CHARS)
    return tuple(re.findall(r"<([^<>\s]+)>", text)) or tuple(word.strip("<>") for word in text.split()[:1])


def addresses(mail: Message, name: str) -> tuple[str, ...]:
    """Return the addresses of a header, "Name <address>"."""
    try:
        pairs = email.utils.getaddresses(_values(mail, name))
    except (ValueError, IndexError, RecursionError):  # Python's parser on comments that are nested a thousand deep
        return ()
    return tuple(one_line(_address(person, address)) for person, address in pairs if "@" in address)


def _address(person: str, address: str) -> str:
    name = _text(person)
    if not name:
        return address
    quoted = f'"{name}"' if re.search(r'[()<>@,:;".\[\]\\]', name) else name
    return f"{quoted} <{address}>"
