"""What a trial found, as checks on a patchwork server: the requests, and sending them.

Patchwork (2.2 and later, API 1.2) has checks on patches alone, none on series: what the whole series was tested for is
told of its last patch, with which it is whole. A check's context is a slug, its target a URL of at most 200 characters.
A server finds a patch by the message-id of its mail, and a mail to several lists is a patch in several projects.

Nothing is sent but by `Poster`. The account's token is in a header that no redirect passes on, and in no message: what
goes wrong is told by the server's status or the kind of error.
"""

from __future__ import annotations

import http.client
import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from kpatchlab.build.patchset import Patch
from kpatchlab.errors import LabError, UserError
from kpatchlab.lab.load import Lab
from kpatchlab.lab.patchwork import Patchwork
from kpatchlab.lab.secret import secret
from kpatchlab.series.judge import Table
from kpatchlab.series.review import Check, Status, of_row
from kpatchlab.textclean import one_line

FILE = "patchwork.json"
API = "api/1.2"
TOKEN = "KPATCHLAB_PATCHWORK_TOKEN"  # noqa: S105 - the name of a variable
TIMEOUT_S = 30.0
MAX_ANSWER_BYTES = 4 << 20
URL_CHARS = 200
"""Of a target: Django's URLField."""
_STATES = {Status.PASS: "success", Status.WARN: "warning", Status.FAIL: "fail"}
_CREATED = 201
_REFUSALS = {
    400: "the server does not take the request; is there a project of that name?",
    401: "the server does not know the token",
    403: "the account may not add checks",
    404: "there is nothing at this URL",
}


@dataclass(frozen=True, slots=True)
class PatchCheck:
    """One check of one patch.

    Attributes:
        number: the patch's in its series.
        message_id: of the patch's mail, without angle brackets.
        body: what is sent: context, state, description and, where there is a page, target_url.
    """

    number: int
    message_id: str
    body: dict[str, str]


def checks_of(patches: Sequence[Patch], whole: Check, table: Table | None, pages: Sequence[str]) -> list[PatchCheck]:
    """Return the checks of each patch that came as a mail.

    Args:
        whole: the scenarios' check of the series.
        table: of the walk over the patches, None where there was none.
        pages: the URLs of the run's page and of the walk's, "" for none.
    """
    rows = {row.facts.number: row for row in table.rows} if table else {}
    found = []
    for number, patch in enumerate(patches, 1):
        own = [(check, pages[-1]) for check in (of_row(rows[number]) if number in rows else ())]
        own += [(whole, pages[0])] if number == len(patches) else []
        found += [PatchCheck(number, patch.message_id, _body(*one)) for one in own if patch.message_id]
    return found


def _body(check: Check, page: str) -> dict[str, str]:
    return {
        "context": re.sub(r"[^A-Za-z0-9_-]+", "-", check.tool),
        "state": _STATES[check.status],
        "description": check.summary,
        **({"target_url": page} if page and len(page) <= URL_CHARS else {}),
    }


def document(settings: Patchwork, checks: Sequence[PatchCheck]) -> bytes:
    """Return the requests as JSON, each with the question that finds its patch's number."""
    rows = [
        {
            "patch": check.number,
            "find": _question(settings, check.message_id),
            "post": _url(settings, "patches/{id}/checks/"),
            "body": check.body,
        }
        for check in checks
    ]
    return json.dumps(rows, indent=1).encode() + b"\n"


def _url(settings: Patchwork, path: str) -> str:
    return f"{settings.url}/{API}/{path}"


def _question(settings: Patchwork, message_id: str) -> str:
    words = {"msgid": message_id} | ({"project": settings.project} if settings.project else {})
    return _url(settings, f"patches/?{urlencode(words)}")


