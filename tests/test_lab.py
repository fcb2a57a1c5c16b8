"""lab.yaml and the files that it leads to: what is read, and that every error of every file is told at once."""

# ruff: noqa: E501 - one mistake and its message are one row
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import labdir
import pytest

from kpatchlab.errors import UserError
from kpatchlab.lab import load
from kpatchlab.lab.recipes import DebianSource, GitSeries, KernelRecipe, locate

ROOT = Path(__file__).parent.parent


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return labdir.make(tmp_path)


def errors(path: Path, text: str | None = None, *, deep: bool = False) -> tuple[str, ...]:
    """Return the lines that a wrong lab is refused with."""
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError) as caught:
        (load.check if deep else load.load)(path)
    return caught.value.details


def test_a_whole_lab(path: Path) -> None:
    got = load.load(path)
    assert (got.root, got.path, got.title, got.base) == (path.parent, path, "small", "without")
    assert list(got.kernels) == ["without", "with"]
    assert isinstance(got.kernels["with"].source, DebianSource)
    assert got.machines["default"].memory_mib == 1024
    assert got.rootfs_recipes["base"].packages == ("python3",)
    assert got.rootfs_recipes["base"].suite == "trixie"
    assert got.selected == ("duo", "solo")
    assert (got.limits.guests, got.limits.build_jobs, got.repeat) == ("auto", "auto", 1)
    assert got.matrix.columns == ("kernels", "pairs")


def test_an_inline_recipe(path: Path) -> None:
    text = (
        "kernels:\n  a:\n    source: {type: git, url: 'https://example.org/linux.git', revision: v6.3-rc2}\n"
        "    series: [{type: git, url: 'https://example.org/linux.git', range: v6.3-rc2..mine}]\n"
        "    config_set: {KASAN: y, NR_CPUS: 64}\n"
    )
    path.write_text(text)
    recipe = load.load(path).kernels["a"]
    assert isinstance(recipe.series[0], GitSeries)
    assert recipe.config_set == {"KASAN": "y", "NR_CPUS": "64"}


def test_the_results_are_where_they_were_when_the_file_was_read(path: Path, tmp_path: Path) -> None:
    far = tmp_path / "far/away.yaml"
    far.parent.mkdir()
    far.write_text(f"root: {path.parent}\n{path.read_text()}")
    lab = load.load(far)
    far.unlink()
    assert lab.results == path.parent / "results"


def test_scenarios_beside_a_lab_file_whose_root_is_elsewhere(path: Path, tmp_path: Path) -> None:
    far = tmp_path / "results/far.yaml"
    for name in ("solo", "own"):
        labdir.write(far.parent / f"scenarios/{name}/scenario.yaml", labdir.SOLO.replace("one guest", "beside"))
        labdir.write(far.parent / f"scenarios/{name}/run.sh", "#!/bin/sh\ntrue\n", 0o755)
    far.write_text(f"root: ..\n{path.read_text()}")
    lab = load.check(far)
    assert {name: scenario.description for name, scenario in lab.scenarios.items()} == {
        "duo": "two guests",
        "solo": "beside",
        "own": "beside",
    }
    assert set(load.load(path).scenarios) == {"duo", "solo"}


def test_limits_as_numbers(path: Path) -> None:
    path.write_text(labdir.LAB + "limits: {guests: 3, build_jobs: auto, disk_gib: 1.5}\n")
    limits = load.load(path).limits
    assert (limits.guests, limits.build_jobs, limits.disk_gib) == (3, "auto", 1.5)


