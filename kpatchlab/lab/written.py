"""Lab files that the lab itself writes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml
from pydantic import BaseModel


def plain(model: BaseModel) -> Any:
    """Return a part of a lab as its file has it, what is as by default left out."""
    return model.model_dump(mode="json", by_alias=True, exclude_defaults=True)


def written(said: Mapping[str, Any], remark: str = "") -> bytes:
    """Return a lab file; `remark` is one line on top of it."""
    head = f"# {remark}\n" if remark else ""
    text: str = yaml.safe_dump(dict(said), sort_keys=False, allow_unicode=True)
    return (head + text).encode()
