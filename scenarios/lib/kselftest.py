"""Running one collection of the kernel's own selftests; what they print as TAP is passed on, one level deeper.

    import kselftest
    kselftest.Collection("net/tls").run()

The rules are those of the kernel's tools/testing/selftests/kselftest/runner.sh: status 0 is a pass, 4 a skip, the file
`settings` has a time-out, standard error belongs to the output. Programs print to a terminal: to a pipe they would
keep their output back, and each of their children would print it again. What is not run for lack of time is reported
as skipped, never dropped.
"""

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
import time

FOLDER = "/lab/kselftest"
SCALE = float(os.environ.get("LAB_SCALE", "1"))
BUDGET_S = 480 * SCALE
"""For a whole collection. The longest, net/tls, took 20 to 29 s under TCG on two quiet processors (6.1.192, 6.12.117),
and more than 240 s on the same with a load of 10."""
TIMEOUT_S = 45 * SCALE
"""For one program: kselftest_default_timeout of the kernel's runner. Its `settings` can give it more; less is meant for
processors that are not emulated."""
LONG_S = float(os.environ.get("LAB_LONG", "2"))
"""A test that takes longer is named on standard error."""
EMULATED = bool(os.environ.get("LAB_EMULATED", "1"))
SKIP_STATUS = 4

_EAGER = 10
"""How much nicer the tests are than what watches them: a dozen busy processes must not keep it from ending them."""

_TAP = re.compile(r"(TAP version \d+|KTAP version \d+|1\.\.\d+)\b")
_PLAN = re.compile(r"1\.\.(\d+)\b")
_RESULT = re.compile(r"(?:not )?ok (\d+)\b")
_NOT_OK = re.compile(r"not ok \d+")
_TOTALS = re.compile(r"# Totals:")
_RUN = re.compile(r"#\s+RUN\s+(\S+) \.\.\.$")
# What scripts such as splice/short_splice_read.sh print: "TITLE ...", then "ok: ..." or "FAIL: ...".
_TITLE = re.compile(r"(\S.*) \.\.\.$")
_OUTCOME = re.compile(r"(ok|FAIL): (.*)$")
# What bpf/test_sockmap prints for each of its tests, which is no TAP: number, map:options:title:outcome.
_SOCKMAP = re.compile(r"# *\d+/ *\d+ +(sock\w+):(.*):([^:]*):(OK|FAIL)$")
# And what it says where its words choose none: that of 7.2.13 has no test with kernel TLS.
_NONE_CHOSEN = "Pass: 0 Fail: 0"


def _show(line):
    print(line, flush=True)


class _Lines:
    """The output of a child, line by line, until it ends or a deadline comes.

    Attributes:
        late: the deadline came.
        unwanted: set by the caller while whatever the child has started is to be killed.
    """

    def __init__(self, words, folder, deadline):
        self.deadline, self.late, self.unwanted = deadline, False, False
        self._terminal, theirs = os.openpty()
        self.child = subprocess.Popen(
            words,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=lambda: os.nice(_EAGER),
        )
        os.close(theirs)

    def __iter__(self):
        pending = b""
        while data := self._more():
            *whole, pending = (pending + data).split(b"\n")
            yield from (line.decode("utf-8", "replace").rstrip() for line in whole)
        if pending:
            yield pending.decode("utf-8", "replace").rstrip()
        self.late = self.child.poll() is None and time.monotonic() >= self.deadline
        kill_below(os.getpid())
        self.child.wait()
        os.close(self._terminal)

    def _more(self):
        """What comes next; nothing once the child has ended, whoever of its children still holds the terminal."""
        while time.monotonic() < self.deadline:
            ended = self.child.poll() is not None
            if select.select([self._terminal], [], [], 0 if ended else 0.03 if self.unwanted else 0.2)[0]:
                try:
                    return os.read(self._terminal, 65536)
                except OSError:  # the last one that held it has ended
                    return b""
            if ended:
                return b""
            if self.unwanted:
                kill_groups_of(self.child.pid)
        return b""