class _Stop(LabError):
    """The server takes nothing."""


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: urllib makes a GET of a POST, whose answer looks like one to the POST."""

    def redirect_request(self, *_: Any) -> None:
        """Follow none."""


class Poster:
    """Sends checks to a server."""

    def __init__(self, settings: Patchwork, token: str) -> None:
        self._settings, self._token = settings, token
        self._opener = urllib.request.build_opener(_Stay())
        self._numbers: dict[str, int] = {}

    @classmethod
    def of(cls, lab: Lab, patches: Sequence[Patch]) -> Poster:
        """Return what sends the checks of a series.

        Raises:
            UserError: the lab names no server or no token, or no patch came as a mail.
        """
        if lab.patchwork is None:
            raise UserError("--post: the lab file names no server", hint="patchwork: {url: ...}, see docs/try.md")
        token = secret(lab.patchwork.token_file, TOKEN, lab.root)
        if not re.fullmatch(r"[!-~]+", token):
            raise UserError("--post: patchwork's token is empty, or no token", hint="your profile there shows it")
        if not any(patch.message_id for patch in patches):
            raise UserError(
                "--post: the series has no message-ids, by which patchwork finds a patch",
                hint="take it from the thread: b4 am -o - MESSAGE-ID",
            )
        return cls(lab.patchwork, token)

    def post(self, checks: Sequence[PatchCheck]) -> Iterator[str]:
        """Send checks; yield a line for each patch that is not there, one where the server takes no more, one at last.

        Whatever the server does, nothing is raised.
        """
        sent, unknown = 0, set[str]()
        for check in checks:
            if check.message_id in unknown:
                continue
            try:
                self._send(self._number(check.message_id), check.body)
                sent += 1
            except _Stop as error:
                yield f"patchwork: {error.message}"
                break
            except UserError as error:
                unknown.add(check.message_id)
                yield f"patchwork: patch {check.number}: {error.message}"
        yield f"patchwork: {sent} of {len(checks)} checks posted to {self._settings.url}"

    def _number(self, message_id: str) -> int:
        """Return the server's number of a patch.

        Raises:
            UserError: it has none, or several.
            _Stop: it does not say.
        """
        if message_id not in self._numbers:
            found = self._ask(_question(self._settings, message_id))
            if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
                raise _Stop(f"{self._settings.url} does not answer as patchwork's API 1.2 does")
            # A server that does not know the question would answer with whatever patches it has.
            found = [row for row in found if str(row.get("msgid", "")).strip("<>") == message_id]
            if len(found) > 1:
                projects = ", ".join(sorted({one_line(str(_project(row)), 60) for row in found}))
                raise UserError(f"it is in several projects, {projects}: name one as `project`")
            if not found or not isinstance(found[0].get("id"), int):
                raise UserError(f"{self._settings.url} has no patch <{one_line(message_id, 100)}>")
            self._numbers[message_id] = found[0]["id"]
        return self._numbers[message_id]

    def _send(self, number: int, body: dict[str, str]) -> None:
        self._ask(_url(self._settings, f"patches/{number}/checks/"), json.dumps(body).encode())

    def _ask(self, url: str, data: bytes | None = None) -> Any:
        """Return the JSON that a server answers.

        Raises:
            _Stop: it cannot be reached, refuses, or answers something else.
        """
        headers = {"Accept": "application/json"} | ({"Content-Type": "application/json"} if data else {})
        request = urllib.request.Request(url, data, headers)  # noqa: S310 - the lab file's model has looked at it
        request.add_unredirected_header("Authorization", f"Token {self._token}")
        place = self._settings.url
        try:
            with self._opener.open(request, timeout=TIMEOUT_S) as answer:
                if data and answer.status != _CREATED:
                    raise _Stop(f"{place} answers {answer.status} to a check, which it has not taken")
                return json.loads(answer.read(MAX_ANSWER_BYTES))
        except urllib.error.HTTPError as error:
            error.close()
            moved = 300 <= error.code < 400
            why = "it leads to another URL: name that one" if moved else _REFUSALS.get(error.code, "try again later")
            raise _Stop(f"{place} answers {error.code}: {why}") from None
        except urllib.error.URLError as error:
            why = getattr(error.reason, "strerror", "") or type(error.reason).__name__
            raise _Stop(f"{place} cannot be reached: {why}") from None
        except (OSError, http.client.HTTPException, ValueError, RecursionError) as error:
            raise _Stop(f"{place} does not answer as it should: {type(error).__name__}") from None


def _project(row: dict[str, Any]) -> object:
    found = row.get("project")
    return found.get("link_name", "?") if isinstance(found, dict) else "?"
