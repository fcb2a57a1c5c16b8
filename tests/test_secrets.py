"""URLs with secrets in them: hidden wherever they are shown or stored, and in no process's arguments."""

import base64
import functools
import http.server
import shlex
import smtplib
import subprocess
import threading
from pathlib import Path

import pytest

from kpatchlab.build import BuildContext, git
from kpatchlab.build.source import Tarball
from kpatchlab.cache import Cache
from kpatchlab.errors import HostError, LabError, UserError
from kpatchlab.history.nights import NightReport
from kpatchlab.host.host import Host
from kpatchlab.lab import recipes
from kpatchlab.lab.load import load
from kpatchlab.nightly import notify
from kpatchlab.proc import CommandFailed, Result
from kpatchlab.run import worker
from kpatchlab.store.store import Store
from kpatchlab.urls import Account, account, hide, shown
from tests import labdir

SECRET = "s3cr3t"
FORMS = {
    f"https://me:{SECRET}@host/x.git": "https://host/x.git",
    f"HTTPS://me:{SECRET}@host:8443/x.git": "HTTPS://host:8443/x.git",
    f"https://{SECRET}@host/x": "https://host/x",
    f"https://:{SECRET}@host/x": "https://host/x",
    f"https://me:p@{SECRET}@host/x": "https://host/x",
    f"https://me:p/{SECRET}@host/x": "https://host/x",
    f"https://me:p?{SECRET}@host/x?q=1": "https://host/x?...",
    f"https://host/x?private_token={SECRET}": "https://host/x?...",
    f"https://host/x#access_token={SECRET}": "https://host/x?...",
    f"ssh://me:{SECRET}@host:22/x": "ssh://host:22/x",
    f"git+https://me:{SECRET}@host/x": "git+https://host/x",
    f"http://me:{SECRET}@[::1]:80/x": "http://[::1]:80/x",
    f"me:{SECRET}@host:x/y": "host:x/y",
}


@pytest.mark.parametrize("url", FORMS)
def test_every_form_is_hidden(url):
    assert shown(url) == FORMS[url]
    if "://" in url:
        assert hide(f"cannot fetch '{url}': no route") == f"cannot fetch '{FORMS[url]}': no route"
        error = LabError(f"bad {url}", f"try {url}", (f"E: {url} 404",))
        assert SECRET not in f"{error} {error.message} {error.hint} {error.details}"


@pytest.mark.parametrize(
    "text",
    ["https://host/a@b/c", "http://127.0.0.1:80/x", "git@github.com:a/b.git", "/home/me/x", "no URL: a@b.example"],
)
def test_what_has_no_secret_stays(text):
    assert shown(text) == text
    assert hide(text) == text


def test_account_is_what_the_server_is_told():
    assert account(f"https://me:p%40{SECRET}@host/x") == Account("https://host/x", "me", f"p@{SECRET}")
    assert account(f"https://me:p@{SECRET}@host/x") == Account("https://host/x", "me", f"p@{SECRET}")
    assert account(f"ssh://me:{SECRET}@host/x") == Account("ssh://me@host/x")
    assert account("https://host/x?a=b") == Account("https://host/x?a=b")
    assert account("git@host:x") == Account("git@host:x")


class _Guarded(http.server.SimpleHTTPRequestHandler):
    """Serves files to whom knows the password; notes the arguments of all processes meanwhile."""

    arguments: list[bytes]

    def do_GET(self):
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                self.arguments.append(path.read_bytes())
            except OSError:
                continue
        wanted = "Basic " + base64.b64encode(f"me:p@{SECRET}".encode()).decode()
        if self.headers.get("Authorization") != wanted:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="x"')
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        super().do_GET()

    def log_message(self, *_):
        pass


@pytest.fixture
def guarded(tmp_path):
    """A server of a repository and an archive that wants a password: (its URL with that, arguments that were seen)."""
    tree = tmp_path / "www/tree"
    for words in (
        ["init", "-q", "-b", "main", str(tree)],
        ["-C", str(tree), "-c", "user.name=x", "-c", "user.email=x", "commit", "-q", "--allow-empty", "-m", "x"],
        ["clone", "-q", "--bare", str(tree), str(tmp_path / "www/x.git")],
        ["-C", str(tmp_path / "www/x.git"), "update-server-info"],
    ):
        subprocess.run(["git", *words], check=True)
    (tmp_path / "www/x.tar").write_bytes(b"x" * 1000)
    seen = []
    handler = type("Handler", (_Guarded,), {"arguments": seen})
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(handler, directory=str(tmp_path / "www"))
    ) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://me:p@{SECRET}@127.0.0.1:{server.server_port}", seen
        server.shutdown()


def test_git_gets_a_password_and_no_argument_has_it(guarded, tmp_path):
    url, seen = guarded
    ctx = BuildContext(Cache(tmp_path / "cache"), tmp_path)
    repository = git.open_url(f"{url}/x.git", ctx)
    commit = git.resolve_url(repository, "main", offline=False)
    assert len(commit) == 40
    assert any(b"ls-remote" in words for words in seen)
    assert not [words for words in seen if SECRET.encode() in words]
    assert SECRET not in str(repository.path)
    stored = "".join(path.read_text(errors="replace") for path in (tmp_path / "cache").rglob("*") if path.is_file())
    assert SECRET not in stored
    with pytest.raises(UserError) as caught:
        git.resolve_url(repository, "nosuch", offline=False)
    assert SECRET not in caught.value.message


