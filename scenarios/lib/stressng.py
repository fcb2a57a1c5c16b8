"""stress-ng's stressors as checks, one result for each: a fixed number of operations with what it verifies of them.

    import stressng
    stressng.run({"splice": "--splice-ops 200", "tee": "--tee-ops 100"}, broken={"splice": "splice:error=EIO"})

Statuses are those of stress-ng(1): 0 all went well, 3 no resources, 4 not implemented here, others a failure. What the
kernel lacks is "skipped" in its summary, with status 0.
"""

import os
import re
import subprocess
import sys

import ktap

SCALE = float(os.environ.get("LAB_SCALE", "1"))
STRESSOR_S = 3
"""After so many seconds a stressor ends, whatever it has done; that is a pass."""
LATE_S = 60 * SCALE

ON_FILES = {
    "hdd": "--hdd-ops 100 --hdd-bytes 16M",
    "seek": "--seek-ops 200 --seek-size 16M",
    "readahead": "--readahead-ops 200 --readahead-bytes 16M",
    "revio": "--revio-ops 100 --revio-bytes 16M",
    "fallocate": "--fallocate-ops 20 --fallocate-bytes 16M",
    "sendfile": "--sendfile-ops 100",
    "splice": "--splice-ops 200",
}

_SKIPPED = re.compile(r"skipped: [1-9]")


def _words(name, options, folder):
    how = ["--timeout", str(STRESSOR_S), "--verify", "--no-rand-seed", "--temp-path", folder]
    return ["stress-ng", "--" + name, "1", *options.split(), *how]


def _check(name, options, folder, fault):
    words = _words(name, options, folder)
    if fault:
        words = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "inject=" + fault, *words]
    child = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=LATE_S)
    sys.stderr.write(child.stdout)
    said = [line.split("] ", 1)[-1] for line in child.stdout.splitlines() if f"] {name}: " in line]
    if child.returncode in {3, 4} or (child.returncode == 0 and _SKIPPED.search(child.stdout)):
        raise ktap.Skip(said[-1] if said else f"stress-ng ends with status {child.returncode}")
    said = said[-5:] or child.stdout.splitlines()[-5:]
    assert child.returncode == 0, "\n".join([f"stress-ng ends with status {child.returncode}", *said])


def run(stressors, folder="/tmp", broken=None):
    """Run stressors (name -> its options) on a folder, one after the other.

    `broken` gives, for a deliberate break, what strace makes of a stressor's system calls.
    """
    faults = (broken or {}) if os.environ.get("LAB_BREAK") else {}
    ktap.plan(len(stressors))
    for name, options in stressors.items():
        try:
            ktap.check(name, _check, name, options, folder, faults.get(name))
        except subprocess.TimeoutExpired:
            ktap.not_ok(name, f"still running after {LATE_S:.0f} s")


def run_on_mount(folder):
    """Run stressors of files on a file system."""
    run(ON_FILES, folder, broken={"sendfile": "sendfile:error=EIO", "hdd": "write:error=EIO:when=20+"})
