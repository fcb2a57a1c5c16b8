"""The recipes of test suites in a lab, as they are read: `suites/NAME.yaml`."""

from __future__ import annotations

import os
from pathlib import Path

from kpatchlab.errors import UserError
from kpatchlab.lab.recipes import SuiteRecipe, locate
from kpatchlab.lab.yamlfile import Problems, read, suggest

FOLDER = "suites"


def suites_in(root: Path) -> list[str]:
    """Return the names of a lab's suites, sorted."""
    return sorted(path.stem for path in (root / FOLDER).glob("*.yaml"))


def read_suites(root: Path, problems: Problems) -> dict[str, SuiteRecipe]:
    """Return every recipe of a lab's that can be read; what is wrong goes to `problems`."""
    found = {}
    for name in suites_in(root):
        if recipe := _read(name, root, problems):
            found[name] = recipe
    return found


def load_suite(name: str, root: Path) -> SuiteRecipe:
    """Return one recipe.

    Raises:
        UserError: there is none of this name, or something is wrong with it.
    """
    if name not in (there := suites_in(root)):
        raise UserError(f"there is no suite {name}{suggest(name, there)}")
    problems = Problems(root)
    recipe = _read(name, root, problems)
    problems.raise_if_any()
    assert recipe
    return recipe


def _read(name: str, root: Path, problems: Problems) -> SuiteRecipe | None:
    document = read(root / FOLDER / f"{name}.yaml", problems)
    recipe = document.parse(SuiteRecipe) if document else None
    where = recipe.source.on_host if recipe else ""
    if document and where and not os.path.exists(path := locate(where, root, FOLDER)):
        document.add(["source", "path"], f"there is no {problems.shown(path)}")
    return recipe