def test_wrong_password_is_told_without_it(guarded, tmp_path):
    url = guarded[0].replace("me:", "you:")
    with pytest.raises(HostError) as caught:
        git.resolve_url(git.open_url(f"{url}/x.git", BuildContext(Cache(tmp_path / "c"), tmp_path)), "main")
    assert SECRET not in f"{caught.value.message} {caught.value.hint} {caught.value.details}"
    assert "127.0.0.1" in caught.value.message


def test_archive_is_fetched_with_a_password(guarded, tmp_path):
    ctx = BuildContext(Cache(tmp_path / "cache"), tmp_path)
    spec = recipes.TarballSource(type="tarball", url=f"{guarded[0]}/x.tar")
    source = Tarball(spec, ctx)
    assert source._file().read_bytes() == b"x" * 1000
    assert SECRET not in source.describe()
    for url in (f"http://me:{SECRET}@127.0.0.1:notaport/x.tar", f"http://me:{SECRET}@127.0.0.1:1/x.tar"):
        with pytest.raises(HostError) as caught:
            Tarball(recipes.TarballSource(type="tarball", url=url), ctx)._file()
        assert SECRET not in f"{caught.value} {caught.value.hint}"


def test_no_verb_tells_a_secret_of_the_labs_files(tmp_path, call, monkeypatch):
    labdir.make(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KPATCHLAB_CACHE", str(tmp_path / "cache"))
    url = f"https://me:p@{SECRET}@127.0.0.1:1/x.git?token={SECRET}"
    labdir.write(
        tmp_path / "lab.yaml",
        f"mirror: 'http://me:{SECRET}@127.0.0.1:1/debian'\nbase: '{url}'\nkernels:\n"
        f"  a: {{source: {{type: git, url: '{url}', revision: v1}}}}\n"
        f"  b: {{source: {{type: git, url: '{url}', revision: v1}},\n"
        f"      series: [{{type: git, url: '{url}', range: a..b}}]}}\n",
    )
    for words in (["check"], ["check", "--json"], ["plan"], ["list", "kernels"], ["-v", "build", "a"], ["doctor"]):
        _, out, err = call(*words, "--no-install")
        assert SECRET not in out + err, words


def test_command_that_failed_is_told_without_secrets():
    url = f"https://me:{SECRET}@host/x"
    error = CommandFailed(Result(("git", "fetch", url), 1, "", f"fatal: {url}: no", 1.0))
    assert SECRET not in f"{error} {error.hint}"


def test_worker_is_not_told_a_mirrors_password(tmp_path):
    host = Host(Cache(tmp_path), f"http://me:{SECRET}@mirror.example/debian", "auto")
    words = worker.command_line(tmp_path, host)
    assert "http://mirror.example/debian" in words
    assert SECRET not in shlex.join(words)


def test_run_stores_its_command_without_secrets(tmp_path):
    with Store(tmp_path).new_run("x", command=f"kpatchlab bisect --tree https://me:{SECRET}@host/x") as run_dir:
        assert SECRET not in (run_dir.path / "run.json").read_text()


@pytest.mark.parametrize(
    "error",
    [
        http.client.InvalidURL(f"nonnumeric port: '{SECRET}'"), http.client.BadStatusLine(SECRET), OSError(SECRET),
        UnicodeError(SECRET), ValueError(SECRET), KeyError(SECRET), RuntimeError(SECRET), AttributeError(SECRET),
        smtplib.SMTPAuthenticationError(535, SECRET.encode()), smtplib.SMTPServerDisconnected(SECRET),
        CommandFailed(Result(("sendmail", "-t"), 1, "", SECRET, 1.0)),
    ],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_mail_and_webhook_errors_are_one_line_each_and_cost_no_night(tmp_path, monkeypatch, error):
    def fails(*_words, **_more):
        raise error

    labdir.make(tmp_path)
    labdir.write(tmp_path / "url", f"https://hooks.example/{SECRET}")
    more = "nightly: {notify: {always: true, mail: {to: [a@b.example]}, webhook: {url_file: url}}}\n"
    labdir.write(tmp_path / "lab.yaml", (tmp_path / "lab.yaml").read_text() + more)
    lab = load(tmp_path / "lab.yaml")
    monkeypatch.setattr(notify.urllib.request, "urlopen", fails)
    monkeypatch.setattr(notify, "_mail", fails)
    lines = list(notify.notify(lab, NightReport(night="n"), Store(tmp_path / "results")))
    assert len(lines) == 2
    assert all(line.startswith(("mail: not sent: ", "webhook: not sent: ")) and "\n" not in line for line in lines)
    assert SECRET not in "".join(lines)


@pytest.mark.parametrize(
    "url",
    [f"https://h:{SECRET}/x", f"ftp://{SECRET}", f"https://\x00{SECRET}", f"http://[{SECRET}", f"https://{SECRET} x/"],
)
def test_webhooks_url_that_is_none_is_a_line(tmp_path, url):
    labdir.make(tmp_path)
    more = "nightly: {notify: {always: true, webhook: {url_file: url}}}\n"
    labdir.write(tmp_path / "lab.yaml", (tmp_path / "lab.yaml").read_text() + more)
    labdir.write(tmp_path / "url", url)
    (line,) = notify.notify(load(tmp_path / "lab.yaml"), NightReport(night="n"), Store(tmp_path / "results"))
    assert line.startswith("webhook: not sent: ")
    assert SECRET not in line
