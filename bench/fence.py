"""What the sandbox costs a build: processor time of the same small build inside and outside, in pairs.

The build is make with one job on --files C files of the size of a small driver, without ccache. Its time is measured
inside the sandbox by bash's `time`: outside, the time of what runs in a process namespace of its own is not to be had.
The order within a pair changes from pair to pair. `upper` is the upper end of the interval (95 %) of the ratio, which
the lab's verdicts use as well.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchkit.rounds import Figures, last_line, parser, run, say, show

from kpatchlab import fence
from kpatchlab.errors import HostError
from kpatchlab.fence import Fence
from kpatchlab.verdict.ratios import interval

BUILD_S = 600.0
FUNCTIONS = 120
"""Of each file: it takes gcc -O2 some 0.2 s."""
MAKEFILE = "objects := $(patsubst %.c,%.o,$(wildcard *.c))\nall: $(objects)\n%.o: %.c\n\tgcc -O2 -Wall -c -o $@ $<\n"
TIMED = 'rm -f *.o; TIMEFORMAT="%U %S"; time make -s -j1 all'


def lay_out(folder: Path, files: int) -> None:
    """Write the project."""
    (folder / "Makefile").write_text(MAKEFILE)
    for number in range(files):
        body = "".join(
            f"int f{number}_{n}(int a) {{ int s = 0; for (int i = 0; i < a; i++) s ^= s * i + {n}; return s; }}\n"
            for n in range(FUNCTIONS)
        )
        (folder / f"file{number}.c").write_text(f"#include <stdio.h>\n#include <string.h>\n{body}")


def build(door: Fence, folder: Path) -> float:
    """Build everything once; returns the seconds of processors that make and its children took."""
    done = door.run(["bash", "-c", TIMED], timeout_s=BUILD_S, cwd=folder)
    return sum(map(float, done.stderr.split()[-2:]))


def outside(folder: Path) -> float:
    """Build without the sandbox, with the same bounds and environment."""
    found, fence.lacking = fence.lacking, lambda: fence.Lack("not wanted here", "")
    try:
        return build(Fence(write=(folder,), unconfined=True), folder)
    finally:
        fence.lacking = found


def main() -> None:
    """Measure and print."""
    options = parser(__doc__, rounds=8)
    options.add_argument("--files", type=int, default=24, help="how many files the build has (default: 24)")
    words = options.parse_args()
    if lack := fence.lacking():
        raise HostError(f"there is no sandbox here: {lack.reason}", hint=lack.remedy)
    if words.rounds < 2:
        raise HostError("an interval takes two pairs and more", hint="--rounds 8")
    with tempfile.TemporaryDirectory(prefix="kpatchlab-bench-") as name:
        folder = Path(name)
        lay_out(folder, words.files)
        cases = {"outside": lambda: outside(folder), "inside": lambda: build(Fence(write=(folder,)), folder)}
        values: dict[str, list[float]] = {name: [] for name in cases}
        for number in range(words.rounds + 1):
            say("warm-up" if number == 0 else f"pair {number} of {words.rounds}")
            for case in sorted(cases, reverse=bool(number % 2)):
                took = cases[case]()
                if number:
                    values[case].append(took)
    show({name: Figures(tuple(taken)) for name, taken in values.items()}, "s of a processor")
    low, high = interval(values["inside"], values["outside"], paired=True)
    print(f"inside takes {low:.3f} to {high:.3f} times what outside takes (95 %, {words.rounds} pairs)")
    ratio = sum(values["inside"]) / sum(values["outside"])
    last_line(pairs=str(words.rounds), ratio=ratio, lower=low, upper=high, held=str(high <= 1.03).lower())


if __name__ == "__main__":
    run(main)
