"""Which changed lines ran: kernels built for gcov, the counters from their guests, and what the counters say.

A kernel of `variant` has gcov in the C files that its series changes and nowhere else. Its counters are set to nought
when a scenario starts and fetched before its guest ends, so that each job has its own; `collect` reads them all.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kpatchlab.build.artifact import NOTES
from kpatchlab.build.changes import Changes, Hunk, PatchChanges
from kpatchlab.errors import HostError, UserError
from kpatchlab.fence import tool
from kpatchlab.files import write_atomic
from kpatchlab.guest.tar import Malformed, members
from kpatchlab.jsonable import from_json, to_json
from kpatchlab.model import Run
from kpatchlab.store.store import Store

if TYPE_CHECKING:
    from kpatchlab.guest.vm import Guest
    from kpatchlab.lab.load import Lab

SUFFIX = "-coverage"
FILE = "coverage.json"
DATA = "gcov-{role}.tar"
"""A guest's counters, in its job's folder."""
FETCH_S, GCOV_S = 120.0, 300.0
DATA_BYTES = 256 << 20
_RESET = "echo 0 >/sys/kernel/debug/gcov/reset"
# The files have a size of 0 in debugfs: whatever goes by the size copies nothing.
_FETCH = """\
import io, os, sys, tarfile
out = tarfile.open(fileobj=sys.stdout.buffer, mode="w|")
for folder, _, names in os.walk("/sys/kernel/debug/gcov"):
    for name in names:
        if name.endswith(".gcda"):
            path = os.path.join(folder, name)
            data = open(path, "rb").read()
            info = tarfile.TarInfo(os.path.relpath(path, "/sys/kernel/debug/gcov"))
            info.size = len(data)
            out.addfile(info, io.BytesIO(data))
out.close()
"""


def variant(lab: Lab, kernels: Collection[str] = ()) -> Lab:
    """Return the lab with those of its kernels alone that have a series, built for gcov, under names of their own.

    Args:
        kernels: only these; empty: all that have a series.

    Raises:
        UserError: none of them has a series, or there is no kernel of a name.
    """
    if missing := [name for name in kernels if name not in lab.kernels]:
        raise UserError(f"there is no kernel '{missing[0]}'", hint=f"there are {', '.join(lab.kernels)}")
    chosen = {name: r for name, r in lab.kernels.items() if r.series and (not kernels or name in kernels)}
    if not chosen:
        raise UserError(
            "coverage: no kernel of this lab has a series", hint="a recipe's `series` says which lines are looked at"
        )
    extra = {"GCOV_KERNEL": "y", "DEBUG_FS": "y"}
    made = {
        f"{name}{SUFFIX}": recipe.model_copy(update={"coverage": True, "config_set": {**recipe.config_set, **extra}})
        for name, recipe in chosen.items()
    }
    matrix = lab.matrix.model_copy(update={"columns": ("kernels",)})
    return dataclasses.replace(lab, kernels=made, base=next(iter(made)), matrix=matrix)


# ------------------------------------------------------------------------------------------- in the guest


def reset(guest: Guest) -> None:
    """Set a guest's counters to nought."""
    guest.run(["/bin/sh", "-c", _RESET], timeout_s=FETCH_S)


def fetch(guest: Guest) -> bytes:
    """Return a guest's counters as a tar of .gcda files; b"" where it has none."""
    done = guest.run(["python3", "-c", _FETCH], timeout_s=FETCH_S, keep_bytes=DATA_BYTES)
    return done.stdout if done.status == 0 and done.stdout_total <= DATA_BYTES else b""


# --------------------------------------------------------------------------------------------- on the host


