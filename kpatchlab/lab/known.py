"""`known.yaml` beside lab.yaml: failures that are known, why, until when. Reports mark them, and never leave them out.

A known issue takes a failure off the news; it does not hide a kernel report that was never seen before, however
widely its pattern is cast: `splat` matches what the history has, and the first sighting is always news.
"""

from __future__ import annotations

import datetime as dt
import fnmatch
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, WithJsonSchema, model_validator

from kpatchlab.lab.recipes import Needed
from kpatchlab.lab.yamlfile import FileModel, Problems, read

FILE = "known.yaml"

Day = Annotated[dt.date, WithJsonSchema({"type": "string", "format": "date"})]


class KnownIssue(FileModel):
    """One failure that is known."""

    case: str = Field(default="", description="`SCENARIO: CASE` of the check, or a glob; give this or `splat`")
    splat: str = Field(default="", description="fingerprint of the splat, or a glob; give this or `case`")
    column: str = Field(default="*", description="columns that the issue is about, a glob")
    message: str = Field(default="*", description="what the check has to say for it to be this issue, a glob")
    lane: str = Field(default="*", description="lanes of the nights that the issue is about, a glob")
    series: str = Field(default="*", description="title of the series that it is about, for `try`; a glob")
    version: str = Field(default="*", description="versions of that series, as in `v2`; a glob")
    reason: Needed = Field(description="what is wrong, in a few words")
    link: str = Field(default="", pattern=r"^(https?://\S+)?$", description="URL where people work on it")
    expires: Day | None = Field(default=None, description="last day on which the issue counts as known: YYYY-MM-DD")

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if bool(self.case) == bool(self.splat):
            raise ValueError("takes case or splat, not both" if self.case else "needs either case or splat")
        return self


class KnownFile(FileModel):
    """The known issues as their file has them."""

    known: tuple[KnownIssue, ...] = Field(default=(), description="the issues; the first one that matches counts")


@dataclass(frozen=True, slots=True)
class Known:
    """The issues that count today, and those that have expired."""

    issues: tuple[KnownIssue, ...] = ()
    expired: tuple[KnownIssue, ...] = field(default=())

    def of_case(
        self, text: str, column: str, lane: str, series: str = "", version: str = "", message: str = ""
    ) -> KnownIssue | None:
        """Return the issue that a check (`SCENARIO: CASE`) falls under; `series`, `version`: of a trial."""
        found = (i for i in self.issues if i.case and _fits(i, i.case, text, column, lane, series, version))
        return next((i for i in found if _matches(message, i.message)), None)

    def of_splat(
        self, fingerprint: str, column: str, lane: str, series: str = "", version: str = ""
    ) -> KnownIssue | None:
        """Return the issue that a splat falls under; `series`, `version`: of a trial."""
        found = (i for i in self.issues if i.splat and _fits(i, i.splat, fingerprint, column, lane, series, version))
        return next(found, None)


def _fits(issue: KnownIssue, pattern: str, text: str, column: str, lane: str, series: str, version: str) -> bool:
    places = ((column, issue.column), (lane, issue.lane), (series, issue.series), (version, issue.version))
    return _matches(text, pattern) and all(fnmatch.fnmatchcase(value, wanted) for value, wanted in places)


def _matches(text: str, pattern: str) -> bool:
    # In a check's name, [ begins parameters, not a set of characters.
    return fnmatch.fnmatchcase(text, pattern.replace("[", "[[]"))


def load_known(root: Path, today: dt.date, problems: Problems | None = None) -> Known:
    """Read the known issues of a lab; one without the file has none.

    Raises:
        UserError: the file has errors and `problems` is None; all of them at once.
    """
    own = problems or Problems(root)
    path = root / FILE
    document = read(path, own) if path.exists() else None
    file = document.parse(KnownFile) if document else None
    if problems is None:
        own.raise_if_any()
    issues = file.known if file else ()
    expired = tuple(issue for issue in issues if issue.expires and issue.expires < today)
    return Known(tuple(issue for issue in issues if issue not in expired), expired)
