"""A lab's own programs in C, where an interpreter is too slow or too noisy: scenarios/lib/NAME.c -> a static program.

A compiler of the host's makes them, as it makes the guests' agent; they run on any root, and are the same for every
kernel of an architecture.
"""

from __future__ import annotations

from pathlib import Path

from kpatchlab.arch import ARCHES
from kpatchlab.build import toolchain
from kpatchlab.build.built import Programs, Unbuilt
from kpatchlab.build.context import BuildContext
from kpatchlab.cache import content_key, file_digest
from kpatchlab.fence import tool
from kpatchlab.model import Outcome

VERSION = 2
"""Part of every key: raise it when the same source is to give another program."""
FLAGS = ("-std=gnu11", "-O2", "-Wall", "-static", "-pthread", "-s")
BUILD_S = 120.0


def build(name: str, ctx: BuildContext) -> Programs:
    """Return the program that `scenarios/lib/NAME.c` makes; see `foreign.build_foreign`.

    Raises:
        Unbuilt: there is no such source, or it does not compile.
    """
    source = ctx.lab_root / "scenarios" / "lib" / f"{name}.c"
    if not source.is_file():
        raise Unbuilt(Outcome.SKIP, f"there is no program scenarios/lib/{name}.c")
    headers = [(header.name, file_digest(header)) for header in sorted(source.parent.glob("*.h"))]
    key = content_key(VERSION, FLAGS, file_digest(source), headers, toolchain.of_host(ctx.arch))
    cached = ctx.cache.has("program", key)

    def produce(work: Path) -> None:
        (work / "programs").mkdir()
        words = [f"{ARCHES[ctx.arch].cross}gcc", *FLAGS, "-o", str(work / "programs" / name), str(source)]
        fence = tool(source.parent, write=[work])
        done = fence.run(words, timeout_s=BUILD_S, check=False, cancel=ctx.cancel)
        ctx.check_cancel()
        if done.status != 0:
            said = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr.strip()[-300:])
            raise Unbuilt(Outcome.BLOCKED, f"it does not compile: {said.replace(str(ctx.lab_root) + '/', '')}")

    ctx.cache.get("program", key, produce, label=f"program {name}")
    return Programs(Outcome.PASS, "program", key, cached=cached)
