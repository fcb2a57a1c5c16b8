"""How soon the lab answers: its help, its plan, and the first scenario of a run that has nothing left to build.

  help   ./lab --help
  plan   ./lab plan
  first  ./lab run ONE SCENARIO, until that scenario's script runs: the script prints its guest's clock, which a
         job sets from the host's; kernel, root and saved guest are in the cache from the warm-up round

Beside the seconds of wall time stand those of processor time: on a busy host they differ.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchkit import labs
from benchkit.rounds import children_s, interleaved, last_line, parser, run, show

from kpatchlab import proc
from kpatchlab.errors import HostError

METRIC = "started"
SCENARIO = {
    "first": {
        "scenario.yaml": "description: Says when it began.\nroles:\n  main: {run: run.sh}\n",
        "run.sh": f'#!/bin/sh\nnow=$(date +%s.%N)\necho "metric {METRIC} $now s lower"\n'
        + labs.KTAP_OK.split("\n", 1)[1],
    }
}
TIMEOUT_S = 300.0


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__, rounds=5)
    labs.add_options(arguments)
    arguments.add_argument("--no-guest", action="store_true", help="help and plan alone")
    options = arguments.parse_args()
    lab = str(labs.CLONE / "lab")
    processor: dict[str, list[float]] = {}

    def timed(name: str, words: list[str]) -> Callable[[], float]:
        def call() -> float:
            before, began = children_s(), time.monotonic()
            proc.run([lab, "--no-install", *words], timeout_s=TIMEOUT_S, cwd=labs.CLONE)
            took = time.monotonic() - began
            processor.setdefault(name, []).append(children_s() - before)
            return took

        return call

    plan = ["--lab", str(options.lab.absolute())] if options.lab else []
    cases = {"help": timed("help", ["--help"]), "plan": timed("plan", [*plan, "plan"])}
    with tempfile.TemporaryDirectory(prefix="kpatchlab-bench-") as folder:
        if not options.no_guest:
            like, kernel = labs.choose(options.lab, options.kernel)
            print(f"kernel {kernel} of {like.name}\n")
            file = labs.write_lab(Path(folder), like, SCENARIO)
            cases["first"] = lambda: _first(lab, file, kernel)
        figures = interleaved(cases, options.rounds)
    for name, values in processor.items():
        figures[f"{name}: processor"] = type(figures["help"])(tuple(values[1:]))
    show(figures)
    last_line(
        help_s=figures["help"].median,
        plan_s=figures["plan"].median,
        first_scenario_s=figures["first"].median if "first" in figures else None,
    )


def _first(lab: str, file: Path, kernel: str) -> float:
    """Run the scenario and return the seconds from the start of the program to the start of its script."""
    began = time.time()
    command = [lab, "--no-install", "--lab", str(file), "run", "--kernel", kernel, "--json"]
    done = proc.run(command, timeout_s=TIMEOUT_S, cwd=labs.CLONE, env=dict(os.environ))
    (job,) = json.loads(done.stdout)["run"]["jobs"]
    said = [metric["value"] for metric in job["metrics"] if metric["name"] == METRIC]
    if not said:
        raise HostError(f"the scenario did not run: {job['message']}")
    return float(said[0]) - began


if __name__ == "__main__":
    run(main)
