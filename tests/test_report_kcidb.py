"""KCIDB: valid by KernelCI's own library, with the right status words, and nothing that a document cannot hold."""

import dataclasses
import json
import subprocess
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from sample_run import I, P, job, large, sample

from kpatchlab.build.checkout import hash_of
from kpatchlab.model import Checkout, Metric, Run
from kpatchlab.report import FORMATS
from kpatchlab.report.view import View
from tests.test_report import hostile
from tests.test_report_mail import full

V5_3 = pytest.importorskip("kcidb_io.schema").V5_3


def kcidb(run):
    return json.loads(FORMATS["kcidb"].render(View(run, Path("/results/run"))))


@pytest.mark.parametrize(
    "run",
    [
        sample(),
        full(),
        hostile(),
        large(8, 100),
        Run(
            id="r",
            title="",
            started="",
            duration_s=0,
            complete=False,
            base="",
            columns=(),
            kernels=(),
            builds=(),
            jobs=(),
        ),
    ],
)
def test_valid_by_kernelcis_own_library(run):
    V5_3.validate(kcidb(run))  # raises what is wrong


@pytest.mark.parametrize(("arch", "told"), [("s390x", "s390x"), ("", None), ("x\n", None)])
def test_a_kernel_has_its_architecture(arch, told):
    run = sample()
    found = kcidb(dataclasses.replace(run, builds=tuple(dataclasses.replace(build, arch=arch) for build in run.builds)))
    V5_3.validate(found)
    assert {build.get("architecture") for build in found["builds"]} == {told}


def test_ids_are_unique_and_lead_to_each_other():
    found = kcidb(full())
    for kind in ("checkouts", "builds", "tests"):
        ids = [item["id"] for item in found[kind]]
        assert len(set(ids)) == len(ids) > 1
        assert all(name.startswith("kpatchlab:") for name in ids)
    builds = {build["id"] for build in found["builds"]}
    assert {test["build_id"] for test in found["tests"]} <= builds
    assert found["checkouts"][1]["message_id"] == "20230316152618.711970-1-dhowells@example.org"


def statuses(run, name):
    return {t["comment"]: t["status"] for t in kcidb(run)["tests"] if t["id"].startswith(f"kpatchlab:{run.id}:{name}")}


def test_status_words():
    run = sample()
    found = statuses(run, "cifs-ksmbd.with.0")
    assert found["job: KASAN: slab-use-after-free in opinfo_put"] == "FAIL"
    assert found["mount"] == "PASS"
    assert set(statuses(run, "smc.with.0").values()) == {"SKIP"}
    assert set(statuses(run, "nfs[transport=siw,vers=4.2].with.0").values()) == {"SKIP"}
    assert [build["status"] for build in kcidb(run)["builds"]] == ["PASS", "FAIL"]
    lost = dataclasses.replace(run, jobs=(job("s", "with", {}, outcome=I, message="no room"),))
    assert set(statuses(lost, "s.").values()) == {"MISS"}
    broken = job("s", "with", {"x": P}, outcome=P)
    broken = dataclasses.replace(
        broken,
        outcome=run.jobs[0].outcome.FAIL,
        cases=(dataclasses.replace(broken.cases[0], name="x"),),
        message="no plan",
    )
    assert statuses(dataclasses.replace(run, jobs=(broken,)), "s.") == {"job: no plan": "ERROR", "x": "PASS"}


def test_files_and_evidence():
    test = next(t for t in kcidb(sample())["tests"] if t["comment"].startswith("job: KASAN"))
    assert test["output_files"][0]["url"].startswith("file:///results/run/jobs/cifs-ksmbd.with.0/")
    assert "opinfo_put" in test["log_excerpt"]
    assert test["misc"]["verdict"] == "REGRESSED"
    assert test["path"] == "kpatchlab.cifs-ksmbd.job"


