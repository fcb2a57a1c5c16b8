"""JSON Schemas and docs/files.md: as the models have them, and whole."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tools.schemas import DOCS, FOLDER, FORMATS, docs, models, schema, write


@pytest.mark.parametrize("name", FORMATS)
def test_stored_schemas_are_current(name: str) -> None:
    assert (FOLDER / f"{name}.schema.json").read_text() == schema(name), "python tools/schemas.py writes them anew"


def test_there_are_no_others() -> None:
    assert sorted(path.name for path in FOLDER.iterdir()) == sorted(f"{name}.schema.json" for name in FORMATS)


def test_the_page_is_current() -> None:
    assert DOCS.read_text() == docs(DOCS.read_text()), "python tools/schemas.py writes its tables anew"


def test_the_page_has_a_table_for_every_model() -> None:
    tables = re.findall(r"<!-- keys of (\w+) -->", DOCS.read_text())
    assert sorted(tables) == sorted({model.__name__ for top in FORMATS.values() for model in models(top)})


@pytest.mark.parametrize("name", FORMATS)
def test_every_key_is_described(name: str) -> None:
    for model in models(FORMATS[name]):
        assert model.__doc__
        assert all(info.description for info in model.model_fields.values()), model


def nodes(value: Any) -> Any:
    yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from nodes(item)


@pytest.mark.parametrize("name", FORMATS)
def test_schemas_refuse_unknown_keys_and_refer_to_what_there_is(name: str) -> None:
    whole = json.loads(schema(name))
    assert whole["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    for node in nodes(whole):
        if isinstance(node, dict) and "$ref" in node and isinstance(node["$ref"], str):
            assert node["$ref"].removeprefix("#/$defs/") in whole["$defs"]
        if isinstance(node, dict) and isinstance(node.get("properties"), dict) and node.get("type") == "object":
            assert node["additionalProperties"] is False


def test_write_brings_everything_up_to_date(tmp_path: Any) -> None:
    page = tmp_path / "files.md"
    page.write_text("# a\n<!-- keys of Needs -->\nold\n<!-- end -->\nb\n")
    write(tmp_path / "schemas", page)
    assert sorted(path.name for path in (tmp_path / "schemas").iterdir()) == sorted(
        f"{name}.schema.json" for name in FORMATS
    )
    assert "| `config` | none |" in page.read_text()
    assert page.read_text().endswith("<!-- end -->\nb\n")