def test_default_machine_is_always_there_and_can_be_redefined(path: Path) -> None:
    path.write_text(labdir.LAB + "machine: big\nmachines: {big: {memory_mib: 4096}}\n")
    assert sorted(load.load(path).machines) == ["big", "default"]
    path.write_text(labdir.LAB + "machines: {default: {cpus: 2}}\n")
    assert load.load(path).machines["default"].cpus == 2


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("kernels: {}", "lab.yaml:1: kernels: must have at least 1, and has 0"),
        ("title: x", "lab.yaml:1: kernels: is missing"),
        ("kernels: {a: nwe}", "lab.yaml:1: kernels.a: there is no recipe kernels/nwe.yaml; did you mean 'new'?"),
        ("kernels:\n  a:\n    source:\n      type: debian-surce", "lab.yaml:4: kernels.a.source.type: 'debian-surce' is not a source type; did you mean 'debian-source'?"),
        ("kernels:\n  a:\n    source: {type: git, revision: x}", "lab.yaml:3: kernels.a.source: needs either path or url"),
        ("kernels:\n  a:\n    source: {type: git, path: ., url: x, revision: x}", "lab.yaml:3: kernels.a.source: takes path or url, not both"),
        ("kernels:\n  a:\n    source: {type: git, path: nowhere, revision: x}", "lab.yaml:3: kernels.a.source.path: there is no kernels/nowhere"),
        ("kernels:\n  a:\n    source: {type: git, path: .}", "lab.yaml:3: kernels.a.source.revision: is missing"),
        ("kernels:\n  a:\n    source: {type: dir, path: .}\n    sereis: []", "lab.yaml:4: kernels.a.sereis: there is no such key; did you mean 'series'?"),
        ("kernels:\n  a:\n    source: {type: dir, path: .}\n    series: [{type: mobx, path: x}]", "lab.yaml:4: kernels.a.series[0].type: 'mobx' is not a series type; did you mean 'mbox'?"),
        ("kernels:\n  a:\n    source: {type: dir, path: .}\n    series:\n    - {type: mbox, path: gone.mbox}", "lab.yaml:5: kernels.a.series[0].path: there is no kernels/gone.mbox"),
        ("kernels:\n  a:\n    source: {type: dir, path: .}\n    series:\n    - {type: git, path: ., range: v6.1}", "lab.yaml:5: kernels.a.series[0].range: 'v6.1' is not of the form ^[^ -][^ ]*\\.\\.[^ .-][^ ]*$"),
        ("kernels:\n  a:\n    source: {type: dir, path: .}\n    config: [config/gest.config]", "lab.yaml:4: kernels.a.config[0]: there is no file kernels/config/gest.config; did you mean 'config/guest.config'?"),
        ("kernels:\n  a:\n    source: {type: dir, path: .}\n    config_set:\n      CONFIG_KASAN: y", "lab.yaml:5: kernels.a.config_set.CONFIG_KASAN: 'CONFIG_KASAN': write KASAN, without CONFIG_"),
        ("kernels:\n  a:\n    source: {type: dir, path: .}\n    config_set:\n      KASAN: yes", "lab.yaml:5: kernels.a.config_set.KASAN: 'yes' is not a value of a configuration symbol; write y"),
        ("kernels:\n  a:\n    source: {type: debian-image, package: x, suite: y}\n    config: [x]", "lab.yaml:2: kernels.a: a debian-image is not built here: it takes no config"),
        ("kernels: {a: [b]}", "lab.yaml:1: kernels.a: must be a mapping ('key: value' lines), not a list"),
        ("kernels: {'a b': old}", "lab.yaml:1: kernels.a b: 'a b' is not of the form ^[A-Za-z0-9][A-Za-z0-9._-]*$"),
        ("kernels: {pairs: old}", "lab.yaml:1: kernels.pairs: cannot be a kernel's name: it has a meaning in matrix.columns"),
        ("kernels: {a: old}\nbase: b", "lab.yaml:2: base: there is no kernel 'b'; there are a"),
        ("kernels: {a: old}\nmachine: huge", "lab.yaml:2: machine: there is no machine 'huge'; there are default"),
        ("kernels: {a: old}\nrootfs: bsae", "lab.yaml:2: rootfs: there is no root file system 'bsae'; did you mean 'base'?"),
        ("kernels: {a: old}\nmachines: {default: {cpu: 2}}", "lab.yaml:2: machines.default.cpu: there is no such key; did you mean 'cpus'?"),
        ("kernels: {a: old}\nlimits: {guests: none}", "lab.yaml:2: limits.guests: 'none' is neither auto nor a whole number of at least 1"),
        ("kernels: {a: old}\nlimits: {guests: 0}", "lab.yaml:2: limits.guests: '0' is neither auto nor a whole number of at least 1"),
        ("kernels: {a: old}\nscenarios: [slo]", "lab.yaml:2: scenarios[0]: there is no scenario 'slo'; did you mean 'solo'?"),
        ("kernels: {a: old}\nscenarios: ['tag:splcie']", "lab.yaml:2: scenarios[0]: there is no tag 'splcie'; did you mean 'splice'?"),
        ("kernels: {a: old}\nscenarios: ['zz*']", "lab.yaml:2: scenarios[0]: there is no scenario 'zz*'"),
        ("kernels: {a: old}\nscenarios: ['*', '!slo']", "lab.yaml:2: scenarios[1]: there is no scenario 'slo'; did you mean 'solo'?"),
        ("kernels: {a: old}\nmatrix: {columns: [pair]}", "lab.yaml:2: matrix.columns[0]: there is no column or kernel 'pair'; did you mean 'pairs'?"),
        ("kernels: {a: old}\nmatrix: {columns: [{client: a, server: b}]}", "lab.yaml:2: matrix.columns[0].server: there is no kernel 'b'; there are a"),
        ("kernels: {a: old}\nmatrix: {columns: [{client: a}]}", "lab.yaml:2: matrix.columns[0]: a placement says a kernel for `client` and one for `server`"),
        ("kernels: {a: old}\nqemu: hots", "lab.yaml:2: qemu: 'hots' is not one of auto, host, debian; did you mean 'host'?"),
    ],
)  # fmt: skip
def test_one_mistake_in_lab_yaml_is_one_line(path: Path, text: str, wanted: str) -> None:
    assert errors(path, text) == (wanted,)


