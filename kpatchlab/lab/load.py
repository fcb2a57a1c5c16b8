"""lab.yaml: which kernels, machines, roots and scenarios; read with every file that it leads to.

All files are checked before anything is built, and every error of every file is told at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import yaml

from kpatchlab.errors import UserError
from kpatchlab.files import read_input
from kpatchlab.lab import selftests
from kpatchlab.lab.choice import select
from kpatchlab.lab.file import FILE, Jobs, LabFile, Limits, Machine, Matrix
from kpatchlab.lab.hosts import HostEntry, resolved
from kpatchlab.lab.nightly import Nightly
from kpatchlab.lab.patchwork import Patchwork
from kpatchlab.lab.recipes import (
    ArchName,
    GitSource,
    KernelRecipe,
    RootRecipe,
    SeriesModel,
    SourceModel,
    SuiteRecipe,
    locate,
)
from kpatchlab.lab.scenario import FILE as SCENARIO_FILE
from kpatchlab.lab.scenario import Scenario, load_scenario
from kpatchlab.lab.suites import read_suites, suites_in
from kpatchlab.lab.systems import System, load_systems
from kpatchlab.lab.yamlfile import MAX_BYTES, Document, Loc, Problems, read, suggest
from kpatchlab.model import image_of

RESULTS = "results"
"""Folder in a lab's directory, which all labs of that directory share."""


def root_of(path: Path) -> Path:
    """Return the directory of a lab file's lab: what its `root` says, else the file's own."""
    with contextlib.suppress(UserError, ValueError, yaml.YAMLError):
        text = read_input(path, MAX_BYTES).decode("utf-8")
        if match := re.search(r"^root[ \t]*:.{0,2000}$", text, re.MULTILINE):
            said = yaml.safe_load(match[0])["root"]
            return (
                Path(os.path.normpath(path.parent / Path(said).expanduser())) if isinstance(said, str) else path.parent
            )
    return path.parent


def results_of(path: Path) -> Path:
    """Return the folder of the runs, searches and walks of a lab file."""
    return root_of(path) / RESULTS


def nothing_to_read() -> bytes:
    """Stand for a standard input that nobody handed in."""
    raise UserError("a series is to come from standard input, and there is none", hint="name a file instead")


@dataclass(frozen=True, slots=True)
class Lab:
    """A lab, checked: every name in it leads somewhere.

    Attributes:
        root: the lab's directory, absolute.
        path: its file, absolute.
        kernels: in the file's order.
        scenarios: all that there are, by name, not only the selected ones; with those that are made for collections
            which the file names, see `selftests`.
        systems: what a series changes, by name; empty where scenarios/systems.yaml is not there.
        selected: names of the scenarios to run, sorted.
        machines: "default" is always among them.
        hosts: where to run, by name, in the file's order; empty: on this host alone.
        images: kernel -> recipe of its source as a distribution built it, for those that have one.
        suites: test suites of others, by name.
        stdin: returns standard input, whole and each time the same, for a series whose path is "-".
        trust: build series also where this host cannot confine them.
    """

    root: Path
    path: Path
    title: str
    base: str
    kernels: Mapping[str, KernelRecipe]
    machine: str
    machines: Mapping[str, Machine]
    rootfs: str
    rootfs_recipes: Mapping[str, RootRecipe]
    scenarios: Mapping[str, Scenario]
    systems: Mapping[str, System]
    selected: tuple[str, ...]
    matrix: Matrix
    repeat: int
    limits: Limits
    settle_s: float
    variants: Mapping[str, tuple[str, ...]]
    mirror: str
    qemu: Literal["auto", "host", "debian"]
    executor: Jobs
    hosts: Mapping[str, HostEntry] = field(default_factory=dict)
    images: Mapping[str, KernelRecipe] = field(default_factory=dict)
    suites: Mapping[str, SuiteRecipe] = field(default_factory=dict)
    nightly: Nightly = field(default_factory=Nightly)
    patchwork: Patchwork | None = None
    results_url: str = ""
    stdin: Callable[[], bytes] = nothing_to_read
    trust: bool = False

    @property
    def results(self) -> Path:
        """The folder of its runs, searches and walks."""
        return self.root / RESULTS

    def choose(self, choice: Sequence[str]) -> tuple[str, ...]:
        """Return the scenarios that `choice` (of a command line) means, sorted.

        Words that only leave out are taken off the lab's own selection; nothing chosen is that selection.

        Raises:
            UserError: a word matches nothing.
        """
        if choice and all(word.startswith("!") for word in choice):
            choice = [*self.selected, *choice]
        names, errors = select(self.scenarios, self.systems, choice) if choice else (self.selected, {})
        if errors:
            first, *others = errors.values()
            raise UserError(first, hint="the verb `list` shows scenarios, tags and systems", details=tuple(others))
        if lacking := selftests.unrunnable(names, self.root):
            raise UserError(lacking, hint="copy it from the lab's own clone")
        return names

    def scenario(self, name: str) -> Scenario:
        """Return a scenario that `choose` names: one of `scenarios`, or made for a collection of selftests."""
        if name not in self.scenarios and name.startswith(selftests.PREFIX):
            return selftests.made(name.removeprefix(selftests.PREFIX))
        return self.scenarios[name]


