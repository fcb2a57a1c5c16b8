"""JSON Schemas of the lab's file formats, for editors, and the tables of docs/files.md: both made from the models.

`python tools/schemas.py` writes them anew; a test holds what is stored against the models.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import PydanticUndefined

from kpatchlab.lab.file import LabFile
from kpatchlab.lab.hosts import HostsFile
from kpatchlab.lab.known import KnownFile
from kpatchlab.lab.recipes import KernelRecipe, RootRecipe, SuiteRecipe
from kpatchlab.lab.scenario import ScenarioFile
from kpatchlab.lab.systems import SystemsFile

FORMATS: dict[str, type[BaseModel]] = {
    "lab": LabFile,
    "kernel": KernelRecipe,
    "rootfs": RootRecipe,
    "suite": SuiteRecipe,
    "scenario": ScenarioFile,
    "systems": SystemsFile,
    "known": KnownFile,
    "hosts": HostsFile,
}
ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "kpatchlab" / "schemas"
DOCS = ROOT / "docs" / "files.md"

_BLOCK = re.compile(r"<!-- keys of (\w+) -->\n.*?<!-- end -->", re.DOTALL)


def schema(name: str) -> str:
    """Return the JSON Schema (draft 2020-12) of one format, as the text of its file."""
    whole = FORMATS[name].model_json_schema(mode="validation")
    tidy = {"$schema": GenerateJsonSchema.schema_dialect, **_without_titles(whole)}
    return json.dumps(tidy, indent=2) + "\n"


def _without_titles(value: Any, *, names: bool = False) -> Any:
    """Drop the titles that pydantic makes of names; `names`: the keys of `value` are names, not keywords."""
    if isinstance(value, dict):
        kept = {key: item for key, item in value.items() if names or key != "title" or not isinstance(item, str)}
        return {
            key: _without_titles(item, names=not names and key in {"properties", "$defs"}) for key, item in kept.items()
        }
    return [_without_titles(item) for item in value] if isinstance(value, list) else value


def models(top: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """Yield `top` and every model that its fields lead to, each once, in the order of the fields."""
    seen: dict[type[BaseModel], None] = {}

    def visit(annotation: Any) -> None:
        is_model = isinstance(annotation, type) and not get_args(annotation) and issubclass(annotation, BaseModel)
        if is_model and annotation not in seen:
            seen[annotation] = None
            for info in annotation.model_fields.values():
                visit(info.annotation)
        for inner in get_args(annotation):
            visit(inner)

    visit(top)
    yield from seen


def table(model: type[BaseModel]) -> str:
    """Return the Markdown table of a model's keys."""
    fields = ((info.alias or name, info) for name, info in model.model_fields.items())
    rows = [f"| `{key}` | {_default(info)} | {info.description} |" for key, info in fields]
    return "\n".join(["| key | default | meaning |", "| --- | --- | --- |", *rows])


def _default(info: FieldInfo) -> str:
    default = info.default
    if default is PydanticUndefined:
        only = get_args(info.annotation) if get_origin(info.annotation) is Literal else ()
        return f"required: `{only[0]}`" if only else "required"
    if isinstance(default, BaseModel):
        return "see below"
    if default is None or default in ("", (), {}):
        return "none"
    if isinstance(default, tuple):
        return f"`{_list(default)}`"
    if isinstance(default, dict):
        return f"`{{{', '.join(f'{key}: {_list(value)}' for key, value in default.items())}}}`"
    if isinstance(default, float):
        return f"`{default:g}`"
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def _list(words: Sequence[str]) -> str:
    """Return a list of words in YAML."""
    return f"[{', '.join(words)}]".replace("*", '"*"')


def docs(text: str) -> str:
    """Return the text of docs/files.md with its tables as the models have them."""
    every = {model.__name__: model for top in FORMATS.values() for model in models(top)}
    return _BLOCK.sub(lambda found: f"<!-- keys of {found[1]} -->\n{table(every[found[1]])}\n<!-- end -->", text)


def write(folder: Path = FOLDER, page: Path = DOCS) -> None:
    """Write every schema, and the tables of the page."""
    folder.mkdir(exist_ok=True)
    for name in FORMATS:
        (folder / f"{name}.schema.json").write_text(schema(name))
    page.write_text(docs(page.read_text()))


if __name__ == "__main__":
    write()
