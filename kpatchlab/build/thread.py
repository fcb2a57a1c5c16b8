"""The mails of a series: which thread a reply belongs to, and to whom it goes."""

from __future__ import annotations

from collections.abc import Sequence
from email.message import Message

from kpatchlab.build import b4, mails, posted
from kpatchlab.build.context import BuildContext
from kpatchlab.errors import LabError
from kpatchlab.files import read_input
from kpatchlab.lab import recipes
from kpatchlab.model import Thread
from kpatchlab.textclean import one_line


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
        wanted = b4.message_id(item) if isinstance(item, recipes.MessageIdSeries) else ""
        first = next((h for h in heads if wanted and _id(h) == wanted), None) or min(heads, key=_rank, default=None)
        if first is not None:
            found = _thread(kernel, first)
            # b4 hands over the patches without their cover letter; the recipe names the mail that is answered.
            return found if not wanted else Thread(kernel, found.subject, wanted, found.sender, found.to, found.cc)
        if wanted:
            return Thread(kernel, "", wanted)
    return None


def _heads(item: recipes.SeriesModel, ctx: BuildContext) -> list[Message]:
    """Return the headers of one item's mails that have a message id, replies left out."""
    match item:
        case recipes.MessageIdSeries():
            found = [read_input(ctx.cache.path("series", b4.thread_key(item)) / "series.mbox")]
        case recipes.MboxSeries(path="-"):
            found = [ctx.stdin()]
        case recipes.MboxSeries():
            found = [read_input(ctx.path(item.path))]
        case recipes.PatchesSeries() | recipes.QuiltSeries():
            names = sorted(p for p in ctx.path(item.path).iterdir() if p.is_file())[: mails.MAX_PATCHES]
            found = [read_input(path) for path in names if path.suffix in {".patch", ".diff", ".mbox", ""}]
        case _:
            return []
    found = [mails.unpacked(data, item.where) for data in found]
    every = [head for data in found if mails.is_mail(data) for head in mails.heads(data, item.where)]
    mine = [head for head in every if _id(head) and not _tags(head).reply]
    chosen = posted.plain(item.version) if isinstance(item, recipes.MboxSeries | recipes.PatchesSeries) else ""
    return [head for head in mine if _tags(head).word.removeprefix("rfc-") == chosen.removeprefix("rfc-")] or mine


def _id(head: Message) -> str:
    return next(iter(mails.ids(head, "message-id")), "")


def _tags(head: Message) -> mails.Tags:
    return mails.tags_of(mails.header(head, "subject"))


def _rank(head: Message) -> tuple[bool, int, int, int]:
    """Order by version, the newest first and an RFC last, then by number."""
    tags = _tags(head)
    return tags.rfc, -tags.version[0], -tags.version[1], tags.number or 0


def _thread(kernel: str, head: Message) -> Thread:
    subject = one_line(mails.header(head, "subject"), 500)
    sender = next(iter(mails.addresses(head, "from")), "")
    return Thread(kernel, subject, _id(head), sender, mails.addresses(head, "to"), mails.addresses(head, "cc"))
