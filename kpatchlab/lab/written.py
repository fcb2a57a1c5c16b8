"""Lab files and scenarios that the lab itself writes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from kpatchlab.lab.file import LabFile
from kpatchlab.lab.load import Lab
from kpatchlab.lab.recipes import KernelRecipe
from kpatchlab.lab.scenario import ScenarioFile

HOW = ("repeat", "settle_s", "limits", "mirror", "qemu", "executor")
"""Keys of a lab file that say how jobs are run, and not which."""


def said(lab: Lab, kernels: Mapping[str, KernelRecipe]) -> dict[str, Any]:
    """Return what the file of a lab with these kernels says; all but these, scenarios and matrix is as in `lab`.

    How jobs are run is left out where it is as by default.
    """
    how = {name: getattr(lab, name) for name in HOW}
    words = [word for word in ("cache", "ca", "certificate", "key") if getattr(lab.executor, word, "")]
    paths = {word: str(lab.root / Path(getattr(lab.executor, word)).expanduser()) for word in words}
    how["executor"] = lab.executor.model_copy(update=paths)  # these start at the lab's root
    return {
        "title": lab.title,
        "base": lab.base,
        "kernels": {name: _plain(recipe) for name, recipe in kernels.items()},
        "machines": {name: _plain(machine) for name, machine in lab.machines.items()},
        "machine": lab.machine,
        "rootfs": lab.rootfs,
        **{name: _plain(value) for name, value in how.items() if value != LabFile.model_fields[name].default},
    }


def _plain(value: Any) -> Any:
    """Return a part of a lab as its file has it, what is as by default left out."""
    if not isinstance(value, BaseModel):
        return value
    return value.model_dump(mode="json", by_alias=True, exclude_defaults=True)


def scenario_file(scenario: ScenarioFile) -> bytes:
    """Return a scenario as its file has it."""
    return written(_plain(scenario))


def written(values: Mapping[str, Any], remark: str = "") -> bytes:
    """Return a lab file; `remark` is one line on top of it."""
    head = f"# {remark}\n" if remark else ""
    text: str = yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True)
    return (head + text).encode()
