"""Kernels with debugging: a lab's variants with them, how slow they are, and which leaks they report."""

from __future__ import annotations

import dataclasses
import re
from statistics import median
from typing import TYPE_CHECKING

from kpatchlab.errors import UserError
from kpatchlab.evidence.machinery import is_machinery
from kpatchlab.lab.recipes import locate
from kpatchlab.lab.yamlfile import suggest
from kpatchlab.model import Case, Outcome, leaks_case

if TYPE_CHECKING:
    from kpatchlab.guest.vm import Guest
    from kpatchlab.lab.load import Lab

MEMORY = 1.5
"""How much more memory its guests get: KASAN's shadow takes an eighth, its quarantine and red zones some more
(Documentation/dev-tools/kasan.rst)."""
BOOT = 4.0
"""How much longer a boot and a preparation may take, before there is a guest to measure."""
PLAIN_RATIO = 1.25
"""`ratio` of a lean kernel without debugging, under TCG: bench/slowness measured 1.24 on 6.1.192, 1.30 on 6.12.117."""
MEASURE_S = 120.0
LEAK_AGE_S = 6
"""kmemleak reports no object that is younger than 5 s (MSECS_MIN_AGE in mm/kmemleak.c)."""
LEAK_SCAN_S = 180.0

_USER = ["awk", "BEGIN { for (i = 0; i < 400000; i++) x += i }"]
_KERNEL = [
    "/bin/sh",
    "-c",
    "i=0; while [ $i -lt 40 ]; do /bin/true; i=$((i + 1)); done; cat /proc/self/smaps >/dev/null",
]
_LEAKS = "/sys/kernel/debug/kmemleak"


def variant(lab: Lab, name: str) -> Lab:
    """Return the lab with every kernel in one of the lab's variants, under a name of its own.

    A figure must not end up beside those of the plain kernel: the names of kernels, and so of columns and jobs, differ.

    Raises:
        UserError: there is no such variant, one of its fragments is not there, or a kernel is prebuilt.
    """
    if name not in lab.variants:
        near = suggest(name, lab.variants)
        raise UserError(f"there is no variant '{name}'{near}", hint="`variants` in lab.yaml names them")
    if lacking := [path for path in lab.variants[name] if not locate(path, lab.root).is_file()]:
        raise UserError(f"variant {name}: there is no kernels/{lacking[0]}", hint="`variants` in lab.yaml names it")
    if prebuilt := [kernel for kernel, recipe in lab.kernels.items() if recipe.is_prebuilt]:
        raise UserError(
            f"variant {name}: kernel {prebuilt[0]} is built already: it stays as it is",
            hint="a kernel that the lab builds can have it",
        )
    names = {kernel: f"{kernel}-{name}" for kernel in lab.kernels}
    kernels = {
        names[kernel]: recipe.model_copy(update={"config": (*recipe.config, *lab.variants[name]), "debug": True})
        for kernel, recipe in lab.kernels.items()
    }
    columns = tuple(
        names.get(column, column) if isinstance(column, str) else {role: names[k] for role, k in column.items()}
        for column in lab.matrix.columns
    )
    return dataclasses.replace(
        lab, kernels=kernels, images={}, base=names[lab.base], matrix=lab.matrix.model_copy(update={"columns": columns})
    )


def slowness(guest: Guest) -> float:
    """Return how many times longer a guest's kernel takes for its work than one without debugging; at least 1.

    The kernel's work (processes that start and end) is compared with a program's own, in the same guest and the same
    seconds: so the speed of the host, and its other load, do not matter.
    """
    return max(1.0, median(ratio(guest) for _ in range(3)) / PLAIN_RATIO)


def ratio(guest: Guest) -> float:
    """Return the seconds that a guest's kernel takes for its work over those that a program takes for its own."""
    user = guest.run(_USER, timeout_s=MEASURE_S).duration_s
    return guest.run(_KERNEL, timeout_s=MEASURE_S).duration_s / max(user, 1e-3)


def forget_leaks(guest: Guest) -> None:
    """Let what was lost before a job begins not be reported again."""
    guest.run(["/bin/sh", "-c", f"[ ! -e {_LEAKS} ] || {{ echo scan; echo clear; }} >{_LEAKS}"], timeout_s=LEAK_SCAN_S)


def leaks(guest: Guest, role: str) -> Case | None:
    """Scan for memory that nothing points at: scan, wait, scan again; None where the kernel has no kmemleak."""
    script = f"[ -e {_LEAKS} ] || exit 9; echo scan >{_LEAKS}; sleep {LEAK_AGE_S}; echo scan >{_LEAKS}; cat {_LEAKS}"
    done = guest.run(["/bin/sh", "-c", script], timeout_s=LEAK_SCAN_S, keep_bytes=1 << 20)
    if done.status == 9:
        return None
    text = done.stdout.decode("utf-8", "replace")
    if done.status != 0:
        said = "took too long" if done.timed_out else done.stderr.decode("utf-8", "replace").strip()
        return leaks_case(role, Outcome.FAIL, f"cannot be looked for: {said}")
    objects = re.findall(r"^unreferenced object .*\(size (\d{1,18})\)", text, re.MULTILINE)
    if not objects:
        return leaks_case(role, Outcome.PASS)
    size = sum(map(int, objects))
    told = f"{len(objects)} objects of {size} bytes in all, made in {_maker(text)}"
    return leaks_case(role, Outcome.FAIL, told, text)


def _maker(text: str) -> str:
    """Return the first function of a report's first trace that is not the allocator's own."""
    names = re.findall(r"([A-Za-z_][\w.]*)\+0x", text.partition("backtrace")[2])
    return next((name for name in names if not is_machinery(name)), "an unknown function")
