"""Edits of an .onnx file by module path: weights of a float file, scales of a QDQ one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

Array = npt.NDArray[Any]


class OnnxEdit:
    """Weights are ``[out, in / groups, h, w]``, biases ``[out]``."""

    def __init__(self, path: Path) -> None:
        self.model = onnx.load(path)
        self.graph = self.model.graph

    def write(self, path: Path) -> None:
        onnx.checker.check_model(self.model, full_check=True)
        onnx.save(self.model, path)

    # A float file.

    def weights(self, module: str) -> tuple[Array, Array]:
        node = self._convolution(module)
        return self._read(node.input[1]), self._read(node.input[2])

    def set_weights(self, module: str, weight: Array, bias: Array) -> None:
        node = self._convolution(module)
        self._write(node.input[1], weight.astype(np.float32))
        self._write(node.input[2], bias.astype(np.float32))

    def change_classes(self, order: list[int], factor: float = 1.0) -> None:
        """Class k becomes class ``order[k]``, times ``factor``."""
        (gemm,) = (n for n in self.graph.node if n.op_type == "Gemm")
        for name in gemm.input[1:3]:
            self._write(name, self._read(name)[order] * np.float32(factor))

    def set_padding(self, module: str, value: float) -> None:
        node = next(n for n in self.graph.node if n.op_type == "Pad" and module in n.name)
        self._write(node.input[2], np.float32(value))

    # An int8 file.

    def stretch_range(self, module: str, factor: float) -> None:
        """Multiply the scale of a convolution's output; biases behind it keep their values."""
        (quantize,) = self._readers(self._convolution(module).output[0])
        self._write(quantize.input[1], self._read(quantize.input[1]) * np.float32(factor))
        (dequantize,) = self._readers(quantize.output[0])
        for reader in self._readers(dequantize.output[0]):
            if reader.op_type == "Conv":
                bias = self._maker(reader.input[2])
                codes, scales = self._read(bias.input[0]), self._read(bias.input[1])
                self._write(bias.input[0], np.round(codes / factor).astype(np.int32))
                self._write(bias.input[1], scales * np.float32(factor))

    def set_quantized_weights(self, module: str, codes: Array, scales: Array, bias: Array) -> None:
        """int8 codes, one scale or one a channel, and the real bias, saturated to int32."""
        node = self._convolution(module)
        weight, offset = self._maker(node.input[1]), self._maker(node.input[2])
        bias_scales = self._read(self._maker(node.input[0]).input[1]) * scales
        exact, limits = np.round(bias.astype(np.float64) / bias_scales), np.iinfo(np.int32)
        bias_codes = np.clip(exact, limits.min, limits.max).astype(np.int32)
        for dequantize, values, scale in (
            (weight, codes.astype(np.int8), scales),
            (offset, bias_codes, bias_scales),
        ):
            per_tensor = scale.size == 1
            steps = scale.astype(np.float32).reshape(() if per_tensor else -1)
            if per_tensor:
                del dequantize.attribute[:]
            self._write(dequantize.input[0], values)
            self._write(dequantize.input[1], steps)
            self._write(dequantize.input[2], np.zeros(steps.shape, values.dtype))

    def quantize_result(self, kind: str, scale: float) -> None:
        """Put a QuantizeLinear/DequantizeLinear pair of this scale behind the float operator."""
        (maker,) = (n for n in self.graph.node if n.op_type == kind)
        readers, result = self._readers(maker.output[0]), maker.output[0]
        value = maker.output[0] = result if readers else f"{result}_float"
        for name, constant in ((f"{value}_s", np.float32(scale)), (f"{value}_z", np.uint8(0))):
            self.graph.initializer.append(numpy_helper.from_array(np.array(constant), name))
        constants = [f"{value}_s", f"{value}_z"]
        position = list(self.graph.node).index(maker) + 1
        make, code = onnx.helper.make_node, f"{value}_q"
        real = f"{value}_d" if readers else result
        pair = (
            make("QuantizeLinear", [value, *constants], [code], name=f"{value}_Q"),
            make("DequantizeLinear", [code, *constants], [real], name=f"{value}_D"),
        )
        for offset, node in enumerate(pair):
            self.graph.node.insert(position + offset, node)
        for reader in readers:
            reader.input[:] = [real if name == value else name for name in reader.input]

    def _convolution(self, module: str) -> Any:
        return next(
            n for n in self.graph.node if n.op_type == "Conv" and n.name.startswith(module)
        )

    def _maker(self, value: str) -> Any:
        return next(n for n in self.graph.node if value in n.output)

    def _readers(self, value: str) -> list[Any]:
        return [n for n in self.graph.node if value in n.input]

    def _read(self, name: str) -> Array:
        return numpy_helper.to_array(next(t for t in self.graph.initializer if t.name == name))

    def _write(self, name: str, values: Array | np.generic) -> None:
        tensor = next(t for t in self.graph.initializer if t.name == name)
        tensor.CopyFrom(numpy_helper.from_array(np.asarray(values), name))
