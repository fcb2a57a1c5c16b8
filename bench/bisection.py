"""`lab bisect` beside `git bisect run` with a plain build and a boot through virtme-ng at each step.

The tree of kernels/tiny.yaml becomes a repository with --commits commits on top, each a line more in a C file; one of
them makes AF_UNIX return wrong bytes where a read ends at an odd place. Both sides start from object directories in
which the good end and then the bad end were built: the user has just seen that one passes and the other fails.

git's side is a clone with the lab's configuration; its step is `make` on the objects that lie there, without ccache,
then `vng -r arch/x86/boot/bzImage` with the same test, on the host's root. It believes both ends and is done with the
last step. The lab's time has all that it does: both ends, the steps, the proof, the culprit reverted on top of the bad
end. It is one round, since a second one would find every kernel built. Takes as long as two builds of that kernel,
one of them without ccache, and some twenty boots.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchkit import labs
from benchkit.rounds import last_line, parser, run, say

from kpatchlab import proc
from kpatchlab.build import BuildContext
from kpatchlab.build.source import source_of
from kpatchlab.cache import Cache
from kpatchlab.errors import LabError
from kpatchlab.host import Host
from kpatchlab.lab import load
from kpatchlab.recipes import KernelRecipe

FILES = ("net/unix/garbage.c", "fs/pipe.c", "drivers/net/dummy.c", "fs/splice.c", "net/core/sock.c", "mm/filemap.c")
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
HOURS_S = 4 * 3600.0


def main() -> None:
    """Measure and print."""
    options = parser(__doc__, rounds=1)
    options.add_argument("--commits", type=int, default=16, help="how many commits the range has")
    words = options.parse_args()
    cache = Cache()
    (cache.root / "tmp").mkdir(parents=True, exist_ok=True)
    # Not below /tmp: virtme-ng has a /tmp of its own in the guest.
    folder = Path(tempfile.mkdtemp(prefix="bench-bisect-", dir=cache.root / "tmp"))
    context = BuildContext(cache, labs.CLONE, jobs=Host.build_jobs("auto"))
    try:
        made = repository(folder / "linux", context, words.commits)
        lab = Lab(folder, made)
        git = Git(folder, made, lab)
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
    print(f"git bisect run: {git_steps} steps in {git_s:.0f} s")
    last_line(
        commits=str(words.commits), lab_s=lab_s, git_s=git_s, lab_steps=str(lab_steps), git_steps=str(git_steps),
        ratio_to_git_bisect=git_s / lab_s,
    )  # fmt: skip


def repository(tree: Path, context: BuildContext, count: int) -> list[str]:
    """Make the repository; returns its commits, the good end first. The fault is at two thirds."""
    recipe = KernelRecipe.model_validate(labs.recipe_text(labs.CLONE / "lab.yaml", "tiny"))
    origin = source_of(recipe.source)
    tree.mkdir()
    origin.unpack(recipe.source, origin.key(recipe.source, context), context, tree)
    git(tree, "init", "-q")
    git(tree, "add", "-A", "-f")
    git(tree, "commit", "-q", "-m", "Base")
    made = [git(tree, "rev-parse", "HEAD")]
    for number in range(1, count + 1):
        if number == count * 2 // 3:
            text = (tree / FAULT).read_text()
            (tree / FAULT).write_text(text.replace(RIGHT, WRONG, 1))
        else:
            name = FILES[number % len(FILES)]
            with (tree / name).open("a") as handle:
                handle.write(f"const int kpatchlab_{number} = {number};\n")
        git(tree, "commit", "-q", "-a", "-m", f"commit {number}")
        made.append(git(tree, "rev-parse", "HEAD"))
    return made


def git(tree: Path, *words: str) -> str:
    """Run git in a tree; returns what it prints."""
    who = ["-c", "user.name=A U Thor", "-c", "user.email=author@example.com", "-c", "gc.auto=0"]
    done = proc.run(["git", *who, "-C", str(tree), *words], timeout_s=HOURS_S)
    return done.stdout.strip()


class Lab:
    """`lab bisect` on the repository."""

    def __init__(self, folder: Path, made: list[str]) -> None:
        self.tree, self.made, self.root = folder / "linux", made, folder / "lab"
        self.root.mkdir()
        recipe = f"{{source: {{type: dir, path: {self.tree}}}, config: [config/tiny.config]}}"
        scenario = {path.name: path.read_text() for path in ODD_READS.iterdir()}
        self.path = labs.write_lab(
            self.root, labs.CLONE / "lab.yaml", {"odd": scenario}, kernels={"tiny": "KERNEL"}, base="tiny"
        )
        self.path.write_text(self.path.read_text().replace("KERNEL", recipe))

    def warm(self) -> None:
        """Have both ends built; both do, so that there is nothing to search for."""
        self._bisect("--build", "--runs", "1", wanted=2)

    def config(self) -> Path:
        """Return the configuration that was built."""
        state = json.loads(next(self.root.glob("results/bisect/*/state.json")).read_text())
        return Cache().path("kernel", state["kernels"][self.made[0]]["key"]) / "config"

    def search(self) -> tuple[float, int]:
        """Search; returns seconds, and how many commits between the ends were tested."""
        began = time.monotonic()
        self._bisect("--scenario", "odd", wanted=0)
        took = time.monotonic() - began
        told = json.loads(max(self.root.glob("results/bisect/*/state.json")).read_text())["told"]
        ends = {self.made[0], self.made[-1]}
        return took, len({one["commit"] for one in told if one["phase"] == "search"} - ends)

    def _bisect(self, *words: str, wanted: int) -> None:
        program = [sys.executable, "-m", "kpatchlab", "--no-install", "--lab", str(self.path), "bisect"]
        where = ["--tree", str(self.tree), "--good", self.made[0], "--bad", self.made[-1]]
        done = proc.run(
            [*program, *where, *words], timeout_s=HOURS_S, check=False,
            env={**os.environ, "PYTHONPATH": str(labs.CLONE)},
        )  # fmt: skip
        culprit = f"culprit: {self.made[(len(self.made) - 1) * 2 // 3][:12]}"
        if done.status != wanted or (wanted == 0 and culprit not in done.stdout):
            raise LabError(f"lab bisect: status {done.status}", details=tuple((done.stdout + done.stderr).splitlines()))


class Git:
    """`git bisect run` on a clone."""

    def __init__(self, folder: Path, made: list[str], lab: Lab) -> None:
        self.tree, self.made, self.lab, self.folder = folder / "plain", made, lab, folder
        self.script = folder / "step.sh"
        loaded = load(labs.CLONE / "lab.yaml")
        shape = Host(Cache(), loaded.mirror, loaded.qemu).shape(loaded.machines[loaded.machine], None)
        qemu, test = folder / "qemu", folder / "test.py"
        qemu.write_text(f'#!/bin/sh\nexec {shlex.join(shape.qemu.argv)} "$@"\n')
        shutil.copy(ODD_READS / "run.py", test)
        for path in (qemu, test):
            path.chmod(0o755)
        make = ["make", "-s", f"-j{Host.build_jobs('auto')}", "LOCALVERSION="]
        vng = [str(Path(sys.executable).with_name("vng")), "-r", "arch/x86/boot/bzImage", "--qemu", str(qemu)]
        vng += [] if shape.accel == "kvm" else ["--disable-kvm"]
        vng += ["--cpus", str(shape.cpus), "--memory", f"{shape.memory_mib}M", "--force-9p", "--", str(test)]
        self._make = make
        self.script.write_text(
            STEP.format(make=shlex.join([*make, "bzImage", "modules"]), boot=shlex.join(vng), folder=folder)
        )
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
        env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"}
        began = time.monotonic()
        done = subprocess.run(
            ["git", "-C", str(self.tree), "bisect", "run", str(self.script)], check=False, env=env,
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
