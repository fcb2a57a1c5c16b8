"""The text, the page and the JSON: what a reader must find, what must not break them, and how large they get."""

import dataclasses
import io
import json
import re
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console
from sample_run import SPLAT, C, F, I, P, S, job, large, sample

from kpatchlab.jsonable import from_json
from kpatchlab.model import GuestLog, KernelFacts, Metric, ReachCount, Run, SystemFacts
from kpatchlab.report import FORMATS
from kpatchlab.report.common import frames, line, tail
from kpatchlab.report.markup import highlight, href
from kpatchlab.report.text import show
from kpatchlab.report.view import View
from kpatchlab.textclean import printable
from kpatchlab.verdict.compare import compare
from kpatchlab.verdict.ratios import interval, metric_rows

NASTY = "a\x00\x1b[31m\x1b]0;title\x07<script>alert(1)</script>[bold]\ud800 é :smile:\n\"'&"


def rendered(name, run):
    return FORMATS[name].render(View(run, Path("/results/run"))).decode()


def one_kernel(outcome=P):
    made = job("s", "a", {"x": outcome}, roles=("client",))
    return Run(
        id="r",
        title="t",
        started="",
        duration_s=1.0,
        complete=True,
        base="a",
        columns=("a",),
        kernels=(KernelFacts("a", "base"),),
        builds=(),
        jobs=(made,),
    )


def hostile():
    made = job(NASTY, "with", {"job": (C, NASTY, NASTY), NASTY: P}, params={NASTY: NASTY})
    splat = dataclasses.replace(SPLAT, title=NASTY, text=NASTY, decoded="", kind=NASTY)
    guest = GuestLog(NASTY, NASTY, "javascript:alert(1)", NASTY)
    made = dataclasses.replace(
        made,
        splats=(splat,),
        guests=(guest,),
        reach=(ReachCount(NASTY, NASTY, 1),),
        metrics=(Metric(NASTY, 1, NASTY, NASTY),),
        attachments=("../../etc/passwd", NASTY),
        reproduce=NASTY,
        message=NASTY,
        stdout_tail=NASTY,
    )
    builds = tuple(dataclasses.replace(b, error=NASTY, base=NASTY, log_tail=NASTY) for b in sample().builds)
    return dataclasses.replace(sample(), title=NASTY, jobs=(made,), builds=builds, host={NASTY: NASTY}, command=NASTY)


def test_every_format_has_a_name_a_file_and_words_of_its_own():
    rows = list(FORMATS.values())
    assert [row.name for row in rows] == list(FORMATS)
    assert len({row.file for row in rows}) == len({row.says for row in rows}) == len(rows)


RUNS = (
    sample(),
    one_kernel(),
    one_kernel(I),
    hostile(),
    Run(
        id="a",
        title="b",
        started="c",
        duration_s=0,
        complete=False,
        base="",
        columns=(),
        kernels=(),
        builds=(),
        jobs=(),
    ),
)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("run", RUNS)
def test_any_run_renders(name, run):
    assert rendered(name, run)


# --- text


def test_text_fits_80_columns_but_for_what_is_copied():
    for text in rendered("text", sample()).splitlines():
        assert len(text) <= 80 or re.match(r"  (reproduce|console) |\s{15}\S+ \(", text), text


def test_text_says_it_all():
    text = rendered("text", sample())
    assert "3 faults REGRESSED in 3 scenarios (4 checks), 1 build REGRESSED, 1 FIXED" in " ".join(text.split())
    assert "Same base" in text
    assert "opinfo_put (./arch/x86/include/asm/atomic.h:95 fs/ksmbd/oplock.c:196)" in text
    assert "kpatchlab run cifs-ksmbd --column with --repeat 1" in text
    assert "/results/run/jobs/cifs-ksmbd.with.0/console-server.log" in text
    assert "REGRESSED  with: module siw: drivers/infiniband/sw/siw/siw_qp_tx.c:342" in text
    assert "without, with: CONFIG_SMC_LO: asked y, got nothing" in text
    assert re.search(r"2 jobs skipped, not tested:\n +2  kernel lacks CONFIG_SMC_LO", text)
    assert "FLAKY  udp-cork on with: more than 1472 bytes, pass on the base, flaky 2/3 here" in text
    assert "\x1b" not in text


def test_text_leaves_quiet_scenarios_of_a_large_run_out():
    text = rendered("text", large(400, 10))
    assert "80 of 100 scenarios pass everywhere" in text


