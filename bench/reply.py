"""`lab try` on a series of one file, beside what a user of virtme-ng does for the same answer.

The tree of kernels/tiny.yaml becomes a repository; a series is one patch to a C file of it, in a mailbox, another one
in each round. Both sides have the base warm: the lab has built it once and has its guest saved, virtme-ng's user has
built it in a clone, with the same configuration. The answer is one test, without and with the series.

  lab     `lab try MAILBOX --tree TREE --no-patches`: to the line with the first verdict, and to the line that names the
          reply. The walk over the patches, which --no-patches leaves out, comes after that line.
  vng     in the clone: `vng --build`, `vng -r arch/x86/boot/bzImage -- TEST`, `git am MAILBOX`, and both again. What
          the user makes of the two outputs is not counted.

Both get the same QEMU; where that is TCG for the lab, it is for virtme-ng too (--disable-kvm). A run of virtme-ng that
ends without a status is repeated and not counted. Takes two builds of that kernel, one of them without ccache, and, for
each round, the second builds of both sides and three boots.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path

from benchkit import labs, searches, virtme
from benchkit.rounds import interleaved, last_line, parser, run, say, show
from benchkit.searches import HOURS_S, PRINTS, git

from kpatchlab import proc
from kpatchlab.build import BuildContext
from kpatchlab.cache import Cache
from kpatchlab.errors import LabError
from kpatchlab.host.host import Host
from kpatchlab.lab.load import load
from kpatchlab.store.run_dir import load_run

FILE = "net/unix/af_unix.c"
TEST = labs.CLONE / "tests/data/odd-reads"
VNG_S = 300.0
VNG_TRIES = 4


def main() -> None:
    """Measure and print."""
    words = parser(__doc__, rounds=3).parse_args()
    cache = Cache()
    (cache.root / "tmp").mkdir(parents=True, exist_ok=True)
    # Not below /tmp: virtme-ng has a /tmp of its own in the guest.
    folder = Path(tempfile.mkdtemp(prefix="bench-reply-", dir=cache.root / "tmp"))
    context = BuildContext(cache, labs.CLONE, jobs=Host.build_jobs("auto"))
    try:
        base = searches.base(folder / "linux", context)
        lab = Lab(folder, base)
        say("the lab builds the base, and saves its guest")
        lab.reply()
        vng = Vng(folder, lab)
        say("the clone: the base is built")
        vng.warm()
        figures = interleaved({"lab: reply": lab.reply, "vng: both outputs": vng.answer}, words.rounds)
    finally:
        context.discard(folder)
    figures["lab: first verdict"] = type(figures["lab: reply"])(tuple(lab.verdicts[-words.rounds :]))
    show(figures)
    print(f"virtme-ng is called as\n  {' '.join(vng.test)}")
    reply_s, vng_s = figures["lab: reply"].median, figures["vng: both outputs"].median
    last_line(
        first_verdict_s=figures["lab: first verdict"].median, reply_s=reply_s, vng_s=vng_s,
        ratio_to_virtme_ng=vng_s / reply_s,
    )  # fmt: skip


class Lab:
    """`lab try` on the repository.

    Attributes:
        verdicts: seconds to the first one, for each reply.
        series: the mailbox of the last one.
    """

    def __init__(self, folder: Path, base: str) -> None:
        self.tree, self.base, self.verdicts, self.series = folder / "linux", base, list[float](), folder / "series.mbox"
        files = searches.scenario(TEST)
        files["scenario.yaml"] += f"touches: {{files: [{FILE}]}}\n"
        self._file = searches.write_lab(folder / "lab", self.tree, {"odd": files}, {})

    def reply(self) -> float:
        """Try another series; returns the seconds to the reply."""
        self._post(len(self.verdicts) + 1)
        program = [sys.executable, "-m", "kpatchlab", "--no-install", "--lab", str(self._file), "try"]
        words = [*program, str(self.series), "--tree", str(self.tree), "--no-patches"]
        env = {**os.environ, "PYTHONPATH": str(labs.CLONE), "PYTHONUNBUFFERED": "1"}
        seen = dict[str, float]()
        began = time.monotonic()

        def look(line: str) -> None:
            name = "verdict" if line.startswith("odd: ") else line.partition(":")[0]
            seen.setdefault(name, time.monotonic() - began)

        done = proc.run(words, timeout_s=HOURS_S, check=False, env=env, on_line=look)
        if done.status != 0 or not {"verdict", "the reply"} <= seen.keys():
            said = (done.stdout + done.stderr).splitlines()
            raise LabError(f"lab try: status {done.status}", details=tuple(said[-20:]))
        self.verdicts.append(seen["verdict"])
        return seen["the reply"]

    def config(self) -> Path:
        """Return the configuration that the base was built with."""
        builds = load_run(max(self._file.parent.glob("results/2*/run.json")).parent).builds
        return Cache().path("kernel", next(build.key for build in builds if build.kernel == "without")) / "config"

    def _post(self, number: int) -> None:
        with (self.tree / FILE).open("a") as handle:
            handle.write(PRINTS.format(number))
        searches.commit(self.tree, f"af_unix: print {number}")
        self.series.write_text(git(self.tree, "format-patch", "--stdout", f"{self.base}..HEAD") + "\n")
        git(self.tree, "reset", "-q", "--hard", self.base)


class Vng:
    """virtme-ng in a clone that has the base built."""

    def __init__(self, folder: Path, lab: Lab) -> None:
        self._tree, self._lab = folder / "plain", lab
        self.test = virtme.command(load(labs.CLONE / "lab.yaml"), TEST / "run.py", folder)

    def warm(self) -> None:
        """Build the base."""
        git(self._tree.parent, "clone", "-q", "--shared", str(self._lab.tree), str(self._tree))
        shutil.copyfile(self._lab.config(), self._tree / ".config")
        proc.run(["make", "LOCALVERSION=-virtme", "olddefconfig"], timeout_s=HOURS_S, cwd=self._tree)
        self._build()

    def answer(self) -> float:
        """Test the base and the lab's last series; returns the seconds that count, and leaves the base warm."""
        taken = self._timed_build() + self._run()
        began = time.monotonic()
        git(self._tree, "am", "-q", str(self._lab.series))
        taken += time.monotonic() - began
        taken += self._timed_build() + self._run()
        git(self._tree, "reset", "-q", "--hard", self._lab.base)
        self._build()
        return taken

    def _timed_build(self) -> float:
        began = time.monotonic()
        self._build()
        return time.monotonic() - began

    def _build(self) -> None:
        words = [str(virtme.VNG), "--build", "--jobs", str(Host.build_jobs("auto"))]
        # As nice as the lab's builds are, or a busy host would keep the processors from these alone.
        proc.run(words, timeout_s=HOURS_S, cwd=self._tree, env=virtme.environment(), nice=proc.BUILD_NICE)

    def _run(self) -> float:
        for _ in range(VNG_TRIES):
            began = time.monotonic()
            done = proc.run(self.test, timeout_s=VNG_S, check=False, cwd=self._tree, env=virtme.environment())
            if re.search(r"^ok 1 ", done.stdout, re.MULTILINE):
                return time.monotonic() - began
            say(f"virtme-ng: status {done.status}, once more")
        raise proc.CommandFailed(done)


if __name__ == "__main__":
    run(main)
