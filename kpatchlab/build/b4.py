"""Series from the mailing lists, through `b4 am`."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

from kpatchlab import proc
from kpatchlab.build import git, posted
from kpatchlab.build.context import BuildContext
from kpatchlab.cache import content_key
from kpatchlab.errors import HostError, LabError, UserError
from kpatchlab.files import read_input
from kpatchlab.lab import recipes

B4_S = 300.0


def message_id(item: recipes.MessageIdSeries) -> str:
    """Return the message-id without angle brackets."""
    return item.id.strip().strip("<>")


def thread_key(item: recipes.MessageIdSeries) -> str:
    """Return the content key of what b4 fetched, in the cache's kind "series"."""
    return content_key("b4", message_id(item), *([item.version] if item.version else []))


def thread(item: recipes.MessageIdSeries, ctx: BuildContext) -> bytes:
    """Return the mailbox of a series' patches: what `b4 am` makes of a thread of the mailing lists, fetched once.

    Raises:
        UserError: there is no such series.
        HostError: there is no b4, or no way to the lists' archive.
    """
    beside = Path(sys.executable).parent / "b4"
    program = str(beside) if beside.exists() else shutil.which("b4")
    if not program:
        raise HostError("b4 is not installed", hint="pip install b4")
    wanted = message_id(item)
    if wanted.startswith("-"):
        raise UserError(f"{wanted!r} is no message-id", hint="it looks like 20230316152618.711970-1-name@example.org")

    def fetch(work: Path) -> None:
        number = posted.plain(item.version).removeprefix("rfc-")  # b4 counts an RFC by its number
        version = ["-v", number] if number else []
        words = [program, "am", "--no-add-trailers", *version, "-o", "-", wanted]
        with (work / "series.mbox").open("wb") as handle:
            result = proc.run(
                words, timeout_s=B4_S, check=False, cwd=work, stdout_to=handle, cancel=ctx.cancel,
                env=git.network_environment({"b4.save-maildirs": "no"}),
            )  # fmt: skip
        ctx.check_cancel()
        if result.status != 0 or (work / "series.mbox").stat().st_size == 0:
            raise _failure(wanted, result)

    path = ctx.cache.get("series", thread_key(item), fetch, label=f"series {wanted}")
    return read_input(path / "series.mbox")


def _failure(wanted: str, result: proc.Result) -> LabError:
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
