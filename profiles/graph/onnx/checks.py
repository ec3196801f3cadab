"""What an .onnx file must be for anything that reads it: protobuf checks none of this.

protobuf gives bytes for a text that is not UTF-8, any number for an element type, and data of any
length for a shape; local functions that call each other twice grow without bound once the runtime
puts them in place.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

# onnxruntime's time grows with the square of these; no network has nearly as many.
MAX_NODES = 100_000
MAX_TENSORS = 20_000
_MAX_DEPTH = 64  # of functions in functions
_SHOWN = 60
# Bits of an element where they are not those of NumPy's type.
_SMALL_BITS = {"INT4": 4, "UINT4": 4, "FLOAT4": 4, "FLOAT6": 6, "INT2": 2, "UINT2": 2}
_MAX_ELEMENTS = 1 << 48


@dataclass(frozen=True)
class _Storage:
    """Bits of an element (0 for a text), and the field that holds elements that are not raw:
    ``entries`` of it are ``per_entry`` elements."""

    bits: int
    field: str
    entries: int
    per_entry: int


class DamagedError(Exception):
    """What is wrong with a file, to go behind its name, and what to do about it."""


def check_model(model: Any) -> None:
    """Raise DamagedError for texts that are not UTF-8, for tensors whose data do not fit their
    type and shape, and for more nodes or tensors than can be read in reasonable time.

    ``model`` is an ``onnx.ModelProto``. Data in other files are left out: see
    :func:`check_tensor` once they are there.
    """
    nodes = _nodes_once_expanded(model)
    if nodes > MAX_NODES:
        raise DamagedError(
            f"has more than {MAX_NODES:,} nodes, counting those of its functions wherever they are"
            " called: give a smaller model"
        )
    tensors = 0
    for message in _messages(model):
        if message.DESCRIPTOR.name == "TensorProto":
            tensors += 1
            check_tensor(message)
    if tensors > MAX_TENSORS:
        raise DamagedError(
            f"stores {tensors:,} tensors, of at most {MAX_TENSORS:,}: give a smaller model"
        )


def check_tensor(tensor: Any) -> None:
    """Raise DamagedError where the data of ``tensor`` (an ``onnx.TensorProto``) that are in it do
    not fit its type and shape."""
    named = f"its tensor {tensor.name[:_SHOWN]!r}"
    stored = _storages().get(tensor.data_type)
    if stored is None:
        raise DamagedError(
            f"is damaged or of a newer kind ({named} is of element type {tensor.data_type}, which"
            " onnx does not know): export it again"
        )
    count = math.prod(tensor.dims)
    if any(side < 0 for side in tensor.dims) or count > _MAX_ELEMENTS:
        raise DamagedError(
            f"is damaged ({named} has the shape {list(tensor.dims)[:8]}): export it again"
        )
    if tensor.data_location == tensor.EXTERNAL:
        return
    if tensor.HasField("raw_data"):
        held, wanted, unit = len(tensor.raw_data), -(-count * stored.bits // 8), "bytes"
    else:
        held, unit = len(getattr(tensor, stored.field)), "values"
        wanted = -(-count * stored.entries // stored.per_entry)
    if held != wanted:
        raise DamagedError(
            f"is damaged ({named} has {held} {unit} for the shape {list(tensor.dims)[:8]}, which"
            f" takes {wanted}): export it again"
        )


@cache
def _storages() -> Mapping[int, _Storage]:
    """By element type."""
    import onnx

    types = onnx.TensorProto.DataType
    found: dict[int, _Storage] = {onnx.TensorProto.STRING: _Storage(0, "string_data", 1, 1)}
    for name, number in types.items():
        if number in (onnx.TensorProto.UNDEFINED, onnx.TensorProto.STRING):
            continue
        own = 8 * onnx.helper.tensor_dtype_to_np_dtype(number).itemsize
        bits = next((small for start, small in _SMALL_BITS.items() if name.startswith(start)), own)
        found[number] = _Storage(
            bits,
            onnx.helper.tensor_dtype_to_field(number),
            entries=2 if name.startswith("COMPLEX") else 1,
            per_entry=max(1, 8 // bits),
        )
    return found


def _messages(message: Any) -> Iterator[Any]:
    """All messages in a protobuf message, itself included, the texts of each in UTF-8."""
    stack = [message]
    while stack:
        current = stack.pop()
        yield current
        for field, value in current.ListFields():
            if field.message_type is not None:
                stack.extend((value,) if hasattr(value, "ListFields") else value)
            elif field.type == field.TYPE_STRING:
                for text in (value,) if isinstance(value, str | bytes) else value:
                    if isinstance(text, bytes):
                        raise DamagedError(
                            f"is damaged (it holds the text {text[:_SHOWN]!r}, which is not"
                            " UTF-8): export it again"
                        )


def _nodes_once_expanded(model: Any) -> int:
    """Nodes of the model with a copy of each local function wherever it is called.

    Raises DamagedError for functions that call themselves.
    """
    functions = {(f.domain, f.name): f for f in model.functions}
    known: dict[tuple[str, str], int] = {}

    def count(nodes: Any, depth: int) -> int:
        if depth > _MAX_DEPTH:
            raise DamagedError(
                f"has functions that call each other more than {_MAX_DEPTH} deep, or without end:"
                " give a model without them"
            )
        total = 0
        for node in nodes:
            key = (node.domain, node.op_type)
            if key in functions:
                if key not in known:
                    known[key] = count(functions[key].node, depth + 1)
                total += known[key]
            total += 1
            for attribute in node.attribute:
                for graph in (
                    *([attribute.g] if attribute.HasField("g") else ()),
                    *attribute.graphs,
                ):
                    total += count(graph.node, depth + 1)
        return total

    return count(model.graph.node, 0)
