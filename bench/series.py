"""What `lab series` costs: 28 small patches over 12 files of linux-source-6.12, configured as kernels/tiny.yaml is.

The patches are made here, each adds or takes away a line at the head of a file: comments and declarations in C files,
two in headers, a constant that W=1 complains about, a module that is broken by one patch and mended by a later one, a
patch whose context is a little off. Counted are the objects that make compiled for each patch, and those that were
compiled with extra warnings; 28 clean builds would compile all objects 28 times. The first build of the tree is told
apart. The tree stays in the cache (`lab clean` knows it), so that the next time starts warm. Takes some 15 minutes on
two processors the first time.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

from benchkit import labs
from benchkit.rounds import last_line, parser, run, say

from kpatchlab.build import BuildContext
from kpatchlab.cache import Cache
from kpatchlab.host.host import Host
from kpatchlab.lab.recipes import KernelRecipe
from kpatchlab.series import Wanted, judge, walk
from kpatchlab.series.values import PatchResult
from kpatchlab.series.views import FILES, VIEWS

SOURCE = {"type": "debian-source", "package": "linux-source-6.12", "suite": "trixie"}
HEADS = {
    "fs/splice.c": ["// SPDX-License-Identifier: GPL-2.0-only", "/*"],
    "fs/pipe.c": ["// SPDX-License-Identifier: GPL-2.0", "/*"],
    "net/core/sock.c": ["// SPDX-License-Identifier: GPL-2.0-or-later", "/*"],
    "net/core/skbuff.c": ["// SPDX-License-Identifier: GPL-2.0-or-later", "/*"],
    "net/unix/af_unix.c": ["// SPDX-License-Identifier: GPL-2.0-or-later", "/*"],
    "kernel/fork.c": ["// SPDX-License-Identifier: GPL-2.0-only", "/*"],
    "mm/filemap.c": ["// SPDX-License-Identifier: GPL-2.0-only", "/*"],
    "drivers/net/dummy.c": ["// SPDX-License-Identifier: GPL-2.0-only", "/* dummy.c: a dummy net driver"],
    "drivers/net/veth.c": ["// SPDX-License-Identifier: GPL-2.0-only", "/*"],
    "net/tls/tls_main.c": ["/*", " * Copyright (c) 2016-2017, Mellanox Technologies. All rights reserved."],
    "include/net/af_unix.h": ["/* SPDX-License-Identifier: GPL-2.0 */", "#ifndef __LINUX_NET_AFUNIX_H"],
    "include/linux/splice.h": ["/* SPDX-License-Identifier: GPL-2.0 */", "/*"],
}
"""The first lines of each file: its most lasting context."""
WARNING = "static const int kpatchlab_warning = 1;"
BREAK = "#error does not compile"
SPECIAL = {
    5: ("net/core/sock.c", WARNING),
    8: ("include/linux/splice.h", "struct kpatchlab_one;"),
    10: ("drivers/net/dummy.c", BREAK),
    15: ("include/net/af_unix.h", "struct kpatchlab_two;"),
    20: ("drivers/net/dummy.c", ""),  # takes the broken line away
    24: ("mm/filemap.c", "fuzz"),
}
COUNT = 28


def main() -> None:
    """Walk and print."""
    arguments = parser(__doc__, rounds=1)
    arguments.add_argument("--keep", type=Path, metavar="DIR", help="put the page, JUnit and JSON there")
    words = arguments.parse_args()  # one round, whatever is asked for: it is a count, and it takes long
    with tempfile.TemporaryDirectory(prefix="kpatchlab-bench-") as name:
        folder = Path(name)
        make_patches(folder / "series")
        text = labs.recipe_text(labs.CLONE / "lab.yaml", "tiny")
        text |= {"source": SOURCE, "series": [{"type": "patches", "path": str(folder / "series")}]}
        context = BuildContext(Cache(), labs.CLONE, jobs=Host.build_jobs("auto"))
        done, _ = walk(KernelRecipe.model_validate(text), "tiny", context, folder, Wanted(), tell)
    table = judge(done)
    if words.keep:
        words.keep.mkdir(parents=True, exist_ok=True)
        for view, file in FILES.items():
            (words.keep / file).write_bytes(VIEWS[view](table))
    print(VIEWS["text"](table).decode())
    built = [row.facts for row in table.rows if row.facts.built]
    objects = [facts.built.rebuilt for facts in built if facts.built]
    first = table.base.facts.built
    print(f"the tree itself: {first.rebuilt if first else 0} objects in {table.base.facts.duration_s:.0f} s")
    last_line(
        patches=str(len(built)),
        objects_per_patch=statistics.median(objects),
        objects=str(table.rebuilt),
        checked=str(table.looked),
        clean_builds=str(table.clean),
        ratio=(table.rebuilt + table.looked) / max(1, table.clean),
        patch_s=statistics.median(facts.duration_s for facts in built),
        slowest_s=max(facts.duration_s for facts in built),
    )


def tell(facts: PatchResult) -> None:
    """Print a line about a patch that is done."""
    objects = facts.built.rebuilt if facts.built else 0
    say(f"patch {facts.number}: {facts.title}: {objects} objects, {facts.duration_s:.1f} s")


def make_patches(folder: Path) -> None:
    """Write the series."""
    folder.mkdir()
    heads = {file: list(lines) for file, lines in HEADS.items()}
    plain = [file for file in heads if file.endswith(".c")]
    for number in range(1, COUNT + 1):
        file, line = SPECIAL.get(number, (plain[number % len(plain)], f"/* line {number} */"))
        head = heads[file]
        fuzz = line == "fuzz"
        line = "/* the context of this one is off */" if fuzz else line
        if line:
            context = [*head[:1], "\tsomething else"] if fuzz else head[:2]
            hunk = [f"@@ -1,{len(context)} +1,{len(context) + 1} @@", f"+{line}", *(f" {text}" for text in context)]
            head.insert(0, line)
        else:
            context = head[: head.index(BREAK) + 2]
            hunk = [f"@@ -1,{len(context)} +1,{len(context) - 1} @@"]
            hunk += [f"-{text}" if text == BREAK else f" {text}" for text in context]
            head.remove(BREAK)
        title = f"{Path(file).stem}: {line.strip('/* ;') or 'mend'}"
        text = [
            "From: A Developer <a@example.com>", "Date: Thu, 16 Mar 2023 00:00:00 +0000",
            f"Subject: [PATCH {number}/{COUNT}] {title}", "", "Say why.", "",
            "Signed-off-by: A Developer <a@example.com>", "---", f" {file} | 1 +", "",
            f"diff --git a/{file} b/{file}", f"--- a/{file}", f"+++ b/{file}", *hunk, "",
        ]  # fmt: skip
        (folder / f"{number:04d}.patch").write_text("\n".join(text))


if __name__ == "__main__":
    run(main)
