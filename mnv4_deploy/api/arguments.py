"""From what a caller wrote to the records of the pipelines: types checked, refusals of ours."""

from __future__ import annotations

import operator
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import (
    TYPE_CHECKING,
    Any,
    Literal,
    TypeAlias,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from mnv4_deploy.errors import UnsupportedError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mnv4_deploy.profiles.records.device import DeviceOptions
    from mnv4_deploy.profiles.records.inputs import GivenInput

AnyPath: TypeAlias = str | os.PathLike[str]
# By input, "" for the only one of a file: a shape.
Shapes: TypeAlias = Mapping[str, Sequence[int]]
# By input: a number for all elements, several, an array, or what --input takes behind the "=".
Inputs: TypeAlias = "Mapping[str, str | float | Sequence[float] | NDArray[np.generic]]"

_Record = TypeVar("_Record")
_NAMES = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "text",
    Path: "a path",
    NoneType: "None",
}


class _UnfitError(Exception):
    """A value is not of the type that is wanted."""


def record(kind: type[_Record], **values: Any) -> _Record:
    """A record of class ``kind`` with ``values``, each as its field's type has it.

    Paths stand for text and text for paths, any sequence for a tuple, and a text alone for a
    tuple with it. Raises UnsupportedError for a value of another type.
    """
    hints = get_type_hints(kind)
    return kind(**{name: fitted(name, value, hints[name]) for name, value in values.items()})


def fitted(name: str, value: Any, hint: Any) -> Any:
    """``value`` of the argument ``name`` as type ``hint`` has it. Raises UnsupportedError."""
    try:
        return _fit(value, hint)
    except _UnfitError:
        raise UnsupportedError(
            f"{name} cannot be {value!r}: give {' or '.join(_described(hint))}."
        ) from None


def device_options(
    setup: bool, python: str, folder: AnyPath, benchmark_model: AnyPath
) -> DeviceOptions:
    """What was said about a device. Raises UnsupportedError."""
    from mnv4_deploy.profiles.records.device import DeviceOptions

    return DeviceOptions(
        setup=fitted("setup", setup, bool),
        python=fitted("device_python", python, str),
        folder=fitted("device_folder", folder, str),
        benchmark_model=fitted("benchmark_model", benchmark_model, str),
    )


def given_inputs(inputs: Inputs | None) -> dict[str, GivenInput]:
    """``inputs`` as the pipelines take them. Raises UnsupportedError."""
    return {
        name: _given(name, value)
        for name, value in fitted("inputs", inputs or {}, Mapping[str, Any]).items()
    }


def _given(name: str, value: Any) -> GivenInput:
    from mnv4_deploy.profiles.graph.given_inputs import given_array, read_given

    if hasattr(value, "__array__") and getattr(value, "ndim", None):
        import numpy as np

        return given_array(np.asarray(value), f"inputs[{name!r}]")
    if isinstance(value, str | os.PathLike):
        text = os.fspath(value)
    else:
        numbers = fitted(f"inputs[{name!r}]", value, bool | float | tuple[bool | float, ...])
        text = ",".join(map(_number, numbers if isinstance(numbers, tuple) else (numbers,)))
    return read_given([f"{name}={text}"])[name]


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(value)


def _fit(value: Any, hint: Any) -> Any:
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return _fit_one_of(value, parts)
    if origin is Literal:
        if isinstance(value, str) and value in parts:
            return value
        raise _UnfitError
    if origin is tuple:
        return _fit_tuple(value, parts)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise _UnfitError
        return {_fit(key, parts[0]): _fit(entry, parts[1]) for key, entry in value.items()}
    return _fit_plain(value, hint)


def _fit_plain(value: Any, hint: Any) -> Any:
    if hint is Any or getattr(hint, "_is_protocol", None):  # whoever uses it says what it lacks
        return value
    if hint in (str, Path) and isinstance(value, str | os.PathLike):
        path = os.fspath(value)
        if isinstance(path, str):
            return hint(path)
    elif hint in (int, float) and not isinstance(value, bool | str):
        try:
            return operator.index(value) if hint is int else float(value)
        except (TypeError, ValueError):
            raise _UnfitError from None
    elif isinstance(value, hint):
        return value
    raise _UnfitError


def _fit_one_of(value: Any, hints: Sequence[Any]) -> Any:
    for hint in hints:
        try:
            return _fit(value, hint)
        except _UnfitError:
            continue
    raise _UnfitError


def _fit_tuple(value: Any, parts: tuple[Any, ...]) -> tuple[Any, ...]:
    if isinstance(value, str | os.PathLike):
        value = (value,)
    try:
        values = tuple(value)
    except TypeError:
        raise _UnfitError from None
    wanted = [parts[0]] * len(values) if parts[1:] == (...,) else parts
    if len(values) != len(wanted):
        raise _UnfitError
    return tuple(_fit(entry, hint) for entry, hint in zip(values, wanted, strict=True))


def _described(hint: Any) -> list[str]:
    """What fits, in words, each alternative once."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return list(dict.fromkeys(word for part in parts for word in _described(part)))
    if origin is Literal:
        return list(map(repr, parts))
    if origin is tuple:
        of = " or ".join(_described(parts[0]))
        return [f"{of} (one or several)" if parts[1:] == (...,) else f"{len(parts)} times {of}"]
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return ["a dictionary"]
    return [_NAMES.get(hint, f"a {getattr(hint, '__name__', hint)}")]
