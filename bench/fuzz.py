"""Fuzzers for every reader of what others wrote: files of a lab, a guest's words, mails and patches, stored runs.

Each input is a changed example, words of the reader's language in any order, or any bytes (hypothesis makes them). What
is neither taken nor refused in a line is a traceback. Then each reader gets inputs that grow up to --mib, and the table
says how its time grows: 1 is with the input, 2 with its square.

The inputs are tried once (--rounds counts for nothing); a seed makes the same ones again.
"""

from __future__ import annotations

import collections
import sys
import tempfile
import time
import traceback
from pathlib import Path

from benchkit import labs
from benchkit.rounds import last_line, parser, run, say
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

sys.path.insert(0, str(labs.CLONE))
from tests.fuzzing import SLOW_S, TARGETS, Target, exponent

SIZES = [1 << shift for shift in range(16, 27, 2)]


class Found:
    """What went wrong with one reader's inputs: each kind once, with the shortest input."""

    def __init__(self) -> None:
        self.inputs = 0
        self.slow = 0
        self.worst_s = 0.0
        self.kinds: collections.Counter[str] = collections.Counter()
        self.shortest: dict[str, tuple[bytes, str]] = {}

    def note(self, error: BaseException, data: bytes) -> None:
        """Take a traceback."""
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if "kpatchlab/" in frame.filename] or list(frames)
        kind = f"{type(error).__name__} in {Path(own[-1].filename).name}:{own[-1].lineno}"
        self.kinds[kind] += 1
        if kind not in self.shortest or len(data) < len(self.shortest[kind][0]):
            self.shortest[kind] = (data, str(error)[:100])


def try_all(target: Target, count: int, number: int, folder: Path) -> Found:
    """Give a reader so many inputs."""
    found = Found()

    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @seed(number)
    @given(st.data())
    def tried(drawn: st.DataObject) -> None:
        data = drawn.draw(target.inputs)
        found.inputs += 1
        try:
            took = target.tried(data, folder)
        except Exception as error:  # noqa: BLE001 - this is what is looked for
            found.note(error, data)
            return
        found.worst_s = max(found.worst_s, took)
        if took > SLOW_S:
            found.slow += 1
            found.shortest["slow"] = (data, f"{took:.1f} s")

    tried()
    return found


def main() -> None:
    """Try, and print a table."""
    options = parser(__doc__, rounds=1)
    options.add_argument("--inputs", type=int, default=20_000, help="of all readers together")
    options.add_argument("--mib", type=int, default=64, help="how far inputs grow; 0: not at all")
    options.add_argument("--seed", type=int, default=int(time.time()), help="makes the same inputs again")
    options.add_argument("--only", default="", metavar="WORD", help="readers whose names have this word")
    said = options.parse_args()
    targets = [target for target in TARGETS if said.only in target.name]
    whole = sum(target.share for target in targets)
    sizes = [size for size in SIZES if size <= said.mib << 20]
    total = collections.Counter[str]()
    steepest = 0.0
    print(f"seed {said.seed}\n{'reader':20} {'inputs':>8} {'tracebacks':>10} {'slow':>5} {'worst s':>8}  exponent")
    with tempfile.TemporaryDirectory(prefix="kpatchlab-fuzz-") as scratch:
        for target in targets:
            folder = Path(scratch) / target.name.replace(" ", "-")
            folder.mkdir()
            say(target.name)
            found = try_all(target, max(10, said.inputs * target.share // whole), said.seed, folder)
            grown = ""
            if target.grows and sizes:
                slope, name, size, took = exponent(target, folder, sizes, budget_s=40.0)
                steepest = max(steepest, slope)
                grown = f"{slope:.2f}  ({size / (1 << 20):g} MiB of {name}: {took:.1f} s)"
            count = sum(found.kinds.values())
            print(
                f"{target.name:20} {found.inputs:8} {count:10} {found.slow:5} {found.worst_s:8.2f}  {grown}", flush=True
            )
            for kind, (data, text) in found.shortest.items():
                print(f"    {found.kinds[kind] or found.slow} x {kind}: {text!r}: {data[:200]!r}", flush=True)
            total.update(inputs=found.inputs, tracebacks=count, slow=found.slow)
    last_line(**total, steepest=round(steepest, 2))


if __name__ == "__main__":
    run(main)
