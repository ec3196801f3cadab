"""What an ONNX graph stores: initializers and the tensors of Constant nodes."""

from __future__ import annotations

from typing import Any

from mnv4_deploy.profiles.records.graph import Tensor

_TYPE_NAMES = {"float": "float32", "double": "float64"}
UNKNOWN_TYPE = "unknown"


def dtype_name(onnx: Any, element_type: int) -> str:
    """NumPy's name of an element type, ONNX's own where NumPy has none."""
    name = str(onnx.TensorProto.DataType.Name(element_type)).lower()
    return _TYPE_NAMES.get(name, name)


def constants_of(onnx: Any, graph: Any) -> dict[str, Tensor]:
    """Initializers and the outputs of Constant nodes of a graph, without those inside others."""

    def constant(name: str, shape: tuple[int, ...], dtype: str) -> None:
        found[name] = Tensor(name, shape, dtype, constant=True, declared=shape)

    found: dict[str, Tensor] = {}
    for tensor in graph.initializer:
        constant(tensor.name, tuple(tensor.dims), dtype_name(onnx, tensor.data_type))
    for sparse in graph.sparse_initializer:
        values = sparse.values
        constant(values.name, tuple(sparse.dims), dtype_name(onnx, values.data_type))
    for node in graph.node:
        if node.op_type == "Constant" and node.output:
            for attribute in node.attribute:
                constant(node.output[0], *_typed(onnx, attribute))
    return found


def _typed(onnx: Any, attribute: Any) -> tuple[tuple[int, ...], str]:
    """Shape and element type of what ``attribute`` of a Constant node holds."""
    if attribute.name == "value":
        return tuple(attribute.t.dims), dtype_name(onnx, attribute.t.data_type)
    if attribute.name == "sparse_value":
        sparse = attribute.sparse_tensor
        return tuple(sparse.dims), dtype_name(onnx, sparse.values.data_type)
    scalar = {"value_float": "float32", "value_int": "int64", "value_string": "string"}
    if attribute.name in scalar:
        return (), scalar[attribute.name]
    many = max(len(attribute.floats), len(attribute.ints), len(attribute.strings))
    return (many,), scalar.get(attribute.name.removesuffix("s"), UNKNOWN_TYPE)
