"""Models of one operator each, that nothing but its type could keep from XNNPACK.

In float32, in int8, or "dynamic": float, with int8 weights.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.profiles.planted_tflite import conv, integers, schema

if TYPE_CHECKING:
    from tests.profiles.conftest import TfliteBuilder

_SHAPE = (1, 8, 8, 4)
# Results that LiteRT's own int8 kernels want in a fixed scale.
_FIXED = {"SOFTMAX": (1 / 256, -128), "LOGISTIC": (1 / 256, -128), "TANH": (1 / 128, 0)}
# LiteRT's own int8 kernels of these fail on numbers below 0, so the input has none.
_POSITIVE = frozenset({"SQRT", "RSQRT", "LOG"})
_OPTIONS = {
    "ADD": "AddOptions",
    "SUB": "SubOptions",
    "MUL": "MulOptions",
    "DIV": "DivOptions",
    "MAXIMUM": "MaximumMinimumOptions",
    "MINIMUM": "MaximumMinimumOptions",
    "SQUARED_DIFFERENCE": "SquaredDifferenceOptions",
    "GELU": "GeluOptions",
}
# Kernels of LiteRT that exist in their first version alone.
_FIRST = frozenset(
    {
        *("CEIL", "ELU", "FLOOR", "HARD_SWISH", "NEG", "RELU_N1_TO_1", "ROUND", "SQUARE"),
        *("RELU_0_TO_1", "POW", "RESHAPE", "EXPAND_DIMS"),
    }
)
Planted = tuple[list[int], int]  # inputs that are fed, the output
Planter = Callable[["TfliteBuilder", str, str], Planted]


def plant(b: TfliteBuilder, kind: str, dtype: str, path: Path, ratio: float | None = None) -> Path:
    """Write a model whose only operator is a ``kind``.

    ``ratio``: the scale of its first input over all others'.
    """
    inputs, output = PLANTERS[kind](b, kind, dtype)
    for tensor in {*inputs, output} if ratio is not None else ():
        b.graph.tensors[tensor].quantization.scale = [ratio if tensor == inputs[0] else 1.0]
    return b.write(path, inputs, [output])


def _tensor(
    b: TfliteBuilder, name: str, shape: tuple[int, ...], dtype: str, kind: str = ""
) -> int:
    if dtype != "int8":
        return b.tensor(name, shape)
    scale, zero_point = _FIXED.get(kind, (0.1, 0)) if name == "y" else (0.1, 0)
    if name == "x" and kind in _POSITIVE:
        zero_point = -128
    return b.tensor(name, shape, dtype, scale=scale, zero_point=zero_point)


def _unary(b: TfliteBuilder, kind: str, dtype: str) -> Planted:
    x, y = (_tensor(b, name, _SHAPE, dtype, kind) for name in "xy")
    special: dict[str, tuple[str, dict[str, Any]]] = {
        "SOFTMAX": ("SoftmaxOptions", {"beta": 1.0}),
        "LEAKY_RELU": ("LeakyReluOptions", {"alpha": 0.1}),
        "GELU": ("GeluOptions", {}),
    }
    options, values = special.get(kind, (None, {}))
    b.op(kind, (x,), (y,), options, version=_version(kind), **values)
    return [x], y


def _version(kind: str) -> int:
    return 1 if kind in _FIRST else 2


def _binary(b: TfliteBuilder, kind: str, dtype: str) -> Planted:
    x, y = (_tensor(b, name, _SHAPE, dtype, kind) for name in "xy")
    # LiteRT's own int8 DIV fails on a divisor of 0, which example inputs have.
    constant = kind == "DIV"
    w = _weights(b, _SHAPE, dtype) if constant else _tensor(b, "w", _SHAPE, dtype)
    b.op(kind, (x, w), (y,), _OPTIONS.get(kind), version=_version(kind))
    return [x] if constant else [x, w], y


def _pool(b: TfliteBuilder, kind: str, dtype: str) -> Planted:
    x, y = _tensor(b, "x", _SHAPE, dtype), _tensor(b, "y", (1, 4, 4, 4), dtype)
    sides = {"filterWidth": 2, "filterHeight": 2, "strideW": 2, "strideH": 2}
    b.op(kind, (x,), (y,), "Pool2DOptions", version=2, padding=schema.Padding.VALID, **sides)
    return [x], y


def _reduce(b: TfliteBuilder, kind: str, dtype: str) -> Planted:
    x, y = _tensor(b, "x", _SHAPE, dtype), _tensor(b, "y", (1, 1, 1, 4), dtype)
    b.op(kind, (x, integers(b, [1, 2])), (y,), "ReducerOptions", version=2, keepDims=True)
    return [x], y


def _float_conv(b: TfliteBuilder, kind: str, dtype: str) -> Planted:
    x, y = _tensor(b, "x", _SHAPE, dtype), _tensor(b, "y", (1, 6, 6, 4), dtype)
    depthwise = kind == "DEPTHWISE_CONV_2D"
    w = _weights(b, (1, 3, 3, 4) if depthwise else (4, 3, 3, 4), dtype)
    options = "DepthwiseConv2DOptions" if depthwise else "Conv2DOptions"
    values = {"depthMultiplier": 1} if depthwise else {}
    bias = b.tensor("b", (4,), data=np.zeros(4, np.float32))
    b.op(
        kind, (x, w, bias), (y,), options,
        version=5, strideW=1, strideH=1, padding=schema.Padding.VALID, **values,
    )  # fmt: skip
    return [x], y


def _convolution(b: TfliteBuilder, kind: str, dtype: str) -> Planted:
    if dtype != "int8":
        return _float_conv(b, kind, dtype)
    x = _tensor(b, "x", _SHAPE, dtype)
    return [x], conv(b, x, "y", depthwise=kind == "DEPTHWISE_CONV_2D", dtype=dtype)


def _weights(b: TfliteBuilder, shape: tuple[int, ...], dtype: str) -> int:
    """Constants, in int8 for a float operator too that is to quantize its input at run time."""
    values = np.random.default_rng(0).integers(1, 9, shape)
    if dtype == "float32":
        return b.tensor("w", shape, data=values.astype(np.float32))
    return b.tensor("w", shape, "int8", scale=0.01, data=values.astype(np.int8))


def _dense(b: TfliteBuilder, kind: str, dtype: str) -> Planted:
    x, y = _tensor(b, "x", (4, 16), dtype), _tensor(b, "y", (4, 8), dtype)
    b.op(kind, (x, _weights(b, (8, 16), dtype), -1), (y,), "FullyConnectedOptions", version=4)
    return [x], y


def _transpose_conv(b: TfliteBuilder, kind: str, dtype: str) -> Planted:
    x, y = _tensor(b, "x", _SHAPE, dtype), _tensor(b, "y", (1, 16, 16, 4), dtype)
    weights = _weights(b, (4, 2, 2, 4), dtype)
    b.op(
        kind, (integers(b, [1, 16, 16, 4]), weights, x), (y,), "TransposeConvOptions",
        version=2, strideW=2, strideH=2, padding=schema.Padding.VALID,
    )  # fmt: skip
    return [x], y


def _product(b: TfliteBuilder, kind: str, dtype: str) -> Planted:
    x, y = _tensor(b, "x", (1, 8, 16), dtype), _tensor(b, "y", (1, 8, 8), dtype)
    constant = dtype == "dynamic"
    w = _weights(b, (1, 16, 8), dtype) if constant else _tensor(b, "w", (1, 16, 8), dtype)
    b.op(kind, (x, w), (y,), "BatchMatMulOptions", version=4 if constant else 2)
    return [x] if constant else [x, w], y


def _prelu(b: TfliteBuilder, kind: str, dtype: str) -> Planted:
    x, y = _tensor(b, "x", _SHAPE, dtype), _tensor(b, "y", _SHAPE, dtype)
    b.op(kind, (x, _weights(b, (1, 1, 4), dtype)), (y,))
    return [x], y


def _cast(b: TfliteBuilder, kind: str, dtype: str) -> Planted:
    x, y = _tensor(b, "x", _SHAPE, dtype), b.tensor("y", _SHAPE, "int32")
    b.op(kind, (x,), (y,), "CastOptions", version=3)
    return [x], y


def _padv2(b: TfliteBuilder, kind: str, dtype: str) -> Planted:
    x, y = _tensor(b, "x", _SHAPE, dtype), _tensor(b, "y", (1, 10, 10, 4), dtype)
    filling = integers(b, [[0, 0], [1, 1], [1, 1], [0, 0]])
    b.op(kind, (x, filling, _weights(b, (), dtype)), (y,), "PadV2Options", version=2)
    b.graph.tensors[-1].quantization = b.graph.tensors[x].quantization
    return [x], y


def _with_integers(
    shape: tuple[int, ...], parameters: tuple[Any, ...], options: str | None = None, **values: Any
) -> Planter:
    """One operand and constant integers behind it."""

    def planter(b: TfliteBuilder, kind: str, dtype: str) -> Planted:
        x, y = _tensor(b, "x", _SHAPE, dtype), _tensor(b, "y", shape, dtype)
        constants = [integers(b, value) for value in parameters]
        b.op(kind, (x, *constants), (y,), options, version=_version(kind), **values)
        return [x], y

    return planter


def _split(b: TfliteBuilder, kind: str, dtype: str) -> Planted:
    x = _tensor(b, "x", _SHAPE, dtype)
    y, z = (_tensor(b, name, (1, 8, 8, 2), dtype) for name in "yz")
    b.op(kind, (integers(b, 3), x), (y, z), "SplitOptions", version=2, numSplits=2)
    return [x], y


def _concatenation(b: TfliteBuilder, kind: str, dtype: str) -> Planted:
    x, w = (_tensor(b, name, _SHAPE, dtype) for name in "xw")
    y = _tensor(b, "y", (1, 8, 8, 8), dtype)
    b.op(kind, (x, w), (y,), "ConcatenationOptions", version=2, axis=3)
    return [x, w], y


def _blocks(b: TfliteBuilder, kind: str, dtype: str) -> Planted:
    shapes = {"SPACE_TO_DEPTH": (1, 4, 4, 16), "DEPTH_TO_SPACE": (1, 16, 16, 1)}
    x, y = _tensor(b, "x", _SHAPE, dtype), _tensor(b, "y", shapes[kind], dtype)
    options = "SpaceToDepthOptions" if kind == "SPACE_TO_DEPTH" else "DepthToSpaceOptions"
    b.op(kind, (x,), (y,), options, blockSize=2)
    return [x], y


def _quantize(b: TfliteBuilder, kind: str, dtype: str) -> Planted:
    x, y = _tensor(b, "x", _SHAPE, dtype), _tensor(b, "y", _SHAPE, "int8")
    b.op(kind, (x,), (y,), "QuantizeOptions")
    return [x], y


def _dequantize(b: TfliteBuilder, kind: str, dtype: str) -> Planted:
    x, y = _tensor(b, "x", _SHAPE, dtype), _tensor(b, "y", _SHAPE, "float32")
    b.op(kind, (x,), (y,), "DequantizeOptions", version=2)
    return [x], y


PLANTERS: dict[str, Planter] = {
    **dict.fromkeys(
        (
            *("ABS", "CEIL", "COS", "ELU", "EXP", "FLOOR", "GELU", "HARD_SWISH", "LEAKY_RELU"),
            *("LOG", "LOGISTIC", "NEG", "RELU", "RELU6", "RELU_N1_TO_1", "ROUND", "RSQRT"),
            *("SIN", "SOFTMAX", "SQRT", "SQUARE", "TANH", "RELU_0_TO_1"),
        ),
        _unary,
    ),
    **dict.fromkeys(
        ("ADD", "SUB", "MUL", "DIV", "MAXIMUM", "MINIMUM", "SQUARED_DIFFERENCE", "POW"), _binary
    ),
    **dict.fromkeys(("AVERAGE_POOL_2D", "MAX_POOL_2D"), _pool),
    **dict.fromkeys(("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN"), _reduce),
    **dict.fromkeys(("CONV_2D", "DEPTHWISE_CONV_2D"), _convolution),
    **dict.fromkeys(("SPACE_TO_DEPTH", "DEPTH_TO_SPACE"), _blocks),
    "FULLY_CONNECTED": _dense,
    "TRANSPOSE_CONV": _transpose_conv,
    "BATCH_MATMUL": _product,
    "PRELU": _prelu,
    "PAD": _with_integers((1, 10, 10, 4), ([[0, 0], [1, 1], [1, 1], [0, 0]],)),
    "CAST": _cast,
    "PADV2": _padv2,
    "RESHAPE": _with_integers((1, 64, 4), ([1, 64, 4],), "ReshapeOptions", newShape=[1, 64, 4]),
    "SQUEEZE": _with_integers((8, 8, 4), (), "SqueezeOptions", squeezeDims=[0]),
    "TRANSPOSE": _with_integers((1, 4, 8, 8), ([0, 3, 1, 2],)),
    "EXPAND_DIMS": _with_integers((1, 1, 8, 8, 4), ([1],), "ExpandDimsOptions"),
    "SLICE": _with_integers((1, 4, 8, 4), ([0, 2, 0, 0], [1, 4, 8, 4])),
    "STRIDED_SLICE": _with_integers(
        (1, 4, 8, 4), ([0, 2, 0, 0], [1, 6, 8, 4], [1, 1, 1, 1]), "StridedSliceOptions"
    ),
    "RESIZE_BILINEAR": _with_integers((1, 16, 16, 4), ([16, 16],), "ResizeBilinearOptions"),
    "SPLIT": _split,
    "CONCATENATION": _concatenation,
    "QUANTIZE": _quantize,
    "DEQUANTIZE": _dequantize,
}