def find_lab(start: Path) -> Path:
    """Return the lab's file (absolute): `start` itself, or lab.yaml in it or in the nearest directory above.

    Raises:
        UserError: there is none.
    """
    start = start.expanduser().absolute()
    if not start.is_dir():
        if not start.exists():
            raise UserError(f"{start}: no such file", hint="--lab FILE names the lab")
        return start
    for folder in (start, *start.parents):
        if (folder / FILE).is_file():
            return folder / FILE
    raise UserError(f"no {FILE} in {start} or above it", hint="--lab FILE names the lab")


def load(path: Path, extra_choice: Sequence[str] = ()) -> Lab:
    """Read the lab of the file `path` and every file that it leads to.

    Args:
        extra_choice: scenarios chosen on the command line, see `Lab.choose`.

    Raises:
        UserError: anything is wrong, with one line of `details` per error of any file.
    """
    loader = _Loader(path.absolute())
    lab = loader.load()
    loader.problems.raise_if_any()
    assert lab
    if not extra_choice:
        return lab
    return dataclasses.replace(lab, selected=lab.choose(extra_choice))


def check(path: Path) -> Lab:
    """Read a lab as `load` does, and scripts and templates of all its scenarios as well.

    Raises:
        UserError: anything is wrong, with one line of `details` per error of any file.
    """
    from kpatchlab.lab.scripts import check_scripts  # starts shells, which `load` never does

    loader = _Loader(path.absolute())
    lab = loader.load()
    check_scripts(loader.root / "scenarios", loader.scenarios, loader.problems)
    loader.problems.raise_if_any()
    assert lab
    return lab


def notes(lab: Lab) -> list[str]:
    """Return what is no error in a lab and yet worth a look: a line each, beginning with the file."""
    return [
        f"scenarios/{name}/{SCENARIO_FILE}: names no files of the kernel under `touches`;"
        " `--changed` and `--touching` find it by its systems alone"
        for name in lab.selected
        if not lab.scenario(name).touches.files
    ]


