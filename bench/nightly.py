"""A night on which nothing is new: the whole of `lab nightly` where no branch moved, from its start to its end.

The lab has this project's scenarios, roots and fragments, two kernels from a repository on this host and one from a
URL (`file://`, asked by git ls-remote), two branches, and a store of many nights. Beside the seconds of wall time
stand those of processor time, and how many files below the lab changed: there must be none.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchkit import labs
from benchkit.rounds import children_s, interleaved, last_line, parser, run, say, show
from history import fill

from kpatchlab import proc
from kpatchlab.build import BuildContext
from kpatchlab.cache import Cache
from kpatchlab.history import database
from kpatchlab.history.record import Origin, record
from kpatchlab.lab import load as lab_file
from kpatchlab.model import Run
from kpatchlab.nightly.lanes import look
from kpatchlab.store.store import Store
from kpatchlab.verdict.compare import compare

LAB = """\
title: nothing new
kernels:
  without: {{source: {{type: git, path: {tree}, revision: main}}, config: [config/guest.config]}}
  with: {{source: {{type: git, path: {tree}, revision: main}}, config: [config/guest.config, config/splice.config]}}
  far: {{source: {{type: git, url: "file://{tree}", revision: main}}, config: [config/guest.config]}}
scenarios: ["*"]
nightly:
  branches:
    main: {{with: main}}
    next: {{with: next}}
"""
SAID = "nothing new: every branch is where the last night left it"
TIMEOUT_S = 120.0


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__, rounds=5)
    arguments.add_argument("--nights", type=int, default=1000, help="in the store; 1000")
    options = arguments.parse_args()
    processor: list[float] = []
    with tempfile.TemporaryDirectory(prefix="kpatchlab-bench-") as folder:
        root = Path(folder) / "lab"
        lay_out(root, Path(folder) / "tree", options.nights)
        night(root, [])()  # the first one makes the lock's file
        before = files(root)
        found = interleaved({"nothing new": night(root, processor)}, options.rounds)
        changed = [str(path.relative_to(root)) for path, state in files(root).items() if before.get(path) != state]
        say(f"changed: {', '.join(changed) or 'nothing'}")
    show(found)
    processor = sorted(processor[1:])
    last_line(
        nothing_new_s=found["nothing new"].median, nothing_new_cpu_s=processor[len(processor) // 2],
        files_changed=len(changed),
    )  # fmt: skip


def lay_out(root: Path, tree: Path, nights: int) -> None:
    """Make the repository, the lab, and a store whose last night saw every branch where it is."""
    for part in ("scenarios", "rootfs", "suites", "kernels"):
        shutil.copytree(labs.CLONE / part, root / part)
    who = ("-c", "user.name=a", "-c", "user.email=a@b")
    tree.mkdir()
    for words in (["init", "-q", "-b", "main"], ["commit", "-q", "--allow-empty", "-m", "x"], ["branch", "next"]):
        proc.run(["git", *who, "-C", str(tree), *words], timeout_s=TIMEOUT_S)
    (root / "lab.yaml").write_text(LAB.format(tree=tree))
    store = Store(root / "results")
    fill(store, nights, 500, 20)
    lab = lab_file.load(root / "lab.yaml")
    lanes, troubles = look(lab, BuildContext(Cache(), lab.root, lab.mirror))
    if troubles:
        raise SystemExit(troubles[0].message)
    with store.database() as connection, database.transaction(connection):
        for lane in lanes:
            run_ = Run(
                id=f"last-{lane.lane.name}",
                title="t",
                started="2026-01-01T00:00:00+00:00",
                duration_s=1.0,
                complete=True,
                base="",
                columns=(),
                kernels=(),
                builds=(),
                jobs=(),
            )
            record(connection, run_, compare(run_), Origin(lane.lane.name, "n", lane.plan.digest, lane.plan.heads))


def night(root: Path, processor: list[float]) -> Callable[[], float]:
    """Return what runs one night and says how long it took."""

    def call() -> float:
        before, began = children_s(), time.monotonic()
        words = [str(labs.CLONE / "lab"), "--no-install", "--lab", str(root / "lab.yaml"), "nightly"]
        result = proc.run(words, timeout_s=TIMEOUT_S, cwd=labs.CLONE)
        took = time.monotonic() - began
        processor.append(children_s() - before)
        if result.stdout.strip() != SAID:
            raise SystemExit(f"not a night with nothing new: {result.stdout}{result.stderr}")
        return took

    return call


def files(root: Path) -> dict[Path, tuple[int, int]]:
    """Return when each file was written, and its size."""
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in root.rglob("*") if path.is_file()}


if __name__ == "__main__":
    run(main)
