"""The lab's own memory while a guest floods it: a whole job, with its console and its script's output.

The script prints to its standard output (over virtio-serial) and to the console. That is an emulated serial port
and takes tens of KiB a second, so that a guest prints a little there, and the rest of the way, from QEMU's socket
to the kept head and tail, is flooded by a process that prints as fast as it can. The peak is VmHWM of this
process, which runs the job as `run` does; QEMU and that process are children and do not count.
"""

from __future__ import annotations

import argparse
import re
import socket
import tempfile
import time
from pathlib import Path

from benchkit import labs
from benchkit.rounds import last_line, parser, run

from kpatchlab import proc
from kpatchlab.evidence.splats import find_splats
from kpatchlab.guest.console import Console
from kpatchlab.guest.guest import Guest
from kpatchlab.run.job import run_job

SCENARIO_YAML = "description: Prints without end.\ntimeout_s: 3600\nroles:\n  main: {run: run.sh}\n"
RUN = r"""#!/bin/sh
printf 'KTAP version 1\n1..1\n'
line="@LINE@"
began=$(date +%s.%N); yes "$line" | head -c @CONSOLE@ >/dev/console
then=$(date +%s.%N); yes "$line" | head -c @STDOUT@
ended=$(date +%s.%N)
echo
echo "metric console $(awk "BEGIN { print $then - $began }") s lower"
echo "metric stdout $(awk "BEGIN { print $ended - $then }") s lower"
echo 'ok 1 - the flood is over'
"""


LINE = "free text that nobody asked for, a line of it of 64 characters."


class Flooded(Guest):
    """A guest of which only the console is there: a process that prints LINE without end."""

    def __init__(self, path: Path) -> None:
        ctl, self._agent = socket.socketpair()
        super().__init__(ctl, Console(path))
        self._ours, theirs = socket.socketpair()
        self._process = proc.spawn(["yes", LINE], stdout=theirs.fileno())
        theirs.close()
        self._watch(self._ours, self.console.add)
        self._thread.start()

    def _stop(self) -> None:
        proc.stop(self._process, grace_s=0.0)
        super()._stop()
        self._ours.close()
        self._agent.close()


def flood(mib: int) -> float:
    """Have `mib` MiB printed on a console, look for splats in what is kept of it, and return the MiB/s."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="kpatchlab-bench-") as folder, Flooded(Path(folder) / "console") as guest:
        while guest.console.total < mib << 20:
            time.sleep(0.01)
        took = time.monotonic() - began
        find_splats(guest.console.data())
    return mib / took


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__, rounds=1)
    labs.add_options(arguments)
    arguments.add_argument("--mib", type=int, default=1024, help="MiB on standard output, and again on the console")
    arguments.add_argument("--serial-mib", type=int, default=2, help="MiB of console through the serial port")
    arguments.add_argument("--no-guest", action="store_true", help="the console alone")
    options = arguments.parse_args()
    rows = {"peak before [MiB]": peak_mib()}
    rows["console, from the socket on [MiB/s]"] = flood(options.mib)
    rows["peak after it [MiB]"] = peak_mib()
    if not options.no_guest:
        rows |= _job(options)
        rows["peak after the job [MiB]"] = peak_mib()
    for name, value in rows.items():
        print(f"{name:40} {value:10.2f}")
    last_line(peak_rss_mib=peak_mib(), mib=str(options.mib))


def _job(options: argparse.Namespace) -> dict[str, float]:
    """Run the job and return its speeds."""
    like, kernel = labs.choose(options.lab, options.kernel)
    sizes = {"@STDOUT@": options.mib << 20, "@CONSOLE@": options.serial_mib << 20, "@LINE@": LINE}
    script = RUN
    for word, size in sizes.items():
        script = script.replace(word, str(size))
    with labs.bench(like, kernel, {"flood": {"scenario.yaml": SCENARIO_YAML, "run.sh": script}}) as bench:
        for _ in range(options.rounds):
            result = run_job(*bench.job("flood"))
    print(f"kernel {kernel} of {like.name}; the job: {result.outcome.value} {result.message}\n")
    speed = {metric.name: metric.value for metric in result.metrics}
    return {
        "console, seen through the port [MiB]": result.guests[0].console_bytes / (1 << 20),
        "console, through the port [MiB/s]": options.serial_mib / speed["console"],
        "standard output [MiB/s]": options.mib / speed["stdout"],
    }


def peak_mib() -> float:
    """Return the most memory that this process ever had, in MiB (VmHWM, proc(5))."""
    match = re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert match
    return int(match[1]) / 1024


if __name__ == "__main__":
    run(main)
