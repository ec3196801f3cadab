"""A layer recomputed in float64 at the elements where two sides differ."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mnv4_deploy.exporters.to_tflite.flatbuffer import TfliteFile
from mnv4_deploy.layers.layer import Array, Quantization
from mnv4_deploy.parity.differences import same_bits
from mnv4_deploy.parity.exact import F64, Given, Terms, compute
from mnv4_deploy.parity.layer_tally import Evidence
from mnv4_deploy.profiles.records.graph import ModelGraph, Operator, Tensor

_MAX_ELEMENTS = 512
_STORED = frozenset({"float16", "float32", "int8", "uint8", "int16", "int32", "int64"})
# What kernels may do differently with one int32 sum. Some multiply it in float32, the multiplier
# being a quotient of three scales; then half to even (XNNPACK's
# src/qs8-requantization/qs8-requantization-fp32-sse41.c). Some multiply it in fixed point and drop
# what is below the last bit, which moves no value over a tie; then half up (ditto,
# rndnu-neon-qdmulh.c). Some round to that last bit and then again, half away from zero (gemmlowp's
# fixedpoint.h, in TFLite's own kernels): the first rounding can move a value to a tie.
_FLOAT32 = 2.0**-24
_ROUNDINGS_OF_A_SUM = 4.0
# XNNPACK's additions scale each operand by a multiplier of 20 bits (microparams-init.c, qs8_add).
_ADDITION = 2.0**-19


@dataclass(frozen=True)
class Recomputed:
    """In codes of the output, or real values of a float one; one entry for each element checked.

    ``exact`` is what comes before rounding and after clipping, ``slack`` what a kernel may be
    off it before it rounds. ``largest`` is the largest magnitude of the tensor here.
    """

    exact: F64
    slack: F64
    here: F64
    there: F64
    differing: int
    terms: int
    codes: bool
    largest: float

    @property
    def tie_distance(self) -> float:
        """How far the exact values are at most from the middle between two codes."""
        return float(np.abs(self.exact - np.floor(self.exact) - 0.5).max())

    def off(self, side: F64) -> float:
        """How far a side is at most from the exact value."""
        return float(np.abs(side - self.exact).max())

    def explained(self, side: F64) -> bool:
        """Whether a side is everywhere a rounding of the exact value."""
        rounding = 0.5 if self.codes else 0.0
        return bool(np.all(np.abs(side - self.exact) <= rounding + self.slack))


def recompute(path: Path, graph: ModelGraph, evidence: Evidence) -> Recomputed | None:
    """None where the operator, a type or an input of it is not known."""
    op = graph.ops[evidence.layer.op]
    quantization = evidence.layer.quantization
    codes = evidence.here.dtype.kind in "iu"
    if len(op.outputs) != 1 or (codes and quantization is None):
        return None
    if graph.format == "onnx":
        from mnv4_deploy.parity.recompute_onnx import onnx_given

        found = onnx_given(path, graph, evidence)
        given, evidence = found or (None, evidence)
    else:
        given = _given(TfliteFile(path), graph, op, evidence)
    if given is None:
        return None
    places = np.nonzero(~same_bits(evidence.here, evidence.there))
    differing = len(places[0])
    step = math.ceil(differing / _MAX_ELEMENTS)
    at = tuple(place[::step] for place in places)
    terms = compute(given, at)
    if terms is None or not np.all(np.isfinite(terms.values)):
        return None
    if quantization is None:
        exact, slack = terms.values, _error_of_a_float_sum(terms)
    else:
        exact, slack = _in_codes(terms, quantization)
        if graph.format == "onnx":  # onnxruntime may run what is between DQ and Q in floats
            slack = np.maximum(slack, _error_of_a_float_sum(terms) / quantization.scale)
    return Recomputed(
        exact=exact,
        slack=slack,
        here=evidence.here[at].astype(np.float64),
        there=evidence.there[at].astype(np.float64),
        differing=differing,
        terms=terms.count,
        codes=codes,
        largest=float(np.abs(evidence.here.astype(np.float64)).max(initial=0.0)),
    )


def _in_codes(terms: Terms, quantization: Quantization) -> tuple[F64, F64]:
    values = terms.values / quantization.scale
    through_float32 = np.abs(values) * _FLOAT32 * _ROUNDINGS_OF_A_SUM
    operands = terms.total / quantization.scale * _ADDITION
    # A multiplier m 2^-s, with m from 1/2 to 1, leaves s bits behind the point.
    _, exponent = np.frexp(terms.unit / quantization.scale)
    twice = np.where(exponent < 0, 2.0 ** (exponent - 1.0), 0.0)
    slack = np.where(terms.unit > 0, through_float32 + twice, operands)
    exact = np.clip(values + quantization.zero_point, *quantization.codes)
    return exact.astype(np.float64), slack.astype(np.float64)


def _error_of_a_float_sum(terms: Terms) -> F64:
    """At most this, added in any order: Higham, Accuracy and Stability, (4.4)."""
    return (terms.count + _ROUNDINGS_OF_A_SUM) * _FLOAT32 * terms.total


def _given(file: TfliteFile, graph: ModelGraph, op: Operator, evidence: Evidence) -> Given | None:
    values: dict[int, F64] = {}
    scales: dict[int, F64] = {}
    for tensor in op.inputs:
        if tensor < 0:
            continue
        array = evidence.sources.get(tensor)
        array = _constant(file, tensor) if array is None else array
        found = None if array is None else _real(graph.tensors[tensor], array)
        if found is None:
            return None
        values[tensor], scales[tensor] = found
    return Given(values, scales, op, evidence.here.shape)


def _constant(file: TfliteFile, tensor: int) -> Array | None:
    """The data of a constant, also of one that is stored in 16 bits and unpacked."""
    maker = file.producer(tensor)
    if maker is not None and file.kind(maker) == "DEQUANTIZE":
        tensor = int(maker.inputs[0])
    names: Mapping[int, str] = {
        value: name.lower()
        for name, value in vars(file.schema.TensorType).items()
        if isinstance(value, int)
    }
    dtype = names.get(file.graph.tensors[tensor].type, "")
    if dtype not in _STORED or not file.is_constant(tensor):
        return None
    data = file.model.buffers[file.graph.tensors[tensor].buffer].data
    if len(data) != math.prod(file.shape(tensor)) * np.dtype(dtype).itemsize:
        return None  # stored sparsely
    return file.constant(tensor, dtype)


def _real(tensor: Tensor, array: Array) -> tuple[F64, F64] | None:
    """Real values, and the scales (0 for none)."""
    real = array.astype(np.float64)
    if array.dtype.kind == "f" or not tensor.scale:
        return real, np.zeros(1)
    scale = np.asarray(tensor.scale, np.float64)
    zero_point = np.asarray(tensor.zero_point or (0,), np.float64)
    if scale.size == 1:
        return (real - zero_point[0]) * scale[0], scale
    if real.shape[tensor.axis] != scale.size:
        return None  # scales of blocks
    shape = [-1 if at == tensor.axis else 1 for at in range(real.ndim)]
    offset = zero_point.reshape(shape) if zero_point.size == scale.size else zero_point[0]
    return (real - offset) * scale.reshape(shape), scale
