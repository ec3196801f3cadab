"""Room for biases in int32: wider weight scales for channels that have next to no weights.

A bias is stored in steps of input scale times weight scale. A channel whose weights have died in
training has a tiny scale, and its bias, which is all it outputs, is clipped at 2^31
(ai-edge-quantizer), or fits so tightly that the first products make it wrap (onnxruntime's
quantizer, which widens the scale to just that: onnxruntime#25278). Here the scale of such a
channel is widened until its bias takes a quarter of int32. Its weights lose precision; beside
such a bias they do not count.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mnv4_deploy.exporters.to_tflite.flatbuffer import TfliteFile

LARGEST_BIAS = 2**29
_TFLITE = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 0}


@dataclass(frozen=True)
class WidenedScales:
    """A layer's weights and bias with wider scales; the channel axis of the codes as it was."""

    weight_codes: npt.NDArray[np.int8]
    weight_scales: npt.NDArray[np.float32]
    bias_codes: npt.NDArray[np.int32]


def widened_scales(bias: npt.NDArray[np.floating], input_scale: float) -> npt.NDArray[np.float64]:
    """The least weight scales with which the real values ``bias`` leave room."""
    needed: npt.NDArray[np.float64] = np.abs(bias.astype(np.float64)) / (
        input_scale * LARGEST_BIAS
    )
    return needed


def widen_scales(
    weight_codes: npt.NDArray[np.int8],
    weight_scales: npt.NDArray[np.float32],
    bias: npt.NDArray[np.floating],
    *,
    input_scale: float,
    axis: int,
) -> WidenedScales | None:
    """Widen the scales of channels whose ``bias`` exceeds ``LARGEST_BIAS`` steps; None for none.

    ``weight_scales`` has one value a channel of ``axis``, ``bias`` the real values.
    """
    scales = weight_scales.astype(np.float64)
    factors = np.maximum(1.0, widened_scales(bias, input_scale) / scales)
    if (factors == 1.0).all():
        return None
    widened = (scales * factors).astype(np.float32)
    along = [1] * weight_codes.ndim
    along[axis] = -1
    return WidenedScales(
        np.rint(weight_codes / factors.reshape(along)).astype(np.int8),
        widened,
        np.rint(bias / (input_scale * widened.astype(np.float64))).astype(np.int32),
    )


def widen_scales_in_tflite(quantized: TfliteFile, original: TfliteFile) -> tuple[str, ...]:
    """Apply it to every int8 layer, in place; the names of the biases that got room.

    The real biases are those of ``original``, the float32 file that was quantized.
    """
    types = quantized.schema.TensorType
    floats = {original.name(t): t for t in range(len(original.graph.tensors))}
    reads = Counter(int(t) for operator in quantized.graph.operators for t in operator.inputs)
    changed = []
    for operator in quantized.operators(*_TFLITE):
        source, weight, bias = (*map(int, operator.inputs), -1)[:3]
        if bias < 0 or quantized.graph.tensors[bias].type != types.INT32:
            continue
        name = quantized.name(bias)
        scales = np.array(quantized.graph.tensors[weight].quantization.scale, np.float32)
        is_alone = reads[weight] == reads[bias] == 1
        if not is_alone or name not in floats or scales.size != quantized.shape(bias)[0]:
            continue
        input_scale, _ = quantized.quantization(source)
        wider = widen_scales(
            quantized.constant(weight, np.int8),
            scales,
            original.constant(floats[name], np.float32),
            input_scale=input_scale,
            axis=_TFLITE[quantized.kind(operator)],
        )
        if wider is not None:
            _set(quantized, weight, wider.weight_codes, wider.weight_scales)
            _set(quantized, bias, wider.bias_codes, input_scale * wider.weight_scales)
            changed.append(name)
    return tuple(changed)


def _set(
    file: TfliteFile, tensor: int, codes: npt.NDArray[Any], scales: npt.NDArray[np.floating]
) -> None:
    entry = file.graph.tensors[tensor]
    if sum(int(other.buffer) == int(entry.buffer) for other in file.graph.tensors) > 1:
        # Equal constants share a buffer: this one is no longer equal.
        file.model.buffers.append(file.schema.BufferT())
        entry.buffer = len(file.model.buffers) - 1
    file.model.buffers[entry.buffer].data = np.frombuffer(codes.tobytes(), np.uint8)
    entry.quantization.scale = scales.astype(np.float32)
