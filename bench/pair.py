"""A pair of guests with a soft-iWARP link between them: from the decision to the first command in both.

Both are resumed from saved guests in which siw is loaded and its device is up (scenarios/lib/prepare/siw.sh), get a
new cable, names and addresses, and the scenario's files. Making the saved guests is the warm-up round's, and is
told apart. The link is then tried: rdma shows it active, and a ping goes through.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

from benchkit import labs
from benchkit.rounds import Figures, last_line, parser, run, say, show

from kpatchlab.errors import HostError
from kpatchlab.run.guests import JobGuest, guests_of, occupied

SCENARIO = {
    "siw-pair": {
        "scenario.yaml": (
            "description: Two guests with a soft-iWARP link.\n"
            "roles:\n  server: {prepare: [siw]}\n  client: {prepare: [siw], run: run.sh}\n"
            "needs: {modules: [siw]}\n"
        ),
        "run.sh": labs.KTAP_OK,
    }
}
CHECK = "rdma link show siw0/1 | grep -q 'state ACTIVE' && ping -c 1 -W 5 $LAB_SERVER"


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__, rounds=5)
    labs.add_options(arguments)
    options = arguments.parse_args()
    like, kernel = labs.choose(options.lab, options.kernel)
    taken = []
    with labs.bench(like, kernel, SCENARIO) as bench:
        for number in range(options.rounds + 1):
            taken.append(_pair(bench))
            say("warm-up, saved guests made where there were none" if number == 0 else f"round {number}")
    print(f"kernel {kernel} of {like.name}; the warm-up round took {taken[0]:.1f} s\n")
    figures = {"pair with siw": Figures(tuple(taken[1:]))}
    show(figures)
    last_line(pair_s=figures["pair with siw"].median)


def _pair(bench: labs.Bench) -> float:
    inputs = bench.inputs("siw-pair")
    began = time.monotonic()
    guests = guests_of(inputs)
    with occupied(inputs, guests), ThreadPoolExecutor(2) as pool:
        list(pool.map(_first, guests))
        took = time.monotonic() - began
        for guest in guests:
            assert guest.vm is not None
            done = guest.vm.run(["/bin/sh", "-c", CHECK], env=guest.environment(inputs), timeout_s=30)
            if done.status != 0:
                raise HostError(f"{guest.role}: the link is not up: {done.stdout!r} {done.stderr!r}")
    return took


def _first(guest: JobGuest) -> None:
    assert guest.vm is not None
    guest.vm.run(["true"], timeout_s=30)


if __name__ == "__main__":
    run(main)
