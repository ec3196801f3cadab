"""What an operator of a .tflite file should give, computed in float64 from its own inputs.

Only at chosen elements, and before the result is rounded to codes. Sums of int8 products are
exact in float64. Operators are LiteRT's (``tensorflow/lite/kernels/internal/reference``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mnv4_deploy.layers.layer import Array
from mnv4_deploy.profiles.records.graph import Operator

F64 = npt.NDArray[np.float64]
Indices = tuple[npt.NDArray[np.intp], ...]  # one array for each axis, as np.nonzero gives


@dataclass(frozen=True)
class Terms:
    """Real results, and what decides how well float32 can know them.

    ``total`` is the sum of the magnitudes of the ``count`` terms added up. ``unit`` is the real
    value of one unit of the integer sum, 0 where there is none.
    """

    values: F64
    total: F64
    count: int
    unit: F64


@dataclass(frozen=True)
class Given:
    """The real values, and the scales, of what an operator reads."""

    values: Mapping[int, F64]
    scales: Mapping[int, F64]
    op: Operator
    output_shape: tuple[int, ...]

    def real(self, position: int) -> F64:
        return self.values[self.op.inputs[position]]

    def scale(self, position: int) -> F64:
        """One number or one for each channel; 0 for floats."""
        return self.scales.get(self.op.inputs[position], np.zeros(1))

    def bias(self, position: int = 2) -> F64 | None:
        if len(self.op.inputs) <= position or self.op.inputs[position] < 0:
            return None
        return self.real(position).ravel()

    def option(self, name: str, default: Any) -> Any:
        return self.op.attributes.get(name, default)


def compute(given: Given, at: Indices) -> Terms | None:
    """The results at ``at``; None for an operator that is not known here."""
    rule = _RULES.get(given.op.kind)
    if rule is None:
        return None
    terms = rule(given, at)
    low, high = _ACTIVATIONS.get(
        str(given.option("fused_activation_function", "NONE")), (-np.inf, np.inf)
    )
    return Terms(np.clip(terms.values, low, high), terms.total, terms.count, terms.unit)


_PADS = ("pad_top", "pad_left")  # where a format gives them as numbers
_ACTIVATIONS = {"RELU": (0.0, np.inf), "RELU6": (0.0, 6.0), "RELU_N1_TO_1": (-1.0, 1.0)}


def _windows(given: Given, at: Indices, height: int, width: int) -> F64:
    """``[n, height, width, channels]`` of the input under a kernel; zeros outside of it."""
    x = given.real(0)
    stride = [int(given.option(f"stride_{side}", 1)) for side in "hw"]
    dilation = [int(given.option(f"dilation_{side}_factor", 1)) for side in "hw"]
    places, inside = [], []
    for axis, (size, out) in enumerate(((height, at[1]), (width, at[2]))):
        reach = (size - 1) * dilation[axis] + 1
        missing = (given.output_shape[axis + 1] - 1) * stride[axis] + reach - x.shape[axis + 1]
        before = max(missing, 0) // 2 if given.option("padding", "VALID") == "SAME" else 0
        before = int(given.option(_PADS[axis], before))
        place = out[:, None] * stride[axis] - before + np.arange(size) * dilation[axis]
        inside.append((place >= 0) & (place < x.shape[axis + 1]))
        places.append(np.clip(place, 0, x.shape[axis + 1] - 1))
    found = x[at[0][:, None, None], places[0][:, :, None], places[1][:, None, :]]
    within = inside[0][:, :, None, None] & inside[1][:, None, :, None]
    return np.where(within, found, 0.0)


def _sum(given: Given, products: F64, channel: Array) -> Terms:
    """Products ``[n, ...]`` added up, with the bias of each channel."""
    axes = tuple(range(1, products.ndim))
    values, total = products.sum(axis=axes), np.abs(products).sum(axis=axes)
    bias = given.bias()
    if bias is not None:
        values, total = values + bias[channel], total + np.abs(bias[channel])
    scale = given.scale(1).ravel()
    per_channel = scale[channel] if scale.size > 1 else np.broadcast_to(scale, values.shape)
    unit = given.scale(0).ravel()[0] * per_channel
    return Terms(values, total, int(np.prod(products.shape[1:])) + 1, unit)


def _conv(given: Given, at: Indices) -> Terms:
    weights = given.real(1)  # [out, height, width, in / groups]
    inputs, channel = _windows(given, at, *weights.shape[1:3]), at[3]
    own = weights.shape[3]
    if own != inputs.shape[3]:
        first = channel // (len(weights) // (inputs.shape[3] // own)) * own
        picked = first[:, None] + np.arange(own)
        inputs = np.take_along_axis(inputs, picked[:, None, None, :], axis=3)
    return _sum(given, inputs * weights[channel], channel)


def _depthwise(given: Given, at: Indices) -> Terms:
    weights = given.real(1)  # [1, height, width, out]
    inputs, channel = _windows(given, at, *weights.shape[1:3]), at[3]
    multiplier = weights.shape[3] // inputs.shape[3]
    own = (channel // multiplier)[:, None, None, None]
    inputs = np.take_along_axis(inputs, own, axis=3)[..., 0]
    return _sum(given, inputs * np.moveaxis(weights[0], -1, 0)[channel], channel)


def _fully_connected(given: Given, at: Indices) -> Terms:
    weights = given.real(1)  # [out, in]
    rows = given.real(0).reshape(-1, weights.shape[1])
    row = np.ravel_multi_index(at, given.output_shape) // given.output_shape[-1]
    return _sum(given, rows[row] * weights[at[-1]], at[-1])


def _batch_matmul(given: Given, at: Indices) -> Terms:
    left, right = given.real(0), given.real(1)
    left = left.swapaxes(-1, -2) if given.option("adj_x", False) else left
    right = right if given.option("adj_y", False) else right.swapaxes(-1, -2)
    batch = given.output_shape[:-2]
    left = np.broadcast_to(left, (*batch, *left.shape[-2:]))
    right = np.broadcast_to(right, (*batch, *right.shape[-2:]))
    products = left[(*at[:-2], at[-2])] * right[(*at[:-2], at[-1])]
    return _sum(given, products, at[-1])


def _elementwise(combine: Callable[[F64, F64], F64]) -> Callable[[Given, Indices], Terms]:
    def rule(given: Given, at: Indices) -> Terms:
        left, right = (np.broadcast_to(given.real(i), given.output_shape)[at] for i in (0, 1))
        values = combine(left, right)
        return Terms(values, np.abs(left) + np.abs(right), 2, np.zeros(values.shape))

    return rule


def _multiply(given: Given, at: Indices) -> Terms:
    left, right = (np.broadcast_to(given.real(i), given.output_shape)[at] for i in (0, 1))
    values = left * right
    unit = np.full(values.shape, float(given.scale(0).ravel()[0] * given.scale(1).ravel()[0]))
    return Terms(values, np.abs(values), 1, unit)


def _mean(given: Given, at: Indices) -> Terms:
    x = given.real(0)
    axes = tuple(int(axis) % x.ndim for axis in given.real(1).ravel())
    keep = given.output_shape
    values, total = x.mean(axis=axes), np.abs(x).mean(axis=axes)
    values, total = values.reshape(keep)[at], total.reshape(keep)[at]
    count = int(np.prod([x.shape[axis] for axis in axes]))
    unit = np.full(values.shape, float(given.scale(0).ravel()[0]) / count)
    return Terms(values, total, count, unit)


def _unary(function: Callable[[F64], F64]) -> Callable[[Given, Indices], Terms]:
    def rule(given: Given, at: Indices) -> Terms:
        values = function(given.real(0)[at])
        return Terms(values, np.abs(values), 1, np.zeros(values.shape))

    return rule


def _softmax(given: Given, at: Indices) -> Terms:
    x = given.real(0) * float(given.option("beta", 1.0))
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    values = (powers / powers.sum(axis=-1, keepdims=True))[at]
    return Terms(values, np.abs(values), x.shape[-1], np.zeros(values.shape))


def _logistic(x: F64) -> F64:
    return np.asarray(0.5 * (1 + np.tanh(x / 2)))


_RULES: Mapping[str, Callable[[Given, Indices], Terms]] = {
    "CONV_2D": _conv,
    "DEPTHWISE_CONV_2D": _depthwise,
    "FULLY_CONNECTED": _fully_connected,
    "BATCH_MATMUL": _batch_matmul,
    "ADD": _elementwise(np.add),
    "SUB": _elementwise(np.subtract),
    "MUL": _multiply,
    "MEAN": _mean,
    "QUANTIZE": _unary(np.asarray),
    "DEQUANTIZE": _unary(np.asarray),
    "LOGISTIC": _unary(_logistic),
    "TANH": _unary(np.tanh),
    "HARD_SWISH": _unary(lambda x: x * np.clip(x + 3, 0, 6) / 6),
    "SOFTMAX": _softmax,
}
