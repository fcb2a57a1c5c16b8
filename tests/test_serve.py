"""The server of the site: what it hands out, as what, to whom; and what guests left is never a page."""

import contextlib
import dataclasses
import http.client
import re
import threading

import pytest

from kpatchlab.model import GuestLog, JobResult, Outcome
from kpatchlab.report import FORMATS
from kpatchlab.report.view import View
from kpatchlab.site import serve
from kpatchlab.site.make import make_site
from kpatchlab.store.store import Store
from tests import labdir
from tests.sample_run import sample

PAGE = "<script>alert(1)</script>"


@pytest.fixture
def root(tmp_path):
    """A results folder with a site, one run, and what a guest left in it."""
    store = Store(tmp_path / "results")
    run_dir = store.new_run("x")
    run_dir.close()
    labdir.write(run_dir.path / "index.html", "<p>a run")
    for name in ("a.log", "page.html", "page.svg", "core", ".hidden"):
        labdir.write(run_dir.path / "jobs/j/attach-main" / name, PAGE)
    make_site(store, store.root / "site", "nights")
    labdir.write(tmp_path / "secret.txt", "secret")
    (store.root / "out.txt").symlink_to(tmp_path / "secret.txt")
    labdir.write(store.root / "empty/x.unknown", "x")
    return store.root.resolve()


@pytest.fixture
def ask(root):
    """Return a function that asks a running server for a path: (status, headers, body)."""
    serving = serve.server(root, 0)
    thread = threading.Thread(target=serving.serve_forever, daemon=True)
    thread.start()

    def asked(path, host=None, method="GET"):
        connection = http.client.HTTPConnection("127.0.0.1", serving.server_port, timeout=10)
        with contextlib.closing(connection):
            connection.putrequest(method, path, skip_host=True)
            if host != "":
                connection.putheader("Host", host or f"127.0.0.1:{serving.server_port}")
            connection.endheaders()
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read().decode()

    yield asked
    serving.shutdown()
    serving.server_close()
    thread.join()


def test_pages_come_with_a_policy(ask, root):
    run = next(path.parent.name for path in root.glob("*/run.json"))
    for path in ("/site/", "/site/index.html", f"/{run}/index.html", f"/{run}/", "/last/"):
        status, headers, _ = ask(path)
        assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
    assert ask("/site/style.css")[1]["Content-Type"].startswith("text/css")
    status, headers, body = ask("/site/", method="HEAD")
    assert (status, body) == (200, "")
    assert int(headers["Content-Length"]) > 100


def test_files_of_guests_are_never_pages(ask, root):
    run = next(path.parent.name for path in root.glob("*/run.json"))
    for name, kind in {"a.log": "text/plain; charset=utf-8", "page.html": "application/octet-stream",
                       "page.svg": "application/octet-stream", "core": "application/octet-stream"}.items():  # fmt: skip
        for way in (f"/{run}/jobs/j/attach-main/{name}", f"/last/jobs/j/attach-main/{name}"):
            status, headers, body = ask(way)
            assert (status, headers["Content-Type"], body) == (200, kind, PAGE)
            assert headers["Content-Security-Policy"] == "default-src 'none'; sandbox"
            assert headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    "path",
    [
        "/", "/empty/", "/site/nights/", "/index.db", "/index.db-wal", "/index.db.bak", "/out.txt", "/../secret.txt",
        "/%2e%2e/secret.txt", "/site/%2e%2e/%2e%2e/secret.txt", "//etc/passwd", "/%00", "/" + "x" * 5000,
        "/last/.lock", "/last/jobs/j/attach-main/.hidden", "/empty/x.unknown", "/last/jobs/", "/last/jobs",
    ],
)  # fmt: skip
def test_no_folder_no_database_and_nothing_outside(ask, root, path):
    labdir.write(root / "index.db-wal", "x")
    labdir.write(root / "index.db.bak", "x")
    status, _, body = ask(path)
    assert status == 404
    assert "secret" not in body
    assert "passwd" not in body.replace(path, "")


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8765", "127.0.0.1.evil.example", "", "192.168.1.1"])
def test_only_its_own_host_names_are_answered(ask, host):
    status, _, body = ask("/site/", host)
    assert status == 421
    assert "nights" not in body


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "127.0.0.1", "[::1]"])
def test_all_names_of_the_loopback_are_its_own(ask, host):
    assert ask("/site/", host)[0] == 200


def test_nothing_is_changed_by_a_request(ask):
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert ask("/site/", method=method)[0] == 501


def test_attachments_that_a_browser_may_take_for_pages_get_another_name(tmp_path):
    store = Store(tmp_path / "results")
    names = ("a.html", "a.html.txt", "b.svg", "core", "x.html.gz", "trace.pcap", "run.LOG", "d.html/e.xhtml")
    for name in names:
        labdir.write(tmp_path / "files/attach-main" / name, PAGE)
    labdir.write(tmp_path / "files/console-main.log", "")
    job = JobResult(
        job="j", scenario="s", params={}, column="c", placement={"main": "c"}, repeat=1, outcome=Outcome.PASS,
        guests=(GuestLog("main", "c", "console-main.log"),),
        attachments=tuple(f"attach-main/{name}" for name in names),
    )  # fmt: skip
    with store.new_run("x") as run_dir:
        kept = run_dir.take_in(job, tmp_path / "files").attachments
        assert [name.removeprefix("jobs/j/attach-main/") for name in kept] == [
            "a.html.2.txt", "a.html.txt", "b.svg.txt", "core.txt", "x.html.gz.txt", "trace.pcap", "run.LOG",
            "d.html/e.xhtml.txt",
        ]  # fmt: skip
        assert all((run_dir.path / name).read_text() == PAGE for name in kept)


def test_no_report_links_to_what_a_browser_may_take_for_a_page(tmp_path):
    run = sample()
    jobs = tuple(
        dataclasses.replace(
            job,
            attachments=("jobs/j/attach-main/x.html", "jobs/j/attach-main/ok.log"),
            guests=tuple(dataclasses.replace(guest, console="jobs/j/c.svg") for guest in job.guests),
        )
        for job in run.jobs
    )
    page = FORMATS["html"].render(View(dataclasses.replace(run, jobs=jobs), tmp_path)).decode()
    links = re.findall(r'href="([^"#]+)"', page)
    assert any(link.endswith("ok.log") for link in links)
    assert not [link for link in links if link.endswith((".html", ".svg"))]


def test_no_page_of_the_site_takes_a_file_of_a_guest_for_one(root, tmp_path):
    make_site(Store(root), tmp_path / "www", "nights")
    copied = {path.name for path in tmp_path.glob("www/runs/*/jobs/**/*") if path.is_file()}
    assert copied == {"a.log"}
    for page in tmp_path.glob("www/*.html"):
        assert "Content-Security-Policy" in page.read_text()
