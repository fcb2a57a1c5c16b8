"""lab.yaml: which kernels, machines, roots and scenarios; read with every file that it leads to.

All files are checked before anything is built, and every error of every file is told at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, PlainValidator, Tag, WithJsonSchema

from kpatchlab.errors import UserError
from kpatchlab.lab.choice import select
from kpatchlab.lab.nightly import Nightly
from kpatchlab.lab.recipes import GitSource, KernelRecipe, Name, Needed, RootRecipe, locate
from kpatchlab.lab.scenario import FILE as SCENARIO_FILE
from kpatchlab.lab.scenario import Scenario, load_scenario
from kpatchlab.lab.systems import System, load_systems
from kpatchlab.lab.yamlfile import Document, FileModel, Loc, Problems, read, suggest

FILE = "lab.yaml"


def _auto_or_count(value: Any) -> int | Literal["auto"]:
    if value == "auto":
        return "auto"
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    raise ValueError(f"'{value}' is neither auto nor a whole number of at least 1")


AutoCount = Annotated[
    int | Literal["auto"],
    PlainValidator(_auto_or_count),
    WithJsonSchema({"anyOf": [{"const": "auto"}, {"type": "integer", "minimum": 1}]}),
]


def _member(text: str, other: str) -> Callable[[Any], str]:
    """Return what tells text from mappings in a union of both; its tags are no part of error locations."""
    return lambda value: text if isinstance(value, str) else other


class Machine(FileModel):
    """The virtual machine that a guest runs on."""

    accel: Literal["auto", "kvm", "tcg"] = Field(
        default="auto", description="kvm, tcg (emulation, slower), or auto: kvm where a probe guest really runs on it"
    )
    cpus: int = Field(default=1, ge=1, le=64, description="virtual processors")
    memory_mib: int = Field(default=1024, ge=64, description="memory in MiB")
    arch: Literal["x86_64"] = Field(default="x86_64", description="architecture")


class Limits(FileModel):
    """How much of the host the lab may take."""

    guests: AutoCount = Field(default="auto", description="guests at once; auto: as processors and memory allow")
    build_jobs: AutoCount = Field(default="auto", description="compilers at once; auto: one for each processor")
    disk_gib: float = Field(
        default=20.0, gt=0, description="disk space in GiB that the cache may grow to; saved guests go before kernels"
    )
    console_mib: float = Field(default=4.0, gt=0, description="how much of each guest's console is kept, in MiB")


Column = Annotated[
    Annotated[str, Tag("<name>")] | Annotated[dict[str, str], Tag("<placement>")],
    Discriminator(_member("<name>", "<placement>")),
]
"""`kernels`, `pairs`, a kernel's name, or role -> kernel."""


class Matrix(FileModel):
    """Which placements of kernels every scenario is run on."""

    columns: tuple[Column, ...] = Field(
        default=("kernels", "pairs"),
        description="kernels: each kernel, on every role; pairs: the base kernel on one role and another kernel on the "
        "other, both ways round, for scenarios with two roles; a kernel's name; or a mapping of roles to kernels",
    )


KernelEntry = Annotated[
    Annotated[str, Tag("<recipe>")] | Annotated[KernelRecipe, Tag("<inline>")],
    Discriminator(_member("<recipe>", "<inline>")),
]
"""The name of a recipe in `kernels/`, or the recipe itself."""


KernelName = Annotated[Name, Field(max_length=40)]
"""Shorter than other names: two of them stand in the name of a mixed pair's jobs, which are names of files."""


class LabFile(FileModel):
    """A lab as its file has it."""

    title: str = Field(default="", description="what the lab is about; reports show it")
    base: str = Field(default="", description="the kernel that the others are held against; empty: the first one")
    kernels: dict[KernelName, KernelEntry] = Field(
        min_length=1, description="kernel's name -> name of a recipe in `kernels/`, or a recipe itself"
    )
    machine: str = Field(default="default", description="machine of scenarios that name none")
    machines: dict[Name, Machine] = Field(
        default={}, description="machine's name -> machine; `default` is always there, and can be redefined"
    )
    rootfs: str = Field(
        default="base", description="root file system of scenarios that name none: a recipe in `rootfs/`"
    )
    scenarios: tuple[str, ...] = Field(
        default=("*",),
        description="scenarios to run: names, globs, `tag:TAG`, `system:NAME`, `touching:FILE`; with a leading `!` "
        "those to leave out",
    )
    matrix: Matrix = Field(default=Matrix(), description="which placements of kernels are run")
    repeat: int = Field(default=1, ge=1, le=1000, description="how often each job is run")
    limits: Limits = Field(default=Limits(), description="how much of the host may be taken")
    variants: dict[Name, tuple[Needed, ...]] = Field(
        default={"debug": ("config/debug.config",)},
        description="name -> fragments in `kernels/` that, on top of its own, make a slow variant of each kernel that "
        "finds more: `run --variant NAME`; no figures are taken on it",
    )
    mirror: str = Field(default="", description="URL of a Debian mirror; empty: what the host's own apt uses")
    qemu: Literal["auto", "host", "debian"] = Field(
        default="auto",
        description="host's QEMU, Debian's (unpacked, not installed), or auto: host's where there is one",
    )
    nightly: Nightly = Field(default=Nightly(), description="what the verb `nightly` runs, keeps and tells")


