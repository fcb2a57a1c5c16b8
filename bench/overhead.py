"""What a job costs beyond the guest's own work, and what the same command costs through virtme-ng.

All run `true` (the job: a script that prints one passed check) on one kernel, one root and one QEMU, in turn:

  lab        run_job: a saved guest is resumed, the script runs, what it left is fetched, the log is judged
  vng        `vng -r KERNEL --root DIR -- true`: the root's files in a directory, all else as it comes
  vng best   `vng -r KERNEL --root-disk IMAGE --root-fstype erofs --force-9p --cpus 1 ... -- true`: the lab's own
             image on virtio-blk, one processor, the lab's memory

virtme-ng takes one path for its QEMU, so it gets a two-line script that calls the QEMU which the lab uses. Where
that is TCG for the lab, it is for virtme-ng too (--disable-kvm). Debian's prebuilt kernels have neither 9p nor
erofs built in; with one of them the lab is measured alone.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
import tempfile
import time
from pathlib import Path

from benchkit import labs
from benchkit.rounds import interleaved, last_line, parser, run, say, show

from kpatchlab import proc
from kpatchlab.cache import Cache, content_key
from kpatchlab.errors import HostError
from kpatchlab.guest.vm import Boot
from kpatchlab.model import Outcome
from kpatchlab.run.job import run_job

SCENARIO = {
    "trivial": {
        "scenario.yaml": "description: Nothing but a script that starts and ends.\nroles:\n  main: {run: run.sh}\n",
        "run.sh": labs.KTAP_OK,
    }
}
VNG_TIMEOUT_S = 180.0
VNG_TRIES = 4
"""Now and then `vng` ends with 255, which is its word for "the guest gave no status"."""
_BUILT_IN = ("9P_FS", "NET_9P_VIRTIO", "EROFS_FS", "OVERLAY_FS")


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__, rounds=5)
    labs.add_options(arguments)
    arguments.add_argument("--no-vng", action="store_true", help="the lab alone")
    options = arguments.parse_args()
    like, kernel = labs.choose(options.lab, options.kernel)
    overheads: list[float] = []
    with labs.bench(like, kernel, SCENARIO) as bench, tempfile.TemporaryDirectory(prefix="kpatchlab-vng-") as work:

        def lab() -> float:
            result = run_job(*bench.job("trivial"))
            if result.outcome is not Outcome.PASS:
                raise HostError(f"the trivial job: {result.outcome.value}: {result.message}")
            overheads.append(result.overhead_s)
            return result.duration_s

        cases = {"lab": lab}
        boot = bench.inputs("trivial").boots["main"].resolve(bench.host.cache)
        vng = Vng(boot, Path(work)) if not options.no_vng and _can_be_virtme(boot) else None
        if vng:
            cases |= {"vng": vng.default, "vng best": vng.best}
            print("virtme-ng is called as\n  " + "\n  ".join(shlex.join(words) for words in vng.lines()))
        print(f"kernel {kernel} of {like.name}, QEMU: {boot.machine.qemu.source}, {boot.machine.accel}\n")
        figures = interleaved(cases, options.rounds)
    figures["lab: overhead"] = type(figures["lab"])(tuple(overheads[1:]))
    show(figures)
    if vng:
        print(f"runs of virtme-ng that ended without a status, and were done again: {vng.failures}")
    lab_s = figures["lab"].median
    medians = {name: figures[name].median for name in ("vng", "vng best") if name in figures}
    last_line(
        overhead_s=figures["lab: overhead"].median,
        ratio_to_virtme_ng=medians["vng"] / lab_s if medians else None,
        ratio_to_virtme_ng_best=medians["vng best"] / lab_s if medians else None,
        lab_s=lab_s,
        vng_s=medians.get("vng"),
        vng_best_s=medians.get("vng best"),
    )


def _can_be_virtme(boot: Boot) -> bool:
    """Whether virtme-ng can mount a root with what the kernel has built in."""
    config = (boot.vmlinuz.parent / "config").read_text()
    return all(re.search(rf"^CONFIG_{name}=y$", config, re.MULTILINE) for name in _BUILT_IN)


class Vng:
    """virtme-ng on a guest's kernel, root and QEMU."""

    def __init__(self, boot: Boot, work: Path) -> None:
        self._boot = boot
        self._vng = Path(sys.executable).with_name("vng")
        self._env = {
            **os.environ,
            "PATH": f"{self._vng.parent}:{os.environ.get('PATH', '')}",
        }
        self._qemu = work / "qemu"
        self._qemu.write_text(f'#!/bin/sh\nexec {shlex.join(boot.machine.qemu.argv)} "$@"\n')
        self._qemu.chmod(0o755)
        self.failures = 0
        self._root = _unpacked(boot.root_image)

    def lines(self) -> list[list[str]]:
        """Return both command lines: as it comes, at its best."""
        tcg = [] if self._boot.machine.accel == "kvm" else ["--disable-kvm"]
        common = [str(self._vng), "-r", str(self._boot.vmlinuz), "--qemu", str(self._qemu), *tcg]
        image = ["--root-disk", str(self._boot.root_image), "--root-fstype", "erofs", "--force-9p"]
        size = ["--cpus", "1", "--memory", f"{self._boot.machine.memory_mib}M"]
        return [[*common, "--root", str(self._root), "--", "true"], [*common, *image, *size, "--", "true"]]

    def default(self) -> float:
        """Return the seconds of the first line."""
        return self._run(self.lines()[0])

    def best(self) -> float:
        """Return the seconds of the second line."""
        return self._run(self.lines()[1])

    def _run(self, words: list[str]) -> float:
        for _ in range(VNG_TRIES):
            began = time.monotonic()
            # Its standard output must be a pipe: QEMU truncates a file. It ends with its session at the deadline.
            done = proc.run(words, timeout_s=VNG_TIMEOUT_S, cwd=Path("/"), env=self._env, check=False)
            if done.status == 0:
                return time.monotonic() - began
            self.failures += 1
            say(f"virtme-ng: status {done.status}, {'no end' if done.timed_out else 'once more'}")
        raise proc.CommandFailed(done)


def _unpacked(image: Path) -> Path:
    """Return a directory with the files of a root image, unpacked once."""

    def unpack(work: Path) -> None:
        proc.run(["fsck.erofs", f"--extract={work / 'root'}", "--overwrite", image], timeout_s=600.0)

    return Cache().get("unpacked-root", content_key(str(image)), unpack, label="root unpacked for a benchmark") / "root"


if __name__ == "__main__":
    run(main)
