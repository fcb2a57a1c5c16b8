"""The comment for a merge request: verdict first, foreign text harmless, never longer than the site takes."""

import dataclasses
import re
from pathlib import Path

import pytest
from sample_run import SPLAT, C, F, P, S, job, large, sample

from kpatchlab.model import KernelFacts, Metric, Outcome, Run, Splat, SystemFacts, reach_case
from kpatchlab.report import FORMATS, markdown
from kpatchlab.report.digest import excerpt, figures, standing, uncovered
from kpatchlab.report.markdown import LIMIT, cut, text
from kpatchlab.report.view import View
from kpatchlab.verdict.compare import compare
from kpatchlab.verdict.faults import faults


def comment(run):
    return FORMATS["markdown"].render(View(run, Path())).decode()


def test_verdict_then_table_then_details():
    lines = comment(sample()).splitlines()
    assert lines[0] == rf"## MSG\_SPLICE\_PAGES: {compare(sample()).headline}"
    table = lines.index("| scenario | without | with | client=with,server=without | client=without,server=with |")
    assert table < 6 < next(i for i, words in enumerate(lines) if words.startswith("<details"))
    assert r"| unix-splice | fail 6/7 | pass **FIXED** | - | - |" in lines


def test_a_splat_is_told_once_with_all_that_it_broke():
    found = comment(sample())
    assert found.count("opinfo_put (./arch/x86/include/asm/atomic.h:95 fs/ksmbd/oplock.c:196)") == 1
    assert "* also in: cifs-ksmbd on client=without,server=with" in found
    assert "```sh\nkpatchlab run cifs-ksmbd --column with --repeat 1\n```" in found


def test_build_failures_and_what_was_not_covered():
    found = comment(sample())
    assert r"**REGRESSED** with, module siw: drivers/infiniband/sw/siw/siw\_qp\_tx.c:342: error:" in found
    assert "3 jobs blocked: module siw did not build" in found
    assert "2 jobs skipped: kernel lacks CONFIG" in found


def test_details_are_closed_and_apart_from_tables():
    """GitHub shows Markdown behind a closing tag only after an empty line."""
    lines = comment(sample()).splitlines()
    opened = [i for i, words in enumerate(lines) if words.startswith("<details")]
    closed = [i for i, words in enumerate(lines) if words == "</details>"]
    assert len(opened) == len(closed) > 3
    assert all(lines[i + 1] == "" for i in [*opened, *closed] if i + 1 < len(lines))


def test_limit_is_kept_and_the_cut_told():
    scenarios = [
        job(f"s{i}", column, {"job": P, f"check {i}": F if column == "with" else P}, message="m" * 400)
        for i in range(400)
        for column in ("without", "with")
    ]
    run = dataclasses.replace(sample(), jobs=tuple(scenarios))
    found = comment(run)
    assert len(found.encode()) <= LIMIT
    assert re.search(r"\*Cut here: \d+ more lines do not fit into 65535 bytes\.", found)
    assert found.count("<details") == found.count("</details>")
    assert found.count("\n```") % 2 == 0


@pytest.mark.parametrize("limit", range(300, 1200, 37))
def test_a_cut_leaves_nothing_open(limit):
    lines = ["top", "<details open><summary>x</summary>", "", "```", *["y" * 70] * 20, "```", "", "</details>", "end"]
    found = cut(lines, limit)
    assert len(found) <= limit
    assert found.count("<details") == found.count("</details>")
    assert found.count("```") % 2 == 0


def test_letters_count_by_their_bytes():
    found = cut(["ä" * 99] * 1000, LIMIT)
    assert LIMIT - 400 < len(found.encode()) <= LIMIT


def test_large_run_is_one_comment():
    assert len(comment(large(400, 10)).encode()) <= LIMIT


def test_more_lines_of_text_stay_text_and_within_the_limit():
    view = View(sample(), Path())
    found = markdown.render(view, ["since v1: 1 fixed", "  fixed: <img> @torvalds"]).decode()
    assert "\n* since v1: 1 fixed\n" in found
    assert "<img>" not in found
    assert "@torvalds" not in found
    assert len(markdown.render(view, ["x" * 200] * 1000)) <= LIMIT


def test_foreign_text_stays_text():
    bad = "<img src=x onerror=alert(1)> @torvalds **bold** [x](http://y) | #1 `"
    made = job("s", "with", {"job": P, "x": (F, bad, bad)}, message=bad)
    splat = dataclasses.replace(SPLAT, title=bad, decoded="```\n</details>\n<script>", text="")
    other = job("t", "with", {"job": (C, bad)}, splats=(splat,), message=bad)
    base = tuple(job(name, "without", {"job": P, "x": P}) for name in ("s", "t"))
    run = dataclasses.replace(sample(), jobs=(*base, made, other), title=bad)
    plain = re.sub(r"(?ms)^(`{3,})\w*$.*?^\1$", "", comment(run))
    assert "@torvalds" not in plain
    assert not re.search(r"(?<!\\)<(img|script)", plain)
    assert "````\n```\n</details>" in comment(run)
    assert text("a|b\nc") == r"a\|b c"


def test_a_run_without_anything():
    assert "no job ran" in comment(
        Run(
            id="r",
            title="t",
            started="",
            duration_s=1.0,
            complete=True,
            base="",
            columns=(),
            kernels=(),
            builds=(),
            jobs=(),
        )
    )
    one = Run(
        id="r",
        title="t",
        started="",
        duration_s=1.0,
        complete=True,
        base="a",
        columns=("a",),
        kernels=(KernelFacts("a", "base"),),
        builds=(),
        jobs=(job("s", "a", {"x": F}),),
    )
    assert "FAIL" in comment(one)


