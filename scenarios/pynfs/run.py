#!/usr/bin/python3
"""pynfs' tests of one version, some at a time: it writes no report before all of a call have ended, nor when it is cut off."""

import os
import subprocess
import sys
import time
import xml.etree.ElementTree as ET

sys.path.insert(0, os.environ["LAB_LIB"])
import ktap

SCALE = float(os.environ.get("LAB_SCALE", "1"))
BEGAN = time.monotonic()
BUDGET_S = 1300 * SCALE
CALL_S = 150 * SCALE
ALONE_S = 60 * SCALE
"""For one test by itself, after a call of several did not end. Tests wait for leases, of 10 s here."""
AT_ONCE = 12
VERSION = os.environ["LAB_VERS"]
REPORT = "/tmp/report.xml"
WORDS = ["python3", "testserver.py", *(["--minorversion=1"] if VERSION == "4.1" else [])]
BREAK = ["--debug_fail"] if os.environ.get("LAB_BREAK") else []  # its own way to make checks fail


def codes():
    """All tests but those that its authors leave out of `all`."""
    done = subprocess.run([*WORDS, "--showcodesflags"], capture_output=True, text=True, check=True)
    lines = (line.partition(" FLAGS: ") for line in done.stdout.splitlines())
    return [code.strip() for code, _, flags in lines if "all" in flags.split(", ")]


def call(some, limit_s):
    """Run some tests, with those that they need; returns code -> (outcome, message), None where they did not end."""
    if os.path.exists(REPORT):
        os.remove(REPORT)
    words = [*WORDS, *BREAK, "--maketree", "--rundeps", f"--xml={REPORT}", f"{os.environ['LAB_SERVER']}:/", *some]
    try:
        done = subprocess.run(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=limit_s, check=False)
    except subprocess.TimeoutExpired:
        return None
    if not os.path.exists(REPORT):
        last = (done.stderr.decode("utf-8", "replace").strip().splitlines() or ["it says nothing"])[-1]
        return dict.fromkeys(some, ("not ok", f"no report: {last}"))
    return {case.get("code"): told(case) for case in ET.parse(REPORT).getroot().iter("testcase")}


def told(case):
    """What a test's element says."""
    if (failure := case.find("failure")) is not None:
        return "not ok", failure.get("message") or ""
    return ("skip", "it, or what it needs, does not apply") if case.find("skipped") is not None else ("ok", "")


def report(code, found):
    """Print one test's result."""
    outcome, message = found.get(code, ("not ok", "it was to run, and has no result"))
    if outcome == "skip":
        ktap.skip(code, message)
    elif outcome == "ok":
        ktap.ok(code)
    else:
        ktap.not_ok(code, message)


os.chdir(f"/lab/suites/pynfs/nfs{VERSION}")
every = codes()
ktap.plan(len(every))
for first in range(0, len(every), AT_ONCE):
    some = every[first : first + AT_ONCE]
    began = time.monotonic()
    found = call(some, CALL_S) if began - BEGAN < BUDGET_S else {code: ("skip", "time budget") for code in some}
    print(f"{some[0]} to {some[-1]}: {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)
    for code in some:
        if found is not None:
            report(code, found)
        elif time.monotonic() - BEGAN >= BUDGET_S:
            ktap.skip(code, "time budget")
        else:
            report(code, call([code], ALONE_S) or {code: ("not ok", f"no end within {ALONE_S:.0f} s")})
