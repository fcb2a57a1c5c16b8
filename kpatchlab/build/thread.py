"""The mails of a series: which thread a reply belongs to, and to whom it goes."""

from __future__ import annotations

import email.policy
import gzip
import mailbox
import re
import tempfile
from collections.abc import Sequence
from email.message import EmailMessage
from email.parser import BytesParser
from pathlib import Path

from kpatchlab.build.context import BuildContext
from kpatchlab.cache import content_key
from kpatchlab.errors import LabError
from kpatchlab.lab import recipes
from kpatchlab.model import Thread
from kpatchlab.textclean import one_line

MAIL_HEADS = re.compile(rb"(?:From |From:|Return-Path:|Received:|Message-I[Dd]:|Date:|Subject:)")
_NUMBER = re.compile(r"\[[^\]]*?(\d+)/\d+[^\]]*\]")


def thread_of(kernel: str, items: Sequence[recipes.SeriesModel], ctx: BuildContext) -> Thread | None:
    """Return the thread of a kernel's series: its cover letter's, else its first patch's; None where it is no mail.

    The last part of a recipe's `series` that came by mail counts: what is under test stands on what is before it.
    Nothing is fetched: a series from a list is in the cache once its kernel was built.
    """
    for item in reversed(items):
        try:
            heads = _heads(item, ctx)
        except (LabError, OSError, ValueError):
            heads = []
        wanted = _message(item) if isinstance(item, recipes.MessageIdSeries) else ""
        first = next((h for h in heads if wanted and _id(h) == wanted), None) or min(heads, key=_rank, default=None)
        if first is not None:
            found = _thread(kernel, first)
            # b4 hands over the patches without their cover letter; the recipe names the mail that is answered.
            return found if not wanted else Thread(kernel, found.subject, wanted, found.sender, found.to, found.cc)
        if wanted:
            return Thread(kernel, "", wanted)
    return None


def _message(item: recipes.MessageIdSeries) -> str:
    return item.id.strip().strip("<>")


def _heads(item: recipes.SeriesModel, ctx: BuildContext) -> list[EmailMessage]:
    """Return the mails of one item that have a message id, replies left out."""
    match item:
        case recipes.MessageIdSeries():
            path = ctx.cache.path("series", content_key("b4", _message(item))) / "series.mbox"
            data = [path.read_bytes()]
        case recipes.MboxSeries(path="-"):
            data = [ctx.stdin()]
        case recipes.MboxSeries():
            data = [ctx.path(item.path).read_bytes()]
        case recipes.PatchesSeries() | recipes.QuiltSeries():
            names = sorted(p for p in ctx.path(item.path).iterdir() if p.is_file())
            data = [path.read_bytes() for path in names if path.suffix in {".patch", ".diff", ".mbox", ""}]
        case _:
            return []
    mails = [mail for blob in data for mail in _mails(blob)]
    return [m for m in mails if _id(m) and not str(m["subject"] or "").lower().startswith("re:")]


def _mails(data: bytes) -> list[EmailMessage]:
    if data[:2] == b"\x1f\x8b":
        data = gzip.decompress(data)
    if not MAIL_HEADS.match(data):
        return []
    if not data.startswith(b"From "):
        return [_parsed(data)]
    with tempfile.TemporaryDirectory(prefix="kpatchlab-thread-") as scratch:
        path = Path(scratch) / "mbox"
        path.write_bytes(data)
        box = mailbox.mbox(path, create=False)
        try:
            return [_parsed(box.get_bytes(key)) for key in box.keys()]  # noqa: SIM118 - a mailbox iterates its mails
        finally:
            box.close()


def _parsed(data: bytes) -> EmailMessage:
    found = BytesParser(policy=email.policy.default).parsebytes(data, headersonly=True)
    assert isinstance(found, EmailMessage)
    return found


def _id(mail: EmailMessage) -> str:
    return one_line(str(mail["message-id"] or ""), 500).strip("<> ")


def _rank(mail: EmailMessage) -> int:
    match = _NUMBER.search(str(mail["subject"] or ""))
    return int(match[1]) if match else 0


def _thread(kernel: str, mail: EmailMessage) -> Thread:
    def addresses(name: str) -> tuple[str, ...]:
        found = [a for header in mail.get_all(name, []) for a in getattr(header, "addresses", ())]
        return tuple(one_line(str(a), 300) for a in found if a.addr_spec)

    subject = one_line(str(mail["subject"] or ""), 500)
    return Thread(kernel, subject, _id(mail), next(iter(addresses("from")), ""), addresses("to"), addresses("cc"))
