"""The program on a lab whose kernels are stand-ins and whose guests are folders of this host (`pretend_qemu`).

    python tests/pretend_lab.py FOLDER VERB [WORD...]

FOLDER gets a lab, a cache and a store where it has none. Everything but builds and machines is the program's own: what
becomes of a run that is killed, of two at once, and on a disk that fills up, is found out by running it.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path

PROJECT = Path(__file__).parents[1]
sys.path.insert(0, str(PROJECT))

from kpatchlab.cache import Cache  # noqa: E402
from kpatchlab.cli import main  # noqa: E402
from kpatchlab.host import packages  # noqa: E402
from kpatchlab.model import BuildResult, Outcome  # noqa: E402
from kpatchlab.run import stages  # noqa: E402

LAB = """\
title: pretended
qemu: host
kernels: {without: old, with: new}
scenarios: ["*"]
settle_s: 0
"""
KERNEL = "source: {type: debian-source, package: linux-source-6.1, suite: bookworm}\nconfig: [guest.config]\n"
SCENARIO = """\
description: one guest
timeout_s: 60
roles: {main: {run: run.sh}}
parameters: {size: ['1', '2', '3']}
"""
SCRIPT = """\
#!/bin/sh
echo "KTAP version 1"
echo 1..1
mkdir -p "$LAB_ATTACH" && echo "$LAB_SIZE" >"$LAB_ATTACH/size"
echo "ok 1 - it lives"
"""
PROGRAM = '#!/bin/sh\nexec "{python}" -S -E "{stand_in}" "$@"\n'


def write(path: Path, text: str, mode: int = 0o644) -> None:
    """Write one file, with the folders that it needs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def lay_out(root: Path) -> None:
    """Make the lab, and a cache that has its kernels."""
    if (root / "lab/lab.yaml").exists():
        return
    for name in ("old", "new"):
        write(root / f"lab/kernels/{name}.yaml", KERNEL)
    write(root / "lab/kernels/guest.config", "CONFIG_SMP=y\n")
    write(root / "lab/rootfs/base.yaml", "packages: [python3]\n")
    write(root / "lab/scenarios/lib/ktap.sh", "")
    write(root / "lab/scenarios/solo/scenario.yaml", SCENARIO)
    write(root / "lab/scenarios/solo/run.sh", SCRIPT, 0o755)
    stand_in = PROJECT / "tests/pretend_qemu.py"
    write(root / "bin/qemu-system-x86_64", PROGRAM.format(python=sys.executable, stand_in=stand_in), 0o755)
    cache = Cache(root / "cache")
    for kind, key, files in (
        ("kernel", "key-kernel", {"config": "", "modules.dep": "", "modules.builtin": ""}),
        ("root", "key-root", {"packages.txt": "python3\n"}),
        ("initrd", "key-initrd", {}),
    ):
        cache.get(kind, key, lambda work, files=files: [write(work / name, text) for name, text in files.items()])
    write(root / "lab/lab.yaml", LAB)


def call(root: Path, words: list[str]) -> None:
    """Run the program there, and end as it does."""
    os.environ["KPATCHLAB_CACHE"] = str(root / "cache")
    os.environ["PATH"] = f"{root / 'bin'}:{os.environ['PATH']}"
    os.chdir(root / "lab")
    build = BuildResult("", Outcome.PASS, key="key-kernel", release="6.1.0-pretended")
    packages.missing = lambda stages: []
    stages.kernel_key = lambda *_: build.key
    stages.build_kernel = lambda recipe, name, ctx, origin: dataclasses.replace(build, kernel=name)
    stages.root_image = lambda recipe, ctx: None
    stages.root_key = lambda *_: "key-root"
    stages.initrd = lambda kernel, ctx: "key-initrd"
    main(["kpatchlab", *words][1:])


if __name__ == "__main__":
    lay_out(Path(sys.argv[1]).absolute())
    call(Path(sys.argv[1]).absolute(), sys.argv[2:])
