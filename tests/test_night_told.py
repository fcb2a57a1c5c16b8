"""How a night is told: the mail, the site, and the command that looks for what broke it, which must really start."""

import dataclasses
import email
import email.policy
import io
import shlex
import threading
from types import SimpleNamespace

import pytest
from sample_run import SPLAT

from kpatchlab.bisect.commits import NamedCommit
from kpatchlab.bisect.criterion import Criterion
from kpatchlab.bisect.request import question
from kpatchlab.bisect.session import SearchSession, SearchStopped
from kpatchlab.bisect.state import Ended, Question, Searches, SearchState, save
from kpatchlab.cli.app import Options
from kpatchlab.cli.bisect import bisect
from kpatchlab.errors import LabError, UserError
from kpatchlab.history.culprit import SearchCommand, Where, by_case, by_metric, by_splat, search
from kpatchlab.history.news import Kind
from kpatchlab.history.query import Entry
from kpatchlab.lab.nightly import Mail
from kpatchlab.model import CaseKind, Metric, Outcome
from kpatchlab.nightly.lanes import look
from kpatchlab.nightly.letter import letter
from kpatchlab.nightly.night import lines
from kpatchlab.nightly.notify import message
from kpatchlab.nightly.searches import NightSearches, request_of
from kpatchlab.progress import PlainProgress
from kpatchlab.report import mail
from kpatchlab.report.prose import WIDTH
from kpatchlab.report.view import View
from kpatchlab.run.stages import Settings
from tests import labdir
from tests.nights import LAB, bad_on_with, git

SECRET = "hunter2-token"


def broken_night(nights):
    nights.night()
    nights.push()
    nights.job(bad_on_with("a"))
    return nights.night()


def test_mail_is_the_nights_verdict_and_then_the_reply_to_the_thread(nights, monkeypatch):
    monkeypatch.setenv("KPATCHLAB_WEBHOOK_URL", f"https://x/{SECRET}")
    monkeypatch.setenv("KPATCHLAB_SMTP_PASSWORD", SECRET)
    report = broken_night(nights)
    store = nights.bench.store
    made = email.message_from_bytes(message(Mail(to=("a@b",)), report, store).as_bytes(), policy=email.policy.default)
    assert made["Subject"] == "[kpatchlab] nights: 1 new failure"
    text = made.get_content()
    own, _, rest = text.partition("=" * WIDTH)
    flat = " ".join(own.split())
    assert flat.startswith(f"nights, night {report.night}: 1 new failure.")
    assert "New since the last good night" in own
    (item,) = report.news
    assert f"* NEW FAILURE: solo: a on nightly, with: fail: x; last good {item.good}" in flat
    assert f"    {item.bisect}" in own.splitlines()
    view = View(*store.load(report.runs["nightly"]))
    assert text.endswith(mail.body(view)), "what `report --format mail` says of the run, word for word"
    assert "Regressed\n---------" in rest
    long = [line for line in text.splitlines() if len(line) > WIDTH]
    assert all(line.startswith("    ") for line in long), long
    assert SECRET not in text


def test_mail_of_a_quiet_night_and_of_one_whose_run_is_gone(nights):
    nights.night()
    nights.push()
    report = nights.night()
    text = letter(report, nights.bench.store)
    assert "Nothing got worse." in text
    assert "\nNew" not in text
    nights.bench.store.delete(report.runs["nightly"])
    assert "It cannot be read: no run" in letter(report, nights.bench.store)


def test_a_password_in_a_url_is_told_nowhere(nights):
    url = f"https://user:{SECRET}@127.0.0.1:1/linux.git"
    text = LAB.replace("type: git, path: %s, revision: main", f"type: git, url: '{url}', revision: main")
    nights.says("", text % nights.repo)
    report = nights.night()
    told = "\n".join([*lines(report), letter(report, nights.bench.store), *nights.said])
    assert "https://127.0.0.1:1/linux.git" in told
    assert SECRET not in told
    assert not [path for path in nights.bench.root.rglob("*") if SECRET in path.name]


def test_a_night_writes_the_site_and_the_next_one_what_is_new(nights):
    report = nights.night()
    index = nights.bench.root / "results/site/index.html"
    assert report.night in index.read_text()
    before = index.stat().st_mtime_ns
    assert nights.night().state == "nothing new"
    assert index.stat().st_mtime_ns == before
    nights.push()
    report = nights.night()
    assert report.night in index.read_text()
    (note,) = [note for note in report.notes if note.startswith("site: ")]
    written, _, made = note.rpartition(", ")[2].split()[:3]
    assert 0 < int(written) < int(made)