def kill_groups_of(pid):
    """Kill the process groups of a process's own children: kselftest_harness puts each test into one."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            children = [int(word) for word in file.read().split()]
    except OSError:  # CONFIG_PROC_CHILDREN
        kill_below(pid)
        return
    for child in children:
        with contextlib.suppress(OSError):
            if os.getpgid(child) == child:
                os.killpg(child, signal.SIGKILL)


def kill_below(pid):
    """Kill every process that descends from one."""
    children = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat") as file:
                parent = int(file.read().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(name))
    todo = list(children.get(pid, ()))
    while todo:
        one = todo.pop()
        todo += children.get(one, ())
        with contextlib.suppress(OSError):
            os.kill(one, signal.SIGKILL)


class Collection:
    """One collection in this guest.

    Args:
        parts: program -> the arguments of each run of it, where it is run more than once.
        too_slow: a pattern for tests of kselftest_harness that take too long without KVM: skipped there, one by one.
        broken: strace's words, one a list, that make something go wrong on purpose: what the tests get is not what
            the kernel gave.
    """

    def __init__(self, name, parts=None, too_slow="", broken=()):
        self.folder = os.path.join(FOLDER, name)
        self.parts = parts or {}
        self.too_slow = re.compile(too_slow) if too_slow and EMULATED else None
        self.broken = broken if os.environ.get("LAB_BREAK") else ()
        self.deadline = time.monotonic() + BUDGET_S

    def run(self):
        """Run everything and print the report."""
        tests = [(name, words) for name in self._read("lab.tests") for words in self.parts.get(name, ("",))]
        left_out = [line.split("\t") for line in self._read("lab.left-out")]
        with contextlib.suppress(FileNotFoundError):  # it is there where the kernel lacks something
            why = f"this kernel lacks {', '.join(self._read('lab.lacks'))}"
            left_out.append(("all that the tests' own config asks for", "", why))
        _show(f"KTAP version 1\n1..{len(tests) + len(left_out)}")
        for number, (name, words) in enumerate(tests, 1):
            title = f"{name} {words}".strip()
            began = time.monotonic()
            if began < self.deadline:
                self._test(number, title, name, words)
                print(f"{title}: {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)
            else:
                _show(f"ok {number} - {title} # SKIP time budget")
        for number, (name, test, why) in enumerate(left_out, len(tests) + 1):
            _show(f"ok {number} - {f'{name} / {test}' if test else name} # SKIP {why}")

    def _read(self, name):
        with open(os.path.join(self.folder, name)) as file:
            return file.read().splitlines()

    def _interpreter(self, name):
        """What a script without the mode for it is run by, as the kernel's runner does; nothing for the others."""
        path = os.path.join(self.folder, name)
        if os.access(path, os.X_OK):
            return []
        with open(path, "rb") as file:
            first = file.readline(256).decode("utf-8", "replace")
        return first[2:].split() if first.startswith("#!") else []

    def _timeout(self):
        with contextlib.suppress(OSError):
            for line in self._read("settings"):
                if match := re.match(r"timeout=(\d+)", line):
                    return max(TIMEOUT_S, int(match[1]) * SCALE or BUDGET_S)
        return TIMEOUT_S

    def _test(self, number, title, name, words):
        """Run one program and report it as result `number`."""
        command = [*self._interpreter(name), f"./{name}", *words.split()]
        if self.broken:
            command = ["strace", "-f", "-qq", "-o", "/dev/null", *(w for e in self.broken for w in ("-e", e)), *command]
        own = time.monotonic() + self._timeout()
        try:
            lines = _Lines(command, self.folder, min(own, self.deadline))
        except OSError as error:  # its interpreter is not in this guest
            _show(f"ok {number} - {title} # SKIP it cannot be started: {error.strerror}")
            return
        report = _Report(title, self.too_slow)
        for line in lines:
            report.take(line)
            lines.unwanted = bool(report.ended)
        if lines.late:
            report.cut_off(
                "time budget" if own > self.deadline else f"the program ran longer than {self._timeout():g} s"
            )
        status = lines.child.returncode
        report.end()
        if lines.late and own > self.deadline:
            _show(f"ok {number} - {title} # SKIP time budget: not run to its end")
        elif lines.late:
            _show(f"not ok {number} - {title} # TIMEOUT {self._timeout():g} s")
        elif status == SKIP_STATUS:
            _show(f"ok {number} - {title} # SKIP {report.said or 'by itself'}")
        elif status and not report.only_skipped:
            _show(f"not ok {number} - {title} # status {status}{': ' if report.said else ''}{report.said}")
        elif report.said == _NONE_CHOSEN and not report.made:
            _show(f"ok {number} - {title} # SKIP this kernel's test_sockmap has no such test")
        elif name == "test_sockmap" and not report.made:  # it ends with 0 whatever happens
            _show(f"not ok {number} - {title} # it reports no test")
        else:
            _show(f"ok {number} - {title}")


