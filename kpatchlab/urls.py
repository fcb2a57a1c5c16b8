"""URLs with a user, a password or a token in them: the one place that hides these, and that takes them apart.

A secret in a URL is shown nowhere: every message hides it (`errors.LabError`), and so does what is stored or printed of
a recipe. It is in no process's arguments either, which all users of a host can read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit

if TYPE_CHECKING:
    import urllib.request

_URL = re.compile(r"\b([a-z][a-z0-9+.-]*://)([^\s'\"<>`]+)", re.IGNORECASE)
_REMOTE = re.compile(r"^[^\s/:@]+:[^\s/]*@(?=[^\s/@]+:)")
"""`user:password@host:path`: ssh takes `user@host:path` in the place of a URL, which has no secret in it."""


def hide(text: str) -> str:
    """Return a text with the user, the password and the query of each URL in it left out.

    >>> hide("cannot fetch HTTPS://me:p@ss@host:8443/x.git?token=1#2: no")
    'cannot fetch HTTPS://host:8443/x.git?...: no'
    >>> hide("git+https://host/x")
    'git+https://host/x'
    """
    return _URL.sub(_hidden, text) if "://" in text else text


def shown(url: str) -> str:
    """Return a URL, or what ssh takes in its place, as people and stored runs may see it."""
    return hide(url) if "://" in url else _REMOTE.sub("", url)


def _hidden(match: re.Match[str]) -> str:
    scheme, rest = match[1], match[2]
    place, mark, _ = _cut(rest)
    end = ":" if mark and rest.endswith(":") else ""  # of the sentence that it stands in
    return f"{scheme}{_without_user(place)}{'?...' if mark else ''}{end}"


def _cut(rest: str) -> tuple[str, str, str]:
    """Return what stands before the query or the fragment, its mark, and the query."""
    found = re.search(r"[?#]", rest)
    at = found.start() if found else len(rest)
    # A question mark or a slash in a password, which should have been written with %: the host is behind the last @.
    if "@" in rest[at:] and not _is_host(rest[:at].partition("/")[0]):
        at = len(rest)
        host = rest.rfind("@")
        if later := re.search(r"[?#]", rest[host:]):
            at = host + later.start()
    return rest[:at], rest[at : at + 1], rest[at + 1 :]


def _without_user(place: str) -> str:
    host, slash, path = place.partition("/")
    if "@" in path and "@" not in host and not _is_host(host):
        return place.rpartition("@")[2]
    return host.rpartition("@")[2] + slash + path


def _is_host(text: str) -> bool:
    return bool(re.fullmatch(r"([^:@]*|.*\])(:\d*)?:?", text.rpartition("@")[2]))


@dataclass(frozen=True, slots=True)
class Account:
    """A URL without its user and password, and these, decoded; both "" where it has none."""

    url: str
    user: str = ""
    password: str = ""


def account(url: str) -> Account:
    """Take a URL apart; what is no http or https URL has no account, and ssh keeps its user but no password."""
    scheme, mark, rest = url.partition("://")
    if not mark:
        return Account(url)
    place, parted, query = _cut(rest)
    query = parted + query
    bare = _without_user(place)
    who = place[: len(place) - len(bare)].removesuffix("@")
    user, _, password = who.partition(":")
    if scheme.lower() in {"http", "https"}:
        return Account(f"{scheme}{mark}{bare}{query}", unquote(user), unquote(password))
    return Account(f"{scheme}{mark}{user}{'@' if user else ''}{bare}{query}")


def authorized(url: str, data: bytes | None = None, **headers: str) -> urllib.request.Request:
    """Return a request for an http or https URL; its user and password are in a header that no redirect passes on."""
    import base64
    import urllib.request

    found = account(url)
    request = urllib.request.Request(found.url, data, headers)  # noqa: S310 - the caller has looked at the scheme
    if found.user or found.password:
        secret = base64.b64encode(f"{found.user}:{found.password}".encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {secret}")
    return request


def credentials_line(found: Account) -> str:
    """Return the line of an account in the file of git's `credential store` (gitcredentials(7))."""
    parts = urlsplit(found.url)
    return f"{parts.scheme}://{quote(found.user, safe='')}:{quote(found.password, safe='')}@{parts.netloc}\n"
