"""What an .onnx file stores: weights and scales, as real numbers."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx

from mnv4_deploy.layers.families import WEIGHTED
from mnv4_deploy.layers.layer import Weights
from mnv4_deploy.profiles.graph.onnx.links import OnnxLinks

# Positions of weights, their scale, their zero point and the bias.
_INTEGER_WEIGHTS = {
    "QLinearConv": (3, 4, 5, 8),
    "QLinearMatMul": (3, 4, 5, -1),
    "QGemm": (3, 4, 5, 6),
}
# Real values, and their scales.
_Unpacked = tuple[npt.NDArray[np.float32], tuple[float, ...]]


class Constants(OnnxLinks):
    """What nodes compute with that the file stores, also behind a DequantizeLinear."""

    def weights(self, node: onnx.NodeProto) -> Weights | None:
        """None for a node without constant weights, or with weights of an unusual kind."""
        if node.op_type in _INTEGER_WEIGHTS:
            at, scale_at, zero_at, bias_at = _INTEGER_WEIGHTS[node.op_type]
            bias = node.input[bias_at] if 0 < bias_at < len(node.input) else ""
            found = self._unpacked(node.input[at], node.input[scale_at], node.input[zero_at], None)
        elif node.op_type in WEIGHTED and len(node.input) > 1:
            bias = node.input[2] if len(node.input) > 2 else ""
            found = self._float_weights(node.input[1])
            dequantize = self.maker(bias, "DequantizeLinear")
            bias = bias if dequantize is None else dequantize.input[0]
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
        dequantize = self.maker(name, "DequantizeLinear")
        if dequantize is None:
            return None
        axis = next((a.i for a in dequantize.attribute if a.name == "axis"), 1)
        zero_point = dequantize.input[2] if len(dequantize.input) > 2 else ""
        return self._unpacked(dequantize.input[0], dequantize.input[1], zero_point, axis)

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
