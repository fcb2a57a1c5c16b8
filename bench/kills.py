"""What kill -9 costs: a run of a pretended lab is killed at a random moment, and then gone on with, again and again.

Builds and machines are stand-ins, all else is the program's own. Of each kill it says how many finished jobs were
stored, how many of these were lost, how many processes were left, and whether going on completed the run and its
place in the history.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from pathlib import Path

from benchkit import labs
from benchkit.rounds import last_line, parser, run

sys.path.insert(0, str(labs.CLONE))

from tests import kills


def main() -> None:
    """Kill, and print a line for each."""
    options = parser(__doc__, rounds=1)
    options.add_argument("--count", type=int, default=100, help="how many kills")
    options.add_argument("--seed", type=int, default=0, help="of the random moments")
    given = options.parse_args()
    moments = random.Random(given.seed)
    with tempfile.TemporaryDirectory(prefix="bench-kills-") as folder:
        root = Path(folder)
        began = time.monotonic()
        kills.start(root, "run").communicate()  # a whole run: how long one takes, and a first one in the store
        whole_s = time.monotonic() - began
        done = []
        for number in range(given.count):
            after_s = moments.uniform(0.1, whole_s)
            kill = kills.killed(root, after_s)
            done.append(kill)
            words = f"{kill.stored} stored, {kill.lost} lost, {kill.left} processes left"
            print(f"{number + 1:4} after {after_s:4.1f} s: {words}, {'complete' if kill.complete else kill.said}")
    last_line(
        kills=str(len(done)),
        stored=str(sum(kill.stored for kill in done)),
        lost=str(sum(kill.lost for kill in done)),
        left=str(sum(kill.left for kill in done)),
        completed=str(sum(kill.complete for kill in done)),
    )


if __name__ == "__main__":
    run(main)