def test_the_site_lies_where_the_lab_says_or_nowhere(nights):
    nights.says("nightly: {site: www/nights}\n")
    nights.night()
    assert (nights.bench.root / "www/nights/index.html").is_file()
    assert not (nights.bench.root / "results/site").exists()
    nights.says("nightly: {site: ''}\n")
    nights.push()
    report = nights.night()
    assert not any(note.startswith("site: ") for note in report.notes)


def test_a_site_that_cannot_be_written_costs_the_night_its_status_and_nothing_else(nights):
    labdir.write(nights.bench.root / "file", "x")
    nights.says("nightly: {site: file/site}\n")
    report = nights.night()
    assert (report.state, report.exit_code) == ("done", 3)
    assert any(note.startswith("no site: cannot write ") for note in report.notes)
    assert nights.night().state == "nothing new"


# --- what looks for the culprit


def requested(nights, command):
    """Return the lab and the request that a command line starts a search with."""
    program, verb, *words = shlex.split(command)
    assert (program, verb) == ("kpatchlab", "bisect")

    class StartedError(Exception):
        pass

    def begin(session, request):
        raise StartedError(session.lab, request)

    nights.patch.setattr(SearchSession, "begin", begin)
    with pytest.raises(StartedError) as started:
        bisect.main(words, obj=Options(nights.lab.path), standalone_mode=False)
    return started.value.args


def parsed(nights, command):
    """Return what the program's own command line makes of a command; it must be one that starts."""
    return question(*requested(nights, command))


def test_command_of_a_branch_that_moved_starts(nights):
    old = git(nights.repo, "rev-parse", "HEAD")
    nights.night()
    new = nights.push()
    nights.job(bad_on_with("a"))
    (item,) = nights.night().news
    asked = parsed(nights, item.bisect)
    assert (asked.repository, asked.good_name, asked.bad_name) == (str(nights.repo), old[:12], new[:12])
    assert (asked.kernel, asked.criterion.scenarios, asked.criterion.case) == ("with", ("solo",), "a")
    assert item.unsearchable == ""


def test_command_of_a_figure_names_a_bound_between_both_levels(nights):
    def metrics(spec):
        yield Metric("speed", 90.0 if spec.column == "with" and nights.slow else 100.0, "MB/s", "higher")

    nights.slow = False
    nights.job(lambda spec: {"a": Outcome.PASS}, metrics)
    for _ in range(9):
        nights.push()
        nights.night()
    nights.slow = True
    nights.push()
    (item,) = nights.night().news
    assert item.kind is Kind.SLOWER
    asked = parsed(nights, item.bisect)
    assert asked.criterion.metric == "speed"
    assert 1.0 < asked.criterion.bound < 100 / 90


SERIES = "nightly: {series: {v2: {with: [%s]}}}\n"


@pytest.mark.parametrize(
    ("series", "where"),
    [
        ("{type: mbox, path: v2.mbox}", {"series": ({"type": "mbox", "path": "%s/kernels/v2.mbox"},)}),
        ("{type: message-id, id: 1@x}", {"series": ({"type": "message-id", "id": "1@x"},)}),
        ("{type: git, path: %s/tree, range: v1..main}", {"repository": "%s/tree"}),
    ],
)
def test_command_of_a_series_searches_its_patches(nights, series, where):
    root = nights.bench.root
    (root / "kernels/v2.mbox").write_text("x")
    git(nights.repo, "commit", "-q", "--allow-empty", "-m", "patch")
    nights.says(SERIES % (series % root if "%" in series else series))
    (pinned,), troubles = look(nights.lab, nights.context)
    assert not troubles
    found = search(None, entry(2, pinned.plan.heads), "with", by_case("solo", "a"))
    asked = parsed(nights, shlex.join(["kpatchlab", *found.words]))
    for name, value in where.items():
        wanted = value % root if isinstance(value, str) else tuple(
            {k: v % root if "%" in v else v for k, v in one.items()} for one in value
        )  # fmt: skip
        assert getattr(asked, name) == wanted
    assert asked.kernel == "with"


def test_series_of_the_lab_file_and_of_a_variant(nights):
    series = f"series: [{{type: git, path: {nights.repo}, range: v1..main}}]"
    labdir.write(nights.bench.root / "kernels/config/debug.config", "CONFIG_KASAN=y\n")
    nights.says("nightly: {variants: [debug]}\n", LAB.replace("revision: main}", f"revision: main}}, {series}"))
    pinned, _ = look(nights.lab, nights.context)
    plain, slow = (
        shlex.join(["kpatchlab", *search(None, entry(2, lane.plan.heads), column, by_case("solo", "a")).words])
        for lane, column in zip(pinned, ("with", "with-debug"), strict=True)
    )
    asked = parsed(nights, plain)
    assert (asked.repository, asked.series, asked.good_name, asked.kernel) == ("", (), "0", "with")
    asked = parsed(nights, slow)
    assert (asked.good_name, asked.kernel, asked.variant) == ("0", "with-debug", "debug")


