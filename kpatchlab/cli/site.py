"""The verbs `site` and `serve`: the nights as files, and a look at them on the loopback interface."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import click

from kpatchlab.cli.app import Options, Verb
from kpatchlab.cli.common import load_lab, pass_options
from kpatchlab.errors import UserError


@click.command(cls=Verb, epilog="\b\nExamples:\n  kpatchlab site\n  kpatchlab site -o /srv/www/nights")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Folder to write to; default: nightly.site of the lab file."
)
@pass_options
def site(options: Options, output: Path | None) -> None:
    """Write a static site of all nights: an index, a page each, every check's history, trends, badges."""
    from kpatchlab.site.make import make_site, place_of
    from kpatchlab.store.store import Store

    lab = load_lab(options)
    store = Store(lab.results)
    folder = output or place_of(lab, store)
    made = make_site(store, folder, lab.title)
    click.echo(f"{folder}/index.html: {made.pages} pages, {made.written} written")


@click.command(cls=Verb, epilog="\b\nExample:\n  kpatchlab site && kpatchlab serve")
@click.option("--port", type=click.IntRange(0, 65535), default=8765, show_default=True, help="0: any free port.")
@pass_options
def serve(options: Options, port: int) -> None:
    """Serve the site of the nights, with its runs, on the loopback interface; Ctrl-C ends it.

    Only pages and what they link to are served: no folders, no database, and files of guests never as pages.
    """
    from kpatchlab.site.make import lies_inside, place_of
    from kpatchlab.site.serve import LOOPBACK, server
    from kpatchlab.store.store import Store

    lab = load_lab(options)
    store = Store(lab.results)
    folder = place_of(lab, store).resolve()
    if not (folder / "index.html").exists():
        raise UserError(f"there is no site in {folder}", hint="kpatchlab site makes it")
    # In the results folder its links lead out of it, to the runs beside it.
    root = store.root.resolve() if lies_inside(folder, store) else folder
    try:
        serving = server(root, port)
    except OSError as error:
        raise UserError(f"cannot serve on port {port}: {error.strerror}", hint="--port chooses another") from None
    path = quote(f"/{folder.relative_to(root)}/").replace("/./", "/")
    click.echo(f"http://{LOOPBACK}:{serving.server_port}{path}")
    with serving:
        serving.serve_forever()
