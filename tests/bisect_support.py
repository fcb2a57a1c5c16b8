"""A lab whose kernels are really built, of the fake tree in a git repository, and whose guests look at the kernel."""

from __future__ import annotations

import json
import random
import shutil
import sys
from pathlib import Path

import pytest

from kpatchlab.bisect.state import Searches
from kpatchlab.bisect.summary import conclusion
from kpatchlab.cli import main
from kpatchlab.host import host
from kpatchlab.model import Case, GuestLog, JobResult, Metric, Outcome, Splat, job_case
from kpatchlab.run import executor, stages
from tests import labdir
from tests.build_fixtures import CONFIG, FAKE
from tests.build_fixtures import Bench as Tree
from tests.fake_stages import FakeHost, local

KERNEL = """\
source: {{type: git, path: {tree}, revision: good}}
config: [config/all.config]
"""
FAULT = 'const char fault[] = "LAB_FAULT";\n'
FILES = {"comment": "core/net.c", "printk": "core/main.c", "module": "drivers/delta.c"}


class Lab:
    """The lab, its repository, and what its guests say: `job(text)` gets the bytes of vmlinux."""

    def __init__(self, root: Path, capfd, monkeypatch) -> None:
        self.root, self._capfd, self._monkeypatch = root, capfd, monkeypatch
        labdir.make(root)
        tree = Tree.__new__(Tree)
        tree.root, tree.tree = root, root / "linux"
        shutil.copytree(FAKE, tree.tree)
        self.tree = tree
        tree.repository()
        tree.git("tag", "good")
        self.commits: list[str] = [tree.git("rev-parse", "HEAD")]
        (root / "kernels/config/all.config").write_text(CONFIG)
        for name in ("old", "new"):
            (root / f"kernels/{name}.yaml").write_text(KERNEL.format(tree=tree.tree))
        self.host = FakeHost(root)
        self.jobs: list[str] = []
        self.job = lambda text: Outcome.FAIL if b"LAB_FAULT" in text else Outcome.PASS
        self.kill_after = 0

    def grow(self, *kinds: str) -> Lab:
        """Make a commit of each kind, one on top of the other."""
        for kind in kinds:
            self.commit(kind)
        return self

    def commit(self, kind: str, text: str = "", file: str = "") -> str:
        """Make a commit; kinds: comment, printk (changes vmlinux), module, fault, or text into a file."""
        number = len(self.commits)
        where = file or FILES.get(kind, f"core/{'net' if kind == 'fault' else 'main'}.c")
        added = text or {
            "comment": f"/* {number} */\n",
            "printk": f'const char note{number}[] = "note {number}";\n',
            "module": f"int delta_{number}(void);\nint delta_{number}(void)\n{{\n\treturn {number};\n}}\n",
            "fault": FAULT,
        }.get(kind, "")
        path = self.tree.tree / where
        before = path.read_text() if path.exists() else ""
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == "fault":  # not where others add theirs, so that it can be undone on top of them
            path.write_text(before.replace("\nint", "\n" + added + "int", 1))
        else:
            path.write_text(before + added)
        self.tree.git("add", "-A")
        self.tree.git("commit", "-q", "-m", f"{kind} {number}")
        self.commits.append(self.tree.git("rev-parse", "HEAD"))
        return self.commits[-1]

    def run_job(self, inputs) -> JobResult:
        spec = inputs.spec
        kernel = inputs.artifact(next(iter(spec.placement.values())))
        text = (kernel / "vmlinux").read_bytes()
        said = self.job(text)
        self.jobs.append(spec.id)
        metrics, splats, cases = (), (), ()
        if isinstance(said, (int, float)):
            metrics, said = (Metric("copied", float(said), "MB/s", "higher"),), Outcome.PASS
        elif isinstance(said, Splat):
            splats, said = (said,), Outcome.CRASH
        if said in {Outcome.PASS, Outcome.FAIL}:
            cases = (Case("data intact", said, "" if said is Outcome.PASS else "byte 4096 differs"),)
        message = "" if said is Outcome.PASS else "data intact: byte 4096 differs"
        return JobResult(
            job=spec.id,
            scenario=spec.scenario,
            params=dict(spec.params),
            column=spec.column,
            placement=dict(spec.placement),
            repeat=spec.repeat,
            outcome=said,
            message=message,
            cases=(job_case(said, message), *cases),
            metrics=metrics,
            splats=splats,
            guests=(GuestLog("main", "bisect", "console"),),
            duration_s=0.1,
        )

    def call(self, *words: str):
        """Run the program; returns (status, stdout, stderr)."""
        self._monkeypatch.setattr(sys, "argv", ["kpatchlab", *words])
        with pytest.raises(SystemExit) as ended:
            main(list(words))
        sys.stdout.flush()
        out, err = self._capfd.readouterr()
        return ended.value.code or 0, out, err

    def untouched(self):
        """Return all of the user's repository that a search could change."""
        git = self.tree.git
        names = sorted(str(p) for p in (self.tree.tree / ".git").rglob("*") if p.is_file())
        status = git("--no-optional-locks", "status", "--porcelain")  # else git may write its index here
        return status, git("for-each-ref"), git("rev-parse", "HEAD"), self.tree.snapshot(), names

    def flaky(self, rate: float, seed: int = 1):
        """Let the fault show in some of the runs only."""
        dice = random.Random(seed)
        self.job = lambda t: Outcome.FAIL if b"LAB_FAULT" in t and dice.random() < rate else Outcome.PASS


def search(lab, *words):
    """Search the history of a lab for what breaks its scenario; returns status, output and errors."""
    where = ["--tree", str(lab.tree.tree), "--good", "good", "--bad", "main"]
    return lab.call("bisect", *where, "--scenario", "solo", *words)


def states(lab):
    """Return what each search stored, in the order of their names."""
    return [json.loads(p.read_text()) for p in sorted((lab.root / "results/bisect").glob("*/state.json"))]


def concluded(lab):
    """Return the last search as it is stored, and what it came to in one line."""
    state, _ = Searches(lab.root / "results").open("last")
    return state, conclusion(state)


@pytest.fixture
def lab(tmp_path, capfd, monkeypatch):
    found = Lab(tmp_path, capfd, monkeypatch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KPATCHLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(host, "Host", lambda *_: found.host)
    monkeypatch.setattr("kpatchlab.build.context.BuildContext.check_space", lambda _: None)
    monkeypatch.setattr(stages, "root_image", lambda *_: tmp_path / "root.erofs")
    monkeypatch.setattr(stages, "initrd", lambda *_: "key-initrd")
    monkeypatch.setattr(executor, "available_mib", lambda: 64_000)
    local(monkeypatch, found.run_job)
    return found
