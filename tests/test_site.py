"""The site of nights: pages, links that lead somewhere, nothing written twice, nothing foreign as markup."""

import html.parser
import subprocess
import sys
import urllib.request

import pytest

from kpatchlab.history import database
from kpatchlab.history.news import Kind, News
from kpatchlab.history.nights import NightPlan, NightReport
from kpatchlab.nightly import book
from kpatchlab.site.make import make_site
from kpatchlab.store.store import Store
from tests import labdir
from tests.test_history import F, Metric, P, night


class Links(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        self.found += [value for key, value in attrs if key == "href" and "://" not in value]


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "results")
    for number in range(10):
        run = night(
            store, {"a": F if number == 7 else P, "<script>x</script>": P},
            metrics=(Metric("speed", 100.0 - 10 * (number > 6), "MB/s", "higher"),), commit=f"{number:x}" * 40,
        )  # fmt: skip
        found = book.begin(store, NightPlan())
        item = News(Kind.NEW_FAILURE, "main", "with", "s: a", "<b>x</b>", bisect="kpatchlab bisect")
        moved = {"main": {"with": "a..b"}}
        found.end(NightReport(found.id, exit_code=1, news=(item,), runs={"main": run}, moved=moved))
    return store


def test_pages_and_links(store):
    folder = store.root / "site"
    made = make_site(store, folder, "my <series>")
    assert made.written == made.pages
    pages = sorted(path for path in folder.rglob("*.html"))
    assert len(list(folder.glob("nights/*.html"))) == 10
    for page in pages:
        text = page.read_text()
        assert "<script" not in text
        assert "<b>x</b>" not in text
        links = Links()
        links.feed(text)
        assert links.found
        for link in links.found:
            target = (page.parent / link).resolve()
            # A run of these tests has no page of its own: what it was is all there is.
            assert target.exists() or target.parent.parent == store.root, (page, link)
    assert "step -10.0 %" in (folder / "trends.html").read_text()
    assert "with <code>666666666666..777777777777</code>" in (folder / "trends.html").read_text()
    assert ">ok<" in (folder / "badge-main.svg").read_text()


def test_a_site_elsewhere_has_the_pages_of_runs_itself(store, tmp_path):
    first, *_, last = store.ids()
    for run in (first, last):
        (store.root / run / "index.html").write_text(f"page of {run}")
        (store.root / run / "jobs/a_1/attach-main").mkdir(parents=True, exist_ok=True)
        (store.root / run / "jobs/a_1/attach-main/console.log").write_text(run)
    folder = tmp_path / "www"
    made = make_site(store, folder, "t")
    assert made.written == made.pages
    page = next(
        path for path in (folder / "nights").iterdir() if f'href="../runs/{last}/index.html"' in path.read_text()
    )
    assert (page.parent / f"../runs/{last}/index.html").read_text() == f"page of {last}"
    assert {path.read_text() for path in folder.glob("runs/*/jobs/a_1/attach-main/console.log")} == {first, last}
    assert not list(folder.glob("runs/*/jobs/*.json"))
    assert make_site(store, folder, "t").written == 0
    store.delete(first)
    make_site(store, folder, "t")
    assert (folder / f"runs/{first}/index.html").exists(), "what was told of a run stays when its folder goes"
    assert not (folder / f"runs/{first}/jobs").exists()


def test_only_what_changed_is_written_again(store):
    folder = store.root / "site"
    make_site(store, folder, "t")
    assert make_site(store, folder, "t").written == 0
    night(store, {"a": P})
    book.begin(store, NightPlan()).end(NightReport())
    made = make_site(store, folder, "t")
    old = len(list(folder.glob("nights/*.html"))) - 2
    assert 0 < made.written <= made.pages - old + 1


def test_a_store_without_nights(tmp_path):
    store = Store(tmp_path / "results")
    database.connect(store.root / "index.db").close()
    make_site(store, tmp_path / "out", "")
    assert "No night has been yet" in (tmp_path / "out" / "index.html").read_text()


@pytest.mark.parametrize(("place", "path"), [("", "/site/"), ("results/my nights", "/my%20nights/"), ("../www", "/")])
def test_serve_shows_the_site_where_the_lab_file_has_it(tmp_path, place, path):
    root = tmp_path / "lab"
    labdir.make(root)
    if place:
        with (root / "lab.yaml").open("a") as handle:
            handle.write(f"nightly: {{site: {place}}}\n")
    database.connect(root / "results/index.db").close()
    command = [sys.executable, "-m", "kpatchlab", "--lab", str(root / "lab.yaml")]
    refused = subprocess.run([*command, "serve", "--port", "0"], capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "kpatchlab site makes it" in refused.stderr
    subprocess.run([*command, "site"], check=True, capture_output=True)
    with subprocess.Popen([*command, "serve", "--port", "0"], stdout=subprocess.PIPE, text=True) as child:
        url = child.stdout.readline().strip()
        try:
            assert url.endswith(path)
            with urllib.request.urlopen(url) as page:
                assert b"No night has been yet" in page.read()
        finally:
            child.terminate()
