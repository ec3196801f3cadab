"""The types of a TFLite file's inputs and outputs.

XNNPACK takes QUANTIZE from float and between tensors of one 8-bit type, not from uint8 to int8;
DEQUANTIZE then QUANTIZE does the same inside the delegate, so that is what the edges are made of
for it. The integer-only target gets the single integer QUANTIZE instead.
"""

from __future__ import annotations

from typing import Any

from mnv4_deploy.exporters.recipes import Target
from mnv4_deploy.exporters.records import Io
from mnv4_deploy.exporters.to_tflite.flatbuffer import TfliteFile

_UINT8_OFFSET = 128


def set_input(file: TfliteFile, io: Io, target: Target) -> None:
    """Give an int8 model a float32 or uint8 input; it keeps its name."""
    if io == "int8":
        return
    inner = int(file.graph.inputs[0])
    name = file.name(inner)
    file.graph.tensors[inner].name = f"{name};int8".encode()
    scale, zero_point = file.quantization(inner)
    if io == "float":
        outer = file.add_tensor(name, inner, "float32")
        file.insert_unary(0, "QUANTIZE", outer, inner)
    else:
        outer = file.add_tensor(name, inner, "uint8", (scale, zero_point + _UINT8_OFFSET))
        _requantize(file, 0, outer, inner, target)
    _replace(file.graph.inputs, file.model.signatureDefs[0].inputs, inner, outer)


def set_outputs(file: TfliteFile, io: Io, target: Target) -> None:
    """Give an int8 model float32 or uint8 outputs; they keep their names."""
    if io == "int8":
        return
    for inner in [int(tensor) for tensor in file.graph.outputs]:
        name = file.name(inner)
        file.graph.tensors[inner].name = f"{name};int8".encode()
        scale, zero_point = file.quantization(inner)
        end = len(file.graph.operators)
        maker = file.producer(inner)
        if io == "float" and maker is not None and _is_from_float(file, maker):
            outer = int(maker.inputs[0])  # a float layer's: rounding it would only cost precision
            file.graph.operators.remove(maker)
            file.graph.tensors[outer].name = name.encode()
        elif io == "float":
            outer = file.add_tensor(name, inner, "float32")
            file.insert_unary(end, "DEQUANTIZE", inner, outer)
        else:
            outer = file.add_tensor(name, inner, "uint8", (scale, zero_point + _UINT8_OFFSET))
            _requantize(file, end, inner, outer, target)
        _replace(file.graph.outputs, file.model.signatureDefs[0].outputs, inner, outer)


def _is_from_float(file: TfliteFile, operator: Any) -> bool:
    if file.kind(operator) != "QUANTIZE":
        return False
    source = file.graph.tensors[int(operator.inputs[0])]
    return bool(source.type == file.schema.TensorType.FLOAT32)


def pixels_in(file: TfliteFile) -> None:
    """Make the float32 input of 0..1 pixels a uint8 input of 0..255."""
    inner = int(file.graph.inputs[0])
    name = file.name(inner)
    file.graph.tensors[inner].name = f"{name};float".encode()
    outer = file.add_tensor(name, inner, "uint8", (1 / 255, 0))
    file.insert_unary(0, "DEQUANTIZE", outer, inner)
    _replace(file.graph.inputs, file.model.signatureDefs[0].inputs, inner, outer)


def _requantize(file: TfliteFile, position: int, source: int, result: int, target: Target) -> None:
    if target == "integer-only":
        file.insert_unary(position, "QUANTIZE", source, result)
        return
    real = file.add_tensor(f"{file.name(source)};float", source, "float32")
    file.insert_unary(position, "QUANTIZE", real, result)
    file.insert_unary(position, "DEQUANTIZE", source, real)


def _replace(tensors: list[int], entries: list[Any], inner: int, outer: int) -> None:
    for index, tensor in enumerate(tensors):
        if int(tensor) == inner:
            tensors[index] = outer
    for entry in entries:
        if entry.tensorIndex == inner:
            entry.tensorIndex = outer
