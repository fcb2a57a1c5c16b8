"""The lab's own memory while a guest floods it: a whole job, with its console and its script's output.

The script prints to its standard output (over virtio-serial) and to the console (an emulated serial port, which
is slow: it exits to QEMU with every byte). The peak is VmHWM of this process, which runs the job as `run` does;
QEMU is a child and does not count.
"""

from __future__ import annotations

import re
import time
from pathlib import Path

from benchkit import labs
from benchkit.rounds import last_line, parser, run

from kpatchlab.job import run_job

SCENARIO_YAML = "description: Prints without end.\ntimeout_s: 3600\nroles:\n  main: {run: run.sh}\n"
RUN = r"""#!/bin/sh
printf 'KTAP version 1\n1..1\n'
line="free text that nobody asked for, a line of it of 64 characters."
began=$(date +%s.%N); yes "$line" | head -c @CONSOLE@ >/dev/console
then=$(date +%s.%N); yes "$line" | head -c @STDOUT@
ended=$(date +%s.%N)
echo
echo "metric console $(awk "BEGIN { print $then - $began }") s lower"
echo "metric stdout $(awk "BEGIN { print $ended - $then }") s lower"
echo 'ok 1 - the flood is over'
"""


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__, rounds=1)
    labs.add_options(arguments)
    arguments.add_argument("--mib", type=int, default=1024, help="MiB on standard output")
    arguments.add_argument("--console-mib", type=int, default=64, help="MiB on the console")
    options = arguments.parse_args()
    like, kernel = labs.choose(options.lab, options.kernel)
    script = RUN.replace("@STDOUT@", str(options.mib << 20)).replace("@CONSOLE@", str(options.console_mib << 20))
    before = peak_mib()
    with labs.bench(like, kernel, {"flood": {"scenario.yaml": SCENARIO_YAML, "run.sh": script}}) as bench:
        began = time.monotonic()
        for _ in range(options.rounds):
            result = run_job(bench.inputs("flood"))
        took = time.monotonic() - began
    speed = {metric.name: metric.value for metric in result.metrics}
    rows = [
        ("peak before the guest [MiB]", before),
        ("peak [MiB]", peak_mib()),
        ("console asked for [MiB]", options.console_mib),
        ("console seen [MiB]", result.guests[0].console_bytes / (1 << 20)),
        ("console [MiB/s]", options.console_mib / speed["console"] if speed.get("console") else 0.0),
        ("standard output [MiB]", options.mib),
        ("standard output [MiB/s]", options.mib / speed["stdout"] if speed.get("stdout") else 0.0),
        ("wall time of a job [s]", took / options.rounds),
    ]
    print(f"kernel {kernel} of {like.name}; the job: {result.outcome.value} {result.message}\n")
    for name, value in rows:
        print(f"{name:32} {value:10.1f}")
    last_line(peak_rss_mib=peak_mib(), mib=str(options.mib), console_mib=str(options.console_mib))


def peak_mib() -> float:
    """Return the most memory that this process ever had, in MiB (VmHWM, proc(5))."""
    match = re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert match
    return int(match[1]) / 1024


if __name__ == "__main__":
    run(main)
