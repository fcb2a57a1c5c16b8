"""What a build leaves to others: the share of a processor that a busy loop keeps on two, beside compilers.

The compilers run in a session of their own as a build's do, three at once. They are started in turn with the niceness
of nice(1) alone, and as `proc` starts a build, with that of its autogroup as well (sched(7)); and the loop runs alone:
the last line has both as shares of what it gets then.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchkit.rounds import interleaved, last_line, parser, run, show

from kpatchlab import proc
from kpatchlab.errors import HostError
from kpatchlab.guest.pulse import process_ns

SETTLE_S = 1.0
COMPILE = "for n in 1 2 3; do (while :; do gcc -O2 -c {source} -o /dev/null; done) & done; wait"
SOURCE = "".join(
    f"int f{n}(int a) {{ int s = 0; for (int i = 0; i < a; i++) s ^= s * i + {n}; return s; }}\n" for n in range(900)
)

Start = Callable[[list[str]], "subprocess.Popen[bytes]"]


def kept(start: Start | None, words: list[str], seconds: float) -> float:
    """Return the share of a processor that a busy loop gets beside what `start` starts."""
    loop = subprocess.Popen([sys.executable, "-c", "while True: pass"], start_new_session=True)
    build = start(words) if start else None
    try:
        time.sleep(SETTLE_S)
        began, used = time.monotonic(), process_ns(loop.pid)
        time.sleep(seconds)
        return (process_ns(loop.pid) - used) / 1e9 / (time.monotonic() - began)
    finally:
        for child in filter(None, (build, loop)):
            proc.stop(child, grace_s=0.0)


def only_nice(words: list[str]) -> subprocess.Popen[bytes]:
    """Start a build as nice(1) does."""
    return subprocess.Popen(
        ["nice", "-n", str(proc.BUILD_NICE), *words], start_new_session=True, stdin=subprocess.DEVNULL
    )


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__, rounds=5)
    arguments.add_argument("--seconds", type=float, default=5.0, help="of each round (default: 5)")
    options = arguments.parse_args()
    cpus = sorted(os.sched_getaffinity(0))[:2]
    if len(cpus) < 2 or not Path("/proc/self/autogroup").exists():
        raise HostError(
            "it takes two processors and a kernel with autogroups", hint="sysctl kernel.sched_autogroup_enabled"
        )
    os.sched_setaffinity(0, cpus)
    with tempfile.TemporaryDirectory(prefix="kpatchlab-bench-") as folder:
        source = Path(folder, "source.c")
        source.write_text(SOURCE)
        words = ["sh", "-c", COMPILE.format(source=source)]
        started: dict[str, Start | None] = {
            "alone": None,
            "nice(1) alone": only_nice,
            "with the autogroup's niceness": partial(proc.spawn, nice=proc.BUILD_NICE),
        }
        figures = interleaved(
            {name: partial(kept, how, words, options.seconds) for name, how in started.items()}, options.rounds
        )
    show(figures, "of a processor")
    alone, plain, ours = (figure.median for figure in figures.values())
    last_line(alone=alone, nice_only=plain / alone, kept=ours / alone)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        run(main)
