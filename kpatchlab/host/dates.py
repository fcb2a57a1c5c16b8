"""When what a Debian mirror hands out was made, and until when it is good."""

from __future__ import annotations

import datetime as dt
import email.utils
import re
from pathlib import Path

_AR_MAGIC = b"!<arch>\n"
_AR_DATE = slice(24, 36)  # ar(5): the first member's name has 16 characters, its date 12


def made(deb: Path) -> dt.datetime | None:
    """Return when a package was built, which is its changelog's date; None where the file is no package."""
    with deb.open("rb") as handle:
        head = handle.read(_AR_DATE.stop)
    stamp = head[_AR_DATE].strip()
    return dt.datetime.fromtimestamp(int(stamp), dt.UTC) if head.startswith(_AR_MAGIC) and stamp.isdigit() else None


def valid_until(lists: Path) -> dt.datetime | None:
    """Return when the first of the Release files in apt's folder of lists ends; None where none of them does."""
    found = []
    for path in lists.glob("*Release"):
        if match := re.search(r"^Valid-Until: *(\S.*)$", path.read_text(errors="replace"), re.MULTILINE):
            try:
                found.append(email.utils.parsedate_to_datetime(match[1].strip()).replace(tzinfo=dt.UTC))
            except ValueError:
                continue
    return min(found, default=None)