def test_series_that_bisect_has_no_words_for_is_said(nights):
    git(nights.repo, "tag", "next")
    nights.says("nightly: {branches: {x: {with: next}}, series: {v2: {with: [{type: mbox, path: v2.mbox}]}}}\n")
    (pinned,), _ = look(nights.lab, nights.context)
    found = search(None, entry(2, pinned.plan.heads), "with", by_case("solo", "a"))
    assert found.words == ()
    assert found.reason.startswith("the series of with in lane x+v2 is no kernel's of lab.yaml")


def entry(number, heads):
    return Entry(number, f"run{number}", "nightly", "n", "", "", True, 0, 0, "", heads)


def test_what_has_no_history_is_said_with_its_reason():
    def reason(old, new):
        found = search(entry(1, {"with": old}), entry(2, {"with": new}), "with", by_case("solo", "a"))
        assert found.words == ()
        return found.reason

    url = {"source": "https://x/linux.git"}
    words = reason(url | {"commit": "a" * 40, "key": "1"}, url | {"commit": "b" * 40, "key": "2"})
    assert words == (
        "no history of https://x/linux.git is kept here: in a clone of it,"
        " bisect --tree CLONE --good aaaaaaaaaaaa --bad bbbbbbbbbbbb"
    )
    debian = {"source": "debian-source"}
    assert "comes from debian-source: no commits lie between" in reason(debian | {"key": "1"}, debian | {"key": "2"})
    assert "is the same kernel in both runs" in reason(debian | {"key": "1"}, debian | {"key": "1"})
    same = {"source": "/linux", "commit": "c" * 40}
    assert "its configuration or compiler changed" in reason(same | {"key": "1"}, same | {"key": "2"})
    assert "debian-source, then tarball" in reason(debian | {"key": "1"}, {"source": "tarball", "key": "2"})


def test_options_that_mean_what_broke():
    assert list(by_case("build", "module tls").words) == ["--build", "--module", "tls"]
    assert list(by_case("build", "kernel").words) == ["--build"]
    assert list(by_case("nfs[vers=4.2,x=1]", "job", CaseKind.JOB).words) == [
        "--scenario",
        "nfs",
        "--param",
        "vers=4.2",
        "--param",
        "x=1",
    ]
    assert list(by_case("nfs", "log: client", CaseKind.LOG).words) == ["--scenario", "nfs"]
    for name in ("jobs are queued", "log: rotated", "job"):
        assert list(by_case("nfs", name).words) == ["--scenario", "nfs", "--case", name]
    assert list(by_splat("nfs", "abc").words) == ["--scenario", "nfs", "--splat", "abc"]
    assert by_metric("s", "speed", -0.1).words[-1] == "1.054"
    assert by_metric("s", "time", 0.1).words[-1] == "1.049"


def test_a_splat_that_is_new_has_a_command(nights):
    nights.night()
    nights.push()
    nights.job(
        lambda spec: {"a": Outcome.PASS}, outcome=Outcome.CRASH,
        splats=lambda spec: [SPLAT] if spec.column == "with" else [],
    )  # fmt: skip
    item = next(item for item in nights.night().news if item.kind is Kind.NEW_SPLAT)
    asked = parsed(nights, item.bisect)
    assert (asked.criterion.kind, asked.criterion.fingerprint) == ("splat", SPLAT.fingerprint)


class Search:
    """Stands for searches: `comes_to(request or id, cancel)` is the state that one ends with, or raises."""

    def __init__(self, root, comes_to):
        self.root, self.comes_to = root, comes_to

    def __call__(self, lab, host, progress, settings):
        self.settings = settings
        return self

    def begin(self, request):
        return self.comes_to(request.command, self.settings.cancel)

    def go_on(self, wanted):
        return self.comes_to(wanted, self.settings.cancel)


@pytest.fixture
def bisect_by(monkeypatch, tmp_path):
    """Return a function that has a night look for a commit, with a search that does what a test says."""

    def call(comes_to, command, seconds, night, cancel=None):
        monkeypatch.setattr("kpatchlab.nightly.searches.SearchSession", Search(tmp_path, comes_to))
        lab = SimpleNamespace(results=tmp_path)
        settings = Settings(cancel=cancel or threading.Event())
        search = NightSearches(lab, None, settings, lambda: PlainProgress(io.StringIO()))
        return search(SearchCommand(Where(good="a"), "with"), command, seconds, night)

    return call


