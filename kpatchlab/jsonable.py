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


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def from_json(cls: type[T], data: Any) -> T:
    """Read back what `to_json` wrote; unknown keys are ignored, missing ones take their default.

    Types are checked: what comes back has those that the class says, whoever wrote the data. A time that is no number,
    as versions before this check took over from other tools, is 0.

    Raises:
        TypeError: a field without a default is missing, or something is of another type than its class says.
        ValueError: an enumeration has a value that it does not know, a figure has too many digits.
    """
    return typing.cast("T", _read(cls, data))


_INTEGER_BITS = 63
"""What a database takes."""


def _read(kind: Any, data: Any) -> Any:
    reader = _PLAIN.get(kind)
    if reader:
        return reader(data)
    origin = typing.get_origin(kind)
    if origin is tuple:
        inner = typing.get_args(kind)[0]
        return tuple(_read(inner, item) for item in _is(list, data))
    if origin in {dict, Mapping}:
        names, inner = typing.get_args(kind)
        return {_read(names, k): _read(inner, v) for k, v in _is(dict, data).items()}
    if origin in {typing.Union, types.UnionType}:
        inner = [one for one in typing.get_args(kind) if one is not types.NoneType]
        return _read(inner[0], data) if len(inner) == 1 and data is not None else data
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        hints = _hints(kind)
        known = {f.name for f in dataclasses.fields(kind) if f.init}
        return kind(**{k: _field(k, hints[k], v) for k, v in _is(dict, data).items() if k in known})
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return kind(data)
    return data


def _field(name: str, kind: Any, data: Any) -> Any:
    value = _read(kind, data)
    return 0.0 if kind is float and name.endswith("_s") and not math.isfinite(value) else value


def _is(kind: type[T], data: Any) -> T:
    if not isinstance(data, kind):
        raise TypeError(f"a {type(data).__name__} where a {kind.__name__} belongs")
    return data


def _integer(data: Any) -> int:
    if isinstance(data, bool) or not isinstance(data, int):
        raise TypeError(f"a {type(data).__name__} where an int belongs")
    if data.bit_length() > _INTEGER_BITS:
        raise ValueError("a number of more than 63 bits")
    return data


def _float(data: Any) -> float:
    return data if isinstance(data, float) else float(_integer(data))


_PLAIN: dict[Any, Callable[[Any], Any]] = {
    str: functools.partial(_is, str),
    bool: functools.partial(_is, bool),
    int: _integer,
    float: _float,
}
