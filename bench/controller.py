"""What the lab's own process costs a job, in processor time: runs of jobs that do nothing, in stand-ins for guests.

Each run is a process of its own, on a lab and a cache of its own; what QEMU's stand-ins and their scripts take is not
counted, what starts a run and ends it is. The second run has --times as many jobs: where a job costs the same in both,
the whole is linear. With --against the first run is made by the program of another commit as well, in turn, from a
worktree that is made for it and removed.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from benchkit import labs
from benchkit.rounds import interleaved, last_line, parser, run, show

from kpatchlab import proc
from kpatchlab.errors import LabError

RUN = Path(__file__).with_name("benchkit") / "pretended.py"
RUN_S = 7200.0


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__, rounds=3)
    arguments.add_argument("--jobs", type=int, default=1000, help="of a run")
    arguments.add_argument("--times", type=int, default=2, help="as many jobs has the second run; 1: there is none")
    arguments.add_argument("--against", metavar="COMMIT", default="", help="of this repository")
    options = arguments.parse_args()
    peaks: dict[str, int] = {}
    with tempfile.TemporaryDirectory(prefix="kpatchlab-controller-") as scratch:
        cases = {"here": lambda: ms_a_job(labs.CLONE, options.jobs, peaks)}
        if options.times > 1:
            cases["more jobs"] = lambda: ms_a_job(labs.CLONE, options.jobs * options.times, peaks)
        other = Path(scratch) / "other"
        if options.against:
            git("worktree", "add", "--quiet", "--detach", str(other), options.against)
            cases["other"] = lambda: ms_a_job(other, options.jobs, peaks)
        try:
            figures = interleaved(cases, options.rounds)
        finally:
            if options.against:
                git("worktree", "remove", "--force", str(other))
    show(figures, "ms a job")
    medians = {name: taken.median for name, taken in figures.items()}
    here, more, before = (medians.get(name) for name in ("here", "more jobs", "other"))
    last_line(
        jobs=options.jobs,
        ms_a_job=here,
        more_jobs_ratio=more / here if more and here else None,
        other_ms_a_job=before,
        ratio=here / before if here and before else None,
        peak_mib=peaks[str(labs.CLONE)],
    )


def ms_a_job(tree: Path, jobs: int, peaks: dict[str, int]) -> float:
    """Return the processor time of a run by a worktree's program; its peak of memory in MiB goes into `peaks`.

    Raises:
        LabError: not every job passed.
    """
    with tempfile.TemporaryDirectory(prefix="kpatchlab-pretended-") as folder:
        done = proc.run([sys.executable, "-P", RUN, tree, folder, str(jobs)], timeout_s=RUN_S, check=False)
    if done.status != 0:
        raise LabError(f"the run ended with status {done.status}", details=tuple(done.stderr.splitlines()[-8:]))
    used, peak = done.stderr.split()[-2:]
    peaks[str(tree)] = max(peaks.get(str(tree), 0), int(peak))
    return float(used) * 1000 / jobs


def git(*words: str) -> None:
    """Have git do something with this repository."""
    proc.run(["git", "-C", labs.CLONE, *words], timeout_s=60)


if __name__ == "__main__":
    run(main)
