"""The tree's own tests of what a series changes: collections of its selftests, and a scenario for each.

`lab.selftests` says what a collection is, and makes a scenario for one that no scenario of the lab runs.
"""

from __future__ import annotations

import io
import re
import shutil
import tarfile
import tempfile
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kpatchlab.build import git
from kpatchlab.build.changes import Replay
from kpatchlab.build.kconfig import Kconfig
from kpatchlab.build.kselftest import asked_for
from kpatchlab.build.patchset import Patch
from kpatchlab.files import below
from kpatchlab.lab.load import Lab
from kpatchlab.lab.scenario import COLLECTION, FILE, Scenario, own_files
from kpatchlab.lab.selftests import PREFIX, SELFTESTS, collections_of, is_made, made
from kpatchlab.lab.written import scenario_file
from kpatchlab.maintainers import Section, fits

_TESTS = re.compile(r"^[ \t]*TEST_(?:GEN_PROGS|CUSTOM_PROGS|PROGS)[ \t]*[:+?]?=(.*)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Collection:
    """One collection that a series calls for.

    Attributes:
        changed: the series changes it; else MAINTAINERS has it beside code that the series changes.
        config: what the file `config` of its folder asks for: symbol -> value.
    """

    name: str
    changed: bool
    config: Mapping[str, str]

    @property
    def scenario(self) -> str:
        """The name of the scenario that is made for it."""
        return "kselftest-" + self.name.replace("/", ".").replace("+", "_")


class Selftests:
    """The selftests of a commit, with a series on top.

    Args:
        patches: as they apply to the commit.
    """

    def __init__(self, tree: git.Repository, commit: str, patches: Sequence[Patch]) -> None:
        def base(name: str) -> bytes | None:
            return tree.blob(commit, name) if name.startswith(SELFTESTS) or _is_kconfig(name) else None

        self._tree, self._commit = tree, commit
        self._texts = Replay(patches, base).texts()  # others are of no interest, and stay unknown
        listed = tree.read("ls-tree", "-r", "-z", "--full-tree", "--name-only", commit, "--", SELFTESTS)
        there = [name for name in listed.decode("utf-8", "replace").split("\0") if name]
        self._files = sorted({*there, *(name for name in self._texts if name.startswith(SELFTESTS))})
        self._folders = {name.removesuffix("/Makefile") for name in self._files if name.endswith("/Makefile")}
        self._folders.discard(SELFTESTS.rstrip("/"))

    def called_for(self, files: Sequence[str], sections: Sequence[Section]) -> list[Collection]:
        """Return the collections that the files of a series call for: those that it changes, then those of its code.

        Args:
            sections: of MAINTAINERS. One whose F: lines name a file and tests says which tests are the file's; of
                several, the one that names the file most closely.
        """
        found: dict[str, bool] = {}
        for file in files:
            if file.startswith(SELFTESTS) and (name := self._of(file)):
                found[name] = True
        for file in files:
            for pattern in [] if file.startswith(SELFTESTS) else _tests_beside(file, sections):
                for name in self._named(pattern):
                    found.setdefault(name, False)
        fit = (name for name in found if re.fullmatch(COLLECTION, name) and self._above(name) not in found)
        return [Collection(name, found[name], self._config(name)) for name in fit]

    def _above(self, name: str) -> str:
        """Return the folder that a single test is of, "" for a collection that is a folder."""
        return "" if f"{SELFTESTS}{name}" in self._folders else name.rpartition("/")[0]

    def _of(self, file: str) -> str:
        """Return the collection that a file belongs to, "" for one that all share.

        It is FOLDER/PROGRAM for a test that the folder's Makefile lists by itself.
        """
        folder = next((str(above) for above in Path(file).parents if str(above) in self._folders), "")
        if not folder:
            return ""
        name = folder.removeprefix(SELFTESTS)
        program, _, kind = file.removeprefix(f"{folder}/").rpartition(".")
        listed = {"c": program, "sh": f"{program}.sh"}.get(kind)
        return f"{name}/{program}" if listed in self._tests(folder) else name

    def _tests(self, folder: str) -> set[str]:
        """Return the tests that a folder's Makefile lists in so many words."""
        text = re.sub(r"\\\n", " ", "\n".join(self._lines(f"{folder}/Makefile")))
        return {word.removeprefix("$(OUTPUT)/") for words in _TESTS.findall(text) for word in words.split()}

    def _named(self, pattern: str) -> Iterator[str]:
        """Yield the collections that an F: pattern names: a folder, those right below one, or tests by themselves."""
        folder = pattern.removesuffix("*").rstrip("/")
        if folder in self._folders:
            yield folder.removeprefix(SELFTESTS)
            return
        for name in self._files:
            found = self._of(name) if fits(pattern, name) else ""
            whole = f"{SELFTESTS}{found}" in self._folders
            if found and (not whole or f"{SELFTESTS}{found}/".startswith(f"{folder}/")):
                yield found

    def _config(self, name: str) -> dict[str, str]:
        """Return what the file `config` of a collection's folder asks for."""
        return asked_for(self._lines(f"{SELFTESTS}{self._above(name) or name}/config"))

    def _lines(self, file: str) -> list[str]:
        """Return the lines of a file, as the series leaves it."""
        if file not in self._texts:
            self._texts[file] = (self._tree.blob(self._commit, file) or b"").decode("utf-8", "replace")
        return self._texts[file].splitlines()

    def kconfig(self, arch: str) -> Kconfig:
        """Return the symbols of the tree with the series; `arch` as kbuild's SRCARCH."""
        packed = self._tree.read("archive", "--format=tar", self._commit, "--", ":(glob)**/Kconfig*")
        with tempfile.TemporaryDirectory(prefix="kpatchlab-") as folder:
            with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
                members = ((member.name, archive.extractfile(member)) for member in archive if member.isfile())
                found = {name: content.read() for name, content in members if content}
            own = {name: text.encode("utf-8", "surrogateescape") for name, text in self._texts.items()}
            for name, data in {**found, **{name: data for name, data in own.items() if _is_kconfig(name)}}.items():
                if target := below(Path(folder), name):
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(data)
            return Kconfig(Path(folder), arch)


def _is_kconfig(name: str) -> bool:
    return Path(name).name.startswith("Kconfig")


def _tests_beside(file: str, sections: Iterable[Section]) -> tuple[str, ...]:
    """Return the F: patterns of tests in the section that names a file most closely, of those that name tests."""
    naming = [section for section in sections if section.below(SELFTESTS)]
    closest = max(naming, key=lambda section: section.closeness(file), default=None)
    return closest.below(SELFTESTS) if closest and closest.closeness(file) else ()


def run_by(lab: Lab) -> dict[str, list[str]]:
    """Return collection -> the scenarios of the lab's selection that run it."""
    found: dict[str, list[str]] = {}
    for name in lab.selected:
        for collection in collections_of(lab.scenarios[name]):
            found.setdefault(collection, []).append(name)
    return found


def with_scenarios(lab: Lab, wanted: Sequence[Collection], tests: Selftests, arch: str, asked: Iterable[str]) -> Lab:
    """Return a lab with a scenario for each collection, and with kernels that have what the collections ask for.

    Args:
        tests: where they are from; what a symbol depends on is said there.
        arch: as kbuild's SRCARCH.
        asked: symbols that the kernels' recipes ask for already, whatever for: that stays.
    """
    symbols = {symbol: value for one in wanted for symbol, value in one.config.items()}
    kconfig = tests.kconfig(arch) if symbols else None
    more = kconfig.with_dependencies(symbols, frozenset(asked)) if kconfig else {}
    kernels = {
        name: recipe.model_copy(update={"config_set": {**more, **recipe.config_set}})
        for name, recipe in lab.kernels.items()
    }
    there = kconfig.symbols if kconfig else ()
    new = {one.scenario: made(one.name, one.scenario, _needed(one, there)) for one in wanted}
    selected = tuple(sorted({*lab.selected, *new}))
    return replace(lab, kernels=kernels, scenarios={**lab.scenarios, **new}, selected=selected)


def _needed(one: Collection, there: Container[str]) -> list[str]:
    """Return the symbols that a collection needs of those that the tree has: what is gone, no test of it can need."""
    return [symbol for symbol, value in one.config.items() if value in {"y", "m"} and symbol in there]


def write(scenarios: Iterable[Scenario], folder: Path) -> None:
    """Write those that were made for a series below `folder`/scenarios, where a lab file in `folder` finds them.

    Those that a lab file names by `kselftest:` are made wherever they are named.

    Raises:
        HostError: they cannot be written.
    """
    for scenario in scenarios:
        if not is_made(scenario) or scenario.name.startswith(PREFIX):
            continue
        home = folder / "scenarios" / scenario.name
        home.mkdir(parents=True)
        (home / FILE).write_bytes(scenario_file(scenario.file()))
        for name, path in own_files(scenario.folder):
            shutil.copy(path, home / name)
