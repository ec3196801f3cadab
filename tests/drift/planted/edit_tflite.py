"""Edits of a .tflite file by module path: weights of a float file, scales of an int8 one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mnv4_deploy.exporters.to_tflite.flatbuffer import TfliteFile

Array = npt.NDArray[Any]


class TfliteEdit:
    """Weights are ``[out, in / groups, h, w]``, biases ``[out]``, as in PyTorch."""

    def __init__(self, path: Path) -> None:
        self.file = TfliteFile(path)

    def write(self, path: Path) -> None:
        self.file.write(path)

    # A float file.

    def weights(self, module: str) -> tuple[Array, Array]:
        operator = self._convolution(module)
        weight, bias = (self.file.constant(int(i), np.float32) for i in operator.inputs[1:3])
        axes = (3, 0, 1, 2) if self._depthwise(operator) else (0, 3, 1, 2)
        return weight.transpose(axes), bias

    def set_weights(self, module: str, weight: Array, bias: Array) -> None:
        operator = self._convolution(module)
        self._write(operator.inputs[1], self._stored(operator, weight.astype(np.float32)))
        self._write(operator.inputs[2], bias.astype(np.float32))

    def change_classes(self, order: list[int], factor: float = 1.0) -> None:
        """Class k becomes class ``order[k]``, times ``factor``."""
        (product,) = self.file.operators("FULLY_CONNECTED")
        for tensor in map(int, product.inputs[1:3]):
            self._write(tensor, self.file.constant(tensor, np.float32)[order] * np.float32(factor))

    def set_padding(self, module: str, value: float) -> None:
        operator = next(o for o in self.file.operators("PADV2") if self._made_by(o, module))
        self._write(operator.inputs[2], np.float32(value))

    # An int8 file.

    def stretch_range(self, module: str, factor: float) -> None:
        """Multiply the scale of a convolution's output; biases behind it keep their values."""
        tensors = [int(self._convolution(module).outputs[0])]
        for pad in self.file.operators("PAD"):  # has the scale of its input
            tensors += [int(pad.outputs[0])] if int(pad.inputs[0]) in tensors else []
        for tensor in tensors:
            self._parameters(tensor).scale = self._scales(tensor) * np.float32(factor)
        for reader in self.file.operators("CONV_2D", "DEPTHWISE_CONV_2D"):
            if int(reader.inputs[0]) in tensors:
                bias = int(reader.inputs[2])
                wide = self.file.graph.tensors[bias].type == self.file.schema.TensorType.INT64
                codes = self.file.constant(bias, np.int64 if wide else np.int32)
                self._write(bias, np.round(codes / factor).astype(codes.dtype))
                self._parameters(bias).scale = self._scales(bias) * np.float32(factor)

    def set_quantized_weights(self, module: str, codes: Array, scales: Array, bias: Array) -> None:
        """int8 codes, one scale or one a channel, and the real bias, saturated to int32."""
        operator = self._convolution(module)
        source, weight, offset = (int(i) for i in operator.inputs[:3])
        bias_scales = self._scales(source) * scales
        exact, limits = np.round(bias.astype(np.float64) / bias_scales), np.iinfo(np.int32)
        bias_codes = np.clip(exact, limits.min, limits.max).astype(np.int32)
        self._write(weight, self._stored(operator, codes.astype(np.int8)))
        self._write(offset, bias_codes)
        for tensor, steps in ((weight, scales), (offset, bias_scales)):
            self._parameters(tensor).scale = steps.astype(np.float32)
            self._parameters(tensor).zeroPoint = np.zeros(steps.size, np.int64)

    def _convolution(self, module: str) -> Any:
        convolutions = self.file.operators("CONV_2D", "DEPTHWISE_CONV_2D")
        return next(o for o in convolutions if self._made_by(o, module))

    def _made_by(self, operator: Any, module: str) -> bool:
        return self.file.name(int(operator.outputs[0])).startswith(module)

    def _depthwise(self, operator: Any) -> bool:
        return self.file.kind(operator) == "DEPTHWISE_CONV_2D"

    def _stored(self, operator: Any, weight: Array) -> Array:
        return weight.transpose((1, 2, 3, 0) if self._depthwise(operator) else (0, 2, 3, 1))

    def _parameters(self, tensor: int) -> Any:
        return self.file.graph.tensors[tensor].quantization

    def _scales(self, tensor: int) -> Array:
        return np.asarray(self._parameters(tensor).scale, np.float32)

    def _write(self, tensor: int, values: Array | np.generic) -> None:
        """Into a buffer of its own: the converter shares buffers between equal constants."""
        buffer = self.file.schema.BufferT()
        buffer.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
        self.file.model.buffers.append(buffer)
        self.file.graph.tensors[int(tensor)].buffer = len(self.file.model.buffers) - 1