def test_every_error_of_every_file_at_once(path: Path, tmp_path: Path) -> None:
    labdir.write(tmp_path / "kernels" / "new.yaml", "source: {type: dir}\n")
    labdir.write(tmp_path / "rootfs" / "base.yaml", "packages: python3\nfiles: base\n")
    labdir.write(tmp_path / "rootfs" / "other.yaml", "files: other\n")
    labdir.write(tmp_path / "scenarios" / "solo" / "scenario.yaml", labdir.SOLO + "machine: huge\nrootfs: otter\n")
    (tmp_path / "scenarios" / "duo" / "client.py").unlink()
    path.write_text(labdir.LAB + "base: none\nmirrors: x\n")
    with pytest.raises(UserError) as caught:
        load.load(path)
    assert caught.value.message == "5 errors in 5 files"
    assert caught.value.details == (
        "kernels/new.yaml:1: source.path: is missing",
        "lab.yaml:7: mirrors: there is no such key; did you mean 'mirror'?",
        "rootfs/base.yaml:1: packages: must be a list, not text",
        "rootfs/other.yaml:1: files: there is no directory rootfs/other",
        "scenarios/duo/scenario.yaml:5: roles.client.run: there is no file 'client.py' in scenarios/duo",
    )
    path.write_text(labdir.LAB)
    assert errors(path)[-2:] == (
        "scenarios/solo/scenario.yaml:5: machine: there is no machine 'huge'; there are default",
        "scenarios/solo/scenario.yaml:6: rootfs: there is no root file system 'otter'; did you mean 'other'?",
    )


def test_standard_input_is_no_path(path: Path) -> None:
    path.write_text("kernels: {a: {source: {type: dir, path: .}, series: [{type: mbox, path: '-'}]}}")
    assert load.load(path).kernels["a"].series


def test_paths_of_recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert locate("config/a", tmp_path) == tmp_path / "kernels" / "config" / "a"
    assert locate("~/linux", tmp_path) == Path("/home/me/linux")
    assert locate("/src/linux", tmp_path) == Path("/src/linux")


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ([], ("duo", "solo")),
        (["solo"], ("solo",)),
        (["tag:nfs"], ("duo",)),
        (["s*"], ("solo",)),
        (["*", "!tag:splice"], ("duo",)),
        (["!duo"], ("solo",)),
        (["solo", "!solo", "solo"], ("solo",)),
        (["*", "!tag:nothing-like-it"], ("duo", "solo")),
    ],
)
def test_choice_on_the_command_line(path: Path, words: list[str], wanted: tuple[str, ...]) -> None:
    assert load.load(path, words).selected == wanted


def test_a_choice_stands_in_place_of_the_labs_own_unless_it_only_leaves_out(path: Path) -> None:
    path.write_text(labdir.LAB.replace('"*"', "solo"))
    assert load.load(path, ["duo"]).selected == ("duo",)
    assert load.load(path, ["!duo"]).selected == ("solo",)


def test_a_choice_that_matches_nothing(path: Path) -> None:
    with pytest.raises(UserError, match="there is no scenario 'dou'; did you mean 'duo'"):
        load.load(path, ["dou"])


