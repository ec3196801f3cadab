"""The weights and biases of an int8 ONNX file, on the grid of our choice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mnv4_deploy.exporters.bias_overflow import widened_scales
from mnv4_deploy.exporters.pair_scales import WeightGrid, channel_scales, layer_grid
from mnv4_deploy.profiles.graph.onnx.links import OnnxLinks

_QUANTIZED = "_quantized"  # what onnxruntime's quantizer adds to the name of a constant
_MATRIX_RANK = 2


@dataclass(frozen=True)
class _Layer:
    """Names: codes and scales of the weight, those of the bias (none: empty), the input's scale.

    ``transposed``: the weight is ``[C_in, C_out]``. ``groups`` are those of a convolution, else 1.
    """

    weight: tuple[str, str]
    bias: tuple[str, ...]
    input_scale: str
    transposed: bool
    groups: int


def set_weights(quantized: OnnxLinks, original: OnnxLinks, grid: WeightGrid) -> None:
    """Quantize the weights of all layers of ``quantized`` again, in place, on ``grid``.

    ``quantized`` is ``original`` in QDQ form as onnxruntime's quantizer made it, with weights per
    output channel. Where a bias would not fit, its channel's scale is wider (``bias_overflow``); a
    weight that several layers read has the scales that all of their biases need. Products with
    constants of more than two dimensions, which have no int8 kernel, stay as they are.
    """
    from onnx import numpy_helper

    constants, floats = quantized.constants, original.constants

    def value(name: str) -> npt.NDArray[Any]:
        return numpy_helper.to_array(constants[name])

    def put(name: str, array: npt.NDArray[Any]) -> None:
        constants[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), name))

    def real_bias(layer: _Layer) -> npt.NDArray[np.float64]:
        codes, scales = layer.bias
        if (name := codes.removesuffix(_QUANTIZED)) in floats:
            return numpy_helper.to_array(floats[name]).astype(np.float64)
        # A copy that the quantizer made because two layers read this bias.
        dequantized: npt.NDArray[np.float64] = value(codes) * value(scales).astype(np.float64)
        return dequantized

    readers: dict[tuple[str, str], list[_Layer]] = {}
    for layer in _layers(quantized):
        if layer.weight[0].removesuffix(_QUANTIZED) in floats:
            readers.setdefault(layer.weight, []).append(layer)
    for (codes_name, scales_name), layers in readers.items():
        weight = numpy_helper.to_array(floats[codes_name.removesuffix(_QUANTIZED)])
        weight = weight.T if layers[0].transposed else weight
        scales = channel_scales(weight, layer_grid(grid, weight.shape, layers[0].groups))
        biases = [(layer, real_bias(layer)) for layer in layers if layer.bias]
        for layer, bias in biases:
            needed = widened_scales(bias.ravel(), float(value(layer.input_scale)))
            scales = np.maximum(scales, needed).astype(np.float32)
        scales = np.where(scales > 0, scales, np.float32(1))
        codes = np.rint(weight / scales.reshape(-1, *[1] * (weight.ndim - 1))).astype(np.int8)
        put(codes_name, codes.T if layers[0].transposed else codes)
        put(scales_name, scales)
        for layer, bias in biases:
            steps = float(value(layer.input_scale)) * scales.astype(np.float64)
            put(layer.bias[0], np.rint(bias / steps).astype(np.int32))
            put(layer.bias[1], steps.astype(np.float32))


def _layers(links: OnnxLinks) -> Iterator[_Layer]:
    """The operators that multiply with constant int8 weights."""
    constants = links.constants.keys()
    for node in links.graph.node:
        if node.op_type not in ("Conv", "Gemm", "MatMul"):
            continue
        source, weight, *rest = (links.maker(name, "DequantizeLinear") for name in node.input)
        if (
            source is None
            or weight is None
            or not {*weight.input[:2], source.input[1]} <= constants
        ):
            continue
        codes = links.constants[weight.input[0]]
        if node.op_type != "Conv" and len(codes.dims) != _MATRIX_RANK:
            continue
        biases = (tuple(bias.input[:2]) for bias in rest if bias is not None)
        attributes = {a.name: a.i for a in node.attribute}
        yield _Layer(
            (weight.input[0], weight.input[1]),
            next((bias for bias in biases if constants >= {*bias}), ()),
            source.input[1],
            transposed=node.op_type != "Conv" and not attributes.get("transB"),
            groups=attributes.get("group", 1),
        )