@dataclass(slots=True)
class _Loader:
    """Reads one lab; what is wrong goes to `problems`."""

    path: Path
    root: Path = field(init=False)
    problems: Problems = field(init=False)
    scenarios: dict[str, Scenario] = field(default_factory=dict)
    systems: dict[str, System] = field(default_factory=dict)
    _documents: dict[str, Document] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.root = root_of(self.path)
        self.problems = Problems(self.root)

    def load(self) -> Lab | None:
        """Return the lab, or None where its own file cannot be used; whole only if there are no problems."""
        if not (self.root / "scenarios").is_dir() and self.root != self.path.parent:
            self.problems.add(self.path, 0, f"root: {self.root} has no folder scenarios")
        roots = self._roots()
        suites, suite_names = read_suites(self.root, self.problems), suites_in(self.root)  # also those that are wrong
        self._scenarios()
        self.systems = load_systems(self.root / "scenarios", self.problems)
        document = read(self.path, self.problems)
        file = document.parse(LabFile) if document else None
        if not document:
            return None
        self.scenarios = selftests.with_named(self.scenarios, file.scenarios if file else ())
        if not file:
            self._named_recipes(document)
            return None
        machines = {"default": Machine(), **file.machines}
        base = file.base or next(iter(file.kernels))
        arch = machines[file.machine].arch if file.machine in machines else ""
        kernels = _on(arch, self._kernels(file, document))
        lab = Lab(
            root=self.root,
            path=self.path,
            title=file.title,
            base=base,
            kernels=kernels,
            images=self._images(kernels, file, document),
            machine=file.machine,
            machines=machines,
            rootfs=file.rootfs,
            rootfs_recipes=roots,
            suites=suites,
            scenarios=self.scenarios,
            systems=self.systems,
            selected=self._select(file, document),
            matrix=file.matrix,
            repeat=file.repeat,
            limits=file.limits,
            settle_s=file.settle_s,
            variants=file.variants,
            mirror=file.mirror,
            qemu=file.qemu,
            nightly=file.nightly,
            patchwork=file.patchwork,
            results_url=file.results_url,
            executor=file.executor,
            hosts=resolved(file.hosts, document),
        )
        _known(document, ["base"], base, file.kernels, "kernel")
        _known(document, ["machine"], file.machine, machines, "machine")
        _known(document, ["rootfs"], file.rootfs, roots, "root file system")
        self._columns(file, document)
        _nightly(lab, document)
        for name, own in self._documents.items():
            scenario = self.scenarios[name]
            if scenario.machine:
                _known(own, ["machine"], scenario.machine, machines, "machine")
            if scenario.rootfs:
                _known(own, ["rootfs"], scenario.rootfs, roots, "root file system")
            for index, system in enumerate(scenario.systems if self.systems else ()):
                _known(own, ["systems", index], system, self.systems, "system")
            for index, suite in enumerate(scenario.needs.suites):
                _known(own, ["needs", "suites", index], suite, suite_names, "test suite")
        return lab

    def _roots(self) -> dict[str, RootRecipe]:
        recipes = {}
        for path in sorted((self.root / "rootfs").glob("*.yaml")):
            document = read(path, self.problems)
            recipe = document.parse(RootRecipe) if document else None
            if document and recipe:
                recipes[path.stem] = recipe
                if recipe.files and not os.path.isdir(path.parent / recipe.files):
                    document.add(["files"], f"there is no directory rootfs/{recipe.files}")
            else:
                recipes[path.stem] = RootRecipe()  # so that nobody is told that it does not exist
        return recipes

    def _scenarios(self) -> None:
        for home in dict.fromkeys([self.root, self.path.parent]):  # of two of a name, the one beside the lab's file
            for path in sorted((home / "scenarios").glob(f"[!.]*/{SCENARIO_FILE}")):
                found = load_scenario(path.parent, self.problems) if path.parent.name != "lib" else None
                if found:
                    self.scenarios[path.parent.name], self._documents[path.parent.name] = found

    def _kernels(self, file: LabFile, document: Document) -> dict[str, KernelRecipe]:
        kernels = {}
        recipes: dict[str, KernelRecipe | None] = {}
        for name, entry in file.kernels.items():
            if isinstance(entry, KernelRecipe):
                self._recipe_paths(entry, document, ["kernels", name])
                kernels[name] = entry
                continue
            if entry not in recipes:
                recipes[entry] = self._recipe(entry, document, ["kernels", name])
            recipe = recipes[entry]
            if recipe:
                kernels[name] = recipe
        return kernels

    def _images(
        self, kernels: Mapping[str, KernelRecipe], file: LabFile, document: Document
    ) -> dict[str, KernelRecipe]:
        """Return the images of the kernels that have one; what is wrong with one is told where the kernel is named."""
        images: dict[str, KernelRecipe] = {}
        for name, kernel in kernels.items():
            if not kernel.prebuilt:
                continue
            inline = isinstance(file.kernels[name], KernelRecipe)
            recipe = self._recipe(kernel.prebuilt, document, ["kernels", name, *(["prebuilt"] if inline else [])])
            if recipe and not recipe.is_prebuilt:
                document.add(["kernels", name], f"prebuilt: kernels/{kernel.prebuilt}.yaml is no image")
            elif recipe and recipe.arch and recipe.built_for != kernel.built_for:
                document.add(["kernels", name], f"prebuilt: kernels/{kernel.prebuilt}.yaml is for {recipe.built_for}")
            elif (taken := image_of(name)) in kernels:
                document.add(["kernels", taken], f"cannot be a kernel's name: reports call the image of {name} so")
            elif recipe:
                images |= _on(kernel.arch, {name: recipe})
        return images

    def _named_recipes(self, document: Document) -> None:
        """Read the recipes that a lab names, though the lab itself is wrong: their errors are told with its own."""
        kernels = document.data.get("kernels")
        for name, entry in kernels.items() if isinstance(kernels, dict) else ():
            if isinstance(entry, str):
                self._recipe(entry, document, ["kernels", name])

    def _recipe(self, name: str, document: Document, loc: Loc) -> KernelRecipe | None:
        path = self.root / "kernels" / f"{name}.yaml"
        if not os.path.exists(path):
            near = suggest(name, [other.stem for other in path.parent.glob("*.yaml")])
            document.add(loc, f"there is no recipe kernels/{name}.yaml{near}")
            return None
        own = read(path, self.problems)
        recipe = own.parse(KernelRecipe) if own else None
        if own and recipe:
            self._recipe_paths(recipe, own, [])
        return recipe

    def _recipe_paths(self, recipe: KernelRecipe, document: Document, loc: list[str | int]) -> None:
        """Note every path of a recipe that leads nowhere."""
        for index, fragment in enumerate(recipe.config):
            path = locate(fragment, self.root)
            if not os.path.isfile(path):
                there = [
                    str(other.relative_to(self.root / "kernels")) for other in self.root.glob("kernels/**/*.config")
                ]
                document.add([*loc, "config", index], f"there is no file {self._show(path)}{suggest(fragment, there)}")
        parts: list[tuple[Loc, SourceModel | SeriesModel]] = [([*loc, "source", "path"], recipe.source)]
        parts += [([*loc, "series", index, "path"], item) for index, item in enumerate(recipe.series)]
        for where, item in parts:
            if item.on_host and not os.path.exists(path := locate(item.on_host, self.root)):
                document.add(where, f"there is no {self._show(path)}")

    def _show(self, path: Path) -> str:
        return self.problems.shown(path)

    def _select(self, file: LabFile, document: Document) -> tuple[str, ...]:
        names, errors = select(self.scenarios, self.systems, file.scenarios)
        for index, message in errors.items():
            document.add(["scenarios", index], message)
        if lacking := selftests.unrunnable(names, self.root):
            document.add(["scenarios"], lacking)
        return names

    def _columns(self, file: LabFile, document: Document) -> None:
        for index, column in enumerate(file.matrix.columns):
            loc: list[str | int] = ["matrix", "columns", index]
            if isinstance(column, str):
                _known(document, loc, column, ["kernels", "pairs", *file.kernels], "column or kernel")
                continue
            for role, kernel in column.items():
                _known(document, [*loc, role], kernel, file.kernels, "kernel")
            if set(column) != {"client", "server"}:
                document.add(loc, "a placement says a kernel for `client` and one for `server`")
        for name in {"kernels", "pairs"} & set(file.kernels):
            document.add(["kernels", name], "cannot be a kernel's name: it has a meaning in matrix.columns")