class _Report:
    """Passes on what one program prints.

    Args:
        title: announces its results, so that they have their names, should the guest be lost meanwhile.

    Attributes:
        made: results that stand for lines which are no TAP.
        said: the line that says best why it failed.
        ended: the test that is being ended, since it is too slow.
        only_skipped: the tests that failed are those that were ended.
    """

    def __init__(self, title, too_slow):
        self._program, self._announced, self._too_slow = title, False, too_slow
        self._tap, self._planned, self._last, self.ended, self._failed = False, 0, 0, "", 0
        self.made, self.said, self._title, self._killed = 0, "", "", 0
        self._since = time.monotonic()

    @property
    def only_skipped(self):
        return bool(self._killed) and not self._failed

    def _show_below(self, line):
        if not self._announced:
            _show(f"# Subtest: {self._program}")
            self._announced = True
        _show(f"  {line}")

    def take(self, line):
        """Pass one line on."""
        self._tap = self._tap or bool(_TAP.match(line))
        if found := _SOCKMAP.match(line):
            self.made += 1
            kind, options, title, outcome = found.groups()
            name = f"{kind}{f' {options}' if options else ''}: {title}"
            self._show_below(f"{'ok' if outcome == 'OK' else 'not ok'} {self.made} - {name}")
        elif not self._tap and self._title and (found := _OUTCOME.match(line)):
            self.made += 1
            result = "ok" if found[1] == "ok" else "not ok"
            self._show_below(f"{result} {self.made} - {self._title} # {found[2]}")
            self._title = ""
        elif not self._tap:
            if found := _TITLE.match(line):
                self._title = found[1]
            self.said = line if line.startswith("FAIL") or (line and not self.said.startswith("FAIL")) else self.said
            _show(f"# {line}")
        elif line:
            self._tap_line(line)

    def _tap_line(self, line):
        if match := _PLAN.match(line):
            self._planned = int(match[1])
        elif match := _RESULT.match(line):
            self._last = int(match[1])
        elif (match := _RUN.match(line)) and self._too_slow and self._too_slow.search(match[1]):
            self.ended = match[1]
        if self.ended and (match := _RESULT.match(line)):  # also where it was quicker: the same on every kernel
            self._killed += 1
            line = f"ok {match[1]} {self.ended} # SKIP too slow on an emulated processor"
        elif _NOT_OK.match(line):
            self._failed += 1
        if _RESULT.match(line):
            self.ended = ""
            now = time.monotonic()
            if now - self._since > LONG_S:
                print(f"{now - self._since:.1f} s: {line}", file=sys.stderr, flush=True)
            self._since = now
        if self._killed and _TOTALS.match(line):  # it counts as failed what was ended
            line = f"# by its own count: {line.lstrip('# ')}"
        self._show_below(line)

    def cut_off(self, why):
        """Report the tests that did not come any more."""
        for missing in range(self._last + 1, self._planned + 1):
            self._show_below(f"ok {missing} - case {missing} # SKIP {why}")

    def end(self):
        """Close what was made up."""
        if self.made:
            self._show_below(f"1..{self.made}")


def collections():
    """The collections in this guest, by name."""
    found = [os.path.relpath(top, FOLDER) for top, _, names in os.walk(FOLDER) if "lab.tests" in names]
    return sorted(found)


if __name__ == "__main__":  # by scenarios that the lab makes: one collection each
    (_NAME,) = collections()
    Collection(_NAME).run()
