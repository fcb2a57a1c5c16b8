"""A run, a lab and a night whose every text is hostile: no control character of theirs leaves by any verb."""

import dataclasses
import io
import json
import re
import xml.etree.ElementTree as ET

import pytest

from kpatchlab.build.changes import AddedLine, Changes, Hunk, PatchChanges
from kpatchlab.cli.main import VERBS
from kpatchlab.history.record import Origin
from kpatchlab.nightly.letter import letter
from kpatchlab.nightly.notify import body
from kpatchlab.report import FORMATS
from kpatchlab.series.judge import judge
from kpatchlab.series.values import Applied, Finding, Looked, LostObject, PatchBuild, PatchResult, Walk
from kpatchlab.series.views import VIEWS
from kpatchlab.store.run_plan import RunKind, RunPlan
from kpatchlab.store.store import Store
from kpatchlab.terminal import console
from kpatchlab.textclean import CleanStream, clean
from kpatchlab.variants import coverage
from kpatchlab.variants.coverage import Coverage
from kpatchlab.verdict.compare import compare
from tests import labdir
from tests.sample_run import sample

ODD = (
    "\x00\x07\x08\x0b\x0c\x1b[31m\x1b]0;title\x07\x1b]8;;http://x\x1b\\\x1b[2J\x9b31m\x90q\x85\x7f"
    "\u061c\u200e\u200f\u202e\u2066\u2069\u206a\u2028\U000e0041\ufffe"
)
"""C0, NUL, CSI, OSC, DCS and CSI as C1, DEL, marks and overrides of direction, a tag, no character."""
UNFIT = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ud800-\udfff\ufffe\uffff\U000e0000-\U000e007f]"
)
KEPT = {"id", "started", "console", "attachments", "direction", "kind", "role", "mode"}
"""Fields that name files, or are words of the lab's own."""


def poisoned(value, name=""):
    """Return a value with the hostile characters within each text."""
    if isinstance(value, str) and type(value) is str and value:
        return value if name in KEPT else value[:3] + ODD + value[3:]
    if isinstance(value, tuple):
        return tuple(poisoned(item, name) for item in value)
    if isinstance(value, dict):
        return {poisoned(key, name): poisoned(item, name) for key, item in value.items()}
    if dataclasses.is_dataclass(value):
        return dataclasses.replace(
            value, **{f.name: poisoned(getattr(value, f.name), f.name) for f in dataclasses.fields(value)}
        )
    return value


