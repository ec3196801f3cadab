"""What an .onnx file stores: weights and scales, as real numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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
_DYNAMIC = ("ConvInteger", "MatMulInteger")
_PACKED = "MatMulNBits"
_HALF_BYTE = 4


@dataclass(frozen=True)
class _Unpacked:
    """Real values, their scales and the bits of what is stored."""

    values: npt.NDArray[np.float32]
    scales: tuple[float, ...] = ()
    bits: int = 32


class Constants(OnnxLinks):
    """What nodes compute with that the file stores, also behind a DequantizeLinear."""

    def weights(self, node: onnx.NodeProto) -> Weights | None:
        """None for a node without constant weights, or with weights of an unusual kind."""
        if node.op_type in _INTEGER_WEIGHTS:
            at, scale_at, zero_at, bias_at = _INTEGER_WEIGHTS[node.op_type]
            bias = node.input[bias_at] if 0 < bias_at < len(node.input) else ""
            found = self._unpacked(node.input[at], node.input[scale_at], node.input[zero_at], None)
        elif node.op_type in _DYNAMIC:
            bias, zero_point = "", node.input[3] if len(node.input) > 3 else ""
            found = self._unpacked(node.input[1], self._scale_behind(node), zero_point, None)
        elif node.op_type == _PACKED:
            bias, found = "", self._packed(node)
        elif node.op_type in WEIGHTED and len(node.input) > 1:
            bias = node.input[2] if len(node.input) > 2 else ""
            found = self._float_weights(node.input[1])
            dequantize = self.maker(bias, "DequantizeLinear")
            bias = bias if dequantize is None else dequantize.input[0]
        else:
            return None
        if found is None:
            return None
        values = found.values
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        if values.ndim == 2 and not attributes.get("transB") and node.op_type != _PACKED:
            values = values.T
        if node.op_type == "ConvTranspose":
            values = values.swapaxes(0, 1)
        codes, largest = self.value(bias), None
        if codes is not None and codes.dtype.kind == "i":
            largest = int(np.abs(codes.astype(np.int64)).max(initial=0))
        depthwise = "Conv" in node.op_type and 1 < attributes.get("group", 1) == len(values)
        return Weights(
            values, found.scales, largest, depthwise, found.bits, node.op_type in _DYNAMIC
        )

    def stored(self, node: onnx.NodeProto, values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Float weights as ``weights`` gives them, in the order in which ``node`` takes them."""
        attributes = {a.name: a.i for a in node.attribute}
        if values.ndim == 2 and not attributes.get("transB"):
            values = values.T
        if node.op_type == "ConvTranspose":
            values = values.swapaxes(0, 1)
        return np.ascontiguousarray(values, np.float32)

    def _scale_behind(self, node: onnx.NodeProto) -> str:
        """The scale of the weights in the Mul behind a product's Cast; "" where it is not."""
        for kind in ("Cast", "Mul"):
            readers = self.readers[node.output[0]]
            if len(readers) != 1 or readers[0].op_type != kind:
                return ""
            (node,) = readers
        names = list(node.input)
        for name in node.input:
            scales = self.maker(name, "Mul")
            names += [] if scales is None else scales.input
        return next((name for name in names if self.value(name) is not None), "")

    def _packed(self, node: onnx.NodeProto) -> _Unpacked | None:
        """Weights ``[N, K]`` of 4 bits, two a byte, in blocks along K; None for other bits."""
        size = {a.name: a.i for a in node.attribute}
        codes, scales = self.value(node.input[1]), self.value(node.input[2])
        if size.get("bits", 4) != _HALF_BYTE or codes is None or scales is None:
            return None
        n, k = size["N"], size["K"]
        offsets = np.full((n, scales.size // n), 8.0)
        if len(node.input) > 3 and node.input[3]:
            stored = self.value(node.input[3])
            if stored is None or stored.dtype != np.uint8:
                return None
            offsets = _halves(stored.reshape(n, -1))[:, : offsets.shape[1]]
        steps = scales.reshape(n, -1, 1).astype(np.float32)
        blocks = _halves(codes.reshape(*steps.shape[:2], -1)).astype(np.float32)
        values = ((blocks - offsets[..., None]) * steps).reshape(n, -1)[:, :k]
        return _Unpacked(values.astype(np.float32), tuple(map(float, steps.ravel())), _HALF_BYTE)

    def _float_weights(self, name: str) -> _Unpacked | None:
        values = self.value(name)
        if values is not None:
            return _Unpacked(values.astype(np.float32)) if values.dtype.kind == "f" else None
        dequantize = self.maker(name, "DequantizeLinear")
        if dequantize is None:
            return None
        axis = next((a.i for a in dequantize.attribute if a.name == "axis"), 1)
        zero_point = dequantize.input[2] if len(dequantize.input) > 2 else ""
        return self._unpacked(dequantize.input[0], dequantize.input[1], zero_point, axis)

    def _unpacked(
        self, name: str, scale_name: str, zero_point_name: str, axis: int | None
    ) -> _Unpacked | None:
        """Real values of integer weights; ``axis`` None: the one of the output channels.

        Scales of blocks lie along the axis that is divided.
        """
        codes, scale = self.value(name), self.value(scale_name)
        if codes is None or scale is None:
            return None
        zero_point = self.value(zero_point_name)
        channel = (0 if codes.ndim == 4 else codes.ndim - 1) if axis is None else axis
        offset = np.zeros(1) if zero_point is None else zero_point.astype(np.float32)
        placed = [_placed(values, codes.shape, channel) for values in (offset, scale)]
        if placed[0] is None or placed[1] is None:
            return None
        values = (codes.astype(np.float32) - placed[0]) * placed[1]
        bits = _HALF_BYTE if "int4" in str(codes.dtype) else 8 * codes.dtype.itemsize
        return _Unpacked(values.astype(np.float32), tuple(map(float, scale.ravel())), bits)

    def padding(self, node: onnx.NodeProto) -> float | None:
        """The constant of a Pad, as a real number; None for other nodes and other modes."""
        modes = {a.s for a in node.attribute if a.name == "mode"}
        if node.op_type != "Pad" or modes - {b"constant"}:
            return None
        if len(node.input) < 3 or not node.input[2]:
            return 0.0
        found = self._float_weights(node.input[2])
        return None if found is None else float(found.values.ravel()[0])


def _placed(
    values: npt.NDArray[Any], shape: tuple[int, ...], channel: int
) -> npt.NDArray[np.float32] | None:
    """``values`` (one, one a channel, or one a block) so that they multiply ``shape``."""
    values = values.astype(np.float32)
    if values.size == 1:
        return values.reshape([1] * len(shape))
    if values.size == shape[channel]:
        return values.reshape([-1 if i == channel else 1 for i in range(len(shape))])
    if values.ndim != len(shape):
        return None
    block = -(-shape[channel] // values.shape[channel])
    return values.repeat(block, channel).take(range(shape[channel]), channel)


def _halves(packed: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The 4-bit numbers of the last axis' bytes, the lower half first."""
    both = np.stack([packed & 15, packed >> 4], axis=-1)
    return both.reshape(*packed.shape[:-1], -1)
