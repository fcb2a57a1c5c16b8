"""Values to what JSON has, and back with the types that their classes say; imports nothing of ours."""

from __future__ import annotations

import dataclasses
import enum
import functools
import math
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")


def to_json(value: Any) -> Any:
    """Turn a value into dicts, lists, strings and numbers."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(k): to_json(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(v) for v in value]
    return value


def from_json(cls: type[T], data: Any) -> T:
    """Read back what `to_json` wrote; unknown keys are ignored, missing ones take their default.

    Types are checked: what comes back has those that the class says, whoever wrote the data. A time that is no number,
    as versions before this check took over from other tools, is 0.

    Raises:
        TypeError: a field without a default is missing, or something is of another type than its class says.
        ValueError: an enumeration has a value that it does not know, a figure has too many digits.
    """
    kind: Any = cls
    return typing.cast("T", _reader(kind)(data))


Reader = Callable[[Any], Any]
_INTEGER_BITS = 63
"""What a database takes."""


@functools.cache
def _reader(kind: Any) -> Reader:
    """Return what reads values of a type: a run of 1,000 jobs has 200,000 of them, so a type is looked at once."""
    if plain := _PLAIN.get(kind):
        return plain
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        item = _reader(inner[0])
        return lambda data: tuple([item(one) for one in _is(list, data)])
    if origin in {dict, Mapping}:
        name, item = map(_reader, inner)
        return lambda data: {name(k): item(v) for k, v in _is(dict, data).items()}
    if origin in {typing.Union, types.UnionType}:
        some = [_reader(one) for one in inner if one is not types.NoneType]
        return lambda data: some[0](data) if len(some) == 1 and data is not None else data
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return lambda data: _value(kind, _is(dict, data))
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return kind
    return lambda data: data


def _value(kind: Any, data: Mapping[str, Any]) -> Any:
    fields = _fields(kind)
    return kind(**{name: fields[name](value) for name, value in data.items() if name in fields})


@functools.cache
def _fields(kind: Any) -> dict[str, Reader]:
    hints = typing.get_type_hints(kind)
    return {f.name: _field(f.name, hints[f.name]) for f in dataclasses.fields(kind) if f.init}


def _field(name: str, kind: Any) -> Reader:
    return _seconds if kind is float and name.endswith("_s") else _reader(kind)


def _is(kind: type[T], data: Any) -> T:
    if not isinstance(data, kind):
        raise TypeError(f"a {type(data).__name__} where a {kind.__name__} belongs")
    return data


def _text(data: Any) -> str:
    """Return text as it is, but for lone surrogates: JSON has them, and neither UTF-8 nor a database does."""
    found = _is(str, data)
    return found if found.isascii() else found.encode("utf-8", "replace").decode("utf-8")


def _integer(data: Any) -> int:
    if isinstance(data, bool) or not isinstance(data, int):
        raise TypeError(f"a {type(data).__name__} where an int belongs")
    if data.bit_length() > _INTEGER_BITS:
        raise ValueError("a number of more than 63 bits")
    return data


def _float(data: Any) -> float:
    return data if isinstance(data, float) else float(_integer(data))


def _seconds(data: Any) -> float:
    found = _float(data)
    return found if math.isfinite(found) else 0.0


_PLAIN: dict[Any, Reader] = {
    str: _text,
    bool: functools.partial(_is, bool),
    int: _integer,
    float: _float,
}
