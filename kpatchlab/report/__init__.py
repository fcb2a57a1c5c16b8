"""Reports: a format is one module here, which turns a `View` of a run into bytes, and one row in `FORMATS`.

`docs/add-a-report-format.md` shows how to add one. This module imports nothing heavy: `--help` reads the rows.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kpatchlab.report.view import View


@dataclass(frozen=True, slots=True)
class Format:
    """One format of a report.

    Attributes:
        file: its name in a run's folder.
        module: the module in `kpatchlab.report` that has its `render(view) -> bytes`.
        says: what it is, in a few words for `--help`.
        letters: it is written to people: it can be addressed to a subsystem's maintainers, and fill a folder with a
            letter for each subsystem; the module has `letters(view) -> dict[str, bytes]` too.
    """

    name: str
    file: str
    module: str
    says: str
    letters: bool = False

    def render(self, view: View) -> bytes:
        """Return the report.

        Raises:
            UserError: `view.subsystem` is none that is known.
        """
        return bytes(self._module().render(view))

    def files(self, view: View) -> dict[str, bytes]:
        """Return file name -> what fills a folder: a file for each letter, or the report alone."""
        return dict(self._module().letters(view)) if self.letters else {self.file: self.render(view)}

    def _module(self) -> Any:
        return importlib.import_module(f"kpatchlab.report.{self.module}")


FORMATS = {
    row.name: row
    for row in (
        Format("text", "summary.txt", "text", "the summary, as run prints it"),
        Format("html", "index.html", "html", "the page: one file, nothing else to load"),
        Format("markdown", "comment.md", "markdown", "a comment for a merge request"),
        Format("mail", "mail.txt", "mail", "a reply to the series' thread, and letters to maintainers", letters=True),
        Format("junit", "junit.xml", "junit", "XML for CI systems"),
        Format("kcidb", "kcidb.json", "kcidb", "JSON for the kernel's common database of results"),
        Format("json", "report.json", "data", "the run and its verdicts, for other programs"),
        Format("systems", "systems.md", "systems", "a table of the systems: cases, functions reached, seconds"),
        Format("reach", "reach.md", "patches", "which scenario ran what each patch changes"),
    )
}
"""Name -> format, in the order in which people are told of them."""
