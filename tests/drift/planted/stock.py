"""Candidates as the formats' own quantizers make them, from a float file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

from mnv4_deploy.exporters.to_tflite.flatbuffer import TfliteFile
from mnv4_deploy.profiles.runtimes.litert.interpreter import allocate, open_interpreter
from mnv4_deploy.profiles.runtimes.quiet import quiet

Inputs = npt.NDArray[np.float32]
Recipe = Literal["weight_only_wi4_afp32", "dynamic_wi8_afp32", "static_wi8_ai16", "static_wi8_ai8"]
# The first opset and file version with int4.
_OPSET, _IR_VERSION = 21, 10
_LARGEST = 7


def quantize_tflite(
    recipe: Recipe, source: Path, path: Path, inputs: Inputs | None = None
) -> None:
    """``inputs`` ``[N, H, W, 3]`` are for the static recipes."""
    with quiet():
        from ai_edge_quantizer import quantizer
        from ai_edge_quantizer import recipe as recipes

        work = quantizer.Quantizer(str(source))
        work.load_quantization_recipe(getattr(recipes, recipe)())
        statistics = None if inputs is None else _statistics(source, inputs)
        path.write_bytes(work.quantize(statistics).quantized_model)


def _statistics(source: Path, inputs: Inputs) -> dict[str, Any]:
    file = TfliteFile(source)
    found: dict[int, tuple[float, float]] = {}
    interpreter = open_interpreter(source, keep_tensors=True)
    allocate(interpreter)
    tensors = {int(t) for operator in file.graph.operators for t in operator.outputs}
    tensors |= {int(t) for t in file.graph.inputs}
    for image in inputs:
        interpreter.set_tensor(int(file.graph.inputs[0]), image[None])
        interpreter.invoke()
        for tensor in tensors:
            values = interpreter.get_tensor(tensor)
            low, high = found.get(tensor, (0.0, 0.0))
            found[tensor] = min(low, float(values.min())), max(high, float(values.max()))
    return {
        file.name(tensor): {
            key: np.full((1,) * len(file.shape(tensor)), end, np.float32)
            for key, end in zip(("min", "max"), ends, strict=True)
        }
        for tensor, ends in found.items()
    }


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, name: str, inputs: Inputs) -> None:
        self._feeds = iter([{name: image.transpose(2, 0, 1)[None]} for image in inputs])

    def get_next(self) -> dict[str, Any] | None:
        return next(self._feeds, None)


def quantize_onnx_16(source: Path, path: Path, inputs: Inputs) -> None:
    """16-bit activations, 8-bit weights."""
    name = onnx.load(source).graph.input[0].name
    with quiet():
        quantize_static(
            str(source),
            str(path),
            _Reader(name, inputs),
            per_channel=True,
            activation_type=QuantType.QUInt16,
            weight_type=QuantType.QInt8,
        )


def quantize_onnx_dynamic(source: Path, path: Path) -> None:
    with quiet():
        quantize_dynamic(str(source), str(path), per_channel=True, weight_type=QuantType.QInt8)


def quantize_onnx_4(source: Path, path: Path) -> None:
    """Weights of 4 bits with a scale a channel, behind a DequantizeLinear; the rest is float."""
    model = onnx.load(source)
    model.ir_version = _IR_VERSION
    for opset in model.opset_import:
        opset.version = _OPSET if opset.domain == "" else opset.version
    unpacked = list(_unpacked(model.graph))
    rest = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*unpacked, *rest])
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def _unpacked(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    stored = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type not in ("Conv", "Gemm"):
            continue
        name = node.input[1]
        weight = numpy_helper.to_array(stored[name])
        scale = np.abs(weight).reshape(len(weight), -1).max(axis=1) / _LARGEST
        codes = np.rint(weight / scale.reshape(-1, *[1] * (weight.ndim - 1))).astype(np.int8)
        graph.initializer.remove(stored[name])
        graph.initializer.extend(
            [
                helper.make_tensor(f"{name}_4", TensorProto.INT4, weight.shape, codes.ravel()),
                numpy_helper.from_array(scale.astype(np.float32), f"{name}_scale"),
            ]
        )
        yield helper.make_node("DequantizeLinear", [f"{name}_4", f"{name}_scale"], [name], axis=0)