def with_metrics():
    made = {
        "without": (Metric("a", 1.0, "MB/s", "higher"), Metric("gone", 2.0, "s", "lower")),
        "with": (
            Metric("a", 2.0, "MB/s", "higher"),
            Metric("bare", 3.0, "", "lower"),
            Metric("n", float("nan"), "s", "lower"),
        ),
    }
    jobs = tuple(
        job("s", c, {"job": P}, repeat=i, metrics=m, mode="instructions", roles=("client",))
        for c, m in made.items()
        for i in range(5)
    )
    return dataclasses.replace(sample(), jobs=jobs, columns=("without", "with"))


def test_figures_are_done_and_carry_ratio_and_mode():
    run = with_metrics()
    V5_3.validate(kcidb(run))
    figures = [
        t for t in kcidb(run)["tests"] if ":metric:" in t["id"] and t["id"].startswith(f"kpatchlab:{run.id}:s.with.0")
    ]
    assert [(t["status"], t.get("number")) for t in figures] == [
        ("DONE", {"value": 2.0, "unit": "MB/s"}),
        ("DONE", {"value": 3.0}),
        ("ERROR", None),
    ]
    about = figures[0]["misc"]
    assert {about.pop(name) for name in ("ratio", "low", "high")} == {2.0}
    assert about == {"mode": "instructions", "better": "higher", "speed": "FASTER", "repeat": 0}


def test_json_has_no_nan():
    def refuse(word):
        raise AssertionError(word)

    json.loads(FORMATS["json"].render(View(with_metrics(), Path())), parse_constant=refuse)


def test_junit_has_figures_as_properties():
    root = ET.fromstring(FORMATS["junit"].render(View(with_metrics(), Path())))
    facts = {p.get("name"): p.get("value") for p in root[2].iter("property")}
    assert facts["metric s: a"] == "2 MB/s, mean of 5, instructions, 2.0000 of the base (2.0000 to 2.0000), FASTER"
    assert facts["metric s: bare"] == "3 (no unit), mean of 5, instructions, no figure on the base, UNKNOWN"
    assert facts["metric s: gone"] == "no figure"
    assert facts["metric s: n"] == "no figure"


MADE = (
    Checkout("without", "c" * 40, "https://git.example.org/linux.git"),
    Checkout("with", "c" * 40, "https://git.example.org/a tree.git", ("patches/with/0001.patch.txt",), "d" * 64),
)


def test_a_series_is_a_set_of_patches_on_the_commit_of_its_base():
    document = kcidb(dataclasses.replace(sample(), checkouts=MADE))
    V5_3.validate(document)
    base, patched = document["checkouts"]
    assert base["git_commit_hash"] == patched["git_commit_hash"] == "c" * 40
    assert (base["patchset_hash"], patched["patchset_hash"]) == ("", "d" * 64)
    assert "patchset_files" not in base
    assert patched["git_repository_url"] == "https://git.example.org/a%20tree.git"
    url = "file:///results/run/patches/with/0001.patch.txt"
    assert patched["patchset_files"] == [{"name": "0001.patch.txt", "url": url}]


@pytest.mark.parametrize(
    "made", [Checkout("with", "main"), Checkout("with", "c" * 40, "", (), "x"), Checkout("with", "c" * 64), None]
)
def test_a_commit_that_nobody_else_can_name_is_left_out(made):
    document = kcidb(dataclasses.replace(sample(), checkouts=(made,) if made else ()))
    V5_3.validate(document)
    assert not [key for one in document["checkouts"] for key in one if key.startswith(("git_", "patchset_"))]


def test_the_hash_of_patches_is_that_of_kcidbs_own_command(tmp_path):
    files = [b"one\n", b"two\n"]
    for name, data in zip("ab", files, strict=True):
        (tmp_path / f"{name}.patch").write_bytes(data)
    command = "sha256sum *.patch | cut -c-64 | sha256sum | cut -c-64"
    done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert hash_of(files) == done.stdout.strip()
    assert hash_of([]) == ""
