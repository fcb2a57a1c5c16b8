"""What the second kernel of a pair costs: the same source and configuration, with a small series on top.

kernels/tiny.yaml is built twice in a fresh cache, from an empty ccache that the two share: first without, then with
a series of two patches, one to a C file (fs/splice.c), one to a header (include/net/af_unix.h). What is counted
are objects that the compiler really made. The fresh cache lies below the real one, and is left there as trash for
the lab's next build to delete: that takes minutes on some disks. Takes some 15 minutes on two processors.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchkit import labs
from benchkit.rounds import last_line, parser, run, say

from kpatchlab.build import BuildContext, BuildProgress, build_kernel
from kpatchlab.cache import Cache
from kpatchlab.errors import HostError
from kpatchlab.host.host import Host
from kpatchlab.lab.load import load
from kpatchlab.model import BuildResult, Outcome

# The first lines of a file are its most lasting context.
_PATCH = """From: kpatchlab <kpatchlab@localhost>
Date: Thu, 16 Mar 2023 00:00:00 +0000
Subject: [PATCH {number}/2] Touch {file}

---
 {file} | 1 +
 1 file changed, 1 insertion(+)

--- a/{file}
+++ b/{file}
@@ -1,2 +1,3 @@
+{added}
 {first}
 {second}
--
2.40.0
"""
PATCHES = {
    "0001-source.patch": _PATCH.format(
        number=1,
        file="fs/splice.c",
        added="int kpatchlab_bench = 1;",
        first="// SPDX-License-Identifier: GPL-2.0-only",
        second="/*",
    ),
    "0002-header.patch": _PATCH.format(
        number=2,
        file="include/net/af_unix.h",
        added="struct kpatchlab_bench;",
        first="/* SPDX-License-Identifier: GPL-2.0 */",
        second="#ifndef __LINUX_NET_AFUNIX_H",
    ),
}


def main() -> None:
    """Build and print."""
    arguments = parser(__doc__, rounds=1)
    arguments.parse_args()  # one round, whatever is asked for: it is a count, and it takes long
    with tempfile.TemporaryDirectory(prefix="kpatchlab-bench-") as name, _fresh_cache() as cache:
        base, series = (_build(kind, Path(name), cache) for kind in ("base", "series"))
    print(f"{'':8} {'compiled':>9} {'objects':>9} {'wall':>9}")
    for result in (base, series):
        print(f"{result.kernel:8} {result.objects_compiled:9} {result.objects_total:9} {result.duration_s:7.0f} s")
    print(f"\nwall time, base over series: {base.duration_s / max(series.duration_s, 0.1):.1f}")
    last_line(
        base_objects=str(base.objects_compiled),
        series_objects=str(series.objects_compiled),
        ratio=series.objects_compiled / max(1, base.objects_compiled),
        total_objects=str(series.objects_total),
        base_s=base.duration_s,
        series_s=series.duration_s,
    )


@contextlib.contextmanager
def _fresh_cache() -> Iterator[Cache]:
    """Have an empty cache for the time of a `with`; only Debian's packages are those of the real one."""
    real = Cache()
    (real.root / "tmp").mkdir(parents=True, exist_ok=True)
    (real.root / "apt").mkdir(exist_ok=True)
    root = Path(tempfile.mkdtemp(prefix="bench-rebuild-", dir=real.root / "tmp"))
    (root / "apt").symlink_to(real.root / "apt")
    try:
        yield Cache(root)
    finally:
        root.rename(root.with_name(root.name.replace("bench-rebuild", "trash")))


def _build(kind: str, folder: Path, cache: Cache) -> BuildResult:
    like = labs.CLONE / "lab.yaml"
    if kind == "base":
        for name, text in PATCHES.items():
            (folder / "series").mkdir(exist_ok=True)
            (folder / "series" / name).write_text(text)
        inline = labs.recipe_text(like, "tiny") | {"series": [{"type": "patches", "path": str(folder / "series")}]}
        labs.write_lab(folder, like, {}, kernels={"base": "tiny", "series": inline}, base="base")
    lab = load(folder / "lab.yaml")
    last = 0.0

    def tell(now: BuildProgress) -> None:
        nonlocal last
        if time.monotonic() - last > 30:
            last = time.monotonic()
            say(f"{kind}: {now.phase} {now.done} of about {now.total_estimate}")

    context = BuildContext(cache, lab.root, lab.mirror, jobs=Host.build_jobs("auto"), progress=tell)
    result = build_kernel(lab.kernels[kind], kind, context)
    if result.outcome is not Outcome.PASS:
        raise HostError(f"kernel {kind} does not build: {result.error}")
    return result


if __name__ == "__main__":
    run(main)
