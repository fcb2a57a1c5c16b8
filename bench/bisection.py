"""`lab bisect` beside `git bisect run` with a plain build and a boot through virtme-ng at each step.

The tree of kernels/tiny.yaml becomes a repository with --commits commits on top, each a line more in a C file; one of
them makes AF_UNIX return wrong bytes where a read ends at an odd place. Both sides start from object directories in
which the good end and then the bad end were built: the user has just seen that one passes and the other fails.

git's side is a clone with the lab's configuration; its step is `make` on the objects that lie there, without ccache,
then `vng -r arch/x86/boot/bzImage` with the same test, on the host's root. With --clean each step begins with
`make clean`, as those have it who do not trust old objects, or who build on another machine each time. It believes
both ends and is done with the last step. The lab's time has all that it does: both ends, the steps, the proof, the
culprit reverted on top of the bad end. It is one round, since a second one would find every kernel built. Takes as
long as two builds of that kernel, one of them without ccache, and some twenty boots; with --clean one more such build
for each step.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from benchkit import labs, searches, virtme
from benchkit.rounds import last_line, parser, run, say
from benchkit.searches import HOURS_S, git

from kpatchlab import proc
from kpatchlab.build import BuildContext
from kpatchlab.cache import Cache
from kpatchlab.errors import LabError
from kpatchlab.host.host import Host
from kpatchlab.lab.load import load

FAULT, RIGHT, WRONG = "net/unix/af_unix.c", "UNIXCB(skb).consumed + skip,", "(UNIXCB(skb).consumed & ~1) + skip,"
ODD_READS = labs.CLONE / "tests/data/odd-reads"
STEP = """\
#!/bin/sh
# One step of git bisect run: 0 good, 1 bad, 125 skip.
{make} >{folder}/make.log 2>&1 || exit 125
for try in 1 2 3; do
	{boot} </dev/null >{folder}/boot.log 2>&1
	grep -q '^not ok 1' {folder}/boot.log && {{ echo bad >>{folder}/steps; exit 1; }}
	grep -q '^ok 1' {folder}/boot.log && {{ echo good >>{folder}/steps; exit 0; }}
	echo "no verdict" >>{folder}/steps
