"""What `try` leaves and sends for reviewers: patchwork's checks, by a server of the test's own, and a GitHub check."""

import http.server
import json
import threading
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from kpatchlab.build.patchset import Patch
from kpatchlab.lab.patchwork import Patchwork
from kpatchlab.series import review
from kpatchlab.series.patchwork import TOKEN, PatchCheck, Poster, checks_of
from kpatchlab.series.review import Check, Status
from tests.labdir import write
from tests.posting import runs, try_

pytestmark = pytest.mark.toy

SECRET = "s3cr3t-token"


class _Patchwork(http.server.BaseHTTPRequestHandler):
    """As much of patchwork's API as checks need: `known` has message-id -> its patches, `answers` replace its own."""

    known: dict
    answers: dict
    arrived: list

    def do_GET(self):
        parts = urlsplit(self.path)
        asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
        self.arrived.append(("GET", parts.path, asked, self.headers["Authorization"]))
        rows = [{"msgid": f"<{asked['msgid']}>", **row} for row in self.known.get(asked["msgid"], [])]
        rows = [row for row in rows if asked.get("project", row["project"]["link_name"]) == row["project"]["link_name"]]
        self._answer(200, rows)

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.arrived.append(("POST", self.path, body, self.headers["Authorization"]))
        self._answer(201, {"id": 1})

    def _answer(self, status, value):
        status, text, more = self.answers.get(self.command, (status, json.dumps(value), {}))
        data = text.encode()
        self.send_response(status)
        for name, word in {"Content-Length": str(len(data)), **more}.items():
            self.send_header(name, word)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


def patch(number, project="netdev"):
    return {"id": number, "project": {"link_name": project}}


