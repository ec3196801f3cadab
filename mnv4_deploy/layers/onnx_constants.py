"""What an .onnx file stores: weights and scales, as real numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from mnv4_deploy.layers.families import DEQUANTIZE, WEIGHTED
from mnv4_deploy.layers.layer import Array, Weights

# Positions of weights, their scale, their zero point and the bias.
_INTEGER_WEIGHTS = {
    "QLinearConv": (3, 4, 5, 8),
    "QLinearMatMul": (3, 4, 5, -1),
    "QGemm": (3, 4, 5, 6),
}
# Real values, and their scales.
_Unpacked = tuple[npt.NDArray[np.float32], tuple[float, ...]]


class Constants:
    """Initializers and Constant nodes of a graph, also those behind a DequantizeLinear."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                self._tensors[node.output[0]] = node.attribute[0].t
        self._makers = {name: node for node in graph.node for name in node.output}

    def value(self, name: str) -> Array | None:
        """None for what is not stored."""
        tensor = self._tensors.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def scalar_pair(self, names: Sequence[str]) -> tuple[float, int] | None:
        """Scale and zero point (0 if it is left out); None where they are not single numbers."""
        scale = self.value(names[0])
        zero_point = self.value(names[1]) if len(names) > 1 and names[1] else np.zeros(1)
        if scale is None or zero_point is None or scale.size != 1 or float(scale.item()) <= 0:
            return None
        return float(scale.item()), int(zero_point.item())

    def weights(self, node: onnx.NodeProto) -> Weights | None:
        """None for a node without constant weights, or with weights of an unusual kind."""
        if node.op_type in _INTEGER_WEIGHTS:
            at, scale_at, zero_at, bias_at = _INTEGER_WEIGHTS[node.op_type]
            bias = node.input[bias_at] if 0 < bias_at < len(node.input) else ""
            found = self._unpacked(node.input[at], node.input[scale_at], node.input[zero_at], None)
        elif node.op_type in WEIGHTED and len(node.input) > 1:
            bias = node.input[2] if len(node.input) > 2 else ""
            found = self._float_weights(node.input[1])
            maker = self._makers.get(bias)
            bias = maker.input[0] if maker is not None and maker.op_type in DEQUANTIZE else bias
        else:
            return None
        if found is None:
            return None
        values, scales = found
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        if values.ndim == 2 and not attributes.get("transB"):
            values = values.T
        if node.op_type == "ConvTranspose":
            values = values.swapaxes(0, 1)
        codes, largest = self.value(bias), None
        if codes is not None and codes.dtype.kind == "i":
            largest = int(np.abs(codes.astype(np.int64)).max(initial=0))
        depthwise = "Conv" in node.op_type and 1 < attributes.get("group", 1) == len(values)
        return Weights(values, scales, largest, depthwise)

    def _float_weights(self, name: str) -> _Unpacked | None:
        values = self.value(name)
        if values is not None:
            return (values.astype(np.float32), ()) if values.dtype.kind == "f" else None
        maker = self._makers.get(name)
        if maker is None or maker.op_type not in DEQUANTIZE:
            return None
        axis = next((a.i for a in maker.attribute if a.name == "axis"), 1)
        zero_point = maker.input[2] if len(maker.input) > 2 else ""
        return self._unpacked(maker.input[0], maker.input[1], zero_point, axis)

    def _unpacked(
        self, name: str, scale_name: str, zero_point_name: str, axis: int | None
    ) -> _Unpacked | None:
        """Real values of integer weights; ``axis`` None: the one of the output channels."""
        codes, scale = self.value(name), self.value(scale_name)
        if codes is None or scale is None:
            return None
        zero_point = self.value(zero_point_name)
        shape = [1] * codes.ndim
        if scale.size > 1:
            channel = (0 if codes.ndim == 4 else codes.ndim - 1) if axis is None else axis
            if codes.shape[channel] != scale.size:
                return None  # scales of blocks
            shape[channel] = -1
        offset = np.zeros(1) if zero_point is None else zero_point.astype(np.float32)
        if offset.size > 1:
            offset = offset.reshape(shape)
        values = (codes.astype(np.float32) - offset) * scale.reshape(shape).astype(np.float32)
        return values.astype(np.float32), tuple(map(float, scale.ravel()))

    def padding(self, node: onnx.NodeProto) -> float | None:
        """The constant of a Pad, as a real number; None for other nodes and other modes."""
        modes = {a.s for a in node.attribute if a.name == "mode"}
        if node.op_type != "Pad" or modes - {b"constant"}:
            return None
        if len(node.input) < 3 or not node.input[2]:
            return 0.0
        found = self._float_weights(node.input[2])
        return None if found is None else float(found[0].ravel()[0])
