"""One-operator .onnx files for measuring peaks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mnv4_deploy.profiles.machine.products import ZERO_POINT, Compute, Product, random_weights


def write_onnx(path: Path, product: Product, compute: Compute) -> Path:
    """Conv, or MatMul; QDQ around it for static 8-bit, DynamicQuantizeLinear for dynamic."""
    rng = np.random.default_rng(0)
    matrix = product.kernel == 0
    rows, side = product.height * product.width, product.kernel
    data_shape: tuple[int, ...] = (rows, product.channels)
    out_shape: tuple[int, ...] = (rows, product.filters)
    weight_shape: tuple[int, ...] = (product.channels, product.filters)
    if not matrix:
        data_shape = (1, product.channels, product.height, product.width)
        out_shape = (1, product.filters, product.height, product.width)
        weight_shape = (product.filters, product.channels, side, side)
    graph = _OnnxGraph()
    kind, extra = ("MatMul", {}) if matrix else ("Conv", {"pads": [side // 2] * 4})
    held = "float32" if compute == "float32" else "int8"
    weight = graph.constant("weight", random_weights(rng, weight_shape, held))
    if compute == "float32":
        graph.node(kind, ["x", weight], "y", **extra)
    elif compute == "int8 dynamic":
        graph.node("DynamicQuantizeLinear", ["x"], "q", "q_scale", "q_zero")
        zero = graph.constant("weight_zero", np.zeros((), np.int8))
        integer = {"MatMul": "MatMulInteger", "Conv": "ConvInteger"}[kind]
        graph.node(integer, ["q", weight, "q_zero", zero], "sums", **extra)
        graph.node("Cast", ["sums"], "float_sums", to=1)
        graph.node("Mul", ["float_sums", "q_scale"], "y")
    else:
        axis = 1 if matrix else 0
        scales = graph.constant("scales", np.full(product.filters, 0.01, np.float32))
        zeros = graph.constant("zeros", np.zeros(product.filters, np.int8))
        scale = graph.constant("scale", np.float32(0.02))
        zero = graph.constant("zero", np.array(ZERO_POINT[compute], compute))
        graph.node("QuantizeLinear", ["x", scale, zero], "xq")
        graph.node("DequantizeLinear", ["xq", scale, zero], "xd")
        graph.node("DequantizeLinear", [weight, scales, zeros], "wd", axis=axis)
        graph.node(kind, ["xd", "wd"], "product", **extra)
        graph.node("QuantizeLinear", ["product", scale, zero], "yq")
        graph.node("DequantizeLinear", ["yq", scale, zero], "y")
    return graph.write(path, data_shape, out_shape)


def write_onnx_chain(path: Path, length: int) -> Path:
    """``length`` additions of 16 floats, each of the last one's result."""
    graph = _OnnxGraph()
    last = "x"
    for step in range(length):
        result = "y" if step == length - 1 else f"y{step}"
        graph.node("Add", [last, "x"], result)
        last = result
    return graph.write(path, (1, 16), (1, 16))


class _OnnxGraph:
    """Collects nodes of an .onnx file with one float input "x" and one float output "y"."""

    def __init__(self) -> None:
        import onnx

        self._onnx: Any = onnx
        self._nodes: list[Any] = []
        self._constants: list[Any] = []

    def constant(self, name: str, value: Any) -> str:
        self._constants.append(self._onnx.numpy_helper.from_array(np.asarray(value), name))
        return name

    def node(self, kind: str, inputs: Sequence[str], *outputs: str, **attributes: Any) -> None:
        name = f"{kind}{len(self._nodes)}"
        self._nodes.append(
            self._onnx.helper.make_node(kind, inputs, outputs, name=name, **attributes)
        )

    def write(self, path: Path, shape: Sequence[int], out_shape: Sequence[int]) -> Path:
        value, floats = self._onnx.helper.make_tensor_value_info, self._onnx.TensorProto.FLOAT
        graph = self._onnx.helper.make_graph(
            self._nodes,
            "machine",
            [value("x", floats, shape)],
            [value("y", floats, out_shape)],
            self._constants,
        )
        opsets = [self._onnx.helper.make_opsetid("", 17)]
        model = self._onnx.helper.make_model(graph, opset_imports=opsets)
        model.ir_version = 8
        self._onnx.save(model, str(path))
        return path
