"""A lab whose kernels, roots and guests do what a test says."""

from __future__ import annotations

import io
from unittest import mock

import pytest

from kpatchlab.cache import Cache
from kpatchlab.guest.vm import MachineShape, Qemu
from kpatchlab.lab import load
from kpatchlab.model import BuildResult, JobResult, Outcome
from kpatchlab.plan.jobs import make_plan
from kpatchlab.progress import PlainProgress
from kpatchlab.run import executor, stages
from kpatchlab.run.executor import LocalExecutor, limit_of
from kpatchlab.run.executors import EXECUTORS, executor_of
from kpatchlab.run.inputs import JobInputs, boots_of
from kpatchlab.run.pipeline import execute
from kpatchlab.run.stages import Settings
from kpatchlab.store.store import Store
from tests import labdir


class FakeHost:
    def __init__(self, root):
        self.cache = Cache(root / "cache")
        self.problem = None

    def check_room(self):
        pass

    def news(self):
        if self.problem:
            raise self.problem
        return ["guests run in a fake"]

    def facts(self):
        return {"system": "fake"}

    def build_jobs(self, limit):
        return 1

    def shape(self, arch, accel, cpus, memory_mib):
        return MachineShape("x86_64", "tcg", 1, 64, Qemu("qemu", (7, 2, 0), ("qemu",)))


class Bench:
    """A lab of two kernels (`without`, `with`), whose stages and jobs do what a test says; `log` has their order."""

    def __init__(self, root):
        self.root = root
        self.lab = load.load(labdir.make(root))
        self.store = Store(root / "results")
        self.host = FakeHost(root)
        self.settings = Settings(command="kpatchlab run")
        self.log = []
        self.keys = {}  # kernel -> key that its recipe leads to, where it is another than `key-NAME`
        self.out = io.StringIO()
        self.kernel = lambda name, ctx: self.artifact(name)
        self.image = lambda name: None
        self.job = lambda inputs: Outcome.PASS
        self.metrics = lambda inputs: ()

    def artifact(self, name, **changes):
        values = {"key": self.keys.get(name, f"key-{name}"), "release": f"6.1-{name}"} | changes
        self.host.cache.path("kernel", values["key"]).mkdir(parents=True, exist_ok=True)
        return BuildResult(name, values.pop("outcome", Outcome.PASS), **values)

    def kernel_key(self, recipe, ctx, origin):
        """Return what a kernel's recipe leads to; one of a lab that was read anew leads to whatever it did before."""
        found = [self.keys.get(name, f"key-{name}") for name, known in self.lab.kernels.items() if known is recipe]
        return found[0] if found else mock.ANY

    def build_kernel(self, recipe, name, ctx, origin):
        self.log.append(f"build {name}")
        found = self.kernel(name, ctx)
        if isinstance(found, BaseException):
            raise found
        self.log.append(f"built {name}")
        return found

    def root_image(self, recipe, ctx):
        found = self.image("base")
        if isinstance(found, BaseException):
            raise found
        return self.root / "root.erofs"

    def run_job(self, inputs):
        self.log.append(f"start {inputs.spec.id}")
        found = self.job(inputs)
        if isinstance(found, BaseException):
            raise found
        self.log.append(f"end {inputs.spec.id}")
        spec = inputs.spec
        return JobResult(
            job=spec.id,
            scenario=spec.scenario,
            params=dict(spec.params),
            column=spec.column,
            placement=dict(spec.placement),
            repeat=spec.repeat,
            outcome=found,
            metrics=tuple(self.metrics(inputs)),
            duration_s=1.0,
            mode=inputs.mode,
            images=spec.images,
        )

    def plan(self, *choice):
        return make_plan(self.lab, choice=choice or ("solo",))

    def begin(self, plan):
        return self.store.new_run(
            self.lab.title, base=plan.base, columns=plan.columns, command="kpatchlab run", version="0"
        )

    def execute(self, *choice, plan=None, run_dir=None):
        plan = plan or self.plan(*choice)
        run_dir = run_dir or self.begin(plan)
        with executor_of(self.lab, self.host) as local:
            return execute(self.lab, plan, self.host, run_dir, PlainProgress(self.out), self.settings, local).run

    @property
    def lines(self):
        return self.out.getvalue().splitlines()


def local(monkeypatch, call):
    """Let the local executor have each job from `call`, which is given its inputs without any artifacts."""

    def run_job(task, here):
        return call(JobInputs(task, here, boots_of(task, here.host), (), {}, frozenset()))

    monkeypatch.setitem(EXECUTORS, "local", lambda lab, host: LocalExecutor(host, limit_of(lab), run_job))


@pytest.fixture
def bench(tmp_path, monkeypatch):
    found = Bench(tmp_path)
    monkeypatch.setattr(stages, "build_kernel", found.build_kernel)
    monkeypatch.setattr(stages, "kernel_key", found.kernel_key)
    monkeypatch.setattr(stages, "root_image", found.root_image)
    monkeypatch.setattr(stages, "initrd", lambda kernel, ctx: "key-initrd")
    monkeypatch.setattr(executor, "available_mib", lambda: 64_000)
    local(monkeypatch, found.run_job)
    return found
