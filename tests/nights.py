"""A lab with a git tree whose branch moves, guests that say what a test says, and nights of it."""

import dataclasses
import os
import signal
import subprocess
import threading

import pytest

from kpatchlab.build import BuildContext
from kpatchlab.cache import content_key
from kpatchlab.lab import load as lab_file
from kpatchlab.model import Case, JobResult, Outcome, job_case
from kpatchlab.nightly import lanes as lanes_room
from kpatchlab.nightly.lock import held
from kpatchlab.nightly.night import Night
from kpatchlab.progress import PlainProgress
from kpatchlab.run import pipeline
from tests import labdir
from tests.fake_stages import local

LAB = """\
title: nights
kernels:
  without: {source: {type: git, path: %s, revision: v1}}
  with: {source: {type: git, path: %s, revision: main}}
scenarios: [solo]
"""


def git(repo, *words):
    who = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b"}
    done = subprocess.run(
        ["git", "-C", repo, *words], check=True, capture_output=True, text=True, env={**os.environ, **who}
    )
    return done.stdout.strip()


def hand_in(cases, metrics=(), outcome=Outcome.PASS, splats=()):
    """Return what an executor calls for a job: `cases(spec)` -> {name: outcome}, and so `metrics`, `splats`."""

    def run_job(inputs):
        spec = inputs.spec
        named = cases(spec)
        worst = outcome if outcome is not Outcome.PASS else max(named.values(), key=lambda o: o.is_bad)
        made = (job_case(worst), *(Case(name, value, "x" if value.is_bad else "") for name, value in named.items()))
        return JobResult(
            job=spec.id,
            scenario=spec.scenario,
            params=dict(spec.params),
            column=spec.column,
            placement=dict(spec.placement),
            repeat=spec.repeat,
            outcome=worst,
            cases=made,
            metrics=tuple(metrics(spec)) if metrics else (),
            splats=tuple(splats(spec)) if splats else (),
            duration_s=1.0,
            reported=True,
        )

    return run_job


class Nights:
    """A lab with a git tree whose branch moves, and nights of it."""

    def __init__(self, bench, monkeypatch, more=""):
        self.bench, self.patch = bench, monkeypatch
        self.repo = bench.root / "tree"
        self.repo.mkdir()
        git(self.repo, "init", "-q", "-b", "main")
        git(self.repo, "commit", "-q", "--allow-empty", "-m", "base")
        git(self.repo, "tag", "v1")
        labdir.write(bench.root / "lab.yaml", LAB % (self.repo, self.repo) + more)
        self.lab = lab_file.load(bench.root / "lab.yaml")
        monkeypatch.setattr(lanes_room, "kernel_key", lambda recipe, _: content_key(recipe.model_dump_json()))
        monkeypatch.setattr(pipeline, "REPORTS", ("junit",))  # the page is tested elsewhere, and slow
        self.said = []
        self.job(lambda spec: {"a": Outcome.PASS})

    def said_of(self, words):
        return [line for line in self.said if words in line]

    def job(self, cases, metrics=(), outcome=Outcome.PASS, splats=()):
        local(self.patch, hand_in(cases, metrics, outcome, splats))

    def says(self, more, kernels=LAB):
        """Write the lab file again, with `more` at its end."""
        text = kernels % (self.repo, self.repo) if "%s" in kernels else kernels
        labdir.write(self.bench.root / "lab.yaml", text + more)
        self.lab = lab_file.load(self.bench.root / "lab.yaml")

    def push(self, message="x"):
        git(self.repo, "commit", "-q", "--allow-empty", "-m", message)
        return git(self.repo, "rev-parse", "HEAD")

    @property
    def context(self):
        return BuildContext(self.bench.host.cache, self.lab.root)

    def night(self, **more):
        bench = self.bench
        night = Night(
            lab=self.lab,
            store=bench.store,
            host=bench.host,
            context=self.context,
            settings=dataclasses.replace(bench.settings, cancel=threading.Event()),
            progress=lambda: PlainProgress(bench.out),
            again=lambda words: f"kpatchlab {words}",
            say=self.said.append,
            **more,
        )
        with held(bench.store.root):
            return night.run()


@pytest.fixture
def nights(bench, monkeypatch):
    return Nights(bench, monkeypatch)


def bad_on_with(*names):
    return lambda spec: {"a": Outcome.FAIL if spec.column == "with" and "a" in names else Outcome.PASS}


def files(root):
    return {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in root.rglob("*") if p.is_file()}


def killed(nights, when):
    """Let a night be killed with SIGKILL; `when(spec)` says in which job."""
    child = os.fork()
    if child == 0:

        def cases(spec):
            if when(spec):
                os.kill(os.getpid(), signal.SIGKILL)
            return {"a": Outcome.PASS}

        try:
            nights.job(cases)
            nights.night()
        finally:
            os._exit(9)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
