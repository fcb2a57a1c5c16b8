"""Scenarios that run on images of their kernels, while what the images lack is compiled."""

import dataclasses
import threading
from unittest import mock

import pytest

from kpatchlab.errors import HostError, UserError
from kpatchlab.lab import load
from kpatchlab.model import Outcome, Verdict
from kpatchlab.plan.images import candidates, chosen, placed, with_images
from kpatchlab.plan.jobs import make_plan, plan_of_jobs
from kpatchlab.report import FORMATS
from kpatchlab.report.view import View
from kpatchlab.run import stages
from kpatchlab.verdict.compare import compare
from kpatchlab.verdict.two_runs import Side, versus
from tests import labdir

IMAGE = "source: {type: debian-image, package: linux-image-amd64, suite: bookworm}\n"
NEEDS = "needs: {config: [RDMA_SIW]}\n"


def with_recipes(root, *kernels):
    """Lay out the small lab; these of its recipes name an image."""
    path = labdir.make(root)
    for name in kernels:
        labdir.write(root / f"kernels/{name}.yaml", labdir.KERNEL + f"prebuilt: image-{name}\n")
        labdir.write(root / f"kernels/image-{name}.yaml", IMAGE)
    return path


@pytest.fixture
def imaged(bench, tmp_path, monkeypatch):
    """The fake lab with images for both kernels, of which `without`'s has no RDMA_SIW; `duo` needs it."""
    path = with_recipes(tmp_path, "old", "new")
    labdir.write(tmp_path / "scenarios/duo/scenario.yaml", labdir.DUO + NEEDS + "touches: {files: [fs/nfs]}\n")
    bench.lab = load.load(path)

    def kernel(name, ctx):
        found = bench.artifact(name)
        lines = "" if name == "without-image" else "CONFIG_RDMA_SIW=m\n"
        labdir.write(bench.host.cache.path("kernel", found.key) / "config", lines)
        return found

    def left_out(recipe, wanted, origin, ctx):
        bench.wanted.append(wanted)
        return ("SMC",)

    monkeypatch.setattr(stages, "left_out", left_out)
    bench.wanted = []
    bench.kernel = kernel
    bench.settings = dataclasses.replace(bench.settings, images=True)
    return bench


def refused(path, message):
    with pytest.raises(UserError) as caught:
        load.load(path)
    told = "\n".join([str(caught.value), *caught.value.details])
    assert message in told


# --- the files


def test_a_recipe_names_the_image_of_its_source(tmp_path):
    lab = load.load(with_recipes(tmp_path, "old", "new"))
    assert [lab.images[name].source.type for name in lab.kernels] == ["debian-image", "debian-image"]


def test_an_image_that_is_not_there_is_named(tmp_path):
    path = with_recipes(tmp_path, "old")
    (tmp_path / "kernels/image-old.yaml").unlink()
    refused(path, "there is no recipe kernels/image-old.yaml")


def test_what_is_compiled_is_no_image(tmp_path):
    path = with_recipes(tmp_path, "old")
    labdir.write(tmp_path / "kernels/image-old.yaml", labdir.KERNEL)
    refused(path, "kernels/image-old.yaml is no image")


def test_a_kernel_with_a_series_has_no_image(tmp_path):
    path = with_recipes(tmp_path, "old")
    series = "prebuilt: image-old\nseries: [{type: patches, path: .}]\n"
    labdir.write(tmp_path / "kernels/old.yaml", labdir.KERNEL + series)
    refused(path, "nobody has built a kernel with a series")


def test_no_kernel_has_the_name_of_anothers_image(tmp_path):
    path = with_recipes(tmp_path, "old")
    labdir.write(path, labdir.LAB.replace("  with: new", "  with: new\n  without-image: new"))
    refused(path, "reports call the image of without so")


# --- the plan


def test_images_serve_only_where_every_column_has_one_that_fits(tmp_path):
    lab = load.load(with_recipes(tmp_path, "old", "new"))
    plan = make_plan(lab)
    assert [step.name for step in with_images(lab, plan).kernels] == ["without-image", "with-image", "without", "with"]
    on_images = chosen(lab, plan, lambda scenario, kernel: (scenario, kernel) != ("duo", "without"))
    assert on_images == {"solo"}
    made = placed(with_images(lab, plan), on_images)
    assert {job.scenario: job.images for job in made.jobs} == {"solo": True, "duo": False}
    assert [job.builds for job in made.jobs if job.scenario == "solo"] == [["without-image"], ["with-image"]]
    assert [job.id for job in made.jobs] == [job.id for job in plan.jobs]