@dataclass(frozen=True, slots=True)
class Coverage:
    """What ran of one kernel's series.

    Attributes:
        kernel: its name in the lab, without the variant's suffix.
        series: content key of the series.
        code: file -> numbers of the lines that have code, in the files that were looked at.
        ran: file -> scenario -> line -> how often it ran.
        scenarios: those whose counters were read.
        lost: jobs that ran and left no counters, as one whose kernel crashed.
    """

    kernel: str
    series: str
    changes: Changes
    code: Mapping[str, Sequence[int]] = field(default_factory=dict)
    ran: Mapping[str, Mapping[str, Mapping[int, int]]] = field(default_factory=dict)
    scenarios: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Share:
    """How much of some changed lines ran.

    Attributes:
        code: changed lines with code.
        ran: those of them that some scenario ran.
        by: scenario -> how many of them it ran; the most first.
        missed: (file, line, text) of those that none ran.
    """

    code: int
    ran: int
    by: Mapping[str, int]
    missed: tuple[tuple[str, int, str], ...]


def share(coverage: Coverage, hunks: Iterable[Hunk]) -> Share:
    """Return how much ran of the lines that some hunks leave in the final tree."""
    code = ran = 0
    by: dict[str, int] = {}
    missed = []
    for hunk in hunks:
        have, counts = set(coverage.code.get(hunk.file, ())), coverage.ran.get(hunk.file, {})
        for line in hunk.lines:
            if line.number not in have:
                continue
            code += 1
            who = [scenario for scenario, lines in counts.items() if lines.get(line.number)]
            ran += bool(who)
            for scenario in who:
                by[scenario] = by.get(scenario, 0) + 1
            if not who:
                missed.append((hunk.file, line.number, line.text))
    return Share(code, ran, dict(sorted(by.items(), key=lambda item: (-item[1], item[0]))), tuple(missed))


def why_no_code(coverage: Coverage, hunk: Hunk) -> str:
    """Return why nothing can be said of a hunk without code."""
    if not hunk.added:
        return "removes lines only"
    if not hunk.lines:
        return "superseded by a later patch"
    if hunk.file.endswith((".c", ".h")) and hunk.file not in coverage.code:
        return "not built, or no counters of it"
    return "no code in its lines"


def collect(run: Run, folder: Path, artifacts: Mapping[str, tuple[Path, str, Changes]]) -> list[Coverage]:
    """Read the counters of a run's jobs.

    Args:
        folder: the run's own.
        artifacts: kernel as the run names it -> its artifact, its series' content key and what that changes.

    Raises:
        HostError: gcov is not there.
    """
    found = []
    for kernel, (artifact, series, changes) in artifacts.items():
        wanted = {hunk.file for patch in changes.patches for hunk in patch.hunks if hunk.lines}
        code: dict[str, set[int]] = {}
        ran: dict[str, dict[str, dict[int, int]]] = {}
        scenarios: dict[str, None] = {}
        lost = []
        for job in run.jobs:
            roles = [guest.role for guest in job.guests if guest.kernel == kernel]
            data = [_job_folder(folder, job.guests[0].console) / DATA.format(role=role) for role in roles]
            there = [path for path in data if path.exists()]
            lost += [job.job] if len(there) < len(data) else []
            for file, line, count in (row for path in there for row in read_counters(path, artifact)):
                scenarios[job.scenario] = None
                if file in wanted:
                    code.setdefault(file, set()).add(line)
                    if count:
                        lines = ran.setdefault(file, {}).setdefault(job.scenario, {})
                        lines[line] = lines.get(line, 0) + count
        known = {file: tuple(sorted(lines)) for file, lines in sorted(code.items())}
        own = kernel.removesuffix(SUFFIX)
        found.append(Coverage(own, series, changes, known, ran, tuple(scenarios), tuple(lost)))
    return found


def _job_folder(folder: Path, console: str) -> Path:
    return (folder / console).parent


