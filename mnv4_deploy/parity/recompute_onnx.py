"""The inputs, weights and options of an .onnx layer as :mod:`exact` takes them, channels last."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx

from mnv4_deploy.layers.families import CONVERSIONS, DEQUANTIZE
from mnv4_deploy.layers.layer import Array, Quantization
from mnv4_deploy.layers.networks.onnx_constants import Constants
from mnv4_deploy.layers.quantizations import quantizations
from mnv4_deploy.parity.exact import F64, Given
from mnv4_deploy.parity.layer_tally import Evidence
from mnv4_deploy.profiles.graph.onnx.model import load_onnx
from mnv4_deploy.profiles.records.graph import ModelGraph, Operator

_LAST = (0, 2, 3, 1)
_SOURCE, _WEIGHTS, _BIAS = range(3)
_MOVES = frozenset({"Reshape", "Transpose", "QuantizeLinear", *DEQUANTIZE})
_ELEMENTWISE = {"Add": "ADD", "Sub": "SUB", "Mul": "MUL"}


_Found = tuple[Given, Evidence]


def onnx_given(path: Path, graph: ModelGraph, evidence: Evidence) -> _Found | None:
    """What a Conv computes from, and its results with the channels last; or an Add, Sub or Mul.

    None for other operators, and where something is in the way: a padding by a rule, an
    activation other than Relu, an input that does not come as it is.
    """
    model = load_onnx(onnx, path, weights=True)
    node = model.graph.node[evidence.layer.op]
    facts = _Facts(model, graph)
    if node.op_type in _ELEMENTWISE:
        return _elementwise(facts, node, evidence)
    if node.op_type != "Conv" or evidence.here.ndim != len(_LAST):
        return None
    return _conv(facts, node, evidence)


def _elementwise(facts: _Facts, node: onnx.NodeProto, evidence: Evidence) -> _Found | None:
    activation = facts.activation(node, evidence.layer.name)
    values, scales = {}, {}
    for at, name in enumerate(node.input):
        found = facts.source(name, evidence)
        if found is None:
            constant = facts.constant(name)
            found = None if constant is None else (constant, np.zeros(1))
        if found is None:
            return None
        values[at], scales[at] = found
    if activation is None:
        return None
    kind = _ELEMENTWISE[node.op_type]
    options = {"fused_activation_function": activation}
    op = Operator(evidence.layer.op, kind, node.name, tuple(values), (), options)
    return Given(values, scales, op, evidence.here.shape), evidence


def _conv(
    facts: _Facts, node: onnx.NodeProto, evidence: Evidence
) -> tuple[Given, Evidence] | None:
    options = facts.options(node, evidence)
    source = facts.source(node.input[0], evidence)
    weights = facts.weights(node)
    if options is None or source is None or weights is None:
        return None
    values: dict[int, F64] = {_SOURCE: source[0].transpose(_LAST), _WEIGHTS: weights[0]}
    inputs = [_SOURCE, _WEIGHTS]
    if len(node.input) > _BIAS and node.input[_BIAS]:
        bias = facts.constant(node.input[_BIAS])
        if bias is None:
            return None
        values[_BIAS] = bias
        inputs.append(_BIAS)
    last = replace(
        evidence,
        here=np.ascontiguousarray(evidence.here.transpose(_LAST)),
        there=np.ascontiguousarray(evidence.there.transpose(_LAST)),
    )
    op = Operator(evidence.layer.op, "CONV_2D", node.name, tuple(inputs), (), options)
    scales = {_SOURCE: source[1], _WEIGHTS: weights[1]}
    return Given(values, scales, op, last.here.shape), last


class _Facts:
    def __init__(self, model: onnx.ModelProto, graph: ModelGraph) -> None:
        self._constants = Constants(model.graph)
        self._index = {tensor.name: i for i, tensor in enumerate(graph.tensors)}
        self._shapes = [tensor.shape for tensor in graph.tensors]
        self._quantization: Mapping[int, Quantization] = quantizations(graph)

    def options(self, node: onnx.NodeProto, evidence: Evidence) -> dict[str, int | str] | None:
        own = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        activation = self.activation(node, evidence.layer.name)
        if own.get("auto_pad", b"NOTSET") != b"NOTSET" or activation is None:
            return None
        pads, strides = own.get("pads", [0] * 4), own.get("strides", [1, 1])
        dilations = own.get("dilations", [1, 1])
        return {
            **{"pad_top": pads[0], "pad_left": pads[1], "padding": "EXPLICIT"},
            **{"stride_h": strides[0], "stride_w": strides[1]},
            **{"dilation_h_factor": dilations[0], "dilation_w_factor": dilations[1]},
            "fused_activation_function": activation,
        }

    def activation(self, node: onnx.NodeProto, end: str) -> str | None:
        """What stands between ``node`` and the tensor ``end``; None for what is not known."""
        found, name = "NONE", end
        while name not in node.output:
            maker = self._constants.makers.get(name)
            if maker is None or maker.op_type not in CONVERSIONS | {"Relu"}:
                return None
            found = "RELU" if maker.op_type == "Relu" else found
            name = maker.input[0]
        return found

    def source(self, name: str, evidence: Evidence) -> tuple[F64, F64] | None:
        """Real values of a tensor and their step, 0 for floats."""
        found = self._kept(name, evidence)
        if found is None:
            return None
        array, own = found
        if array.dtype.kind != "f" and own is None:
            return None
        real = array.astype(np.float64)
        if own is None:
            return real, np.zeros(1)
        return (real - own.zero_point) * own.scale, np.array([own.scale])

    def _kept(self, name: str, evidence: Evidence) -> tuple[Array, Quantization | None] | None:
        """What the layer read there. Sources stand before operators that only move values."""
        at = self._index.get(name, -1)
        own, maker = self._quantization.get(at), self._constants.makers.get(name)
        array = evidence.sources.get(at)
        if array is None and own is not None:
            array = self._quantized(name, own, evidence)
        if array is not None:
            return array, own
        if maker is None or maker.op_type not in _MOVES:
            return None
        inner = self._kept(maker.input[0], evidence)
        if inner is None or (maker.op_type == "QuantizeLinear" and inner[1] != own):
            return None
        if maker.op_type == "Reshape":
            return inner[0].reshape(self._shapes[at]), inner[1]
        if maker.op_type == "Transpose":
            order = {a.name: list(a.ints) for a in maker.attribute}.get("perm")
            return inner[0].transpose(order), inner[1]
        return inner

    def _quantized(self, name: str, own: Quantization, evidence: Evidence) -> Array | None:
        """Codes of a file's float input: QuantizeLinear has one result alone that is right."""
        maker = self._constants.maker(name, "QuantizeLinear")
        if maker is None:
            return None
        values = evidence.sources.get(self._index.get(maker.input[0], -1))
        if values is None:
            return None
        codes = np.rint(values / np.float32(own.scale)) + own.zero_point
        return np.asarray(np.clip(codes, *own.codes)).astype(own.dtype)

    def weights(self, node: onnx.NodeProto) -> tuple[F64, F64] | None:
        """``[out, height, width, in / groups]``."""
        found = self._constants.weights(node)
        if found is None or len(found.scales) not in (0, 1, len(found.values)):
            return None
        values = found.values.astype(np.float64)
        if not found.scales:
            return values.transpose(_LAST), np.zeros(1)
        scales = np.array(found.scales, np.float64)
        # The values are float32, whose rounding would move a tie.
        shape = (-1, *[1] * (values.ndim - 1))
        values = np.rint(values / scales.reshape(shape)) * scales.reshape(shape)
        return values.transpose(_LAST), scales

    def constant(self, name: str) -> F64 | None:
        maker = self._constants.maker(name, "DequantizeLinear")
        if maker is None:
            stored = self._constants.value(name)
            return None if stored is None else stored.astype(np.float64)
        parts = [self._constants.value(part) for part in maker.input]
        if any(part is None for part in parts):
            return None
        codes, scale, *zero = (np.asarray(part, np.float64) for part in parts)
        return np.asarray((codes - (zero[0] if zero else 0.0)) * scale)
