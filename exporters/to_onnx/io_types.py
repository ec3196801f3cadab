"""The types of a QDQ file's inputs and outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mnv4_deploy.exporters.ranges import Range
from mnv4_deploy.exporters.records import Io

if TYPE_CHECKING:
    import onnx

_INT8_SHIFT = 128


def set_io(model: onnx.ModelProto, io: Io) -> dict[str, str]:
    """Give a model with uint8 activations inputs and outputs of type ``io``.

    Returns ``{"<name>.scale": ..., "<name>.zero_point": ...}`` of the 8-bit ones. For uint8 the
    outer QuantizeLinear and DequantizeLinear go. onnxruntime's kernels compute in uint8, so int8
    puts a pair of conversions there. Inputs that are integers already (pixels) stay as they are.
    """
    facts: dict[str, str] = {}
    if io == "float":
        return facts
    for value in model.graph.input:
        if value.type.tensor_type.elem_type == 1:
            facts |= _integer_input(model, value, io)
    for value in model.graph.output:
        facts |= _integer_output(model, value, io)
    return facts


def round_edges(model: onnx.ModelProto, ranges: Mapping[str, Range]) -> None:
    """Round float inputs that a float operator reads and outputs that one makes, to uint8.

    ``set_io`` can then give them integer types. ``ranges`` are those of the inputs and outputs.
    """
    graph = model.graph
    for value in graph.input:
        readers = [node for node in graph.node if value.name in node.input]
        if value.type.tensor_type.elem_type != 1 or (
            len(readers) == 1 and readers[0].op_type == "QuantizeLinear"
        ):
            continue
        inner = f"{value.name};rounded"
        for node in readers:
            node.input[:] = [inner if name == value.name else name for name in node.input]
        _add_pair(model, value.name, inner, ranges[value.name])
    for value in graph.output:
        maker = next(node for node in graph.node if value.name in node.output)
        if value.type.tensor_type.elem_type != 1 or maker.op_type == "DequantizeLinear":
            continue
        inner = f"{value.name};exact"
        for node in graph.node:
            node.input[:] = [inner if name == value.name else name for name in node.input]
        maker.output[:] = [inner if name == value.name else name for name in maker.output]
        _add_pair(model, inner, value.name, ranges[value.name])


def _add_pair(model: onnx.ModelProto, source: str, result: str, bounds: Range) -> None:
    """A QuantizeLinear to uint8 and a DequantizeLinear from ``source`` to ``result``."""
    import numpy as np
    from onnx import helper, numpy_helper

    low, high = bounds
    scale = np.float32((high - low) / 255 or 1.0)
    parameters = [f"{source};scale", f"{source};zero_point"]
    for name, constant in zip(parameters, (scale, np.uint8(round(-low / scale))), strict=True):
        model.graph.initializer.append(numpy_helper.from_array(np.array(constant), name))
    codes = f"{source};uint8"
    for kind, read, written in (
        ("QuantizeLinear", source, codes),
        ("DequantizeLinear", codes, result),
    ):
        model.graph.node.append(
            helper.make_node(kind, [read, *parameters], [written], name=f"{codes}/{kind}")
        )


def _integer_input(model: onnx.ModelProto, value: onnx.ValueInfoProto, io: Io) -> dict[str, str]:
    graph = model.graph
    readers = [node for node in graph.node if value.name in node.input]
    if len(readers) != 1 or readers[0].op_type != "QuantizeLinear":
        return {}
    quantize = readers[0]
    if io == "uint8":
        for node in graph.node:
            node.input[:] = [value.name if i == quantize.output[0] else i for i in node.input]
        graph.node.remove(quantize)
    else:
        outer = f"{value.name};float"
        graph.node.insert(0, _dequantize_int8(model, value.name, outer, quantize))
        quantize.input[0] = outer
    return _describe(model, value, quantize, io)


def _integer_output(model: onnx.ModelProto, value: onnx.ValueInfoProto, io: Io) -> dict[str, str]:
    graph = model.graph
    dequantize = next(node for node in graph.node if value.name in node.output)
    if dequantize.op_type != "DequantizeLinear":
        return {}
    if io == "uint8":
        quantize = next(node for node in graph.node if dequantize.input[0] in node.output)
        inner = dequantize.input[0]
        graph.node.remove(dequantize)
        for node in graph.node:
            node.input[:] = [value.name if i == inner else i for i in node.input]
        quantize.output[0] = value.name
        return _describe(model, value, quantize, io)
    from onnx import helper

    inner = f"{value.name};float"
    for node in graph.node:
        node.input[:] = [inner if i == value.name else i for i in node.input]
    dequantize.output[0] = inner
    zero_point = _int8_zero_point(model, dequantize)
    graph.node.append(
        helper.make_node(
            "QuantizeLinear",
            [inner, dequantize.input[1], zero_point],
            [value.name],
            name=f"{value.name}/QuantizeLinear",
        )
    )
    return _describe(model, value, dequantize, io)


def _dequantize_int8(
    model: onnx.ModelProto, source: str, result: str, like: onnx.NodeProto
) -> onnx.NodeProto:
    from onnx import helper

    inputs = [source, like.input[1], _int8_zero_point(model, like)]
    return helper.make_node(
        "DequantizeLinear", inputs, [result], name=f"{source}/DequantizeLinear"
    )


def _constant(model: onnx.ModelProto, name: str) -> float:
    from onnx import numpy_helper

    tensor = next(t for t in model.graph.initializer if t.name == name)
    return float(numpy_helper.to_array(tensor))


def _int8_zero_point(model: onnx.ModelProto, like: onnx.NodeProto) -> str:
    import numpy as np
    from onnx import numpy_helper

    name = f"{like.input[2]};int8"
    value = np.int8(_constant(model, like.input[2]) - _INT8_SHIFT)
    model.graph.initializer.append(numpy_helper.from_array(np.array(value), name))
    return name


def _describe(
    model: onnx.ModelProto, value: onnx.ValueInfoProto, like: onnx.NodeProto, io: Io
) -> dict[str, str]:
    from onnx import TensorProto

    value.type.tensor_type.elem_type = TensorProto.UINT8 if io == "uint8" else TensorProto.INT8
    zero_point = int(_constant(model, like.input[2])) - (0 if io == "uint8" else _INT8_SHIFT)
    return {
        f"{value.name}.scale": repr(_constant(model, like.input[1])),
        f"{value.name}.zero_point": str(zero_point),
    }