# --- the digest, which the mail shares


def test_excerpt_has_no_stamps_registers_or_guesses():
    raw = (
        "[   16.3][  T133] ------------[ cut here ]------------\n"
        "[   16.3][  T133] WARNING: CPU: 0 PID: 133 at fs/x.c:1 f+0x1/0x2\n"
        "[   16.3][  T133] Modules linked in: md5\n"
        "[   16.3][  T133] RIP: 0010:f+0x1/0x2 (fs/x.c:1)\n"
        "[   16.3][  T133] RAX: 0000000000000041 RBX: ff11000004c01000\n"
        "[   16.3][  T133] Call Trace:\n"
        "[   16.3][  T133]  ? g+0x1/0x2 (fs/x.c:3)\n"
        "[   16.3][  T133]  h+0x1/0x2 (fs/x.c:4)\n"
    )
    assert excerpt(Splat("warning", "t", "f" * 12, raw)) == [
        "WARNING: CPU: 0 PID: 133 at fs/x.c:1 f+0x1/0x2",
        "RIP: 0010:f+0x1/0x2 (fs/x.c:1)",
        "Call Trace:",
        " h+0x1/0x2 (fs/x.c:4)",
    ]
    assert excerpt(Splat("hung-task", "t", "f" * 12, "INFO: task x blocked\n f+0x1/0x2\n")) == [
        "INFO: task x blocked",
        " f+0x1/0x2",
    ]


def test_what_fails_differently_is_not_lost():
    """A job that crashed on the base and fails here for another reason is neither fixed nor left out."""
    base = job("s", "without", {"job": (C, SPLAT.title)}, splats=(SPLAT,))
    here = job("s", "with", {"job": (F, "x: wrong data"), "x": (F, "wrong data"), "y": P})
    comparison = compare(dataclasses.replace(sample(), jobs=(base, here), columns=("without", "with")))
    assert [item.text for item in standing(comparison)] == [
        "KASAN: slab-use-after-free in opinfo_put (s on without)",
        "x: wrong data (s on with)",
    ]


def test_systems_without_a_result():
    systems = (
        SystemFacts("unix", "AF_UNIX", ("unix-splice",)),
        SystemFacts("smc", "SMC", ("smc",)),
        SystemFacts("rds", "RDS", ("rds",)),
        SystemFacts("chtls", "Chelsio", ()),
    )
    run = dataclasses.replace(sample(), systems=systems)
    found = [words for words in uncovered(run, compare(run)) if "without a result" in words]
    assert found == [
        "1 system without a result, every job of theirs: skip: SMC",
        "1 system without a result, their scenarios were not run: RDS",
        "1 system without a result, no scenario tests them: Chelsio",
    ]


def test_checks_that_are_skipped_though_the_base_has_them_are_told_with_their_reason():
    lite = (S, "this kernel has no UDP-Lite")
    old = reach_case("udp_sendpage", "client", P, "ran 2 times")
    new = reach_case("udp_sendpage", "client", S, "condition: only where the kernel lacks x", applies=False)
    udp = {"job": P, "both": (S, "no card"), "udp": P}
    untried = {name: Outcome(name) for name in ("blocked", "infra")}
    without = job("udp", "without", {**udp, "lite 1": P, "lite 2": P, **untried})
    here = job("udp", "with", {**udp, "lite 1": lite, "lite 2": lite, **dict.fromkeys(untried, (S, "no card"))})
    run = dataclasses.replace(
        sample(),
        jobs=(
            dataclasses.replace(without, cases=(*without.cases, old)),
            dataclasses.replace(here, cases=(*here.cases, new)),
            job("smc", "without", {"job": P, "a": P}),
            job("smc", "with", {}, outcome=S, message="kernel lacks CONFIG_SMC"),
        ),
    )
    found = [words for words in uncovered(run, compare(run)) if "skipped" in words]
    assert found == [
        "1 job skipped: kernel lacks CONFIG_SMC (smc on with)",
        "2 checks skipped that the base has: this kernel has no UDP-Lite (udp on with)",
    ]


def test_figures_that_cannot_be_compared_say_why():
    metrics = {
        "without": (Metric("only there", 1, "s", "lower"), Metric("nan", float("nan"), "s", "lower")),
        "with": (Metric("only here", 2, "", "lower"), Metric("nan", 3, "s", "lower")),
    }
    jobs = tuple(job("s", c, {"job": P}, metrics=made) for c, made in metrics.items())
    run = dataclasses.replace(sample(), jobs=jobs, columns=("without", "with"))
    found = figures(compare(run))
    assert {told.row.name: told.ratio for told in found.told} == {
        "only here": "no figure on the base",
        "nan": "no figure on the base",
    }
    assert {words for _, words in found.lacking} == {
        "s: only there: no figure on with",
        "s: only here: no figure on without",
        "s: nan: no figure on without",
    }
    assert "nan" in comment(run)


def test_faults_of_one_kernel_are_its_bad_checks():
    made = job("s", "a", {"job": (F, "x: no"), "x": (F, "no")})
    one = Run(
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
    assert [fault.word for fault in faults(compare(one))] == ["FAIL"]
