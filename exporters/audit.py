"""What a written file is: the runtime's own word, and defects that only arithmetic shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mnv4_deploy.exporters.records import FileAudit
from mnv4_deploy.exporters.to_tflite.flatbuffer import TfliteFile
from mnv4_deploy.profiles.graph.onnx.links import OnnxLinks
from mnv4_deploy.profiles.inspection.inspect import inspect_file
from mnv4_deploy.profiles.records.files import FileFacts

if TYPE_CHECKING:
    import onnx

_INT32_MAX = 2**31 - 1
# Where an operator has its bias.
_WEIGHTED = {"CONV_2D": 2, "DEPTHWISE_CONV_2D": 2, "FULLY_CONNECTED": 2, "TRANSPOSE_CONV": 3}
# A constant beyond this is no activation: whatever shares its scale in int8 is lost.
_LARGEST_PADDING = 1e4
# A padded constant that takes more of the 256 steps than this leaves the values it pads few.
_PADDING_SHARE = 0.75


def check(path: Path, float_reasons: Mapping[str, str] | None = None) -> FileAudit:
    """Inspect ``path`` in a child process and look for overflowing biases and ruinous padding.

    ``float_reasons`` are the quantizer's, by the names of an ONNX file's nodes: they take the
    place of what can be told from the file.
    """
    facts = inspect_file(path)
    if path.suffix == ".tflite":
        file = TfliteFile(path)
        return FileAudit(path.name, facts, _tflite_biases(file), _tflite_padding(file))
    import onnx

    links = OnnxLinks(onnx.load(path).graph)
    if float_reasons:
        facts = _with_reasons(links.graph, facts, float_reasons)
    return FileAudit(path.name, facts, _onnx_biases(links), _onnx_padding(links))


def _with_reasons(
    graph: onnx.GraphProto, facts: FileFacts, reasons: Mapping[str, str]
) -> FileFacts:
    operators = tuple(
        replace(op, float_reason=reasons.get(graph.node[op.index].name, op.float_reason))
        if op.float_reason is not None
        else op
        for op in facts.operators
    )
    return replace(facts, operators=operators)


def _overflows(bias_q: np.ndarray, weight_q: np.ndarray, input_steps: int) -> bool:
    """Whether bias plus the largest possible sum of products can leave int32.

    ``weight_q`` has one row an output channel. A bias at the very limit was clipped already.
    """
    largest = np.abs(weight_q.astype(np.int64)).sum(axis=1) * input_steps
    return bool((np.abs(bias_q.astype(np.int64)) + largest >= _INT32_MAX).any())


def _tflite_biases(file: TfliteFile) -> tuple[str, ...]:
    found = []
    for operator in file.operators(*_WEIGHTED):
        tensors = [int(tensor) for tensor in operator.inputs]
        position = _WEIGHTED[file.kind(operator)]
        if len(tensors) <= position or tensors[position] < 0:
            continue
        bias_index = tensors[position]
        bias, weight = file.graph.tensors[bias_index], file.graph.tensors[tensors[1]]
        is_int8 = weight.type == file.schema.TensorType.INT8
        if bias.type != file.schema.TensorType.INT32 or not is_int8:
            continue
        weight_q = file.constant(tensors[1], np.int8)
        channels = file.shape(bias_index)[0]
        if file.kind(operator) == "DEPTHWISE_CONV_2D":
            weight_q = np.moveaxis(weight_q, -1, 0)
        rows = weight_q.reshape(channels, -1)
        if _overflows(file.constant(bias_index, np.int32), rows, 255):
            found.append(file.name(int(operator.outputs[0])))
    return tuple(found)


def _ruinous(value: float, step: float | None) -> bool:
    """Whether padding with ``value`` costs the padded values their precision.

    ``step`` is the int8 scale of the result, None in float.
    """
    if not np.isfinite(value) or abs(value) > _LARGEST_PADDING:
        return True
    return step is not None and abs(value) > _PADDING_SHARE * 255 * step


def _tflite_padding(file: TfliteFile) -> tuple[str, ...]:
    found = []
    types = file.schema.TensorType
    for operator in file.operators("PADV2"):
        constant, result = int(operator.inputs[2]), int(operator.outputs[0])
        if not file.is_constant(constant):
            continue
        kind = file.graph.tensors[constant].type
        if kind == types.FLOAT32:
            value, step = float(file.constant(constant, np.float32).ravel()[0]), None
        elif kind == types.INT8:
            scale, zero_point = file.quantization(constant)
            value = float(int(file.constant(constant, np.int8).ravel()[0]) - zero_point) * scale
            step, _ = file.quantization(result)
        else:
            continue
        if _ruinous(value, step):
            found.append(f"{file.name(result)} pads with {value:g}")
    return tuple(found)


def _onnx_biases(links: OnnxLinks) -> tuple[str, ...]:
    found = []
    for node in links.graph.node:
        if node.op_type not in ("Conv", "Gemm") or len(node.input) < 3:
            continue
        dequantizers = (links.maker(name, "DequantizeLinear") for name in node.input[1:3])
        weight_q, bias_q = (None if d is None else links.value(d.input[0]) for d in dequantizers)
        if weight_q is None or bias_q is None:
            continue
        transposed = node.op_type == "Gemm" and not any(
            a.name == "transB" and a.i for a in node.attribute
        )
        rows = (weight_q.T if transposed else weight_q).reshape(
            weight_q.shape[1 if transposed else 0], -1
        )
        if _overflows(bias_q, rows, 255):
            found.append(node.output[0])
    return tuple(found)


def _onnx_padding(links: OnnxLinks) -> tuple[str, ...]:
    found = []
    for node in links.graph.node:
        if node.op_type != "Pad" or len(node.input) < 3:
            continue
        source, result = node.input[2], node.output[0]
        constant, dequantizer = links.value(source), links.maker(source, "DequantizeLinear")
        if dequantizer is not None:
            # onnxruntime's quantizer always writes all three inputs.
            code, scale, zero_point = map(links.value, dequantizer.input)
            if code is None or scale is None or zero_point is None:
                continue
            value = float((int(code.ravel()[0]) - int(zero_point)) * scale)
        elif constant is not None:
            value = float(constant.ravel()[0])
        else:
            continue
        quantizers = (n for n in links.readers[result] if n.op_type == "QuantizeLinear")
        scales = (links.value(quantizer.input[1]) for quantizer in quantizers)
        step = next((float(scale) for scale in scales if scale is not None), None)
        if _ruinous(value, step):
            found.append(f"{result} pads with {value:g}")
    return tuple(found)