@dataclass(frozen=True, slots=True)
class Lab:
    """A lab, checked: every name in it leads somewhere.

    Attributes:
        root: the lab's directory, absolute.
        path: its file, absolute.
        kernels: in the file's order.
        scenarios: all that there are, by name, not only the selected ones.
        systems: what a series changes, by name; empty where scenarios/systems.yaml is not there.
        selected: names of the scenarios to run, sorted.
        machines: "default" is always among them.
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
    variants: Mapping[str, tuple[str, ...]]
    mirror: str
    qemu: Literal["auto", "host", "debian"]
    nightly: Nightly = field(default_factory=Nightly)

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
        return names


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
        self.root = self.path.parent
        self.problems = Problems(self.root)

    def load(self) -> Lab | None:
        """Return the lab, or None where its own file cannot be used; whole only if there are no problems."""
        roots = self._roots()
        self._scenarios()
        self.systems = load_systems(self.root / "scenarios", self.problems)
        document = read(self.path, self.problems)
        file = document.parse(LabFile) if document else None
        if not document:
            return None
        if not file:
            self._named_recipes(document)
            return None
        machines = {"default": Machine(), **file.machines}
        base = file.base or next(iter(file.kernels))
        lab = Lab(
            root=self.root,
            path=self.path,
            title=file.title,
            base=base,
            kernels=self._kernels(file, document),
            machine=file.machine,
            machines=machines,
            rootfs=file.rootfs,
            rootfs_recipes=roots,
            scenarios=self.scenarios,
            systems=self.systems,
            selected=self._select(file, document),
            matrix=file.matrix,
            repeat=file.repeat,
            limits=file.limits,
            variants=file.variants,
            mirror=file.mirror,
            qemu=file.qemu,
            nightly=file.nightly,
        )
        _known(document, ["base"], base, file.kernels, "kernel")
        _known(document, ["machine"], file.machine, machines, "machine")
        _known(document, ["rootfs"], file.rootfs, roots, "root file system")
        self._columns(file, document)
        _nightly(lab, document)
        for name, scenario in self.scenarios.items():
            own = self._documents[name]
            if scenario.machine:
                _known(own, ["machine"], scenario.machine, machines, "machine")
            if scenario.rootfs:
                _known(own, ["rootfs"], scenario.rootfs, roots, "root file system")
            for index, system in enumerate(scenario.systems if self.systems else ()):
                _known(own, ["systems", index], system, self.systems, "system")
        return lab

    def _roots(self) -> dict[str, RootRecipe]:
        recipes = {}
        for path in sorted((self.root / "rootfs").glob("*.yaml")):
            document = read(path, self.problems)
            recipe = document.parse(RootRecipe) if document else None
            if document and recipe:
                recipes[path.stem] = recipe
                if recipe.files and not (path.parent / recipe.files).is_dir():
                    document.add(["files"], f"there is no directory rootfs/{recipe.files}")
            else:
                recipes[path.stem] = RootRecipe()  # so that nobody is told that it does not exist
        return recipes

    def _scenarios(self) -> None:
        for path in sorted((self.root / "scenarios").glob(f"[!.]*/{SCENARIO_FILE}")):
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
                recipes[entry] = self._recipe(entry, document, name)
            recipe = recipes[entry]
            if recipe:
                kernels[name] = recipe
        return kernels

    def _named_recipes(self, document: Document) -> None:
        """Read the recipes that a lab names, though the lab itself is wrong: their errors are told with its own."""
        kernels = document.data.get("kernels")
        for name, entry in kernels.items() if isinstance(kernels, dict) else ():
            if isinstance(entry, str):
                self._recipe(entry, document, name)

    def _recipe(self, name: str, document: Document, kernel: str) -> KernelRecipe | None:
        path = self.root / "kernels" / f"{name}.yaml"
        if not path.is_file():
            near = suggest(name, [other.stem for other in path.parent.glob("*.yaml")])
            document.add(["kernels", kernel], f"there is no recipe kernels/{name}.yaml{near}")
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
            if not path.is_file():
                there = [
                    str(other.relative_to(self.root / "kernels")) for other in self.root.glob("kernels/**/*.config")
                ]
                document.add([*loc, "config", index], f"there is no file {self._show(path)}{suggest(fragment, there)}")
        paths: list[tuple[Loc, Any]] = [([*loc, "source", "path"], recipe.source)]
        paths += [([*loc, "series", index, "path"], item) for index, item in enumerate(recipe.series)]
        for where, item in paths:
            text = getattr(item, "path", "")
            if text and text != "-" and not locate(text, self.root).exists():
                document.add(where, f"there is no {self._show(locate(text, self.root))}")

    def _show(self, path: Path) -> str:
        return self.problems.shown(path)

    def _select(self, file: LabFile, document: Document) -> tuple[str, ...]:
        names, errors = select(self.scenarios, self.systems, file.scenarios)
        for index, message in errors.items():
            document.add(["scenarios", index], message)
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


def _known(document: Document, loc: Loc, word: str, names: Collection[str], kind: str) -> None:
    if word not in names:
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
