"""Children: output, deadlines, and that none outlives the lab."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from kpatchlab import proc
from kpatchlab.errors import HostError


def alive(mark: str) -> list[int]:
    """Return the processes whose command line has `mark`."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                if mark.encode() in (folder / "cmdline").read_bytes():
                    found.append(int(folder.name))
            except OSError:
                continue
    return found


def wait_gone(mark: str, limit_s: float = 8.0) -> bool:
    end = time.monotonic() + limit_s
    while alive(mark):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def test_streams_are_apart_and_status_is_kept():
    done = proc.run(["sh", "-c", "echo out; echo err >&2; exit 3"], timeout_s=10, check=False)
    assert (done.status, done.stdout, done.stderr) == (3, "out\n", "err\n")


def test_failure_names_program_last_line_and_command():
    with pytest.raises(proc.CommandFailed) as caught:
        proc.run(["sh", "-c", "echo one >&2; echo two >&2; exit 4"], timeout_s=10)
    assert "sh exited with 4: two" in caught.value.message
    assert "exit 4" in caught.value.hint


def test_missing_program_is_a_host_error():
    with pytest.raises(HostError, match="not found"):
        proc.run(["no-such-program-here"], timeout_s=1)


def test_niceness_is_also_the_autogroups():
    words = ["sh", "-c", "sleep 0.3; nice; cat /proc/self/autogroup"]
    own = os.getpriority(os.PRIO_PROCESS, 0)
    plain, nice = (proc.run(words, timeout_s=10, check=False, nice=by).stdout.split() for by in (0, 7))
    assert (int(plain[0]), int(nice[0])) == (own, min(19, own + 7))
    group = proc.autogroup_nice()
    if group is None:
        pytest.skip("this process is in no autogroup")
    assert (int(plain[-1]), int(nice[-1])) == (group, min(19, group + 7))


def test_deadline_ends_the_whole_session():
    begin = time.monotonic()
    done = proc.run(["sh", "-c", "sleep 4711 & sleep 4711"], timeout_s=0.5, check=False)
    assert done.timed_out
    assert time.monotonic() - begin < 6
    assert wait_gone("4711")


def test_a_child_that_ignores_sigterm_is_killed():
    done = proc.run(["sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"], timeout_s=0.3, check=False)
    assert done.timed_out
    assert done.status == -signal.SIGKILL


def test_cancel_ends_a_child_early():
    cancel = threading.Event()
    threading.Timer(0.3, cancel.set).start()
    begin = time.monotonic()
    done = proc.run(["sleep", "60"], timeout_s=60, check=False, cancel=cancel)
    assert done.status == -signal.SIGTERM
    assert time.monotonic() - begin < 5


def test_daemon_that_holds_the_pipe_is_not_waited_for():
    begin = time.monotonic()
    done = proc.run(["sh", "-c", "sleep 4712 & echo hi"], timeout_s=30)
    assert done.stdout == "hi\n"
    assert time.monotonic() - begin < 5
    for pid in alive("4712"):
        os.kill(pid, signal.SIGKILL)


def test_flood_is_cut_in_the_middle():
    done = proc.run(["sh", "-c", "echo first; head -c 20000000 /dev/zero; echo last"], timeout_s=60)
    assert len(done.stdout) < proc.KEEP_BYTES + 100
    assert done.stdout.startswith("first\n")
    assert done.stdout.endswith("last\n")
    assert "bytes cut" in done.stdout


def test_lines_come_as_they_are_printed_and_input_goes_in():
    lines: list[str] = []
    proc.run(["cat"], timeout_s=10, input_bytes=b"a\nb\nc", on_line=lines.append)
    assert lines == ["a", "b", "c"]


@pytest.mark.parametrize("limit", [2, 8, 100])
def test_kept_never_exceeds_its_limit_by_more_than_its_note(limit):
    kept = proc.Kept(limit)
    for _ in range(1000):
        kept.add(b"x" * 37)
    assert kept.total_bytes == 37000
    assert kept.cut_bytes == 37000 - 2 * (limit // 2)
    assert len(kept.data()) < limit + 60


def test_kept_is_whole_below_the_limit():
    kept = proc.Kept(100)
    for byte in b"hello world":
        kept.add(bytes([byte]))
    assert kept.data() == b"hello world"


def test_children_end_with_a_lab_that_is_killed():
    code = (
        "from kpatchlab import proc; import time\n"
        "proc.spawn(['sh', '-c', 'setsid sleep 4713 & sleep 4713'])\n"
        "print('up', flush=True); time.sleep(60)\n"
    )
    lab = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert lab.stdout
    assert lab.stdout.readline() == b"up\n"
    end = time.monotonic() + 5
    while len(alive("sleep 4713")) < 2 and time.monotonic() < end:
        time.sleep(0.05)
    assert len(alive("sleep 4713")) >= 2
    lab.kill()
    lab.wait()
    assert wait_gone("sleep 4713")
