"""Records as plain JSON values, and back. No heavy imports: a device can load this."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")


def to_plain(value: Any) -> Any:
    """Records as dicts, sequences as lists, and None for a number that JSON does not have."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [to_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def from_plain(kind: type[T], value: Any) -> T:
    """The record ``kind`` that :func:`to_plain` made ``value`` of.

    Knows records, tuples, mappings, unions with None, literals and scalars, which is all that
    records hold. Raises ValueError for a value of another shape or type: it may come from a
    damaged file or from another machine. Keys that the record does not know are left out, so
    that a newer writer can be read.
    """
    found: T = _from(kind, value)
    return found


def _from(kind: Any, value: Any) -> Any:
    if isinstance(kind, type) and is_dataclass(kind):
        return _record(kind, value)
    args = get_args(kind)
    return _generic(kind, args, value) if args else _scalar(kind, value)


def _generic(kind: Any, args: tuple[Any, ...], value: Any) -> Any:
    origin = get_origin(kind)
    if origin is Literal:
        return _checked(value, value in args, kind)
    if origin is tuple:
        return _tuple(args, value, kind)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        _checked(value, isinstance(value, Mapping), kind)
        return {_key(args[0], key): _from(args[1], item) for key, item in value.items()}
    return _union(args, value, kind)


def _scalar(kind: Any, value: Any) -> Any:
    if kind is float:
        _checked(value, isinstance(value, (int, float)) and not isinstance(value, bool), kind)
        return float(value)
    if kind is int:
        return _checked(value, isinstance(value, int) and not isinstance(value, bool), kind)
    return _checked(value, isinstance(value, kind), kind)


def _record(kind: type[Any], value: Any) -> Any:
    _checked(value, isinstance(value, Mapping), kind)
    hints = get_type_hints(kind)
    known = {f.name: _from(hints[f.name], value[f.name]) for f in fields(kind) if f.name in value}
    try:
        return kind(**known)
    except TypeError as error:  # a field without default is missing
        raise ValueError(f"no {kind.__name__}: {error}") from error


def _tuple(args: tuple[Any, ...], value: Any, kind: Any) -> tuple[Any, ...]:
    _checked(value, isinstance(value, Sequence) and not isinstance(value, str), kind)
    if len(args) == 2 and args[1] is Ellipsis:
        return tuple(_from(args[0], item) for item in value)
    _checked(value, len(args) == len(value), kind)
    return tuple(_from(arg, item) for arg, item in zip(args, value, strict=True))


def _union(args: tuple[Any, ...], value: Any, kind: Any) -> Any:
    for arg in args:
        try:
            return _from(arg, value)
        except ValueError:
            continue
    raise ValueError(f"{value!r:.60} is no {kind}")


def _key(kind: Any, key: str) -> Any:
    if kind is not int:
        return key
    return int(key)


def _checked(value: Any, right: bool, kind: Any) -> Any:
    if not right:
        raise ValueError(f"{value!r:.60} is no {getattr(kind, '__name__', kind)}")
    return value
