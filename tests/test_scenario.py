"""scenario.yaml: what it may say, what becomes of it in a guest, and the scenario that `new` lays out."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import labdir
import pytest

from kpatchlab.errors import UserError
from kpatchlab.lab import load
from kpatchlab.lab.scenario import Scenario, expand, foreign_tests, library_files, load_scenario, new, scenario_files
from kpatchlab.lab.yamlfile import Problems

LIBRARY = Path(__file__).parent.parent / "scenarios/lib"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    labdir.make(tmp_path)
    return tmp_path


def scenario(root: Path, name: str = "duo") -> Scenario:
    problems = Problems(root)
    found = load_scenario(root / "scenarios" / name, problems)
    problems.raise_if_any()
    assert found
    return found[0]


def errors(root: Path, text: str) -> list[str]:
    labdir.write(root / "scenarios" / "duo" / "scenario.yaml", text)
    problems = Problems(root / "scenarios" / "duo")
    load_scenario(root / "scenarios" / "duo", problems)
    return list(problems.lines())


def test_a_whole_scenario(root: Path) -> None:
    got = scenario(root)
    assert (got.name, got.folder) == ("duo", root / "scenarios" / "duo")
    assert list(got.roles) == ["server", "client"]
    assert got.roles["server"].prepare == ("siw",)
    assert got.timeout_s == 120
    assert (got.reach[0].min, got.reach[0].max) == (1, None)
    assert (got.reach[1].min, got.reach[1].max) == (0, 0)
    with pytest.raises(ValueError, match="frozen"):
        got.cold = True  # type: ignore[misc]


def test_reach_applies_by_role_and_parameters(root: Path) -> None:
    first, second = scenario(root).reach
    assert first.applies("server", {"transport": "tcp", "vers": "3"})
    assert not first.applies("server", {"transport": "siw", "vers": "4.2"})
    assert not first.applies("client", {"transport": "tcp", "vers": "3"})
    assert second.applies("client", {})


def test_reach_without_a_role_is_asked_of_every_role(root: Path) -> None:
    labdir.write(root / "scenarios" / "solo" / "scenario.yaml", labdir.SOLO + "reach: [{function: f}]\n")
    assert scenario(root, "solo").reach[0].applies("main", {})


def test_expand_is_the_product_without_what_is_excluded(root: Path) -> None:
    assert expand(scenario(root)) == [
        {"transport": "tcp", "vers": "3"},
        {"transport": "tcp", "vers": "4.2"},
        {"transport": "siw", "vers": "4.2"},
    ]
    assert expand(scenario(root, "solo")) == [{}]


HEAD = "description: d\nroles:\n  server: {setup: server.sh}\n  client: {run: client.py}\n"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("description: d", "scenario.yaml:1: roles: is missing"),
        ("description: ''\nroles: {main: {run: client.py}}", "scenario.yaml:1: description: must not be empty"),
        (
            "description: d\nroles: {}",
            "scenario.yaml:2: roles: one role, or the two roles client and server, not: none",
        ),
        (
            "description: d\nroles: {a: {run: client.py}, b: {}}",
            "scenario.yaml:2: roles: one role, or the two roles client and server, not: a, b",
        ),
        (
            "description: d\nroles: {main: {setup: server.sh}}",
            "scenario.yaml:2: roles: exactly one role has `run`; here: none",
        ),
        (
            "description: d\nroles: {server: {run: server.sh}, client: {run: client.py}}",
            "scenario.yaml:2: roles: exactly one role has `run`; here: server, client",
        ),
        (
            "description: d\nroles:\n  main: {run: clinet.py}",
            "scenario.yaml:3: roles.main.run: there is no file 'clinet.py' in scenarios/duo; did you mean 'client.py'?",
        ),
        (
            "description: d\nroles:\n  main: {run: client.py, prepare: [swi]}",
            "scenario.yaml:3: roles.main.prepare[0]: there is no scenarios/lib/prepare/swi.sh; did you mean 'siw'?",
        ),
        (
            "description: d\nroles:\n  main: {run: client.py, prepare: [../x]}",
            "scenario.yaml:3: roles.main.prepare[0]: '../x' is not of the form ^[A-Za-z0-9][A-Za-z0-9._-]*$",
        ),
        (
            "description: d\nroles:\n  main: {run: notes}",
            "scenario.yaml:3: roles.main.run: scenarios/duo/notes is not executable (chmod +x)",
        ),
        (
            "description: d\nroles:\n  main: {runs: client.py}",
            "scenario.yaml:3: roles.main.runs: there is no such key; did you mean 'run'?",
        ),
        (HEAD + "timeout_s: 0", "scenario.yaml:5: timeout_s: '0' is not more than 0"),
        (HEAD + "timeout_s: .inf", "scenario.yaml:5: timeout_s: '.inf' is not a number"),
        (HEAD + "cmdline: quiet", "scenario.yaml:1: cmdline needs cold: true, since a forked guest has booted already"),
        (
            HEAD + "parameters: {}\nexclude: [{vres: 3}]",
            "scenario.yaml:6: exclude[0].vres: there is no parameter 'vres'",
        ),
        (
            HEAD + "parameters: {vers: [3]}\nexclude: [{vers: 4}]",
            "scenario.yaml:6: exclude[0].vers: '4' is not a value of 'vers'; there are 3",
        ),
        (
            HEAD + "parameters: {vers: [3]}\nexclude: [{vers: 3}]",
            "scenario.yaml:6: exclude: leaves no combination of parameters to run",
        ),
        (HEAD + "parameters: {vers: []}", "scenario.yaml:5: parameters.vers: must have at least 1, and has 0"),
        (HEAD + "parameters: {vers: 3}", "scenario.yaml:5: parameters.vers: must be a list, not text"),
        (HEAD + "parameters: {vers: [3, 3]}", "scenario.yaml:5: parameters.vers: '3' is there twice"),
        (
            HEAD + 'parameters: {vers: ["a\\nb"]}',
            "scenario.yaml:5: parameters.vers: 'a\\nb' has characters that cannot be printed",
        ),
        (
            HEAD + "parameters: {Vers: [3]}",
            "scenario.yaml:5: parameters.Vers: the name of a parameter is lower-case letters, digits and _, not 'Vers'",
        ),
        (
            HEAD + "parameters: {role: [3]}",
            "scenario.yaml:5: parameters.role: 'role' cannot be a parameter: LAB_ROLE has a meaning of its own",
        ),
        (
            HEAD + "needs: {config: [CONFIG_NFSD]}",
            "scenario.yaml:5: needs.config[0]: 'CONFIG_NFSD': write NFSD, without CONFIG_",
        ),
        (
            HEAD + "reach: [{role: sever, function: f}]",
            "scenario.yaml:5: reach[0].role: there is no role 'sever'; did you mean 'server'?",
        ),
        (
            HEAD + "reach: [{function: f, min: 3, max: 2}]",
            "scenario.yaml:5: reach[0]: at least 3 and at most 2 cannot both hold",
        ),
        (HEAD + "reach: [{function: f, when: {v: x}}]", "scenario.yaml:5: reach[0].when.v: there is no parameter 'v'"),
    ],
)
def test_one_mistake_is_one_line(root: Path, text: str, wanted: str) -> None:
    labdir.write(root / "scenarios" / "duo" / "notes", "")
    assert errors(root, text) == [wanted]


def test_a_script_can_be_a_template(root: Path) -> None:
    labdir.write(root / "scenarios" / "duo" / "go.sh.j2", "#!/bin/sh\n", 0o755)
    assert errors(root, "description: d\nroles: {main: {run: go.sh}}") == []


def test_payload_has_the_scenarios_files_and_the_library(root: Path) -> None:
    folder = root / "scenarios" / "duo"
    labdir.write(folder / "conf" / "exports.j2", "{{ vers }} {{ params['transport'] }}\n")
    labdir.write(folder / "go.sh.j2", "#!/bin/sh\n", 0o755)
    for left_behind in ("__pycache__/x.pyc", ".hidden", "client.py~", ".git/config"):
        labdir.write(folder / left_behind, "x")
    files = [*scenario_files(scenario(root), {"vers": "4.2", "transport": "tcp"}), *library_files(root)]
    assert [(name, mode) for name, _, mode in files] == [
        ("/lab/scenario/client.py", 0o755),
        ("/lab/scenario/conf/exports", 0o644),
        ("/lab/scenario/go.sh", 0o755),
        ("/lab/scenario/server.sh", 0o755),
        ("/lab/lib/ktap.sh", 0o644),
        ("/lab/lib/prepare/siw.sh", 0o755),
    ]
    assert files[1][1] == b"4.2 tcp\n"
    assert files[0][1] == (folder / "client.py").read_bytes()


def test_payload_tells_where_a_template_is_wrong(root: Path) -> None:
    path = labdir.write(root / "scenarios" / "duo" / "exports.j2", "a\n{{ version }}\n")
    with pytest.raises(UserError, match=f"{path}:2: 'version' is undefined") as caught:
        scenario_files(scenario(root), {"vers": "3"})
    assert caught.value.hint == "templates see: params, vers"


def test_payload_tells_which_file_cannot_be_read(root: Path) -> None:
    (root / "scenarios" / "duo" / "gone").symlink_to("nowhere")
    with pytest.raises(UserError, match="gone: No such file"):
        scenario_files(scenario(root), {})


def printed(folder: Path, tmp: Path, **more: str) -> list[str]:
    """Run a new scenario's script here, as a guest does."""
    env = {**os.environ, "LAB_TMP": str(tmp), "LAB_LIB": str(LIBRARY), **more}
    done = subprocess.run([folder / "run.sh"], capture_output=True, text=True, env=env, check=True)
    return done.stdout.splitlines()


