"""A lab in a temporary folder: kernels, root and library of a real one, scenarios of the benchmark's own."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchkit.rounds import say
from kpatchlab.build import BuildContext, kernel_key
from kpatchlab.cache import Cache
from kpatchlab.errors import UserError
from kpatchlab.host.host import Host
from kpatchlab.lab.load import Lab, load
from kpatchlab.plan.jobs import Plan, make_plan
from kpatchlab.progress import PlainProgress
from kpatchlab.run.inputs import Here, JobInputs, resolve
from kpatchlab.run.stages import Settings, Stages, gather
from kpatchlab.run.task import JobTask

CLONE = Path(__file__).resolve().parents[2]
KTAP_OK = "#!/bin/sh\nprintf 'KTAP version 1\\n1..1\\nok 1 - it runs\\n'\n"
"""The least that a scenario can do."""

Files = Mapping[str, str]
"""A scenario: file name -> text; all but scenario.yaml are executable."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the choice of a lab and of one of its kernels."""
    parser.add_argument("--lab", type=Path, help="lab file; default: lab.yaml, or quick.yaml while that has no kernel")
    parser.add_argument("--kernel", metavar="NAME", help="kernel of the lab file; default: its base")


def choose(lab: Path | None, kernel: str | None) -> tuple[Path, str]:
    """Return a lab file and the name of one of its kernels, which is in the cache.

    Raises:
        UserError: it is not; a benchmark does not wait for a build.
    """
    cache = Cache()
    for path in [lab] if lab else [CLONE / "lab.yaml", CLONE / "quick.yaml"]:
        loaded = load(path.absolute())
        name = kernel or loaded.base
        recipe = loaded.kernels.get(name)
        if recipe and cache.has("kernel", kernel_key(recipe, BuildContext(cache, loaded.root, loaded.mirror))):
            return path.absolute(), name
    raise UserError(
        f"no kernel {kernel or 'of the lab'} in the cache", hint="./lab build, or ./lab --lab quick.yaml build"
    )


def write_lab(folder: Path, like: Path, scenarios: Mapping[str, Files], **changes: Any) -> Path:
    """Lay out a lab in `folder` with the kernels, roots and machines of the lab file `like`; return its lab file.

    Args:
        changes: keys of the lab file that are not as in `like`.
    """
    real = like.parent
    for name in ("kernels", "rootfs"):
        (folder / name).symlink_to(real / name)
    (folder / "scenarios").mkdir()
    shutil.copytree(real / "scenarios/lib", folder / "scenarios/lib")
    for name, files in scenarios.items():
        home = folder / "scenarios" / name
        home.mkdir()
        for file, text in files.items():
            (home / file).write_text(text)
            (home / file).chmod(0o644 if file == "scenario.yaml" else 0o755)
    text = yaml.safe_load(like.read_text())
    text |= {"scenarios": ["*"], **changes}
    path = folder / "lab.yaml"
    path.write_text(yaml.safe_dump(text, sort_keys=False))
    return path


def recipe_text(like: Path, name: str) -> dict[str, Any]:
    """Return a recipe of the lab file `like` as it is written."""
    text: dict[str, Any] = yaml.safe_load((like.parent / "kernels" / f"{name}.yaml").read_text())
    return text


@dataclass(slots=True)
class Bench:
    """Kernel and root of one lab, from the cache, ready for jobs.

    Attributes:
        folder: the temporary lab; jobs write below it.
    """

    lab: Lab
    plan: Plan
    host: Host
    stages: Stages
    folder: Path
    _count: int = 0

    def job(self, scenario: str) -> tuple[JobTask, Here]:
        """Return the job of `scenario`, and where it runs: in a folder that no other job has."""
        self._count += 1
        job = next(job for job in self.plan.jobs if job.scenario == scenario)
        folder = self.folder / f"out/{self._count}"
        folder.mkdir(parents=True)
        return gather(self.lab, job, self.stages, Settings()), Here(self.host, folder, threading.Event())

    def inputs(self, scenario: str) -> JobInputs:
        """Return what the job of `scenario` works on."""
        return resolve(*self.job(scenario))


@contextlib.contextmanager
def bench(like: Path, kernel: str, scenarios: Mapping[str, Files]) -> Iterator[Bench]:
    """Have a temporary lab for the time of a `with`, of which all that is made but its saved guests goes away."""
    with tempfile.TemporaryDirectory(prefix="kpatchlab-bench-") as name:
        folder = Path(name)
        lab = load(write_lab(folder, like, scenarios))
        plan = make_plan(lab, choice=tuple(scenarios), kernels=(kernel,), repeat=1)
        host = Host(Cache(), lab.mirror, lab.qemu)
        with PlainProgress(open("/dev/null", "w")) as quiet:
            stages = Stages(lab, plan, host, Settings(), quiet)
            try:
                made = Bench(lab, plan, host, stages, folder)
                for job in plan.jobs:
                    shape = next(iter(made.inputs(job.scenario).boots.values())).machine
                    say(f"{job.id}: {_words(shape)}")
                yield made
            finally:
                stages.shutdown()


def _words(shape: object) -> str:
    facts = dataclasses.asdict(shape)  # type: ignore[call-overload]
    qemu = ".".join(str(n) for n in facts["qemu"]["version"])
    return f"{facts['accel']}, QEMU {qemu}, {facts['cpus']} processor, {facts['memory_mib']} MiB"
