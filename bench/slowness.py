"""How long a kernel takes for its own work, beside a program's in the same guest: the base of `debug.slowness`.

A kernel without debugging is the measure: `debug.PLAIN_RATIO` is the median that this prints for one. With
`--kernel NAME` of a variant's lab file it shows what the variant costs.
"""

from __future__ import annotations

from benchkit import labs
from benchkit.rounds import Figures, last_line, parser, run, say, show

from kpatchlab.run.guests import guests_of, occupied
from kpatchlab.variants import debug

SCENARIO = {
    "bare": {
        "scenario.yaml": "description: One guest.\nroles:\n  main: {run: run.sh}\n",
        "run.sh": labs.KTAP_OK,
    }
}


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__, rounds=9)
    labs.add_options(arguments)
    options = arguments.parse_args()
    like, kernel = labs.choose(options.lab, options.kernel)
    with labs.bench(like, kernel, SCENARIO) as bench:
        inputs = bench.inputs("bare")
        (guest,) = guests = guests_of(inputs)
        with occupied(inputs, guests):
            assert guest.vm is not None
            debug.ratio(guest.vm)  # the programs are read from the root now
            taken = [debug.ratio(guest.vm) for _ in range(options.rounds)]
            say(f"{options.rounds} rounds on kernel {kernel} of {like.name}")
    figures = {"kernel's seconds over a program's": Figures(tuple(taken))}
    show(figures)
    last_line(ratio=figures["kernel's seconds over a program's"].median)


if __name__ == "__main__":
    run(main)
