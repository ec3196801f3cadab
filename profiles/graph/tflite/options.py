"""The options of a TFLite operator under the schema's own names, in snake case."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any, cast

from mnv4_deploy.profiles.records.graph import Attribute

# Fields that hold a number of an enumeration, and the enumeration.
_ENUMS = {"padding": "Padding", "fused_activation_function": "ActivationFunctionType"}


def read_options(op: Any, schema: Any) -> dict[str, Attribute]:
    """The options of the FlatBuffer operator ``op``; empty where it has none.

    Paddings and activations are the names of the schema ("SAME", "RELU6"), vectors are tuples;
    other tables and text lists are left out. Raises what reading a damaged FlatBuffer raises.
    """
    return _read(
        op.BuiltinOptions(), op.BuiltinOptionsType(), schema.BuiltinOptions, schema
    ) | _read(op.BuiltinOptions2(), op.BuiltinOptions2Type(), schema.BuiltinOptions2, schema)


def called_graphs(options: Mapping[str, Attribute]) -> tuple[int, ...]:
    """The graphs of the file that an operator with ``options`` runs, in the options' order."""
    found: list[int] = []
    for key, value in options.items():
        if key == "subgraph" or key.endswith("subgraph_index"):
            found.append(int(cast("int", value)))
        elif key.endswith("subgraph_indices"):
            found += map(int, cast("tuple[int, ...]", value))
    return tuple(dict.fromkeys(found))


def _read(table: Any, kind: int, enum: type, schema: Any) -> dict[str, Attribute]:
    name = _names(enum).get(kind, "NONE")
    if table is None or name == "NONE":
        return {}
    options = getattr(schema, name)()
    options.Init(table.Bytes, table.Pos)
    values = vars(getattr(schema, f"{name}T").InitFromObj(options))
    found = {}
    for field, value in values.items():
        key = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", field).lower()
        attribute = _attribute(value, getattr(schema, _ENUMS[key]) if key in _ENUMS else None)
        if attribute is not None:
            found[key] = attribute
    return found


@cache
def _names(enum: type) -> Mapping[Any, str]:
    return {v: k for k, v in vars(enum).items() if isinstance(v, int)}


def _attribute(value: Any, enum: type | None) -> Attribute | None:
    if enum is not None:
        return _names(enum)[value]
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, bool | int | float | str):
        return value
    try:
        items = value.tolist() if hasattr(value, "tolist") else list(value)
    except TypeError:  # another table, or nothing
        return None
    return tuple(items) if all(isinstance(item, int | float) for item in items) else None