def test_nothing_is_compiled_for_what_runs_on_images(tmp_path):
    lab = load.load(with_recipes(tmp_path, "old", "new"))
    plan = make_plan(lab, choice=["solo"])
    made = placed(with_images(lab, plan), {"solo"})
    assert [step.name for step in made.kernels] == ["without-image", "with-image"]


def test_one_image_alone_is_held_against_no_compiled_kernel(tmp_path):
    lab = load.load(with_recipes(tmp_path, "old"))
    assert candidates(lab, make_plan(lab)) == []
    assert candidates(lab, make_plan(lab, kernels=["without"])) == ["duo", "solo"]


def test_jobs_that_are_done_decide_for_the_others_of_their_scenario(tmp_path):
    lab = load.load(with_recipes(tmp_path, "old", "new"))
    plan = make_plan(lab)
    assert chosen(lab, plan, lambda *_: True, {"solo": False}) == {"duo"}
    assert chosen(lab, plan, lambda *_: False, {"solo": True}) == {"solo"}


# --- the run


def test_each_scenario_runs_on_images_or_on_compiled_kernels(imaged):
    run = imaged.execute("*")
    assert {(job.scenario, job.images) for job in run.jobs} == {("solo", True), ("duo", False)}
    assert [build.kernel for build in run.builds] == ["without-image", "with-image", "without", "with"]
    assert {facts.name: facts.against for facts in run.kernels} == {
        "without": "", "with": "", "without-image": "without-image", "with-image": "without-image",
    }  # fmt: skip
    assert all(job.outcome is Outcome.PASS for job in run.jobs)


def test_a_job_on_images_does_not_wait_for_the_compiler(imaged):
    kernel, ended = imaged.kernel, threading.Event()

    def slow(name, ctx):
        if name == "without":
            assert ended.wait(20)  # set by the job on the other kernel's image alone
        return kernel(name, ctx)

    def job(inputs):
        if inputs.spec.id == "solo@with#1":
            ended.set()
        return Outcome.PASS

    imaged.kernel, imaged.job = slow, job
    imaged.execute("*")
    assert imaged.log.index("end solo@with#1") < imaged.log.index("built without")


def test_all_on_images_compiles_nothing(imaged):
    run = imaged.execute("solo")
    assert "build without" not in imaged.log
    assert [build.kernel for build in run.builds] == ["without-image", "with-image"]
    assert [facts.name for facts in run.kernels if facts.role == "base"] == ["without"]
    assert {check.verdict for check in compare(run).builds} == {None, Verdict.SAME}


def test_what_is_compiled_beside_images_has_what_these_lack_alone(imaged):
    imaged.execute("duo")
    assert [wanted.symbols for wanted in imaged.wanted] == [{"RDMA_SIW"}, {"RDMA_SIW"}]
    assert "siw" in imaged.wanted[0].words  # of `prepare`
    assert sum("without 1 symbols of modules" in line for line in imaged.lines) == 2


def test_a_whole_kernel_that_is_built_is_taken(imaged):
    imaged.host.cache.has = lambda kind, key: key in {"key-without", "key-with"}
    imaged.execute("duo")
    assert imaged.wanted == []


def test_an_image_that_cannot_be_had_costs_no_job(imaged):
    kernel = imaged.kernel
    imaged.kernel = lambda name, ctx: HostError("no mirror") if name == "with-image" else kernel(name, ctx)
    run = imaged.execute("*")
    assert {(job.scenario, job.images, job.outcome) for job in run.jobs} == {
        ("solo", False, Outcome.PASS),
        ("duo", False, Outcome.PASS),
    }
    assert [build.kernel for build in run.builds] == ["without", "with"]
    assert any("no mirror" in line for line in imaged.lines)


