"""Lab files that the lab itself writes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml
from pydantic import BaseModel

from kpatchlab.lab.load import Lab
from kpatchlab.lab.recipes import KernelRecipe


def said(lab: Lab, kernels: Mapping[str, KernelRecipe]) -> dict[str, Any]:
    """Return what the file of a lab with these kernels says; title, base, machines and root are those of `lab`."""
    return {
        "title": lab.title,
        "base": lab.base,
        "kernels": {name: _plain(recipe) for name, recipe in kernels.items()},
        "machines": {name: _plain(machine) for name, machine in lab.machines.items()},
        "machine": lab.machine,
        "rootfs": lab.rootfs,
    }


def _plain(model: BaseModel) -> Any:
    """Return a part of a lab as its file has it, what is as by default left out."""
    return model.model_dump(mode="json", by_alias=True, exclude_defaults=True)


def written(values: Mapping[str, Any], remark: str = "") -> bytes:
    """Return a lab file; `remark` is one line on top of it."""
    head = f"# {remark}\n" if remark else ""
    text: str = yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True)
    return (head + text).encode()
