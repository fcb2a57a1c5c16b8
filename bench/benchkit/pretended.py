"""A run of jobs that do nothing, by the program of any worktree of the lab; a script, in a process of its own.

    python -P pretended.py TREE FOLDER JOBS

Kernels are stand-ins and guests are folders of this host (tests/pretend_qemu.py): everything else is what a run does.
The last line of standard error has the processor seconds of the program, without its children, and its peak of MiB.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import inspect
import os
import resource
import sys
from pathlib import Path
from typing import Any

STAND_IN = Path(__file__).parents[2] / "tests/pretend_qemu.py"
PROGRAM = '#!/bin/sh\nexec "{python}" -S -E "{stand_in}" "$@"\n'
RECIPE = "source: {type: debian-source, package: linux-source-6.1, suite: bookworm}\nconfig: [guest.config]\n"
LAB = 'title: pretended\nqemu: host\nkernels: {without: old, with: new}\nscenarios: ["*"]\nlimits: {guests: 4}\n'
SCENARIO = "description: one guest\ntimeout_s: 60\nroles: {main: {run: run.sh}}\nparameters: {size: %s}\n"
SCRIPT = '#!/bin/sh\necho "KTAP version 1"\necho 1..1\necho "ok 1 - it lives"\n'
FILES = {
    "bin/qemu-system-x86_64": PROGRAM.format(python=sys.executable, stand_in=STAND_IN),
    "lab/kernels/old.yaml": RECIPE,
    "lab/kernels/new.yaml": RECIPE,
    "lab/kernels/guest.config": "CONFIG_SMP=y\n",
    "lab/rootfs/base.yaml": "packages: [python3]\n",
    "lab/scenarios/lib/ktap.sh": "",
    "lab/scenarios/solo/run.sh": SCRIPT,
}
ARTIFACTS = {
    ("kernel", "key-kernel"): ("config", "modules.dep", "modules.builtin"),
    ("root", "key-root"): ("packages.txt", "root.erofs"),
    ("initrd", "key-initrd"): ("initrd.img",),
}


def first_of(*names: str) -> Any:
    """Return the first of some modules that this version has."""
    for name in names:
        with contextlib.suppress(ModuleNotFoundError):
            return importlib.import_module(name)
    raise ModuleNotFoundError(names)


def lay_out(folder: Path, jobs: int, *, settles: bool) -> None:
    """Make a lab of so many jobs, and a cache with its kernels."""
    sizes = str([str(number) for number in range(jobs // 2)])
    own = {"lab/lab.yaml": LAB + ("settle_s: 0\n" if settles else "")}
    for name, text in {**FILES, **own, "lab/scenarios/solo/scenario.yaml": SCENARIO % sizes}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755 if text.startswith("#!") else 0o644)
    cache = first_of("kpatchlab.cache").Cache(folder / "cache")
    for (kind, key), names in ARTIFACTS.items():
        cache.get(kind, key, lambda work, names=names: [(work / name).touch() for name in names])


def pretend(folder: Path, stages: Any) -> None:
    """Have the program take the cache's kernels and root for what it was to make."""
    model, packages = first_of("kpatchlab.model"), first_of("kpatchlab.host.packages", "kpatchlab.packages")
    places = {kind: folder / "cache" / kind / key for kind, key in ARTIFACTS}
    older = {"path": str(places["kernel"])} if "path" in inspect.signature(model.BuildResult).parameters else {}
    build = model.BuildResult("", model.Outcome.PASS, key="key-kernel", release="6.1.0-pretended", **older)
    packages.missing = lambda _: []
    stages.kernel_key = lambda *_: build.key
    stages.build_kernel = lambda _recipe, name, *_: dataclasses.replace(build, kernel=name)
    stages.root_key = lambda *_: "key-root"
    stages.root_image = lambda *_: places["root"] / "root.erofs"
    stages.initrd = lambda *_: places["initrd"] / "initrd.img" if older else "key-initrd"


def main() -> None:
    """Run, and print."""
    tree, folder, jobs = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    sys.path.insert(0, str(tree))
    os.environ["KPATCHLAB_CACHE"] = str(folder / "cache")
    os.environ["PATH"] = f"{folder / 'bin'}:{os.environ['PATH']}"
    stages = first_of("kpatchlab.run.stages", "kpatchlab.stages")
    lay_out(folder, jobs, settles=stages.__name__.endswith("run.stages"))
    pretend(folder, stages)
    os.chdir(folder / "lab")
    try:
        importlib.import_module("kpatchlab.cli").main(["run"])
    finally:
        used = resource.getrusage(resource.RUSAGE_SELF)
        sys.stderr.write(f"\n{used.ru_utime + used.ru_stime:.3f} {used.ru_maxrss >> 10}\n")


if __name__ == "__main__":
    main()