def test_new_lays_out_a_scenario_that_passes_at_once(root: Path) -> None:
    folder = new(root, "my-test")
    assert folder == root / "scenarios" / "my-test"
    assert sorted(os.listdir(folder)) == ["run.sh", "scenario.yaml"]
    assert "my-test" in load.check(root / "lab.yaml").selected
    assert '. "$LAB_LIB/ktap.sh"' in (folder / "run.sh").read_text()
    assert printed(folder, root) == ["KTAP version 1", "1..1", "ok 1 - data arrives whole"]
    assert printed(folder, root, LAB_BREAK="1")[-1] == "not ok 1 - data arrives whole"


@pytest.mark.parametrize("name", ["", ".x", "a/b", "../x", "a b", "lib", "x" * 65])
def test_new_refuses_names_that_cannot_be(root: Path, name: str) -> None:
    with pytest.raises(UserError, match="cannot be the name of a scenario"):
        new(root, name)


def test_new_touches_nothing_that_is_there(root: Path) -> None:
    before = (root / "scenarios" / "solo" / "scenario.yaml").read_bytes()
    with pytest.raises(UserError, match="is there already"):
        new(root, "solo")
    assert (root / "scenarios" / "solo" / "scenario.yaml").read_bytes() == before


def test_new_makes_the_first_scenario_of_a_lab(tmp_path: Path) -> None:
    folder = new(tmp_path, "first")
    assert folder.is_dir()
    assert os.listdir(tmp_path / "scenarios") == ["first"]
    assert "LAB_LIB" not in (folder / "run.sh").read_text()  # such a lab has no library
    assert printed(folder, tmp_path) == ["KTAP version 1", "1..1", "ok 1 - data arrives whole"]
    broken = printed(folder, tmp_path, LAB_BREAK="1")
    assert broken[2].startswith("# cmp: EOF on ")
    assert broken[3] == "not ok 1 - data arrives whole"


