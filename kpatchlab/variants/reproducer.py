"""A lab with one scenario, which is somebody's reproducer, and what its runs say of each kernel.

The lab is a folder of its own, with the kernels of another lab: it can be run again, edited, and searched by `bisect`.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from kpatchlab.cache import content_key
from kpatchlab.errors import UserError
from kpatchlab.evidence import logged
from kpatchlab.evidence.splats import find_splats
from kpatchlab.files import read_input, write_atomic
from kpatchlab.lab.file import FILE
from kpatchlab.lab.load import Lab
from kpatchlab.lab.recipes import KernelRecipe, locate
from kpatchlab.lab.written import said, written
from kpatchlab.model import UNTRIED, CaseKind, JobResult, Run, Splat

FOLDER = "reproduce"
"""Below a lab's results: a lab for each reproducer."""
NAME = "reproducer"
MOST_BYTES = 4 << 20
SCENARIO = """\
description: {description}
timeout_s: {timeout}
roles:
  main: {{run: run.sh}}
touches: {{files: []}}
"""
PROGRAM = """\
#!/bin/sh
# What shows a fault of this program's is the kernel's log: its exit status says nothing.
echo "KTAP version 1"
echo "1..1"
cd "$(mktemp -d)" || exit 1
timeout -k 5 {seconds} /lab/programs/{name}/{name} >/dev/null 2>&1
echo "ok 1 the program was run"
"""
SCRIPT = """\
#!/bin/sh
echo "KTAP version 1"
echo "1..1"
cd "$(mktemp -d)" || exit 1
timeout -k 5 {seconds} /lab/scenario/{name} >output 2>&1
status=$?
sed 's/^/# /' output | head -n 200
case $status in
0) echo "ok 1 the script ends with 0" ;;
125|126|127) echo "ok 1 the script ends with 0 # SKIP status $status: it cannot run here" ;;
124|137) echo "not ok 1 the script ends with 0 # no end in {seconds} s" ;;
*) echo "not ok 1 the script ends with 0 # status $status" ;;
esac
"""
_C = re.compile(rb"^\s*(?://|/\*|#\s*(?:include|define|ifndef|pragma)\b)")
_FRAME = re.compile(r"\b([A-Za-z_][\w.]*)\+0x[0-9a-f]+/0x[0-9a-f]+")


class Kind(StrEnum):
    """What somebody handed in."""

    PROGRAM = "a program in C"
    SCRIPT = "a script"
    LOG = "a log"


class Answer(StrEnum):
    """Whether a kernel shows it."""

    YES = "yes"
    NO = "no"
    UNTESTABLE = "not testable here"


@dataclass(frozen=True, slots=True)
class Reproduced:
    """What the runs of one kernel say.

    Attributes:
        shown: of `runs` that could tell, those that show it.
        what: the splat or the check that shows it; why it cannot be tested.
        job: the first job that shows it, None where none does.
        case: the check that shows it, "" for none; `bisect` takes it.
    """

    kernel: str
    answer: Answer
    shown: int
    runs: int
    what: str
    job: JobResult | None = None
    case: str = ""


def kind_of(path: Path) -> tuple[Kind, bytes]:
    """Return what a file is, and its bytes.

    Raises:
        UserError: it cannot be read, or is none of the three.
    """
    data = _read(path)
    if path.suffix == ".c" or (path.suffix not in {".sh", ".py"} and _C.match(data)):
        return Kind.PROGRAM, data
    if data.startswith(b"#!"):
        return Kind.SCRIPT, data
    if find_splats(logged.plain(data), died=True):
        return Kind.LOG, data
    raise UserError(
        f"{path}: neither a program in C, nor a script, nor a log with a splat in it",
        hint="a script begins with #!, as in #!/bin/sh; a file in C is called NAME.c",
    )


def splats_of(log: Path) -> list[Splat]:
    """Return the splats of a log.

    Raises:
        UserError: it cannot be read, or there is none in it.
    """
    if found := find_splats(logged.plain(_read(log)), died=True):
        return found
    raise UserError(
        f"{log}: there is no splat in it",
        hint="a log is what the console, dmesg or journalctl shows, lines as they were",
    )


