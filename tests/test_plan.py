"""Plans: which jobs a lab means, what they are called, and how long they are taken to last."""

from __future__ import annotations

import re
from pathlib import Path

import labdir
import pytest

from kpatchlab.errors import UserError
from kpatchlab.lab import load
from kpatchlab.plan.jobs import BUILD_S, CACHED_S, GUEST_S, IMAGE_S, Plan, estimate, longest_first, make_plan


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return labdir.make(tmp_path)


def plan(path: Path, more: str = "", *, choice: tuple[str, ...] = (), kernels: tuple[str, ...] = ()) -> Plan:
    path.write_text(labdir.LAB + more)
    return make_plan(load.load(path), choice=choice, kernels=kernels or None)


THREE = "kernels: {a: old, b: old, c: old}\n"


def columns(path: Path, more: str) -> tuple[str, ...]:
    path.write_text(more)
    return make_plan(load.load(path), choice=["duo"]).columns


def test_two_kernels_and_two_roles_make_four_columns(path: Path) -> None:
    got = plan(path, choice=("duo",))
    assert got.base == "without"
    assert got.columns == ("without", "with", "client=with,server=without", "client=without,server=with")
    assert [step.name for step in got.kernels] == ["without", "with"]
    assert [step.id for step in got.images] == ["image:base"]
    assert len(got.jobs) == 3 * 4


def test_a_scenario_of_one_role_has_no_mixed_pairs(path: Path) -> None:
    assert [job.id for job in plan(path, choice=("solo",)).jobs] == ["solo@without#1", "solo@with#1"]


def test_a_job(path: Path) -> None:
    job = plan(path, "machines: {default: {cpus: 2}}\n", choice=("duo",)).jobs[3]
    assert job.id == "duo+transport=tcp+vers=3@client=without,server=with#1"
    assert list(job.placement.items()) == [("server", "with"), ("client", "without")]
    assert [(role.name, role.kernel, role.memory_mib, role.cpus) for role in job.roles] == [
        ("server", "with", 512, 2),
        ("client", "without", 1024, 2),
    ]
    assert (job.memory_mib, job.cpus, job.timeout_s, job.rootfs, job.machine) == (1536, 4, 120, "base", "default")
    assert (job.params, job.repeat) == ({"transport": "tcp", "vers": "3"}, 1)


@pytest.mark.parametrize(
    ("more", "wanted"),
    [
        (THREE, ("a", "b", "c", *(f"client={x},server={y}" for x, y in ("ba", "ab", "ca", "ac")))),
        (THREE + "base: b\nmatrix: {columns: [kernels]}", ("b", "a", "c")),
        (THREE + "matrix: {columns: [c, {client: b, server: c}]}", ("c", "client=b,server=c")),
        (THREE + "matrix: {columns: [{client: b, server: b}]}", ("b",)),
        (THREE + "matrix: {columns: [kernels, a, {client: a, server: a}]}", ("a", "b", "c")),
    ],
)
def test_columns(path: Path, more: str, wanted: tuple[str, ...]) -> None:
    assert columns(path, more) == wanted


def test_columns_to_be_compared_stand_together(path: Path) -> None:
    jobs = plan(path, "repeat: 2\n", choice=("solo",)).jobs
    assert [job.id for job in jobs] == [f"solo@{name}#{n}" for n in (1, 2) for name in ("without", "with")]


def test_only_some_kernels(path: Path) -> None:
    got = plan(path, kernels=("with",))
    assert (got.base, got.columns) == ("with", ("with",))
    assert [step.name for step in got.kernels] == ["with"]
    with pytest.raises(UserError, match="there is no kernel 'wiht'; did you mean 'with'"):
        plan(path, kernels=("wiht",))


def test_kernels_that_no_job_needs_are_not_built(path: Path) -> None:
    assert [step.name for step in plan(path, "matrix: {columns: [with]}\n").kernels] == ["with"]


