"""scenarios/lib/kselftest.py on made-up programs: what they print, how they end, and what becomes of it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kpatchlab.evidence import ktap

LIB = Path(__file__).parent.parent / "scenarios" / "lib"
RUNNER = """\
import sys
sys.path.insert(0, {lib!r})
import kselftest
kselftest.FOLDER = {folder!r}
kselftest.BUDGET_S, kselftest.TIMEOUT_S = {budget}, {timeout}
kselftest.Collection("c", **{options!r}).run()
"""


@pytest.fixture
def play(tmp_path):
    """Return a function that runs a collection of scripts (name -> shell text) and returns what is read of it."""

    def run(programs, *, also=(), left_out="", budget=20, timeout=10, settings="", **options):
        folder = tmp_path / "c"
        folder.mkdir(exist_ok=True)
        for name, text in programs.items():
            (folder / name).write_text(f"#!/bin/sh\n{text}\n")
            (folder / name).chmod(0o755)
        (folder / "lab.tests").write_text("".join(f"{name}\n" for name in [*programs, *also]))
        (folder / "lab.left-out").write_text(left_out)
        if settings:
            (folder / "settings").write_text(settings)
        text = RUNNER.format(lib=str(LIB), folder=str(tmp_path), budget=budget, timeout=timeout, options=options)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("LAB_")}
        # a session of its own: it kills all that descends from it
        done = subprocess.run(  # noqa: PLW1510 - its status is what is looked at
            [sys.executable, "-c", text], capture_output=True, env=environment, timeout=60, start_new_session=True
        )
        parsed = ktap.parse(done.stdout, exit_status=done.returncode)
        assert not parsed.problems, f"{done.stdout.decode()}{parsed.problems}"
        return [(case.name, str(case.outcome), case.message) for case in parsed.cases]

    return run


def test_status_is_the_result_of_what_prints_no_tap(play):
    programs = {"good": "exit 0", "skips": "echo no device; exit 4", "bad.sh": "echo FAIL: this; echo more; exit 2"}
    assert play(programs) == [
        ("good", "pass", ""),
        ("skips", "skip", "no device"),
        ("bad.sh", "fail", "status 2: FAIL: this"),
    ]


def test_what_cannot_be_started_is_a_skip_and_a_mode_that_is_lost_is_none(play, tmp_path):
    assert play({"good": "exit 0"}) == [("good", "pass", "")]
    (tmp_path / "c/plain.sh").write_text("#!/bin/sh\nexit 3\n")
    (tmp_path / "c/alien").write_text("#!/no/such/interpreter\n")
    (tmp_path / "c/data").write_text("no program\n")
    assert play({"good": "exit 0"}, also=("plain.sh", "alien", "data")) == [
        ("good", "pass", ""),
        ("plain.sh", "fail", "status 3"),
        ("alien", "skip", "it cannot be started: No such file or directory"),
        ("data", "skip", "it cannot be started: Permission denied"),
    ]


def test_the_collection_of_a_guest_is_found(play, tmp_path):
    play({"good": "exit 0"})
    (tmp_path / "net").mkdir()
    (tmp_path / "c").rename(tmp_path / "net/tls")
    text = f"import sys; sys.path.insert(0, {str(LIB)!r}); import kselftest; kselftest.FOLDER = {str(tmp_path)!r}\n"
    done = subprocess.run(
        [sys.executable, "-c", text + "print(kselftest.collections())"], capture_output=True, text=True, check=True
    )
    assert done.stdout == "['net/tls']\n"


def test_tap_is_passed_on(play):
    tls = "echo TAP version 13; echo 1..3; echo ok 1 a; echo not ok 2 b; echo '#  RUN           c.d ...'"
    assert play({"tls": tls + "; echo 'ok 3 # SKIP no cipher'; exit 1", "other": "echo TAP version 13; echo 1..0"}) == [
        ("tls / a", "pass", ""),
        ("tls / b", "fail", ""),
        ("tls / c.d", "skip", "no cipher"),
        ("other", "skip", "its subtest has no results"),
    ]


def test_the_totals_of_a_program_are_held_against_its_results(play):
    text = "echo TAP version 13; echo 1..1; echo ok 1 a; echo '# Totals: pass:{} fail:0 xfail:0 xpass:0 skip:0 error:0'"
    assert play({"right": text.format(1)}) == [("right / a", "pass", "")]
    with pytest.raises(AssertionError, match="the totals say pass:2"):
        play({"wrong": text.format(2)})


def test_parts_and_what_was_left_out(play):
    left_out = "p\ttls.rekey\tdoes not compile\nq\t\tdoes not build\n"
    assert play({"p": 'echo "$1"; [ "$1" = 4 ]'}, parts={"p": ("4 tcp", "6 tcp")}, left_out=left_out) == [
        ("p 4 tcp", "pass", ""),
        ("p 6 tcp", "fail", "status 1: 6"),
        ("p / tls.rekey", "skip", "does not compile"),
        ("q", "skip", "does not build"),
    ]


def test_test_sockmap_has_a_language_of_its_own(play):
    text = "printf '# 1/ 6  sockmap::txmsg test skb:OK\\n#10/ 1 sockhash:ktls:txmsg test cork:FAIL\\n'"
    assert play({"test_sockmap": text}) == [
        ("test_sockmap / sockmap: txmsg test skb", "pass", ""),
        ("test_sockmap / sockhash ktls: txmsg test cork", "fail", ""),
    ]


def test_a_script_with_titles_has_a_result_for_each(play):
    text = "echo; echo 'first ...'; echo '  checking x ...'; echo 'ok: first succeeded'; echo 'second ...'"
    assert play({"short.sh": text + "; echo 'FAIL: something else went wrong'; exit 1"}) == [
        ("short.sh / first", "pass", "first succeeded"),
        ("short.sh / second", "fail", "something else went wrong"),
    ]


def test_test_sockmap_that_tests_nothing_is_no_pass(play):
    assert play({"test_sockmap": "exit 0"}) == [("test_sockmap", "fail", "it reports no test")]


def test_test_sockmap_without_a_test_of_these_words_is_skipped(play):
    text = "echo 'Pass: 0 Fail: 0'"
    assert play({"test_sockmap": text}) == [("test_sockmap", "skip", "this kernel's test_sockmap has no such test")]


def test_output_is_not_printed_once_more_by_each_child(play):
    text = "exec python3 -c 'import os; print(\"1..1\\nok 1 once\"); os.fork()'"
    assert play({"forks": text}) == [("forks / once", "pass", "")]


def test_a_program_that_hangs_is_ended_by_its_own_time_out(play):
    programs = {"hangs": "echo TAP version 13; echo 1..2; echo ok 1 a; sleep 60", "next": "exit 0"}
    assert play(programs, timeout=1) == [
        ("hangs / a", "pass", ""),
        ("hangs / case 2", "skip", "the program ran longer than 1 s"),
        ("hangs", "timeout", "TIMEOUT: 1 s"),
        ("next", "pass", ""),
    ]


def test_what_is_not_run_for_lack_of_time_is_reported(play):
    assert play({"long": "echo 1..1; sleep 60", "never": "exit 0"}, budget=1, settings="timeout=100\n") == [
        ("long / case 1", "skip", "time budget"),
        ("never", "skip", "time budget"),
    ]


def test_a_child_that_stays_does_not_keep_anybody_waiting(play):
    assert play({"leaves": "sleep 60 & echo done"}) == [("leaves", "pass", "")]


HARNESS = """exec python3 -uc '
import os, time
print("TAP version 13")
print("1..2")
for number, name in enumerate(("tls.slow", "tls.quick"), 1):
    print(f"#  RUN           {name} ...")
    if not (child := os.fork()):
        os.setpgrp()
        time.sleep(60 if name == "tls.slow" else 0.1)
        os._exit(0)
    bad = os.waitpid(child, 0)[1]
    print(("not " if bad else "") + f"ok {number} {name}")
print("# Totals: pass:1 fail:1 xfail:0 xpass:0 skip:0 error:0")
raise SystemExit(1)'"""


def test_a_test_that_is_too_slow_is_ended_by_itself(play):
    assert play({"tls": HARNESS}, too_slow=r"\.slow") == [
        ("tls / tls.slow", "skip", "too slow on an emulated processor"),
        ("tls / tls.quick", "pass", ""),
    ]


def test_what_the_kernel_lacks_of_the_tests_own_config_is_a_skip_of_its_own(play, tmp_path):
    (tmp_path / "c").mkdir()
    (tmp_path / "c/lab.lacks").write_text("CONFIG_A\nCONFIG_B\n")
    name = "all that the tests' own config asks for"
    assert play({"good": "exit 0"}) == [
        ("good", "pass", ""),
        (name, "skip", "this kernel lacks CONFIG_A, CONFIG_B"),
    ]