def test_new_names_the_schema_only_where_it_is(tmp_path: Path) -> None:
    assert "$schema" not in (new(tmp_path, "first") / "scenario.yaml").read_text()
    schema = tmp_path / "kpatchlab/schemas/scenario.schema.json"
    labdir.write(schema, "{}")
    line = (new(tmp_path, "second") / "scenario.yaml").read_text().splitlines()[0]
    relative = line.removeprefix("# yaml-language-server: $schema=")
    assert (tmp_path / "scenarios/second" / relative).resolve() == schema


def test_collections_of_selftests_follow_the_parameters(root: Path) -> None:
    text = labdir.SOLO + "parameters: {collection: [net/tls, splice]}\n"
    text += "needs: {kselftest: [$collection, splice], suites: [libkcapi]}\n"
    labdir.write(root / "scenarios" / "solo" / "scenario.yaml", text)
    got = scenario(root, "solo")
    assert [foreign_tests(got, params) for params in expand(got)] == [
        ("kselftest/net/tls", "kselftest/splice", "suites/libkcapi"),
        ("kselftest/splice", "suites/libkcapi"),
    ]
    assert foreign_tests(scenario(root), {}) == ()


def test_a_collection_names_a_parameter_that_there_is(root: Path) -> None:
    text = labdir.DUO + "needs: {kselftest: [$transports]}\n"
    assert errors(root, text) == [
        "scenario.yaml:11: needs.kselftest[0]: there is no parameter 'transports'; did you mean 'transport'?"
    ]
    assert len(errors(root, labdir.DUO + "needs: {kselftest: [../net]}\n")) == 1


@pytest.mark.parametrize("target", ["/etc/passwd", "../../secret", "../../../../../../etc/passwd"])
def test_a_link_brings_no_file_of_the_host_into_a_guest(root: Path, target: str) -> None:
    (root / "secret").write_text("key")
    link = root / "scenarios" / "duo" / "innocent"
    link.symlink_to(target)
    with pytest.raises(UserError, match="leads out of the lab's scenarios"):
        scenario_files(scenario(root), {"vers": "4.2", "transport": "tcp"})
    link.unlink()
    labdir.write(root / "scenarios" / "lib" / "shared.sh", "true\n")
    link.symlink_to("../lib/shared.sh")
    assert "/lab/scenario/innocent" in [
        name for name, *_ in scenario_files(scenario(root), {"vers": "4.2", "transport": "tcp"})
    ]


def test_a_scenario_that_is_a_link_out_of_the_lab_is_refused(root: Path) -> None:
    (root / "scenarios" / "duo").rename(root / "elsewhere")
    (root / "scenarios" / "duo").symlink_to("../elsewhere")
    with pytest.raises(UserError, match="leads out of the lab's scenarios"):
        scenario_files(scenario(root), {"vers": "4.2", "transport": "tcp"})
