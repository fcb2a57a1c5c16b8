"""Looking at the site of the nights on the loopback interface: its pages and what they link to, and nothing else.

What a guest left behind is never a page: below a run's `jobs` there is only text, and bytes to keep. A page of another
site that makes a browser ask here by a name of its own (DNS rebinding) gets no answer.
"""

from __future__ import annotations

import functools
import http
import shutil
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOOPBACK = "127.0.0.1"
HOSTS = frozenset({LOOPBACK, "localhost", "[::1]"})
"""Names that a browser on this host has for it."""
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".json": "application/json",
    **dict.fromkeys((".txt", ".log", ".md", ".xml"), "text/plain; charset=utf-8"),
}
"""Ending -> type of what the lab itself writes; the database and all else is not handed out."""
OF_GUESTS = "jobs"
"""Folder of a run with what guests left behind."""
PAGE_POLICY = "default-src 'none'; style-src 'self' 'unsafe-inline'; script-src 'unsafe-inline'; img-src 'self'"
"""For the lab's own pages, each of which names the only script that it runs in a policy of its own."""
FILE_POLICY = "default-src 'none'; sandbox"
IDLE_S = 30.0
"""Seconds that a connection may say nothing."""


def server(root: Path, port: int) -> ThreadingHTTPServer:
    """Return a server of a folder on the loopback interface, not yet running.

    Args:
        root: resolved; nothing outside of it is handed out, wherever links lead.
        port: 0 for any that is free.

    Raises:
        OSError: the port is taken.
    """
    return ThreadingHTTPServer((LOOPBACK, port), functools.partial(_Handler, root))


def found(root: Path, path: str) -> tuple[Path, str] | None:
    """Return the file that the path of a URL names, and its type; None where there is none to hand out."""
    parts = [part for part in unquote(path, errors="replace").split("/") if part not in {"", "."}]
    if path.endswith("/"):
        parts.append("index.html")
    if any(part.startswith(".") or "\0" in part for part in parts):
        return None
    try:
        target = root.joinpath(*parts).resolve()
        if not target.is_relative_to(root) or not target.is_file():
            return None
    except OSError:  # a name that is too long, links in a ring
        return None
    kind = TYPES.get(target.suffix)
    if OF_GUESTS in (*parts, *target.relative_to(root).parts):
        return target, kind if kind and kind.startswith("text/plain") else "application/octet-stream"
    return (target, kind) if kind else None


class _Handler(BaseHTTPRequestHandler):
    timeout = IDLE_S

    def __init__(self, root: Path, *words: object) -> None:
        self._root = root
        super().__init__(*words)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        self._answer(whole=True)

    def do_HEAD(self) -> None:
        self._answer(whole=False)

    def _answer(self, *, whole: bool) -> None:
        assert isinstance(self.server, ThreadingHTTPServer)
        if self.headers.get("Host", "").lower().removesuffix(f":{self.server.server_port}") not in HOSTS:
            self.send_error(http.HTTPStatus.MISDIRECTED_REQUEST, f"this is http://{LOOPBACK}")
            return
        it = found(self._root, urlsplit(self.path).path)
        try:
            stream = it[0].open("rb") if it else None
        except OSError:
            stream = None
        if it is None or stream is None:
            self.send_error(http.HTTPStatus.NOT_FOUND)
            return
        kind = it[1]
        with stream:
            self.send_response(http.HTTPStatus.OK)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(it[0].stat().st_size))
            self.send_header("Content-Security-Policy", PAGE_POLICY if kind.startswith("text/html") else FILE_POLICY)
            for name, value in (
                ("X-Content-Type-Options", "nosniff"),
                ("X-Frame-Options", "DENY"),
                ("Referrer-Policy", "no-referrer"),
                ("Cross-Origin-Resource-Policy", "same-origin"),
                ("Cache-Control", "no-cache"),
            ):
                self.send_header(name, value)
            self.end_headers()
            if whole:
                shutil.copyfileobj(stream, self.wfile)