def test_nothing_to_run(path: Path) -> None:
    with pytest.raises(UserError, match="no scenario is chosen"):
        plan(path, choice=("!*",))
    with pytest.raises(UserError, match="leaves nothing to run"):
        plan(path, "matrix: {columns: [pairs]}\n", choice=("solo",))


def test_ids_are_unique_and_safe_as_names_of_files(path: Path, tmp_path: Path) -> None:
    long = ", ".join("p" * 60 + str(n) for n in range(3))
    text = f"{labdir.SOLO}parameters: {{size: ['a/b', 'a b', 'a:b', 'ä'], p: [{long}], q: [{long}], r: [{long}]}}\n"
    labdir.write(tmp_path / "scenarios" / "solo" / "scenario.yaml", text)
    name = "k" * 40
    path.write_text(f"kernels: {{{name}: old, {name[:-1]}j: old}}\n")
    got = make_plan(load.load(path))
    ids = [job.id for job in got.jobs]
    assert len(set(ids)) == len(ids)
    assert max(map(len, ids)) + len(".json") <= 255
    assert all(re.fullmatch(r"[A-Za-z0-9._+=@,#~-]+", job) for job in ids)
    assert ids == [job.id for job in make_plan(load.load(path)).jobs]


def test_estimate_with_defaults(path: Path) -> None:
    got = plan(path, choice=("solo",))
    whole = estimate(got, {})
    assert whole.steps["kernel:with"] == BUILD_S
    assert whole.wall_s == 2 * BUILD_S + GUEST_S  # the job on the first kernel runs while the second one is built
    assert estimate(got, {}, {"kernel:with", "kernel:without"}).wall_s == IMAGE_S + 2 * GUEST_S
    assert estimate(got, {}, set(whole.steps)).wall_s == pytest.approx(2 * CACHED_S + 2 * GUEST_S, abs=CACHED_S)


def test_estimate_from_history(path: Path) -> None:
    got = plan(path, choice=("solo",))
    cached = {"kernel:with", "kernel:without", "image:base"}
    whole = estimate(got, {"solo@with#1": 100.0}, cached)
    assert whole.steps["solo@with#1"] == whole.steps["solo@without#1"] == 100.0  # the same scenario elsewhere
    assert estimate(got, {"solo@with#1": 100.0}, cached, guests=2).wall_s == pytest.approx(100, abs=1)


def test_estimate_counts_guests_not_jobs(path: Path) -> None:
    got = plan(path, choice=("duo",))
    cached = {"kernel:with", "kernel:without", "image:base"}
    durations = {job.id: 10.0 for job in got.jobs}
    assert estimate(got, durations, cached, guests=2).wall_s == pytest.approx(120, abs=1)
    assert estimate(got, durations, cached, guests=5).wall_s == pytest.approx(60, abs=1)
    assert estimate(got, durations, cached, guests=1).wall_s == pytest.approx(120, abs=1)


def test_longest_first_keeps_together_what_is_compared(path: Path) -> None:
    jobs = plan(path).jobs
    ordered = longest_first(jobs, {"solo@with#1": 100.0, "duo+transport=siw+vers=4.2@with#1": 50.0})
    assert [job.id for job in ordered[:2]] == ["solo@without#1", "solo@with#1"]
    assert {job.params.get("transport") for job in ordered[2:6]} == {"siw"}
    assert sorted(job.id for job in ordered) == sorted(job.id for job in jobs)


def test_a_job_knows_its_selftests(path: Path, tmp_path: Path) -> None:
    text = labdir.SOLO + "parameters: {which: [splice, net/tls]}\nneeds: {kselftest: [$which, net/af_unix]}\n"
    labdir.write(tmp_path / "scenarios" / "solo" / "scenario.yaml", text)
    jobs = plan(path, choice=("solo",), kernels=("with",)).jobs
    assert [job.foreign for job in jobs] == [
        ("kselftest/splice", "kselftest/net/af_unix"),
        ("kselftest/net/tls", "kselftest/net/af_unix"),
    ]
