"""What a written file really is: the runtime's own word, and defects that only arithmetic shows."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mnv4_deploy.export_records import TruthCheck
from mnv4_deploy.exporters.tflite_flatbuffer import TfliteFile
from mnv4_deploy.profiles.inspect import inspect_file

_INT32_MAX = 2**31 - 1
_WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV")
# A padded constant this many times beyond the values it pads leaves them few of the 256 steps.
_OUTLIER_FACTOR = 4.0


def check(path: Path) -> TruthCheck:
    """Inspect ``path`` in a child process and look for overflowing biases and ruinous padding."""
    facts = inspect_file(path)
    if path.suffix == ".tflite":
        file = TfliteFile(path)
        biases, outliers = _tflite_biases(file), _tflite_padding(file)
    else:
        biases, outliers = _onnx_biases(path), _onnx_padding(path)
    return TruthCheck(path.name, facts, biases, outliers)


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
        if len(tensors) < 3 or tensors[2] < 0:
            continue
        bias, weight = file.graph.tensors[tensors[2]], file.graph.tensors[tensors[1]]
        is_int8 = weight.type == file.schema.TensorType.INT8
        if bias.type != file.schema.TensorType.INT32 or not is_int8:
            continue
        weight_q = file.constant(tensors[1], np.int8)
        channels = file.shape(tensors[2])[0]
        if file.kind(operator) == "DEPTHWISE_CONV_2D":
            weight_q = np.moveaxis(weight_q, -1, 0)
        rows = weight_q.reshape(channels, -1)
        if _overflows(file.constant(tensors[2], np.int32), rows, 255):
            found.append(file.name(int(operator.outputs[0])))
    return tuple(found)


def _tflite_padding(file: TfliteFile) -> tuple[str, ...]:
    found = []
    for operator in file.operators("PADV2"):
        source, _, constant = (int(tensor) for tensor in operator.inputs)
        kind = file.graph.tensors[constant].type
        if kind == file.schema.TensorType.FLOAT32:
            value = float(file.constant(constant, np.float32).ravel()[0])
            bad = not np.isfinite(value)
        else:
            # The constant shares the scale: at an end of the int8 range it set that range.
            scale, zero_point = file.quantization(source)
            value = float(file.constant(constant, np.int8).ravel()[0] - zero_point) * scale
            others = max(abs(-128 - zero_point), abs(127 - zero_point)) * scale
            bad = abs(value) > others / _OUTLIER_FACTOR and value != 0
        if bad:
            found.append(f"{file.name(int(operator.outputs[0]))} pads with {value:g}")
    return tuple(found)


def _onnx_biases(path: Path) -> tuple[str, ...]:
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(path).graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    dequantized = {
        node.output[0]: constants.get(node.input[0])
        for node in graph.node
        if node.op_type == "DequantizeLinear"
    }
    found = []
    for node in graph.node:
        if node.op_type not in ("Conv", "Gemm") or len(node.input) < 3:
            continue
        weight, bias = dequantized.get(node.input[1]), dequantized.get(node.input[2])
        if weight is None or bias is None:
            continue
        weight_q = numpy_helper.to_array(weight)
        transposed = node.op_type == "Gemm" and not any(
            a.name == "transB" and a.i for a in node.attribute
        )
        rows = (weight_q.T if transposed else weight_q).reshape(
            weight_q.shape[1 if transposed else 0], -1
        )
        if _overflows(numpy_helper.to_array(bias), rows, 255):
            found.append(node.output[0])
    return tuple(found)


def _onnx_padding(path: Path) -> tuple[str, ...]:
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(path).graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    found = []
    for node in graph.node:
        if node.op_type == "Pad" and len(node.input) > 2 and node.input[2] in constants:
            value = float(numpy_helper.to_array(constants[node.input[2]]).ravel()[0])
            if not np.isfinite(value) or abs(value) > 1e4:
                found.append(f"{node.output[0]} pads with {value:g}")
    return tuple(found)
