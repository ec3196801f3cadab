"""The types of a QDQ file's inputs and outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from mnv4_deploy.exporters.ranges import Range
from mnv4_deploy.exporters.records import Io
from mnv4_deploy.profiles.graph.onnx.links import OnnxLinks

if TYPE_CHECKING:
    import onnx

_INT8_SHIFT = 128


def set_io(links: OnnxLinks, io: Io) -> dict[str, str]:
    """Give a graph with uint8 activations inputs and outputs of type ``io``.

    Returns ``{"<name>.scale": ..., "<name>.zero_point": ...}`` of the 8-bit ones. For uint8 the
    outer QuantizeLinear and DequantizeLinear go. onnxruntime's kernels compute in uint8, so int8
    puts a pair of conversions there. Inputs that are integers already (pixels) stay as they are.
    """
    facts: dict[str, str] = {}
    if io == "float":
        return facts
    for value in links.graph.input:
        if value.type.tensor_type.elem_type == 1:
            facts |= _integer_input(links, value, io)
    for value in links.graph.output:
        facts |= _integer_output(links, value, io)
    return facts


def round_edges(links: OnnxLinks, ranges: Mapping[str, Range]) -> None:
    """Round float inputs that a float operator reads and outputs that one makes, to uint8.

    ``set_io`` can then give them integer types. ``ranges`` are those of the inputs and outputs.
    """
    for value in links.graph.input:
        is_float = value.type.tensor_type.elem_type == 1
        if is_float and links.reader_kinds(value.name) != ["QuantizeLinear"]:
            inner = f"{value.name};rounded"
            links.replace_reads(value.name, inner)
            _add_pair(links, value.name, inner, ranges[value.name])
    for value in links.graph.output:
        is_float = value.type.tensor_type.elem_type == 1
        if is_float and links.maker(value.name, "DequantizeLinear") is None:
            inner = f"{value.name};exact"
            links.rename(value.name, inner)
            _add_pair(links, inner, value.name, ranges[value.name])


def _add_pair(links: OnnxLinks, source: str, result: str, bounds: Range) -> None:
    """A QuantizeLinear to uint8 and a DequantizeLinear from ``source`` to ``result``."""
    low, high = bounds
    scale = np.float32((high - low) / 255 or 1.0)
    parameters = [f"{source};scale", f"{source};zero_point"]
    links.add_constant(parameters[0], scale)
    links.add_constant(parameters[1], np.uint8(round(-low / scale)))
    codes = f"{source};uint8"
    for kind, read, written in (
        ("QuantizeLinear", source, codes),
        ("DequantizeLinear", codes, result),
    ):
        links.add(kind, [read, *parameters], written, name=f"{codes}/{kind}")


def _integer_input(links: OnnxLinks, value: onnx.ValueInfoProto, io: Io) -> dict[str, str]:
    if links.reader_kinds(value.name) != ["QuantizeLinear"]:
        return {}
    (quantize,) = links.readers[value.name]
    if io == "uint8":
        links.remove(quantize)
        links.replace_reads(quantize.output[0], value.name)
    else:
        outer = f"{value.name};float"
        links.replace_reads(value.name, outer)
        _add_int8(links, "DequantizeLinear", value.name, outer, quantize)
    return _describe(links, value, quantize, io)


def _integer_output(links: OnnxLinks, value: onnx.ValueInfoProto, io: Io) -> dict[str, str]:
    dequantize = links.maker(value.name, "DequantizeLinear")
    if dequantize is None:
        return {}
    inner = f"{value.name};float"
    if io == "uint8":
        if links.readers[value.name]:  # as numbers, not as codes
            links.rename(value.name, inner)
        else:
            links.remove(dequantize)
        links.rename(dequantize.input[0], value.name)
    else:
        links.rename(value.name, inner)
        _add_int8(links, "QuantizeLinear", inner, value.name, dequantize)
    return _describe(links, value, dequantize, io)


def _add_int8(links: OnnxLinks, kind: str, source: str, result: str, like: onnx.NodeProto) -> None:
    """A conversion to or from int8 with the scale of ``like``, one to or from uint8."""
    zero_point = f"{like.input[2]};int8"
    links.add_constant(zero_point, np.int8(_constant(links, like.input[2]) - _INT8_SHIFT))
    edge = source if kind == "DequantizeLinear" else result
    links.add(kind, [source, like.input[1], zero_point], result, name=f"{edge}/{kind}")


def _constant(links: OnnxLinks, name: str) -> float:
    from onnx import numpy_helper

    return float(numpy_helper.to_array(links.constants[name]))


def _describe(
    links: OnnxLinks, value: onnx.ValueInfoProto, like: onnx.NodeProto, io: Io
) -> dict[str, str]:
    from onnx import TensorProto

    value.type.tensor_type.elem_type = TensorProto.UINT8 if io == "uint8" else TensorProto.INT8
    zero_point = int(_constant(links, like.input[2])) - (0 if io == "uint8" else _INT8_SHIFT)
    return {
        f"{value.name}.scale": repr(_constant(links, like.input[1])),
        f"{value.name}.zero_point": str(zero_point),
    }