def read_counters(data: Path, artifact: Path) -> Iterator[tuple[str, int, int]]:
    """Yield (file of the tree, line, how often it ran) from one guest's counters; a line of many functions comes often.

    Raises:
        HostError: gcov is not there.
    """
    objects = (artifact / NOTES / "objects").read_text().strip()
    with tempfile.TemporaryDirectory(prefix="kpatchlab-gcov-") as scratch:
        names = list(_unpack(data, objects, artifact / NOTES, Path(scratch)))
        if not names:
            return
        words = ["gcov", "--json-format", "--stdout", *names]
        with tempfile.TemporaryFile() as handle:
            try:
                tool(artifact / NOTES, write=[Path(scratch)]).run(
                    words, timeout_s=GCOV_S, check=False, cwd=Path(scratch), stdout_to=handle
                )
            except HostError:
                raise HostError(
                    "gcov: not found", hint="it comes with gcc; kpatchlab doctor names the package"
                ) from None
            handle.seek(0)
            for text in handle:
                # Notes are the series' own, and gcov's JSON has the names in them as they are.
                with contextlib.suppress(ValueError, LookupError, TypeError, AttributeError):
                    yield from list(_lines(json.loads(text), objects))


def _unpack(data: Path, objects: str, notes: Path, scratch: Path) -> Iterator[str]:
    """Write counters beside their notes, in folders as the object directory had them; yields the counters' names.

    Only what has notes is taken: a guest can put any name into its tar.
    """
    counted: set[str] = set()
    with contextlib.suppress(Malformed):
        for raw, counters, odd in members(memoryview(data.read_bytes())):
            name = os.path.relpath(f"/{os.fsdecode(raw)}", objects)
            if odd or name in counted or not name.endswith(".gcda") or name.startswith(".."):
                continue
            target, note = scratch / name, (notes / name).with_suffix(".gcno")
            if not os.path.isfile(note):
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(counters)
            target.with_suffix(".gcno").symlink_to(note)
            counted.add(name)
            yield name


def _lines(document: Mapping[str, Any], objects: str) -> Iterator[tuple[str, int, int]]:
    tree = os.path.dirname(objects)
    for file in document.get("files", ()):
        path = os.path.normpath(os.path.join(objects, file["file"]))
        name = os.path.relpath(path, tree)
        for line in file["lines"]:
            yield name, int(line["line_number"]), int(line["count"])


# ------------------------------------------------------------------------------------------------- stored


def save(found: Sequence[Coverage], folder: Path) -> None:
    """Store coverage with its run."""
    data = {"schema": 1, "kernels": [to_json(coverage) for coverage in found]}
    write_atomic(folder / FILE, json.dumps(data).encode())


def load(folder: Path) -> list[Coverage]:
    """Return what `save` wrote.

    Raises:
        UserError: the run has no coverage, or another version wrote it.
    """
    try:
        data = json.loads((folder / FILE).read_bytes())
        return [_read(item) for item in data["kernels"]]
    except FileNotFoundError:
        raise UserError(f"run {folder.name} has no coverage", hint="kpatchlab coverage makes one") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"cannot read {folder / FILE}: {error}", hint="run kpatchlab coverage again") from None


def _read(item: Mapping[str, Any]) -> Coverage:
    ran = {
        file: {scenario: {int(line): count for line, count in lines.items()} for scenario, lines in scenarios.items()}
        for file, scenarios in item["ran"].items()
    }
    code = {file: tuple(lines) for file, lines in item["code"].items()}
    changes = from_json(Changes, item["changes"])
    return Coverage(item["kernel"], item["series"], changes, code, ran, tuple(item["scenarios"]), tuple(item["lost"]))


def last(store: Store, series: Collection[str]) -> tuple[str, list[Coverage]] | None:
    """Return the newest run that has coverage of one of some series, and that coverage; None: there is none."""
    for name in reversed(store.ids()):
        if not (store.root / name / FILE).exists():
            continue
        try:
            found = [coverage for coverage in load(store.root / name) if coverage.series in series]
        except UserError:  # of another version, or cut off: an older one may do
            continue
        if any(coverage.scenarios for coverage in found):
            return name, found
    return None


def runners(found: Iterable[Coverage]) -> set[str]:
    """Return the scenarios that ran a changed line."""
    return {name for coverage in found for patch in coverage.changes.patches for name in _by(coverage, patch)}


def _by(coverage: Coverage, patch: PatchChanges) -> Iterable[str]:
    return share(coverage, patch.hunks).by