def _on(arch: ArchName, kernels: Mapping[str, KernelRecipe]) -> dict[str, KernelRecipe]:
    """Return kernels; those that name no architecture have that of the lab's machine."""
    return {name: one if one.arch else one.model_copy(update={"arch": arch}) for name, one in kernels.items()}


def _known(document: Document, loc: Loc, word: str, names: Collection[str], kind: str) -> None:
    if word not in names and not document.problems.full(document.path):
        more = suggest(word, names) or f"; there are {', '.join(names) or 'none'}"
        document.add(loc, f"there is no {kind} '{word}'{more}")


def _nightly(lab: Lab, document: Document) -> None:
    """Note every word of the section `nightly` that leads nowhere."""
    wanted = lab.nightly
    for part, named in (("branches", wanted.branches), ("series", wanted.series)):
        for name, kernels in named.items():
            for kernel in kernels:
                loc = ["nightly", part, name, kernel]
                if kernel not in lab.kernels:
                    _known(document, loc, kernel, lab.kernels, "kernel")
                elif part == "branches" and not isinstance(lab.kernels[kernel].source, GitSource):
                    document.add(loc, f"kernel {kernel} has no git source, so it has no branches")
    for index, variant in enumerate(wanted.variants):
        _known(document, ["nightly", "variants", index], variant, lab.variants, "variant")
