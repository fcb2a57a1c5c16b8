"""The systems that a series changes: `scenarios/systems.yaml`, and which files of the kernel a scenario is about."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import Field

from kpatchlab.lab.recipes import Name, Needed
from kpatchlab.lab.scenario import Scenario
from kpatchlab.lab.yamlfile import FileModel, Problems, read

FILE = "systems.yaml"


class System(FileModel):
    """One system of the kernel that a series changes."""

    title: Needed = Field(description="the name that people use")
    without: tuple[Needed, ...] = Field(default=(), description="functions that do the work without the series")
    with_: tuple[Needed, ...] = Field(default=(), alias="with", description="functions that do the work with it")
    files: tuple[Needed, ...] = Field(default=(), description="source files, or folders, of the kernel")


class SystemsFile(FileModel):
    """The table as its file has it."""

    systems: dict[Name, System] = Field(description="name of the system -> its functions and files")


def load_systems(folder: Path, problems: Problems) -> dict[str, System]:
    """Return the table of `folder`/systems.yaml by name, in the file's order; a lab without one has no systems."""
    path = folder / FILE
    document = read(path, problems) if path.exists() else None
    file = document.parse(SystemsFile) if document else None
    return dict(file.systems) if file else {}


def touches(scenario: Scenario, systems: Mapping[str, System], path: str) -> bool:
    """Whether a scenario is about a file of the kernel: by what it says itself, or by its systems' files.

    Args:
        path: a file, or a folder, which stands for all below it; as it stands in the kernel's tree.
    """
    return any(within(path, file) or within(file, path) for file in files_of(scenario, systems))


def files_of(scenario: Scenario, systems: Mapping[str, System]) -> list[str]:
    """Return the files and folders of the kernel that a scenario is about, by its own words and by its systems'."""
    rows = [systems[name] for name in scenario.systems if name in systems]
    return list(dict.fromkeys([*scenario.touches.files, *(file for row in rows for file in row.files)]))


def within(path: str, folder: str) -> bool:
    """Whether a path is a file of the tree, or below a folder of it."""
    return path == folder or path.startswith(folder.rstrip("/") + "/")
