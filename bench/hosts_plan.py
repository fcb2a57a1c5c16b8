"""A plan of many jobs on many simulated hosts: how near it comes to the least time that it can take, and what it costs.

The controller, its engine and its store are the real ones, and so are the workers and the TLS between them; a job is a
sleep of a spread as that of a lab's scenarios. Workers are many in one process. The least time is the sum of what the
jobs sleep by the number of slots, or the longest of them. With --dask the same plan is given to Dask whole, which then
decides where each job runs.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from benchkit.rounds import last_line, parser, run, say

from kpatchlab import proc
from kpatchlab.errors import LabError

RACK = Path(__file__).with_name("benchkit") / "rack.py"
RUN_S = 7200.0


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__, rounds=1)
    arguments.add_argument("--jobs", type=int, default=10_000)
    arguments.add_argument("--hosts", type=int, default=100)
    arguments.add_argument("--slots", type=int, default=4, help="jobs at once on each host")
    arguments.add_argument("--mean", type=float, default=20.0, help="seconds that a job sleeps, on the average")
    arguments.add_argument("--dask", action="store_true", help="let Dask decide as well, on the same plan")
    options = arguments.parse_args()
    found: dict[str, float] = {}
    for who in ("lab", *(("dask",) if options.dask else ())):
        say(f"{options.jobs} jobs on {options.hosts} hosts, placed by {who}")
        with tempfile.TemporaryDirectory(prefix="kpatchlab-rack-") as folder:
            words = [folder, str(options.jobs), str(options.hosts), str(options.slots), str(options.mean), who]
            done = proc.run([sys.executable, "-P", RACK, "controller", *words], timeout_s=RUN_S, check=False)
        try:
            took_s, cpu_s, peak_mib, slept_s, longest_s, count = map(float, done.stderr.split()[-6:])
        except ValueError:
            raise LabError("the run gave no figures", details=tuple(done.stderr.splitlines()[-8:])) from None
        least_s = max(slept_s / (options.hosts * options.slots), longest_s)
        print(f"{who}: {took_s:.1f} s, {least_s:.1f} at least; {count:.0f} results; load {os.getloadavg()[0]:.1f}")
        before = "" if who == "lab" else f"{who}_"
        found |= {
            f"{before}over_least": took_s / least_s,
            f"{before}controller_ms_a_job": 1000 * cpu_s / options.jobs,
            f"{before}peak_mib": peak_mib,
            f"{before}lost": options.jobs - count,
        }
    last_line(**found)


if __name__ == "__main__":
    run(main)
