"""The two pictures of README.md, made anew from a stored run: the summary in a terminal, and the top of the page.

    python tools/screenshots.py last

`RUN` is what `kpatchlab report` takes. Needs playwright, which the tests bring, and Debian's chromium.
"""

from __future__ import annotations

import argparse
import io
import shlex
import shutil
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

from kpatchlab.cli.app import Options
from kpatchlab.cli.report import stored
from kpatchlab.errors import HostError
from kpatchlab.model import Run
from kpatchlab.report import FORMATS
from kpatchlab.report.text import show
from kpatchlab.report.view import View

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "img"
COLUMNS = 100
"""Of the terminal; commands and paths that are longer make the picture wider."""
PAGE_WIDTH, PAGE_HEIGHT = 1000, 1200
"""In CSS pixels: a forge shows README some 1000 wide; below this height the page is cut, between two sections."""
MARGIN = 16
"""CSS pixels below the last section; less than what is between two."""
SCALE = 2
"""Pixels of the picture for each CSS pixel, for screens of high density."""

_TERMINAL = """\
<!DOCTYPE html><meta charset="utf-8"><style>{stylesheet}
body {{ margin: 0; background: {background}; }}
pre {{ display: inline-block; margin: 0; padding: 12px 16px; color: {foreground}; font: 13px/1.25 "DejaVu Sans Mono"; }}
</style><pre>{code}</pre>
"""
_BOTTOMS = "[...document.querySelectorAll('header, main > section')].map((part) => part.getBoundingClientRect().bottom)"


def terminal(view: View) -> str:
    """Return HTML that looks as a terminal does after the run: its command line and its summary."""
    console = Console(
        record=True, file=io.StringIO(), width=COLUMNS, force_terminal=True, color_system="truecolor", highlight=False
    )
    console.print(Text(f"$ {command(view.run)}\n", style="bold"), soft_wrap=True)
    show(view, console)
    return console.export_html(theme=MONOKAI, code_format=_TERMINAL)


def command(run: Run) -> str:
    """Return the run's command line as it is typed in a clone, without the path of the program."""
    return shlex.join(["./lab", *shlex.split(run.command)[1:]])


def shoot(view: View, to: Path) -> list[Path]:
    """Write terminal.png and page.png into a folder, and return their paths.

    Raises:
        HostError: there is no chromium.
    """
    program = shutil.which("chromium")
    if not program:
        raise HostError("no chromium on this host", hint="apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as playwright:
        sources = {"terminal": terminal(view).encode(), "page": FORMATS["html"].render(view)}
        browser = playwright.chromium.launch(executable_path=program)
        page = browser.new_page(
            viewport={"width": PAGE_WIDTH, "height": PAGE_HEIGHT}, device_scale_factor=SCALE, color_scheme="light"
        )
        for name, source in sources.items():
            file = Path(temporary, f"{name}.html")
            file.write_bytes(source)
            page.goto(file.as_uri())
            clip: Any = _top(page) if name == "page" else page.locator("pre").bounding_box()
            page.screenshot(path=to / f"{name}.png", clip=clip, full_page=True)
        browser.close()
    return [to / f"{name}.png" for name in sources]


def _top(page: Any) -> dict[str, float]:
    """Return the part of the page that is shown: all sections that end above the limit."""
    ends = [bottom + MARGIN for bottom in page.evaluate(_BOTTOMS) if bottom + MARGIN <= PAGE_HEIGHT]
    return {"x": 0, "y": 0, "width": PAGE_WIDTH, "height": max(ends, default=PAGE_HEIGHT)}


def main() -> None:
    """Make the pictures of the run that the command line names."""
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("run", metavar="RUN", help="an id, the beginning or end of one, or `last`")
    arguments.add_argument("-o", "--output", type=Path, default=PICTURES, metavar="DIR", help="default: docs/img")
    options = arguments.parse_args()
    view = View(*stored(Options(), options.run))
    for path in shoot(view, options.output.resolve()):
        print(path)


if __name__ == "__main__":
    main()