def test_a_run_that_goes_on_keeps_a_scenario_on_its_builds(imaged):
    plan = imaged.plan("*")
    folder = imaged.begin(plan)

    def stop(inputs):
        if inputs.spec.scenario == "solo" and inputs.spec.column == "with":
            return HostError("the disk is full")
        return Outcome.PASS

    imaged.job = stop
    first = imaged.execute(plan=plan, run_dir=folder)
    assert {job.outcome for job in first.jobs if job.job == "solo@with#1"} == {Outcome.INFRA}
    # Now an image would not do any more: the jobs that are left run where the others ran nevertheless.
    imaged.job = lambda inputs: Outcome.PASS
    solo, needs = imaged.lab.scenarios["solo"], imaged.lab.scenarios["duo"].needs
    scenarios = {**imaged.lab.scenarios, "solo": solo.model_copy(update={"needs": needs})}
    imaged.lab = dataclasses.replace(imaged.lab, scenarios=scenarios)
    again = imaged.execute(plan=plan_of_jobs(imaged.lab, [job.id for job in plan.jobs]), run_dir=folder)
    assert {job.images for job in again.jobs if job.scenario == "solo"} == {True}
    assert {job.outcome for job in again.jobs} == {Outcome.PASS}
    assert [build.kernel for build in again.builds] == ["without-image", "with-image", "without", "with"]


@pytest.mark.parametrize(("began", "cached"), [("trimmed", "whole"), ("whole", "nothing")])
def test_a_run_that_goes_on_takes_the_configuration_that_it_began_with(imaged, monkeypatch, began, cached):
    """Whatever was built or deleted meanwhile: a kernel has not moved where one of the two is what it was."""

    def kernel_key(recipe, ctx, origin):
        return mock.ANY if recipe.is_prebuilt else "trimmed" if "SMC" in recipe.config_set else "whole"

    monkeypatch.setattr(stages, "kernel_key", kernel_key)
    imaged.keys = {"without": began, "with": began}
    imaged.host.cache.has = lambda kind, key: key == began == "whole"
    plan = imaged.plan("duo")
    folder = imaged.begin(plan)
    imaged.job = lambda inputs: HostError("the disk is full") if inputs.spec.column == "with" else Outcome.PASS
    imaged.execute(plan=plan, run_dir=folder)
    imaged.host.cache.has = lambda kind, key: key == cached
    imaged.job = lambda inputs: Outcome.PASS
    again = imaged.execute(plan=plan, run_dir=folder)
    assert {job.outcome for job in again.jobs} == {Outcome.PASS}, imaged.lines
    assert not [line for line in imaged.lines if "it stays the one" in line]


@pytest.mark.parametrize("name", ["text", "html", "junit", "markdown", "mail", "systems", "json", "kcidb"])
def test_every_report_says_which_build_a_job_ran_on(imaged, name):
    run = imaged.execute("*")
    page = FORMATS[name].render(View(run, imaged.store.load("last")[1])).decode()
    wanted = {"json": '"images": true', "kcidb": f"{run.id}:with-image"}
    assert wanted.get(name, "1 of 2 scenarios ran on images") in " ".join(page.split())


def test_two_runs_on_images_are_compared_with_their_builds(imaged):
    one, two = (imaged.execute("solo") for _ in range(2))
    sides = [Side(run, imaged.root / "results" / run.id, "with") for run in (one, two)]
    run, _ = versus(*sides)
    assert [build.kernel.partition(":")[2] for build in run.builds] == ["with-image", "with-image"]
    assert {check.verdict for check in compare(run).builds} == {None, Verdict.SAME}


def test_a_whole_run_is_not_done_again(imaged):
    first = imaged.execute("*")
    imaged.log = []
    run = imaged.execute("*", run_dir=imaged.store.open_run("last"))
    assert imaged.log == []
    assert (run.jobs, run.builds, run.kernels) == (first.jobs, first.builds, first.kernels)


def test_a_repeat_runs_on_the_build_of_the_first_run(imaged):
    imaged.execute("solo")
    run_dir = imaged.store.open_run("last")  # as a kill leaves it before the repeat
    result = run_dir.done_jobs()["solo@with#1"]
    run_dir.save_job(dataclasses.replace(result, outcome=Outcome.FAIL, duration_s=10.0, withheld_s=8.0))
    run = imaged.execute("solo", run_dir=run_dir)
    assert {job.job: (str(job.outcome), job.images) for job in run.jobs} == {
        "solo@without#1": ("pass", True),
        "solo@with#1": ("fail", True),
        "solo@with#2": ("pass", True),
    }
    assert "build with" not in imaged.log