def harmless(text, where):
    """Fail where a text, or the text within a JSON document, has a character that is unfit to be shown."""
    found = UNFIT.search(text)
    assert not found, (where, text[max(0, found.start() - 80) : found.end() + 20])
    if text.lstrip().startswith(("{", "[")):
        with_escapes = json.dumps(json.loads(text), ensure_ascii=False)
        assert not re.search(r"\\u00[019]|\\u007f", with_escapes), where
        assert not UNFIT.search(with_escapes), where


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A lab with two hostile runs in it, both in the history."""
    labdir.make(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KPATCHLAB_CACHE", str(tmp_path / "cache"))
    store = Store(tmp_path / "results")
    for _ in range(2):
        run_dir = store.new_run("x")
        run = dataclasses.replace(poisoned(sample()), id=run_dir.id, complete=True)
        run_dir.save_plan(
            RunPlan(kind=RunKind.RUN, origin=Origin(lane=f"l{ODD}ane", heads={f"a{ODD}": {f"b{ODD}": f"c{ODD}"}}))
        )
        run_dir.finish(run, compare(run))
        coverage.save([poisoned(_coverage())], run_dir.path)
    return tmp_path


def _coverage():
    hunk = Hunk("net/a.c", 1, (AddedLine(3, "a"), AddedLine(4, "b")), 2)
    changes = Changes((PatchChanges(1, "first", ("net/a.c",), (hunk,)),))
    return Coverage("with", "key", changes, {"net/a.c": (3, 4)}, {"net/a.c": {"s": {3: 1}}}, ("s",), ("t",))


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("verb", [["report", "last"], ["compare", "{0}", "{1}"]])
def test_no_format_of_a_report_lets_control_characters_out(here, call, form, verb):
    ids = Store(here / "results").ids()
    status, out, err = call(*(word.format(*ids) for word in verb), "--format", form)
    assert status in {0, 1}, err
    assert out
    harmless(out, form)
    harmless(err, form)


@pytest.mark.parametrize(
    "words",
    [
        ["list", "runs"], ["list", "runs", "--json"],
        ["history"], ["history", "--json"], ["history", "*"], ["history", "*", "--json"],
        ["history", "--splats", "*"], ["history", "--splats", "*", "--json"],
        ["plan"], ["plan", "--json"], ["doctor", "--store"], ["site"], ["clean"], ["clean", "--runs", "1"],
        ["coverage", "--of", "last"], ["coverage", "--of", "last", "--json"],
        ["coverage", "--of", "last", "--lcov", "/dev/stdout", "--cobertura", "/dev/stderr"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_no_verb_lets_control_characters_out(here, call, words):
    status, out, err = call(*words)
    assert status in {0, 1, 3}, err
    assert "Traceback" not in err
    assert out
    harmless(out, words)
    harmless(err, words)


@pytest.mark.parametrize("verb", [verb.name for verb in VERBS if verb.name != "try"])
def test_no_verb_hands_a_hostile_word_back(here, call, verb):
    """Words come from scripts that take them from mails, branches and files; `try` asks a server for what is none."""
    odd = ODD.replace("\0", "")  # which no argument of a process can hold
    for words in ([f"a{odd}b"], [f"--no{odd}such"], ["last", f"x{odd}y"]):
        status, out, err = call(verb, *words)
        assert status in {2, 3, 125, 128} or verb in {"completion", "clean", "doctor", "list"}, (words, status)
        assert "Traceback" not in err
        harmless(out, words)
        harmless(err, words)


def test_no_page_of_the_site_has_control_characters(here, call):
    assert call("site", "-o", "site")[0] == 0
    pages = [path for path in (here / "site").rglob("*") if path.suffix in {".html", ".svg"}]
    assert len(pages) > 3
    for path in pages:
        harmless(path.read_text(), path)


def test_a_file_of_the_lab_and_its_errors_are_clean(here, call):
    odd = ODD.replace("\ufffe", "").encode("utf-8").decode("utf-8")
    quoted = json.dumps(odd)  # YAML reads JSON's escapes
    labdir.write(
        here / "lab.yaml", f'title: "t{quoted[1:-1]}"\nkernels: {{a: "b{quoted[1:-1]}", "c{quoted[1:-1]}": d}}\n'
    )
    for words in (["check"], ["check", "--json"], ["plan"]):
        status, out, err = call(*words)
        assert status == 2
        harmless(out, words)
        harmless(err, words)
        assert len(err.splitlines()) < 12, err


def test_a_lane_cannot_write_outside_the_site(here, call):
    labdir.write(here / "one.tap", "TAP version 13\n1..1\nok 1 - one\n")
    for lane in ("../../x", "/tmp/../x", "a/b", "x" * 300, '"><script>alert(1)</script>'):
        assert call("import", "ktap", "one.tap", "--lane", lane)[0] == 0
    before = {path for path in here.rglob("*") if "site" not in path.parts}
    assert call("site", "-o", "a/b/site")[0] == 0
    assert {path for path in here.rglob("*") if "site" not in path.parts} == before | {here / "a", here / "a/b"}
    badges = list((here / "a/b/site").glob("badge-*.svg"))
    assert len(badges) == 6
    for badge in badges:
        ET.parse(badge)
        assert "<script" not in badge.read_text()


def test_help_of_every_verb_is_not_cut_by_the_cleaning(call):
    for verb in VERBS:
        status, out, _ = call(verb.name, "--help")
        assert status == 0
        assert "Usage" in out


def test_the_lab_colours_its_own_words_and_nobody_else_does():
    raw = io.StringIO()
    from rich.text import Text

    console(CleanStream(raw), force_terminal=True, no_color=False, color_system="standard").print(
        Text(f"a{ODD}b", style="red")
    )
    text = raw.getvalue()
    assert text.startswith("\x1b[31m")
    assert not UNFIT.search(re.sub(r"\x1b\[[0-9;]*m", "", text))
    assert "title" not in text


def test_letters_and_messages_of_a_night_are_clean(nights):
    report = poisoned(dataclasses.replace(nights.night(), title="night", notes=("a note",)))
    harmless(letter(report, nights.bench.store), "letter")
    harmless(json.dumps(body(report), ensure_ascii=False), "webhook")


def test_clean_keeps_what_is_clean_as_it_is():
    run = sample()
    assert clean(run) is run
    assert clean(poisoned(run)) == clean(clean(poisoned(run)))
    assert clean({f"a{ODD}": [f"{ODD}b", 1.5, None]}) == {"aq": ["qb", 1.5, None]}


@pytest.mark.parametrize("form", VIEWS)
def test_no_view_of_a_series_has_control_characters(form):
    built = PatchBuild(faults=(LostObject("a.o", "a.c", 1, "error: x"),))
    look = Looked("checks", new=(Finding("long line", "a.c", 3),), notes=("a note",))
    patches = (
        PatchResult(0, "base", "", "k", Applied("strict"), built=PatchBuild()),
        PatchResult(1, "net: do", "0001.patch", "k", Applied("fuzz", 1), ("a.c",), built, (look,)),
        PatchResult(2, "net: undo", "0002.patch", "k", Applied("no", error="no", details=("a.c:1: no",))),
    )
    walk = Walk(
        "with", "v6.12", "2 patches", "gcc", ("checks",), patches, "2026-01-01T00:00:00+00:00", 1.0, complete=True
    )
    odd = dataclasses.replace(
        poisoned(walk),
        checks=walk.checks,
        patches=tuple(
            dataclasses.replace(
                poisoned(patch),
                applied=dataclasses.replace(poisoned(patch.applied), how=patch.applied.how),
                looked=tuple(dataclasses.replace(poisoned(look), check=look.check) for look in patch.looked),
            )
            for patch in patches
        ),
    )
    text = VIEWS[form](judge(odd)).decode()
    assert "net" in text
    harmless(text, form)
