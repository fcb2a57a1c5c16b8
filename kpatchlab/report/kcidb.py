"""KCIDB: the report format of KernelCI's database, version 5.3 of its schema (kcidb-io); written, never submitted.

A kernel is a checkout and a build of it. Its checkout is a commit and a set of patches on top of it, named by KCIDB's
hash over the files of these patches, or by an empty hash for the commit alone; so a base and its series show side by
side. The files are the lab's own, which it makes of mails and commits (author, date, subject, text, diff) and leaves in
the run's folder: the hash is the same in all runs of this lab's, and another one than that of the mails as they were
posted, which other systems may have. Where the commit is not known, the checkout says its base and series in words
alone. Every check of every job is a test, and so is every figure. On a mixed pair a test belongs to the build that is
not the base's, and its environment names both. Outcomes:

    PASS     pass
    FAIL     fail, crash, timeout: the kernel is to blame
    ERROR    the scenario's own report is broken, and no check of it failed
    MISS     infra: the lab lost it
    DONE     a figure
    SKIP     skip, and blocked: what it needs did not build, which the build's own status tells

What the schema has no word for (verdict, repeat, answer, ratio) is in `misc`.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from kpatchlab.arch import ARCHES
from kpatchlab.model import JOB, BuildResult, Case, JobResult, Outcome, Run, job_case
from kpatchlab.report.common import line, tail
from kpatchlab.report.view import View
from kpatchlab.textclean import printable
from kpatchlab.verdict.faults import splats
from kpatchlab.verdict.ratios import Figure, MetricRow, metric_rows
from kpatchlab.verdict.values import Comparison, Group, Row

ORIGIN = "kpatchlab"
VERSION = {"major": 5, "minor": 3}
PATCHSET = "patchset_hash"
_COMMIT, _HASH = re.compile(r"[0-9a-f]{40}"), re.compile(r"([0-9a-f]{64})?")
EXCERPT = 16_384
"""What the schema allows for an excerpt of a log, in characters."""
STATUS = {
    Outcome.PASS: "PASS",
    Outcome.FAIL: "FAIL",
    Outcome.CRASH: "FAIL",
    Outcome.TIMEOUT: "FAIL",
    Outcome.SKIP: "SKIP",
    Outcome.BLOCKED: "SKIP",
    Outcome.INFRA: "MISS",
}


def render(view: View) -> bytes:
    """Return the run as one KCIDB document, UTF-8."""
    run, comparison = view.run, view.comparison
    document = {
        "version": VERSION,
        "checkouts": [_checkout(run, build, view.folder.absolute()) for build in run.builds],
        "builds": [_build(run, build) for build in run.builds],
        "tests": [*_tests(run, comparison, view.folder.absolute()), *_figures(run, comparison)],
    }
    return (
        json.dumps(_clean(document), indent=1, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace") + b"\n"
    )


def _id(run: Run, *parts: str) -> str:
    return ":".join([ORIGIN, run.id, *parts])


def _clean(value: Any) -> Any:
    """Return the value without what the format does not know: empty entries, control characters, NaN.

    An empty hash of patches is an answer, and none is not.
    """
    if isinstance(value, dict):
        return {
            printable(str(k)): c
            for k, v in value.items()
            if (c := _clean(v)) not in ("", None, {}, []) or (k == PATCHSET and c == "")
        }
    if isinstance(value, (list, tuple)):
        return [_clean(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return printable(value) if isinstance(value, str) else value


def _checkout(run: Run, build: BuildResult, run_dir: Path) -> dict[str, Any]:
    made = next((made for made in run.checkouts if made.kernel == build.kernel), None)
    known: dict[str, Any] = {}
    if made and _COMMIT.fullmatch(made.commit) and _HASH.fullmatch(made.patchset):
        known = {
            "git_commit_hash": made.commit,
            "git_repository_url": _https(made.url),
            PATCHSET: made.patchset,
            "patchset_files": [{"name": _file(name), "url": _url(run_dir / name)} for name in made.patches],
        }
    thread = next((thread for thread in run.threads if thread.kernel == build.kernel), None)
    return {
        "id": _id(run, build.kernel),
        "origin": ORIGIN,
        "comment": line(", ".join(part for part in (build.base, build.series) if part)),
        **known,
        "message_id": thread.message_id if thread else "",
        "start_time": run.started,
        "valid": bool(build.key) or build.outcome is Outcome.PASS,  # a series that does not apply leads to no key
        "misc": {"base_key": build.base_key, "subject": thread.subject if thread else ""},
    }


def _build(run: Run, build: BuildResult) -> dict[str, Any]:
    # A kernel that came out without some of its modules did not build as a whole.
    status = {Outcome.PASS: "PASS", Outcome.INFRA: "MISS"}.get(build.outcome, "FAIL")
    log = build.log_tail + "".join(failure.log for failure in build.module_failures)
    return {
        "id": _id(run, build.kernel),
        "checkout_id": _id(run, build.kernel),
        "origin": ORIGIN,
        "comment": line(build.error),
        "start_time": run.started,
        "duration": build.duration_s,
        "command": line(build.reproduce, 4000),
        "compiler": line(build.compiler),
        **({"architecture": build.arch} if build.arch in ARCHES else {}),
        "log_excerpt": tail(log, EXCERPT),
        "status": "FAIL" if build.module_failures and status == "PASS" else status,
        "misc": {
            "key": build.key,
            "release": build.release,
            "cached": build.cached,
            "unconfined": build.unconfined,
            "module_failures": [
                {"module": f.module, "source": f.source, "line": f.line, "error": f.error, "dependents": f.dependents}
                for f in build.module_failures
            ],
            "config_misses": [
                {"symbol": m.symbol, "asked": m.asked, "got": m.got, "reason": m.reason} for m in build.config_misses
            ],
        },
    }


def _tests(run: Run, comparison: Comparison, run_dir: Path) -> Iterator[dict[str, Any]]:
    for group in comparison.groups:
        rows = {row.id: row for row in group.rows}
        for jobs in group.jobs.values():
            for job in jobs:
                own = any(case.id == JOB for case in job.cases)
                cases = job.cases if own else (job_case(job.outcome, job.message), *job.cases)
                for number, case in enumerate(cases):
                    yield _test(run, comparison, group, job, case, number, rows[case.id], run_dir)


def _test(
    run: Run, comparison: Comparison, group: Group, job: JobResult, case: Case, number: int, row: Row, run_dir: Path
) -> dict[str, Any]:
    whole = case.id == JOB
    verdict = row.cells[job.column].verdict
    log = "\n\n".join(splat.decoded or splat.text for splat in splats([job])) if whole else case.details
    files = [guest.console for guest in job.guests if guest.console] + list(job.attachments) if whole else []
    return {
        **_head(run, comparison, job, f"{job.job}:{number}", _path(group, row.case)),
        "comment": line(f"{row.case}: {case.message}" if case.message else row.case),
        "status": _status(job, case),
        "log_excerpt": printable(log)[:EXCERPT],
        "duration": job.duration_s if whole else case.duration_s,
        "output_files": [{"name": _file(name), "url": _url(run_dir / name)} for name in files],
        "misc": {
            "outcome": str(case.outcome),
            "verdict": str(verdict or ""),
            "repeat": job.repeat,
            "params": job.params,
            "answer": case.answer,
            "reproduce": job.reproduce if whole else "",
            "splats": [{"title": s.title, "kind": s.kind, "fingerprint": s.fingerprint} for s in job.splats]
            if whole
            else [],
        },
    }


def _status(job: JobResult, case: Case) -> str:
    checks = [other for other in job.cases if other.id != JOB]
    broken = case.outcome is Outcome.FAIL and not job.reported and not any(other.outcome.is_bad for other in checks)
    return "ERROR" if case.id == JOB and broken else STATUS[case.outcome]


def _head(run: Run, comparison: Comparison, job: JobResult, name: str, path: str) -> dict[str, Any]:
    base = next((kernel.name for kernel in run.kernels if kernel.role == "base"), comparison.base)
    kernels = {job.placement[role]: build for role, build in job.builds.items()}
    kernel = next((build for name, build in kernels.items() if name != base), kernels.get(base, job.column))
    told = {name: run.host[name] for name in ("cpu", "cpus", "qemu", "accel") if run.host.get(name)}
    return {
        "id": _id(run, name),
        "build_id": _id(run, kernel),
        "origin": ORIGIN,
        "path": path,
        "environment": {
            "comment": line(f"QEMU guests, column {job.column}"),
            "misc": {"column": job.column, "placement": job.placement, **told},
        },
        "start_time": job.started,
    }


def _path(group: Group, name: str) -> str:
    """Return the path in the tree of tests; names that differ stay apart, whatever letters they are made of."""
    parts = [group.scenario, *(f"{key}_{value}" for key, value in sorted(group.params.items())), name]
    return ".".join([ORIGIN, *map(_word, parts)])


def _word(name: str) -> str:
    word = re.sub(r"[^a-zA-Z0-9_-]+", "_", name).strip("_")[:80]
    return word if word == name else f"{word}-{hashlib.sha256(name.encode('utf-8', 'replace')).hexdigest()[:6]}"


def _url(path: Path) -> str:
    return "file://" + quote(str(path), errors="replace")


def _https(url: str) -> str:
    return quote(url, safe=":/?&=~+@,;%[]") if url.startswith("https://") else ""


def _file(name: str) -> str:
    return re.sub(r"[/\0]", "_", name.rpartition("/")[2]) or "file"


def _figures(run: Run, comparison: Comparison) -> Iterator[dict[str, Any]]:
    rows = {
        (id(row.group), row.name, row.unit, row.direction, row.mode, row.host): row for row in metric_rows(comparison)
    }
    for group in comparison.groups:
        for column, jobs in group.jobs.items():
            for job in jobs:
                for number, metric in enumerate(job.metrics):
                    row = rows[id(group), metric.name, metric.unit, metric.direction, job.mode, job.host]
                    figure = row.figures.get(column)
                    value = metric.value if math.isfinite(metric.value) else None
                    yield {
                        **_head(
                            run, comparison, job, f"{job.job}:metric:{number}", _path(group, f"metric {metric.name}")
                        ),
                        "comment": line(metric.name) if value is not None else line(f"{metric.name}: no number"),
                        "status": "DONE" if value is not None else "ERROR",
                        "number": {} if value is None else {"value": value, "unit": line(metric.unit, 60)},
                        "misc": _ratio(row, figure) | {"repeat": job.repeat},
                    }


def _ratio(row: MetricRow, figure: Figure | None) -> dict[str, Any]:
    found: dict[str, Any] = {"mode": row.mode, "better": row.direction}
    if figure and figure.speed:
        found |= {"speed": str(figure.speed), "ratio": figure.ratio, "low": figure.low, "high": figure.high}
    return found