def _read(path: Path) -> bytes:
    return read_input(path, MOST_BYTES, "a reproducer or a log")


def make_lab(lab: Lab, kind: Kind, data: bytes, kernels: Sequence[str], seconds: int) -> Path:
    """Write a lab for a reproducer and return its file.

    Args:
        kernels: of `lab`; the base is the first of them.
        seconds: how long it may run in a guest.
    """
    folder = lab.results / FOLDER / content_key(data.hex(), *kernels)[:12]
    home, library = folder / "scenarios" / NAME, folder / "scenarios/lib"
    shutil.rmtree(folder / "scenarios", ignore_errors=True)
    for own in ("rootfs", "suites", "scenarios/lib"):
        if (lab.root / own).is_dir():
            shutil.copytree(lab.root / own, folder / own, dirs_exist_ok=True)
    home.mkdir(parents=True)
    needs = ""
    if kind is Kind.PROGRAM:
        write_atomic(library / f"{NAME}.c", data)
        needs = f"needs: {{programs: [{NAME}]}}\n"
    else:
        write_atomic(home / NAME, data)
        (home / NAME).chmod(0o755)
    run = PROGRAM if kind is Kind.PROGRAM else SCRIPT
    text = SCENARIO.format(description=f"A reproducer, {kind}.", timeout=seconds + 60)
    write_atomic(home / "scenario.yaml", (text + needs).encode())
    write_atomic(home / "run.sh", run.format(name=NAME, seconds=seconds).encode())
    (home / "run.sh").chmod(0o755)
    values = said(lab, {name: _moved(lab.kernels[name], lab.root) for name in kernels}) | {
        "title": f"a reproducer, {kind}",
        "base": kernels[0],
        "matrix": {"columns": ["kernels"]},
    }
    write_atomic(folder / FILE, written(values))
    return folder / FILE


def _moved(recipe: KernelRecipe, root: Path) -> KernelRecipe:
    """Return a recipe whose paths mean the same from any other lab."""
    parts = [
        part.model_copy(update={"path": str(locate(part.on_host, root))}) if part.on_host else part
        for part in (recipe.source, *recipe.series)
    ]
    config = tuple(str(locate(path, root)) for path in recipe.config)
    return recipe.model_copy(update={"source": parts[0], "series": tuple(parts[1:]), "config": config})


def about(lab: Lab, splats: Iterable[Splat]) -> tuple[str, ...]:
    """Return the scenarios that run a function of the splats' traces, by what they say that they touch."""
    functions = {name.split(".")[0] for splat in splats for name in _FRAME.findall(splat.text)}
    return tuple(name for name, s in lab.scenarios.items() if functions & set(s.touches.functions))


def answer_of(run: Run, kernel: str, wanted: Sequence[Splat]) -> Reproduced:
    """Return what a run says of one kernel.

    Args:
        wanted: one of these has to show; none: any splat, or a check that fails.
    """
    jobs = [job for job in run.jobs if set(job.placement.values()) == {kernel}]
    told = [job for job in jobs if job.outcome not in UNTRIED]
    if not told:
        why = next((job.message for job in jobs if job.message), "nothing was run")
        return Reproduced(kernel, Answer.UNTESTABLE, 0, 0, why)
    showing = [(job, what, case) for job in told for what, case in [_shown(job, wanted)] if what]
    if not showing:
        return Reproduced(kernel, Answer.NO, 0, len(told), "")
    job, what, case = showing[0]
    return Reproduced(kernel, Answer.YES, len(showing), len(told), what, job, case)


def _shown(job: JobResult, wanted: Sequence[Splat]) -> tuple[str, str]:
    """Return what shows it in a job, and the check that has it; "" for nothing."""
    bad = next((case for case in job.cases if case.kind is not CaseKind.JOB and case.outcome.is_bad), None)
    case = f"{job.scenario}: {bad.name}" if bad else ""
    if wanted:
        marks = {splat.fingerprint for splat in wanted} | {splat.title for splat in wanted}
        found = next((s for s in job.splats if {s.fingerprint, s.title} & marks), None)
        return (found.title, case) if found else ("", "")
    if job.splats:
        return job.splats[0].title, case
    return (job.message or str(job.outcome), case) if job.outcome.is_bad else ("", "")