@pytest.fixture
def patchwork():
    """A server; `url` is its address."""
    handler = type("Handler", (_Patchwork,), {"known": {}, "answers": {}, "arrived": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        handler.url = f"http://127.0.0.1:{server.server_port}"
        yield handler
        server.shutdown()


CHECK = PatchCheck(1, "a@b", {"context": "kpatchlab-build", "state": "success", "description": "ok"})


def post(server, *checks, project=""):
    return list(Poster(Patchwork(url=server.url, project=project), SECRET).post(checks or [CHECK]))


@pytest.fixture
def mailed(posted, patchwork):
    """Return a lab with a posted series of three, the third of which is bad, and a patchwork server in its file."""
    posted.grow("comment", "printk", "printk", "fault")
    posted.post(3, "--thread")
    text = (posted.root / "lab.yaml").read_text()
    text += f"patchwork: {{url: '{patchwork.url}', project: netdev}}\nresults_url: https://ci.example/results/\n"
    write(posted.root / "lab.yaml", text)
    names = [row.split("<")[1].split(">")[0] for row in (posted.root / "series.mbox").read_text().splitlines()
             if row.lower().startswith("message-id:")]  # fmt: skip
    patchwork.known |= {name: [patch(100 + number), patch(7, "bpf")] for number, name in enumerate(names, 1)}
    return posted


def test_without_post_requests_are_printed_and_kept_and_nobody_is_asked(mailed, patchwork, monkeypatch):
    monkeypatch.setenv(TOKEN, SECRET)
    status, out, err = try_(mailed)
    assert status == 1, out + err
    assert not patchwork.arrived
    assert "for patchwork, not sent without --post:" in out
    assert '  patch 1: POST {"context": "kpatchlab-apply", "state": "success"' in out
    (run,) = runs(mailed)[:1]
    kept = json.loads((run / "patchwork.json").read_text())
    assert {row["patch"] for row in kept} == {1, 2, 3}
    whole = next(row for row in kept if row["body"]["context"] == "kpatchlab-scenarios")
    assert (whole["patch"], whole["body"]["state"]) == (3, "fail")
    assert whole["body"]["target_url"] == f"https://ci.example/results/{run.name}/index.html"
    assert whole["post"] == f"{patchwork.url}/api/1.2/patches/{{id}}/checks/"
    assert "project=netdev" in whole["find"]
    assert SECRET not in out + err + "".join(path.read_text(errors="replace") for path in run.glob("*.*"))


def test_with_post_each_patch_of_the_right_project_gets_its_checks(mailed, patchwork, monkeypatch):
    monkeypatch.setenv(TOKEN, SECRET)
    status, out, err = try_(mailed, "--post")
    assert status == 1, out + err
    sent = [(path, body) for how, path, body, _ in patchwork.arrived if how == "POST"]
    assert {path for path, _ in sent} == {f"/api/1.2/patches/{number}/checks/" for number in (101, 102, 103)}
    states = {(path.split("/")[4], body["context"]): body["state"] for path, body in sent}
    assert states["101", "kpatchlab-build"] == "success"
    assert states["103", "kpatchlab-scenarios"] == "fail"
    assert ("101", "kpatchlab-scenarios") not in states
    assert states["102", "kpatchlab-scenarios-by-patch"] == "success"
    assert states["103", "kpatchlab-scenarios-by-patch"] == "fail"
    assert {token for *_, token in patchwork.arrived} == {f"Token {SECRET}"}
    assert f"patchwork: {len(sent)} of {len(sent)} checks posted to {patchwork.url}" in err
    assert SECRET not in out + err


@pytest.mark.parametrize(
    ("status", "text", "more", "said"),
    [
        (401, "{}", {}, "answers 401: the server does not know the token"),
        (403, SECRET, {}, "answers 403: the account may not add checks"),
        (400, SECRET, {}, "answers 400: the server does not take the request"),
        (301, "", {"Location": "/api/"}, "answers 301: it leads to another URL: name that one"),
        (503, "", {}, "answers 503: try again later"),
        (200, "{}", {}, "answers 200 to a check, which it has not taken"),
        (201, "<html>", {}, "does not answer as it should: JSONDecodeError"),
        (201, "[" * 200_000, {}, "does not answer as it should: RecursionError"),
    ],
)
def test_a_server_that_takes_no_check_is_one_line_and_asked_no_more(patchwork, status, text, more, said):
    patchwork.known["a@b"] = [patch(5)]
    patchwork.answers["POST"] = (status, text, more)
    line, last = post(patchwork, CHECK, CHECK)
    assert line == f"patchwork: {patchwork.url} {line.split(' ', 2)[2]}"
    assert said in line
    assert SECRET not in line
    assert last == f"patchwork: 0 of 2 checks posted to {patchwork.url}"
    assert [how for how, *_ in patchwork.arrived] == ["GET", "POST"]


@pytest.mark.parametrize("text", ["{}", '["x"]', "null", "no JSON"])
def test_a_server_that_is_no_patchwork_is_one_line(patchwork, text):
    patchwork.answers["GET"] = (200, text, {})
    line, last = post(patchwork)
    assert "answer as" in line
    assert last.startswith("patchwork: 0 of 1 ")


def test_a_server_that_is_not_there_is_one_line(patchwork):
    settings = Patchwork(url="http://127.0.0.1:1")
    line, _ = Poster(settings, SECRET).post([CHECK, CHECK])
    assert line == "patchwork: http://127.0.0.1:1 cannot be reached: Connection refused"


def test_a_patch_that_the_server_lacks_or_has_twice_is_named_once_and_the_others_are_told(patchwork):
    other = PatchCheck(2, "c@d", CHECK.body)
    patchwork.known["c@d"] = [patch(6)]
    lines = post(patchwork, CHECK, CHECK, other)
    assert lines == [
        f"patchwork: patch 1: {patchwork.url} has no patch <a@b>",
        f"patchwork: 1 of 3 checks posted to {patchwork.url}",
    ]
    patchwork.known["a@b"] = [patch(5), patch(7, "bpf")]
    assert post(patchwork)[0] == "patchwork: patch 1: it is in several projects, bpf, netdev: name one as `project`"
    assert post(patchwork, project="bpf") == [f"patchwork: 1 of 1 checks posted to {patchwork.url}"]


def test_another_patch_than_the_one_that_was_asked_for_gets_no_check(patchwork):
    patchwork.answers["GET"] = (200, json.dumps([{**patch(5), "msgid": "<x@y>"}]), {})
    assert post(patchwork)[0] == f"patchwork: patch 1: {patchwork.url} has no patch <a@b>"


def test_a_run_keeps_its_result_whatever_the_server_does(mailed, patchwork, monkeypatch):
    monkeypatch.setenv(TOKEN, SECRET)
    patchwork.answers["GET"] = (500, SECRET, {})
    status, out, err = try_(mailed, "--post", "--no-patches")
    assert status == 1, out + err
    assert "answers 500" in err
    assert SECRET not in out + err


def no_token(lab, monkeypatch):
    pass


def bad_token(lab, monkeypatch):
    monkeypatch.setenv(TOKEN, f"{SECRET}\nX: y")


def no_file(lab, monkeypatch):
    path = lab.root / "lab.yaml"
    path.write_text(path.read_text().replace("project: netdev", "token_file: token"))


def no_server(lab, monkeypatch):
    path = lab.root / "lab.yaml"
    path.write_text(path.read_text().partition("patchwork:")[0])


def no_ids(lab, monkeypatch):
    monkeypatch.setenv(TOKEN, SECRET)
    lines = (lab.root / "series.mbox").read_text().splitlines()
    write(lab.root / "series.mbox", "\n".join(row for row in lines if not row.lower().startswith("message-id:")) + "\n")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (no_token, f"{TOKEN} is not in the environment"),
        (bad_token, "patchwork's token is empty, or no token"),
        (no_file, "/token: No such file or directory"),
        (no_server, "the lab file names no server"),
        (no_ids, "the series has no message-ids"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_cannot_be_sent_is_refused_before_anything_is_built(mailed, monkeypatch, change, said):
    change(mailed, monkeypatch)
    status, out, err = try_(mailed, "--post")
    assert status == 2, out + err
    assert said in err
    assert SECRET not in out + err
    assert not runs(mailed)


@pytest.mark.parametrize("key", ["results_url", "url"])
def test_a_url_with_a_secret_in_it_is_refused_without_it(posted, key):
    url = f"https://me:{SECRET}@ci.example/"
    more = f"results_url: '{url}'\n" if key == "results_url" else f"patchwork: {{url: '{url}'}}\n"
    write(posted.root / "lab.yaml", (posted.root / "lab.yaml").read_text() + more)
    posted.grow("comment")
    posted.post(1)
    status, out, err = try_(posted)
    assert status == 2, out + err
    assert "no http or https URL without a user, a password or a query" in err
    assert SECRET not in out + err


def test_what_patchwork_would_refuse_is_not_asked_for():
    patches = (Patch("1", "one", b"", message_id="a@b"), Patch("2", "two", b""))
    assert checks_of(patches, Check("x y", Status.FAIL, "bad"), None, ("https://x",)) == []
    (one,) = checks_of(patches[:1], Check("x y", Status.WARN, "odd"), None, (f"https://x/{'y' * 200}",))
    assert one.body == {"context": "x-y", "state": "warning", "description": "odd"}


# --- GitHub


def test_commits_get_a_check_for_github_and_mails_none(posted):
    posted.grow("comment", "printk", "fault")
    head = posted.tree.git("rev-parse", "HEAD")
    status, out, err = posted.call("try", "HEAD~2..HEAD", "--tree", str(posted.tree.tree))
    assert status == 1, out + err
    run = runs(posted)[0]
    body = json.loads((run / "github-check.json").read_text())
    assert (body["name"], body["head_sha"], body["status"]) == ("kpatchlab", head, "completed")
    assert body["conclusion"] == "failure"
    assert "REGRESSED" in body["output"]["title"]
    assert body["output"]["summary"] == (run / "comment.md").read_text()
    assert "* **fail** kpatchlab scenarios by patch: patch 2: " in body["output"]["text"]
    assert "details_url" not in body
    assert not (run / "patchwork.json").exists()
    posted.post(1)
    try_(posted, "--no-patches")
    assert not (runs(posted)[-1] / "github-check.json").exists()


@pytest.mark.parametrize(("status", "word"), [(0, "success"), (1, "failure"), (3, "action_required")])
def test_what_was_not_tested_is_no_success_for_github(status, word):
    body = json.loads(review.for_github("0" * 40, status, "t", b"s\n", [], "https://x/"))
    assert (body["conclusion"], body["details_url"]) == (word, "https://x/")
    assert "text" not in body["output"]


def test_github_gets_no_more_bytes_than_it_takes():
    many = [Check("tool", Status.WARN, "ä" * 200) for _ in range(400)]
    body = json.loads(review.for_github("0" * 40, 0, "t", ("ö" * 99 + "\n").encode() * 1000, many, ""))
    for text in (body["output"]["summary"], body["output"]["text"]):
        assert 60_000 < len(text.encode()) <= 65_535
        assert "Cut here: " in text


def test_the_page_of_a_walk_is_below_the_results(mailed):
    try_(mailed)
    run = runs(mailed)[0]
    rows = json.loads((run / "patchwork.json").read_text())
    url = next(row["body"]["target_url"] for row in rows if row["body"]["context"] == "kpatchlab-build")
    assert (mailed.root / "results" / Path(url.removeprefix("https://ci.example/results/"))).exists()