@pytest.mark.parametrize("run", [sample(), hostile()])
def test_text_on_an_ascii_terminal(run):
    sink = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    show(View(run, Path("/é")), Console(file=sink, width=80))
    sink.flush()
    assert b"REGRESSED" in sink.buffer.getvalue() or run.title == NASTY


def test_colour_is_the_terminals_matter(monkeypatch):
    def printed(**options):
        sink = io.StringIO()
        show(View(sample(), Path("/r")), Console(file=sink, width=80, **options))
        return sink.getvalue()

    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b" not in printed()
    assert "\x1b[1;31m" in printed(force_terminal=True, color_system="standard")
    monkeypatch.setenv("NO_COLOR", "1")
    assert "31m" not in printed(force_terminal=True)


def test_guest_cannot_reach_the_terminal():
    text = rendered("text", hostile())
    assert "\x1b" not in text
    assert "\x00" not in text
    assert "[bold]" in text  # not taken for markup


# --- html


class Balance(HTMLParser):
    """Fails where an element is closed that is not open; collects links, sources and identities."""

    VOID = frozenset({"meta", "input", "br", "wbr", "link"})

    def __init__(self):
        super().__init__()
        self.open, self.links, self.ids, self.tags = [], [], [], []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append(tag)
        self.links += [attrs[name] for name in ("href", "src") if name in attrs]
        self.ids += [attrs["id"]] if "id" in attrs else []
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, self.getpos()


def page_of(run):
    parser = Balance()
    parser.feed(rendered("html", run))
    parser.close()
    assert parser.open == []
    return parser


@pytest.mark.parametrize("run", [sample(), one_kernel(), one_kernel(F), hostile(), large(40, 1000)])
def test_page_is_one_file_of_balanced_elements(run):
    page = page_of(run)
    assert len(page.ids) == len(set(page.ids))
    for link in page.links:
        assert link.startswith("./") or link[1:] in page.ids, link
    assert page.tags.count("script") == 1


def test_page_escapes():
    page = rendered("html", hostile())
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "\x1b" not in page
    assert 'href="#"' not in page, "what is not linked is text"
    assert "javascript%3A" not in page
    assert href("../../etc/passwd.log") == "./etc/passwd.log"
    assert href("//host/x.txt") == "./host/x.txt"
    assert href("../../etc/passwd") == "#"


def test_page_says_it_all():
    page = rendered("html", sample())
    assert "<b>5</b> REGRESSED" in page
    assert page.index("REGRESSED") < page.index('id="matrix"')
    assert "<b>opinfo_put</b><i> (./arch/x86/include/asm/atomic.h:95 fs/ksmbd/oplock.c:196)</i> ksmbd" in page
    assert page.count("and in 1 more place") == 1
    assert "not traceable" in page
    assert "+85.1 % to +88.0 %" in page
    assert "no such symbol in this tree" in page
    assert "siw_user, rdma_siw_test" in page
    assert "prefers-color-scheme: dark" in page


def test_page_of_a_large_run_stays_small():
    run = large(2000)
    begin = time.process_time()
    page = FORMATS["html"].render(View(run, Path()))
    assert len(page) < 5 << 20
    assert time.process_time() - begin < 20


def test_page_where_everything_failed_stays_small():
    def broken(made):
        cases = tuple(dataclasses.replace(c, outcome=F, message="m" * 300, details="d" * 5000) for c in made.cases)
        return dataclasses.replace(made, outcome=F, cases=cases, stdout_tail="o\n" * 30000)

    run = large(1000)
    run = dataclasses.replace(run, jobs=tuple(map(broken, run.jobs)))
    assert len(FORMATS["html"].render(View(run, Path()))) < 5 << 20


def test_highlight():
    assert highlight("[   14.2] BUG: x <y>") == "<u>[   14.2] </u><b class=loud>BUG: x &lt;y&gt;</b>"
    assert highlight(" f.isra.0+0x1/0x2 [m]") == " <b>f.isra.0</b>+0x1/0x2 [m]"
    assert highlight(" ? f+0x1/0x2") == "<s> ? <b>f</b>+0x1/0x2</s>"
    assert highlight("plain (words)") == "plain (words)"


# --- systems


def test_systems_are_told_with_cases_reach_and_seconds():
    systems = (SystemFacts("udp", "UDP", ("udp-cork",)), SystemFacts("dlm", "DLM"), SystemFacts("kcm", "KCM", ("kcm",)))
    lines = rendered("systems", dataclasses.replace(sample(), systems=systems)).splitlines()
    rows = {cells[0]: cells[1:] for text in lines if text.startswith("| ") for cells in [text.strip("| ").split(" | ")]}
    assert rows["udp"][:2] == ["udp-cork", "4"]
    assert rows["udp"][2] == "9 pass"
    assert rows["udp"][3] == "8 pass, 1 fail"
    assert rows["dlm"][:2] == ["none", "not run"]
    assert rows["kcm"][:2] == ["kcm", "not run"]
    assert "rxrpc" in rows["(none)"][0].split()
    assert any(text.startswith("The 10 slowest jobs") for text in lines)