done
exit 125
"""


def main() -> None:
    """Measure and print."""
    options = parser(__doc__, rounds=1)
    options.add_argument("--commits", type=int, default=16, help="how many commits the range has")
    options.add_argument("--clean", action="store_true", help="git's side compiles everything at each step")
    words = options.parse_args()
    cache = Cache()
    (cache.root / "tmp").mkdir(parents=True, exist_ok=True)
    # Not below /tmp: virtme-ng has a /tmp of its own in the guest.
    folder = Path(tempfile.mkdtemp(prefix="bench-bisect-", dir=cache.root / "tmp"))
    context = BuildContext(cache, labs.CLONE, jobs=Host.build_jobs("auto"))
    try:
        made = repository(folder / "linux", context, words.commits)
        lab = Lab(folder, made)
        git = Git(folder, made, lab, clean=words.clean)
        say("the lab builds both ends")
        lab.warm()
        say("git's clone: both ends are built")
        git.warm()
        say("lab bisect")
        lab_s, lab_steps = lab.search()
        say("git bisect run")
        git_s, git_steps = git.search()
    finally:
        context.discard(folder)
    print(f"{words.commits} commits; lab: {lab_steps} steps in {lab_s:.0f} s, ends, proof and revert included")
    print(f"git bisect run: {git_steps} steps in {git_s:.0f} s{', each from nothing' if words.clean else ''}")
    last_line(
        commits=str(words.commits), clean=str(words.clean).lower(), lab_s=lab_s, git_s=git_s,
        lab_steps=str(lab_steps), git_steps=str(git_steps),
        ratio_to_git_bisect=git_s / lab_s,
    )  # fmt: skip


def repository(tree: Path, context: BuildContext, count: int) -> list[str]:
    """Make the repository; returns its commits, the good end first. The fault is at two thirds."""
    made = [searches.base(tree, context)]
    for number in range(1, count + 1):
        if number == count * 2 // 3:
            text = (tree / FAULT).read_text()
            (tree / FAULT).write_text(text.replace(RIGHT, WRONG, 1))
            made.append(searches.commit(tree, f"commit {number}"))
        else:
            made.append(searches.harmless(tree, number))
    return made


class Lab:
    """`lab bisect` on the repository."""

    def __init__(self, folder: Path, made: list[str]) -> None:
        self.tree, self.made = folder / "linux", made
        path = searches.write_lab(folder / "lab", self.tree, {"odd": searches.scenario(ODD_READS)}, {})
        self._lab = searches.Lab(path, self.tree, made[0], made[-1])

    def warm(self) -> None:
        """Have both ends built; both do, so that there is nothing to search for."""
        self._bisect("--build", "--runs", "1", wanted=2)

    def config(self) -> Path:
        """Return the configuration that was built."""
        return Cache().path("kernel", self._lab.state()["kernels"][self.made[0]]["key"]) / "config"

    def search(self) -> tuple[float, int]:
        """Search; returns seconds, and how many commits between the ends were tested."""
        began = time.monotonic()
        self._bisect("--scenario", "odd", wanted=0)
        return time.monotonic() - began, self._lab.steps(self._lab.state())

    def _bisect(self, *words: str, wanted: int) -> None:
        done = self._lab.bisect(*words)
        culprit = f"culprit: {self.made[(len(self.made) - 1) * 2 // 3][:12]}"
        if done.status != wanted or (wanted == 0 and culprit not in done.stdout):
            raise LabError(f"lab bisect: status {done.status}", details=tuple((done.stdout + done.stderr).splitlines()))


class Git:
    """`git bisect run` on a clone."""

    def __init__(self, folder: Path, made: list[str], lab: Lab, *, clean: bool) -> None:
        self.tree, self.made, self.lab, self.folder = folder / "plain", made, lab, folder
        self.script = folder / "step.sh"
        vng = virtme.command(load(labs.CLONE / "lab.yaml"), ODD_READS / "run.py", folder)
        make = ["make", "-s", f"-j{Host.build_jobs('auto')}", "LOCALVERSION="]
        self._make = make
        build = shlex.join([*make, "bzImage", "modules"])
        build = f"{{ {shlex.join([*make, 'clean'])} && {build}; }}" if clean else build
        self.script.write_text(STEP.format(make=build, boot=shlex.join(vng), folder=folder))
        self.script.chmod(0o755)

    def warm(self) -> None:
        """Build both ends, as the lab has."""
        git(self.folder, "clone", "-q", "--shared", str(self.lab.tree), str(self.tree))
        for end in (self.made[0], self.made[-1]):
            git(self.tree, "checkout", "-q", end)
            shutil.copyfile(self.lab.config(), self.tree / ".config")
            for targets in (["olddefconfig"], ["bzImage", "modules"]):
                proc.run([*self._make, *targets], timeout_s=HOURS_S, cwd=self.tree)

    def search(self) -> tuple[float, int]:
        """Search; returns seconds and steps."""
        git(self.tree, "bisect", "start", self.made[-1], self.made[0])
        began = time.monotonic()
        done = subprocess.run(
            ["git", "-C", str(self.tree), "bisect", "run", str(self.script)], check=False, env=virtme.environment(),
            capture_output=True, text=True, timeout=HOURS_S,
        )  # fmt: skip
        took = time.monotonic() - began
        said = (self.folder / "steps").read_text().split("\n") if (self.folder / "steps").exists() else []
        if f"{self.made[(len(self.made) - 1) * 2 // 3]} is the first bad commit" not in done.stdout:
            last = (self.folder / "boot.log").read_text(errors="replace").splitlines()[-5:]
            raise LabError("git bisect run has not found it", details=(*done.stdout.splitlines()[-5:], *last))
        return took, sum(word in {"good", "bad"} for word in said)


if __name__ == "__main__":
    run(main)