def test_a_lab_without_scenarios_loads(path: Path, tmp_path: Path) -> None:
    (tmp_path / "scenarios").rename(tmp_path / "elsewhere")
    assert load.load(path).selected == ()


def test_find_lab_upwards(path: Path, tmp_path: Path) -> None:
    deep = tmp_path / "scenarios" / "solo"
    assert load.find_lab(deep) == path
    assert load.find_lab(path) == path
    with pytest.raises(UserError, match="no such file"):
        load.find_lab(tmp_path / "gone.yaml")


def test_find_lab_nowhere(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no lab\.yaml in"):
        load.find_lab(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [
        ("solo/run.sh", "#!/bin/sh\nif true\n", 'scenarios/solo/run.sh:3: not valid sh: Syntax error: end of file unexpected (expecting "then")'),
        ("solo/run.sh", "#!/bin/bash\na=(1\n", "scenarios/solo/run.sh:"),
        ("solo/run.sh", "#!/usr/bin/python3 -u\nx = (\n", "scenarios/solo/run.sh:2: not valid Python: '(' was never closed"),
        ("solo/helper.py", "x = (\n", "scenarios/solo/helper.py:1: not valid Python: '(' was never closed"),
        ("solo/run.sh", "true\n", "scenarios/solo/run.sh:1: has no #! line, so that a guest cannot run it"),
        ("solo/run.sh", "#!/bin/sh\r\ntrue\r\n", "scenarios/solo/run.sh:1: its lines end in CR LF: the guest would not find the interpreter"),
        ("lib/ktap.sh", "if true\n", 'scenarios/lib/ktap.sh:2: not valid sh: Syntax error: end of file unexpected (expecting "then")'),
        ("duo/exports.j2", "a\n{% if %}\n", "scenarios/duo/exports.j2:2: Expected an expression, got 'end of statement block'"),
        ("duo/exports.j2", "a\nb\n{{ verz }}\n", "scenarios/duo/exports.j2:3: 'verz' is undefined"),
        ("duo/exports.j2", "a\n{{ params.verz }}\n", "scenarios/duo/exports.j2:2: 'dict object' has no attribute 'verz'"),
        ("duo/exports.j2", "{% include 'gone' %}\n", "scenarios/duo/exports.j2:1: there is no template 'gone'"),
        ("duo/x.sh.j2", "#!/bin/sh\n{% if vers == '3' %}\ntrue\n{% else %}\n{{ gone }}\n{% endif %}\n", "scenarios/duo/x.sh.j2:5: 'gone' is undefined"),
        ("empty/notes", "", "scenarios/empty: there is no scenario.yaml"),
    ],
)  # fmt: skip
def test_check_parses_scripts_and_templates_as_well(
    path: Path, tmp_path: Path, name: str, text: str, wanted: str
) -> None:
    assert load.check(path).selected
    labdir.write(tmp_path / "scenarios" / name, text, 0o755)
    load.load(path)
    (line,) = errors(path, deep=True)
    assert line.startswith(wanted)


def test_loading_starts_no_child_and_imports_nothing_heavy(path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from kpatchlab.lab.load import load; from kpatchlab.plan.jobs import make_plan; make_plan(load(Path(sys.argv[1])));"
        "print(*({'jinja2', 'rich', 'paramiko', 'distributed', 'cryptography', 'subprocess', 'asyncio', 'kpatchlab.proc'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, path], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize("name", ["compilers.yaml", "lab.yaml", "mission.yaml", "newest.yaml", "quick.yaml"])
def test_the_labs_that_come_with_it(name: str) -> None:
    got = load.check(ROOT / name)
    known = [("without", {"without", "with"}), ("stable", {"stable", "newest"})]
    assert (got.base, set(got.kernels)) in known or (name == "compilers.yaml" and len(got.kernels) == 11)
    assert got.selected
    assert all(isinstance(recipe, KernelRecipe) for recipe in got.kernels.values())


@pytest.mark.parametrize("name", sorted(file.stem for file in (ROOT / "kernels").glob("*.yaml")))
def test_the_recipes_that_come_with_it(tmp_path: Path, name: str) -> None:
    lab = labdir.write(tmp_path / "lab.yaml", f"root: {ROOT}\nkernels: {{base: {name}}}\nscenarios: [unix-splice]\n")
    assert load.check(lab).kernels["base"].description