def test_systems_tell_what_differs_and_what_was_not_run():
    systems = (SystemFacts("udp", "UDP", ("udp-cork",)), SystemFacts("dlm", "Lock \\ manager *"))
    text = rendered("systems", dataclasses.replace(sample(), systems=systems))
    assert "Same base: the kernels differ by their series alone." in text
    _, differs, fails, left = re.split(r"\n## .*\n", text)
    assert [heading for heading in text.splitlines() if heading.startswith("## ")] == [
        "## What differs from the base", "## What fails and is no regression", "## What was not run",
    ]  # fmt: skip
    assert "- FIXED unix-splice on with: " in differs
    assert "- FLAKY udp-cork on with: " in differs
    assert "(unix-splice on without)" in fails
    assert "- 1 system without a result, no scenario tests them: Lock \\\\ manager \\*\n" in left


# --- json, figures, helpers


def test_json_reads_back():
    document = json.loads(rendered("json", sample()))
    run = from_json(Run, document["run"])
    assert [j.cases for j in run.jobs] == [j.cases for j in sample().jobs]
    assert document["comparison"]["verdicts"]["REGRESSED"] == 5
    assert document["comparison"]["exit_code"] == 1


def figures(base, here, direction="higher"):
    jobs = [
        job("s", column, {"x": P}, repeat=i, metrics=(Metric("m", value, "u", direction),))
        for column, values in (("a", base), ("b", here))
        for i, value in enumerate(values)
    ]
    run = dataclasses.replace(one_kernel(), columns=("a", "b"), jobs=tuple(jobs))
    (row,) = metric_rows(compare(run))
    return row.figures["b"]


@pytest.mark.parametrize(
    ("base", "here", "direction", "word"),
    [
        ([100, 101, 99], [200, 201, 202], "higher", "better"),
        ([100, 101, 99], [200, 201, 202], "lower", "worse"),
        ([100, 101, 99], [50, 51, 52], "lower", "better"),
        ([100, 150, 99], [120, 101, 110], "higher", "no difference seen"),
        ([100], [200], "higher", "no interval"),
        ([0, 0], [1, 2], "higher", ""),
    ],
)
def test_ratio_words(base, here, direction, word):
    assert figures(base, here, direction).word(direction) == word


def test_interval_holds_the_ratio_and_is_always_the_same():
    low, high = interval([11, 12, 13], [10, 10, 10])
    assert 0.9 < low < 1.1, "wider than the values themselves: they are three"
    assert 1.3 < high < 1.5
    assert (low, high) == interval([11, 12, 13], [10, 10, 10])


def test_frames_leave_the_reporting_out():
    assert frames(SPLAT, 2)[0].startswith("opinfo_put (")
    raw = dataclasses.replace(SPLAT, decoded="")
    assert frames(raw, 2) == ["opinfo_put+0x2d/0x50 [ksmbd]", "__ksmbd_close_fd+0x1f1/0x2f0 [ksmbd]"]
    assert frames(dataclasses.replace(raw, text=""), 2) == []


def test_text_helpers():
    assert printable(NASTY) == "a<script>alert(1)</script>[bold] é :smile:\n\"'&"
    assert line("a\n  b\tc", 5) == "a b c"
    assert line("abcdefgh", 6) == "abc..."
    assert tail("one\ntwo\nthree", 7) == "three"
    assert tail("one", 0) == ""


def test_skips_are_told_apart_from_passes():
    run = dataclasses.replace(one_kernel(), jobs=(job("s", "a", {}, outcome=S, message="lacks CONFIG_X"),))
    for name in ("text", "html"):
        assert "lacks CONFIG_X" in rendered(name, run)
        assert "not tested" in rendered(name, run)


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_says_that_a_series_was_built_without_a_sandbox(tmp_path, form):
    run = sample()
    bare = tuple(dataclasses.replace(build, unconfined="AppArmor forbids it") for build in run.builds)
    run = dataclasses.replace(run, builds=bare)
    told = " ".join(FORMATS[form].render(View(run, tmp_path)).decode().split())
    assert "AppArmor forbids it" in told
    assert "AppArmor" not in FORMATS[form].render(View(sample(), tmp_path)).decode()