def state(**how):
    return SearchState("20200101-000000-abcd", Question("with", Criterion("case")), **how)


@pytest.mark.parametrize(
    ("came_to", "words"),
    [
        (state(ended=Ended.FOUND, culprit=NamedCommit("abc", "x")), 'culprit: abc ("x")'),
        (state(ended=Ended.REFUSED, reason="both fail"), "refused: both fail"),
    ],
)
def test_what_a_search_came_to_is_its_own_line(bisect_by, came_to, words):
    assert bisect_by(lambda *_: came_to, "kpatchlab bisect", 60, "") == words


def refused(*_):
    raise UserError("no such revision")


def breaks(*_):
    raise ValueError("odd")


def takes_long(_, cancel):
    assert cancel.wait(60)
    raise SearchStopped("20200101-000000-abcd")


@pytest.mark.parametrize(
    ("comes_to", "words"),
    [
        (refused, "^no such revision$"),
        (breaks, "^ValueError: odd$"),
        (takes_long, r"not found within 0\.5 s; it can go on: kpatchlab bisect --resume 20200101-000000-abcd"),
    ],
)
def test_a_search_that_comes_to_nothing_says_why(bisect_by, comes_to, words):
    """Whatever ends it: an error of its own, a fault of the lab, or the end of its time."""
    with pytest.raises(LabError, match=words):
        bisect_by(comes_to, "kpatchlab bisect", 0.5 if comes_to is takes_long else 60, "")


def test_a_search_ends_with_its_night(bisect_by):
    """And says that it was stopped, not that it took too long."""
    cancel = threading.Event()
    threading.Timer(0.1, cancel.set).start()
    with pytest.raises(SearchStopped, match="search 20200101-000000-abcd stopped"):
        bisect_by(takes_long, "kpatchlab bisect", 60, "", cancel)


def test_a_killed_night_goes_on_with_its_own_searches(bisect_by, tmp_path):
    """And with no other: not an earlier night's, which another kernel may have been under, nor one for another case."""

    def echo(asked, _):
        words = ["--lab", "x.yaml", "bisect", "--resume", asked] if asked[:2] == "20" else shlex.split(asked)[1:]
        return state(ended=Ended.SUSPECTS, reason=f"culprit: {' '.join(words)}")

    searches, words = Searches(tmp_path), "kpatchlab --lab x.yaml bisect --good a --case 'b c'"
    asked = Question(
        "with", Criterion("case"), command="/usr/lib/__main__.py --lab x.yaml bisect --good a --case 'b c'"
    )
    assert bisect_by(echo, words, 60, "20200101-000000") == "culprit: --lab x.yaml bisect --good a --case b c"
    begun, folder = searches.new(asked)
    searches.new(dataclasses.replace(asked, command="kpatchlab bisect --good a"))
    resumed = f"culprit: --lab x.yaml bisect --resume {begun.id}"
    assert bisect_by(echo, words, 60, begun.id[:15]) == resumed
    assert bisect_by(echo, words, 60, "99990101-000000") == "culprit: --lab x.yaml bisect --good a --case b c"
    save(dataclasses.replace(begun, ended=Ended.FOUND, culprit=NamedCommit("1234")), folder)
    assert bisect_by(echo, words, 60, begun.id[:15]) == "culprit: 1234"


@pytest.mark.parametrize(
    ("sought", "criterion"),
    [
        (by_case("solo[vers=4.2]", "a"), Criterion("case", ("solo",), {"vers": "4.2"}, "a", case_kind=CaseKind.CHECK)),
        (by_case("solo", "job", CaseKind.JOB), Criterion("case", ("solo",))),
        (by_case("build", "module tls"), Criterion("build", module="tls")),
        (by_splat("solo", "abc"), Criterion("splat", ("solo",), fingerprint="abc")),
        (by_metric("solo", "speed", -0.1), Criterion("metric", ("solo",), metric="speed", bound=1.054)),
    ],
)
def test_a_search_of_a_night_is_the_one_that_its_command_line_starts(nights, sought, criterion):
    where = Where(tree="/linux", good="a", bad="b")
    found = SearchCommand(where, "with", "", sought)
    command = shlex.join(["kpatchlab", *found.words])
    asked = request_of(found, command)
    _, typed = requested(nights, command)
    # A command line has no word for a case's kind, and always a bound.
    bound = typed.criterion.bound if criterion.metric else 0.0
    assert dataclasses.replace(typed.criterion, case_kind=criterion.case_kind, bound=bound) == criterion
    assert dataclasses.replace(typed, criterion=criterion, command=command) == asked
